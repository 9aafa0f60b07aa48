"""Estimates from remembered galaxies equal a naive weighted mean; memory keeps the newest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.training.alignment import RedshiftBins
from astroclip.training.neighbors import NeighborMemory


def naive_estimate(query, keys, labels, scale):
    rows = []
    for vector in query:
        unit = vector / np.linalg.norm(vector)
        cosine = [float(unit @ key / np.linalg.norm(key)) for key in keys]
        weight = np.exp(scale * np.array(cosine))
        rows.append((weight[:, None] * labels).sum(axis=0) / weight.sum())
    return np.array(rows)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 9), st.integers(1, 3))
def test_estimate_is_the_weighted_mean_of_labels(seed, n_keys, n_labels):
    rng = np.random.default_rng(seed)
    memory = NeighborMemory(16, 4, n_labels)
    keys = rng.normal(size=(2, n_keys, 4)).astype(np.float32)
    labels = rng.normal(size=(n_keys, n_labels)).astype(np.float32)
    memory.remember(torch.from_numpy(keys), torch.from_numpy(labels))
    query = rng.normal(size=(3, 4)).astype(np.float32)
    for modality in (0, 1):
        found = memory.estimate(torch.from_numpy(query), modality).detach().numpy()
        np.testing.assert_allclose(
            found, naive_estimate(query, keys[modality], labels, 20.0), rtol=1e-3, atol=1e-4
        )


def test_memory_replaces_the_oldest():
    memory = NeighborMemory(4, 2, 1)
    for value in range(6):
        vector = torch.tensor([[1.0, float(value)]])
        memory.remember((vector, vector), torch.tensor([[float(value)]]))
    assert memory.n_filled == 4
    assert sorted(memory.labels[:, 0].tolist()) == [2.0, 3.0, 4.0, 5.0]


def test_nothing_remembered_costs_nothing():
    memory = NeighborMemory(4, 2, 1)
    vectors = torch.ones(3, 2)
    assert float(memory.loss((vectors, vectors), torch.zeros(3, 1))) == 0


def test_errors_of_labels_are_weighted():
    torch.manual_seed(2)
    memory = NeighborMemory(8, 4, 2)
    memory.remember(torch.randn(2, 6, 4), torch.randn(6, 2))
    query, labels = torch.randn(3, 4), torch.randn(3, 2)
    views = (query, query)
    alone = [
        float(memory.loss(views, labels, label_weights=weights).detach())
        for weights in ((1, 0), (0, 1))
    ]
    both = float(memory.loss(views, labels, label_weights=(2.0, 5.0)).detach())
    assert both == pytest.approx(2 * alone[0] + 5 * alone[1], rel=1e-5)
    assert float(memory.loss(views, labels).detach()) == pytest.approx(sum(alone), rel=1e-5)


def test_first_modality_among_itself_has_weights_of_its_own():
    torch.manual_seed(3)
    memory = NeighborMemory(8, 4, 2)
    keys, known = torch.randn(2, 6, 4), torch.randn(6, 2)
    memory.remember(keys, known)
    views, labels = torch.randn(2, 3, 4), torch.randn(3, 2)
    weights, own, expected = np.array([2.0, 5.0]), np.array([10.0, 80.0]), 0.0
    for query in range(2):
        for key in range(2):
            estimate = naive_estimate(views[query].numpy(), keys[key].numpy(), known.numpy(), 20.0)
            far = np.abs(estimate - labels.numpy())
            error = np.where(far < 1, far**2 / 2, far - 0.5)
            used = own if query == key == 0 else weights
            expected += (1.0 if query == key else 0.5) * (error * used).mean()
    found = memory.loss(views, labels, label_weights=tuple(weights), first_weights=tuple(own))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-3)


def test_loss_pulls_a_query_towards_galaxies_of_its_kind():
    torch.manual_seed(0)
    memory = NeighborMemory(2, 2, 1)
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    memory.remember((keys, keys), torch.tensor([[0.0], [1.0]]))
    query = torch.tensor([[0.8, 0.7]], requires_grad=True)  # nearer to the wrong one
    memory.loss((query, query), torch.tensor([[1.0]])).backward()
    step = -query.grad[0]
    assert step[1] > 0 > step[0]


def test_gradient_survives_that_the_batch_is_remembered_before_it():
    memory = NeighborMemory(4, 2, 1)
    vectors, labels = torch.randn(4, 2), torch.randn(4, 1)
    memory.remember((vectors, vectors), labels)
    query = torch.randn(4, 2, requires_grad=True)
    loss = memory.loss((query, query), labels)
    memory.remember((query, query), labels)
    loss.backward()
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("modality", [0, 1])
def test_state_survives_a_checkpoint(modality):
    memory = NeighborMemory(4, 2, 1)
    memory.remember((torch.randn(3, 2), torch.randn(3, 2)), torch.randn(3, 1))
    copy = NeighborMemory(4, 2, 1)
    copy.load_state_dict(memory.state_dict())
    query = torch.randn(2, 2)
    assert torch.equal(memory.estimate(query, modality), copy.estimate(query, modality))
    assert copy.n_filled == 3


def test_redshift_loss_is_the_cross_entropy_with_neighbours_bins():
    torch.manual_seed(1)
    bins = RedshiftBins(20, 0.7)
    memory = NeighborMemory(8, 3, 1)
    keys, redshift = torch.randn(6, 3), torch.rand(6) * 0.6
    memory.remember((keys, keys), torch.zeros(6, 1), redshift)
    query, truth = torch.randn(2, 3), torch.tensor([0.1, 0.3])
    unit = torch.nn.functional.normalize(keys, dim=1)
    expected = 0.0
    for vector, value in zip(torch.nn.functional.normalize(query, dim=1), truth, strict=True):
        weight = torch.exp(30 * (unit @ vector))
        weight = weight / weight.sum()
        probability = sum(
            w * bins.target(z[None])[0] for w, z in zip(weight, redshift, strict=True)
        )
        expected -= float((bins.target(value[None])[0] * torch.log(probability + 1e-5)).sum()) / 2
    loss = float(memory.redshift_loss(query, truth, bins).detach())
    assert loss == pytest.approx(expected, rel=1e-4)


def test_outliers_cost_what_they_are_too_near():
    memory = NeighborMemory(4, 2, 1)
    keys = torch.tensor([[1.0, 0.0]])
    memory.remember((keys, keys), torch.zeros(1, 1))
    near, far = torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])
    assert float(memory.outlier_loss(near)) == pytest.approx(0.6)
    assert float(memory.outlier_loss(far)) == 0
