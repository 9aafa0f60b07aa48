"""Approximate search with FAISS: proposals of a graph or of inverted lists, ranked anew."""

import numpy as np

from astroclip._validation import import_extra
from astroclip.similarity.cells import LEAST_ROWS as CELLED_ROWS
from astroclip.similarity.threads import workers
from astroclip.similarity.tuning import KnownNeighbors, least_effort, wanted_recall
from astroclip.similarity.vectors import as_float32

__all__ = ["ApproximateSearch", "choose_method"]

LEAST_ROWS = {"cells": CELLED_ROWS, "hnsw": 1000, "ivf": 1000, "ivfpq": 10_000}  # else exactly
HNSW_FROM, IVF_FROM, IVFPQ_FROM = 20_000, 100_000, 20_000_000
BLOCK_ROWS = 65_536
QUERY_BLOCK = 256
LISTS = {"ivf": (1, 2), "ivfpq": (2,)}  # numbers to choose from, by the root of that of rows
LIST_COST = 50  # rows that could be compared in the time that going to a list takes
TRAINING_ROWS = 40  # for a list
GRAPH_LINKS, GRAPH_EFFORT = 32, 80
GREATEST_EFFORT = 2048  # of a graph
FACTORS = (1, 2, 4, 8, 16)
MOST_FLAT_LISTS = 16_384  # more are found by a graph of their centers
CODED = 0.9999  # part of the vectors' numbers that codes reach
SPARE = 0.5  # candidates beyond the neighbours wanted, as a share of them


def choose_method(n_rows, *, with_faiss=True):
    """Return the method that suits a number of rows.

    Parameters
    ----------
    n_rows : int
    with_faiss : bool
        Whether FAISS is there.

    Returns
    -------
    str
        ``"exact"`` to 20,000 rows; then ``"hnsw"`` to 100,000, ``"ivf"`` to 20 million and
        ``"ivfpq"`` above, or ``"cells"`` without FAISS.
    """
    if not with_faiss:
        return "cells" if n_rows >= HNSW_FROM else "exact"
    for method, first in (("ivfpq", IVFPQ_FROM), ("ivf", IVF_FROM), ("hnsw", HNSW_FROM)):
        if n_rows >= first:
            return method
    return "exact"


class ApproximateSearch:
    """An approximate index of one modality's rows of a store.

    Parameters
    ----------
    index : `faiss.Index` or array-like of uint8
        The latter is read when it is needed.
    method : str
        ``"hnsw"``, ``"ivf"`` or ``"ivfpq"``.
    rows : (n,) int `numpy.ndarray`
        The table's row of each vector, in the order in which they were added.
    effort : int
        Lists, or nodes of the graph, that a query looks into.
    factor : int
        Candidates that are ranked anew for each neighbour.
    scale : float
        Of the vectors' numbers in their codes of a byte; zero where the codes are FAISS's own.
    recall : float
        Measured part of the true ten nearest neighbours that are found.

    Notes
    -----
    Numbers are coded as ``127.5 + scale * number`` and compared by Euclidean distances of the
    codes, which order unit vectors as cosines do and are computed with integers.
    """

    def __init__(self, index, *, method, rows, scale=0.0, effort=1, factor=1, recall=np.nan):
        self._index = index
        self.method, self.rows, self.scale = method, rows, scale
        self.effort, self.factor, self.recall = effort, factor, recall

    @classmethod
    def build(cls, store, name, *, method, recall, random_state):
        """Return the index of a modality, its effort set from a wanted recall.

        Parameters
        ----------
        store : `~astroclip.similarity.store.Store`
        name : str
            The modality.
        method : str
        recall : float
            Wanted part of the true ten nearest neighbours.
        random_state : int

        Returns
        -------
        `ApproximateSearch`
        """
        start, stop = store.sections[name]
        known = KnownNeighbors.sample(store, name, random_state=random_state)
        rng = np.random.default_rng(random_state)
        choices = _list_counts(method, stop - start)
        n_rows = min(stop - start, max(TRAINING_ROWS * max(choices), 10_000))
        chosen = rng.choice(stop - start, n_rows, replace=False)
        sample = as_float32(store.read(start + np.sort(chosen)))
        scale = 0.0 if method == "ivfpq" else 127 / float(np.quantile(np.abs(sample), CODED))
        searches = []
        for n_lists in choices:
            index = _new_index(method, n_lists, store.dim, random_state)
            search = cls(index, method=method, rows=store.rows[:0], scale=scale)
            index.train(search.coded(sample))
            searches.append(search)
        if len(searches) > 1:
            searches.sort(key=lambda each: each._cost(store, known, stop - start, recall))
        search = searches[0]
        search.add(store, np.arange(start, stop))
        search.set_effort(store, name, recall=recall, random_state=random_state, known=known)
        return search

    def _cost(self, store, known, n_rows, recall):
        """Return how many vectors a query is compared with if lists hold all of them alike."""
        queries = known.queries
        near = as_float32(store.read(known.positions[:, 1:].ravel()))
        quantizer, n_lists = self.index.quantizer, self.index.nlist
        _, home = quantizer.search(self.coded(near), 1)
        _, nearest_lists = quantizer.search(self.coded(queries), n_lists)
        rank = np.full_like(nearest_lists, n_lists)
        np.put_along_axis(rank, nearest_lists, np.arange(n_lists)[None], axis=1)
        rank = np.take_along_axis(rank, home.reshape(len(queries), -1), axis=1)
        n_probe = np.quantile(rank, recall, method="higher") + 1
        return n_lists + n_probe * (n_rows / n_lists + LIST_COST)

    @property
    def index(self):
        """The FAISS index, read when it is first needed."""
        if not hasattr(self._index, "ntotal"):
            faiss = import_extra("faiss", "ann")
            self._index = faiss.deserialize_index(np.array(self._index[:]))
        return self._index

    def arrays(self):
        """Return what a file keeps: the FAISS index as bytes, and the rows."""
        content = import_extra("faiss", "ann").serialize_index(self.index)
        return {"approximate": content, "approximate_rows": self.rows}

    def settings(self):
        """Return what a file keeps besides: all but the arrays that it is made from."""
        names = ("method", "effort", "factor", "recall", "scale")
        return {name: getattr(self, name) for name in names}

    def update(self, store, name, place):
        """Add the rows of a modality that are missing here."""
        start, stop = store.sections[name]
        new = np.setdiff1d(store.rows[start:stop], self.rows, assume_unique=True)
        self.add(store, place[new])

    def add(self, store, positions):
        """Add rows of a store."""
        for first in range(0, len(positions), BLOCK_ROWS):
            block = as_float32(store.read(positions[first : first + BLOCK_ROWS]))
            self.index.add(self.coded(block))
        self.rows = np.concatenate([self.rows, store.rows[positions]])

    def emptied(self):
        """Return an index without rows that is trained as this one."""
        empty = import_extra("faiss", "ann").clone_index(self.index)
        empty.reset()
        options = {"method": self.method, "scale": self.scale}
        return ApproximateSearch(empty, rows=self.rows[:0], **options)

    def coded(self, vectors):
        """Return vectors as the FAISS index takes them."""
        if not self.scale:
            return np.ascontiguousarray(vectors)
        codes = vectors * np.float32(self.scale)
        codes += np.float32(127.5)
        np.rint(codes, out=codes)
        return np.clip(codes, 0, 255, out=codes)

    # ------------------------------------------------------------------ searching
    def n_candidates(self, n_neighbors):
        """Return how many candidates are ranked anew."""
        return self.factor * n_neighbors + max(int(SPARE * n_neighbors), 2)

    def search(self, store, place, queries, n_neighbors, *, allowed=None, effort=None):
        """Return the positions of similar rows.

        Parameters
        ----------
        store : `~astroclip.similarity.store.Store`
        place : (M,) int `numpy.ndarray`
            The position of each row of the table.
        queries : (N, D) float32 `numpy.ndarray`
            Unit vectors.
        n_neighbors : int
        allowed : (M,) bool `numpy.ndarray`, optional
            Rows of the table that may be found.
        effort : int, optional

        Returns
        -------
        positions : (N, n_neighbors) int64 `numpy.ndarray`
            -1 where too few were found.
        similarity : (N, n_neighbors) float64 `numpy.ndarray`
            Cosines of the stored vectors.
        """
        n_candidates = min(self.n_candidates(n_neighbors), len(self.rows))
        mask = None if allowed is None else allowed[self.rows]
        parameters, kept = self._parameters(effort or self.effort, n_candidates, mask)
        _, number = self.index.search(self.coded(queries), n_candidates, params=parameters)
        del kept  # faiss reads the mask while it searches
        rows = self.rows[np.maximum(number, 0)]
        positions = place[rows].astype(np.int64)
        similarity = np.empty(positions.shape)
        order = np.empty((len(queries), n_neighbors), dtype=np.int64)

        def rank(first):
            part = slice(first, first + QUERY_BLOCK)
            near = as_float32(store.read(positions[part].ravel()))
            near = near.reshape(*positions[part].shape, -1)
            product = np.einsum("nd,nkd->nk", queries[part], near)
            if store.length_error > 1e-5:  # half precision
                product /= np.sqrt(np.einsum("nkd,nkd->nk", near, near))
            similarity[part] = np.minimum(product, 1.0)
            similarity[part][number[part] < 0] = -np.inf
            order[part] = np.lexsort((rows[part], -similarity[part]), axis=1)[:, :n_neighbors]

        with workers(len(queries) * n_candidates * 1000) as run:
            list(run(rank, range(0, len(queries), QUERY_BLOCK)))
        positions[number < 0] = -1
        return (
            np.take_along_axis(positions, order, axis=1),
            np.take_along_axis(similarity, order, axis=1),
        )

    def _parameters(self, effort, n_candidates, mask):
        """Return FAISS's parameters of a search, and the mask's bits that they point to."""
        faiss = import_extra("faiss", "ann")
        options, bits = {}, None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        if self.method == "hnsw":
            n_nodes = max(effort, n_candidates)
            return faiss.SearchParametersHNSW(efSearch=n_nodes, **options), (bits, options)
        n_probe = min(effort, self.index.nlist)
        if mask is not None:  # the neighbours are as much further away
            share = max(float(mask.mean()), 1e-9)
            n_probe = min(int(np.ceil(n_probe / share)), self.index.nlist)
        return faiss.SearchParametersIVF(nprobe=n_probe, **options), (bits, options)

    # ------------------------------------------------------------------ recall
    def set_effort(self, store, name, *, recall, random_state, known=None):
        """Set the effort from a wanted recall, and measure the recall on other rows.

        Half of a sample of the reference's rows sets it, the other half measures; a row itself
        is no neighbour of it. ``known`` is that sample if it is drawn already.
        """
        if known is None:
            known = KnownNeighbors.sample(store, name, random_state=random_state)
        place, wanted = store.positions(int(store.rows.max()) + 1), wanted_recall(recall)

        def suffices(effort):
            return known.recall(self, store, place, effort=effort, first=True) >= wanted

        most = GREATEST_EFFORT if self.method == "hnsw" else self.index.nlist
        for factor in FACTORS:  # codes are coarse: how many candidates make up for that?
            self.factor = factor
            if suffices(-(-most // 8)):
                break
        self.effort = least_effort(suffices, most)
        self.recall = known.recall(self, store, place, effort=self.effort, first=False)


def _list_counts(method, n_rows):
    """Return the numbers of inverted lists to choose from, one for a method without."""
    counts = set()
    for factor in LISTS.get(method, (1,)):
        n_lists = int(2 ** np.round(np.log2(factor * np.sqrt(max(n_rows, 1)))))
        counts.add(max(1, min(n_lists, n_rows // TRAINING_ROWS)))
    return sorted(counts)


def _new_index(method, n_lists, dim, seed):
    """Return an empty FAISS index, ``n_lists`` of use to the methods with inverted lists."""
    faiss = import_extra("faiss", "ann")
    code = faiss.ScalarQuantizer.QT_8bit_direct
    if method == "hnsw":
        index = faiss.IndexHNSWSQ(dim, code, GRAPH_LINKS, faiss.METRIC_L2)
        index.hnsw.efConstruction = GRAPH_EFFORT
        return index
    metric = faiss.METRIC_L2 if method == "ivf" else faiss.METRIC_INNER_PRODUCT
    quantizer = faiss.IndexFlat(dim, metric)
    if n_lists > MOST_FLAT_LISTS:
        quantizer = faiss.IndexHNSWFlat(dim, GRAPH_LINKS, metric)
    if method == "ivf":
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, n_lists, code, metric, False)
    else:
        n_parts = next(parts for parts in range(max(dim // 4, 1), 0, -1) if dim % parts == 0)
        index = faiss.IndexIVFPQ(quantizer, dim, n_lists, n_parts, 8, metric)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.seed, index.cp.niter = seed, 8
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, TRAINING_ROWS
    return index
