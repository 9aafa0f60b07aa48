"""Conformal factors, weighted quantiles and temperatures against definitions, numpy and grids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax

from astroclip.estimation.calibration import (
    check_levels,
    class_columns,
    conformal_factor,
    fit_temperature,
    percent_name,
    weighted_quantiles,
)


@given(
    scores=st.lists(st.floats(0, 100), min_size=1, max_size=40), level=st.integers(1, 99)
)
def test_factor_is_the_smallest_that_covers(scores, level):
    scores = np.sort(scores)
    found = conformal_factor(scores, level / 100)
    needed = -(-(len(scores) + 1) * level // 100)  # integers: no rounding
    if needed > len(scores):
        assert found == np.inf
    else:
        assert (scores <= found).sum() >= needed
        assert (scores < found).sum() < needed


def test_covers_at_least_what_is_promised():
    rng = np.random.default_rng(0)
    for n_scores in (9, 10, 99):
        draws = rng.random((4000, n_scores + 1))
        factors = [conformal_factor(np.sort(row[:-1]), 0.8) for row in draws]
        assert 0.78 < np.mean(draws[:, -1] <= factors) < 0.8 + 1 / (n_scores + 1) + 0.02


def test_levels_and_their_names():
    assert check_levels(0.68, "confidence") == (0.68,)
    assert check_levels([0.5, 0.9], "confidence") == (0.5, 0.9)
    assert check_levels((), "quantiles", empty=True) == ()
    names = [percent_name(level) for level in (0.05, 0.5, 0.57, 0.95, 0.6827, 0.997, 0.0013)]
    assert names == ["05", "50", "57", "95", "68_27", "99_7", "00_13"]
    for wrong in (True, "0.5", 0, 1, np.nan, (0.5, 0.5)):
        with pytest.raises(ValueError, match="^confidence is "):
            check_levels(wrong, "confidence")


# ---------------------------------------------------------------------- quantiles
numbers = st.lists(st.floats(-100, 100), min_size=1, max_size=12)
levels = st.lists(st.floats(0, 1), min_size=1, max_size=4)


@given(values=numbers, levels=levels)
def test_equal_weights_are_numpys_hazen(values, levels):
    found = weighted_quantiles([values], np.full((1, len(values)), 0.7), levels)[:, 0]
    assert_allclose(found, np.quantile(values, levels, method="hazen"), rtol=1e-9, atol=1e-9)


@given(data=st.data(), values=numbers, levels=levels)
def test_weights_are_the_naive_formula(data, values, levels):
    weights = data.draw(
        st.lists(
            st.one_of(st.just(0.0), st.floats(0.01, 10)),
            min_size=len(values), max_size=len(values),
        ).filter(any)
    )
    pairs = sorted((value, weight) for value, weight in zip(values, weights) if weight > 0)
    position, total = [], 0.0
    for _, weight in pairs:
        position.append(total + weight / 2)
        total += weight
    ordered = [value for value, _ in pairs]
    expected = [np.interp(level * total, position, ordered) for level in levels]
    found = weighted_quantiles([values], [weights], levels)[:, 0]
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(values))
    shuffled = weighted_quantiles([np.array(values)[order]], [np.array(weights)[order]], levels)
    assert_allclose(shuffled[:, 0], found, rtol=1e-6, atol=1e-6)


def test_rows_are_apart_and_nan_stays():
    values = np.array([[1.0, 2, 3], [9, np.nan, 9], [5, 5, 5]])
    weights = np.array([[1.0, 1, 1], [1, 1, 1], [np.nan, np.nan, np.nan]])
    found = weighted_quantiles(values, weights, [0.5, 1.0])
    assert found.shape == (2, 3)
    assert_allclose(found[:, 0], [2, 3])
    assert_array_equal(np.isnan(found), [[False, True, True]] * 2)


# ---------------------------------------------------------------------- classes
def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(1)
    truth = rng.beta(2, 3, 6000)
    codes = (rng.random(6000) < truth).astype(int)
    logits = 2.5 * np.log(np.stack([1 - truth, truth], axis=1))
    assert fit_temperature(logits, np.eye(2)[codes]) == pytest.approx(2.5, rel=0.08)


@pytest.mark.parametrize("prior", [0.0, 1.0, 30.0])
def test_temperature_is_the_best_of_a_grid(prior):
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (40, 4))
    target = np.eye(4)[(logits / 2 + rng.gumbel(size=(40, 4))).argmax(axis=1)]
    grid = np.geomspace(0.06, 18, 2000)
    losses = [
        -(target * log_softmax(logits / t, axis=1)).sum() + prior * np.log(t) ** 2 / 2
        for t in grid
    ]
    found = fit_temperature(logits, target, prior=prior)
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.01)


def test_columns_of_classes():
    found = class_columns(np.array([[0.2, 0.8], [np.nan, np.nan]]), ["a", "b"])
    assert list(found) == ["", "_probability", "_probability_a", "_probability_b"]
    assert_array_equal(found[""], [1, np.nan])
    assert_array_equal(found["_probability"], [0.8, np.nan])
