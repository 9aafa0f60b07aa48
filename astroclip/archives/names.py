"""Names and coordinates to positions: Sesame, which asks SIMBAD, NED and VizieR.

Servers and databases are those of `astropy.coordinates.name_resolve`. Its own function is
not used: its time-out starts anew with every byte (a server that sends one byte every 0.15 s for
5 s holds it for 5.2 s at a time-out of 0.5 s; `resolve` returns after 0.5 s) and belongs to all
threads, it tries once, and it keeps whatever answer came in the cache.
"""

import re
from urllib.parse import quote

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table

from astroclip._columns import column_degrees
from astroclip.archives.base import refuse_html
from astroclip.archives.transport import ArchiveError

__all__ = [
    "UnresolvedNameError",
    "name_and_position",
    "names_and_positions",
    "parse_position",
    "resolve",
]

NUMBER = r"[+-]?\d+(\.\d*)?"
DEGREES = re.compile(rf"^\s*({NUMBER})[\s,]+({NUMBER})\s*$")
SEXAGESIMAL = re.compile(r"^\s*\d{1,2}[h:\s]\s*\d{1,2}[m:\s].*[+-]\s*\d{1,2}[d:°\s]")
DESINAME = re.compile(r"^\s*DESI J(\d{3}\.\d{4})([+-]\d{2}\.\d{4})\s*$")  # degrees
POSITION = re.compile(rb"%J\s*([0-9.]+)\s*([+-][0-9.]+)")  # ICRS degrees
UNKNOWN = "knows no object of this name"
NAME_COLUMNS = ("name", "id", "object", "target")


class UnresolvedNameError(ValueError):
    """A name has no known position, or the service that knows it cannot be reached.

    Parameters
    ----------
    name, reason, advice : str
        See `ArchiveError`.
    """

    def __init__(self, name, reason, advice):
        super().__init__(f"name_or_coord is {name!r}: Sesame {reason}; {advice}.")
        self.reason, self.advice = reason, advice


def parse_position(text):
    """Return the sky position that a text gives, None if it is a name.

    Parameters
    ----------
    text : str
        ``"185.479 4.474"`` in degrees, ``"12h21m54.9s +4d28m25s"``, DESI's
        ``"DESI J185.4790+04.4740"``, or a name.

    Returns
    -------
    `~astropy.coordinates.SkyCoord` or None
        ICRS.

    Raises
    ------
    ValueError
        If it looks like a position and is none.

    Examples
    --------
    >>> from astroclip.archives.names import parse_position
    >>> parse_position("12 21 54.9 +04 28 25").to_string("decimal")
    '185.479 4.47361'
    >>> parse_position("3C 273") is None
    True
    """
    desi = DESINAME.match(text)
    if desi:  # cut off, not rounded, after four digits
        text = f"{desi[1]} {desi[2]}"
    degrees = DEGREES.match(text)
    if not degrees and not SEXAGESIMAL.match(text):
        return None
    try:
        if degrees:
            return SkyCoord(float(degrees[1]), float(degrees[3]), unit="deg")
        return SkyCoord(text, unit=("hourangle", "deg"))
    except ValueError as error:
        msg = f"target {text!r} looks like a position and is none: {error}."
        raise ValueError(msg) from error


def resolve(name, transport):
    """Return the position of a named object.

    Parameters
    ----------
    name : str
        Whatever Sesame knows, such as "NGC 4303"; or a position in words, such as
        "12h21m54.9s +4d28m25s" or "185.4787 4.4737" (degrees).
    transport : Transport

    Returns
    -------
    `~astropy.coordinates.SkyCoord`
        ICRS.

    Raises
    ------
    UnresolvedNameError
    """
    from astropy.coordinates.name_resolve import sesame_database, sesame_url

    if not name.strip():
        reason = "is not asked for an empty name"
        raise UnresolvedNameError(name, reason, "pass a name or a SkyCoord")
    try:
        position = parse_position(name)
    except ValueError as error:
        raise UnresolvedNameError(name, f"is not asked ({error})", "check it") from error
    if position is not None:
        return position
    # astropy's "all" is SIMBAD, NED and VizieR; it names one of them by its first letter else
    database = {"a": "SNV"}.get(sesame_database.get()[0], sesame_database.get()[0].upper())
    failure = None
    for url in sesame_url.get():
        try:
            path = transport.download(f"{url.rstrip('/')}/{database}?{quote(name)}", check=_check)
        except ArchiveError as error:
            failure = error
            if UNKNOWN in error.reason:
                break
        else:
            ra, dec = (float(value) for value in POSITION.search(path.read_bytes()).groups())
            return SkyCoord(ra, dec, unit="deg")
    raise UnresolvedNameError(name, failure.reason, failure.advice) from failure


def _check(path):
    """Raise ArchiveError unless a file is an answer of Sesame with a position."""
    text = path.read_bytes()
    refuse_html(text[:2048], "an answer of Sesame")
    if POSITION.search(text):
        return
    if text.lstrip().startswith(b"#"):
        raise ArchiveError(UNKNOWN, "check the spelling, or pass a SkyCoord")
    raise ArchiveError(
        f"gave something else than an answer of Sesame ({text[:20]!r})", "pass a SkyCoord"
    )


def name_and_position(item, argument):
    """Return the name and position of one object; None for a position to be resolved.

    Parameters
    ----------
    item : str or `~astropy.coordinates.SkyCoord`
    argument : str
        How errors name the item.

    Raises
    ------
    TypeError
        For another type, or several coordinates in one.
    """
    if isinstance(item, str):
        return str(item), None
    if isinstance(item, SkyCoord) and item.isscalar:
        return _position_name(item), item.icrs
    described = type(item).__name__ + (f" of shape {item.shape}" if hasattr(item, "shape") else "")
    msg = (
        f"{argument} is of type {described}; expected an object's name or one SkyCoord, such as "
        f"SkyCoord(185.4787, 4.4737, unit='deg')."
    )
    raise TypeError(msg)


def names_and_positions(objects):
    """Return the names and positions of what `astroclip.archives.fetch_many` takes.

    Parameters
    ----------
    objects : `~astropy.table.Table`, `~astropy.coordinates.SkyCoord` or sequence
        A table with ``ra`` and ``dec`` (degrees, or their own unit) or with names in
        ``name``, ``id``, ``object`` or ``target``; positions; or a list of names and scalar
        positions.

    Returns
    -------
    list of (str, `~astropy.coordinates.SkyCoord` or None)
        None where the name must be resolved.

    Raises
    ------
    TypeError
        For objects of another type.
    ValueError
        If there is none, or a table has neither positions nor names.
    """
    if isinstance(objects, Table):
        pairs = _table_positions(objects)
    elif isinstance(objects, SkyCoord):
        pairs = [(_position_name(item), item.icrs) for item in np.atleast_1d(objects)]
    elif isinstance(objects, str) or not hasattr(objects, "__iter__"):
        msg = (
            f"objects is of type {type(objects).__name__}; expected a table, a SkyCoord or a "
            f"list of names and coordinates. Pass one object to astroclip.archives.fetch."
        )
        raise TypeError(msg)
    else:
        pairs = [name_and_position(item, f"objects[{i}]") for i, item in enumerate(objects)]
    if not pairs:
        msg = "objects is empty; pass at least one name or position."
        raise ValueError(msg)
    return pairs


def _table_positions(table):
    """Return the names and positions of a table's rows."""
    columns = {name.lower(): name for name in table.colnames}
    named = next((columns[name] for name in NAME_COLUMNS if name in columns), None)
    names = None if named is None else [str(value) for value in table[named]]
    if "ra" in columns and "dec" in columns:
        ra, dec = (column_degrees(table[columns[name]]) for name in ("ra", "dec"))
        coords = SkyCoord(ra, dec, unit="deg") if len(table) else []
        names = [_position_name(item) for item in coords] if names is None else names
        return list(zip(names, coords, strict=True))
    if names is None:
        msg = (
            f"objects is a table with columns {', '.join(table.colnames)}; expected 'ra' and "
            f"'dec' in degrees, or names in 'name'."
        )
        raise ValueError(msg)
    return [(name, None) for name in names]


def _position_name(coord):
    """Return a position as a name: ``J122154.90+042825.3``."""
    icrs = coord.icrs
    ra = icrs.ra.to_string("hourangle", sep="", precision=2, pad=True)
    dec = icrs.dec.to_string(sep="", precision=1, pad=True, alwayssign=True)
    return f"J{ra}{dec}"
