"""Quantiles of weighted values."""

import numpy as np

__all__ = ["weighted_quantiles"]


def weighted_quantiles(values, weights, levels):
    r"""Return quantiles of weighted values, row by row.

    Parameters
    ----------
    values : (N, K) array-like
    weights : (N, K) array-like
        Not negative, at least one of a row positive. Rows with NaN give NaN.
    levels : (L,) array-like
        From 0 to 1.

    Returns
    -------
    (L, N) `numpy.ndarray`

    Notes
    -----
    The i-th smallest value with positive weight stands for the probability

    .. math:: p_i = \left(\sum_{j \le i} w_j - w_i / 2\right) / \sum_j w_j

    between which the quantile is linear, and constant beyond the first and the last. With
    equal weights it is Hazen's (``method="hazen"`` of `numpy.quantile`); the median of two
    values of equal weight is their mean.

    Examples
    --------
    >>> from astroclip.estimation.quantiles import weighted_quantiles
    >>> weighted_quantiles([[1.0, 2.0, 9.0]], [[1.0, 1.0, 0.0]], [0.5])
    array([[1.5]])
    """
    values, weights = np.broadcast_arrays(
        np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    )
    levels = np.asarray(levels, dtype=float)
    counted = weights > 0
    order = np.argsort(np.where(counted, values, np.inf), axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    weight = np.take_along_axis(np.where(counted, weights, 0.0), order, axis=1)
    n_counted = counted.sum(axis=1, keepdims=True)
    last = np.take_along_axis(ordered, np.maximum(n_counted - 1, 0), axis=1)
    ordered = np.where(np.arange(values.shape[1]) < n_counted, ordered, last)
    cumulative = np.cumsum(weight, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        place = (cumulative - weight / 2) / cumulative[:, -1:]
    found = np.stack([_between(ordered, place, level) for level in levels])
    missing = np.isnan(weights).any(axis=1) | np.isnan(np.where(counted, values, 0)).any(axis=1)
    found[:, missing] = np.nan
    return found


def _between(ordered, place, level):
    """Return values (N,) at a level, linear between the places of ordered values."""
    n_values = ordered.shape[1]
    above = np.clip((place <= level).sum(axis=1), 1, max(n_values - 1, 1))[:, None]
    above = np.minimum(above, n_values - 1)
    below = np.maximum(above - 1, 0)
    low, high = (np.take_along_axis(place, side, axis=1) for side in (below, above))
    first, second = (np.take_along_axis(ordered, side, axis=1) for side in (below, above))
    step = high - low
    share = np.clip((level - low) / np.where(step > 0, step, 1.0), 0.0, 1.0)
    return (first + share * (second - first))[:, 0]
