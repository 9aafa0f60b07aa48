"""What is asked, as unit vectors, and the table of what was found."""

from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import angular_separation
from astropy.table import QTable, Table

from astroclip._columns import column_degrees
from astroclip.preparation.object_tables import holds_objects
from astroclip.similarity.vectors import unit_rows
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    validate_embedding_table,
)

__all__ = ["IdLookup", "Queries", "as_embeddings", "neighbor_table", "unit_vectors"]

# columns of the reference that the result replaces or leaves out
REPLACED = ("id", "embedding", "query_id", "rank", "neighbor_id", "similarity")


def as_embeddings(objects, model, options, *, name="query"):
    """Return an embedding table as it is, and other objects embedded.

    Parameters
    ----------
    objects : `~astropy.table.QTable` or object
        An embedding table, or what `astroclip.embed` takes.
    model : str, path-like or EmbeddingModel
        That of the table that objects are compared with.
    options : dict
        Arguments of `astroclip.embed`, which apply to objects only.
    name : str
        How errors name the argument.

    Returns
    -------
    `~astropy.table.QTable`

    Raises
    ------
    TypeError
        If options are given for an embedding table.
    """
    is_table = isinstance(objects, Table)
    if not is_table or ("embedding" not in objects.colnames and holds_objects(objects)):
        from astroclip.embedding import embed  # imports torch

        return embed(objects, **{"model": model, **options})
    if options:
        msg = (
            f"{name} got {', '.join(options)}, which apply to objects only; the {name} is a "
            f"table of embeddings already."
        )
        raise TypeError(msg)
    return objects


@dataclass
class Queries:
    """Unit vectors to search with.

    Parameters
    ----------
    ids : (N,) str `numpy.ndarray`
    modality : (N,) str `numpy.ndarray`
        ``"all"`` for those compared with all rows by default.
    vectors : (N, D) float32 `numpy.ndarray`
        Unit vectors.
    valid : (N,) bool `numpy.ndarray`
        Those that have a vector.
    ra, dec : (N,) float64 `numpy.ndarray` or None
        ICRS degrees, NaN where unknown.
    """

    ids: np.ndarray
    modality: np.ndarray
    vectors: np.ndarray
    valid: np.ndarray
    ra: np.ndarray | None = None
    dec: np.ndarray | None = None

    @classmethod
    def from_table(cls, table, meta, *, dim, centers=None):
        """Return the queries that the rows of an embedding table are.

        Parameters
        ----------
        table : `~astropy.table.QTable`
        meta : dict
            Of the reference.
        dim : int
            Length of the reference's embeddings.
        centers : `~astroclip.similarity.vectors.ModalityCenters`, optional

        Returns
        -------
        `Queries`

        Raises
        ------
        ModelMismatchError
            If query and reference come from different models or weights.
        TypeError, ValueError
            If it is no embedding table, or its embeddings have another length.
        """
        validate_embedding_table(table, name="query")
        check_same_model(table, meta, names=("query", "reference"))
        matrix, valid = embedding_matrix(table)
        if matrix.shape[1] != dim:
            msg = (
                f"query['embedding'] has shape {matrix.shape}; expected (N, {dim}), as in the "
                f"reference. Pass the embeddings as the model made them."
            )
            raise ValueError(msg)
        modality = np.asarray(table["modality"]).astype(str)
        vectors, has_direction = unit_vectors(matrix, modality, centers)
        ids = np.asarray(table["id"]).astype(str)
        position = [
            column_degrees(table[name]) if name in table.colnames else None
            for name in ("ra", "dec")
        ]
        return cls(ids, modality, vectors, valid & has_direction, *position)

    def __len__(self):
        return len(self.ids)

    def joined(self):
        """Return one query for each id: the mean of its vectors, scaled to unit length."""
        ids, first, number = np.unique(self.ids, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))  # ids in order of appearance
        number, first = order[number], np.sort(first)
        total = np.zeros((len(ids), self.vectors.shape[1]))
        np.add.at(total, number[self.valid], self.vectors[self.valid])
        length = np.linalg.norm(total, axis=1, keepdims=True)
        vectors = np.divide(total, length, out=np.zeros_like(total), where=length > 0)
        position = [None if each is None else each[first] for each in (self.ra, self.dec)]
        modality = np.full(len(ids), "all")
        valid = length[:, 0] > 0
        return Queries(self.ids[first], modality, vectors.astype(np.float32), valid, *position)


def unit_vectors(matrix, modality, centers=None, *, dtype="float32"):
    """Return unit vectors, centered if there are centers, and which have a direction.

    Parameters
    ----------
    matrix : (N, D) float32 `numpy.ndarray`
        Changed in place.
    modality : (N,) str `numpy.ndarray`
    centers : `~astroclip.similarity.vectors.ModalityCenters`, optional
    dtype : str
        As in `~astroclip.similarity.vectors.unit_rows`.

    Returns
    -------
    vectors : (N, D) float32 `numpy.ndarray`
    has_direction : (N,) bool `numpy.ndarray`
    """
    vectors, known = unit_rows(matrix, dtype=dtype)
    if centers is not None and known.any():
        vectors[known], still = centers.centered(vectors[known], modality[known])
        known[known] = still
    return vectors, known


def neighbor_table(queries, columns, number, rows, similarity, rank):
    """Return a table of neighbors.

    Parameters
    ----------
    queries : `Queries`
    columns : `~astropy.table.QTable`, or what is read like one
        Of the reference.
    number : (T,) int `numpy.ndarray`
        Which query each row of the result belongs to.
    rows : (T,) int `numpy.ndarray`
        Rows of the reference.
    similarity : (T,) `numpy.ndarray`
    rank : (T,) int `numpy.ndarray`

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``query_id``, ``rank``, ``neighbor_id``, ``similarity``, ``separation`` (arcsec)
        where both sides have positions, and the reference's own columns of other names.
    """
    own = columns[rows]
    result = QTable()
    result["query_id"] = queries.ids[number]
    result["rank"] = rank
    result["neighbor_id"] = np.asarray(own["id"]).astype(str)
    result["similarity"] = similarity.astype(np.float32)
    taken = set(REPLACED)
    if queries.ra is not None and queries.dec is not None and {"ra", "dec"} <= set(own.colnames):
        position = [column_degrees(own[name]) for name in ("ra", "dec")]
        angles = np.radians([queries.ra[number], queries.dec[number], *position])
        result["separation"] = (angular_separation(*angles) * u.rad).to(u.arcsec)
        taken.add("separation")
    for name in own.colnames:
        if name not in taken:
            result[name] = own[name]
    result.meta.update(columns.meta)
    return result


class IdLookup:
    """Rows of given ids, found in a sorted list.

    A dictionary of a million ids takes three times as long to make, and ten times the memory.

    Parameters
    ----------
    ids : (M,) str `numpy.ndarray`
        They may repeat.
    """

    def __init__(self, ids):
        self.ids = ids
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    def rows(self, wanted):
        """Return which rows have which of the wanted ids.

        Parameters
        ----------
        wanted : (N,) str `numpy.ndarray`

        Returns
        -------
        number : (T,) int64 `numpy.ndarray`
            Ascending numbers of wanted ids; an id that no row has is not among them.
        rows : (T,) int64 `numpy.ndarray`
            Rows, ascending for one id.
        """
        first = np.searchsorted(self._sorted, wanted, side="left")
        count = np.searchsorted(self._sorted, wanted, side="right") - first
        number = np.repeat(np.arange(len(wanted)), count)
        step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return number, self._order[np.repeat(first, count) + step]
