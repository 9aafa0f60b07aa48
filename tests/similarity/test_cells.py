"""Cells: every row in one, no row more similar to a query than its cell's bound."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from astroclip.similarity.cells import CellSizes, make_cells, upper_bounds
from tests.similarity.clouds import CLOUDS, as_unit, broad

SMALL = CellSizes(least=50, mean=100, largest=60, split=20, split_sample=20)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dim", [2, 3, 24])
def test_no_row_is_more_similar_than_the_bound_of_its_cell(cloud, dim):
    rng = np.random.default_rng(dim)
    vectors = as_unit(cloud(rng, 1500, dim))
    order, made = make_cells(vectors, rng=rng, sizes=SMALL)
    assert_array_equal(np.sort(order), np.arange(1500))
    assert_array_equal(made.start[1:], made.stop[:-1])
    assert (made.start[0], made.stop[-1]) == (0, 1500)
    queries = np.concatenate([vectors[:40], as_unit(rng.normal(size=(10, dim)))]).astype(float)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    bound, _ = upper_bounds(queries, made)
    wide = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    cosine = queries @ wide[order].T
    for number in range(len(made)):
        inside = slice(made.start[number], made.stop[number])
        assert (np.diff(order[inside]) > 0).all()
        assert (cosine[:, inside].max(axis=1) <= bound[:, number]).all()


def test_bounds_tell_clusters_apart():
    rng = np.random.default_rng(1)
    vectors = as_unit(broad(rng, 3000, 64))
    _, made = make_cells(vectors, rng=rng, sizes=SMALL)
    bound, _ = upper_bounds(vectors[:200].astype(float), made)
    rows = (bound > 0.75) @ (made.stop - made.start)
    assert rows.mean() < 0.3 * len(vectors)  # an eighth is the cluster itself


def test_few_rows_keep_their_order():
    order, made = make_cells(as_unit(np.eye(40)), rng=np.random.default_rng(3))
    assert_array_equal(order, np.arange(40))
    assert len(made) == 1
    assert (upper_bounds(np.eye(40), made)[0] >= 1).all()
