"""Exact search: cells that cannot hold a neighbour are left out, ties are settled in float64."""

import numpy as np

from astroclip.similarity.candidates import Candidates, scan_rows
from astroclip.similarity.cells import upper_bounds
from astroclip.similarity.store import Store
from astroclip.similarity.threads import workers
from astroclip.similarity.vectors import as_float32, cosines, paired_cosines, product_margin

__all__ = ["BlockSearch", "cell_tasks", "nearest", "nearest_rows", "row_counts", "within"]

QUERY_BLOCK = 1024  # queries searched together
BOUND_BLOCK = 128  # queries whose bounds are computed together
SETTLED_BLOCK = 64  # queries with many near ties that are settled together
MANY_TIES = 8  # part of a piece's products from which all of its cosines are computed
RANK_BLOCK = 4096  # candidates whose cosines are computed together
PRODUCTS = 2_000_000  # products held at a time by a thread
FIRST_CELLS = 2  # that a query looks into before it knows what its neighbours need
NEXT_CELLS = 16  # that it looks into next, where bounds leave many
MANY_CELLS = 64


def nearest(store, queries, n_neighbors, *, cells=None, allowed=None):
    """Return the positions of the most similar rows of a store, exactly.

    Parameters
    ----------
    store : `~astroclip.similarity.store.Store`
    queries : (N, D) float32 `numpy.ndarray`
        Unit vectors.
    n_neighbors : int
        At most as many as there are rows to search.
    cells : `~astroclip.similarity.cells.Cells`, optional
        The part of the store to search; all of it by default.
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
    A query looks into the cells nearest to it first. The float32 products there say how
    similar a neighbour must be, up to a proven bound of their rounding errors; cells whose
    rows cannot be that similar are left out, whatever is left is scanned. The cosines of all
    rows that the rounding errors leave in question are computed anew in float64, one way for
    all, so that equal rows tie exactly.
    """
    cells = store.cells() if cells is None else cells
    positions = np.empty((len(queries), n_neighbors), dtype=np.int64)
    similarity = np.empty((len(queries), n_neighbors))
    count = row_counts(cells, allowed)
    with workers(len(queries) * int(count.sum())) as run:
        for first in range(0, len(queries), QUERY_BLOCK):
            part = slice(first, first + QUERY_BLOCK)
            search = BlockSearch(store, queries[part], n_neighbors, cells, count, allowed, run)
            positions[part], similarity[part] = search.neighbors()
    return positions, similarity


def nearest_rows(queries, references, n_neighbors):
    """Return the most similar reference rows of each query, exactly.

    Parameters
    ----------
    queries : (N, D) float32 `numpy.ndarray`
        Unit vectors.
    references : (M, D) float32 or float16 `numpy.ndarray`
        Unit vectors.
    n_neighbors : int
        At most M.

    Returns
    -------
    rows : (N, n_neighbors) int64 `numpy.ndarray`
        Most similar first; ties in reference order.
    similarity : (N, n_neighbors) float64 `numpy.ndarray`
        Cosines.

    Notes
    -----
    As `nearest`, without cells: worth it for one search only.
    """
    return nearest(Store.of_rows(references), queries, n_neighbors)


def within(store, queries, similarity, *, cells=None, allowed=None):
    """Yield the rows of a store that are similar enough, for one block of queries at a time.

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
    cells = store.cells() if cells is None else cells
    count = row_counts(cells, allowed)
    with workers(len(queries) * int(count.sum())) as run:
        for first in range(0, len(queries), QUERY_BLOCK):
            part = queries[first : first + QUERY_BLOCK]
            search = BlockSearch(store, part, 1, cells, count, allowed, run)
            query, position, cosine = search.similar(similarity)
            yield query + first, position, cosine


def row_counts(cells, allowed):
    """Return how many rows of each cell may be found: all, or those at ``allowed`` positions."""
    if allowed is None:
        return cells.stop - cells.start
    before = np.append(0, np.cumsum(allowed, dtype=np.int64))
    return before[cells.stop] - before[cells.start]


class BlockSearch:
    """One block of queries on its way through the cells.

    Parameters
    ----------
    store, queries, n_neighbors, cells, allowed
        As in `nearest`.
    count : (C,) int `numpy.ndarray`
        From `row_counts`.
    run : callable
        A ``map``, from `~astroclip.similarity.threads.workers`.
    """

    def __init__(self, store, queries, n_neighbors, cells, count, allowed, run):
        self.store, self.queries, self.cells = store, queries, cells
        self.count, self.allowed, self.run = count, allowed, run
        self.wide = queries.astype(np.float64)
        self.wide /= np.linalg.norm(self.wide, axis=1, keepdims=True)
        self.margin = np.float32(product_margin(queries.shape[1], store.length_error))
        self.found = Candidates(len(queries), n_neighbors, self.margin)
        self.reach, self.first = self._bounds()

    def _bounds(self):
        """Return how similar rows of each cell can be, and in which cells to begin."""
        shape = len(self.queries), len(self.cells)
        reach, first = np.empty(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        for start in range(0, len(self.queries), BOUND_BLOCK):
            part = slice(start, start + BOUND_BLOCK)
            bound, guess = upper_bounds(self.wide[part], self.cells)
            bound[:, self.count == 0] = guess[:, self.count == 0] = -np.inf
            reach[part] = bound + self.margin
            self._choose_first(first[part], guess)
        return reach, first

    def _choose_first(self, first, guess):
        """Mark the cells that look nearest, enough of them to hold the neighbours."""
        n_cells = FIRST_CELLS
        while n_cells < guess.shape[1]:
            best = np.argpartition(guess, -n_cells, axis=1)[:, -n_cells:]
            if (self.count[best].sum(axis=1) >= self.found.n_neighbors).all():
                np.put_along_axis(first, best, True, axis=1)
                return
            n_cells *= 4
        first[:] = True

    def neighbors(self):
        """Return the positions and cosines of each query's neighbours."""
        self._scan(self.first)
        done, left = self.first, self._left(self.first)
        if left.sum() > MANY_CELLS * len(left):
            chosen = np.zeros_like(left)
            bound = np.where(left, self.reach, -np.inf)
            best = np.argpartition(bound, -NEXT_CELLS, axis=1)[:, -NEXT_CELLS:]
            np.put_along_axis(chosen, best, True, axis=1)
            chosen &= left
            self._scan(chosen)
            done |= chosen
            left = self._left(done)
        self._scan(left)
        return self._ranked()

    def similar(self, similarity):
        """Return the queries, positions and cosines of all pairs that are similar enough."""
        found = Candidates(len(self.queries), len(self.store) + 1, 0.0)  # keeps all of them
        found.least[:] = similarity - self.found.margin
        self.found = found
        self._scan(self._left(np.zeros_like(self.first)))
        query, position, cosine = self._sorted()
        kept = cosine >= similarity
        return query[kept], position[kept], cosine[kept]

    def _left(self, done):
        """Return which cells may hold neighbours of which queries, and were not scanned."""
        left = self.reach >= self.found.least[:, None]
        left &= ~done
        left &= self.count > 0
        left[self.found.crowded] = False
        return left

    def _scan(self, wanted):
        """Compare queries with the rows of cells that they want."""
        self._compare(cell_tasks(*np.nonzero(wanted.T)))

    def _compare(self, tasks):
        """Compare queries with the rows of cells: pairs of a cell and the queries' numbers."""

        def scan(task):
            cell, members = task
            least = self.found.least[members]
            return [
                scan_rows(self.store.read, self.queries, members, positions, self.found, least)
                for positions in self._pieces(cell, len(members))
            ]

        parts = [part for found in self.run(scan, tasks) for part in found]
        if parts:
            self.found.add(parts)

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

    def _sorted(self):
        """Return the candidates in order, with their cosines."""
        query, position = self.found.query, self.found.position
        cosine = np.empty(len(query))

        def compute(first):
            part = slice(first, first + RANK_BLOCK)
            near = as_float32(self.store.read(position[part]))
            cosine[part] = paired_cosines(self.queries[query[part]].astype(np.float64), near)

        list(self.run(compute, range(0, len(cosine), RANK_BLOCK)))
        order = np.lexsort((self.store.rows[position], -cosine, query))
        return query[order], position[order], cosine[order]

    def _ranked(self):
        """Return the best candidates of each query."""
        n_neighbors = self.found.n_neighbors
        query, position, cosine = self._sorted()
        positions = np.empty((len(self.queries), n_neighbors), dtype=np.int64)
        similarity = np.empty((len(self.queries), n_neighbors))
        clear = np.flatnonzero(~self.found.crowded)
        best = np.searchsorted(query, clear)[:, None] + np.arange(n_neighbors)
        positions[clear], similarity[clear] = position[best], cosine[best]
        crowded = np.flatnonzero(self.found.crowded)

        def settle(first):
            members = crowded[first : first + SETTLED_BLOCK]
            positions[members], similarity[members] = self._settled(members)

        list(self.run(settle, range(0, len(crowded), SETTLED_BLOCK)))
        return positions, similarity

    def _settled(self, members):
        """Return the neighbours of queries with many near ties, all cosines in float64."""
        best = _Best(self.wide[members], self.queries[members], self.found.n_neighbors)
        least = self.found.least[members]
        for cell in np.argsort(-self.reach[members].max(axis=0), kind="stable"):
            if (self.reach[members, cell] < least).all():
                continue
            for positions in self._pieces(cell, 8 * len(members)):
                best.add(self.store, positions)
            least = np.maximum(least, best.cosine[:, -1].astype(np.float32) - self.found.margin)
        return best.position, best.cosine


class _Best:
    """The best rows so far of queries whose neighbours float32 does not tell apart.

    A float64 matrix product leaves few rows in question, their cosines are computed one way for
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
        near = as_float32(store.read(positions))
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
        if len(number) > product.size // MANY_TIES:
            value = cosines(self.queries, near)
            # rows of a cell ascend, so that a stable sort keeps the first of equal ones
            order = np.argsort(-value, axis=1, kind="stable")[:, :n_neighbors]
            self._merge(np.take_along_axis(value, order, axis=1), positions[order], store)
            return
        place = np.arange(len(number)) - np.searchsorted(number, number)
        value = np.full((len(product), place.max() + 1), -np.inf)
        order = np.zeros(value.shape, dtype=np.int64)
        value[number, place] = paired_cosines(self.queries[number], near[column])
        order[number, place] = column
        self._merge(value, positions[order], store)

    def _merge(self, cosine, position, store):
        """Keep the best of what is known and what is new."""
        row = np.where(np.isneginf(cosine), np.iinfo(np.int64).max, store.rows[position])
        cosine = np.concatenate([self.cosine, cosine], axis=1)
        position = np.concatenate([self.position, position], axis=1)
        row = np.concatenate([self.row, row], axis=1)
        order = np.lexsort((row, -cosine), axis=1)[:, : self.cosine.shape[1]]
        self.cosine, self.position, self.row = (
            np.take_along_axis(each, order, axis=1) for each in (cosine, position, row)
        )


def cell_tasks(cell, query):
    """Yield each cell, which ascend, and its queries."""
    if not len(cell):
        return
    present, first = np.unique(cell, return_index=True)
    yield from zip(present.tolist(), np.split(query, first[1:]), strict=True)
