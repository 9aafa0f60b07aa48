"""Probes against scikit-learn's linear models."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.preprocessing import StandardScaler

from astroclip.estimation import probes
from astroclip.estimation.probes import RIDGE_PENALTIES, fit_class_probe, fit_number_probe


def examples(n_rows, seed, dim=6):
    rng = np.random.default_rng(seed)
    features = rng.normal(3, [1, 2, 5, 0.1, 1, 1][:dim], (n_rows, dim))
    targets = features @ rng.normal(size=(dim, 2)) + rng.normal(size=(n_rows, 2))
    return features, targets


def test_linear_is_least_squares():
    features, targets = examples(80, 0)
    found = fit_number_probe(features, targets, kind="linear")(features)
    assert_allclose(found, LinearRegression().fit(features, targets).predict(features))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), n_rows=st.integers(5, 60))
def test_ridge_leaves_one_out(seed, n_rows):
    features, targets = examples(n_rows, seed)
    targets = targets[:, :1]
    near = StandardScaler().fit_transform(features)
    best, least = None, np.inf
    for penalty in RIDGE_PENALTIES:  # one at a time, by fits with an intercept
        errors = []
        for row in range(n_rows):
            others = np.arange(n_rows) != row
            x, y = near[others], targets[others, 0]
            slope = np.linalg.solve(
                (x - x.mean(axis=0)).T @ (x - x.mean(axis=0)) + penalty * np.eye(6),
                (x - x.mean(axis=0)).T @ (y - y.mean()),
            )
            errors.append(y.mean() + (near[row] - x.mean(axis=0)) @ slope - targets[row, 0])
        if np.mean(np.square(errors)) < least:
            best, least = penalty, np.mean(np.square(errors))
    model = RidgeCV(alphas=[best]).fit(near, targets[:, 0])
    found = fit_number_probe(features, targets, kind="ridge")(features)[:, 0]
    assert_allclose(found, model.predict(near), rtol=1e-6, atol=1e-6)


def test_logistic_is_scikit_learns():
    features, _ = examples(300, 1)
    features = StandardScaler().fit_transform(features)
    rng = np.random.default_rng(2)
    codes = (features[:, :3] + rng.gumbel(size=(300, 3))).argmax(axis=1)
    for strength in (0.01, 1.0):
        found = probes._logistic(features, codes, 3, strength)
        model = LogisticRegression(C=strength, tol=1e-8, max_iter=1000).fit(features, codes)
        logits = found(features)
        logits -= logits.mean(axis=1, keepdims=True)
        expected = model.decision_function(features)
        assert_allclose(logits, expected - expected.mean(axis=1, keepdims=True), atol=2e-2)
    # with two classes it has two half logits, whose penalty is half as large
    found = probes._logistic(features, codes // 2, 2, 0.5)(features)
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(features, codes // 2)
    assert_allclose(found[:, 1] - found[:, 0], model.decision_function(features), atol=2e-2)


@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_classes_without_an_example_are_next_to_impossible(kind):
    features, targets = examples(60, 3)
    codes = (targets[:, 0] > np.median(targets[:, 0])).astype(int) * 2
    logits = fit_class_probe(features, codes, n_classes=3, kind=kind)(features)
    assert np.mean(logits.argmax(axis=1) == codes) > 0.8
    if kind == "logistic":
        assert (logits[:, 1] < logits.max(axis=1) - 15).all()


def test_the_penalty_suits_the_data():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(400, 40))
    noise = rng.integers(0, 2, 400)
    sharp = (features[:, 0] > 0).astype(int)
    chosen = [probes._best_strength(features, codes, 2, 0) for codes in (noise, sharp)]
    assert chosen[0] < 0.1 < chosen[1]


def test_numbers_are_not_logistic():
    with pytest.raises(ValueError, match="^kind is 'logistic'; expected one of 'linear', 'ridge'"):
        fit_number_probe(np.zeros((3, 2)), np.zeros((3, 1)), kind="logistic")


def test_constant_features_and_targets():
    features, _ = examples(30, 5)
    features[:, 2] = 7.0
    for kind in ("linear", "ridge", "mlp"):
        found = fit_number_probe(features, np.full((30, 1), 4.0), kind=kind)(features)
        assert np.isfinite(found).all()
        assert_allclose(found, 4.0, atol=0.5)
