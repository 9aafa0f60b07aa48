"""``astroclip estimate``: the library's estimates, on files."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from astroclip import PropertyEstimator, RedshiftEstimator
from astroclip.exceptions import SuspiciousLabelWarning
from astroclip.tables import read_table, write_table


@pytest.fixture
def reference_option(tables):
    return ("--reference", tables / "reference.fits", "--n-neighbors", "8")


def test_estimates_are_those_of_the_library(run, tables, reference, reference_option, tmp_path):
    output = tmp_path / "found.ecsv"
    status, out, _ = run(
        "estimate", tables / "queries.ecsv", "--properties", "redshift,dust", "--weights",
        "uniform", "--confidence", "0.5", "--output", output, *reference_option,
    )
    assert status == 0
    estimator = PropertyEstimator(n_neighbors=8, weights="uniform", confidence=0.5)
    estimator = estimator.fit(reference, ["redshift", "dust"])
    expected = estimator.predict(read_table(tables / "queries.ecsv"))
    found = read_table(output)
    for name in ("redshift", "redshift_lower", "dust_upper", "nearest_similarity"):
        assert_allclose(found[name], expected[name])
    assert found["dust"].unit == "mag"
    values = [expected[f"redshift{end}"][0] for end in ("", "_lower", "_upper")]
    assert "{:.3f} [{:.3f}, {:.3f}]".format(*values) in out
    assert "mag" in out


def test_properties_are_those_the_reference_has(run, tables, reference_option):
    status, out, _ = run("estimate", tables / "queries.ecsv", *reference_option)
    assert status == 0
    for name in ("redshift", "log_stellar_mass", "log_ssfr", "log_metallicity", "unusual"):
        assert name in out.splitlines()[0]


def test_rows_of_the_reference_are_estimated_from_the_others(
    run, reference, reference_option, tmp_path
):
    name = str(reference["id"][4])
    output = tmp_path / "found.ecsv"
    arguments = ("--ids", name, "--properties", "redshift", "--output", output)
    assert run("estimate", *arguments, *reference_option)[0] == 0
    estimator = PropertyEstimator(n_neighbors=8).fit(reference, ["redshift"])
    expected = estimator.predict(reference[reference["id"] == name], exclude_self=True)
    assert_allclose(read_table(output)["redshift"], expected["redshift"])


def test_only_some_of_the_reference_counts(run, tables, reference, reference_option, tmp_path):
    output = tmp_path / "found.ecsv"
    arguments = ("estimate", tables / "queries.ecsv", "--properties", "redshift")
    where = ("--where", "redshift < 0.25", "--output", output)
    assert run(*arguments, *where, *reference_option)[0] == 0
    estimator = PropertyEstimator(n_neighbors=8)
    estimator = estimator.fit(reference[reference["redshift"] < 0.25], ["redshift"])
    expected = estimator.predict(read_table(tables / "queries.ecsv"))
    assert_allclose(read_table(output)["redshift"], expected["redshift"])
    status, _, err = run(*arguments, "--where", "redshift > 9", *reference_option)
    assert status == 1
    assert "--where 'redshift > 9' is true of none of the reference's 120 rows" in err


@pytest.mark.parametrize("method", ["neighbors", "head"])
def test_unknown_labels_are_left_out(run, tables, reference, tmp_path, method):
    table, output = reference.copy(), tmp_path / "found.ecsv"
    known = np.arange(len(table)) % 5 > 0
    unknown = np.where(np.arange(len(table)) % 2, -99, -9999)
    table["redshift"] = np.where(known, table["redshift"], unknown)
    write_table(table, tmp_path / "reference.fits")
    arguments = (
        "estimate", tables / "queries.ecsv", "--reference", tmp_path / "reference.fits",
        "--properties", "redshift", "--method", method, "--output", output,
    )
    assert run(*arguments, "--missing=-9999,-99")[0] == 0
    table["redshift"] = np.where(known, table["redshift"], np.nan)
    estimator = PropertyEstimator(n_neighbors=16) if method == "neighbors" else RedshiftEstimator()
    expected = estimator.fit(table, ["redshift"]).predict(read_table(tables / "queries.ecsv"))
    assert_allclose(read_table(output)["redshift"], expected["redshift"])
    with pytest.warns(SuspiciousLabelWarning, match="-9999 in 12 and -99 in 12 of 120 rows"):
        run(*arguments, "--overwrite")


def test_the_head_needs_no_neighbors(run, tables, reference, reference_option, tmp_path):
    output = tmp_path / "found.ecsv"
    status, out, _ = run(
        "estimate", tables / "queries.ecsv", "--method", "head", "--output", output,
        *reference_option,
    )
    assert status == 0
    head = RedshiftEstimator().fit(reference, "redshift")
    expected = head.predict(read_table(tables / "queries.ecsv"))
    assert_allclose(read_table(output)["redshift"], expected["redshift"])
    assert "log_ssfr" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["queries.ecsv", "--properties", "colour"], "'colour'"),
        (["queries.ecsv", "--n-neighbors", "500"], "n_neighbors"),
        (["other.ecsv"], "embeddings of different weights"),
    ],
)
def test_what_cannot_be_estimated_is_said(run, tables, monkeypatch, arguments, words):
    monkeypatch.chdir(tables)
    status, out, err = run("estimate", *arguments, "--reference", "reference.fits")
    assert (status, out) == (1, "")
    assert words in err


def test_a_reference_without_known_properties_lists_what_it_has(run, tables, reference, tmp_path):
    from astroclip.tables import write_table

    plain = reference.copy()
    plain.keep_columns(
        ["id", "modality", "embedding", "coverage", "flags", "message", "bulge_to_total"]
    )
    write_table(plain, tmp_path / "plain.fits")
    arguments = (tables / "queries.ecsv", "--reference", tmp_path / "plain.fits")
    status, _, err = run("estimate", *arguments)
    assert status == 1
    assert "name --properties of id, modality, coverage, flags, message, bulge_to_total" in err
