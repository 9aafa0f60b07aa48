"""The papers' protocols: how well embeddings tell properties, and find their own partners."""

import numpy as np
from astropy import units as u
from astropy.table import Table
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from astroclip.estimation import PropertyEstimator
from astroclip.metrics import mutual_information_bound, r2_score, recall_at, retrieval_ranks

__all__ = [
    "average_neighbors",
    "best_scale",
    "few_shot",
    "information_bound",
    "score_estimates",
    "score_estimator",
    "score_retrieval",
    "upstream_ssfr",
    "zero_shot",
]

LOG_SCALES = (-1.0, 7.0)  # natural logarithms between which the best scale is sought


def score_estimates(reference, queries, truth, *, n_neighbors=64, modality=None):
    """Return R2, interval coverage and width of k-NN estimates for every property.

    Parameters
    ----------
    reference : `~astropy.table.QTable`
        Embedding table with the properties as columns.
    queries : `~astropy.table.QTable`
        Embedding table of held-out objects of one modality.
    truth : dict of str to (N,) array-like
        True properties of the queries by name.
    n_neighbors : int
    modality : str, optional
        Estimate from reference rows of this modality instead of the queries' own.

    Returns
    -------
    `~astropy.table.Table`
        Columns ``property``, ``r2``, ``coverage_68`` (fraction of truths inside the
        interval) and ``out_of_distribution`` (fraction of queries so flagged).
    """
    if modality is not None:
        reference = reference[np.asarray(reference["modality"]) == modality]
    estimator = PropertyEstimator(n_neighbors=n_neighbors).fit(reference, list(truth))
    return score_estimator(estimator, queries, truth)


def score_estimator(estimator, queries, truth):
    """Return the table of `score_estimates` for an estimator that is fitted already."""
    estimates = estimator.predict(queries, properties=list(truth))
    rows = []
    for name, values in truth.items():
        predicted, low, high = (
            np.asarray(u.Quantity(estimates[f"{name}{suffix}"]).value)
            for suffix in ("", "_lower", "_upper")
        )
        values = np.asarray(values, dtype=float)
        inside = np.mean((values >= low) & (values <= high))
        unusual = np.mean(estimates["out_of_distribution"])
        rows.append((name, r2_score(predicted, values), float(inside), float(unusual)))
    return Table(rows=rows, names=("property", "r2", "coverage_68", "out_of_distribution"))


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


# ---------------------------------------------------------------------- property estimation
def _scaled(reference, queries, values):
    """Return features and targets scaled to the reference's mean zero and variance one."""
    from sklearn.preprocessing import StandardScaler

    features = StandardScaler().fit(np.asarray(reference, dtype=float))
    targets = StandardScaler().fit(np.asarray(values, dtype=float))
    return features.transform(reference), features.transform(queries), targets


def _columns(truth):
    """Return properties (N, P) of a dict of columns."""
    return np.stack([np.asarray(values, dtype=float) for values in truth.values()], axis=1)


def _as_columns(predicted, names):
    """Return the columns of (N, P) predictions by name."""
    predicted = predicted.reshape(len(predicted), -1)
    return {name: predicted[:, number] for number, name in enumerate(names)}


def zero_shot(reference, values, queries, *, n_neighbors=64):
    """Estimate properties by a weighted mean over neighbours of standardised features.

    Parameters
    ----------
    reference : (M, D) array-like
        Features of the reference: embeddings, magnitudes, principal components.
    values : dict of str to (M,) array-like
        Properties of the reference by name.
    queries : (N, D) array-like
    n_neighbors : int
        Weighted by inverse Euclidean distance.

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
    near, query, _ = _scaled(reference, queries, _columns(values))
    return average_neighbors(near, values, query, n_neighbors=n_neighbors)


def average_neighbors(reference, values, queries, *, n_neighbors=64):
    """Return what `zero_shot` does, for features that are on the right scale already."""
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    targets = StandardScaler().fit(_columns(values))
    regressor = KNeighborsRegressor(n_neighbors, weights="distance")
    regressor.fit(reference, targets.transform(_columns(values)))
    return _as_columns(targets.inverse_transform(regressor.predict(queries)), values)


def few_shot(
    reference, values, queries, *, hidden=(64, 64), dropout=0.1, learning_rate=1e-3,
    n_epochs=10, batch_size=64, seed=0,
):
    """Estimate properties by a small network trained on standardised features.

    Parameters
    ----------
    reference, values, queries
        As in `zero_shot`; one network learns all properties.
    hidden : sequence of int
        Widths of the hidden layers, with ReLU.
    dropout : float
    learning_rate : float
        Of Adam.
    n_epochs, batch_size : int
    seed : int
        Fixes initial weights, order and dropout.

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
        Estimates by property.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990, and the code published with it.
    """
    import torch

    near, query, targets = _scaled(reference, queries, _columns(values))
    wanted = torch.from_numpy(targets.transform(_columns(values))).float()
    near, query = torch.from_numpy(near).float(), torch.from_numpy(query).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _perceptron([near.shape[1], *hidden, wanted.shape[1]], dropout)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        for _ in range(n_epochs):
            for rows in torch.randperm(len(near)).split(batch_size):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(network(near[rows]), wanted[rows]).backward()
                optimizer.step()
    network.eval()
    with torch.no_grad():
        predicted = network(query).numpy()
    return _as_columns(targets.inverse_transform(predicted.astype(float)), values)


def _perceptron(widths, dropout):
    """Return linear layers with ReLU and dropout between them."""
    from torch import nn

    layers = []
    for n_in, n_out in zip(widths[:-2], widths[1:-1], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


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


# ---------------------------------------------------------------------- information
def _contrast(first, second, scale):
    """Return the symmetric InfoNCE loss of unit vectors (N, D), nats."""
    logits = scale * np.asarray(first, dtype=float) @ np.asarray(second, dtype=float).T
    own = np.diag(logits)
    return 0.5 * float(
        np.mean(logsumexp(logits, axis=1) - own) + np.mean(logsumexp(logits, axis=0) - own)
    )


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
    found = minimize_scalar(
        lambda log_scale: _contrast(first, second, np.exp(log_scale)),
        bounds=LOG_SCALES,
        method="bounded",
    )
    return float(np.exp(found.x))


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
    loss = _contrast(first[:n_pairs], second[:n_pairs], scale)
    return mutual_information_bound(loss, n_pairs), n_pairs
