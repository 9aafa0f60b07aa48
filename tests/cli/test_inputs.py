"""Arguments become files, and files become objects or tables."""

import shutil

import pytest

from astroclip.preparation.reading import find_files
from astroclip.tables import is_embedding_table
from tests.cli.conftest import IMAGE, SPECTRUM


@pytest.fixture
def folder(tmp_path):
    for name in ("b.fits", "a.FITS", "c.fit", "d.fits.gz", "e.ecsv", "notes.txt", ".hidden.fits"):
        (tmp_path / name).touch()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "f.fits").touch()
    return tmp_path


def named(paths):
    return [path.name for path in paths]


def test_folders_give_their_fits_files_in_order_and_pass_over_other_tables(folder):
    assert named(find_files([str(folder)])) == ["a.FITS", "b.fits", "c.fit", "d.fits.gz"]


def test_patterns_are_sorted_and_may_go_deep(folder):
    assert named(find_files([str(folder / "*.fits")])) == ["b.fits"]
    assert named(find_files([str(folder / "**" / "*.fits")])) == ["b.fits", "f.fits"]
    assert named(find_files([str(folder / "[ac].*")])) == ["a.FITS", "c.fit"]


def test_files_are_taken_as_named_and_once(folder):
    names = [str(folder / "notes.txt"), str(folder / "b.fits"), str(folder)]
    assert named(find_files(names))[:3] == ["notes.txt", "b.fits", "a.FITS"]
    assert len(find_files(names)) == 5


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder):
    (folder / "odd[1].fits").touch()
    assert named(find_files([str(folder / "odd[1].fits")])) == ["odd[1].fits"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("no.fits", "does not exist"), ("no*.fits", "matches no file"), ("deep", "holds no file")],
)
def test_nothing_found_says_what_was_looked_for(folder, name, words):
    with pytest.raises(FileNotFoundError, match=words):
        find_files([str(folder / name)])


def test_tables_of_embeddings_are_told_from_objects(tables, tmp_path):
    assert is_embedding_table(tables / "reference.fits")
    assert is_embedding_table(tables / "queries.ecsv")
    assert is_embedding_table(tables / "queries.parquet")
    assert not is_embedding_table(SPECTRUM)
    assert not is_embedding_table(IMAGE)
    (tmp_path / "other.ecsv").write_text("# %ECSV 1.0\n# ---\na b\n1 2\n")
    assert not is_embedding_table(tmp_path / "other.ecsv")
    (tmp_path / "text.fits").write_text("not FITS at all")
    assert not is_embedding_table(tmp_path / "text.fits")


def test_damaged_tables_are_named(run, tables, tmp_path):
    broken = tmp_path / "broken.ecsv"
    shutil.copy(tables / "queries.ecsv", broken)
    broken.write_text(broken.read_text()[:-300] + '"')
    status, _, err = run("neighbors", broken, "--reference", tables / "reference.fits")
    assert status == 1
    assert "broken.ecsv' cannot be read as a table" in err
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    status, _, err = run("neighbors", tmp_path / "broken.parquet")
    assert status == 1
    assert "broken.parquet' cannot be read as a table" in err
