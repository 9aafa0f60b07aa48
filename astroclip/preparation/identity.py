"""What users and tables say of objects one by one: ids, positions, and redshifts by id."""

import math
import warnings

import numpy as np
from astropy import units as u
from astropy.table import Table

from astroclip.exceptions import AstroclipWarning

__all__ = [
    "IDENTITIES",
    "find_column",
    "given_ids",
    "given_redshifts",
    "plain_id",
    "plain_redshifts",
    "warn_rounded",
    "warn_unmatched",
]

# Numbers that catalogs write for an unknown redshift.
SENTINELS = (-1, -9, -99, -999, -9999, -99999, 99, 999, 9999)
# Names of columns that say who an object is, in lower case; the first that is there counts.
IDENTITIES = {
    "id": ("targetid", "object_id", "objid", "obj_id", "obsid", "sdss_id", "specobjid",
           "specid", "source_id", "sparcl_id", "id", "target", "object", "objname", "name"),
    "ra": ("target_ra", "ra", "fiber_ra", "plug_ra", "ra_deg", "raj2000"),
    "dec": ("target_dec", "dec", "fiber_dec", "plug_dec", "dec_deg", "dej2000"),
    "redshift": ("redshift", "z", "z_spec", "zspec", "spec_z"),
}
EXPECTED = (
    "expected a number, one for each object, a dict by id, or a table with columns id and "
    "redshift"
)
N_EXAMPLES = 3
EXACT = 2.0**53  # whole numbers up to it have a floating-point number each


def find_column(names, what):
    """Return which of a table's columns holds something of `IDENTITIES`, None if none does."""
    lower = {}
    for name in names:
        lower.setdefault(str(name).lower(), name)
    return next((lower[name] for name in IDENTITIES[what] if name in lower), None)


# ---------------------------------------------------------------------- ids
def plain_id(value):
    """Return an id of any type as text, None if it is none.

    Bytes are decoded, and whole numbers in floating point, as which pandas keeps columns with
    gaps, are written as integers. None, masked values, NaN and empty text are no ids.

    Examples
    --------
    >>> from astroclip.preparation.identity import plain_id
    >>> plain_id(b"NGC 1"), plain_id(12345678.0), plain_id(float("nan"))
    ('NGC 1', '12345678', None)
    """
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = None if np.ma.is_masked(value) else value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    text = "" if value is None else str(value).strip()
    return None if text in ("", "<NA>", "NaT") else text


def given_ids(ids):
    """Return a user's ids as text, None where an object keeps its own.

    Parameters
    ----------
    ids : str, int or sequence of these
        A pandas Series, table column, masked array or list.

    Returns
    -------
    object `numpy.ndarray` of str and None
    """
    if isinstance(ids, str | bytes) or np.ndim(ids) == 0:
        return np.array(plain_id(ids), dtype=object)
    values = ids if np.ma.isMaskedArray(ids) else np.asarray(ids, dtype=object)
    names = np.empty(values.shape, dtype=object)
    for place in np.ndindex(values.shape):
        names[place] = plain_id(values[place])
    warn_rounded(values.flat, "ids")
    return names


def warn_rounded(values, name):
    """Warn of ids in floating point that are longer than it can hold.

    Parameters
    ----------
    values : iterable
        Ids of any type.
    name : str
        How the warning names them.
    """
    rounded = [value for value in values if isinstance(value, float) and abs(value) > EXACT]
    if rounded:
        warnings.warn(
            f"{name} has {len(rounded)} whole numbers in floating point above {EXACT:.0f}, such "
            f"as {rounded[0]:.0f}, whose last digits floating point does not keep, so they may not "
            f"be the ids they were. Read them as integers or text (in pandas dtype='Int64').",
            AstroclipWarning,
            stacklevel=3,
        )


# ---------------------------------------------------------------------- redshifts
def plain_redshifts(values, name):
    """Return redshifts with NaN for the numbers that stand for unknown ones, and warn of them.

    Parameters
    ----------
    values : (N,) float `numpy.ndarray`
    name : str
        How the warning names them.
    """
    unknown = np.isin(values, SENTINELS)
    if unknown.any():
        found = ", ".join(f"{value:g}" for value in np.unique(values[unknown]))
        warnings.warn(
            f"{name} has {unknown.sum()} of {values.size} redshifts of {found}, which stand for "
            f"unknown ones and are taken as such. Pass NaN where a redshift is unknown.",
            AstroclipWarning,
            stacklevel=2,
        )
        values = np.where(unknown, np.nan, values)
    return values


def given_redshifts(redshift):
    """Return what a user says of redshifts as a float, an array, or a dict by id.

    Parameters
    ----------
    redshift : float, (N,) array-like, dict of id to float, or table
        A table of astropy, pandas or pyarrow has columns ``id`` and ``redshift`` or ``z``.
        Masked values, None and NaN are unknown.

    Returns
    -------
    None, float `numpy.ndarray` or dict of str to float

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If a table lacks a column, or says two redshifts of one id.
    `~astropy.units.UnitsError`
        If they have a unit.
    """
    if redshift is None:
        return None
    if hasattr(redshift, "to_pydict") and hasattr(redshift, "column_names"):
        redshift = redshift.to_pydict()
        return _table_redshifts(redshift, list(redshift))
    if isinstance(redshift, Table):
        return _table_redshifts(redshift, redshift.colnames)
    if hasattr(redshift, "iloc") and hasattr(redshift, "columns"):
        return _table_redshifts(redshift, list(redshift.columns))
    if isinstance(redshift, dict):
        return _by_id(list(redshift), list(redshift.values()))
    values = _numbers(redshift)
    return values if values.ndim == 0 else plain_redshifts(values, "redshift")


def _numbers(values):
    """Return redshifts as floats, NaN where masked or None."""
    given, unit = values, getattr(values, "unit", None)
    if unit is not None and str(unit) not in ("", "redshift"):
        msg = (
            f"redshift has unit {str(unit)!r}; expected plain numbers. Convert velocities to z "
            f"first."
        )
        raise u.UnitsError(msg)
    values = getattr(values, "value", values) if unit is not None else values
    try:
        if not np.ma.isMaskedArray(values):
            values = np.asarray(values)
            if values.dtype == object:  # pandas' missing value is no number
                known = [plain_id(value) is not None for value in values.flat]
                flat = [float(v) if k else np.nan for v, k in zip(values.flat, known, strict=True)]
                values = np.array(flat).reshape(values.shape)
        return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
    except (TypeError, ValueError) as error:
        msg = f"redshift is {_short(given)}; {EXPECTED}."
        raise TypeError(msg) from error


def _short(values):
    text = repr(values)
    return text if len(text) < 100 else f"{text[:97]}..."


def _table_redshifts(table, names):
    """Return the redshifts of a table by id."""
    columns = []
    for wanted in ("id", "redshift"):
        key = find_column(names, wanted)
        if key is None:
            msg = (
                f"redshift is a table without a column {wanted!r}; {EXPECTED}. It has "
                f"{', '.join(map(str, names))}."
            )
            raise ValueError(msg)
        columns.append(table[key])
    return _by_id(*columns)


def _by_id(ids, values):
    """Return redshifts by id; raise if two of one id differ."""
    if getattr(values, "unit", None) is None and not np.ma.isMaskedArray(values):
        values = np.asarray(values)
    ids = [plain_id(value) for value in (np.asarray(ids) if hasattr(ids, "iloc") else ids)]
    values = _numbers(values)
    if values.shape != (len(ids),):
        msg = f"redshift has values of shape {values.shape} for {len(ids)} ids; {EXPECTED}."
        raise ValueError(msg)
    values = plain_redshifts(values, "redshift")
    found, twice = {}, {}
    for name, value in zip(ids, values.tolist(), strict=True):
        if name is None:
            continue
        known = found.get(name, math.nan)
        if not math.isnan(known) and not math.isnan(value) and known != value:
            twice.setdefault(name, (known, value))
        if math.isnan(known):
            found[name] = value
    if twice:
        some = "; ".join(
            f"{name!r}: {first:g} and {second:g}"
            for name, (first, second) in list(twice.items())[:N_EXAMPLES]
        )
        msg = (
            f"redshift has {len(twice)} ids with two different values ({some}); expected one "
            f"for each id. Keep one row of each, or give the objects ids that differ."
        )
        raise ValueError(msg)
    return found


def warn_unmatched(redshift, ids):
    """Warn of redshifts by id that do not fit the objects' ids.

    Parameters
    ----------
    redshift : dict of str to float
    ids : sequence of str
        Of all objects.
    """
    matched = {name for name in ids if name in redshift}
    without = [name for name in dict.fromkeys(ids) if name not in redshift]
    unused = [name for name in redshift if name not in matched]
    if not (without and unused):  # redshifts of some objects, or of more than there are
        return
    n_objects = len(set(ids))
    ours = ", ".join(map(repr, without[:N_EXAMPLES]))
    theirs = ", ".join(map(repr, unused[:N_EXAMPLES]))
    share = f"{len(matched):,} match an object's" if matched else "none matches an object's"
    warnings.warn(
        f"redshift names {len(redshift):,} ids, of which {share}, so that "
        f"{len(without):,} of {n_objects:,} objects have no redshift from it. Ids of objects "
        f"without: {ours}; ids of redshift not used: {theirs}. Pass ids= that match, or "
        f"rename those of redshift.",
        AstroclipWarning,
        stacklevel=3,
    )
