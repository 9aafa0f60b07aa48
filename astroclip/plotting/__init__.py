"""Figures of neighbors, embeddings, estimates and scores, each drawn into one Axes.

Every function takes ``ax``, draws into a new figure without it and returns the Axes;
``ax.figure.savefig(...)`` writes it. None touches pyplot or any global state.
"""

from astroclip.plotting.maps import plot_embedding_map
from astroclip.plotting.objects import (
    display_image,
    neighbor_panel,
    plot_image,
    plot_neighbors,
    plot_spectrum,
)
from astroclip.plotting.scores import (
    plot_calibration,
    plot_estimates,
    plot_learning_curve,
    plot_reliability,
    plot_roc,
)

__all__ = [
    "display_image",
    "neighbor_panel",
    "plot_calibration",
    "plot_embedding_map",
    "plot_estimates",
    "plot_image",
    "plot_learning_curve",
    "plot_neighbors",
    "plot_reliability",
    "plot_roc",
    "plot_spectrum",
]
