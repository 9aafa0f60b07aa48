"""Uncertainties of every type against their definitions."""

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import (
    CCDData,
    InverseVariance,
    NDData,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)

from astroclip.preparation.noise import inverse_variance

SIGMA = np.array([0.5, 1.0, 4.0])
CASES = {
    "standard deviation": (StdDevUncertainty, SIGMA, 1),
    "variance": (VarianceUncertainty, SIGMA**2, 2),
    "inverse variance": (InverseVariance, SIGMA**-2.0, -2),
}


@pytest.mark.parametrize("case", CASES)
def test_every_type_is_the_same_inverse_variance(case):
    make, values, _ = CASES[case]
    data = NDData(np.ones(3), unit=u.Jy, uncertainty=make(values.copy()))
    ivar = inverse_variance(data, u.Jy, "x")
    np.testing.assert_allclose(ivar, [[4, 1, 1 / 16]])
    np.testing.assert_array_equal(data.uncertainty.array, values)


@pytest.mark.parametrize("case", CASES)
def test_the_uncertainty_may_have_another_unit_than_the_data(case):
    make, values, power = CASES[case]
    uncertainty = make(values * 1e3**power, unit=u.mJy**power)
    ivar = inverse_variance(NDData(np.ones(3), unit=u.Jy, uncertainty=uncertainty), u.Jy, "x")
    np.testing.assert_allclose(ivar, [[4, 1, 1 / 16]])


@pytest.mark.parametrize("case", CASES)
def test_a_unit_that_does_not_go_with_the_data_is_refused(case):
    make, values, power = CASES[case]
    other = make(values, unit=u.K**power)
    data = type("Data", (), {"uncertainty": other})()
    message = r"^x has an uncertainty in '.*K.*'; expected one convertible to '.*Jy.* Give the"
    with pytest.raises(u.UnitsError, match=message):
        inverse_variance(data, u.Jy, "x")


@pytest.mark.parametrize("make", [StdDevUncertainty, VarianceUncertainty])
def test_zero_and_unknown_errors_give_no_finite_positive_weight(make):
    data = NDData(np.ones(3), unit=u.Jy, uncertainty=make(np.array([0.0, np.nan, 2.0])))
    ivar = inverse_variance(data, u.Jy, "x")[0]
    assert list(np.isfinite(ivar) & (ivar > 0)) == [False, False, True]


def test_rows_are_selected():
    data = CCDData(np.ones((5, 4)), unit=u.nmgy)
    data.uncertainty = InverseVariance(np.arange(20.0).reshape(5, 4))
    np.testing.assert_array_equal(
        inverse_variance(data, u.nmgy, "x", rows=slice(1, 3)), np.arange(4.0, 12).reshape(2, 4)
    )


@pytest.mark.parametrize("uncertainty", [None, UnknownUncertainty(np.ones(3))])
def test_what_is_no_variance_is_none(uncertainty):
    assert inverse_variance(NDData(np.ones(3), uncertainty=uncertainty), u.Jy, "x") is None
