"""Survey files against what astropy.io.fits reads from the same bytes."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty
from specutils import Spectrum

from astroclip.datasets import DATA
from astroclip.exceptions import PreparationError
from astroclip.preparation import prepare_spectra, read_images, read_spectra
from astroclip.tables import Flag

SAMPLES = DATA / "samples"


# ---------------------------------------------------------------------- spectra
def test_bundled_desi_coadd():
    (galaxy,) = read_spectra(SAMPLES / "desi-27247.fits")
    assert galaxy.meta["id"] == "39089837499744649"
    assert galaxy.meta["ra"] == pytest.approx(149.4654, abs=1e-4)
    assert galaxy.meta["dec"] == pytest.approx(1.79365, abs=1e-4)
    assert galaxy.flux.unit == u.Unit("1e-17 erg / (s cm2 AA)")
    with fits.open(SAMPLES / "desi-27247.fits") as hdus:
        blue = np.asarray(hdus["B_FLUX"].data[0], dtype=float)
    # below the overlap with the next arm the merged flux is that of the first
    np.testing.assert_allclose(galaxy.flux.value[:2690], blue[:2690], rtol=1e-6)
    batch = prepare_spectra(galaxy, wavelength="desi")
    np.testing.assert_allclose(batch.flux[0], galaxy.flux.value, rtol=2e-5, atol=1e-4)
    assert batch.coverage[0] > 0.999


def test_bundled_merged_spectrum():
    (galaxy,) = read_spectra(SAMPLES / "desi-39627776344457978.fits")
    assert galaxy.meta["id"] == "desi-39627776344457978"
    assert isinstance(galaxy.uncertainty, StdDevUncertainty)
    batch = prepare_spectra(galaxy, wavelength="desi")
    good = ~batch.mask[0]
    assert good.mean() > 0.99
    # the file's wavelengths are float32: off the grid by up to 3e-4 of a pixel
    np.testing.assert_allclose(batch.flux[0, good], galaxy.flux.value[good], atol=0.02)
    expected = galaxy.uncertainty.array[good] ** -2.0
    np.testing.assert_allclose(np.median(batch.ivar[0, good] / expected), 1.0, rtol=1e-3)


def test_desi_coadd_of_several_targets(shared_data):
    path = shared_data / "desi" / "coadd-sv3-dark-26065.fits"
    spectra = read_spectra(path)
    with fits.open(path) as hdus:
        table = hdus["FIBERMAP"].data
        assert [s.meta["id"] for s in spectra] == [str(value) for value in table["TARGETID"]]
        np.testing.assert_allclose([s.meta["ra"] for s in spectra], table["TARGET_RA"])
        weight = sum(hdus[f"{arm}_IVAR"].data.sum(axis=1) for arm in "BRZ")
    batch = prepare_spectra(spectra, on_error="flag")
    np.testing.assert_array_equal(batch.failed, weight == 0)
    assert all("has no valid pixel" in message for message in batch.messages[batch.failed])


def test_desi_file_agrees_with_the_survey_s_own_merger(shared_data):
    (galaxy,) = read_spectra(SAMPLES / "desi-39627776344457978.fits")
    held = np.load(shared_data / "desi" / "heldout_z020.npz")
    batch = prepare_spectra(galaxy)
    good = ~batch.mask[0]
    np.testing.assert_allclose(batch.flux[0, good], held["flux"][good], atol=0.02)


@pytest.mark.parametrize(
    "name", ["spec-0411-51873-0101.fits", "spec-4238-55455-0037.fits", "NGC3073_SDSS_DR18.fits"]
)
def test_sdss(shared_data, name):
    path = shared_data / "sdss" / name
    (galaxy,) = read_spectra(path)
    with fits.open(path) as hdus:
        columns = {key.lower(): np.asarray(hdus[1].data[key], float) for key in ("flux", "ivar")}
        loglam = np.asarray(hdus[1].data["loglam"], float)
        position = [hdus[0].header["PLUG_RA"], hdus[0].header["PLUG_DEC"]]
    np.testing.assert_allclose(galaxy.spectral_axis.to_value(u.AA), 10**loglam, rtol=1e-6)
    np.testing.assert_allclose(galaxy.flux.value, columns["flux"], rtol=1e-6)
    np.testing.assert_array_equal(galaxy.mask, columns["ivar"] <= 0)
    np.testing.assert_allclose([galaxy.meta["ra"], galaxy.meta["dec"]], position)
    assert galaxy.meta["id"] == path.stem
    batch = prepare_spectra(galaxy, wavelength="log")
    inside = (batch.wavelength > 10 ** loglam[0]) & (batch.wavelength < 10 ** loglam[-1])
    assert batch.mask[0, ~inside].sum() >= (~inside).sum() - 2
    assert batch.mask[0, inside].mean() == pytest.approx((columns["ivar"] <= 0).mean(), abs=0.03)


def test_any_file_of_specutils(tmp_path):
    path = tmp_path / "galaxy.fits"
    wavelength = np.linspace(4000, 8000, 500)
    Spectrum(
        flux=wavelength * u.mJy,
        spectral_axis=wavelength * u.AA,
        uncertainty=InverseVariance(np.ones(500)),
    ).write(path, format="tabular-fits")
    (spectrum,) = read_spectra(str(path))
    assert spectrum.meta["id"] == "galaxy"
    np.testing.assert_allclose(spectrum.flux.to_value(u.mJy), wavelength)


# ---------------------------------------------------------------------- both
@pytest.mark.parametrize("read", [read_spectra, read_images])
def test_unreadable_paths(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"^path '.*none.fits' does not exist; check the"):
        read(tmp_path / "none.fits")
    with pytest.raises(IsADirectoryError, match=r"^path '.*' is a directory; expected a file\."):
        read(tmp_path)
    (tmp_path / "empty.fits").touch()
    (tmp_path / "notes.fits").write_text("no data")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "bare.fits")
    for name in ("empty", "notes", "bare"):
        with pytest.raises(PreparationError, match=rf"^path '.*{name}.fits' cannot be read") as bad:
            read(tmp_path / f"{name}.fits")
        assert bad.value.flag == Flag.FAILED | Flag.BAD_INPUT
