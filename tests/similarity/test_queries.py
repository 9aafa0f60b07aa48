"""Queries: means of an id's rows, coordinates in degrees."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.similarity.queries import Queries, degrees, directed


def test_joined_queries_keep_the_order_of_ids():
    ids = np.array(["c", "a", "c", "b", "a"])
    vectors = np.eye(5, dtype=np.float32)
    valid = np.array([True, True, True, False, False])
    ra = np.arange(5.0)
    joined = Queries(ids, np.full(5, "image"), vectors, valid, ra, None).joined()
    assert joined.ids.tolist() == ["c", "a", "b"]
    assert joined.valid.tolist() == [True, True, False]
    assert_allclose(joined.vectors[0], [0.5**0.5, 0, 0.5**0.5, 0, 0], rtol=1e-6)
    assert_array_equal(joined.vectors[1], [0, 1, 0, 0, 0])
    assert joined.ra.tolist() == [0, 1, 3]
    assert joined.dec is None
    assert set(joined.kinds) == {"all"}


def test_opposite_vectors_have_no_mean():
    vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    kinds = np.array(["image", "spectrum"])
    joined = Queries(np.array(["a", "a"]), kinds, vectors, np.ones(2, bool)).joined()
    assert joined.valid.tolist() == [False]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1.0, 2] * u.deg, [1, 2]),
        ([np.pi, 0] * u.rad, [180, 0]),
        ([1.0, 2], [1, 2]),
        (MaskedColumn([1.0, 2], mask=[0, 1]), [1, np.nan]),
    ],
)
def test_degrees(column, expected):
    assert_allclose(degrees(QTable({"ra": column}), "ra"), expected)
    assert degrees(QTable({"ra": column}), "dec") is None


def test_rows_without_a_direction_are_not_centred():
    vectors, known = directed(np.zeros((2, 3), np.float32), np.array(["image", "image"]))
    assert not known.any()
    assert_array_equal(vectors, 0)
