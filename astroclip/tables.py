"""Embedding tables: their columns, flags and provenance, files, and matches on the sky."""

import enum
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Column, MaskedColumn, QTable, Table

from astroclip._validation import (
    check_choice,
    check_length,
    check_unit,
    import_extra,
    item_name,
)
from astroclip.exceptions import ModelMismatchError

__all__ = [
    "Flag",
    "check_same_model",
    "embedding_matrix",
    "flag_names",
    "make_embedding_table",
    "match_sky",
    "read_table",
    "validate_embedding_table",
    "write_table",
]

MODALITIES = ("spectrum", "image")
PROVENANCE = ("MODEL", "WSHA", "PREPVER", "ASTROCLP", "DATE")
REQUIRED = ("id", "modality", "embedding", "coverage", "flags", "message")
FORMATS = {".ecsv": "ascii.ecsv", ".fits": "fits", ".parquet": "parquet"}


class Flag(enum.IntFlag):
    """Bits of the ``flags`` column; a row may carry several."""

    FAILED = 1
    """No embedding could be made; the row is masked and ``message`` says why."""
    BAD_INPUT = 2
    """The object's units, shape or values cannot be used."""
    NO_OVERLAP = 4
    """No or too little valid data in the model's range, or the position is off the image."""
    LOW_COVERAGE = 8
    """Less than half of the model's input held valid data."""
    BAD_PIXELS = 16
    """Some bad pixels were filled."""
    IVAR_ESTIMATED = 32
    """No uncertainty was given; it was estimated from the scatter of the data."""
    RESAMPLED = 64
    """The image was resampled to the model's pixel scale."""
    NO_SOURCE = 128
    """No source was found at the position; the position itself was used."""
    MISSING_BAND = 256
    """At least one band is absent."""
    MISSING_REDSHIFT = 512
    """The model needs the rest frame and no redshift is known."""
    PADDED = 1024
    """The image is smaller than the model's crop and was padded."""


def flag_names(value):
    """Return the names of the bits set in a flags value.

    Parameters
    ----------
    value : int

    Returns
    -------
    list of str

    Examples
    --------
    >>> from astroclip.tables import flag_names
    >>> flag_names(9)
    ['FAILED', 'LOW_COVERAGE']
    """
    return [flag.name for flag in Flag(int(value))]


def make_embedding_table(
    ids,
    modality,
    embedding,
    *,
    coverage,
    flags,
    model_name,
    weights_sha256,
    preparation_version,
    messages=None,
    ra=None,
    dec=None,
    redshift=None,
    extra_columns=None,
):
    """Build an embedding table: one row per object, in order.

    Parameters
    ----------
    ids : (N,) sequence of str
    modality : str or (N,) sequence of str
        ``"spectrum"`` or ``"image"``.
    embedding : (N, D) array-like
        Rows flagged `Flag.FAILED` are masked, whatever they hold.
    coverage : (N,) array-like
        Fraction (0-1) of the model's input that held valid data.
    flags : (N,) array-like of int
        Bits of `Flag`.
    model_name, weights_sha256, preparation_version : str
        Provenance: meta ``MODEL``, ``WSHA`` and ``PREPVER``.
    messages : (N,) sequence of str, optional
        Why a row failed or what is unusual about it.
    ra, dec : (N,) array-like, optional
        ICRS degrees, NaN where unknown.
    redshift : (N,) array-like, optional
        NaN where unknown.
    extra_columns : dict, optional
        Further columns by name.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``id``, ``modality``, ``embedding`` (N, D; masked and NaN where failed),
        ``coverage``, ``flags``, ``message``, and ``ra``, ``dec`` (deg) and ``redshift``
        when at least one is known. Flat ``meta`` MODEL, WSHA, PREPVER, ASTROCLP (version)
        and DATE (UTC).

    Raises
    ------
    ValueError
        If lengths differ or a modality is unknown.
    """
    ids = np.asarray(ids, dtype=str)
    if ids.ndim != 1:
        msg = f"ids has shape {ids.shape}; expected a sequence of names, one for each object."
        raise ValueError(msg)
    n_objects = len(ids)
    embedding = np.array(embedding, dtype=np.float32)
    flags = check_length(flags, n_objects, "flags").astype(np.int32)
    modality = check_length(modality, n_objects, "modality").astype(str)
    for value in np.unique(modality):
        check_choice(str(value), MODALITIES, "modality")
    if embedding.ndim != 2 or len(embedding) != n_objects:
        msg = f"embedding has shape {embedding.shape}; expected ({n_objects}, D), a row per id."
        raise ValueError(msg)
    messages = check_length("" if messages is None else messages, n_objects, "messages")
    table = QTable()
    table["id"] = ids
    table["modality"] = modality
    table["embedding"] = _masked_rows(embedding, (flags & Flag.FAILED) != 0)
    table["coverage"] = check_length(coverage, n_objects, "coverage").astype(np.float32)
    table["flags"] = flags
    table["message"] = messages.astype(str)
    known = {"ra": ra, "dec": dec, "redshift": redshift}
    for name, values in known.items():
        if values is not None and np.isfinite(np.asarray(values, dtype=float)).any():
            values = check_length(values, n_objects, name).astype(float)
            table[name] = values if name == "redshift" else values * u.deg
    for name, values in (extra_columns or {}).items():
        table[name] = values
    table.meta.update(_provenance(model_name, weights_sha256, preparation_version))
    return table


def _masked_rows(embedding, failed):
    """Return a masked column whose failed rows are masked and NaN."""
    embedding[failed] = np.nan
    mask = np.repeat(failed[:, None], embedding.shape[1], axis=1)
    return MaskedColumn(embedding, mask=mask, fill_value=np.nan)


def _provenance(model_name, weights_sha256, preparation_version):
    from astroclip import __version__

    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    values = (model_name, weights_sha256, preparation_version, __version__, date)
    return dict(zip(PROVENANCE, map(str, values), strict=True))


def validate_embedding_table(table, *, name="table"):
    """Raise unless ``table`` is an embedding table.

    Parameters
    ----------
    table : `~astropy.table.Table`
    name : str
        How errors name it.

    Raises
    ------
    TypeError
        If it is not a table.
    ValueError
        If it has no rows or lacks a column or provenance.
    """
    if not isinstance(table, Table):
        msg = (
            f"{name} is of type {type(table).__name__}; expected an embedding table. "
            f"Make one with astroclip.embed."
        )
        raise TypeError(msg)
    missing = [column for column in REQUIRED if column not in table.colnames]
    if missing:
        msg = (
            f"{name} has no column {', '.join(map(repr, missing))}; expected an embedding table "
            f"with {', '.join(REQUIRED)}. Make one with astroclip.embed."
        )
        raise ValueError(msg)
    missing = [key for key in ("MODEL", "WSHA") if key not in table.meta]
    if missing:
        msg = (
            f"{name} does not say its model: meta lacks {', '.join(missing)}. Keep the meta of "
            f"the table that astroclip.embed returned."
        )
        raise ValueError(msg)
    if table["embedding"].ndim != 2:
        msg = f"{name}['embedding'] has shape {table['embedding'].shape}; expected (N, D)."
        raise ValueError(msg)
    if len(table) == 0:
        msg = f"{name} is empty; expected at least one row."
        raise ValueError(msg)


def check_same_model(first, second, *, names=("table", "reference")):
    """Raise `ModelMismatchError` if two tables' embeddings come from different weights.

    Parameters
    ----------
    first, second : `~astropy.table.Table` or dict
        Embedding tables, or their ``meta``.
    names : (str, str)
        How the error names them.

    Raises
    ------
    ModelMismatchError
    """
    metas = [getattr(table, "meta", table) for table in (first, second)]
    for key in ("MODEL", "WSHA", "PREPVER"):
        values = [str(meta.get(key, "")) for meta in metas]
        if values[0] != values[1]:
            what = {"MODEL": "model", "WSHA": "weights", "PREPVER": "preparation version"}[key]
            msg = (
                f"{names[0]} and {names[1]} hold embeddings of different {what} "
                f"({key} {values[0]!r} and {values[1]!r}), which share no space. Embed both "
                f"with the same model."
            )
            raise ModelMismatchError(msg)


def embedding_matrix(table):
    """Return the embeddings as a plain array and which rows hold one.

    Parameters
    ----------
    table : `~astropy.table.Table`
        An embedding table.

    Returns
    -------
    matrix : (N, D) `numpy.ndarray`
        float32; NaN in failed rows.
    valid : (N,) bool `numpy.ndarray`
    """
    column = table["embedding"]
    mask = getattr(column, "mask", None)
    values = getattr(column, "unmasked", column)
    matrix = np.array(np.ma.getdata(values), dtype=np.float32, order="C")
    if mask is not None:
        matrix[np.broadcast_to(np.asarray(mask), matrix.shape)] = np.nan
    return matrix, np.isfinite(matrix).all(axis=1)


def _table_format(path):
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        msg = f"path {str(path)!r} ends in {suffix!r}; expected one of {', '.join(FORMATS)}."
        raise ValueError(msg)
    if suffix == ".parquet":
        for module in ("pyarrow", "pandas"):  # astropy reads it through pandas
            import_extra(module, "catalogs")
    return FORMATS[suffix]


def write_table(table, path, *, overwrite=False):
    """Write a table to ECSV, FITS or Parquet by the path's suffix, complete or not at all.

    Parameters
    ----------
    table : `~astropy.table.Table`
        Units, masks and meta are kept.
    path : path-like
        Ending in ``.ecsv``, ``.fits`` or ``.parquet`` (needs pyarrow and pandas: the extra
        ``catalogs``).
    overwrite : bool

    Raises
    ------
    ValueError
        If the suffix is another one.
    FileExistsError
        If the file exists and ``overwrite`` is False.
    MissingExtraError
        If Parquet is asked for and pyarrow or pandas is not installed.
    """
    path = Path(path)
    kind = _table_format(path)
    if path.exists() and not overwrite:
        msg = f"path {str(path)!r} exists; pass overwrite=True to replace it."
        raise FileExistsError(msg)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        _mask_as_values(table, kind).write(partial, format=kind, overwrite=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _mask_as_values(table, kind):
    """Return a copy whose embedding survives the format: NaN instead of a 2-D mask."""
    copy = table.copy()
    if "embedding" in copy.colnames:
        copy["embedding"] = Column(embedding_matrix(table)[0])
    if kind == "parquet":
        copy = _flat_embedding(copy)
    if kind == "fits":
        for name in copy.colnames:
            if copy[name].dtype.kind == "U":  # astropy writes ASCII only
                copy[name] = np.char.encode(_filled_text(copy[name]), "utf-8")
    return copy


def _filled_text(column):
    """Return a text column as a plain array, empty where masked."""
    return np.ma.filled(np.ma.MaskedArray(column), "")


def _flat_embedding(table):
    """Return the table with one float column per embedding dimension."""
    if "embedding" not in table.colnames:
        return table
    matrix = np.asarray(table["embedding"])
    names = [f"embedding_{number:04d}" for number in range(matrix.shape[1])]
    position = table.colnames.index("embedding")
    table.remove_column("embedding")
    table.add_columns(list(matrix.T), indexes=[position] * len(names), names=names)
    return table


def read_table(path):
    """Read a table written by `write_table`.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    `~astropy.table.QTable`
        With failed embeddings masked again. Masked text is empty: the formats do not tell
        the two apart.

    Raises
    ------
    ValueError
        If the suffix is not one of a table.
    FileNotFoundError
        If there is no such file.
    """
    table = QTable.read(path, format=_table_format(path))
    flat = [name for name in table.colnames if re.fullmatch(r"embedding_\d{4,}", name)]
    if flat:
        matrix = np.stack([np.asarray(table[name]) for name in flat], axis=1)
        position = table.colnames.index(flat[0])
        table.add_column(Column(matrix, name="embedding"), index=position)
        table.remove_columns(flat)
    for name in table.colnames:
        if table[name].dtype.kind == "S":
            table[name] = np.char.decode(np.asarray(table[name]), "utf-8")
        elif table[name].dtype.kind == "U":
            table[name] = _filled_text(table[name])
        elif not table[name].dtype.isnative:
            table[name] = table[name].astype(table[name].dtype.newbyteorder("="))
    if "embedding" in table.colnames:
        matrix, valid = embedding_matrix(table)
        table["embedding"] = _masked_rows(matrix, ~valid)
    return table


def match_sky(table, coordinates, *, max_separation=1 * u.arcsec):
    """Return the rows of a table nearest to given positions.

    Parameters
    ----------
    table : `~astropy.table.Table`
        With columns ``ra`` and ``dec``.
    coordinates : `~astropy.coordinates.SkyCoord`
        One or many positions.
    max_separation : `~astropy.units.Quantity`
        Largest separation of a match.

    Returns
    -------
    rows : (N,) `numpy.ndarray`
        Row of the nearest object to each position, -1 where none is near enough.
    separation : (N,) `~astropy.units.Quantity`
        Separation from it, arcsec.

    Raises
    ------
    TypeError
        If ``coordinates`` is no SkyCoord.
    ValueError
        If the table has no positions.
    UnitsError
        If ``max_separation`` is no angle.
    """
    if not isinstance(coordinates, SkyCoord):
        msg = (
            f"coordinates is of type {type(coordinates).__name__}; expected an "
            f"astropy.coordinates.SkyCoord, such as SkyCoord(ra, dec, unit='deg')."
        )
        raise TypeError(msg)
    check_unit(getattr(max_separation, "unit", None), u.arcsec, "max_separation")
    if "ra" not in table.colnames or "dec" not in table.colnames:
        msg = (
            "table has no columns 'ra' and 'dec'; expected positions to match with. Add both, "
            "in degrees."
        )
        raise ValueError(msg)
    ra, dec = _degrees(table["ra"]), _degrees(table["dec"])
    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    coordinates = np.atleast_1d(coordinates)
    if not len(known):
        empty = np.full(len(coordinates), -1)
        return empty, np.full(len(coordinates), np.inf) * u.arcsec
    nearest, separation, _ = coordinates.match_to_catalog_sky(SkyCoord(ra[known], dec[known]))
    rows = np.where(separation <= max_separation, known[nearest], -1)
    return rows, separation.to(u.arcsec)


def _degrees(column):
    """Return an angle column as a plain Quantity, NaN where masked."""
    mask = np.asarray(getattr(column, "mask", False))
    values = u.Quantity(np.ma.getdata(getattr(column, "unmasked", column)), column.unit or u.deg)
    return np.where(mask, np.nan, values.to_value(u.deg)) * u.deg


def row_name(table, row, *, name="table"):
    """Return how an error names a row: its position and its id."""
    return f"{item_name(name, row)} (id {str(table['id'][row])!r})"
