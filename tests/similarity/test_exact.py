"""Exact search against scikit-learn and a stable sort in float64, whatever the cells and ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import NearestNeighbors

from astroclip.similarity import cells, exact, nearest_rows
from astroclip.similarity.store import Store
from tests.similarity.clouds import (
    CLOUDS,
    as_unit,
    clustered,
    collinear,
    duplicated,
    naive_neighbors,
    scattered,
)


def build(vectors, *, dtype="float32", seed=0):
    kind = np.full(len(vectors), "spectrum")
    usable = np.ones(len(vectors), dtype=bool)
    return Store.build(vectors, kind, usable, dtype=dtype, rng=np.random.default_rng(seed))


@pytest.fixture
def small_cells(monkeypatch):
    """Cells of a few rows, blocks of a few queries."""
    for name, value in {"LEAST_ROWS": 50, "CELL_ROWS": 100, "LARGEST_CELL": 60, "SPLIT_ROWS": 20,
                        "SPLIT_CELL": 20}.items():
        monkeypatch.setattr(cells, name, value)
    for name, value in {"QUERY_BLOCK": 17, "BOUND_BLOCK": 5, "PRODUCTS": 600, "RANK_BLOCK": 64,
                        "MANY_CELLS": 3, "NEXT_CELLS": 2}.items():
        monkeypatch.setattr(exact, name, value)


@pytest.mark.parametrize("cloud", [scattered, clustered])
@pytest.mark.parametrize(("n_rows", "dim", "n_neighbors"), [(60, 4, 60), (2500, 32, 10)])
def test_neighbors_are_scikit_learns(cloud, n_rows, dim, n_neighbors):
    rng = np.random.default_rng(n_rows)
    vectors = as_unit(cloud(rng, n_rows + 40, dim))
    references, queries = vectors[40:], vectors[:40]
    model = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute")
    distance, expected = model.fit(references.astype(float)).kneighbors(queries.astype(float))
    rows, cosine = nearest_rows(queries, references, n_neighbors)
    assert_array_equal(rows, expected)
    assert_allclose(cosine, 1 - distance, atol=1e-12)


def assert_are_the_naive(store, queries, references, n_neighbors, *, exactly, allowed=None):
    pool = np.arange(len(references)) if allowed is None else np.flatnonzero(allowed)
    expected, cosine = naive_neighbors(queries, references[pool], n_neighbors)
    options = {} if allowed is None else {"allowed": allowed[store.rows]}
    positions, found = exact.nearest(store, queries, n_neighbors, **options)
    rows = store.rows[positions]
    assert_allclose(found, np.take_along_axis(cosine, expected, axis=1), rtol=0, atol=1e-15)
    if exactly:
        assert_array_equal(rows, pool[expected])
    else:  # sums in another order differ by a rounding, which matters where all are nearly equal
        place = np.searchsorted(pool, rows)
        gap = np.take_along_axis(cosine, place, 1) - np.take_along_axis(cosine, expected, 1)
        assert np.abs(gap).max() < 1e-15
        assert (place != expected).mean() < 0.05


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(("n_rows", "n_neighbors"), [(37, 37), (500, 5), (3000, 12)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("small_cells")
def test_cells_and_ties_are_a_stable_float64_sort(cloud, n_rows, n_neighbors, dtype):
    rng = np.random.default_rng(n_neighbors)
    references = as_unit(cloud(rng, n_rows, 16)).astype(dtype)
    queries = np.concatenate([references[:30], as_unit(rng.normal(size=(5, 16)))])
    queries = as_unit(queries)
    store = build(references.astype(np.float32), dtype=dtype)
    assert len(store.cells()) > 5 or n_rows < 100
    exactly = cloud is not collinear
    assert_are_the_naive(store, queries, references, n_neighbors, exactly=exactly)
    allowed = rng.random(n_rows) < 0.5
    if allowed.sum() >= n_neighbors:
        assert_are_the_naive(
            store, queries, references, n_neighbors, exactly=exactly, allowed=allowed
        )


@pytest.mark.parametrize("n_rows", [60, 1024 * 3, 1024 * 3 + 1, 8192 + 1])
@pytest.mark.parametrize("step", [1, 3, 128])
def test_one_vector_all_over_comes_in_reference_order(n_rows, step):
    references = np.repeat(-as_unit([[1, 2, 3, 4]]), n_rows, axis=0)
    references[::step] *= -1
    n_copies = min(20, len(references[::step]))
    rows, cosine = nearest_rows(as_unit([[1, 0, 0, 1], [4, 3, 2, 1]]), references, n_copies)
    assert_array_equal(rows, [np.arange(n_copies) * step] * 2)
    assert np.unique(cosine).size == 2


@given(sizes=st.tuples(st.integers(1, 700), st.integers(1, 40), st.integers(1, 30)))
def test_duplicates_anywhere_tie_in_reference_order(sizes):
    n_rows, n_distinct, n_neighbors = sizes
    rng = np.random.default_rng(sizes)
    references = as_unit(rng.normal(size=(n_distinct, 6)))[rng.integers(n_distinct, size=n_rows)]
    queries = as_unit(rng.normal(size=(3, 6)))
    n_neighbors = min(n_neighbors, n_rows)
    expected, _ = naive_neighbors(queries, references, n_neighbors)
    rows, _ = nearest_rows(queries, references, n_neighbors)
    assert_array_equal(rows, expected)


@pytest.mark.usefixtures("small_cells")
def test_duplicates_tie_in_reference_order_across_cells_and_shells():
    rng = np.random.default_rng(3)
    references = as_unit(duplicated(rng, 4000, 16))
    queries = as_unit(rng.normal(size=(40, 16)))
    assert_are_the_naive(build(references), queries, references, 30, exactly=True)


def test_threads_do_not_matter(monkeypatch):
    from astroclip.similarity import threads

    vectors = as_unit(clustered(np.random.default_rng(5), 3000, 16))
    expected = nearest_rows(vectors[:300], vectors, 7)
    monkeypatch.setattr(threads, "LEAST_PRODUCTS", 10)
    monkeypatch.setattr(threads, "n_threads", lambda: 3)
    found = nearest_rows(vectors[:300], vectors, 7)
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("size", [1e-6, 2e-7])
def test_lengths_that_are_nearly_one_do_not_decide(size):
    rng = np.random.default_rng(6)
    references = as_unit(rng.normal(size=(400, 8)))
    scale = (1 + size * rng.uniform(-1, 1, size=(400, 1))).astype(np.float32)
    queries = as_unit(rng.normal(size=(20, 8)))
    expected, _ = naive_neighbors(queries, references * scale, 5)
    rows, _ = nearest_rows(queries, references * scale, 5)
    assert_array_equal(rows, expected)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("similarity", [0.2, 0.9, 1 - 1e-5])
@pytest.mark.usefixtures("small_cells")
def test_radius_search_finds_all_and_only_the_similar(cloud, similarity):
    rng = np.random.default_rng(7)
    references = as_unit(cloud(rng, 900, 12))
    store = build(references)
    queries = references[:40]
    _, cosine = naive_neighbors(queries, references, 1)
    parts = list(exact.within(store, queries, similarity))
    number, position, found = (np.concatenate(each) for each in zip(*parts, strict=True))
    rows = store.rows[position]
    assert_allclose(found, cosine[number, rows], rtol=0, atol=1e-15)
    pairs = np.zeros(cosine.shape, dtype=bool)
    pairs[number, rows] = True
    doubtful = np.abs(cosine - similarity) < 1e-15
    assert ((pairs == (cosine >= similarity)) | doubtful).all()
    order = np.lexsort((rows, -found, number))
    assert_array_equal(order, np.arange(len(order)))


def test_memory_does_not_grow_with_the_store(monkeypatch):
    vectors = as_unit(scattered(np.random.default_rng(8), 40_000, 8))
    store, largest = build(vectors), []
    read = store.read

    def watch(positions):
        block = read(positions)
        largest.append(len(block))
        return block

    store.read = watch
    exact.nearest(store, vectors[:2000], 3)
    assert max(largest) <= 8192
