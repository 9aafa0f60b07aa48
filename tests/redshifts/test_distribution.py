"""Summaries of redshift distributions against naive loops over objects and bins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import log_softmax, softmax
from scipy.stats import norm

from astroclip.redshifts.distribution import (
    RedshiftDistribution,
    fit_temperature,
    redshift_edges,
    redshift_target,
)

LARGEST = 0.7


def draw(n_rows, n_bins, seed, *, empty_share=0.0):
    """Return distributions of two peaks on a low floor, some bins empty."""
    rng = np.random.default_rng(seed)
    number = np.arange(n_bins)
    rows = []
    for _ in range(n_rows):
        row = 1e-4 * rng.random(n_bins)
        for weight in (rng.random(), rng.random()):
            center, width = rng.uniform(0, n_bins), rng.uniform(0.3, 3)
            row += weight * np.exp(-0.5 * ((number - center) / width) ** 2)
        row *= rng.random(n_bins) >= empty_share
        rows.append(row / row.sum() if row.sum() else np.full(n_bins, 1 / n_bins))
    return RedshiftDistribution(redshift_edges(n_bins, LARGEST), rows)


def below(found, row, redshift):
    """Return the probability below a redshift, bin by bin."""
    edges, total = np.log1p(found.edges), 0.0
    for number, value in enumerate(found.probability[row]):
        inside = np.clip(np.log1p(redshift) - edges[number], 0, edges[number + 1] - edges[number])
        total += value * inside / (edges[number + 1] - edges[number])
    return total


def test_edges_are_even_in_log():
    edges = redshift_edges(256, LARGEST)
    assert edges[0] == 0
    assert_allclose(edges[-1], LARGEST)
    assert_allclose(np.diff(np.log1p(edges)), np.log(1.7) / 256)
    found = RedshiftDistribution(edges, np.full((1, 256), 1 / 256))
    assert_allclose(1 + found.center, np.sqrt((1 + edges[1:]) * (1 + edges[:-1])))


def test_mode_is_the_mean_around_the_peak():
    found = draw(50, 40, 1)
    for row, mode in enumerate(found.mode()):
        values = found.probability[row]
        best = max(range(40), key=lambda k: values[k])
        near = [k for k in range(40) if abs(k - best) <= 2]
        mean = sum(values[k] * np.log1p(found.center[k]) for k in near)
        assert_allclose(np.log1p(mode), mean / sum(values[k] for k in near), rtol=1e-10)


def test_a_narrow_gaussian_is_found_within_its_bin():
    edges = redshift_edges(256, LARGEST)
    truth = np.linspace(0.02, 0.65, 200)
    width = np.log(1.7) / 256
    distance = np.log1p(RedshiftDistribution(edges, np.eye(256)).center) - np.log1p(truth)[:, None]
    rows = np.exp(-0.5 * (distance / width / 0.8) ** 2)
    found = RedshiftDistribution(edges, rows / rows.sum(axis=1, keepdims=True))
    error = np.abs(np.log1p(found.mode()) - np.log1p(truth))
    assert error.max() < 0.05 * width
    assert_allclose(found.mean(), truth, atol=1e-4)


def test_mean_is_the_expectation():
    found = draw(20, 30, 2)
    expected = [sum(p * z for p, z in zip(row, found.center)) for row in found.probability]
    assert_allclose(found.mean(), expected)


@given(
    rows=hnp.arrays(float, (3, 17), elements=st.floats(0, 1)).filter(
        lambda rows: (rows.sum(axis=1) > 0.1).all()
    ),
    level=st.floats(0, 1),
)
def test_quantiles_invert_the_cumulative_probability(rows, level):
    rows = rows / rows.sum(axis=1, keepdims=True)
    found = RedshiftDistribution(redshift_edges(17, LARGEST), rows)
    quantile = found.quantile(level)
    for row, value in enumerate(quantile):
        assert -1e-12 <= value <= LARGEST + 1e-12
        assert abs(below(found, row, value) - level) < 1e-9
        steps = np.concatenate([[0], np.cumsum(rows[row])])
        before = np.flatnonzero(steps < level - 1e-9)  # the first redshift that reaches it
        assert value >= (found.edges[before[-1]] - 1e-12 if len(before) else -1e-12)
    for lower, upper in ((0.2, 0.5), (0.5, 0.9)):
        assert (found.quantile(lower) <= found.quantile(upper)).all()


@pytest.mark.parametrize("confidence", [0.1, 0.68, 0.95])
@pytest.mark.parametrize("empty_share", [0.0, 0.4])
def test_intervals_are_the_shortest_that_hold_the_mode(confidence, empty_share):
    found = draw(40, 32, 3, empty_share=empty_share)
    lower, upper = found.interval(confidence)
    mode, edges = found.mode(), np.log1p(found.edges)
    for row in range(40):
        assert lower[row] <= mode[row] <= upper[row]
        held = below(found, row, upper[row]) - below(found, row, lower[row])
        assert held == pytest.approx(confidence, abs=1e-9)
        total = np.concatenate([[0], np.cumsum(found.probability[row])])
        starts = np.append(np.linspace(0, np.log1p(mode[row]), 2000), edges)
        shortest = np.inf
        for start in starts:
            level = np.interp(start, edges, total) + confidence
            if level <= 1 - 1e-12 and start <= np.log1p(mode[row]):
                above = np.flatnonzero(total >= level)[0]  # the first edge that reaches it
                share = (level - total[above - 1]) / (total[above] - total[above - 1])
                end = max(edges[above - 1] + share * (edges[1] - edges[0]), np.log1p(mode[row]))
                shortest = min(shortest, end - start)
        length = np.log1p(upper[row]) - np.log1p(lower[row])
        assert length <= shortest + 1e-9
        assert length > shortest - 2e-3 or not np.isfinite(shortest)


def test_the_whole_range_and_nothing():
    found = draw(10, 16, 4)
    lower, upper = found.interval(1.0)
    assert_allclose(lower, 0, atol=1e-12)
    assert_allclose(upper, LARGEST)
    for end in found.interval(0.0):
        assert_allclose(end, found.mode())


def test_probability_near_is_that_of_overlapping_bins():
    found = draw(30, 64, 5)
    redshift = np.random.default_rng(6).uniform(0, LARGEST, 30)
    redshift[:2] = 0.001, LARGEST  # ends beyond the bins
    for tolerance in (0.002, 0.01, 0.1):
        near = found.probability_within(redshift, tolerance)
        for row, value in enumerate(redshift):
            reach = tolerance * (1 + value)
            expected = below(found, row, value + reach) - below(found, row, max(value - reach, 0))
            assert near[row] == pytest.approx(expected, abs=1e-12)
    everything = found.probability_within(np.full(30, 0.3), 1.0)
    assert_allclose(everything, 1)


def test_unknown_rows_stay_unknown():
    whole = draw(23, 20, 7)
    rows = whole.probability.copy()
    rows[4] = np.nan
    found = RedshiftDistribution(whole.edges, rows)
    assert len(found) == 23
    known = np.arange(23) != 4
    summaries = (
        lambda d: d.mode(), lambda d: d.mean(), lambda d: d.quantile(0.3),
        lambda d: d.interval(0.68)[0], lambda d: d.interval(0.68)[1],
        lambda d: d.probability_within(d.mode()),
    )  # fmt: skip
    for summary in summaries:
        values = summary(found)
        assert_array_equal(np.isnan(values), ~known)
        assert_allclose(values[known], summary(whole)[known])


def test_intervals_of_many_rows_are_those_of_each():
    few = draw(7, 20, 9)
    many = RedshiftDistribution(few.edges, np.tile(few.probability, (300, 1)))
    for ends, own in zip(many.interval(0.8), few.interval(0.8)):
        assert_allclose(ends, np.tile(own, 300), rtol=1e-12)


@pytest.mark.parametrize(
    ("edges", "probability", "message"),
    [
        ([0, 0.1, 0.2], [[0.5, 0.5]], r"^edges are not even in log\(1 \+ z\)"),
        ([0.0, 1.0, 3.0], [[1.0]], r"^edges has shape \(3,\) and probability \(1, 1\); expected"),
        ([0.0, 1.0, 3.0], [0.5, 0.5], r"^edges has shape \(3,\) and probability \(2,\)"),
        ([0.0, 1.0, 3.0], [[0.5, 0.5], [0.5, 0.6]], r"^probability\[1\] has sum 1.1 and smal"),
        ([0.0, 1.0, 3.0], [[1.5, -0.5]], r"^probability\[0\] has sum 1 and smallest value -0.5"),
    ],
)
def test_what_is_no_distribution(edges, probability, message):
    with pytest.raises(ValueError, match=message):
        RedshiftDistribution(edges, probability)


def test_levels_are_checked():
    found = draw(1, 8, 8)
    with pytest.raises(ValueError, match="^level is 1.5; expected a number from 0 to 1"):
        found.quantile(1.5)
    with pytest.raises(ValueError, match="^confidence is -1; expected a number from 0 to 1"):
        found.interval(-1)


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
    center = 0.5 * (np.log1p(edges[1:]) + np.log1p(edges[:-1]))
    width = np.log1p(edges[1]) - np.log1p(edges[0])
    for row, value in zip(logits, redshift):
        log_probability = log_softmax(row / temperature)
        if smoothing:
            target = np.exp(-0.5 * ((center - np.log1p(value)) / (smoothing * width)) ** 2)
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


@settings(max_examples=10)
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
    center = np.expm1(np.log1p(edges[:-1]) + 0.5 * np.log1p(edges[1]))
    right = 100 * np.eye(24)
    assert fit_temperature(right, center, edges, smoothing=0) == 0.05
    assert fit_temperature(-right, center, edges, smoothing=0) == 20.0


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


def test_the_target_is_a_normalized_gaussian_of_bins():
    edges = redshift_edges(16, LARGEST)
    target = redshift_target([0.001, 0.3, 0.69], edges)
    center = np.arange(16) + 0.5
    for row, redshift in zip(target, [0.001, 0.3, 0.69]):
        position = np.log1p(redshift) / np.log1p(LARGEST) * 16
        expected = norm.pdf(center, position, 0.8)
        assert_allclose(row, expected / expected.sum(), rtol=1e-10)
    bins = redshift_target(edges[:-1] + 1e-6, edges, smoothing=0)
    assert_array_equal(bins, np.eye(16))
