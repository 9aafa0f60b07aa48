"""Redshift bins: the target of training, its temperature scaling, and distributions over them."""

import numpy as np
from scipy.special import softmax

from astroclip.estimation import calibration

__all__ = ["RedshiftDistribution", "fit_temperature", "redshift_edges", "redshift_target"]

SMOOTHING = 0.8  # standard deviation, in bins, of the target that heads are trained on
PEAK_BINS = 2  # bins on either side of the mode that refine it: 2.5 standard deviations
CHUNK = 1000  # objects whose intervals are searched at a time: bounds the memory


def redshift_edges(n_bins, largest):
    """Return the edges of redshift bins that are even in log(1 + z) and begin at zero.

    Parameters
    ----------
    n_bins : int
    largest : float
        Upper edge of the last bin.

    Returns
    -------
    (n_bins + 1,) `numpy.ndarray`

    Examples
    --------
    >>> from astroclip.redshifts.distribution import redshift_edges
    >>> redshift_edges(2, 3.0)
    array([0., 1., 3.])
    """
    return np.expm1(np.linspace(0.0, np.log1p(largest), n_bins + 1))


def redshift_target(redshift, edges, *, smoothing=SMOOTHING):
    r"""Return the distribution over bins that a head is trained to give true redshifts.

    Parameters
    ----------
    redshift : (N,) array-like
        Inside the bins.
    edges : (B + 1,) array-like
        Even in log(1 + z), see `redshift_edges`.
    smoothing : float
        Standard deviation, in bins, of the Gaussian around the truth. Zero: the bin of the
        truth alone.

    Returns
    -------
    (N, B) `numpy.ndarray`
        :math:`t_k \propto \exp[-(k + 1/2 - x)^2 / 2 s^2]` with the position x of the truth,
        counted in bins from the first edge. Rows sum to one.

    Examples
    --------
    >>> from astroclip.redshifts.distribution import redshift_edges, redshift_target
    >>> redshift_target([0.4], redshift_edges(2, 3.0), smoothing=0.5).round(3)
    array([[0.887, 0.113]])
    """
    edges = np.asarray(edges, dtype=float)
    n_bins = len(edges) - 1
    start, stop = np.log1p(edges[[0, -1]])
    position = (np.log1p(np.asarray(redshift, dtype=float)) - start) / (stop - start) * n_bins
    if smoothing == 0:
        return np.eye(n_bins)[np.clip(position.astype(int), 0, n_bins - 1)]
    distance = (np.arange(n_bins) + 0.5 - position[:, None]) / smoothing
    return softmax(-0.5 * distance**2, axis=1)


def fit_temperature(logits, redshift, edges, *, smoothing=SMOOTHING):
    r"""Return the temperature that calibrates a head's probabilities (temperature scaling).

    Parameters
    ----------
    logits : (N, B) array-like
        Of objects that the head was not trained on, before any temperature.
    redshift : (N,) array-like
        Their true redshifts, inside the bins.
    edges : (B + 1,) array-like
        Edges of the bins, even in log(1 + z).
    smoothing : float
        As in `redshift_target`: 0.8, as in training.

    Returns
    -------
    float
        From 0.05 to 20. More than one flattens an overconfident head.

    Raises
    ------
    ValueError
        If shapes differ, there is no object, a value is not finite or a redshift is outside
        the bins.

    Notes
    -----
    It minimizes the cross entropy with the target of training, see
    `astroclip.estimation.calibration.fit_temperature`. With this target the temperature
    calibrates the choice between peaks. With the truth's bin alone it would narrow each peak
    to undo the smoothing, and make the choice between peaks overconfident.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", arXiv:1706.04599.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.redshifts.distribution import fit_temperature, redshift_edges
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
    target = redshift_target(redshift, edges, smoothing=smoothing)
    return calibration.fit_temperature(logits, target)


class RedshiftDistribution:
    r"""Probabilities of redshift bins, one row per object.

    Parameters
    ----------
    edges : (B + 1,) array-like
        Edges of the bins, even in log(1 + z).
    probability : (N, B) array-like
        Rows sum to one, or are NaN for objects without an embedding: all their summaries
        are NaN.

    Attributes
    ----------
    edges : (B + 1,) `numpy.ndarray`
    center : (B,) `numpy.ndarray`
        Redshifts of the bins' centers, in log(1 + z).
    probability : (N, B) `numpy.ndarray`

    Raises
    ------
    ValueError
        If shapes do not fit, edges are not even in log(1 + z), or a probability is negative
        or a row does not sum to one.

    Notes
    -----
    Within a bin the density is constant in :math:`x = \log(1 + z)`, the measure in which
    :math:`\Delta x = \Delta z / (1 + z)`; quantiles and intervals interpolate accordingly.

    Examples
    --------
    >>> from astroclip.redshifts.distribution import RedshiftDistribution, redshift_edges
    >>> redshift = RedshiftDistribution(redshift_edges(4, 0.4), [[0.0, 0.1, 0.8, 0.1]])
    >>> redshift.mode().round(3), redshift.probability_within(redshift.mode(), 0.02).round(2)
    (array([0.234]), array([0.38]))
    """

    def __init__(self, edges, probability):
        self.edges = np.asarray(edges, dtype=float)
        self.probability = np.asarray(probability)
        if self.edges.ndim != 1 or self.probability.shape[1:] != (len(self.edges) - 1,):
            msg = (
                f"edges has shape {self.edges.shape} and probability {self.probability.shape}; "
                f"expected (B + 1,) and (N, B)."
            )
            raise ValueError(msg)
        self._start = np.log1p(self.edges[0])
        steps = np.diff(np.log1p(self.edges))
        self._width = steps.mean()
        if not (self._width > 0 and np.allclose(steps, self._width, rtol=1e-4)):
            msg = "edges are not even in log(1 + z); make them with redshift_edges."
            raise ValueError(msg)
        self.center = self._redshift(np.arange(len(steps)) + 0.5)
        self._valid = np.isfinite(self.probability).all(axis=1)
        total = self.probability.sum(axis=1, dtype=float)
        good = (np.abs(total - 1) < 1e-3) & ~(self.probability < 0).any(axis=1)
        bad = np.flatnonzero(self._valid & ~good)
        if len(bad):
            msg = (
                f"probability[{bad[0]}] has sum {total[bad[0]]:g} and smallest value "
                f"{self.probability[bad[0]].min():g}; expected values from zero to one that sum "
                f"to one."
            )
            raise ValueError(msg)

    def __len__(self):
        return len(self.probability)

    # ------------------------------------------------------------------ positions in bins
    def _redshift(self, position):
        """Return the redshift of positions counted in bins from the first edge."""
        return np.expm1(self._start + self._width * position)

    def _position(self, redshift):
        return (np.log1p(redshift) - self._start) / self._width

    def _filled(self):
        """Return probabilities as floats, even where they are NaN, which `_masked` restores."""
        even = 1.0 / self.probability.shape[1]
        return np.where(self._valid[:, None], self.probability, even).astype(float)

    def _masked(self, position):
        """Return redshifts of positions (N,), NaN for rows without a distribution."""
        return np.where(self._valid, self._redshift(position), np.nan)

    def _cumulative(self):
        """Return the cumulative probability at the edges (N, B + 1), ending at one."""
        filled = self._filled()
        total = np.cumsum(filled, axis=1)
        return np.concatenate([np.zeros((len(total), 1)), total / total[:, -1:]], axis=1)

    # ------------------------------------------------------------------ summaries
    def mode(self):
        """Return the most probable redshift, refined within the peak.

        Returns
        -------
        (N,) `numpy.ndarray`
            Mean, in log(1 + z), over the most probable bin and the two on either side.
        """
        return self._masked(self._peak())

    def _peak(self):
        """Return positions (N,) of the refined modes."""
        filled = self._filled()
        number = np.arange(filled.shape[1])
        near = np.abs(number - filled.argmax(axis=1)[:, None]) <= PEAK_BINS
        peak = np.where(near, filled, 0.0)
        return (peak @ (number + 0.5)) / peak.sum(axis=1)

    def mean(self):
        """Return the expected redshift (N,); between the peaks where there are several."""
        return np.where(self._valid, self._filled() @ self.center, np.nan)

    def quantile(self, level):
        """Return the redshift (N,) below which lies the probability ``level``.

        Parameters
        ----------
        level : float
            From 0 to 1.

        Returns
        -------
        (N,) `numpy.ndarray`

        Raises
        ------
        ValueError
            If ``level`` is outside its range.
        """
        level = _check_level(level, "level")
        levels = np.full((len(self), 1), level)
        return self._masked(_inverse(self._cumulative(), levels)[:, 0])

    def interval(self, confidence=0.68):
        """Return the shortest interval that holds a probability and contains the mode.

        Parameters
        ----------
        confidence : float
            The probability, from 0 to 1.

        Returns
        -------
        lower, upper : (N,) `numpy.ndarray`
            Redshifts. Shortest in log(1 + z), that is in dz / (1 + z).

        Raises
        ------
        ValueError
            If ``confidence`` is outside its range.

        Notes
        -----
        Where lines can be confused the distribution has several peaks: an interval between
        central quantiles spans the gap between two of them as soon as the smaller holds 16 %,
        the shortest does not.
        """
        confidence = _check_level(confidence, "confidence")
        cumulative, peak = self._cumulative(), self._peak()
        ends = np.empty((2, len(self)))
        for first in range(0, len(self), CHUNK):
            part = slice(first, first + CHUNK)
            ends[:, part] = _shortest(cumulative[part], peak[part], confidence)
        return self._masked(ends[0]), self._masked(ends[1])

    def probability_within(self, redshift, tolerance=0.01):
        """Return the probability that the truth is near given redshifts.

        Parameters
        ----------
        redshift : (N,) array-like
        tolerance : float
            Near is within ``tolerance`` times 1 + z.

        Returns
        -------
        (N,) `numpy.ndarray`
        """
        redshift = np.asarray(redshift, dtype=float)
        reach = tolerance * (1 + redshift)
        ends = np.stack([redshift - reach, redshift + reach], axis=1)
        good = self._valid & np.isfinite(redshift)
        position = self._position(np.where(good[:, None], np.maximum(ends, self.edges[0]), 0.0))
        low, high = _forward(self._cumulative(), position).T
        return np.where(good, high - low, np.nan)


def _check_level(level, name):
    if not 0 <= level <= 1:
        msg = f"{name} is {level!r}; expected a number from 0 to 1."
        raise ValueError(msg)
    return float(level)


def _forward(cumulative, position):
    """Return cumulative probability (N, K) at positions (N, K) counted in bins."""
    last = cumulative.shape[1] - 1
    position = np.clip(position, 0, last)
    below = np.minimum(position.astype(int), last - 1)
    low = np.take_along_axis(cumulative, below, axis=1)
    high = np.take_along_axis(cumulative, below + 1, axis=1)
    return low + (position - below) * (high - low)


def _inverse(cumulative, level):
    """Return the first positions (N, K) at which cumulative probability reaches levels."""
    n_rows, n_edges = cumulative.shape
    step = 2.0 * np.arange(n_rows)[:, None]  # rows one after the other make one rising array
    above = np.searchsorted((cumulative + step).ravel(), (level + step).ravel())
    above = above.reshape(level.shape) - n_edges * np.arange(n_rows)[:, None]
    above = np.clip(above, 1, n_edges - 1)
    low = np.take_along_axis(cumulative, above - 1, axis=1)
    high = np.take_along_axis(cumulative, above, axis=1)
    share = (level - low) / np.where(high > low, high - low, 1.0)
    return above - 1 + np.clip(share, 0.0, 1.0)


def _shortest(cumulative, peak, confidence):
    """Return start and end positions (2, N) of the shortest intervals that contain peaks.

    The density is constant in every bin, so that the shortest interval starts or ends at an
    edge or at the peak: all these are tried.
    """
    peak = peak[:, None]
    edges = np.broadcast_to(np.arange(cumulative.shape[1], dtype=float), cumulative.shape)
    at_peak = _forward(cumulative, peak)
    until = np.concatenate([cumulative, at_peak], axis=1) - confidence
    start = np.concatenate([edges, peak, _inverse(cumulative, np.maximum(until, 0.0))], axis=1)
    reached = np.concatenate([cumulative, at_peak, until], axis=1) + confidence
    end = _inverse(cumulative, np.minimum(reached, 1.0))
    start, end = np.minimum(start, peak), np.maximum(end, peak)
    possible = (reached <= 1 + 1e-9) & (reached >= confidence - 1e-9)
    best = np.where(possible, end - start, np.inf).argmin(axis=1)[:, None]
    return np.array([np.take_along_axis(values, best, axis=1)[:, 0] for values in (start, end)])
