"""Approximate search: recall as measured by a naive search, filters, shards, missing FAISS."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.exceptions import MissingExtraError
from astroclip.similarity import SimilarityIndex
from tests.similarity.clouds import as_unit, broad, make_table, mixed_table, naive_neighbors

pytest.importorskip("faiss")


def cloud(n_rows=3000, dim=16, seed=0):
    return as_unit(broad(np.random.default_rng(seed), n_rows, dim))


@pytest.fixture(scope="module", params=["one shard", "two shards"])
def made(request):
    vectors = cloud(5200)
    table = make_table(vectors[200:], redshift=np.linspace(0, 1, 5000))
    cut = 5000 if request.param == "one shard" else 3000
    index = SimilarityIndex(table[:cut], method="approximate", recall=0.9)
    if cut < 5000:
        index.append(table[cut:])
    return index, vectors[200:], vectors[:200]


def recall(rows, expected):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows, expected, strict=True)])


def test_recall_is_as_wanted_and_as_measured(made):
    index, references, queries = made
    rows, cosine, _ = index.neighbors(make_table(queries), 10)
    expected, true = naive_neighbors(queries, references, 10)
    assert 0.88 < index.recall_ < 0.97
    assert recall(rows, expected) == pytest.approx(index.recall_, abs=0.04)
    assert_allclose(cosine, np.take_along_axis(true, rows, axis=1), rtol=0, atol=1e-15)
    assert (np.diff(cosine, axis=1) <= 0).all()
    assert f"recall {index.recall_:.3f}" in repr(index)


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_filtered_neighbors_fulfill_the_condition(made, share):
    index, references, queries = made
    allowed = np.linspace(0, 1, 5000) < share
    rows, _, _ = index.neighbors(make_table(queries), 10, where=f"redshift < {share}")
    expected, _ = naive_neighbors(queries, references[allowed], 10)
    assert allowed[rows].all()
    assert recall(rows, np.flatnonzero(allowed)[expected]) > (0.99 if share < 0.25 else 0.88)


def test_more_neighbors_than_lists_hold_are_found(made):
    index, references, queries = made
    rows, cosine, _ = index.neighbors(make_table(queries[:5]), 4900)
    assert all(len(set(row)) == 4900 for row in rows)
    assert (np.diff(cosine, axis=1) <= 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saved_lists_find_the_same_and_new_rows(dtype, tmp_path):
    vectors = cloud(2200, seed=1)
    references, queries = vectors[200:], vectors[:200]
    index = SimilarityIndex(make_table(references), method="approximate", dtype=dtype)
    index.save(tmp_path / "index")
    again = SimilarityIndex.open(tmp_path / "index")
    assert (again.method, again.recall_) == ("approximate", index.recall_)
    before = again.neighbors(make_table(queries), 5)
    for one, other in zip(before, index.neighbors(make_table(queries), 5), strict=True):
        assert_array_equal(one, other)
    names = [f"new-{row}" for row in range(200)]
    again.append(make_table(queries, ids=names))
    assert np.mean(again.query_vectors(queries, 1)["neighbor_id"] == names) == 1.0
    again.remove(names)
    assert_array_equal(again.neighbors(make_table(queries), 5)[0], before[0])
    again.remove([f"row-{row}" for row in range(900)])
    expected, _ = naive_neighbors(queries, references[900:].astype(dtype), 5)
    assert recall(again.neighbors(make_table(queries), 5)[0], expected) > 0.9


def test_higher_recall_finds_more_and_is_kept(tmp_path):
    table = make_table(cloud(4000, seed=2))
    index = SimilarityIndex(table, method="approximate", recall=0.99)
    high = index.recall_
    index.save(tmp_path / "index")
    vectors = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").glob("*/*")}
    assert index.set_recall(0.5) is index
    assert 0.4 < index.recall_ < high
    index.save(tmp_path / "index")
    assert SimilarityIndex.open(tmp_path / "index").recall_ == index.recall_
    assert {path: path.stat().st_mtime_ns for path in vectors} == vectors  # nothing is rewritten
    with pytest.raises(ValueError, match="^recall is 2; expected a number between 0 and 1"):
        index.set_recall(2)


def test_approximate_and_exact_parts_are_one_result():
    spectra = mixed_table(1200, seed=1)[:1200]
    images = mixed_table(300, seed=2)[300:]
    vectors = np.concatenate([np.asarray(spectra["embedding"]), np.asarray(images["embedding"])])
    both = make_table(vectors, modality=np.repeat(["spectrum", "image"], [1200, 300]))
    index = SimilarityIndex(both, method="approximate", recall=0.999)
    rows, _, _ = index.neighbors(both[:50], 6, modality="all")
    expected, _ = naive_neighbors(vectors[:50], vectors, 6)
    assert np.mean(rows == expected) > 0.95


def test_few_rows_are_searched_exactly():
    table = make_table(cloud(300))
    for method in ("approximate", "auto"):
        assert SimilarityIndex(table, method=method).recall_ == 1.0


def test_size_chooses():
    vectors = as_unit(np.random.default_rng(3).normal(size=(50_000, 4)))
    assert SimilarityIndex(make_table(vectors[:-1]), method="auto").recall_ == 1.0
    assert SimilarityIndex(make_table(vectors), method="auto", recall=0.6).recall_ < 1.0


def test_missing_faiss_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss is needed .*astroclip\[ann\]"):
        SimilarityIndex(make_table(cloud(2000)), method="approximate")
    vectors = as_unit(np.random.default_rng(3).normal(size=(50_000, 2)))
    assert SimilarityIndex(make_table(vectors), method="auto").recall_ == 1.0
