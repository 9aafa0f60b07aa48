"""Exact search against scikit-learn and a stable sort in float64, whatever the cells and ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from astroclip.similarity import SimilarityIndex
from astroclip.similarity.cells import CellSizes
from astroclip.similarity.store import Shard, Store
from tests.similarity.clouds import (
    CLOUDS,
    as_unit,
    clustered,
    collinear,
    duplicated,
    make_table,
    naive_neighbors,
    scattered,
)

SMALL = CellSizes(least=50, mean=100, largest=60, split=20, split_sample=20)
NAMES = ("spectrum",)


def build(*parts, dtype="float32", sizes=SMALL, device=None):
    """Return a store of unit vectors, a shard for each part."""
    shards = [
        Shard.build(
            make_table(vectors), vectors, np.full(len(vectors), "spectrum"),
            np.ones(len(vectors), dtype=bool), dtype=dtype, random_state=0, sizes=sizes,
        )
        for vectors in parts
    ]
    return Store(shards, device=device)


def assert_are_the_naive(store, queries, references, n_neighbors, *, exactly=True, allowed=None):
    pool = np.arange(len(references)) if allowed is None else np.flatnonzero(allowed)
    expected, cosine = naive_neighbors(queries, references[pool], n_neighbors)
    rows, found = store.nearest(queries, NAMES, n_neighbors, allowed=allowed)
    assert_allclose(found, np.take_along_axis(cosine, expected, axis=1), rtol=0, atol=1e-15)
    if exactly:
        assert_array_equal(rows, pool[expected])
    else:  # sums in another order differ by a rounding, which matters where all are nearly equal
        column = np.searchsorted(pool, rows)
        gap = np.take_along_axis(cosine, column, 1) - np.take_along_axis(cosine, expected, 1)
        assert np.abs(gap).max() < 1e-15
        assert (column != expected).mean() < 0.05


@pytest.mark.parametrize("cloud", [scattered, clustered])
@pytest.mark.parametrize(("n_rows", "dim", "n_neighbors"), [(60, 4, 60), (2500, 32, 10)])
def test_neighbors_are_scikit_learns(cloud, n_rows, dim, n_neighbors):
    rng = np.random.default_rng(n_rows)
    vectors = as_unit(cloud(rng, n_rows + 40, dim))
    references, queries = vectors[40:], vectors[:40]
    model = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute")
    distance, expected = model.fit(references.astype(float)).kneighbors(queries.astype(float))
    index = SimilarityIndex(make_table(references))
    rows, cosine, _ = index.neighbors(make_table(queries), n_neighbors)
    assert_array_equal(rows, expected)
    assert_allclose(cosine, 1 - distance, atol=1e-12)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(("n_rows", "n_neighbors"), [(37, 37), (500, 5), (3000, 12)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_cells_shards_and_ties_are_a_stable_float64_sort(cloud, n_rows, n_neighbors, dtype):
    rng = np.random.default_rng(n_neighbors)
    references = as_unit(cloud(rng, n_rows, 16)).astype(dtype)
    queries = as_unit(np.concatenate([references[:30], as_unit(rng.normal(size=(5, 16)))]))
    wide = references.astype(np.float32)
    exactly = cloud is not collinear
    cuts = {"one": [], "three": [n_rows // 3, n_rows // 2]}
    for cut in cuts.values():
        store = build(*np.split(wide, cut), dtype=dtype)
        assert_are_the_naive(store, queries, references, n_neighbors, exactly=exactly)
    allowed = rng.random(n_rows) < 0.5
    if allowed.sum() >= n_neighbors:
        assert_are_the_naive(
            store, queries, references, n_neighbors, exactly=exactly, allowed=allowed
        )


@pytest.mark.parametrize("cloud", [scattered, clustered, duplicated])
def test_many_queries_and_cells_of_their_usual_size(cloud):
    rng = np.random.default_rng(2)
    references = as_unit(cloud(rng, 24_000, 8))
    queries = as_unit(rng.normal(size=(1100, 8)))
    queries[::2] = references[:550]
    store = build(references, sizes=None)
    rows, cosine = store.nearest(queries, NAMES, 10)
    some = rng.choice(1100, 60, replace=False)
    expected, true = naive_neighbors(queries[some], references, 10)
    assert_array_equal(rows[some], expected)
    assert_allclose(cosine[some], np.take_along_axis(true, expected, axis=1), rtol=0, atol=1e-15)


@pytest.mark.parametrize("n_rows", [60, 1024 * 3, 1024 * 3 + 1, 8192 + 1])
@pytest.mark.parametrize("step", [1, 3, 128])
def test_one_vector_all_over_comes_in_reference_order(n_rows, step):
    references = np.repeat(-as_unit([[1, 2, 3, 4]]), n_rows, axis=0)
    references[::step] *= -1
    n_copies = min(20, len(references[::step]))
    queries = as_unit([[1, 0, 0, 1], [4, 3, 2, 1]])
    rows, cosine = build(references, sizes=None).nearest(queries, NAMES, n_copies)
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
    rows, _ = build(references, sizes=None).nearest(queries, NAMES, n_neighbors)
    assert_array_equal(rows, expected)


def test_duplicates_tie_in_reference_order_across_cells_and_shells():
    rng = np.random.default_rng(3)
    references = as_unit(duplicated(rng, 4000, 16))
    queries = as_unit(rng.normal(size=(40, 16)))
    assert_are_the_naive(build(references), queries, references, 30)


def test_threads_do_not_matter():
    vectors = as_unit(clustered(np.random.default_rng(5), 30_000, 16))
    store = build(vectors, sizes=None)
    queries = vectors[:1000]  # 30 million products: enough for threads
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append(store.nearest(queries, NAMES, 7))
    assert_array_equal(found[1][0], found[0][0])
    assert_array_equal(found[1][1], found[0][1])


@pytest.mark.parametrize("size", [1e-6, 2e-7])
def test_lengths_that_are_nearly_one_do_not_decide(size):
    rng = np.random.default_rng(6)
    references = as_unit(rng.normal(size=(400, 8)))
    references *= (1 + size * rng.uniform(-1, 1, size=(400, 1))).astype(np.float32)
    queries = as_unit(rng.normal(size=(20, 8)))
    expected, _ = naive_neighbors(queries, references, 5)
    rows, _ = build(references, sizes=None).nearest(queries, NAMES, 5)
    assert_array_equal(rows, expected)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("similarity", [0.2, 0.9, 1 - 1e-5])
def test_radius_search_finds_all_and_only_the_similar(cloud, similarity):
    rng = np.random.default_rng(7)
    references = as_unit(cloud(rng, 900, 12))
    store = build(references[:500], references[500:])
    queries = references[:40]
    _, cosine = naive_neighbors(queries, references, 1)
    parts = list(store.within(queries, NAMES, similarity))
    number, rows, found = (np.concatenate(each) for each in zip(*parts, strict=True))
    assert_allclose(found, cosine[number, rows], rtol=0, atol=1e-15)
    pairs = np.zeros(cosine.shape, dtype=bool)
    pairs[number, rows] = True
    doubtful = np.abs(cosine - similarity) < 1e-15
    assert ((pairs == (cosine >= similarity)) | doubtful).all()
    order = np.lexsort((rows, -found, number))
    assert_array_equal(order, np.arange(len(order)))


def test_memory_does_not_grow_with_the_store():
    vectors = as_unit(scattered(np.random.default_rng(8), 40_000, 8))
    store, largest = build(vectors, sizes=None), []
    read = store.read

    def watch(positions):
        block = read(positions)
        largest.append(len(block))
        return block

    store.read = watch
    store.nearest(vectors[:2000], NAMES, 3)
    assert max(largest) <= 8192


# ---------------------------------------------------------------------- devices
@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_device_finds_the_same(cloud, dtype):
    from astroclip.similarity.devices import nearest_on_device

    rng = np.random.default_rng(0)
    vectors = as_unit(cloud(rng, 700, 12))
    store = build(vectors[:400], vectors[400:], dtype=dtype)
    cells = store._cells(list(store.sections(NAMES)))
    for allowed in (None, np.linspace(0, 1, 700) < 0.2):
        expected = store.nearest(vectors[:40], NAMES, 9, allowed=allowed)
        positions, cosine = nearest_on_device(
            store, vectors[:40], 9, cells, device="cpu", row_block=300,
            allowed=None if allowed is None else allowed[store.rows],
        )
        assert_array_equal(store.rows[positions], expected[0])
        assert_array_equal(cosine, expected[1])


def test_device_of_an_index_and_precision_put_back():
    import torch

    torch.set_float32_matmul_precision("high")
    try:
        table = make_table(as_unit(np.eye(5) + 0.1))
        found = SimilarityIndex(table, device="cpu").neighbors(table, 2)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    for one, other in zip(found, SimilarityIndex(table).neighbors(table, 2), strict=True):
        assert_array_equal(one, other)
