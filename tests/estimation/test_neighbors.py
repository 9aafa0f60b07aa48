"""Estimates against scikit-learn's regressor; coverage and false alarms measured."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, vstack
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import cKDTree
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from astroclip import PropertyEstimator, SimilarityIndex
from astroclip.estimation.neighbors import (
    ClassVotes,
    LabeledRows,
    choose_rows,
    effective_number,
    euclidean_distance,
    intrinsic_dimension,
    neighbor_weights,
)
from astroclip.exceptions import ModelMismatchError
from tests.estimation.surveys import as_unit, make_table, sky, survey, turned


def scikit_learn(reference, queries, values, n_neighbors, weights):
    # differences of coordinates: exact where vectors coincide
    model = KNeighborsRegressor(n_neighbors=n_neighbors, weights=weights, algorithm="kd_tree")
    model.fit(np.asarray(reference["embedding"], float), values)
    return model.predict(np.asarray(queries["embedding"], float))


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


def test_blocks_do_not_matter():
    reference, _ = survey(300, 11)
    estimator = PropertyEstimator(n_neighbors=5).fit(reference, ["mass"])
    few = estimator.predict(reference)
    many = estimator.predict(vstack([reference] * 70, metadata_conflicts="silent"))
    assert len(many) == 21_000  # two blocks of results, and many of the search
    for name in ("mass", "mass_lower", "nearest_similarity"):
        assert_allclose(many[name], np.tile(few[name], 70), rtol=1e-9)


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


# ---------------------------------------------------------------------- several levels, quantiles
def test_several_levels_are_those_of_estimators_of_one():
    reference, _ = survey(900, 31)
    queries, _ = survey(40, 32, prefix="query")
    several = PropertyEstimator(n_neighbors=16, confidence=(0.95, 0.5, 0.997))
    result = several.fit(reference, ["mass"]).predict(queries)
    for level, suffix in ((0.95, ""), (0.5, "_50"), (0.997, "_99_7")):
        alone = PropertyEstimator(n_neighbors=16, confidence=level).fit(reference, ["mass"])
        expected = alone.predict(queries)
        again = several.predict(queries, confidence=level)  # without fitting again
        for end in ("lower", "upper"):
            assert_allclose(result[f"mass_{end}{suffix}"], expected[f"mass_{end}"])
            assert_allclose(again[f"mass_{end}"], expected[f"mass_{end}"])
    assert "mass_lower_95" not in result.colnames
    with pytest.raises(ValueError, match="^confidence is 2; expected a number between 0 and 1"):
        several.predict(queries, confidence=2)


def test_conformal_factor_is_the_naive_one():
    reference, _ = survey(150, 33)
    estimator = PropertyEstimator(n_neighbors=9, confidence=0.8).fit(reference, "mass")
    vectors, mass = np.asarray(reference["embedding"], float), np.asarray(reference["mass"])
    scores = []
    for row in range(150):  # leave one out, one at a time
        distance = np.linalg.norm(vectors - vectors[row], axis=1)
        distance[row] = np.inf
        near = np.argsort(distance)[:9]
        weight = 1 / distance[near]
        mean = np.average(mass[near], weights=weight)
        scatter = np.sqrt(np.average((mass[near] - mean) ** 2, weights=weight))
        scores.append(abs(mass[row] - mean) / max(scatter, 1e-3 * mass.std()))
    expected = np.quantile(scores, np.ceil(151 * 0.8) / 150, method="inverted_cdf")
    assert estimator.calibration_["spectrum", "mass"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("weights", ["distance", "uniform", "kernel"])
def test_medians_and_quantiles_of_the_neighbors(weights):
    reference, _ = survey(300, 34)
    queries, _ = survey(20, 35, prefix="query", failed=[0] * 19 + [1])
    estimator = PropertyEstimator(
        n_neighbors=21, weights=weights, statistic="median", quantiles=(0.05, 0.5, 0.95)
    )
    result = estimator.fit(reference, ["age"]).predict(queries)
    assert result["age_q05"].unit == u.Gyr
    assert_allclose(result["age"], result["age_q50"])
    vectors, age = np.asarray(reference["embedding"], float), reference["age"].value
    for row in range(19):
        distance = np.linalg.norm(vectors - np.asarray(queries["embedding"][row], float), axis=1)
        near = np.argsort(distance)[:21]
        d = distance[near]
        weight = {
            "distance": 1 / d, "uniform": d**0, "kernel": np.exp(-2 * d**2 / d.max() ** 2),
        }[weights]  # fmt: skip
        order = np.argsort(age[near])
        total = np.cumsum(weight[order]) - weight[order] / 2
        for level in (5, 50, 95):
            expected = np.interp(level / 100, total / weight.sum(), age[near][order])
            assert result[f"age_q{level:02d}"][row].value == pytest.approx(expected, rel=1e-4)
    assert np.isnan(result["age_q05"][19]) and np.isnan(result["age"][19])


# ---------------------------------------------------------------------- kinds of properties
def inside(result, table, name, suffix=""):
    low, high = result[f"{name}_lower{suffix}"], result[f"{name}_upper{suffix}"]
    return (low <= table[name]) & (table[name] <= high)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_angles_go_round(statistic):
    reference, _ = sky(3000, 40)
    held_out, _ = sky(2000, 41, prefix="held-out")
    estimator = PropertyEstimator(
        n_neighbors=16, statistic=statistic, circular={"angle": np.pi * u.rad},
        confidence=(0.68, 0.95), quantiles=(0.5,),
    ).fit(reference, "angle")
    result = estimator.predict(held_out)
    estimate = result["angle"].to_value(u.deg)
    assert ((estimate >= 0) & (estimate < 180)).all()
    assert ((result["angle_q50"].value >= 0) & (result["angle_q50"].value < 180)).all()
    error = turned(held_out["angle"].value - estimate, 180)
    assert np.median(np.abs(error)) < 12
    near_zero = (held_out["angle"].value < 5) | (held_out["angle"].value > 175)
    assert np.median(np.abs(error[near_zero])) < 15
    for level, suffix in ((0.68, ""), (0.95, "_95")):
        low, high = (result[f"angle_{end}{suffix}"].value for end in ("lower", "upper"))
        assert ((low <= estimate) & (estimate <= high) & (high - low <= 180 + 1e-9)).all()
        covered = np.abs(error) <= (high - low) / 2
        assert abs(covered.mean() - level) < 0.04
    assert estimator.scores_["score"][0] > 0.7
    whole = PropertyEstimator(n_neighbors=4, confidence=0.99, circular={"angle": 180})
    result = whole.fit(reference[:20], "angle").predict(held_out[:3])
    assert_allclose(result["angle_upper"] - result["angle_lower"], 180 * u.deg)


def test_an_angle_shifted_is_estimated_shifted():
    reference, _ = sky(300, 42)
    queries, _ = sky(50, 43, prefix="query")
    options = {"n_neighbors": 8, "circular": {"angle": 180 * u.deg}, "quantiles": (0.2, 0.7)}
    first = PropertyEstimator(**options).fit(reference, "angle").predict(queries)
    reference["angle"] = np.mod(reference["angle"] + 77 * u.deg, 180 * u.deg)
    second = PropertyEstimator(**options).fit(reference, "angle").predict(queries)
    for name in ("angle", "angle_lower", "angle_q20", "angle_q70"):
        assert_allclose(turned((second[name] - first[name]).value - 77, 180), 0, atol=1e-6)


def test_positive_properties_stay_positive():
    reference, _ = sky(2000, 44)
    held_out, _ = sky(2000, 45, prefix="held-out")
    reference["log_size"] = np.log(reference["size"].value)
    estimator = PropertyEstimator(
        n_neighbors=16, positive=["size"], confidence=(0.68, 0.95), quantiles=(0.05,)
    ).fit(reference, ["size", "log_size"])
    result = estimator.predict(held_out)
    for suffix in ("", "_lower", "_upper", "_lower_95", "_q05"):
        assert (result[f"size{suffix}"] > 0).all()
        assert_allclose(np.log(result[f"size{suffix}"].value), result[f"log_size{suffix}"])
    assert abs(inside(result, held_out, "size").mean() - 0.68) < 0.04
    few = PropertyEstimator(n_neighbors=4, positive=["size"], confidence=0.99)
    result = few.fit(reference[:20], "size").predict(held_out[:2])
    assert_array_equal(result["size_lower"].value, 0)
    assert_array_equal(result["size_upper"].value, np.inf)


@pytest.mark.parametrize("weights", ["distance", "uniform", "kernel"])
def test_class_probabilities_are_calibrated(weights):
    reference, _ = sky(4000, 46)
    held_out, probability = sky(4000, 47, prefix="held-out")
    estimator = PropertyEstimator(n_neighbors=12, weights=weights)
    result = estimator.fit(reference, ["is_spiral", "kind"]).predict(held_out)
    names = ["kind_probability_elliptical", "kind_probability_other", "kind_probability_spiral"]
    assert result.colnames[2:10] == [
        "is_spiral", "is_spiral_probability", "is_spiral_probability_False",
        "is_spiral_probability_True", "kind", "kind_probability", *names[:2],
    ]  # fmt: skip
    assert result["is_spiral"].dtype == bool
    each = np.stack([result[name] for name in names], axis=1)
    assert_allclose(each.sum(axis=1), 1)
    assert_allclose(result["kind_probability"], each.max(axis=1))
    classes = np.array(["elliptical", "other", "spiral"])
    assert_array_equal(result["kind"], classes[each.argmax(axis=1)])
    given = np.asarray(result["is_spiral_probability_True"])
    # the error of a probability in each of ten bins, weighted: the expected calibration error
    number = np.minimum((given * 10).astype(int), 9)
    gaps = [
        abs(np.mean(held_out["is_spiral"][number == k]) - given[number == k].mean())
        * np.mean(number == k)
        for k in range(10) if (number == k).any()
    ]
    assert sum(gaps) < 0.035
    raw = np.clip(np.mean(held_out["is_spiral"]), 0, 1)
    loss = -np.mean(np.where(held_out["is_spiral"], np.log(given), np.log(1 - given)))
    best = -np.mean(probability * np.log(probability) + (1 - probability) * np.log1p(-probability))
    nothing = -(raw * np.log(raw) + (1 - raw) * np.log(1 - raw))
    assert loss < best + 0.25 * (nothing - best)


def test_classes_of_failed_and_unlabeled_rows():
    reference, _ = sky(300, 48)
    reference["kind"][:30] = ""  # as files keep masked text
    queries, _ = sky(3, 49, prefix="query", failed=[0, 1, 0])
    result = PropertyEstimator(n_neighbors=5).fit(reference, "kind").predict(queries)
    assert result["kind"].mask.tolist() == [False, True, False]
    assert_array_equal(np.isnan(result["kind_probability_other"]), [False, True, False])
    assert_array_equal(result["n_reference"], 270)
    reference["grade"] = np.arange(300) % 4
    grades = PropertyEstimator(n_neighbors=5, categorical=["grade"]).fit(reference, "grade")
    assert set(grades.predict(queries)["grade"].compressed()) <= {0, 1, 2, 3}
    assert grades.scores_["metric"][0] == "accuracy"


# ---------------------------------------------------------------------- support, scores, index
def test_labels_on_other_rows_have_support_of_their_own():
    reference, _ = survey(200, 50)
    reference["age"][50:] = np.nan
    queries, _ = survey(9, 51, prefix="query")
    estimator = PropertyEstimator(n_neighbors=6).fit(reference, ["mass", "age"])
    result = estimator.predict(queries)
    assert_array_equal(result["n_reference"], 200)
    assert_array_equal(result["age_n_reference"], 50)
    alone = PropertyEstimator(n_neighbors=6).fit(reference[:50], ["age"]).predict(queries)
    for name in ("n_effective", "nearest_similarity", "out_of_distribution", "local_density"):
        assert_allclose(np.asarray(result[f"age_{name}"]), np.asarray(alone[name]))
    only = estimator.predict(queries, properties=["age"])
    assert_array_equal(only["n_reference"], 50)
    assert "age_n_reference" not in only.colnames


def test_a_modality_without_labels_is_estimated_from_the_other():
    spectra, _ = survey(80, 52)
    images, _ = survey(80, 53, modality="image")
    images["mass"] = np.nan
    reference = vstack([spectra, images], metadata_conflicts="silent")
    queries, _ = survey(6, 54, prefix="query", modality="image")
    estimator = PropertyEstimator(n_neighbors=4).fit(reference, ["mass", "age"])
    result = estimator.predict(queries)
    assert_allclose(
        result["mass"], scikit_learn(spectra, queries, spectra["mass"], 4, "distance"), rtol=1e-6
    )
    assert set(estimator.calibration_) == {
        ("spectrum", "mass"), ("spectrum", "age"), ("image", "age"),
    }  # fmt: skip
    spectra["mass"] = np.nan
    with pytest.raises(ValueError, match="^table has 0 spectrum rows with an embedding and a 'm"):
        estimator.fit(spectra, ["mass"])


def test_scores_are_those_of_left_out_rows():
    reference, _ = survey(300, 55)
    estimator = PropertyEstimator(n_neighbors=8).fit(reference, ["age", "mass"])
    result = estimator.predict(reference, exclude_self=True)
    assert estimator.scores_["property"].tolist() == ["age", "mass"]
    for row, name in enumerate(("age", "mass")):
        truth = np.asarray(reference[name])
        left = np.sum((np.asarray(result[name]) - truth) ** 2)
        expected = 1 - left / np.sum((truth - truth.mean()) ** 2)
        assert estimator.scores_["score"][row] == pytest.approx(expected)


def test_an_index_of_the_table_can_be_given():
    spectra, _ = survey(90, 56)
    images, _ = survey(90, 57, modality="image")
    spectra["mass"][:20] = np.nan
    reference = vstack([spectra, images], metadata_conflicts="silent")
    queries, _ = survey(8, 58, prefix="query", modality=["spectrum", "image"] * 4)
    names = ["age", "mass"]
    expected = PropertyEstimator(n_neighbors=5).fit(reference, names).predict(queries)
    index = SimilarityIndex(reference)
    found = PropertyEstimator(n_neighbors=5).fit(reference, names, index=index).predict(queries)
    for name in expected.colnames[2:]:
        assert_allclose(np.asarray(found[name]), np.asarray(expected[name]), rtol=1e-9)
    with pytest.raises(ValueError, match="^index has 180 rows and table 90; expected an index of"):
        PropertyEstimator(n_neighbors=5).fit(spectra, names, index=index)


def test_settings_are_scikit_learns_and_are_cloned():
    estimator = PropertyEstimator(n_neighbors=300, quantiles=[0.1], circular={"a": 180 * u.deg})
    again = clone(estimator)
    assert again.get_params() == estimator.get_params()
    assert again.set_params(n_neighbors=7).n_neighbors == 7
    assert repr(again).startswith("PropertyEstimator(circular={'a'")
    with pytest.raises(ValueError, match="Invalid parameter 'k' for estimator PropertyEstimator"):
        again.set_params(k=3)
    reference, _ = survey(30, 59)
    with pytest.raises(ValueError, match="^n_neighbors is 0; expected at least 2"):
        again.set_params(n_neighbors=0).fit(reference, "mass")


# ---------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"confidence": (0.68, 0.68)}, ValueError, r"^confidence is \(0.68, 0.68\); expected num"),
        ({"confidence": ()}, ValueError, r"^confidence is \(\); expected numbers between 0 and"),
        ({"quantiles": (0.5, 1.5)}, ValueError, "^quantiles is 1.5; expected a number between 0"),
        ({"statistic": "mode"}, ValueError, "^statistic is 'mode'; expected one of 'mean', 'med"),
        ({"bandwidth": 0.1}, ValueError, "^bandwidth is 0.1 and weights is 'distance', which ha"),
        ({"weights": "kernel", "bandwidth": 0}, ValueError, "^bandwidth is 0; expected a positi"),
        ({"positive": ["a"], "categorical": "a"}, ValueError, "^categorical names 'a', which pos"),
        ({"circular": ["a"]}, ValueError, "^circular is .*'a'.*; expected periods by name, such"),
        ({"n_neighbors": 1}, ValueError, "^n_neighbors is 1; expected at least 2"),
        ({"n_neighbors": 4.0}, TypeError, "^n_neighbors is 4.0 of type float"),
        ({"weights": "flat"}, ValueError, "^weights is 'flat'; expected one of 'distance', 'unif"),
        ({"confidence": 68}, ValueError, "^confidence is 68; expected a number between 0 and 1"),
        ({"false_alarm_rate": 0}, ValueError, "^false_alarm_rate is 0; expected a number between"),
        ({"confidence": np.nan}, ValueError, "^confidence is nan; expected a number between"),
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
    estimator.fit(reference, ["mass"])
    with pytest.raises(KeyError, match="properties names 'age', which the estimator was not"):
        estimator.predict(reference, properties=["mass", "age"])
    with pytest.raises(ValueError, match="^properties is empty"):
        estimator.predict(reference, properties=[])
    foreign = reference.copy()
    foreign.meta["WSHA"] = "cd" * 32
    with pytest.raises(ModelMismatchError, match="^table and reference hold .* different weights"):
        estimator.predict(foreign)


# ---------------------------------------------------------------------- search
OPTIONS = {"n_calibration": 5000, "false_alarm_rate": 0.05, "random_state": 0}


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_dimension_of_uniform_points(dimension):
    points = np.random.default_rng(0).random((4000, dimension))
    distance = cKDTree(points).query(points, k=21)[0][:, 1:]
    assert intrinsic_dimension(distance) == pytest.approx(dimension, rel=0.12)


def test_dimension_of_duplicates_is_finite():
    assert np.isfinite(intrinsic_dimension(np.zeros((5, 4))))
    assert intrinsic_dimension([[0, 0, 1.0]]) == 1


def test_density_is_relative_to_the_references():
    rng = np.random.default_rng(1)
    # the northern half of a sphere four times as dense as the southern
    points = as_unit(rng.normal(size=(8000, 3)))
    kept = (points[:, 2] > 0) | (rng.random(8000) < 0.25)
    reference = make_table(points[kept])
    group = LabeledRows(reference, np.arange(kept.sum()), n_neighbors=32)
    group.leave_out(**OPTIONS)
    assert group.dimension == pytest.approx(2, rel=0.1)
    poles = make_table(as_unit([[0.1, 0, 1], [0.2, 0.1, 1], [0, 0.1, -1], [0.1, 0.2, -1]]))
    density = group.support(group.find(poles))["local_density"]
    assert density[:2].mean() / density[2:].mean() == pytest.approx(4, rel=0.35)
    assert_allclose(density[:2], 1, rtol=0.6)  # most of the reference is in the north


def test_support_of_failed_and_far_objects():
    points = as_unit(np.random.default_rng(2).normal(size=(300, 3)) + [4, 0, 0])
    rows = np.arange(20, 300)
    group = LabeledRows(make_table(points), rows, n_neighbors=8)
    left_out, _ = group.leave_out(**OPTIONS)
    assert_array_equal(left_out, rows)
    queries = make_table(as_unit([[1, 0, 0], [1, 0, 0], [-1, 0, 0]]), failed=[0, 1, 0])
    found = group.support(group.find(queries))
    assert_array_equal(found["out_of_distribution"], [False, True, True])
    assert_array_equal(np.isnan(found["local_density"]), [False, True, False])
    assert found["local_density"][2] < 0.01 < found["local_density"][0]
    assert_array_equal(found["n_reference"], 280)


def test_rows_are_chosen_with_the_seed():
    rows = np.arange(100) * 3
    assert choose_rows(rows, 200, 0) is rows
    chosen = choose_rows(rows, 10, 1)
    assert_array_equal(chosen, choose_rows(rows, 10, 1))
    assert len(set(chosen)) == 10
    assert set(chosen) <= set(rows)


# ---------------------------------------------------------------------- weights and votes
distances = st.lists(
    st.lists(st.floats(0.001, 2), min_size=4, max_size=4), min_size=1, max_size=5
).map(lambda rows: np.sort(rows, axis=1))


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


@given(distance=distances)
def test_weights_are_their_formulas(distance):
    assert_allclose(neighbor_weights(distance), 1 / distance)
    assert_array_equal(neighbor_weights(distance, weights="uniform"), 1)
    for bandwidth in (None, 0.3):
        found = neighbor_weights(distance, weights="kernel", bandwidth=bandwidth)
        width = distance[:, -1:] / 2 if bandwidth is None else bandwidth
        expected = np.exp(-(distance**2) / (2 * width**2))
        assert_allclose(
            found / found.sum(axis=1, keepdims=True),
            expected / expected.sum(axis=1, keepdims=True), rtol=1e-9,
        )


def test_extremes():
    assert_array_equal(neighbor_weights([[0.0, 1e-9, 0.5]]), [[1, 1, 0]])
    assert_array_equal(neighbor_weights([[0.0, 0.0]], weights="kernel"), [[1, 1]])
    far = neighbor_weights([[1.9, 2.0]], weights="kernel", bandwidth=1e-3)
    assert_array_equal(far, [[1, 0]])
    for weights in ("distance", "uniform", "kernel"):
        assert np.isnan(neighbor_weights([[np.nan, np.nan]], weights=weights)).all()
    assert_allclose(effective_number(np.array([[1.0, 1, 0], [2, 1, 1]])), [2, 16 / 6])
    with pytest.raises(ValueError, match="^weights is 'tricube'; expected one of 'distance', "):
        neighbor_weights([[1.0]], weights="tricube")


def test_votes_are_scikit_learns():
    rng = np.random.default_rng(0)
    near, codes, queries = rng.normal(size=(60, 3)), rng.integers(0, 4, 60), rng.normal(size=(9, 3))
    model = KNeighborsClassifier(n_neighbors=7, weights="distance").fit(near, codes)
    distance, rows = model.kneighbors(queries)
    votes = ClassVotes(np.arange(4))
    votes.frequency, votes.smoothing, votes.temperature = np.full(4, 0.25), 1e-9, 1.0
    weight = neighbor_weights(distance)
    assert_allclose(votes.probability(codes[rows], weight), model.predict_proba(queries), atol=1e-8)
    weight[1] = np.nan
    missing = np.isnan(votes.probability(codes[rows], weight))
    assert_array_equal(missing, np.arange(9)[:, None] == [[1] * 4])


def test_probability_is_its_formula():
    votes = ClassVotes(np.arange(2))
    votes.frequency, votes.smoothing, votes.temperature = np.array([0.75, 0.25]), 2.0, 0.5
    found = votes.probability(np.array([[0, 1, 0, 1]]), np.ones((1, 4)))
    power = (np.array([4 * 0.5 + 2 * 0.75, 4 * 0.5 + 2 * 0.25]) / 6) ** 2
    assert_allclose(found, [power / power.sum()])


def test_few_votes_are_smoothed_towards_the_frequencies():
    rng = np.random.default_rng(2)
    frequency = [0.7, 0.2, 0.1]
    near = rng.choice(3, (4000, 3), p=frequency)  # tell nothing of the truth
    truth = rng.choice(3, 4000, p=frequency)
    votes = ClassVotes(np.arange(3)).fit(truth, near, np.ones((4000, 3)), truth)
    assert votes.smoothing > 20
    probability = votes.probability(near, np.ones((4000, 3)))
    assert_allclose(probability, np.tile(frequency, (4000, 1)), atol=0.06)
