"""Approximate search: recall as measured by a naive search, filters, additions, FAISS's bytes."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.exceptions import MissingExtraError
from astroclip.similarity import SimilarityIndex, approximate
from astroclip.similarity.tuning import KnownNeighbors
from tests.similarity.clouds import as_unit, broad, make_table, naive_neighbors

pytest.importorskip("faiss")

METHODS = ("hnsw", "ivf", "ivfpq")


def cloud(n_rows=3000, dim=16, seed=0):
    return as_unit(broad(np.random.default_rng(seed), n_rows, dim))


@pytest.fixture(scope="module", params=METHODS)
def made(request):
    approximate.LEAST_ROWS["ivfpq"] = 1000
    vectors = cloud(3200)
    table = make_table(vectors[200:], redshift=np.linspace(0, 1, 3000))
    yield SimilarityIndex(table, method=request.param, recall=0.9), vectors[200:], vectors[:200]
    approximate.LEAST_ROWS["ivfpq"] = 10_000


def recall(rows, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, expected, strict=True)])


def test_recall_is_as_wanted_and_as_measured(made):
    index, references, queries = made
    rows, cosine, _ = index.neighbors(make_table(queries), 10)
    expected, true = naive_neighbors(queries, references, 10)
    assert index.recall_ > 0.88
    assert recall(rows, expected) == pytest.approx(index.recall_, abs=0.04)
    assert_allclose(cosine, np.take_along_axis(true, rows, axis=1), atol=1e-6)
    assert (np.diff(cosine, axis=1) <= 1e-7).all()
    assert f"recall {index.recall_:.3f}" in repr(index)


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_filtered_neighbors_fulfil_the_condition(made, share):
    index, references, queries = made
    allowed = np.linspace(0, 1, 3000) < share
    rows, _, _ = index.neighbors(make_table(queries), 10, where=f"redshift < {share}")
    expected, _ = naive_neighbors(queries, references[allowed], 10)
    assert allowed[rows].all()
    assert recall(rows, expected) > 0.95 if share < 0.25 else 0.85


def test_more_neighbors_than_lists_hold_are_found_exactly(made):
    index, references, queries = made
    rows, _, _ = index.neighbors(make_table(queries[:5]), 2900)
    assert all(len(set(row)) == 2900 for row in rows)


def test_rows_come_and_go(made, tmp_path):
    index, references, queries = made
    index.save(tmp_path / "index")
    again = SimilarityIndex.open(tmp_path / "index")
    before = again.neighbors(make_table(queries), 5)[0]
    assert_array_equal(before, index.neighbors(make_table(queries), 5)[0])
    assert again.recall_ == index.recall_
    again.append(make_table(queries, ids=[f"new-{row}" for row in range(200)], redshift=0.5))
    found = again.query_vectors(queries, 1)
    assert np.mean(found["neighbor_id"] == [f"new-{row}" for row in range(200)]) > 0.95
    again.remove([f"new-{row}" for row in range(200)])
    after = again.neighbors(make_table(queries), 5)[0]
    assert recall(after, before) > 0.8
    assert len(again) == 3000


def test_higher_recall_takes_more_effort():
    store_table = make_table(cloud(4000, seed=2))
    searches = []
    for wanted in (0.5, 0.99):
        index = SimilarityIndex(store_table, method="ivf", recall=wanted)
        searches.append(index._searcher.approximate["spectrum"])
    assert searches[0].effort < searches[1].effort
    assert searches[0].recall < searches[1].recall
    effort, reached = searches[1].effort, searches[1].recall
    assert index.set_recall(0.5) is index
    assert searches[1].effort < effort
    assert 0.4 < index.recall_ < reached
    with pytest.raises(ValueError, match="^recall is 2; expected a number between 0 and 1"):
        index.set_recall(2)


def test_number_of_lists_is_the_one_that_compares_least(monkeypatch):
    table = make_table(cloud(6000, seed=3))
    found = {}
    for factors in ((1,), (4,), (1, 4)):
        monkeypatch.setitem(approximate.LISTS, "ivf", factors)
        index = SimilarityIndex(table, method="ivf", recall=0.9)
        search = index._searcher.approximate["spectrum"]
        found[factors] = search.index.nlist, naive_cost(search, index, 0.9)
    assert (found[1,][0], found[4,][0]) == (64, 150)  # at least 40 rows a list
    cheapest = min(found[1,], found[4,], key=lambda each: each[1])
    assert found[1, 4] == cheapest


def naive_cost(search, index, recall, list_cost=50):
    """Return centers compared, and rows of as many lists as hold that part of the neighbours."""
    known = KnownNeighbors.sample(index._searcher.store, "spectrum", random_state=0)
    queries, positions = known.queries, known.positions
    centers = search.index.quantizer.reconstruct_n(0, search.index.nlist).astype(float)
    store, ranks = index._searcher.store, []
    for query, near in zip(queries, positions[:, 1:], strict=True):
        distance = ((centers - search.coded(query[None])) ** 2).sum(axis=1)
        order = np.argsort(distance)
        for vector in search.coded(store.read(near)):
            home = ((centers - vector) ** 2).sum(axis=1).argmin()
            ranks.append(np.flatnonzero(order == home)[0])
    n_probe = np.quantile(ranks, recall, method="higher") + 1
    cost = len(centers) + n_probe * (len(index) / len(centers) + list_cost)
    assert search._cost(store, known, len(index), recall) == pytest.approx(cost, rel=0.02)
    return cost


@pytest.mark.parametrize("dim", [16, 12])
def test_codes_order_vectors_as_cosines_do(dim):
    vectors = cloud(2000, dim=dim)
    search = SimilarityIndex(make_table(vectors), method="ivf")._searcher.approximate["spectrum"]
    codes = search.coded(vectors[:300])
    assert_array_equal(codes, np.rint(codes))
    assert codes.min() >= 0
    assert codes.max() <= 255
    distance = ((codes[:1] - codes) ** 2).sum(axis=1)
    true = vectors[:300].astype(float) @ vectors[0]
    assert np.corrcoef(distance, true)[0, 1] < -0.99


@pytest.mark.parametrize(
    ("n_rows", "method"),
    [(19_999, "exact"), (20_000, "hnsw"), (100_000, "ivf"), (20_000_000, "ivfpq")],
)
def test_size_chooses(n_rows, method):
    assert approximate.choose_method(n_rows) == method
    without = "exact" if method == "exact" else "cells"
    assert approximate.choose_method(n_rows, with_faiss=False) == without


def test_few_rows_are_searched_exactly():
    table = make_table(cloud(300))
    for method in (*METHODS, "cells", "auto"):
        assert SimilarityIndex(table, method=method).recall_ == 1.0


def test_missing_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss is needed .*astroclip\[ann\]"):
        SimilarityIndex(make_table(cloud(2000)), method="ivf")
