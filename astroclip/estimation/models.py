"""Estimates of one property from neighbours: numbers by averages, classes by votes."""

import numpy as np

from astroclip.estimation.categories import (
    class_columns,
    count_votes,
    fit_vote_calibration,
)
from astroclip.estimation.intervals import (
    conformal_factor,
    interval_columns,
    percent_name,
)
from astroclip.estimation.quantiles import weighted_quantiles
from astroclip.estimation.weights import effective_number

__all__ = ["STATISTICS", "ClassVotes", "NumberAverage", "explained_variance"]

STATISTICS = ("mean", "median")
FLOOR = 1e-3  # least scatter of neighbours' values, relative to that of the reference


class NumberAverage:
    """Numbers from the values of neighbours.

    Parameters
    ----------
    scale : `~astroclip.estimation.scales.LinearScale`
    statistic : str
        ``"mean"`` or ``"median"``.
    quantiles : sequence of float

    Attributes
    ----------
    scores : (n,) `numpy.ndarray`
        Residuals of left-out objects relative to the scatter of their neighbours' values,
        in rising order.
    score : float
        R2 of left-out objects.
    """

    metric = "r2"

    def __init__(self, scale, *, statistic="mean", quantiles=()):
        self.scale, self.statistic, self.quantiles = scale, statistic, tuple(quantiles)

    def fit(self, reference, near, weight, truth):
        """Calibrate on left-out objects.

        Parameters
        ----------
        reference : (M,) `numpy.ndarray`
            Values of the whole reference, on the scale.
        near, weight : (n, K) `numpy.ndarray`
            Values and weights of the neighbours of left-out objects.
        truth : (n,) `numpy.ndarray`

        Returns
        -------
        `NumberAverage`
            Itself.
        """
        self.floor = FLOOR * self.scale.spread(reference) + 1e-12
        estimate, scatter, _ = self._summarize(near, weight)
        residual = self.scale.deviation(truth, estimate)
        self.scores = np.sort(np.abs(residual) / scatter)
        self.score = explained_variance(self.scale, residual, truth)
        return self

    def columns(self, near, weight, levels):
        """Return estimates by the suffix of their columns.

        Parameters
        ----------
        near, weight : (N, K) `numpy.ndarray`
        levels : sequence of float
            Of intervals.
        """
        estimate, scatter, quantiles = self._summarize(near, weight)
        columns = interval_columns(self.scale, estimate, scatter, self.scores, levels)
        for level, values in zip(self.quantiles, quantiles, strict=True):
            columns[f"_q{percent_name(level)}"] = self.scale.from_scale(values)
        return columns

    def summary(self, confidence):
        """Return the conformal factor of a level."""
        return conformal_factor(self.scores, confidence)

    def _summarize(self, near, weight):
        """Return estimate (N,), scatter (N,) about the mean and quantiles (L, N)."""
        mean = self.scale.mean(near, weight)
        deviation = self.scale.deviation(near, mean[:, None])
        variance = (weight * deviation**2).sum(axis=1) / weight.sum(axis=1)
        scatter = np.maximum(np.sqrt(variance), self.floor)
        levels = (*self.quantiles, *([0.5] if self.statistic == "median" else []))
        if not levels:
            return mean, scatter, ()
        found = mean + weighted_quantiles(deviation, weight, levels)
        estimate = mean if self.statistic == "mean" else found[-1]
        return estimate, scatter, found[: len(self.quantiles)]


def explained_variance(scale, residual, truth):
    """Return R2 from residuals (n,), on the scale; NaN if all truths are one."""
    spread = scale.spread(truth) ** 2
    return float(1 - np.mean(residual**2) / spread) if spread > 0 else np.nan


class ClassVotes:
    """Classes from the votes of neighbours.

    Parameters
    ----------
    classes : (C,) `numpy.ndarray`

    Attributes
    ----------
    calibration : `~astroclip.estimation.categories.VoteCalibration`
    score : float
        Share of left-out objects whose most probable class is right.
    """

    metric = "accuracy"

    def __init__(self, classes):
        self.classes = classes

    def fit(self, reference, near, weight, truth):
        """Calibrate on left-out objects; see `NumberAverage.fit`, with numbers of classes."""
        counts = np.bincount(reference, minlength=len(self.classes)) + 0.5  # none impossible
        share, effective = self._vote(near, weight)
        frequency = counts / counts.sum()
        self.calibration = fit_vote_calibration(share, effective, truth, frequency)
        probability = self.calibration.probability(share, effective)
        self.score = float(np.mean(probability.argmax(axis=1) == truth))
        return self

    def summary(self, confidence):
        """Return the temperature."""
        return self.calibration.temperature

    def _vote(self, near, weight):
        return count_votes(near, weight, len(self.classes)), effective_number(weight)

    def probability(self, near, weight):
        """Return class probabilities (N, C) of neighbours' classes and weights (N, K)."""
        return self.calibration.probability(*self._vote(near, weight))

    def columns(self, near, weight, levels):
        """Return class probabilities by the suffix of their columns."""
        return class_columns(self.probability(near, weight), self.classes)
