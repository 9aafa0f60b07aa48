"""Estimates against the truth, whether their probabilities hold, and curves of scores."""

import numpy as np
from astropy.table import Table

from astroclip._validation import check_integer, check_not_empty
from astroclip.metrics import nmad, r2_score
from astroclip.plotting._drawing import (
    POINT_COLOR,
    UNUSUAL_COLOR,
    axes_of,
    column_or_values,
    count_note,
    finish,
    label_of,
    numbers,
    same_length,
    same_unit,
)

__all__ = [
    "plot_calibration",
    "plot_estimates",
    "plot_learning_curve",
    "plot_reliability",
    "plot_roc",
]

MAX_BARS = 400  # more intervals than this are drawn as a band
N_BAND_BINS = 12
ONE_SIGMA = 0.6827  # probability within a standard deviation of a Gaussian
MARKED_RATE = 0.01  # false-alarm rate at which the legend gives the detections


# ---------------------------------------------------------------------- estimates
def plot_estimates(predicted, true, *, name="redshift", lower=None, upper=None, ax=None):
    """Draw predicted against true values with their intervals, and return the Axes.

    Parameters
    ----------
    predicted : `~astropy.table.Table` or (N,) array-like
        From `astroclip.PropertyEstimator.predict`, or values.
    true : `~astropy.table.Table` or (N,) array-like
        A table with a column ``name`` and a row for each of ``predicted``'s, or values;
        converted to the unit of ``predicted``.
    name : str
        The property: the column, and the label of the axes.
    lower, upper : (N,) array-like, optional
        Ends of intervals; of a table its ``name_lower`` and ``name_upper`` by default.
    ax : `~matplotlib.axes.Axes`, optional

    Returns
    -------
    `~matplotlib.axes.Axes`
        The legend holds R2, NMAD (of redshifts that of dz / (1 + z), of others the plain
        one), the fraction of intervals that hold the truth, and how many objects lack
        either value. Beyond 400 objects the intervals are a band, the medians of their
        ends in bins of the predicted value. Objects out of distribution are orange.

    Raises
    ------
    KeyError
        If a table has no column of the property.
    UnitsError
        If units do not convert.
    ValueError
        If lengths differ, one end of the intervals is missing, or no object has both values.

    Examples
    --------
    >>> from astropy import units as u
    >>> from astroclip.plotting import plot_estimates
    >>> ax = plot_estimates([1.0, 2.0, 3.1] * u.mag, [1.1, 2.0, 3.0] * u.mag, name="dust")
    >>> ax.get_xlabel()
    'true dust (mag)'
    """
    values, unit = numbers(column_or_values(predicted, name, "predicted"), "predicted")
    unusual = np.zeros(len(values), dtype=bool)
    if isinstance(predicted, Table):
        if lower is None and upper is None and f"{name}_lower" in predicted.colnames:
            lower, upper = predicted[f"{name}_lower"], predicted[f"{name}_upper"]
        if "out_of_distribution" in predicted.colnames:
            unusual = np.asarray(predicted["out_of_distribution"], dtype=bool)
    truth, true_unit = numbers(column_or_values(true, name, "true"), "true")
    same_length(values, truth, ("predicted", "true"))
    truth = same_unit(truth, true_unit, unit, "true")
    ends = _interval_ends(lower, upper, values, unit, "predicted")
    known = np.isfinite(values) & np.isfinite(truth)
    if not known.any():
        msg = (
            f"predicted and true have no object with both values among {len(values)}; expected at "
            f"least one. Look at the message column of failed objects."
        )
        raise ValueError(msg)
    ax = axes_of(ax)
    if ends is not None:
        _draw_intervals(ax, truth, values, ends, known)
    span = np.percentile(np.r_[truth[known], values[known]], [0, 100])
    ax.plot(span, span, color="0.4", lw=0.8, zorder=3)
    scores = [f"N = {known.sum():,}"]
    if np.ptp(truth[known]) > 0:
        scores.insert(0, f"R2 = {r2_score(values[known], truth[known]):.3f}")
    if name == "redshift":
        scores.append(f"NMAD = {nmad(values[known], truth[known]):.4f}")
    else:
        scatter = 1.4826 * np.median(np.abs(values[known] - truth[known]))
        scores.append(f"NMAD = {scatter:.3g}")
    size = float(np.clip(3000 / known.sum(), 6, 20))  # smaller the more objects there are
    style = {"lw": 0, "alpha": 0.7, "rasterized": True}
    rows, label = known & ~unusual, ", ".join(scores)
    ax.scatter(
        truth[rows], values[rows], s=size, color=POINT_COLOR, label=label, zorder=4, **style
    )
    rows = known & unusual
    if rows.any():
        label = f"out of distribution ({rows.sum():,})"
        ax.scatter(
            truth[rows], values[rows], s=2 * size, color=UNUSUAL_COLOR, label=label, zorder=5,
            **style,
        )
    ax.set(xlabel=label_of(f"true {name}", unit), ylabel=label_of(f"predicted {name}", unit))
    why = "no estimate or no true value"
    return finish(ax, notes=count_note(int((~known).sum()), len(known), why))


def _interval_ends(lower, upper, values, unit, name):
    """Return the ends of intervals (2, N) in the unit of the values, None if none are given."""
    if lower is None and upper is None:
        return None
    if lower is None or upper is None:
        msg = "lower and upper are the ends of intervals; expected both or none."
        raise ValueError(msg)
    ends = []
    for end, end_name in ((lower, "lower"), (upper, "upper")):
        end, end_unit = numbers(end, end_name)
        same_length(values, end, (name, end_name))
        ends.append(same_unit(end, end_unit, unit, end_name))
    return np.array(ends)


def _draw_intervals(ax, truth, values, ends, known):
    """Draw intervals as bars, or as a band where there are many."""
    finite = known & np.isfinite(ends).all(axis=0)
    inside = known & (ends[0] <= truth) & (truth <= ends[1])
    given = known & ~np.isnan(ends).any(axis=0)
    label = f"intervals, {100 * inside.sum() / max(given.sum(), 1):.0f} % hold the true value"
    n_infinite = int((given & ~finite).sum())
    label += f" ({n_infinite:,} are infinite)" if n_infinite else ""
    if finite.sum() <= MAX_BARS:
        ax.vlines(
            truth[finite], *ends[:, finite], color=POINT_COLOR, lw=0.7, alpha=0.35, label=label
        )
        return
    edges = np.unique(np.quantile(values[finite], np.linspace(0, 1, N_BAND_BINS + 1)))
    bin_of = np.clip(np.searchsorted(edges, values[finite], side="right") - 1, 0, len(edges) - 2)
    bins = [np.flatnonzero(finite)[bin_of == number] for number in range(len(edges) - 1)]
    center, low, high = np.array(
        [[np.median(row[rows]) for row in (values, *ends)] for rows in bins if len(rows)]
    ).T
    ax.fill_between(center, low, high, color=POINT_COLOR, alpha=0.25, lw=0, label=label)


# ---------------------------------------------------------------------- probabilities
def plot_calibration(intervals, true, *, name="redshift", label=None, ax=None):
    """Draw how many intervals hold the truth against the stated level; return the Axes.

    Parameters
    ----------
    intervals : dict
        By stated level (0-1): the table that a `~astroclip.PropertyEstimator` of that
        ``confidence`` predicts, or a pair of (N,) arrays, lower and upper.
    true : `~astropy.table.Table` or (N,) array-like
        A table with a column ``name``, or values.
    name : str
        The property, for tables.
    label : str, optional
        What the legend calls the curve; ``name`` by default.
    ax : `~matplotlib.axes.Axes`, optional
        Call again with the same Axes to compare.

    Returns
    -------
    `~matplotlib.axes.Axes`
        Above the diagonal intervals are too wide, below too narrow. Bars are the 68 %
        Wilson interval of each fraction.

    Raises
    ------
    KeyError
        If a table has no column of the property.
    UnitsError
        If units do not convert.
    ValueError
        If there are no intervals, a level is not between 0 and 1, lengths differ or no
        object has an interval and a true value.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.plotting import plot_calibration
    >>> true = np.random.default_rng(0).normal(size=1000)
    >>> zero = np.zeros(1000)
    >>> ax = plot_calibration({0.68: (zero - 1, zero + 1), 0.95: (zero - 2, zero + 2)}, true)
    >>> ax.get_ylabel()
    'fraction that holds the true value'
    """
    check_not_empty(intervals, "intervals")
    truth, true_unit = numbers(column_or_values(true, name, "true"), "true")
    counts = []
    for level in sorted(intervals):
        if not 0 < level < 1:
            msg = f"intervals has the level {level!r}; expected a number between 0 and 1."
            raise ValueError(msg)
        counts.append(_count_covered(intervals[level], level, truth, true_unit, name))
    levels = np.array(sorted(intervals))
    n_inside, n_known = np.array(counts).T
    ax = axes_of(ax)
    _draw_once(ax, [0, 1], "holds as stated")
    text = f"{label or label_of(name)} (N = {n_known.max():,})"
    _draw_fractions(ax, levels, n_inside, n_known, text)
    ax.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="stated probability",
        ylabel="fraction that holds the true value",
    )
    n_left_out = len(truth) - n_known.min()
    notes = count_note(n_left_out, len(truth), "no interval or no true value")
    return finish(ax, notes=notes, location="upper left")


def _count_covered(interval, level, truth, true_unit, name):
    """Return how many intervals of a level hold the truth and how many can be told."""
    where = f"intervals[{level}]"
    if isinstance(interval, Table):
        ends = [column_or_values(interval, f"{name}{end}", where) for end in ("_lower", "_upper")]
    else:
        ends = list(interval)
        if len(ends) != 2:
            msg = f"{where} has {len(ends)} parts; expected two arrays, lower and upper."
            raise ValueError(msg)
    parts = []
    for end in ends:
        values, unit = numbers(end, where)
        same_length(truth, values, ("true", where))
        parts.append(same_unit(values, unit, true_unit, where))
    known = np.isfinite(truth) & ~np.isnan(parts).any(axis=0)  # infinite ends are intervals
    if not known.any():
        msg = f"{where} has no object with an interval and a true value; expected at least one."
        raise ValueError(msg)
    inside = known & (parts[0] <= truth) & (truth <= parts[1])
    return int(inside.sum()), int(known.sum())


def plot_reliability(probability, true, *, n_bins=10, label=None, ax=None):
    """Draw how often a class is right against its stated probability; return the Axes.

    Parameters
    ----------
    probability : (N,) or (N, C) array-like
        Probabilities that objects are of a class, or of C classes; then the likeliest
        class of each object counts.
    true : (N,) array-like
        Whether each object is of the class (bool), or the number of its class.
    n_bins : int
        Equal bins of probability.
    label : str, optional
        What the legend calls the curve.
    ax : `~matplotlib.axes.Axes`, optional
        Call again with the same Axes to compare.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The legend holds the expected calibration error, the mean distance from the
        diagonal weighted by the number of objects. Bars are 68 % Wilson intervals.

    Raises
    ------
    ValueError
        If lengths differ, a probability is outside 0-1, a class is unknown or no object
        has both values.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599 (reliability, expected calibration error).

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.plotting import plot_reliability
    >>> rng = np.random.default_rng(0)
    >>> probability = rng.uniform(size=2000)
    >>> ax = plot_reliability(probability, rng.uniform(size=2000) < probability)
    >>> ax.get_xlabel()
    'stated probability'
    """
    check_integer(n_bins, "n_bins")
    n_axes = max(1, np.ndim(getattr(probability, "value", probability)))
    stated, _ = numbers(probability, "probability", n_axes=min(n_axes, 2))
    truth, _ = numbers(true, "true")
    same_length(stated, truth, ("probability", "true"))
    if ((stated < 0) | (stated > 1)).any():
        msg = (
            f"probability reaches from {np.nanmin(stated):.3g} to {np.nanmax(stated):.3g}; "
            f"expected values from 0 to 1."
        )
        raise ValueError(msg)
    if stated.ndim == 1:
        n_classes, expected = 2, "True or False"
        likeliest = np.ones(len(stated))
    else:
        n_classes, expected = stated.shape[1], f"numbers of classes below {stated.shape[1]}"
        likeliest = np.argmax(np.nan_to_num(stated, nan=-1.0), axis=1)
        stated = stated.max(axis=1)  # NaN where any class has none
    known = np.isfinite(stated) & np.isfinite(truth)
    bad = known & ~np.isin(truth, np.arange(n_classes))
    if bad.any():
        msg = f"true holds {truth[bad][0]:g}; expected {expected}."
        raise ValueError(msg)
    if not known.any():
        msg = "probability and true have no object with both values; expected at least one."
        raise ValueError(msg)
    stated, right = stated[known], (likeliest == truth)[known]
    bins = np.minimum((stated * n_bins).astype(int), n_bins - 1)
    n_known = np.bincount(bins, minlength=n_bins)
    n_right = np.bincount(bins, weights=right, minlength=n_bins).astype(int)
    used = n_known > 0
    center = np.bincount(bins, weights=stated, minlength=n_bins)[used] / n_known[used]
    error = np.abs(n_right[used] - center * n_known[used]).sum() / n_known.sum()
    ax = axes_of(ax)
    _draw_once(ax, [0, 1], "right as often as stated")
    text = f"{label or 'classes'}: calibration error {error:.3f} (N = {len(stated):,})"
    _draw_fractions(ax, center, n_right[used], n_known[used], text)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="stated probability", ylabel="fraction that is right")
    notes = count_note(int((~known).sum()), len(known), "no probability or no true class")
    return finish(ax, notes=notes, location="upper left")


def _draw_once(ax, values, label):
    """Draw the diagonal, unless an earlier call drew it."""
    if not any(line.get_label() == label for line in ax.lines):
        ax.plot(values, values, color="0.4", lw=0.8, ls="--", label=label)


def _draw_fractions(ax, at, n_inside, n_known, label):
    """Draw fractions with their Wilson intervals."""
    from astropy.stats import binom_conf_interval

    fraction = n_inside / n_known
    low, high = binom_conf_interval(
        n_inside, n_known, confidence_level=ONE_SIGMA, interval="wilson"
    )
    reach = np.clip([fraction - low, high - fraction], 0, None)
    ax.errorbar(at, fraction, yerr=reach, fmt="o-", ms=4, lw=1.2, capsize=2, label=label)


# ---------------------------------------------------------------------- curves of scores
def plot_learning_curve(
    n_labels, scores, *, lower=None, upper=None, label=None, score_name="score",
    count_name="labels", ax=None,
):
    """Draw a score against the number of labels or pairs, with its range; return the Axes.

    Parameters
    ----------
    n_labels : (K,) array-like
        Numbers of labels or pairs, in any order; drawn on a logarithmic axis.
    scores : (K,) or (K, R) array-like
        The score of each, or those of R repetitions: their median is the curve and their
        16th to 84th percentiles the range. NaN is left out and counted in the legend.
    lower, upper : (K,) array-like, optional
        The range, for scores without repetitions.
    label : str, optional
        What the legend calls the curve.
    score_name, count_name : str
        Labels of the axes: what was scored, and what was counted.
    ax : `~matplotlib.axes.Axes`, optional
        Call again with the same Axes to compare.

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    ValueError
        If lengths differ, a number is not positive, a range is given beside repetitions,
        one end of the range is missing or no score is finite.

    Examples
    --------
    >>> from astroclip.plotting import plot_learning_curve
    >>> ax = plot_learning_curve([5, 10, 20], [0.3, 0.5, 0.6], score_name="average precision")
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('number of labels', 'average precision')
    """
    counts, _ = numbers(n_labels, "n_labels")
    check_not_empty(counts, "n_labels")
    if not (counts > 0).all():
        msg = f"n_labels holds {np.nanmin(counts):g}; expected positive numbers."
        raise ValueError(msg)
    values, _ = numbers(scores, "scores", n_axes=2 if np.ndim(scores) == 2 else 1)
    same_length(counts, values, ("n_labels", "scores"))
    n_missing = int((~np.isfinite(values)).sum())
    if n_missing == values.size:
        msg = f"scores holds no finite value among {values.size}; expected at least one."
        raise ValueError(msg)
    if values.ndim == 1:
        middle, ends = values, _interval_ends(lower, upper, values, None, "scores")
    elif lower is not None or upper is not None:
        msg = "scores holds repetitions, whose range is drawn; expected no lower and upper."
        raise ValueError(msg)
    else:
        summary = np.full((3, len(values)), np.nan)
        for row, repetitions in enumerate(values):
            finite = repetitions[np.isfinite(repetitions)]
            if len(finite):
                summary[:, row] = np.percentile(finite, [16, 50, 84])
        middle, ends = summary[1], summary[[0, 2]]
    order = np.argsort(counts, kind="stable")
    order = order[np.isfinite(middle[order])]
    ax = axes_of(ax)
    (line,) = ax.plot(counts[order], middle[order], "o-", ms=4, lw=1.2, label=label)
    if ends is not None:
        ax.fill_between(
            counts[order], *ends[:, order], color=line.get_color(), alpha=0.2, lw=0
        )
    ax.set(xscale="log", xlabel=f"number of {count_name}", ylabel=score_name)
    notes = count_note(n_missing, values.size, f"no {score_name}")
    return finish(ax, notes=[f"{label}: {note}" if label else note for note in notes])


def plot_roc(scores, positive, *, label=None, log=False, ax=None):
    """Draw detections against false alarms of a score, and return the Axes.

    Parameters
    ----------
    scores : (N,) array-like
        Larger is more like what is looked for: a similarity to examples, an outlier score.
    positive : (N,) bool array-like
        Whether each object is what is looked for.
    label : str, optional
        What the legend calls the curve.
    log : bool
        Draw false alarms on a logarithmic axis, for rare objects.
    ax : `~matplotlib.axes.Axes`, optional
        Call again with the same Axes to compare.

    Returns
    -------
    `~matplotlib.axes.Axes`
        The legend holds the area under the curve (0.5 by chance) and the detections at
        1 % of false alarms. Objects whose score is NaN or masked are left out and counted.

    Raises
    ------
    ValueError
        If lengths differ, or the objects with a score are all positive or all negative.

    Examples
    --------
    >>> from astroclip.plotting import plot_roc
    >>> ax = plot_roc([0.1, 0.4, 0.35, 0.8], [False, False, True, True], label="k-NN")
    >>> ax.get_legend().get_texts()[0].get_text()
    'k-NN: area 0.750, 50 % found at 1 % false alarms'
    """
    from sklearn.metrics import auc, roc_curve

    values, _ = numbers(scores, "scores")
    is_positive, _ = numbers(positive, "positive")
    same_length(values, is_positive, ("scores", "positive"))
    known = ~np.isnan(values) & np.isfinite(is_positive)
    values_there = np.unique(is_positive[known])
    if not np.isin(values_there, (0, 1)).all() or len(values_there) < 2:
        msg = (
            f"positive holds {values_there.tolist()} for the objects with a score; "
            f"expected True for some and False for others."
        )
        raise ValueError(msg)
    finite = np.clip(values[known], -np.finfo(float).max, np.finfo(float).max)
    false_alarms, detected, _ = roc_curve(is_positive[known] == 1, finite, drop_intermediate=False)
    share = detected[np.searchsorted(false_alarms, MARKED_RATE, side="right") - 1]
    text = (
        f"area {auc(false_alarms, detected):.3f}, {100 * share:.0f} % found at "
        f"{100 * MARKED_RATE:.0f} % false alarms"
    )
    ax = axes_of(ax)
    ax.plot(false_alarms, detected, lw=1.4, label=f"{label}: {text}" if label else text)
    _draw_once(ax, np.geomspace(1e-6, 1, 100), "chance")  # a curve where the axis is logarithmic
    lowest = max(0.5 / max((is_positive[known] == 0).sum(), 1), 1e-5)
    ax.set(
        xscale="log" if log else "linear", xlim=(lowest if log else 0, 1), ylim=(0, 1.01),
        xlabel="fraction of others taken (false alarms)", ylabel="fraction found",
    )
    notes = count_note(int((~known).sum()), len(known), "no score")
    return finish(ax, notes=notes, location="upper left" if log else "lower right")
