"""Archives: from an object's name to its spectra, images and catalog rows.

Everything is imported when first used: archives' clients take a second or two.
"""

import importlib

_MODULE_OF = {
    "Archive": "base",
    "ArchiveError": "transport",
    "DESI": "desi",
    "HiPS": "hips",
    "LegacySurvey": "legacysurvey",
    "PanSTARRS": "panstarrs",
    "SDSS": "sdss",
    "Target": "targets",
    "UnresolvedNameError": "names",
    "fetch": "targets",
    "fetch_many": "targets",
    "list_archives": "registry",
    "neighbors_of": "targets",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__():
    return __all__
