"""Units as files spell them: ``1E-17 erg/cm^2/s/Ang``, ``FLAM``, an A that is no ampere."""

import functools
import re
import warnings

from astropy import units as u

__all__ = ["given_unit", "is_flux_density", "parse_unit"]

# Whole strings, lower case, that no rule of spelling turns into a unit.
NAMES = {
    "flam": "erg / (s cm2 Angstrom)",
    "fnu": "erg / (s cm2 Hz)",
    "microns": "micron",
    "nanometers": "nm",
    "nanometres": "nm",
    "nanometer": "nm",
    "nanometre": "nm",
    "micrometer": "um",
    "micrometre": "um",
    "micrometers": "um",
    "dn": "adu",
    "cts": "count",
    "electrons": "electron",
}
# Parts of a string: pattern, what astropy calls it.
SPELLINGS = (
    (r"\{\s*([+-]?\d+)\s*\}", r"(\1)"),
    (r"\\mathrm|\\rm|\\,|[{}$]", ""),
    (r"\\mathring\s*\(?A\)?|\\AA\b|Å|\u212b", "Angstrom"),
    (r"(?<![a-z])(angstroms?|angs?|aa)(?![a-z])", "Angstrom"),
    (r"(?<![A-Za-z])A(?![A-Za-z])", "Angstrom"),  # no spectrum is measured in amperes
    (r"(?<![a-z])ergs?(?![a-z])", "erg"),
    (r"(?<![a-z])(seconds?|secs?)(?![a-z])", "s"),
    (r"(?<![a-z])counts?(?![a-z])", "count"),
    (r"(?<![a-z])(micro-?jansky|microjy|mujy)(?![a-z])", "uJy"),
    (r"(?<![a-z])(milli-?jansky|millijy)(?![a-z])", "mJy"),
    (r"(?<![a-z])janskys?(?![a-z])", "Jy"),
    (r"(?<![a-z])jy(?![a-z])", "Jy"),
    (r"(?<![a-z])beams?(?![a-z])", "beam"),
    (r"(?<![a-z])(nano-?magg(y|ies?)|nmgys?)(?![a-z])", "nmgy"),
    (r"(?<![a-z])(magg(y|ies?)|mgys?)(?![a-z])", "mgy"),
    (r"(?<![a-z\d.])(electrons?|e-?(?=\s*(/|$)))", "electron"),
    (r"(?<![a-z])photons?(?![a-z])", "photon"),
    (r"(?<![a-z])cps(?![a-z])", "ct / s"),
    (r"(?<=/)\s*s(?![a-z])", " s"),
    (r"(?<![a-z])microns?(?![a-z])", "um"),
    (r"(?<=[a-z)])\s*(?=[+-]\d)", ""),
    (r"\s*\.\s*(?=[A-Za-z])", " "),
)
SCALE = re.compile(
    r"\s*(?:(?:x|\*)\s*)?(?:10\s*(?:\*\*|\^)\s*\(?\s*([+-]?\d+)\s*\)?|10([+-]\d+)(?!\.?\d)"
    r"|(\d+\.?\d*(?:e[+-]?\d+)?))\s*[*.]?\s*(?=[A-Za-z(/])",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=256)
def parse_unit(text):
    """Return the unit that a file's header or column names.

    Parameters
    ----------
    text : str, `~astropy.units.Unit` or None
        Such as ``10**(-17)erg/s/cm2/Ang``, ``erg/cm**2/s/angstrom``, ``Angstroms`` or ``A``,
        which means Angstrom, never ampere.

    Returns
    -------
    `~astropy.units.Unit` or None
        None if there is no unit, or it cannot be understood.
    """
    if text is None or isinstance(text, u.UnitBase):
        return text
    text = str(text).strip().strip("'\"").strip()
    if text.lower() in ("", "none", "unitless", "relative", "arbitrary", "unknown", "n/a", "-"):
        return None
    unit = _parse(text)
    inner = re.search(r"[(\[](.+)[)\]]\s*$", text)
    if unit is None and inner:  # Flux (10^-17 erg/s/cm^2/Ang), as APOGEE has it
        unit = _parse(inner[1])
    return unit


def _parse(text):
    text = NAMES.get(text.lower(), text)
    factor, match = 1.0, SCALE.match(text)
    if match:
        power, short, number = match.groups()
        factor = float(number) if number else 10.0 ** int(power or short)
        text = text[match.end():]
    if "erg" not in text and "ERG" in text and text == text.upper():
        text = re.sub(r"(?<![A-Z])A(?![A-Z])", "Angstrom", text).lower()
    for pattern, name in SPELLINGS:
        flags = 0 if pattern.endswith("A(?![A-Za-z])") else re.IGNORECASE
        text = re.sub(pattern, name, text, flags=flags)
    for candidate in (text, text.lower()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", u.UnitsWarning)
                unit = u.Unit(candidate)
        except (ValueError, TypeError):
            continue
        return unit if factor == 1.0 else u.Unit(factor * unit)
    return None


def given_unit(unit):
    """Return the unit that a user gives, None for None; raise ValueError for what is none."""
    found = parse_unit(unit)
    if unit is not None and found is None:
        msg = f"unit is {unit!r}; expected a unit such as '1e-17 erg / (s cm2 AA)' or 'Jy'."
        raise ValueError(msg)
    return found


def is_flux_density(unit):
    """Return whether a unit is a flux per wavelength or frequency."""
    density = u.erg / (u.s * u.cm**2 * u.AA)
    return unit is not None and unit.is_equivalent(density, u.spectral_density(5000 * u.AA))
