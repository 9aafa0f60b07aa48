"""Queries made ready for a search: objects and tables as unit vectors."""

from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.table import Table

from astroclip.similarity.vectors import unit_rows
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["Queries", "as_table", "degrees", "directed", "set_embedder", "table_queries"]

_embedder = None


def set_embedder(function):
    """Say how objects that are no table are embedded.

    Searching must not import torch, and this package stands below `astroclip.embedding`,
    so the dependency is inverted: that module hands its `~astroclip.embed` over when it
    is imported, and `SimilarityIndex.query` calls it as
    ``function(objects, model=name)``.

    Parameters
    ----------
    function : callable
    """
    global _embedder  # noqa: PLW0603
    _embedder = function


def as_table(objects, meta, options):
    """Return the query as a table; objects are embedded with the reference's model.

    Parameters
    ----------
    objects : `~astropy.table.QTable`, or anything `astroclip.embed` takes
    meta : dict
        Of the reference.
    options : dict
        Passed to `astroclip.embed`.

    Raises
    ------
    TypeError
        If a table comes with options.
    """
    if not isinstance(objects, Table):
        from astroclip.embedding import embed

        embedder = _embedder or embed
        return embedder(objects, **{"model": meta["MODEL"], **options})
    if options:
        msg = (
            f"query got {', '.join(options)}, which apply to objects only; the query is a "
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
    kinds : (N,) str `numpy.ndarray`
        Modalities, ``"all"`` for those compared with all rows by default.
    vectors : (N, D) float32 `numpy.ndarray`
        Unit vectors.
    valid : (N,) bool `numpy.ndarray`
        Those that have a vector.
    ra, dec : (N,) float64 `numpy.ndarray` or None
        ICRS degrees, NaN where unknown.
    """

    ids: np.ndarray
    kinds: np.ndarray
    vectors: np.ndarray
    valid: np.ndarray
    ra: np.ndarray | None = None
    dec: np.ndarray | None = None

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
        coordinates = [None if each is None else each[first] for each in (self.ra, self.dec)]
        kinds = np.full(len(ids), "all")
        valid = length[:, 0] > 0
        return Queries(self.ids[first], kinds, vectors.astype(np.float32), valid, *coordinates)


def table_queries(table, meta, *, dim, gap=None):
    """Return the queries that the rows of an embedding table are.

    Parameters
    ----------
    table : `~astropy.table.QTable`
    meta : dict
        Of the reference.
    dim : int
        Length of the reference's embeddings.
    gap : `~astroclip.similarity.gap.ModalityCenters`, optional

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
    kinds = np.asarray(table["modality"]).astype(str)
    vectors, pointed = directed(matrix, kinds, gap)
    ids = np.asarray(table["id"]).astype(str)
    coordinates = [degrees(table, name) for name in ("ra", "dec")]
    return Queries(ids, kinds, vectors, valid & pointed, *coordinates)


def directed(matrix, kinds, gap=None):
    """Return vectors scaled to unit length, centred if there is a gap, and which have one."""
    unit, known = unit_rows(matrix)
    if gap is not None and known.any():
        unit[known], pointed = gap.centered(unit[known], kinds[known])
        known[known] = pointed
    return unit, known


def degrees(table, name):
    """Return an angle column of a table in degrees, NaN where masked; None if there is none."""
    if name not in table.colnames:
        return None
    column = table[name]
    mask = np.asarray(getattr(column, "mask", False))
    values = np.ma.getdata(getattr(column, "unmasked", column))
    unit = getattr(column, "unit", None) or u.deg
    plain = np.asarray(getattr(values, "value", values), dtype=float)
    return np.where(mask, np.nan, plain) * u.Unit(unit).to(u.deg)
