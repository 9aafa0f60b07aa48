"""Which reference rows may be found: masks, conditions, ranges, and places on the sky."""

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from astroclip._validation import check_unit
from astroclip.similarity.expressions import evaluate_condition

__all__ = ["allowed_rows", "rows_near"]


def allowed_rows(columns, *, where=None, near=None):
    """Return which rows fulfil all conditions.

    Parameters
    ----------
    columns : `~astroclip.similarity.columns.Columns`
    where, near
        As in `~astroclip.SimilarityIndex.query`.

    Returns
    -------
    (M,) bool `numpy.ndarray` or None
        None if there are no conditions.

    Raises
    ------
    TypeError, ValueError, UnitsError
        If a condition cannot be used.
    """
    masks = []
    if isinstance(where, str):
        if where in columns.names and plain_column(columns, where)[0].dtype == bool:
            masks.append(np.logical_and(*plain_column(columns, where)))
        else:
            read = lambda name: plain_column(columns, name)  # noqa: E731
            masks.append(evaluate_condition(where, read, columns.names))
    elif isinstance(where, dict):
        masks += [_in_range(columns, name, limits) for name, limits in where.items()]
    elif where is not None:
        masks.append(_as_mask(where, len(columns)))
    if near is not None:
        masks.append(rows_near(columns, near))
    return np.logical_and.reduce(masks) if masks else None


def plain_column(columns, name):
    """Return a column's plain values, and where they are not masked."""
    column = columns.column(name)
    mask = np.asarray(getattr(column, "mask", False))
    values = np.ma.getdata(getattr(column, "unmasked", column))
    values = np.asarray(getattr(values, "value", values))
    if values.ndim != 1 or values.dtype.kind not in "biufUS":
        msg = (
            f"where names {name!r}, a column of {values.dtype} with shape {values.shape}; expected "
            f"numbers or text, one a row."
        )
        raise ValueError(msg)
    return values, np.broadcast_to(~mask, values.shape)


def _as_mask(where, n_rows):
    """Return a mask whose masked values are False."""
    mask = np.asarray(getattr(where, "mask", False))
    where = np.asarray(np.ma.getdata(getattr(where, "unmasked", where)))
    if where.dtype != bool or where.shape != (n_rows,):
        msg = (
            f"where has dtype {where.dtype} and shape {where.shape}; expected a bool for "
            f"each of the reference's {n_rows} rows. Make it from a column, such as "
            f"reference['coverage'] > 0.5, or write the condition as text, 'coverage > 0.5'."
        )
        raise ValueError(msg)
    return where & ~mask


def _in_range(columns, name, limits):
    """Return rows whose value lies in a closed range."""
    if name not in columns.names:
        msg = (
            f"where names {name!r}, which is no column of the reference; expected some of "
            f"{', '.join(each for each in columns.names if each != 'embedding')}."
        )
        raise ValueError(msg)
    if not isinstance(limits, tuple | list) or len(limits) != 2:
        msg = (
            f"where[{name!r}] is {limits!r}; expected (lowest, highest), either of which may be "
            f"None."
        )
        raise ValueError(msg)
    values, known = plain_column(columns, name)
    unit = getattr(columns.column(name), "unit", None)
    inside = known.copy()
    for limit, compare in zip(limits, (np.greater_equal, np.less_equal), strict=True):
        if limit is not None:
            if isinstance(limit, u.Quantity):
                check_unit(limit.unit, unit or u.one, f"where[{name!r}]")
                limit = limit.to_value(unit or u.one)
            inside &= compare(values, limit)
    return inside


def rows_near(columns, near):
    """Return rows in a cone or a box on the sky.

    Parameters
    ----------
    columns : `~astroclip.similarity.columns.Columns`
        With ``ra`` and ``dec``.
    near : tuple
        ``(center, radius)``: a cone, of any of several centers; ``(center, width, height)``: a
        box whose sides are great circles through the points half a side from its center.

    Returns
    -------
    (M,) bool `numpy.ndarray`
        False for rows without a position.

    Raises
    ------
    TypeError, ValueError, UnitsError
        If it is no cone or box, or the reference has no positions.
    """
    pair = isinstance(near, tuple | list) and len(near) in (2, 3)
    if not pair or not isinstance(near[0], SkyCoord):
        msg = (
            f"near is {near!r}; expected (center, radius) or (center, width, height) with a "
            f"SkyCoord, such as (SkyCoord(150, 2, unit='deg'), 1 * u.deg)."
        )
        raise TypeError(msg)
    sizes = []
    for size, name in zip(near[1:], ("size", "height"), strict=False):
        check_unit(getattr(size, "unit", None), u.deg, "near", what=name)
        sizes.append(float(u.Quantity(size).to_value(u.rad)))
    if "ra" not in columns.names or "dec" not in columns.names:
        msg = (
            "near is given and the reference has no columns 'ra' and 'dec'; expected positions. "
            "Add both, in degrees, before making the index."
        )
        raise ValueError(msg)
    position = [_radians(columns, name) for name in ("ra", "dec")]
    centers = np.atleast_1d(near[0].icrs)
    if len(sizes) == 1:
        inside = np.zeros(len(columns), dtype=bool)
        for center in centers:
            inside |= _in_cone(*position, center.ra.rad, center.dec.rad, sizes[0])
        return inside
    if len(centers) != 1:
        msg = f"near has {len(centers)} centers of a box; expected one."
        raise ValueError(msg)
    return _in_box(*position, centers[0].ra.rad, centers[0].dec.rad, *sizes)


def _radians(columns, name):
    """Return an angle column in radians, NaN where masked."""
    values, known = plain_column(columns, name)
    unit = getattr(columns.column(name), "unit", None) or u.deg
    return np.where(known, values.astype(float), np.nan) * u.Unit(unit).to(u.rad)


def _in_cone(ra, dec, center_ra, center_dec, radius):
    """Return positions within a radius, by the haversine; only those near in dec are reckoned."""
    close = np.flatnonzero(np.abs(dec - center_dec) <= radius * (1 + 1e-12))
    near = dec[close]
    haversine = np.sin((near - center_dec) / 2) ** 2
    haversine += np.cos(near) * np.cos(center_dec) * np.sin((ra[close] - center_ra) / 2) ** 2
    inside = np.zeros(len(ra), dtype=bool)
    inside[close] = 2 * np.arcsin(np.sqrt(np.clip(haversine, 0, 1))) <= radius
    return inside


def _in_box(ra, dec, center_ra, center_dec, width, height):
    """Return positions in a box, by their longitude and latitude around its center."""
    x = np.cos(dec) * np.cos(ra - center_ra)
    y = np.cos(dec) * np.sin(ra - center_ra)
    z = np.sin(dec)
    forward = np.cos(center_dec) * x + np.sin(center_dec) * z
    up = np.cos(center_dec) * z - np.sin(center_dec) * x
    inside = np.abs(np.arctan2(y, forward)) <= width / 2
    return inside & (np.abs(np.arcsin(np.clip(up, -1, 1))) <= height / 2)
