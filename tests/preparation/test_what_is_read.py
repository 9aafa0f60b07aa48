"""The words and arguments of the page "What is read, and how" are those of the code."""

import inspect
import re
import shlex
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

import astroclip
from astroclip.cli import main
from astroclip.exceptions import FailedObjectWarning
from astroclip.preparation import (
    alignment,
    image_files,
    media,
    photometry,
    spectrum_files,
    spectrum_tables,
)
from astroclip.tables import read_table
from tests.preparation import test_read_images, test_read_spectra
from tests.preparation.page import literals, read_tables

TABLES = read_tables()
ZERO_POINTS = {
    kind: {key for key, value in photometry.ZERO_POINT_KEYS.items() if value == kind}
    for kind in ("second", "value", "unknown")
}
KEYWORDS = {  # by the beginning of the first cell
    "filter": image_files.FILTER_KEYS,
    "zero point: magnitude of one count": ZERO_POINTS["second"],
    "zero point: magnitude of one pixel": ZERO_POINTS["value"],
    "zero point: what": ZERO_POINTS["unknown"],
    "exposure time": photometry.EXPOSURE_KEYS,
    "magnitude system": photometry.SYSTEM_KEYS,
    "pixel scale": {key for keys in alignment.SCALE_KEYS for key in keys},
}


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Names of columns", spectrum_tables.ROLES),
        ("Words of extensions", image_files.ROLES),
        ("Keywords of images", KEYWORDS),
    ],
)
def test_words_are_those_of_the_code(title, words):
    rows = {name: literals(cells[0]) for name, cells in TABLES[title].items()}
    assert len(rows) == len(words)
    for name, known in words.items():
        (found,) = (value for row, value in rows.items() if row.startswith(name))
        assert len(found) == len(set(found))
        assert set(found) == set(known), name


def test_media_are_those_of_the_code():
    rows = TABLES["Keywords of the medium"]
    known = media.KEYWORDS | {"CTYPEn": media.AXES}
    assert rows.keys() == known.keys() | {"TUCDn"}
    for key, (cell,) in rows.items():
        for part in " ".join(cell.astext().split()).split("; "):
            medium, _, values = part.partition(": ")
            for value in values.split(", "):
                card = {key.replace("n", "1"): value}
                assert set(media.declarations(fits.Header(card)).values()) == {medium}, card
        assert key == "TUCDn" or set(literals(cell)) == set(known[key])


def test_bits_are_those_of_the_code():
    text = TABLES["Spectra"]["SDSS, BOSS, SDSS-V spec"][1].astext()
    bits = re.search(r"bits (.*) of", " ".join(text.split()))[1]
    assert sum(1 << int(bit) for bit in re.findall(r"\d+", bits)) == spectrum_files.SDSS_BAD


def test_every_row_of_tables_and_lists_is_tested():
    tested = test_read_spectra.tables.keys() | test_read_images.tables.keys()
    assert TABLES["Tables and lists"].keys() == tested | {"Batch"}  # by itself, in both


# ---------------------------------------------------------------------- what is never guessed
def spectrum_file(folder, **names):
    """Write a table of a spectrum whose columns have these names and units."""
    columns = {
        "flux": test_read_spectra.FLUX, "wavelength": test_read_spectra.WAVELENGTH,
        "ivar": test_read_spectra.SPOILED,
    }
    table = Table({names.get(key, key): values for key, values in columns.items()})
    units = {"flux": str(1e-17 * u.erg / (u.s * u.cm**2 * u.AA)), "wavelength": "Angstrom"}
    for key, unit in units.items():
        table[names.get(key, key)].unit = unit
    return table, folder / "object.fits"


def nameless_flux(folder):
    table, path = spectrum_file(folder, flux="F")
    table["BAD"] = test_read_spectra.BAD
    table.write(path)
    return path


def bare_flux(folder):
    table, path = spectrum_file(folder)
    density = u.spectral_density(table["wavelength"].quantity)
    table["flux"] = table["flux"].quantity.to_value(u.Jy, density)
    table["ivar"] = test_read_spectra.SPOILED * (
        test_read_spectra.FLUX / table["flux"]
    ) ** 2
    table.write(path)
    return path


def bare_wavelengths(folder):
    table, path = spectrum_file(folder, wavelength="WAVE")
    table["WAVE"] = test_read_spectra.WAVELENGTH / 10
    table.write(path)
    return path


def nameless_noise(folder):
    table, path = spectrum_file(folder, ivar="I")
    table["E"] = np.where(test_read_spectra.BAD, 0, test_read_spectra.SIGMA)
    table.write(path)
    return path


def nameless_bands(folder):
    return test_read_images.write_cube(folder / "object.fits", BUNIT="nmgy")


def counts(folder):
    factor = 10 ** ((22.5 - 25) / 2.5)
    path = folder / "object.fits"
    return test_read_images.write(path, *test_read_images.extensions(unit="adu", factor=factor))


def no_scale(folder):
    path = folder / "object.fits"
    hdus = [fits.PrimaryHDU()]
    for values, cards, _ in test_read_images.extensions():
        hdus.append(fits.ImageHDU(values, fits.Header(cards)))
    fits.HDUList(hdus).writeto(path)
    return path


UNKNOWN = {  # by a word of the first cell: the file, and whether it is refused without
    "unit of flux": (bare_flux, True),
    "which plane": (nameless_bands, True),
    "zero point": (counts, True),
    "pixel scale": (no_scale, True),
    "is the flux": (nameless_flux, True),
    "wavelengths": (bare_wavelengths, True),
    "the noise": (nameless_noise, False),  # errors are estimated, and flagged
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_never_guessed(what, tmp_path):
    (row,) = (cells for name, cells in TABLES["Arguments"].items() if what in name)
    make, is_refused = UNKNOWN[what]
    path = make(tmp_path)
    is_image = make in (nameless_bands, counts, no_scale)
    known = test_read_images.image() if is_image else test_read_spectra.in_memory()
    (expected,) = astroclip.embed(known)["embedding"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)
        table = astroclip.embed([path])
    assert bool(table["message"][0]) == is_refused
    codes = literals(row[0])
    alternatives = codes if what == "the noise" else [", ".join(codes)]
    for code in alternatives:
        options = eval(f"dict({code})")
        assert options.keys() <= inspect.signature(astroclip.embed).parameters.keys()
        (found,) = astroclip.embed(path, **options)["embedding"]
        assert found @ expected >= test_read_spectra.SAME
        if is_refused:
            assert all(f"{key}=" in table["message"][0] for key in options)
    commands = literals(row[1])
    words = shlex.split(commands[0] if what == "the noise" else " ".join(commands))
    output = tmp_path / "table.fits"
    assert main(["embed", str(path), "--output", str(output), "--quiet", *words]) == 0
    (found,) = read_table(output)["embedding"]
    assert found @ expected >= test_read_spectra.SAME


def test_there_is_a_test_of_every_argument():
    rows = TABLES["Arguments"]
    assert len(rows) == len(UNKNOWN)
    assert all(any(word in name for name in rows) for word in UNKNOWN)


def test_an_assumed_medium_is_said(tmp_path):
    spectrum = test_read_spectra.in_memory(meta={})
    assert astroclip.embed(spectrum)["medium"][0] == "vacuum (assumed)"
    assert astroclip.embed(spectrum, medium="air")["medium"][0] == "air"
