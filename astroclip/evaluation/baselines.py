"""What a model is to be measured against: methods that know no network, on the same galaxies."""

from pathlib import Path

import numpy as np
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor

from astroclip.evaluation.protocols import zero_shot

__all__ = [
    "aperture_features",
    "boosted_estimates",
    "chi_square_ranks",
    "colors",
    "measured_magnitudes",
    "principal_component_estimates",
    "read_predictions",
    "recorded_pair_ranks",
    "structural_features",
]

N_COMPONENTS = 32
LEVEL_WEIGHT = 0.5  # scatter of the log flux level relative to that of the first component
FIT_ROWS = 8000  # spectra that components are fitted to
PHOTOMETRIC_ERROR = 0.02  # relative, of a flux
THROUGHPUT_SCATTER = 0.08  # of a fiber, natural logarithm: that of the DESI-like instrument


def principal_component_estimates(
    reference, values, queries, *, n_components=N_COMPONENTS, n_neighbors=64, seed=0
):
    """Estimate properties from neighbors in the principal components of spectra.

    Parameters
    ----------
    reference : (M, P + 1) array-like
        Recorded spectra as an encoder sees them and, last, log10 of their mean flux: the
        ``features`` of `~astroclip.evaluation.EmbeddedPairs`.
    values : dict of str to (M,) array-like
        Properties of the reference by name.
    queries : (N, P + 1) array-like
    n_components, n_neighbors : int
    seed : int
        Chooses the rows that components of a large reference are fitted to.

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`

    Notes
    -----
    Components keep their own scale and the flux level gets half of the first one's. Of 32 or
    64 components, whitened or not, with the level or without, this scored best on simulated
    pairs other than those of the performance page.
    """
    reference, queries = (np.asarray(rows, dtype=np.float32) for rows in (reference, queries))
    rows = np.arange(len(reference))
    if len(rows) > FIT_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, FIT_ROWS, replace=False))
    components = PCA(n_components, svd_solver="randomized", random_state=seed)
    components.fit(reference[rows, :-1])
    near, query = (components.transform(x[:, :-1]).astype(float) for x in (reference, queries))
    level = LEVEL_WEIGHT * near[:, 0].std() / reference[:, -1].astype(float).std()
    near = np.column_stack([near, level * reference[:, -1]])
    query = np.column_stack([query, level * queries[:, -1]])
    return zero_shot(near, values, query, n_neighbors=n_neighbors, standardize=False)


def measured_magnitudes(magnitude, *, seed, error=PHOTOMETRIC_ERROR):
    """Return magnitudes as photometry would measure them.

    Parameters
    ----------
    magnitude : (N, B) array-like
        True total magnitudes.
    seed : int
    error : float
        Relative error of the fluxes.

    Returns
    -------
    (N, B) `numpy.ndarray`
    """
    magnitude = np.asarray(magnitude, dtype=float)
    scatter = np.random.default_rng(seed).standard_normal(magnitude.shape)
    return magnitude - 2.5 * np.log10(np.maximum(1 + error * scatter, error))


def colors(magnitude):
    """Return r and the colors g - r and r - z of g, r, z magnitudes (N, 3)."""
    g, r, z = np.asarray(magnitude, dtype=float).T
    return np.column_stack([r, g - r, r - z])


def structural_features(galaxies, *, seed):
    """Return what a perfect catalog of images holds: photometry and true shapes.

    Parameters
    ----------
    galaxies : dict of str to `numpy.ndarray`
        See `~astroclip.evaluation.EmbeddedPairs`.
    seed : int
        Of the photometric errors, 2 %.

    Returns
    -------
    (N, 7) `numpy.ndarray`
        r, g - r, r - z, logarithms of the disc's and the bulge's radius, bulge-to-total
        and axis ratio.
    """
    radii = (np.log(np.maximum(galaxies[f"{part}_radius"], 1e-3)) for part in ("disc", "bulge"))
    measured = measured_magnitudes(galaxies["magnitude"], seed=seed)
    shapes = (galaxies["bulge_to_total"], galaxies["axis_ratio"])
    return np.column_stack([colors(measured), *radii, *shapes])


def aperture_features(galaxies, truth, *, seed):
    """Return what a perfect analysis of spectra would know when it estimates a mass.

    Parameters
    ----------
    galaxies : dict of str to `numpy.ndarray`
        See `~astroclip.evaluation.EmbeddedPairs`.
    truth : dict of str to (N,) array-like
        True ``redshift``, ``log_ssfr`` and ``log_metallicity``.
    seed : int
        Of the fibers' throughputs, which scatter by 8 %.

    Returns
    -------
    (N, 6) `numpy.ndarray`
        r, g - r and r - z of the light inside the fiber as it is recorded, and the truths.
        No spectrum tells how much light, and with it mass, falls outside.
    """
    inside = np.asarray(galaxies["fibre_magnitude"], dtype=float)
    scatter = np.random.default_rng(seed).standard_normal((len(inside), 1))
    recorded = inside - 2.5 / np.log(10) * THROUGHPUT_SCATTER * scatter
    known = (truth[name] for name in ("redshift", "log_ssfr", "log_metallicity"))
    return np.column_stack([colors(recorded), *known])


def boosted_estimates(reference, values, queries, *, seed=0):
    """Estimate properties by gradient boosting: about the most that the features can tell.

    Parameters
    ----------
    reference, queries : (M, D) and (N, D) array-like
    values : dict of str to (M,) array-like
    seed : int

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
    """
    estimates = {}
    for name, wanted in values.items():
        model = HistGradientBoostingRegressor(
            max_iter=300, learning_rate=0.06, early_stopping=True, random_state=seed
        )
        estimates[name] = model.fit(reference, wanted).predict(queries)
    return estimates


def chi_square_ranks(batch, light):
    """Return the rank of every galaxy's own noiseless light in fitting its recorded spectrum.

    Parameters
    ----------
    batch : `~astroclip.preparation.SpectrumBatch`
        N recorded spectra.
    light : (N, P) array-like
        Noiseless flux density of the same galaxies on the same grid, any unit.

    Returns
    -------
    (N,) int `numpy.ndarray`
        Zero where no other galaxy's light has a smaller chi-square: about what the noise of
        one spectrum allows.
    """
    explained = _explained_chi_square(batch, light)
    return (explained > np.diag(explained)[:, None]).sum(axis=1)


def recorded_pair_ranks(queries, targets, light):
    r"""Return the rank of every galaxy's second recorded spectrum for its first, by chi-square.

    Nothing but the galaxies' noiseless light connects the two: about what the noise of both
    allows a search.

    Parameters
    ----------
    queries, targets : `~astroclip.preparation.SpectrumBatch`
        N spectra of the same galaxies, by one instrument and by another.
    light : (N, P) array-like
        Noiseless flux density of the same galaxies, any unit.

    Returns
    -------
    (N,) int `numpy.ndarray`
        Rank of the own target by the probability of the query given a target,

        .. math:: P(q | t) = \sum_k P(q | k) P(k | t),

        over the galaxies k, all as likely beforehand, each likelihood
        :math:`\exp(-\chi^2 / 2)` at the best scale.
    """
    query, target = (_explained_chi_square(batch, light) / 2.0 for batch in (queries, targets))
    query = np.exp(query - query.max(axis=1, keepdims=True), dtype=float)
    likelihood = query @ np.exp(log_softmax(target.astype(float), axis=1)).T
    return (likelihood >= np.diag(likelihood)[:, None]).sum(axis=1) - 1  # a tie is no success


def _explained_chi_square(batch, light):
    """Return by how much (N, M) every galaxy's light, scaled freely, lowers chi-square.

    (sum w f l)^2 / sum w l^2 for flux f, light l and inverse variance w. Brightness and
    correlated noise are not made use of.
    """
    light = np.asarray(light, dtype=np.float32)
    weight = np.where(batch.mask, 0.0, batch.ivar).astype(np.float32)
    weighted = weight * np.where(batch.mask, 0.0, batch.flux).astype(np.float32)
    return (weighted @ light.T) ** 2 / np.maximum(weight @ (light**2).T, 1e-30)


def read_predictions(path, names, n_objects):
    """Read a supervised model's predictions for the held-out pairs.

    Parameters
    ----------
    path : path-like
        An ``.npz`` with an array (N,) for each property predicted, in the pairs' order.
    names : iterable of str
        Properties that are known.
    n_objects : int

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
        Those of ``names`` that the file has.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it has none of them, or they are not one value per pair.
    """
    with np.load(Path(path), allow_pickle=False) as archive:
        predictions = {name: archive[name].astype(float) for name in names if name in archive}
        held = archive.files
    if not predictions:
        msg = f"{str(path)!r} holds {held}; expected arrays named after some of {list(names)}."
        raise ValueError(msg)
    for name, values in predictions.items():
        if values.shape != (n_objects,):
            msg = (
                f"{name} in {str(path)!r} has shape {values.shape}; expected ({n_objects},), a "
                f"prediction for every held-out pair."
            )
            raise ValueError(msg)
    return predictions
