"""How hard an approximate search must try: recall, measured on rows of the reference."""

from dataclasses import dataclass

import numpy as np

from astroclip.similarity.exact import nearest
from astroclip.similarity.vectors import as_float32

__all__ = ["KnownNeighbors", "least_effort", "wanted_recall"]

N_SAMPLE = 1000  # rows that the effort is set with and the recall is measured with
N_MEASURED = 10  # neighbours whose recall is measured
SAFETY = 0.1  # part of the misses allowed that the effort is to avoid besides


def wanted_recall(recall):
    """Return the recall that the rows which set the effort must reach."""
    return recall + SAFETY * (1 - recall)


@dataclass(frozen=True)
class KnownNeighbors:
    """Some rows of a modality and their true neighbours; the first one is the row itself.

    Parameters
    ----------
    queries : (N, D) float32 `numpy.ndarray`
    positions : (N, k) int64 `numpy.ndarray`
        Of the neighbours in the store.
    similarity : (N, k) float64 `numpy.ndarray`
    """

    queries: np.ndarray
    positions: np.ndarray
    similarity: np.ndarray

    @classmethod
    def sample(cls, store, name, *, random_state):
        """Draw rows of a modality and search their neighbours exactly."""
        start, stop = store.sections[name]
        rng = np.random.default_rng(random_state)
        chosen = start + rng.choice(stop - start, min(N_SAMPLE, stop - start), replace=False)
        queries = as_float32(store.read(chosen))
        n_neighbors = min(N_MEASURED, stop - start - 1) + 1
        return cls(queries, *nearest(store, queries, n_neighbors, cells=store.cells([name])))

    def recall(self, search, store, place, *, effort, first):
        """Return the part of the true neighbours that a search finds at an effort.

        Parameters
        ----------
        search : `ApproximateSearch` or `CellSearch`
        store, place
            As its ``search`` takes them.
        effort : int
        first : bool
            Of the first half of the rows, which sets the effort, or of the second.

        Returns
        -------
        float
            Equal rows may stand for each other: what is as similar as a neighbour is one.
        """
        half = len(self.queries) // 2
        part = slice(half) if first else slice(half, None)
        least, n_neighbors = self.similarity[part, -1:] - 1e-6, self.similarity.shape[1]
        found = search.search(store, place, self.queries[part], n_neighbors, effort=effort)[1]
        return float(((found >= least).sum(axis=1) - 1).mean() / (n_neighbors - 1))


def least_effort(suffices, most):
    """Return the least effort that suffices, within a tenth; ``most`` if none does."""
    high = 1
    while high < most and not suffices(high):
        high = min(2 * high, most)
    low = high // 2
    while high - low > max(1, high // 10):
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high
