"""Neighbours among the reference rows that have a label, and how near they usually are."""

import dataclasses

import numpy as np

from astroclip.estimation.weights import RESOLUTION, euclidean_distance
from astroclip.similarity import SimilarityIndex

__all__ = ["LabelledRows", "Neighbors", "choose_rows", "intrinsic_dimension",
           "nearest_neighbors"]

CHUNK = 1000
NEEDED = ("id", "modality", "embedding", "coverage", "flags", "message")


@dataclasses.dataclass(frozen=True, eq=False)
class Neighbors:
    """Neighbours of queries.

    Attributes
    ----------
    rows : (N, K) int `numpy.ndarray`
        Rows of the reference table, nearest first; zero for failed queries.
    distance : (N, K) `numpy.ndarray`
        Of unit vectors, in rising order; NaN for failed queries.
    similarity : (N,) `numpy.ndarray`
        Cosine of the nearest.
    """

    rows: np.ndarray
    distance: np.ndarray
    similarity: np.ndarray

    def __getitem__(self, rows):
        return Neighbors(self.rows[rows], self.distance[rows], self.similarity[rows])


def choose_rows(rows, n_rows, random_state):
    """Return at most ``n_rows`` of the rows, drawn at random and in order."""
    if len(rows) <= n_rows:
        return rows
    return np.sort(np.random.default_rng(random_state).choice(rows, n_rows, replace=False))


def nearest_neighbors(index, table, n_neighbors, **options):
    """Return the `Neighbors` of an embedding table's rows, searched a block at a time.

    Parameters
    ----------
    index : `~astroclip.SimilarityIndex`
    table : `~astropy.table.QTable`
    n_neighbors : int
    **options
        Of `astroclip.SimilarityIndex.neighbors`.
    """
    parts = [
        index.neighbors(table[first : first + CHUNK], n_neighbors, **options)
        for first in range(0, max(len(table), 1), CHUNK)
    ]
    rows, similarity, valid = (np.concatenate(part) for part in zip(*parts, strict=True))
    rows = np.where(valid[:, None], rows, 0)
    return Neighbors(rows, euclidean_distance(similarity), similarity[:, 0])


class LabelledRows:
    r"""Reference rows of one modality that have a label, to be searched.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The reference.
    rows : (M,) int `numpy.ndarray`
        Rows of the table that are searched, more than ``n_neighbors``.
    n_neighbors : int
    index : `~astroclip.SimilarityIndex`, optional
        Of the whole table. By default the rows are indexed, exactly.
    n_reference : int, optional
        Rows that the searched ones stand for; by default they are all.

    Attributes
    ----------
    table, rows, n_neighbors, n_reference
        As given.
    threshold : float
        Similarity that the stated share of left-out reference rows fall below.
    typical_distance : float
        Median distance of left-out reference rows from their farthest neighbour.
    dimension : float
        See `intrinsic_dimension`.
    """

    def __init__(self, table, rows, *, n_neighbors, index=None, n_reference=None):
        self.rows, self.n_neighbors = rows, n_neighbors
        self.n_reference = len(rows) if n_reference is None else n_reference
        self.table = table
        if index is None:
            self._index = SimilarityIndex(table[list(NEEDED)][rows])
            self._options = {"modality": "all"}
        else:
            self._index = index
            where = np.zeros(len(table), dtype=bool)
            where[rows] = True
            self._options = {"modality": "all", "where": None if where.all() else where}
        self._compact = index is None

    def find(self, queries, *, exclude_self=False):
        """Return the `Neighbors` of an embedding table's rows.

        Parameters
        ----------
        queries : `~astropy.table.QTable`
        exclude_self : bool
            Leave out reference rows of the query's own id.
        """
        near = nearest_neighbors(
            self._index, queries, self.n_neighbors, exclude_self=exclude_self, **self._options
        )
        rows = self.rows[near.rows] if self._compact else near.rows
        return Neighbors(rows, near.distance, near.similarity)

    def leave_out(self, *, n_calibration, false_alarm_rate, random_state):
        """Find the neighbours of reference rows among the others and keep what is usual.

        Parameters
        ----------
        n_calibration : int
            Most rows to leave out, one after the other.
        false_alarm_rate : float
        random_state : int

        Returns
        -------
        rows : (n,) int `numpy.ndarray`
            Rows of the reference table.
        neighbors : `Neighbors`
        """
        rows = choose_rows(self.rows, n_calibration, random_state)
        found = self.find(self.table[list(NEEDED)][rows], exclude_self=True)
        self.threshold = float(np.quantile(found.similarity, false_alarm_rate))
        farthest = np.maximum(found.distance[:, -1], RESOLUTION)
        self.typical_distance = float(np.median(farthest))
        self.dimension = intrinsic_dimension(found.distance)
        return rows, found

    def support(self, found):
        r"""Return how well the reference supports estimates of queries, by column.

        Parameters
        ----------
        found : `Neighbors`

        Returns
        -------
        dict of str to (N,) `numpy.ndarray`
            ``nearest_similarity``, ``out_of_distribution``, ``n_reference``, and
            ``local_density``: :math:`(r_0 / r_k)^m` with the distance of the farthest
            neighbour, its median for the reference and the `intrinsic_dimension`.
        """
        farthest = np.maximum(found.distance[:, -1], RESOLUTION)
        with np.errstate(over="ignore", under="ignore"):
            density = (self.typical_distance / farthest) ** self.dimension
        return {
            "nearest_similarity": found.similarity,
            "out_of_distribution": ~(found.similarity >= self.threshold),
            "n_reference": np.full(len(density), self.n_reference),
            "local_density": density,
        }


def intrinsic_dimension(distance):
    r"""Return the number of dimensions in which objects scatter, from their neighbours.

    Parameters
    ----------
    distance : (N, K) array-like
        Distances of K neighbours in rising order, K at least two.

    Returns
    -------
    float
        At least one.

    Notes
    -----
    The maximum-likelihood estimate, whose inverse is averaged over objects:

    .. math:: 1 / m = \left\langle \frac{1}{K - 1}
        \sum_{j < K} \ln \frac{r_K}{r_j} \right\rangle

    References
    ----------
    Levina & Bickel (2004), Advances in Neural Information Processing Systems 17; MacKay &
    Ghahramani (2005), comments on it.
    """
    distance = np.maximum(np.asarray(distance, dtype=float), RESOLUTION)
    inverse = np.log(distance[:, -1:] / distance[:, :-1]).mean()
    return float(1 / min(max(inverse, 1e-3), 1.0))
