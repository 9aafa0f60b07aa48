"""Estimates, probabilities and curves of scores: what is drawn, scored, covered, left out."""

import math

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable
from astropy.utils.masked import Masked
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.metrics import r2_score, roc_auc_score

from astroclip.plotting import (
    plot_calibration,
    plot_estimates,
    plot_learning_curve,
    plot_reliability,
    plot_roc,
)

RNG = np.random.default_rng(3)
TRUE = RNG.uniform(0, 1, 100)
PREDICTED = TRUE + RNG.normal(0, 0.05, 100)


def legend(ax):
    """Return the legend's texts."""
    return [] if ax.get_legend() is None else [t.get_text() for t in ax.get_legend().get_texts()]


def bars(collection):
    """Return x, lower and upper of vertical lines."""
    segments = np.array(collection.get_segments())
    return segments[:, 0, 0], segments[:, 0, 1], segments[:, 1, 1]


# ---------------------------------------------------------------------- plot_estimates
def test_points_bars_and_scores_of_a_table():
    estimates = QTable(
        {
            "redshift": PREDICTED, "redshift_lower": PREDICTED - 0.06,
            "redshift_upper": PREDICTED + 0.06, "out_of_distribution": np.arange(100) < 4,
        }
    )
    ax = Figure().subplots()
    assert plot_estimates(estimates, QTable({"redshift": TRUE}), ax=ax) is ax
    lines, usual, unusual = ax.collections
    x, low, high = bars(lines)
    assert_allclose(x, TRUE)
    assert_allclose(low, PREDICTED - 0.06)
    assert_allclose(high, PREDICTED + 0.06)
    assert_allclose(usual.get_offsets(), np.column_stack([TRUE, PREDICTED])[4:])
    assert_allclose(unusual.get_offsets(), np.column_stack([TRUE, PREDICTED])[:4])
    nmad = 1.4826 * np.median(np.abs(PREDICTED - TRUE) / (1 + TRUE))
    covered = 100 * np.mean(np.abs(PREDICTED - TRUE) <= 0.06)
    assert legend(ax) == [
        f"intervals, {covered:.0f} % hold the true value",
        f"R2 = {r2_score(TRUE, PREDICTED):.3f}, N = 100, NMAD = {nmad:.4f}",
        "out of distribution (4)",
    ]
    assert ax.get_xlabel() == "true redshift"
    assert ax.get_ylabel() == "predicted redshift"


def test_units_are_converted_and_labeled():
    ax = plot_estimates(
        PREDICTED * u.mag, TRUE * 1000 * u.mmag, name="dust",
        lower=(PREDICTED - 1) * 1000 * u.mmag, upper=(PREDICTED + 1) * u.mag,
    )
    assert_allclose(ax.collections[1].get_offsets(), np.column_stack([TRUE, PREDICTED]))
    assert_allclose(bars(ax.collections[0])[1], PREDICTED - 1)
    assert ax.get_xlabel() == "true dust (mag)"
    assert f"NMAD = {1.4826 * np.median(np.abs(PREDICTED - TRUE)):.3g}" in legend(ax)[1]


@pytest.mark.parametrize("unit", [u.one, u.km / u.s])
def test_objects_without_a_value_are_left_out_and_counted(unit):
    predicted = PREDICTED.copy()
    predicted[:3] = np.nan
    true = Masked(TRUE * unit, mask=np.arange(100) >= 98)
    ax = plot_estimates(predicted * unit, true, name="speed")
    assert_allclose(ax.collections[0].get_offsets()[:, 0], TRUE[3:98])
    assert legend(ax)[-1] == "5 of 100 left out: no estimate or no true value"
    column = MaskedColumn(TRUE, mask=np.arange(100) < 10)
    assert "10 of 100" in legend(plot_estimates(PREDICTED, column))[-1]


def test_infinite_intervals_are_counted_and_not_drawn():
    lower, upper = PREDICTED - 1, PREDICTED + 1
    lower[:4], upper[:4] = -np.inf, np.inf
    lower[5] = upper[5] = np.nan
    ax = plot_estimates(PREDICTED, TRUE, lower=lower, upper=upper)
    assert len(ax.collections[0].get_segments()) == 95
    assert legend(ax)[0] == "intervals, 100 % hold the true value (4 are infinite)"


def test_many_intervals_are_a_band_of_medians():
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 1, 1200)
    ax = plot_estimates(true, true, lower=true - 0.1, upper=true + 0.2)
    band = ax.collections[0].get_paths()[0].vertices
    edges = np.quantile(true, np.linspace(0, 1, 13))
    first = np.median(true[true < edges[1]])
    assert min(np.linalg.norm(band - [first, first - 0.1], axis=1)) < 1e-9
    assert min(np.linalg.norm(band - [first, first + 0.2], axis=1)) < 1e-9


def test_one_object_or_one_value_has_no_r2():
    assert legend(plot_estimates([0.2], [0.3]))[0].startswith("N = 1, NMAD")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (([1.0], [1.0, 2.0]), {}, ValueError, "true has 2 values and predicted has 1"),
        (([1.0] * u.mag, [1.0]), {}, u.UnitsError, "true has no unit and what it is compared"),
        (([1.0] * u.mag, [1.0] * u.km), {}, u.UnitsError, "true has unit 'km'; expected"),
        (([np.nan], [1.0]), {}, ValueError, "no object with both values among 1"),
        (([1.0], [1.0]), {"lower": [0.0]}, ValueError, "expected both or none"),
        ((["a"], [1.0]), {}, ValueError, "predicted is of <U1 with shape"),
        ((QTable({"x": [1.0]}), [1.0]), {}, KeyError, "predicted has no column 'redshift'"),
        (([1.0], QTable({"x": [1.0]})), {}, KeyError, "true has no column 'redshift'"),
    ],
)
def test_bad_arguments_are_named(arguments, options, error, words):
    with pytest.raises(error, match=words):
        plot_estimates(*arguments, **options)


# ---------------------------------------------------------------------- plot_calibration
def wilson(n_inside, n_known):
    """Return Wilson's 68.27 % interval of a fraction, written out."""
    z = stats.norm.ppf(0.5 + 0.6827 / 2)
    share = n_inside / n_known
    center = (share + z**2 / (2 * n_known)) / (1 + z**2 / n_known)
    reach = z * math.sqrt(share * (1 - share) / n_known + z**2 / (4 * n_known**2))
    reach /= 1 + z**2 / n_known
    return center - reach, center + reach


def fractions(ax):
    """Return x, y and the ends of the last error bars."""
    line, _, (lines,) = ax.containers[-1].lines
    return (*line.get_data(), *bars(lines)[1:])


def test_coverage_stands_against_the_level():
    true = np.arange(20.0)
    intervals = {
        0.9: (true - 1, true + 1),
        0.5: (np.where(true < 5, true, 99), np.full(20, 100.0)),
    }
    ax = plot_calibration(intervals, true, name="dust")
    level, share, low, high = fractions(ax)
    assert_allclose(level, [0.5, 0.9])
    assert_allclose(share, [0.25, 1])
    assert_allclose([low[0], high[0]], wilson(5, 20))
    assert_allclose([low[1], high[1]], wilson(20, 20), atol=1e-9)
    assert legend(ax) == ["holds as stated", "dust (N = 20)"]
    assert_allclose(ax.lines[0].get_xydata(), [[0, 0], [1, 1]])


def test_tables_units_and_missing_values_of_calibration():
    true = np.array([1.0, 2.0, 3.0, np.nan]) * u.mag
    low = np.array([900.0, np.nan, -np.inf, 0]) * u.mmag
    table = QTable({"dust_lower": low, "dust_upper": [2000.0, 1, np.inf, 1] * u.mmag})
    ax = plot_calibration({0.68: table}, QTable({"dust": true}), name="dust")
    assert_allclose(fractions(ax)[1], [1])
    assert legend(ax)[1:] == ["dust (N = 2)", "2 of 4 left out: no interval or no true value"]
    plot_calibration({0.68: table}, QTable({"dust": true}), name="dust", label="again", ax=ax)
    assert legend(ax).count("holds as stated") == 1


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        ({}, "intervals is empty"),
        ({68: ([0.0], [1.0])}, "intervals has the level 68; expected a number between 0 and 1"),
        ({0.5: ([0.0],)}, r"intervals\[0.5\] has 1 parts; expected two arrays"),
        ({0.5: ([0.0, 1.0], [1.0, 2.0])}, "has 2 values and true has 1"),
        ({0.5: ([np.nan], [1.0])}, r"intervals\[0.5\] has no object"),
    ],
)
def test_bad_intervals_are_named(intervals, words):
    with pytest.raises(ValueError, match=words):
        plot_calibration(intervals, [0.5])


# ---------------------------------------------------------------------- plot_reliability
@given(st.integers(1, 12), st.integers(0, 2**31))
def test_reliability_is_the_slow_formula(n_bins, seed):
    rng = np.random.default_rng(seed)
    stated = np.r_[rng.uniform(size=50), 0.0, 1.0]
    right = rng.uniform(size=52) < stated
    ax = Figure().subplots()
    plot_reliability(stated, right, n_bins=n_bins, label="k-NN", ax=ax)
    expected, error = [], 0.0
    for number in range(n_bins):
        low, high = number / n_bins, (number + 1) / n_bins
        last = number == n_bins - 1
        inside = (stated * n_bins >= number) & ((stated * n_bins < number + 1) | last)
        if inside.any():
            assert low - 1e-9 <= stated[inside].min() <= stated[inside].max() <= high + 1e-9
            expected.append([stated[inside].mean(), right[inside].mean()])
            error += abs(stated[inside].mean() - right[inside].mean()) * inside.sum() / 52
    assert_allclose(np.array(fractions(ax)[:2]).T, expected)
    assert legend(ax)[1] == f"k-NN: calibration error {error:.3f} (N = 52)"


def test_the_likeliest_class_counts():
    probability = [[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1], [np.nan] * 3]
    ax = plot_reliability(probability, [0, 1, 1, 2], n_bins=2)
    assert_allclose(fractions(ax)[0], [0.7])
    assert_allclose(fractions(ax)[1], [2 / 3])
    assert legend(ax)[-1] == "1 of 4 left out: no probability or no true class"


@pytest.mark.parametrize(
    ("probability", "true", "words"),
    [
        ([1.5], [True], "probability reaches from 1.5 to 1.5; expected values from 0 to 1"),
        ([0.5], [2], "true holds 2; expected True or False"),
        ([[0.5, 0.5]], [2], "true holds 2; expected numbers of classes below 2"),
        ([np.nan], [True], "no object with both values"),
        ([0.5], [True, False], "true has 2 values and probability has 1"),
    ],
)
def test_bad_probabilities_are_named(probability, true, words):
    with pytest.raises(ValueError, match=words):
        plot_reliability(probability, true)


# ---------------------------------------------------------------------- plot_learning_curve
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
    ax = plot_roc(scores, positive, label="outliers", ax=Figure().subplots())
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
