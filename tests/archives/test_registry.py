"""The archives that have names, and what importing them costs."""

import subprocess
import sys

import pytest
from astropy.coordinates import SkyCoord

from astroclip import archives
from astroclip.archives import Archive, ArchiveError, list_archives


def test_every_archive_says_what_its_users_must_know():
    table = list_archives()
    assert {"legacysurvey", "sdss", "desi", "panstarrs", "hips"} <= set(table["name"])
    for column in ("products", "limits", "credit", "url"):
        assert all(table[column] != "")
    assert table["default"].sum() == 4


def test_public_names_exist():
    for name in archives.__all__:
        assert getattr(archives, name).__doc__
    assert dir(archives) == archives.__all__
    with pytest.raises(AttributeError, match="no attribute 'fetsch'"):
        archives.fetsch  # noqa: B018


def test_an_archive_refuses_what_it_does_not_give():
    archive = archives.LegacySurvey()
    coord = SkyCoord(1, 2, unit="deg")
    for method in (archive.fetch_spectra, archive.fetch_catalog):
        with pytest.raises(ArchiveError, match="gives no .*, only images; see"):
            method(coord)
    with pytest.raises(ArchiveError, match="gives no images, only spectra, catalog"):
        archives.DESI().fetch_images(coord)
    assert repr(archive) == "<Archive legacysurvey: images>"
    assert isinstance(archive, Archive)


def test_importing_and_naming_archives_imports_no_client():
    code = (
        "import sys, astroclip.archives; before = 'specutils' in sys.modules; "
        "astroclip.archives.list_archives(); "
        "clients = ('astroquery', 'torch', 'sparcl', 'astropy_healpix'); "
        "print(before, [name for name in clients if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"
