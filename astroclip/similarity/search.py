"""Exact search: cells that cannot hold a neighbor are skipped, ties are decided in float64."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np

from astroclip.similarity.cells import upper_bounds
from astroclip.similarity.vectors import cosines, paired_cosines, product_margin

__all__ = ["nearest", "within", "workers"]

QUERY_BLOCK = 1024  # queries searched together
BOUND_BLOCK = 128  # queries whose bounds are computed together
TIED_BLOCK = 64  # queries with many near ties that are decided together
RANK_BLOCK = 4096  # candidates whose cosines are computed together
PRODUCTS = 2_000_000  # products that a thread holds at a time
THREADED_PRODUCTS = 20_000_000  # fewer products are made without threads
FIRST_CELLS = 2  # cells that a query is compared with before its neighbors' products are known
NEXT_CELLS = 16  # cells that it is compared with next where many are left
MANY_CELLS = 64  # cells left per query, on average, above which it is worth that step
SPARE_CANDIDATES = 128  # kept for a query beyond four times its neighbors; else it is "tied"
TIED_SHARE = 1 / 8  # of a piece's products near the limit, above which all cosines are computed


def nearest(store, queries, n_neighbors, cells, *, allowed=None):
    """Return the positions of the most similar vectors of a store, exactly.

    Parameters
    ----------
    store : `~astroclip.similarity.store.Store`
    queries : (N, D) float32 `numpy.ndarray`
        Unit vectors.
    n_neighbors : int
        At most as many as there are vectors to search.
    cells : `~astroclip.similarity.cells.Cells`
        The part of the store to search.
    allowed : (P,) bool `numpy.ndarray`, optional
        Positions that may be found.

    Returns
    -------
    positions : (N, n_neighbors) int64 `numpy.ndarray`
        Most similar first; ties in the order of the table's rows.
    similarity : (N, n_neighbors) float64 `numpy.ndarray`
        Cosines.

    Notes
    -----
    A query is compared with the cells nearest to it first. The float32 products there say how
    similar a neighbor must be, up to a proven bound of their rounding errors; cells whose
    rows cannot be that similar are skipped, all others are scanned. The cosines of all
    rows that the rounding errors leave in question are computed again in float64, one way for
    all, so that equal rows tie exactly.
    """
    positions = np.empty((len(queries), n_neighbors), dtype=np.int64)
    similarity = np.empty((len(queries), n_neighbors))
    count = _row_counts(cells, allowed)
    with workers(len(queries) * int(count.sum())) as run:
        for first in range(0, len(queries), QUERY_BLOCK):
            part = slice(first, first + QUERY_BLOCK)
            search = _BlockSearch(store, queries[part], n_neighbors, cells, count, allowed, run)
            positions[part], similarity[part] = search.neighbors()
    return positions, similarity


def within(store, queries, similarity, cells, *, allowed=None):
    """Yield the vectors of a store that are similar enough, for one block of queries at a time.

    Parameters
    ----------
    store, queries, cells, allowed
        As in `nearest`.
    similarity : float
        Least cosine.

    Yields
    ------
    query : (T,) int64 `numpy.ndarray`
        Ascending.
    position : (T,) int64 `numpy.ndarray`
        Most similar first, ties in the order of the table's rows.
    similarity : (T,) float64 `numpy.ndarray`
    """
    count = _row_counts(cells, allowed)
    with workers(len(queries) * int(count.sum())) as run:
        for first in range(0, len(queries), QUERY_BLOCK):
            part = queries[first : first + QUERY_BLOCK]
            search = _BlockSearch(store, part, 1, cells, count, allowed, run)
            query, position, cosine = search.similar(similarity)
            yield query + first, position, cosine


def _row_counts(cells, allowed):
    """Return how many rows of each cell may be found."""
    if allowed is None:
        return cells.stop - cells.start
    before = np.append(0, np.cumsum(allowed, dtype=np.int64))
    return before[cells.stop] - before[cells.start]


# ---------------------------------------------------------------------- threads
@cache
def _blas():
    """Return the controller of the threads of numpy's BLAS library."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def workers(n_products):
    """Give a ``map`` that runs its calls in threads, each with a BLAS of one thread.

    Cells are too small for the threads of BLAS to pay, but many of them can be scanned at a
    time. As many threads are used as BLAS would use.

    Parameters
    ----------
    n_products : int
        How many products of vectors there are to make: a few are made without threads.

    Yields
    ------
    callable
    """
    count = 1
    if n_products > THREADED_PRODUCTS:
        limits = [library["num_threads"] for library in _blas().info()]
        count = max(1, min([*limits, os.cpu_count() or 1]))
    if count == 1:
        yield map
        return
    with _blas().limit(limits=1), ThreadPoolExecutor(count) as pool:
        yield pool.map


# ---------------------------------------------------------------------- one block of queries
class _BlockSearch:
    """One block of queries on its way through the cells.

    Attributes
    ----------
    bound : (N, C) float32 `numpy.ndarray`
        How similar a cell's rows can be to a query, rounding included.
    threshold : (N,) float32 `numpy.ndarray`
        Rows of a smaller product are no neighbors: ``n_neighbors`` rows are surely better.
    tied : (N,) bool `numpy.ndarray`
        Queries with so many near ties that their candidates are dropped; float64 products
        decide about them at the end.
    query, position, product : (T,) `numpy.ndarray`
        The candidates, most similar first within a query.
    """

    def __init__(self, store, queries, n_neighbors, cells, count, allowed, run):
        self.store, self.queries, self.cells = store, queries, cells
        self.count, self.allowed, self.run = count, allowed, run
        self.n_neighbors = n_neighbors
        self.max_candidates = 4 * n_neighbors + SPARE_CANDIDATES
        self.unit = queries.astype(np.float64)
        self.unit /= np.linalg.norm(self.unit, axis=1, keepdims=True)
        rounding = np.float32(product_margin(queries.shape[1], store.length_error))
        self.margin = np.float32(2 * rounding)  # between the products of two rows
        self.threshold = np.full(len(queries), -np.inf, dtype=np.float32)
        self.tied = np.zeros(len(queries), dtype=bool)
        self.query = self.position = np.empty(0, dtype=np.int64)
        self.product = np.empty(0, dtype=np.float32)
        shape = len(queries), len(cells)
        self.bound, self.first = np.empty(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        for start in range(0, len(queries), BOUND_BLOCK):
            part = slice(start, start + BOUND_BLOCK)
            bound, guess = upper_bounds(self.unit[part], cells)
            bound[:, count == 0] = guess[:, count == 0] = -np.inf
            self.bound[part] = bound + rounding
            self._choose_first(self.first[part], guess)

    def _choose_first(self, first, guess):
        """Mark the cells that look nearest, enough of them to hold the neighbors."""
        n_cells = FIRST_CELLS
        while n_cells < guess.shape[1]:
            best = np.argpartition(guess, -n_cells, axis=1)[:, -n_cells:]
            if (self.count[best].sum(axis=1) >= self.n_neighbors).all():
                np.put_along_axis(first, best, True, axis=1)
                return
            n_cells *= 4
        first[:] = True

    def neighbors(self):
        """Return the positions and cosines (N, n_neighbors) of each query's neighbors."""
        self._scan(self.first)
        scanned, left = self.first, self._left(self.first)
        if left.sum() > MANY_CELLS * len(left):
            chosen = np.zeros_like(left)
            bound = np.where(left, self.bound, -np.inf)
            best = np.argpartition(bound, -NEXT_CELLS, axis=1)[:, -NEXT_CELLS:]
            np.put_along_axis(chosen, best, True, axis=1)
            chosen &= left
            self._scan(chosen)
            scanned |= chosen
            left = self._left(scanned)
        self._scan(left)

        query, position, cosine = self._sorted_candidates()
        positions = np.empty((len(self.queries), self.n_neighbors), dtype=np.int64)
        similarity = np.empty((len(self.queries), self.n_neighbors))
        decided, tied = np.flatnonzero(~self.tied), np.flatnonzero(self.tied)
        best = np.searchsorted(query, decided)[:, None] + np.arange(self.n_neighbors)
        positions[decided], similarity[decided] = position[best], cosine[best]

        def decide(first):
            members = tied[first : first + TIED_BLOCK]
            positions[members], similarity[members] = self._decided_ties(members)

        list(self.run(decide, range(0, len(tied), TIED_BLOCK)))
        return positions, similarity

    def similar(self, similarity):
        """Return the queries, positions and cosines of all pairs that are similar enough."""
        self.threshold[:] = similarity - self.margin
        self.max_candidates = self.n_neighbors = len(self.store) + 1  # raises no threshold
        self._scan(self._left(np.zeros_like(self.first)))
        query, position, cosine = self._sorted_candidates()
        kept = cosine >= similarity
        return query[kept], position[kept], cosine[kept]

    def _left(self, scanned):
        """Return which cells may hold neighbors of which queries, and were not scanned."""
        left = self.bound >= self.threshold[:, None]
        left &= ~scanned
        left &= self.count > 0
        left[self.tied] = False
        return left

    def _scan(self, wanted):
        """Compare each cell with the queries that want it, and keep the candidates."""
        cell, query = np.nonzero(wanted.T)
        if not len(cell):
            return
        present, first = np.unique(cell, return_index=True)
        tasks = zip(present.tolist(), np.split(query, first[1:]), strict=True)

        def scan(task):
            cell, members = task
            threshold = self.threshold[members]
            return [
                self._scan_rows(members, positions, threshold)
                for positions in self._pieces(cell, len(members))
            ]

        parts = [part for found in self.run(scan, tasks) for part in found]
        if not parts:
            return
        for *_, tied, threshold in parts:
            self.tied[tied] = True
            self.threshold[tied] = np.maximum(self.threshold[tied], threshold)
        known = (self.query, self.position, self.product)
        new = zip(*[part[:3] for part in parts], strict=True)
        query, position, product = (
            np.concatenate([old, *more]) for old, more in zip(known, new, strict=True)
        )
        order = np.lexsort((-product, query))
        query, position, product = query[order], position[order], product[order]
        first = np.searchsorted(query, np.arange(len(self.queries) + 1))
        enough = np.flatnonzero(np.diff(first) >= self.n_neighbors)
        needed = product[first[enough] + self.n_neighbors - 1] - self.margin
        self.threshold[enough] = np.maximum(self.threshold[enough], needed)
        kept = product >= self.threshold[query]
        self.tied |= np.bincount(query[kept], minlength=len(self.tied)) > self.max_candidates
        kept &= ~self.tied[query]
        self.query, self.position, self.product = query[kept], position[kept], product[kept]

    def _pieces(self, cell, n_members):
        """Yield positions of a cell, as many as may be compared at a time."""
        start, stop = int(self.cells.start[cell]), int(self.cells.stop[cell])
        step = max(1024, PRODUCTS // n_members)
        for first in range(start, stop, step):
            last = min(first + step, stop)
            if self.allowed is None or self.allowed[first:last].all():
                yield slice(first, last)
            else:
                chosen = np.flatnonzero(self.allowed[first:last])
                if len(chosen):
                    yield first + chosen

    def _scan_rows(self, members, positions, threshold):
        """Return the rows at some positions that may be neighbors of some queries.

        Parameters
        ----------
        members : (n,) int `numpy.ndarray`
            Numbers of the queries to compare.
        positions : slice or int `numpy.ndarray`
        threshold : (n,) float32 `numpy.ndarray`
            Of these queries; raised in place.

        Returns
        -------
        query, position, product : (T,) `numpy.ndarray`
        tied : int `numpy.ndarray`
            Queries with too many near ties here.
        threshold : float32 `numpy.ndarray`
            Of the tied queries.
        """
        queries = self.queries if len(members) == len(self.queries) else self.queries[members]
        product = queries @ self.store.read(positions).T
        many = product.shape[1] > self.max_candidates
        unknown = np.flatnonzero(np.isneginf(threshold)) if many else ()
        if len(unknown):
            own = product if len(unknown) == len(members) else product[unknown]
            threshold[unknown] = _lower_bound(own, self.n_neighbors) - self.margin
        # three times as fast as nonzero of a matrix
        near = np.flatnonzero(product >= threshold[:, None])
        row, column = np.divmod(near, max(product.shape[1], 1))
        tied = np.empty(0, dtype=np.int64)
        if len(row) > self.max_candidates:
            full = np.bincount(row, minlength=len(members)) > self.max_candidates
            if full.any():  # their threshold is low, or they have near ties: the best products tell
                k = self.n_neighbors
                best = np.partition(product[full], -k, axis=1)[:, -k]
                threshold[full] = np.maximum(threshold[full], best - self.margin)
                kept = product[row, column] >= threshold[row]
                row, column = row[kept], column[kept]
                full = np.bincount(row, minlength=len(members)) > self.max_candidates
                tied = np.flatnonzero(full)
                row, column = row[~full[row]], column[~full[row]]
        position = column + positions.start if isinstance(positions, slice) else positions[column]
        return members[row], position, product[row, column], members[tied], threshold[tied]

    def _sorted_candidates(self):
        """Return the candidates in order, with their cosines in float64."""
        query, position = self.query, self.position
        cosine = np.empty(len(query))

        def compute(first):
            part = slice(first, first + RANK_BLOCK)
            near = self.store.read(position[part])
            cosine[part] = paired_cosines(self.queries[query[part]].astype(np.float64), near)

        list(self.run(compute, range(0, len(cosine), RANK_BLOCK)))
        order = np.lexsort((self.store.rows[position], -cosine, query))
        return query[order], position[order], cosine[order]

    def _decided_ties(self, members):
        """Return the neighbors of queries with many near ties."""
        best = _BestRows(self.unit[members], self.queries[members], self.n_neighbors)
        threshold = self.threshold[members]
        for cell in np.argsort(-self.bound[members].max(axis=0), kind="stable"):
            if (self.bound[members, cell] < threshold).all():
                continue
            for positions in self._pieces(cell, 8 * len(members)):
                best.add(self.store, positions)
            known = best.cosine[:, -1].astype(np.float32) - self.margin
            threshold = np.maximum(threshold, known)
        return best.position, best.cosine


def _lower_bound(product, n_neighbors):
    """Return, for each query, a lower bound (N,) of its n-th largest product.

    The maxima of groups of products are products of different rows, and there are few of them
    to sort. A group takes every n-th product, as rows that are stored side by side may be alike.
    """
    n_groups = max(64, 4 * n_neighbors)
    size = product.shape[1] // n_groups
    if size > 1:
        grouped = product[:, : size * n_groups].reshape(len(product), size, n_groups)
        product = grouped.max(axis=1)
    return np.partition(product, -n_neighbors, axis=1)[:, -n_neighbors]


class _BestRows:
    """The best rows so far of queries whose neighbors float32 does not tell apart.

    A float64 matrix product leaves few rows in question, whose cosines are computed one way for
    all. Where it leaves many, they are equal, and all cosines of the piece are computed.
    """

    def __init__(self, unit, queries, n_neighbors):
        self.unit, self.queries = unit, queries.astype(np.float64)
        shape = (len(unit), n_neighbors)
        self.margin = 2 * (unit.shape[1] + 8) * np.finfo(np.float64).eps
        self.position = np.zeros(shape, dtype=np.int64)
        self.cosine = np.full(shape, -np.inf)
        self.row = np.full(shape, np.iinfo(np.int64).max)

    def add(self, store, positions):
        """Look at some rows of a cell, which ascend."""
        near = store.read(positions)
        if isinstance(positions, slice):
            positions = np.arange(positions.start, positions.stop)
        wide = near.astype(np.float64)
        wide /= np.sqrt(np.einsum("nd,nd->n", wide, wide))[:, None]
        product = self.unit @ wide.T
        n_neighbors = self.cosine.shape[1]
        least = self.cosine[:, -1]
        if len(near) > n_neighbors:
            least = np.maximum(least, np.partition(product, -n_neighbors, axis=1)[:, -n_neighbors])
        number, column = np.nonzero(product >= (least - self.margin)[:, None])
        if not len(number):
            return
        if len(number) > TIED_SHARE * product.size:
            value = cosines(self.queries, near)
            # rows of a cell ascend, so that a stable sort keeps the first of equal ones
            order = np.argsort(-value, axis=1, kind="stable")[:, :n_neighbors]
            value = np.take_along_axis(value, order, axis=1)
        else:  # a matrix of each query's rows, filled up with -inf
            column_of = np.arange(len(number)) - np.searchsorted(number, number)
            value = np.full((len(product), column_of.max() + 1), -np.inf)
            order = np.zeros(value.shape, dtype=np.int64)
            value[number, column_of] = paired_cosines(self.queries[number], near[column])
            order[number, column_of] = column
        position = positions[order]
        row = np.where(np.isneginf(value), np.iinfo(np.int64).max, store.rows[position])
        cosine = np.concatenate([self.cosine, value], axis=1)
        position = np.concatenate([self.position, position], axis=1)
        row = np.concatenate([self.row, row], axis=1)
        order = np.lexsort((row, -cosine), axis=1)[:, :n_neighbors]
        self.cosine, self.position, self.row = (
            np.take_along_axis(each, order, axis=1) for each in (cosine, position, row)
        )
