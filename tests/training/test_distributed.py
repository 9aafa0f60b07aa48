"""Several processes: their batches, losses and averaged gradients are those of one."""

import os
from multiprocessing import set_forkserver_preload

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from astroclip.training.distributed import (
    gather_with_gradient,
    n_processes,
    process_rank,
    rank_rows,
)
from astroclip.training.losses import InverseTemperature, info_nce

N_PROCESSES = 2
N_PAIRS, N_IN, DIM = 12, 5, 4

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="needs gloo"
)


class Towers(nn.Module):
    """Two linear encoders and their loss, in float64 unless asked otherwise."""

    def __init__(self, *, initial_scale=10.0):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first, self.second = nn.Linear(N_IN, DIM), nn.Linear(N_IN, DIM)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.scale = InverseTemperature(initial_scale)
        self.double()

    def forward(self, first, second):
        return info_nce(self.first(first), self.second(second), self.scale())


def make_views(n_pairs=N_PAIRS):
    return torch.randn(
        2, n_pairs, N_IN, generator=torch.Generator().manual_seed(6), dtype=torch.float64
    )


def gradients(module):
    return {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }


def own_rows(rank, n_pairs=N_PAIRS):
    return slice(rank * n_pairs // N_PROCESSES, (rank + 1) * n_pairs // N_PROCESSES)


def averaged_step(rank, **options):
    """Return loss and gradients, averaged over ranks as DDP does it."""
    towers, (first, second) = Towers(**options), make_views()
    rows = own_rows(rank)
    loss = towers(first[rows], second[rows])
    loss.backward()
    averaged = gradients(towers)
    for gradient in averaged.values():
        distributed.all_reduce(gradient)
        gradient /= N_PROCESSES
    return loss.detach(), averaged


def wrapped_step(rank, **options):
    """Return loss and gradients of towers wrapped in DistributedDataParallel."""
    towers, (first, second) = DistributedDataParallel(Towers(**options)), make_views()
    rows = own_rows(rank)
    loss = towers(first[rows], second[rows])
    loss.backward()
    return loss.detach(), gradients(towers)


def single_precision_training(rank):
    """Return the weights after a few steps of DDP in float32."""
    towers = DistributedDataParallel(Towers().float())
    train(towers, rank)
    return towers.module.state_dict()


def train(towers, rank=None):
    optimizer = torch.optim.SGD(towers.parameters(), lr=0.02)
    first, second = make_views().float()
    rows = slice(None) if rank is None else own_rows(rank)
    for _ in range(5):
        optimizer.zero_grad()
        towers(first[rows], second[rows]).backward()
        optimizer.step()


def gather_own_rows(rank):
    """Return gathered rows and the gradient of a loss that differs between ranks."""
    rows = torch.full((2, 3), float(rank), requires_grad=True)
    gathered = gather_with_gradient(rows.T.contiguous().T)  # not in memory order
    weight = (rank + 1.0) * torch.arange(4.0)[:, None]
    (gathered * weight).sum().backward()
    return gathered.detach(), rows.grad, n_processes(), process_rank()


def unequal_batches(rank):
    """Return the message of the error that unequal batches raise."""
    first, second = make_views()
    with pytest.raises(ValueError, match="expected the same on every rank") as error:
        Towers()(first[: 4 + rank], second[: 4 + rank])
    return str(error.value)


def misshapen(rank):
    """Return the message of the error that a vector raises."""
    with pytest.raises(ValueError, match="expected") as error:
        gather_with_gradient(torch.zeros(3))
    return str(error.value)


OPTIONS = {
    "learned": {"initial_scale": 10.0},
    "clamped": {"initial_scale": 300.0},
}
STEPS = {"averaged": averaged_step, "wrapped": wrapped_step}


def run_everything(rank, folder):
    """Do on one rank all that the tests look at, and save it."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=N_PROCESSES
    )
    try:
        found = {
            (step, options): STEPS[step](rank, **OPTIONS[options])
            for step in STEPS
            for options in OPTIONS
        }
        found["training"] = single_precision_training(rank)
        found["gathered"] = gather_own_rows(rank)
        found["unequal"] = unequal_batches(rank)
        found["misshapen"] = misshapen(rank)
        torch.save(found, folder / f"rank-{rank}.pt")
        distributed.barrier()  # no rank leaves while another one listens to it
    finally:
        distributed.destroy_process_group()
    os._exit(0)  # not by way of torch's threads, which may abort a process that ends


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return what two processes found, by rank; starting them takes longer than their work."""
    folder = tmp_path_factory.mktemp("ranks")
    # a server imports torch once and forks both processes
    set_forkserver_preload([__name__, "torch._dynamo"])
    multiprocessing.start_processes(
        run_everything, (folder,), nprocs=N_PROCESSES, start_method="forkserver"
    )
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(N_PROCESSES)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("options", OPTIONS)
def test_loss_and_gradients_are_those_of_one_process(ranks, step, options):
    towers = Towers(**OPTIONS[options])
    loss = towers(*make_views())
    loss.backward()
    expected = gradients(towers)
    for found in ranks:
        found_loss, found_gradients = found[step, options]
        assert float(found_loss) == pytest.approx(float(loss.detach()), abs=1e-10)
        assert found_gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-9, atol=1e-10)
    assert bool(expected["scale.log_scale"] == 0) == (options == "clamped")


def test_training_on_two_processes_gives_the_weights_of_one(ranks):
    towers = Towers().float()
    train(towers)
    for found in ranks:
        for name, value in towers.state_dict().items():
            torch.testing.assert_close(found["training"][name], value, rtol=1e-5, atol=1e-6)


def test_rows_come_by_rank_and_gradients_are_summed_over_ranks(ranks):
    for rank, found in enumerate(ranks):
        gathered, gradient, n_found, rank_found = found["gathered"]
        torch.testing.assert_close(gathered[:, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))
        expected = 3.0 * torch.arange(4.0)[own_rows(rank, 4)]  # weights 1 and 2 together
        torch.testing.assert_close(gradient, expected[:, None].expand(2, 3))
        assert (n_found, rank_found) == (N_PROCESSES, rank)


def test_unequal_batches_raise_on_every_rank(ranks):
    first, second = (found["unequal"] for found in ranks)
    assert first == second
    assert "shapes (4, 8), (5, 8) on ranks 0 to 1; expected the same on every rank" in first


def test_what_is_no_batch_of_embeddings_raises(ranks):
    assert ranks[0]["misshapen"] == "embedding has shape (3,); expected (N, D)."


def test_one_process_keeps_its_rows():
    rows = torch.ones(3, 2)
    assert gather_with_gradient(rows) is rows
    assert (n_processes(), process_rank()) == (1, 0)


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
    ("batch_size", "message"),
    [
        (256, "batch_size is 256; expected a multiple of the 3 .* such as 258"),
        (0, "batch_size is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_shared_out_raises(batch_size, message):
    with pytest.raises(ValueError, match=message):
        rank_rows(range(10), 0, 3, batch_size)
