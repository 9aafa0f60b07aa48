"""Plain arrays from table columns of any kind: masked, with units, big-endian."""

import numpy as np
from astropy import units as u

__all__ = ["column_arrays", "column_degrees"]


def column_arrays(column):
    """Return what a column holds as plain arrays.

    Parameters
    ----------
    column : `~astropy.table.Column`, `~astropy.units.Quantity`, Masked, or array-like

    Returns
    -------
    values : `numpy.ndarray`
        Without unit; what stands under the mask is kept.
    mask : bool `numpy.ndarray`
        True where masked, of the shape of ``values``.
    unit : `~astropy.units.Unit` or None
        None for a dimensionless column.
    """
    unit = getattr(column, "unit", None)
    unit = None if unit is None or unit == u.dimensionless_unscaled else u.Unit(unit)
    mask = np.asarray(getattr(column, "mask", False))
    values = np.ma.getdata(getattr(column, "unmasked", column))
    values = np.asarray(getattr(values, "value", values))
    return values, np.broadcast_to(mask, values.shape), unit


def column_degrees(column):
    """Return an angle column in degrees as floats, NaN where masked; no unit means degrees."""
    values, mask, unit = column_arrays(column)
    degrees = values.astype(float) * (1.0 if unit is None else unit.to(u.deg))
    return np.where(mask, np.nan, degrees)
