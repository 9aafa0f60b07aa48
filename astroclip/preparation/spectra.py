"""Spectra in any unit and frame to model input on one wavelength grid."""

import functools
from typing import NamedTuple

import numpy as np
from astropy import units as u
from specutils.utils.wcs_utils import air_to_vac

from astroclip._validation import check_choice, check_length
from astroclip.exceptions import PreparationError
from astroclip.preparation.batches import (
    FLUX_UNIT,
    FRAMES,
    SpectrumBatch,
    concatenate,
    coverage_error,
    coverage_flags,
    object_numbers,
)
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.noise import inverse_variance
from astroclip.preparation.objects import sort_objects
from astroclip.preparation.resampling import (
    estimate_ivar,
    fill_bad_pixels,
    pixel_edges,
    resample_flux,
    row_median,
)
from astroclip.tables import Flag

__all__ = ["prepare_spectra"]

MEDIA = ("vacuum", "air")
LOWEST_REDSHIFT = -0.01  # blueshifts of nearby galaxies stay above it
ARTEFACT = 1e4  # times the median flux: no galaxy's line reaches it
BLOCK = 32  # spectra prepared at a time: their arrays stay in the processor's cache


def prepare_spectra(
    spectra,
    *,
    wavelength="desi",
    frame="observed",
    redshift=None,
    medium=None,
    unit=None,
    ids=None,
    min_coverage=0.1,
    on_error="raise",
):
    """Put spectra on one wavelength grid, in one unit and frame.

    Parameters
    ----------
    spectra : `~specutils.Spectrum` (Spectrum1D), `~specutils.SpectrumList`, \
            `~specutils.SpectrumCollection`, or a list of these
        Flux densities convertible to erg/s/cm2/A (per wavelength or frequency), spectral
        axes convertible to Angstrom (wavelength, frequency, energy), ascending or
        descending. A `~specutils.Spectrum` with 2-D flux holds one object per row. A
        `~specutils.SpectrumList` of spectrograph arms is merged (see `merge_arms`).
        Uncertainties of any kind become inverse variances; True in the mask, zero ivar
        and non-finite values are bad pixels.
    wavelength : str or (P,) array-like
        Name of a grid or vacuum Angstrom; see `wavelength_grid`.
    frame : str
        ``"observed"``, or ``"rest"``: wavelengths divided by 1 + z, flux densities
        multiplied by it.
    redshift : float or (N,) array-like, optional
        Overrides ``Spectrum.redshift``, whose 0 means unknown. NaN is unknown.
    medium : str, optional
        ``"vacuum"`` or ``"air"``: what the input's wavelengths are in; by default what a
        spectrum declares, and vacuum if it declares nothing.
    unit : `~astropy.units.Unit` or str, optional
        Unit of flux that has none of its own.
    ids : (N,) sequence of str, optional
        Defaults to ``meta["id"]`` or the position.
    min_coverage : float
        Objects with a smaller fraction of valid pixels on the grid fail.
    on_error : str
        ``"raise"`` at the first object that cannot be used, or ``"flag"`` it and go on.

    Returns
    -------
    `~astroclip.preparation.SpectrumBatch`
        One row per object in input order; with ``on_error="flag"`` failed ones are zero,
        masked, flagged `~astroclip.tables.Flag.FAILED` and say why in ``messages``.

    Raises
    ------
    TypeError
        If an element is no spectrum.
    ValueError
        If there is none, or frame, medium, ids or redshift do not fit.
    `~astropy.units.UnitsError`, `~astroclip.exceptions.PreparationError`
        If an object cannot be used and ``on_error`` is ``"raise"``.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy import units as u
    >>> from specutils import Spectrum
    >>> from astroclip.preparation import prepare_spectra
    >>> spectrum = Spectrum(
    ...     flux=np.ones(500) * u.mJy, spectral_axis=np.linspace(0.35, 1.0, 500) * u.um
    ... )
    >>> batch = prepare_spectra(spectrum, wavelength="log")
    >>> batch.flux.shape, float(batch.coverage[0])
    ((1, 4360), 1.0)
    """
    check_choice(frame, FRAMES, "frame")
    if medium is not None:
        check_choice(medium, MEDIA, "medium")
    check_choice(on_error, ("raise", "flag"), "on_error")
    grid = wavelength_grid(wavelength)
    items = list(sort_objects(spectra, name="spectra", modality="spectrum"))
    redshift = object_numbers(redshift, len(items), "redshift")
    ids = [item.id for item in items] if ids is None else check_length(ids, len(items), "ids")
    ids = np.asarray(ids, dtype=str)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(items), BLOCK)]
    return concatenate([
        _prepare_block(
            items[block], ids[block], redshift[block], grid=grid, frame=frame, medium=medium,
            min_coverage=min_coverage, on_error=on_error,
        )
        for block in blocks
    ])


def _prepare_block(items, ids, redshift, *, grid, frame, medium, min_coverage, on_error):
    """Return the `SpectrumBatch` of a few single objects."""
    n_objects = len(items)
    arrays, errors, sources = [None] * n_objects, [None] * n_objects, {}
    redshift = redshift.copy()
    for number, item in enumerate(items):
        try:
            converted = _object_arrays(item, medium, sources, n_objects)
            redshift[number] = _find_redshift(item, redshift[number], frame)
            arrays[number] = converted
        except (PreparationError, u.UnitsError) as error:
            if on_error == "raise":
                raise
            errors[number], redshift[number] = error, np.nan

    # objects that share wavelengths and redshift factor are resampled in one go
    groups = {}
    for number, converted in enumerate(arrays):
        if converted is not None:
            shift = 1.0 + float(redshift[number]) if frame == "rest" else 1.0
            groups.setdefault((id(converted.wavelength), shift), []).append(number)
    flux, ivar = np.zeros((2, n_objects, len(grid)), np.float32)
    mask = np.ones((n_objects, len(grid)), bool)
    for (_, shift), numbers in groups.items():
        given_flux, given_ivar, given_mask = (
            np.stack([getattr(arrays[number], name) for number in numbers])
            for name in ("flux", "ivar", "mask")
        )
        if shift != 1.0:  # the same light in narrower pixels: f_rest = (1 + z) f_observed
            given_flux, given_ivar = given_flux * shift, given_ivar / shift**2
        wavelength = arrays[numbers[0]].wavelength / shift
        if len(numbers) == 1:
            wavelength = wavelength[None]  # not worth a shared operator
        new = resample_flux(wavelength, given_flux, given_ivar, given_mask, grid)
        flux[numbers] = fill_bad_pixels(new.flux, new.mask)
        ivar[numbers], mask[numbers] = new.ivar, new.mask

    coverage = 1.0 - mask.mean(axis=1)
    flags = coverage_flags(coverage)
    edges = pixel_edges(grid)
    for number, converted in enumerate(arrays):
        if converted is not None:
            low, high = converted.wavelength[[0, -1]]
            error = coverage_error(
                coverage[number], min_coverage, items[number].name,
                of=f"the model's range {edges[0]:.0f}-{edges[-1]:.0f} Angstrom (its own range is "
                f"{low:.0f}-{high:.0f}, observed frame, vacuum)",
            )
            if error is not None and on_error == "raise":
                raise error
            errors[number] = error
            flags[number] |= converted.flags
    failed = [number for number, error in enumerate(errors) if error is not None]
    flux[failed], ivar[failed], mask[failed], coverage[failed] = 0, 0, True, 0
    for number in failed:
        flags[number] = getattr(errors[number], "flag", Flag.FAILED | Flag.BAD_INPUT)
    return SpectrumBatch(
        wavelength=grid,
        flux=flux,
        ivar=ivar,
        mask=mask,
        coverage=coverage.astype(np.float32),
        ids=ids,
        flags=flags,
        messages=np.array(["" if error is None else str(error) for error in errors], object),
        ra=np.array([_degrees(item.meta("ra")) for item in items]),
        dec=np.array([_degrees(item.meta("dec")) for item in items]),
        redshift=redshift,
        frame=frame,
    )


def _degrees(value):
    """Return a coordinate found in an object's meta in degrees, NaN if it is none."""
    try:
        return np.nan if value is None else float(u.Quantity(value, u.deg).value)
    except (TypeError, ValueError):  # UnitConversionError is both
        return np.nan


# ---------------------------------------------------------------------- arrays
class _Arrays(NamedTuple):
    """Spectra as arrays, ascending in vacuum Angstrom, observed frame, in `FLUX_UNIT`.

    Those of one Spectrum have flux, ivar and mask (N, P), those of one object (P,).
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    flags: int


def _object_arrays(item, medium, sources, n_rows):
    """Return an object's `_Arrays`; raise an error that names it if it has none.

    ``sources`` keeps what objects share: wavelengths, and the arrays of ``n_rows`` rows of
    spectra with 2-D flux, which are converted together.
    """
    if isinstance(item.data, PreparationError):
        raise item.data
    if item.row is None:
        arrays, row = _spectrum_arrays(item.data, slice(None), item.name, medium, sources), 0
    else:
        first, arrays = sources.get(id(item.data), (-n_rows, None))
        if not first <= item.row < first + n_rows:
            first, rows = item.row, slice(item.row, item.row + n_rows)
            arrays = _spectrum_arrays(item.data, rows, item.name, medium, sources)
            sources[id(item.data)] = (first, arrays)
        row = item.row - first
    wavelength, flux, ivar, mask, flags = arrays
    if mask[row].all():
        raise PreparationError(
            f"{item.name} has no valid pixel: all {mask[row].size} are masked, not finite or have "
            f"zero inverse variance; expected some good ones. Check its mask and uncertainty."
        )
    return _Arrays(wavelength, flux[row], ivar[row], mask[row], flags)


def _spectrum_arrays(spectrum, rows, name, medium, sources):
    """Return the `_Arrays` of rows of a Spectrum."""
    axis, given = spectrum.spectral_axis, spectrum.flux
    key = (axis.unit, axis.value.tobytes())
    if key not in sources:
        sources[key] = _ascending_axis(axis, name, medium)
    wavelength, order = sources[key]
    scale = _unit_scale(given.unit, wavelength, name)
    flux = np.atleast_2d(given.value)[rows, order] * scale
    mask = ~np.isfinite(flux)
    if spectrum.mask is not None:
        bad = np.broadcast_to(spectrum.mask, given.shape)
        mask |= np.atleast_2d(bad)[rows, order].astype(bool)
    ivar, flags = inverse_variance(spectrum, given.unit, name, rows=rows), 0
    if ivar is not None:
        ivar = ivar[:, order] / np.square(scale)
        mask |= ~(np.isfinite(ivar) & (ivar > 0))
    mask |= _artefacts(flux, mask)
    flux[mask] = 0.0
    if ivar is None:
        flags = int(Flag.IVAR_ESTIMATED)
        ivar = estimate_ivar(flux, mask)
        ivar = np.where(ivar > 0, ivar, 1.0)  # a spectrum of zeros has no scatter
    ivar[mask] = 0.0
    return _Arrays(wavelength, flux, ivar, mask, flags)


@functools.lru_cache(maxsize=64)
def _is_spectral(unit):
    """Return whether a unit is that of a wavelength, frequency or energy."""
    return unit.is_equivalent(u.AA, equivalencies=u.spectral())


@functools.lru_cache(maxsize=64)
def _density_factor(unit):
    """Return the factor to `FLUX_UNIT` from a flux per wavelength, None for other units."""
    return unit.to(FLUX_UNIT) if unit.is_equivalent(FLUX_UNIT) else None


def _ascending_axis(axis, name, medium):
    """Return a spectral axis in ascending vacuum Angstrom and the slice that sorts pixels."""
    if not _is_spectral(axis.unit):
        msg = (
            f"{name} has a spectral axis in {str(axis.unit)!r}; expected a wavelength, "
            f"frequency or energy. Set spectral_axis with such a unit."
        )
        raise u.UnitsError(msg)
    # plain quantities convert far quicker than spectral axes
    wavelength = axis.view(u.Quantity).to_value(u.AA, equivalencies=u.spectral())
    if len(wavelength) < 6:
        raise PreparationError(
            f"{name} has {len(wavelength)} pixels; expected a spectrum of at least 6."
        )
    order = slice(None) if wavelength[0] < wavelength[1] else slice(None, None, -1)
    wavelength = np.ascontiguousarray(wavelength[order], dtype=float)
    if wavelength[0] <= 0:
        raise PreparationError(
            f"{name} has wavelengths down to {wavelength[0]:.6g} Angstrom; expected positive "
            f"ones. Check spectral_axis."
        )
    steps = np.diff(wavelength)
    if not (np.isfinite(wavelength).all() and (steps > 0).all()):
        at = int(np.argmax(~(steps > 0)))
        raise PreparationError(
            f"{name} has wavelengths that are not strictly monotonic: pixel {at} is at "
            f"{wavelength[at]:.6g} and pixel {at + 1} at {wavelength[at + 1]:.6g} Angstrom. "
            f"Sort them and average duplicates."
        )
    if medium == "air":
        wavelength = air_to_vac(wavelength * u.AA, scheme="iteration").to_value(u.AA)
    return wavelength, order


def _unit_scale(unit, wavelength, name):
    """Return the factor (scalar or per pixel) from ``unit`` to `FLUX_UNIT`."""
    factor = _density_factor(unit)
    if factor is not None:
        return factor
    equivalency = u.spectral_density(wavelength * u.AA)
    # nu f_nu converts and a line's flux has the same unit: ambiguous, so neither is taken
    integrated = unit.is_equivalent(u.erg / (u.s * u.cm**2))
    plain = unit == u.dimensionless_unscaled
    if plain or integrated or not unit.is_equivalent(FLUX_UNIT, equivalency):
        found = "no unit" if plain else f"unit {str(unit)!r}"
        msg = (
            f"{name} has flux with {found}; expected a flux density convertible to "
            f"1e-17 erg / (s cm2 AA), such as Jy or erg / (s cm2 Hz). Multiply the flux by its "
            f"unit before making the Spectrum."
        )
        raise u.UnitsError(msg)
    return np.ones(len(wavelength)) * (1 * unit).to_value(FLUX_UNIT, equivalency)


def _artefacts(flux, mask):
    """Return True (N, P) at pixels ten thousand times the median flux: artefacts, not light."""
    size = np.abs(flux)
    size[mask] = 0.0
    artefacts = np.zeros(flux.shape, dtype=bool)
    # where most pixels are above the largest over ARTEFACT so is the median, and none is one
    ordinary = (size > size.max(axis=1, keepdims=True) / ARTEFACT).sum(axis=1)
    suspects = np.flatnonzero(2 * ordinary <= (~mask).sum(axis=1))
    if len(suspects):
        typical = row_median(np.where(mask[suspects], np.nan, size[suspects]))
        floor = np.fmax(typical, 1e-6 * size[suspects].max(axis=1))
        artefacts[suspects] = size[suspects] > ARTEFACT * floor[:, None]
    return artefacts


def _find_redshift(item, redshift, frame):
    """Return an object's redshift: given or its own; raise if it is impossible or needed."""
    spectrum = item.data
    # radial_velocity is far quicker to get than redshift; 0 means unknown
    if np.isnan(redshift) and np.any(spectrum.radial_velocity.value):
        own = np.asarray(spectrum.redshift, dtype=float)
        own = own[item.row] if own.ndim and item.row is not None else own
        redshift = float(own) if own.size == 1 and own != 0 else np.nan
    if np.isinf(redshift) or redshift < LOWEST_REDSHIFT:
        raise PreparationError(
            f"{item.name} has redshift {redshift:g}; expected a finite one of at least "
            f"{LOWEST_REDSHIFT:g}. Pass redshift=nan where it is unknown."
        )
    if frame == "rest" and np.isnan(redshift):
        raise PreparationError(
            f"{item.name} has no redshift, and the rest frame needs one; expected the argument "
            f"redshift or a nonzero Spectrum.redshift (its default 0 means unknown).",
            flag=Flag.FAILED | Flag.MISSING_REDSHIFT,
        )
    return redshift
