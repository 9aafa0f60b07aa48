"""Rows that come and go: an index that was changed is one made of the changed table."""

import numpy as np
import pytest
from astropy.table import QTable, vstack
from numpy.testing import assert_array_equal

from astroclip.exceptions import ModelMismatchError
from astroclip.similarity import SimilarityIndex
from tests.similarity.clouds import mixed_table, random_table


def assert_alike(index, table, queries):
    fresh = SimilarityIndex(table, dtype=index.dtype)
    assert len(index) == len(table)
    for found, expected in zip(
        index.neighbors(queries, 4, modality="all"), fresh.neighbors(queries, 4, modality="all"),
        strict=True,
    ):
        assert_array_equal(found, expected)
    assert index.table["id"].tolist() == table["id"].tolist()
    assert index.table.colnames == table.colnames
    assert_array_equal(index.table["embedding"].mask, table["embedding"].mask)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_append_merge_and_remove(dtype):
    failed = np.zeros(600, dtype=int)
    failed[[5, 305]] = 1
    first, more = mixed_table(300, failed=failed), mixed_table(40, seed=1)
    more["id"] = [f"new-{row % 40}" for row in range(80)]
    queries = mixed_table(10, seed=2)
    both = vstack([first, more], metadata_conflicts="silent")
    index = SimilarityIndex(first, dtype=dtype)
    assert index.append(more) is index
    assert_alike(index, both, queries)
    merged = SimilarityIndex(first, dtype=dtype).merge(SimilarityIndex(more, dtype=dtype))
    assert_alike(merged, both, queries)
    assert index.remove(["new-3", "galaxy-7"]) is index
    kept = both[~np.isin(both["id"], ["new-3", "galaxy-7"])]
    assert_alike(index, kept, queries)
    assert index.meta == first.meta
    index.remove([f"new-{row}" for row in range(40) if row != 3]).remove("galaxy-0")
    assert_alike(index, kept[1:-78][np.asarray(kept["id"][1:-78]) != "galaxy-0"], queries)


def test_columns_of_one_side_are_masked_on_the_other():
    first = random_table(5, redshift=np.arange(5.0))
    second = random_table(3, seed=1, ids=["x", "y", "z"], extra_columns={"mass": [1.0, 2, 3]})
    index = SimilarityIndex(first).append(second)
    table = index.table
    assert table["redshift"].mask.tolist() == [False] * 5 + [True] * 3
    assert table["mass"].mask.tolist() == [True] * 5 + [False] * 3
    found = index.query_vectors(np.asarray(second["embedding"]), 1, where="mass > 0")
    assert found["neighbor_id"].tolist() == ["x", "y", "z"]


def test_other_models_lengths_and_things_are_refused():
    index = SimilarityIndex(random_table(5))
    foreign = random_table(5)
    foreign.meta["WSHA"] = "cd" * 32
    with pytest.raises(ModelMismatchError, match="^table and reference hold embeddings"):
        index.append(foreign)
    with pytest.raises(ModelMismatchError, match="^other and reference hold embeddings"):
        index.merge(SimilarityIndex(foreign))
    with pytest.raises(ValueError, match=r"^table\['embedding'\] has shape \(5, 3\).*\(N, 8\)"):
        index.append(random_table(5, dim=3))
    with pytest.raises(TypeError, match="^other is of type QTable; expected a SimilarityIndex"):
        index.merge(QTable())
    with pytest.raises(KeyError, match="which is no id of the reference"):
        index.remove(["row-1", "none"])
    with pytest.raises(ValueError, match="^ids names all 5 rows"):
        index.remove([f"row-{row}" for row in range(5)])
    assert len(index) == 5


def test_table_is_as_given():
    table = mixed_table(20, redshift=np.arange(40.0))
    index = SimilarityIndex(table)
    again = index.table
    assert again is index.table
    assert again.colnames == table.colnames
    for name in table.colnames:
        assert_array_equal(np.asarray(again[name]), np.asarray(table[name]))
    assert again.meta == table.meta
    assert (len(index), index.dim, index.recall_) == (40, 8, 1.0)
