"""Resampling against specutils, a loop over pixels, and conservation of flux."""

import numpy as np
import pytest
from astropy import units as u
from hypothesis import example, given
from hypothesis import strategies as st
from specutils import Spectrum
from specutils.manipulation import FluxConservingResampler

from astroclip.preparation import resample_flux
from astroclip.preparation.resampling import (
    BRIDGED,
    bridge_gaps,
    estimate_ivar,
    fill_bad_pixels,
    overlaps,
    pixel_edges,
    row_median,
)


def edges_of(centres):
    """Return pixel edges, one by one."""
    edges = [(a + b) / 2 for a, b in zip(centres[:-1], centres[1:], strict=True)]
    return [2 * centres[0] - edges[0], *edges, 2 * centres[-1] - edges[-1]]


def resample_slowly(wavelength, flux, ivar, mask, wavelength_out):
    """Return flux, ivar, mask and coverage of one spectrum by loops over all pixel pairs."""
    old, new = edges_of(wavelength), edges_of(wavelength_out)
    rows = []
    for low, high in zip(new[:-1], new[1:], strict=True):
        light = variance = covered = 0.0
        for k in range(len(wavelength)):
            overlap = min(high, old[k + 1]) - max(low, old[k])
            if overlap > 0 and not mask[k] and ivar[k] > 0:
                light += overlap * flux[k]
                variance += overlap**2 / ivar[k]
                covered += overlap
        coverage = min(covered / (high - low), 1.0)
        bad = coverage < 0.5
        rows.append((0, 0, True, coverage) if bad else (
            light / covered, covered**2 / variance, False, coverage
        ))
    return [np.array(column) for column in zip(*rows, strict=True)]


@st.composite
def grids(draw, low=2, high=25):
    """Return ascending pixel centres of uneven steps."""
    steps = draw(st.lists(st.floats(0.2, 5.0), min_size=low - 1, max_size=high - 1))
    return draw(st.floats(90.0, 110.0)) + np.concatenate([[0.0], np.cumsum(steps)])


def spectra(n_objects, wavelength, seed, bad_share=0.2):
    """Return flux, ivar and mask of random spectra."""
    rng = np.random.default_rng(seed)
    shape = (n_objects, len(wavelength))
    return rng.normal(5, 3, shape), rng.uniform(0.1, 4, shape), rng.random(shape) < bad_share


def far_from_the_limit(coverage):
    """Return whether no pixel's coverage is within rounding of one half."""
    return np.all(np.abs(coverage - 0.5) > 1e-9)


@given(grids(), grids(), st.integers(0, 1000))
def test_agrees_with_a_loop_over_pixels(wavelength, wavelength_out, seed):
    flux, ivar, mask = spectra(3, wavelength, seed)
    ivar[1, ::3] = 0.0
    for grid in (wavelength, np.tile(wavelength, (3, 1))):
        new = resample_flux(grid, flux, ivar, mask, wavelength_out)
        for row in range(3):
            expected = resample_slowly(wavelength, flux[row], ivar[row], mask[row], wavelength_out)
            np.testing.assert_allclose(new.coverage[row], expected[3], atol=1e-12)
            if far_from_the_limit(expected[3]):
                np.testing.assert_array_equal(new.mask[row], expected[2])
                np.testing.assert_allclose(new.flux[row], expected[0], rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(new.ivar[row], expected[1], rtol=1e-9)


@given(st.lists(grids(), min_size=3, max_size=3), grids(low=6), st.integers(0, 1000))
def test_a_grid_for_each_spectrum_equals_one_at_a_time(wavelengths, wavelength_out, seed):
    n_pixels = min(map(len, wavelengths))
    wavelength = np.stack([grid[:n_pixels] for grid in wavelengths])
    flux, ivar, mask = spectra(3, wavelength[0], seed)
    new = resample_flux(wavelength, flux, ivar, mask, wavelength_out)
    for row in range(3):
        one = (wavelength[row], flux[[row]], ivar[[row]], mask[[row]])
        alone = resample_flux(*one, wavelength_out)
        if far_from_the_limit(alone.coverage):
            for name in ("flux", "ivar", "mask", "coverage"):
                np.testing.assert_allclose(
                    getattr(new, name)[row], getattr(alone, name)[0], rtol=1e-9, atol=1e-10
                )


GRIDS = {
    "finer": (np.linspace(4000, 9000, 301), np.linspace(4100, 8900, 1203)),
    "coarser": (np.linspace(4000, 9000, 1501), np.linspace(4100, 8900, 97)),
    "log to linear": (10 ** np.linspace(3.6, 3.95, 800), np.linspace(4100, 8800, 900)),
    "linear to log": (np.linspace(4000, 9000, 800), 10 ** np.linspace(3.61, 3.94, 900)),
}


@pytest.mark.parametrize("case", GRIDS)
def test_flux_agrees_with_specutils(case):
    wavelength, wavelength_out = GRIDS[case]
    flux, ivar, mask = spectra(1, wavelength, 3, bad_share=0)
    spectrum = Spectrum(flux=flux[0] * u.Jy, spectral_axis=wavelength * u.AA)
    expected = FluxConservingResampler()(spectrum, wavelength_out * u.AA)
    new = resample_flux(wavelength, flux, ivar, mask, wavelength_out)
    assert not new.mask.any()
    np.testing.assert_allclose(new.flux[0], expected.flux.value, rtol=1e-10)


@given(grids(low=4), st.integers(0, 1000), st.integers(2, 40))
def test_total_flux_is_conserved_where_all_is_covered(wavelength, seed, n_out):
    flux, ivar, mask = spectra(1, wavelength, seed, bad_share=0)
    edges = pixel_edges(wavelength)
    half = (edges[-1] - edges[0]) / n_out / 2  # output pixels that span the input exactly
    new = resample_flux(
        wavelength, flux, ivar, mask, np.linspace(edges[0] + half, edges[-1] - half, n_out)
    )
    total = (flux * np.diff(edges)).sum()
    assert (new.flux * 2 * half).sum() == pytest.approx(total, rel=1e-9, abs=1e-9)


@given(grids(low=4), grids(), st.integers(0, 1000), st.sampled_from([np.nan, np.inf, 1e30, -1e30]))
def test_what_a_bad_pixel_holds_never_leaks(wavelength, wavelength_out, seed, wild):
    flux, ivar, mask = spectra(2, wavelength, seed, bad_share=0.4)
    spoiled = [np.where(mask, wild, values) for values in (flux, ivar)]
    for grid in (wavelength, np.tile(wavelength, (2, 1))):
        clean = resample_flux(grid, flux, ivar, mask, wavelength_out)
        again = resample_flux(grid, *spoiled, mask, wavelength_out)
        for name in ("flux", "ivar", "mask", "coverage"):
            np.testing.assert_array_equal(getattr(again, name), getattr(clean, name))


@pytest.mark.parametrize(("flux", "ivar"), [(9, 0), (9, -1), (9, np.nan), (9, np.inf), (np.nan, 1)])
@pytest.mark.parametrize("tiled", [False, True])
def test_pixels_without_finite_flux_and_positive_ivar_are_bad_unmasked(flux, ivar, tiled):
    wavelength = np.arange(8.0)
    values, weights = np.ones((2, 8)), np.ones((2, 8))
    values[0, 4], weights[0, 4] = flux, ivar
    grid = np.tile(wavelength, (2, 1)) if tiled else wavelength
    new = resample_flux(grid, values, weights, np.zeros((2, 8), bool), [1.5, 3.5, 5.5])
    np.testing.assert_array_equal(new.flux, np.ones((2, 3)))
    np.testing.assert_array_equal(new.ivar, [[2, 1, 2], [2, 2, 2]])
    np.testing.assert_array_equal(new.coverage, [[1, 0.5, 1], [1, 1, 1]])


def test_the_same_grid_changes_nothing():
    wavelength = 10 ** np.linspace(3.55, 3.99, 400)
    flux, ivar, mask = spectra(3, wavelength, 0)
    new = resample_flux(wavelength, flux, ivar, mask, wavelength)
    np.testing.assert_array_equal(new.mask, mask)
    np.testing.assert_allclose(new.flux, np.where(mask, 0, flux), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(new.ivar, np.where(mask, 0, ivar), rtol=1e-10)


def test_no_overlap_is_all_masked():
    new = resample_flux(np.arange(1.0, 9), *np.ones((2, 1, 8)), np.zeros((1, 8)), np.arange(20, 24))
    assert new.mask.all()
    assert not new.flux.any()
    assert not new.ivar.any()
    assert not new.coverage.any()


@given(grids(), grids())
def test_overlaps_tile_the_common_range(first, second):
    old, new = pixel_edges(first), pixel_edges(second)
    pixel_out, pixel_in, width = overlaps(old, new)
    expected = {}
    for j in range(len(second)):
        for k in range(len(first)):
            overlap = min(new[j + 1], old[k + 1]) - max(new[j], old[k])
            if overlap > 0:
                expected[j, k] = overlap
    found = dict(zip(zip(pixel_out.tolist(), pixel_in.tolist(), strict=True), width, strict=True))
    assert found == expected


@given(grids())
def test_edges_are_midpoints(centres):
    np.testing.assert_allclose(pixel_edges(centres), edges_of(centres), rtol=1e-13)


@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from([np.float32, np.float64]))
def test_filling_agrees_with_numpy_interpolation(seed, bad_share, dtype):
    rng = np.random.default_rng(seed)
    flux = rng.normal(size=(4, 15)).astype(dtype)
    mask = rng.random((4, 15)) < bad_share
    mask[0], mask[1] = False, True
    flux[mask] = np.nan
    filled = fill_bad_pixels(flux, mask)
    assert filled.dtype == dtype
    pixel = np.arange(15)
    for row in range(4):
        good = ~mask[row]
        expected = np.interp(pixel, pixel[good], flux[row, good]) if good.any() else np.zeros(15)
        np.testing.assert_allclose(filled[row], expected, rtol=2e-6, atol=1e-6)
        np.testing.assert_array_equal(filled[row, good], flux[row, good])


@pytest.mark.parametrize("sigma", [0.01, 0.3, 20.0])
def test_ivar_is_estimated_from_the_scatter_despite_slopes_and_bad_pixels(sigma):
    rng = np.random.default_rng(5)
    flux = np.linspace(1, 4, 4000) + sigma * rng.normal(size=(3, 4000))
    mask = rng.random((3, 4000)) < 0.1
    flux[mask] = 1e9
    ivar = estimate_ivar(flux, mask)
    np.testing.assert_allclose(ivar, 1 / sigma**2, rtol=0.15)
    assert (np.ptp(ivar, axis=1) == 0).all()


@pytest.mark.parametrize("n_pixels", [1, 3, 4, 50])
def test_a_noiseless_spectrum_keeps_a_finite_weight(n_pixels):
    ivar = estimate_ivar(np.full((1, n_pixels), 2.0), np.zeros((1, n_pixels), bool))
    np.testing.assert_allclose(ivar, 1e6 / 2.0**2)


def test_nothing_known_has_no_weight():
    flux = np.array([[0.0] * 9, [3.0] * 9])
    mask = np.zeros((2, 9), bool)
    mask[1] = True
    assert not estimate_ivar(flux, mask).any()


def test_row_median_ignores_what_is_not_finite():
    values = np.array([[1.0, 5.0, 2.0], [np.nan, 4.0, np.inf], [np.nan] * 3])
    np.testing.assert_array_equal(row_median(values), [2, 4, np.nan])
    assert np.isnan(row_median(np.empty((2, 0)))).all()


@given(st.lists(st.lists(st.booleans(), min_size=30, max_size=30), min_size=1, max_size=4))
@example([[False, *[True] * 25, False, True, False, True], [False] * 10 + [True] * 20])
@example([[False, *[True] * 26, False, True, False], [True] * 10 + [False] * 20])
def test_bridged_gaps_are_the_short_ones_between_good_pixels(rows):
    mask = np.repeat(np.array(rows), 2, axis=1)
    rng = np.random.default_rng(0)
    flux, ivar = rng.normal(size=(2, *mask.shape))
    new_flux, new_ivar, new_mask = bridge_gaps(flux, ivar, mask)
    pixels = np.arange(mask.shape[1])
    for row, bad in enumerate(mask):
        good = pixels[~bad]
        for pixel in pixels:
            before, after = good[good < pixel], good[good > pixel]
            inside = bad[pixel] and len(before) and len(after)
            bridged = bool(inside and after[0] - before[-1] - 1 <= BRIDGED)
            assert new_mask[row, pixel] == (bad[pixel] and not bridged)
            for new, old in ((new_flux, flux), (new_ivar, ivar)):
                expected = np.interp(pixel, good, old[row, good]) if bridged else old[row, pixel]
                np.testing.assert_allclose(new[row, pixel], expected)
