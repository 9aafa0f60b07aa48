"""Cutouts around many positions of one mosaic: the pixels needed are read, and no others."""

import contextlib
import weakref
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData, Cutout2D
from astropy.wcs import WCS, WCSCOMPARE_ANCILLARY, WCSCOMPARE_CRPIX
from astropy.wcs.utils import proj_plane_pixel_scales
from astropy.wcs.wcsapi import HighLevelWCSWrapper, SlicedLowLevelWCS

from astroclip.exceptions import PreparationError
from astroclip.preparation.bands import canonical_band
from astroclip.preparation.image_files import open_images
from astroclip.preparation.reading import file_modality
from astroclip.tables import Flag

__all__ = ["MosaicCutouts", "check_position", "is_mosaic"]

MARGIN = 8  # pixels cut on every side beyond those needed, which resampling looks at
SLACK = 1.03  # of the side: pixel scales that differ by 2 % are taken as they are
TURNED = np.sqrt(2)  # of the side: the window as another grid sees it, turned by any angle


def is_mosaic(image, position):
    """Return whether many positions are given with one image, or bands that are files.

    Parameters
    ----------
    image : object
        What a user passed, not in a list.
    position : `~astropy.coordinates.SkyCoord` or None
    """
    if isinstance(image, dict) and any(isinstance(value, str | Path) for value in image.values()):
        return True
    if not isinstance(position, SkyCoord) or position.isscalar:
        return False
    if isinstance(image, str | Path):
        return file_modality(Path(image).expanduser()) == "image"
    return isinstance(image, dict | CCDData)


def check_position(position):
    """Raise TypeError unless positions are a `~astropy.coordinates.SkyCoord`."""
    if not isinstance(position, SkyCoord):
        msg = (
            f"position is of type {type(position).__name__}; expected an "
            f"astropy.coordinates.SkyCoord, such as SkyCoord(ra, dec, unit='deg')."
        )
        raise TypeError(msg)


class _ArrayImage:
    """A band in memory, or a stack of bands on the same pixels, of which windows are read.

    It is to arrays what `~astroclip.preparation.image_files.BandImage` is to files.
    """

    def __init__(self, ccd):
        self._ccd = ccd
        self.shape = ccd.data.shape[-2:]
        self.wcs = ccd.wcs
        if isinstance(ccd.wcs, WCS):
            self.wcs = ccd.wcs.celestial if ccd.wcs.has_celestial else None

    def read(self, window, *, wcs):
        """Return a window of rows and columns, whose WCS is given, as `~astropy.nddata.CCDData`."""

        def part(values):
            if values is None or np.ndim(values) < 2:
                return values
            return values[(Ellipsis, *window)]

        ccd, noise = self._ccd, self._ccd.uncertainty
        if noise is not None:
            noise = type(noise)(part(noise.array), unit=noise.unit)
        return CCDData(
            part(ccd.data), mask=part(ccd.mask), uncertainty=noise, unit=ccd.unit, wcs=wcs,
            meta=ccd.meta,
        )


class MosaicCutouts:
    """Images of one mosaic around each of many positions, cut when they are asked for.

    Files stay open as long as this lives, and hold their pixels: a cutout reads its own.

    Parameters
    ----------
    image : dict of str to `~astropy.nddata.CCDData` or path-like, `~astropy.nddata.CCDData`, \
            or path-like
        One mosaic per band, each with its own celestial world coordinates; a stack
        (band, y, x); or a file of several bands.
    position : (N,) `~astropy.coordinates.SkyCoord`
    name : str
        How errors name the mosaic.
    bands : sequence of str, optional
        Names of the bands of a file that does not name them.
    unit : `~astropy.units.Unit`, optional
        Of pixels that have none of their own.

    Attributes
    ----------
    file : str
        Path of the one file of all bands; empty otherwise.

    Raises
    ------
    TypeError
        If a band is neither an image nor a path.
    ValueError
        If positions have another shape than (N,).
    OSError, PreparationError
        If a file cannot be read, or the mosaic has no world coordinates.
    """

    def __init__(self, image, position, *, name="objects", bands=None, unit=None):
        if position is not None and position.ndim != 1:
            msg = f"position has shape {position.shape}; expected (n_positions,). Flatten it."
            raise ValueError(msg)
        self.name, self.position = name, position
        self.meta, self.file = {}, ""
        files = contextlib.ExitStack()
        weakref.finalize(self, files.close)
        if isinstance(image, str | Path):
            self.file = str(image)
            self._bands = _open(image, files, name, bands=bands, unit=unit)
        elif isinstance(image, dict):
            self._bands = {}
            for band, element in image.items():
                label = f"{name}[{band!r}]"
                if isinstance(element, str | Path):
                    (found,) = _open(element, files, label, bands=[band], unit=unit).values()
                elif isinstance(element, CCDData):
                    found = _ArrayImage(element)
                else:
                    msg = (
                        f"{label} is a {type(element).__name__}; expected a CCDData or the path "
                        f"of a FITS file."
                    )
                    raise TypeError(msg)
                self._bands[band] = found
        else:
            self._bands = {None: _ArrayImage(image)}
        shared = []  # bands of one grid share its WCS, which is then cut once for all
        for found in self._bands.values():
            equal = (wcs for wcs in shared if _are_parallel(wcs, found.wcs, shifted=False))
            found.wcs = next(equal, found.wcs)
            shared.append(found.wcs)
        self._boxes_of = {}

    def __len__(self):
        return 1 if self.position is None else len(self.position)

    def image(self, row, side, name):
        """Return the image around a position, larger than a square by a margin.

        What of the square lies beyond a mosaic's edge is not there. Without positions the
        image is the whole mosaic.

        Parameters
        ----------
        row : int
            Of the positions.
        side : float
            Of the square, arcsec.
        name : str
            How errors name the object.

        Returns
        -------
        dict of str to `~astropy.nddata.CCDData`, or `~astropy.nddata.CCDData`
            As the mosaic was passed, with the world coordinates of the cutout.

        Raises
        ------
        PreparationError
            If the position is off the mosaic.
        """
        if self.position is None:
            whole = (slice(None), slice(None))
            parts = {band: (whole, image.wcs) for band, image in self._bands.items()}
            return self._image(parts)
        if side not in self._boxes_of:
            self._boxes_of[side] = self._boxes(side)
        centers, sizes = self._boxes_of[side]
        band = self._reference_band()
        self._check_inside(band, centers[band][row], self.position[row], name)
        parts, cuts = {}, {}
        for band, image in self._bands.items():
            center = np.nan_to_num(centers[band][row], nan=-1e9, posinf=1e9, neginf=-1e9)
            size = np.minimum(sizes[band][row], image.shape[::-1])
            # a cutout that would reach beyond the edge is moved inside, so that it holds all
            # there is of the square
            low = np.clip(np.ceil(center - size / 2), 0, np.subtract(image.shape[::-1], size))
            key = (id(image.wcs), image.shape, *low, *size)
            if key not in cuts:
                cuts[key] = _cut(image, low.astype(int), size)
            parts[band] = cuts[key]
        return self._image(parts)

    def _check_inside(self, band, center, position, name):
        """Raise PreparationError unless a pixel is on the band's mosaic."""
        height, width = self._bands[band].shape
        (x, y), where = center, "" if band is None else f" in band {band!r}"
        if -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5:
            return
        where = f"the mosaic of {width} x {height}{where}"
        pixel = f"at pixel ({x:.1f}, {y:.1f}), off {where}"
        if not np.isfinite(center).all():
            pixel = f"on no pixel of {where}"
        raise PreparationError(
            f"{name}: position {position.to_string('decimal')} is {pixel}; expected it inside. "
            f"Check the position and WCS.",
            flag=Flag.FAILED | Flag.NO_OVERLAP,
        )

    def _reference_band(self):
        """Return the band in which positions are found: r, or the first."""
        for band in self._bands:
            with contextlib.suppress(ValueError):
                if band is not None and canonical_band(band) == "r":
                    return band
        return next(iter(self._bands))

    def _boxes(self, side):
        """Return the pixels (N, 2) of the positions and the sizes (N, 2) to cut, by band."""
        wcs = {band: image.wcs for band, image in self._bands.items()}
        for band, found in wcs.items():
            if found is None:
                label = self.name if band is None else f"{self.name}[{band!r}]"
                raise PreparationError(
                    f"{label} has no celestial world coordinates and positions are given; "
                    f"expected a WCS to find them. Give the CCDData its wcs, or the header of "
                    f"the file its cards."
                )
        first = wcs[self._reference_band()]
        turned = 1.0 if all(_are_parallel(first, other) for other in wcs.values()) else TURNED
        half = SLACK * side / 2
        offsets = [
            self.position.directional_offset_by(angle * u.deg, half * u.arcsec)
            for angle in (0, 90, 180, 270)
        ]
        centers, sizes = {}, {}
        for band, found in wcs.items():
            centers[band] = _pixels(found, self.position)
            north, east, south, west = (_pixels(found, offset) for offset in offsets)
            # how many pixels half a side is, at the position and by the scale of the whole image
            local = np.hypot((north - south) / 2, (east - west) / 2)
            overall = 0.0
            if isinstance(found, WCS):
                overall = half / (3600 * np.sqrt(np.prod(proj_plane_pixel_scales(found))))
            reach = turned * np.clip(np.fmax(local, overall), 0, sum(self._bands[band].shape))
            reach = np.nan_to_num(reach)
            sizes[band] = 2 * np.ceil(reach + MARGIN).astype(int)
        return centers, sizes

    def _image(self, parts):
        """Return the image of windows and their world coordinates by band."""
        images = {
            band: self._bands[band].read(window, wcs=wcs) for band, (window, wcs) in parts.items()
        }
        return images.get(None, images)


# ---------------------------------------------------------------------- bands
def _open(path, files, label, *, bands, unit):
    """Return the bands of a file; it is closed with ``files``."""
    try:
        return files.enter_context(open_images(Path(path).expanduser(), bands=bands, unit=unit))
    except PreparationError as error:
        raise PreparationError(f"{label}: {error}", flag=error.flag) from error
    except OSError as error:
        raise type(error)(f"{label}: {error}") from error


def _are_parallel(first, second, *, shifted=True):
    """Return whether two grids are the same, or but for where their pixels begin."""
    if first is second:
        return True
    if not (isinstance(first, WCS) and isinstance(second, WCS)):
        return False
    if first.has_distortion or second.has_distortion:
        return False
    loose = WCSCOMPARE_ANCILLARY | (WCSCOMPARE_CRPIX if shifted else 0)
    return first.wcs.compare(second.wcs, cmp=loose, tolerance=1e-9)


def _pixels(wcs, position):
    """Return the pixels (N, 2), x and y, of positions; NaN where they have none."""
    try:
        return np.stack(wcs.world_to_pixel(position), axis=-1)
    except Exception:  # an inverse that does not converge for one position fails for all
        pixels = np.full((len(position), 2), np.nan)
        for row, one in enumerate(position):
            with contextlib.suppress(Exception):
                pixels[row] = wcs.world_to_pixel(one)
        return pixels


def _cut(image, low, size):
    """Return the window (rows, columns) of lowest x and y and a size (x, y), and its WCS."""
    outline = np.broadcast_to(np.uint8(0), image.shape)  # pixels are not needed for this
    is_plain = isinstance(image.wcs, WCS)
    cutout = Cutout2D(
        outline, tuple(low + size / 2), tuple(size[::-1]), wcs=image.wcs if is_plain else None
    )
    if not is_plain:
        sliced = SlicedLowLevelWCS(image.wcs.low_level_wcs, cutout.slices_original)
        return cutout.slices_original, HighLevelWCSWrapper(sliced)
    for name in ("cpdis1", "cpdis2", "det2im1", "det2im2"):
        if table := getattr(cutout.wcs, name):  # Cutout2D leaves them where they were
            table.crval = tuple(table.crval - low)
    return cutout.slices_original, cutout.wcs
