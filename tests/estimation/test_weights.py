"""Weights of neighbours against plain formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.estimation.weights import effective_number, euclidean_distance, neighbor_weights
from tests.estimation.surveys import as_unit

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
