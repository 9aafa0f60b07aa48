"""Scales against astropy's statistics of directions, and by their symmetries."""

import numpy as np
import pytest
from astropy import units as u
from astropy.stats import circmean
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from astroclip.estimation.scales import CircularScale, make_scale

angles = st.lists(st.floats(-400, 400), min_size=3, max_size=9)


@given(values=angles, seed=st.integers(0, 99))
def test_directions_average_as_astropys(values, seed):
    weight = np.random.default_rng(seed).uniform(0.1, 1, len(values))
    phase = np.exp(1j * np.radians(values))
    if abs((weight * phase).sum()) < 1e-3:
        return  # no direction
    scale = CircularScale(360)
    found = scale.from_scale(scale.mean(np.array([values]), weight[None]))[0]
    expected = circmean(values * u.deg, weights=weight).to_value(u.deg)
    assert abs((found - expected + 180) % 360 - 180) < 1e-6
    assert 0 <= found < 360


@given(first=st.floats(-1e3, 1e3), second=st.floats(-1e3, 1e3), period=st.floats(0.5, 400))
def test_deviations_are_the_shorter_way_round(first, second, period):
    found = CircularScale(period).deviation(first, second)
    assert abs(found) <= period / 2 * (1 + 1e-9)
    turns = (first - second - found) / period
    assert abs(turns - round(turns)) < 1e-6


@pytest.mark.parametrize(("name", "period"), [("linear", None), ("positive", None),
                                              ("circular", 180.0)])
def test_scales_and_targets_go_there_and_back(name, period):
    scale = make_scale(name, period)
    values = np.random.default_rng(0).uniform(0.1, 170, 50)
    on_scale = scale.to_scale(values)
    assert_allclose(scale.from_scale(on_scale), values)
    assert_allclose(scale.from_scale(scale.from_targets(scale.targets(on_scale))), values)
    assert (scale.name, scale.period) == (name, period)


def test_angles_stay_below_the_period():
    assert CircularScale(180.0).from_scale(np.array([-1e-30, 180.0, 359.0])).tolist() == [
        0, 0, 179,
    ]  # fmt: skip
