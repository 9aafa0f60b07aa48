"""Spectra in any unit, order, frame and container give the same arrays, or say why not."""

import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from hypothesis import given
from hypothesis import strategies as st
from specutils import Spectrum, SpectrumCollection, SpectrumList
from specutils.manipulation import FluxConservingResampler
from specutils.utils.wcs_utils import air_to_vac

from astroclip.exceptions import PreparationError
from astroclip.preparation import prepare_spectra, resample_flux
from astroclip.preparation.batches import FLUX_UNIT
from astroclip.preparation.spectra import BLOCK
from astroclip.tables import Flag

GRID = np.linspace(4000.0, 7000.0, 61)
WAVELENGTH = np.linspace(3900.0, 7100.0, 160)


def random_arrays(seed=0, n_objects=1, wavelength=WAVELENGTH):
    """Return flux and ivar of smooth, noisy spectra."""
    rng = np.random.default_rng(seed)
    shape = (n_objects, len(wavelength))
    return 4 + np.sin(wavelength / 200) + 0.3 * rng.normal(size=shape), rng.uniform(1, 9, shape)


def make_spectrum(seed=0, *, wavelength=WAVELENGTH, mask=None, **options):
    """Return a Spectrum in the library's own units with inverse variances."""
    flux, ivar = random_arrays(seed, wavelength=wavelength)
    own = {"flux": flux[0] * FLUX_UNIT, "uncertainty": InverseVariance(ivar[0])}
    return Spectrum(spectral_axis=wavelength * u.AA, mask=mask, **own | options)


def assert_same(batch, other, rtol=2e-6):
    """Check that two batches hold the same spectra, to float32."""
    np.testing.assert_array_equal(batch.mask, other.mask)
    for name in ("flux", "ivar", "coverage", "flags"):
        np.testing.assert_allclose(getattr(batch, name), getattr(other, name), rtol=rtol)


def test_flux_agrees_with_specutils():
    spectrum = make_spectrum()
    expected = FluxConservingResampler()(spectrum, GRID * u.AA)
    batch = prepare_spectra(spectrum, wavelength=GRID)
    np.testing.assert_allclose(batch.flux[0], expected.flux.value, rtol=1e-7)
    assert batch.flux.dtype == batch.ivar.dtype == np.float32
    np.testing.assert_array_equal(batch.wavelength, GRID)


AXES = {"A": u.AA, "nm": u.nm, "um": u.um, "Hz": u.Hz, "THz": u.THz, "eV": u.eV}
DENSITIES = {
    "per A": FLUX_UNIT,
    "SI": u.W / u.m**2 / u.um,
    "per Hz": u.erg / (u.s * u.cm**2 * u.Hz),
    "mJy": u.mJy,
    "photons": u.photon / (u.s * u.cm**2 * u.AA),
}


@given(
    st.sampled_from(sorted(AXES)),
    st.sampled_from(sorted(DENSITIES)),
    st.sampled_from([StdDevUncertainty, VarianceUncertainty, InverseVariance]),
    st.booleans(),
    st.integers(0, 100),
)
def test_units_and_order_do_not_matter(axis, density, uncertainty, descending, seed):
    (flux,), (ivar,) = random_arrays(seed)
    unit = DENSITIES[density]
    equivalency = u.spectral_density(WAVELENGTH * u.AA)
    values = (flux * FLUX_UNIT).to(unit, equivalency)
    sigma = (ivar**-0.5 * FLUX_UNIT).to_value(unit, equivalency)
    mask = np.random.default_rng(seed).random(len(flux)) < 0.1
    power = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}[uncertainty]
    order = slice(None, None, -1 if descending else 1)
    spectrum = Spectrum(
        flux=values[order],
        spectral_axis=(WAVELENGTH * u.AA).to(AXES[axis], u.spectral())[order],
        uncertainty=uncertainty(sigma[order] ** power),
        mask=mask[order],
    )
    plain = make_spectrum(seed, mask=mask)
    batch, expected = (prepare_spectra(s, wavelength=GRID) for s in (spectrum, plain))
    clear = np.abs(expected.mask.astype(float) - batch.mask) == 0
    assert clear.mean() > 0.97  # a pixel half covered may fall on either side by rounding
    np.testing.assert_allclose(batch.flux[clear], expected.flux[clear], rtol=1e-5)
    np.testing.assert_allclose(batch.ivar[clear], expected.ivar[clear], rtol=1e-5)


def test_flux_per_hertz_by_hand():
    jansky = Spectrum(flux=np.full(160, 3.631) * u.mJy, spectral_axis=WAVELENGTH * u.AA)
    batch = prepare_spectra(jansky, wavelength=WAVELENGTH)
    c = constants.c.to_value(u.AA / u.s)
    np.testing.assert_allclose(batch.flux[0], 3.631e-26 * c / WAVELENGTH**2 / 1e-17, rtol=1e-6)


# ---------------------------------------------------------------------- frames and media
@pytest.mark.parametrize("redshift", [-0.005, 0.02, 0.5])
@pytest.mark.parametrize("given_as", ["argument", "spectrum"])
def test_rest_frame(redshift, given_as):
    grid = np.linspace(3000, 4300, 40) if redshift == 0.5 else np.linspace(4000, 6800, 40)
    if given_as == "argument":
        batch = prepare_spectra(make_spectrum(), wavelength=grid, frame="rest", redshift=redshift)
    else:
        batch = prepare_spectra(make_spectrum(redshift=redshift), wavelength=grid, frame="rest")
    flux, ivar = random_arrays()
    expected = resample_flux(
        WAVELENGTH / (1 + redshift), flux * (1 + redshift), ivar / (1 + redshift) ** 2,
        np.zeros(flux.shape, bool), grid,
    )
    assert expected.coverage.min() > 0.9
    np.testing.assert_allclose(batch.flux, expected.flux, rtol=1e-6)
    np.testing.assert_allclose(batch.ivar, expected.ivar, rtol=1e-6)
    assert batch.redshift[0] == pytest.approx(redshift)
    assert batch.frame == "rest"


def test_redshift_argument_overrides_and_nan_falls_back():
    spectra = [make_spectrum(0, redshift=0.2), make_spectrum(1, redshift=0.2), make_spectrum(2)]
    batch = prepare_spectra(spectra, wavelength=GRID, redshift=[0.1, np.nan, np.nan])
    np.testing.assert_allclose(batch.redshift, [0.1, 0.2, np.nan])
    assert batch.frame == "observed"


def test_the_rest_frame_requires_a_redshift():
    spectra = [make_spectrum(0, redshift=0.01), make_spectrum(1)]
    message = r"^spectra\[1\] has no redshift, and the rest frame needs one; .* redshift or"
    with pytest.raises(PreparationError, match=message):
        prepare_spectra(spectra, wavelength=GRID, frame="rest")
    batch = prepare_spectra(spectra, wavelength=GRID, frame="rest", on_error="flag")
    assert list(batch.flags & Flag.MISSING_REDSHIFT != 0) == [False, True]
    assert list(batch.failed) == [False, True]


@pytest.mark.parametrize("redshift", [np.inf, -np.inf, -0.02, -1.0])
def test_impossible_redshifts_are_refused(redshift):
    with pytest.raises(PreparationError, match="^spectra has redshift .* Pass redshift=nan"):
        prepare_spectra(make_spectrum(), wavelength=GRID, redshift=redshift)


def test_redshift_in_words():
    with pytest.raises(TypeError, match="^redshift is 'high'; expected a number, or one for each"):
        prepare_spectra(make_spectrum(), redshift="high")


def test_air_wavelengths():
    batch = prepare_spectra(make_spectrum(), wavelength=GRID, medium="air")
    vacuum = air_to_vac(WAVELENGTH * u.AA, scheme="iteration")
    assert 1.0 < (vacuum.value - WAVELENGTH).min() < (vacuum.value - WAVELENGTH).max() < 2.0
    (flux,), (ivar,) = random_arrays()
    shifted = make_spectrum(
        wavelength=vacuum.value, flux=flux * FLUX_UNIT, uncertainty=InverseVariance(ivar)
    )
    assert_same(batch, prepare_spectra(shifted, wavelength=GRID))


# ---------------------------------------------------------------------- bad pixels
@given(st.integers(0, 1000), st.sampled_from(["mask", "ivar", "nan", "inf", "wild"]))
def test_bad_pixels_of_any_cause_never_leak(seed, cause):
    rng = np.random.default_rng(seed)
    bad = rng.random(160) < (0.3 if cause == "wild" else 0.2)
    expected = prepare_spectra(make_spectrum(seed, mask=bad), wavelength=GRID)
    (flux,), (ivar,) = random_arrays(seed)
    flux[bad] = {"mask": -777.0, "ivar": 777.0, "nan": np.nan, "inf": -np.inf, "wild": 1e8}[cause]
    ivar[bad & (cause == "ivar")] = 0.0
    spectrum = make_spectrum(
        flux=flux * FLUX_UNIT,
        uncertainty=InverseVariance(ivar),
        mask=bad if cause == "mask" else None,
    )
    batch = prepare_spectra(spectrum, wavelength=GRID)
    assert_same(batch, expected)
    assert batch.flags[0] & Flag.BAD_PIXELS or batch.coverage[0] == 1


def test_gaps_are_interpolated_masked_and_weightless():
    mask = (WAVELENGTH > 5000) & (WAVELENGTH < 5300)
    batch = prepare_spectra(make_spectrum(mask=mask), wavelength=GRID)
    gap = batch.mask[0]
    assert 5 <= gap.sum() <= 6
    assert (batch.ivar[0, gap] == 0).all()
    assert (batch.ivar[0, ~gap] > 0).all()
    expected = np.interp(GRID[gap], GRID[~gap], batch.flux[0, ~gap])
    np.testing.assert_allclose(batch.flux[0, gap], expected, rtol=1e-6)
    assert batch.coverage[0] == pytest.approx(1 - gap.mean())
    assert batch.flags[0] == Flag.BAD_PIXELS


def test_a_bright_line_is_no_artefact():
    flux = np.full(160, 1.0)
    flux[70:75] = 5000.0
    line = make_spectrum(flux=flux * FLUX_UNIT)
    batch = prepare_spectra(line, wavelength=WAVELENGTH)
    np.testing.assert_allclose(batch.flux[0], flux, rtol=1e-6)
    assert batch.flags[0] == 0


def test_missing_uncertainty_is_estimated_and_flagged():
    rng = np.random.default_rng(1)
    wavelength = np.linspace(3900, 7100, 3000)
    flux = 5 + 0.25 * rng.normal(size=3000)
    spectrum = Spectrum(flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA)
    batch = prepare_spectra(spectrum, wavelength=wavelength)
    np.testing.assert_allclose(batch.ivar, 16.0, rtol=0.15)
    assert batch.flags[0] == Flag.IVAR_ESTIMATED


@pytest.mark.parametrize(
    ("stop", "flags"), [(4500, Flag.LOW_COVERAGE | Flag.BAD_PIXELS), (6500, Flag.BAD_PIXELS)]
)
def test_coverage_is_the_share_of_valid_pixels(stop, flags):
    spectrum = make_spectrum(wavelength=np.linspace(3900, stop, 100))
    batch = prepare_spectra(spectrum, wavelength=GRID)
    expected = (stop - 3975) / (GRID[-1] - GRID[0] + 50)
    assert batch.coverage[0] == pytest.approx(expected, abs=1 / len(GRID))
    assert batch.flags[0] == flags


@pytest.mark.parametrize(("min_coverage", "least"), [(0.5, "at least 50 %"), (0.0, "some")])
def test_too_little_coverage(min_coverage, least):
    start = 6000 if min_coverage else 8000
    spectrum = make_spectrum(wavelength=np.linspace(start, 9000, 300))
    message = rf"^spectra has valid data in \d+\.\d % of .* 3975-7025 .*; expected {least}\. Lower"
    with pytest.raises(PreparationError, match=message) as caught:
        prepare_spectra(spectrum, wavelength=GRID, min_coverage=min_coverage)
    assert caught.value.flag == Flag.FAILED | Flag.NO_OVERLAP


# ---------------------------------------------------------------------- containers
def two_dimensional(n_objects, **options):
    flux, ivar = random_arrays(3, n_objects)
    return Spectrum(
        flux=flux * FLUX_UNIT,
        spectral_axis=WAVELENGTH * u.AA,
        uncertainty=InverseVariance(ivar),
        **options,
    )


def single(spectra, row):
    return Spectrum(
        flux=spectra.flux[row],
        spectral_axis=spectra.spectral_axis,
        uncertainty=InverseVariance(spectra.uncertainty.array[row]),
        mask=np.zeros(len(WAVELENGTH), bool),
    )


@pytest.mark.parametrize(
    "container", ["list", "tuple", "SpectrumList", "SpectrumCollection", "nested"]
)
def test_every_container_gives_the_same_rows(container):
    spectra = two_dimensional(3)
    expected = prepare_spectra(spectra, wavelength=GRID)
    rows = [single(spectra, row) for row in range(3)]
    container = {
        "list": rows,
        "tuple": tuple(rows),
        "SpectrumList": SpectrumList(rows),
        "SpectrumCollection": SpectrumCollection.from_spectra(rows),
        "nested": [SpectrumList(rows[:2]), rows[2]],
    }[container]
    batch = prepare_spectra(container, wavelength=GRID)
    assert_same(batch, expected)
    assert list(batch.ids) == ["0", "1", "2"]


def test_blocks_and_repeated_objects_do_not_mix_rows():
    spectra = two_dimensional(BLOCK + 72)
    once = prepare_spectra(spectra, wavelength=GRID)
    twice = prepare_spectra([spectra, make_spectrum(), spectra], wavelength=GRID)
    n_objects = BLOCK + 72
    np.testing.assert_array_equal(twice.flux[:n_objects], once.flux)
    np.testing.assert_array_equal(twice.flux[n_objects + 1 :], once.flux)
    for row in (0, BLOCK - 1, BLOCK, n_objects - 1):
        alone = prepare_spectra(single(spectra, row), wavelength=GRID)
        np.testing.assert_allclose(once.flux[row], alone.flux[0], rtol=1e-6)


def test_objects_on_different_grids_keep_their_order():
    spectra = [make_spectrum(k, wavelength=WAVELENGTH + 0.3 * (k % 2)) for k in range(5)]
    batch = prepare_spectra(spectra, wavelength=GRID)
    for row, spectrum in enumerate(spectra):
        assert_same(batch[row], prepare_spectra(spectrum, wavelength=GRID))


def test_ids_and_positions_come_from_meta():
    meta = {"id": "NGC 1", "ra": 10 * u.arcmin, "dec": -2.5}
    odd = {"ra": "somewhere", "dec": None}
    batch = prepare_spectra([make_spectrum(meta=meta), make_spectrum(meta=odd)], wavelength=GRID)
    assert list(batch.ids) == ["NGC 1", "1"]
    np.testing.assert_allclose(batch.ra, [1 / 6, np.nan])
    np.testing.assert_allclose(batch.dec, [-2.5, np.nan])
    rows = two_dimensional(2, meta={"id": ["a", "b"], "ra": [1.0, 2.0], "dec": 5.0})
    batch = prepare_spectra(rows, wavelength=GRID)
    assert list(batch.ids) == ["a", "b"]
    np.testing.assert_array_equal(batch.ra, [1, 2])
    assert list(prepare_spectra(rows, wavelength=GRID, ids=["x", "y"]).ids) == ["x", "y"]


def test_failed_objects_keep_their_rows():
    spectra = [make_spectrum(0), make_spectrum(1, mask=np.ones(160, bool)), make_spectrum(2)]
    batch = prepare_spectra(spectra, wavelength=GRID, on_error="flag")
    assert list(batch.failed) == [False, True, False]
    assert batch.messages[1].startswith("spectra[1] has no valid pixel: all 160 are masked")
    assert not batch.flux[1].any()
    assert batch.mask[1].all()
    assert_same(batch[[0, 2]], prepare_spectra(spectra[::2], wavelength=GRID))
    with pytest.raises(PreparationError, match=r"^spectra\[1\] has no valid pixel"):
        prepare_spectra(spectra, wavelength=GRID)


# ---------------------------------------------------------------------- misuse
def test_a_negative_wavelength_is_named():
    spectrum = make_spectrum(wavelength=np.linspace(-50, 7000, 160))
    with pytest.raises(PreparationError, match=r"^spectra has wavelengths down to -50 Angstrom; "):
        prepare_spectra(spectrum, wavelength=GRID)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": "galactic"}, "^frame is 'galactic'; expected one of 'observed', 'rest'"),
        ({"medium": "water"}, "^medium is 'water'; expected one of 'vacuum', 'air'"),
        ({"on_error": "ignore"}, "^on_error is 'ignore'; expected one of 'raise', 'flag'"),
        ({"ids": ["a", "b"]}, r"^ids has shape \(2,\); expected one value, or one for each of the"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        prepare_spectra(make_spectrum(), **options)


def test_no_rows():
    nothing = Spectrum(flux=np.ones((0, 160)) * FLUX_UNIT, spectral_axis=WAVELENGTH * u.AA)
    with pytest.raises(ValueError, match="^spectra is empty; pass at least one object"):
        prepare_spectra(nothing)


@pytest.mark.parametrize("unit", [u.erg / u.s / u.cm**2, u.K, u.ct, u.dimensionless_unscaled])
def test_units_that_are_no_flux_density(unit):
    spectrum = Spectrum(flux=np.ones(160) * unit, spectral_axis=WAVELENGTH * u.AA)
    message = r"^spectra\[1\] has flux with .*unit.*; expected a flux density convertible to 1e-17"
    with pytest.raises(u.UnitsError, match=message):
        prepare_spectra([make_spectrum(), spectrum])
