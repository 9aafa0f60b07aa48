"""Spectra in any unit, order, frame and container give the same arrays, or say why not."""

import numpy as np
import pytest
from astropy import constants
from astropy import units as u
from astropy.io import fits
from astropy.nddata import (
    InverseVariance,
    StdDevUncertainty,
    UnknownUncertainty,
    VarianceUncertainty,
)
from astropy.utils.masked import Masked
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d
from specutils import Spectrum, SpectrumCollection, SpectrumList
from specutils.manipulation import FluxConservingResampler
from specutils.utils.wcs_utils import air_to_vac, vac_to_air

import astroclip
from astroclip.exceptions import PreparationError
from astroclip.preparation import prepare_spectra, read_spectra, resample_flux
from astroclip.preparation.batches import FLUX_UNIT
from astroclip.preparation.noise import judge_spectra
from astroclip.preparation.objects import sort_objects
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
    own = {
        "flux": flux[0] * FLUX_UNIT, "spectral_axis": wavelength * u.AA,
        "uncertainty": InverseVariance(ivar[0]), "mask": mask,
    }
    return Spectrum(**own | options)


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


MEDIA_SAID = {
    "vacuum": [
        {}, {"medium": "vacuum"}, {"header": {"VACUUM": 1}}, {"header": {"CTYPE1": "WAVE-LOG"}},
        {"header": fits.Header({"AIRORVAC": "vac", "CTYPE1": "LINEAR"})},
    ],
    "air": [
        {"medium": "air"}, {"header": {"VACUUM": False}}, {"header": {"ctype1": "AWAV"}},
        {"header": fits.Header({"AIRORVAC": "air"})}, {"header": {"TUCD3": "em.wl;obs.atmos"}},
    ],
}


def rebin_by_hand(flux, variance, bad):
    """Return flux, variance and the share of good pixels on the grid, by overlaps of pixels."""
    def edges(centers):
        middles = (centers[1:] + centers[:-1]) / 2
        ends = 2 * centers[0] - middles[0], 2 * centers[-1] - middles[-1]
        return np.concatenate([ends[:1], middles, ends[1:]])

    old, new = edges(WAVELENGTH), edges(GRID)
    overlap = np.minimum(old[1:], new[1:, None]) - np.maximum(old[:-1], new[:-1, None])
    overlap = np.clip(overlap, 0, None)
    good = overlap * ~bad
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            good @ flux / good.sum(axis=1), good**2 @ variance / good.sum(axis=1) ** 2,
            good.sum(axis=1) / overlap.sum(axis=1),
        )


@given(
    st.sampled_from(sorted(AXES)),
    st.sampled_from(sorted(DENSITIES)),
    st.sampled_from([StdDevUncertainty, VarianceUncertainty, InverseVariance]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([bool, np.uint8, ">i4", np.int64, "marked"]),
    st.sampled_from([(medium, k) for medium in MEDIA_SAID for k in range(5)]),
    st.integers(0, 100),
)
def test_any_spectrum_by_hand(
    axis, density, uncertainty, with_unit, descending, mask_type, declared, seed
):
    (flux,), (ivar,) = random_arrays(seed)
    bad = np.random.default_rng(seed).random(len(flux)) < 0.1
    unit, equivalency = DENSITIES[density], u.spectral_density(WAVELENGTH * u.AA)
    values = (flux * FLUX_UNIT).to(unit, equivalency)
    sigma = (ivar**-0.5 * FLUX_UNIT).to_value(unit, equivalency)
    power = {StdDevUncertainty: 1, VarianceUncertainty: 2, InverseVariance: -2}[uncertainty]
    medium, k = declared
    is_air = medium == "air" and AXES[axis].is_equivalent(u.AA)  # frequencies have no medium
    observed = vac_to_air(WAVELENGTH * u.AA) if is_air else WAVELENGTH * u.AA
    if mask_type == "marked":  # by their fluxes
        values, mask = np.where(bad, np.nan, values), None
    else:
        mask = (bad.astype(np.int64) * 64).astype(mask_type)
    order = slice(None, None, -1 if descending else 1)
    spectrum = Spectrum(
        flux=values[order],
        spectral_axis=observed.to(AXES[axis], u.spectral())[order],
        uncertainty=uncertainty(sigma[order] ** power, unit=unit**power if with_unit else None),
        mask=None if mask is None else mask[order],
        meta=MEDIA_SAID[medium][k],
    )
    batch = prepare_spectra(spectrum, wavelength=GRID)
    expected, variance, share = rebin_by_hand(flux, 1 / ivar, bad)
    good = share > 0.51  # a pixel half covered may fall on either side by rounding
    assert batch.mask[0, share < 0.49].all()
    assert not batch.mask[0, good].any()
    np.testing.assert_allclose(batch.flux[0, good], expected[good], rtol=2e-5)
    np.testing.assert_allclose(batch.ivar[0, good], 1 / variance[good], rtol=1e-3)


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


def test_masked_redshifts_are_unknown_and_velocities_refused():
    spectra = [make_spectrum(0), make_spectrum(1)]
    masked = np.ma.array([0.1, 0.2], mask=[False, True])
    batch = prepare_spectra(spectra, wavelength=GRID, redshift=masked)
    np.testing.assert_array_equal(batch.redshift, [0.1, np.nan])
    with pytest.raises(u.UnitsError, match="^redshift has unit 'km / s'; expected one conver"):
        prepare_spectra(spectra, redshift=5000 * u.km / u.s)


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
    good = np.flatnonzero(~batch.mask[0])
    share = batch.mask[0, good[0] : good[-1]].mean()
    assert batch.flags[0] == (Flag.BAD_PIXELS if share > 0.05 else 0)


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
    assert batch.flags[0] == Flag.BAD_PIXELS  # 6 of 61 pixels


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
    ("stop", "flags"), [(4500, Flag.LOW_COVERAGE), (6500, 0)]
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


def survey_spectrum(seed, errors=None, bad=None, quality=10.0, value=200.0):
    """Return a spectrum with lines on a survey's pixels, some bad, and errors by their type."""
    rng = np.random.default_rng(seed)
    wavelength = np.linspace(3700, 9500, 2900)
    sigma = np.full(2900, 3 / quality)
    flux = 3 + np.sin(wavelength / 200) + 8 * np.exp(-0.5 * ((wavelength - 6600) / 8) ** 2)
    flux = flux + sigma * rng.normal(size=2900)
    if bad is not None:
        flux[bad] = value
    uncertainty = StdDevUncertainty(sigma) if errors is None else errors(sigma, bad)
    return flux, wavelength, uncertainty


MARKS = {
    "std 0": lambda s, bad: StdDevUncertainty(np.where(bad, 0, s)),
    "std -1": lambda s, bad: StdDevUncertainty(np.where(bad, -1, s)),
    "std -99": lambda s, bad: StdDevUncertainty(np.where(bad, -99, s)),
    "std NaN": lambda s, bad: StdDevUncertainty(np.where(bad, np.nan, s)),
    "std inf": lambda s, bad: StdDevUncertainty(np.where(bad, np.inf, s)),
    "std 99": lambda s, bad: StdDevUncertainty(np.where(bad, 99, s)),
    "std 1e10": lambda s, bad: StdDevUncertainty(np.where(bad, 1e10, s)),
    "variance 0": lambda s, bad: VarianceUncertainty(np.where(bad, 0, s**2)),
    "variance -1": lambda s, bad: VarianceUncertainty(np.where(bad, -1, s**2)),
    "variance 1e30": lambda s, bad: VarianceUncertainty(np.where(bad, 1e30, s**2)),
    "ivar 0": lambda s, bad: InverseVariance(np.where(bad, 0, s**-2)),
    "ivar -1": lambda s, bad: InverseVariance(np.where(bad, -1, s**-2)),
    "ivar 1e-20": lambda s, bad: InverseVariance(np.where(bad, 1e-20, s**-2)),
    "ivar 1e-300": lambda s, bad: InverseVariance(np.where(bad, 1e-300, s**-2)),
}


@pytest.mark.parametrize("mark", MARKS)
def test_errors_mark_bad_pixels_by_every_convention(mark):
    bad = np.random.default_rng(0).random(2900) < 0.05
    expected, batch = (
        prepare_spectra(
            Spectrum(
                flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA, uncertainty=uncertainty,
                mask=mask,
            ),
            wavelength="log",
        )
        for (flux, wavelength, uncertainty), mask in (
            (survey_spectrum(3, bad=bad), bad), (survey_spectrum(3, MARKS[mark], bad), None),
        )
    )
    assert_same(batch, expected)


@pytest.mark.parametrize("quality", [1, 10, 50])
@pytest.mark.parametrize("size", [100, 5000])
def test_spikes_with_honest_errors_weigh_nothing(quality, size):
    sample = astroclip.sample_spectrum()
    wavelength, rng = sample.spectral_axis, np.random.default_rng(1)
    flux = gaussian_filter1d(sample.flux.value, 2)
    level = np.median(flux)
    sigma = np.full(len(flux), level / quality)
    flux, bad = flux + sigma * rng.normal(size=len(flux)), rng.random(len(flux)) < 0.02
    spiky = np.where(bad, size * level, flux)
    errors = np.where(bad, 3 * size * level, sigma)
    spectra = [
        Spectrum(
            flux=values * sample.flux.unit, spectral_axis=wavelength, mask=mask,
            uncertainty=StdDevUncertainty(error),
        )
        for values, error, mask in ((flux, sigma, None), (spiky, errors, None), (flux, sigma, bad))
    ]
    clean, found, masked = np.asarray(astroclip.embed(spectra)["embedding"])
    assert clean @ found > 0.99
    np.testing.assert_allclose(found, masked, atol=1e-5)


def test_real_spectra_lose_no_pixel_to_their_errors(shared_data):
    paths = sorted((shared_data / "sdss").glob("spec-*.fits"))[::6]
    paths += sorted((shared_data / "desi").glob("coadd-*.fits"))
    for spectrum in (one for path in paths for one in read_spectra(path)):
        flux, ivar = spectrum.flux.value, np.array(spectrum.uncertainty.array, dtype=float)
        bad = ~(ivar > 0) | np.asarray(spectrum.mask, bool)
        judgment = judge_spectra(
            np.where(bad, 0, flux)[None], np.where(bad, 0, ivar)[None], bad[None]
        )
        assert not judgment.unusable.any()
        assert not judgment.empty.any()


def test_one_mark_as_every_error_is_no_uncertainty():
    flux, wavelength, _ = survey_spectrum(0)
    spectra = [
        Spectrum(flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA, uncertainty=error)
        for error in (None, StdDevUncertainty(np.full(2900, 99.0)))
    ]
    batch = prepare_spectra(spectra, wavelength="log")
    assert_same(batch[1], batch[0])
    assert batch.flags[1] == Flag.IVAR_ESTIMATED


@pytest.mark.parametrize(
    "mask", [np.uint8, np.int64, np.float32, object, bool], ids=lambda kind: kind.__name__
)
def test_masks_of_any_type(mask):
    bad = np.random.default_rng(2).random(160) < 0.1
    values = np.where(bad, 64, 0).astype(mask)
    expected = prepare_spectra(make_spectrum(mask=bad), wavelength=GRID)
    assert_same(prepare_spectra(make_spectrum(mask=values), wavelength=GRID), expected)


# ---------------------------------------------------------------------- numbers of every kind
@pytest.mark.parametrize("dtype", [">f4", ">f8", "f2", "i4", "u2", "f4"])
def test_types_of_numbers(dtype):
    flux = np.round(np.linspace(3, 90, 160)).astype(dtype)
    batch = prepare_spectra(make_spectrum(flux=flux * FLUX_UNIT), wavelength=WAVELENGTH)
    np.testing.assert_array_equal(batch.flux[0], flux.astype("f4"))


def test_masked_quantities():
    bad = WAVELENGTH > 6000
    (flux,), _ = random_arrays()
    masked = make_spectrum(flux=Masked(flux * FLUX_UNIT, mask=bad))
    expected = prepare_spectra(make_spectrum(mask=bad), wavelength=GRID)
    assert_same(prepare_spectra(masked, wavelength=GRID), expected)


@pytest.mark.parametrize("scale", [1e-17, 1e17])
def test_fluxes_of_no_object_are_refused(scale):
    (flux,), _ = random_arrays()
    message = r"^spectra\[1\] has a median flux density of [34].*1[67].*; expected 1e-08 to 1e\+10"
    with pytest.raises(PreparationError, match=message):
        prepare_spectra([make_spectrum(), make_spectrum(flux=flux * scale * FLUX_UNIT)])


@pytest.mark.parametrize("unit", ["1e-17 erg / (s cm2 AA)", FLUX_UNIT, u.mJy])
def test_flux_without_unit_is_in_the_unit_given(unit):
    (flux,), (ivar,) = random_arrays()
    bare = make_spectrum(flux=flux * u.one, uncertainty=InverseVariance(ivar))
    own = make_spectrum(
        flux=flux * u.Unit(unit), uncertainty=InverseVariance(ivar, unit=u.Unit(unit) ** -2)
    )
    batch = prepare_spectra([bare, own], wavelength=GRID, unit=unit)
    assert_same(batch[[0]], batch[[1]])
    with pytest.raises(u.UnitsError, match="^spectra has flux with no unit; .* Pass unit='1e-17"):
        prepare_spectra(bare, wavelength=GRID)


# ---------------------------------------------------------------------- media
DECLARATIONS = {
    "meta": ({"medium": "air"}, "air"),
    "meta in capitals": ({"medium": "VACUUM"}, "vacuum"),
    "AWAV": ({"header": {"CTYPE1": "AWAV"}}, "air"),
    "AWAV-LOG of a cube": ({"header": {"CTYPE3": "AWAV-LOG"}}, "air"),
    "WAVE": ({"header": {"CTYPE1": "WAVE"}}, "vacuum"),
    "LAMOST": ({"header": {"VACUUM": "T"}}, "vacuum"),
    "SDSS": ({"header": {"VACUUM": 1}}, "vacuum"),
    "VACUUM = F": ({"header": fits.Header({"VACUUM": False})}, "air"),
    "DESI": ({"header": fits.Header({"AIRORVAC": "vac"})}, "vacuum"),
    "IRAF": ({"header": fits.Header({"AIRORVAC": "AIR"})}, "air"),
    "ESO": ({"header": fits.Header({"TUCD1": "em.wl;obs.atmos"})}, "air"),
    "keyword in meta": ({"airorvac": "air"}, "air"),
    "WAVELENGTH": ({"header": {"CTYPE1": "WAVELENGTH"}}, "vacuum (assumed)"),
    "nothing": ({}, "vacuum (assumed)"),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_media_are_those_declared(case):
    meta, medium = DECLARATIONS[case]
    batch = prepare_spectra(make_spectrum(meta=meta), wavelength=GRID)
    assert list(batch.medium) == [medium]
    expected = prepare_spectra(make_spectrum(), wavelength=GRID, medium=medium.split()[0])
    assert_same(batch, expected)


def test_the_medium_of_a_wcs():
    header = fits.Header({
        "CTYPE1": "AWAV", "CUNIT1": "Angstrom", "CRVAL1": 3900.0, "CDELT1": 20.0, "CRPIX1": 1.0,
    })
    (flux,), _ = random_arrays()
    spectrum = Spectrum(flux=flux * FLUX_UNIT, wcs=WCS(header))
    assert list(prepare_spectra(spectrum, wavelength=GRID).medium) == ["air"]


def test_contradicting_media_need_a_word():
    spectra = [
        make_spectrum(),
        make_spectrum(meta={"medium": "air", "header": {"VACUUM": True}}),
        make_spectrum(meta={"medium": "water"}),
    ]
    batch = prepare_spectra(spectra, wavelength=GRID, on_error="flag")
    assert list(batch.failed) == [False, True, True]
    assert "declares its wavelengths to be in air and in vacuum, by medium=" in batch.messages[1]
    assert "has meta['medium'] 'water'; expected 'air' or 'vacuum'." in batch.messages[2]
    assert list(batch.medium) == ["vacuum (assumed)", "", ""]
    assert set(prepare_spectra(spectra, wavelength=GRID, medium="air").medium) == {"air"}


def test_air_below_2000_angstrom_is_vacuum_and_frequencies_have_no_medium():
    wavelength = np.linspace(1000, 7100, 3000)
    flux = np.exp(-0.5 * ((wavelength - 5000) / 20) ** 2) + 1
    spectrum = Spectrum(flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA)
    batch = prepare_spectra(spectrum, wavelength=np.linspace(4900, 5100, 201), medium="air")
    light = batch.flux[0] - 1
    center = (light * batch.wavelength).sum() / light.sum()
    vacuum = air_to_vac(5000 * u.AA, scheme="iteration").value
    assert center == pytest.approx(vacuum, abs=0.05)
    frequencies = make_spectrum(spectral_axis=(WAVELENGTH * u.AA).to(u.THz, u.spectral()))
    batch = prepare_spectra(frequencies, wavelength=GRID, medium="air")
    assert list(batch.medium) == ["vacuum"]
    assert_same(batch, prepare_spectra(make_spectrum(), wavelength=GRID))


# ---------------------------------------------------------------------- containers
@pytest.mark.parametrize("n_objects", [3, 160])
def test_spectral_axis_first(n_objects):
    flux, ivar = random_arrays(1, n_objects)
    mask = np.random.default_rng(0).random(flux.shape) < 0.1
    ids = [f"row {row}" for row in range(n_objects)]
    last, first = (
        Spectrum(
            flux=turn(flux) * FLUX_UNIT, spectral_axis=WAVELENGTH * u.AA,
            spectral_axis_index=index, uncertainty=InverseVariance(turn(ivar)), mask=turn(mask),
            meta={"id": ids},
        )
        for turn, index in ((np.asarray, 1), (np.transpose, 0))
    )
    batch = prepare_spectra(first, wavelength=GRID)
    assert list(batch.ids) == ids
    assert_same(batch, prepare_spectra(last, wavelength=GRID))


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


# ---------------------------------------------------------------------- faults of one object
def faulty(name):
    """Return a spectrum with a fault by its name, and what its message says."""
    velocity = np.linspace(-1e4, 1e4, 160) * u.km / u.s
    magnitudes = "Magnitudes and other logarithms are not linear"
    return {
        "AB magnitudes": ({"flux": np.full(160, 20) * u.ABmag, "uncertainty": None}, magnitudes),
        "ST magnitudes": ({"flux": np.full(160, 20) * u.STmag, "uncertainty": None}, magnitudes),
        "dex": ({"flux": np.ones(160) * u.dex(FLUX_UNIT), "uncertainty": None}, magnitudes),
        "ampere": (
            {"flux": np.ones(160) * u.Unit("erg / (s cm2 A)"), "uncertainty": None},
            "'A' is ampere in astropy: write 'Angstrom' or 'AA'",
        ),
        "complex": ({"flux": (1 + 1j) * np.ones(160) * FLUX_UNIT}, "flux of type complex128"),
        "unknown errors": (
            {"uncertainty": UnknownUncertainty(np.ones(160))}, "expected StdDevUncertainty"
        ),
        "velocities": ({"spectral_axis": velocity}, "rest_value and velocity_convention"),
        "log10": ({"spectral_axis": np.log10(WAVELENGTH) * u.AA}, "log10 of the wavelength"),
        "ln": ({"spectral_axis": np.log(WAVELENGTH) * u.AA}, "natural logarithm of the wave"),
        "nm as Angstrom": (
            {"spectral_axis": WAVELENGTH / 10 * u.AA}, "If its wavelengths are in nm, give them"
        ),
        "redshifts": ({"redshift": [0.1, 0.2]}, "Spectrum.redshift of shape (2,); expected one"),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["AB magnitudes", "ST magnitudes", "dex", "ampere", "complex", "unknown errors", "velocities",
     "log10", "ln", "nm as Angstrom", "redshifts"],
)
def test_a_fault_of_one_object_costs_the_others_nothing(name):
    options, message = faulty(name)
    spectra = [make_spectrum(0), make_spectrum(1, **options), make_spectrum(2)]
    batch = prepare_spectra(spectra, wavelength=GRID, on_error="flag")
    assert list(batch.failed) == [False, True, False]
    assert batch.messages[1].startswith("spectra[1] has ")
    assert message in batch.messages[1]
    assert_same(batch[[0, 2]], prepare_spectra(spectra[::2], wavelength=GRID))


def test_an_unexpected_fault_is_named():
    items = list(sort_objects([make_spectrum(0), make_spectrum(1)], name="spectra"))
    items[1].data = None
    batch = prepare_spectra(items, wavelength=GRID, ids=["a", "b"], on_error="flag")
    assert batch.messages[1].startswith("spectra[1] cannot be prepared: AttributeError: ")
    with pytest.raises(PreparationError, match=r"^spectra\[1\] cannot be prepared") as caught:
        prepare_spectra(items, wavelength=GRID, ids=["a", "b"])
    assert isinstance(caught.value.__cause__, AttributeError)


def test_velocities_along_a_line_of_known_wavelength():
    axis = WAVELENGTH * u.AA
    velocity = axis.to(u.km / u.s, u.doppler_optical(5500 * u.AA))
    spectrum = make_spectrum(
        spectral_axis=velocity, rest_value=5500 * u.AA, velocity_convention="optical"
    )
    expected = prepare_spectra(make_spectrum(), wavelength=GRID)
    assert_same(prepare_spectra(spectrum, wavelength=GRID), expected)
