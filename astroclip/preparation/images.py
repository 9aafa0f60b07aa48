"""Images of several bands to model input: centered, on one pixel scale, in nanomaggies."""

import dataclasses
import warnings

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData
from astropy.stats import SigmaClip, mad_std
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCSCOMPARE_ANCILLARY
from astropy.wcs.utils import proj_plane_pixel_scales

from astroclip._validation import check_choice, check_integer
from astroclip.exceptions import PreparationError
from astroclip.preparation.bands import canonical_band, header_bands, nanomaggy_factor
from astroclip.preparation.batches import (
    SCALE_TOLERANCE,
    ImageBatch,
    bad_fraction,
    coverage_error,
    coverage_flags,
    fill_with_median,
    object_fields,
)
from astroclip.preparation.mosaics import MosaicCutouts
from astroclip.preparation.noise import inverse_variance
from astroclip.preparation.objects import sort_objects
from astroclip.tables import Flag

__all__ = ["find_source", "prepare_images"]


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What `prepare_images` was asked for."""

    bands: tuple
    pixel_scale: float
    size: int
    center: str
    subtract_background: bool
    missing_bands: str
    pad: bool
    min_coverage: float
    zero_point: object
    stack_bands: object


@dataclasses.dataclass(eq=False)
class _Plane:
    """One band of one object: nanomaggies, True where bad, and its WCS (or None)."""

    pixels: np.ndarray
    bad: np.ndarray
    wcs: object


def prepare_images(
    images,
    *,
    bands=("g", "r", "z"),
    pixel_scale=0.262,
    size=152,
    zero_point=None,
    unit=None,
    image_scale=None,
    position=None,
    center="position",
    subtract_background=False,
    missing_bands="raise",
    pad=False,
    stack_bands=None,
    ids=None,
    redshift=None,
    min_coverage=0.1,
    on_error="raise",
):
    """Cut objects out of images, on one pixel scale and in nanomaggies.

    Parameters
    ----------
    images : dict of str to `~astropy.nddata.CCDData`, `~astropy.nddata.CCDData`, or a list
        Per object one image per band, or a stack (band, y, x) whose header names its
        bands (``BANDS``, ``BAND0``...). Filter names: see `canonical_band`. True in the
        mask, zero inverse variance and non-finite values are bad pixels.
    bands : sequence of str
        Letters of the bands wanted, in order.
    pixel_scale : float
        Arcsec per pixel wanted. Images whose scale differs by more than 2 % are
        resampled, conserving flux; without a WCS they are taken to be on scale.
    size : int
        Pixels on a side wanted.
    zero_point : float or dict of str to float, optional
        AB zero point of images in counts, for all bands or by band.
    unit : `~astropy.units.Unit` or str, optional
        Unit of pixels that have none of their own.
    image_scale : float, optional
        Arcsec per pixel of images without celestial world coordinates.
    position : `~astropy.coordinates.SkyCoord`, optional
        Of each object, or of all; the center of the image by default. N positions in one
        image, passed by itself, are N objects; its bands may then be paths of FITS files.
    center : str
        ``"position"``, or ``"source"``: the centroid of the light near the position.
    subtract_background : bool
        Remove the sigma-clipped median of each band's whole image.
    missing_bands : str
        ``"raise"`` (the object fails) or ``"fill"`` (the band is masked and flagged); a band
        without a valid pixel around the target counts as missing.
    pad : bool
        Take images smaller than the crop, masking what is missing.
    stack_bands : sequence of str, optional
        Bands of stacks whose header does not name them.
    ids : (N,) sequence of str, optional
        Defaults to ``meta["id"]`` or the position.
    redshift : float or (N,) array-like, optional
        Carried along.
    min_coverage : float
        Objects with a smaller fraction of valid pixels fail.
    on_error : str
        ``"raise"`` at the first object that cannot be used, or ``"flag"`` it and go on.

    Returns
    -------
    `~astroclip.preparation.ImageBatch`
        One row per object in input order, y up as in the input arrays. Bad pixels hold
        the median of their band's good ones.

    Raises
    ------
    TypeError
        If an element is no image.
    ValueError
        If there is none, or an option is unknown or does not fit.
    `~astropy.units.UnitsError`, `~astroclip.exceptions.PreparationError`
        If an object cannot be used and ``on_error`` is ``"raise"``.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy import units as u
    >>> from astropy.nddata import CCDData
    >>> from astroclip.preparation import prepare_images
    >>> image = {band: CCDData(np.ones((160, 160)), unit=u.nmgy) for band in "grz"}
    >>> prepare_images(image).pixels.shape
    (1, 3, 152, 152)
    """
    check_choice(center, ("position", "source"), "center")
    check_choice(missing_bands, ("raise", "fill"), "missing_bands")
    check_choice(on_error, ("raise", "flag"), "on_error")
    settings = _Settings(
        bands=tuple(bands), pixel_scale=float(pixel_scale), size=check_integer(size, "size"),
        center=center, subtract_background=subtract_background, missing_bands=missing_bands,
        pad=pad, min_coverage=min_coverage, zero_point=zero_point, stack_bands=stack_bands,
    )
    items = list(
        sort_objects(images, name="images", modality="image", position=position)
    )
    positions = _positions(position, len(items))
    shape = (len(items), len(settings.bands), settings.size, settings.size)
    pixels, mask = np.zeros(shape, np.float32), np.ones(shape, bool)
    flags, messages = np.zeros(len(items), np.int32), np.full(len(items), "", object)
    ra, dec = np.full((2, len(items)), np.nan)
    for row, (item, target) in enumerate(zip(items, positions, strict=True)):
        try:
            flags[row], sky = _prepare_one(item, target, settings, pixels[row], mask[row])
            if sky is not None:
                ra[row], dec[row] = sky.ra.deg, sky.dec.deg
        except (PreparationError, u.UnitsError) as error:
            if on_error == "raise":
                raise
            pixels[row], mask[row] = 0, True
            flags[row] = getattr(error, "flag", Flag.FAILED | Flag.BAD_INPUT)
            messages[row] = str(error)
    ids = [item.id for item in items] if ids is None else ids
    coverage = 1.0 - mask.mean(axis=(1, 2, 3))
    return ImageBatch(
        pixels=pixels,
        mask=mask,
        bands=settings.bands,
        pixel_scale=settings.pixel_scale,
        **object_fields(len(items), ids, coverage, flags, messages, ra, dec, redshift),
    )


def _positions(position, n_objects):
    """Return one `SkyCoord` or None per object."""
    if position is None:
        return [None] * n_objects
    if not isinstance(position, SkyCoord):
        msg = (
            f"position is of type {type(position).__name__}; expected an "
            f"astropy.coordinates.SkyCoord, such as SkyCoord(ra, dec, unit='deg')."
        )
        raise TypeError(msg)
    if position.isscalar:
        return [position] * n_objects
    if len(position) != n_objects:
        msg = f"position has {len(position)} coordinates; expected one, or {n_objects}."
        if n_objects == 1:
            msg += " To cut many objects out of one mosaic, pass it by itself, not in a list."
        raise ValueError(msg)
    return list(position)


# ---------------------------------------------------------------------- one object
def _prepare_one(item, position, settings, pixels, mask):
    """Fill an object's ``pixels`` and ``mask`` (B, S, S); return its flags and sky position."""
    if isinstance(item.data, PreparationError):
        raise item.data
    name, flags = item.name, 0
    image = item.data
    if isinstance(image, MosaicCutouts):
        image = image.image(item.row, settings.size * settings.pixel_scale, name)
    planes = _planes(image, name, settings)
    # positions are found in r, the band that most models and images share
    reference = planes.get("r", next(iter(planes.values())))
    x, y = _target(reference, name, position)
    if settings.center == "source":
        scale = _scale(reference, settings)
        source = find_source(reference.pixels, reference.bad, x, y, scale)
        if source is None:
            flags |= Flag.NO_SOURCE
        else:
            x, y = source
    sky = None
    if position is not None and settings.center == "position":
        sky = position.icrs
    elif reference.wcs is not None:
        sky = reference.wcs.pixel_to_world(x, y).icrs
    for number, band in enumerate(settings.bands):
        if band in planes:
            plane, pixel = planes[band], (x, y)
            if sky is not None and not _same_pixels(reference, plane):
                pixel = tuple(float(value) for value in plane.wcs.world_to_pixel(sky))
            flags |= _cut(plane, pixel, pixels[number], mask[number], settings, f"{name}[{band!r}]")

    coverage = 1.0 - mask.mean()
    error = coverage_error(
        coverage, settings.min_coverage, name,
        of=f"the {settings.size} x {settings.size} pixels around the target",
        advice="Check its mask and position.",
    )
    if error is not None:
        raise error
    empty = [band for band, bad in zip(settings.bands, mask, strict=True) if bad.all()]
    if empty and settings.missing_bands == "raise":
        raise PreparationError(
            f"{name} has no valid pixel in band {', '.join(map(repr, empty))} around the target; "
            f"expected some in each of {list(settings.bands)}. Check its mask and position, or "
            f"use a model that takes missing bands.",
            flag=Flag.FAILED | Flag.NO_OVERLAP | Flag.MISSING_BAND,
        )
    bad = bad_fraction(mask[None])[0]
    flags |= int(coverage_flags(coverage, bad)) | (Flag.MISSING_BAND if empty else 0)
    fill_with_median(pixels, mask)
    return int(flags), sky


def _target(plane, name, position):
    """Return the pixel coordinates of the target: a sky position or the center."""
    height, width = plane.pixels.shape
    if position is None:
        return (width - 1) / 2, (height - 1) / 2
    if plane.wcs is None:
        raise PreparationError(
            f"{name} has no WCS and a position is given; expected a WCS to find it. Give the "
            f"CCDData its wcs, or leave position out to use the center."
        )
    x, y = (float(value) for value in plane.wcs.world_to_pixel(position))
    if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
        raise PreparationError(
            f"{name}: position {position.to_string('decimal')} is at pixel ({x:.1f}, {y:.1f}), off "
            f"the image of {width} x {height}; expected it inside. Check the position and WCS.",
            flag=Flag.FAILED | Flag.NO_OVERLAP,
        )
    return x, y


def _same_pixels(reference, plane):
    """Return whether a band's pixels are the reference's, so that the sky need not be asked."""
    first, second = plane.wcs, reference.wcs
    if first is None or first is second:
        return True
    if second is None or plane.pixels.shape != reference.pixels.shape:
        return False
    # dates and the like may differ
    return first.wcs.compare(second.wcs, cmp=WCSCOMPARE_ANCILLARY, tolerance=1e-9)


def _scale(plane, settings):
    """Return a plane's arcsec per pixel; without a WCS the model's."""
    if plane.wcs is None:
        return settings.pixel_scale
    return float(np.sqrt(np.prod(proj_plane_pixel_scales(plane.wcs)))) * 3600


def find_source(pixels, bad, x, y, pixel_scale, *, radius=3.0, threshold=5.0):
    """Return the center of the brightest source near a pixel.

    Parameters
    ----------
    pixels : (H, W) `numpy.ndarray`
    bad : (H, W) bool `numpy.ndarray`
        True where a pixel is bad.
    x, y : float
        Where to look (pixel coordinates, center of the first pixel at 0).
    pixel_scale : float
        Arcsec per pixel.
    radius : float
        How far to look along x and y, arcsec.
    threshold : float
        The brightest pixel must exceed the background by this many times the noise.

    Returns
    -------
    (float, float) or None
        x and y of the brightest pixel, refined by a quadratic fit to its neighbors where
        that has a maximum (`photutils.centroids.centroid_quadratic`); None if nothing
        stands out.
    """
    from photutils.centroids import centroid_quadratic

    good = ~bad
    level, noise = np.median(pixels[good]), mad_std(pixels[good])
    reach = max(2, round(radius / pixel_scale))
    rows = slice(max(0, round(y) - reach), round(y) + reach + 1)
    columns = slice(max(0, round(x) - reach), round(x) + reach + 1)
    window = np.where(good[rows, columns], pixels[rows, columns] - level, 0.0).astype(float)
    peak = np.unravel_index(np.argmax(window), window.shape)
    if not window[peak] > threshold * max(noise, 1e-12):
        return None
    x, y = float(peak[1]), float(peak[0])
    if 0 < peak[0] < window.shape[0] - 1 and 0 < peak[1] < window.shape[1] - 1:
        core = window[peak[0] - 1 : peak[0] + 2, peak[1] - 1 : peak[1] + 2]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # no maximum: the pixel stays
            fitted = centroid_quadratic(core, fit_boxsize=3) - 1.0
        if np.isfinite(fitted).all() and np.abs(fitted).max() <= 1:
            x, y = x + float(fitted[0]), y + float(fitted[1])
    return x + columns.start, y + rows.start


# ---------------------------------------------------------------------- planes
def _planes(image, name, settings):
    """Return the `_Plane` of each wanted band that an image has, in nanomaggies."""
    named = _split(image, name, settings.stack_bands)
    missing = [band for band in settings.bands if band not in named]
    if missing and (settings.missing_bands == "raise" or len(missing) == len(settings.bands)):
        raise PreparationError(
            f"{name} lacks band {', '.join(map(repr, missing))}; it has {sorted(named)} and the "
            f"model needs {list(settings.bands)}. Add the band, or use a model that takes "
            f"missing bands.",
            flag=Flag.FAILED | Flag.BAD_INPUT | Flag.MISSING_BAND,
        )
    points = settings.zero_point
    if isinstance(points, dict):
        points = dict(zip(_letters(points, "zero_point"), points.values(), strict=True))
    else:
        points = dict.fromkeys(named, points)
    planes = {
        band: _plane(named[band], f"{name}[{band!r}]", points.get(band), settings)
        for band in settings.bands
        if band in named
    }
    shapes = {band: plane.pixels.shape for band, plane in planes.items()}
    if len(set(shapes.values())) > 1 and any(plane.wcs is None for plane in planes.values()):
        raise PreparationError(
            f"{name} has bands of different shapes {shapes} and no WCS to align them; expected "
            f"equal shapes. Cut all bands to the same pixels, or give each its WCS."
        )
    return planes


def _split(image, name, stack_bands):
    """Return the `CCDData` of each band of an image by its letter."""
    if isinstance(image, dict):
        for band, ccd in image.items():
            if ccd.data.ndim != 2:
                raise PreparationError(
                    f"{name}[{band!r}] has {ccd.data.ndim} axes; expected (y, x)."
                )
        return dict(zip(_letters(image, name), image.values(), strict=True))
    shape = image.data.shape
    if len(shape) != 3:
        raise PreparationError(
            f"{name} has data of shape {shape}; expected a stack (band, y, x), or a dict of band "
            f"to CCDData for single images."
        )
    names = header_bands(image.meta) if stack_bands is None else stack_bands
    if len(names) != shape[0]:
        raise PreparationError(
            f"{name} is a stack of {shape[0]} bands and names {len(names)} ({list(names)}); "
            f"expected a name for each. Pass stack_bands=('g', 'r', 'z')."
        )
    wcs = None if image.wcs is None else image.wcs.celestial
    return {
        letter: CCDData(
            image.data[k],
            unit=image.unit,
            mask=None if image.mask is None else np.broadcast_to(image.mask, shape)[k],
            uncertainty=None if image.uncertainty is None else image.uncertainty[k],
            wcs=wcs,
            meta=image.meta,
        )
        for k, letter in enumerate(_letters(names, name))
    }


def _letters(names, name):
    """Return the band letters of filter names, each of which must be another band."""
    try:
        letters = [canonical_band(band) for band in names]
    except ValueError as error:
        raise PreparationError(f"{name}: {error}") from error
    if len(set(letters)) < len(letters):
        raise PreparationError(
            f"{name} names a band twice: {list(names)} are {letters}; expected one each. Leave "
            f"one out, or combine them."
        )
    return letters


def _plane(ccd, name, zero_point, settings):
    """Return a band's `_Plane` in nanomaggies."""
    factor = nanomaggy_factor(ccd.unit, name, zero_point=zero_point, header=ccd.meta)
    pixels = np.asarray(ccd.data, dtype=np.float32) * np.float32(factor)
    bad = ~np.isfinite(pixels)
    if ccd.mask is not None:
        bad |= np.broadcast_to(np.asarray(ccd.mask, dtype=bool), bad.shape)
    ivar = inverse_variance(ccd, ccd.unit, name)
    if ivar is not None:
        bad |= ~(np.isfinite(ivar) & (ivar > 0))
    if bad.all():
        raise PreparationError(
            f"{name} has no valid pixel: all {bad.size} are masked, not finite or have zero "
            f"inverse variance. Check its mask and uncertainty.",
            flag=Flag.FAILED | Flag.NO_OVERLAP,
        )
    if settings.subtract_background:
        from photutils.background import MedianBackground

        pixels -= np.float32(MedianBackground(sigma_clip=SigmaClip(sigma=3.0))(pixels[~bad]))
    return _Plane(pixels, bad, ccd.wcs)


# ---------------------------------------------------------------------- windows
def _cut(plane, target, pixels, mask, settings, name):
    """Cut a window of one band into ``pixels`` and ``mask`` (S, S); return the flags to add."""
    factor = settings.pixel_scale / _scale(plane, settings)
    on_scale = abs(factor - 1) <= SCALE_TOLERANCE
    factor = 1.0 if on_scale else factor
    size, needed = settings.size, settings.size * factor
    height, width = plane.pixels.shape
    flags = 0 if on_scale else Flag.RESAMPLED
    if min(height, width) < needed - 1e-6:
        if not settings.pad:
            raise PreparationError(
                f"{name} is {width} x {height} pixels; expected at least {np.ceil(needed):.0f} "
                f"on a side ({settings.size} pixels of {settings.pixel_scale} arcsec). Get a "
                f"larger cutout, or pass pad=True."
            )
        flags |= Flag.PADDED
    # window edges fall on pixel edges, so that cropping and whole-number binning are exact
    left, bottom = (int(np.floor(center + 1.0 - needed / 2)) for center in target)
    if on_scale:  # copy whole pixels; what lies outside the image stays masked
        x0, x1 = max(left, 0), min(left + size, width)
        y0, y1 = max(bottom, 0), min(bottom + size, height)
        if x0 < x1 and y0 < y1:
            window = (slice(y0 - bottom, y1 - bottom), slice(x0 - left, x1 - left))
            pixels[window] = plane.pixels[y0:y1, x0:x1]
            mask[window] = plane.bad[y0:y1, x0:x1]
        return flags
    # resample by area overlap, conserving flux; bad pixels never reach the output
    rows = _overlap_matrix(bottom, factor, size, height)
    columns = _overlap_matrix(left, factor, size, width).T
    good = ~plane.bad
    area = (rows @ good @ columns) / factor**2
    flux = rows @ np.where(good, plane.pixels, 0.0) @ columns
    mask[:] = area < 0.5
    pixels[:] = np.where(mask, 0.0, flux / np.where(mask, 1.0, area))
    return flags


def _overlap_matrix(start, factor, size, n_pixels):
    """Return the (size, n_pixels) shares of input pixels in output pixels along one axis."""
    edges = start + factor * np.arange(size + 1)
    pixel = np.arange(n_pixels)
    high = np.minimum(edges[1:, None], pixel[None] + 1)
    return np.clip(high - np.maximum(edges[:-1, None], pixel[None]), 0, None)
