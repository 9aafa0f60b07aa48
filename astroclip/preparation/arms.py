"""Spectrographs with several arms: one spectrum from DESI's b, r and z."""

import numpy as np
from astropy import units as u
from astropy.nddata import InverseVariance
from specutils import Spectrum

from astroclip.preparation.identity import find_column
from astroclip.preparation.noise import inverse_variance

__all__ = ["are_arms", "merge_arms"]

# Bits of DESI's FIBERSTATUS that make an exposure useless: broken fiber 2, position missing 8 or
# off by 100 microns 9, bad fiber, trace, flat or arc 16-19, many bad columns 20 or rejected
# pixels 21. The survey's own coadds leave these out; the other bits are remarks.
# https://github.com/desihub/desispec/blob/main/py/desispec/fiberbitmasking.py
BAD_FIBER = 1 << 2 | 1 << 8 | 1 << 9 | 0b111111 << 16
OFF_GRID = 0.05  # pixels: arms further than this from one common grid share no pixels


def are_arms(spectra):
    """Return whether a list holds the arms of one spectrograph seeing the same objects.

    Arms have the same number of objects, follow one another in wavelength, each
    overlapping the next, and none covers another. Those that name their band in
    ``meta["band"]``, as DESI's do, may leave a gap where an arm is missing.

    Parameters
    ----------
    spectra : sequence of `~specutils.Spectrum`

    Returns
    -------
    bool
    """
    if not 2 <= len(spectra) <= 4 or not all(isinstance(s, Spectrum) for s in spectra):
        return False
    if len({s.flux.shape[:-1] for s in spectra}) != 1:
        return False
    ranges = []
    for spectrum in spectra:
        axis = spectrum.spectral_axis
        if not axis.unit.is_equivalent(u.AA):
            return False
        values = axis.to_value(u.AA)
        ranges.append((values.min(), values.max()))
    bands = [spectrum.meta.get("band") for spectrum in spectra]
    may_miss_one = None not in bands and len(set(bands)) == len(bands)
    return all(
        first[0] < second[0]
        and (second[0] <= first[1] or may_miss_one)
        and first[1] < second[1]
        and first[1] - second[0] < 0.5 * (second[1] - second[0])
        for first, second in zip(ranges[:-1], ranges[1:], strict=True)
    )


def merge_arms(arms):
    r"""Merge the arms of a spectrograph with inverse-variance weights.

    Parameters
    ----------
    arms : `~specutils.SpectrumList` or sequence of `~specutils.Spectrum`
        Arms in order of wavelength on one common step (DESI: b, r, z at 0.8 Angstrom),
        each (P,) or (N, P), with uncertainties. One arm is returned on its own pixels.

    Returns
    -------
    `~specutils.Spectrum`
        One spectrum, or N in one object, with `~astropy.nddata.InverseVariance` and a
        mask, which is True where no arm is; ``meta`` and redshift are those of the first
        arm. Where that has DESI's ``fibermap``, meta also holds its ``id``, ``ra`` and
        ``dec``, each (N,), and exposures of one ``TARGETID`` are averaged into one row, in
        the order in which targets come first.

    Raises
    ------
    ValueError
        If the arms are not arms of the same objects, share no grid or lack uncertainties.

    Notes
    -----
    In an overlap :math:`f = \sum_a w_a f_a / \sum_a w_a` with :math:`w_a` the inverse
    variances, and the merged inverse variance is their sum.
    """
    arms = list(arms)
    if len(arms) != 1 and not are_arms(arms):
        msg = (
            f"arms holds {len(arms)} spectra that are no arms of the same objects; expected 2 "
            f"to 4 overlapping ones in order of wavelength with equal numbers of objects."
        )
        raise ValueError(msg)
    axes = [np.sort(arm.spectral_axis.to_value(u.AA)) for arm in arms]
    step, start = np.median(np.diff(axes[0])), min(axis[0] for axis in axes)
    pixels = [np.rint((axis - start) / step).astype(int) for axis in axes]
    if len(arms) == 1:  # nothing to share: its pixels may have any width
        pixels = [np.arange(len(axes[0]))]
    for number, (axis, pixel) in enumerate(zip(axes, pixels, strict=True)):
        off_grid = np.abs(start + step * pixel - axis).max() > OFF_GRID * step
        if off_grid and len(arms) > 1:
            msg = (
                f"arms[{number}] is not on the grid of arms[0] (step {step:.4g} Angstrom); "
                f"expected arms that share pixels where they overlap, as DESI's do. Resample "
                f"them to one grid first."
            )
            raise ValueError(msg)
    wavelength = start + step * np.arange(max(pixel[-1] for pixel in pixels) + 1)
    wavelength = axes[0] if len(arms) == 1 else wavelength
    unit = arms[0].flux.unit
    n_objects = np.atleast_2d(arms[0].flux).shape[0]
    weighted, total = np.zeros((2, n_objects, len(wavelength)))
    for number, (arm, pixel) in enumerate(zip(arms, pixels, strict=True)):
        ivar = inverse_variance(arm, arm.flux.unit, f"arms[{number}]")
        if ivar is None:
            msg = (
                f"arms[{number}] has no uncertainty; expected one for every arm: they are "
                f"averaged with inverse-variance weights."
            )
            raise ValueError(msg)
        ivar = ivar / arm.flux.unit.to(unit) ** 2
        flux = np.atleast_2d(arm.flux.to_value(unit))
        good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
        if arm.mask is not None:
            good &= ~np.atleast_2d(arm.mask).astype(bool)
        flux, ivar = np.where(good, flux, 0.0), np.where(good, ivar, 0.0)
        if arm.spectral_axis[0] > arm.spectral_axis[-1]:
            flux, ivar = flux[:, ::-1], ivar[:, ::-1]
        weighted[:, pixel] += flux * ivar
        total[:, pixel] += ivar
    identity, shape = {}, arms[0].flux.shape[:-1]
    fibermap = arms[0].meta.get("fibermap")
    if fibermap is not None and "TARGETID" in fibermap.colnames:
        targets, first, row = np.unique(
            np.asarray(fibermap["TARGETID"]), return_index=True, return_inverse=True
        )
        identity = {"id": np.asarray(fibermap["TARGETID"]).astype(str)}
        for key in ("ra", "dec"):
            if (name := find_column(fibermap.colnames, key)) is not None:
                identity[key] = np.asarray(fibermap[name], dtype=float)
        if len(targets) < n_objects:  # several exposures of a target
            order = np.argsort(first)
            place = np.argsort(order)[row]
            used = _good_exposures(fibermap, place)
            sums = np.zeros((2, len(targets), len(wavelength)))
            np.add.at(sums[0], place[used], weighted[used])
            np.add.at(sums[1], place[used], total[used])
            weighted, total = sums
            shape = (len(targets),)
            identity = {key: values[first[order]] for key, values in identity.items()}
    flux = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)
    shape = (*shape, len(wavelength))
    return Spectrum(
        flux=flux.reshape(shape) * unit,
        spectral_axis=wavelength * u.AA,
        uncertainty=InverseVariance(total.reshape(shape), unit=unit**-2),
        mask=(total <= 0).reshape(shape),
        redshift=arms[0].redshift,
        meta={**arms[0].meta, **identity},
    )


def _good_exposures(fibermap, place):
    """Return True for exposures of good fibers, and for all of a target that has no such."""
    if "FIBERSTATUS" not in fibermap.colnames:
        return np.ones(len(place), dtype=bool)
    good = (np.asarray(fibermap["FIBERSTATUS"], dtype=np.int64) & BAD_FIBER) == 0
    return good | ~np.isin(place, place[good])
