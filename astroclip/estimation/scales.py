"""Scales on which numbers are averaged: as they are, by their logarithm, or as angles."""

import numpy as np

__all__ = ["CircularScale", "LinearScale", "LogarithmicScale", "make_scale"]


class LinearScale:
    """Numbers that are averaged as they are."""

    name = "linear"
    period = None

    def to_scale(self, values):
        """Return plain values on the scale."""
        return np.asarray(values, dtype=float)

    def from_scale(self, values, *, wrap=True):
        """Return plain values of values on the scale; ``wrap`` is for angles."""
        return values

    def mean(self, values, weight):
        """Return the weighted mean (N,) of values (N, K) on the scale."""
        return (weight * values).sum(axis=1) / weight.sum(axis=1)

    def deviation(self, values, center):
        """Return how far values are from a centre, with sign."""
        return values - center

    def limit(self, reach):
        """Return half-widths of intervals, no larger than can be."""
        return reach

    def targets(self, values):
        """Return numbers (N, T) that a regression can learn."""
        return values[:, None]

    def from_targets(self, targets):
        """Return values (N,) on the scale of predicted targets (N, T)."""
        return targets[:, 0]

    def spread(self, values):
        """Return the standard deviation about the mean."""
        center = self.mean(values[None], np.ones((1, len(values))))
        return float(np.sqrt(np.mean(self.deviation(values, center) ** 2)))


class LogarithmicScale(LinearScale):
    """Positive numbers, averaged by their logarithm."""

    name = "positive"

    def to_scale(self, values):
        """Return natural logarithms; NaN stays."""
        return np.log(np.asarray(values, dtype=float))

    def from_scale(self, values, *, wrap=True):
        """Return exponentials."""
        with np.errstate(over="ignore"):
            return np.exp(values)


class CircularScale(LinearScale):
    """Angles that repeat after a period.

    Parameters
    ----------
    period : float
        Such as 360 for a direction and 180 for the position angle of an axis.
    """

    name = "circular"

    def __init__(self, period):
        self.period = float(period)

    def from_scale(self, values, *, wrap=True):
        """Return angles from zero to below the period; as they are unless ``wrap``."""
        if not wrap:
            return values
        angle = np.mod(values, self.period)
        return np.where(angle >= self.period, 0.0, angle)  # mod(-1e-30, 1) is 1

    def mean(self, values, weight):
        """Return the direction of the weighted mean of unit vectors."""
        phase = values * (2 * np.pi / self.period)
        sine, cosine = (weight * np.sin(phase)).sum(axis=1), (weight * np.cos(phase)).sum(axis=1)
        return np.arctan2(sine, cosine) * (self.period / (2 * np.pi))

    def deviation(self, values, center):
        """Return differences between minus and plus half a period."""
        return np.mod(values - center + self.period / 2, self.period) - self.period / 2

    def limit(self, reach):
        """Return half-widths of at most half a period, which holds every angle."""
        return np.minimum(reach, self.period / 2)

    def targets(self, values):
        """Return cosine and sine (N, 2)."""
        phase = values * (2 * np.pi / self.period)
        return np.stack([np.cos(phase), np.sin(phase)], axis=1)

    def from_targets(self, targets):
        """Return the angle of predicted cosines and sines."""
        return np.arctan2(targets[:, 1], targets[:, 0]) * (self.period / (2 * np.pi))


def make_scale(name, period=None):
    """Return the scale of a name: ``"linear"``, ``"positive"`` or ``"circular"``."""
    if name == "circular":
        return CircularScale(period)
    return LogarithmicScale() if name == "positive" else LinearScale()
