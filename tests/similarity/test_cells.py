"""Cells: every row in one, no row more similar to a query than its cell's bound."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from astroclip.similarity import cells
from tests.similarity.clouds import CLOUDS, as_unit, broad


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {"LEAST_ROWS": 50, "CELL_ROWS": 100, "LARGEST_CELL": 60, "SPLIT_ROWS": 20,
                        "SPLIT_CELL": 20}.items():
        monkeypatch.setattr(cells, name, value)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dim", [2, 3, 24])
def test_no_row_is_more_similar_than_the_bound_of_its_cell(cloud, dim):
    rng = np.random.default_rng(dim)
    vectors = as_unit(cloud(rng, 1500, dim))
    order, made = cells.make_cells(vectors, rng=rng)
    assert_array_equal(np.sort(order), np.arange(1500))
    assert_array_equal(made.start[1:], made.stop[:-1])
    assert (made.start[0], made.stop[-1]) == (0, 1500)
    queries = np.concatenate([vectors[:40], as_unit(rng.normal(size=(10, dim)))]).astype(float)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    bound, _ = cells.upper_bounds(queries, made)
    wide = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    cosine = queries @ wide[order].T
    for number in range(len(made)):
        inside = slice(made.start[number], made.stop[number])
        assert (np.diff(order[inside]) > 0).all()
        assert (cosine[:, inside].max(axis=1) <= bound[:, number]).all()


def test_bounds_tell_clusters_apart():
    rng = np.random.default_rng(1)
    vectors = as_unit(broad(rng, 3000, 64))
    _, made = cells.make_cells(vectors, rng=rng)
    bound, _ = cells.upper_bounds(vectors[:200].astype(float), made)
    rows = (bound > 0.75) @ (made.stop - made.start)
    assert rows.mean() < 0.3 * len(vectors)  # an eighth is the cluster itself


def test_given_centers_are_used():
    rng = np.random.default_rng(2)
    vectors = as_unit(broad(rng, 1000, 8))
    centers = as_unit(rng.normal(size=(3, 8)))
    _, made = cells.make_cells(vectors, rng=rng, centers=centers)
    assert len(np.unique(made.centers, axis=0)) == 3
    assert set(map(tuple, made.centers)) <= set(map(tuple, centers))


def test_few_rows_keep_their_order():
    order, made = cells.make_cells(as_unit(np.eye(40)), rng=np.random.default_rng(3))
    assert_array_equal(order, np.arange(40))
    assert len(made) == 1
    assert (cells.upper_bounds(np.eye(40), made)[0] >= 1).all()
