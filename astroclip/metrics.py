"""Scores of estimates and of retrieval, in plain numpy."""

import numpy as np

__all__ = [
    "mutual_information_bound",
    "nmad",
    "outlier_fraction",
    "r2_score",
    "recall_at",
    "retrieval_ranks",
]


def _pair(first, second, *, names=("predicted", "true")):
    """Return both as float arrays of one shape."""
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape:
        msg = (
            f"{names[0]} has shape {first.shape} and {names[1]} {second.shape}; expected the "
            f"same. Pass one row of each per object."
        )
        raise ValueError(msg)
    return first, second


def r2_score(predicted, true):
    """Return the coefficient of determination.

    Parameters
    ----------
    predicted, true : (N,) array-like

    Returns
    -------
    float
        One for perfect estimates, zero for the mean of the truth.

    Examples
    --------
    >>> from astroclip.metrics import r2_score
    >>> r2_score([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    1.0
    """
    predicted, true = _pair(predicted, true)
    return float(1 - np.sum((predicted - true) ** 2) / np.sum((true - true.mean()) ** 2))


def nmad(predicted, true):
    r"""Return the normalized median absolute deviation of redshifts.

    .. math:: 1.4826\,\mathrm{median}\,|z_p - z_t| / (1 + z_t)

    Parameters
    ----------
    predicted, true : (N,) array-like
        Redshifts.

    Returns
    -------
    float

    References
    ----------
    Ilbert et al. (2006), A&A 457, 841, without their shift by the median.
    """
    predicted, true = _pair(predicted, true)
    return float(1.4826 * np.median(np.abs(predicted - true) / (1 + true)))


def outlier_fraction(predicted, true, *, limit=0.05):
    """Return the fraction of redshifts off by more than ``limit`` times 1 + z.

    Parameters
    ----------
    predicted, true : (N,) array-like
        Redshifts.
    limit : float

    Returns
    -------
    float
    """
    predicted, true = _pair(predicted, true)
    return float(np.mean(np.abs(predicted - true) / (1 + true) > limit))


def retrieval_ranks(queries, targets):
    """Return the rank of each query's own target among all targets.

    Parameters
    ----------
    queries, targets : (N, D) array-like
        Embeddings; row i of both is the same object.

    Returns
    -------
    (N,) int `numpy.ndarray`
        Zero where no other target is more similar (cosine).

    Raises
    ------
    ValueError
        If the shapes differ, or a row holds no embedding: it would count as found.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.metrics import retrieval_ranks
    >>> retrieval_ranks(np.eye(3), np.eye(3))
    array([0, 0, 0])
    """
    queries, targets = _pair(queries, targets, names=("queries", "targets"))
    queries, targets = _unit(queries, "queries"), _unit(targets, "targets")
    similarity = queries @ targets.T
    own = np.diag(similarity)[:, None]
    return np.sum(similarity > own, axis=1)


def _unit(vectors, name):
    """Return vectors divided by their lengths."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(length[:, 0]) & (length[:, 0] > 0)))
    if len(bad):
        msg = (
            f"{name}[{bad[0]}] is zero or not finite; expected an embedding in every row. Leave "
            f"out failed objects, in queries and targets."
        )
        raise ValueError(msg)
    return vectors / length


def recall_at(queries, targets, n_best):
    """Return the share of queries whose own target is among the ``n_best`` most similar.

    Parameters
    ----------
    queries, targets : (N, D) array-like
        Embeddings; row i of both is the same object.
    n_best : int

    Returns
    -------
    float
    """
    return float(np.mean(retrieval_ranks(queries, targets) < n_best))


def mutual_information_bound(loss, n_pairs):
    """Return the lower bound on mutual information that an InfoNCE loss gives.

    Parameters
    ----------
    loss : float
        Mean InfoNCE loss in nats on held-out pairs.
    n_pairs : int
        Pairs in each batch.

    Returns
    -------
    float
        ``log(n_pairs) - loss``, nats.

    References
    ----------
    van den Oord et al. (2018), arXiv:1807.03748, eq. 5.
    """
    return float(np.log(n_pairs) - loss)
