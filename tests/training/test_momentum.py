"""Momentum contrast against slow formulas: loss, queue, moving average, gradients."""

import collections
import math

import numpy as np
import pytest
import torch
from torch import nn

from astroclip.exceptions import MissingExtraError
from astroclip.training.momentum import MomentumContrast, encode_in_groups, queued_contrast
from astroclip.training.recipe import read_recipe

TABLES = {
    "image": {"width": 8, "dim": 16},
    "images": {"n_epochs": 1, "epoch_size": 88, "batch_size": 8, "n_queued": 16},
}


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


class Trainer:
    """What an objective asks its trainer for."""

    current_epoch = global_step = global_rank = 0


@pytest.fixture
def module():
    """Return a small objective that is not trained, outside of a trainer."""
    torch.manual_seed(1)
    module = MomentumContrast(read_recipe(TABLES))
    module.log = lambda *_, **__: None
    module.trainer = Trainer()
    return module


@pytest.fixture(scope="module")
def batch():
    images = 5 * torch.rand(8, 3, 64, 64, generator=seeded())
    return {"image": images, "seeing": torch.full((8, 3), 1.3)}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def naive_loss(queries, keys, queue, temperature):
    """Return -log of the own key's share among it and the queue, query by query."""
    total = 0.0
    for query, key in zip(unit(queries), unit(keys)):
        own = math.exp(float(query @ key) / temperature)
        others = sum(math.exp(float(query @ other) / temperature) for other in queue)
        total -= math.log(own / (own + others))
    return total / len(queries)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize(("n_queued", "width"), [(4, 3), (32, 16)])
def test_loss_is_the_naive_formula(temperature, n_queued, width):
    contrast = queued_contrast(temperature=temperature, n_queued=n_queued, width=width)
    queue = contrast.memory_bank.bank.numpy().copy()
    queries, keys = torch.randn(2, 4, width, generator=seeded())
    found = contrast(queries.clone().requires_grad_(), keys)
    expected = naive_loss(queries.numpy(), keys.numpy(), queue, temperature)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_queue_forgets_the_oldest_keys_first():
    contrast = queued_contrast(temperature=0.2, n_queued=12, width=5)
    held = collections.deque((tuple(row) for row in contrast.memory_bank.bank.tolist()), maxlen=12)
    generator = seeded()
    for _ in range(8):
        queries, keys = torch.randn(2, 4, 5, generator=generator)
        before = np.array(held)
        loss = contrast(queries.requires_grad_(), keys)
        expected = naive_loss(queries.detach().numpy(), keys.numpy(), before, 0.2)
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        held.extend(map(tuple, nn.functional.normalize(keys, dim=1).tolist()))
        assert {tuple(row) for row in contrast.memory_bank.bank.tolist()} == set(held)


def test_queue_stays_when_nothing_is_trained():
    contrast = queued_contrast(temperature=0.2, n_queued=8, width=5)
    before = contrast.memory_bank.bank.clone()
    with torch.no_grad():
        contrast(*torch.randn(2, 4, 5, generator=seeded()))
    assert torch.equal(contrast.memory_bank.bank, before)


def test_checkpoints_hold_the_queue_and_where_it_is():
    first, second = (queued_contrast(temperature=0.2, n_queued=8, width=5) for _ in range(2))
    queries, keys = torch.randn(2, 4, 5, generator=seeded())
    first(queries.requires_grad_(), keys)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.memory_bank.bank, first.memory_bank.bank)
    assert int(second.memory_bank.bank_ptr) == 4


def test_keys_get_no_gradient_and_no_optimizer(module, batch):
    module.training_step(batch, 0).backward()
    for part in (module.key_encoder, module.key_projection):
        assert all(parameter.grad is None for parameter in part.parameters())
    for part in (module.encoder, module.projection):
        assert all(parameter.grad is not None for parameter in part.parameters())
    groups = module.configure_optimizers()["optimizer"].param_groups
    optimized = {id(parameter) for group in groups for parameter in group["params"]}
    keys = [*module.key_encoder.parameters(), *module.key_projection.parameters()]
    assert not optimized & {id(parameter) for parameter in keys}
    assert optimized == {id(p) for part in (module.encoder, module.projection)
                         for p in part.parameters()}


def test_a_step_contrasts_and_queues_keys_of_the_second_recording(module, batch, monkeypatch):
    recorded = []
    original = module.observer.images

    def record(*arguments):
        recorded.append(original(*arguments))
        return recorded[-1]

    monkeypatch.setattr(module.observer, "images", record)
    module.eval()  # batch normalization that does not depend on the order of steps
    queue = module.contrast.memory_bank.bank.numpy().copy()
    loss = module.training_step(batch, 0)
    (first, second) = recorded
    assert not torch.equal(first[0], second[0])
    with torch.inference_mode():
        queries = module.projection(module.encoder(*first)).numpy()
        keys = module.key_projection(module.key_encoder(*second)).numpy()
    assert float(loss.detach()) == pytest.approx(naive_loss(queries, keys, queue, 0.2), abs=1e-4)
    np.testing.assert_allclose(module.contrast.memory_bank.bank[:8], unit(keys), atol=1e-5)


def test_keys_come_from_a_moving_average_whose_momentum_rises_along_half_a_cosine(module, batch):
    queries = [*module.encoder.parameters(), *module.projection.parameters()]
    keys = [*module.key_encoder.parameters(), *module.key_projection.parameters()]
    for number in (0, 5, 10):  # of 11 steps
        module.trainer.global_step = number
        momentum = 1 - 0.004 * (1 + np.cos(np.pi * number / 10)) / 2
        with torch.no_grad():
            for query in queries:
                query.add_(torch.randn(query.shape, generator=seeded()))
            expected = [
                momentum * key + (1 - momentum) * query
                for key, query in zip(keys, queries, strict=True)
            ]
            module.training_step(batch, 0)
        for key, moved in zip(keys, expected, strict=True):
            torch.testing.assert_close(key.data, moved, rtol=1e-5, atol=1e-6)


def test_groups_hold_every_image_once_and_keep_order():
    sizes = []

    class Recorder(nn.Module):
        def forward(self, pixels, mask):
            sizes.append(len(pixels))
            return torch.cat([pixels.flatten(1), mask.flatten(1)], dim=1)

    pixels = torch.randn(10, 1, 2, 2, generator=seeded())
    embedding = encode_in_groups(Recorder(), pixels, pixels > 0, seeded(), n_groups=4)
    assert sizes == [3, 3, 3, 1]
    assert torch.equal(embedding[:, :4], pixels.flatten(1))
    assert torch.equal(embedding[:, 4:], (pixels > 0).flatten(1).float())


def test_a_queue_of_broken_batches_is_refused():
    with pytest.raises(ValueError, match="n_queued is 20; expected a multiple of batch_size, 8"):
        MomentumContrast(read_recipe({"images": {"n_queued": 20, "batch_size": 8}}))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightly.loss", None)
    with pytest.raises(MissingExtraError, match="astroclip.train."):
        queued_contrast(temperature=0.2, n_queued=8, width=4)
