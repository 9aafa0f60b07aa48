"""The linear head against a loop, its temperature against a grid and scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax

from astroclip.redshifts import head as linear_head
from astroclip.redshifts.distribution import redshift_edges
from astroclip.redshifts.head import LinearRedshiftHead, fit_temperature

LARGEST = 0.7


def make_head(seed=0, *, n_bins=32, dim=12, **options):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_bins, dim)).astype(np.float32)
    bias = rng.normal(size=n_bins).astype(np.float32)
    return LinearRedshiftHead(weight, bias, LARGEST, **options)


def test_distributions_are_a_softmax_of_directions(monkeypatch):
    monkeypatch.setattr(linear_head, "CHUNK", 3)
    head = make_head(scale=3.0, temperature=0.7)
    embedding = 5 * np.random.default_rng(1).normal(size=(8, 12))
    embedding[2, 4] = np.nan
    found = head.distribution(embedding)
    assert found.probability.dtype == np.float32
    assert_allclose(found.edges, redshift_edges(32, LARGEST))
    for row, vector in enumerate(embedding):
        if row == 2:
            assert np.isnan(found.probability[row]).all()
            continue
        logits = [
            3.0 * sum(w * x for w, x in zip(weights, vector)) / np.linalg.norm(vector) + bias
            for weights, bias in zip(head.weight, head.bias)
        ]
        assert_allclose(found.probability[row], softmax(np.array(logits) / 0.7), rtol=1e-5)
        assert_allclose(head.logits(embedding[[row]])[0], logits, rtol=1e-6)
    sharper = head.distribution(embedding[:1], temperature=0.1)
    assert sharper.probability.max() > found.probability[0].max()


def test_no_rows_and_wrong_shapes():
    head = make_head()
    assert head.distribution(np.empty((0, 12))).probability.shape == (0, 32)
    for wrong in (np.zeros(12), np.zeros((2, 11))):
        with pytest.raises(ValueError, match=r"^embedding has shape .*; expected \(N, 12\), as"):
            head.distribution(wrong)


# ---------------------------------------------------------------------- temperature
def simulate(n_rows, seed, *, sharpness, n_bins=24):
    """Return logits that are ``sharpness`` times those the truths were drawn from."""
    rng = np.random.default_rng(seed)
    honest = 2 * rng.normal(size=(n_rows, n_bins))
    chosen = [rng.choice(n_bins, p=softmax(row)) for row in honest]
    edges = np.linspace(0, np.log1p(LARGEST), n_bins + 1)
    share = rng.random(n_rows)
    redshift = np.expm1(edges[chosen] + share * (edges[1] - edges[0]))
    return sharpness * honest, redshift, redshift_edges(n_bins, LARGEST)


def naive_loss(temperature, logits, redshift, edges, smoothing):
    """Return the negative log-likelihood by loops over objects and bins."""
    total = 0.0
    centre = 0.5 * (np.log1p(edges[1:]) + np.log1p(edges[:-1]))
    width = np.log1p(edges[1]) - np.log1p(edges[0])
    for row, value in zip(logits, redshift):
        log_probability = log_softmax(row / temperature)
        if smoothing:
            target = np.exp(-0.5 * ((centre - np.log1p(value)) / (smoothing * width)) ** 2)
            target /= target.sum()
        else:
            target = [float(low <= value < high) for low, high in zip(edges[:-1], edges[1:])]
        total -= sum(t * p for t, p in zip(target, log_probability))
    return total / len(redshift)


@pytest.mark.parametrize("smoothing", [0, 0.8])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_temperature_is_the_best_of_a_grid(sharpness, smoothing):
    data = simulate(60, 2, sharpness=sharpness)
    found = fit_temperature(*data, smoothing=smoothing)
    grid = np.geomspace(0.1, 15, 100)
    losses = [naive_loss(value, *data, smoothing) for value in grid]
    best = int(np.argmin(losses))
    assert naive_loss(found, *data, smoothing) <= losses[best] + 1e-9
    assert grid[best - 1] < found < grid[best + 1]


@given(seed=st.integers(0, 1000), sharpness=st.floats(0.3, 4.0))
def test_temperature_undoes_sharpness(seed, sharpness):
    logits, redshift, edges = simulate(1500, seed, sharpness=1.0)
    honest = fit_temperature(logits, redshift, edges, smoothing=0)
    assert abs(honest - 1) < 0.15
    scaled = fit_temperature(sharpness * logits, redshift, edges, smoothing=0)
    assert_allclose(scaled, sharpness * honest, rtol=1e-4)


def test_temperature_does_not_mind_a_constant_and_ends_at_its_limits():
    logits, redshift, edges = simulate(100, 3, sharpness=1.0)
    shifted = logits + 1e3 * np.arange(100)[:, None]
    assert_allclose(
        fit_temperature(shifted, redshift, edges), fit_temperature(logits, redshift, edges)
    )
    centre = np.expm1(np.log1p(edges[:-1]) + 0.5 * np.log1p(edges[1]))
    right = 100 * np.eye(24)
    assert fit_temperature(right, centre, edges, smoothing=0) == 0.05
    assert fit_temperature(-right, centre, edges, smoothing=0) == 20.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, z, e: (x[:5], z, e), r"^logits has shape \(5, 24\), redshift \(9,\) and edges"),
        (lambda x, z, e: (x[:0], z[:0], e), r"^logits has shape \(0, 24\).*at least one object"),
        (lambda x, z, e: (x, z, e[:-1]), r"^logits has shape .* and edges \(24,\); expected"),
        (lambda x, z, e: (x, np.where(z == z[3], 0.9, z), e), r"^redshift\[3\] is 0.9; expected"),
        (lambda x, z, e: (x, np.where(z == z[3], np.nan, z), e), r"^redshift\[3\] is nan; expec"),
        (lambda x, z, e: (x * np.inf, z, e), r"^redshift\[0\] is .* and finite logits"),
    ],
)
def test_temperature_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(*change(*simulate(9, 4, sharpness=1.0)))


def test_edges_belong_to_bins():
    assert_array_equal(make_head(n_bins=7).edges, redshift_edges(7, LARGEST))
