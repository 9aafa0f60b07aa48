"""Real spectra: what is read, and how redshifts are scored."""

import numpy as np
import pytest
from astropy.table import Table

import astroclip
from astroclip.evaluation import (
    estimate_redshifts,
    read_brown2014,
    read_fors2,
    read_real_sets,
    redshift_scores,
)

WAVELENGTH = np.arange(3650.0, 6900.0, 10.0)


def test_fors2_comes_brightest_first_and_within_its_range(tmp_path):
    rng = np.random.default_rng(1)
    flux = rng.uniform(1, 2, (5, len(WAVELENGTH))) * 1e-17
    redshift, signal = np.array([0.3, 0.01, 0.5, 0.7, 0.1]), np.array([4.0, 9, 8, 7, 6])
    path = tmp_path / "fors2.npz"
    np.savez(path, wavelength=WAVELENGTH, flux=flux, ivar=1 / flux**2, z=redshift, sn=signal)
    spectra, known = read_fors2(path)
    np.testing.assert_array_equal(known, [0.5, 0.1, 0.3])
    assert [spectrum.meta["id"] for spectrum in spectra] == ["fors2-2", "fors2-4", "fors2-0"]
    unit = "1e-17 erg / (s cm2 AA)"
    np.testing.assert_allclose(spectra[0].flux.to_value(unit), 1e17 * flux[2])
    np.testing.assert_allclose(spectra[0].uncertainty.array, 1 / flux[2] ** 2)


def test_the_atlas_is_at_its_redshifts(tmp_path):
    path = tmp_path / "brown2014.npz"
    redshift = np.array([0.002, 0.04])
    np.savez(
        path, wavelength_rest=WAVELENGTH, flux=np.ones((2, len(WAVELENGTH))), z=redshift,
        name=np.array(["NGC 1", "NGC 2"]),
    )
    spectra, known = read_brown2014(path)
    np.testing.assert_array_equal(known, redshift)
    starts = [spectrum.spectral_axis[0].to_value("AA") for spectrum in spectra]
    np.testing.assert_allclose(starts, 3650 * (1 + redshift))


def test_surveys_that_are_there_are_read_with_the_redshifts_of_their_catalogs(
    shared_data, tmp_path
):
    (tmp_path / "desi").symlink_to(shared_data / "desi")
    (tmp_path / "sdss").mkdir()
    for name in ("spec-0411-51873-0101.fits", "NGC3073_SDSS_DR18.fits"):
        (tmp_path / "sdss" / name).symlink_to(shared_data / "sdss" / name)
    sets = read_real_sets(tmp_path)
    assert {name: len(spectra) for name, (spectra, _) in sets.items()} == {"SDSS": 2, "DESI": 2}
    np.testing.assert_allclose(sets["DESI"][1], [0.00727, 0.2036], atol=1e-4)
    np.testing.assert_allclose(sets["SDSS"][1], [0.0038, 0.0294], atol=1e-4)
    with pytest.raises(FileNotFoundError, match="fors2/fors2.npz"):
        read_real_sets(tmp_path / "sdss")


def test_scores_are_those_of_a_hand_calculation():
    table = Table(
        {
            "redshift": [0.1, 0.2, 0.3, 0.4, 0.5],
            "estimate": [0.1, 0.213, 0.3 + 1.3 * 0.06, 0.4, np.nan],
            "lower": [0.05, 0.205, 0.3, 0.3, 0.1],
            "upper": [0.15, 0.225, 0.45, 0.39, 0.9],
            "confidence": [0.9, 0.8, 0.1, 0.2, np.nan],
        }
    )
    scores = redshift_scores(table)
    off = [0, 0.013 / 1.2, 0.06, 0]
    assert scores["nmad"] == pytest.approx(1.4826 * np.median(off))
    assert scores["beyond_0.01"] == 0.5
    assert scores["beyond_0.05"] == 0.25
    assert scores["beyond_0.05_confident"] == 0.0
    assert scores["coverage_68"] == 0.5
    assert scores["n_failed"] == 1
    table.remove_column("confidence")
    assert "beyond_0.05_confident" not in redshift_scores(table)


def test_estimates_are_beside_the_truth_with_their_confidence(model, embedded):
    held, known = embedded
    reference = known.tables["spectrum"]
    estimator = astroclip.RedshiftEstimator(model=model).fit(reference, ["redshift"])
    table = estimate_redshifts(estimator, held.tables["spectrum"], held.truth["redshift"])
    estimates = estimator.predict(held.tables["spectrum"])
    np.testing.assert_array_equal(table["estimate"], estimates["redshift"])
    np.testing.assert_array_equal(table["confidence"], estimates["redshift_confidence"])
    assert "beyond_0.05_confident" in redshift_scores(table)
