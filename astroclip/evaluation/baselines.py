"""What a model is to be measured against: methods that know no network, on the same galaxies."""

from pathlib import Path

import numpy as np

from astroclip.evaluation.protocols import average_neighbors, few_shot, zero_shot

__all__ = [
    "boosted_estimates",
    "chi_square_ranks",
    "estimate_from_photometry",
    "estimate_from_principal_components",
    "explained_chi_square",
    "fibre_features",
    "measured_magnitudes",
    "read_predictions",
    "recorded_pair_ranks",
    "structural_features",
]

N_COMPONENTS = 32
LEVEL_WEIGHT = 0.5
FIT_ROWS = 8000
PHOTOMETRIC_ERROR = 0.02
THROUGHPUT_SCATTER = 0.08  # of a fibre, natural logarithm: that of the DESI-like instrument


def estimate_from_principal_components(
    reference, values, queries, *, n_components=N_COMPONENTS, n_neighbors=64, seed=0
):
    """Estimate properties from neighbours in the principal components of spectra.

    Parameters
    ----------
    reference : (M, P + 1) array-like
        Recorded spectra as an encoder sees them and, last, log10 of their mean flux: the
        ``features`` of `EmbeddedPairs`.
    values : dict of str to (M,) array-like
        Properties of the reference by name.
    queries : (N, P + 1) array-like
    n_components, n_neighbors : int
    seed : int
        Chooses the rows that components of a large reference are found from.

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`

    Notes
    -----
    Components keep their own scale and the flux level gets half of the first one's: of
    32 or 64 components, whitened or not, with the level or without, this was the best on
    simulated pairs other than those scored.
    """
    from sklearn.decomposition import PCA

    reference, queries = (np.asarray(rows, dtype=np.float32) for rows in (reference, queries))
    rows = np.arange(len(reference))
    if len(rows) > FIT_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, FIT_ROWS, replace=False))
    components = PCA(n_components, svd_solver="randomized", random_state=seed)
    components.fit(reference[rows, :-1])
    near, query = (components.transform(x[:, :-1]).astype(float) for x in (reference, queries))
    level = LEVEL_WEIGHT * near[:, 0].std() / reference[:, -1].astype(float).std()
    near, query = (
        np.column_stack([scores, level * x[:, -1].astype(float)])
        for scores, x in ((near, reference), (query, queries))
    )
    return average_neighbors(near, values, query, n_neighbors=n_neighbors)


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


def colours(magnitude):
    """Return r and the colours g - r and r - z of g, r, z magnitudes (N, 3)."""
    g, r, z = np.asarray(magnitude, dtype=float).T
    return np.column_stack([r, g - r, r - z])


def estimate_from_photometry(reference, values, queries, *, n_neighbors=64, seed=0):
    """Estimate properties from g, r, z magnitudes in three ways.

    Parameters
    ----------
    reference, queries : (M, 3) and (N, 3) array-like
        Measured g, r, z.
    values : dict of str to (M,) array-like
    n_neighbors, seed : int

    Returns
    -------
    dict of str to dict of str to (N,) `numpy.ndarray`
        By method: ``"magnitudes"`` (k-NN on g, r, z), ``"magnitude and colours"`` (k-NN on
        r, g - r, r - z, which neighbours suit better) and ``"network"`` (the few-shot one).
    """
    near, query = colours(reference), colours(queries)
    return {
        "magnitudes": zero_shot(reference, values, queries, n_neighbors=n_neighbors),
        "magnitude and colours": zero_shot(near, values, query, n_neighbors=n_neighbors),
        "network": few_shot(reference, values, queries, seed=seed),
    }


def structural_features(galaxies, *, seed):
    """Return what a perfect catalogue of images holds: photometry and true shapes.

    Parameters
    ----------
    galaxies : dict of str to `numpy.ndarray`
        See `EmbeddedPairs`.
    seed : int
        Of the photometric errors, 2 %.

    Returns
    -------
    (N, 7) `numpy.ndarray`
        g - r, r - z, r, logarithms of the disc's and the bulge's radius, bulge-to-total
        and axis ratio.
    """
    radii = (np.log(np.maximum(galaxies[f"{part}_radius"], 1e-3)) for part in ("disc", "bulge"))
    measured = measured_magnitudes(galaxies["magnitude"], seed=seed)
    shapes = (galaxies["bulge_to_total"], galaxies["axis_ratio"])
    return np.column_stack([colours(measured), *radii, *shapes])


def fibre_features(galaxies, truth, *, seed):
    """Return what a perfect analysis of spectra would know when it estimates a mass.

    Parameters
    ----------
    galaxies : dict of str to `numpy.ndarray`
        See `EmbeddedPairs`.
    truth : dict of str to (N,) array-like
        True ``redshift``, ``log_ssfr`` and ``log_metallicity``.
    seed : int
        Of the fibres' throughputs, which scatter by 8 %.

    Returns
    -------
    (N, 6) `numpy.ndarray`
        g - r, r - z and r of the light inside the fibre as it is recorded, and the truths.
        How much light falls outside, and with it mass, no spectrum tells.
    """
    inside = np.asarray(galaxies["fibre_magnitude"], dtype=float)
    scatter = np.random.default_rng(seed).standard_normal((len(inside), 1))
    recorded = inside - 2.5 / np.log(10) * THROUGHPUT_SCATTER * scatter
    known = (truth[name] for name in ("redshift", "log_ssfr", "log_metallicity"))
    return np.column_stack([colours(recorded), *known])


def boosted_estimates(reference, values, queries, *, seed=0):
    """Estimate properties by gradient boosting: what the features can tell at best.

    Parameters
    ----------
    reference, queries : (M, D) and (N, D) array-like
    values : dict of str to (M,) array-like
    seed : int

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    estimates = {}
    for name, wanted in values.items():
        model = HistGradientBoostingRegressor(
            max_iter=300, learning_rate=0.06, early_stopping=True, random_state=seed
        )
        estimates[name] = model.fit(reference, wanted).predict(queries)
    return estimates


def explained_chi_square(batch, light):
    """Return by how much every galaxy's noiseless light, scaled freely, lowers chi-square.

    Parameters
    ----------
    batch : `~astroclip.preparation.SpectrumBatch`
        N recorded spectra.
    light : (M, P) array-like
        Noiseless flux density of galaxies on the same grid, any unit.

    Returns
    -------
    (N, M) float32 `numpy.ndarray`
        Brightness and correlated noise are not made use of.
    """
    light = np.asarray(light, dtype=np.float32)
    weight = np.where(batch.mask, 0.0, batch.ivar).astype(np.float32)
    weighted = weight * np.where(batch.mask, 0.0, batch.flux).astype(np.float32)
    return (weighted @ light.T) ** 2 / np.maximum(weight @ (light**2).T, 1e-30)


def chi_square_ranks(batch, light):
    """Return the rank of every galaxy's own noiseless light in fitting its recorded spectrum.

    Parameters
    ----------
    batch : `~astroclip.preparation.SpectrumBatch`
        N recorded spectra.
    light : (N, P) array-like
        Of the same galaxies; see `explained_chi_square`.

    Returns
    -------
    (N,) int `numpy.ndarray`
        Zero where no other galaxy's light has a smaller chi-square: about what the noise of
        one spectrum allows.
    """
    explained = explained_chi_square(batch, light)
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
        Of the same galaxies; see `explained_chi_square`.

    Returns
    -------
    (N,) int `numpy.ndarray`
        Of the own target by the probability of the query given a target,

        .. math:: P(q | t) = \sum_k P(q | k) P(k | t),

        over the galaxies k, all as likely beforehand, each likelihood
        :math:`\exp(-\chi^2 / 2)` at the best scale.
    """
    from scipy.special import log_softmax

    query, target = (explained_chi_square(batch, light) / 2.0 for batch in (queries, targets))
    query = np.exp(query - query.max(axis=1, keepdims=True), dtype=float)
    likelihood = query @ np.exp(log_softmax(target.astype(float), axis=1)).T
    return (likelihood >= np.diag(likelihood)[:, None]).sum(axis=1) - 1  # a tie is no success


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
        If it has none of them, or they are not one value a pair.
    """
    with np.load(Path(path), allow_pickle=False) as archive:
        found = {name: archive[name].astype(float) for name in names if name in archive.files}
        held = archive.files
    if not found:
        msg = f"{str(path)!r} holds {held}; expected arrays named after some of {list(names)}."
        raise ValueError(msg)
    for name, values in found.items():
        if values.shape != (n_objects,):
            msg = (
                f"{name} in {str(path)!r} has shape {values.shape}; expected ({n_objects},), a "
                f"prediction for every held-out pair."
            )
            raise ValueError(msg)
    return found
