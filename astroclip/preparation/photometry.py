"""Pixel values of any calibration to nanomaggies: units, zero points, exposure times, stretches."""

import functools
import math
import numbers
import re

import numpy as np
from astropy import units as u

from astroclip.exceptions import PreparationError

__all__ = ["ZERO_POINT_KEYS", "check_zero_point", "linear_pixels", "nanomaggy_factor"]

AB_ZERO_POINT = 3631 * u.Jy
COUNTS = (u.adu, u.DN, u.electron, u.ct, u.ph)  # units that need a zero point
MAGNITUDES = (5.0, 45.0)  # a zero point lies between these; cards of 0, 99 or -99 say "unknown"
ZERO_POINT_ADVICE = (
    "zero_point= (on the command line --zero-point), the AB magnitude of one count per second"
)
AGREEMENT = 0.02  # mag by which two zero points of one image may differ

# What a card's zero point is the AB magnitude of: one count per second, one unit of the pixel
# values as they stand, or, where surveys differ, unknown until the card's comment says it.
ZERO_POINT_KEYS = {
    "MAGZPT": "second",  # CASU: mag = MAGZPT - 2.5 log10(counts / EXPTIME)
    "FPA.ZP": "second",  # Pan-STARRS: 25 for one count per second in all stacks
    "PHOTZP": "value",  # ESO data interface control document: mag = -2.5 log10(data) + PHOTZP
    "MAGZERO": "unknown",
    "MAGZEROP": "unknown",
    "MAGZP": "unknown",
    "ZP": "unknown",
    "ZPT": "unknown",
    "ZP_AB": "unknown",
    "ZPAB": "unknown",
    "ZPMAG": "unknown",
    "ZPTMAG": "unknown",
    "ZEROPT": "unknown",
    "ZEROPNT": "unknown",
    "ZEROPOINT": "unknown",
    "ZERO_POINT": "unknown",
}
EXPOSURE_KEYS = ("EXPTIME", "EXPOSURE", "EXP_TIME", "XPOSURE", "TEXPTIME")
SYSTEM_KEYS = ("MAGSYS", "MAG_SYS", "PHOTSYS", "PHOT_SYS", "ZPSYS", "ZP_SYS", "ZPTSYS", "MAGTYPE")
OTHER_SYSTEMS = ("vega", "stmag", "johnson", "bessel", "cousins", "landolt", "2mass")
VEGA_INSTRUMENTS = ("VIRCAM", "WFCAM")  # CASU calibrates VISTA and UKIRT on 2MASS
PER_SECOND = re.compile(
    r"per sec|(adu|counts?|ct|dn|e-?|electrons?)\s*/\s*s|(one|1) ?sec|for 1 ?s\b"
)
PER_VALUE = re.compile(r"(one|1) (count|adu|dn)|(in|of) the image|per exposure|image counts")
# texts of BUNIT that are no linear flux; nanomaggies are
NOT_LINEAR = re.compile(r"(^|[^a-z])(log|ln|dex|asinh|sqrt|(ab ?)?mag(?!g))")
ASINH_LIMIT = 60.0  # 1.0857 asinh(x) of any pixel is far below it: 60 stands for a ratio of 1e24


def card_of(header, key):
    """Return a header's value of a keyword, None where it is absent or undefined."""
    if header is None:
        return None
    value = header.get(key)
    if value is None and isinstance(header, dict):
        value = header.get(key.lower())
    undefined = value is None or type(value).__name__ == "Undefined"
    return None if undefined or (isinstance(value, str) and not value.strip()) else value


def _shown(header, key):
    """Return a card's value as messages show it."""
    value = card_of(header, key)
    return "nothing" if value is None else str(value)


def number_of(value):
    """Return a card's value as a float, NaN if it is no number."""
    if isinstance(value, u.Quantity):
        value = value.value
    if isinstance(value, bool | np.bool_):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def check_zero_point(zero_point):
    """Raise unless a zero point is a magnitude, or a dict of band to magnitude.

    Raises
    ------
    TypeError
        For a list or a word.
    ValueError
        For a number that is no zero point.
    """
    if zero_point is None:
        return
    values = zero_point if isinstance(zero_point, dict) else {"": zero_point}
    for band, value in values.items():
        if value is None and band:
            continue
        name = f"zero_point[{band!r}]" if band else "zero_point"
        is_number = isinstance(value, numbers.Real) or (
            isinstance(value, u.Quantity) and value.unit in (u.mag, u.ABmag, u.one)
        )
        if not is_number or isinstance(value, bool) or np.ndim(value) != 0:
            msg = (
                f"{name} is {value!r}; expected one AB magnitude, or a dict of band to "
                f"magnitude such as {{'g': 25.1, 'r': 25.3, 'z': 24.8}}."
            )
            raise TypeError(msg)
        if not MAGNITUDES[0] < number_of(value) < MAGNITUDES[1]:
            msg = (
                f"{name} is {value}; expected the AB magnitude of one count per second, between "
                f"{MAGNITUDES[0]:g} and {MAGNITUDES[1]:g}."
            )
            raise ValueError(msg)


def linear_pixels(pixels, unit, name, *, header=None):
    """Return pixel values that are proportional to flux, up to a constant.

    Parameters
    ----------
    pixels : (H, W) `numpy.ndarray`
    unit : `~astropy.units.Unit` or None
    name : str
        How errors name the image.
    header : dict-like, optional
        Pan-STARRS stacks are stretched as their ``BSOFTEN`` and ``BOFFSET`` say.

    Returns
    -------
    `numpy.ndarray`
        ``pixels`` themselves if they are linear.

    Raises
    ------
    PreparationError
        If the pixels are magnitudes, logarithms or those of a display image.

    References
    ----------
    L = BOFFSET + BSOFTEN (exp(C / a) - exp(-C / a)) with a = 2.5 log10(e), Waters et al.
    (2020), ApJS 251, 4, section 7.
    """
    if pixels.dtype.kind not in "iuf":
        raise PreparationError(
            f"{name} has values of type {pixels.dtype}; expected real numbers. Convert the array "
            f"to float."
        )
    text = ""
    if is_plain(unit):
        text = str(card_of(header, "BUNIT") or "")
    elif _is_logarithmic(unit):
        text = str(unit)
    if text and (not is_plain(unit) or NOT_LINEAR.search(text.lower())):
        raise PreparationError(
            f"{name} has unit {text!r}: magnitudes or another scale that is not linear; expected "
            f"linear flux. Convert the pixels to nanomaggies, 10 ** ((22.5 - magnitude) / 2.5)."
        )
    if _is_display(pixels, unit):
        raise PreparationError(
            f"{name} holds the values of a display image (integers from 0 to 255, or these "
            f"divided by 255), which have lost the flux scale; expected linear flux. Fetch the "
            f"FITS cutout instead of the JPEG or PNG."
        )
    soft, offset = (card_of(header, key) for key in ("BSOFTEN", "BOFFSET"))
    if soft is None:
        return pixels
    soft, offset = number_of(soft), number_of(0.0 if offset is None else offset)
    with np.errstate(invalid="ignore"):
        largest = np.abs(pixels[np.isfinite(pixels)]).max(initial=0.0)
    if not (np.isfinite(offset) and 0 < soft < np.inf) or largest > ASINH_LIMIT:
        raise PreparationError(
            f"{name} has BSOFTEN = {card_of(header, 'BSOFTEN')} and BOFFSET = "
            f"{card_of(header, 'BOFFSET')} in its header and pixels up to {largest:.4g}; expected "
            f"asinh pixels of Pan-STARRS, which stay below {ASINH_LIMIT:g}. Delete these two "
            f"cards if the pixels are linear already."
        )
    return offset + 2 * soft * np.sinh(pixels.astype(float) * (np.log(10) / 2.5))


def _is_display(pixels, unit):
    """Return whether pixels are those of a JPEG or PNG: bytes, or 256 levels up to the top."""
    if pixels.dtype == np.uint8:
        return True
    if pixels.size == 0 or (not is_plain(unit) and _count_scale(unit)):
        return False
    with np.errstate(invalid="ignore"):
        low, top = pixels.min(), pixels.max()
    # whole numbers without a unit may be counts, unless they end where bytes do
    if low < 0 or not (0 < top <= 255) or (is_plain(unit) and 1 < top < 255):
        return False
    to_levels = 255.0 if top <= 1 else 1.0
    for part in (pixels[:: max(1, len(pixels) // 4)], pixels):  # a few rows tell most images
        levels = np.asarray(part, dtype=float) * to_levels
        if np.abs(levels - np.rint(levels)).max() > 1e-3:
            return False
    return len(np.unique(levels)) > 16


def nanomaggy_factor(unit, name, *, zero_point=None, header=None, pixel_area=None):
    """Return the factor from a linear flux unit to nanomaggies (AB, zero point 22.5).

    Parameters
    ----------
    unit : `~astropy.units.Unit` or None
        Nanomaggies, Jy or the like, also per solid angle or, where ``PHOTPLAM`` says at
        which wavelength, per Angstrom; or counts of any kind, by themselves or per second.
    name : str
        How errors name the image.
    zero_point : float, optional
        AB magnitude of one count per second. Counts that are not per second are divided by
        the header's exposure time (EXPTIME, EXPOSURE, EXP_TIME, XPOSURE, TEXPTIME); without
        one they are taken as those of one second.
    header : dict-like, optional
        Searched for a zero point if none is given: ``FLUXMAG0``; ``PHOTFLAM`` with
        ``PHOTPLAM``; ``PHOTFNU``; `ZERO_POINT_KEYS`.
    pixel_area : float, optional
        Of a pixel, arcsec2, for surface brightness.

    Returns
    -------
    float

    Raises
    ------
    `~astropy.units.UnitsError`
        If the unit is no flux and no zero point is known.
    PreparationError
        If zero points contradict each other or the unit, are not AB, or hold no magnitude.

    Examples
    --------
    >>> from astropy import units as u
    >>> from astroclip.preparation.photometry import nanomaggy_factor
    >>> round(nanomaggy_factor(u.adu / u.s, "image", zero_point=25.0), 3)
    0.1
    >>> round(nanomaggy_factor(u.adu, "image", zero_point=25.0, header={"EXPTIME": 100.0}), 4)
    0.001
    """
    unit = u.dimensionless_unscaled if unit is None else unit
    total, area = _per_pixel(unit, name, pixel_area, header)
    if area is None:
        found = "no unit" if is_plain(unit) else f"unit {str(unit)!r}"
        msg = (
            f"{name} has {found}; expected nanomaggies, Jy, or counts with an AB zero point. Set "
            f"its unit, such as astropy.units.nmgy; flux per wavelength needs PHOTPLAM, the pivot "
            f"wavelength, in the header."
        )
        raise u.UnitsError(msg)
    flux = _flux_factor(total, header)
    if flux is not None:
        _check_flux_unit(flux, unit, name, zero_point, header)
        return flux * area
    per_second, scale = _count_scale(total)
    if zero_point is not None:
        magnitude, kind = number_of(zero_point), "second"
    else:
        magnitude, kind = _header_zero_point(unit, name, header, per_second)
    if kind == "second" and not per_second:
        magnitude += 2.5 * math.log10(_exposure(header, name))
    return scale * area * 10 ** ((22.5 - magnitude) / 2.5)


# ---------------------------------------------------------------------- units
def _per_pixel(unit, name, pixel_area, header):
    """Return the unit of a whole pixel and its number of areas, None for a unit of no flux."""
    for per in (None, u.pix, u.pix**2, u.sr):
        total = unit if per is None else unit * per
        if not _count_scale(total) and _flux_factor(total, header) is None:
            continue
        if per is not u.sr:
            return total, 1.0
        if pixel_area is None:
            msg = (
                f"{name} has unit {str(unit)!r}, a surface brightness, and no known pixel area; "
                f"expected world coordinates or the scale of its pixels."
            )
            raise u.UnitsError(msg)
        return total, (pixel_area * u.arcsec**2).to_value(u.sr)
    return unit, None


@functools.lru_cache(maxsize=64)
def _count_scale(unit):
    """Return whether a unit of counts is per second, and its factor; None for other units."""
    for known in (u.dimensionless_unscaled, *COUNTS):
        if unit.is_equivalent(known):
            return False, float(unit.to(known))
        if unit.is_equivalent(known / u.s):
            return True, float(unit.to(known / u.s))
    return None


@functools.lru_cache(maxsize=64)
def _is_logarithmic(unit):
    """Return whether a unit is one of magnitudes or logarithms."""
    bases = getattr(unit, "bases", ())
    return isinstance(unit, u.function.FunctionUnitBase) or any(
        base in (u.mag, u.dex, u.dB) for base in bases
    )


@functools.lru_cache(maxsize=64)
def is_plain(unit):
    """Return whether pixels have no unit, or one that is the number 1."""
    return unit is None or unit == u.dimensionless_unscaled


def _flux_factor(unit, header):
    """Return nanomaggies in one unit of flux density; None for other units."""
    factor = _frequency_factor(unit)
    if factor is None and unit.is_equivalent(u.erg / u.s / u.cm**2 / u.AA):
        pivot = number_of(card_of(header, "PHOTPLAM"))
        if pivot > 0:
            jansky = unit.to(u.Jy, equivalencies=u.spectral_density(pivot * u.AA))
            factor = 1e9 * jansky / AB_ZERO_POINT.value
    return factor


@functools.lru_cache(maxsize=64)
def _frequency_factor(unit):
    """Return nanomaggies in one unit of flux per frequency; None for other units."""
    if unit.is_equivalent(u.nmgy):
        return unit.to(u.nmgy)
    if unit.is_equivalent(u.Jy):
        return (unit.to(u.Jy) / AB_ZERO_POINT.value) * 1e9
    return None


def _check_flux_unit(factor, unit, name, zero_point, header):
    """Raise PreparationError if a zero point contradicts a unit of flux."""
    implied = 22.5 - 2.5 * math.log10(factor)
    stated, source = zero_point, "zero_point"
    if stated is None:
        for key in ("MAGZERO", "MAGZP", "MAGZPT", "ZP", "ZEROPT", "ZEROPNT"):
            value = number_of(card_of(header, key))
            if MAGNITUDES[0] < value < MAGNITUDES[1]:
                stated, source = value, f"the card {key}"
                break
    if stated is not None and abs(number_of(stated) - implied) > AGREEMENT:
        raise PreparationError(
            f"{name} has unit {str(unit)!r}, whose AB zero point is {implied:.4g}, and "
            f"{source} is {number_of(stated):g}; expected one of the two. Leave {source} out if "
            f"the pixels are in that unit, else give them the unit astropy.units.adu."
        )


# ---------------------------------------------------------------------- zero points
def _header_zero_point(unit, name, header, per_second):
    """Return the magnitude that a header states, and of what: a "second" or a "value"."""
    found = dict(_stated(header))
    magnitudes = {
        key: value for key, value in found.items() if MAGNITUDES[0] < value[0] < MAGNITUDES[1]
    }
    what = "no unit" if is_plain(unit) else f"unit {str(unit)!r}"
    if not magnitudes:
        cards = ", ".join(f"{key} = {_shown(header, key)}" for key in found)
        found_text = f"no zero point in {cards}" if cards else "no zero point"
        error = PreparationError if cards else u.UnitsError
        raise error(
            f"{name} has {what} and {found_text}; expected nanomaggies, Jy, or counts with an "
            f"AB zero point. Set its unit (astropy.units.nmgy; unit= where it has none), or pass "
            f"{ZERO_POINT_ADVICE}."
        )
    for key in magnitudes:
        if system := _other_system(header, key):
            raise PreparationError(
                f"{name} has the zero point {key} = {_shown(header, key)} in the system "
                f"{system!r}; expected AB magnitudes. Pass {ZERO_POINT_ADVICE}."
            )
    # every reading as the magnitude of one pixel value
    shift = 0.0
    if not per_second and any(kind != "value" for _, kind in magnitudes.values()):
        shift = 2.5 * math.log10(_exposure(header, name))
    readings = {
        key: {"second": (shift,), "value": (0.0,), "unknown": (shift, 0.0)}[kind]
        for key, (_, kind) in magnitudes.items()
    }
    values = {key: [magnitudes[key][0] + each for each in readings[key]] for key in magnitudes}
    common = [
        value
        for value in next(iter(sorted(values.values(), key=len)))
        if all(min(abs(value - one) for one in other) < AGREEMENT for other in values.values())
    ]
    listed = " and ".join(f"{key} = {magnitudes[key][0]:g}" for key in magnitudes)
    if not common:
        raise PreparationError(
            f"{name} has zero points that contradict each other, {listed}; expected one. Pass "
            f"{ZERO_POINT_ADVICE}."
        )
    if max(common) - min(common) > AGREEMENT:
        raise PreparationError(
            f"{name} has {what}, {listed} and an exposure time of {10 ** (shift / 2.5):g} s; "
            f"expected to know whether the zero point is that of one count per second or of one "
            f"count of the exposure. Give the pixels the unit astropy.units.adu / u.s if they are "
            f"per second or scaled to the zero point, else pass "
            f"{ZERO_POINT_ADVICE}."
        )
    return common[0], "value"


def _stated(header):
    """Yield a header's zero points: keyword, (AB magnitude or NaN, what it is the magnitude of)."""
    if header is None:
        return
    flux = number_of(card_of(header, "FLUXMAG0"))  # HSC: pixel value of magnitude 0
    if flux > 0:
        yield "FLUXMAG0", (2.5 * math.log10(flux), "value")
    inverse = number_of(card_of(header, "PHOTFLAM"))  # HST: erg/s/cm2/A of one count per second
    pivot = number_of(card_of(header, "PHOTPLAM"))
    if inverse > 0 and pivot > 0:
        # https://www.stsci.edu/hst/instrumentation/acs/data-analysis/zeropoints
        yield "PHOTFLAM", (-2.5 * math.log10(inverse) - 5 * math.log10(pivot) - 2.408, "second")
    inverse = number_of(card_of(header, "PHOTFNU"))  # HST: Jy of one count per second
    if inverse > 0:
        yield "PHOTFNU", (-2.5 * math.log10(inverse / AB_ZERO_POINT.value), "second")
    for key, kind in ZERO_POINT_KEYS.items():
        if key in header or (isinstance(header, dict) and key.lower() in header):
            comment = _comment(header, key)
            if kind == "unknown" and PER_SECOND.search(comment):
                kind = "second"
            elif kind == "unknown" and PER_VALUE.search(comment):
                kind = "value"
            yield key, (number_of(card_of(header, key)), kind)


def _comment(header, key):
    """Return the comment of a card, in lower case; a dict of a file's cards has it by name."""
    comments = getattr(header, "comments", None)
    text = header.get(f"{key} COMMENT", "") if comments is None else comments[key]
    return str(text).lower()


def _other_system(header, key):
    """Return the magnitude system of a zero point if it is not AB; None if it may be."""
    if key in ("FLUXMAG0", "PHOTFLAM", "PHOTFNU"):  # fluxes
        return None
    texts = [str(card_of(header, name) or "") for name in SYSTEM_KEYS] + [_comment(header, key)]
    for text in texts:
        if any(word in text.lower() for word in OTHER_SYSTEMS) or text.strip().upper() == "ST":
            return text.strip()
    instrument = str(card_of(header, "INSTRUME") or "").strip().upper()
    says_ab = any("AB" in text.upper().split() for text in texts)
    return f"Vega (of {instrument})" if instrument in VEGA_INSTRUMENTS and not says_ab else None


def _exposure(header, name):
    """Return the exposure time in seconds, 1 if the header does not know it."""
    for key in EXPOSURE_KEYS:
        if header is None or (key not in header and key.lower() not in header):
            continue
        value = card_of(header, key)
        if isinstance(value, u.Quantity) and value.unit.is_equivalent(u.s):
            value = value.to_value(u.s)
        seconds = number_of(value)
        if not 0 < seconds < 1e8:
            raise PreparationError(
                f"{name} has {key} = {_shown(header, key)} in its header; expected the exposure "
                f"time in seconds, by which its counts are divided. Correct the card, or give "
                f"the pixels a unit per second."
            )
        return seconds
    return 1.0
