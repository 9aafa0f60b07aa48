"""Outliers: scores against scikit-learn, p-values against counting, false alarms as stated."""

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from astroclip.discovery import OutlierDetector
from astroclip.exceptions import ModelMismatchError
from astroclip.tables import Flag, embedding_matrix
from tests.discovery.conftest import make_table, unit


def clusters(rng, n_objects):
    """Return unit vectors in a dense and a sparse cluster."""
    dense = np.arange(n_objects) % 2 == 0
    center = np.where(dense[:, None], [1.0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0])
    scatter = np.where(dense[:, None], 0.05, 0.4)
    return unit(center + scatter * rng.standard_normal((n_objects, 5)))


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(8)
    reference = make_table(clusters(rng, 500))
    queries = make_table(clusters(rng, 400), ids=[f"q{row}" for row in range(400)])
    return reference, queries


def test_distance_scores_are_those_of_scikit_learn(tables):
    reference, queries = tables
    detector = OutlierDetector(n_neighbors=7).fit(reference)
    known, new = (embedding_matrix(table)[0].astype(float) for table in tables)
    search = NearestNeighbors(n_neighbors=7).fit(known)
    distance, rows = search.kneighbors(new)
    found = detector.score(queries)
    np.testing.assert_allclose(found["score"], distance.mean(axis=1), rtol=1e-5)
    assert found["nearest_id"].tolist() == [f"g{row}" for row in rows[:, 0]]
    np.testing.assert_allclose(
        found["nearest_similarity"], (new * known[rows[:, 0]]).sum(axis=1), rtol=1e-5
    )
    own = np.sort(search.kneighbors()[0].mean(axis=1))  # leaves each row itself out
    np.testing.assert_allclose(detector.null_scores_["image"], own, rtol=1e-5)


def test_density_scores_are_those_of_scikit_learn(tables):
    reference, queries = tables
    detector = OutlierDetector(n_neighbors=7, method="density").fit(reference)
    known, new = (embedding_matrix(table)[0].astype(float) for table in tables)
    factor = LocalOutlierFactor(n_neighbors=7, novelty=True).fit(known)
    scores = detector.score(queries)["score"]
    np.testing.assert_allclose(scores, -factor.score_samples(new), rtol=1e-5)
    own = np.sort(-factor.negative_outlier_factor_)
    np.testing.assert_allclose(detector.null_scores_["image"], own, rtol=1e-5)


@pytest.mark.parametrize("method", ["distance", "density"])
def test_p_values_count_the_null(tables, method):
    reference, queries = tables
    detector = OutlierDetector(n_neighbors=5, method=method, false_alarm_rate=0.05).fit(reference)
    found, null = detector.score(queries), detector.null_scores_["image"]
    expected = [(1 + np.sum(null >= score)) / (1 + len(null)) for score in found["score"]]
    np.testing.assert_allclose(found["p_value"], expected)
    np.testing.assert_array_equal(found["outlier"], np.array(expected) <= 0.05)


@pytest.mark.parametrize("method", ["distance", "density"])
def test_usual_objects_are_flagged_at_the_stated_rate(tables, method):
    reference, queries = tables
    for rate in (0.05, 0.2):
        detector = OutlierDetector(n_neighbors=8, method=method, false_alarm_rate=rate)
        flagged = detector.fit(reference).score(queries)["outlier"].mean()
        # 400 queries and 500 null scores: binomial scatter of both
        assert abs(flagged - rate) < 4 * np.sqrt(rate * (1 - rate) * (1 / 400 + 1 / 500))


def test_density_sees_what_distance_does_not(tables):
    reference, _ = tables
    near_dense = make_table(unit(np.array([[1.0, 0.0, 0.0, 0.0, 0.4]])))
    p_value = {
        method: float(
            OutlierDetector(n_neighbors=10, method=method).fit(reference).score(near_dense)[
                "p_value"
            ][0]
        )
        for method in ("distance", "density")
    }
    assert p_value["density"] < 0.02 < p_value["distance"]


@pytest.mark.parametrize("method", ["distance", "density"])
def test_reference_objects_are_scored_by_the_others(tables, method):
    reference, _ = tables
    detector = OutlierDetector(n_neighbors=6, method=method).fit(reference)
    found = detector.score(reference, exclude_self=True)
    np.testing.assert_allclose(np.sort(found["score"]), detector.null_scores_["image"], rtol=1e-6)
    assert not np.any(found["nearest_id"] == found["id"])
    kept = detector.score(reference)
    assert np.all(kept["nearest_id"] == kept["id"])


def test_modalities_have_their_own_null():
    rng = np.random.default_rng(1)
    vectors = np.concatenate([clusters(rng, 120)[::2], clusters(rng, 240)[1::2]])
    kinds = np.repeat(["image", "spectrum"], [60, 120])
    table = make_table(vectors, modality=kinds)
    detector = OutlierDetector(n_neighbors=4, false_alarm_rate=0.1).fit(table)
    alone = OutlierDetector(n_neighbors=4, false_alarm_rate=0.1).fit(table[:60])
    np.testing.assert_array_equal(detector.null_scores_["image"], alone.null_scores_["image"])
    assert len(detector.null_scores_["spectrum"]) == 120
    found = detector.score(table[50:70], exclude_self=True)
    assert found["modality"].tolist() == kinds[50:70].tolist()
    only = alone.score(table[50:60], exclude_self=True)
    np.testing.assert_array_equal(found["score"][:10], only["score"])
    with pytest.raises(ValueError, match="spectrum rows and the reference has none"):
        alone.score(table[50:70])


def test_objects_without_embedding_keep_their_rows(tables):
    reference, queries = tables
    vectors = embedding_matrix(queries)[0][:6]
    flags = np.zeros(6, int)
    flags[2] = Flag.FAILED
    vectors[4] = 0
    table = make_table(vectors, flags=flags, brightness=np.arange(6.0))
    for method in ("distance", "density"):
        found = OutlierDetector(n_neighbors=4, method=method).fit(reference).score(table)
        np.testing.assert_array_equal(
            np.isnan(found["p_value"]), [False, False, True, False, True, False]
        )
        assert not found["outlier"][[2, 4]].any()
        assert found["nearest_id"][2] == ""
        np.testing.assert_array_equal(found["brightness"], np.arange(6.0))
        assert "embedding" not in found.colnames
    flags = np.zeros(500, int)
    flags[7] = Flag.FAILED
    vectors = embedding_matrix(reference)[0]
    vectors[8] = 0
    detector = OutlierDetector(n_neighbors=4).fit(make_table(vectors, flags=flags))
    assert len(detector.null_scores_["image"]) == 498
    assert np.isfinite(detector.null_scores_["image"]).all()


def test_duplicates_do_not_divide_by_zero():
    vectors = np.repeat(unit(np.random.default_rng(2).standard_normal((30, 4))), 8, axis=0)
    for method in ("distance", "density"):
        detector = OutlierDetector(n_neighbors=3, method=method).fit(make_table(vectors))
        assert np.isfinite(detector.null_scores_["image"]).all()


def test_large_references_are_sampled_reproducibly():
    reference = make_table(clusters(np.random.default_rng(9), 10_400))
    nulls = [
        OutlierDetector(n_neighbors=4, random_state=seed).fit(reference).null_scores_["image"]
        for seed in (1, 1, 2)
    ]
    assert len(nulls[0]) == 10_000
    np.testing.assert_array_equal(nulls[0], nulls[1])
    assert not np.array_equal(nulls[0], nulls[2])


def test_wrong_use_is_refused(tables):
    reference, queries = tables
    with pytest.raises(ValueError, match="not fitted"):
        OutlierDetector().score(queries)
    with pytest.raises(ValueError, match="method is 'forest'"):
        OutlierDetector(method="forest")
    with pytest.raises(ValueError, match="false_alarm_rate is 0"):
        OutlierDetector(false_alarm_rate=0)
    with pytest.raises(ValueError, match="n_neighbors is 0"):
        OutlierDetector(n_neighbors=0)
    with pytest.raises(ValueError, match="500 image rows .* at least 999"):
        OutlierDetector(false_alarm_rate=0.001).fit(reference)
    with pytest.raises(ValueError, match="20 image rows .* at least 31"):
        OutlierDetector(n_neighbors=30, false_alarm_rate=0.2).fit(reference[:20])
    other = make_table(embedding_matrix(queries)[0], sha="2" * 64)
    with pytest.raises(ModelMismatchError, match="table and reference"):
        OutlierDetector().fit(reference).score(other)
    nothing = make_table(np.ones((3, 5)), flags=np.full(3, Flag.FAILED))
    with pytest.raises(ValueError, match="no row with an embedding"):
        OutlierDetector().fit(nothing)
