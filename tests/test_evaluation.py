"""Evaluation against scikit-learn, and the bundled model on real spectra."""

import re

import numpy as np
import pytest
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

import astroclip
from astroclip.evaluation import (
    read_brown2014,
    read_distant_object,
    read_fors2,
    read_real_spectra,
    score_estimates,
    score_redshifts,
    score_retrieval,
)
from astroclip.reference import DATA
from astroclip.tables import embedding_matrix


@pytest.fixture(scope="module")
def halves():
    """Return odd and even spectra of the bundled reference."""
    reference = astroclip.reference_table()
    spectra = reference[np.asarray(reference["modality"]) == "spectrum"]
    return spectra[::2], spectra[1::2]


def test_scores_equal_scikit_learns(halves):
    reference, queries = halves
    truth = {"redshift": np.asarray(queries["redshift"])}
    scores = score_estimates(reference, queries, truth, n_neighbors=16)
    regressor = KNeighborsRegressor(16, weights="distance")
    regressor.fit(embedding_matrix(reference)[0], np.asarray(reference["redshift"]))
    predicted = regressor.predict(embedding_matrix(queries)[0])
    assert scores["r2"][0] == pytest.approx(r2_score(truth["redshift"], predicted), abs=1e-4)
    assert 0.6 < scores["coverage_68"][0] < 0.76


def test_retrieval_of_copies_is_perfect_and_of_noise_is_chance():
    vectors = np.random.default_rng(1).normal(size=(500, 32))
    assert score_retrieval(vectors, vectors)["recall_1"] == 1.0
    noise = np.random.default_rng(2).normal(size=(500, 32))
    assert score_retrieval(vectors, noise)["recall_10"] < 0.08


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
