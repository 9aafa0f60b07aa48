"""Recorded pairs: seeds, instruments and cameras; embeddings beside what is true."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from astroclip import embed
from astroclip.evaluation import (
    embed_pairs,
    record_images,
    record_spectra,
    true_properties,
    upstream_ssfr,
)
from astroclip.evaluation.pairs import iterate_pairs
from astroclip.simulation.spectrographs import WAVELENGTH
from tests.evaluation.conftest import make_model


def test_a_seed_fixes_every_draw_and_another_changes_them(pairs):
    for record, name in ((record_spectra, "flux"), (record_images, "pixels")):
        first, same, other = (getattr(record(pairs, seed=seed), name) for seed in (3, 3, 4))
        np.testing.assert_array_equal(first, same)
        assert not np.array_equal(first, other)


def test_noise_of_the_same_seed_is_scaled(pairs):
    usual, noisy = (record_spectra(pairs, seed=3, noise=noise) for noise in (1.0, 2.0))
    sigma = [1 / np.sqrt(batch.ivar) for batch in (usual, noisy)]
    sky = pairs["spectrum"].astype(float) < 0.1 * sigma[0]  # where photons do not matter
    assert sky.any()
    np.testing.assert_allclose((sigma[1] / sigma[0])[sky], 2.0, rtol=0.02)


@pytest.mark.parametrize("instrument", ["desi", "sdss", "varied"])
def test_recorded_spectra_follow_the_noiseless_ones(pairs, instrument):
    batch = record_spectra(pairs, seed=1, instrument=instrument, noise=0.01)
    noiseless = pairs["spectrum"].astype(float)
    for number in range(5):
        good = ~batch.mask[number]
        correlation = np.corrcoef(batch.flux[number][good], noiseless[number][good])[0, 1]
        assert correlation > 0.7  # calibration and line spread differ


def test_a_wavelength_range_masks_the_rest(pairs):
    batch = record_spectra(pairs, seed=1, wavelength_range=(4500.0, 8500.0))
    outside = (WAVELENGTH < 4500) | (WAVELENGTH > 8500)
    assert batch.mask[:, outside].all()
    assert not batch.mask[:, ~outside].any()


def test_lost_depth_is_noise_and_blur_is_a_gaussian(pairs):
    usual, shallow = (record_images(pairs, seed=1, depth_loss=d).pixels for d in (0.0, 2.5))
    noiseless = pairs["image"].astype(np.float32)
    noise = [np.std((seen - noiseless)[:, :, :8, :8]) for seen in (usual, shallow)]
    assert noise[1] / noise[0] == pytest.approx(10, rel=0.15)
    seeing = pairs["seeing"][2, 1]
    width = seeing * np.sqrt(1.5**2 - 1) / 2.355 / 0.524
    deep = record_images(pairs, seed=1, blur=1.5, depth_loss=-10).pixels[2, 1]
    expected = gaussian_filter(noiseless[2, 1], width, mode="nearest")
    scatter = np.sqrt(2.0e-4 * expected.clip(0)) + 1e-4  # photons alone are left
    assert np.mean(np.abs(deep - expected) < 4 * scatter) > 0.99


def test_other_cameras_record_the_same_galaxies(pairs):
    images = {camera: record_images(pairs, seed=1, camera=camera) for camera in ("sdss", "varied")}
    assert np.mean(images["varied"].mask) > 0
    for batch in images.values():
        assert batch.pixels.shape == pairs["image"].shape
        assert np.isfinite(batch.pixels).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"camera": "hubble"}, "'legacysurvey', 'sdss', 'varied'"),
        ({"blur": 0.5}, "one or more"),
        ({"camera": "sdss", "depth_loss": 1.0}, "expected 0"),
    ],
)
def test_impossible_images_are_refused(pairs, options, words):
    with pytest.raises(ValueError, match=words):
        record_images(pairs, seed=1, **options)


def test_an_unknown_instrument_is_refused(pairs):
    with pytest.raises(ValueError, match="'desi', 'sdss', 'varied'"):
        record_spectra(pairs, seed=1, instrument="muse")


# ---------------------------------------------------------------------- embeddings
def test_embeddings_are_those_of_the_recorded_pairs(model, pairs, embedded):
    held, _ = embedded
    spectra, images = (record(pairs, seed=(1, 0)) for record in (record_spectra, record_images))
    for kind, batch in (("spectrum", spectra), ("image", images)):
        expected = np.asarray(embed(batch, model=model)["embedding"])
        np.testing.assert_allclose(held.embeddings(kind), expected, rtol=1e-5, atol=1e-6)
    assert held.features.shape == (len(held), len(WAVELENGTH) + 1)
    flux, ivar = spectra.flux.astype(float), spectra.ivar.astype(float)
    mean = (flux * ivar).sum(axis=1) / ivar.sum(axis=1)
    bright = mean > 0.1 * (np.abs(flux) * ivar).sum(axis=1) / ivar.sum(axis=1)
    expected = np.arcsinh(flux / mean[:, None])
    np.testing.assert_allclose(held.features[bright, :-1], expected[bright], rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(held.features[bright, -1], np.log10(mean[bright]), atol=5e-3)


def test_truth_is_in_the_tables_with_the_upstream_rate(pairs, embedded):
    held, _ = embedded
    truth = true_properties(pairs)
    assert list(truth)[0] == "redshift"
    np.testing.assert_array_equal(truth["upstream_ssfr"], upstream_ssfr(pairs))
    for table in held.tables.values():
        for name, values in truth.items():
            np.testing.assert_allclose(np.asarray(table[name]), values)


def test_shards_are_read_one_after_the_other(model, pairs, tmp_path):
    for number, rows in enumerate((slice(0, 10), slice(10, 24))):
        shard = {name: values[rows] for name, values in pairs.items()}
        np.savez(tmp_path / f"pairs-{number:05d}.npz", **shard)
    found = embed_pairs(model, tmp_path, seed=1, modalities=("image",))
    assert list(found.tables) == ["image"]
    np.testing.assert_array_equal(found.truth["redshift"], pairs["redshift"].astype(float))
    np.testing.assert_array_equal(found.galaxies["magnitude"], pairs["magnitude"])
    twice = embed_pairs(model, [tmp_path, tmp_path], seed=1, modalities=("image",))
    assert len(twice) == 2 * len(found)
    with pytest.raises(FileNotFoundError, match="no pairs-"):
        list(iterate_pairs(tmp_path / "elsewhere"))


def test_a_model_gets_the_modalities_and_the_frame_that_it_takes(towers, image_model, pairs):
    assert list(embed_pairs(image_model, pairs, seed=1).tables) == ["image"]
    rest = make_model(spectrum_encoder=towers["spectrum_encoder"])
    spectrum = dataclasses.replace(rest.preset.spectrum, frame="rest")
    rest.preset = dataclasses.replace(rest.preset, spectrum=spectrum)
    few = {name: values[:3] for name, values in pairs.items()}
    shifted = embed_pairs(rest, few, seed=1).embeddings("spectrum")
    plain = record_spectra(few, seed=(1, 0))
    for number in range(3):  # the same by way of specutils
        from astropy import units as u
        from astropy.nddata import InverseVariance
        from specutils import Spectrum

        unit = u.Unit("1e-17 erg / (s cm2 AA)")
        spectrum = Spectrum(
            flux=plain.flux[number].astype(float) * unit,
            spectral_axis=WAVELENGTH * u.AA,
            uncertainty=InverseVariance(plain.ivar[number].astype(float), unit=unit**-2),
        )
        table = embed(spectrum, model=rest, redshift=float(few["redshift"][number]))
        np.testing.assert_allclose(np.asarray(table["embedding"])[0], shifted[number], atol=2e-3)
