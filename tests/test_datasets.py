"""The bundled reference and samples: labeled, complete and of the bundled weights."""

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import StdDevUncertainty

import astroclip
from astroclip._files import file_sha256
from astroclip.datasets import sample_sdss_spectrum, sample_spectra
from astroclip.models.weights import DATA


@pytest.fixture(scope="module")
def reference():
    return astroclip.reference_table()


def test_reference_is_simulated_and_says_so_in_every_row(reference):
    assert len(reference) >= 2 * 5000
    assert set(reference["source"]) == {"simulation"}
    assert all(str(name).startswith("sim-") for name in reference["id"])


def test_reference_belongs_to_the_bundled_weights(reference):
    assert reference.meta["WSHA"] == file_sha256(DATA / "astroclip-small.safetensors")
    assert reference.meta["MODEL"] == "astroclip-small"


def test_every_galaxy_has_both_modalities_and_the_same_properties(reference):
    spectra = reference[np.asarray(reference["modality"]) == "spectrum"]
    images = reference[np.asarray(reference["modality"]) == "image"]
    assert list(spectra["id"]) == list(images["id"])
    for name in ("redshift", "log_stellar_mass", "log_ssfr", "log_metallicity"):
        np.testing.assert_array_equal(spectra[name], images[name])
        assert np.isfinite(np.asarray(spectra[name])).all()


def test_a_changed_copy_does_not_change_the_reference(reference):
    reference["redshift"][0] = 99.0
    assert astroclip.reference_table()["redshift"][0] < 1


def test_previews_are_pictures_and_spectra(reference):
    previews = astroclip.reference_previews(reference["id"][[0, 5, 100]])
    assert previews["image"].shape[0] == previews["spectrum"].shape[0] == 3
    assert previews["image"].dtype == np.uint8
    assert previews["image"].max() > 60
    assert previews["spectrum"].shape[1] == len(previews["wavelength"])
    assert np.all(np.diff(previews["wavelength"]) > 0)


def test_the_rest_frame_reference_holds_the_same_galaxies(reference):
    rest = astroclip.reference_table("astroclip-small-rest")
    spectra = reference[np.asarray(reference["modality"]) == "spectrum"]
    assert set(rest["modality"]) == {"spectrum"}
    np.testing.assert_array_equal(rest["id"], spectra["id"])
    np.testing.assert_array_equal(rest["log_ssfr"], spectra["log_ssfr"])
    assert rest.meta["MODEL"] == "astroclip-small-rest"
    assert rest.meta["WSHA"] == file_sha256(DATA / "astroclip-small-rest.safetensors")


def test_a_reference_of_another_model_is_refused():
    with pytest.raises(ValueError, match="model is 'astroclip-mnras'; expected one of"):
        astroclip.reference_table("astroclip-mnras")


def test_what_ships_stays_below_25_megabytes():
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 25e6


@pytest.mark.parametrize("name", ["sim-999999", "galaxy", "sim-x"])
def test_unknown_preview_names_the_id(name):
    with pytest.raises(KeyError, match=rf"ids\[1\] is '{name}'; expected an id"):
        astroclip.reference_previews(["sim-000000", name])


def test_the_line_of_the_second_sample_lacks_the_companion_of_oxygen():
    _, spectrum = sample_spectra()
    wavelength = spectrum.spectral_axis.to_value(u.AA)
    flux, width = spectrum.flux.value, np.gradient(wavelength)
    sigma = spectrum.uncertainty.represent_as(StdDevUncertainty).array

    def line(centre):
        distance = np.abs(wavelength - centre)
        base = np.median(flux[(distance > 21) & (distance < 84)])
        near = distance < 14
        error = np.sqrt(np.sum((width * sigma)[near] ** 2))
        return np.sum((width * (flux - base))[near]), error

    bright, _ = line(5046.3)
    faint, error = line(5046.3 * 4960.30 / 5008.24)
    assert bright == pytest.approx(13.67, abs=0.01)
    assert (faint, error) == (pytest.approx(-0.05, abs=0.01), pytest.approx(0.53, abs=0.01))
    assert faint < bright / 3 - 5 * error


def test_samples_are_real_and_carry_redshift_and_position():
    first, second = sample_spectra()
    assert first.meta["redshift"] == pytest.approx(0.20356, abs=1e-4)
    assert second.meta["redshift"] == pytest.approx(0.00727, abs=1e-4)
    assert second.meta["ra"] == pytest.approx(149.4654, abs=1e-3)
    image = astroclip.sample_image()
    assert set(image) == {"g", "r", "z"}
    assert image["g"].shape == (160, 160)
    assert str(image["g"].unit) == "nmgy"
    assert image["z"].uncertainty is not None
    assert image["r"].wcs.has_celestial


def test_the_sdss_sample_is_in_the_units_and_range_of_its_survey():
    spectrum = sample_sdss_spectrum()
    assert spectrum.meta["id"] == "spec-0411-51873-0101"
    assert spectrum.meta["redshift"] == pytest.approx(0.02938, abs=1e-4)
    assert spectrum.meta["ra"] == pytest.approx(46.5574, abs=1e-3)
    assert spectrum.flux.unit == u.Unit("1e-17 erg / (s cm2 AA)")
    assert 3800 < spectrum.spectral_axis[0].to_value(u.AA) < 3810
    # the line of H alpha, 6564.61 Angstrom in vacuum, stands at its redshift
    window = np.abs(spectrum.spectral_axis.to_value(u.AA) / 1.02938 - 6564.61) < 20
    peak = spectrum.spectral_axis[window][np.argmax(spectrum.flux[window])]
    assert peak.to_value(u.AA) / 1.02938 == pytest.approx(6564.61, abs=2)


def test_shipped_data_stay_under_25_megabytes():
    total = sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file())
    assert total < 25e6
