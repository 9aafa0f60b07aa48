"""Calibrated uncertainty: conformal intervals, weighted quantiles, temperature scaling.

Conformal intervals and weighted quantiles are few lines that no dependency of ours has:
scikit-learn gives no intervals that adapt to each object, and `numpy.quantile` takes weights
for one method alone, which is a step function of the level.
"""

import numbers

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

__all__ = [
    "check_levels", "check_probability", "class_columns", "conformal_factor",
    "explained_variance", "fit_temperature", "interval_columns", "percent_name",
    "weighted_quantiles",
]  # fmt: skip

ROUNDING = 1e-9  # (n + 1) c that is an integer but for rounding is not raised to the next
TEMPERATURES = (0.05, 20.0)  # bounds of the fit


# ---------------------------------------------------------------------- levels and their names
def check_probability(value, name):
    """Raise ValueError unless a value lies between 0 and 1, both excluded."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < value < 1:
        msg = f"{name} is {value!r}; expected a number between 0 and 1."
        raise ValueError(msg)


def check_levels(values, name, *, empty=False):
    """Return one or several probabilities as a tuple.

    Raises
    ------
    ValueError
        If there is none (unless ``empty``), one is twice there, or one is not between 0
        and 1.
    """
    levels = (values,) if np.ndim(values) == 0 else tuple(values)
    for level in levels:
        check_probability(level, name)
    names = [percent_name(level) for level in levels]
    if len(set(names)) < len(names) or not (levels or empty):
        msg = f"{name} is {values!r}; expected numbers between 0 and 1, each once."
        raise ValueError(msg)
    return levels


def percent_name(level):
    """Return how a column's name tells a probability.

    Examples
    --------
    >>> from astroclip.estimation.calibration import percent_name
    >>> percent_name(0.95), percent_name(0.05), percent_name(0.997)
    ('95', '05', '99_7')
    """
    whole, _, rest = f"{100 * level:.6g}".partition(".")
    return whole.zfill(2) + (f"_{rest}" if rest else "")


# ---------------------------------------------------------------------- numbers
def conformal_factor(scores, confidence):
    r"""Return the score that a new object stays below with at least a probability.

    Parameters
    ----------
    scores : (n,) array-like
        Of calibration objects, in rising order.
    confidence : float

    Returns
    -------
    float
        The :math:`\lceil (n + 1) c \rceil`-th smallest; infinite if that is beyond the last.

    Examples
    --------
    >>> from astroclip.estimation.calibration import conformal_factor
    >>> conformal_factor([1.0, 2.0, 3.0, 4.0], 0.6), conformal_factor([1.0, 2.0], 0.9)
    (3.0, inf)
    """
    rank = int(np.ceil((len(scores) + 1) * confidence - ROUNDING))
    return float(scores[rank - 1]) if rank <= len(scores) else np.inf


def interval_columns(scale, estimate, scatter, scores, levels):
    """Return estimates and the ends of their intervals, by the suffix of their columns.

    Parameters
    ----------
    scale : `~astroclip.estimation.properties.LinearScale`
    estimate, scatter : (N,) `numpy.ndarray`
        On the scale; the scatter is the unit of the scores.
    scores : (n,) `numpy.ndarray`
        Of calibration objects, in rising order.
    levels : sequence of float
        Probabilities; the first one's columns have no number.

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
        ``""``, ``"_lower"``, ``"_upper"``, ``"_lower_95"``, ... as plain values.
    """
    value = scale.from_scale(estimate)
    columns = {"": value}
    if scale.period is not None:
        estimate = value  # ends of an angle's interval go on from the angle that is given
    for number, level in enumerate(levels):
        suffix = "" if number == 0 else f"_{percent_name(level)}"
        factor = conformal_factor(scores, level)
        reach = scale.limit(np.where(np.isfinite(estimate), factor * scatter, np.nan))
        columns[f"_lower{suffix}"] = scale.from_scale(estimate - reach, wrap=False)
        columns[f"_upper{suffix}"] = scale.from_scale(estimate + reach, wrap=False)
    return columns


def explained_variance(scale, residual, truth):
    """Return R2 from residuals (n,), on the scale; NaN if all truths are one."""
    spread = scale.spread(truth) ** 2
    return float(1 - np.mean(residual**2) / spread) if spread > 0 else np.nan


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
    >>> from astroclip.estimation.calibration import weighted_quantiles
    >>> weighted_quantiles([[1.0, 2.0, 9.0]], [[1.0, 1.0, 0.0]], [0.5])
    array([[1.5]])
    """
    values, weights = np.broadcast_arrays(
        np.asarray(values, dtype=float), np.asarray(weights, dtype=float)
    )
    counted = weights > 0
    order = np.argsort(np.where(counted, values, np.inf), axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    weight = np.take_along_axis(np.where(counted, weights, 0.0), order, axis=1)
    n_counted = counted.sum(axis=1, keepdims=True)
    last = np.take_along_axis(ordered, np.maximum(n_counted - 1, 0), axis=1)
    n_values = values.shape[1]
    ordered = np.where(np.arange(n_values) < n_counted, ordered, last)
    cumulative = np.cumsum(weight, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        position = (cumulative - weight / 2) / cumulative[:, -1:]
    quantiles = np.empty((len(levels), len(values)))
    for number, level in enumerate(np.asarray(levels, dtype=float)):
        above = np.clip((position <= level).sum(axis=1), 1, max(n_values - 1, 1))[:, None]
        above = np.minimum(above, n_values - 1)
        below = np.maximum(above - 1, 0)
        low, high = (np.take_along_axis(position, side, axis=1) for side in (below, above))
        first, second = (np.take_along_axis(ordered, side, axis=1) for side in (below, above))
        step = high - low
        share = np.clip((level - low) / np.where(step > 0, step, 1.0), 0.0, 1.0)
        quantiles[number] = (first + share * (second - first))[:, 0]
    missing = np.isnan(weights).any(axis=1) | np.isnan(np.where(counted, values, 0)).any(axis=1)
    quantiles[:, missing] = np.nan
    return quantiles


# ---------------------------------------------------------------------- classes
def fit_temperature(logits, target, *, prior=0.0):
    r"""Return the temperature that calibrates a classifier's probabilities.

    Parameters
    ----------
    logits : (N, C) `numpy.ndarray`
        Finite, of objects that the classifier was not trained on.
    target : (N, C) `numpy.ndarray`
        True distributions; of classes that are known, one for the true class.
    prior : float
        Weight of a Gaussian of unit width in the logarithm of the temperature, in objects:
        it matters for a handful of them alone.

    Returns
    -------
    float
        From 0.05 to 20. More than one flattens an overconfident classifier.

    Notes
    -----
    It minimizes the cross entropy
    :math:`-\sum_i \sum_k t_{ik} \log \mathrm{softmax}_k(l_i / T) + a (\ln T)^2 / 2` with the
    prior's weight a. Brent's method finds the root of its derivative by the logarithm of T,
    times T / N.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", arXiv:1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.estimation.calibration import fit_temperature
    >>> truth = np.eye(2)[[0, 0, 0, 0, 1]]  # the first class in 80 %, and 60 % were said
    >>> round(fit_temperature(np.log([[0.6, 0.4]] * 5), truth), 3)
    0.292
    """
    logits = logits - logits.max(axis=1, keepdims=True)
    wanted = (target * logits).sum(axis=1)

    def slope(log_temperature):
        power = softmax(logits * np.exp(-log_temperature), axis=1)
        gain = float(np.mean(wanted - (power * logits).sum(axis=1)))
        return gain + prior * log_temperature * np.exp(log_temperature) / len(logits)

    low, high = np.log(TEMPERATURES)
    if slope(low) >= 0:  # the likelihood rises towards ever lower temperatures
        return TEMPERATURES[0]
    if slope(high) <= 0:
        return TEMPERATURES[1]
    return float(np.exp(brentq(slope, low, high, xtol=1e-6)))


def class_columns(probability, classes):
    """Return class probabilities by the suffix of their columns.

    Parameters
    ----------
    probability : (N, C) `numpy.ndarray`
        NaN for failed objects.
    classes : (C,) sequence

    Returns
    -------
    dict of str to (N,) `numpy.ndarray`
        ``""`` (number of the most probable class, NaN if there is none),
        ``"_probability"`` (its probability) and ``"_probability_<class>"``.
    """
    valid = np.isfinite(probability).all(axis=1)
    best = np.where(valid, np.argmax(np.where(valid[:, None], probability, 0), axis=1), np.nan)
    columns = {"": best, "_probability": probability.max(axis=1)}
    for number, name in enumerate(classes):
        columns[f"_probability_{name}"] = probability[:, number]
    return columns
