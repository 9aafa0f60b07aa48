"""Conformal intervals: how wide they must be to cover the truth with a probability."""

import numbers

import numpy as np

__all__ = ["check_levels", "check_probability", "conformal_factor", "interval_columns",
           "percent_name"]

ROUNDING = 1e-9


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
    >>> from astroclip.estimation.intervals import percent_name
    >>> percent_name(0.95), percent_name(0.05), percent_name(0.997)
    ('95', '05', '99_7')
    """
    whole, _, rest = f"{100 * level:.6g}".partition(".")
    return whole.zfill(2) + (f"_{rest}" if rest else "")


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
    >>> from astroclip.estimation.intervals import conformal_factor
    >>> conformal_factor([1.0, 2.0, 3.0, 4.0], 0.6), conformal_factor([1.0, 2.0], 0.9)
    (3.0, inf)
    """
    rank = int(np.ceil((len(scores) + 1) * confidence - ROUNDING))
    return float(scores[rank - 1]) if rank <= len(scores) else np.inf


def interval_columns(scale, estimate, scatter, scores, levels):
    """Return estimates and the ends of their intervals, by the suffix of their columns.

    Parameters
    ----------
    scale : `~astroclip.estimation.scales.LinearScale`
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
