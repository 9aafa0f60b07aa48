"""Estimators on arrays: scikit-learn's own checks, and the same numbers as its own.

All checks of `sklearn.utils.estimator_checks` apply but for what it skips by itself: other
array libraries are not asked for (``check_array_api_input``, unless SCIPY_ARRAY_API is set).
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from astroclip import FewShotEstimator, PropertyEstimator
from astroclip.estimation import (
    FewShotClassifier,
    FewShotRegressor,
    NeighborClassifier,
    NeighborRegressor,
)
from tests.estimation.surveys import sky


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        NeighborRegressor(), NeighborClassifier(), FewShotRegressor(n_folds=2),
        FewShotClassifier(n_folds=2),
    ]
)  # fmt: skip
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_neighbors_are_scikit_learns():
    rng = np.random.default_rng(0)
    near, values, queries = rng.normal(size=(90, 3)), rng.normal(size=90), rng.normal(size=(9, 3))
    for weights in ("distance", "uniform"):
        model = NeighborRegressor(n_neighbors=7, weights=weights).fit(near, values)
        expected = KNeighborsRegressor(7, weights=weights).fit(near, values).predict(queries)
        assert_allclose(model.predict(queries), expected)
    assert model.predict_quantiles(queries, [0.1, 0.5]).shape == (9, 2)
    low, high = model.predict_interval(queries, confidence=0.9)
    assert_allclose((low + high) / 2, model.predict(queries))


def test_arrays_and_tables_agree():
    reference, _ = sky(200, 1)
    queries, _ = sky(20, 2, prefix="query")
    near, query = (np.asarray(table["embedding"], float) for table in (reference, queries))
    near, query = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (near, query))
    names = ["mass", "kind"]
    table = PropertyEstimator(n_neighbors=9).fit(reference, names).predict(queries)
    regressor = NeighborRegressor(n_neighbors=9).fit(near, np.asarray(reference["mass"]))
    assert_allclose(regressor.predict(query), table["mass"], rtol=1e-5)
    assert_allclose(regressor.predict_interval(query)[1], table["mass_upper"], rtol=1e-4)
    classifier = NeighborClassifier(n_neighbors=9).fit(near, np.asarray(reference["kind"]))
    assert_array_equal(classifier.predict(query), table["kind"])
    highest = classifier.predict_proba(query).max(axis=1)
    assert_allclose(highest, table["kind_probability"], rtol=1e-3)
    table = FewShotEstimator().fit(reference, names).predict(queries)
    regressor = FewShotRegressor().fit(near, np.asarray(reference["mass"]))
    assert_allclose(regressor.predict(query), table["mass"], rtol=1e-5)
    classifier = FewShotClassifier().fit(near, np.asarray(reference["kind"]))
    assert_array_equal(classifier.predict(query), table["kind"])


def test_pipelines_and_grids():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(120, 2)) * [1, 100]
    values = features[:, 0] + 0.1 * rng.normal(size=120)
    model = make_pipeline(StandardScaler(), NeighborRegressor(n_neighbors=5))
    assert cross_val_score(model, features, values).mean() > 0.8
    grid = {"neighborregressor__weights": ["uniform", "kernel"]}
    assert GridSearchCV(model, grid, cv=3).fit(features, values).best_score_ > 0.8
    model = FewShotRegressor(kind="mlp", hidden=(8,), n_folds=2).fit(features, values)
    assert model.score_ > 0.8
    low, high = model.predict_interval(features, confidence=0.9)
    assert 0.8 < np.mean((low <= values) & (values <= high)) <= 1
