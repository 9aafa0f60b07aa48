"""Graphs against scikit-learn's, groups of near duplicates against a naive union of pairs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import kneighbors_graph

from astroclip.similarity import SimilarityIndex
from tests.similarity.clouds import CLOUDS, as_unit, make_table, mixed_table, random_table


def test_graph_is_scikit_learns():
    table = random_table(4200, dim=6)  # more than one block
    graph = SimilarityIndex(table[:4000]).append(table[4000:]).neighbor_graph(5)
    vectors = np.asarray(table["embedding"]).astype(float)
    expected = kneighbors_graph(vectors, 5, mode="distance", metric="cosine")
    assert graph.shape == (4200, 4200)
    graph.sort_indices()
    expected.sort_indices()
    assert_array_equal(graph.indices, expected.indices)
    assert_allclose(graph.data, 1 - expected.data, atol=1e-6)


def test_graph_of_modalities_conditions_and_failed_rows():
    failed = np.zeros(40, dtype=int)
    failed[3] = 1
    table = mixed_table(20, failed=failed, redshift=np.linspace(0, 1, 40))
    index = SimilarityIndex(table)
    modality = np.asarray(table["modality"])
    own = index.neighbor_graph(4).tocoo()
    assert (modality[own.row] == modality[own.col]).all()
    cross = index.neighbor_graph(4, modality="image", where="redshift > 0.2").tocoo()
    assert (modality[cross.col] == "image").all()
    assert (np.asarray(table["redshift"])[np.r_[cross.row, cross.col]] > 0.2).all()
    for graph in (own, cross):
        assert (graph.row != graph.col).all()
        assert 3 not in set(graph.row) | set(graph.col)
        assert set(np.bincount(graph.row)) <= {0, 4}
    with pytest.raises(ValueError, match="n_neighbors is 20 and .* compared with 1[89] others"):
        index.neighbor_graph(20)


def test_duplicates_are_no_neighbors_of_themselves():
    table = make_table(np.repeat(as_unit(np.eye(3)), 6, axis=0))
    graph = SimilarityIndex(table).neighbor_graph(4).tocoo()
    assert (graph.row != graph.col).all()
    assert_array_equal(np.bincount(graph.row), 4)
    assert (graph.row // 6 == graph.col // 6).all()


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("similarity", [0.99, 1 - 1e-6])
def test_groups_are_connected_components(cloud, similarity):
    vectors = as_unit(cloud(np.random.default_rng(0), 250, 6))
    found = SimilarityIndex(make_table(vectors)).near_duplicates(similarity=similarity)
    wide = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    cosine = wide @ wide.T
    if (np.abs(cosine - similarity) < 1e-12).any():
        pytest.skip("a pair on the limit")
    reached = cosine >= similarity
    for _ in range(8):  # paths of up to 256 steps
        reached = reached @ reached
    expected = sorted({tuple(np.flatnonzero(row)) for row in reached if row.sum() > 1})
    expected = [list(each) for each in expected]
    assert [found["row"][found["group"] == g].tolist() for g in range(len(expected))] == expected
    assert len(found) == sum(map(len, expected))


def test_groups_keep_to_modalities_and_conditions():
    vectors = as_unit(np.ones((8, 3)))
    table = make_table(
        vectors, modality=np.tile(["spectrum", "image"], 4), redshift=[0, 0, 0, 0, 1, 1, 1, 1]
    )
    index = SimilarityIndex(table)
    assert_array_equal(index.near_duplicates()["row"], [0, 2, 4, 6, 1, 3, 5, 7])
    assert len(np.unique(index.near_duplicates(modality="all")["group"])) == 1
    some = index.near_duplicates(where="redshift < 0.5")
    assert_array_equal(some["row"], [0, 2, 1, 3])
    assert "redshift" in some.colnames
    assert "embedding" not in some.colnames
    one = index.near_duplicates(where=np.arange(8) == 3)
    assert len(one) == 0
