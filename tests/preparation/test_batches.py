"""Batches: from plain arrays and quantities, selected, joined, pickled."""

import pickle

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import InverseVariance
from specutils import Spectrum

from astroclip.exceptions import PreparationError
from astroclip.preparation import ImageBatch, SpectrumBatch, concatenate, prepare_spectra
from astroclip.preparation.batches import FLUX_UNIT, bad_fraction, coverage_flags
from astroclip.tables import Flag

WAVELENGTH = np.linspace(4000.0, 4100.0, 21)


def spectrum_batch(n_objects=3, seed=0, **options):
    rng = np.random.default_rng(seed)
    flux = rng.normal(3, 1, (n_objects, 21))
    return SpectrumBatch.from_arrays(WAVELENGTH, flux, **{"ivar": np.ones(flux.shape), **options})


def image_batch(n_objects=3, seed=0, **options):
    pixels = np.random.default_rng(seed).normal(1, 0.1, (n_objects, 3, 8, 8))
    return ImageBatch.from_arrays(pixels, **options)


BATCHES = [spectrum_batch, image_batch]


# ---------------------------------------------------------------------- both kinds
@pytest.mark.parametrize("make", BATCHES)
def test_defaults(make):
    batch = make()
    assert len(batch) == 3
    assert list(batch.ids) == ["0", "1", "2"]
    assert list(batch.coverage) == [1, 1, 1]
    assert list(batch.flags) == [0, 0, 0]
    assert list(batch.messages) == ["", "", ""]
    assert np.isnan([batch.ra, batch.dec, batch.redshift]).all()
    assert not batch.failed.any()


@pytest.mark.parametrize("make", BATCHES)
@pytest.mark.parametrize("rows", [1, [2, 0], slice(1, None), np.array([True, False, True]), -1])
def test_rows(make, rows):
    batch = make(redshift=[0.1, 0.2, 0.3], ids=["a", "b", "c"], ra=5, flags=[0, 1, 2])
    part = batch[rows]
    expected = np.atleast_1d(np.arange(3)[rows])
    assert list(part.ids) == ["abc"[k] for k in expected]
    np.testing.assert_array_equal(part.redshift, batch.redshift[expected])
    np.testing.assert_array_equal(part.mask, batch.mask[expected])
    np.testing.assert_array_equal(part.ra, np.full(len(expected), 5.0))
    np.testing.assert_array_equal(part.failed, expected == 1)


@pytest.mark.parametrize("make", BATCHES)
def test_concatenate_undoes_selection(make):
    batch = make(redshift=[0.1, np.nan, 0.3], messages=["", "why", ""])
    joined = concatenate([batch[[0]], batch[1:]])
    for name in ("flux", "ivar", "pixels", "mask", "ids", "redshift", "messages", "coverage"):
        if hasattr(batch, name):
            np.testing.assert_array_equal(getattr(joined, name), getattr(batch, name))


@pytest.mark.parametrize("make", BATCHES)
def test_pickle(make):
    batch = make(messages="well")
    copy = pickle.loads(pickle.dumps(batch))
    for name, value in vars(batch).items():
        np.testing.assert_array_equal(getattr(copy, name), value)


@pytest.mark.parametrize(
    "other",
    [
        lambda: image_batch(),
        lambda: spectrum_batch(frame="rest"),
        lambda: SpectrumBatch.from_arrays(WAVELENGTH + 1, np.ones(21)),
        lambda: SpectrumBatch.from_arrays(WAVELENGTH[1:], np.ones(20)),
    ],
    ids=["kind", "frame", "grid", "length"],
)
def test_different_batches_do_not_join(other):
    with pytest.raises(ValueError, match=r"^batches\[1\] differs from batches\[0\] in modality"):
        concatenate([spectrum_batch(), other()])


def test_images_of_other_bands_or_scale_do_not_join():
    for other in (image_batch(bands="rgz"), image_batch(pixel_scale=0.4)):
        with pytest.raises(ValueError, match=r"^batches\[1\] differs .* bands, pixel_scale"):
            concatenate([image_batch(), other])


def test_nothing_to_join():
    with pytest.raises(ValueError, match="^batches is empty; pass at least one batch"):
        concatenate([])


@pytest.mark.parametrize("make", BATCHES)
@pytest.mark.parametrize("name", ["ids", "ra", "dec", "redshift", "flags", "messages"])
def test_lengths_are_checked(make, name):
    message = rf"^{name} has shape \(2,\); expected one value, or one for each of the 3 objects"
    with pytest.raises(ValueError, match=message):
        make(**{name: [1, 2]})


@pytest.mark.parametrize("make", BATCHES)
def test_words_are_no_coordinates(make):
    with pytest.raises(TypeError, match="^ra is 'east'; expected a number, or one for each object"):
        make(ra="east")


# ---------------------------------------------------------------------- spectra
def test_bad_pixels_are_masked_interpolated_and_weightless():
    flux, ivar, mask = np.tile(np.arange(21.0), (4, 1)), np.ones((4, 21)), np.zeros((4, 21), bool)
    mask[0, 5] = True
    flux[0, 5], flux[1, 5], ivar[2, 5], ivar[3, 5] = 99, np.nan, 0, np.inf
    batch = SpectrumBatch.from_arrays(WAVELENGTH, flux, ivar=ivar, mask=mask)
    np.testing.assert_array_equal(batch.mask, np.tile(np.arange(21) == 5, (4, 1)))
    np.testing.assert_allclose(batch.flux, np.tile(np.arange(21.0), (4, 1)), rtol=1e-6)
    assert not batch.ivar[:, 5].any()
    np.testing.assert_allclose(batch.coverage, 20 / 21, rtol=1e-6)


def test_quantities_are_converted():
    flux = np.arange(1.0, 22)
    unit = u.erg / (u.s * u.cm**2 * u.nm)
    batch = SpectrumBatch.from_arrays(
        (WAVELENGTH * u.AA).to(u.um), 1e-16 * flux * unit, ivar=np.ones(21) / (1e-16 * unit) ** 2
    )
    np.testing.assert_allclose(batch.wavelength, WAVELENGTH, rtol=1e-13)
    np.testing.assert_allclose(batch.flux[0], flux, rtol=1e-6)
    np.testing.assert_allclose(batch.ivar[0], 1.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["wavelength", "flux", "ivar"])
def test_other_units_are_refused(name):
    arrays = {"wavelength": WAVELENGTH, "flux": np.ones(21), "ivar": np.ones(21)}
    arrays[name] = arrays[name] * u.Jy
    with pytest.raises(u.UnitsError, match=f"^{name} has unit 'Jy'; expected one convertible to"):
        SpectrumBatch.from_arrays(**arrays)


@pytest.mark.parametrize("n_pixels", [3, 21])
def test_missing_ivar_is_estimated_and_flagged(n_pixels):
    wavelength, flux = WAVELENGTH[:n_pixels], np.full((2, n_pixels), 2.0)
    batch = SpectrumBatch.from_arrays(wavelength, flux, flags=[0, int(Flag.PADDED)])
    np.testing.assert_allclose(batch.ivar, 1e6 / 4)
    assert list(batch.flags) == [Flag.IVAR_ESTIMATED, Flag.IVAR_ESTIMATED | Flag.PADDED]


def test_errors_and_fluxes_are_judged_as_those_of_spectra():
    rng = np.random.default_rng(0)
    wavelength = np.linspace(4000, 7000, 300)
    flux, ivar = 3 + 0.1 * rng.normal(size=(2, 300)), np.full((2, 300), 100.0)
    flux[0, 50:55], ivar[0, 50:55] = 3000.0, 9000.0**-2
    ivar[1] = 99.0**-2
    batch = SpectrumBatch.from_arrays(wavelength, flux, ivar=ivar)
    assert list(np.flatnonzero(batch.mask)) == list(range(50, 55))
    assert list(batch.flags) == [0, Flag.IVAR_ESTIMATED]
    spectra = Spectrum(
        flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA, uncertainty=InverseVariance(ivar)
    )
    expected = prepare_spectra(spectra, wavelength=wavelength)
    np.testing.assert_array_equal(batch.mask, expected.mask)
    np.testing.assert_allclose(batch.flux, expected.flux, rtol=1e-6)
    np.testing.assert_allclose(batch.ivar, expected.ivar, rtol=1e-5)


def test_masked_arrays():
    flux = np.ma.array(np.arange(1.0, 22), mask=np.arange(21) == 5)
    ivar = np.ma.array(np.ones(21), mask=np.arange(21) == 7)
    batch = SpectrumBatch.from_arrays(WAVELENGTH, flux, ivar=ivar)
    assert list(np.flatnonzero(batch.mask[0])) == [5, 7]
    np.testing.assert_allclose(batch.flux[0], np.arange(1.0, 22), rtol=1e-6)


def test_fluxes_in_another_unit_are_refused():
    flux = 3 + np.random.default_rng(0).normal(0, 0.1, (3, 21))
    message = r"^flux\[0\] has a median flux density of 3e-17 .* pass flux and ivar with their un"
    with pytest.raises(PreparationError, match=message):
        SpectrumBatch.from_arrays(WAVELENGTH, 1e-17 * flux)
    flux[1] *= 1e-17
    batch = SpectrumBatch.from_arrays(WAVELENGTH, flux)
    assert list(batch.failed) == [False, True, False]
    assert batch.messages[1].startswith("flux[1] has a median flux density of 3e-17")
    assert batch.coverage[1] == 0


def test_complex_flux_is_refused():
    with pytest.raises(TypeError, match="^flux is of type complex128; expected real numbers"):
        SpectrumBatch.from_arrays(WAVELENGTH, np.ones(21, complex))


@pytest.mark.parametrize(
    ("mask", "bad"),
    [
        ([[1, 0, 1, 0, 0, 1, 1, 1]], 0.25),  # ends do not count
        ([[0] * 8], 0.0),
        ([[1] * 8], 1.0),
        (np.eye(4, dtype=bool)[None, None], 0.25),
        (np.stack([np.eye(4, dtype=bool), np.ones((4, 4), bool)])[None], 0.25),  # a band missing
    ],
)
def test_share_of_bad_pixels(mask, bad):
    mask = np.asarray(mask, dtype=bool)
    assert bad_fraction(mask)[0] == pytest.approx(bad)


@pytest.mark.parametrize(
    ("coverage", "bad", "flags"),
    [(1, 0, 0), (0.4, 0, Flag.LOW_COVERAGE), (1, 0.05, 0), (1, 0.051, Flag.BAD_PIXELS)],
)
def test_flags_of_coverage(coverage, bad, flags):
    assert coverage_flags(coverage, bad) == flags


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flux": np.ones((2, 20))}, r"^flux has shape \(2, 20\) and wavelength \(21,\);"),
        ({"ivar": np.ones((1, 21))}, r"^ivar has shape \(1, 21\); expected that of flux, \(2, 21"),
        ({"mask": np.ones((3, 21))}, r"^mask has shape \(3, 21\); expected that of flux, \(2, 21"),
        ({"wavelength": WAVELENGTH[::-1]}, "^wavelength must be finite and strictly ascending"),
        ({"frame": "air"}, "^frame is 'air'; expected one of 'observed', 'rest'"),
    ],
)
def test_spectra_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        SpectrumBatch.from_arrays(**{"wavelength": WAVELENGTH, "flux": np.ones((2, 21)), **options})


# ---------------------------------------------------------------------- images
def test_bad_image_pixels_hold_the_median_of_their_band():
    pixels = np.random.default_rng(0).normal(1, 0.1, (2, 3, 8, 8))
    mask = np.zeros(pixels.shape, bool)
    mask[0, 1, :3], mask[1, 2] = True, True
    pixels[0, 0, 0, 0], pixels[0, 1, 0, 0] = np.nan, 1e6
    original = pixels.copy()
    batch = ImageBatch.from_arrays(pixels, mask=mask)
    good = pixels[0, 0].ravel()[1:]
    assert batch.pixels[0, 0, 0, 0] == pytest.approx(np.median(good), rel=1e-6)
    np.testing.assert_allclose(batch.pixels[0, 1, :3], np.median(pixels[0, 1, 3:]), rtol=1e-6)
    assert not batch.pixels[1, 2].any()
    np.testing.assert_allclose(batch.coverage, [1 - 25 / 192, 1 - 64 / 192], rtol=1e-6)
    np.testing.assert_array_equal(pixels, original)
    np.testing.assert_allclose(batch.pixels[~batch.mask], pixels[~batch.mask], rtol=1e-6)


def test_one_image_and_units():
    batch = ImageBatch.from_arrays(np.ones((2, 4, 4)) * u.mgy, bands="gr", mask=np.zeros((2, 4, 4)))
    assert batch.pixels.shape == (1, 2, 4, 4)
    assert batch.bands == ("g", "r")
    assert (batch.pixels == 1e9).all()
    with pytest.raises(u.UnitsError, match="^pixels has unit 'K'; expected one convertible to"):
        ImageBatch.from_arrays(np.ones((3, 4, 4)) * u.K)


@pytest.mark.parametrize("shape", [(4, 4), (2, 4, 4), (1, 3, 4, 5)])
def test_images_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"^pixels has shape .*; expected \(N, 3, S, S\) for band"):
        ImageBatch.from_arrays(np.ones(shape))


@pytest.mark.parametrize("shape", [(4, 4), (3, 4, 4), (2, 3, 4)])
def test_image_masks_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"^mask has shape .*; expected that of pixels, \(2, 3, 4"):
        ImageBatch.from_arrays(np.ones((2, 3, 4, 4)), mask=np.zeros(shape, bool))
