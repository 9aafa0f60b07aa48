"""Images of several bands to model input: centered, on one pixel scale, in nanomaggies."""

import dataclasses
import numbers
import warnings

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData
from astropy.stats import SigmaClip, mad_std
from astropy.utils.exceptions import AstropyUserWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from astroclip._validation import check_choice, check_integer
from astroclip.exceptions import PreparationError
from astroclip.preparation.alignment import (
    SCALE_ADVICE,
    Window,
    celestial_wcs,
    header_scale,
    is_square,
    pixel_scale_of,
    pixel_shift,
    resample_onto,
    separation_of_images,
    window_wcs,
)
from astroclip.preparation.bands import band_letter, canonical_band, header_bands
from astroclip.preparation.batches import (
    SCALE_TOLERANCE,
    ImageBatch,
    coverage_error,
    coverage_flags,
    fill_with_median,
    object_fields,
)
from astroclip.preparation.blanks import blank_pixels
from astroclip.preparation.mosaics import MosaicCutouts, check_position
from astroclip.preparation.noise import inverse_variance
from astroclip.preparation.objects import sort_objects
from astroclip.preparation.photometry import (
    card_of,
    check_zero_point,
    is_plain,
    linear_pixels,
    nanomaggy_factor,
)
from astroclip.preparation.unit_strings import parse_unit
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
    unit: object
    image_scale: object
    stack_bands: object


@dataclasses.dataclass(eq=False)
class _Plane:
    """One band of one object: nanomaggies, True where bad, where blank, WCS, arcsec per pixel."""

    pixels: np.ndarray
    bad: np.ndarray
    blank: object
    wcs: object
    scale: float


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
        mask, zero inverse variance and non-finite values are bad pixels; a region of one
        constant in place of data is no coverage (see `blank_pixels`). Pan-STARRS' asinh
        pixels are made linear; magnitudes and display images are refused.
    bands : sequence of str
        Letters of the bands wanted, in order.
    pixel_scale : float
        Arcsec per pixel wanted. Images whose scale differs by more than 2 % are
        resampled, conserving flux. They stay turned as the r band, or else the first one
        with a WCS, is. Bands on other grids (displaced by parts of a pixel, turned, mirrored,
        sheared, distorted) are resampled onto its grid, as it is itself where its pixels
        are not square.
    size : int
        Pixels on a side wanted.
    zero_point : float or dict of str to float, optional
        AB magnitude of one count per second, for all bands or by band; by default that of
        the unit or the header. Counts that are not per second are divided by the header's
        exposure time, or taken as those of one second if it states none: see
        `nanomaggy_factor`.
    unit : `~astropy.units.Unit` or str, optional
        Unit of pixels that have none of their own.
    image_scale : float, optional
        Arcsec per pixel of images without celestial world coordinates in any band, and
        without a card such as ``PIXSCALE``. A scale that is not known is not assumed.
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
        If an element is no image, or ``zero_point`` no magnitude or dict of them.
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
    >>> prepare_images(image, image_scale=0.262).pixels.shape
    (1, 3, 152, 152)
    """
    check_choice(center, ("position", "source"), "center")
    check_choice(missing_bands, ("raise", "fill"), "missing_bands")
    check_choice(on_error, ("raise", "flag"), "on_error")
    check_zero_point(zero_point)
    if unit is not None and parse_unit(unit) is None:
        msg = f"unit is {unit!r}; expected an astropy unit, such as 'nmgy', 'uJy' or 'adu / s'."
        raise ValueError(msg)
    settings = _Settings(
        bands=tuple(bands), pixel_scale=float(pixel_scale), size=check_integer(size, "size"),
        center=center, subtract_background=subtract_background, missing_bands=missing_bands,
        pad=pad, min_coverage=min_coverage, zero_point=zero_point, stack_bands=stack_bands,
        unit=parse_unit(unit), image_scale=_arcsec_per_pixel(image_scale),
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
        except Exception as error:  # whatever is wrong with one object costs no other
            if on_error == "raise":
                raise
            pixels[row], mask[row] = 0, True
            flags[row] = getattr(error, "flag", Flag.FAILED | Flag.BAD_INPUT)
            messages[row] = str(error)
            if not isinstance(error, PreparationError | u.UnitsError):
                messages[row] = (
                    f"{item.name} cannot be used as an image ({type(error).__name__}); expected "
                    f"a CCDData by band with consistent data, mask, uncertainty, unit and WCS. "
                    f"Pass it by itself to see the error."
                )
    ids = [item.id for item in items] if ids is None else ids
    coverage = 1.0 - mask.mean(axis=(1, 2, 3))
    return ImageBatch(
        pixels=pixels,
        mask=mask,
        bands=settings.bands,
        pixel_scale=settings.pixel_scale,
        **object_fields(len(items), ids, coverage, flags, messages, ra, dec, redshift),
    )


def _arcsec_per_pixel(scale):
    """Return the pixel scale that the user gives as a number; None if there is none."""
    if scale is None:
        return None
    if isinstance(scale, u.Quantity) and scale.unit.is_equivalent(u.arcsec / u.pix):
        scale = scale.to_value(u.arcsec / u.pix)
    elif isinstance(scale, u.Quantity) and scale.unit.is_equivalent(u.arcsec):
        scale = scale.to_value(u.arcsec)
    if not isinstance(scale, numbers.Real | np.ndarray) or np.ndim(scale) != 0:
        msg = f"the pixel scale is {scale!r}; expected one number, arcsec per pixel."
        raise TypeError(msg)
    if not 0 < scale < np.inf:
        msg = f"the pixel scale is {scale}; expected arcsec per pixel, a positive number."
        raise ValueError(msg)
    return float(scale)


def _positions(position, n_objects):
    """Return one `SkyCoord` or None per object."""
    if position is None:
        return [None] * n_objects
    check_position(position)
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
    planes = _planes(image, name, settings, with_position=position is not None)
    reference = planes[_reference_band(planes)]
    x, y = _target(reference, name, position)
    if settings.center == "source":
        source = find_source(reference.pixels, reference.bad, x, y, reference.scale)
        if source is None:
            flags |= Flag.NO_SOURCE
        else:
            x, y = source
    sky = None
    if position is not None and settings.center == "position":
        sky = position.icrs
    elif reference.wcs is not None:
        sky = reference.wcs.pixel_to_world(x, y).icrs
    cut_flags, bad = _cut_bands(planes, (x, y), settings, name, pixels, mask)
    flags |= cut_flags
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
    flags |= int(coverage_flags(coverage, bad)) | (Flag.MISSING_BAND if empty else 0)
    fill_with_median(pixels, mask)
    return int(flags), sky


def _target(plane, name, position):
    """Return the pixel coordinates of the target: a sky position or the center."""
    height, width = plane.pixels.shape
    if position is None:
        return (width - 1) / 2, (height - 1) / 2
    x, y = (float(value) for value in plane.wcs.world_to_pixel(position))
    if not np.isfinite([x, y]).all():
        raise PreparationError(
            f"{name}: position {position.to_string('decimal')} is not on the image's projection "
            f"of the sky; expected it inside the image. Check the position and WCS.",
            flag=Flag.FAILED | Flag.NO_OVERLAP,
        )
    if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
        raise PreparationError(
            f"{name}: position {position.to_string('decimal')} is at pixel ({x:.1f}, {y:.1f}), off "
            f"the image of {width} x {height}; expected it inside. Check the position and WCS.",
            flag=Flag.FAILED | Flag.NO_OVERLAP,
        )
    return x, y


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
def _planes(image, name, settings, *, with_position):
    """Return the `_Plane` of each wanted band that an image has, in nanomaggies."""
    named = _split(image, name, settings)
    missing = [band for band in settings.bands if band not in named]
    if missing and (settings.missing_bands == "raise" or len(missing) == len(settings.bands)):
        raise PreparationError(
            f"{name} lacks band {', '.join(map(repr, missing))}; it has {sorted(named)} and the "
            f"model needs {list(settings.bands)}. Add the band, or use a model that takes "
            f"missing bands.",
            flag=Flag.FAILED | Flag.BAD_INPUT | Flag.MISSING_BAND,
        )
    wanted = {band: named[band] for band in settings.bands if band in named}
    points = settings.zero_point
    if isinstance(points, dict):
        points = dict(zip(_letters(points, "zero_point"), points.values(), strict=True))
    else:
        points = dict.fromkeys(named, points)
    geometry = _geometry(wanted, name, settings, with_position=with_position)
    planes = {
        band: _plane(wanted[band], f"{name}[{band!r}]", points.get(band), wcs, scale, settings)
        for band, (wcs, scale) in geometry.items()
    }
    valid = {band: plane for band, plane in planes.items() if not plane.bad.all()}
    if len(valid) < len(planes) and (settings.missing_bands == "raise" or not valid):
        band = next(band for band in planes if band not in valid)
        raise PreparationError(
            f"{name}[{band!r}] has no valid pixel: all {planes[band].bad.size} are masked, not "
            f"finite, blank or have zero inverse variance. Check its mask and uncertainty.",
            flag=Flag.FAILED | Flag.NO_OVERLAP,
        )
    return valid


def _reference_band(bands, known=None):
    """Return the band whose pixels the others are brought onto: r, or the first.

    Positions are found in it; most models and images share r. ``known`` holds the bands
    with world coordinates, which go first.
    """
    bands = [band for band in bands if not known or band in known]
    return "r" if "r" in bands else bands[0]


def _geometry(ccds, name, settings, *, with_position):
    """Return the WCS (or None) and the arcsec per pixel of each band.

    A band without a WCS takes that of another one of the same shape.
    """
    labels = {band: f"{name}[{band!r}]" for band in ccds}
    shapes = {band: ccd.data.shape[-2:] for band, ccd in ccds.items()}
    checked = {id(ccd.wcs): celestial_wcs(ccd.wcs, labels[band]) for band, ccd in ccds.items()}
    wcs = {band: checked[id(ccd.wcs)] for band, ccd in ccds.items()}
    stated = {
        band: header_scale(ccd.meta, labels[band])
        for band, ccd in ccds.items()
        if wcs[band] is None
    }
    known = [band for band in ccds if wcs[band] is not None]
    if with_position and not known:
        raise PreparationError(
            f"{name} has no WCS and a position is given; expected a WCS to find it. Give the "
            f"CCDData its wcs, or leave position out to use the center."
        )
    donors = sorted(known, key=lambda band: band != "r") or [_reference_band(ccds)]
    for band in stated:
        donor = next((donor for donor in donors if shapes[donor] == shapes[band]), None)
        if donor is None:
            raise PreparationError(
                f"{name} has bands of different shapes {shapes} and no WCS to align them; expected "
                f"equal shapes. Cut all bands to the same pixels, or give each its WCS."
            )
        wcs[band] = wcs[donor]
    scales = {band: pixel_scale_of(wcs[band]) for band in known}
    if not known:
        common = next((scale for scale in stated.values() if scale is not None), None)
        common = settings.image_scale if common is None else common
        if common is None:
            raise PreparationError(
                f"{name} has no celestial world coordinates in bands {', '.join(ccds)} and no "
                f"card of its header states a pixel scale; expected to know the arcsec per "
                f"pixel. {SCALE_ADVICE}."
            )
        scales = dict.fromkeys(ccds, float(common))
    for band in stated:
        scales.setdefault(band, pixel_scale_of(wcs[band]) if wcs[band] is not None else None)
    for band, scale in scales.items():
        for other, source in (
            (stated.get(band), "its header states"), (settings.image_scale, "the scale given is"),
        ):
            if other is not None and abs(other / scale - 1) > SCALE_TOLERANCE:
                raise PreparationError(
                    f"{labels[band]} has pixels of {scale:.4g} arcsec by "
                    f"{'the world coordinates' if known else 'the other bands'} and {source} "
                    f"{other:.4g}; expected the same. Leave the wrong one out."
                )
    return {band: (wcs[band], scales[band]) for band in ccds}


def _split(image, name, settings):
    """Return the `CCDData` of each band of an image by its letter."""
    stack_bands = settings.stack_bands
    if isinstance(image, dict):
        for band, ccd in image.items():
            if ccd.data.ndim < 2 or ccd.data.size != np.prod(ccd.data.shape[-2:]):
                raise PreparationError(
                    f"{name}[{band!r}] has data of shape {ccd.data.shape}; expected (y, x), one "
                    f"image of a band. Cut one plane out."
                )
        return dict(zip(_letters(image, name, settings.bands), image.values(), strict=True))
    shape = image.data.shape
    if len(shape) == 3 and shape[2] in (3, 4) and image.data.dtype == np.uint8:
        raise PreparationError(
            f"{name} has data of shape {shape} in bytes, a color picture for display; expected a "
            f"stack (band, y, x) of linear flux. Fetch the FITS cutout instead."
        )
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    names = header_bands(image.meta) if stack_bands is None else list(stack_bands)
    if len(shape) == 2 and len(names) == 1:
        shape = (1, *shape)
    if len(shape) != 3 or 0 in shape:
        raise PreparationError(
            f"{name} has data of shape {shape}; expected a stack (band, y, x), or a dict of band "
            f"to CCDData for single images."
        )
    if len(names) != shape[0]:
        raise PreparationError(
            f"{name} is a stack of {shape[0]} bands and names {len(names)} ({list(names)}); "
            f"expected a name for each. Name them: bands=('g', 'r', 'z') in astroclip.embed, "
            f"--bands on the command line, stack_bands= in prepare_images."
        )
    data = image.data.reshape(shape)
    mask = None if image.mask is None else np.broadcast_to(image.mask, image.data.shape)
    noise = image.uncertainty
    if noise is not None and np.shape(noise.array) == image.data.shape:
        noise = type(noise)(np.reshape(noise.array, shape), unit=noise.unit)
    return {
        letter: CCDData(
            data[k],
            unit=image.unit,
            mask=None if mask is None else mask.reshape(shape)[k],
            uncertainty=None if noise is None else noise[k],
            wcs=celestial_wcs(image.wcs, name),
            meta=image.meta,
        )
        for k, letter in enumerate(_letters(names, name, settings.bands))
    }


def _letters(names, name, wanted=None):
    """Return the band letters of filter names, each of which must be another band.

    Beside all wanted bands, others (J, W1, F814W) keep their names.
    """
    letters = [band_letter(band) or str(band) for band in names]
    try:
        if wanted is None or not set(wanted) <= set(letters):
            letters = [canonical_band(band) for band in names]
    except ValueError as error:
        raise PreparationError(f"{name}: {error}") from error
    if len(set(letters)) < len(letters):
        raise PreparationError(
            f"{name} names a band twice: {list(names)} are {letters}; expected one each. Leave "
            f"one out, or combine them."
        )
    return letters


def _pixel_unit(ccd, given):
    """Return the unit of pixels: their own, else the one given, else the header's BUNIT."""
    if not is_plain(ccd.unit):
        return ccd.unit
    if given is not None:
        return given
    return parse_unit(card_of(ccd.meta, "BUNIT")) or ccd.unit


def _plane(ccd, name, zero_point, wcs, scale, settings):
    """Return a band's `_Plane` in nanomaggies."""
    shape = ccd.data.shape[-2:]
    if 0 in shape:
        raise PreparationError(f"{name} has data of shape {shape}; expected some pixels.")
    unit = _pixel_unit(ccd, settings.unit)
    data = ccd.data.reshape(shape)
    linear = linear_pixels(data, unit, name, header=ccd.meta)
    factor = nanomaggy_factor(
        unit, name, zero_point=zero_point, header=ccd.meta, pixel_area=scale**2
    )
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = np.asarray(linear, dtype=np.float32) * np.float32(factor)
    bad = ~np.isfinite(pixels)
    noise = inverse_variance(ccd, ccd.unit, name)
    for what, values in (("mask", ccd.mask), ("uncertainty", noise)):
        if values is None:
            continue
        values = np.asarray(values)
        if values.ndim > 2 and values.size == bad.size:
            values = values.reshape(shape)
        if values.shape not in (shape, (), (1, 1)):
            raise PreparationError(
                f"{name} has a {what} of shape {values.shape} and data of shape {shape}; expected "
                f"the same. Cut the {what} to the pixels of the data."
            )
        bad |= values.astype(bool) if what == "mask" else ~(np.isfinite(values) & (values > 0))
    blank = blank_pixels(data, bad)
    if blank is not None:
        bad |= blank
    if settings.subtract_background and not bad.all():
        from photutils.background import MedianBackground

        pixels -= np.float32(MedianBackground(sigma_clip=SigmaClip(sigma=3.0))(pixels[~bad]))
    return _Plane(pixels, bad, blank, wcs, scale)


# ---------------------------------------------------------------------- windows
def _cut_bands(planes, target, settings, name, pixels, mask):
    """Cut the window around a pixel out of all bands.

    Fills ``pixels`` and ``mask`` (B, S, S). Returns the flags to add and the fraction of
    pixels within the images that are bad.
    """
    reference = planes[_reference_band(planes)]
    window = _window(reference.scale, target, settings)
    is_plain = reference.wcs is None or is_square(reference.wcs, window)
    if not is_plain:
        x, y = (center + 0.5 - settings.size * window.factor / 2 for center in target)
        window = dataclasses.replace(window, left=x, bottom=y)
    grid, flags, n_bad, n_pixels = None, 0, 0, 0
    for number, band in enumerate(settings.bands):
        if band not in planes:
            continue
        plane, label = planes[band], f"{name}[{band!r}]"
        flags |= _check_size(plane, settings, label, is_plain=is_plain)
        shift = None
        if is_plain:
            shift = (0, 0) if plane.wcs is None else pixel_shift(reference.wcs, plane.wcs, window)
        if shift != (0, 0) and plane is not reference:
            _check_same_sky(reference, plane, label)
        if shift is not None:
            moved = dataclasses.replace(
                window, left=window.left + shift[0], bottom=window.bottom + shift[1]
            )
            inside = _cut(plane, moved, pixels[number], mask[number])
            flags |= 0 if window.factor == 1 else Flag.RESAMPLED
        else:
            if grid is None:
                scale = None if is_plain else settings.pixel_scale
                grid = window_wcs(reference.wcs, window, pixel_scale=scale)
            flux, mask[number], inside = resample_onto(
                grid, plane.pixels, plane.bad, plane.wcs, label,
                sharp=is_plain and window.factor == 1,
            )
            pixels[number] = flux
            flags |= Flag.RESAMPLED
        n_pixels += np.count_nonzero(inside)
        n_bad += np.count_nonzero(mask[number] & inside)
    return flags, n_bad / max(n_pixels, 1)


def _window(scale, target, settings):
    """Return the window around a pixel."""
    factor = settings.pixel_scale / scale
    factor = 1.0 if abs(factor - 1) <= SCALE_TOLERANCE else factor
    needed = settings.size * factor
    # window edges fall on pixel edges, so that cropping and whole-number binning are exact; the
    # rounding of a WCS must not decide between two pixels
    left, bottom = (int(np.floor(center + 1.0 - needed / 2 + 1e-6)) for center in target)
    return Window(left, bottom, factor, settings.size)


def _check_size(plane, settings, name, *, is_plain):
    """Return the flag of an image smaller than the crop; raise unless it may be padded."""
    needed = settings.size * _window(plane.scale, (0.0, 0.0), settings).factor
    height, width = plane.pixels.shape
    sides = np.array([width, height], dtype=float)
    if not is_plain and isinstance(plane.wcs, WCS):  # sides of pixels that are not square
        sides *= proj_plane_pixel_scales(plane.wcs) * 3600 / plane.scale
    if sides.min() >= needed - 1e-6:
        return 0
    if not settings.pad:
        raise PreparationError(
            f"{name} is {width} x {height} pixels; expected at least {np.ceil(needed):.0f} "
            f"on a side ({settings.size} pixels of {settings.pixel_scale} arcsec). Get a "
            f"larger cutout, or pass pad=True to prepare_images."
        )
    return Flag.PADDED


def _check_same_sky(reference, plane, name):
    """Raise PreparationError for a band of another part of the sky."""
    gap = separation_of_images(
        reference.wcs, reference.pixels.shape, plane.wcs, plane.pixels.shape
    )
    if not gap <= 0:
        raise PreparationError(
            f"{name} lies {gap / 60:.4g} arcmin beyond the image of the other bands by its WCS; "
            f"expected bands of one part of the sky. Check its WCS, or leave the band out.",
            flag=Flag.FAILED | Flag.NO_OVERLAP,
        )


def _cut(plane, window, pixels, mask):
    """Fill ``pixels`` and ``mask`` (S, S); return where the window lies on the image (S, S)."""
    left, bottom, factor, size = dataclasses.astuple(window)
    height, width = plane.pixels.shape
    inside = np.zeros((size, size), bool)
    if factor == 1:  # copy whole pixels; what lies outside the image stays masked
        x0, x1 = max(left, 0), min(left + size, width)
        y0, y1 = max(bottom, 0), min(bottom + size, height)
        if x0 < x1 and y0 < y1:
            cut = (slice(y0 - bottom, y1 - bottom), slice(x0 - left, x1 - left))
            pixels[cut] = plane.pixels[y0:y1, x0:x1]
            mask[cut] = plane.bad[y0:y1, x0:x1]
            inside[cut] = True if plane.blank is None else ~plane.blank[y0:y1, x0:x1]
        return inside
    # resample by area overlap, conserving flux; bad pixels never reach the output
    rows = _overlap_matrix(bottom, factor, size, height)
    columns = _overlap_matrix(left, factor, size, width).T
    good = ~plane.bad
    area = (rows @ good @ columns) / factor**2
    flux = rows @ np.where(good, plane.pixels, 0.0) @ columns
    mask[:] = area < 0.5
    pixels[:] = np.where(mask, 0.0, flux / np.where(mask, 1.0, area))
    held = np.ones((height, width)) if plane.blank is None else ~plane.blank
    return (rows @ held @ columns) / factor**2 >= 0.5


def _overlap_matrix(start, factor, size, n_pixels):
    """Return the (size, n_pixels) shares of input pixels in output pixels along one axis."""
    edges = start + factor * np.arange(size + 1)
    pixel = np.arange(n_pixels)
    high = np.minimum(edges[1:, None], pixel[None] + 1)
    return np.clip(high - np.maximum(edges[:-1, None], pixel[None]), 0, None)
