"""Heads learned from examples: a probe of one property, and how far it can be trusted."""

import dataclasses

import numpy as np
from scipy.special import log_softmax

from astroclip.estimation.categories import class_columns, fit_temperature
from astroclip.estimation.folds import cross_predict
from astroclip.estimation.intervals import interval_columns
from astroclip.estimation.models import explained_variance
from astroclip.estimation.perceptron import Layers
from astroclip.estimation.probes import fit_class_probe, fit_number_probe

__all__ = ["ClassHead", "NumberHead", "fit_head"]


@dataclasses.dataclass(frozen=True, eq=False)
class NumberHead:
    """A probe of numbers.

    Attributes
    ----------
    layers : `~astroclip.estimation.perceptron.Layers`
    scale : `~astroclip.estimation.scales.LinearScale`
    residuals : (n,) `numpy.ndarray`
        Absolute residuals of examples that a probe was not fitted to, in rising order, on
        the scale.
    score, score_error : float
        R2 of these examples, and the standard deviation of the folds' R2 over the root of
        their number.
    """

    layers: Layers
    scale: object
    residuals: np.ndarray
    score: float = np.nan
    score_error: float = np.nan
    metric = "r2"

    def columns(self, features, levels):
        """Return estimates by the suffix of their columns; NaN for features that are NaN."""
        estimate = self.scale.from_targets(self.layers(features))
        scatter = np.ones(len(estimate))
        return interval_columns(self.scale, estimate, scatter, self.residuals, levels)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassHead:
    """A probe of classes.

    Attributes
    ----------
    layers : `~astroclip.estimation.perceptron.Layers`
    classes : (C,) `numpy.ndarray`
    temperature : float
        Divides the logits; fitted to examples that a probe was not fitted to.
    score, score_error : float
        Accuracy for these examples, as in `NumberHead`.
    """

    layers: Layers
    classes: np.ndarray
    temperature: float = 1.0
    score: float = np.nan
    score_error: float = np.nan
    metric = "accuracy"

    def probability(self, features):
        """Return probabilities (N, C)."""
        logits = self.layers(features) / self.temperature
        probability = np.full(logits.shape, np.nan)
        good = np.isfinite(logits).all(axis=1)
        probability[good] = np.exp(log_softmax(logits[good], axis=1))
        return probability

    def columns(self, features, levels):
        """Return class probabilities by the suffix of their columns."""
        return class_columns(self.probability(features), self.classes)


def fit_head(features, values, folds, *, kind, scale=None, classes=None, **options):
    """Learn a property from examples and cross-validate it.

    Parameters
    ----------
    features : (N, D) `numpy.ndarray`
    values : (N,) `numpy.ndarray`
        Numbers on the scale, or numbers of classes.
    folds : (N,) int `numpy.ndarray`
        From `~astroclip.estimation.folds.make_folds`.
    kind : str
        One of `~astroclip.estimation.probes.KINDS`.
    scale : `~astroclip.estimation.scales.LinearScale`, optional
    classes : (C,) `numpy.ndarray`, optional
        Instead of a scale.
    **options
        ``recipe`` and ``random_state`` of the probe.

    Returns
    -------
    `NumberHead` or `ClassHead`
    """
    if classes is not None:
        return _fit_classes(features, values, folds, classes, {"kind": kind, **options})

    def fit(near, targets):
        return fit_number_probe(near, targets, kind=kind, **options)

    targets = scale.targets(values)
    left_out = scale.from_targets(cross_predict(fit, features, targets, folds))
    residual = scale.deviation(values, left_out)
    score, error = _scores(
        lambda rows: explained_variance(scale, residual[rows], values[rows]), folds
    )
    layers = fit(features, targets)
    return NumberHead(layers, scale, np.sort(np.abs(residual)), score, error)


def _fit_classes(features, codes, folds, classes, options):
    """Learn classes from examples and cross-validate."""
    def fit(near, known):
        return fit_class_probe(near, known, n_classes=len(classes), **options)

    logits = cross_predict(fit, features, codes, folds)
    right = logits.argmax(axis=1) == codes
    score, error = _scores(lambda rows: float(right[rows].mean()), folds)
    return ClassHead(
        fit(features, codes), classes, fit_temperature(logits, codes), score, error
    )


def _scores(score, folds):
    """Return the score of all rows, and the error of it from the scatter among folds."""
    values = [score(folds == fold) for fold in np.unique(folds)]
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return score(np.ones(len(folds), dtype=bool)), float(error)
