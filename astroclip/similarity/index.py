"""`SimilarityIndex`: a reference of embeddings to search by objects, tables, ids and vectors."""

import weakref

import numpy as np
from astropy.table import Column, MaskedColumn, QTable, Table

from astroclip._validation import check_choice, check_integer, import_extra
from astroclip.similarity.columns import StackedTable
from astroclip.similarity.conditions import allowed_rows
from astroclip.similarity.files import METHODS, read_index, write_index
from astroclip.similarity.groups import duplicate_groups, neighbor_graph
from astroclip.similarity.queries import (
    IdLookup,
    Queries,
    as_embeddings,
    neighbor_table,
    unit_vectors,
)
from astroclip.similarity.store import Shard, Store
from astroclip.similarity.vectors import ModalityCenters, unit_rows
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    validate_embedding_table,
)

__all__ = ["SimilarityIndex"]

MODALITIES = ("spectrum", "image", "all")
DTYPES = ("float32", "float16")


class SimilarityIndex:
    """Nearest neighbors in a reference table of embeddings.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        An embedding table. Rows without an embedding are kept out of the search.
    method : str
        ``"exact"``; ``"approximate"``: inverted lists of FAISS (the extra ``ann``) propose rows,
        which are ranked by the stored vectors; or ``"auto"``: approximate where a modality has
        50,000 rows or more in a table that was given to the index or appended, if FAISS is
        installed, exact otherwise. Tables with fewer than 1,000 rows of a modality are always
        searched exactly.
    recall : float
        Share of the true ten nearest neighbors that an approximate search is to find.
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
        Chooses the rows that clusters and approximate searches are fitted to and measured with.

    Attributes
    ----------
    dim : int
        Length of an embedding.
    recall_ : float
        Measured share of the true ten nearest neighbors of reference rows that the search
        finds, the lowest of its parts; 1 for an exact one.
    dtype, method : str
    columns : `~astropy.table.QTable`, or what is read like one
        The reference without its vectors: of an index in files, rows are read when they are asked
        for.

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

    def __init__(
        self, table, *, method="exact", recall=0.97, dtype="float32", center_modalities=False,
        device=None, random_state=0,
    ):
        validate_embedding_table(table)
        self.method = check_choice(method, METHODS, "method")
        self.dtype = check_choice(dtype, DTYPES, "dtype")
        self.dim = table["embedding"].shape[1]
        self._device = device
        self._recall = _check_recall(recall)
        self._random_state = check_integer(random_state, "random_state", minimum=0)
        self._embedding_position = table.colnames.index("embedding")
        self._opened = None  # the folder it was read from or written to, and its checksum then
        if method == "approximate":
            import_extra("faiss", "ann")
        self._centers = None
        if center_modalities:
            matrix, valid = embedding_matrix(table)
            unit, has_direction = unit_rows(matrix)
            valid &= has_direction
            modality = np.asarray(table["modality"]).astype(str)
            self._centers = ModalityCenters.fit(unit[valid], modality[valid])
        self._set_shards([self._shard_of(table)])

    def _shard_of(self, table):
        """Return the shard of an embedding table's rows."""
        matrix, valid = embedding_matrix(table)
        columns = table.copy(copy_data=False)
        if self._centers is None:
            columns.remove_column("embedding")
        else:  # the vectors that are searched are others
            columns["embedding"] = Column(matrix.copy())
        modality = np.asarray(table["modality"]).astype(str)
        unit, has_direction = unit_vectors(matrix, modality, self._centers, dtype=self.dtype)
        return self._built(columns, unit, modality, valid & has_direction)

    def _built(self, columns, unit, modality, usable):
        """Return the shard of unit vectors that are ready to be searched."""
        shard = Shard.build(
            columns, unit, modality, usable, dtype=self.dtype, random_state=self._random_state
        )
        shard.build_approximate(
            self.method, recall=self._recall, random_state=self._random_state
        )
        return shard

    def _set_shards(self, shards):
        """Search these shards from now on."""
        self._shards = shards
        self._store = Store(shards, device=self._device)
        columns = [shard.columns for shard in shards]
        self.columns = columns[0] if len(columns) == 1 else StackedTable(columns)
        self._lookup, self._table = None, None

    def __len__(self):
        return len(self.columns)

    def __repr__(self):
        modality = np.asarray(self.columns["modality"])
        counts = {name: int((modality == name).sum()) for name in MODALITIES[:2]}
        held = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        how = "" if self.method == "exact" else f", {self.method}, recall {self.recall_:.3f}"
        return f"<SimilarityIndex of {held} rows, model {self.meta['MODEL']!r}{how}>"

    @property
    def table(self):
        """The reference's rows and columns, put together when asked for.

        Embeddings are the unit vectors as they are stored, or, in an index with centered
        modalities, those of the table that it was made from.
        """
        table = None if self._table is None else self._table()
        if table is None:
            table = self.columns[:]
            if "embedding" in table.colnames:
                matrix = np.array(table["embedding"], dtype=np.float32)
                table.remove_column("embedding")
            else:
                matrix = np.concatenate([shard.matrix() for shard in self._shards])
            mask = np.repeat(~np.isfinite(matrix).all(axis=1)[:, None], self.dim, axis=1)
            matrix[mask] = np.nan
            column = MaskedColumn(matrix, mask=mask, fill_value=np.nan)
            table.add_column(column, name="embedding", index=self._embedding_position)
            self._table = weakref.ref(table)
        return table

    @property
    def meta(self):
        """The reference's meta: its model, weights and versions."""
        return self.columns.meta

    @property
    def recall_(self):
        """Measured recall of the ten nearest neighbors."""
        searches = [each for shard in self._shards for each in shard.approximate.values()]
        return min([1.0, *[each.recall for each in searches]])

    @property
    def n_bytes(self):
        """Bytes of memory that the vectors and their cells take."""
        return sum(shard.n_bytes for shard in self._shards)

    # ------------------------------------------------------------------ searching
    def query(
        self, objects, n_neighbors=10, *, modality=None, where=None, near=None,
        exclude_self=False, joint=False, **options,
    ):
        """Return the nearest neighbors of objects in the reference.

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
        queries = self._queries(self._embedded(objects, options), joint)
        return self._neighbors_of(
            queries, n_neighbors, modality=modality, where=where, near=near,
            exclude_self=exclude_self,
        )

    def query_ids(self, ids, n_neighbors=10, *, exclude_self=True, **options):
        """Return the nearest neighbors of rows of the reference, named by their ids.

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
        table = self._embedding_rows(self._rows_of(ids))
        return self.query(table, n_neighbors, exclude_self=exclude_self, **options)

    def query_vectors(
        self, vectors, n_neighbors=10, *, ids=None, vector_modality=None, modality=None,
        where=None, near=None, exclude_self=False,
    ):
        """Return the nearest neighbors of vectors of the reference's space.

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
            centered.
        modality : str, optional
            As in `query`; all rows by default, or those of ``vector_modality``.

        Returns
        -------
        `~astropy.table.QTable`
            As from `query`.

        Raises
        ------
        ValueError
            If vectors are of another length, or cannot be centered.
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
        elif self._centers is not None:
            msg = (
                "vector_modality is None and the index centers modalities; expected 'spectrum' "
                "or 'image', what the vectors are of."
            )
            raise ValueError(msg)
        own_modality = np.full(len(matrix), vector_modality or "all")
        queries = Queries(names, own_modality, *unit_vectors(matrix, own_modality, self._centers))
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
                examples = self._embedding_rows(self._rows_of(examples, name=name))
            queries = self._queries(examples, joint=False)
            if not queries.valid.any():
                msg = f"{name} has no row with an embedding; expected at least one."
                raise ValueError(msg)
            given.append(queries.vectors[queries.valid].mean(axis=0, dtype=float))
            excluded.append(queries.ids)
        vector = given[0] if negative is None else given[0] - weight * given[1]
        unit, valid = unit_rows(vector[None].astype(np.float32))
        allowed = allowed_rows(self.columns, where=where, near=near)
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
        queries = self._queries(self._embedded(objects, options), joint)
        _check_modality(modality)
        _check_similarity(similarity)
        allowed = allowed_rows(self.columns, where=where, near=near)
        parts = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))]
        for own_modality in np.unique(queries.modality[queries.valid]):
            members = np.flatnonzero(queries.valid & (queries.modality == own_modality))
            names = self._store.names(modality, str(own_modality))
            vectors = queries.vectors[members]
            found = self._store.within(vectors, names, similarity, allowed=allowed)
            parts += [(members[number], rows, cosine) for number, rows, cosine in found]
        number, rows, cosine = (np.concatenate(each) for each in zip(*parts, strict=True))
        if exclude_self:
            foreign = self._ids().ids[rows] != queries.ids[number]
            number, rows, cosine = number[foreign], rows[foreign], cosine[foreign]
        order = np.argsort(number, kind="stable")
        number, rows, cosine = number[order], rows[order], cosine[order]
        rank = np.arange(len(number)) - np.searchsorted(number, number) + 1
        return neighbor_table(queries, self.columns, number, rows, cosine, rank)

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
        allowed = allowed_rows(self.columns, where=where, near=near)
        return neighbor_graph(self._store, n_neighbors, modality=modality, allowed=allowed)

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
        allowed = allowed_rows(self.columns, where=where, near=near)
        group = duplicate_groups(self._store, similarity, modality=modality, allowed=allowed)
        rows = np.flatnonzero(group >= 0)
        rows = rows[np.argsort(group[rows], kind="stable")]
        result = QTable()
        result["group"], result["row"] = group[rows], rows
        own = self.columns[rows]
        for name in own.colnames:
            if name not in ("group", "row", "embedding"):
                result[name] = own[name]
        result.meta.update(self.columns.meta)
        return result

    # ------------------------------------------------------------------ from query to result
    def _embedded(self, objects, options):
        """Return the query as a table; objects are embedded with the reference's model."""
        return as_embeddings(objects, self.meta["MODEL"], options)

    def _queries(self, table, joint):
        """Return the queries that a table's rows are."""
        queries = Queries.from_table(table, self.meta, dim=self.dim, centers=self._centers)
        return queries.joined() if joint else queries

    def _neighbors_of(self, queries, n_neighbors, **options):
        """Return the table of queries' neighbors."""
        rows, similarity, valid = self._find(queries, n_neighbors, **options)
        number = np.repeat(np.flatnonzero(valid), n_neighbors)
        rank = np.tile(np.arange(1, n_neighbors + 1), int(valid.sum()))
        rows, similarity = rows[valid].ravel(), similarity[valid].ravel()
        return neighbor_table(queries, self.columns, number, rows, similarity, rank)

    def _find(self, queries, n_neighbors, *, modality, where=None, near=None, exclude_self=False):
        """Return rows and similarities of queries' neighbors, and which queries have some."""
        check_integer(n_neighbors, "n_neighbors")
        _check_modality(modality)
        allowed = allowed_rows(self.columns, where=where, near=near)
        rows = np.full((len(queries), n_neighbors), -1, dtype=np.int64)
        similarity = np.full((len(queries), n_neighbors), np.nan)
        for own_modality in np.unique(queries.modality[queries.valid]):
            members = np.flatnonzero(queries.valid & (queries.modality == own_modality))
            names = self._store.names(modality, str(own_modality))
            n_rows, n_own = self._store.count(names, allowed), np.zeros(len(members), dtype=int)
            if exclude_self:  # as many more are searched as rows carry a query's own id
                number, own = self._ids().rows(queries.ids[members])
                searched = np.zeros(len(self), dtype=bool)
                searched[self._store.rows[self._store.positions(names, allowed)]] = True
                n_own = np.bincount(number[searched[own]], minlength=len(members))
            spare = int(n_own.max())
            if n_rows < n_neighbors + spare:
                worst = members[int(np.argmax(n_own))]
                msg = (
                    f"n_neighbors is {n_neighbors} and the reference has {n_rows - spare} rows "
                    f"that query[{worst}] (id {str(queries.ids[worst])!r}) can be compared with; "
                    f"expected at most that many. Ask for fewer, or search more rows "
                    f"(modality='all', wider conditions)."
                )
                raise ValueError(msg)
            found = self._store.nearest(
                queries.vectors[members], names, n_neighbors + spare, allowed=allowed
            )
            if spare:
                ids = self._ids().ids[found[0]]
                is_own = ids == queries.ids[members][:, None]
                keep = np.argsort(is_own, axis=1, kind="stable")[:, :n_neighbors]
                found = [np.take_along_axis(each, keep, axis=1) for each in found]
            rows[members], similarity[members] = found
        return rows, similarity, queries.valid

    # ------------------------------------------------------------------ rows by id
    def _ids(self):
        """Return the lookup of rows by id, made once."""
        if self._lookup is None:
            self._lookup = IdLookup(np.asarray(self.columns["id"]).astype(str, copy=False))
        return self._lookup

    def _rows_of(self, ids, name="ids"):
        """Return all rows of ids."""
        ids = np.atleast_1d(np.asarray(ids)).astype(str)
        if not len(ids):
            msg = f"{name} is empty; expected at least one id."
            raise ValueError(msg)
        number, rows = self._ids().rows(ids)
        missing = np.setdiff1d(np.arange(len(ids)), number)
        if len(missing):
            msg = (
                f"{name}[{missing[0]}] is {str(ids[missing[0]])!r}, which is no id of the "
                f"reference ({len(missing)} of {len(ids)} are not); expected ids of its rows."
            )
            raise KeyError(msg)
        return rows

    def _embedding_rows(self, rows):
        """Return rows of the reference as an embedding table."""
        table = self.columns[rows]
        if "embedding" not in table.colnames:
            table["embedding"] = self._store.vectors_of(rows)
        return table

    # ------------------------------------------------------------------ changing
    def set_recall(self, recall):
        """Set how hard approximate searches try from another wanted recall, and measure it.

        Parameters
        ----------
        recall : float
            Share of the true ten nearest neighbors that is to be found.

        Returns
        -------
        `SimilarityIndex`
            Itself.
        """
        self._recall = _check_recall(recall)
        for shard in self._shards:
            for name, search in shard.approximate.items():
                search.tune(
                    shard, shard.cells[name], recall=recall, random_state=self._random_state
                )
        return self

    def append(self, table):
        """Add rows behind those of the reference.

        They become a shard of their own, with cells and an approximate search of its own: the
        other rows are not touched, and `save` writes the new ones only. Many small shards are
        searched more slowly than one large one; ``SimilarityIndex(index.table)`` makes it.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the same model and weights. Columns that only one side has are
            masked on the other.

        Returns
        -------
        `SimilarityIndex`
            Itself.

        Raises
        ------
        ModelMismatchError
            If it comes from another model or weights.
        TypeError, ValueError
            If it is no embedding table, or its embeddings have another length.
        """
        validate_embedding_table(table, name="table")
        check_same_model(table, self.meta, names=("table", "reference"))
        if table["embedding"].shape[1] != self.dim:
            msg = (
                f"table['embedding'] has shape {table['embedding'].shape}; expected "
                f"(N, {self.dim}), as in the reference. Pass embeddings as the model made them."
            )
            raise ValueError(msg)
        self._set_shards([*self._shards, self._shard_of(table)])
        return self

    def merge(self, other):
        """Add the rows of another index.

        Parameters
        ----------
        other : `SimilarityIndex`
            Of the same model and weights.

        Returns
        -------
        `SimilarityIndex`
            Itself.

        Raises
        ------
        ModelMismatchError
            If it is of another model or weights.
        TypeError
            If it is no index.
        """
        if not isinstance(other, SimilarityIndex):
            msg = (
                f"other is of type {type(other).__name__}; expected a SimilarityIndex. Add a "
                f"table with append."
            )
            raise TypeError(msg)
        check_same_model(other.meta, self.meta, names=("other", "reference"))
        return self.append(other.table)

    def remove(self, ids):
        """Take out all rows of some ids; shards that hold some of them are made again.

        Parameters
        ----------
        ids : str or sequence of str

        Returns
        -------
        `SimilarityIndex`
            Itself.

        Raises
        ------
        KeyError
            If the reference has no row of an id; nothing is taken out.
        ValueError
            If no row would be left.
        """
        kept = np.ones(len(self), dtype=bool)
        kept[self._rows_of(ids)] = False
        if not kept.any():
            msg = f"ids names all {len(self)} rows of the reference; expected to keep some."
            raise ValueError(msg)
        shards = []
        for shard, own in zip(
            self._shards, np.split(kept, self._store.first_row[1:-1]), strict=True
        ):
            if own.all():
                shards.append(shard)
            elif own.any():
                columns = shard.columns[np.flatnonzero(own)]
                unit = shard.matrix()[own]
                usable = np.isfinite(unit).all(axis=1)
                modality = np.asarray(columns["modality"]).astype(str)
                shards.append(self._built(columns, unit, modality, usable))
        self._set_shards(shards)
        return self

    # ------------------------------------------------------------------ files
    def save(self, path):
        """Write the index to a folder; what is there of it already is not written again.

        Parameters
        ----------
        path : path-like
            A new folder, whose parent exists, or one with an index, which is replaced once the
            new one is complete. Processes that have the old one open keep their answers.

        Raises
        ------
        FileExistsError
            If there is something else.
        ValueError
            If a column of the table holds Python objects.
        OSError
            If another process is writing there, or has since this index was opened.

        Notes
        -----
        An index that was opened, appended to and saved to the same folder writes one shard and
        the manifest. A process that is killed leaves the old index as it was.
        """
        settings = {
            "method": self.method, "recall": self._recall, "random_state": self._random_state,
            "embedding_position": self._embedding_position,
        }
        self._opened = write_index(
            path, self._shards, settings=settings, centers=self._centers, opened=self._opened
        )

    @classmethod
    def open(cls, path, *, verify=None, device=None):
        """Open an index written by `save`; its vectors stay in their files.

        Parameters
        ----------
        path : path-like
        verify : bool, optional
            Whether to compare all files with their checksums. By default those of an index of
            up to 128 MiB are; of a larger one those of up to 4 MiB, and of larger files the
            size and the layout.
        device : str or `torch.device`, optional
            As for a new index.

        Returns
        -------
        `SimilarityIndex`

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If it is no index, of another version, or damaged.
        """
        index = cls.__new__(cls)
        shards, settings, index._centers, index._opened = read_index(path, verify=verify)
        index._device, index.method = device, settings["method"]
        index._recall, index._random_state = settings["recall"], settings["random_state"]
        index._embedding_position = settings["embedding_position"]
        index.dtype = np.dtype(shards[0].vectors.dtype).name
        index.dim = shards[0].vectors.shape[1]
        index._set_shards(shards)
        return index


def _check_recall(recall):
    if not 0 < recall < 1:
        msg = f"recall is {recall!r}; expected a number between 0 and 1."
        raise ValueError(msg)
    return float(recall)


def _check_modality(modality):
    if modality is not None:
        check_choice(modality, MODALITIES, "modality")


def _check_similarity(similarity):
    if not -1 <= similarity <= 1:
        msg = f"similarity is {similarity!r}; expected a cosine, between -1 and 1."
        raise ValueError(msg)
