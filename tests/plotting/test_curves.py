"""Learning curves and detections against false alarms."""

import numpy as np
import pytest
from astropy import units as u
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from sklearn.metrics import roc_auc_score

from astroclip.plotting import plot_learning_curve, plot_roc


def legend(ax):
    """Return the legend's texts."""
    return [] if ax.get_legend() is None else [t.get_text() for t in ax.get_legend().get_texts()]


def test_median_and_range_of_repetitions_in_order_of_number():
    scores = np.random.default_rng(0).uniform(size=(3, 9))
    ax = Figure().subplots()
    drawn = plot_learning_curve(
        [40, 5, 10], scores, label="ridge", score_name="R2 of redshift", ax=ax
    )
    assert drawn is ax
    assert_allclose(ax.lines[0].get_xdata(), [5, 10, 40])
    assert_allclose(ax.lines[0].get_ydata(), np.median(scores, axis=1)[[1, 2, 0]])
    corners = ax.collections[0].get_paths()[0].vertices
    for number, row in zip([40, 5, 10], scores, strict=True):
        for percent in (16, 84):
            point = [number, np.percentile(row, percent)]
            assert min(np.linalg.norm(corners - point, axis=1)) < 1e-9
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("number of labels", "R2 of redshift")
    assert legend(ax) == ["ridge"]


def test_given_range_and_no_range():
    ax = plot_learning_curve([1, 10], [0.1, 0.2], lower=[0, 0.1], upper=[0.2, 0.3])
    assert len(ax.collections) == 1
    ax = plot_learning_curve([1, 10], [0.1, 0.2], count_name="pairs")
    assert len(ax.collections) == 0
    assert ax.get_xlabel() == "number of pairs"


def test_missing_scores_are_counted():
    scores = [[0.1, np.nan, 0.3], [np.nan, np.nan, np.nan], [0.5, 0.5, 0.5]]
    ax = plot_learning_curve([1, 2, 3], scores, label="k-NN")
    assert_allclose(ax.lines[0].get_xydata(), [[1, 0.2], [3, 0.5]])
    assert legend(ax) == ["k-NN", "k-NN: 4 of 9 left out: no score"]
    plot_learning_curve([1, 2, 3], [0.2, 0.3, 0.4], label="ridge", ax=ax)
    assert legend(ax) == ["k-NN", "ridge", "k-NN: 4 of 9 left out: no score"]


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (([], []), {}, "n_labels is empty"),
        (([0, 1], [1, 1]), {}, "n_labels holds 0; expected positive"),
        (([1, 2], [1]), {}, "scores has 1 values and n_labels has 2"),
        (([1, 2], [np.nan] * 2), {}, "scores holds no finite value"),
        (([1, 2], [1, 2]), {"lower": [1, 2]}, "expected both or none"),
        (([1], [[1, 2]]), {"lower": [1], "upper": [2]}, "expected no lower and upper"),
    ],
)
def test_bad_learning_curves_are_named(arguments, options, words):
    with pytest.raises(ValueError, match=words):
        plot_learning_curve(*arguments, **options)


# ---------------------------------------------------------------------- plot_roc
@given(st.integers(0, 2**31), st.integers(1, 20))
def test_the_curve_is_every_threshold(seed, n_values):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, n_values, 60) / n_values  # with ties
    positive = np.arange(60) < 20
    ax = plot_roc(scores, positive, label="outliers")
    drawn = ax.lines[0].get_xydata()
    for threshold in np.unique(scores):
        taken = scores >= threshold
        point = [taken[~positive].mean(), taken[positive].mean()]
        assert min(np.linalg.norm(drawn - point, axis=1)) < 1e-9
    best = max(
        [(scores >= t)[positive].mean() for t in np.unique(scores)
         if (scores >= t)[~positive].mean() <= 0.01],
        default=0.0,
    )
    area = roc_auc_score(positive, scores)
    words = legend(ax)[0].split()
    assert words[:2] == ["outliers:", "area"]
    # rounded to what is shown, either way of a tie
    assert abs(float(words[2].removesuffix(",")) - area) < 0.0005 + 1e-9
    assert abs(float(words[3]) - 100 * best) < 0.5 + 1e-9
    assert len(words[2]) == len("0.000,")
    assert words[4:] == ["%", "found", "at", "1", "%", "false", "alarms"]


def test_objects_without_a_score_are_counted_and_infinite_ones_ranked():
    scores = np.array([np.inf, 0.5, np.nan, 0.1, -np.inf]) * u.mag
    ax = plot_roc(scores, [True, True, True, False, False])
    assert legend(ax) == [
        "area 1.000, 100 % found at 1 % false alarms", "chance", "1 of 5 left out: no score"
    ]


def test_curves_share_axes_and_the_line_of_chance():
    ax = plot_roc([1, 2, 3, 4], [False, True, False, True], label="one", log=True)
    assert plot_roc([4, 2, 3, 1], [False, True, False, True], label="two", log=True, ax=ax) is ax
    assert sum(text == "chance" for text in legend(ax)) == 1
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize(
    ("scores", "positive", "words"),
    [
        ([1, 2], [True], "positive has 1 values and scores has 2"),
        ([1, 2], [True, True], r"positive holds \[1.0\] for the objects with a score"),
        ([1, np.nan], [True, False], r"positive holds \[1.0\]"),
        ([1, 2], [0, 5], r"positive holds \[0.0, 5.0\]"),
    ],
)
def test_bad_scores_are_named(scores, positive, words):
    with pytest.raises(ValueError, match=words):
        plot_roc(scores, positive)
