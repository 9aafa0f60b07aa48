"""Weighted quantiles against numpy, and against a slow formula."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.estimation.quantiles import weighted_quantiles

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
    place, total = [], 0.0
    for _, weight in pairs:
        place.append(total + weight / 2)
        total += weight
    expected = [np.interp(level * total, place, [value for value, _ in pairs]) for level in levels]
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
