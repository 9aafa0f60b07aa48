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

from astroclip import FewShotEstimator, RedshiftEstimator, reference_table
from astroclip.estimation import PropertyEstimator
from astroclip.estimation.properties import (
    CircularScale,
    LinearScale,
    LogarithmicScale,
    column_numbers,
    read_property,
    suspicious_numbers,
)
from astroclip.exceptions import SuspiciousLabelWarning
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


# ---------------------------------------------------------------------- missing values
RNG = np.random.default_rng(0)
MEASURED = {
    "log_mass": RNG.normal(10.4, 0.6, 500),
    "redshift": np.append(RNG.uniform(0.01, 0.9, 500), -0.0004),
    "rate": RNG.lognormal(0, 1.5, 500),
    "mass": 10 ** RNG.normal(10.4, 0.6, 500),
    "age": np.round(RNG.exponential(15, 500)),
    "share": np.round(RNG.uniform(0, 100, 500)),  # 99 percent is one of them
    "angle": RNG.uniform(0, 180, 500),
    "type": RNG.integers(-5, 11, 500).astype(float),
    "answer": RNG.choice([-1.0, 1.0], 500),
    "flag": RNG.choice([0.0, 1.0], 500),
}


@pytest.mark.parametrize("name", MEASURED)
def test_measured_numbers_are_not_suspicious(name):
    assert suspicious_numbers(MEASURED[name]) == {}


@pytest.mark.parametrize("value", [-9999, -999, -99, -99.9, -32768, -(2**63), 1e20, 1e30, -1e30])
@pytest.mark.parametrize("name", MEASURED)
def test_constants_of_catalogs_are_found(name, value):
    period = 180 if name == "angle" else None
    for count in (2, 30):
        values = np.append(MEASURED[name], np.full(count, np.float32(value)))
        found = suspicious_numbers(values, period=period)
        assert len(found) == 1
        assert_allclose([*found], value, rtol=1e-6)
        assert [*found.values()] == [count]


@pytest.mark.parametrize(
    ("name", "value"),
    [("redshift", -1), ("redshift", 99), ("redshift", 9.9999), ("redshift", -9), ("rate", -1),
     ("log_mass", 0), ("log_mass", -1), ("log_mass", 99), ("mass", -1), ("angle", 999),
     ("type", 99), ("flag", 99)],
)  # fmt: skip
def test_smaller_constants_are_found_where_they_cannot_be_measured(name, value):
    values = np.append(MEASURED[name], [value] * 5)
    assert suspicious_numbers(values, period=180 if name == "angle" else None) == {value: 5}


def test_several_constants_and_nothing_else():
    values = np.append(MEASURED["log_mass"], [-9999, -99, -99, np.nan, np.inf])
    assert suspicious_numbers(values) == {-9999: 1, -99: 2}
    assert suspicious_numbers(np.full(4, -9999.0)) == {-9999: 4}
    assert suspicious_numbers(np.zeros(4)) == suspicious_numbers(np.array([np.nan])) == {}


def labeled(**columns):
    table, _ = survey(60, 1)
    for name, values in columns.items():
        table[name] = values
    return table


@pytest.mark.parametrize("value", [-99, -9999])
@pytest.mark.parametrize(
    "estimator", [PropertyEstimator(n_neighbors=4), FewShotEstimator(n_folds=2)]
)
def test_missing_is_as_nan(estimator, value):
    mass, unknown = np.random.default_rng(1).normal(10.5, 0.5, 60), np.arange(60) % 7 == 0
    table = labeled(mass=np.where(unknown, value, mass), nan=np.where(unknown, np.nan, mass))
    found = rf"^table\['mass'\] holds {value} in 9 of 60 rows: .* pass missing=\({value},\)"
    with pytest.warns(SuspiciousLabelWarning, match=found):
        estimator.fit(table, ["mass"])
    given = estimator.fit(table, ["mass"], missing=(value, -1)).predict(table)
    right = estimator.fit(table, ["nan"]).predict(table)
    assert_array_equal(given["mass"], right["nan"])
    assert_array_equal(given["mass_lower"], right["nan_lower"])


def test_redshifts_that_calibrate():
    table = reference_table()
    table = table[table["modality"] == "spectrum"][:100].copy()
    redshift = np.asarray(table["redshift"], dtype=float)
    unknown = np.arange(100) % 10 == 0
    table["redshift"] = MaskedColumn(redshift, mask=unknown)
    right = RedshiftEstimator().fit(table, "redshift")
    table["redshift"] = np.where(unknown, -1.0, redshift)
    found = r"^table\['redshift'\] holds -1 in 10 of 100 .* pass missing=\(-1,\)"
    with pytest.warns(SuspiciousLabelWarning, match=found):
        RedshiftEstimator().fit(table, "redshift")
    given = RedshiftEstimator().fit(table, "redshift", missing=-1)
    assert given.temperature_ == right.temperature_
    assert given.calibration_ == right.calibration_


def test_classes_that_are_unknown():
    words = np.array(["a", "b", "UNKNOWN", " ", "n/a", "nan"] * 10)
    table = QTable({"text": words, "code": [0, 1, 2, 3, -9, 99] * 10, "sign": [-1, 1] * 30})
    table["objects"] = np.array(["a", None, "b"] * 20, dtype=object)
    table["numbers"] = np.array([1.0, None, 2] * 20, dtype=object)
    with pytest.warns(SuspiciousLabelWarning, match=r"'UNKNOWN' in 10 and 'n/a' in 10 and 'nan'"):
        found, _, known = read_property(table, "text")
    assert known.sum() == 50
    found, _, known = read_property(table, "text", missing=("UNKNOWN", "n/a", "nan"))
    assert found.classes.tolist() == ["a", "b"]
    assert known.sum() == 20
    with pytest.warns(SuspiciousLabelWarning, match=r"'code'\] holds -9 in 10 and 99 in 10 of 60"):
        read_property(table, "code", group="categorical")
    found, _, _ = read_property(table, "code", group="categorical", missing=("-9", 99))
    assert found.classes.tolist() == [0, 1, 2, 3]
    assert read_property(table, "sign", group="categorical")[0].classes.tolist() == [-1, 1]
    assert read_property(table, "objects")[2].sum() == column_numbers(table, "numbers")[0].size - 20


def test_positive_numbers_and_faults_of_missing(table):
    table["bad"] = [1.0, -99.0, 2.0]
    with pytest.raises(ValueError, match=r"is -99; expected .* Pass missing=\(-99,\)"):
        read_property(table, "bad", group="positive")
    assert read_property(table, "bad", group="positive", missing=-99)[2].tolist() == [1, 0, 1]
    with pytest.raises(TypeError, match=r"^missing is \{'bad': 3\}; expected numbers or text"):
        read_property(table, "bad", missing={"bad": 3})
