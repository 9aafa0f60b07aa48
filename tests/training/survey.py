"""Made-up survey pairs for tests, in the layout of AstroCLIP's file."""

import numpy as np

DESI = np.linspace(3600, 9824, 7781)


def make_survey(n_pairs, seed=1, *, first_id=39627000):
    """Return images (N, 152, 152, 3), spectra (N, 7781, 1), redshifts and targetids."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:152, :152] - 75.5
    width = rng.uniform(3, 12, (n_pairs, 1, 1, 1))
    light = np.exp(-0.5 * (x**2 + y**2)[None, :, :, None] / width**2)
    images = rng.uniform(0.05, 0.5, (n_pairs, 1, 1, 3)) * light
    images = images + rng.normal(0, 0.003, images.shape)
    line = np.exp(-0.5 * ((DESI - rng.uniform(4500, 9000, (n_pairs, 1))) / 6) ** 2)
    spectra = rng.uniform(1, 5, (n_pairs, 1)) * (1 + 4 * line) + rng.normal(0, 0.4, line.shape)
    return {
        "images": images.astype(np.float32),
        "spectra": spectra.astype(np.float32)[:, :, None],
        "redshifts": rng.uniform(0.01, 0.5, n_pairs).astype(np.float32),
        "targetids": first_id + rng.permutation(n_pairs),
    }


def make_errors(spectra, seed=2):
    """Return ivar and mask of spectra (N, P, 1)."""
    rng = np.random.default_rng(seed)
    ivar = rng.uniform(4, 8, spectra.shape[:2]).astype(np.float32)
    mask = rng.random(ivar.shape) < 0.02
    mask[0, 3000:3200] = True
    ivar[rng.random(ivar.shape) < 0.01] = 0
    return ivar, mask
