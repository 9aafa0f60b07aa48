"""Spectra in any unit and frame to model input on one wavelength grid."""

import dataclasses
import functools

import numpy as np
from astropy import units as u
from specutils import Spectrum, SpectrumCollection, SpectrumList
from specutils.utils.wcs_utils import air_to_vac

from astroclip._validation import check_choice, check_length, check_not_empty, item_name
from astroclip.exceptions import PreparationError
from astroclip.preparation.arms import are_arms, merge_arms
from astroclip.preparation.batches import (
    FLUX_UNIT,
    FRAMES,
    SpectrumBatch,
    concatenate,
    object_numbers,
)
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.noise import inverse_variance
from astroclip.preparation.resampling import (
    estimate_ivar,
    fill_bad_pixels,
    pixel_edges,
    resample_flux,
    row_median,
)
from astroclip.tables import Flag

__all__ = ["FLUX_UNIT", "prepare_spectra"]

MEDIA = ("vacuum", "air")
LOWEST_REDSHIFT = -0.01  # blueshifts of nearby galaxies stay above it
WILD = 1e4  # times the median flux: no galaxy's line reaches it
LOW_COVERAGE = 0.5
BLOCK = 32  # spectra prepared at a time: their arrays stay in the cache


@dataclasses.dataclass(eq=False)
class _Arrays:
    """One object's spectrum as arrays, ascending in vacuum Angstrom, observed frame."""

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    redshift: float
    flags: int


def prepare_spectra(
    spectra,
    *,
    wavelength="desi",
    frame="observed",
    redshift=None,
    medium="vacuum",
    ids=None,
    min_coverage=0.1,
    on_error="raise",
    argument="spectra",
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
    medium : str
        ``"vacuum"`` or ``"air"``: what the input's wavelengths are in. specutils does
        not record it; DESI and SDSS use vacuum.
    ids : (N,) sequence of str, optional
        Defaults to ``meta["id"]`` or the position.
    min_coverage : float
        Objects with a smaller fraction of valid pixels on the grid fail.
    on_error : str
        ``"raise"`` at the first object that cannot be used, or ``"flag"`` it and go on.
    argument : str
        How messages name ``spectra``.

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
    check_choice(medium, MEDIA, "medium")
    check_choice(on_error, ("raise", "flag"), "on_error")
    grid = wavelength_grid(wavelength)
    items = _single_objects(spectra, argument)
    many = len(items) > 1 or isinstance(spectra, list | tuple)
    names = [item_name(argument, i if many else None) for i in range(len(items))]
    check_not_empty(items, argument)
    given = object_numbers(redshift, len(items), "redshift")
    ids = _object_ids(items, ids)
    blocks = []
    for first in range(0, len(items), BLOCK):
        block = slice(first, first + BLOCK)
        arrays, errors = _convert(items[block], names[block], given[block], medium, frame)
        _raise_first(errors, on_error)
        prepared = _resample(arrays, grid, frame)
        _check_coverage(prepared, errors, arrays, names[block], grid, min_coverage)
        _raise_first(errors, on_error)
        blocks.append(_assemble(prepared, errors, arrays, items[block], ids[block], grid, frame))
    return concatenate(blocks)


def _convert(items, names, given, medium, frame):
    """Return every object's `_Arrays` (None where it failed) and its error (or None)."""
    results, errors, sources = [None] * len(items), [None] * len(items), {}
    for number, (item, name) in enumerate(zip(items, names, strict=True)):
        try:
            arrays = _to_arrays(item, name, medium, sources, len(items))
            arrays.redshift = _find_redshift(item, float(given[number]), frame, name)
            results[number] = arrays
        except (PreparationError, u.UnitsError) as error:
            errors[number] = error
    return results, errors


def _raise_first(errors, on_error):
    """Raise the first error there is, if asked to."""
    for error in errors:
        if error is not None and on_error == "raise":
            raise error


# ---------------------------------------------------------------------- objects
@dataclasses.dataclass(frozen=True)
class _Row:
    """One row of a `Spectrum` with 2-D flux, without the cost of slicing it."""

    spectrum: Spectrum
    number: int


def _rows(spectrum, name):
    """Return the single objects of a spectrum with 1-D or 2-D flux."""
    if spectrum.flux.ndim == 1:
        return [spectrum]
    if spectrum.flux.ndim > 2:
        msg = (
            f"{name} has flux of shape {spectrum.flux.shape}; expected (P,) or (N, P), one "
            f"object per row. Reshape the cube to two axes."
        )
        raise ValueError(msg)
    return [_Row(spectrum, number) for number in range(spectrum.flux.shape[0])]


def _element_objects(element, name):
    """Return the single objects of one element of the argument."""
    if isinstance(element, _Row):
        return [element]
    if isinstance(element, SpectrumCollection):
        return [element[row] for row in range(element.shape[0])]
    if isinstance(element, SpectrumList):
        check_not_empty(element, name)
        if are_arms(element):
            return _rows(merge_arms(element), name)
        return [row for spectrum in element for row in _rows(spectrum, name)]
    if isinstance(element, Spectrum):
        return _rows(element, name)
    msg = (
        f"{name} is of type {type(element).__name__}; expected a specutils Spectrum "
        f"(Spectrum1D), SpectrumList or SpectrumCollection. Build one with "
        f"Spectrum(flux=..., spectral_axis=...)."
    )
    raise TypeError(msg)


def _single_objects(spectra, argument):
    """Return all single objects of the argument in order."""
    if not isinstance(spectra, list | tuple) or isinstance(spectra, SpectrumList):
        return _element_objects(spectra, argument)
    check_not_empty(spectra, argument)
    return [
        item
        for number, element in enumerate(spectra)
        for item in _element_objects(element, item_name(argument, number))
    ]


def _object_ids(items, ids):
    """Return ids as given, from the spectra's meta, or their positions."""
    if ids is not None:
        return np.asarray(check_length(ids, len(items), "ids"), dtype=str)
    found = [_meta_value(item, "id") for item in items]
    return np.array([str(i if value is None else value) for i, value in enumerate(found)])


def _meta_value(item, key):
    """Return a value of the object's meta: its own, or its row's; None if absent."""
    spectrum = item.spectrum if isinstance(item, _Row) else item
    value = spectrum.meta.get(key)
    if value is None or not isinstance(item, _Row) or np.ndim(value) == 0:
        return None if isinstance(item, _Row) and np.ndim(value) == 0 else value
    return value[item.number]


def _degrees(value):
    """Return a coordinate found in an object's meta in degrees, NaN if it is none."""
    try:
        return np.nan if value is None else float(u.Quantity(value, u.deg).value)
    except (TypeError, ValueError):  # UnitConversionError is both
        return np.nan


# ---------------------------------------------------------------------- arrays
def _to_arrays(item, name, medium, sources, n_rows):
    """Return an object's `_Arrays`; raise an error that names it if it has none.

    ``sources`` keeps what objects share: wavelengths, and the arrays of ``n_rows`` rows of
    spectra with 2-D flux, which are converted together.
    """
    if isinstance(item, _Row):
        first = sources.get(id(item.spectrum), (-n_rows,))[0]
        if not first <= item.number < first + n_rows:
            rows = slice(item.number, item.number + n_rows)
            converted = _source_arrays(item.spectrum, rows, name, medium, sources)
            sources[id(item.spectrum)] = (item.number, converted)
        first, (wavelength, flux, ivar, mask, flags) = sources[id(item.spectrum)]
        row = item.number - first
    else:
        arrays = _source_arrays(item, slice(None), name, medium, sources)
        row, (wavelength, flux, ivar, mask, flags) = 0, arrays
    if mask[row].all():
        raise PreparationError(
            f"{name} has no valid pixel: all {mask[row].size} are masked, not finite or have "
            f"zero inverse variance; expected some good ones. Check its mask and uncertainty.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
        )
    return _Arrays(wavelength, flux[row], ivar[row], mask[row], np.nan, flags)


def _source_arrays(spectrum, rows, name, medium, sources):
    """Return wavelengths (P,), flux, ivar and mask (N, P) and flags of rows of a Spectrum."""
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
    mask |= _wild(flux, mask)
    flux[mask] = 0.0
    if ivar is None:
        flags = int(Flag.IVAR_ESTIMATED)
        ivar = estimate_ivar(flux, mask)
        ivar = np.where(ivar > 0, ivar, 1.0)  # a spectrum of zeros has no scatter
    ivar[mask] = 0.0
    return wavelength, flux, ivar, mask, flags


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
            f"{name} has {len(wavelength)} pixels; expected a spectrum of at least 6.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
        )
    order = slice(None) if wavelength[0] < wavelength[1] else slice(None, None, -1)
    wavelength = np.ascontiguousarray(wavelength[order], dtype=float)
    if wavelength[0] <= 0:
        raise PreparationError(
            f"{name} has wavelengths down to {wavelength[0]:.6g} Angstrom; expected positive "
            f"ones. Check spectral_axis.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
        )
    steps = np.diff(wavelength)
    if not (np.isfinite(wavelength).all() and (steps > 0).all()):
        at = int(np.argmax(~(steps > 0)))
        raise PreparationError(
            f"{name} has wavelengths that are not strictly monotonic: pixel {at} is at "
            f"{wavelength[at]:.6g} and pixel {at + 1} at {wavelength[at + 1]:.6g} Angstrom. "
            f"Sort them and average duplicates.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
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
    integrated = unit.is_equivalent(u.erg / (u.s * u.cm**2))  # nu f_nu, or a line's flux?
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


def _wild(flux, mask):
    """Return True (N, P) at pixels ten thousand times the median flux: artefacts, not light."""
    size = np.abs(flux)
    size[mask] = 0.0
    wild = np.zeros(flux.shape, dtype=bool)
    # where most pixels are above the largest over WILD so is the median, and none is wild
    ordinary = (size > size.max(axis=1, keepdims=True) / WILD).sum(axis=1)
    suspects = np.flatnonzero(2 * ordinary <= (~mask).sum(axis=1))
    if len(suspects):
        typical = row_median(np.where(mask[suspects], np.nan, size[suspects]))
        floor = np.fmax(typical, 1e-6 * size[suspects].max(axis=1))
        wild[suspects] = size[suspects] > WILD * floor[:, None]
    return wild


def _own_redshift(item):
    """Return the redshift a Spectrum carries, NaN for 0, which means unknown."""
    spectrum = item.spectrum if isinstance(item, _Row) else item
    if not np.any(spectrum.radial_velocity.value):  # far quicker to get than redshift
        return np.nan
    own = np.asarray(spectrum.redshift, dtype=float)
    own = own[item.number] if own.ndim and isinstance(item, _Row) else own
    return float(own) if own.size == 1 and own != 0 else np.nan


def _find_redshift(item, given, frame, name):
    """Return an object's redshift, NaN if unknown; raise if it is impossible or needed."""
    redshift = given
    if np.isnan(redshift):
        redshift = _own_redshift(item)
    if np.isinf(redshift) or redshift < LOWEST_REDSHIFT:
        raise PreparationError(
            f"{name} has redshift {redshift:g}; expected a finite one of at least "
            f"{LOWEST_REDSHIFT:g}. Pass redshift=nan where it is unknown.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
        )
    if frame == "rest" and np.isnan(redshift):
        raise PreparationError(
            f"{name} has no redshift, and the rest frame needs one; expected the argument "
            f"redshift or a nonzero Spectrum.redshift (its default 0 means unknown).",
            flag=Flag.FAILED | Flag.MISSING_REDSHIFT,
        )
    return redshift


# ---------------------------------------------------------------------- resampling
@dataclasses.dataclass(eq=False)
class _Prepared:
    """Resampled arrays of a block's objects, zero and masked where one failed."""

    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray


def _resample(results, grid, frame):
    """Resample all objects, those that share wavelengths and redshift factor in one go."""
    shape = (len(results), len(grid))
    prepared = _Prepared(*np.zeros((2, *shape), np.float32), np.ones(shape, bool))
    groups = {}
    for number, arrays in enumerate(results):
        if arrays is not None:
            shift = 1.0 + arrays.redshift if frame == "rest" else 1.0
            groups.setdefault((id(arrays.wavelength), shift), []).append(number)
    for (_, shift), numbers in groups.items():
        flux, ivar, mask = (
            np.stack([getattr(results[number], name) for number in numbers])
            for name in ("flux", "ivar", "mask")
        )
        if shift != 1.0:
            flux, ivar = flux * shift, ivar / shift**2
        wavelength = results[numbers[0]].wavelength / shift
        if len(numbers) == 1:
            wavelength = wavelength[None]  # not worth a shared operator
        new = resample_flux(wavelength, flux, ivar, mask, grid)
        prepared.flux[numbers] = fill_bad_pixels(new.flux, new.mask)
        prepared.ivar[numbers] = new.ivar
        prepared.mask[numbers] = new.mask
    return prepared


def _check_coverage(prepared, errors, results, names, grid, min_coverage):
    """Add an error for every object that covers too little of the grid."""
    edges = pixel_edges(grid)
    coverage = 1.0 - prepared.mask.mean(axis=1)
    least = f"at least {100 * min_coverage:g} %" if min_coverage > 0 else "some"
    for number in np.flatnonzero((coverage < min_coverage) | (coverage == 0)):
        if errors[number] is None:
            span = results[number].wavelength[[0, -1]]
            errors[number] = PreparationError(
                f"{names[number]} covers {100 * coverage[number]:.1f} % of the model's range "
                f"{edges[0]:.0f}-{edges[-1]:.0f} Angstrom with valid data (its own range is "
                f"{span[0]:.0f}-{span[1]:.0f}, observed frame, vacuum); expected {least}. "
                f"Lower min_coverage to embed it all the same.",
                flag=Flag.FAILED | Flag.NO_OVERLAP,
            )


def _flags(coverage, errors, results):
    """Return the flags of a block's objects."""
    flags = np.array([0 if arrays is None else arrays.flags for arrays in results], np.int32)
    flags[coverage < LOW_COVERAGE] |= Flag.LOW_COVERAGE
    flags[coverage < 1] |= Flag.BAD_PIXELS
    for number, error in enumerate(errors):
        if error is not None:
            flags[number] = getattr(error, "flag", 0) or (Flag.FAILED | Flag.BAD_INPUT)
    return flags


def _assemble(prepared, errors, results, items, ids, grid, frame):
    """Return the `SpectrumBatch` of a block's prepared arrays and its objects' meta."""
    failed = [number for number, error in enumerate(errors) if error is not None]
    prepared.flux[failed], prepared.ivar[failed], prepared.mask[failed] = 0, 0, True
    coverage = 1.0 - prepared.mask.mean(axis=1)
    position = {
        name: np.array([_degrees(_meta_value(item, name)) for item in items])
        for name in ("ra", "dec")
    }
    redshift = [np.nan if arrays is None else arrays.redshift for arrays in results]
    return SpectrumBatch(
        wavelength=grid,
        flux=prepared.flux,
        ivar=prepared.ivar,
        mask=prepared.mask,
        coverage=coverage.astype(np.float32),
        ids=ids,
        flags=_flags(coverage, errors, results),
        messages=np.array(["" if error is None else str(error) for error in errors], object),
        redshift=np.array(redshift, dtype=float),
        frame=frame,
        **position,
    )
