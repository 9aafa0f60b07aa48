"""``astroclip embed``: what is written and shown, and what becomes of bad files."""

import numpy as np
import pytest
from astropy.nddata import CCDData
from astropy.table import QTable, Table
from numpy.testing import assert_allclose

import astroclip
from astroclip.tables import Flag, embedding_matrix, read_table
from tests.cli.conftest import IMAGE, SPECTRUM


@pytest.fixture(scope="module")
def expected():
    """Return the embeddings of the samples that the library gives."""
    return np.concatenate(
        [embedding_matrix(astroclip.embed(str(path)))[0] for path in (SPECTRUM, IMAGE)]
    )


def test_spectra_images_and_bad_files_keep_their_order(run, expected, tmp_path):
    broken = tmp_path / "broken.fits"
    broken.write_bytes(SPECTRUM.read_bytes()[:5000])
    text = tmp_path / "notes.fits"
    text.write_text("this is no FITS file")
    output = tmp_path / "table.fits"
    status, out, err = run("embed", SPECTRUM, broken, IMAGE, text, "--output", output)
    assert status == 3
    table = read_table(output)
    assert [name[:6] for name in table["id"]] == ["390898", "broken", "legacy", "notes"]
    assert list(table["modality"]) == ["spectrum", "spectrum", "image", "spectrum"]
    matrix, valid = embedding_matrix(table)
    assert list(valid) == [True, False, True, False]
    assert_allclose(matrix[valid], expected, atol=1e-5)
    assert all(table["flags"][~valid] & Flag.FAILED)
    assert "cannot be read" in table["message"][1]
    assert table["file"][2].endswith(IMAGE.name)
    assert table.meta["MODEL"] == "astroclip-small"
    assert "2 of 4 objects failed:" in err
    assert err.count("notes.fits") == 1
    assert "FAILED BAD_INPUT" in out


def test_the_table_is_that_of_the_library(run, tmp_path):
    output = tmp_path / "table.parquet"
    assert run("embed", IMAGE, SPECTRUM, "--output", output, "--batch-size", "1")[0] == 0
    found, expected = read_table(output), astroclip.embed([IMAGE, SPECTRUM])
    assert found.colnames == expected.colnames
    assert_allclose(embedding_matrix(found)[0], embedding_matrix(expected)[0], atol=1e-5)
    for name in ("id", "modality", "file", "flags"):
        assert list(found[name]) == list(expected[name])


def test_nothing_usable_is_exit_1_and_writes_nothing(run, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("dear diary")
    status, out, err = run("embed", text, "--output", tmp_path / "table.ecsv")
    assert (status, out) == (1, "")
    assert "none of 1 objects could be embedded:\n  path '" in err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_output_that_exists_is_kept_unless_told(run, tables, tmp_path):
    output = tmp_path / "table.ecsv"
    output.write_text("precious")
    status, _, err = run("embed", tables / "queries.ecsv", "--output", output)
    assert status == 1
    assert "exists; pass --overwrite" in err
    assert output.read_text() == "precious"
    assert run("embed", tables / "queries.ecsv", "--output", output, "--overwrite")[0] == 0
    assert list(read_table(output)["id"]) == ["first", "second"]


def test_ecsv_on_the_standard_output_is_the_whole_table(run, tables, tmp_path):
    status, out, err = run("embed", tables / "queries.parquet", "--format", "ecsv")
    assert (status, err) == (0, "")
    (tmp_path / "copy.ecsv").write_text(out)
    copy, original = read_table(tmp_path / "copy.ecsv"), read_table(tables / "queries.ecsv")
    assert_allclose(embedding_matrix(copy)[0], embedding_matrix(original)[0])
    assert copy.meta["WSHA"] == original.meta["WSHA"]


def test_only_some_ids(run, tables):
    status, out, _ = run("embed", tables / "queries.ecsv", "--ids", "second", "--format", "ecsv")
    assert status == 0
    assert list(QTable.read(out, format="ascii.ecsv")["id"]) == ["second"]
    status, _, err = run("embed", tables / "queries.ecsv", "--ids", "third")
    assert status == 1
    assert "--ids names 'third', which no object has; they have ids such as first, second" in err
    status, _, err = run("embed", SPECTRUM, "--ids", "nobody")
    assert status == 1
    assert "--ids names 'nobody'" in err


def test_neighbors_of_the_same_call(run, tables):
    status, out, _ = run("embed", tables / "queries.ecsv", "--neighbors", "2")
    assert status == 0
    assert "Neighbors" in out
    assert out.count("sim-") == 4


def test_tables_of_different_models_are_refused(run, tables):
    status, _, err = run("embed", tables / "queries.ecsv", tables / "other.ecsv")
    assert status == 1
    assert "other.ecsv' and table " in err
    assert "embeddings of different weights" in err


def test_redshifts_by_id_reach_the_model(run, tmp_path):
    known = astroclip.sample_spectra()[1].meta
    Table({"id": [str(known["id"])], "redshift": [known["redshift"]]}).write(
        tmp_path / "known.fits"
    )
    arguments = ("embed", SPECTRUM, "--model", "astroclip-small-rest", "--format", "ecsv")
    status, out, _ = run(*arguments, "--redshift", tmp_path / "known.fits")
    assert status == 0
    table = QTable.read(out, format="ascii.ecsv")
    assert_allclose(table["redshift"], known["redshift"])
    status, _, err = run(*arguments)
    assert status == 1
    assert "redshift" in err
    Table({"name": ["x"]}).write(tmp_path / "bad.ecsv")
    status, _, err = run(*arguments, "--redshift", tmp_path / "bad.ecsv")
    assert status == 1
    assert "expected a number, one for each object, a dict by id" in err


def test_positions_in_a_mosaic(run, tmp_path):
    images = astroclip.sample_image()
    for band, ccd in images.items():
        images[band] = ccd = CCDData(ccd.data, unit=ccd.unit, wcs=ccd.wcs)
        hdu = ccd.to_hdu()[0]
        hdu.header["FILTER"], hdu.header["BUNIT"] = band, "nmgy"
        hdu.writeto(tmp_path / f"{band}.fits")
    position = images["r"].wcs.pixel_to_world([80.3, 70.3, 1e4], [81.3, 80.3, 5.0])
    targets = QTable({"ID": ["a", "b", "c"], "RA": position.ra, "Dec": position.dec})
    targets["redshift"] = [0.1, 0.2, 0.3]
    targets.write(tmp_path / "targets.ecsv")
    files = [tmp_path / f"{band}.fits" for band in "grz"]
    output = tmp_path / "found.ecsv"
    options = ("--positions", tmp_path / "targets.ecsv", "--output", output, "--overwrite")
    status, _, err = run("embed", *files, "--bands", "g,r,z", *options)
    assert status == 3
    assert "off the mosaic" in err
    found = read_table(output)
    assert list(found["id"]) == ["a", "b", "c"]
    assert_allclose(found["redshift"], [0.1, 0.2, 0.3])
    expected = embedding_matrix(astroclip.embed([images, images], position=position[:2]))[0]
    assert_allclose(embedding_matrix(found)[0][:2], expected, atol=1e-5)
    status, _, err = run("embed", *files, *options)
    assert (status, "--positions is given with 3 files and --bands names 0" in err) == (1, True)
    Table({"x": [1.0]}).write(tmp_path / "targets.ecsv", overwrite=True)
    status, _, err = run("embed", *files, "--bands", "g,r,z", *options)
    assert (status, "has columns x; expected ra and dec in degrees" in err) == (1, True)
