"""Finding the source that an image is about."""

import warnings

import numpy as np
from astropy.stats import mad_std
from astropy.utils.exceptions import AstropyUserWarning

__all__ = ["find_source"]


def find_source(pixels, bad, x, y, pixel_scale, *, radius=3.0, threshold=5.0):
    """Return the centre of the brightest source near a pixel.

    Parameters
    ----------
    pixels : (H, W) `numpy.ndarray`
    bad : (H, W) bool `numpy.ndarray`
        True where a pixel is bad.
    x, y : float
        Where to look (pixel coordinates, centre of the first pixel at 0).
    pixel_scale : float
        Arcsec per pixel.
    radius : float
        How far to look along x and y, arcsec.
    threshold : float
        The brightest pixel must exceed the background by this many times the noise.

    Returns
    -------
    (float, float) or None
        x and y of the brightest pixel, refined by a quadratic fit to its neighbours where
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
    place = (float(peak[1]), float(peak[0]))
    if 0 < peak[0] < window.shape[0] - 1 and 0 < peak[1] < window.shape[1] - 1:
        core = window[peak[0] - 1 : peak[0] + 2, peak[1] - 1 : peak[1] + 2]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # no maximum: the pixel stays
            fitted = centroid_quadratic(core, fit_boxsize=3) - 1.0
        if np.isfinite(fitted).all() and np.abs(fitted).max() <= 1:
            place = (place[0] + float(fitted[0]), place[1] + float(fitted[1]))
    return place[0] + columns.start, place[1] + rows.start
