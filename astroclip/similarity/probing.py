"""Approximate search without an index of its own: the cells of the store that look nearest."""

import numpy as np

from astroclip.similarity.exact import BlockSearch, cell_tasks, row_counts
from astroclip.similarity.threads import workers
from astroclip.similarity.tuning import KnownNeighbors, least_effort, wanted_recall

__all__ = ["CellSearch"]

QUERY_BLOCK = 16_384  # queries searched together: the more share a cell, the better
GUESS_BLOCK = 512  # queries whose cells are chosen together


class CellSearch:
    """Looks for one modality's rows in the few cells of the store nearest to a query.

    All rows there are compared, by matrix products of the cell with all queries that look into
    it, so that the only neighbours missed are those in other cells.

    Parameters
    ----------
    name : str
        The modality.
    effort : int
        Cells that a query looks into.
    recall : float
        Measured part of the true ten nearest neighbours that are found.
    """

    method = "cells"

    def __init__(self, name, *, effort=1, recall=np.nan):
        self.name, self.effort, self.recall = name, effort, recall

    @classmethod
    def build(cls, store, name, *, recall, random_state):
        """Return the search of a modality, its effort set from a wanted recall.

        Parameters
        ----------
        store : `~astroclip.similarity.store.Store`
        name : str
            The modality.
        recall : float
            Wanted part of the true ten nearest neighbours.
        random_state : int

        Returns
        -------
        `CellSearch`
        """
        search = cls(name)
        search.set_effort(store, name, recall=recall, random_state=random_state)
        return search

    def emptied(self):
        """Return a search for another store."""
        return CellSearch(self.name)

    def update(self, store, name, place):
        """Take another store: there is nothing to add, its cells are what is searched."""

    def arrays(self):
        """Return the arrays that a file keeps besides the store: none."""
        return {}

    def settings(self):
        """Return what a file keeps."""
        return {"method": self.method, "effort": self.effort, "recall": self.recall}

    def search(self, store, place, queries, n_neighbors, *, allowed=None, effort=None):
        """Return the positions of similar rows.

        Parameters
        ----------
        store : `~astroclip.similarity.store.Store`
        place : (M,) int `numpy.ndarray`
            Not needed here.
        queries : (N, D) float32 `numpy.ndarray`
            Unit vectors.
        n_neighbors : int
            At most as many as there are rows to search.
        allowed : (M,) bool `numpy.ndarray`, optional
            Rows of the table that may be found.
        effort : int, optional

        Returns
        -------
        positions : (N, n_neighbors) int64 `numpy.ndarray`
        similarity : (N, n_neighbors) float64 `numpy.ndarray`
            Cosines of the stored vectors.
        """
        cells = store.cells([self.name])
        allowed = None if allowed is None else allowed[store.rows]
        count = row_counts(cells, allowed)
        n_rows, n_cells = int(count.sum()), effort or self.effort
        if allowed is not None:  # the neighbours are as much further away
            start, stop = store.sections[self.name]
            n_cells = int(np.ceil(n_cells * (stop - start) / max(n_rows, 1)))
        positions = np.empty((len(queries), n_neighbors), dtype=np.int64)
        similarity = np.empty((len(queries), n_neighbors))
        with workers(len(queries) * n_cells * max(n_rows // len(cells), 1)) as run:
            for first in range(0, len(queries), QUERY_BLOCK):
                part = slice(first, first + QUERY_BLOCK)
                block = _Probe(
                    store, queries[part], n_neighbors, cells, count, allowed, run, n_cells=n_cells
                )
                positions[part], similarity[part] = block.neighbors()
        return positions, similarity

    def set_effort(self, store, name, *, recall, random_state):
        """Set the effort from a wanted recall, and measure the recall on other rows."""
        known = KnownNeighbors.sample(store, name, random_state=random_state)
        place, wanted = store.positions(int(store.rows.max()) + 1), wanted_recall(recall)
        self.effort = least_effort(
            lambda effort: known.recall(self, store, place, effort=effort, first=True) >= wanted,
            len(store.cells([name])),
        )
        self.recall = known.recall(self, store, place, effort=self.effort, first=False)


class _Probe(BlockSearch):
    """One block of queries, each of which looks into few cells."""

    def __init__(self, *arguments, n_cells):
        self.n_cells = n_cells
        super().__init__(*arguments)

    def _bounds(self):
        """Choose cells: all of their rows are in question, none of the others' is."""
        middle = 0.5 * (self.cells.low + self.cells.high)
        towards = (self.cells.centers * middle[:, None].astype(np.float32)).T
        reach = np.full((len(self.queries), len(self.cells)), -np.inf, dtype=np.float32)
        nearest = np.empty(len(self.queries), dtype=np.int64)

        def choose(first):
            part = slice(first, first + GUESS_BLOCK)
            guess = self.queries[part] @ towards
            guess[:, self.count == 0] = -np.inf
            nearest[part] = guess.argmax(axis=1)
            self._choose(reach[part], guess)

        list(self.run(choose, range(0, len(self.queries), GUESS_BLOCK)))
        return reach, nearest

    def _choose(self, reach, guess):
        """Mark cells that look nearest, for each query enough to hold its neighbours."""
        pending, n_cells = np.arange(len(guess)), self.n_cells
        while len(pending):
            n_cells = min(n_cells, guess.shape[1])
            best = np.argpartition(guess[pending], -n_cells, axis=1)[:, -n_cells:]
            enough = self.count[best].sum(axis=1) >= self.found.n_neighbors
            enough |= n_cells == guess.shape[1]
            reach[pending[enough, None], best[enough]] = 2.0  # more than any cosine
            pending, n_cells = pending[~enough], 4 * n_cells

    def neighbors(self):
        """Return the positions and cosines of each query's neighbours, the nearest cell first."""
        cell, query = np.nonzero(np.isfinite(self.reach.T))
        nearest = cell == self.first[query]
        self._compare(cell_tasks(cell[nearest], query[nearest]))
        left = ~nearest & ~self.found.crowded[query]
        self._compare(cell_tasks(cell[left], query[left]))
        return self._ranked()
