"""Uncertainties of any kind that astropy knows to inverse variances."""

import functools

import numpy as np
from astropy import units as u
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty

__all__ = ["inverse_variance"]

POWERS = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}


@functools.lru_cache(maxsize=64)
def _factor(unit, data_unit, power):
    """Return the factor from an uncertainty's unit to the data's, None if they do not go."""
    expected = data_unit**power
    return unit.to(expected) if unit.is_equivalent(expected) else None


def inverse_variance(data, unit, name, *, rows=slice(None)):
    """Return the inverse variance of an object's data.

    Parameters
    ----------
    data : `~astropy.nddata.NDData`
        A Spectrum, CCDData or the like.
    unit : `~astropy.units.Unit`
        The unit of its values.
    name : str
        How errors name it.
    rows : slice
        Rows wanted of an object with several axes.

    Returns
    -------
    `numpy.ndarray` or None
        At least two axes, in ``unit ** -2``, not finite or zero where the uncertainty says
        nothing; None if the object has no uncertainty of a kind that is a variance.

    Raises
    ------
    `~astropy.units.UnitsError`
        If the uncertainty's unit does not go with ``unit``.
    """
    uncertainty = data.uncertainty
    power = POWERS.get(type(uncertainty))
    if power is None:
        return None
    values = np.atleast_2d(uncertainty.array)[rows].astype(float)
    if uncertainty.unit is not None:
        factor = _factor(uncertainty.unit, unit, power)
        if factor is None:
            msg = (
                f"{name} has an uncertainty in {str(uncertainty.unit)!r}; expected one "
                f"convertible to {str(unit**power)!r}, as its values are in {str(unit)!r}. Give "
                f"the uncertainty that unit."
            )
            raise u.UnitsError(msg)
        values *= factor
    if power == -2:
        return values
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return 1.0 / (values if power == 2 else np.square(values))
