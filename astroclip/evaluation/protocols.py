"""The papers' protocols: what embeddings tell of properties, and how well they find partners.

All take arrays or tables of embeddings and know no model.
"""

import numpy as np
from astropy import units as u
from astropy.table import Table
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astroclip.metrics import mutual_information_bound, r2_score, recall_at, retrieval_ranks

__all__ = [
    "best_scale",
    "few_shot",
    "information_bound",
    "score_estimates",
    "score_retrieval",
    "upstream_ssfr",
    "zero_shot",
]

LOG_SCALES = (-1.0, 7.0)  # natural logarithms of the smallest and largest inverse temperature


# ---------------------------------------------------------------------- properties
def zero_shot(reference, values, queries, *, n_neighbors=64, standardize=True):
    """Estimate properties by the mean over the nearest neighbors, weighted by inverse distance.

    Parameters
    ----------
    reference : (M, D) array-like
        Features of the reference: embeddings, magnitudes, principal components.
    values : dict of str to (M,) array-like
        Properties of the reference by name.
    queries : (N, D) array-like
    n_neighbors : int
        Neighbors in Euclidean distance.
    standardize : bool
        Scale every feature to mean zero and variance one over the reference first.

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
        Estimates by property.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.evaluation import zero_shot
    >>> features = np.arange(8.0)[:, None]
    >>> zero_shot(features, {"double": 2 * features[:, 0]}, [[3.0]], n_neighbors=2)
    {'double': array([6.])}
    """
    # the papers standardize targets too, which changes no weighted mean
    targets = np.column_stack([np.asarray(column, dtype=float) for column in values.values()])
    model = KNeighborsRegressor(n_neighbors, weights="distance")
    if standardize:
        model = make_pipeline(StandardScaler(), model)
    model.fit(np.asarray(reference, dtype=float), targets)
    predicted = model.predict(np.asarray(queries, dtype=float))
    return dict(zip(values, predicted.reshape(len(predicted), -1).T, strict=True))


def few_shot(
    reference, values, queries, *, hidden=(64, 64), dropout=0.1, learning_rate=1e-3,
    n_epochs=10, batch_size=64, seed=0,
):
    """Estimate properties by a small network trained on standardized features.

    Parameters
    ----------
    reference, values, queries
        As in `zero_shot`; one network learns all properties.
    hidden : sequence of int
        Widths of the hidden layers, with ReLU.
    dropout : float
        Fraction of hidden units set to zero in each training step.
    learning_rate : float
        Of Adam.
    n_epochs, batch_size : int
    seed : int
        Fixes initial weights, order and dropout.

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
        Estimates by property.

    Notes
    -----
    scikit-learn's ``MLPRegressor`` has no dropout, so that the network is written in torch.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990, and the code published with it.
    """
    import torch
    from torch import nn

    features = StandardScaler().fit(np.asarray(reference, dtype=float))
    near, query = (
        torch.from_numpy(features.transform(np.asarray(rows, dtype=float))).float()
        for rows in (reference, queries)
    )  # (M, D), (N, D)
    known = np.column_stack([np.asarray(column, dtype=float) for column in values.values()])
    targets = StandardScaler().fit(known)
    wanted = torch.from_numpy(targets.transform(known)).float()  # (M, P)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, width = [], near.shape[1]
        for n_units in hidden:
            layers += [nn.Linear(width, n_units), nn.ReLU(), nn.Dropout(dropout)]
            width = n_units
        network = nn.Sequential(*layers, nn.Linear(width, wanted.shape[1]))
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        for _ in range(n_epochs):
            for rows in torch.randperm(len(near)).split(batch_size):
                optimizer.zero_grad()
                nn.functional.mse_loss(network(near[rows]), wanted[rows]).backward()
                optimizer.step()
    network.eval()
    with torch.no_grad():
        predicted = targets.inverse_transform(network(query).numpy().astype(float))
    return dict(zip(values, predicted.T, strict=True))


def score_estimates(estimates, truth):
    """Return R2 and interval coverage of the estimates of every property.

    Parameters
    ----------
    estimates : `~astropy.table.QTable`
        From `astroclip.PropertyEstimator.predict`, with intervals of 68 %.
    truth : dict of str to (N,) array-like
        True properties of the same objects by name.

    Returns
    -------
    `~astropy.table.Table`
        Columns ``property``, ``r2``, ``coverage_68`` (fraction of truths inside the
        interval) and ``out_of_distribution`` (fraction of objects so flagged).
    """
    rows = []
    unusual = float(np.mean(estimates["out_of_distribution"]))
    for name, values in truth.items():
        predicted, low, high = (
            np.asarray(u.Quantity(estimates[f"{name}{suffix}"]).value)
            for suffix in ("", "_lower", "_upper")
        )
        values = np.asarray(values, dtype=float)
        inside = float(np.mean((values >= low) & (values <= high)))
        rows.append((name, r2_score(predicted, values), inside, unusual))
    return Table(rows=rows, names=("property", "r2", "coverage_68", "out_of_distribution"))


def upstream_ssfr(properties):
    r"""Return the "sSFR" of AstroCLIP's published code, for comparison with its figures.

    .. math:: \ln \mathrm{SFR} - \ln Z

    Parameters
    ----------
    properties : dict of str to (N,) array-like
        ``log_ssfr`` (1/yr), ``log_stellar_mass`` (solar masses) and ``log_metallicity``
        (solar units), each a log10.

    Returns
    -------
    (N,) `numpy.ndarray`
        A rate over a metallicity, whatever its name; log specific star-formation rates are
        ``log_ssfr``.

    Examples
    --------
    >>> from astroclip.evaluation import upstream_ssfr
    >>> galaxy = {"log_ssfr": [-10.0], "log_stellar_mass": [10.0], "log_metallicity": [0.0]}
    >>> upstream_ssfr(galaxy)
    array([0.])
    """
    rate, mass, metallicity = (
        np.asarray(properties[name], dtype=float)
        for name in ("log_ssfr", "log_stellar_mass", "log_metallicity")
    )
    return np.log(10) * (rate + mass - metallicity)


# ---------------------------------------------------------------------- pairs
def score_retrieval(queries, targets, *, n_pairs=1000):
    """Return recall at 1, 5 and 10 and the median rank of paired embeddings.

    Parameters
    ----------
    queries, targets : (N, D) array-like
        Row i of both is the same object; the first ``n_pairs`` are used.
    n_pairs : int

    Returns
    -------
    dict of str to float
        ``recall_1``, ``recall_5``, ``recall_10``, ``median_rank`` (one is best).
    """
    queries, targets = queries[:n_pairs], targets[:n_pairs]
    scores = {f"recall_{n}": recall_at(queries, targets, n) for n in (1, 5, 10)}
    scores["median_rank"] = float(np.median(retrieval_ranks(queries, targets)) + 1)
    return scores


def information_bound(first, second, *, scale=None, batch_size=1024):
    """Return a lower bound on the mutual information of two views of held-out pairs.

    Parameters
    ----------
    first, second : (N, D) array-like
        Unit vectors; row i of both is the same object.
    scale : float, optional
        The model's inverse temperature. By default the one that is best for pairs outside
        the batch, of which at least a quarter are kept.
    batch_size : int
        Pairs to tell apart; the bound cannot exceed its logarithm.

    Returns
    -------
    bound : float
        Nats.
    n_pairs : int
        Pairs that it was measured with.

    References
    ----------
    van den Oord et al. (2018), arXiv:1807.03748, eq. 5.
    """
    n_pairs = min(batch_size, len(first) if scale is not None else 3 * len(first) // 4)
    if scale is None:
        outside = slice(n_pairs, n_pairs + batch_size)
        scale = best_scale(first[outside], second[outside])
    loss = _info_nce(first[:n_pairs], second[:n_pairs], scale)
    return mutual_information_bound(loss, n_pairs), n_pairs


def best_scale(first, second):
    """Return the inverse temperature at which the InfoNCE loss of pairs is least.

    Parameters
    ----------
    first, second : (N, D) array-like
        Unit vectors; row i of both is the same object.

    Returns
    -------
    float
        Between 0.4 and 1,100.
    """
    best = minimize_scalar(
        lambda log_scale: _info_nce(first, second, np.exp(log_scale)),
        bounds=LOG_SCALES,
        method="bounded",
    )
    return float(np.exp(best.x))


def _info_nce(first, second, scale):
    """Return the symmetric InfoNCE loss of unit vectors (N, D), nats."""
    logits = scale * np.asarray(first, dtype=float) @ np.asarray(second, dtype=float).T
    own = np.diag(logits)
    return 0.5 * float(
        np.mean(logsumexp(logits, axis=1) - own) + np.mean(logsumexp(logits, axis=0) - own)
    )
