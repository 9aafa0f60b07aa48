"""Data sets are simulated once; every pair comes once an epoch, in an order of the seed."""

import numpy as np
import torch

from astroclip.simulation.basis import save_basis
from astroclip.training.data import DATA_SETS, PairBatches, Workspace
from tests.training.conftest import make_recipe


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


def test_a_workspace_simulates_what_is_missing(basis, tmp_path):
    workspace = Workspace(tmp_path, make_recipe(data={"n_validation": 3, "n_contaminants": 4}))
    save_basis(basis, tmp_path / "pairs" / "basis.npz")
    for name in DATA_SETS:
        if name != "validation":
            workspace.pairs_folder(name).mkdir()
            (workspace.pairs_folder(name) / "pairs-00000.npz").touch()
    workspace.simulate()
    assert len(workspace.read("validation")["redshift"]) == 3
    assert workspace.contaminants().shape == (4, 4360)
    assert (workspace.pairs_folder("test") / "pairs-00000.npz").stat().st_size == 0
