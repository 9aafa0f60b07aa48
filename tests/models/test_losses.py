"""InfoNCE against the slow formula, and its temperature's clamp."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.models.losses import ContrastiveLoss, info_nce


def naive_info_nce(first, second, scale):
    """Return the loss by explicit loops in float64."""
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    n, total = len(first), 0.0
    for i in range(n):
        forward = [scale * first[i] @ second[j] for j in range(n)]
        backward = [scale * first[j] @ second[i] for j in range(n)]
        total += np.log(np.sum(np.exp(forward))) - forward[i]
        total += np.log(np.sum(np.exp(backward))) - backward[i]
    return total / (2 * n)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 6), st.floats(0.5, 30))
def test_loss_equals_the_naive_formula(seed, n_pairs, dim, scale):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n_pairs, dim))
    loss = info_nce(torch.from_numpy(first), torch.from_numpy(second), scale)
    assert float(loss) == pytest.approx(naive_info_nce(first, second, scale), abs=1e-9)


def test_temperature_is_learned_and_clamped():
    loss = ContrastiveLoss(initial_scale=10.0, largest_scale=20.0)
    views = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    loss(views, views).backward()
    assert loss.log_scale.grad.abs() > 0
    assert float(loss.scale.detach()) == pytest.approx(10.0)
    with torch.no_grad():
        loss.log_scale.fill_(10.0)
    assert float(loss.scale.detach()) == pytest.approx(20.0)
