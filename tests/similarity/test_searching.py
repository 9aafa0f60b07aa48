"""One search for all methods: modalities that are searched apart are one in the result."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from astroclip.similarity import SimilarityIndex
from tests.similarity.clouds import make_table, mixed_table, naive_neighbors


def test_graph_and_exact_parts_are_merged():
    pytest.importorskip("faiss")
    spectra = mixed_table(1200, seed=1)[:1200]
    images = mixed_table(300, seed=2)[300:]
    vectors = np.concatenate([np.asarray(spectra["embedding"]), np.asarray(images["embedding"])])
    both = make_table(vectors, modality=np.repeat(["spectrum", "image"], [1200, 300]))
    index = SimilarityIndex(both, method="ivf", recall=0.999)
    assert list(index._searcher.approximate) == ["spectrum"]
    rows, _, _ = index.neighbors(both[:50], 6, modality="all")
    expected, _ = naive_neighbors(vectors[:50], vectors, 6)
    assert np.mean(rows == expected) > 0.95


@pytest.mark.parametrize("modality", [None, "spectrum", "image", "all"])
def test_names_and_counts_of_modalities(modality):
    table = mixed_table(10)
    searcher = SimilarityIndex(table)._searcher
    names = searcher.names(modality, "spectrum")
    expected = {None: {"spectrum"}, "all": {"spectrum", "image"}}.get(modality, {modality})
    assert set(names) == expected
    allowed = np.arange(20) % 4 == 0
    kinds = np.asarray(table["modality"])
    assert searcher.count(names) == np.isin(kinds, list(names)).sum()
    assert searcher.count(names, allowed) == (np.isin(kinds, list(names)) & allowed).sum()


def test_modality_without_rows_has_none():
    searcher = SimilarityIndex(mixed_table(10)[:10])._searcher
    assert searcher.names("image", "spectrum") == ()
    assert searcher.names(None, "image") == ("spectrum",)
    assert_array_equal(searcher.place, np.arange(10))
