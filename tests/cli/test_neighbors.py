"""``astroclip neighbors`` and ``astroclip index``: the library's answers, on files."""

import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose

from astroclip import SimilarityIndex
from astroclip.tables import read_table
from tests.cli.conftest import N_GALAXIES


@pytest.fixture(scope="module")
def index(tmp_path_factory, tables):
    """Return the path of an index of the small reference."""
    from astroclip.cli import main

    path = tmp_path_factory.mktemp("index") / "small.index"
    assert main(["index", "build", str(tables / "reference.fits"), "--output", str(path)]) == 0
    return path


def parsed(text):
    return QTable.read(text, format="ascii.ecsv")


@pytest.mark.parametrize("modality", [None, "image", "all"])
def test_neighbors_are_those_of_the_library(run, tables, reference, tmp_path, modality):
    output = tmp_path / "found.fits"
    options = [] if modality is None else ["--modality", modality]
    status, out, _ = run(
        "neighbors", tables / "queries.ecsv", "--reference", tables / "reference.fits",
        "--n-neighbors", "3", "--output", output, *options,
    )
    assert status == 0
    queries = read_table(tables / "queries.ecsv")
    expected = SimilarityIndex(reference).query(queries, 3, modality=modality)
    found = read_table(output)
    for name in ("query_id", "neighbor_id", "modality", "rank"):
        assert list(found[name]) == list(expected[name])
    assert_allclose(found["similarity"], expected["similarity"], atol=1e-6)
    assert found["dust"].unit == reference["dust"].unit
    for name in expected["neighbor_id"]:
        assert name in out


def test_an_index_is_searched_like_its_table(run, tables, index):
    table = run("neighbors", tables / "queries.ecsv", "--reference", tables / "reference.fits")
    for arguments in (
        ("neighbors", tables / "queries.ecsv", "--reference", index),
        ("index", "query", index, tables / "queries.parquet"),
    ):
        assert run(*arguments)[:2] == table[:2]


def test_rows_of_the_reference_are_asked_by_id_and_do_not_find_themselves(run, index, reference):
    name = str(reference["id"][7])
    status, out, _ = run(
        "index", "query", index, "--ids", name, "--n-neighbors", "2", "--format", "ecsv"
    )
    assert status == 0
    found = parsed(out)
    assert list(found["query_id"]) == [name] * 4  # its spectrum and its image
    assert name not in set(found["neighbor_id"])


def test_exclude_self(run, tables):
    arguments = (
        "neighbors", tables / "reference.fits", "--reference", tables / "reference.fits",
        "--n-neighbors", "1", "--format", "ecsv",
    )
    with_self, without = parsed(run(*arguments)[1]), parsed(run(*arguments, "--exclude-self")[1])
    assert np.mean(with_self["query_id"] == with_self["neighbor_id"]) == 1
    assert not np.any(without["query_id"] == without["neighbor_id"])


def test_only_rows_that_fulfil_the_condition_are_found(run, tables, reference):
    middle = float(np.median(reference["redshift"]))
    status, out, _ = run(
        "neighbors", tables / "queries.ecsv", "--reference", tables / "reference.fits",
        "--n-neighbors", "5", "--where", f"redshift > {middle}", "--format", "ecsv",
    )
    assert status == 0
    assert len(parsed(out)) == 10
    assert (parsed(out)["redshift"] > middle).all()


def test_joint_queries_and_places_on_the_sky_reach_the_search(run, tables, monkeypatch):
    seen, query = [], SimilarityIndex.query

    def record(self, objects, n_neighbors=10, **options):
        seen.append(options)
        return query(self, objects, n_neighbors)

    monkeypatch.setattr(SimilarityIndex, "query", record)
    arguments = ("neighbors", tables / "queries.ecsv", "--reference", tables / "reference.fits")
    assert run(*arguments, "--joint", "--near", "10", "-5.5", "0.1")[0] == 0
    ((center, radius),) = [options["near"] for options in seen]
    assert (center.ra.deg, center.dec.deg, radius.to_value("deg")) == (10, -5.5, 0.1)
    assert seen[0]["joint"]


def test_failed_queries_are_exit_3_or_1(run, tables, tmp_path):
    lines = read_table(tables / "queries.ecsv")
    lines["embedding"][0] = np.nan
    lines.write(tmp_path / "half.ecsv")
    reference = ("--reference", tables / "reference.fits", "--n-neighbors", "2")
    status, out, _ = run("neighbors", tmp_path / "half.ecsv", *reference)
    assert status == 3
    assert "second" in out
    assert "first" not in out
    status, _, err = run("neighbors", tmp_path / "half.ecsv", "--ids", "first", *reference)
    assert status == 1
    assert "no object has an embedding" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["other.ecsv"], "embeddings of different weights"),
        (["queries.ecsv", "--n-neighbors", "1000"], "n_neighbors is 1000"),
        (["--ids", "nobody"], "'nobody', which is no id of the reference"),
        (["queries.ecsv", "--where", "redshift >"], "redshift >"),
        (["queries.ecsv", "--where", "colour > 1"], "colour"),
        (["queries.ecsv", "--target", "NGC 4303"], "--target and INPUT are both given"),
    ],
)
def test_what_cannot_be_searched_is_said(run, tables, monkeypatch, arguments, words):
    monkeypatch.chdir(tables)
    status, out, err = run("neighbors", *arguments, "--reference", "reference.fits")
    assert (status, out) == (1, "")
    assert words in err


# ---------------------------------------------------------------------- index
def test_info_counts_rows_and_names_the_model(run, index):
    status, out, _ = run("index", "info", index)
    assert status == 0
    facts = {line[:22].strip(): line[22:].strip() for line in out.splitlines()}
    assert facts["rows"] == f"{2 * N_GALAXIES}"
    assert facts["image rows"] == facts["spectrum rows"] == f"{N_GALAXIES}"
    assert facts["search"] == "auto, recall 1.000, float32"
    assert facts["model"] == "astroclip-small"
    assert "log_ssfr" in facts["columns"]


def test_tables_are_joined_and_every_column_kept(run, tables, tmp_path):
    path = tmp_path / "both.index"
    status, out, err = run(
        "index", "build", tables / "queries.ecsv", tables / "reference.fits", "--output", path
    )
    assert status == 0
    assert "SimilarityIndex" in out
    assert f"wrote {path}" in err
    built = SimilarityIndex.open(path)
    assert len(built) == 2 + 2 * N_GALAXIES
    assert "dust" in built.table.colnames
    status, _, err = run("index", "build", tables / "queries.ecsv", "--output", path)
    assert status == 1
    assert "exists; pass --overwrite" in err


def test_a_file_that_is_no_index_is_refused(run, tables, tmp_path):
    (tmp_path / "x.index").write_bytes(b"something else")
    status, _, err = run("index", "info", tmp_path / "x.index")
    assert status == 1
    assert "x.index" in err
    status, _, err = run(
        "neighbors", tables / "queries.ecsv", "--reference", tmp_path / "x.index"
    )
    assert status == 1
    assert "x.index" in err
