"""Spectra in any unit and frame to model input on one wavelength grid."""

import functools
from typing import NamedTuple

import numpy as np
from astropy import units as u

from astroclip._validation import check_choice, check_length
from astroclip.exceptions import PreparationError
from astroclip.preparation.batches import (
    FLUX_UNIT,
    FRAMES,
    SpectrumBatch,
    bad_fraction,
    concatenate,
    coverage_error,
    coverage_flags,
    implausible_message,
    object_numbers,
)
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.media import ASSUMED, MEDIA, declared_medium, vacuum_wavelength
from astroclip.preparation.noise import inverse_variance, judge_spectra
from astroclip.preparation.objects import sort_objects
from astroclip.preparation.resampling import (
    estimate_ivar,
    fill_bad_pixels,
    pixel_edges,
    resample_flux,
    row_counts,
)
from astroclip.preparation.unit_strings import given_unit
from astroclip.tables import Flag

__all__ = ["prepare_spectra"]

LOWEST_REDSHIFT = -0.01  # blueshifts of nearby galaxies stay above it
LOGARITHMS = ((3.0, 5.0, "log10"), (6.9, 11.5, "the natural logarithm"))  # of 1000-100,000 A
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
    unit = given_unit(unit)
    grid = wavelength_grid(wavelength)
    items = list(sort_objects(spectra, name="spectra", modality="spectrum"))
    redshift = object_numbers(redshift, len(items), "redshift")
    ids = [item.id for item in items] if ids is None else check_length(ids, len(items), "ids")
    ids = np.asarray(ids, dtype=str)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(items), BLOCK)]
    return concatenate([
        _prepare_block(
            items[block], ids[block], redshift[block], grid=grid, frame=frame, medium=medium,
            unit=unit, min_coverage=min_coverage, on_error=on_error,
        )
        for block in blocks
    ])


def _prepare_block(items, ids, redshift, *, grid, frame, medium, unit, min_coverage, on_error):
    """Return the `SpectrumBatch` of a few single objects."""
    n_objects = len(items)
    arrays, errors, sources = [None] * n_objects, [None] * n_objects, {}
    redshift = redshift.copy()
    for number, item in enumerate(items):
        try:
            converted = _object_arrays(item, medium, unit, sources, n_objects)
            redshift[number] = _find_redshift(item, redshift[number], frame)
            arrays[number] = converted
            continue
        except (PreparationError, u.UnitsError) as known:
            error = known
        except Exception as unexpected:  # a fault of one object costs the others nothing
            error = PreparationError(
                f"{item.name} cannot be prepared: {type(unexpected).__name__}: {unexpected}. "
                f"Check its flux, spectral_axis, uncertainty, mask and meta."
            )
            error.__cause__ = unexpected
        if on_error == "raise":
            raise error
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

    coverage = 1.0 - row_counts(mask) / len(grid)
    flags = coverage_flags(coverage, bad_fraction(mask))
    edges = pixel_edges(grid)
    for number, converted in enumerate(arrays):
        if converted is not None:
            low, high = converted.wavelength[[0, -1]]
            error = coverage_error(
                coverage[number], min_coverage, items[number].name, **_range_advice(low, high),
                of=f"the model's range {edges[0]:.0f}-{edges[-1]:.0f} Angstrom (its own range is "
                f"{low:.5g}-{high:.5g}, observed frame, vacuum)",
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
        medium=np.array(["" if one is None else one.medium for one in arrays], dtype="<U16"),
        frame=frame,
    )


def _range_advice(low, high):
    """Return what to do about a range (Angstrom) that is far from visible light."""
    for factor, unit in ((10, "nm"), (1e4, "um")):
        if factor * low > 2000 and factor * high < 30_000:
            return {"advice": f"If its wavelengths are in {unit}, give them that unit."}
    return {}


def _degrees(value):
    """Return a coordinate found in an object's meta in degrees, NaN if it is none."""
    try:
        return np.nan if value is None else float(u.Quantity(value, u.deg).value)
    except (TypeError, ValueError):  # UnitConversionError is both
        return np.nan


# ---------------------------------------------------------------------- arrays
class _Arrays(NamedTuple):
    """Spectra as arrays, ascending in vacuum Angstrom, observed frame, in `FLUX_UNIT`.

    Those of one Spectrum have flux, ivar and mask (N, P), flags and typical (N,); those of one
    object have an axis less. ``typical`` is the median flux where it is implausible.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    flags: np.ndarray
    typical: np.ndarray
    medium: str


def _object_arrays(item, medium, unit, sources, n_rows):
    """Return an object's `_Arrays`; raise an error that names it if it has none.

    ``sources`` keeps what objects share: wavelengths, and the arrays of ``n_rows`` rows of
    spectra with 2-D flux, which are converted together.
    """
    if isinstance(item.data, PreparationError):
        raise item.data
    if item.row is None:
        arrays = _spectrum_arrays(item.data, slice(None), item.name, medium, unit, sources)
        row = 0
    else:
        first, arrays = sources.get(id(item.data), (-n_rows, None))
        if not first <= item.row < first + n_rows:
            first, rows = item.row, slice(item.row, item.row + n_rows)
            arrays = _spectrum_arrays(item.data, rows, item.name, medium, unit, sources)
            sources[id(item.data)] = (first, arrays)
        row = item.row - first
    wavelength, flux, ivar, mask, flags, typical, medium = arrays
    if mask[row].all():
        raise PreparationError(
            f"{item.name} has no valid pixel: all {mask[row].size} are masked, not finite or have "
            f"zero inverse variance; expected some good ones. Check its mask and uncertainty, and "
            f"leave an uncertainty out that is not known."
        )
    if np.isfinite(typical[row]):
        message = implausible_message(
            typical[row], item.name, "correct the unit of its flux, or pass unit= if it has none."
        )
        raise PreparationError(message)
    return _Arrays(wavelength, flux[row], ivar[row], mask[row], flags[row], np.nan, medium)


def _spectrum_arrays(spectrum, rows, name, medium, unit, sources):
    """Return the `_Arrays` of rows of a Spectrum."""
    values, given_unit, axis = spectrum.data, spectrum.unit, spectrum.spectral_axis_index
    if values.ndim > 2:
        raise PreparationError(
            f"{name} has flux of shape {values.shape}; expected (n_pixels,) for one object or "
            f"(n_objects, n_pixels) for many. Reshape the cube to two axes."
        )
    if values.dtype.kind not in "buif":
        raise PreparationError(
            f"{name} has flux of type {values.dtype}; expected real numbers. Convert it."
        )
    if values.dtype.kind != "f" or values.dtype.itemsize < 4:
        values = values.astype(float)
    wavelength, order, own_medium = _ascending_axis(spectrum, name, medium, sources)
    scale = _unit_scale(given_unit, unit, wavelength, name)

    def arranged(values):
        values = np.moveaxis(values, axis, -1) if values.ndim > 1 else values
        return np.atleast_2d(values)[rows, order]

    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is bad
        flux = arranged(values) * scale
    mask = ~np.isfinite(flux)
    if spectrum.mask is not None:
        mask |= arranged(np.asarray(spectrum.mask)).astype(bool)  # any bit of a bit mask
    ivar = inverse_variance(spectrum, given_unit, name, rows=rows, axis=axis)
    if ivar is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            ivar = ivar[:, order] / np.square(scale)
        mask |= ~(np.isfinite(ivar) & (ivar > 0))
    elif spectrum.uncertainty is not None:
        raise PreparationError(
            f"{name} has an uncertainty of type {type(spectrum.uncertainty).__name__}, which does "
            f"not say what its numbers are; expected StdDevUncertainty, VarianceUncertainty or "
            f"InverseVariance of astropy.nddata. Make it one of these, or None."
        )
    flux[mask] = 0.0
    if ivar is not None:
        ivar[mask] = 0.0
    judgment = judge_spectra(flux, ivar, mask)
    if judgment.unusable.any():
        mask |= judgment.unusable
        flux[mask] = 0.0
    estimated = judgment.empty if ivar is not None else np.ones(len(flux), dtype=bool)
    if estimated.any():
        scatter = estimate_ivar(flux[estimated], mask[estimated])
        ivar = np.zeros(flux.shape) if ivar is None else ivar
        ivar[estimated] = np.where(scatter > 0, scatter, 1.0)  # a spectrum of zeros has none
    ivar[mask] = 0.0
    flags = np.where(estimated, int(Flag.IVAR_ESTIMATED), 0)
    return _Arrays(
        wavelength, flux, ivar, mask, flags, judgment.implausible, own_medium
    )


@functools.lru_cache(maxsize=64)
def _axis_type(unit):
    """Return "length", "spectral" (a frequency, energy or wavenumber), "speed" or None."""
    if unit.is_equivalent(u.AA):
        return "length"
    if unit.is_equivalent(u.AA, equivalencies=u.spectral()):
        return "spectral"
    return "speed" if unit.is_equivalent(u.km / u.s) else None


@functools.lru_cache(maxsize=64)
def _density_factor(unit):
    """Return the factor to `FLUX_UNIT` from a flux per wavelength, None for other units."""
    return unit.to(FLUX_UNIT) if unit.is_equivalent(FLUX_UNIT) else None


def _ascending_axis(spectrum, name, medium, sources):
    """Return ascending vacuum Angstrom, the slice that sorts pixels, and the medium found."""
    axis = spectrum.spectral_axis
    own_medium = medium or declared_medium(spectrum, name) or ASSUMED
    axis_type = _axis_type(axis.unit)
    if axis_type == "speed" and axis.doppler_rest is not None:
        axis, axis_type = axis.to(u.AA), "length"  # velocities along a line of known wavelength
    if axis_type not in ("length", "spectral"):
        raise u.UnitsError(_axis_message(axis.unit, name))
    if axis_type == "spectral":
        own_medium = "vacuum"  # frequencies, energies and wavenumbers are those of vacuum
    key = (axis.unit, own_medium, axis.value.tobytes())
    if key not in sources:
        # plain quantities convert far quicker than spectral axes
        wavelength = axis.view(u.Quantity).to_value(u.AA, equivalencies=u.spectral())
        ascends = len(wavelength) < 2 or wavelength[0] <= wavelength[-1]
        order = slice(None) if ascends else slice(None, None, -1)
        wavelength = np.ascontiguousarray(wavelength[order], dtype=float)
        _check_ascending(wavelength, name)
        sources[key] = (
            vacuum_wavelength(wavelength) if own_medium == "air" else wavelength, order
        )
    return *sources[key], own_medium


def _axis_message(unit, name):
    """Return what is said of a spectral axis in a unit that is no wavelength's."""
    message = (
        f"{name} has a spectral axis in {str(unit)!r}; expected a wavelength, frequency or "
        f"energy. "
    )
    if unit == u.A:
        return message + "'A' is ampere in astropy: write 'Angstrom' or 'AA'."
    if unit.is_equivalent(u.km / u.s):
        return message + (
            "Give the Spectrum its rest_value and velocity_convention, or convert its axis to "
            "Angstrom."
        )
    if unit == u.pix:
        return message + "Set spectral_axis or a wcs: pixel numbers are no wavelengths."
    return message + "Set spectral_axis with such a unit."


def _check_ascending(wavelength, name):
    """Raise PreparationError unless wavelengths (Angstrom) are those of a spectrum."""
    if len(wavelength) < 6:
        raise PreparationError(
            f"{name} has {len(wavelength)} pixels; expected a spectrum of at least 6."
        )
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
    for low, high, what in LOGARITHMS:
        if low <= wavelength[0] and wavelength[-1] <= high:
            raise PreparationError(
                f"{name} has wavelengths from {wavelength[0]:.5g} to {wavelength[-1]:.5g} "
                f"Angstrom; expected those of visible light. They look like {what} of the "
                f"wavelength: pass the wavelength itself."
            )


def _unit_scale(unit, plain_unit, wavelength, name):
    """Return the factor (scalar or per pixel) from ``unit`` to `FLUX_UNIT`.

    Flux that is a plain number, or times a factor such as 1e-17, is in ``plain_unit``.
    """
    logarithmic = isinstance(unit, u.function.FunctionUnitBase)
    if plain_unit is not None and not logarithmic and unit.is_equivalent(u.one):
        unit = unit * plain_unit
    factor = None if logarithmic else _density_factor(unit)
    if factor is not None:
        return factor
    equivalency = u.spectral_density(wavelength * u.AA)
    # nu f_nu converts and a line's flux has the same unit: ambiguous, so neither is taken
    integrated = not logarithmic and unit.is_equivalent(u.erg / (u.s * u.cm**2))
    if logarithmic or integrated or not unit.is_equivalent(FLUX_UNIT, equivalency):
        raise u.UnitsError(_flux_message(unit, name))
    return np.ones(len(wavelength)) * (1 * unit).to_value(FLUX_UNIT, equivalency)


def _flux_message(unit, name):
    """Return what is said of flux in a unit that is no flux density's."""
    found = "no unit" if unit == u.one else f"unit {str(unit)!r}"
    message = (
        f"{name} has flux with {found}; expected a flux density convertible to "
        f"1e-17 erg / (s cm2 AA), such as Jy or erg / (s cm2 Hz). "
    )
    if isinstance(unit, u.function.FunctionUnitBase) or unit in (u.mag, u.dex, u.dB):
        return message + "Magnitudes and other logarithms are not linear: convert the flux to Jy."
    if unit.is_equivalent(u.one):
        return message + (
            "Pass unit='1e-17 erg / (s cm2 AA)', or what it is in, or multiply the flux by its "
            "unit before making the Spectrum."
        )
    if u.A in unit.bases:
        return message + "'A' is ampere in astropy: write 'Angstrom' or 'AA'."
    return message + "Calibrate it in such a unit before making the Spectrum."


def _find_redshift(item, redshift, frame):
    """Return an object's redshift: given or its own; raise if it is impossible or needed."""
    spectrum = item.data
    # radial_velocity is far quicker to get than redshift; 0 means unknown
    if np.isnan(redshift) and np.any(spectrum.radial_velocity.value):
        own = np.asarray(spectrum.redshift, dtype=float)
        if own.size > 1:
            n_objects = 1 if item.row is None else spectrum.data.size // len(spectrum.spectral_axis)
            if own.shape != (n_objects,):
                raise PreparationError(
                    f"{item.name} has a Spectrum.redshift of shape {own.shape}; expected one "
                    f"value for each of {n_objects} objects. Pass the argument redshift."
                )
            own = own[item.row]
        own = float(own.item())
        redshift = own if own != 0 else np.nan
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
