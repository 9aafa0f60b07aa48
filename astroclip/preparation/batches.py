"""Batches of prepared spectra and images: plain arrays with ids, coverage and flags."""

import dataclasses

import numpy as np
from astropy import units as u

from astroclip._validation import check_choice, check_length, float_values, plain_values
from astroclip.exceptions import PreparationError
from astroclip.preparation.noise import PLAUSIBLE_FLUX, judge_spectra, plain_and_mask
from astroclip.preparation.resampling import estimate_ivar, fill_bad_pixels, row_counts
from astroclip.tables import Flag

__all__ = [
    "FLUX_UNIT",
    "ImageBatch",
    "SCALE_TOLERANCE",
    "SpectrumBatch",
    "bad_fraction",
    "concatenate",
    "coverage_error",
    "coverage_flags",
    "fill_with_median",
    "implausible_message",
    "object_fields",
    "object_numbers",
]

FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
FRAMES = ("observed", "rest")
OBJECT_UNITS = {"redshift": u.one, "ra": u.deg, "dec": u.deg}
LOW_COVERAGE = 0.5  # fraction of the model's input below which a row is flagged
BAD_PIXELS = 0.05  # fraction of an object's own pixels above which a row is flagged
SCALE_TOLERANCE = 0.02  # relative difference of pixel scales that is left alone


class _Batch:
    """What both batches share: length, rows, joining."""

    _shared = ()  # fields that are not one value per object

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, rows):
        if isinstance(rows, int | np.integer):
            rows = [rows]
        changed = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name not in self._shared
        }
        return dataclasses.replace(self, **changed)

    @property
    def failed(self):
        """True (N,) for objects that could not be prepared."""
        return (self.flags & int(Flag.FAILED)) != 0


def object_numbers(values, n_objects, name):
    """Return one float per object, a single one repeated and NaN where ``values`` is None."""
    if values is None:
        return np.full(n_objects, np.nan)
    values = plain_values(values, OBJECT_UNITS[name], name)
    return check_length(float_values(values, name), n_objects, name)


def coverage_flags(coverage, bad):
    """Return the flags that an object's coverage and its share of bad pixels imply.

    Parameters
    ----------
    coverage : float or (N,) array-like
        Fraction of the model's input that holds valid data.
    bad : float or (N,) array-like
        Fraction of the pixels of the object's own range or footprint that are bad.

    Returns
    -------
    int32 `numpy.ndarray`
    """
    flags = np.where(np.asarray(bad) > BAD_PIXELS, int(Flag.BAD_PIXELS), 0)
    low = np.asarray(coverage) < LOW_COVERAGE
    return (flags | np.where(low, int(Flag.LOW_COVERAGE), 0)).astype(np.int32)


def bad_fraction(mask):
    """Return the share of bad pixels of each object's own range or footprint.

    Parameters
    ----------
    mask : (N, P) or (N, B, S, S) bool `numpy.ndarray`
        True where a pixel is bad or not covered.

    Returns
    -------
    (N,) `numpy.ndarray`
        For spectra of the pixels between the first and the last valid one, for images of the
        bands that hold data; one without a valid pixel.
    """
    if mask.ndim == 4:
        covered = ~mask.all(axis=(2, 3))
        n_bands = np.maximum(covered.sum(axis=1), 1)
        return 1.0 - (~mask).mean(axis=(2, 3)).sum(axis=1) / n_bands
    n_good = mask.shape[1] - row_counts(mask)
    first, last = mask.argmin(axis=1), mask.shape[1] - mask[:, ::-1].argmin(axis=1)
    return 1.0 - n_good / (last - first)


def implausible_message(typical, name, advice):
    """Return what is said of a spectrum whose median flux density cannot be so."""
    low, high = PLAUSIBLE_FLUX
    return (
        f"{name} has a median flux density of {typical:.2g} in units of {FLUX_UNIT}; expected "
        f"{low:g} to {high:g}, from the faintest galaxies to the brightest stars. Its unit is "
        f"probably off by a power of ten, such as 1e-17 missing or applied twice: {advice}"
    )


def coverage_error(
    coverage, min_coverage, name, *, of, advice="Lower min_coverage to embed it all the same."
):
    """Return the error of an object with too little valid data, None if it has enough.

    Parameters
    ----------
    coverage : float
        Fraction of valid data, 0 to 1. Without any, an object fails at every limit.
    min_coverage : float
    name : str
        How the error names the object.
    of : str
        What it is the fraction of.
    advice : str
        One thing to do.
    """
    if coverage > 0 and coverage >= min_coverage:
        return None
    least = f"at least {100 * min_coverage:g} %" if min_coverage > 0 else "some"
    return PreparationError(
        f"{name} has valid data in {100 * coverage:.1f} % of {of}; expected {least}. {advice}",
        flag=Flag.FAILED | Flag.NO_OVERLAP,
    )


def fill_with_median(pixels, mask):
    """Fill bad pixels with the median of their plane's good ones, or zero, in place.

    Parameters
    ----------
    pixels : (..., S, S) `numpy.ndarray`
    mask : (..., S, S) bool `numpy.ndarray`
        True where a pixel is bad.
    """
    for plane in np.argwhere(mask.any(axis=(-2, -1))):
        values, bad = pixels[tuple(plane)], mask[tuple(plane)]
        values[bad] = 0.0 if bad.all() else np.median(values[~bad])


def object_fields(n_objects, ids, coverage, flags, messages, ra, dec, redshift):
    """Return the per-object fields with defaults filled in and lengths checked."""
    ids = [f"{row}" for row in range(n_objects)] if ids is None else ids
    flags = 0 if flags is None else flags
    messages = "" if messages is None else messages
    columns = {"ra": ra, "dec": dec, "redshift": redshift}
    return {
        "ids": np.asarray(check_length(ids, n_objects, "ids"), dtype=str),
        "coverage": np.asarray(coverage, dtype=np.float32),
        "flags": check_length(flags, n_objects, "flags").astype(np.int32),
        "messages": check_length(messages, n_objects, "messages").astype(object),
        **{name: object_numbers(values, n_objects, name) for name, values in columns.items()},
    }


@dataclasses.dataclass(frozen=True, eq=False)
class SpectrumBatch(_Batch):
    """Prepared spectra on one wavelength grid.

    Attributes
    ----------
    wavelength : (P,) `numpy.ndarray`
        Vacuum wavelength in Angstrom, ascending, in the batch's frame.
    flux : (N, P) `numpy.ndarray`
        float32 flux density, 1e-17 erg/s/cm2/A; interpolated across bad pixels.
    ivar : (N, P) `numpy.ndarray`
        float32 inverse variance of ``flux``; zero in bad pixels.
    mask : (N, P) `numpy.ndarray`
        True where a pixel is bad or not covered.
    coverage : (N,) `numpy.ndarray`
        Fraction of pixels that hold valid data.
    ids : (N,) `numpy.ndarray` of str
    flags : (N,) `numpy.ndarray` of int32
        Bits of `astroclip.tables.Flag`.
    messages : (N,) `numpy.ndarray` of str
        Why an object failed.
    ra, dec : (N,) `numpy.ndarray`
        ICRS degrees; NaN where unknown.
    redshift : (N,) `numpy.ndarray`
        NaN where unknown.
    medium : (N,) `numpy.ndarray` of str
        What the object's own wavelengths were in: ``"air"``, ``"vacuum"``, or
        ``"vacuum (assumed)"`` where nothing said so; empty where it is unknown.
    frame : str
        ``"observed"`` or ``"rest"``.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    coverage: np.ndarray
    ids: np.ndarray
    flags: np.ndarray
    messages: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    redshift: np.ndarray
    medium: np.ndarray
    frame: str = "observed"

    _shared = ("wavelength", "frame")

    @classmethod
    def from_arrays(
        cls, wavelength, flux, *, ivar=None, mask=None, ids=None, ra=None, dec=None,
        redshift=None, flags=None, messages=None, frame="observed",
    ):
        """Make a batch of arrays that are in the right units, or are quantities.

        Parameters
        ----------
        wavelength : (P,) array-like
            Vacuum wavelength in Angstrom, strictly ascending.
        flux : (N, P) or (P,) array-like
            Flux density, 1e-17 erg/s/cm2/A.
        ivar : array-like of the same shape, optional
            Inverse variance. Estimated from the scatter of neighboring pixels (and
            flagged) when absent.
        mask : bool array-like of the same shape, optional
            True where a pixel is bad; so are pixels with a value that is not finite, without a
            positive ivar, or that ``noise.judge_spectra`` finds unusable.
        ids, ra, dec, redshift, flags, messages : (N,) sequence, optional
        frame : str
            ``"observed"`` or ``"rest"``.

        Returns
        -------
        `SpectrumBatch`

        Raises
        ------
        ValueError
            If shapes do not fit, wavelengths do not ascend or the frame is unknown.
        PreparationError
            If the values of every row are implausible in these units; a few such rows among
            others fail, with a message.
        `~astropy.units.UnitsError`
            If a quantity does not convert to these units.

        Examples
        --------
        >>> import numpy as np
        >>> from astroclip.preparation import SpectrumBatch
        >>> batch = SpectrumBatch.from_arrays(np.arange(4000.0, 4005.0), np.ones((2, 5)))
        >>> len(batch), batch.flux.shape
        (2, (2, 5))
        """
        check_choice(frame, FRAMES, "frame")
        wavelength = np.asarray(plain_values(wavelength, u.AA, "wavelength"), dtype=float)
        flux, missing = plain_and_mask(plain_values(flux, FLUX_UNIT, "flux"))
        if flux.dtype.kind not in "buif":
            msg = f"flux is of type {flux.dtype}; expected real numbers. Convert it."
            raise TypeError(msg)
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and bad
            flux = np.atleast_2d(flux.astype(np.float32))
        if wavelength.ndim != 1 or flux.ndim != 2 or flux.shape[1] != len(wavelength):
            msg = (
                f"flux has shape {flux.shape} and wavelength {wavelength.shape}; "
                f"expected (N, P) and (P,)."
            )
            raise ValueError(msg)
        if not (np.isfinite(wavelength).all() and (np.diff(wavelength) > 0).all()):
            msg = "wavelength must be finite and strictly ascending; sort it with its flux."
            raise ValueError(msg)
        ivar = plain_values(ivar, FLUX_UNIT**-2, "ivar")
        mask = np.zeros(flux.shape, bool) if mask is None else np.atleast_2d(mask).astype(bool)
        for name, values in (("ivar", ivar), ("mask", mask)):
            if values is not None and np.atleast_2d(values).shape != flux.shape:
                msg = (
                    f"{name} has shape {np.shape(values)}; expected that of flux, {flux.shape}."
                )
                raise ValueError(msg)
        mask = mask | ~np.isfinite(flux)
        if missing is not None:
            mask |= np.atleast_2d(missing)
        flags = check_length(0 if flags is None else flags, len(flux), "flags").astype(np.int32)
        if ivar is not None:
            ivar, missing = plain_and_mask(ivar)
            with np.errstate(over="ignore"):
                ivar = np.atleast_2d(ivar.astype(np.float32))
            mask |= ~(np.isfinite(ivar) & (ivar > 0))
            if missing is not None:
                mask |= np.atleast_2d(missing)
            ivar = np.where(mask, np.float32(0), ivar)
        flux = np.where(mask, np.float32(0), flux)
        judgment = judge_spectra(flux, ivar, mask)
        mask |= judgment.unusable
        estimated = judgment.empty
        if ivar is None:
            ivar, estimated = np.zeros(flux.shape, np.float32), np.ones(len(flux), bool)
        if estimated.any():
            ivar[estimated] = estimate_ivar(flux[estimated], mask[estimated])
            mask |= ~(ivar > 0)
        coverage = 1.0 - mask.mean(axis=1)
        batch = cls(
            wavelength=wavelength,
            flux=fill_bad_pixels(flux, mask),
            ivar=np.where(mask, np.float32(0), ivar),
            mask=mask,
            medium=np.full(len(flux), "vacuum"),
            frame=frame,
            **object_fields(
                len(flux), ids, coverage, flags | np.where(estimated, int(Flag.IVAR_ESTIMATED), 0),
                messages, ra, dec, redshift,
            ),
        )
        return batch._without(judgment.implausible)

    def _without(self, typical):
        """Return the batch with rows of implausible flux failed; raise if no other is left."""
        wrong = np.flatnonzero(np.isfinite(typical) & ~self.failed)
        if not len(wrong):
            return self
        advice = f"pass flux and ivar with their units, such as flux * u.Unit({str(FLUX_UNIT)!r})."
        fields = ("flux", "ivar", "mask", "coverage", "flags", "messages")
        changed = {name: getattr(self, name).copy() for name in fields}
        flags, messages = changed["flags"], changed["messages"]
        for name, value in (("flux", 0), ("ivar", 0), ("mask", True), ("coverage", 0)):
            changed[name][wrong] = value
        for row in wrong:
            flags[row] |= int(Flag.FAILED | Flag.BAD_INPUT)
            messages[row] = implausible_message(typical[row], f"flux[{row}]", advice)
        if self.failed.sum() + len(wrong) == len(self):
            raise PreparationError(messages[wrong[0]])
        return dataclasses.replace(self, **changed)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatch(_Batch):
    """Prepared images on one pixel scale.

    Attributes
    ----------
    pixels : (N, B, S, S) `numpy.ndarray`
        float32 nanomaggies per pixel, axes object, band, y, x; bad pixels hold the median
        of their band's good ones, or zero if there is none.
    mask : (N, B, S, S) `numpy.ndarray`
        True where a pixel is bad, outside the image, or its band is missing.
    bands : tuple of str
    pixel_scale : float
        Arcsec per pixel.
    coverage, ids, flags, messages, ra, dec, redshift
        As in `SpectrumBatch`.
    """

    pixels: np.ndarray
    mask: np.ndarray
    bands: tuple
    pixel_scale: float
    coverage: np.ndarray
    ids: np.ndarray
    flags: np.ndarray
    messages: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    redshift: np.ndarray

    _shared = ("bands", "pixel_scale")

    @classmethod
    def from_arrays(
        cls, pixels, *, bands=("g", "r", "z"), pixel_scale=0.262, mask=None, ids=None,
        ra=None, dec=None, redshift=None, flags=None, messages=None,
    ):
        """Make a batch of arrays that are in nanomaggies, or are quantities.

        Parameters
        ----------
        pixels : (N, B, S, S) or (B, S, S) array-like
            Nanomaggies per pixel, axes object, band, y, x.
        bands : sequence of str
        pixel_scale : float
            Arcsec per pixel.
        mask : bool array-like of the same shape, optional
            True where a pixel is bad; non-finite pixels are bad as well.
        ids, ra, dec, redshift, flags, messages : (N,) sequence, optional

        Returns
        -------
        `ImageBatch`

        Raises
        ------
        ValueError
            If shapes do not fit.
        `~astropy.units.UnitsError`
            If a quantity does not convert to nanomaggies.
        """
        pixels = np.array(plain_values(pixels, u.nmgy, "pixels"), dtype=np.float32)
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        bands = tuple(bands)
        if pixels.ndim != 4 or pixels.shape[1] != len(bands) or pixels.shape[2] != pixels.shape[3]:
            msg = (
                f"pixels has shape {pixels.shape}; expected (N, {len(bands)}, S, S) for bands "
                f"{bands}."
            )
            raise ValueError(msg)
        mask = np.zeros(pixels.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
        if mask.shape not in (pixels.shape, pixels.shape[1:]) or mask.size != pixels.size:
            msg = f"mask has shape {mask.shape}; expected that of pixels, {pixels.shape}."
            raise ValueError(msg)
        mask = mask.reshape(pixels.shape) | ~np.isfinite(pixels)
        fill_with_median(pixels, mask)
        coverage = 1.0 - mask.mean(axis=(1, 2, 3))
        return cls(
            pixels=pixels,
            mask=mask,
            bands=bands,
            pixel_scale=float(pixel_scale),
            **object_fields(len(pixels), ids, coverage, flags, messages, ra, dec, redshift),
        )


def concatenate(batches):
    """Join batches of the same modality and grid into one.

    Parameters
    ----------
    batches : sequence of `SpectrumBatch` or of `ImageBatch`

    Returns
    -------
    `SpectrumBatch` or `ImageBatch`

    Raises
    ------
    ValueError
        If there is none, or their grids, frames, bands or scales differ.
    """
    if not batches:
        msg = "batches is empty; pass at least one batch."
        raise ValueError(msg)
    first = batches[0]
    for position, batch in enumerate(batches):
        same = type(batch) is type(first) and all(
            np.array_equal(getattr(batch, name), getattr(first, name)) for name in first._shared
        )
        if not same:
            msg = (
                f"batches[{position}] differs from batches[0] in modality or in one of "
                f"{', '.join(first._shared)}; expected the same."
            )
            raise ValueError(msg)
    joined = {
        field.name: np.concatenate([getattr(batch, field.name) for batch in batches])
        for field in dataclasses.fields(first)
        if field.name not in first._shared
    }
    return dataclasses.replace(first, **joined)
