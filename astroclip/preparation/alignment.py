"""Where pixels lie on the sky: pixel scales, and bands of other grids brought onto one."""

import warnings
from dataclasses import dataclass

import numpy as np
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, WCSCOMPARE_ANCILLARY
from astropy.wcs.utils import proj_plane_pixel_scales
from scipy import ndimage

from astroclip.exceptions import PreparationError
from astroclip.preparation.batches import SCALE_TOLERANCE
from astroclip.preparation.photometry import card_of, number_of
from astroclip.tables import Flag

__all__ = [
    "Window",
    "celestial_wcs",
    "header_scale",
    "is_square",
    "pixel_shift",
    "pixel_scale_of",
    "resample_onto",
    "separation_of_images",
    "window_wcs",
]

SCALES = (0.001, 60.0)  # arcsec per pixel that an image of galaxies may have
SHIFT_TOLERANCE = 0.1  # pixels by which two bands may be displaced and still share one grid
# arcsec per pixel; of those with two axes the second may be absent
SCALE_KEYS = (
    ("PIXSCALE",), ("PIXSCAL",), ("PIXELSCALE",), ("PIXSCAL1", "PIXSCAL2"),
    ("PIXSCALX", "PIXSCALY"), ("SECPIX",), ("SECPIX1", "SECPIX2"), ("D001SCAL",),
)
MARGIN = 4  # pixels kept around those of a band that lie in a window
FINEST = 1.5  # a band's pixels in one wanted above which they are averaged, not interpolated
REACH = 2  # pixels from a bad one in which a cubic spline feels it
SCALE_ADVICE = (
    "Give the image its WCS, or pass its scale: pixel_scale= in astroclip.embed, --pixel-scale on "
    "the command line, image_scale= in prepare_images"
)


@dataclass(frozen=True)
class Window:
    """A square of an image's pixels: first column and row, and its pixels per pixel wanted."""

    left: float
    bottom: float
    factor: float
    size: int

    @property
    def center(self):
        """Pixel coordinates of the window's center."""
        half = self.factor * self.size / 2
        return self.left - 0.5 + half, self.bottom - 0.5 + half

    @property
    def points(self):
        """Pixel coordinates (2, 9) of corners, middles of sides, and center."""
        half = self.factor * self.size / 2
        steps = np.array([-half, 0.0, half])
        (x, y), (dx, dy) = self.center, np.meshgrid(steps, steps)
        return x + dx.ravel(), y + dy.ravel()


# ---------------------------------------------------------------------- pixel scales
def celestial_wcs(wcs, name):
    """Return an image's celestial world coordinates, None if it has none.

    Raises
    ------
    PreparationError
        If they cannot be used.
    """
    if wcs is None:
        return None
    try:
        if isinstance(wcs, WCS):
            if not wcs.has_celestial:
                return None
            wcs = wcs if wcs.naxis == 2 else wcs.celestial
        elif [str(axis)[:4] for axis in wcs.world_axis_physical_types] != ["pos."] * 2:
            return None
        scale = pixel_scale_of(wcs)
        wcs.pixel_to_world_values(0.0, 0.0)  # raises where the coordinates are singular
    except Exception as error:  # wcslib, gwcs and astropy each raise errors of their own
        raise PreparationError(
            f"{name} has world coordinates that cannot be computed ({_first_line(error)}); "
            f"expected a celestial WCS that can be inverted. Check CTYPE, CRVAL and the CD matrix "
            f"or CDELT, or leave the WCS out and say the pixel scale."
        ) from error
    if not SCALES[0] <= scale <= SCALES[1]:
        raise PreparationError(
            f"{name} has world coordinates of {scale:.4g} arcsec per pixel; expected "
            f"{SCALES[0]:g} to {SCALES[1]:g}. Check the CD matrix or CDELT, in degrees per pixel, "
            f"and CRVAL; or leave the WCS out and say the pixel scale."
        )
    return wcs


def _first_line(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def pixel_scale_of(wcs):
    """Return arcsec per pixel of celestial world coordinates."""
    if isinstance(wcs, WCS):
        return float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600
    height, width = wcs.array_shape or (1, 1)
    matrix, _ = _local_grid(wcs, Window(width // 2, height // 2, 1.0, 2))
    return float(np.sqrt(abs(np.linalg.det(matrix))))


def header_scale(header, name):
    """Return arcsec per pixel that a header states in cards of its own, None without.

    Raises
    ------
    PreparationError
        If pixels are not square or the value is no pixel scale.
    """
    for keys in SCALE_KEYS:
        found = {key: card_of(header, key) for key in keys}
        values = [number_of(value) for value in found.values() if value is not None]
        if not values:
            continue
        listed = ", ".join(f"{key} = {value}" for key, value in found.items() if value is not None)
        values = np.abs(values)
        if not ((values >= SCALES[0]) & (values <= SCALES[1])).all():
            raise PreparationError(
                f"{name} has no celestial world coordinates and {listed} in its header; expected "
                f"{SCALES[0]:g} to {SCALES[1]:g} arcsec per pixel. {SCALE_ADVICE}."
            )
        if values.max() / values.min() - 1 > SCALE_TOLERANCE:
            raise PreparationError(
                f"{name} has no celestial world coordinates and {listed} in its header; expected "
                f"square pixels. Give the image its WCS, by which it is resampled."
            )
        return float(np.sqrt(np.prod(values) ** (2 / len(values))))
    return None


# ---------------------------------------------------------------------- grids
def _sky(wcs, x, y):
    """Return longitude and latitude in degrees, in the frame of the world coordinates."""
    if isinstance(wcs, WCS):
        world = wcs.all_pix2world(x, y, 0)
        return world[wcs.wcs.lng], world[wcs.wcs.lat]
    coord = wcs.pixel_to_world(x, y).icrs
    return coord.ra.deg, coord.dec.deg


def _local_grid(wcs, window, *, sky=_sky):
    """Return arcsec east and north per pixel (2, 2) in a window, and the largest misfit (arcsec).

    The matrix is the least-squares fit to the gnomonic projection about the window's center.
    """
    x, y = window.points
    longitude, latitude = np.radians(sky(wcs, x, y))
    (lon0, lat0), (x0, y0) = (longitude[4], latitude[4]), window.center
    cosine = np.sin(lat0) * np.sin(latitude) + np.cos(lat0) * np.cos(latitude) * np.cos(
        longitude - lon0
    )
    east = np.cos(latitude) * np.sin(longitude - lon0) / cosine
    north = (
        np.cos(lat0) * np.sin(latitude)
        - np.sin(lat0) * np.cos(latitude) * np.cos(longitude - lon0)
    ) / cosine
    offsets = np.degrees([east, north]) * 3600
    steps = np.array([x - x0, y - y0])
    matrix = offsets @ steps.T / (steps[0] @ steps[0])  # steps along x and y are orthogonal
    return matrix, float(np.abs(offsets - matrix @ steps).max())


def _nearest_square(matrix):
    """Return the nearest matrix of square pixels: a rotation, perhaps mirrored, times a scale."""
    left, _, right = np.linalg.svd(matrix)
    return np.sqrt(abs(np.linalg.det(matrix))) * (left @ right)


def is_square(wcs, window):
    """Return whether pixels in a window are square to 2 %, so that they need no resampling."""
    if _is_linear(wcs):
        matrix, misfit = wcs.pixel_scale_matrix * 3600, 0.0
    else:
        matrix, misfit = _local_grid(wcs, window)
    if not np.isfinite(matrix).all():
        return False
    scale = np.sqrt(abs(np.linalg.det(matrix)))
    error = np.linalg.norm(matrix - _nearest_square(matrix), 2) / scale
    return bool(error + misfit / (scale * window.factor * window.size / 2) <= SCALE_TOLERANCE)


def pixel_shift(reference, wcs, window):
    """Return by how many whole pixels a band's grid is displaced; None if it is another grid.

    Parameters
    ----------
    reference, wcs : `~astropy.wcs.WCS` or None
    window : Window
        In the pixels of ``reference``, where the grids are compared.

    Returns
    -------
    (int, int) or None
        What to add to x and y of ``reference``; None if pixels in the window are displaced
        by more than 0.1 pixels from it.
    """
    if wcs is reference:
        return 0, 0
    if _are_equal(reference, wcs):
        return 0, 0
    x, y = window.points
    try:
        at = np.array(wcs.world_to_pixel(reference.pixel_to_world(x, y)))
    except Exception:  # the inverse of a distortion does not converge off the image
        return None
    steps = at - np.array([x, y])
    if not np.isfinite(steps).all():
        return None
    shift = np.rint(np.median(steps, axis=1))
    if np.abs(steps - shift[:, None]).max() > SHIFT_TOLERANCE:
        return None
    return int(shift[0]), int(shift[1])


def _is_linear(wcs):
    """Return whether pixels lie on the tangential projection of a linear grid."""
    if not isinstance(wcs, WCS) or wcs.has_distortion:
        return False
    if not all(ctype.endswith("-TAN") for ctype in wcs.wcs.ctype):
        return False
    # wcslib calls TPV, a distortion, TAN: it shows away from the reference pixel
    step = np.array([300.0, 500.0])
    found = wcs.wcs.p2s([wcs.wcs.crpix + step], 1)["imgcrd"][0]
    return np.allclose(found, wcs.pixel_scale_matrix @ step, rtol=1e-6, atol=0)


def _are_equal(first, second):
    """Return whether two world coordinates are the same, but for dates and the like."""
    return (
        _is_linear(first)
        and _is_linear(second)
        and first.wcs.compare(second.wcs, cmp=WCSCOMPARE_ANCILLARY, tolerance=1e-9)
    )


def separation_of_images(first, first_shape, second, second_shape):
    """Return by how many arcsec the circles around two images are apart; negative if they meet."""
    centers, reach = [], 0.0
    for wcs, (height, width) in ((first, first_shape), (second, second_shape)):
        centers.append(wcs.pixel_to_world((width - 1) / 2, (height - 1) / 2).icrs)
        reach += pixel_scale_of(wcs) * np.hypot(height, width) / 2
    return float(centers[0].separation(centers[1]).arcsec) - reach


# ---------------------------------------------------------------------- resampling
def _icrs(wcs, x, y):
    coord = wcs.pixel_to_world(x, y).icrs
    return coord.ra.deg, coord.dec.deg


def window_wcs(wcs, window, *, pixel_scale=None):
    """Return the world coordinates of a window's output pixels, a tangential projection.

    Parameters
    ----------
    wcs : `~astropy.wcs.WCS`
    window : Window
        In the pixels of ``wcs``.
    pixel_scale : float, optional
        Arcsec per pixel of square output pixels, turned as the window's pixels are; by
        default the window's own pixels times its factor.

    Returns
    -------
    `~astropy.wcs.WCS`
    """
    matrix, _ = _local_grid(wcs, window, sky=_icrs)
    if pixel_scale is None:
        matrix = matrix * window.factor
    else:
        matrix = _nearest_square(matrix)
        matrix *= pixel_scale / np.sqrt(abs(np.linalg.det(matrix)))
    x, y = window.center
    target = WCS(naxis=2)
    target.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    target.wcs.radesys = "ICRS"
    target.wcs.crval = [float(value) for value in _icrs(wcs, x, y)]
    target.wcs.crpix = [(window.size + 1) / 2] * 2
    target.wcs.cd = matrix / 3600
    target.pixel_shape = (window.size, window.size)
    return target


def resample_onto(target, pixels, bad, wcs, name, *, sharp=False):
    """Return a band on the pixels of other world coordinates.

    Parameters
    ----------
    target : `~astropy.wcs.WCS`
        Of the S x S pixels wanted.
    pixels : (H, W) `numpy.ndarray`
        Flux per pixel.
    bad : (H, W) bool `numpy.ndarray`
        True where bad.
    wcs : `~astropy.wcs.WCS`
    name : str
        How errors name the band.
    sharp : bool
        Whether pixels of about the size wanted are interpolated by a cubic spline away from
        bad ones: means over shifted pixels broaden stars, by 7 % at a width of 3 pixels,
        against bands that are not resampled.

    Returns
    -------
    flux : (S, S) `numpy.ndarray`
        Flux per pixel wanted: the mean over its area of the good pixels there
        (`reproject.reproject_exact`, which intersects pixels on the sphere) times the number
        of a band's pixels in one wanted; 0 where bad.
    mask : (S, S) bool `numpy.ndarray`
        True where less than half of a pixel wanted is covered by good ones.
    inside : (S, S) bool `numpy.ndarray`
        True where half of a pixel wanted lies on the image.

    Raises
    ------
    PreparationError
        If the world coordinates cannot be inverted.
    """
    from reproject import reproject_exact

    size = target.pixel_shape[0]
    flux, mask = np.zeros((size, size)), np.ones((size, size), bool)
    rows, columns = np.mgrid[:size, :size]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            x, y = wcs.world_to_pixel(target.pixel_to_world(columns, rows))
        except Exception as error:
            raise PreparationError(
                f"{name} has world coordinates that cannot be inverted around the target; "
                f"expected a WCS that holds there. Check its distortion terms and position.",
                flag=Flag.FAILED | Flag.NO_OVERLAP,
            ) from error
        valid = np.isfinite(x) & np.isfinite(y)
        if not valid.any():
            return flux, mask, ~mask
        # a mosaic is cut to what is needed
        slices = []
        for at, length in ((y, pixels.shape[0]), (x, pixels.shape[1])):
            low = max(int(np.floor(at[valid].min())) - MARGIN, 0)
            high = min(int(np.ceil(at[valid].max())) + MARGIN + 1, length)
            if low >= high:
                return flux, mask, ~mask
            slices.append(slice(low, high))
        slices = tuple(slices)
        # tables of distortion go with the pixels of the whole image
        if isinstance(wcs, WCS) and not (wcs.cpdis1 or wcs.cpdis2 or wcs.det2im1 or wcs.det2im2):
            pixels, bad, wcs = pixels[slices], bad[slices], wcs[slices]
            x, y = x - slices[1].start, y - slices[0].start
        planes = [np.where(bad, 0.0, pixels)] + ([1.0 - bad] if bad.any() else [])
        means = [
            reproject_exact((plane, wcs), target, shape_out=(size, size)) for plane in planes
        ]
    footprint = means[0][1]
    covered = np.nan_to_num(footprint * (means[1][0] if len(means) > 1 else 1.0))
    mask = ~(covered >= 0.5)
    pixels_in_one = np.abs(
        np.gradient(x, axis=1) * np.gradient(y, axis=0)
        - np.gradient(x, axis=0) * np.gradient(y, axis=1)
    )
    share = covered[~mask] / footprint[~mask]
    flux[~mask] = means[0][0][~mask] / share
    if sharp and not np.nanmedian(pixels_in_one) > FINEST:
        sharper = _spline(pixels, bad, x, y)
        flux = np.where(mask | np.isnan(sharper), flux, sharper)
    flux *= pixels_in_one
    mask |= ~np.isfinite(flux)
    flux[mask] = 0.0
    return flux, mask, footprint >= 0.5


def _spline(pixels, bad, x, y):
    """Return pixel values at pixel coordinates by a cubic spline; NaN off the image or near bad."""
    at = np.where(np.isfinite(x) & np.isfinite(y), [y, x], -1e6)
    near = np.zeros(x.shape)
    if bad.any():
        # bad pixels hold the value of the nearest good one, so that the spline rings little
        nearest = ndimage.distance_transform_edt(bad, return_distances=False, return_indices=True)
        pixels = pixels[tuple(nearest)]
        wide = ndimage.binary_dilation(bad, np.ones((3, 3), bool), iterations=REACH)
        near = ndimage.map_coordinates(wide.astype(float), at, order=1)
    values = ndimage.map_coordinates(pixels.astype(float), at, order=3, cval=np.nan)
    return np.where(near > 0, np.nan, values)
