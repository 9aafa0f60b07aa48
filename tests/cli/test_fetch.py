"""``astroclip fetch`` and ``--target``: files of what archives gave, rows for what they did not."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable, Table
from numpy.testing import assert_allclose

import astroclip
from astroclip.cli.fetch import read_targets, write_images, write_spectrum
from astroclip.cli.inputs import parse_target
from astroclip.preparation import prepare_images, prepare_spectra, read_images, read_spectra
from astroclip.tables import read_table

FAILURE = {
    "archive": ["legacy"], "product": ["image"], "reason": ["timed out"],
    "advice": ["try again later"],
}


def make_target(name, *, spectra=(), images=None, failures=None, catalog=None):
    """Return what `astroclip.archives.fetch` returns."""
    empty = QTable(names=list(FAILURE), dtype=[str] * 4)
    return SimpleNamespace(
        name=name, coord=SkyCoord(10.0, -5.0, unit="deg"), spectra=list(spectra),
        images=images or {}, catalog=QTable(catalog or {}),
        failures=QTable(failures) if failures else empty,
    )


@pytest.fixture
def archives(monkeypatch):
    """Put made-up archives in place of the real ones; return the calls they get."""
    calls = []
    answers = {
        "NGC 1": lambda: make_target(
            "NGC 1", spectra=astroclip.sample_spectra(), images=astroclip.sample_image()
        ),
        "NGC 2": lambda: make_target(
            "NGC 2", spectra=[astroclip.sample_spectrum()], failures=FAILURE
        ),
        "NGC 3": lambda: make_target("NGC 3", failures=FAILURE),
        "NGC 4": lambda: make_target("NGC 4", catalog={"id": ["x"], "redshift": [0.1]}),
    }

    def fetch(target, **options):
        calls.append((target, options))
        return answers[target if isinstance(target, str) else "NGC 1"]()

    def fetch_many(objects, **options):
        calls.append((objects, options))
        found = [answers[item if isinstance(item, str) else "NGC 1"]() for item in objects]
        return found, QTable()

    fake = SimpleNamespace(fetch=fetch, fetch_many=fetch_many)
    monkeypatch.setattr(astroclip, "archives", fake, raising=False)
    return calls


@pytest.mark.parametrize(
    ("text", "ra", "dec"),
    [
        ("185.479 4.474", 185.479, 4.474),
        ("10.5, -41", 10.5, -41.0),
        ("12h21m54.9s +4d28m25s", 185.47875, 4.473611),
        ("12 21 54.9 +04 28 25", 185.47875, 4.473611),
    ],
)
def test_positions_are_read_in_degrees_or_sexagesimal(text, ra, dec):
    found = parse_target(text)
    assert_allclose([found.ra.deg, found.dec.deg], [ra, dec], atol=1e-5)


@pytest.mark.parametrize("name", ["NGC 4303", "M61", "2MASS J12215494+0428249", "3C 273"])
def test_names_stay_names(name):
    assert parse_target(f" {name} ") == name


def test_an_impossible_position_is_said():
    with pytest.raises(ValueError, match="target '10 95' looks like a position and is none"):
        parse_target("10 95")


def test_files_are_written_and_listed(run, archives, tmp_path):
    status, out, err = run(
        "fetch", "NGC 1", "10 -5", "--folder", tmp_path / "found", "--archives", "sdss,legacy"
    )
    assert status == 0
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == [
        "NGC_1-image.fits", "NGC_1-spectrum-1.fits", "NGC_1-spectrum-2.fits"
    ]
    assert "NGC_1-spectrum-2.fits" in out
    ((objects, options),) = archives
    assert objects[0] == "NGC 1"
    assert objects[1].dec.deg == -5
    assert options == {"archives": ["sdss", "legacy"], "cache": True, "show_progress": False}
    assert "6 files in" in err


def test_catalog_rows_are_kept_and_not_taken_for_objects(run, archives, tables, tmp_path):
    folder = tmp_path / "found"
    assert run("fetch", "NGC 4", "--folder", folder)[0] == 0
    assert read_table(folder / "NGC_4-catalog.ecsv")["redshift"][0] == 0.1
    status, _, err = run("embed", folder)
    assert status == 1
    assert "holds no file" in err


def test_what_failed_is_a_row_with_advice(run, archives, tmp_path):
    output = tmp_path / "found.ecsv"
    folder = ("--folder", tmp_path / "found")
    assert run("fetch", "NGC 2", *folder, "--output", output)[0] == 3
    table = read_table(output)
    assert list(table["product"]) == ["spectrum", "image"]
    assert table["message"][1] == "timed out; try again later"
    assert table["archive"][1] == "legacy"
    assert run("fetch", "NGC 3", *folder)[0] == 1


def test_tables_of_targets_are_fetched_together(run, archives, tmp_path):
    Table({"NAME": ["NGC 1", "NGC 2"]}).write(tmp_path / "list.csv")
    status, out, _ = run("fetch", tmp_path / "list.csv", "--folder", tmp_path / "found")
    assert status == 3
    assert archives[0][0] == ["NGC 1", "NGC 2"]
    assert out.count("spectrum") >= 3


def test_positions_of_a_table_have_units(tmp_path):
    table = QTable({"RA": [10, 190] * u.deg, "Dec": [600, -60] * u.arcmin, "name": ["a", "b"]})
    table.write(tmp_path / "list.ecsv")
    found = read_targets(tmp_path / "list.ecsv")
    assert_allclose([[c.ra.deg, c.dec.deg] for c in found], [[10, 10], [190, -1]])


def test_a_table_without_targets_is_said(tmp_path):
    Table({"x": [1]}).write(tmp_path / "list.csv")
    with pytest.raises(ValueError, match="table with columns x; expected 'ra' and 'dec'"):
        read_targets(tmp_path / "list.csv")
    (tmp_path / "bad.fits").write_text("no table")
    with pytest.raises(ValueError, match="bad.fits' cannot be used"):
        read_targets(tmp_path / "bad.fits")


def test_written_spectra_are_read_as_they_were(tmp_path):
    spectrum = astroclip.sample_spectrum()
    write_spectrum(spectrum, tmp_path / "one.fits")
    (copy,) = read_spectra(tmp_path / "one.fits")
    before, after = (prepare_spectra(item, wavelength="log") for item in (spectrum, copy))
    assert_allclose(after.flux, before.flux, rtol=1e-4, atol=1e-4)
    assert_allclose(after.ivar, before.ivar, rtol=1e-4, atol=1e-6)
    assert np.asarray(after.mask).mean() == np.asarray(before.mask).mean()
    assert [path.name for path in tmp_path.iterdir()] == ["one.fits"]


@pytest.mark.parametrize("with_ivar", [True, False])
def test_written_images_are_read_as_they_were(tmp_path, with_ivar):
    images = astroclip.sample_image()
    if not with_ivar:
        for image in images.values():
            image.uncertainty, image.mask = None, np.zeros(image.data.shape, bool)
            image.mask[:3] = True
    write_images(images, tmp_path / "one.fits")
    copy = read_images(tmp_path / "one.fits")
    assert sorted(copy) == ["g", "r", "z"]
    before, after = (prepare_images(i, size=96, pixel_scale=0.262) for i in (images, copy))
    assert_allclose(after.pixels, before.pixels, atol=1e-6)
    assert_allclose(copy["g"].wcs.wcs.crval, images["g"].wcs.wcs.crval)


def test_neighbors_and_estimates_of_a_target(run, archives, tables):
    reference = ("--reference", tables / "reference.fits", "--n-neighbors", "3")
    status, out, err = run("neighbors", "--target", "NGC 2", *reference)
    assert status == 0
    assert out.count("NGC_2-spectrum") == 3
    assert "legacy image: timed out; try again later" in err
    status, _, err = run("estimate", "--target", "NGC 3", *reference)
    assert status == 1
    assert "no archive has a spectrum or an image of 'NGC 3'" in err
