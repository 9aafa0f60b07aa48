"""Search by example: the nearest neighbours of embeddings in a reference table."""

import hashlib
import json
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from astropy.table import QTable, Table

from astroclip._validation import check_choice, check_integer
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    read_table,
    row_name,
    validate_embedding_table,
    write_table,
)

__all__ = ["SimilarityIndex", "nearest_rows", "set_embedder"]

MODALITIES = ("spectrum", "image", "all")
FORMAT = "astroclip-index"
FORMAT_VERSION = "1"
# what zipfile and json raise for files that are damaged or something else
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    ValueError,
)
BLOCK_VALUES = 16_000_000  # similarities held at a time, 64 MB
GROUP = 128  # columns looked at together

_embedder = None


def set_embedder(function):
    """Say how objects that are no table are embedded.

    Searching must not import torch, and this module stands below `astroclip.embedding`,
    so the dependency is inverted: that module hands its `~astroclip.embed` over when it
    is imported, and `SimilarityIndex.query` calls it as
    ``function(objects, model=name)``.

    Parameters
    ----------
    function : callable
    """
    global _embedder  # noqa: PLW0603
    _embedder = function


def nearest_rows(queries, references, n_neighbors):
    """Return the most similar reference rows of each query, exactly.

    Parameters
    ----------
    queries : (N, D) float32 `numpy.ndarray`
        Unit vectors.
    references : (M, D) float32 `numpy.ndarray`
        Unit vectors.
    n_neighbors : int
        At most M.

    Returns
    -------
    rows : (N, n_neighbors) int `numpy.ndarray`
        Most similar first; ties in reference order.
    similarity : (N, n_neighbors) float64 `numpy.ndarray`
        Cosines.

    Notes
    -----
    A float32 matrix product in blocks of queries proposes candidates: all rows that its
    rounding errors leave in question. Their cosines are computed anew in float64, one way
    for all, so that equal rows tie exactly. Memory beyond the result is about 100 MB.
    """
    n_references, dim = references.shape
    block = int(np.clip(BLOCK_VALUES // max(n_references, 1), 1, 256))
    rows = np.empty((len(queries), n_neighbors), dtype=np.int64)
    similarity = np.empty((len(queries), n_neighbors))
    margin = np.finfo(np.float32).eps * (4 + dim**0.5)
    n_candidates = min(n_references, n_neighbors + 8)
    for first in range(0, len(queries), block):
        part = queries[first : first + block]
        product = part @ references.T
        candidates, crowded = _candidates(product, n_candidates, margin)
        found = _ranked(part, references, candidates, n_neighbors)
        for row in crowded:
            least = product[row, candidates[row]].min()
            close = np.flatnonzero(product[row] >= least - margin)
            single = _ranked(part[row : row + 1], references, close[None], n_neighbors)
            found[0][row], found[1][row] = single[0][0], single[1][0]
        rows[first : first + block], similarity[first : first + block] = found
    return rows, similarity


def _ranked(queries, references, candidates, n_neighbors):
    """Return each query's best candidates by their float64 cosines, ties by row."""
    near = references[candidates].astype(np.float64)
    exact = np.einsum("nd,nkd->nk", queries.astype(np.float64), near)
    length = np.sqrt(np.einsum("nkd,nkd->nk", near, near))
    exact /= length * np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    order = np.lexsort((candidates, -exact), axis=1)[:, :n_neighbors]
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(exact, order, axis=1)


def _candidates(product, n_largest, margin):
    """Return the columns of each row's largest values, and rows where more are in question.

    The n largest values lie in the n groups of columns with the largest maxima, so only
    those groups are sorted: one pass over the product instead of a partition of it.
    """
    n_rows, n_columns = product.shape
    n_groups = -(-n_columns // GROUP)
    if n_groups <= n_largest:
        return _partition(product, np.arange(n_columns)[None], product, n_largest, margin)
    whole = n_columns // GROUP
    highest = product[:, : whole * GROUP].reshape(n_rows, whole, GROUP).max(axis=2)
    if whole < n_groups:
        last = product[:, whole * GROUP :].max(axis=1, keepdims=True)
        highest = np.concatenate([highest, last], axis=1)
    groups = np.argpartition(highest, n_groups - n_largest, axis=1)[:, n_groups - n_largest :]
    columns = (groups[:, :, None] * GROUP + np.arange(GROUP)).reshape(n_rows, -1)
    beyond = columns >= n_columns
    values = np.take_along_axis(product, np.minimum(columns, n_columns - 1), axis=1)
    values[beyond] = -np.inf
    return _partition(values, columns, highest, n_largest, margin)


def _partition(values, columns, highest, n_largest, margin):
    """Return the columns of the largest values, and rows where more are within ``margin``."""
    n_values = values.shape[1]
    columns = np.broadcast_to(columns, values.shape)
    if n_largest >= n_values:
        return columns, ()
    kept = np.argpartition(values, n_values - n_largest, axis=1)[:, n_values - n_largest :]
    least = np.take_along_axis(values, kept, axis=1).min(axis=1, keepdims=True) - margin
    crowded = (values >= least).sum(axis=1) > n_largest
    crowded |= (highest >= least).sum(axis=1) > n_largest
    return np.take_along_axis(columns, kept, axis=1), np.flatnonzero(crowded)


def _unit_rows(matrix):
    """Return rows divided by their lengths, and which have one.

    Rows of unit length are kept to the last bit: dividing them again would reorder
    neighbours that differ by a rounding.
    """
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    directed = length > 0  # False for NaN
    length[np.abs(length - 1) < 1e-6] = 1
    unit = np.divide(matrix, length, out=np.zeros_like(matrix), where=directed)
    return unit, directed[:, 0]


class SimilarityIndex:
    """Exact nearest neighbours in a reference table of embeddings.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        An embedding table. Rows without an embedding are kept out of the search.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        The reference's rows and columns.
    dim : int
        Length of an embedding.

    Raises
    ------
    TypeError, ValueError
        If ``table`` is no embedding table.

    Examples
    --------
    >>> import astroclip
    >>> reference = astroclip.reference_table()
    >>> index = astroclip.SimilarityIndex(reference)
    >>> neighbors = index.query(reference[:2], n_neighbors=3)
    >>> [int(rank) for rank in neighbors["rank"]]
    [1, 2, 3, 1, 2, 3]
    """

    def __init__(self, table):
        validate_embedding_table(table)
        self.table = table
        matrix, valid = embedding_matrix(table)
        self._unit, directed = _unit_rows(matrix)
        self._usable = valid & directed
        self._modality = np.asarray(table["modality"]).astype(str)
        self._ids = np.asarray(table["id"]).astype(str)
        self.dim = matrix.shape[1]

    def __len__(self):
        return len(self.table)

    def __repr__(self):
        counts = {name: int((self._modality == name).sum()) for name in MODALITIES[:2]}
        held = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return f"<SimilarityIndex of {held} rows, model {self.table.meta['MODEL']!r}>"

    # ------------------------------------------------------------------ searching
    def query(
        self, objects, n_neighbors=10, *, modality=None, where=None, exclude_self=False, **options
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
        where : (M,) bool array-like, optional
            Reference rows that may be found; masked values count as False.
        exclude_self : bool
            Leave out reference rows of the query's own id.
        **options
            Passed to `astroclip.embed` for objects.

        Returns
        -------
        `~astropy.table.QTable`
            Columns ``query_id``, ``rank`` (from 1), ``neighbor_id``, ``similarity``
            (cosine) and the reference's own columns of other names; rows of one query
            together, in query order. Queries without an embedding have no rows.

        Raises
        ------
        ModelMismatchError
            If query and reference come from different models or weights.
        ValueError
            If there are fewer reference rows to search than ``n_neighbors``.
        """
        queries = self._as_table(objects, options)
        found = self.neighbors(
            queries, n_neighbors, modality=modality, where=where, exclude_self=exclude_self
        )
        rows, similarity, valid = found
        flat = rows[valid].reshape(-1)
        result = QTable()
        ids = np.asarray(queries["id"]).astype(str)[valid]
        result["query_id"] = np.repeat(ids, n_neighbors)
        result["rank"] = np.tile(np.arange(1, n_neighbors + 1), int(valid.sum()))
        result["neighbor_id"] = self._ids[flat]
        result["similarity"] = similarity[valid].reshape(-1).astype(np.float32)
        own = self.table[flat]
        for name in own.colnames:
            if name not in ("id", "embedding", "query_id", "rank", "neighbor_id", "similarity"):
                result[name] = own[name]
        result.meta.update(self.table.meta)
        return result

    def _as_table(self, objects, options):
        """Return the query as a table; objects are embedded with the reference's model."""
        if not isinstance(objects, Table):
            if _embedder is None:
                import astroclip

                astroclip.embed  # noqa: B018 - importing it registers it here
            objects = _embedder(objects, **{"model": self.table.meta["MODEL"], **options})
        elif options:
            msg = (
                f"query got {', '.join(options)}, which apply to objects only; the query is a "
                f"table of embeddings already."
            )
            raise TypeError(msg)
        return objects

    def neighbors(self, table, n_neighbors, *, modality=None, where=None, exclude_self=False):
        """Return the nearest reference rows of an embedding table's rows, as arrays.

        Parameters
        ----------
        table : `~astropy.table.QTable`
        n_neighbors, modality, where, exclude_self
            As in `query`.

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
        validate_embedding_table(table, name="query")
        check_same_model(table, self.table, names=("query", "reference"))
        check_integer(n_neighbors, "n_neighbors")
        if modality is not None:
            check_choice(modality, MODALITIES, "modality")
        matrix, valid = embedding_matrix(table)
        if matrix.shape[1] != self.dim:
            msg = (
                f"query['embedding'] has shape {matrix.shape}; expected (N, {self.dim}), as in the "
                f"reference. Pass the embeddings as the model made them."
            )
            raise ValueError(msg)
        unit, directed = _unit_rows(matrix)
        valid &= directed
        allowed = self._allowed(where)
        rows = np.full((len(table), n_neighbors), -1, dtype=np.int64)
        similarity = np.full((len(table), n_neighbors), np.nan)
        kinds = np.asarray(table["modality"]).astype(str)
        for kind in np.unique(kinds[valid]):
            members = np.flatnonzero(valid & (kinds == kind))
            pool = np.flatnonzero(allowed & self._pool(modality, kind))
            own = self._own_counts(table, members, pool) if exclude_self else None
            found = self._search(unit[members], pool, n_neighbors, table, members, own)
            rows[members], similarity[members] = found
        return rows, similarity, valid

    def _allowed(self, where):
        """Return reference rows that may be found."""
        if where is None:
            return self._usable
        mask = np.asarray(getattr(where, "mask", False))
        where = np.asarray(np.ma.getdata(getattr(where, "unmasked", where)))
        if where.dtype != bool or where.shape != (len(self),):
            msg = (
                f"where has dtype {where.dtype} and shape {where.shape}; expected a bool for "
                f"each of the reference's {len(self)} rows. Make it from a column, such as "
                f"reference['coverage'] > 0.5."
            )
            raise ValueError(msg)
        return self._usable & where & ~mask

    def _pool(self, modality, kind):
        """Return reference rows of the modality that a query of modality ``kind`` searches."""
        if modality is None:
            own = self._modality == kind
            return own if (own & self._usable).any() else np.ones(len(self), dtype=bool)
        if modality == "all":
            return np.ones(len(self), dtype=bool)
        return self._modality == modality

    def _own_counts(self, table, members, pool):
        """Return how many rows of the pool carry each query's id."""
        ids = np.asarray(table["id"]).astype(str)[members]
        names, counts = np.unique(self._ids[pool], return_counts=True)
        place = np.minimum(np.searchsorted(names, ids), max(len(names) - 1, 0))
        if not len(names):
            return np.zeros(len(ids), dtype=int)
        return np.where(names[place] == ids, counts[place], 0)

    def _search(self, unit, pool, n_neighbors, table, members, own):
        """Return rows of the reference and similarities of unit query vectors."""
        spare = 0 if own is None else int(own.max(initial=0))
        if len(pool) < n_neighbors + spare:
            worst = 0 if own is None else int(own.argmax())
            name = row_name(table, int(members[worst]), name="query")
            msg = (
                f"n_neighbors is {n_neighbors} and the reference has {len(pool) - spare} rows that "
                f"{name} can be compared with; expected at most that many. Ask for fewer, or "
                f"search more rows (modality='all')."
            )
            raise ValueError(msg)
        everything = len(pool) == len(self)
        references = self._unit if everything else self._unit[pool]
        rows, similarity = nearest_rows(unit, references, n_neighbors + spare)
        rows = pool[rows]
        if spare:
            ids = np.asarray(table["id"]).astype(str)[members]
            foreign = self._ids[rows] != ids[:, None]
            keep = np.argsort(~foreign, axis=1, kind="stable")[:, :n_neighbors]
            rows = np.take_along_axis(rows, keep, axis=1)
            similarity = np.take_along_axis(similarity, keep, axis=1)
        return rows, similarity

    # ------------------------------------------------------------------ files
    def save(self, path):
        """Write the index to one file, complete or not at all.

        Parameters
        ----------
        path : path-like
            A zip file of a FITS table and a small JSON header with its sha256; no pickle.
        """
        path = Path(path)
        content = _table_bytes(self.table)
        header = {"format": FORMAT, "version": FORMAT_VERSION}
        header["sha256"] = hashlib.sha256(content).hexdigest()
        partial = path.with_name(path.name + ".part")
        try:
            with zipfile.ZipFile(partial, "w") as archive:
                archive.writestr("header.json", json.dumps(header))
                archive.writestr("table.fits", content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def open(cls, path):
        """Read an index written by `save`.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        `SimilarityIndex`

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is no index, of another version, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            msg = f"index {str(path)!r} is no file; expected one written by SimilarityIndex.save."
            raise FileNotFoundError(msg)
        with path.open("rb") as stream:
            header, content = _read_archive(stream, path)
        if header.get("version") != FORMAT_VERSION:
            msg = (
                f"index {str(path)!r} is of format version {header.get('version')!r}; expected "
                f"{FORMAT_VERSION!r}. Make it again from its table."
            )
            raise ValueError(msg)
        if hashlib.sha256(content).hexdigest() != header.get("sha256"):
            msg = f"index {str(path)!r} is damaged: its checksum differs. Make it again."
            raise ValueError(msg)
        return cls(_table_from_bytes(content))


def _read_archive(stream, path):
    """Return the header and the table's bytes of an index file."""
    try:
        with zipfile.ZipFile(stream) as archive:
            header = json.loads(archive.read("header.json"))
            content = archive.read("table.fits")
    except DAMAGE as error:
        msg = (
            f"index {str(path)!r} is no readable index file ({error}); expected one written "
            f"by SimilarityIndex.save. Make it again from its table."
        )
        raise ValueError(msg) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        msg = (
            f"index {str(path)!r} is no index file: its header does not name the format "
            f"{FORMAT!r}; expected a file written by SimilarityIndex.save."
        )
        raise ValueError(msg)
    return header, content


def _table_bytes(table):
    """Return a table as the bytes of a FITS file; masked embeddings become NaN."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.fits"
        write_table(table, path)
        return path.read_bytes()


def _table_from_bytes(content):
    """Return the table that `_table_bytes` wrote."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.fits"
        path.write_bytes(content)
        return read_table(path)
