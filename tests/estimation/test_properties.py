"""Columns read as properties, and scales against astropy's statistics of directions."""

import numpy as np
import pytest
from astropy import units as u
from astropy.stats import circmean
from astropy.table import Column, MaskedColumn, QTable
from astropy.utils.masked import Masked
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.estimation import PropertyEstimator
from astroclip.estimation.properties import (
    CircularScale,
    LinearScale,
    LogarithmicScale,
    column_numbers,
    read_property,
)
from tests.estimation.surveys import survey


@pytest.fixture
def table():
    return QTable(
        {
            "mass": MaskedColumn([1.0, 2.0, 3.0], mask=[False, True, False]),
            "age": Masked([1.0, 2.0, np.nan] * u.Gyr, mask=[True, False, False]),
            "share": [0.1, 0.2, 0.3] * u.dimensionless_unscaled,
            "angle": [0.0, 190.0, -10.0] * u.deg,
            "kind": MaskedColumn(["b", "", "a"], mask=[False, False, False]),
            "raw": Column([b"x", b"y", b"x"]),
            "flag": [True, False, True],
            "same": ["a", "a", "a"],
        }
    )


def test_numbers_units_and_masks(table):
    assert_array_equal(column_numbers(table, "mass")[0], [1, np.nan, 3])
    values, unit = column_numbers(table, "age")
    assert_array_equal(values, [np.nan, 2, np.nan])
    assert unit == u.Gyr
    assert column_numbers(table, "share")[1] is None
    found, values, known = read_property(table, "age")
    assert (found.unit, type(found.scale), found.classes) == (u.Gyr, LinearScale, None)
    assert_array_equal(known, [False, True, False])


def test_classes(table):
    found, codes, known = read_property(table, "kind")
    assert found.classes.tolist() == ["a", "b"]
    assert_array_equal(known, [True, False, True])
    assert_array_equal(codes[known], [1, 0])
    assert read_property(table, "raw")[0].classes.tolist() == ["x", "y"]
    assert read_property(table, "flag")[0].classes.tolist() == [False, True]
    found, _, _ = read_property(table, "mass", group="categorical")
    assert found.classes.tolist() == [1.0, 3.0]


def test_periods_and_logarithms(table):
    found, values, _ = read_property(table, "angle", group="circular", period=np.pi * u.rad)
    assert found.scale.period == pytest.approx(180)
    assert_allclose(values, [0, 190, -10])
    _, values, known = read_property(table, "mass", group="positive")
    assert_allclose(values[known], np.log([1, 3]))


@pytest.mark.parametrize(
    ("name", "group", "period", "error", "message"),
    [
        ("angle", "positive", None, ValueError, r"^positive names 'angle', and table\['angle'\]"),
        ("angle", "circular", 3 * u.kpc, u.UnitsError, r"^table\['angle'\] has unit 'deg'; expec"),
        ("mass", "circular", 3 * u.deg, u.UnitsError, r"^table\['mass'\] has no unit; expected"),
        ("mass", "circular", 0, ValueError, r"^circular\['mass'\] is 0; expected a positive"),
        ("same", None, None, ValueError, "^properties names 'same', .* with 1 different values"),
        ("kind", "positive", None, ValueError, "^properties names 'kind', a column of <U1 with"),
    ],
)
def test_refusals(table, name, group, period, error, message):
    with pytest.raises(error, match=message):
        read_property(table, name, group=group, period=period)


def test_kinds_of_other_properties_are_refused():
    reference, _ = survey(30, 0)
    with pytest.raises(KeyError, match="positive names 'age', which is none of the properties"):
        PropertyEstimator(n_neighbors=4, positive=["age"]).fit(reference, ["mass"])


def test_columns_of_one_name_are_refused():
    reference, _ = survey(30, 1)
    reference["mass_lower"] = reference["mass"]
    estimator = PropertyEstimator(n_neighbors=4).fit(reference, ["mass", "mass_lower"])
    with pytest.raises(ValueError, match="^the result has two columns 'mass_lower': properties"):
        estimator.predict(reference)


# ---------------------------------------------------------------------- scales
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


@pytest.mark.parametrize("scale", [LinearScale(), LogarithmicScale(), CircularScale(180.0)])
def test_scales_and_targets_go_there_and_back(scale):
    values = np.random.default_rng(0).uniform(0.1, 170, 50)
    on_scale = scale.to_scale(values)
    assert_allclose(scale.from_scale(on_scale), values)
    assert_allclose(scale.from_scale(scale.from_targets(scale.targets(on_scale))), values)


def test_angles_stay_below_the_period():
    assert CircularScale(180.0).from_scale(np.array([-1e-30, 180.0, 359.0])).tolist() == [
        0, 0, 179,
    ]  # fmt: skip
