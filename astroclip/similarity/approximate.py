"""Approximate search with FAISS: inverted lists propose rows, their cosines rank them."""

import numpy as np

from astroclip._validation import import_extra
from astroclip.similarity.search import nearest, workers
from astroclip.similarity.vectors import paired_cosines

__all__ = ["LEAST_ROWS", "ApproximateSearch"]

# rows of a modality in a shard from which the lists are used, by the index's method
LEAST_ROWS = {"exact": np.inf, "approximate": 1000, "auto": 50_000}
TRAINING_ROWS = 40  # rows for each list that the centers are fitted to
CODED_SHARE = 0.9999  # of the vectors' numbers, which 8-bit codes reach; larger ones are clipped
BLOCK_ROWS = 65_536
RANK_BLOCK = 256  # queries whose candidates are ranked together
N_SAMPLE = 1000  # rows that the recall is tuned and measured with
N_MEASURED = 10  # neighbors whose recall is measured
SAFETY = 0.1  # share of the allowed misses that tuning avoids besides: it is done on a sample


class ApproximateSearch:
    """Inverted lists of one modality's vectors in a shard, held as plain arrays.

    Vectors are coded in bytes, as ``127.5 + scale * number``, and compared by the Euclidean
    distances of their codes, which order unit vectors as cosines do.

    Parameters
    ----------
    centers : (L, D) float32 `numpy.ndarray`
        Of the lists, in the scale of the codes.
    sizes : (L,) int64 `numpy.ndarray`
        Vectors in each list.
    positions : (n,) int32 or int64 `numpy.ndarray`
        Position in the shard of each vector, list by list.
    codes : (n, D) uint8 `numpy.ndarray`
    scale : float
    n_probe : int
        Lists that a query is compared with.
    recall : float
        Measured share of the true ten nearest neighbors that are found.

    Notes
    -----
    Only these arrays are written to files: FAISS's own format is not made for files that are
    not trusted. FAISS's index is put together from them at the first search.
    """

    ARRAYS = ("centers", "sizes", "positions", "codes")

    def __init__(self, centers, sizes, positions, codes, *, scale, n_probe=1, recall=np.nan):
        self.centers, self.sizes = centers, sizes
        self.positions, self.codes = positions, codes
        self.scale, self.n_probe, self.recall = scale, n_probe, recall
        self._faiss_index = None

    @classmethod
    def build(cls, shard, cells, *, recall, random_state):
        """Return the lists of a modality's vectors, tuned to a wanted recall.

        Parameters
        ----------
        shard : `~astroclip.similarity.store.Shard`
        cells : `~astroclip.similarity.cells.Cells`
            Of the modality.
        recall : float
            Wanted share of the true ten nearest neighbors.
        random_state : int

        Returns
        -------
        `ApproximateSearch`
        """
        faiss = import_extra("faiss", "ann")
        start, stop = int(cells.start[0]), int(cells.stop[-1])
        n_rows = stop - start
        # about 2 sqrt(n) lists: comparing with the centers then costs as much as with the rows
        n_lists = int(2 ** np.round(np.log2(2 * np.sqrt(n_rows))))
        n_lists = max(1, min(n_lists, n_rows // TRAINING_ROWS))
        rng = np.random.default_rng(random_state)
        chosen = rng.choice(n_rows, min(n_rows, TRAINING_ROWS * n_lists), replace=False)
        sample = shard.read(start + np.sort(chosen))
        scale = 127 / float(np.quantile(np.abs(sample), CODED_SHARE))
        kmeans = faiss.Kmeans(
            sample.shape[1], n_lists, niter=8, seed=random_state,
            min_points_per_centroid=1, max_points_per_centroid=TRAINING_ROWS,
        )
        kmeans.train(_coded(sample, scale))
        codes = np.empty((n_rows, sample.shape[1]), dtype=np.uint8)
        label = np.empty(n_rows, dtype=np.int64)
        for first in range(0, n_rows, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, n_rows)
            coded = _coded(shard.read(slice(start + first, start + last)), scale)
            codes[first:last] = coded
            label[first:last] = kmeans.index.search(coded, 1)[1][:, 0]
        order = np.argsort(label, kind="stable")
        sizes = np.bincount(label, minlength=n_lists)
        positions = (start + order).astype(shard.rows.dtype)
        search = cls(kmeans.centroids, sizes, positions, codes[order], scale=scale)
        search.tune(shard, cells, recall=recall, random_state=random_state)
        return search

    def _index(self):
        """Return the FAISS index of the lists."""
        if self._faiss_index is None:
            faiss = import_extra("faiss", "ann")
            n_lists, dim = self.centers.shape
            centers = faiss.IndexFlatL2(dim)
            centers.add(np.ascontiguousarray(self.centers))
            index = faiss.IndexIVFScalarQuantizer(
                centers, dim, n_lists, faiss.ScalarQuantizer.QT_8bit_direct, faiss.METRIC_L2, False
            )
            index.own_fields = True
            centers.this.disown()
            numbers, first = np.arange(len(self.codes)), 0
            for number, size in enumerate(self.sizes.tolist()):
                part = slice(first, first + size)
                if size:
                    own = np.ascontiguousarray(self.codes[part])
                    index.invlists.add_entries(
                        number, size, faiss.swig_ptr(numbers[part]), faiss.swig_ptr(own)
                    )
                first += size
            index.is_trained, index.ntotal = True, len(self.codes)
            self._faiss_index = index
        return self._faiss_index

    def search(self, shard, queries, n_neighbors, *, allowed=None, n_probe=None):
        """Return the positions of similar vectors.

        Parameters
        ----------
        shard : `~astroclip.similarity.store.Shard`
        queries : (N, D) float32 `numpy.ndarray`
            Unit vectors.
        n_neighbors : int
        allowed : (P,) bool `numpy.ndarray`, optional
            Positions in the shard that may be found.
        n_probe : int, optional

        Returns
        -------
        positions : (N, n_neighbors) int64 `numpy.ndarray`
            In the shard; -1 where too few were found.
        similarity : (N, n_neighbors) float64 `numpy.ndarray`
            Cosines of the stored vectors.
        """
        faiss = import_extra("faiss", "ann")
        options, n_probe = {}, n_probe or self.n_probe
        if allowed is not None:  # the neighbors are as much further away
            mask = allowed[self.positions]
            n_probe = int(np.ceil(n_probe / max(float(mask.mean()), 1e-9)))
            bits = np.packbits(mask, bitorder="little")  # which faiss reads while it searches
            options["sel"] = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        options["nprobe"] = min(n_probe, len(self.centers))
        n_candidates = min(n_neighbors + max(n_neighbors // 2, 2), len(self.codes))
        _, number = self._index().search(
            _coded(queries, self.scale), n_candidates, params=faiss.SearchParametersIVF(**options)
        )
        positions = np.where(number < 0, -1, self.positions[np.maximum(number, 0)])
        similarity = np.empty(positions.shape)
        order = np.empty((len(queries), n_neighbors), dtype=np.int64)

        def rank(first):
            part = slice(first, first + RANK_BLOCK)
            near = shard.read(np.maximum(positions[part], 0).ravel())
            asked = np.repeat(queries[part].astype(np.float64), n_candidates, axis=0)
            cosine = paired_cosines(asked, near).reshape(-1, n_candidates)
            cosine[number[part] < 0] = -np.inf
            similarity[part] = cosine
            rows = shard.rows[positions[part]]
            order[part] = np.lexsort((rows, -cosine), axis=1)[:, :n_neighbors]

        with workers(len(queries) * n_candidates * 1000) as run:
            list(run(rank, range(0, len(queries), RANK_BLOCK)))
        return (
            np.take_along_axis(positions, order, axis=1).astype(np.int64),
            np.take_along_axis(similarity, order, axis=1),
        )

    def tune(self, shard, cells, *, recall, random_state):
        """Set ``n_probe`` for a wanted recall, and measure the recall on other rows.

        Half of a sample of the reference's rows sets it, the other half measures; a row itself
        is no neighbor of it.
        """
        start, stop = int(cells.start[0]), int(cells.stop[-1])
        rng = np.random.default_rng(random_state)
        chosen = start + rng.choice(stop - start, min(N_SAMPLE, stop - start), replace=False)
        queries = shard.read(chosen)
        n_wanted = min(N_MEASURED, stop - start - 1) + 1
        _, true = nearest(shard, queries, n_wanted, cells)

        def measured(n_probe, half):
            _, found = self.search(shard, queries[half], n_wanted, n_probe=n_probe)
            # equal rows may stand for each other: as similar as a neighbor is as good
            hits = found >= true[half, -1:] - 1e-12
            return float((hits.sum(axis=1) - 1).mean() / (n_wanted - 1))

        first, second = slice(len(queries) // 2), slice(len(queries) // 2, None)
        wanted, most = recall + SAFETY * (1 - recall), len(self.centers)
        high = 1
        while high < most and measured(high, first) < wanted:
            high = min(2 * high, most)
        low = high // 2
        while high - low > max(1, high // 10):  # within a tenth
            middle = (low + high) // 2
            low, high = (low, middle) if measured(middle, first) >= wanted else (middle, high)
        self.n_probe, self.recall = high, measured(high, second)


def _coded(vectors, scale):
    """Return the codes of vectors, as float32 numbers, which is how FAISS takes them."""
    codes = vectors * np.float32(scale)
    codes += np.float32(127.5)
    np.rint(codes, out=codes)
    return np.clip(codes, 0, 255, out=codes)
