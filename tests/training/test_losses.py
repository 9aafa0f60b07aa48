"""Losses against slow formulas in float64, and how a recipe's weights reach them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.models.redshift_scan import LAG_STEP
from astroclip.redshifts.distribution import redshift_edges
from astroclip.redshifts.distribution import redshift_target as distribution_target
from astroclip.training import losses
from astroclip.training.losses import (
    InverseTemperature,
    NeighborMemory,
    Remembered,
    info_nce,
    neighbor_error,
    neighbor_estimate,
    redshift_cross_entropy,
    redshift_leak,
    redshift_target,
    weighted_losses,
)


def unit(vectors):
    vectors = np.asarray(vectors, dtype=float)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def softmax(logits):
    power = np.exp(logits - logits.max())
    return power / power.sum()


def smooth_error(difference):
    far = np.abs(difference)
    return np.where(far < 1, far**2 / 2, far - 0.5)


def memory_of(n_galaxies, n_labels=2, dim=4, seed=1):
    rng = np.random.default_rng(seed)
    keys = unit(rng.normal(size=(2, n_galaxies, dim)))
    labels, redshift = rng.normal(size=(n_galaxies, n_labels)), rng.uniform(0, 0.6, n_galaxies)
    tensors = (*keys, labels, redshift, np.array([20.0, 15.0]), np.array(30.0))
    return Remembered(*map(torch.from_numpy, tensors))


def embeddings(*shape, seed=2):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# ---------------------------------------------------------------------- contrast
def naive_info_nce(first, second, scale):
    """Return the loss by explicit loops in float64."""
    first, second = unit(first), unit(second)
    n, total = len(first), 0.0
    for i in range(n):
        forward = [scale * first[i] @ second[j] for j in range(n)]
        backward = [scale * first[j] @ second[i] for j in range(n)]
        total += np.log(np.sum(np.exp(forward))) - forward[i]
        total += np.log(np.sum(np.exp(backward))) - backward[i]
    return total / (2 * n)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 6), st.floats(0.5, 30))
def test_info_nce_is_the_naive_formula(seed, n_pairs, dim, scale):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n_pairs, dim))
    loss = info_nce(torch.from_numpy(first), torch.from_numpy(second), scale)
    assert float(loss) == pytest.approx(naive_info_nce(first, second, scale), abs=1e-9)
    contrast = losses.contrast(torch.from_numpy(first), torch.from_numpy(second), scale)
    assert float(contrast) == pytest.approx(float(loss), abs=1e-9)


def test_second_recordings_find_their_first_ones():
    first, again, rows = embeddings(6, 4), embeddings(3, 4, seed=3), torch.tensor([4, 0, 2])
    expected = 0.0
    for vector, row in zip(unit(again), rows.tolist(), strict=True):
        expected -= np.log(softmax(9.0 * unit(first) @ vector)[row]) / 3
    for find in (losses.second_spectra, losses.second_images):
        assert float(find(first, again, rows, 9.0)) == pytest.approx(expected, rel=1e-9)
        assert float(find(first, again[:0], rows[:0], 9.0)) == 0


def test_inverse_temperature_is_learned_and_clamped():
    scale = InverseTemperature(10.0)
    info_nce(embeddings(8, 4), embeddings(8, 4, seed=3), scale()).backward()
    assert scale.log_scale.grad.abs() > 0
    assert float(scale().detach()) == pytest.approx(10.0)
    with torch.no_grad():
        scale.log_scale.fill_(np.log(300.0))
    assert float(scale().detach()) == pytest.approx(100.0)


# ---------------------------------------------------------------------- known properties
def naive_target(redshift, n_bins, step, first=0.5):
    distance = np.arange(n_bins) + first - np.log1p(redshift) / step
    return softmax(-0.5 * (distance / 0.8) ** 2)


def test_redshifts_cost_their_cross_entropy_where_they_are_known():
    logits, redshift = embeddings(4, 30), np.array([0.1, np.nan, 0.69, 0.0])
    expected = 0.0
    for row in (0, 2, 3):
        target = naive_target(redshift[row], 30, np.log1p(0.7) / 30)
        expected -= (target * np.log(softmax(logits[row].numpy()))).sum() / 3
    truth = torch.from_numpy(redshift)
    for loss in (losses.spectrum_redshift, losses.image_redshift, losses.swapped_redshift):
        assert float(loss(logits, truth, 0.7)) == pytest.approx(expected, rel=1e-9)
    assert float(redshift_cross_entropy(logits, torch.full((4,), torch.nan), 0.7)) == 0


def test_the_target_is_that_of_the_redshift_distributions():
    redshift = np.array([0.001, 0.2, 0.65])
    edges = redshift_edges(40, 0.7)
    found = redshift_target(torch.from_numpy(redshift), 40, step=np.log1p(0.7) / 40)
    np.testing.assert_allclose(found, distribution_target(redshift, edges), atol=1e-12)


def test_a_scan_costs_the_cross_entropy_of_its_posterior():
    posterior, redshift = embeddings(3, 900).log_softmax(dim=1), np.array([0.1, 0.3, 0.05])
    expected = np.mean([
        -(naive_target(z, 900, LAG_STEP, first=0.0) * row).sum()
        for z, row in zip(redshift, posterior.numpy(), strict=True)
    ])
    found = losses.scan_redshift(posterior, torch.from_numpy(redshift))
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert float(losses.scan_redshift(posterior[:0], torch.zeros(0))) == 0


def test_labels_cost_their_smooth_error_where_they_are_known():
    read, labels = 3 * embeddings(5, 3), embeddings(5, 3, seed=4)
    labels[0, 1] = labels[3] = torch.nan
    known = np.isfinite(labels.numpy())
    expected = smooth_error((read - labels).numpy()[known]).mean()
    for loss in (losses.spectrum_labels, losses.image_labels):
        assert float(loss(read, labels)) == pytest.approx(expected, rel=1e-9)
        assert float(loss(read, torch.full_like(labels, torch.nan))) == 0


# ---------------------------------------------------------------------- neighbors
def naive_estimate(query, keys, values, scale):
    return np.array([softmax(scale * keys @ vector) @ values for vector in unit(query)])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 3))
def test_estimates_are_weighted_means_of_remembered_values(seed, n_keys, n_values):
    rng = np.random.default_rng(seed)
    query, keys = rng.normal(size=(3, 4)), unit(rng.normal(size=(n_keys, 4)))
    values = rng.normal(size=(n_keys, n_values))
    found = neighbor_estimate(*map(torch.from_numpy, (query, keys, values)), 20.0)
    np.testing.assert_allclose(found, naive_estimate(query, keys, values, 20.0), atol=1e-9)


def naive_neighbor_error(views, labels, memory, weights, first_weights):
    total, keys = 0.0, (memory.spectrum.numpy(), memory.image.numpy())
    for query in range(2):
        for other in range(2):
            estimate = naive_estimate(
                views[query], keys[other], memory.labels.numpy(), float(memory.label_scales[other])
            )
            used = first_weights if query == other == 0 else weights
            error = smooth_error(estimate[:, : labels.shape[1]] - labels) * used
            total += (1.0 if query == other else 0.5) * error.mean()
    return total


def test_neighbor_errors_count_within_and_across_views():
    memory, views, labels = memory_of(6), embeddings(2, 3, 4), embeddings(3, 2, seed=5)
    for own in (None, (10.0, 80.0)):
        expected = naive_neighbor_error(
            views.numpy(), labels.numpy(), memory, np.array([2.0, 5.0]), np.array(own or (2.0, 5.0))
        )
        found = neighbor_error(
            views, labels, memory, label_weights=(2.0, 5.0), first_weights=own
        )
        assert float(found) == pytest.approx(expected, rel=1e-6)
        unknown = torch.cat([labels, torch.full((3, 1), 7.0)], dim=1)  # not remembered: not asked
        unknown = torch.cat([unknown, torch.full((1, 3), torch.nan)])
        more = (torch.cat([view, torch.ones(1, 4)]) for view in views)
        found = losses.neighbors(*more, unknown, memory, (2.0, 5.0), own)
        assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_first_labels_may_be_asked_for_alone():
    memory, views, labels = memory_of(6, n_labels=3), embeddings(2, 3, 4), embeddings(3, 2)
    expected = naive_neighbor_error(views.numpy(), labels.numpy(), memory, 1.0, 1.0)
    found = neighbor_error(views, labels, memory, label_weights=(1.0, 1.0))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_loss_pulls_a_query_towards_galaxies_of_its_kind():
    keys, values = torch.eye(2), torch.tensor([[0.0], [1.0]])
    memory = Remembered(
        keys, keys, values, torch.zeros(2), torch.tensor([20.0, 20.0]), torch.tensor(30.0)
    )
    query = torch.tensor([[0.8, 0.7]], requires_grad=True)  # nearer to the wrong one
    neighbor_error((query, query), torch.tensor([[1.0]]), memory, label_weights=(1.0,)).backward()
    step = -query.grad[0]
    assert step[1] > 0 > step[0]


def test_redshifts_of_neighbors_cost_their_cross_entropy():
    memory, spectrum, labels = memory_of(6), embeddings(3, 4), torch.zeros(3, 2)
    labels[1] = torch.nan
    redshift, expected = np.array([0.1, 0.2, 0.3]), 0.0
    targets = [naive_target(z, 256, np.log1p(0.7) / 256) for z in memory.redshift.numpy()]
    for row in (0, 2):
        probability = naive_estimate(
            spectrum[row][None].numpy(), memory.spectrum.numpy(), np.array(targets), 30.0
        )[0]
        target = naive_target(redshift[row], 256, np.log1p(0.7) / 256)
        expected -= (target * np.log(probability + 1e-5)).sum() / 2
    found = losses.neighbor_redshift(spectrum, torch.from_numpy(redshift), labels, memory, 0.7)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_outliers_cost_what_they_are_too_near():
    memory, far = memory_of(20), embeddings(5, 4)
    nearest = np.sort(unit(far) @ memory.spectrum.numpy().T, axis=1)[:, -8:]
    expected = np.clip(nearest - 0.4, 0, None).mean()
    assert float(losses.outliers(far, memory)) == pytest.approx(expected, rel=1e-9)
    assert expected > 0


def test_the_redshift_leak_is_the_squared_correlation_with_neighbors_redshifts():
    memory, views = memory_of(30, n_labels=3), embeddings(2, 10, 4)
    redshift = np.random.default_rng(11).normal(size=10)
    estimates = [
        naive_estimate(view, keys, memory.labels.numpy(), float(scale))[:, -1]
        for view, keys, scale in zip(
            views.numpy(), (memory.spectrum.numpy(), memory.image.numpy()), memory.label_scales
        )
    ]
    correlation = np.corrcoef(np.concatenate(estimates), np.tile(redshift, 2))[0, 1]
    for sign in (1, -1):
        found = float(redshift_leak(views, torch.from_numpy(sign * redshift), memory))
        assert found == pytest.approx(max(sign * correlation, 0) ** 2, abs=1e-9)
    assert abs(correlation) > 0.05


def test_nothing_remembered_costs_nothing():
    memory, spectrum, labels = memory_of(0), embeddings(3, 4), torch.zeros(3, 2)
    assert float(losses.neighbors(spectrum, spectrum, labels, memory, (1, 1), None)) == 0
    assert float(losses.neighbor_redshift(spectrum, labels[:, 0], labels, memory, 0.7)) == 0
    assert float(losses.outliers(spectrum, memory)) == 0
    assert float(redshift_leak((spectrum, spectrum), labels[:, 0], memory)) == 0


def test_the_memory_replaces_the_oldest_and_keeps_what_it_gave():
    module = NeighborMemory(4, 2, 1)
    before = module()
    for value in range(6):
        vector = torch.tensor([[1.0, float(value)]])
        module.remember(vector, -vector, torch.tensor([[float(value)]]), torch.tensor([0.1]))
    now = module()
    assert (len(before), len(now)) == (0, 4)
    assert sorted(now.labels[:, 0].tolist()) == [2.0, 3.0, 4.0, 5.0]
    torch.testing.assert_close(now.spectrum, -now.image)
    torch.testing.assert_close(now.spectrum.norm(dim=1), torch.ones(4))
    copy = NeighborMemory(4, 2, 1)
    copy.load_state_dict(module.state_dict())
    assert torch.equal(copy().spectrum, now.spectrum) and len(copy()) == 4


def test_a_gradient_survives_that_the_batch_is_remembered_before_it():
    module, vectors, labels = NeighborMemory(4, 2, 1), torch.randn(4, 2), torch.randn(4, 1)
    module.remember(vectors, vectors, labels, torch.zeros(4))
    query = torch.randn(4, 2, requires_grad=True)
    loss = neighbor_error((query, query), labels, module(), label_weights=(1.0,))
    module.remember(query, query, labels, torch.zeros(4))
    loss.backward()
    assert torch.isfinite(query.grad).all() and module.log_scale.grad is not None


# ---------------------------------------------------------------------- a recipe's weights
def test_losses_are_called_with_what_their_arguments_name():
    views = {"spectrum": embeddings(5, 4), "image": embeddings(5, 4, seed=3), "scale": 7.0}
    views |= {"second_image": embeddings(2, 4, seed=4), "second_image_rows": torch.tensor([1, 3])}
    total, terms = weighted_losses({"contrast": 2.0, "second_images": 0.5}, views)
    assert list(terms) == ["contrast", "second_images"]
    assert float(terms["contrast"]) == pytest.approx(
        naive_info_nce(views["image"], views["spectrum"], 7.0), rel=1e-6
    )
    expected = 2 * terms["contrast"] + 0.5 * terms["second_images"]
    assert float(total) == pytest.approx(float(expected), rel=1e-9)


def test_a_loss_that_needs_more_than_is_known_is_refused():
    with pytest.raises(ValueError, match="^loss 'scan_redshift' takes 'scan_log_posterior', which"):
        weighted_losses({"scan_redshift": 1.0}, {"spectrum": None})
