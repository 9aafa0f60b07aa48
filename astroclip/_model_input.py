"""Turn rows of objects into exactly the arrays that a model's encoders take."""

import dataclasses

import numpy as np

from astroclip.preparation.bands import center_crop, normalize_images
from astroclip.preparation.batches import SpectrumBatch
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.images import prepare_images
from astroclip.preparation.resampling import fill_bad_pixels, resample_flux
from astroclip.preparation.spectra import prepare_spectra
from astroclip.tables import Flag

__all__ = ["fit_batch", "network_arrays", "prepare_rows"]

SCALE_TOLERANCE = 0.02
LOW_COVERAGE = 0.5


def prepare_rows(objects, preset, *, modality, on_error, name="objects", **options):
    """Prepare astropy objects for a model.

    Parameters
    ----------
    objects : object or list
        One object, or a list of objects of one modality.
    preset : ModelPreset
        The model's description.
    modality : {"spectrum", "image"}
        What the objects are.
    on_error : {"raise", "flag"}
        What happens to objects that cannot be used.
    name : str, optional
        How errors name ``objects``.
    **options
        Further arguments of `prepare_spectra` or `prepare_images`.

    Returns
    -------
    SpectrumBatch or ImageBatch
    """
    if modality == "spectrum":
        return prepare_spectra(
            objects,
            wavelength=preset.spectrum.grid,
            frame=preset.spectrum.frame,
            on_error=on_error,
            argument=name,
            **options,
        )
    return prepare_images(
        objects,
        bands=preset.image.bands,
        pixel_scale=preset.image.pixel_scale,
        size=preset.image.crop,
        missing_bands="fill" if preset.image.missing_bands else "raise",
        on_error=on_error,
        argument=name,
        **options,
    )


def fit_batch(batch, preset, *, min_coverage, name="objects"):
    """Bring a batch of arrays onto a model's wavelengths, or to its bands.

    Parameters
    ----------
    batch : SpectrumBatch or ImageBatch
        Prepared objects.
    preset : ModelPreset
        The model's description.
    min_coverage : float
        Rows with a smaller fraction of valid data fail.
    name : str, optional
        How errors name the batch.

    Returns
    -------
    SpectrumBatch or ImageBatch
        The batch itself if it fits already.

    Raises
    ------
    ValueError
        If the batch's frame, bands, pixel scale or size cannot serve the model.
    """
    if isinstance(batch, SpectrumBatch):
        batch = _fit_spectra(batch, preset.spectrum, name)
    else:
        batch = _fit_images(batch, preset.image, name)
    return _flag_coverage(batch, min_coverage, name)


def _fit_spectra(batch, target, name):
    """Return a spectrum batch resampled to the model's grid unless it is on it."""
    if batch.frame != target.frame:
        msg = (
            f"{name} is a SpectrumBatch in the {batch.frame} frame; expected the "
            f"{target.frame} frame, which the model takes. Make it with "
            f"prepare_spectra(..., frame={target.frame!r})."
        )
        raise ValueError(msg)
    grid = wavelength_grid(target.grid)
    if batch.wavelength.shape == grid.shape and np.allclose(batch.wavelength, grid, rtol=1e-7):
        return batch
    new = resample_flux(batch.wavelength, batch.flux, batch.ivar, batch.mask, grid)
    mask = new.mask | batch.failed[:, None]
    return dataclasses.replace(
        batch,
        wavelength=grid,
        flux=fill_bad_pixels(new.flux, mask).astype(np.float32),
        ivar=np.where(mask, 0, new.ivar).astype(np.float32),
        mask=mask,
        coverage=(1 - mask.mean(axis=1)).astype(np.float32),
    )


def _fit_images(batch, target, name):
    """Return an image batch with the model's bands in the model's order."""
    if abs(batch.pixel_scale / target.pixel_scale - 1) > SCALE_TOLERANCE:
        msg = (
            f"{name} is an ImageBatch of {batch.pixel_scale:g} arcsec per pixel; expected "
            f"{target.pixel_scale:g}, which the model takes. Pass CCDData with world "
            f"coordinates, which are resampled, or resample the arrays."
        )
        raise ValueError(msg)
    size = batch.pixels.shape[-1]
    if size < target.crop:
        msg = (
            f"{name} is an ImageBatch of {size} x {size} pixels; expected at least "
            f"{target.crop} x {target.crop}, which the model takes. Cut larger images."
        )
        raise ValueError(msg)
    if tuple(batch.bands) == tuple(target.bands):
        return batch
    missing = [band for band in target.bands if band not in batch.bands]
    if missing and not target.missing_bands:
        msg = (
            f"{name} is an ImageBatch of the bands {', '.join(batch.bands)}; the model also "
            f"needs {', '.join(missing)}. Add them, or name a model that accepts missing bands."
        )
        raise ValueError(msg)
    shape = (len(batch), len(target.bands), size, size)
    pixels, mask = np.zeros(shape, np.float32), np.ones(shape, bool)
    for number, band in enumerate(target.bands):
        if band in batch.bands:
            source = batch.bands.index(band)
            pixels[:, number], mask[:, number] = batch.pixels[:, source], batch.mask[:, source]
    return dataclasses.replace(
        batch,
        pixels=pixels,
        mask=mask,
        bands=tuple(target.bands),
        coverage=(1 - mask.mean(axis=(1, 2, 3))).astype(np.float32),
        flags=batch.flags | (Flag.MISSING_BAND if missing else 0),
    )


def _flag_coverage(batch, min_coverage, name):
    """Return the batch with rows of low coverage flagged, or failed below ``min_coverage``."""
    flags, messages = batch.flags.copy(), batch.messages.copy()
    flags[(batch.coverage < 1) & ~batch.failed] |= Flag.BAD_PIXELS
    flags[batch.coverage < LOW_COVERAGE] |= Flag.LOW_COVERAGE
    for number in np.flatnonzero((batch.coverage < min_coverage) & ~batch.failed):
        flags[number] |= Flag.FAILED | Flag.NO_OVERLAP
        messages[number] = (
            f"{name}[{number}] has valid data in {100 * batch.coverage[number]:.1f} % of the "
            f"model's input; expected at least {100 * min_coverage:g} %. Lower min_coverage to "
            f"embed it all the same."
        )
    return dataclasses.replace(batch, flags=flags, messages=messages)


def network_arrays(batch, preset):
    """Return the arrays that the model's encoder of this modality takes.

    Parameters
    ----------
    batch : SpectrumBatch or ImageBatch
        Fitting the model.
    preset : ModelPreset
        The model's description.

    Returns
    -------
    tuple of `~numpy.ndarray`
        Flux, ivar and mask, each (N, P); or normalized pixels, in the channel order of the
        model's normalization, and mask, each (N, B, crop, crop).
    """
    if isinstance(batch, SpectrumBatch):
        return batch.flux, batch.ivar, batch.mask
    target = preset.image
    pixels = center_crop(batch.pixels, target.crop)
    pixels = normalize_images(pixels, bands=target.bands, normalization=target.normalization)
    return pixels, center_crop(batch.mask, target.crop)
