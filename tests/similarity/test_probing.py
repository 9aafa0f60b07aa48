"""Approximate search in few cells: recall as measured by a naive search, filters, ties, files."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.similarity import SimilarityIndex
from astroclip.similarity.probing import CellSearch
from astroclip.similarity.store import Store
from tests.similarity.clouds import as_unit, broad, make_table, naive_neighbors

N_ROWS = 24_000


@pytest.fixture(scope="module")
def made():
    vectors = as_unit(broad(np.random.default_rng(1), N_ROWS + 300, 24))
    table = make_table(vectors[300:], redshift=np.linspace(0, 1, N_ROWS))
    index = SimilarityIndex(table, method="cells", recall=0.9)
    return index, vectors[300:], vectors[:300]


def recall(rows, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, expected, strict=True)])


def test_recall_is_as_wanted_and_as_measured(made):
    index, references, queries = made
    search = index._searcher.approximate["spectrum"]
    assert isinstance(search, CellSearch)
    assert search.effort < len(index._searcher.store.cells(["spectrum"])) / 2
    rows, cosine, _ = index.neighbors(make_table(queries), 10)
    expected, true = naive_neighbors(queries, references, 10)
    assert index.recall_ > 0.88
    assert recall(rows, expected) == pytest.approx(index.recall_, abs=0.04)
    assert_allclose(cosine, np.take_along_axis(true, rows, axis=1), atol=1e-6)
    assert (np.diff(cosine, axis=1) <= 0).all()


def test_all_cells_give_the_exact_neighbors(made):
    index, references, queries = made
    store = index._searcher.store
    effort = len(store.cells(["spectrum"]))
    search = CellSearch("spectrum", effort=effort)
    positions, cosine = search.search(store, None, queries, 7)
    expected, true = naive_neighbors(queries, references, 7)
    assert_array_equal(store.rows[positions], expected)
    assert_allclose(cosine, np.take_along_axis(true, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_filtered_neighbors_fulfil_the_condition(made, share):
    index, references, queries = made
    allowed = np.linspace(0, 1, N_ROWS) < share
    rows, _, _ = index.neighbors(make_table(queries), 10, where=f"redshift < {share}")
    expected, _ = naive_neighbors(queries, references[allowed], 10)
    assert allowed[rows].all()
    assert recall(rows, np.flatnonzero(allowed)[expected]) > 0.88


def test_more_neighbors_than_the_nearest_cells_hold_are_found(made):
    index, _, queries = made
    rows, cosine, _ = index.neighbors(make_table(queries[:4]), 9000)
    assert all(len(set(row)) == 9000 for row in rows)
    assert (np.diff(cosine, axis=1) <= 0).all()


def test_rows_come_and_go(made, tmp_path):
    index, _, queries = made
    index.save(tmp_path / "index")
    again = SimilarityIndex.open(tmp_path / "index")
    before = again.neighbors(make_table(queries), 5)[0]
    assert_array_equal(before, index.neighbors(make_table(queries), 5)[0])
    assert (again.recall_, again.method) == (index.recall_, "cells")
    names = [f"new-{row}" for row in range(300)]
    again.append(make_table(queries, ids=names, redshift=0.5))
    found = again.query_vectors(queries, 1)
    assert np.mean(np.asarray(found["neighbor_id"]) == names) > 0.95
    again.remove(names)
    assert recall(again.neighbors(make_table(queries), 5)[0], before) > 0.8
    assert len(again) == N_ROWS


def test_size_chooses_cells_where_faiss_is_missing(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    _, references, queries = made
    index = SimilarityIndex(make_table(references), method="auto", recall=0.9)
    assert isinstance(index._searcher.approximate["spectrum"], CellSearch)
    assert len(index.query_vectors(queries[:2], 3)) == 6


def test_set_recall_changes_the_effort(made):
    index, _, _ = made
    search = index._searcher.approximate["spectrum"]
    effort = search.effort
    index.set_recall(0.999)
    assert search.effort > effort
    index.set_recall(0.9)
    assert search.effort == effort


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4),
    st.sampled_from(["copies", "few kinds", "line"]),
)
def test_ties_and_copies_settle_as_in_the_exact_search(seed, n_neighbors, effort, shape):
    rng = np.random.default_rng(seed)
    base = as_unit(broad(rng, 40, 8))
    if shape == "copies":  # one vector, many times
        vectors = base[np.zeros(20_500, dtype=int)]
    elif shape == "few kinds":
        vectors = base[rng.integers(0, 40, 20_500)]
    else:  # nearly collinear
        vectors = as_unit(base[0] + 1e-4 * rng.normal(size=(20_500, 1)) * base[1])
    vectors = vectors.astype(np.float32)
    store = Store.build(
        vectors, np.full(20_500, "all"), np.ones(20_500, bool), rng=np.random.default_rng(0)
    )
    queries = vectors[rng.integers(0, 20_500, 5)]
    search = CellSearch("all", effort=effort)
    positions, cosine = search.search(store, None, queries, n_neighbors)
    assert all(len(set(row)) == n_neighbors for row in positions.tolist())
    true = np.sort(queries.astype(float) @ vectors.astype(float).T, axis=1)[:, ::-1]
    assert_allclose(cosine[:, 0], true[:, 0], atol=1e-6)
    if shape == "copies":
        assert_allclose(cosine, true[:, :n_neighbors], atol=1e-6)
