"""Batches of prepared spectra and images: plain arrays with ids, coverage and flags."""

import dataclasses

import numpy as np

from astroclip._validation import check_choice, check_length
from astroclip.tables import Flag

__all__ = ["ImageBatch", "SpectrumBatch", "concatenate"]

FRAMES = ("observed", "rest")


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


def _object_fields(n_objects, ids, coverage, flags, messages, ra, dec, redshift):
    """Return the per-object fields with defaults filled in and lengths checked."""
    ids = [f"{row}" for row in range(n_objects)] if ids is None else ids
    unknown = np.full(n_objects, np.nan)
    columns = {"ra": ra, "dec": dec, "redshift": redshift}
    return {
        "ids": np.asarray(check_length(ids, n_objects, "ids"), dtype=str),
        "coverage": np.asarray(coverage, dtype=np.float32),
        "flags": np.zeros(n_objects, np.int32) if flags is None else np.asarray(flags, np.int32),
        "messages": np.full(n_objects, "", dtype=object)
        if messages is None
        else np.asarray(messages, dtype=object),
        **{
            name: unknown.copy()
            if values is None
            else check_length(values, n_objects, name).astype(float)
            for name, values in columns.items()
        },
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
    frame: str = "observed"

    _shared = ("wavelength", "frame")

    @classmethod
    def from_arrays(
        cls, wavelength, flux, *, ivar=None, mask=None, ids=None, ra=None, dec=None,
        redshift=None, flags=None, messages=None, frame="observed",
    ):
        """Make a batch of arrays that are in the right units already.

        Parameters
        ----------
        wavelength : (P,) array-like
            Vacuum wavelength in Angstrom, strictly ascending.
        flux : (N, P) or (P,) array-like
            Flux density, 1e-17 erg/s/cm2/A.
        ivar : array-like of the same shape, optional
            Inverse variance. Estimated from the scatter of neighbouring pixels (and
            flagged) when absent.
        mask : bool array-like of the same shape, optional
            True where a pixel is bad; non-finite flux and zero ivar are bad as well.
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

        Examples
        --------
        >>> import numpy as np
        >>> from astroclip.preparation import SpectrumBatch
        >>> batch = SpectrumBatch.from_arrays(np.arange(4000.0, 4005.0), np.ones((2, 5)))
        >>> len(batch), batch.flux.shape
        (2, (2, 5))
        """
        from astroclip.preparation.resampling import estimate_ivar, fill_bad_pixels

        check_choice(frame, FRAMES, "frame")
        wavelength = np.asarray(wavelength, dtype=float)
        flux = np.atleast_2d(np.asarray(flux, dtype=np.float32))
        if wavelength.ndim != 1 or flux.ndim != 2 or flux.shape[1] != len(wavelength):
            msg = (
                f"flux has shape {flux.shape} and wavelength {wavelength.shape}; "
                f"expected (N, P) and (P,)."
            )
            raise ValueError(msg)
        if not (np.isfinite(wavelength).all() and (np.diff(wavelength) > 0).all()):
            msg = "wavelength must be finite and strictly ascending; sort it with its flux."
            raise ValueError(msg)
        mask = np.zeros(flux.shape, bool) if mask is None else np.atleast_2d(mask).astype(bool)
        flags = np.zeros(len(flux), np.int32) if flags is None else np.array(flags, np.int32)
        for name, values in (("ivar", ivar), ("mask", mask)):
            if values is not None and np.atleast_2d(values).shape != flux.shape:
                msg = (
                    f"{name} has shape {np.shape(values)}; expected that of flux, {flux.shape}."
                )
                raise ValueError(msg)
        mask = mask | ~np.isfinite(flux)
        if ivar is None:
            ivar = estimate_ivar(flux, mask)
            flags = flags | int(Flag.IVAR_ESTIMATED)
        ivar = np.atleast_2d(np.asarray(ivar, dtype=np.float32))
        mask |= ~(np.isfinite(ivar) & (ivar > 0))
        coverage = 1.0 - mask.mean(axis=1)
        return cls(
            wavelength=wavelength,
            flux=fill_bad_pixels(flux, mask),
            ivar=np.where(mask, np.float32(0), ivar),
            mask=mask,
            frame=frame,
            **_object_fields(len(flux), ids, coverage, flags, messages, ra, dec, redshift),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ImageBatch(_Batch):
    """Prepared images on one pixel scale.

    Attributes
    ----------
    pixels : (N, B, S, S) `numpy.ndarray`
        float32 nanomaggies per pixel, axes object, band, y, x; bad pixels are filled
        with the local background.
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
        """Make a batch of arrays that are in nanomaggies already.

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
        """
        pixels = np.asarray(pixels, dtype=np.float32)
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        bands = tuple(bands)
        if pixels.ndim != 4 or pixels.shape[1] != len(bands) or pixels.shape[2] != pixels.shape[3]:
            msg = (
                f"pixels has shape {pixels.shape}; expected (N, {len(bands)}, S, S) for bands "
                f"{bands}."
            )
            raise ValueError(msg)
        mask = np.zeros(pixels.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
        mask = mask.reshape(pixels.shape) | ~np.isfinite(pixels)
        coverage = 1.0 - mask.mean(axis=(1, 2, 3))
        return cls(
            pixels=np.where(mask, np.float32(0), pixels),
            mask=mask,
            bands=bands,
            pixel_scale=float(pixel_scale),
            **_object_fields(len(pixels), ids, coverage, flags, messages, ra, dec, redshift),
        )


def concatenate(batches):
    """Join batches of the same kind and grid into one.

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
                f"batches[{position}] differs from batches[0] in kind or in one of "
                f"{', '.join(first._shared)}; expected the same."
            )
            raise ValueError(msg)
    joined = {
        field.name: np.concatenate([getattr(batch, field.name) for batch in batches])
        for field in dataclasses.fields(first)
        if field.name not in first._shared
    }
    return dataclasses.replace(first, **joined)
