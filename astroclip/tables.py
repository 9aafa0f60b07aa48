"""Embedding tables: their columns, flags, provenance and files."""

import enum
import re
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Column, MaskedColumn, QTable, Table
from astropy.utils.exceptions import AstropyWarning

from astroclip._columns import column_arrays
from astroclip._files import written
from astroclip._validation import check_choice, check_length, import_extra
from astroclip.exceptions import ModelMismatchError

__all__ = [
    "Flag",
    "check_same_model",
    "embedding_matrix",
    "flag_names",
    "is_embedding_table",
    "make_embedding_table",
    "read_table",
    "validate_embedding_table",
    "write_table",
]

MODALITIES = ("spectrum", "image")
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
    """More than 5 % of the object's pixels were bad and filled: those between the first and the
    last valid pixel of a spectrum, those of the covered bands of an image."""
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
        ``"spectrum"`` or ``"image"``; empty for failed rows of what was neither.
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
    from astroclip import __version__

    ids = np.asarray(ids, dtype=str)
    if ids.ndim != 1:
        msg = f"ids has shape {ids.shape}; expected a sequence of names, one for each object."
        raise ValueError(msg)
    n_objects = len(ids)
    embedding = np.array(embedding, dtype=np.float32)
    flags = check_length(flags, n_objects, "flags").astype(np.int32)
    modality = check_length(modality, n_objects, "modality").astype(str)
    for value in np.unique(modality):
        if value or not ((flags[modality == value] & Flag.FAILED) != 0).all():
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
    table.meta.update(
        MODEL=str(model_name),
        WSHA=str(weights_sha256),
        PREPVER=str(preparation_version),
        ASTROCLP=__version__,
        DATE=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
    )
    return table


def _masked_rows(embedding, failed):
    """Return a masked column whose failed rows are masked and NaN."""
    embedding[failed] = np.nan
    mask = np.repeat(failed[:, None], embedding.shape[1], axis=1)
    return MaskedColumn(embedding, mask=mask, fill_value=np.nan)


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
    values, mask, _ = column_arrays(table["embedding"])
    matrix = np.array(values, dtype=np.float32, order="C")
    matrix[mask] = np.nan
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
    table_format = _table_format(path)
    if path.exists() and not overwrite:
        msg = f"path {str(path)!r} exists; pass overwrite=True to replace it."
        raise FileExistsError(msg)
    table = table.copy()
    if "embedding" in table.colnames:  # NaN instead of a 2-D mask, which no format keeps
        table["embedding"] = Column(embedding_matrix(table)[0])
    if table_format == "parquet" and "embedding" in table.colnames:
        matrix = np.asarray(table["embedding"])  # one column for each dimension
        names = [f"embedding_{number:04d}" for number in range(matrix.shape[1])]
        position = table.colnames.index("embedding")
        table.remove_column("embedding")
        table.add_columns(list(matrix.T), indexes=[position] * len(names), names=names)
    if table_format == "fits":
        for name in table.colnames:
            if table[name].dtype.kind == "U":  # astropy writes ASCII only
                table[name] = np.char.encode(_filled_text(table[name]), "utf-8")
    with written(path) as partial:
        table.write(partial, format=table_format, overwrite=True)


def _filled_text(column):
    """Return a text column as a plain array, empty where masked."""
    return np.ma.filled(np.ma.MaskedArray(column), "")


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


def is_embedding_table(path):
    """Return whether a file holds a table with embeddings.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    bool
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        try:
            from pyarrow.parquet import read_schema

            names = read_schema(path).names
        except Exception:  # reading it as a table says what is wrong or missing
            return True
        return any(re.match(r"embedding(_\d{4,})?$", name) for name in names)
    if suffix == ".ecsv":
        with path.open(encoding="utf-8", errors="replace") as lines:
            header = [line for line, _ in zip(lines, range(500), strict=False) if line[0] == "#"]
        return any("name: embedding" in line for line in header)
    if suffix != ".fits":
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(path) as hdus:
                tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
                return any("embedding" in table.columns.names for table in tables)
    except (OSError, TypeError, ValueError):
        return False  # the readers of objects say what is wrong with it


def row_name(table, row, *, name="table"):
    """Return how an error names a row: its position and its id."""
    return f"{name}[{row}] (id {str(table['id'][row])!r})"
