"""Weights of neighbours by their distance."""

import numpy as np

from astroclip._validation import check_choice

__all__ = ["WEIGHTS", "check_bandwidth", "effective_number", "euclidean_distance",
           "neighbor_weights"]

WEIGHTS = ("distance", "uniform", "kernel")
RESOLUTION = 1e-7  # distance of float32 unit vectors that are equal but for rounding
KERNEL_REACH = 2.0  # standard deviations of the kernel between the query and its k-th neighbour


def euclidean_distance(similarity):
    r"""Return the distance of two unit vectors from their cosine.

    .. math:: d = \sqrt{2 - 2 \cos\theta}

    Parameters
    ----------
    similarity : array-like

    Returns
    -------
    `numpy.ndarray`
    """
    return np.sqrt(np.clip(2.0 - 2.0 * np.asarray(similarity, dtype=float), 0.0, None))


def check_bandwidth(bandwidth, weights):
    """Raise ValueError unless the bandwidth is None, or positive and of a kernel."""
    if bandwidth is None:
        return
    if weights != "kernel":
        msg = (
            f"bandwidth is {bandwidth!r} and weights is {weights!r}, which has none; expected "
            f"None. Leave it out, or pass weights='kernel'."
        )
        raise ValueError(msg)
    if not 0 < bandwidth < np.inf:
        msg = f"bandwidth is {bandwidth!r}; expected a positive distance, or None."
        raise ValueError(msg)


def neighbor_weights(distance, *, weights="distance", bandwidth=None):
    r"""Return the weight of every neighbour.

    Parameters
    ----------
    distance : (N, K) array-like
        Distances of K neighbours; rows of NaN give NaN.
    weights : str
        ``"distance"``: :math:`1 / d`; neighbours at distance zero share all the weight, as
        in scikit-learn. ``"uniform"``: one. ``"kernel"``: Gaussian,
        :math:`\exp(-d^2 / 2 h^2)`.
    bandwidth : float, optional
        The kernel's h, in units of the distance; by default half the distance of the
        query's farthest neighbour, so that this one weighs :math:`e^{-2}` = 0.14.

    Returns
    -------
    (N, K) `numpy.ndarray`
        Not normalized. The kernel's are relative to the nearest neighbour's, so that far
        queries do not lose all of them.

    Examples
    --------
    >>> from astroclip.estimation.weights import neighbor_weights
    >>> neighbor_weights([[0.5, 1.0]])
    array([[2., 1.]])
    >>> neighbor_weights([[0.0, 1.0]], weights="kernel").round(3)
    array([[1.   , 0.135]])
    """
    check_choice(weights, WEIGHTS, "weights")
    check_bandwidth(bandwidth, weights)
    distance = np.asarray(distance, dtype=float)
    if weights == "uniform":
        return np.where(np.isnan(distance), np.nan, 1.0)
    if weights == "distance":
        exact = distance < RESOLUTION
        weight = 1.0 / np.where(exact, 1.0, distance)
        return np.where(exact.any(axis=1, keepdims=True), exact.astype(float), weight)
    if bandwidth is None:
        bandwidth = distance.max(axis=1, keepdims=True) / KERNEL_REACH
    bandwidth = np.maximum(bandwidth, RESOLUTION)
    beyond = distance**2 - distance.min(axis=1, keepdims=True) ** 2
    return np.exp(-0.5 * beyond / bandwidth**2)


def effective_number(weight):
    r"""Return the effective number of neighbours (N,), :math:`(\sum w)^2 / \sum w^2`."""
    return weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
