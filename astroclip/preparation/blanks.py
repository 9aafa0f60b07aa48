"""Pixels that hold a constant in place of data: blank corners, outside the footprint."""

import numpy as np
from scipy import ndimage

__all__ = ["blank_pixels"]

SMALLEST = 64  # pixels of a blank region
BLOCK = np.ones((5, 5), bool)  # a blank region holds one, pixels beyond the image's edge counted
MOST_VALUES = 4  # constants that are looked at, the most frequent first
FLIPS = 0.1  # share of neighboring differences that change sign: 2/3 for noise, 0 for a model
CONTRAST = 1e-4  # of the step at the region's edge, relative to the brightest percent of the rest
MOST_EQUAL = 0.4  # share of one value among the pixels along the region's edge
GAP = 0.3  # of the smallest steps relative to the typical one, for a value beyond all others
SOLID = 0.5  # share of the other pixels that have such pixels right and above them


def blank_pixels(pixels, bad=None):
    """Return where an image holds a constant in place of data.

    Parameters
    ----------
    pixels : (H, W) `numpy.ndarray`
    bad : (H, W) bool `numpy.ndarray`, optional
        True where a pixel is known to be bad; non-finite ones are by themselves.

    Returns
    -------
    (H, W) bool `numpy.ndarray` or None
        True where blank; None if nothing is.

    Notes
    -----
    A blank region is a connected set of at least 64 pixels of exactly one value that holds
    a block of 5 x 5, in an image whose other pixels are noisy and differ from that value
    along the region's edge. Zeros of noiseless models, the empty pixels of images of few
    counts, saturated cores and images that are constant everywhere are not blank, but an
    image that is 0 everywhere is.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.preparation.blanks import blank_pixels
    >>> image = np.random.default_rng(0).normal(size=(40, 40))
    >>> image[:10, :12] = 0
    >>> int(blank_pixels(image).sum())
    120
    """
    equal = pixels[:, 1:] == pixels[:, :-1]
    if np.count_nonzero(equal) < SMALLEST // 2:
        return None
    if not pixels.any():
        return np.ones(pixels.shape, bool)
    good = np.isfinite(pixels) if bad is None else ~bad & np.isfinite(pixels)
    flat = equal[1:] & equal[:-1] & (pixels[1:, 1:] == pixels[:-1, 1:])
    values, counts = np.unique(pixels[1:, 1:][flat & good[1:, 1:]], return_counts=True)
    common = counts >= SMALLEST // 4
    blank = np.zeros(pixels.shape, bool)
    for value in values[common][np.argsort(-counts[common])][:MOST_VALUES]:
        region = _solid_regions((pixels == value) & good)
        if region.any() and _ends_in_noise(pixels, region, good & ~region, value):
            blank |= region
    return blank if blank.any() else None


def _solid_regions(same):
    """Return the connected regions that are large enough and hold a block."""
    labels, _ = ndimage.label(same)
    solid = np.bincount(labels.ravel()) >= SMALLEST
    has_block = np.zeros(len(solid), bool)
    has_block[labels[ndimage.binary_erosion(same, BLOCK, border_value=1)]] = True
    solid &= has_block
    solid[0] = False  # the other pixels
    return solid[labels]


def _ends_in_noise(pixels, region, rest, value):
    """Return whether the rest is a noisy image that differs from a region along its edge."""
    n_rest = np.count_nonzero(rest)
    corner = rest[:-1, :-1] & rest[:-1, 1:] & rest[1:, :-1]
    if n_rest == 0 or np.count_nonzero(corner) < SOLID * n_rest:
        return False
    slope = np.diff(pixels.astype(float), axis=1)
    triple = rest[:, 2:] & rest[:, 1:-1] & rest[:, :-2]
    flips = (np.sign(slope[:, 1:]) * np.sign(slope[:, :-1]))[triple] < 0
    if flips.size == 0 or flips.mean() < FLIPS:
        return False
    edge = pixels[ndimage.binary_dilation(region) & rest].astype(float)
    if edge.size == 0:
        return True
    _, repeats = np.unique(edge, return_counts=True)
    step, others = np.abs(edge - value), pixels[rest].astype(float)
    typical = np.median(step)
    if repeats.max() > max(1, MOST_EQUAL * edge.size):
        return False
    if typical <= CONTRAST * np.percentile(np.abs(others - value), 99):
        return False
    # beyond all others, as the zeros of clipped images and saturated cores are: a gap is needed
    if value >= others.max():
        return bool(value - others.max() > GAP * (value - np.median(others)))
    return bool(value > others.min() or np.percentile(step, 5) > GAP * typical)
