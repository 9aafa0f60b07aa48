"""Images of several bands to model input: centred, on one pixel scale, in nanomaggies."""

import dataclasses

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData
from astropy.stats import SigmaClip
from astropy.wcs.utils import proj_plane_pixel_scales

from astroclip._validation import check_choice, check_integer, check_not_empty, item_name
from astroclip.exceptions import PreparationError
from astroclip.preparation.bands import canonical_band, nanomaggy_factor
from astroclip.preparation.batches import ImageBatch, fill_with_median, object_fields
from astroclip.preparation.centering import find_source
from astroclip.preparation.noise import inverse_variance
from astroclip.tables import Flag

__all__ = ["prepare_images"]

SCALE_TOLERANCE = 0.02
LOW_COVERAGE = 0.5


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


@dataclasses.dataclass(eq=False)
class _Plane:
    """One band of one object: nanomaggies, True where bad, and its WCS (or None)."""

    pixels: np.ndarray
    bad: np.ndarray
    wcs: object


@dataclasses.dataclass(eq=False)
class _Row:
    """One prepared object."""

    pixels: np.ndarray
    mask: np.ndarray
    flags: int = 0
    message: str = ""
    ra: float = np.nan
    dec: float = np.nan


def prepare_images(
    images,
    *,
    bands=("g", "r", "z"),
    pixel_scale=0.262,
    size=152,
    zero_point=None,
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
    argument="images",
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
    position : `~astropy.coordinates.SkyCoord`, optional
        Of each object, or of all; the centre of the image by default.
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
        Defaults to the position in the list.
    redshift : float or (N,) array-like, optional
        Carried along.
    min_coverage : float
        Objects with a smaller fraction of valid pixels fail.
    on_error : str
        ``"raise"`` at the first object that cannot be used, or ``"flag"`` it and go on.
    argument : str
        How messages name ``images``.

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
        tuple(bands), float(pixel_scale), check_integer(size, "size"), center,
        subtract_background, missing_bands, pad, min_coverage,
    )
    many = isinstance(images, list | tuple)
    objects = list(images) if many else [images]
    check_not_empty(objects, argument)
    names = [item_name(argument, i if many else None) for i in range(len(objects))]
    positions = _positions(position, len(objects))
    for item, name in zip(objects, names, strict=True):
        _check_type(item, name)
    rows = []
    for item, name, place in zip(objects, names, positions, strict=True):
        try:
            rows.append(_prepare_one(item, name, place, zero_point, stack_bands, settings))
        except (PreparationError, u.UnitsError) as error:
            if on_error == "raise":
                raise
            rows.append(_failed(error, settings))
    return _assemble(rows, settings, ids, redshift)


def _check_type(item, name):
    """Raise TypeError unless ``item`` is a stack or a dict of images."""
    if isinstance(item, CCDData):
        return
    if isinstance(item, dict) and item:
        wrong = next((band for band, ccd in item.items() if not isinstance(ccd, CCDData)), None)
        if wrong is None:
            return
        found = f"{name}[{wrong!r}] is of type {type(item[wrong]).__name__}"
    else:
        kind = "an empty dict" if isinstance(item, dict) else f"of type {type(item).__name__}"
        found = f"{name} is {kind}"
    msg = (
        f"{found}; expected a CCDData, or a dict of band to CCDData. Make one with "
        f"CCDData(array, unit=..., wcs=...)."
    )
    raise TypeError(msg)


def _positions(position, n_objects):
    """Return one `SkyCoord` or None per object."""
    if position is None:
        return [None] * n_objects
    if not isinstance(position, SkyCoord):
        msg = (
            f"position is of type {type(position).__name__}; expected a SkyCoord. Make one with "
            f"SkyCoord(ra, dec, unit='deg')."
        )
        raise TypeError(msg)
    if position.isscalar:
        return [position] * n_objects
    if len(position) != n_objects:
        msg = f"position has {len(position)} coordinates; expected one, or {n_objects}."
        raise ValueError(msg)
    return list(position)


# ---------------------------------------------------------------------- planes
def _split(item, name, stack_bands):
    """Return a dict of band letter to (array, mask, ivar, unit, WCS, header)."""
    if isinstance(item, dict):
        for band, ccd in item.items():
            if ccd.data.ndim != 2:
                raise _bad(f"{name}[{band!r}] has {ccd.data.ndim} axes; expected (y, x).")
        return dict(zip(_letters(item, name), item.values(), strict=True))
    if item.data.ndim != 3:
        raise _bad(
            f"{name} has data of shape {item.data.shape}; expected a stack (band, y, x), or a "
            f"dict of band to CCDData for single images."
        )
    letters = _stack_letters(item, name, stack_bands)
    wcs = None if item.wcs is None else item.wcs.celestial
    return {
        letter: CCDData(
            item.data[k],
            unit=item.unit,
            mask=None if item.mask is None else np.broadcast_to(item.mask, item.data.shape)[k],
            uncertainty=None if item.uncertainty is None else item.uncertainty[k],
            wcs=wcs,
            meta=item.meta,
        )
        for k, letter in enumerate(letters)
    }


def _letters(names, name):
    """Return the band letters of filter names, each of which must be another band."""
    try:
        letters = [canonical_band(band) for band in names]
    except ValueError as error:
        raise _bad(f"{name}: {error}") from error
    if len(set(letters)) < len(letters):
        raise _bad(
            f"{name} names a band twice: {list(names)} are {letters}; expected one each. Leave "
            f"one out, or combine them."
        )
    return letters


def _stack_letters(item, name, stack_bands):
    """Return the band letters of a stack from the argument or its header."""
    found = stack_bands
    if found is None and isinstance(item.meta.get("BANDS"), str):
        found = item.meta["BANDS"].replace(",", "").replace(" ", "")
    if found is None:
        found = [item.meta[f"BAND{k}"] for k in range(10) if f"BAND{k}" in item.meta]
    if len(found) != item.data.shape[0]:
        raise _bad(
            f"{name} is a stack of {item.data.shape[0]} bands and names {len(found)} "
            f"({list(found)}); expected a name for each. Pass stack_bands=('g', 'r', 'z')."
        )
    return _letters(found, name)


def _bad(message, flag=Flag.BAD_INPUT):
    return PreparationError(message, flag=Flag.FAILED | flag)


def _plane(ccd, name, zero_point, settings):
    """Return a band's `_Plane` in nanomaggies."""
    factor = nanomaggy_factor(ccd.unit, name, zero_point=zero_point, header=ccd.meta)
    pixels = np.asarray(ccd.data, dtype=np.float32) * np.float32(factor)
    bad = ~np.isfinite(pixels)
    if ccd.mask is not None:
        bad |= np.broadcast_to(np.asarray(ccd.mask, dtype=bool), bad.shape)
    if ccd.uncertainty is not None:
        ivar = inverse_variance(ccd, ccd.unit, name)
        if ivar is not None:
            bad |= ~(np.isfinite(ivar) & (ivar > 0))
    if bad.all():
        raise _bad(
            f"{name} has no valid pixel: all {bad.size} are masked, not finite or have zero "
            f"inverse variance. Check its mask and uncertainty.",
            Flag.NO_OVERLAP,
        )
    if settings.subtract_background:
        from photutils.background import MedianBackground

        pixels -= np.float32(MedianBackground(sigma_clip=SigmaClip(sigma=3.0))(pixels[~bad]))
    return _Plane(pixels, bad, ccd.wcs)


def _planes(item, name, zero_point, stack_bands, settings):
    """Return the wanted bands' planes; absent ones are None or an error."""
    named = _split(item, name, stack_bands)
    missing = [band for band in settings.bands if band not in named]
    if missing and (settings.missing_bands == "raise" or len(missing) == len(settings.bands)):
        raise _bad(
            f"{name} lacks band {', '.join(map(repr, missing))}; it has {sorted(named)} and the "
            f"model needs {list(settings.bands)}. Add the band, or use a model that takes "
            f"missing bands.",
            Flag.BAD_INPUT | Flag.MISSING_BAND,
        )
    points = dict.fromkeys(named, zero_point)
    if isinstance(zero_point, dict):
        points = dict(zip(_letters(zero_point, "zero_point"), zero_point.values(), strict=True))
    planes = {
        band: _plane(named[band], f"{name}[{band!r}]", points.get(band), settings)
        for band in settings.bands
        if band in named
    }
    shapes = {band: plane.pixels.shape for band, plane in planes.items()}
    if len(set(shapes.values())) > 1 and any(plane.wcs is None for plane in planes.values()):
        raise _bad(
            f"{name} has bands of different shapes {shapes} and no WCS to align them; expected "
            f"equal shapes. Cut all bands to the same pixels, or give each its WCS."
        )
    return planes


# ---------------------------------------------------------------------- one object
def _prepare_one(item, name, position, zero_point, stack_bands, settings):
    """Return one object's `_Row`."""
    planes = _planes(item, name, zero_point, stack_bands, settings)
    flags = 0
    if len(planes) < len(settings.bands):
        flags |= Flag.MISSING_BAND
    reference = planes.get("r", next(iter(planes.values())))
    x, y = _target(reference, name, position)
    if settings.center == "source":
        found = find_source(reference.pixels, reference.bad, x, y, _scale(reference, settings))
        x, y = (x, y) if found is None else found
        flags |= Flag.NO_SOURCE if found is None else 0
    sky = None
    if position is not None and settings.center == "position":
        sky = position.icrs
    elif reference.wcs is not None:
        sky = reference.wcs.pixel_to_world(x, y).icrs
    size, n_bands = settings.size, len(settings.bands)
    row = _Row(np.zeros((n_bands, size, size), np.float32), np.ones((n_bands, size, size), bool))
    for number, band in enumerate(settings.bands):
        if band in planes:
            plane = planes[band]
            spot = (x, y) if plane is reference else _same_spot(reference, plane, x, y, sky)
            flags |= _cut(plane, spot, row, number, settings, f"{name}[{band!r}]")
    row.flags = int(flags)
    if sky is not None:
        row.ra, row.dec = float(sky.ra.deg), float(sky.dec.deg)
    _finish(row, name, settings)
    return row


def _target(plane, name, position):
    """Return the pixel coordinates of the target: a sky position or the centre."""
    height, width = plane.pixels.shape
    if position is None:
        return (width - 1) / 2, (height - 1) / 2
    if plane.wcs is None:
        raise _bad(
            f"{name} has no WCS and a position is given; expected a WCS to find it. Give the "
            f"CCDData its wcs, or leave position out to use the centre."
        )
    x, y = (float(value) for value in plane.wcs.world_to_pixel(position))
    if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
        raise _bad(
            f"{name}: position {position.to_string('decimal')} is at pixel ({x:.1f}, {y:.1f}), off "
            f"the image of {width} x {height}; expected it inside. Check the position and WCS.",
            Flag.NO_OVERLAP,
        )
    return x, y


def _same_spot(reference, plane, x, y, sky):
    """Return the target's pixel in another band, through the sky where pixels differ."""
    same = plane.wcs is reference.wcs or plane.pixels.shape == reference.pixels.shape
    if plane.wcs is None or sky is None or (same and _equal_wcs(plane.wcs, reference.wcs)):
        return x, y
    return tuple(float(value) for value in plane.wcs.world_to_pixel(sky))


def _equal_wcs(first, second):
    """Return whether two celestial WCS put pixels at the same places."""
    if first is second:
        return True
    if second is None:
        return False
    pairs = ((getattr(a.wcs, key) for a in (first, second)) for key in ("crpix", "crval"))
    close = all(np.allclose(a, b, rtol=0, atol=1e-6) for a, b in pairs)
    return close and np.allclose(first.pixel_scale_matrix, second.pixel_scale_matrix, atol=1e-9)


def _scale(plane, settings):
    """Return a plane's arcsec per pixel; without a WCS the model's."""
    if plane.wcs is None:
        return settings.pixel_scale
    return float(np.sqrt(np.prod(proj_plane_pixel_scales(plane.wcs)))) * 3600


def _cut(plane, spot, row, number, settings, name):
    """Cut one band out into ``row``; return the flags to add."""
    factor = settings.pixel_scale / _scale(plane, settings)
    on_scale = abs(factor - 1) <= SCALE_TOLERANCE
    factor = 1.0 if on_scale else factor
    needed = settings.size * factor
    height, width = plane.pixels.shape
    flags = 0 if on_scale else Flag.RESAMPLED
    if min(height, width) < needed - 1e-6:
        if not settings.pad:
            raise _bad(
                f"{name} is {width} x {height} pixels; expected at least {np.ceil(needed):.0f} "
                f"on a side ({settings.size} pixels of {settings.pixel_scale} arcsec). Get a "
                f"larger cutout, or pass pad=True."
            )
        flags |= Flag.PADDED
    # window edges fall on pixel edges, so that cropping and whole-number binning are exact
    left, bottom = (int(np.floor(centre + 1.0 - needed / 2)) for centre in spot)
    if on_scale:
        _slice_window(plane, left, bottom, row, number, settings.size)
    else:
        _bin_window(plane, left, bottom, factor, row, number, settings.size)
    return flags


def _slice_window(plane, left, bottom, row, number, size):
    """Copy a window of whole pixels; what lies outside the image stays masked."""
    height, width = plane.pixels.shape
    x0, x1 = max(left, 0), min(left + size, width)
    y0, y1 = max(bottom, 0), min(bottom + size, height)
    if x0 < x1 and y0 < y1:
        target = (number, slice(y0 - bottom, y1 - bottom), slice(x0 - left, x1 - left))
        row.pixels[target] = plane.pixels[y0:y1, x0:x1]
        row.mask[target] = plane.bad[y0:y1, x0:x1]


def _overlap_matrix(start, factor, size, n_pixels):
    """Return the (size, n_pixels) shares of input pixels in output pixels along one axis."""
    edges = start + factor * np.arange(size + 1)
    pixel = np.arange(n_pixels)
    high = np.minimum(edges[1:, None], pixel[None] + 1)
    return np.clip(high - np.maximum(edges[:-1, None], pixel[None]), 0, None)


def _bin_window(plane, left, bottom, factor, row, number, size):
    """Resample a window by area overlap, conserving flux; bad input never reaches it."""
    height, width = plane.pixels.shape
    rows = _overlap_matrix(bottom, factor, size, height)
    columns = _overlap_matrix(left, factor, size, width).T
    good = ~plane.bad
    area = (rows @ good @ columns) / factor**2
    flux = rows @ np.where(good, plane.pixels, 0.0) @ columns
    mask = area < 0.5
    row.pixels[number] = np.where(mask, 0.0, flux / np.where(mask, 1.0, area))
    row.mask[number] = mask


def _finish(row, name, settings):
    """Fill bad pixels with their band's median and judge the coverage, in place."""
    coverage = 1.0 - row.mask.mean()
    if coverage < settings.min_coverage or coverage == 0:
        raise _bad(
            f"{name} has valid data in {100 * coverage:.1f} % of the {settings.size} x "
            f"{settings.size} pixels around the target; expected at least "
            f"{100 * settings.min_coverage:g} %. Check its mask and position.",
            Flag.NO_OVERLAP,
        )
    empty = [b for b, mask in zip(settings.bands, row.mask, strict=True) if mask.all()]
    if empty and settings.missing_bands == "raise":
        raise _bad(
            f"{name} has no valid pixel in band {', '.join(map(repr, empty))} around the target; "
            f"expected some in each of {list(settings.bands)}. Check its mask and position, or "
            f"use a model that takes missing bands.",
            Flag.NO_OVERLAP | Flag.MISSING_BAND,
        )
    if coverage < 1:
        row.flags |= Flag.BAD_PIXELS | (Flag.MISSING_BAND if empty else 0)
        fill_with_median(row.pixels, row.mask)
    if coverage < LOW_COVERAGE:
        row.flags |= Flag.LOW_COVERAGE


def _failed(error, settings):
    """Return the row of an object that could not be prepared."""
    shape = (len(settings.bands), settings.size, settings.size)
    flags = getattr(error, "flag", 0) or int(Flag.FAILED | Flag.BAD_INPUT)
    return _Row(np.zeros(shape, np.float32), np.ones(shape, bool), flags, str(error))


def _assemble(rows, settings, ids, redshift):
    """Return the `ImageBatch` of prepared rows."""
    mask = np.stack([row.mask for row in rows])
    coverage = 1.0 - mask.mean(axis=(1, 2, 3))
    found = ([getattr(row, name) for row in rows] for name in ("flags", "message", "ra", "dec"))
    return ImageBatch(
        pixels=np.stack([row.pixels for row in rows]),
        mask=mask,
        bands=settings.bands,
        pixel_scale=settings.pixel_scale,
        **object_fields(len(rows), ids, coverage, *found, redshift),
    )
