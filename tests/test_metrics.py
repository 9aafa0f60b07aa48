"""Scores against scikit-learn and against slow formulas written out."""

import math
import statistics

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from astroclip import metrics

REDSHIFTS = st.lists(
    st.tuples(st.floats(0, 5, allow_subnormal=False), st.floats(0, 5, allow_subnormal=False)),
    min_size=2,
    max_size=30,
)


@given(pairs=REDSHIFTS.filter(lambda pairs: np.ptp([true for _, true in pairs]) > 1e-3))
def test_r2_is_scikit_learns(pairs):
    predicted, true = np.array(pairs).T
    expected = sklearn.metrics.r2_score(true, predicted)
    assert_allclose(metrics.r2_score(predicted, true), expected, rtol=1e-9, atol=1e-9)


def test_r2_of_the_mean_and_its_asymmetry():
    true = np.array([0.0, 1.0, 5.0])
    assert metrics.r2_score(np.full(3, 2.0), true) == 0
    assert metrics.r2_score(2 * true, true) != metrics.r2_score(true, 2 * true)


@given(pairs=REDSHIFTS)
def test_nmad_and_outliers_are_the_formulas(pairs):
    scaled = [abs(predicted - true) / (1 + true) for predicted, true in pairs]
    predicted, true = np.array(pairs).T
    assert_allclose(metrics.nmad(predicted, true), 1.4826 * statistics.median(scaled))
    share = sum(value > 0.15 for value in scaled) / len(scaled)
    assert_allclose(metrics.outlier_fraction(predicted, true, limit=0.15), share)


def test_nmad_of_a_gaussian_is_its_standard_deviation():
    true = np.random.default_rng(1).uniform(0, 2, 40_000)
    error = np.random.default_rng(2).normal(0, 0.03, 40_000)
    assert_allclose(metrics.nmad(true + error * (1 + true), true), 0.03, rtol=0.03)


def test_default_outlier_limit():
    assert metrics.outlier_fraction([0.049, 0.051, 0.3, 0], [0, 0, 0, 0]) == 0.5
    assert metrics.outlier_fraction([1.098, 1.102], [1, 1]) == 0.5


def naive_ranks(queries, targets):
    """Count, pair by pair in pure Python, the targets more similar than a query's own."""

    def cosine(first, second):
        dot = math.fsum(a * b for a, b in zip(first, second, strict=True))
        return dot / math.hypot(*first) / math.hypot(*second)

    ranks = []
    for row, query in enumerate(queries):
        own = cosine(query, targets[row])
        ranks.append(sum(cosine(query, target) > own + 1e-12 for target in targets))
    return ranks


@given(seed=st.integers(0, 10_000), n_pairs=st.integers(1, 25), dim=st.integers(2, 6))
def test_ranks_and_recall_are_the_naive_ones(seed, n_pairs, dim):
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=(n_pairs, dim)) * rng.uniform(0.1, 9, (n_pairs, 1))
    targets = queries + rng.normal(size=(n_pairs, dim))
    ranks = naive_ranks(queries.tolist(), targets.tolist())
    assert_array_equal(metrics.retrieval_ranks(queries, targets), ranks)
    for n_best in (1, 3, n_pairs):
        expected = sum(rank < n_best for rank in ranks) / n_pairs
        assert metrics.recall_at(queries, targets, n_best) == expected


def test_recall_has_a_direction():
    queries = np.array([[1.0, 0], [1.0, 0.1]])
    targets = np.array([[1.0, 0.06], [1.0, 0.11]])  # the first is nearer to the other query
    assert_array_equal(metrics.retrieval_ranks(queries, targets), [0, 0])
    assert_array_equal(metrics.retrieval_ranks(targets, queries), [1, 0])
    assert metrics.recall_at(targets, queries, 1) == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("name", ["queries", "targets"])
def test_a_failed_row_does_not_count_as_found(name, bad):
    pair = {"queries": np.eye(3), "targets": np.eye(3)}
    pair[name] = np.eye(3)
    pair[name][1] = bad
    with pytest.raises(ValueError, match=rf"^{name}\[1\] is zero or not finite; .* Leave out"):
        metrics.recall_at(**pair, n_best=1)


@given(similarity=hnp.arrays(float, (5, 5), elements=st.floats(-1, 1)), scale=st.floats(0.1, 20))
def test_mutual_information_bound(similarity, scale):
    logits = scale * similarity
    loss = -np.mean([logits[i, i] - math.log(sum(np.exp(logits[i]))) for i in range(5)])
    bound = metrics.mutual_information_bound(loss, 5)
    assert_allclose(bound, math.log(5) - loss)
    assert bound <= math.log(5)


def test_mutual_information_bound_of_chance_and_of_certainty():
    assert_allclose(metrics.mutual_information_bound(math.log(512), 512), 0, atol=1e-12)
    assert_allclose(metrics.mutual_information_bound(0, 512), 9 * math.log(2))


@pytest.mark.parametrize(
    ("score", "names"),
    [
        ("r2_score", ("predicted", "true")),
        ("nmad", ("predicted", "true")),
        ("outlier_fraction", ("predicted", "true")),
        ("retrieval_ranks", ("queries", "targets")),
    ],
)
def test_shapes_must_agree(score, names):
    message = rf"^{names[0]} has shape \(3, 2\) and {names[1]} \(2, 2\); expected the same. Pass"
    with pytest.raises(ValueError, match=message):
        getattr(metrics, score)(np.ones((3, 2)), np.ones((2, 2)))
