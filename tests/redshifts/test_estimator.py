"""Redshifts by a head: summaries, calibration, flags, refusals, and no torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
from astropy.table import vstack
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file
from sklearn.base import clone

from astroclip import RedshiftEstimator, tables
from astroclip._files import file_sha256
from astroclip.exceptions import ModelMismatchError
from astroclip.redshifts.distribution import (
    RedshiftDistribution,
    fit_temperature,
    redshift_edges,
)
from astroclip.redshifts.head import LinearRedshiftHead

DIM, N_BINS, LARGEST = 8, 48, 0.7
CENTRE = np.expm1((np.arange(N_BINS) + 0.5) * np.log1p(LARGEST) / N_BINS)


def draw_heads():
    """Return layers whose logits rise where an embedding points along a bin's own curve."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 2 * np.pi, (2, DIM))
    number = np.arange(N_BINS)[:, None]
    return {
        kind: (
            np.cos(number / N_BINS * np.arange(1, DIM + 1) * 2 + phase[k]).astype(np.float16),
            rng.normal(0, 0.1, N_BINS).astype(np.float16),
        )
        for k, kind in enumerate(("spectrum", "image"))
    }


HEADS = draw_heads()


def write_heads(path, *, kinds=("spectrum", "image"), temperature=1.0, n_image_bins=N_BINS):
    arrays = {}
    for kind in kinds:
        step = N_BINS // n_image_bins if kind == "image" else 1
        weight, bias = (part[::step].copy() for part in HEADS[kind])
        arrays |= {f"redshift_head.{kind}.weight": weight, f"redshift_head.{kind}.bias": bias}
    entry = {
        "n_bins": {"spectrum": N_BINS, "image": n_image_bins}, "largest": LARGEST, "scale": 11.0,
        "temperature": dict.fromkeys(kinds, temperature),
    }  # fmt: skip
    config = {"name": "toy", "architecture": "small", "redshift_head": entry}
    save_file(arrays, path, metadata={"config": json.dumps(config)})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_heads(tmp_path_factory.mktemp("heads") / "toy.safetensors")


def survey(weights, n_rows, seed, *, modality="spectrum", sharpness=1.0, failed=(), prefix="row"):
    """Return embeddings, and redshifts drawn from ``sharpness`` times the head's logits."""
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(n_rows, DIM))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    unit = unit.astype(np.float32)
    kinds = np.broadcast_to(modality, n_rows)
    redshift = np.empty(n_rows)
    edges = np.linspace(0, np.log1p(LARGEST), N_BINS + 1)
    for row, kind in enumerate(kinds):
        probability = np.exp(sharpness * naive_logits(kind, unit[row]))
        chosen = rng.choice(N_BINS, p=probability / probability.sum())
        redshift[row] = np.expm1(edges[chosen] + rng.random() * (edges[1] - edges[0]))
    flags = np.zeros(n_rows, int)
    flags[list(failed)] = 1
    return tables.make_embedding_table(
        [f"{prefix}-{row}" for row in range(n_rows)], kinds, unit, coverage=1.0, flags=flags,
        redshift=redshift, model_name="toy", weights_sha256=file_sha256(weights),
        preparation_version="7",
    )  # fmt: skip


def naive_logits(kind, vector):
    weight, bias = (part.astype(float) for part in HEADS[kind])
    vector = np.asarray(vector, float)
    return 11.0 * weight @ vector / np.linalg.norm(vector) + bias


def naive_distribution(table, temperature=1.0):
    rows = []
    for kind, vector in zip(table["modality"], np.asarray(table["embedding"])):
        power = np.exp(naive_logits(kind, vector) / temperature)
        rows.append(power / power.sum())
    return RedshiftDistribution(redshift_edges(N_BINS, LARGEST), rows)


def is_covered(result, table):
    truth = np.asarray(table["redshift"])
    return (result["redshift_lower"] <= truth) & (truth <= result["redshift_upper"])


# ---------------------------------------------------------------------- without a reference
def test_redshifts_need_no_reference(weights):
    queries = survey(weights, 2200, 1, modality=["spectrum", "image"] * 1100)  # two blocks each
    estimator = RedshiftEstimator(model=weights)
    result = estimator.predict(queries)
    assert result.colnames == [
        "id", "modality", "redshift", "redshift_lower", "redshift_upper", "redshift_confidence",
    ]  # fmt: skip
    expected = naive_distribution(queries)
    assert_allclose(result["redshift"], expected.mode(), rtol=1e-5)
    ends = result["redshift_lower"], result["redshift_upper"]
    for found, wanted in zip(ends, expected.interval(0.68)):  # a few rows have two as short
        assert np.mean(np.isclose(found, wanted, rtol=1e-4, atol=1e-6)) > 0.99
    lengths = [np.log1p(high) - np.log1p(low) for low, high in (ends, expected.interval(0.68))]
    assert_allclose(*lengths, rtol=1e-4)
    near = expected.probability_within(expected.mode(), 0.01)
    assert_allclose(result["redshift_confidence"], near, rtol=1e-4)
    assert result["id"].tolist() == queries["id"].tolist()
    assert result.meta == queries.meta
    same = estimator.predict(queries[[3]])
    assert_allclose(same["redshift"], result["redshift"][[3]], rtol=1e-6)


def test_distributions_of_a_table(weights):
    queries = survey(weights, 9, 2, modality=["spectrum", "image", "image"] * 3, failed=[4])
    redshift, probability = RedshiftEstimator(model=weights).distribution(queries)
    assert_allclose(redshift, CENTRE)
    known = np.arange(9) != 4
    assert_allclose(
        probability[known], naive_distribution(queries[known]).probability, rtol=1e-4
    )
    assert np.isnan(probability[4]).all()


def test_several_levels_and_quantiles(weights):
    queries = survey(weights, 30, 22, failed=[5])
    estimator = RedshiftEstimator(model=weights, confidence=(0.95, 0.5), quantiles=(0.1,))
    result = estimator.predict(queries)
    assert result.colnames[2:] == [
        "redshift", "redshift_lower", "redshift_upper", "redshift_lower_50", "redshift_upper_50",
        "redshift_q10", "redshift_confidence",
    ]  # fmt: skip
    known = np.arange(30) != 5
    expected = naive_distribution(queries[known])
    assert_allclose(result["redshift_upper"][known], expected.interval(0.95)[1], rtol=1e-4)
    assert_allclose(result["redshift_upper_50"][known], expected.interval(0.5)[1], rtol=1e-4)
    assert_allclose(result["redshift_q10"][known], expected.quantile(0.1), rtol=1e-4)
    held_out = survey(weights, 1500, 23, sharpness=0.5, prefix="held-out")
    estimator.fit(survey(weights, 1500, 24, sharpness=0.5), "redshift")
    result = estimator.predict(held_out)
    assert abs(is_covered(result, held_out).mean() - 0.95) < 0.025
    truth = np.asarray(held_out["redshift"])
    inside = (result["redshift_lower_50"] <= truth) & (truth <= result["redshift_upper_50"])
    assert abs(inside.mean() - 0.5) < 0.05


def test_failed_rows_stay(weights):
    queries = survey(weights, 6, 3, failed=[1, 4])
    estimator = RedshiftEstimator(model=weights)
    for fitted in (estimator, estimator.fit(survey(weights, 50, 4), "redshift")):
        result = fitted.predict(queries)
        for name in result.colnames[2:-1]:
            assert_array_equal(np.isnan(result[name]), queries["flags"] == 1)
    assert result["out_of_distribution"][[1, 4]].all()


def test_the_files_temperature_is_used(weights, tmp_path):
    path = write_heads(tmp_path / "flat.safetensors", temperature=2.5)
    queries = survey(path, 20, 5)
    estimator = RedshiftEstimator(model=path)
    expected = naive_distribution(queries, 2.5)
    assert_allclose(estimator.distribution(queries)[1], expected.probability, rtol=1e-4)


# ---------------------------------------------------------------------- with a reference
def test_a_reference_without_redshifts_sets_thresholds_alone(weights):
    queries = survey(weights, 200, 6, prefix="query")
    plain = RedshiftEstimator(model=weights)
    fitted = RedshiftEstimator(model=weights, false_alarm_rate=0.1)
    reference = survey(weights, 400, 7)
    assert fitted.fit(reference) is fitted
    result, unfitted = fitted.predict(queries), plain.predict(queries)
    for name in unfitted.colnames:
        assert_array_equal(result[name], unfitted[name])
    assert fitted.calibration_ == {}
    matrix = np.asarray(reference["embedding"], float)
    cosines = np.asarray(queries["embedding"], float) @ matrix.T
    assert_allclose(result["nearest_similarity"], cosines.max(axis=1), rtol=1e-5)
    own = matrix @ matrix.T - 2 * np.eye(400)
    threshold = np.quantile(own.max(axis=1), 0.1)
    assert fitted.similarity_threshold_["spectrum"] == pytest.approx(threshold, rel=1e-5)
    assert_array_equal(result["out_of_distribution"], cosines.max(axis=1) < threshold)
    assert abs(result["out_of_distribution"].mean() - 0.1) < 0.06


def test_own_rows_are_left_out_on_request(weights):
    reference = survey(weights, 60, 8)
    estimator = RedshiftEstimator(model=weights).fit(reference)
    assert_allclose(estimator.predict(reference)["nearest_similarity"], 1, rtol=1e-5)
    assert estimator.predict(reference, exclude_self=True)["nearest_similarity"].max() < 1 - 1e-5


def test_thresholds_are_by_modality_and_the_other_ones_where_there_is_none(weights):
    spectra = survey(weights, 80, 9)
    images = survey(weights, 30, 10, modality="image")
    both = vstack([spectra, images], metadata_conflicts="silent")
    estimator = RedshiftEstimator(model=weights).fit(both)
    assert set(estimator.similarity_threshold_) == {"spectrum", "image"}
    alone = RedshiftEstimator(model=weights).fit(spectra)
    assert alone.similarity_threshold_["spectrum"] == estimator.similarity_threshold_["spectrum"]
    result = alone.predict(images)
    cosines = np.asarray(images["embedding"], float) @ np.asarray(spectra["embedding"], float).T
    assert_allclose(result["nearest_similarity"], cosines.max(axis=1), rtol=1e-5)
    low = cosines.max(axis=1) < alone.similarity_threshold_["spectrum"]
    assert_array_equal(result["out_of_distribution"], low)


@pytest.mark.parametrize("sharpness", [0.4, 1.0, 2.5])
def test_redshifts_calibrate_temperature_and_intervals(weights, sharpness):
    reference = survey(weights, 1500, 11, sharpness=sharpness)
    held_out = survey(weights, 2000, 12, sharpness=sharpness, prefix="held-out")
    estimator = RedshiftEstimator(model=weights, confidence=0.75)
    estimator.fit(reference, ["redshift"])
    weight, bias = HEADS["spectrum"]
    logits = LinearRedshiftHead(weight, bias, LARGEST, scale=11.0).logits(reference["embedding"])
    expected = fit_temperature(logits, reference["redshift"], redshift_edges(N_BINS, LARGEST))
    assert estimator.temperature_["spectrum"] == pytest.approx(expected, rel=1e-4)
    assert estimator.temperature_["image"] == 1.0
    assert set(estimator.calibration_) == {("spectrum", "redshift")}
    result = estimator.predict(held_out)
    assert abs(is_covered(result, held_out).mean() - 0.75) < 0.03
    assert (result["redshift_lower"] <= result["redshift"]).all()
    assert (result["redshift"] <= result["redshift_upper"]).all()
    wide = is_covered(RedshiftEstimator(model=weights).predict(held_out), held_out)
    if sharpness != 1.0:  # uncalibrated intervals miss what they are asked for
        assert abs(wide.mean() - 0.68) > 0.05


def test_an_honest_head_has_honest_confidence(weights):
    held_out = survey(weights, 4000, 13)
    result = RedshiftEstimator(model=weights).predict(held_out)
    truth = np.asarray(held_out["redshift"])
    right = np.abs(result["redshift"] - truth) <= 0.01 * (1 + result["redshift"])
    for low, high in ((0, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 1)):
        inside = (result["redshift_confidence"] >= low) & (result["redshift_confidence"] < high)
        assert inside.sum() > 50
        expected = result["redshift_confidence"][inside].mean()
        assert abs(right[inside].mean() - expected) < 4 * np.sqrt(0.25 / inside.sum())


def test_the_calibrated_level_covers_just_enough(weights):
    reference = survey(weights, 50, 25)
    estimator = RedshiftEstimator(model=weights, confidence=0.6).fit(reference, "redshift")
    level = estimator.calibration_["spectrum", "redshift"]
    distribution = naive_distribution(reference, estimator.temperature_["spectrum"])
    truth, counts = np.asarray(reference["redshift"]), []
    for value in (level - 2**-11, level + 1e-6):
        lower, upper = distribution.interval(value)
        counts.append(np.sum((lower <= truth) & (truth <= upper)))
    assert counts[0] < int(np.ceil(51 * 0.6)) <= counts[1]


def test_too_few_rows_and_truths_beyond_the_bins_give_infinite_intervals(weights):
    estimator = RedshiftEstimator(model=weights, confidence=0.9)
    queries = survey(weights, 5, 14, failed=[2])
    result = estimator.fit(survey(weights, 8, 15), "redshift").predict(queries)
    known = np.arange(5) != 2
    assert np.isfinite(result["redshift"][known]).all()
    assert_array_equal(result["redshift_upper"][known], np.inf)
    assert_array_equal(result["redshift_lower"][known], -np.inf)
    assert np.isnan(result["redshift_upper"][2])
    reference = survey(weights, 100, 16)
    reference["redshift"][:20] = 2.0  # the head cannot know these
    result = estimator.fit(reference, "redshift").predict(queries)
    assert_array_equal(result["redshift_upper"][known], np.inf)


def test_unknown_redshifts_are_left_out_and_fitting_again_starts_afresh(weights):
    reference = survey(weights, 300, 17, sharpness=0.5)
    unknown = reference.copy()
    unknown["redshift"][::3] = np.nan
    estimator = RedshiftEstimator(model=weights).fit(unknown, "redshift")
    known = np.arange(300) % 3 != 0
    again = RedshiftEstimator(model=weights).fit(reference[known], "redshift")
    assert estimator.temperature_ == again.temperature_
    assert estimator.calibration_ == again.calibration_
    assert estimator.fit(reference).temperature_["spectrum"] == 1.0
    assert estimator.calibration_ == {}


def test_calibration_of_a_large_reference_is_seeded(weights):
    reference = survey(weights, 4400, 18)
    temperatures = [
        RedshiftEstimator(model=weights, random_state=seed)
        .fit(reference, "redshift").temperature_["spectrum"]
        for seed in (0, 0, 1)
    ]  # fmt: skip
    assert temperatures[0] == temperatures[1] != temperatures[2]


def test_settings_are_those_of_scikit_learn(weights):
    estimator = RedshiftEstimator(model=weights, confidence=(0.68, 0.95))
    table = survey(weights, 30, 26)
    first = estimator.fit(table, "redshift").predict(table)
    again = clone(estimator)
    assert not hasattr(again, "temperature_")
    second = again.fit(table, "redshift").predict(table)
    assert_array_equal(first["redshift_upper_95"], second["redshift_upper_95"])
    assert estimator.set_params(confidence=0.5).get_params()["confidence"] == 0.5
    assert repr(RedshiftEstimator(random_state=3)) == "RedshiftEstimator(random_state=3)"
    with pytest.raises(ValueError, match="^false_alarm_rate is 1.0; expected a number between"):
        RedshiftEstimator(false_alarm_rate=1.0)


def test_distributions_of_heads_with_other_bins(tmp_path):
    path = write_heads(tmp_path / "toy.safetensors", n_image_bins=N_BINS // 2)
    estimator = RedshiftEstimator(model=path)
    images = survey(path, 5, 27, modality="image")
    assert estimator.distribution(images)[1].shape == (5, N_BINS // 2)
    both = vstack([survey(path, 5, 28), images], metadata_conflicts="silent")
    assert np.isfinite(estimator.predict(both)["redshift"]).all()
    with pytest.raises(ValueError, match="^table has rows of two modalities, whose heads have"):
        estimator.distribution(both)


# ---------------------------------------------------------------------- refusals
def test_other_weights_are_refused(weights):
    estimator = RedshiftEstimator(model=weights)
    foreign = survey(weights, 20, 19)
    foreign.meta["WSHA"] = "cd" * 32
    for use in (estimator.predict, estimator.fit, estimator.distribution):
        with pytest.raises(ModelMismatchError, match="^table holds embeddings of model 'toy' wi"):
            use(foreign)


def test_other_properties_are_refused(weights):
    estimator = RedshiftEstimator(model=weights)
    table = survey(weights, 20, 20)
    with pytest.raises(KeyError, match="properties names 'log_ssfr', which a redshift head does"):
        estimator.fit(table, ["redshift", "log_ssfr"])
    with pytest.raises(ValueError, match="^properties is empty"):
        estimator.fit(table, [])
    table.remove_column("redshift")
    with pytest.raises(KeyError, match="properties names 'redshift', which is no column of the"):
        estimator.fit(table, "redshift")


def test_a_modality_without_a_head(tmp_path):
    path = write_heads(tmp_path / "spectrum.safetensors", kinds=("spectrum",))
    estimator = RedshiftEstimator(model=path)
    images = survey(path, 4, 21, modality="image")
    for use in (estimator.predict, estimator.distribution):
        with pytest.raises(ValueError, match="^table has rows of modality 'image' and model .*sp"):
            use(images)
    assert set(estimator.fit(images).similarity_threshold_) == {"image"}
    with pytest.raises(ValueError, match="^table has no row with an embedding and a 'redshift'"):
        estimator.fit(images, "redshift")


def test_a_reference_of_one_row(weights):
    estimator = RedshiftEstimator(model=weights)
    with pytest.raises(ValueError, match="^table has one spectrum row with an embedding; expect"):
        estimator.fit(survey(weights, 1, 22))


def test_searching_imports_no_torch(weights):
    code = f"""
import sys, numpy as np, astroclip
from astroclip.tables import make_embedding_table
estimator = astroclip.RedshiftEstimator(model={str(weights)!r})
table = make_embedding_table(
    ["a", "b"], "spectrum", np.eye(2, {DIM}), coverage=1, flags=[0, 0], redshift=[0.1, 0.2],
    model_name="toy", weights_sha256={file_sha256(weights)!r}, preparation_version="7",
)
estimator.fit(table, "redshift").predict(table)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
