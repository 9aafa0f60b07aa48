"""The rows that may still be among each query's neighbours while a search goes on."""

import numpy as np

from astroclip.similarity.vectors import as_float32

__all__ = ["Candidates", "scan_rows"]

GROUPS = 4  # groups of products for each neighbour, whose largest bound what is needed
LEAST_GROUPS = 64
SPARE = 128  # candidates of a query beyond four times its neighbours: more are settled apart


class Candidates:
    """The rows that may be among each query's neighbours, and the product that a row needs.

    Parameters
    ----------
    n_queries, n_neighbors : int
    margin : float
        How far a product may be from the cosine.

    Attributes
    ----------
    query, position, product : (T,) `numpy.ndarray`
        The candidates, most similar first within a query.
    least : (N,) float32 `numpy.ndarray`
        Rows of a smaller product are no neighbours: ``n_neighbors`` rows are surely better.
    crowded : (N,) bool `numpy.ndarray`
        Queries with too many near ties to keep them; their candidates are dropped.
    """

    def __init__(self, n_queries, n_neighbors, margin):
        self.n_neighbors = n_neighbors
        self.margin = np.float32(2 * margin)
        self.limit = 4 * n_neighbors + SPARE
        self.least = np.full(n_queries, -np.inf, dtype=np.float32)
        self.crowded = np.zeros(n_queries, dtype=bool)
        self.query = np.empty(0, dtype=np.int64)
        self.position = np.empty(0, dtype=np.int64)
        self.product = np.empty(0, dtype=np.float32)

    def add(self, parts):
        """Take what `scan_rows` returned and raise the products that rows need.

        Parameters
        ----------
        parts : list of (query, position, product, crowded, least) arrays
        """
        for *_, crowded, least in parts:
            self.crowded[crowded] = True
            self.least[crowded] = np.maximum(self.least[crowded], least)
        own = (self.query, self.position, self.product)
        new = zip(*[part[:3] for part in parts], strict=True)
        query, position, product = (
            np.concatenate([mine, *more]) for mine, more in zip(own, new, strict=True)
        )
        order = np.lexsort((-product, query))
        query, position, product = query[order], position[order], product[order]
        first = np.searchsorted(query, np.arange(len(self.least) + 1))
        enough = np.flatnonzero(np.diff(first) >= self.n_neighbors)
        needed = product[first[enough] + self.n_neighbors - 1] - self.margin
        self.least[enough] = np.maximum(self.least[enough], needed)
        kept = product >= self.least[query]
        self.crowded |= np.bincount(query[kept], minlength=len(self.least)) > self.limit
        kept &= ~self.crowded[query]
        self.query, self.position, self.product = query[kept], position[kept], product[kept]


def scan_rows(read, queries, members, positions, found, least):
    """Return the rows at some positions that may be neighbours of some queries.

    Parameters
    ----------
    read : callable
        Returns the vectors at positions, a slice or an array.
    queries : (N, D) float32 `numpy.ndarray`
    members : (n,) int `numpy.ndarray`
        The queries to compare.
    positions : slice or int `numpy.ndarray`
    found : `Candidates`
    least : (n,) float32 `numpy.ndarray`
        The products that rows need for these queries; raised in place.

    Returns
    -------
    query, position, product : (T,) `numpy.ndarray`
    crowded : int `numpy.ndarray`
        Queries with too many near ties here.
    least : float32 `numpy.ndarray`
        The product that their neighbours need.
    """
    block = as_float32(read(positions))
    product = (queries if len(members) == len(queries) else queries[members]) @ block.T
    unknown = np.flatnonzero(np.isneginf(least)) if product.shape[1] > found.limit else ()
    if len(unknown):
        best = _sure(product if len(unknown) == len(least) else product[unknown], found.n_neighbors)
        least[unknown] = best - found.margin
    row, column = _reaching(product, least)
    crowded = np.empty(0, dtype=np.int64)
    if len(row) > found.limit:
        many = np.flatnonzero(np.bincount(row, minlength=len(members)) > found.limit)
        if len(many):
            _raise(least, many, product, found)
            kept = product[row, column] >= least[row]
            row, column = row[kept], column[kept]
            full = np.bincount(row, minlength=len(members)) > found.limit
            crowded = np.flatnonzero(full)
            row, column = row[~full[row]], column[~full[row]]
    position = column + positions.start if isinstance(positions, slice) else positions[column]
    return members[row], position, product[row, column], members[crowded], least[crowded]


def _reaching(product, least):
    """Return where products reach what their row needs; thrice as fast as a 2-D nonzero."""
    flat = np.flatnonzero(product >= least[:, None])
    return np.divmod(flat, max(product.shape[1], 1))


def _sure(product, n_neighbors):
    """Return a product (N,) that so many of a row's products reach, near the least of the best.

    The largest products of groups are products of different rows of the store. A group takes
    every so many-th of them, as rows that are stored side by side may be alike.
    """
    n_groups = max(LEAST_GROUPS, GROUPS * n_neighbors)
    size = product.shape[1] // n_groups
    if size > 1:
        grouped = product[:, : size * n_groups].reshape(len(product), size, n_groups)
        product = grouped.max(axis=1)
    return np.partition(product, -n_neighbors, axis=1)[:, -n_neighbors]


def _raise(least, chosen, product, found):
    """Raise what chosen rows need to what their best products ensure."""
    k = found.n_neighbors
    best = np.partition(product[chosen], -k, axis=1)[:, -k]
    least[chosen] = np.maximum(least[chosen], best - found.margin)
