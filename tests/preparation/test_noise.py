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
from hypothesis import given
from hypothesis import strategies as st

from astroclip.exceptions import PreparationError
from astroclip.preparation.noise import inverse_variance, judge_spectra

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
    data = type("Data", (), {"uncertainty": other, "data": np.ones(3)})()
    message = r"^x has an uncertainty in '.*K.*'; expected one convertible to '.*Jy.* Give the"
    with pytest.raises(u.UnitsError, match=message):
        inverse_variance(data, u.Jy, "x")


@pytest.mark.parametrize("make", [StdDevUncertainty, VarianceUncertainty])
def test_errors_that_are_none_give_no_finite_positive_weight(make):
    errors = np.array([0.0, np.nan, -1.0, -99.0, np.inf, 2.0])
    data = NDData(np.ones(6), unit=u.Jy, uncertainty=make(errors))
    ivar = inverse_variance(data, u.Jy, "x")[0]
    assert list(np.isfinite(ivar) & (ivar > 0)) == [False] * 5 + [True]


def test_one_error_for_all_pixels_and_another_shape():
    data = CCDData(np.ones((2, 3)), unit=u.Jy)
    data.uncertainty = StdDevUncertainty(np.array([0.5, 1.0, 2.0]))
    np.testing.assert_array_equal(inverse_variance(data, u.Jy, "x"), [[4, 1, 0.25]] * 2)
    data = type("Data", (), {"uncertainty": StdDevUncertainty(np.ones(4)), "data": np.ones(3)})()
    message = r"^x has an uncertainty of shape \(4,\) and data of shape \(3,\); expected the same"
    with pytest.raises(PreparationError, match=message):
        inverse_variance(data, u.Jy, "x")


def test_another_axis_comes_out_last():
    values = np.arange(6.0).reshape(3, 2)
    data = CCDData(np.ones((3, 2)), unit=u.Jy, uncertainty=InverseVariance(values))
    np.testing.assert_array_equal(inverse_variance(data, u.Jy, "x", axis=0), values.T)


def test_rows_are_selected():
    data = CCDData(np.ones((5, 4)), unit=u.nmgy)
    data.uncertainty = InverseVariance(np.arange(20.0).reshape(5, 4))
    np.testing.assert_array_equal(
        inverse_variance(data, u.nmgy, "x", rows=slice(1, 3)), np.arange(4.0, 12).reshape(2, 4)
    )


@pytest.mark.parametrize("uncertainty", [None, UnknownUncertainty(np.ones(3))])
def test_what_is_no_variance_is_none(uncertainty):
    assert inverse_variance(NDData(np.ones(3), uncertainty=uncertainty), u.Jy, "x") is None


# ---------------------------------------------------------------------- judging values
def noisy(seed=0, n_pixels=400, signal_to_noise=10.0):
    """Return flux around one, its inverse variance and a mask without a bad pixel."""
    rng = np.random.default_rng(seed)
    sigma = np.full(n_pixels, 1 / signal_to_noise)
    flux = 1 + sigma * rng.normal(size=n_pixels)
    return flux[None], sigma[None] ** -2.0, np.zeros((1, n_pixels), bool)


@given(
    st.integers(0, 1000), st.floats(0.01, 0.2), st.floats(100, 5000), st.floats(1, 50),
    st.booleans(),
)
def test_exactly_the_pixels_with_huge_errors_are_unusable(seed, share, size, quality, runs):
    flux, ivar, mask = noisy(seed, signal_to_noise=quality)
    rng = np.random.default_rng(seed)
    bad = rng.random(400) < share
    if runs:
        bad = np.roll(np.arange(400) < 400 * share, rng.integers(400))
    flux[0, bad] = size * rng.choice([-1, 1], bad.sum())
    ivar[0, bad] = (3 * size) ** -2.0
    judgment = judge_spectra(flux, ivar, mask)
    np.testing.assert_array_equal(judgment.unusable[0], bad)
    assert not judgment.empty[0]
    assert np.isnan(judgment.implausible[0])


@pytest.mark.parametrize("mark", [99.0, 999.0, 1e10, 1e30, 1e-30])
def test_marks_among_errors_are_unusable(mark):
    flux, ivar, mask = noisy()
    ivar[0, 30:60] = mark**-2.0
    assert list(np.flatnonzero(judge_spectra(flux, ivar, mask).unusable)) == list(range(30, 60))


def test_noisy_ranges_lines_with_large_errors_and_known_bad_pixels_are_left():
    flux, ivar, mask = noisy()
    ivar[0, :100] /= 20.0**2  # a blue end
    flux[0, 200], ivar[0, 200] = 3000.0, 100.0**-2.0  # a line, 30 errors high
    flux[0, 300], ivar[0, 300], mask[0, 300] = 0.0, 0.0, True
    assert not judge_spectra(flux, ivar, mask).unusable.any()


@pytest.mark.parametrize("mark", [99.0, 1e10])
def test_errors_that_are_all_one_mark_are_empty(mark):
    flux, ivar, mask = noisy()
    assert list(judge_spectra(flux, np.full(ivar.shape, mark**-2.0), mask).empty) == [True]
    assert not judge_spectra(flux, ivar, mask).empty[0]
    scattered = 1 + mark * np.random.default_rng(1).normal(size=flux.shape)
    assert not judge_spectra(scattered, np.full(ivar.shape, mark**-2.0), mask).empty[0]


@pytest.mark.parametrize(
    ("scale", "empty"), [(1e-17, True), (1e17, True), (1e-3, False), (30, False)]
)
def test_errors_in_another_unit_than_the_flux_are_empty(scale, empty):
    flux, ivar, mask = noisy()
    ivar *= np.random.default_rng(2).uniform(0.8, 1.2, ivar.shape) / scale**2
    assert judge_spectra(flux, ivar, mask).empty[0] == empty


@given(st.floats(-12, 14))
def test_fluxes_of_no_object_are_implausible(exponent):
    flux, ivar, mask = noisy()
    scale = 10.0**exponent
    found = judge_spectra(flux * scale, ivar / scale**2, mask).implausible[0]
    median = np.median(np.abs(flux)) * scale
    if 1e-8 <= median <= 1e10:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(median)
