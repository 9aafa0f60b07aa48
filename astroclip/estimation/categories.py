"""Classes: votes of neighbours, and probabilities that mean what they say."""

import dataclasses

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

__all__ = ["VoteCalibration", "class_columns", "count_votes", "fit_temperature",
           "fit_vote_calibration"]

LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))
LOG_SMOOTHINGS = (np.log(1e-3), np.log(1e3))
LEAST_PROBABILITY = 1e-12


def count_votes(codes, weight, n_classes):
    """Return the weighted share (N, C) of every class among neighbours.

    Parameters
    ----------
    codes : (N, K) int `numpy.ndarray`
        Classes of the neighbours, counted from zero.
    weight : (N, K) `numpy.ndarray`
        Rows of NaN give NaN.
    n_classes : int
    """
    n_rows = len(codes)
    place = codes + n_classes * np.arange(n_rows)[:, None]
    total = np.bincount(place.ravel(), weight.ravel(), minlength=n_rows * n_classes)
    total = total.reshape(n_rows, n_classes)
    return total / total.sum(axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class VoteCalibration:
    r"""Turns shares of votes into probabilities.

    Attributes
    ----------
    frequency : (C,) `numpy.ndarray`
        Share of every class in the reference.
    smoothing : float
    temperature : float

    Notes
    -----
    With the share f of a class among n effective neighbours, its frequency g in the
    reference, the smoothing a and the temperature T the probability is

    .. math:: p \propto \left(\frac{n f + a g}{n + a}\right)^{1/T}
    """

    frequency: np.ndarray
    smoothing: float = 1.0
    temperature: float = 1.0

    def logits(self, share, effective):
        """Return logarithms (N, C) of smoothed shares, before the temperature."""
        effective = np.asarray(effective)[:, None]
        smooth = (effective * share + self.smoothing * self.frequency) / (
            effective + self.smoothing
        )
        return np.log(np.maximum(smooth, LEAST_PROBABILITY))

    def probability(self, share, effective):
        """Return probabilities (N, C) of shares (N, C) among effective numbers (N,)."""
        return np.exp(log_softmax(self.logits(share, effective) / self.temperature, axis=1))


def _log_loss(logits, codes):
    """Return the summed negative log-likelihood of true classes."""
    return -float(log_softmax(logits, axis=1)[np.arange(len(codes)), codes].sum())


def fit_vote_calibration(share, effective, codes, frequency):
    """Return the calibration that makes true classes of left-out objects most probable.

    Parameters
    ----------
    share : (N, C) `numpy.ndarray`
        Votes for objects that were not among the voters.
    effective : (N,) `numpy.ndarray`
        Effective numbers of voters.
    codes : (N,) int `numpy.ndarray`
        True classes.
    frequency : (C,) `numpy.ndarray`
        Shares of the classes in the reference, all positive.

    Returns
    -------
    `VoteCalibration`

    Notes
    -----
    Both numbers maximise the likelihood times a Gaussian of unit width in their
    logarithms, which matters for a handful of objects alone.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", arXiv:1706.04599.
    """

    def loss(settings):
        smoothing, temperature = np.exp(settings)
        logits = VoteCalibration(frequency, smoothing).logits(share, effective)
        return _log_loss(logits / temperature, codes) + 0.5 * float(np.sum(settings**2))

    found = minimize(
        loss, np.zeros(2), method="L-BFGS-B", bounds=[LOG_SMOOTHINGS, LOG_TEMPERATURES]
    )
    smoothing, temperature = np.exp(found.x)
    return VoteCalibration(frequency, float(smoothing), float(temperature))


def fit_temperature(logits, codes):
    """Return the temperature that makes a classifier's probabilities honest.

    Parameters
    ----------
    logits : (N, C) `numpy.ndarray`
        For objects that it was not trained on.
    codes : (N,) int `numpy.ndarray`
        Their true classes.

    Returns
    -------
    float
        From 0.05 to 20; with the same weak preference for one as `fit_vote_calibration`.
    """
    found = minimize_scalar(
        lambda setting: _log_loss(logits / np.exp(setting), codes) + 0.5 * setting**2,
        bounds=LOG_TEMPERATURES,
        method="bounded",
    )
    return float(np.exp(found.x))


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
