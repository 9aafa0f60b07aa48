"""Templates against scikit-learn's principal components, and where galaxies cover little."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from astroclip.models.redshift_scan import LAG_STEP, RedshiftScan, n_lags, rest_pixels
from astroclip.training.templates import (
    RESIDUAL,
    _components,
    fit_templates,
    templates_of,
)

N_PIXELS = 800
LARGEST = 0.05


def low_rank(n_galaxies, n_rest, seed=0):
    rng = np.random.default_rng(seed)
    shapes = np.linalg.qr(rng.normal(size=(n_rest, 2)))[0] * np.array([3.0, 1.5])
    values = rng.normal(size=(n_galaxies, 2)) @ shapes.T
    return values + RESIDUAL * rng.normal(size=values.shape)


def test_components_are_the_principal_ones():
    values = low_rank(3000, 60)
    values -= values.mean(axis=0)
    known = torch.ones(values.shape)
    found = _components(torch.from_numpy(values).float(), known, 2, seed=0).double().numpy()
    pca = PCA(2).fit(values)
    expected = pca.components_.T * np.sqrt(pca.explained_variance_)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=0.01)


def test_missing_values_do_not_bias_components():
    values = low_rank(3000, 60)
    known = np.random.default_rng(1).random(values.shape) < 0.7
    full = _components(torch.from_numpy(values).float(), torch.ones(values.shape), 2, seed=0)
    holed = _components(
        torch.from_numpy(values * known).float(), torch.from_numpy(known).float(), 2, seed=0
    )
    torch.testing.assert_close(holed @ holed.T, full @ full.T, rtol=0, atol=0.02)


def galaxies(n_galaxies, seed):
    """Return spectra of two classes, each with lines of varying strength, at known redshifts."""
    rng = np.random.default_rng(seed)
    redshift = rng.uniform(0, LARGEST, n_galaxies)
    classes = rng.integers(0, 2, n_galaxies)
    pixel = np.arange(N_PIXELS)
    flux = np.full((n_galaxies, N_PIXELS), 2.0)
    lines = {0: ((150, -0.3), (420, -0.5), (700, -0.2)), 1: ((230, 1.0), (510, 2.0))}
    for row in range(n_galaxies):
        for place, depth in lines[classes[row]]:
            moved = place + np.log1p(redshift[row]) / LAG_STEP * 2 - 100
            strength = depth * rng.uniform(0.7, 1.3)
            flux[row] += 2 * strength * np.exp(-0.5 * ((pixel - moved) / 4) ** 2)
    return flux, redshift, classes


def test_templates_find_redshifts_of_other_galaxies():
    templates = fit_templates(*galaxies(400, 1), largest=LARGEST, n_components=2)
    assert templates.shape == (2, 3, rest_pixels(N_PIXELS, LARGEST))
    assert torch.isfinite(templates).all()
    scan = RedshiftScan(N_PIXELS, largest=LARGEST, n_components=2)
    scan.templates.copy_(templates)
    flux, redshift, classes = galaxies(100, 2)
    noise = 0.15
    seen = torch.from_numpy(flux + noise * np.random.default_rng(3).normal(size=flux.shape)).float()
    nothing = torch.zeros_like(seen, dtype=torch.bool)
    evidence, measured = scan(seen, torch.full_like(seen, noise**-2), nothing)
    error = evidence.argmax(dim=1) * LAG_STEP - torch.from_numpy(np.log1p(redshift))
    assert (error.abs() < 1.5 * LAG_STEP).float().mean() > 0.95
    assert (measured[:, 1:3].argmax(dim=1) == torch.from_numpy(classes)).float().mean() > 0.95


def test_wavelengths_that_nobody_covers_hold_nothing():
    flux, _, classes = galaxies(60, 1)
    templates = fit_templates(flux, np.zeros(60), classes, largest=LARGEST, n_components=2)
    covered = N_PIXELS // 2
    assert not templates[:, :, : n_lags(LARGEST) - 1].any()
    assert templates[:, :, -covered:].any()


def test_too_few_galaxies_of_a_kind_are_refused():
    flux, redshift, _ = galaxies(10, 1)
    classes = [0] * 8 + [1] * 2
    with pytest.raises(ValueError, match="^galaxy_class has 2 galaxies of class 1; expected more"):
        fit_templates(flux, redshift, classes, largest=LARGEST, n_components=3)


def test_templates_are_of_noiseless_galaxies_with_known_properties():
    flux, redshift, classes = galaxies(60, 4)
    pairs = {
        "spectrum": flux, "redshift": redshift.copy(), "ivar": np.full(flux.shape, np.inf),
        "log_ssfr": np.where(classes == 0, -11.1, -11.0),
    }
    pairs["ivar"][5, 0] = 3.0  # recorded
    pairs["log_ssfr"][7] = np.nan
    pairs["redshift"][[9, 11]] = np.nan, LARGEST + 0.01
    usable = np.setdiff1d(np.arange(60), [5, 7, 9, 11])
    scan = RedshiftScan(N_PIXELS, largest=LARGEST, n_components=2)
    options = {"largest": scan.largest, "n_components": 2, "seed": 0}
    expected = fit_templates(flux[usable], redshift[usable], classes[usable], **options)
    torch.testing.assert_close(templates_of(scan, [pairs], seed=0), expected, rtol=0, atol=1e-3)
    del pairs["log_ssfr"]
    with pytest.raises(ValueError, match="^sources hold no noiseless spectra with known redshift"):
        templates_of(scan, [pairs], seed=0)
