"""Batches shared among processes: together they are those of one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astroclip.training.sharding import rank_rows


@given(st.integers(0, 300), st.integers(1, 8), st.integers(1, 12), st.integers(0, 1000))
def test_processes_together_make_the_batches_of_one(n_rows, world_size, share, seed):
    order = np.random.default_rng(seed).permutation(n_rows)
    batch_size = share * world_size
    parts = [rank_rows(order, rank, world_size, batch_size) for rank in range(world_size)]
    n_batches = n_rows // batch_size
    assert {part.shape for part in parts} == {(n_batches, share)}
    for number in range(n_batches):
        together = np.concatenate([part[number] for part in parts])
        alone = order[number * batch_size : (number + 1) * batch_size]
        np.testing.assert_array_equal(together, alone)
    used = np.concatenate([part.ravel() for part in parts])
    assert len(np.unique(used)) == len(used)  # no pair is seen twice


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 2, 4), "rank is 2; expected at least 0 and at most 1"),
        ((0, 0, 4), "world_size is 0; expected at least 1"),
        ((0, 3, 256), "batch_size is 256; expected a multiple of the 3 .* such as 258"),
        ((0, 1, 0), "batch_size is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_shared_out_raises(arguments, message):
    with pytest.raises(ValueError, match=message):
        rank_rows(range(10), *arguments)
