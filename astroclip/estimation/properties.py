"""Properties of reference objects: scales of numbers, classes, and how columns are read.

A column of numbers or of text needs nothing here. A new scale (a number that is averaged in
another way) is a class beside `LogarithmicScale`, an entry of `SCALES`, and a keyword of the
estimators that names its properties, as ``positive`` does.
"""

import dataclasses
import numbers
import warnings

import numpy as np
from astropy import units as u

from astroclip._columns import column_arrays
from astroclip._validation import check_not_empty, check_unit
from astroclip.exceptions import SuspiciousLabelWarning

__all__ = [
    "SCALES", "CircularScale", "LinearScale", "LogarithmicScale", "Property", "column_numbers",
    "property_groups", "property_names", "read_properties", "read_property", "suspicious_numbers",
]  # fmt: skip

# columns that every result has
RESERVED = ("id", "modality", "message", "n_effective", "nearest_similarity",
            "out_of_distribution", "n_reference", "local_density")  # fmt: skip
MOST_CLASSES = 1000  # more different values are no classes, and would make as many columns

# What catalogs write where a number is unknown: nines (SDSS -9999, SExtractor 99, 2MASS 99.999,
# VIPERS 9.9999, UKIDSS -9.999995e8), powers of ten, the least integers (pandas, FITS), -1 and 0.
NINES = (9, 9.9, 9.99, 9.999, 9.9999, 99, 99.9, 99.99, 99.999, 999, 999.9, 999.99, 9999, 9999.9,
         9999.99, 99999, 999999, 9999999, 99999999, 999999999, 999999500)  # fmt: skip
POWERS = tuple(10.0**exponent for exponent in (10, 15, 20, 25, 30, 31, 32, 33, 34, 35, 36, 37, 38))
SENTINELS = np.sort(
    [0.0, -1.0, *NINES, *POWERS, *(-value for value in (*NINES, *POWERS, 2**15, 2**31, 2**63)),
     float(np.finfo(np.float32).max), float(np.finfo(np.float32).min)]
)  # fmt: skip
ROUNDING = 1e-6  # relative, of float32
REACH = {"linear": 10.0, "logarithm": 5.0}  # interquartile ranges from the quartiles
CONTINUOUS = 10  # different values of a column in which a lone -1 is no class or count
WORDS = ("nan", "none", "null", "n/a", "na", "unknown", "undefined", "missing", "--", "-", "?",
         "-1", "-9", "-99", "-999", "-9999")  # what text says of a class that is unknown


# ---------------------------------------------------------------------- scales
class LinearScale:
    """Numbers that are averaged as they are."""

    period = None

    def to_scale(self, values):
        """Return plain values on the scale."""
        return np.asarray(values, dtype=float)

    def from_scale(self, values, *, wrap=True):
        """Return plain values of values on the scale; ``wrap`` is for angles."""
        return values

    def mean(self, values, weight):
        """Return the weighted mean (N,) of values (N, K) on the scale."""
        return (weight * values).sum(axis=1) / weight.sum(axis=1)

    def deviation(self, values, center):
        """Return values minus a center, with sign."""
        return values - center

    def limit(self, reach):
        """Return half-widths of intervals, no larger than can be."""
        return reach

    def targets(self, values):
        """Return numbers (N, T) that a regression can learn."""
        return values[:, None]

    def from_targets(self, targets):
        """Return values (N,) on the scale of predicted targets (N, T)."""
        return targets[:, 0]

    def spread(self, values):
        """Return the standard deviation about the mean."""
        center = self.mean(values[None], np.ones((1, len(values))))
        return float(np.sqrt(np.mean(self.deviation(values, center) ** 2)))


class LogarithmicScale(LinearScale):
    """Positive numbers, averaged by their logarithm."""

    def to_scale(self, values):
        """Return natural logarithms; NaN stays."""
        return np.log(np.asarray(values, dtype=float))

    def from_scale(self, values, *, wrap=True):
        """Return exponentials."""
        with np.errstate(over="ignore"):
            return np.exp(values)


class CircularScale(LinearScale):
    """Angles that repeat after a period.

    Parameters
    ----------
    period : float
        Such as 360 for a direction and 180 for the position angle of an axis.
    """

    def __init__(self, period):
        self.period = float(period)

    def from_scale(self, values, *, wrap=True):
        """Return angles from zero to below the period; as they are unless ``wrap``."""
        if not wrap:
            return values
        angle = np.mod(values, self.period)
        return np.where(angle >= self.period, 0.0, angle)  # mod(-1e-30, 1) is 1

    def mean(self, values, weight):
        """Return the direction of the weighted mean of unit vectors."""
        phase = values * (2 * np.pi / self.period)
        sine, cosine = (weight * np.sin(phase)).sum(axis=1), (weight * np.cos(phase)).sum(axis=1)
        return np.arctan2(sine, cosine) * (self.period / (2 * np.pi))

    def deviation(self, values, center):
        """Return differences between minus and plus half a period."""
        return np.mod(values - center + self.period / 2, self.period) - self.period / 2

    def limit(self, reach):
        """Return half-widths of at most half a period, which holds every angle."""
        return np.minimum(reach, self.period / 2)

    def targets(self, values):
        """Return cosine and sine (N, 2)."""
        phase = values * (2 * np.pi / self.period)
        return np.stack([np.cos(phase), np.sin(phase)], axis=1)

    def from_targets(self, targets):
        """Return the angle of predicted cosines and sines."""
        return np.arctan2(targets[:, 1], targets[:, 0]) * (self.period / (2 * np.pi))


# how files name scales
SCALES = {"linear": LinearScale, "positive": LogarithmicScale, "circular": CircularScale}


# ---------------------------------------------------------------------- names
@dataclasses.dataclass(frozen=True, eq=False)
class Property:
    """What a property is, without its values.

    Attributes
    ----------
    name : str
    unit : `~astropy.units.Unit` or None
    scale : `LinearScale` or None
        On which numbers are averaged; None for classes.
    classes : (C,) `numpy.ndarray` of str or bool, or None
        In sorted order; None for numbers.
    """

    name: str
    unit: object = None
    scale: object = None
    classes: np.ndarray | None = None


def property_names(properties, *, fitted=None):
    """Return names of properties as a list.

    Parameters
    ----------
    properties : str, sequence of str or None
        None stands for all those that were fitted.
    fitted : sequence of str, optional
        Properties that an estimator was fitted with, of which all must be some.

    Raises
    ------
    ValueError
        If there is none, one is twice there, or one is a name that results have anyway.
    KeyError
        If the estimator was not fitted with a property.
    """
    if properties is None and fitted is not None:
        return list(fitted)
    if properties is None:
        msg = "properties is None; expected names of columns, such as ['redshift']."
        raise ValueError(msg)
    names = [properties] if isinstance(properties, str) else list(properties)
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
        if fitted is not None and name not in fitted:
            msg = (
                f"properties names {name!r}, which the estimator was not fitted with; expected "
                f"some of {list(fitted)}. Fit it with that column."
            )
            raise KeyError(msg)
    return names


def property_groups(circular, positive, categorical, *, among=None):
    """Return which properties are angles, positive, or classes although they are numbers.

    Parameters
    ----------
    circular : dict of str to float or `~astropy.units.Quantity`, or None
        Periods by name.
    positive, categorical : sequence of str
    among : sequence of str, optional
        Properties, of which all others must be some.

    Returns
    -------
    dict of str to str
        ``"circular"``, ``"positive"`` or ``"categorical"`` by name.

    Raises
    ------
    ValueError
        If a name is in two groups, or periods are no dict.
    KeyError
        If a name is not among the properties.
    """
    if circular is not None and not isinstance(circular, dict):
        msg = (
            f"circular is {circular!r}; expected periods by name, such as "
            f"{{'position_angle': 180 * u.deg}}."
        )
        raise ValueError(msg)
    groups = {}
    named = {"circular": circular or (), "positive": positive, "categorical": categorical}
    for group, names in named.items():
        for name in (names,) if isinstance(names, str) else names:
            if name in groups:
                msg = (
                    f"{group} names {name!r}, which {groups[name]} names too; expected one of "
                    f"them."
                )
                raise ValueError(msg)
            if among is not None and name not in among:
                msg = (
                    f"{group} names {name!r}, which is none of the properties {list(among)}. Add "
                    f"it to them, or leave it out of {group}."
                )
                raise KeyError(msg)
            groups[name] = group
    return groups


# ---------------------------------------------------------------------- columns
def column_numbers(table, name, *, missing=()):
    """Return a column as floats (unknown ones as NaN) and its unit, or None.

    Parameters
    ----------
    table : `~astropy.table.Table`
    name : str
    missing : float, str, or sequence of these
        Values that stand for unknown ones, as masked and NaN do.

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

    Warns
    -----
    SuspiciousLabelWarning
        If it seems to hold numbers that stand for unknown ones: see `suspicious_numbers`.
    """
    values, unit = _numbers(table, name, missing)
    _warn_suspicious(name, suspicious_numbers(values), len(values))
    return values, unit


def _numbers(table, name, missing):
    """Return what `column_numbers` does; nothing is warned of."""
    values, mask, unit = _column(table, name)
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        msg = (
            f"properties names {name!r}, a column of {values.dtype} with shape {values.shape}; "
            f"expected numbers, one a row."
        )
        raise ValueError(msg)
    values = np.where(mask, np.nan, values.astype(float))
    values[_is_missing(values, missing)] = np.nan
    return values, unit


def _column(table, name):
    """Return a column's plain values, mask and unit; raise KeyError if there is none.

    Columns of Python objects become text or numbers, masked where None or NaN.
    """
    if name not in table.colnames:
        msg = (
            f"properties names {name!r}, which is no column of the table; expected some of "
            f"{[column for column in table.colnames if column != 'embedding']}."
        )
        raise KeyError(msg)
    values, mask, unit = column_arrays(table[name])
    if values.dtype.kind == "O" and values.ndim == 1:
        unknown = [
            value is None or value is np.ma.masked or (isinstance(value, float) and np.isnan(value))
            for value in values
        ]
        mask = mask | np.array(unknown, dtype=bool)
        kinds = {type(value) for value in values[~mask]}
        if kinds == {str} or kinds == {bytes}:
            values = np.where(mask, kinds.pop()(), values)
            values = np.array(values.tolist())
        elif kinds and all(issubclass(kind, int | float | np.number) for kind in kinds):
            values = np.where(mask, np.nan, values).astype(float)
    return values, mask, unit


# ---------------------------------------------------------------------- missing values
def suspicious_numbers(values, *, period=None, is_class=False):
    """Find numbers that seem to stand for unknown ones, such as -9999 among 9.8, 10.3 and 11.1.

    Parameters
    ----------
    values : (N,) `numpy.ndarray`
        NaN where unknown.
    period : float, optional
        Of angles.
    is_class : bool
        Whether the numbers name classes.

    Returns
    -------
    dict of float to int
        How often each such number occurs.

    Notes
    -----
    A number is suspicious if it is one that catalogs use for this (`SENTINELS`), lies outside
    the range of the other numbers, and either

    - is more than ten interquartile ranges of the others away from their quartiles (five for
      the logarithms of positive numbers; one period for angles), or
    - is negative and occurs twice or more (once, if it is -99 or less), while none of the
      others is a tenth as negative and they take more than ten values (or name more than two
      classes).
    """
    known = values[np.isfinite(values)]
    place = np.clip(np.searchsorted(SENTINELS, known), 1, len(SENTINELS) - 1)
    low, high = SENTINELS[place - 1], SENTINELS[place]
    nearest = np.where(known - low < high - known, low, high)
    is_listed = np.abs(known - nearest) <= ROUNDING * np.abs(nearest)
    others = known[~is_listed]
    listed, counts = np.unique(nearest[is_listed], return_counts=True)
    # small numbers are often measured; without others, large ones alone are suspicious
    if not len(others):
        others = listed[np.abs(listed) < 99]
    if is_class:
        others = np.unique(others)
    n_different = len(np.unique(others))
    found = {}
    for value, count in zip(listed.tolist(), counts.tolist(), strict=True):
        if not len(others):
            found[value] = count
        elif not others.min() <= value <= others.max():
            lone = value < 0 and others.min() > value / 10 and (count > 1 or value <= -99)
            lone &= n_different > (2 if is_class else CONTINUOUS)
            if lone or _is_far(value, others, period):
                found[value] = count
    return found


def _is_far(value, others, period):
    """Return whether a value is far outside the distribution of others."""
    scales = {"linear": (value, others)}
    if value > 0 and others.min() > 0:
        scales["logarithm"] = (np.log(value), np.log(others))
    for scale, (number, rest) in scales.items():
        low, high = np.quantile(rest, (0.25, 0.75))
        reach = REACH[scale] * ((high - low) or np.ptp(rest) or max(abs(high), 1.0))
        if period is not None:
            reach = period
        if not low - reach <= number <= high + reach:
            return True
    return False


def _missing_list(missing):
    """Return values that stand for unknown ones as a list; raise TypeError for other things."""
    values = missing if isinstance(missing, list | tuple | np.ndarray) else [missing]
    for value in values:
        if not isinstance(value, str | numbers.Real | np.generic):
            msg = f"missing is {missing!r}; expected numbers or text, such as (-9999, -99)."
            raise TypeError(msg)
    return list(values)


def _is_missing(values, missing):
    """Return where numbers (N,) are unknown by the user's word, to the rounding of float32."""
    found = np.zeros(len(values), dtype=bool)
    for value in _missing_list(missing):
        try:
            value = float(value)
        except (TypeError, ValueError):  # text, which stands for unknown classes
            continue
        found |= np.isclose(values, value, rtol=ROUNDING, atol=0)
    return found


def _warn_suspicious(name, found, n_rows):
    """Warn of values that seem to stand for unknown ones, given by how often they occur."""
    if not found:
        return
    names = {value: repr(value) if isinstance(value, str) else f"{value:.9g}" for value in found}
    listed = " and ".join(f"{names[value]} in {count:,}" for value, count in found.items())
    fix = ", ".join(names.values()) + ("," if len(names) == 1 else "")
    msg = (
        f"table[{name!r}] holds {listed} of {n_rows:,} rows: catalogs write this where a value "
        f"is unknown, and here it is taken as measured. If it is unknown, pass missing=({fix}) "
        f"or mask these rows."
    )
    warnings.warn(msg, SuspiciousLabelWarning, stacklevel=2)


# ---------------------------------------------------------------------- properties
def read_properties(table, names, *, circular=None, positive=(), categorical=(), missing=()):
    """Return properties, their values and where they are known, by name.

    Parameters
    ----------
    table : `~astropy.table.Table`
    names : sequence of str
    circular, positive, categorical
        As in `property_groups`.
    missing : float, str, or sequence of these
        Values that stand for unknown ones.

    Returns
    -------
    dict of str to (property, values, known)
        See `read_property`.

    Raises
    ------
    KeyError, ValueError, UnitsError
        As in `property_groups` and `read_property`.
    """
    groups = property_groups(circular, positive, categorical, among=names)
    periods = circular or {}
    return {
        name: read_property(
            table, name, group=groups.get(name), period=periods.get(name), missing=missing
        )
        for name in names
    }


def read_property(table, name, *, group=None, period=None, missing=()):
    """Return a property, its values and where they are known.

    Parameters
    ----------
    table : `~astropy.table.Table`
    name : str
        Columns of text or bool are classes without being named so.
    group : str or None
        ``"circular"``, ``"positive"`` or ``"categorical"``, from `property_groups`.
    period : float or `~astropy.units.Quantity`, optional
        Of an angle.
    missing : float, str, or sequence of these
        Values that stand for unknown ones, as masked, NaN and empty text do.

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

    Warns
    -----
    SuspiciousLabelWarning
        If numbers or words seem to stand for unknown values.
    """
    values, mask, unit = _column(table, name)
    if values.ndim == 1 and (group == "categorical" or values.dtype.kind in "USb" and not group):
        return _read_classes(name, values, mask, missing)
    values, unit = _numbers(table, name, missing)
    known = np.isfinite(values)
    if group == "positive":
        low = np.flatnonzero(known & ~(values > 0))
        if len(low):
            msg = (
                f"positive names {name!r}, and table[{name!r}][{low[0]}] is "
                f"{values[low[0]]:g}; expected numbers above zero. Pass missing=("
                f"{values[low[0]]:g},) if it stands for unknown ones, mask those rows, or leave "
                f"it out of positive."
            )
            raise ValueError(msg)
        scale = LogarithmicScale()
    elif group == "circular":
        if isinstance(period, u.Quantity):
            check_unit(unit, period.unit, f"table[{name!r}]")
            period = period.to_value(unit)
        if not np.isscalar(period) or not 0 < period < np.inf:
            msg = (
                f"circular[{name!r}] is {period!r}; expected a positive period, such as "
                f"180 * u.deg."
            )
            raise ValueError(msg)
        scale = CircularScale(period)
    else:
        scale = LinearScale()
    _warn_suspicious(name, suspicious_numbers(values, period=scale.period), len(values))
    return Property(name, unit, scale), scale.to_scale(np.where(known, values, np.nan)), known


def _read_classes(name, values, mask, missing):
    """Return a property of classes, their numbers and where they are known."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    known = ~mask
    if values.dtype.kind == "U":
        words = np.char.strip(values)
        known &= words != ""  # how files keep masked text
        known &= ~np.isin(words, [str(value) for value in _missing_list(missing)])
        found, counts = np.unique(words[known], return_counts=True)
        pairs = zip(found.tolist(), counts.tolist(), strict=True)
        suspicious = {word: count for word, count in pairs if word.casefold() in WORDS}
    elif values.dtype.kind in "fiu":
        known &= np.isfinite(values) & ~_is_missing(values.astype(float), missing)
        suspicious = suspicious_numbers(np.where(known, values, np.nan), is_class=True)
    else:
        suspicious = {}
    _warn_suspicious(name, suspicious, len(values))
    classes, codes = np.unique(values[known], return_inverse=True)
    if not 2 <= len(classes) <= MOST_CLASSES:
        msg = (
            f"properties names {name!r}, a column of {values.dtype} with {len(classes)} different "
            f"values; expected numbers, or from 2 to {MOST_CLASSES:,} classes."
        )
        raise ValueError(msg)
    all_codes = np.zeros(len(values), dtype=int)
    all_codes[known] = codes
    return Property(name, classes=classes), all_codes, known
