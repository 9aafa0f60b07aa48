"""Real spectra: what is read, and how redshifts are scored."""

import re

import numpy as np
import pytest
from astropy.table import Table

import astroclip
from astroclip.datasets import DATA
from astroclip.evaluation import (
    read_brown2014,
    read_distant_object,
    read_fors2,
    read_real_sets,
    read_real_spectra,
    score_redshifts,
)
from astroclip.evaluation.real_data import (
    estimate_redshifts,
    has_redshift_head,
    redshift_scores,
)


@pytest.fixture(scope="module")
def card():
    """Return the text of the bundled model card."""
    return (DATA / "MODEL_CARD.rst").read_text()


def test_real_spectra_are_the_sixteen_and_score_as_the_card_says(shared_data, card):
    spectra, redshift = read_real_spectra(shared_data)
    assert len(spectra) == len(redshift) == 16
    table, scores = score_redshifts(astroclip.reference_table(), spectra, redshift)
    assert scores["n_failed"] == 0
    near = np.abs(table["estimate"] - table["redshift"]) < 0.01
    stated = int(re.search(r"(\d+) of 16 within 0.01", card)[1])
    assert near.sum() >= 12
    assert abs(near.sum() - stated) <= 1  # one may sit on the edge on another processor


def test_fors2_comes_brightest_first_and_within_its_range(shared_data):
    spectra, redshift = read_fors2(shared_data / "fors2" / "fors2.npz")
    assert len(spectra) == len(redshift) > 150
    assert redshift.min() > 0.02
    assert redshift.max() < 0.6


def test_the_atlas_is_at_its_redshifts(shared_data):
    spectra, redshift = read_brown2014(shared_data / "brown2014" / "brown2014.npz")
    assert len(spectra) == len(redshift) == 65
    starts = [spectrum.spectral_axis[0].to_value("AA") for spectrum in spectra]
    np.testing.assert_allclose(starts, 3650 * (1 + redshift))


def test_an_object_beyond_every_galaxy_model_is_flagged_as_the_card_says(shared_data, card):
    spectrum, redshift = read_distant_object(shared_data)
    assert redshift == pytest.approx(2.866, abs=1e-3)
    table, _ = score_redshifts(astroclip.reference_table(), [spectrum], [redshift])
    stated = re.search(r"z = 2.866 (is|is not) flagged", card)[1]
    assert bool(table["out_of_distribution"][0]) == (stated == "is")


def test_every_survey_is_read_with_the_redshifts_of_its_catalogue(shared_data):
    sets = read_real_sets(shared_data)
    assert {name: len(spectra) for name, (spectra, _) in sets.items()} == {
        "FORS2": 202, "SDSS": 5, "DESI": 2, "Brown et al.": 65,
    }
    np.testing.assert_allclose(sets["DESI"][1], [0.00727, 0.2036], atol=1e-4)
    np.testing.assert_allclose(sets["SDSS"][1][0], 0.0038, atol=1e-4)


def test_surveys_that_are_not_there_are_left_out_and_none_at_all_is_an_error(
    shared_data, tmp_path
):
    (tmp_path / "brown2014").symlink_to(shared_data / "brown2014")
    assert list(read_real_sets(tmp_path)) == ["Brown et al."]
    with pytest.raises(FileNotFoundError, match="fors2/fors2.npz"):
        read_real_sets(tmp_path / "brown2014")


def test_scores_are_those_of_a_hand_calculation():
    table = Table(
        {
            "redshift": [0.1, 0.2, 0.3, 0.4, 0.5],
            "estimate": [0.1, 0.213, 0.3 + 1.3 * 0.06, 0.4, np.nan],
            "lower": [0.05, 0.205, 0.3, 0.3, 0.1],
            "upper": [0.15, 0.225, 0.45, 0.39, 0.9],
            "confidence": [0.9, 0.8, 0.1, 0.2, np.nan],
        }
    )
    scores = redshift_scores(table)
    off = [0, 0.013 / 1.2, 0.06, 0]
    assert scores["nmad"] == pytest.approx(1.4826 * np.median(off))
    assert scores["beyond_0.01"] == 0.5
    assert scores["beyond_0.05"] == 0.25
    assert scores["beyond_0.05_confident"] == 0.0
    assert scores["coverage_68"] == 0.5
    assert scores["n_failed"] == 1
    assert "beyond_0.05_confident" not in redshift_scores(table["redshift", "estimate", "lower",
                                                                "upper"])


def test_a_head_estimates_by_its_own_estimator(model, image_model, embedded):
    held, known = embedded
    assert has_redshift_head(model)
    assert not has_redshift_head(image_model)
    reference = known.tables["spectrum"]
    found = estimate_redshifts(
        reference, held.tables["spectrum"], held.truth["redshift"], model=model, method="head"
    )
    estimator = astroclip.RedshiftEstimator(model=model)
    estimates = estimator.fit(reference, ["redshift"]).predict(held.tables["spectrum"])
    np.testing.assert_array_equal(found["estimate"], estimates["redshift"])
    np.testing.assert_array_equal(found["confidence"], estimates["redshift_confidence"])
    assert "beyond_0.05_confident" in redshift_scores(found)
