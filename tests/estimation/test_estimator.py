"""Estimates against scikit-learn's regressor; coverage and false alarms measured."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, vstack
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import KNeighborsRegressor

from astroclip import PropertyEstimator, tables
from astroclip.estimation import estimator as estimator_module
from astroclip.estimation import euclidean_distance, neighbors
from astroclip.exceptions import ModelMismatchError


def as_unit(vectors):
    vectors = np.asarray(vectors, dtype=float)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_table(vectors, *, modality="spectrum", prefix="row", failed=None, **columns):
    n_rows = len(vectors)
    return tables.make_embedding_table(
        [f"{prefix}-{row}" for row in range(n_rows)],
        modality,
        vectors,
        coverage=1.0,
        flags=np.zeros(n_rows, int) if failed is None else failed,
        model_name="toy",
        weights_sha256="ab" * 32,
        preparation_version="7",
        extra_columns=columns,
    )


def survey(n_rows, seed, *, prefix="row", **options):
    """Return simulated galaxies whose mass scatters more the larger their first latent is."""
    rng = np.random.default_rng(seed)
    latent = rng.uniform(-1, 1, (n_rows, 3))
    basis = np.random.default_rng(0).normal(size=(6, 12))
    vectors = np.concatenate([latent, latent**2], axis=1) @ basis + basis.sum(axis=0)
    scatter = 0.05 + 0.6 * (1 + latent[:, 0]) ** 2
    mass = 10 + latent @ [1.0, 2.0, -1.0] + scatter * rng.normal(size=n_rows)
    age = 5 + np.exp(latent[:, 1]) * (1 + 0.2 * rng.standard_t(4, n_rows))
    columns = {"mass": mass, "age": age * u.Gyr}
    return make_table(as_unit(vectors), prefix=prefix, **columns, **options), latent


def scikit_learn(reference, queries, values, n_neighbors, weights):
    # differences of coordinates: exact where vectors coincide
    model = KNeighborsRegressor(n_neighbors=n_neighbors, weights=weights, algorithm="kd_tree")
    model.fit(np.asarray(reference["embedding"], float), values)
    return model.predict(np.asarray(queries["embedding"], float))


@given(
    vectors=st.integers(0, 10_000).map(
        lambda seed: as_unit(np.random.default_rng(seed).normal(size=(2, 7)))
    )
)
def test_distance_is_euclidean(vectors):
    first, second = vectors.astype(float)
    first, second = first / np.linalg.norm(first), second / np.linalg.norm(second)
    assert_allclose(euclidean_distance(first @ second), np.linalg.norm(first - second), atol=1e-7)
    assert euclidean_distance(1 + 1e-15) == 0


# ---------------------------------------------------------------------- estimates
@pytest.mark.parametrize("weights", ["distance", "uniform"])
@pytest.mark.parametrize("n_neighbors", [2, 17, 64])
def test_estimates_are_scikit_learns(weights, n_neighbors):
    reference, _ = survey(600, 1)
    queries, _ = survey(200, 2, prefix="query")
    queries = vstack([queries, reference[:20]], metadata_conflicts="silent")  # exact matches too
    estimator = PropertyEstimator(n_neighbors=n_neighbors, weights=weights)
    result = estimator.fit(reference, ["mass", "age"]).predict(queries)
    for name in ("mass", "age"):
        values = np.asarray(reference[name])
        expected = scikit_learn(reference, queries, values, n_neighbors, weights)
        assert_allclose(np.asarray(result[name]), expected, rtol=1e-6)
    if weights == "distance":
        assert_array_equal(result["mass"][200:], reference["mass"][:20])
        assert_array_equal(result["n_effective"][200:], 1)
    else:
        assert_array_equal(result["n_effective"], n_neighbors)


def test_several_exact_matches_share_the_weight():
    vectors = as_unit(np.random.default_rng(5).normal(size=(30, 9)))
    vectors[10:13] = vectors[0]
    reference = make_table(vectors, mass=np.arange(30.0))
    result = PropertyEstimator(n_neighbors=8).fit(reference, "mass").predict(reference[:2])
    assert_allclose(result["mass"], [(0 + 10 + 11 + 12) / 4, 1])
    assert_allclose(result["n_effective"], [4, 1])


def test_own_rows_are_left_out_on_request():
    reference, _ = survey(200, 3)
    estimator = PropertyEstimator(n_neighbors=5).fit(reference, ["mass"])
    result = estimator.predict(reference, exclude_self=True)
    for row in (0, 57, 199):
        others = np.arange(200) != row
        expected = scikit_learn(
            reference[others], reference[row : row + 1], reference["mass"][others], 5, "distance"
        )
        assert_allclose(result["mass"][row], expected[0], rtol=1e-6)
    assert result["nearest_similarity"].max() < 1


def test_columns_units_order_and_provenance():
    reference, _ = survey(100, 4)
    queries, _ = survey(7, 5, prefix="query")
    queries.meta["DATE"] = "2020-01-01T00:00:00"
    estimator = PropertyEstimator(n_neighbors=5).fit(reference, ["mass", "age"])
    result = estimator.predict(queries)
    assert result.colnames == [
        "id", "modality", "mass", "mass_lower", "mass_upper", "age", "age_lower", "age_upper",
        "n_effective", "nearest_similarity", "out_of_distribution", "n_reference", "local_density",
    ]  # fmt: skip
    assert result["id"].tolist() == [f"query-{row}" for row in range(7)]
    assert {result[f"age{end}"].unit for end in ("", "_lower", "_upper")} == {u.Gyr}
    assert getattr(result["mass"], "unit", None) is None
    assert result.meta == queries.meta
    assert result["out_of_distribution"].dtype == bool
    alone = estimator.predict(queries[[3]], properties="age")
    assert "mass" not in alone.colnames
    assert_allclose(alone["age"], result["age"][[3]])


@pytest.mark.parametrize("weights", ["distance", "uniform"])
def test_failed_rows_stay_and_are_flagged(weights):
    reference, _ = survey(100, 4)
    queries, _ = survey(5, 5, prefix="query", failed=[0, 1, 0, 0, 1])
    estimator = PropertyEstimator(n_neighbors=5, weights=weights).fit(reference, ["mass", "age"])
    result = estimator.predict(queries)
    failed = queries["flags"] == 1
    assert result["id"].tolist() == queries["id"].tolist()
    for name in ("mass", "mass_lower", "age_upper", "n_effective", "nearest_similarity"):
        assert_array_equal(np.isnan(result[name]), failed)
    assert result["out_of_distribution"][failed].all()
    assert np.isnan(estimator.predict(queries[failed])["mass"]).all()


def test_masked_and_unknown_values_are_left_out_of_their_property_only():
    reference, _ = survey(120, 6)
    unknown = np.arange(120) % 3 == 0
    reference["mass"] = MaskedColumn(np.where(unknown, 1e9, reference["mass"]), mask=unknown)
    reference["age"][1::3] = np.nan
    queries, _ = survey(20, 7, prefix="query")
    result = PropertyEstimator(n_neighbors=6).fit(reference, ["mass", "age"]).predict(queries)
    for name, known in (("mass", ~unknown), ("age", np.arange(120) % 3 != 1)):
        values = np.asarray(np.ma.getdata(reference[name]))[known]
        expected = scikit_learn(reference[known], queries, values, 6, "distance")
        assert_allclose(np.asarray(result[name]), expected, rtol=1e-6)


def test_modalities_are_estimated_apart_and_a_missing_one_from_the_other():
    spectra, _ = survey(80, 8)
    images, _ = survey(80, 9, modality="image")
    images["mass"] += 100
    reference = vstack([spectra, images], metadata_conflicts="silent")
    queries, _ = survey(6, 10, prefix="query", modality=["spectrum", "image"] * 3)
    result = PropertyEstimator(n_neighbors=4).fit(reference, ["mass"]).predict(queries)
    assert_array_equal(result["mass"] > 60, [False, True] * 3)
    estimator = PropertyEstimator(n_neighbors=4).fit(spectra, ["mass"])
    across = estimator.predict(queries)["mass"]
    assert_allclose(across, scikit_learn(spectra, queries, spectra["mass"], 4, "distance"))


def test_chunks_do_not_matter(monkeypatch):
    reference, _ = survey(300, 11)
    expected = PropertyEstimator(n_neighbors=5).fit(reference, ["mass"]).predict(reference)
    monkeypatch.setattr(neighbors, "CHUNK", 7)
    monkeypatch.setattr(estimator_module, "BLOCK", 50)
    found = PropertyEstimator(n_neighbors=5).fit(reference, ["mass"]).predict(reference)
    for name in ("mass", "mass_lower", "nearest_similarity"):
        assert_allclose(found[name], expected[name], rtol=1e-9)


# ---------------------------------------------------------------------- intervals and flags
def fit_and_predict(seed, **options):
    """Return estimates of held-out galaxies, these galaxies and their latents."""
    reference, _ = survey(5000, seed)
    held_out, latent = survey(4000, seed + 1000, prefix="held-out")
    estimator = PropertyEstimator(n_neighbors=32, **options).fit(reference, ["mass", "age"])
    return estimator.predict(held_out), held_out, latent


@pytest.mark.parametrize("weights", ["distance", "uniform"])
def test_intervals_cover_held_out_galaxies(weights):
    covered = {"mass": [], "age": []}
    for seed in (20, 21, 22):  # one survey's coverage scatters by 0.01
        result, held_out, _ = fit_and_predict(seed, weights=weights)
        for name, shares in covered.items():
            low, high = result[f"{name}_lower"], result[f"{name}_upper"]
            shares.append(np.mean((low <= held_out[name]) & (held_out[name] <= high)))
            assert_allclose(result[name] - low, high - result[name])
    for shares in covered.values():
        assert abs(np.mean(shares) - 0.68) < 0.02


def test_intervals_follow_the_scatter():
    result, held_out, latent = fit_and_predict(23)
    width = result["mass_upper"] - result["mass_lower"]
    quiet, noisy = latent[:, 0] < -0.5, latent[:, 0] > 0.5
    assert np.median(width[noisy]) > 2 * np.median(width[quiet])
    error = np.abs(held_out["mass"] - result["mass"])
    constant = np.quantile(error, 0.68)  # intervals of one width cover 68 % overall, too
    for part in (quiet, noisy):
        scaled = abs((error[part] <= width[part] / 2).mean() - 0.68)
        assert scaled < 0.75 * abs((error[part] <= constant).mean() - 0.68)


@pytest.mark.parametrize("confidence", [0.5, 0.9])
def test_confidence_is_covered(confidence):
    reference, _ = survey(3000, 22)
    held_out, _ = survey(3000, 23, prefix="held-out")
    estimator = PropertyEstimator(n_neighbors=16, confidence=confidence).fit(reference, ["mass"])
    result = estimator.predict(held_out)
    inside = np.abs(held_out["mass"] - result["mass"]) <= result["mass_upper"] - result["mass"]
    assert abs(inside.mean() - confidence) < 0.03


def test_a_reference_too_small_for_the_confidence_gives_infinite_intervals():
    reference, _ = survey(12, 24)
    # the largest of 12 scores covers with probability 12/13 = 0.923
    for confidence, finite in ((0.92, True), (0.93, False)):
        estimator = PropertyEstimator(n_neighbors=4, confidence=confidence)
        result = estimator.fit(reference, ["mass"]).predict(reference)
        assert np.isfinite(result["mass"]).all()
        assert_array_equal(np.isfinite(result["mass_upper"]), finite)


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_false_alarms_come_at_the_stated_rate(rate):
    reference, _ = survey(5000, 25)
    held_out, _ = survey(4000, 26, prefix="held-out")
    estimator = PropertyEstimator(n_neighbors=8, false_alarm_rate=rate).fit(reference, ["mass"])
    alarms = estimator.predict(held_out)["out_of_distribution"].mean()
    assert abs(alarms - rate) < 0.4 * rate + 0.002
    strange = as_unit(np.random.default_rng(27).normal(size=(500, 12)))
    assert estimator.predict(make_table(strange))["out_of_distribution"].mean() > 0.95


def test_calibration_of_a_large_reference_is_seeded():
    reference, _ = survey(400, 28)
    factors = [
        PropertyEstimator(n_neighbors=8, n_calibration=100, random_state=seed)
        .fit(reference, "mass").calibration_
        for seed in (0, 0, 1)
    ]
    assert factors[0] == factors[1] != factors[2]


# ---------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_neighbors": 1}, ValueError, "^n_neighbors is 1; expected at least 2"),
        ({"n_neighbors": 4.0}, TypeError, "^n_neighbors is 4.0 of type float"),
        ({"weights": "flat"}, ValueError, "^weights is 'flat'; expected one of 'distance', 'unif"),
        ({"confidence": 68}, ValueError, "^confidence is 68; expected a number between 0 and 1"),
        ({"false_alarm_rate": 0}, ValueError, "^false_alarm_rate is 0; expected a number between"),
        ({"confidence": np.nan}, ValueError, "^confidence is nan; expected a number between"),
        ({"method": "magic"}, ValueError, "^method is 'magic'; expected one of 'neighbors', 'he"),
        ({"model": "a.safetensors"}, ValueError, "^model is given and method is 'neighbors', wh"),
        ({"method": "head", "model": "small"}, ValueError, "^model is 'small'; expected one of"),
        ({"method": "head", "model": "specformer"}, ValueError, "^model 'specformer' has no reds"),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        PropertyEstimator(**options)


@pytest.mark.parametrize(
    ("properties", "error", "message"),
    [
        ([], ValueError, "^properties is empty"),
        (["id"], ValueError, "^properties names 'id', a column of another meaning in every resu"),
        (["mass", "mass"], ValueError, "^properties names 'mass' 2 times; expected it once"),
        (["embedding"], ValueError, r"^properties names 'embedding', .* shape \(40, 12\)"),
        (["sfr"], KeyError, "properties names 'sfr', which is no column of the table; expected"),
    ],
)
def test_bad_properties(properties, error, message):
    reference, _ = survey(40, 30)
    with pytest.raises(error, match=message):
        PropertyEstimator(n_neighbors=4).fit(reference, properties)


def test_bad_prediction():
    reference, _ = survey(40, 30)
    estimator = PropertyEstimator(n_neighbors=4)
    with pytest.raises(ValueError, match="^the estimator is not fitted; call fit"):
        estimator.predict(reference)
    with pytest.raises(ValueError, match="^properties is None; expected names of columns"):
        estimator.fit(reference)
    with pytest.raises(ValueError, match="^method is 'neighbors', which gives no distribution"):
        estimator.distribution(reference)
    estimator.fit(reference, ["mass"])
    with pytest.raises(KeyError, match="properties names 'age', which the estimator was not"):
        estimator.predict(reference, properties=["mass", "age"])
    with pytest.raises(ValueError, match="^properties is empty"):
        estimator.predict(reference, properties=[])
    foreign = reference.copy()
    foreign.meta["WSHA"] = "cd" * 32
    with pytest.raises(ModelMismatchError, match="^table and reference hold .* different weights"):
        estimator.predict(foreign)
