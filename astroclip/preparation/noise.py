"""What pixels weigh: uncertainties of any kind to inverse variances, values that say nothing."""

import functools
from typing import NamedTuple

import numpy as np
from astropy import units as u
from astropy.utils.masked import Masked, get_data_and_mask

from astroclip.exceptions import PreparationError
from astroclip.preparation.resampling import estimate_ivar, row_counts, row_median

__all__ = ["Judgment", "inverse_variance", "judge_spectra", "plain_and_mask"]

POWERS = {"std": 1, "var": 2, "ivar": -2}  # of the data's unit, by uncertainty_type
ARTEFACT = 1e4  # times the median flux: no galaxy's line reaches it
WORTHLESS_ERROR = 30.0  # times the median error: a thousandth of the median weight
WORTHLESS_FLUX = 5.0  # times the median flux: an error above it hides any continuum
SIGNIFICANCE = 30.0  # errors: photons that raise the error 30 times are counted this well or better
FLAWLESS_ERROR = 1e-4  # times the median error: nothing is measured so much better
EMPTY_ERROR = 10.0  # times the median flux and the scatter of pixels, where all are equal
ABSURD_ERROR = (1e-8, 1e4)  # the same where they differ: in another unit than the flux
PLAUSIBLE_FLUX = (1e-8, 1e10)  # 1e-17 erg/s/cm2/A: magnitudes (AB) 41 to -4 at 5500 Angstrom


@functools.lru_cache(maxsize=64)
def _factor(unit, data_unit, power):
    """Return the factor from an uncertainty's unit to the data's, None if they do not go."""
    expected = data_unit**power
    return unit.to(expected) if unit.is_equivalent(expected) else None


def plain_and_mask(values):
    """Return an array without its mask, and the mask or None.

    Parameters
    ----------
    values : array-like
        Also `numpy.ma.MaskedArray` and `~astropy.utils.masked.Masked`.
    """
    if isinstance(values, Masked | np.ma.MaskedArray):
        values, mask = get_data_and_mask(values)
        return np.asarray(values), np.broadcast_to(mask, np.shape(values))
    return np.asarray(values), None


def inverse_variance(data, unit, name, *, rows=slice(None), axis=-1):
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
    axis : int
        The axis that comes out last.

    Returns
    -------
    `numpy.ndarray` or None
        At least two axes, in ``unit ** -2``, not finite or zero where the uncertainty says
        nothing, as a negative standard deviation does; None if the object has no uncertainty
        of a kind that is a variance.

    Raises
    ------
    `~astropy.units.UnitsError`
        If the uncertainty's unit does not go with ``unit``.
    PreparationError
        If its shape is not that of the data and does not broadcast to it.
    """
    uncertainty = data.uncertainty
    power = POWERS.get(getattr(uncertainty, "uncertainty_type", None))
    if power is None:
        return None
    values, shape = np.asarray(uncertainty.array), np.shape(data.data)
    try:
        values = np.broadcast_to(values, shape)
    except ValueError:
        raise PreparationError(
            f"{name} has an uncertainty of shape {values.shape} and data of shape {shape}; "
            f"expected the same. Give the uncertainty that shape."
        ) from None
    if values.ndim > 1 and axis not in (-1, values.ndim - 1):
        values = np.moveaxis(values, axis, -1)
    values = np.atleast_2d(values)[rows].astype(float)
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
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if power == 2:
            return 1.0 / values
        return np.where(values > 0, 1.0 / np.square(values), 0.0)


class Judgment(NamedTuple):
    """What the values of spectra give away about them.

    Attributes
    ----------
    unusable : (N, P) bool `numpy.ndarray`
        True where a pixel holds no light.
    empty : (N,) bool `numpy.ndarray`
        True where the errors say nothing of the spectrum.
    implausible : (N,) `numpy.ndarray`
        The median of the flux's absolute value where no object is so faint or bright, else NaN.
    """

    unusable: np.ndarray
    empty: np.ndarray
    implausible: np.ndarray


def judge_spectra(flux, ivar, mask):
    """Find pixels, errors and flux densities that cannot be what they are given as.

    Parameters
    ----------
    flux : (N, P) `numpy.ndarray`
        1e-17 erg/s/cm2/A, zero in bad pixels.
    ivar : (N, P) `numpy.ndarray` or None
        Its inverse variance, zero in bad pixels; None where there is no uncertainty.
    mask : (N, P) bool `numpy.ndarray`
        True in pixels known to be bad.

    Returns
    -------
    `Judgment`

    Notes
    -----
    With medians over a spectrum's good pixels, a pixel is unusable if

    - its flux is above 10,000 times the median flux;
    - its error is above 30 times the median error and 5 times the median flux, and its flux
      within 30 such errors of zero: N photons have an error of sqrt(N), so that a line which
      raises the error 30 times is significant to 30 at least. Such a pixel has a thousandth of
      the usual weight. Marks of bad pixels such as 99 or 1e10 among real errors come under this
      rule; the errors on lines of the night sky and at blue ends of SDSS, BOSS, DESI and FORS2
      spectra reach 26 times the median and stay;
    - its error is below a ten thousandth of the median error.

    A spectrum's errors are empty if all are equal and ten times above both the median flux and
    the scatter of the pixels, as 99 or 1e10 in every pixel are. Those of noisy spectra are as
    large as their scatter. They are also empty if their median is 10,000 times above both, or
    below 1e-8 of the median flux, as errors in another unit than the flux are.

    A median flux is implausible outside 1e-8 to 1e10, AB magnitudes 41 to -4 at 5500 Angstrom;
    one of zero is not judged.
    """
    n_objects = len(flux)
    judgment = Judgment(
        np.zeros(flux.shape, dtype=bool), np.zeros(n_objects, dtype=bool),
        np.full(n_objects, np.nan),
    )
    rows = _odd_rows(flux, ivar, mask)
    if not len(rows):
        return judgment
    flux, mask = flux[rows], mask[rows]
    size = np.abs(flux)
    unusable = _artefacts(size, mask)
    if ivar is not None:
        ivar = ivar[rows]
        unusable |= _odd_errors(size, ivar, mask)
        mask = mask | unusable
        judgment.empty[rows] = _empty_errors(flux, ivar, mask)
    else:
        mask = mask | unusable
    judgment.unusable[rows] = unusable
    low, high = PLAUSIBLE_FLUX
    typical = row_median(np.where(mask, np.nan, size))
    judgment.implausible[rows] = np.where(
        (typical > 0) & ((typical < low) | (typical > high)), typical, np.nan
    )
    return judgment


def _odd_rows(flux, ivar, mask):
    """Return the rows that need a closer look. Most do not, which takes no median to find."""
    n_good = flux.shape[1] - row_counts(mask)
    size = np.abs(flux)
    largest = size.max(axis=1)
    # where most pixels are above the largest over ARTEFACT so is the median
    floor = largest / ARTEFACT
    ordinary = 2 * row_counts(size > floor[:, None]) > n_good
    odd = ~ordinary | (floor < PLAUSIBLE_FLUX[0]) | (largest > PLAUSIBLE_FLUX[1])
    if ivar is None:
        return np.flatnonzero(odd)
    least, greatest = ivar.min(axis=1).astype(float), ivar.max(axis=1).astype(float)
    for row in np.flatnonzero(least == 0):
        good = ivar[row][~mask[row]]
        least[row] = good.min() if len(good) else 0.0
    # the mean is at least half the median
    odd |= least * WORTHLESS_ERROR**2 * n_good < 2.0 * ivar.sum(axis=1, dtype=float)
    brightest = np.square(largest, dtype=float)
    odd |= (brightest * greatest < 1e-2) | (brightest * least > 1e12)
    for row in np.flatnonzero(~odd & (least >= greatest * (1 - 1e-6))):  # one constant
        limit = greatest[row] ** -0.5 / EMPTY_ERROR
        odd[row] = 2 * np.count_nonzero(size[row] > limit) <= n_good[row]
    return np.flatnonzero(odd)


def _artefacts(size, mask):
    """Return True (N, P) at pixels ten thousand times the median flux: artefacts, not light."""
    typical = row_median(np.where(mask, np.nan, size))
    floor = np.fmax(typical, 1e-6 * size.max(axis=1))
    return size > ARTEFACT * floor[:, None]


def _odd_errors(size, ivar, mask):
    """Return True (N, P) at errors that leave a pixel no weight, or are too good to be true."""
    median = row_median(np.where(mask, np.nan, ivar))[:, None]
    typical = row_median(np.where(mask, np.nan, size))[:, None]
    with np.errstate(over="ignore"):  # of marks like 1e30
        worthless = (
            (ivar * WORTHLESS_ERROR**2 < median)
            & (ivar * (WORTHLESS_FLUX * typical) ** 2 < 1.0)
            & (ivar * np.square(size) < SIGNIFICANCE**2)
        )
    return ~mask & (worthless | (ivar * FLAWLESS_ERROR**2 > median))


def _empty_errors(flux, ivar, mask):
    """Return True (N,) for spectra whose errors their pixels contradict."""
    empty = np.zeros(len(flux), dtype=bool)
    for row, bad in enumerate(mask):
        if bad.all():
            continue
        weight, typical = ivar[row][~bad].astype(float), np.median(np.abs(flux[row][~bad]))
        error, (least, most) = np.median(weight) ** -0.5, ABSURD_ERROR
        if weight.min() >= weight.max() * (1 - 1e-6):
            most = EMPTY_ERROR
        if error > most * typical:
            observed = estimate_ivar(flux[row : row + 1], mask[row : row + 1])[0, 0]
            empty[row] = error * np.sqrt(observed) > most
        else:
            empty[row] = error < least * typical
    return empty
