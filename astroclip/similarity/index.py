"""`SimilarityIndex`: a reference of embeddings to search by objects, tables, ids and vectors."""

import numpy as np
from astropy.table import QTable, Table

from astroclip._validation import check_choice, check_integer
from astroclip.similarity._indexed import IndexedTable
from astroclip.similarity.filters import allowed_rows
from astroclip.similarity.groups import duplicate_groups, neighbor_graph
from astroclip.similarity.queries import Queries, as_table, directed, table_queries
from astroclip.similarity.results import neighbor_table
from astroclip.similarity.vectors import unit_rows

__all__ = ["SimilarityIndex"]

MODALITIES = ("spectrum", "image", "all")


class SimilarityIndex(IndexedTable):
    """Nearest neighbours in a reference table of embeddings.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        An embedding table. Rows without an embedding are kept out of the search.
    method : str
        ``"exact"``; ``"cells"``: approximate, in the parts of the reference that look nearest,
        with nothing to build or to store; ``"hnsw"``, ``"ivf"`` or ``"ivfpq"``: approximate,
        with FAISS (the extra ``ann``); or ``"auto"``, which chooses by the number of rows of a
        modality: exact to 20,000, a graph (HNSW) to 100,000, inverted lists (IVF) to 20
        million, and lists of product codes (IVF-PQ) above; where FAISS is not installed, cells
        above 20,000. Candidates of all are ranked anew by the stored vectors. Modalities with
        fewer than 1,000 rows (20,000 for cells) are always searched exactly.
    recall : float
        Part of the true ten nearest neighbours that an approximate search is to find.
    dtype : str
        How vectors are stored: ``"float32"`` or, in half the memory, ``"float16"``. Results
        are exact for the vectors as they are stored.
    center_modalities : bool
        Subtract each modality's mean embedding from reference and queries, which closes the
        gap between spectra and images. Similarities are cosines of what is left.
    device : str or `torch.device`, optional
        Where exact searches multiply, such as ``"cuda"``; on the CPU, without torch, by
        default.
    random_state : int
        Chooses the rows that cells and approximate searches are trained and measured with.

    Attributes
    ----------
    dim : int
        Length of an embedding.
    recall_ : float
        Measured part of the true ten nearest neighbours of reference rows that the search
        finds, the lowest of its modalities; 1 for an exact one.
    dtype, method : str

    Raises
    ------
    TypeError, ValueError
        If ``table`` is no embedding table, or an option is unknown.
    MissingExtraError
        If an approximate search is asked for and FAISS is not installed.

    Examples
    --------
    >>> import astroclip
    >>> reference = astroclip.reference_table()
    >>> index = astroclip.SimilarityIndex(reference)
    >>> neighbors = index.query(reference[:2], n_neighbors=3)
    >>> [int(rank) for rank in neighbors["rank"]]
    [1, 2, 3, 1, 2, 3]
    """

    # ------------------------------------------------------------------ searching
    def query(
        self, objects, n_neighbors=10, *, modality=None, where=None, near=None,
        exclude_self=False, joint=False, **options,
    ):
        """Return the nearest neighbours of objects in the reference.

        Parameters
        ----------
        objects : `~astropy.table.QTable`, or anything `astroclip.embed` takes
            An embedding table of the same model and weights; objects are embedded first.
        n_neighbors : int
        modality : str, optional
            Modality of the reference rows to search: ``"spectrum"``, ``"image"`` or
            ``"all"``. By default each query's own, if the reference has rows of it, and
            all rows otherwise.
        where : (M,) bool array-like, str or dict, optional
            Reference rows that may be found: a mask, whose masked values count as False; a
            condition on columns, such as ``"redshift > 0.1 & log_ssfr < -11"``, in which
            masked values and NaN fulfil nothing; or ranges,
            ``{"redshift": (0.1, 0.2)}``, both ends included, either may be None.
        near : tuple, optional
            Where on the sky rows may be found: ``(center, radius)`` or
            ``(center, width, height)`` with a `~astropy.coordinates.SkyCoord` and angles.
            A cone may have several centers.
        exclude_self : bool
            Leave out reference rows of the query's own id.
        joint : bool
            Search with the mean of all embeddings of one id, such as a galaxy's spectrum and
            image; all rows of the reference by default.
        **options
            Passed to `astroclip.embed` for objects.

        Returns
        -------
        `~astropy.table.QTable`
            Columns ``query_id``, ``rank`` (from 1), ``neighbor_id``, ``similarity``
            (cosine), ``separation`` (arcsec, where both sides have positions) and the
            reference's own columns of other names; rows of one query together, in query
            order. Queries without an embedding have no rows.

        Raises
        ------
        ModelMismatchError
            If query and reference come from different models or weights.
        ValueError
            If there are fewer reference rows to search than ``n_neighbors``, or a condition
            cannot be read.
        """
        queries = self._queries(as_table(objects, self._columns.meta, options), joint)
        return self._neighbors_of(
            queries, n_neighbors, modality=modality, where=where, near=near,
            exclude_self=exclude_self,
        )

    def query_ids(self, ids, n_neighbors=10, *, exclude_self=True, **options):
        """Return the nearest neighbours of rows of the reference, named by their ids.

        Parameters
        ----------
        ids : str or sequence of str
            All rows of an id are queries.
        n_neighbors, exclude_self
            As in `query`, but other ids only by default.
        **options
            ``modality``, ``where``, ``near`` and ``joint``, as in `query`.

        Returns
        -------
        `~astropy.table.QTable`
            As from `query`.

        Raises
        ------
        KeyError
            If the reference has no row of an id.
        """
        rows = self._rows_of(ids)
        return self.query(self._rows(rows), n_neighbors, exclude_self=exclude_self, **options)

    def query_vectors(
        self, vectors, n_neighbors=10, *, ids=None, vector_modality=None, modality=None,
        where=None, near=None, exclude_self=False,
    ):
        """Return the nearest neighbours of vectors of the reference's space.

        Parameters
        ----------
        vectors : (N, D) or (D,) array-like
            Of any length; their model and weights are not known and not checked.
        n_neighbors, where, near, exclude_self
            As in `query`.
        ids : (N,) sequence of str, optional
            Names for the result; ``"0"``, ``"1"`` and so on by default.
        vector_modality : str, optional
            ``"spectrum"`` or ``"image"``, what the vectors are of: needed where modalities are
            centred.
        modality : str, optional
            As in `query`; all rows by default, or those of ``vector_modality``.

        Returns
        -------
        `~astropy.table.QTable`
            As from `query`.

        Raises
        ------
        ValueError
            If vectors are of another length, or cannot be centred.
        """
        matrix = np.atleast_2d(np.array(vectors, dtype=np.float32))
        names = np.arange(len(matrix)) if ids is None else ids
        names = np.atleast_1d(np.asarray(names)).astype(str)
        if matrix.shape != (len(names), self.dim):
            msg = (
                f"vectors has shape {matrix.shape}; expected ({len(names)}, {self.dim}), one "
                f"embedding of this reference's model an id."
            )
            raise ValueError(msg)
        if vector_modality is not None:
            check_choice(vector_modality, MODALITIES[:2], "vector_modality")
        elif self._gap is not None:
            msg = (
                "vector_modality is None and the index centers modalities; expected 'spectrum' "
                "or 'image', what the vectors are of."
            )
            raise ValueError(msg)
        kinds = np.full(len(matrix), vector_modality or "all")
        queries = Queries(names, kinds, *directed(matrix, kinds, self._gap))
        return self._neighbors_of(
            queries, n_neighbors, modality=modality, where=where, near=near,
            exclude_self=exclude_self,
        )

    def query_examples(
        self, positive, negative=None, n_neighbors=10, *, weight=0.5, modality="all",
        where=None, near=None,
    ):
        r"""Return the reference rows most like some examples and unlike counter-examples.

        Parameters
        ----------
        positive, negative : `~astropy.table.QTable`, or str or sequence of str
            Embedding tables, or ids of reference rows.
        n_neighbors, where, near
            As in `query`.
        weight : float
            How much counter-examples count.
        modality : str
            Modality of the rows to search.

        Returns
        -------
        `~astropy.table.QTable`
            As from `query`, without the examples; ``query_id`` is ``"examples"``.

        Raises
        ------
        KeyError
            If the reference has no row of an id.
        ModelMismatchError, ValueError
            As in `query`.

        Notes
        -----
        The query is the mean of the examples' unit vectors minus ``weight`` times that of the
        counter-examples (Rocchio 1971, in The SMART Retrieval System, ed. Salton, 313).
        """
        given, excluded = [], []
        for examples, name in ((positive, "positive"), (negative, "negative")):
            if examples is None:
                continue
            if not isinstance(examples, Table):
                examples = self._rows(self._rows_of(examples, name=name))
            queries = self._queries(examples, joint=False)
            if not queries.valid.any():
                msg = f"{name} has no row with an embedding; expected at least one."
                raise ValueError(msg)
            given.append(queries.vectors[queries.valid].mean(axis=0, dtype=float))
            excluded.append(queries.ids)
        vector = given[0] if negative is None else given[0] - weight * given[1]
        unit, valid = unit_rows(vector[None].astype(np.float32))
        allowed = self._allowed(where, near)
        allowed = np.ones(len(self), dtype=bool) if allowed is None else allowed
        allowed[self._ids().rows(np.concatenate(excluded))[1]] = False
        queries = Queries(np.array(["examples"]), np.array(["all"]), unit, valid)
        return self._neighbors_of(queries, n_neighbors, modality=modality, where=allowed)

    def neighbors(
        self, table, n_neighbors, *, modality=None, where=None, near=None, exclude_self=False,
        joint=False,
    ):
        """Return the nearest reference rows of an embedding table's rows, as arrays.

        Parameters
        ----------
        table : `~astropy.table.QTable`
        n_neighbors, modality, where, near, exclude_self, joint
            As in `query`. Joint queries are one for each id, in order of appearance.

        Returns
        -------
        rows : (N, n_neighbors) int `numpy.ndarray`
            Rows of the reference table, -1 for queries without an embedding.
        similarity : (N, n_neighbors) float64 `numpy.ndarray`
            Cosines, NaN for queries without an embedding.
        valid : (N,) bool `numpy.ndarray`
            Queries that have an embedding.

        Raises
        ------
        ModelMismatchError, ValueError
            As in `query`.
        """
        queries = self._queries(table, joint)
        return self._find(
            queries, n_neighbors, modality=modality, where=where, near=near,
            exclude_self=exclude_self,
        )

    def within(
        self, objects, *, similarity, modality=None, where=None, near=None, exclude_self=False,
        joint=False, **options,
    ):
        """Return all reference rows that are similar enough to objects, exactly.

        Parameters
        ----------
        objects, modality, where, near, exclude_self, joint, **options
            As in `query`.
        similarity : float
            Least cosine.

        Returns
        -------
        `~astropy.table.QTable`
            As from `query`, with as many rows for a query as there are.

        Raises
        ------
        ModelMismatchError, ValueError
            As in `query`.
        """
        queries = self._queries(as_table(objects, self._columns.meta, options), joint)
        _check_modality(modality)
        _check_similarity(similarity)
        allowed = self._allowed(where, near)
        parts = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))]
        for kind in np.unique(queries.kinds[queries.valid]):
            members = np.flatnonzero(queries.valid & (queries.kinds == kind))
            names = self._searcher.names(modality, str(kind))
            vectors = queries.vectors[members]
            found = self._searcher.within(vectors, names, similarity, allowed=allowed)
            parts += [(members[number], rows, cosine) for number, rows, cosine in found]
        number, rows, cosine = (np.concatenate(each) for each in zip(*parts, strict=True))
        if exclude_self:
            foreign = np.asarray(self._columns.texts("id")[rows]) != queries.ids[number]
            number, rows, cosine = number[foreign], rows[foreign], cosine[foreign]
        order = np.argsort(number, kind="stable")
        number, rows, cosine = number[order], rows[order], cosine[order]
        rank = np.arange(len(number)) - np.searchsorted(number, number) + 1
        return neighbor_table(queries, self._columns, number, rows, cosine, rank)

    # ------------------------------------------------------------------ all pairs
    def neighbor_graph(self, n_neighbors=10, *, modality=None, where=None, near=None):
        """Return the graph that links each row of the reference to its nearest other rows.

        Parameters
        ----------
        n_neighbors, modality, where, near
            As in `query`; the conditions say which rows take part.

        Returns
        -------
        (M, M) `scipy.sparse.csr_array`
            Cosines, ``n_neighbors`` in each row that has an embedding and takes part.

        Raises
        ------
        ValueError
            If there are too few rows.
        """
        check_integer(n_neighbors, "n_neighbors")
        _check_modality(modality)
        allowed, searcher = self._allowed(where, near), self._searcher
        for kind in searcher.store.sections:
            names = searcher.names(modality, kind)
            n_others = searcher.count(names, allowed) - (kind in names)
            if searcher.count([kind], allowed) and n_others < n_neighbors:
                msg = (
                    f"n_neighbors is {n_neighbors} and {kind} rows can be compared with "
                    f"{n_others} others; expected at most that many."
                )
                raise ValueError(msg)

        def names_of(kind):
            return searcher.names(modality, kind)

        return neighbor_graph(searcher, n_neighbors, names_of, allowed=allowed)

    def near_duplicates(self, *, similarity=0.999, modality=None, where=None, near=None):
        """Return groups of rows that are nearly the same, found exactly.

        Parameters
        ----------
        similarity : float
            Least cosine of two rows of a group; a group may be a chain of such pairs.
        modality, where, near
            As in `query`; the conditions say which rows take part.

        Returns
        -------
        `~astropy.table.QTable`
            Columns ``group`` (from 0, in the order of their first rows), ``row`` (of the
            reference) and the reference's own columns of other names, groups together. Rows that
            are like no other are left out.
        """
        _check_modality(modality)
        _check_similarity(similarity)
        allowed = self._allowed(where, near)

        def names_of(kind):
            return self._searcher.names(modality, kind)

        group = duplicate_groups(self._searcher, similarity, names_of, allowed=allowed)
        rows = np.flatnonzero(group >= 0)
        rows = rows[np.argsort(group[rows], kind="stable")]
        result = QTable()
        result["group"], result["row"] = group[rows], rows
        own = self._columns.take(rows)
        for name in own.colnames:
            if name not in ("group", "row", "embedding"):
                result[name] = own[name]
        result.meta.update(self._columns.meta)
        return result

    # ------------------------------------------------------------------ how
    def _queries(self, table, joint):
        """Return the queries that a table's rows are."""
        queries = table_queries(table, self._columns.meta, dim=self.dim, gap=self._gap)
        return queries.joined() if joint else queries

    def _allowed(self, where, near):
        """Return rows that may be found by their columns, None for all."""
        return allowed_rows(self._columns, where=where, near=near)

    def _neighbors_of(self, queries, n_neighbors, **options):
        """Return the table of queries' neighbours."""
        rows, similarity, valid = self._find(queries, n_neighbors, **options)
        number = np.repeat(np.flatnonzero(valid), n_neighbors)
        rank = np.tile(np.arange(1, n_neighbors + 1), int(valid.sum()))
        rows, similarity = rows[valid].ravel(), similarity[valid].ravel()
        return neighbor_table(queries, self._columns, number, rows, similarity, rank)

    def _find(self, queries, n_neighbors, *, modality, where=None, near=None, exclude_self=False):
        """Return rows and similarities of queries' neighbours, and which queries have some."""
        check_integer(n_neighbors, "n_neighbors")
        _check_modality(modality)
        allowed = self._allowed(where, near)
        rows = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        similarity = np.full((len(queries), n_neighbors), np.nan)
        for kind in np.unique(queries.kinds[queries.valid]):
            members = np.flatnonzero(queries.valid & (queries.kinds == kind))
            names = self._searcher.names(modality, str(kind))
            n_own = self._own_counts(queries, members, names, allowed) if exclude_self else 0
            spare = int(np.max(n_own))
            n_rows = self._searcher.count(names, allowed)
            if n_rows < n_neighbors + spare:
                worst = members[int(np.argmax(n_own))]
                msg = (
                    f"n_neighbors is {n_neighbors} and the reference has {n_rows - spare} rows "
                    f"that query[{worst}] (id {str(queries.ids[worst])!r}) can be compared with; "
                    f"expected at most that many. Ask for fewer, or search more rows "
                    f"(modality='all', wider conditions)."
                )
                raise ValueError(msg)
            vectors, wanted = queries.vectors[members], n_neighbors + spare
            found = self._searcher.nearest(vectors, names, wanted, allowed=allowed)
            if spare:
                ids = np.asarray(self._columns.texts("id")[found[0].ravel()])
                own = ids.reshape(found[0].shape) == queries.ids[members][:, None]
                keep = np.argsort(own, axis=1, kind="stable")[:, :n_neighbors]
                found = [np.take_along_axis(each, keep, axis=1) for each in found]
            rows[members], similarity[members] = found
        return rows, similarity, queries.valid

    def _own_counts(self, queries, members, names, allowed):
        """Return how many of the rows to search carry each query's id."""
        number, rows = self._ids().rows(queries.ids[members])
        inside = np.zeros(len(self), dtype=bool)
        for name in names:
            start, stop = self._searcher.store.sections[name]
            inside[self._searcher.store.rows[start:stop]] = True
        counted = inside[rows] if allowed is None else inside[rows] & allowed[rows]
        return np.bincount(number[counted], minlength=len(members))


def _check_modality(modality):
    if modality is not None:
        check_choice(modality, MODALITIES, "modality")


def _check_similarity(similarity):
    if not -1 <= similarity <= 1:
        msg = f"similarity is {similarity!r}; expected a cosine, between -1 and 1."
        raise ValueError(msg)
