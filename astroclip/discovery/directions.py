"""The direction in embedding space along which a few examples differ from all others."""

import dataclasses

import numpy as np

__all__ = ["SHRINKAGE", "Scaling", "fit_logistic", "fit_prototype", "fit_scaling"]

SHRINKAGE = 0.01  # of the largest variance: components with less are noise, not detail
LARGEST_SAMPLE = 20_000  # rows that the scaling is fitted on
SPREAD = 5.0  # rms length of a scaled embedding, with which INVERSE_PENALTY was chosen
INVERSE_PENALTY = 0.1
FADING = 50.0  # labelled counter-examples that weigh as much as the background


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A linear map that makes the directions of a reference's embeddings comparable.

    Attributes
    ----------
    center : (D,) `numpy.ndarray`
    matrix : (D, D) `numpy.ndarray`
    """

    center: np.ndarray
    matrix: np.ndarray

    def apply(self, embedding):
        """Return scaled embeddings (N, D)."""
        return (embedding - self.center) @ self.matrix

    def pull_back(self, direction, offset):
        """Return the direction and offset that give the same scores on raw embeddings."""
        raw = self.matrix @ direction
        return raw, offset - float(self.center @ raw)


def fit_scaling(embedding, *, rng):
    r"""Fit a scaling on a reference.

    Parameters
    ----------
    embedding : (N, D) `numpy.ndarray`
        Finite.
    rng : `numpy.random.Generator`
        Chooses the rows of a large reference.

    Returns
    -------
    `Scaling`

    Notes
    -----
    Principal component k of variance :math:`\lambda_k` is divided by
    :math:`\sqrt{\lambda_k + 0.01 \lambda_1}`: weak components count, noise is not blown up.
    """
    if len(embedding) > LARGEST_SAMPLE:
        chosen = rng.choice(len(embedding), LARGEST_SAMPLE, replace=False)
        embedding = embedding[np.sort(chosen)]
    embedding = embedding.astype(np.float64)
    center = embedding.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(embedding - center, rowvar=False, bias=True))
    variance = variance.clip(min=0)
    scale = 1 / np.sqrt(variance + max(SHRINKAGE * variance[-1], np.finfo(float).tiny))
    length = np.sqrt((variance * scale**2).sum())
    return Scaling(center, axes * scale * (SPREAD / max(length, 1e-12)))


def fit_prototype(examples, others, background):
    """Return the direction from the mean of others to the mean of examples.

    Parameters
    ----------
    examples : (P, D) `numpy.ndarray`
        Scaled embeddings.
    others : (Q, D) `numpy.ndarray`
        Counter-examples; none are needed.
    background : (B, D) `numpy.ndarray`
        Not used.

    Returns
    -------
    direction : (D,) `numpy.ndarray`
    offset : float
        The score is zero half-way; without counter-examples at the reference's mean.
    """
    mean = examples.mean(axis=0)
    other = others.mean(axis=0) if len(others) else np.zeros_like(mean)
    direction = mean - other
    return direction, -0.5 * float(direction @ (mean + other)) if len(others) else 0.0


def fit_logistic(examples, others, background):
    r"""Return the direction of a balanced logistic regression.

    Parameters
    ----------
    examples, others, background : (P, D), (Q, D), (B, D) `numpy.ndarray`
        Scaled embeddings of examples, of counter-examples (none are needed) and of
        unlabelled objects that stand in for more of these.

    Returns
    -------
    direction : (D,) `numpy.ndarray`
    offset : float
        The score is the log odds if examples were as frequent as others.

    Notes
    -----
    Examples and all others weigh the same. Of the others' weight the background has
    :math:`1 / (1 + Q / 50)`, so that it matters less as labels grow.
    """
    from sklearn.linear_model import LogisticRegression

    share = 1 / (1 + len(others) / FADING) if len(background) else 0.0
    weight = np.concatenate(
        [
            np.full(len(examples), 1 / len(examples)),
            np.full(len(others), (1 - share) / max(len(others), 1)),
            np.full(len(background), share / max(len(background), 1)),
        ]
    )
    n_labels = len(examples) + len(others)
    rows = np.concatenate([examples, others, background])
    target = np.arange(len(rows)) < len(examples)
    classifier = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
    classifier.fit(rows, target, sample_weight=n_labels * weight)
    return classifier.coef_[0], float(classifier.intercept_[0])
