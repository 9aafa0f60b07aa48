"""Figures of neighbors, embeddings, estimates and scores, each drawn into one Axes.

Every function takes an Axes as ``ax``, or makes a new figure, and returns the Axes;
``ax.figure.savefig(...)`` writes the figure. The functions do not use pyplot.
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
