"""Spectra, images and catalog rows of objects from public archives, by name or position.

Everything is imported when first used, because the archives' clients take a second or two.
"""

from astroclip._lazy import lazy_names

_MODULE_OF = {
    "Archive": "base",
    "ArchiveError": "transport",
    "DESI": "desi",
    "HiPS": "hips",
    "LegacySurvey": "legacysurvey",
    "PanSTARRS": "panstarrs",
    "SDSS": "sdss",
    "SPARCL": "sparcl",
    "Target": "targets",
    "UnresolvedNameError": "names",
    "fetch": "targets",
    "fetch_many": "targets",
    "list_archives": "registry",
    "neighbors_of": "targets",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
