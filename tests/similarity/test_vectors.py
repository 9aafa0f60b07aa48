"""Unit vectors, the bound of a product's rounding errors, and centered modalities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.similarity import vectors
from tests.similarity.clouds import as_unit


def test_rows_without_a_direction_are_told():
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1, 0], [1e-15, 0]], np.float32)
    unit, has_direction = vectors.unit_rows(rows)
    assert_array_equal(has_direction, [True, False, False, False, True, True])
    assert_allclose(unit[[0, 4]], [[0.6, 0.8], [1, 0]], rtol=1e-7)
    assert_array_equal(unit[[1, 2, 3]], 0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_of_unit_length_keep_their_bits(dtype):
    rows = as_unit(np.random.default_rng(0).normal(size=(1000, 16))).astype(dtype)
    rows = rows.astype(np.float32)
    assert_array_equal(vectors.unit_rows(rows.copy(), dtype=dtype)[0], rows)


@given(seed=st.integers(0, 1000), dim=st.integers(1, 300))
def test_products_stay_within_the_margin(seed, dim):
    rng = np.random.default_rng(seed)
    first, second = (as_unit(rng.normal(size=(30, dim)) ** 3 + 1e-3) for _ in range(2))
    error = np.abs(first @ second.T - vectors.cosines(first.astype(float), second)).max()
    assert error <= vectors.product_margin(dim, vectors.length_error(first))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cosines_are_numpys_and_equal_for_equal_rows(dtype):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50, 7)).astype(dtype)
    rows[[4, 17, 49]] = rows[2]
    queries = rng.normal(size=(50, 7))
    found = vectors.cosines(queries, rows)
    wide = rows.astype(float)
    length = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
    assert_allclose(found, queries @ wide.T / length, rtol=1e-14, atol=1e-15)
    assert (found[:, [4, 17, 49]] == found[:, [2]]).all()
    assert_array_equal(vectors.paired_cosines(queries, rows), found.diagonal())


# ---------------------------------------------------------------------- modalities
def test_means_are_taken_away():
    rng = np.random.default_rng(0)
    unit = as_unit(rng.normal(size=(60, 5)) + 2)
    modality = np.repeat(["spectrum", "image"], 30)
    centers = vectors.ModalityCenters.fit(unit, modality)
    found, has_direction = centers.centered(unit, modality)
    assert has_direction.all()
    for name in ("spectrum", "image"):
        wide = unit[modality == name].astype(float)
        wide -= wide.mean(axis=0)
        expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        assert_allclose(found[modality == name], expected, atol=1e-6)


def test_a_vector_at_the_center_has_no_direction_left():
    centers = vectors.ModalityCenters({"image": [0.6, 0.8]})
    unit = np.array([[0.6, 0.8], [1, 0]], dtype=np.float32)
    _, has_direction = centers.centered(unit, np.array(["image", "image"]))
    assert has_direction.tolist() == [False, True]


def test_unknown_modality_is_refused():
    centers = vectors.ModalityCenters({"image": [1.0, 0]})
    with pytest.raises(ValueError, match="^modality 'spectrum' of the query was not in the ref"):
        centers.centered(np.ones((1, 2), np.float32), np.array(["spectrum"]))
