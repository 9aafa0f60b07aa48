"""Few-shot estimators: what they learn, cover and say of themselves."""

import subprocess
import sys

import numpy as np
import pytest
from astropy import units as u
from astropy.table import vstack
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astroclip import FewShotEstimator, PropertyEstimator
from astroclip.exceptions import ModelMismatchError
from tests.estimation.surveys import as_unit, make_table, sky, survey, turned

NAMES = ["mass", "age", "angle", "size", "kind", "is_spiral"]
OPTIONS = {"circular": {"angle": 180 * u.deg}, "positive": ("size",), "confidence": (0.68, 0.95)}


@pytest.fixture(scope="module")
def tables():
    return sky(500, 1)[0], sky(800, 2, prefix="held-out", failed=np.arange(800) == 3)[0]


@pytest.fixture(scope="module")
def fitted(tables):
    return FewShotEstimator(**OPTIONS).fit(tables[0], NAMES)


def test_columns_are_those_of_neighbors(fitted, tables):
    result = fitted.predict(tables[1])
    neighbors = PropertyEstimator(n_neighbors=16, **OPTIONS).fit(tables[0], NAMES)
    expected = neighbors.predict(tables[1])
    expected.remove_column("n_effective")
    assert result.colnames == expected.colnames
    for name in result.colnames:
        assert getattr(result[name], "unit", None) == getattr(expected[name], "unit", None)
        assert result[name].dtype.kind == expected[name].dtype.kind
    assert result.meta == expected.meta
    assert result["id"].tolist() == tables[1]["id"].tolist()
    assert_array_equal(np.isnan(result["mass"]), np.arange(800) == 3)
    assert_array_equal(result["kind"].mask, np.arange(800) == 3)
    assert result["out_of_distribution"][3]
    assert_array_equal(result["n_reference"], 500)


def test_estimates_are_the_probes():
    rng = np.random.default_rng(0)
    vectors, mass = as_unit(rng.normal(size=(90, 7))), rng.normal(size=90)
    result = FewShotEstimator(kind="linear").fit(make_table(3 * vectors, mass=mass), "mass")
    model = LinearRegression().fit(vectors.astype(float), mass)
    queries = as_unit(rng.normal(size=(5, 7)))
    expected = model.predict(queries.astype(float))
    assert_allclose(result.predict(make_table(queries))["mass"], expected, atol=1e-5)


def test_intervals_cover_and_scores_hold(fitted, tables):
    held_out = tables[1]
    result = fitted.predict(held_out)
    known = np.arange(800) != 3
    for level, suffix in ((0.68, ""), (0.95, "_95")):
        for name in ("mass", "age", "size"):
            low, high = (result[f"{name}_{end}{suffix}"] for end in ("lower", "upper"))
            inside = (low <= held_out[name]) & (held_out[name] <= high)
            assert abs(inside[known].mean() - level) < 0.06
    assert (result["size_lower"][known] > 0).all()
    error = turned((result["angle"] - held_out["angle"]).value, 180)[known]
    assert ((result["angle"][known] >= 0) & (result["angle"][known] < 180 * u.deg)).all()
    assert np.median(np.abs(error)) < 40
    scores = {row["property"]: row["score"] for row in fitted.scores_}
    right = (result["is_spiral"] == held_out["is_spiral"])[known].mean()
    assert scores["is_spiral"] == pytest.approx(right, abs=0.06)
    truth = held_out["age"].value[known]
    left = np.sum((result["age"].value[known] - truth) ** 2)
    expected = 1 - left / np.sum((truth - truth.mean()) ** 2)
    assert scores["age"] == pytest.approx(expected, abs=0.1)
    assert_array_equal(fitted.scores_["metric"], ["r2"] * 4 + ["accuracy"] * 2)
    assert (fitted.scores_["score_error"] > 0).all()
    again = fitted.predict(held_out, properties=["age"], confidence=0.95)
    assert_allclose(again["age_upper"], result["age_upper_95"])


def test_class_probabilities_are_honest(tables):
    reference, held_out = tables
    held_out = held_out[np.arange(800) != 3]
    result = FewShotEstimator(kind="logistic").fit(reference, "is_spiral").predict(held_out)
    given = np.asarray(result["is_spiral_probability_True"])
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 1)):
        part = (given >= low) & (given < high)
        gap = held_out["is_spiral"][part].mean() - given[part].mean()
        assert abs(gap) < 3 * np.sqrt(0.25 / part.sum())


def test_opening_and_estimating_need_no_torch(fitted, tables, tmp_path):
    from astroclip.tables import write_table

    fitted.save(tmp_path / "heads")
    write_table(tables[1][:20], tmp_path / "queries.ecsv")
    code = f"""
import sys, astroclip
from astroclip.tables import read_table
estimator = astroclip.FewShotEstimator.open({str(tmp_path / "heads")!r})
estimator.predict(read_table({str(tmp_path / "queries.ecsv")!r}))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_modalities_have_models_of_their_own():
    spectra, _ = survey(100, 3)
    images, _ = survey(100, 4, modality="image")
    images["mass"] += 100
    both = vstack([spectra, images], metadata_conflicts="silent")
    queries, _ = survey(6, 5, prefix="query", modality=["spectrum", "image"] * 3)
    result = FewShotEstimator().fit(both, ["mass"]).predict(queries)
    assert_array_equal(result["mass"] > 60, [False, True] * 3)
    alone = FewShotEstimator().fit(spectra, ["mass"]).predict(queries)
    assert (alone["mass"] < 60).all()


def test_own_rows_are_left_out_of_the_nearest(fitted, tables):
    reference = tables[0][:20]
    assert_allclose(fitted.predict(reference)["nearest_similarity"], 1, rtol=1e-6)
    assert fitted.predict(reference, exclude_self=True)["nearest_similarity"].max() < 1


def test_few_examples_are_kept(tables):
    estimator = FewShotEstimator(n_support=300, false_alarm_rate=0.1).fit(tables[0], "mass")
    result = estimator.predict(tables[1])
    assert_array_equal(result["n_reference"], 500)
    assert abs(result["out_of_distribution"].mean() - 0.1) < 0.09


def test_rows_of_one_object_are_never_on_both_sides():
    reference, _ = survey(60, 6)
    twice = vstack([reference, reference, reference], metadata_conflicts="silent")
    noise = np.tile(np.random.default_rng(0).normal(size=60), 3)
    twice["noise"] = noise  # could only be known from the other rows of the same object
    rng = np.random.default_rng(1)
    twice["embedding"] = rng.normal(size=(60, 40)).astype(np.float32)[np.tile(np.arange(60), 3)]
    estimator = FewShotEstimator(kind="linear").fit(twice, "noise")
    assert estimator.scores_["score"][0] < 0


# ---------------------------------------------------------------------- what is learned
def labeled(n_rows, seed, *, n_classes=0):
    """Return examples on a sphere with a number, or a class, that is linear in them."""
    rng = np.random.default_rng(seed)
    vectors = as_unit(rng.normal(size=(n_rows, 6)))
    values = vectors @ rng.normal(size=(6, max(n_classes, 1))) * 4
    if n_classes:
        values = (values + rng.gumbel(size=values.shape)).argmax(axis=1).astype(str)
    else:
        values = values[:, 0] + rng.normal(size=n_rows)
    return vectors, values


@pytest.mark.parametrize("n_rows", [12, 40])
def test_ridge_is_scikit_learns(n_rows):
    vectors, mass = labeled(n_rows, 10)
    queries = labeled(9, 11)[0]
    table, asked = make_table(vectors, mass=mass), make_table(queries)
    found = FewShotEstimator(kind="ridge").fit(table, "mass").predict(asked)["mass"]
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-3, 5, 17)))
    expected = model.fit(vectors.astype(float), mass).predict(queries.astype(float))
    assert_allclose(found, expected, atol=1e-4)


def test_left_out_examples_give_score_and_intervals():
    vectors, mass = labeled(60, 12)
    estimator = FewShotEstimator(kind="linear", n_folds=60, confidence=0.8)
    estimator.fit(make_table(vectors, mass=mass), "mass")
    left_out = cross_val_predict(LinearRegression(), vectors.astype(float), mass, cv=60)
    residual = np.sort(np.abs(mass - left_out))
    assert estimator.calibration_["spectrum", "mass"] == pytest.approx(residual[48], rel=1e-4)
    expected = 1 - np.mean(residual**2) / mass.var()
    assert estimator.scores_["score"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic_regression_is_scikit_learns(n_classes):
    vectors, kinds = labeled(300, 13, n_classes=n_classes)
    queries = labeled(50, 14)[0]
    estimator = FewShotEstimator(kind="logistic").fit(make_table(vectors, kind=kinds), "kind")
    result = estimator.predict(make_table(queries))
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        .fit(vectors.astype(float), kinds)
        for strength in 10.0 ** np.arange(-3, 3)
    ]  # fmt: skip
    names = models[0].classes_
    found = np.stack([result[f"kind_probability_{name}"] for name in names], axis=1)
    power = estimator.calibration_["spectrum", "kind"]
    differences = []
    for model in models:  # one of the six, with its temperature
        logs = model.predict_log_proba(queries.astype(float)) / power
        differences.append(np.abs(softmax(logs, axis=1) - found).max())
    assert min(differences) < 1e-4


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_a_class_that_folds_lack_is_learned_all_the_same(kind):
    vectors, kinds = labeled(60, 15, n_classes=2)
    kinds = np.where(np.isin(np.arange(60), [3, 4]), "rare", kinds)
    table = make_table(vectors, kind=kinds)
    estimator = FewShotEstimator(kind=kind, hidden=(8,), n_folds=2).fit(table, "kind")
    result = estimator.predict(table)
    total = sum(np.asarray(result[f"kind_probability_{name}"]) for name in ("0", "1", "rare"))
    assert_allclose(total, 1)
    assert np.mean(np.asarray(result["kind"]) == kinds) > 0.6


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_two_examples_of_each_class_are_enough(kind):
    vectors, _ = labeled(6, 17)
    table = make_table(vectors, kind=["a", "b", "c"] * 2)
    result = FewShotEstimator(kind=kind, hidden=(8,)).fit(table, "kind").predict(table)
    assert np.isfinite(result["kind_probability"]).all()
    vectors, mass = labeled(4, 18)
    result = FewShotEstimator(kind=kind, hidden=(8,)).fit(make_table(vectors, mass=mass), "mass")
    assert np.isfinite(result.predict(make_table(vectors))["mass"]).all()


@pytest.mark.parametrize("kind", ["linear", "ridge", "mlp"])
def test_constant_features_and_values(kind):
    vectors, _ = labeled(30, 16)
    vectors[:, 2] = 0.0
    table = make_table(as_unit(vectors), mass=np.full(30, 4.0))
    result = FewShotEstimator(kind=kind, hidden=(8,), n_folds=2).fit(table, "mass").predict(table)
    assert_allclose(result["mass"], 4.0, atol=0.5)


def test_settings_are_cloned():
    estimator = FewShotEstimator(kind="mlp", hidden=(300, 5), **OPTIONS)
    assert clone(estimator).get_params() == estimator.get_params()


def test_refusals(fitted, tables, tmp_path):
    reference, _ = tables
    with pytest.raises(ValueError, match="^kind is 'forest'; expected one of 'linear', 'ridge'"):
        FewShotEstimator(kind="forest")
    with pytest.raises(ValueError, match="^properties names 'mass', which is numbers, and kind i"):
        FewShotEstimator(kind="logistic").fit(reference, ["mass"])
    with pytest.raises(ValueError, match="^table has 3 spectrum objects with an embedding and a"):
        FewShotEstimator().fit(reference[:3], ["mass"])
    lonely = reference[:50].copy()
    lonely["kind"] = ["odd", *["usual"] * 49]
    with pytest.raises(ValueError, match="^table has 50 spectrum .* at least 4, and two of every"):
        FewShotEstimator().fit(lonely, ["kind"])
    for use in (lambda e: e.predict(reference), lambda e: e.save(tmp_path / "x")):
        with pytest.raises(ValueError, match="^the estimator is not fitted; call fit"):
            use(FewShotEstimator())
    foreign = reference.copy()
    foreign.meta["WSHA"] = "cd" * 32
    with pytest.raises(ModelMismatchError, match="^table and examples hold .* different weights"):
        fitted.predict(foreign)
    with pytest.raises(KeyError, match="properties names 'z', which the estimator was not fitted"):
        fitted.predict(reference, properties=["z"])
