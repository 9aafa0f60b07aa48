"""Checks of arguments: what passes comes back, what fails is named with its fix."""

import numpy as np
import pytest
from astropy import units as u
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from astroclip._validation import (
    check_choice,
    check_integer,
    check_length,
    check_not_empty,
    check_unit,
    import_extra,
    plain_values,
)
from astroclip.exceptions import MissingExtraError


def test_choice():
    assert check_choice("air", ("vacuum", "air"), "medium") == "air"
    with pytest.raises(ValueError, match=r"^medium is 'gas'; expected one of 'vacuum', 'air'\.$"):
        check_choice("gas", ("vacuum", "air"), "medium")


@given(value=st.integers(-5, 15), dtype=st.sampled_from([int, np.int16, np.uint8, np.int64]))
def test_integer_is_kept_inside_the_closed_range(value, dtype):
    value = abs(value) if dtype is np.uint8 else value
    if 2 <= value <= 9:
        found = check_integer(dtype(value), "n", minimum=2, maximum=9)
        assert found == value
        assert type(found) is int
    else:
        with pytest.raises(ValueError, match=rf"^n is {value}; expected at least 2 and at most 9"):
            check_integer(dtype(value), "n", minimum=2, maximum=9)


@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float32(2), "2", None, [2]])
def test_what_is_no_integer(value):
    message = rf"^n is .* of type {type(value).__name__}; expected an integer"
    with pytest.raises(TypeError, match=message):
        check_integer(value, "n")


def test_integer_without_maximum_names_the_minimum_only():
    assert check_integer(10**12, "n") == 10**12
    with pytest.raises(ValueError, match=r"^n is 0; expected at least 1\.$"):
        check_integer(0, "n")


@pytest.mark.parametrize("objects", [[], (), {}, np.empty((0, 3))])
def test_empty(objects):
    with pytest.raises(ValueError, match="^spectra is empty; pass at least one object"):
        check_not_empty(objects, "spectra")


def test_not_empty():
    assert check_not_empty([0], "spectra") is None


@given(n_objects=st.integers(0, 6), length=st.integers(0, 6))
def test_length(n_objects, length):
    values = np.arange(length)
    if length == n_objects:
        assert_array_equal(check_length(list(values), n_objects, "ids"), values)
    else:
        message = rf"^ids has shape \({length},\); .* for each of the {n_objects} galaxies\.$"
        with pytest.raises(ValueError, match=message):
            check_length(values, n_objects, "ids", of="galaxies")
    assert_array_equal(check_length("a", n_objects, "ids"), ["a"] * n_objects)


def test_length_of_two_axes():
    with pytest.raises(ValueError, match=r"^ids has shape \(2, 1\)"):
        check_length([[1], [2]], 2, "ids")


@pytest.mark.parametrize(("unit", "target"), [(u.nm, u.AA), ("km", u.m)])
def test_convertible_unit(unit, target):
    check_unit(unit, target, "wavelength")


@pytest.mark.parametrize(
    ("unit", "found"), [(None, "no unit"), (u.s, "unit 's'"), (u.Hz, "unit 'Hz'")]
)
def test_other_unit(unit, found):
    message = rf"^x\[2\] has axis {found}; expected one convertible to Angstrom\. Multiply"
    with pytest.raises(u.UnitsError, match=message):
        check_unit(unit, u.AA, "x[2]", what="axis")


def test_lacking_unit_is_named_once():
    with pytest.raises(u.UnitsError, match="^x has no unit; expected one convertible to Angstrom"):
        check_unit(None, u.AA, "x")


def test_plain_values_are_in_the_unit_and_arrays_pass():
    assert_allclose(plain_values([1, 2] * u.nm, u.AA, "x"), [10, 20])
    array = np.ones(3)
    assert plain_values(array, u.AA, "x") is array
    with pytest.raises(u.UnitsError, match="^x has unit 's'; expected one convertible to Angstr"):
        plain_values(1 * u.s, u.AA, "x")


def test_extra():
    assert import_extra("json", "catalogs").loads("[1]") == [1]
    message = r"^no_such_module is needed .*pip install 'astroclip\[catalogs\]'"
    with pytest.raises(MissingExtraError, match=message) as caught:
        import_extra("no_such_module", "catalogs")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
