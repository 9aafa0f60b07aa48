"""Queries: means of an id's rows, rows by id; results: columns of the reference, none twice."""

import numpy as np
from astropy import units as u
from astropy.table import QTable
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.similarity.queries import IdLookup, Queries, neighbor_table

NAMES = st.text(max_size=5).map(lambda text: text.rstrip("\0"))


def test_joined_queries_keep_the_order_of_ids():
    ids = np.array(["c", "a", "c", "b", "a"])
    vectors = np.eye(5, dtype=np.float32)
    valid = np.array([True, True, True, False, False])
    joined = Queries(ids, np.full(5, "image"), vectors, valid, np.arange(5.0), None).joined()
    assert joined.ids.tolist() == ["c", "a", "b"]
    assert joined.valid.tolist() == [True, True, False]
    assert_allclose(joined.vectors[0], [0.5**0.5, 0, 0.5**0.5, 0, 0], rtol=1e-6)
    assert_array_equal(joined.vectors[1], [0, 1, 0, 0, 0])
    assert joined.ra.tolist() == [0, 1, 3]
    assert joined.dec is None
    assert set(joined.modality) == {"all"}


def test_opposite_vectors_have_no_mean():
    vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    modality = np.array(["image", "spectrum"])
    joined = Queries(np.array(["a", "a"]), modality, vectors, np.ones(2, bool)).joined()
    assert joined.valid.tolist() == [False]


@given(ids=st.lists(NAMES, min_size=1, max_size=30), wanted=st.lists(NAMES, max_size=10))
def test_rows_by_id_are_a_dictionarys(ids, wanted):
    wanted = wanted + ids[:3]
    number, rows = IdLookup(np.array(ids, dtype=str)).rows(np.array(wanted, dtype=str))
    expected = [
        (place, row) for place, name in enumerate(wanted) for row, own in enumerate(ids)
        if own == name
    ]
    assert list(zip(number.tolist(), rows.tolist(), strict=True)) == expected


def test_separation_replaces_a_column_of_its_name():
    reference = QTable({"id": ["a", "b"], "ra": [10, 11] * u.deg, "dec": [0, np.pi / 3] * u.rad,
                        "separation": [7, 8], "rank": [5, 6]})
    queries = Queries(np.array(["q"]), np.array(["image"]), np.ones((1, 2), np.float32),
                      np.array([True]), np.array([10.0]), np.array([60.0]))
    zero = np.zeros(2, dtype=int)
    found = (zero, np.array([1, 0]), np.array([0.9, 0.8]), np.array([1, 2]))
    table = neighbor_table(queries, reference, *found)
    assert table.colnames == ["query_id", "rank", "neighbor_id", "similarity", "separation", "ra",
                              "dec"]
    assert table["rank"].tolist() == [1, 2]
    separation = table["separation"].to_value(u.deg)
    assert_allclose(separation[1], 60)
    assert_allclose(separation[0], 0.5, rtol=1e-3)
    queries.ra = None
    assert neighbor_table(queries, reference, *found)["separation"].tolist() == [8, 7]
