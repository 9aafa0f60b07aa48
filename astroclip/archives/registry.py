"""The archives that have names: to add one, write its module and give it a line in `ARCHIVES`."""

from astropy.table import Table

from astroclip._validation import check_choice
from astroclip.archives.base import Archive
from astroclip.archives.desi import DESI
from astroclip.archives.hips import HiPS
from astroclip.archives.legacysurvey import LegacySurvey
from astroclip.archives.panstarrs import PanSTARRS
from astroclip.archives.sdss import SDSS
from astroclip.archives.sparcl import SPARCL

__all__ = ["ARCHIVES", "DEFAULT_ARCHIVES", "find_archives", "list_archives"]

ARCHIVES = {
    "legacysurvey": LegacySurvey,
    "legacysurvey-dr10": lambda: LegacySurvey(layer="ls-dr10"),
    "sdss": SDSS,
    "desi": DESI,
    "desi-sparcl": SPARCL,
    "panstarrs": PanSTARRS,
    "hips": HiPS,
}
DEFAULT_ARCHIVES = ("legacysurvey", "sdss", "desi", "panstarrs")


def list_archives():
    """List the archives that have names.

    Returns
    -------
    `~astropy.table.Table`
        Columns ``name``, ``products``, ``bands`` of its images, ``default`` (whether
        `fetch` asks it unless told otherwise), ``limits``, ``credit`` (the line to put into
        a paper) and ``url``.

    Examples
    --------
    >>> from astroclip.archives import list_archives
    >>> table = list_archives()
    >>> table["name"][table["default"]].tolist()
    ['legacysurvey', 'sdss', 'desi', 'panstarrs']
    """
    made = [make() for make in ARCHIVES.values()]
    return Table(
        {
            "name": [archive.name for archive in made],
            "products": [", ".join(archive.products) for archive in made],
            "bands": ["".join(archive.bands) for archive in made],
            "default": [archive.name in DEFAULT_ARCHIVES for archive in made],
            "limits": [archive.limits for archive in made],
            "credit": [archive.credit for archive in made],
            "url": [archive.url for archive in made],
        }
    )


def find_archives(archives):
    """Return the archives of names or objects.

    Parameters
    ----------
    archives : None, str, Archive or sequence of these

    Returns
    -------
    list of Archive

    Raises
    ------
    ValueError
        For an unknown name or none at all.
    TypeError
        For something else.
    """
    if archives is None:
        archives = DEFAULT_ARCHIVES
    if isinstance(archives, str | Archive):
        archives = [archives]
    result = []
    for number, archive in enumerate(archives):
        if isinstance(archive, str):
            result.append(ARCHIVES[check_choice(archive, ARCHIVES, f"archives[{number}]")]())
        elif isinstance(archive, Archive):
            result.append(archive)
        else:
            msg = (
                f"archives[{number}] is of type {type(archive).__name__}; expected a name of "
                f"list_archives() or an Archive."
            )
            raise TypeError(msg)
    if not result:
        msg = f"archives is empty; expected some of {', '.join(ARCHIVES)}."
        raise ValueError(msg)
    return result
