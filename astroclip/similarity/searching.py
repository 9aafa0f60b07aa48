"""One way to search by all methods: exact, approximate, on a device, with and without filter."""

import importlib.util

import numpy as np

from astroclip.similarity.approximate import LEAST_ROWS, ApproximateSearch, choose_method
from astroclip.similarity.exact import nearest, within
from astroclip.similarity.probing import CellSearch

__all__ = ["METHODS", "Searcher"]

METHODS = ("exact", "auto", "cells", "hnsw", "ivf", "ivfpq")
EXACT_ROWS = 500_000  # allowed rows that are searched exactly rather than by a filtered graph
EXACT_SHARE = 0.25  # the same as a share of all


class Searcher:
    """Searches a store.

    Parameters
    ----------
    store : `~astroclip.similarity.store.Store`
    n_rows : int
        Of the table.
    approximate : dict of str to `ApproximateSearch` or `CellSearch`
        By modality; others are searched exactly.
    device : str or `torch.device`, optional
        Where exact searches multiply.
    """

    def __init__(self, store, n_rows, *, approximate=None, device=None):
        self.store, self.n_rows, self.device = store, n_rows, device
        self.approximate = approximate or {}
        self._place = None

    @property
    def recall(self):
        """The lowest measured recall of a modality, one if all are searched exactly."""
        return min([1.0, *[each.recall for each in self.approximate.values()]])

    @property
    def place(self):
        """The position of each row of the table, -1 for those without."""
        if self._place is None:
            self._place = self.store.positions(self.n_rows)
        return self._place

    def build_approximate(self, method, *, recall, random_state, old=None):
        """Build approximate indexes of the modalities that are large enough.

        Parameters
        ----------
        method : str
        recall : float
        random_state : int
        old : dict of str to `ApproximateSearch` or `CellSearch`, optional
            Trained ones, to which rows that they lack are added.
        """
        options = {"recall": recall, "random_state": random_state}
        for name, (start, stop) in self.store.sections.items():
            kind = method
            if method == "auto":
                with_faiss = importlib.util.find_spec("faiss") is not None
                kind = choose_method(stop - start, with_faiss=with_faiss)
            if kind == "ivfpq" and stop - start < LEAST_ROWS[kind]:
                kind = "ivf"
            if kind == "exact" or stop - start < LEAST_ROWS[kind]:
                continue
            known = (old or {}).get(name)
            if known is not None and known.method == kind:
                known.update(self.store, name, self.place)
                known.set_effort(self.store, name, **options)
            elif kind == CellSearch.method:
                known = CellSearch.build(self.store, name, **options)
            else:
                known = ApproximateSearch.build(self.store, name, method=kind, **options)
            self.approximate[name] = known

    def names(self, modality, kind):
        """Return the modalities that a query of modality ``kind`` is compared with."""
        if modality is None:
            modality = kind if kind in self.store.sections else "all"
        if modality == "all":
            return tuple(self.store.sections)
        return tuple(name for name in self.store.sections if name == modality)

    def count(self, names, allowed=None):
        """Return how many rows of some modalities may be found."""
        total = 0
        for name in names:
            start, stop = self.store.sections[name]
            own = None if allowed is None else allowed[self.store.rows[start:stop]]
            total += stop - start if own is None else int(own.sum())
        return total

    def nearest(self, queries, names, n_neighbors, *, allowed=None):
        """Return the rows of the table most similar to unit vectors.

        Parameters
        ----------
        queries : (N, D) float32 `numpy.ndarray`
        names : sequence of str
            Modalities to search.
        n_neighbors : int
            At most `count`.
        allowed : (M,) bool `numpy.ndarray`, optional

        Returns
        -------
        rows : (N, n_neighbors) int64 `numpy.ndarray`
        similarity : (N, n_neighbors) float64 `numpy.ndarray`
        """
        quick = [name for name in names if self._is_quick(name, n_neighbors, allowed)]
        plain = [name for name in names if name not in quick]
        found = [self._quick(queries, name, n_neighbors, allowed) for name in quick]
        n_plain = min(n_neighbors, self.count(plain, allowed))
        if n_plain:
            found.append(self._exact(queries, plain, n_plain, allowed))
        if len(found) == 1:
            return found[0]
        rows, similarity = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        order = np.lexsort((rows, -similarity), axis=1)[:, :n_neighbors]
        return tuple(np.take_along_axis(each, order, axis=1) for each in (rows, similarity))

    def _is_quick(self, name, n_neighbors, allowed):
        """Return whether a modality is searched approximately."""
        if name not in self.approximate:
            return False
        n_rows, n_allowed = self.count([name]), self.count([name], allowed)
        if n_allowed <= min(EXACT_SHARE * n_rows, EXACT_ROWS):
            return False
        return n_neighbors <= n_allowed

    def _quick(self, queries, name, n_neighbors, allowed):
        """Return rows of one modality, approximately; exactly for queries that found too few."""
        search = self.approximate[name]
        positions, similarity = search.search(
            self.store, self.place, queries, n_neighbors, allowed=allowed
        )
        rows = self.store.rows[np.maximum(positions, 0)].astype(np.int64)
        few = np.flatnonzero(positions[:, -1] < 0)
        if len(few):
            rows[few], similarity[few] = self._exact(queries[few], [name], n_neighbors, allowed)
        return rows, similarity

    def _exact(self, queries, names, n_neighbors, allowed):
        """Return rows of some modalities, exactly."""
        options = {"cells": self.store.cells(names)}
        options["allowed"] = None if allowed is None else allowed[self.store.rows]
        if self.device is None:
            positions, similarity = nearest(self.store, queries, n_neighbors, **options)
        else:
            from astroclip.similarity.devices import nearest_on_device

            positions, similarity = nearest_on_device(
                self.store, queries, n_neighbors, device=self.device, **options
            )
        return self.store.rows[positions].astype(np.int64), similarity

    def within(self, queries, names, similarity, *, allowed=None):
        """Yield queries' numbers, rows and cosines of all pairs that are similar enough."""
        allowed = None if allowed is None else allowed[self.store.rows]
        cells = self.store.cells(names)
        found = within(self.store, queries, similarity, cells=cells, allowed=allowed)
        for number, positions, cosine in found:
            yield number, self.store.rows[positions].astype(np.int64), cosine
