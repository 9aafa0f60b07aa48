"""Spectra in any unit and frame to model input on one wavelength grid."""

import dataclasses

import numpy as np
from astropy import units as u
from specutils import Spectrum, SpectrumCollection, SpectrumList
from specutils.utils.wcs_utils import air_to_vac

from astroclip._validation import check_choice, check_length, check_not_empty, item_name
from astroclip.exceptions import PreparationError
from astroclip.preparation.arms import are_arms, merge_arms
from astroclip.preparation.batches import FRAMES, SpectrumBatch
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.resampling import (
    estimate_ivar,
    fill_bad_pixels,
    pixel_edges,
    resample_flux,
    row_median,
)
from astroclip.preparation.uncertainties import inverse_variance
from astroclip.tables import Flag

__all__ = ["FLUX_UNIT", "prepare_spectra"]

FLUX_UNIT = 1e-17 * u.erg / (u.s * u.cm**2 * u.AA)
MEDIA = ("vacuum", "air")
LOWEST_REDSHIFT = -0.01  # blueshifts of nearby galaxies stay above it
WILD = 1e4  # times the median flux: no galaxy's line reaches it
LOW_COVERAGE = 0.5


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
    objects = _single_objects(spectra, argument)
    names = [item_name(argument, i if objects.many else None) for i in range(len(objects.items))]
    given = check_length(np.nan if redshift is None else redshift, len(names), "redshift")
    ids = _object_ids(objects.items, ids)
    results, errors, sources = [], [None] * len(names), {}
    for number, (item, name) in enumerate(zip(objects.items, names, strict=True)):
        try:
            arrays = _to_arrays(item, name, medium, sources)
            arrays.redshift = _find_redshift(item, float(given[number]), frame, name)
            results.append(arrays)
        except (PreparationError, u.UnitsError) as error:
            if on_error == "raise":
                raise
            results.append(None)
            errors[number] = error
    batch = _resample(results, errors, grid, frame)
    flags, messages = _judge(batch, errors, names, grid, min_coverage, on_error, results)
    return _assemble(batch, grid, frame, ids, flags, messages, objects.items, results)


# ---------------------------------------------------------------------- objects
@dataclasses.dataclass(frozen=True)
class _Objects:
    """Single spectra, each a `Spectrum` with 1-D flux or a row of one."""

    items: list
    many: bool


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
    if isinstance(spectra, list | tuple) and not isinstance(spectra, SpectrumList):
        check_not_empty(spectra, argument)
        items = [
            item
            for number, element in enumerate(spectra)
            for item in _element_objects(element, item_name(argument, number))
        ]
        return _Objects(items, many=True)
    items = _element_objects(spectra, argument)
    check_not_empty(items, argument)
    return _Objects(items, many=len(items) > 1)


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


# ---------------------------------------------------------------------- arrays
def _to_arrays(item, name, medium, sources):
    """Return an object's `_Arrays`; raise an error that names it if it has none.

    ``sources`` keeps the arrays of spectra with 2-D flux, whose rows share them.
    """
    spectrum, row = (item.spectrum, item.number) if isinstance(item, _Row) else (item, 0)
    if id(spectrum) not in sources:
        if not isinstance(item, _Row):
            sources = {}  # one object needs no keeping
        sources[id(spectrum)] = _source_arrays(spectrum, name, medium)
    wavelength, flux, ivar, mask, flags = sources[id(spectrum)]
    if mask[row].all():
        raise PreparationError(
            f"{name} has no valid pixel: all {mask[row].size} are masked, not finite or have "
            f"zero inverse variance; expected some good ones. Check its mask and uncertainty.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
        )
    return _Arrays(wavelength, flux[row], ivar[row], mask[row], np.nan, flags)


def _source_arrays(spectrum, name, medium):
    """Return wavelengths (P,), flux, ivar and mask (N, P) and flags of a whole Spectrum."""
    wavelength, order = _ascending_axis(spectrum, name)
    scale = _unit_scale(spectrum.flux.unit, wavelength, name)
    flux = np.atleast_2d(spectrum.flux.value)[:, order] * scale
    mask = ~np.isfinite(flux)
    if spectrum.mask is not None:
        mask |= np.atleast_2d(spectrum.mask)[:, order].astype(bool)
    ivar, flags = inverse_variance(spectrum, spectrum.flux.unit, name), 0
    if ivar is not None:
        ivar = np.atleast_2d(ivar)[:, order] / np.square(scale)
        mask |= ~(np.isfinite(ivar) & (ivar > 0))
    mask |= _wild(flux, mask)
    flux = np.where(mask, 0.0, flux)
    if ivar is None:
        flags = int(Flag.IVAR_ESTIMATED)
        ivar = estimate_ivar(flux, mask)
        ivar = np.where(ivar > 0, ivar, 1.0)  # a spectrum of zeros has no scatter
    if medium == "air":
        wavelength = air_to_vac(wavelength * u.AA, scheme="iteration").to_value(u.AA)
    return wavelength, flux, np.where(mask, 0.0, ivar), mask, flags


def _ascending_axis(spectrum, name):
    """Return the spectral axis in ascending Angstrom and the slice that sorts pixels."""
    axis = spectrum.spectral_axis
    if not axis.unit.is_equivalent(u.AA, equivalencies=u.spectral()):
        msg = (
            f"{name} has a spectral axis in {str(axis.unit)!r}; expected a wavelength, "
            f"frequency or energy. Set spectral_axis with such a unit."
        )
        raise u.UnitsError(msg)
    wavelength = axis.to_value(u.AA, equivalencies=u.spectral())
    if len(wavelength) < 6:
        raise PreparationError(
            f"{name} has {len(wavelength)} pixels; expected a spectrum of at least 6.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
        )
    steps = np.diff(wavelength)
    order = slice(None) if steps[0] > 0 else slice(None, None, -1)
    wavelength = np.ascontiguousarray(wavelength[order], dtype=float)
    steps = np.diff(wavelength)
    if not (np.isfinite(wavelength).all() and (steps > 0).all() and wavelength[0] > 0):
        at = int(np.argmax(~(steps > 0)))
        raise PreparationError(
            f"{name} has wavelengths that are not strictly monotonic: pixel {at} is at "
            f"{wavelength[at]:.6g} and pixel {at + 1} at {wavelength[at + 1]:.6g} Angstrom. "
            f"Sort them and average duplicates.",
            flag=Flag.FAILED | Flag.BAD_INPUT,
        )
    return wavelength, order


def _unit_scale(unit, wavelength, name):
    """Return the factor (scalar or per pixel) from ``unit`` to `FLUX_UNIT`."""
    density = u.erg / (u.s * u.cm**2 * u.AA)
    if unit.is_equivalent(density):
        return unit.to(FLUX_UNIT)
    equivalency = u.spectral_density(wavelength * u.AA)
    if unit == u.dimensionless_unscaled or not unit.is_equivalent(density, equivalency):
        found = "no unit" if unit == u.dimensionless_unscaled else f"unit {str(unit)!r}"
        msg = (
            f"{name} has flux with {found}; expected a flux density convertible to "
            f"1e-17 erg / (s cm2 AA), such as Jy or erg / (s cm2 Hz). Multiply the flux by its "
            f"unit before making the Spectrum."
        )
        raise u.UnitsError(msg)
    return np.ones(len(wavelength)) * (1 * unit).to_value(FLUX_UNIT, equivalency)


def _wild(flux, mask):
    """Return True (N, P) at pixels ten thousand times the median flux: artefacts, not light."""
    size = np.abs(np.where(mask, 0.0, flux))
    typical = row_median(np.where(mask, np.nan, size))[:, None]
    return size > WILD * np.fmax(typical, 1e-6 * size.max(axis=1, keepdims=True))


def _find_redshift(item, given, frame, name):
    """Return an object's redshift, NaN if unknown; raise if it is impossible or needed."""
    redshift = given
    if np.isnan(redshift):
        spectrum = item.spectrum if isinstance(item, _Row) else item
        own = np.asarray(spectrum.redshift, dtype=float)
        own = own[item.number] if own.ndim and isinstance(item, _Row) else own
        redshift = float(own) if own.size == 1 and own != 0 else np.nan
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
    """Resampled arrays of all objects, zero where one failed."""

    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray


def _resample(results, errors, grid, frame):
    """Resample all objects, those that share a wavelength grid in one go."""
    shape = (len(results), len(grid))
    batch = _Prepared(
        np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.ones(shape, bool)
    )
    groups = {}
    for number, arrays in enumerate(results):
        if errors[number] is None:
            shift = 1.0 + arrays.redshift if frame == "rest" else 1.0
            key = (id(arrays.wavelength), shift)
            if key not in groups:
                content = (arrays.wavelength.tobytes(), shift)
                groups[key] = groups.setdefault(content, [])
            groups[key].append(number)
    seen = set()
    for key, numbers in groups.items():
        if id(numbers) not in seen:
            seen.add(id(numbers))
            _resample_group(batch, results, numbers, grid, key[1])
    return batch


def _resample_group(batch, results, numbers, grid, shift):
    """Resample the objects ``numbers``, which share wavelengths and redshift factor."""
    members = [results[number] for number in numbers]
    flux, ivar, mask = (
        np.stack([getattr(member, name) for member in members]) for name in ("flux", "ivar", "mask")
    )
    new = resample_flux(members[0].wavelength / shift, flux * shift, ivar / shift**2, mask, grid)
    batch.flux[numbers] = fill_bad_pixels(new.flux, new.mask)
    batch.ivar[numbers] = new.ivar
    batch.mask[numbers] = new.mask


def _judge(batch, errors, names, grid, min_coverage, on_error, results):
    """Return flags and messages; too little coverage is a failure."""
    n_objects = len(names)
    flags = np.array([0 if r is None else r.flags for r in results], dtype=np.int32)
    messages = np.full(n_objects, "", dtype=object)
    coverage = 1.0 - batch.mask.mean(axis=1)
    edges = pixel_edges(grid)
    for number in np.flatnonzero(coverage < LOW_COVERAGE):
        if errors[number] is None and coverage[number] < min_coverage:
            span = results[number].wavelength[[0, -1]]
            errors[number] = PreparationError(
                f"{names[number]} covers {100 * coverage[number]:.1f} % of the model's range "
                f"{edges[0]:.0f}-{edges[-1]:.0f} Angstrom with valid data (its own range is "
                f"{span[0]:.0f}-{span[1]:.0f}, observed frame, vacuum); expected at least "
                f"{100 * min_coverage:g} %. Lower min_coverage to embed it all the same.",
                flag=Flag.FAILED | Flag.NO_OVERLAP,
            )
            if on_error == "raise":
                raise errors[number]
        flags[number] |= Flag.LOW_COVERAGE
    flags[(coverage < 1) & (coverage > 0)] |= Flag.BAD_PIXELS
    for number, error in enumerate(errors):
        if error is not None:
            flags[number] = getattr(error, "flag", 0) or (Flag.FAILED | Flag.BAD_INPUT)
            messages[number] = str(error)
            batch.flux[number], batch.ivar[number], batch.mask[number] = 0, 0, True
    return flags, messages


def _assemble(batch, grid, frame, ids, flags, messages, items, results):
    """Return the `SpectrumBatch` of prepared arrays and the objects' meta."""
    position = {
        name: np.array(
            [np.nan if (value := _meta_value(item, name)) is None else value for item in items],
            dtype=float,
        )
        for name in ("ra", "dec")
    }
    redshift = [np.nan if arrays is None else arrays.redshift for arrays in results]
    return SpectrumBatch(
        wavelength=grid,
        flux=batch.flux,
        ivar=batch.ivar,
        mask=batch.mask,
        coverage=(1.0 - batch.mask.mean(axis=1)).astype(np.float32),
        ids=ids,
        flags=flags,
        messages=messages,
        redshift=np.array(redshift, dtype=float),
        frame=frame,
        **position,
    )
