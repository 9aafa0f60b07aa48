"""Templates of galaxies for `~astroclip.models.redshift_scan.RedshiftScan`, from known spectra."""

import numpy as np
import torch

from astroclip.models.redshift_scan import BINNING, LAG_STEP, contrast, n_lags

__all__ = ["fit_templates", "templates_of"]

QUIESCENT_BELOW = -11.0  # log sSFR, per year
N_ITERATIONS = 15
RESIDUAL = 0.01  # scatter that components leave, relative to the continuum
LEAST_KNOWN = 3.0  # galaxies' worth of prior at wavelengths that few of them cover
BATCH = 1000
N_GALAXIES = 4_000  # of each source


def fit_templates(flux, redshift, galaxy_class, *, largest, n_components, seed=0):
    """Fit the mean and the principal components of the light of each class of galaxy.

    Parameters
    ----------
    flux : (N, P) array-like
        Noiseless spectra in the observed frame, on the model's grid.
    redshift : (N,) array-like
        Not above ``largest``.
    galaxy_class : (N,) array-like of int
        Class of each galaxy, counted from zero.
    largest : float
        Redshift that the templates shall be scanned to.
    n_components : int
    seed : int

    Returns
    -------
    (n_classes, 1 + n_components, R) `torch.Tensor`
        In the rest frame; components are as long as their coefficients scatter.

    Raises
    ------
    ValueError
        If a class has too few galaxies for so many components.

    Notes
    -----
    Every galaxy covers another part of the rest frame: means and components are those of
    greatest likelihood where some values are missing, by expectation maximization (Tipping &
    Bishop 1999, J. R. Stat. Soc. B 61, 611; Bailey 2012, PASP 124, 1015), the scatter of
    coefficients being a further parameter (Liu, Rubin & Wu 1998, Biometrika 85, 755).
    """
    redshift, galaxy_class = np.asarray(redshift, float), np.asarray(galaxy_class)
    templates = []
    for number in range(galaxy_class.max() + 1):
        rows = np.flatnonzero(galaxy_class == number)
        if len(rows) <= n_components:
            msg = (
                f"galaxy_class has {len(rows)} galaxies of class {number}; expected more than "
                f"n_components = {n_components}. Give more spectra or ask for fewer components."
            )
            raise ValueError(msg)
        lines, known = _at_rest(flux, redshift, rows, n_lags(largest))
        mean = lines.sum(dim=0) / known.sum(dim=0).clamp(min=LEAST_KNOWN)
        components = _components((lines - mean) * known, known, n_components, seed)
        templates.append(torch.cat([mean[None], components.T]))
    return torch.stack(templates)


def templates_of(scan, sources, *, seed):
    """Fit a scan's templates to the noiseless galaxies of training pairs.

    Parameters
    ----------
    scan : `~astroclip.models.redshift_scan.RedshiftScan`
    sources : iterable of dict of str to `numpy.ndarray`
        Pairs as `~astroclip.training.sources.read_source` returns them. Of each, up to 4,000
        are taken that have no noise and whose redshift and ``log_ssfr`` are known.
    seed : int

    Returns
    -------
    `torch.Tensor`
        See `fit_templates`; of quiescent and of star-forming galaxies.

    Raises
    ------
    ValueError
        If there are too few such galaxies.
    """
    rng, parts = np.random.default_rng(seed), []
    for pairs in sources:
        unknown = np.full(len(pairs["redshift"]), np.nan)
        usable = np.isfinite(pairs.get("log_ssfr", unknown)) & (pairs["redshift"] <= scan.largest)
        if "ivar" in pairs:
            usable &= np.isinf(pairs["ivar"]).all(axis=1)
        rows = rng.permutation(np.flatnonzero(usable))[:N_GALAXIES]
        if len(rows):
            parts.append([pairs[name][rows] for name in ("spectrum", "redshift", "log_ssfr")])
    if not parts:
        msg = (
            "sources hold no noiseless spectra with known redshift and log_ssfr, from which the "
            "recipe's scan_components make templates; expected simulated pairs among them. Add "
            "some, start from weights that have templates, or take scan_components out."
        )
        raise ValueError(msg)
    flux, redshift, log_ssfr = (np.concatenate(part) for part in zip(*parts, strict=True))
    n_components = scan.templates.shape[1] - 1
    is_star_forming = (log_ssfr >= QUIESCENT_BELOW).astype(int)
    return fit_templates(
        flux, redshift, is_star_forming, largest=scan.largest, n_components=n_components, seed=seed
    )


def _at_rest(flux, redshift, rows, n_shifts):
    """Return the contrast (N, R) of some galaxies in the rest frame, and where it is known."""
    parts = []
    for first in range(0, len(rows), BATCH):
        chosen = rows[first : first + BATCH]
        seen = torch.from_numpy(np.asarray(flux[chosen], dtype=np.float32))
        seen = seen[:, : seen.shape[1] // BINNING * BINNING]
        certain = torch.full_like(seen, 1e6) / seen.mean(dim=1, keepdim=True).clamp(min=1e-4) ** 2
        lines, weight = contrast(seen, certain, torch.zeros_like(seen, dtype=torch.bool))
        shift = torch.from_numpy(np.round(np.log1p(redshift[chosen]) / LAG_STEP)).long()
        start = (n_shifts - 1 - shift)[:, None]
        position = start + torch.arange(lines.shape[1])
        empty = torch.zeros(len(chosen), lines.shape[1] + n_shifts - 1)
        known = (weight > 0).float()
        parts.append((empty.scatter(1, position, lines), empty.scatter(1, position, known)))
    return (torch.cat(part) for part in zip(*parts, strict=True))


def _components(values, known, n_components, seed):
    """Return principal components (R, K) of values (N, R), zero where not known."""
    n_rest, unit = values.shape[1], torch.eye(n_components)
    generator = torch.Generator().manual_seed(seed)
    components = 0.05 * torch.randn(n_rest, n_components, generator=generator)
    for _ in range(N_ITERATIONS):
        outer = (components[:, :, None] * components[:, None]).flatten(1)
        precision = (known @ outer).unflatten(1, unit.shape) / RESIDUAL**2 + unit
        covariance = torch.linalg.inv(precision)
        projected = values @ components / RESIDUAL**2
        mean = torch.einsum("nkl,nl->nk", covariance, projected)
        second = covariance + mean[:, :, None] * mean[:, None]
        moments = (known.T @ second.flatten(1)).unflatten(1, unit.shape)
        right = values.T @ mean
        components = torch.linalg.solve(moments + LEAST_KNOWN * unit, right[..., None])[..., 0]
        # coefficients shall have unit variance, which small residuals approach slowly by themselves
        components = components @ torch.linalg.cholesky(second.mean(dim=0))
    return components
