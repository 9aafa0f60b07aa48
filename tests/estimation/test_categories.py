"""Votes against scikit-learn, and calibrations against the likelihood they maximise."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import KNeighborsClassifier

from astroclip.estimation.categories import (
    VoteCalibration,
    class_columns,
    count_votes,
    fit_temperature,
    fit_vote_calibration,
)
from astroclip.estimation.weights import neighbor_weights


def test_votes_are_scikit_learns():
    rng = np.random.default_rng(0)
    near, codes, queries = rng.normal(size=(60, 3)), rng.integers(0, 4, 60), rng.normal(size=(9, 3))
    model = KNeighborsClassifier(n_neighbors=7, weights="distance").fit(near, codes)
    distance, rows = model.kneighbors(queries)
    found = count_votes(codes[rows], neighbor_weights(distance), 4)
    assert_allclose(found, model.predict_proba(queries))
    missing = count_votes(codes[rows[:2]], np.array([[1.0] * 7, [np.nan] * 7]), 4)
    assert_array_equal(np.isnan(missing), [[False] * 4, [True] * 4])


def test_calibration_undoes_votes_that_are_too_sure():
    rng = np.random.default_rng(1)
    truth = rng.beta(2, 3, 6000)
    codes = (rng.random(6000) < truth).astype(int)
    logit = 2.5 * np.log(truth / (1 - truth))  # too sure by a factor
    share = np.stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], axis=1)
    effective = np.full(6000, 1e6)  # smoothing cannot help
    frequency = np.array([0.6, 0.4])
    found = fit_vote_calibration(share, effective, codes, frequency)
    assert found.temperature == pytest.approx(2.5, rel=0.08)
    assert_allclose(found.probability(share, effective)[:, 1], truth, atol=0.03)
    assert fit_temperature(np.log(share), codes) == pytest.approx(2.5, rel=0.08)


def test_few_votes_are_smoothed_towards_the_frequencies():
    rng = np.random.default_rng(2)
    truth = np.repeat([[0.7, 0.2, 0.1]], 4000, axis=0)
    votes = rng.multinomial(3, truth) / 3
    codes = rng.choice(3, 4000, p=truth[0])
    found = fit_vote_calibration(votes, np.full(4000, 3.0), codes, truth[0])
    assert found.smoothing > 20  # votes tell nothing
    assert_allclose(found.probability(votes, np.full(4000, 3.0)), truth, atol=0.06)


def test_formula():
    calibration = VoteCalibration(np.array([0.75, 0.25]), smoothing=2.0, temperature=0.5)
    found = calibration.probability(np.array([[0.5, 0.5]]), np.array([4.0]))
    power = (np.array([4 * 0.5 + 2 * 0.75, 4 * 0.5 + 2 * 0.25]) / 6) ** 2
    assert_allclose(found, [power / power.sum()])


def test_columns():
    found = class_columns(np.array([[0.2, 0.8], [np.nan, np.nan]]), ["a", "b"])
    assert list(found) == ["", "_probability", "_probability_a", "_probability_b"]
    assert_array_equal(found[""], [1, np.nan])
    assert_array_equal(found["_probability"], [0.8, np.nan])
