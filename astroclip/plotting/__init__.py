"""Figures of neighbors, embeddings, estimates and scores, each drawn into one Axes.

Every function takes an Axes as ``ax``, or makes a new figure of pyplot, and returns the Axes:
notebooks show the figure, ``plt.show()`` does in a terminal, ``plt.savefig(...)`` or
``ax.figure.savefig(...)`` writes it, and ``plt.close()`` frees it.
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
