"""Checks of arguments whose messages name the argument, what was found and the fix."""

import importlib
import numbers

import numpy as np
from astropy import units as u

from astroclip.exceptions import MissingExtraError

__all__ = [
    "check_choice",
    "check_integer",
    "check_length",
    "check_not_empty",
    "check_unit",
    "float_values",
    "import_extra",
    "plain_values",
]


def check_choice(value, choices, name):
    """Return ``value`` if it is one of ``choices``; raise ValueError naming them otherwise."""
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        msg = f"{name} is {value!r}; expected one of {listed}."
        raise ValueError(msg)
    return value


def check_integer(value, name, *, minimum=1, maximum=None):
    """Return ``value`` as an int inside the closed range; raise TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        msg = f"{name} is {value!r} of type {type(value).__name__}; expected an integer."
        raise TypeError(msg)
    if value < minimum or (maximum is not None and value > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        msg = f"{name} is {value}; expected at least {minimum}{upper}."
        raise ValueError(msg)
    return int(value)


def check_not_empty(objects, name):
    """Raise ValueError if a sequence of objects is empty."""
    if len(objects) == 0:
        msg = f"{name} is empty; pass at least one object."
        raise ValueError(msg)


def check_length(values, n_objects, name, *, of="objects"):
    """Return ``values`` as an array of length ``n_objects``, a scalar repeated."""
    values = np.asarray(values)
    if values.ndim == 0:
        return np.repeat(values, n_objects)
    if values.shape != (n_objects,):
        msg = (
            f"{name} has shape {values.shape}; expected one value, or one for each "
            f"of the {n_objects} {of}."
        )
        raise ValueError(msg)
    return values


def float_values(values, name):
    """Return one number, or one for each object, as a float array: NaN where masked."""
    try:
        if isinstance(values, np.ma.MaskedArray):
            return values.astype(float).filled(np.nan)
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        msg = f"{name} is {values!r}; expected a number, or one for each object."
        raise TypeError(msg) from error


def check_unit(unit, target, name, *, what=""):
    """Raise `~astropy.units.UnitsError` unless ``unit`` converts to ``target``."""
    if unit is None or not u.Unit(unit).is_equivalent(target):
        found = "no unit" if unit is None else f"unit {str(unit)!r}"
        msg = (
            f"{name} has {f'{what} {found}'.strip()}; expected one convertible to "
            f"{u.Unit(target)}. Multiply the values by an astropy unit before passing them."
        )
        raise u.UnitsError(msg)


def plain_values(values, unit, name):
    """Return values without their unit, converted to ``unit``, in which plain arrays are."""
    if not isinstance(values, u.Quantity):
        return values
    check_unit(values.unit, unit, name)
    return values.to_value(unit)


def import_extra(module, extra):
    """Import an optional ``module``; raise an error that names the ``extra`` to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = (
            f"{module} is needed here and is not installed. "
            f"Install it with: python -m pip install 'astroclip[{extra}]'"
        )
        raise MissingExtraError(msg) from error
