"""Properties of reference objects: read from a table's columns, and written to results."""

import dataclasses

import numpy as np
from astropy import units as u
from astropy.table import MaskedColumn

from astroclip._validation import check_not_empty, check_unit
from astroclip.estimation.scales import CircularScale, LinearScale, LogarithmicScale

__all__ = ["Property", "PropertyKinds", "add_columns", "column_numbers", "property_names",
           "read_property"]

RESERVED = ("id", "modality", "message", "n_effective", "nearest_similarity",
            "out_of_distribution", "n_reference", "local_density")
MOST_CLASSES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Property:
    """What a property is, without its values.

    Attributes
    ----------
    name : str
    unit : `~astropy.units.Unit` or None
    scale : `~astroclip.estimation.scales.LinearScale` or None
        On which numbers are averaged; None for classes.
    classes : (C,) `numpy.ndarray` of str or bool, or None
        In sorted order; None for numbers.
    """

    name: str
    unit: object = None
    scale: object = None
    classes: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class PropertyKinds:
    """Which properties are angles, positive, or classes although they are numbers.

    Parameters
    ----------
    circular : dict of str to float or `~astropy.units.Quantity`, optional
    positive, categorical : sequence of str
    """

    circular: dict | None = None
    positive: tuple = ()
    categorical: tuple = ()

    def __post_init__(self):
        groups = {
            "circular": _names(self.circular or {}),
            "positive": _names(self.positive),
            "categorical": _names(self.categorical),
        }
        seen = {}
        for group, names in groups.items():
            for name in names:
                if name in seen:
                    msg = (
                        f"{group} names {name!r}, which {seen[name]} names too; expected one of "
                        f"them."
                    )
                    raise ValueError(msg)
                seen[name] = group
        if self.circular is not None and not isinstance(self.circular, dict):
            msg = (
                f"circular is {self.circular!r}; expected periods by name, such as "
                f"{{'position_angle': 180 * u.deg}}."
            )
            raise ValueError(msg)
        object.__setattr__(self, "groups", seen)

    def check_fitted(self, names):
        """Raise KeyError if a name is none of the properties that are fitted."""
        for name, group in self.groups.items():
            if name not in names:
                msg = (
                    f"{group} names {name!r}, which is none of the properties {list(names)}. Add "
                    f"it to them, or leave it out of {group}."
                )
                raise KeyError(msg)


def _names(values):
    return (values,) if isinstance(values, str) else tuple(values)


def property_names(properties):
    """Return names of properties as a list.

    Raises
    ------
    ValueError
        If there is none, one is twice there, or one is a name that results have anyway.
    """
    if properties is None:
        msg = "properties is None; expected names of columns, such as ['redshift']."
        raise ValueError(msg)
    names = list(_names(properties))
    check_not_empty(names, "properties")
    for name in names:
        if name in RESERVED:
            msg = (
                f"properties names {name!r}, a column of another meaning in every result; "
                f"expected something to estimate. Rename the column if it is one."
            )
            raise ValueError(msg)
        if names.count(name) > 1:
            msg = f"properties names {name!r} {names.count(name)} times; expected it once."
            raise ValueError(msg)
    return names


# ---------------------------------------------------------------------- reading
def _column_parts(table, name):
    """Return a column's plain values, where it is masked (N,) and its unit or None."""
    if name not in table.colnames:
        msg = (
            f"properties names {name!r}, which is no column of the table; expected some of "
            f"{[column for column in table.colnames if column != 'embedding']}."
        )
        raise KeyError(msg)
    column = table[name]
    unit = getattr(column, "unit", None)
    if unit == u.dimensionless_unscaled:
        unit = None
    mask = np.asarray(getattr(column, "mask", False))
    values = np.ma.getdata(getattr(column, "unmasked", column))
    return np.asarray(getattr(values, "value", values)), mask, unit


def column_numbers(table, name):
    """Return a column as floats (masked as NaN) and its unit, or None.

    Parameters
    ----------
    table : `~astropy.table.Table`
    name : str

    Returns
    -------
    values : (N,) `numpy.ndarray`
    unit : `~astropy.units.Unit` or None

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it holds no numbers, or several a row.
    """
    values, mask, unit = _column_parts(table, name)
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        msg = (
            f"properties names {name!r}, a column of {values.dtype} with shape {values.shape}; "
            f"expected numbers, one a row."
        )
        raise ValueError(msg)
    return np.where(mask, np.nan, values.astype(float)), unit


def read_property(table, name, kinds=PropertyKinds()):  # noqa: B008 - it is frozen
    """Return a property, its values and where they are known.

    Parameters
    ----------
    table : `~astropy.table.Table`
    name : str
        Columns of text or bool are classes, and those that ``kinds`` names so.
    kinds : `PropertyKinds`

    Returns
    -------
    property : `Property`
    values : (N,) `numpy.ndarray`
        Numbers on the property's scale, or numbers of classes (int); any value where
        unknown.
    known : (N,) bool `numpy.ndarray`

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the column cannot be such a property.
    UnitsError
        If a period does not convert to the column's unit.
    """
    group = kinds.groups.get(name)
    plain, mask, unit = _column_parts(table, name)
    if plain.ndim == 1 and (group == "categorical" or plain.dtype.kind in "USb" and not group):
        return _read_classes(name, plain, np.broadcast_to(mask, plain.shape))
    values, unit = column_numbers(table, name)
    known = np.isfinite(values)
    if group == "positive":
        low = np.flatnonzero(known & ~(values > 0))
        if len(low):
            msg = (
                f"positive names {name!r}, and table[{name!r}][{low[0]}] is "
                f"{values[low[0]]:g}; expected numbers above zero. Mask those rows, or leave "
                f"it out of positive."
            )
            raise ValueError(msg)
        scale = LogarithmicScale()
    elif group == "circular":
        scale = CircularScale(_period(kinds.circular[name], unit, name))
    else:
        scale = LinearScale()
    return Property(name, unit, scale), scale.to_scale(np.where(known, values, np.nan)), known


def _period(period, unit, name):
    """Return the period of an angle as a number in its column's unit."""
    if isinstance(period, u.Quantity):
        check_unit(unit, period.unit, f"table[{name!r}]")
        period = period.to_value(unit)
    if not np.isscalar(period) or not 0 < period < np.inf:
        msg = (
            f"circular[{name!r}] is {period!r}; expected a positive period, such as "
            f"180 * u.deg."
        )
        raise ValueError(msg)
    return period


def _read_classes(name, values, mask):
    """Return a property of classes, their numbers and where they are known."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    known = ~mask
    if values.dtype.kind == "U":
        known &= values != ""  # how files keep masked text
    elif values.dtype.kind == "f":
        known &= np.isfinite(values)
    classes, codes = np.unique(values[known], return_inverse=True)
    if not 2 <= len(classes) <= MOST_CLASSES:
        msg = (
            f"properties names {name!r}, a column of {values.dtype} with {len(classes)} different "
            f"values; expected numbers, or from 2 to {MOST_CLASSES:,} classes."
        )
        raise ValueError(msg)
    numbers = np.zeros(len(values), dtype=int)
    numbers[known] = codes
    return Property(name, classes=classes), numbers, known


# ---------------------------------------------------------------------- results
def add_columns(result, found, columns):
    """Add a property's estimates to a table of results.

    Parameters
    ----------
    result : `~astropy.table.QTable`
    found : `Property`
    columns : dict of str to (N,) `numpy.ndarray`
        Plain values by the suffix of their columns. Those of numbers get the property's
        unit; a class' number becomes the class, masked where it is NaN.

    Raises
    ------
    ValueError
        If two columns of the result would have one name.
    """
    for suffix, values in columns.items():
        name = f"{found.name}{suffix}"
        if name in result.colnames:
            msg = (
                f"the result has two columns {name!r}: properties or classes whose names go on "
                f"like those of {found.name!r} clash. Rename a column, or estimate them apart."
            )
            raise ValueError(msg)
        if found.classes is not None and suffix == "":
            result[name] = _class_column(values, found.classes)
        elif found.unit is not None and found.classes is None:
            result[name] = values * found.unit
        else:
            result[name] = values


def _class_column(codes, classes):
    """Return classes of their numbers; NaN gives a masked row."""
    failed = np.isnan(codes)
    values = classes[np.where(failed, 0, codes).astype(int)]
    if values.dtype.kind == "U":
        values = np.where(failed, "", values)
    return MaskedColumn(values, mask=failed)
