"""Batches: every pair once an epoch, in an order that follows the seed."""

import numpy as np
import torch

from astroclip.training.data import PairBatches


def test_an_epoch_holds_every_pair_once_and_its_order_follows_the_seed(workspace):
    pairs = workspace.read("train-mix")
    batches = PairBatches(pairs, batch_size=16, seed=3, epoch=1)
    seen = torch.cat([batch["redshift"] for batch in batches]).numpy()
    np.testing.assert_array_equal(np.sort(seen), np.sort(pairs["redshift"]))
    again = torch.cat([batch["redshift"] for batch in batches]).numpy()
    np.testing.assert_array_equal(seen, again)
    other = PairBatches(pairs, batch_size=16, seed=3, epoch=2)
    assert not np.array_equal(seen, torch.cat([batch["redshift"] for batch in other]).numpy())


def test_unshuffled_batches_keep_order_and_the_rest(workspace):
    pairs = workspace.read("train-mix")
    batches = PairBatches(pairs, batch_size=20, shuffle=False)
    sizes = [len(batch["redshift"]) for batch in batches]
    assert sizes == [20, 20, 8]
    assert len(batches) == 3


def test_epochs_go_through_the_pairs_before_any_comes_again(workspace):
    pairs = workspace.read("train-mix")
    seen = []
    for epoch in range(3):
        batches = PairBatches(pairs, batch_size=16, seed=3, epoch=epoch, epoch_size=16)
        (batch,) = batches
        seen.append(batch["redshift"].numpy())
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(pairs["redshift"]))
    later = PairBatches(pairs, batch_size=16, seed=3, epoch=3, epoch_size=16)
    assert set(next(iter(later))["redshift"].tolist()) <= set(pairs["redshift"].tolist())
