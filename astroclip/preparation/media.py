"""Air or vacuum: what a spectrum's wavelengths are in, by its own declaration."""

import numpy as np
from astropy import units as u
from astropy.wcs import WCS
from specutils.utils.wcs_utils import air_to_vac

from astroclip.exceptions import PreparationError

__all__ = ["ASSUMED", "MEDIA", "declarations", "declared_medium", "vacuum_wavelength"]

MEDIA = ("vacuum", "air")
ASSUMED = "vacuum (assumed)"
SHORTEST_AIR = 2000.0  # Angstrom: below it spectra are given in vacuum by convention

YES, NO = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
WORDS = {
    "air": "air", "awav": "air",
    "vac": "vacuum", "vacuum": "vacuum", "vacuo": "vacuum", "in vacuum": "vacuum",
    "in air": "air",
}
AXES = {  # FITS spectral axis types: Greisen et al. (2006), A&A 446, 747, table 1
    "AWAV": "air", "WAVE": "vacuum", "FREQ": "vacuum", "ENER": "vacuum", "WAVN": "vacuum",
}
KEYWORDS = {  # of meta and headers
    "MEDIUM": WORDS,  # what astroclip itself writes
    "AIRORVAC": WORDS,  # DESI, IRAF
    "VACUUM": dict.fromkeys(YES, "vacuum") | dict.fromkeys(NO, "air") | WORDS,  # SDSS, LAMOST
}


def declared_medium(spectrum, name):
    """Return what a spectrum says its wavelengths are in.

    Parameters
    ----------
    spectrum : `~specutils.Spectrum`
        Its meta, the ``header`` in its meta, and its FITS WCS are asked.
    name : str
        How errors name it.

    Returns
    -------
    str or None
        ``"air"``, ``"vacuum"``, or None if it says nothing.

    Raises
    ------
    PreparationError
        If it says both, or ``meta["medium"]`` something else.

    Notes
    -----
    ``medium``, AIRORVAC and VACUUM are known; CTYPE of a FITS axis (AWAV is air; WAVE, FREQ, ENER
    and WAVN are vacuum); and TUCD of a column, which in ESO's science data products ends in
    ``obs.atmos`` for wavelengths in air.
    """
    said = {}
    meta = spectrum.meta or {}
    for holder in (meta, meta.get("header")):
        if hasattr(holder, "keys"):
            said |= declarations(holder)
    for wcs in (spectrum.wcs, meta.get("original_wcs")):
        if isinstance(wcs, WCS):
            said |= {
                f"CTYPE {kind!r} of its WCS": medium
                for kind in wcs.wcs.ctype
                if (medium := _axis_medium(kind))
            }
    media = set(said.values())
    if len(media) == 1:
        return media.pop()
    if media:
        listed = " and ".join(f"{key} ({medium})" for key, medium in said.items())
        raise PreparationError(
            f"{name} declares its wavelengths to be in air and in vacuum, by {listed}; expected "
            f"one of the two. Pass medium='air' or medium='vacuum'."
        )
    own = meta.get("medium")
    if own:
        raise PreparationError(
            f"{name} has meta['medium'] {own!r}; expected 'air' or 'vacuum'. Correct it, or pass "
            f"medium='air' or medium='vacuum'."
        )
    return None


def declarations(holder):
    """Return the media that a header or meta declares.

    Parameters
    ----------
    holder : `~astropy.io.fits.Header` or dict

    Returns
    -------
    dict of str to str
        ``"air"`` or ``"vacuum"`` by keyword and value.
    """
    said = {}
    for key in holder:
        word, medium = str(key).upper(), None
        if word in KEYWORDS:
            medium = KEYWORDS[word].get(str(holder[key]).strip().lower())
        elif word[:5] == "CTYPE" and word[5:].isdigit():
            medium = _axis_medium(holder[key])
        elif word[:4] == "TUCD" and "obs.atmos" in str(holder[key]).lower():
            medium = "air"
        if medium is not None:
            said[f"{key}={holder[key]!r}"] = medium
    return said


def _axis_medium(kind):
    """Return the medium of a CTYPE such as AWAV or WAVE-LOG; WAVELENGTH is no such type."""
    return AXES.get(str(kind).split("-")[0].strip())


def vacuum_wavelength(wavelength):
    """Return vacuum wavelengths of those in air.

    Parameters
    ----------
    wavelength : (P,) `numpy.ndarray`
        Angstrom, ascending. Those below 2000 Angstrom are in vacuum by convention and stay.

    Returns
    -------
    (P,) `numpy.ndarray`
        Angstrom.

    References
    ----------
    Morton (2000), ApJS 130, 403, equation 8, inverted by iteration.
    """
    first = np.searchsorted(wavelength, SHORTEST_AIR)
    if first == len(wavelength):
        return wavelength
    air = wavelength[first:] * u.AA
    vacuum = air_to_vac(air, scheme="iteration").to_value(u.AA)
    return np.concatenate([wavelength[:first], vacuum])
