"""Bands: filter names, extinction, and the models' image scalings."""

import itertools
import re

import numpy as np

from astroclip._validation import check_choice, check_length

__all__ = [
    "EXTINCTION",
    "NORMALIZATIONS",
    "arcsinh_image",
    "band_letter",
    "canonical_band",
    "center_crop",
    "deredden",
    "header_bands",
    "normalize_images",
]

EXTINCTION = {"g": 3.214, "r": 2.165, "z": 1.211}
"""A / E(B-V) in the DECam bands, Schlafly & Finkbeiner (2011) as used by the Legacy Surveys."""
# factors on nanomaggies before the stretch of `arcsinh_image`: the Legacy Surveys' numbers
DISPLAY_SCALES = {"g": 6.0, "r": 3.4, "z": 2.2}
# k of arcsinh(k f) / 2: above 1 / k nanomaggies the scaling goes from linear to logarithmic
ARCSINH_SCALES = {"g": 20.0, "r": 12.0, "z": 6.0}
DISPLAY_BLOCK = 2  # images scaled at a time: their arrays stay in the processor's cache
NORMALIZATIONS = ("astroclip", "stein", "asinh", "none")
# words of filter names that name a camera or survey with u g r i z y filters, or no filter
SYSTEMS = frozenset((
    "decam", "decals", "ls", "legacysurvey", "legacy", "legacysurveys", "bass", "mzls", "90prime",
    "mosaic", "mosaic3", "sdss", "sloan", "ps1", "gpc1", "panstarrs", "pan", "starrs", "subaru",
    "suprimecam", "hsc", "hypersuprimecam", "lsst", "des", "desdm", "ctio", "cfht", "cfhtls",
    "megacam", "megaprime", "lsstcam", "lsstcomcam", "comcam", "rubin", "ztf", "skymapper", "vst",
    "omegacam", "ocam", "kids", "gmos", "gemini", "lbc", "lbt", "lco", "wfc", "band", "filter",
    "palomar", "prime", "sim", "open", "clear", "w", "s",
))
ALIASES = {  # of 90Prime, Mosaic-3, Las Cumbres Observatory, ZTF
    "bokr": "r", "zd": "z", "up": "u", "gp": "g", "rp": "r", "ip": "i", "zp": "z", "zs": "z",
    "zg": "g", "zr": "r", "zi": "i",
}
LETTERS = ("u", "g", "r", "i", "z", "y")


def canonical_band(name):
    """Return the band letter of a filter's name.

    Parameters
    ----------
    name : str
        A letter (``"g"``, ``"g'"``, ``"G"``), or the names of its system and a letter in
        either order with any separator: ``"DECam g"``, ``"decals-r"``, ``"z_sdss"``,
        ``"Pan-STARRS g"``, ``"SLOAN/SDSS.g"``, ``"g DECam SDSS c0001 4720.0 1520.0"``.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the name holds no band letter.

    Notes
    -----
    Systems are told apart by name only: DECam, 90Prime/MzLS, SDSS, Pan-STARRS, HSC, DES
    and LSST filters of one letter are taken as the same band, which is right to a few
    hundredths of a magnitude for galaxies below redshift 0.6 in g and r and to 0.1 in z.

    Examples
    --------
    >>> from astroclip.preparation.bands import canonical_band
    >>> canonical_band("DECam g"), canonical_band("r'"), canonical_band("sdss-z")
    ('g', 'r', 'z')
    """
    letter = band_letter(name)
    if letter is not None:
        return letter
    msg = (
        f"band is {name!r}; expected a letter of {', '.join(LETTERS)}, alone or with a system "
        f"such as 'DECam g' or 'sdss r'."
    )
    raise ValueError(msg)


def band_letter(name):
    """Return what `canonical_band` does, or None if the name holds no band letter or two."""
    words = "".join(c if c.isalnum() else " " for c in str(name).lower()).split()
    letters = set()
    for word in words:
        if word in SYSTEMS:
            continue
        if letter := _word_letter(word):
            letters.add(letter)
        elif not any(c.isdigit() for c in word):  # numbers are serial numbers and wavelengths
            return None
    return letters.pop() if len(letters) == 1 else None


def _word_letter(word):
    """Return the band letter of a word such as ``g``, ``r2`` or ``gsdss``; None if it has none."""
    if word in ALIASES:
        return ALIASES[word]
    if word[0] in LETTERS and (len(word) == 1 or word[1:] in SYSTEMS or word[1:] in "123456789"):
        return word[0]
    return word[-1] if word[-1] in LETTERS and word[:-1] in SYSTEMS else None


def header_bands(header):
    """Return the names of a stack's bands as its header lists them; empty if it does not.

    Parameters
    ----------
    header : dict-like
        ``BANDS``, ``FILTERS`` or ``FILTER``: letters (``"grz"``), or names between commas or
        the like; or ``BAND0``, ``BAND1``, ... or ``BAND1``, ``BAND2``, ..., or
        the like with ``FILTER`` if each is another band.

    Returns
    -------
    list of str
    """
    for key in ("BANDS", "FILTERS", "FILTER"):
        text = header.get(key)
        if not isinstance(text, str):
            continue
        names = [name.strip(" '\"[]()") for name in re.split("[,;|]", text)]
        for separator in (None, "/"):
            parts = [part.strip() for part in names[0].split(separator)]
            if len(names) == 1 and len(set(map(band_letter, parts)) - {None}) == len(parts):
                names = parts
        if len(names) == 1 and len(names[0]) > 1 and set(names[0].lower()) <= {*LETTERS, "b"}:
            names = list(names[0])
        names = [name for name in names if name]
        if len(names) > 1 or (names and key == "BANDS"):
            return names
    for key in ("BAND", "FILTER"):
        for first in (0, 1):
            values = (header.get(f"{key}{first + k}") for k in range(100))
            names = [str(name).strip() for name in itertools.takewhile(bool, values)]
            letters = [band_letter(name) for name in names]
            if key == "FILTER" and (None in letters or len(set(letters)) < len(letters)):
                continue  # filter wheels in one beam: FILTER1 = CLEAR1L, FILTER2 = F814W
            if len(names) > 1 or (names and first == 0):
                return names
    return []


def deredden(pixels, bands, ebv):
    """Undo Galactic extinction.

    Parameters
    ----------
    pixels : (N, B, S, S) `numpy.ndarray`
        Linear fluxes.
    bands : sequence of str
        Of g, r, z.
    ebv : float or (N,) array-like
        E(B-V) in mag (Schlegel, Finkbeiner & Davis 1998 scale).

    Returns
    -------
    `numpy.ndarray`
        ``pixels / 10 ** (-0.4 * A)`` with A / E(B-V) = 3.214, 2.165, 1.211.
    """
    coefficient = np.array([EXTINCTION[check_choice(b, EXTINCTION, "bands")] for b in bands])
    magnitude = check_length(ebv, len(pixels), "ebv")[:, None] * coefficient
    return (pixels * 10 ** (0.4 * magnitude)[:, :, None, None]).astype(np.float32)


def center_crop(pixels, size):
    """Return the central ``size`` x ``size`` pixels of the last two axes.

    Raises
    ------
    ValueError
        If the images are smaller.
    """
    height, width = pixels.shape[-2:]
    if height < size or width < size:
        msg = f"pixels are {height} x {width}; expected at least {size} x {size} to crop."
        raise ValueError(msg)
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[..., top : top + size, left : left + size]


def _check_bands(pixels, bands, known, *, complete=False):
    """Raise ValueError unless pixels hold these bands, all known, or all known ones."""
    bands = tuple(bands)
    if not set(bands) <= set(known) or (complete and set(bands) != set(known)):
        msg = f"bands are {bands}; expected {'all' if complete else 'some'} of {known}."
        raise ValueError(msg)
    if pixels.ndim != 4 or pixels.shape[1] != len(bands):
        msg = (
            f"pixels has shape {pixels.shape}; expected (N, {len(bands)}, S, S) for bands {bands}."
        )
        raise ValueError(msg)


def arcsinh_image(pixels, bands, *, precedence="astroclip"):
    r"""Return the display scaling that published models were trained on.

    .. math::

        I = \frac{1}{3} \sum_b \max(0, f_b s_b + 0.03), \qquad
        o_b = \mathrm{clip}\left(
            (f_b s_b + 0.03) \frac{\mathrm{arcsinh}(20 I)}{\sqrt{20}\, I}, 0, 1\right)

    with s = 6.0, 3.4, 2.2 in g, r, z.

    Parameters
    ----------
    pixels : (N, B, S, S) `numpy.ndarray`
        Nanomaggies per 0.262 arcsec pixel.
    bands : sequence of str
        g, r, z in any order.
    precedence : str
        ``"astroclip"`` as above, or ``"stein"``: the code released with Stein et al.
        (2021) multiplies 0.03 alone by the factor.

    Returns
    -------
    (N, 3, S, S) float32 `numpy.ndarray`
        Channels z, r, g.

    Raises
    ------
    ValueError
        If the precedence is unknown or the bands are not g, r and z.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990; Stein et al. (2021), arXiv:2110.13151; the
    transform of Lupton et al. (2004), PASP 116, 133, with the Legacy Surveys' numbers.
    """
    check_choice(precedence, ("astroclip", "stein"), "precedence")
    _check_bands(pixels, bands, tuple(DISPLAY_SCALES), complete=True)
    order = [tuple(bands).index(band) for band in "zrg"]
    scales = np.array([DISPLAY_SCALES[b] for b in "zrg"], dtype=np.float32)[:, None, None]
    offset = np.float32(0.03)
    shown = np.empty(pixels.shape, dtype=np.float32)
    for first in range(0, len(pixels), DISPLAY_BLOCK):
        flux = pixels[first : first + DISPLAY_BLOCK, order].astype(np.float32)
        scaled = flux * scales + offset
        intensity = np.maximum(scaled, 0).mean(axis=1, keepdims=True)
        ratio = np.arcsinh(np.float32(20) * intensity) / np.float32(np.sqrt(20))
        ratio /= np.where(intensity == 0, np.float32(1e-6), intensity)
        result = flux * (scales + offset * ratio) if precedence == "stein" else scaled * ratio
        np.clip(result, 0, 1, out=shown[first : first + DISPLAY_BLOCK])
    return shown


def normalize_images(pixels, *, bands, normalization):
    """Scale prepared images as a model expects them.

    Parameters
    ----------
    pixels : (N, B, S, S) `numpy.ndarray`
        Nanomaggies per pixel, axes object, band, y, x.
    bands : sequence of str
    normalization : str
        ``"astroclip"`` or ``"stein"``: see `arcsinh_image` (channels z, r, g);
        ``"asinh"``: ``arcsinh(k f) / 2`` with k = 20, 12, 6 in g, r, z, channels in the
        order of ``bands``; ``"none"``.

    Returns
    -------
    (N, B, S, S) float32 `numpy.ndarray`

    Raises
    ------
    ValueError
        If the normalization is unknown or needs bands that are not there.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.preparation import normalize_images
    >>> sky = np.zeros((1, 3, 4, 4), dtype=np.float32)
    >>> float(normalize_images(sky, bands="grz", normalization="astroclip").max()) < 0.15
    True
    """
    check_choice(normalization, NORMALIZATIONS, "normalization")
    bands = tuple(bands)
    if normalization == "none":
        return np.asarray(pixels, dtype=np.float32)
    if normalization == "asinh":
        _check_bands(pixels, bands, tuple(ARCSINH_SCALES))
        scales = np.array([ARCSINH_SCALES[b] for b in bands], dtype=np.float32)
        scaled = np.asarray(pixels, dtype=np.float32) * scales[:, None, None]
        np.arcsinh(scaled, out=scaled)
        scaled /= 2
        return scaled
    return arcsinh_image(pixels, bands, precedence=normalization)
