"""The linear redshift head in plain numpy, and the calibration of its probabilities.

A table of embeddings becomes redshifts without torch and without spectra.
"""

import dataclasses

import numpy as np
from scipy.optimize import brentq

from astroclip.redshifts.distribution import RedshiftDistribution, redshift_edges

__all__ = ["LinearRedshiftHead", "fit_temperature"]

HEAD_SCALE = 11.0  # root of 128, the embedding's dimension, rounded: features of order one
SMOOTHING = 0.8
CHUNK = 1000
TEMPERATURES = (0.05, 20.0)


@dataclasses.dataclass(frozen=True, eq=False)
class LinearRedshiftHead:
    r"""Redshift distributions from embeddings: one linear layer and a softmax.

    Attributes
    ----------
    weight : (B, D) `numpy.ndarray`
    bias : (B,) `numpy.ndarray`
    largest : float
        Upper edge of the last redshift bin.
    scale : float
        Length that embeddings are given.
    temperature : float
        Divides the logits; calibrated on held-out objects, see `fit_temperature`.

    Notes
    -----
    For an embedding e of any length the probabilities of the B bins are

    .. math:: \mathrm{softmax}\left[(W s\,e / |e| + b) / T\right]
    """

    weight: np.ndarray
    bias: np.ndarray
    largest: float
    scale: float = HEAD_SCALE
    temperature: float = 1.0

    @property
    def edges(self):
        """Edges of the redshift bins (B + 1,)."""
        return redshift_edges(len(self.bias), self.largest)

    def logits(self, embedding):
        """Return logits (N, B) of embeddings (N, D), before the temperature.

        Raises
        ------
        ValueError
            If embeddings are not (N, D).
        """
        embedding = np.asarray(embedding, dtype=float)
        if embedding.ndim != 2 or embedding.shape[1] != self.weight.shape[1]:
            msg = (
                f"embedding has shape {embedding.shape}; expected (N, {self.weight.shape[1]}), "
                f"as the head's model makes them."
            )
            raise ValueError(msg)
        length = np.linalg.norm(embedding, axis=1, keepdims=True)
        features = self.scale * embedding / np.maximum(length, 1e-12)
        return features @ np.asarray(self.weight, float).T + np.asarray(self.bias, float)

    def distribution(self, embedding, *, temperature=None):
        """Return the redshift distributions of embeddings.

        Parameters
        ----------
        embedding : (N, D) array-like
            Rows that are not finite give NaN.
        temperature : float, optional
            Instead of the head's own.

        Returns
        -------
        `~astroclip.redshifts.distribution.RedshiftDistribution`
            float32 probabilities.
        """
        embedding = np.atleast_1d(embedding)
        temperature = self.temperature if temperature is None else temperature
        probability = np.full((len(embedding), len(self.bias)), np.nan, np.float32)
        for first in range(0, len(embedding), CHUNK):
            rows = np.asarray(embedding[first : first + CHUNK])
            good = np.flatnonzero(np.isfinite(rows).all(axis=-1))
            if len(good):
                probability[first + good] = _softmax(self.logits(rows[good]) / temperature)
        return RedshiftDistribution(self.edges, probability)


def _softmax(logits):
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


def fit_temperature(logits, redshift, edges, *, smoothing=SMOOTHING):
    r"""Return the temperature that makes a head's probabilities honest.

    Parameters
    ----------
    logits : (N, B) array-like
        Of objects that the head was not trained on, before any temperature.
    redshift : (N,) array-like
        Their true redshifts, inside the bins.
    edges : (B + 1,) array-like
        Edges of the bins, even in log(1 + z).
    smoothing : float
        Width, in bins, of the Gaussian around the truth that counts as the true
        distribution: 0.8, as in training. Zero: the bin of the truth alone.

    Returns
    -------
    float
        From 0.05 to 20. More than one flattens a head that is too sure.

    Raises
    ------
    ValueError
        If shapes differ, there is no object, a value is not finite or a redshift is outside
        the bins.

    Notes
    -----
    It minimises the negative log-likelihood
    :math:`-\sum_i \sum_k t_{ik} \log \mathrm{softmax}_k(l_i / T)`, which is convex in 1 / T:
    the root of its derivative is found by Brent's method. With the target of training, t, the
    temperature answers how sure the head is of the right peak. The truth's bin alone would
    rather undo the width that training gave every peak, and make the head too sure of
    its peaks in doing so.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", arXiv:1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.redshifts.head import fit_temperature
    >>> from astroclip.redshifts.distribution import redshift_edges
    >>> logits = np.log([[0.6, 0.4]] * 5)  # and the truth is in the first bin four times
    >>> edges = redshift_edges(2, 3.0)
    >>> round(fit_temperature(logits, [0.5, 0.5, 0.5, 0.5, 2.0], edges, smoothing=0), 3)
    0.292
    """
    logits, redshift = np.asarray(logits, dtype=float), np.asarray(redshift, dtype=float)
    edges = np.asarray(edges, dtype=float)
    if logits.shape != (len(redshift), len(edges) - 1) or not len(redshift):
        msg = (
            f"logits has shape {logits.shape}, redshift {redshift.shape} and edges {edges.shape}; "
            f"expected (N, B), (N,) and (B + 1,) with at least one object."
        )
        raise ValueError(msg)
    inside = (redshift >= edges[0]) & (redshift <= edges[-1]) & np.isfinite(logits).all(axis=1)
    if not inside.all():
        worst = int(np.argmin(inside))
        msg = (
            f"redshift[{worst}] is {redshift[worst]:g}; expected one inside the bins, from "
            f"{edges[0]:g} to {edges[-1]:g}, and finite logits. Leave the object out."
        )
        raise ValueError(msg)
    target = _smooth_target(redshift, edges, smoothing)
    logits = logits - logits.max(axis=1, keepdims=True)
    wanted = (target * logits).sum(axis=1)

    def slope(log_temperature):
        power = _softmax(logits * np.exp(-log_temperature))
        return float(np.mean(wanted - (power * logits).sum(axis=1)))

    low, high = np.log(TEMPERATURES)
    if slope(low) >= 0:  # sharper is better without end, or to the limit
        return TEMPERATURES[0]
    if slope(high) <= 0:
        return TEMPERATURES[1]
    return float(np.exp(brentq(slope, low, high, xtol=1e-6)))


def _smooth_target(redshift, edges, smoothing):
    """Return the distribution (N, B) around true redshifts that training aims at."""
    n_bins = len(edges) - 1
    start, stop = np.log1p(edges[[0, -1]])
    position = (np.log1p(redshift) - start) / (stop - start) * n_bins
    if smoothing == 0:
        return np.eye(n_bins)[np.clip(position.astype(int), 0, n_bins - 1)]
    distance = (np.arange(n_bins) + 0.5 - position[:, None]) / smoothing
    return _softmax(-0.5 * distance**2)
