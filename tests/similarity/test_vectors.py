"""Unit vectors, half precision by its bits, and the bound of a product's rounding errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.similarity import vectors
from tests.similarity.clouds import as_unit


def test_every_half_precision_number_is_converted():
    numbers = np.arange(65536, dtype=np.uint16).view(np.float16)
    numbers = numbers[np.isfinite(numbers)].reshape(-1, 8)
    converted = vectors.as_float32(numbers)
    assert converted.dtype == np.float32
    assert_array_equal(converted, numbers.astype(np.float32))
    assert_array_equal(np.signbit(converted), np.signbit(numbers))
    single = converted.copy()
    assert vectors.as_float32(single) is single


def test_rows_without_a_direction_are_told():
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1, 0], [1e-15, 0]], np.float32)
    unit, directed = vectors.unit_rows(rows)
    assert_array_equal(directed, [True, False, False, False, True, True])
    assert_allclose(unit[[0, 4]], [[0.6, 0.8], [1, 0]], rtol=1e-7)
    assert_array_equal(unit[[1, 2, 3]], 0)
    assert_array_equal(rows[0], [3, 4])
    assert vectors.unit_rows(rows, copy=False)[0] is rows


def test_rows_of_unit_length_keep_their_bits():
    rows = as_unit(np.random.default_rng(0).normal(size=(1000, 16)))
    assert_array_equal(vectors.unit_rows(rows)[0], rows)


@given(seed=st.integers(0, 1000), dim=st.integers(1, 300))
def test_products_stay_within_the_margin(seed, dim):
    rng = np.random.default_rng(seed)
    first, second = (as_unit(rng.normal(size=(30, dim)) ** 3 + 1e-3) for _ in range(2))
    error = np.abs(first @ second.T - vectors.cosines(first.astype(float), second)).max()
    length = max(np.abs(np.linalg.norm(each.astype(float), axis=1) - 1).max() for each in (first,))
    assert error <= vectors.product_margin(dim, length)


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
