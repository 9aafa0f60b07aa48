"""Blurs and draws that the simulator's modules share, against scipy and their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from astroclip.simulation.numerics import gaussian_blur, log_uniform, normal, uniform


@settings(max_examples=20)
@given(sigma=st.floats(2.0, 6.0), seed=st.integers(0, 100))
def test_blurring_agrees_with_scipy(sigma, seed):
    values = np.random.default_rng(seed).normal(size=(3, 200))
    found = gaussian_blur(torch.from_numpy(values), torch.full((3, 1), sigma))
    expected = gaussian_filter1d(values, sigma, mode="wrap", truncate=10)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.7])
def test_widths_below_a_pixel_add_their_variance(sigma):
    pixel = torch.arange(64.0) - 32
    line = torch.exp(-0.5 * (pixel / 2.0) ** 2)[None]
    blurred = gaussian_blur(line, torch.tensor([[sigma]]))
    variance = (blurred * pixel**2).sum() / blurred.sum()
    assert float(variance) == pytest.approx(4.0 + sigma**2, rel=1e-4)


def test_draws_have_their_ranges_and_repeat():
    draws = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(5)
        draws.append([
            uniform(generator, (4000,), 2.0, 3.0), normal(generator, (4000,), 2.0),
            log_uniform(generator, (4000,), 0.1, 10.0),
        ])  # fmt: skip
    for first, second in zip(*draws, strict=True):
        assert torch.equal(first, second)
    flat, gaussian, wide = draws[0]
    assert flat.min() >= 2.0
    assert flat.max() <= 3.0
    assert float(gaussian.std()) == pytest.approx(2.0, rel=0.05)
    assert float(wide.log10().mean()) == pytest.approx(0.0, abs=0.05)
