"""Scores against the number of labels, and detections against false alarms."""

import numpy as np

from astroclip._validation import check_not_empty
from astroclip.plotting._drawing import axes_of, count_note, finish, numbers, same_length

__all__ = ["plot_learning_curve", "plot_roc"]

MARKED_RATE = 0.01  # false-alarm rate at which the legend gives the detections


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
    middle, ends = _middle_and_range(values, lower, upper)
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


def _middle_and_range(values, lower, upper):
    """Return the curve (K,) and its range (2, K) or None."""
    if (lower is None) != (upper is None):
        msg = "lower and upper are the ends of a range; expected both or none."
        raise ValueError(msg)
    if values.ndim == 1:
        if lower is None:
            return values, None
        ends = [numbers(end, name)[0] for end, name in ((lower, "lower"), (upper, "upper"))]
        for end, name in zip(ends, ("lower", "upper"), strict=True):
            same_length(values, end, ("scores", name))
        return values, np.array(ends)
    if lower is not None:
        msg = "scores holds repetitions, whose range is drawn; expected no lower and upper."
        raise ValueError(msg)
    found = np.full((3, len(values)), np.nan)
    for row, repetitions in enumerate(values):
        finite = repetitions[np.isfinite(repetitions)]
        if len(finite):
            found[:, row] = np.percentile(finite, [16, 50, 84])
    return found[1], found[[0, 2]]


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
    _draw_chance(ax)
    lowest = max(0.5 / max((is_positive[known] == 0).sum(), 1), 1e-5)
    ax.set(
        xscale="log" if log else "linear", xlim=(lowest if log else 0, 1), ylim=(0, 1.01),
        xlabel="fraction of others taken (false alarms)", ylabel="fraction found",
    )
    notes = count_note(int((~known).sum()), len(known), "no score")
    return finish(ax, notes=notes, location="upper left" if log else "lower right")


def _draw_chance(ax):
    """Draw the line of chance once."""
    if not any(line.get_label() == "chance" for line in ax.lines):
        at = np.geomspace(1e-6, 1, 100)
        ax.plot(at, at, color="0.5", lw=0.8, ls="--", label="chance")
