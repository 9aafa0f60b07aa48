"""Columns read as properties, and what cannot be one."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import Column, MaskedColumn, QTable
from astropy.utils.masked import Masked
from numpy.testing import assert_allclose, assert_array_equal

from astroclip.estimation import PropertyEstimator
from astroclip.estimation.properties import PropertyKinds, column_numbers, read_property
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
    assert (found.unit, found.scale.name, found.classes) == (u.Gyr, "linear", None)
    assert_array_equal(known, [False, True, False])


def test_classes(table):
    found, codes, known = read_property(table, "kind")
    assert found.classes.tolist() == ["a", "b"]
    assert_array_equal(known, [True, False, True])
    assert_array_equal(codes[known], [1, 0])
    assert read_property(table, "raw")[0].classes.tolist() == ["x", "y"]
    assert read_property(table, "flag")[0].classes.tolist() == [False, True]
    kinds = PropertyKinds(categorical=["mass"])
    assert read_property(table, "mass", kinds)[0].classes.tolist() == [1.0, 3.0]


def test_periods_and_logarithms(table):
    found, values, _ = read_property(table, "angle", PropertyKinds({"angle": np.pi * u.rad}))
    assert found.scale.period == pytest.approx(180)
    assert_allclose(values, [0, 190, -10])
    _, values, known = read_property(table, "mass", PropertyKinds(positive="mass"))
    assert_allclose(values[known], np.log([1, 3]))


@pytest.mark.parametrize(
    ("name", "kinds", "error", "message"),
    [
        ("angle", {"positive": ["angle"]}, ValueError, r"^positive names 'angle', and table\['a"),
        ("angle", {"circular": {"angle": 3 * u.kpc}}, u.UnitsError, r"^table\['angle'\] has uni"),
        ("mass", {"circular": {"mass": 3 * u.deg}}, u.UnitsError, r"^table\['mass'\] has no unit"),
        ("mass", {"circular": {"mass": 0}}, ValueError, r"^circular\['mass'\] is 0; expected a p"),
        ("same", {}, ValueError, "^properties names 'same', .* with 1 different values; expected"),
        ("kind", {"positive": ["kind"]}, ValueError, "^properties names 'kind', a column of <U1 w"),
    ],
)
def test_refusals(table, name, kinds, error, message):
    with pytest.raises(error, match=message):
        read_property(table, name, PropertyKinds(**kinds))


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
