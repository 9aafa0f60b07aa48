"""Probes: linear models, ridge, logistic regression and a small network on embeddings."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from astroclip._validation import check_choice
from astroclip.estimation.folds import make_folds
from astroclip.estimation.perceptron import Layers, PerceptronRecipe, train_perceptron

__all__ = ["KINDS", "fit_class_probe", "fit_number_probe"]

KINDS = ("linear", "ridge", "mlp", "logistic")
RIDGE_PENALTIES = np.logspace(-3, 5, 17)  # of standardised features
LOGISTIC_STRENGTHS = 10.0 ** np.arange(-3, 3)  # scikit-learn's C, inverse penalties
RESOLUTION = 1e-6
LOGISTIC_STEPS = 100
N_INNER_FOLDS = 4
ABSENT = -20.0  # logit of a class without an example


def _standardised(values):
    """Return values with mean zero and deviation one, and both; constants stay."""
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    deviation = np.where(deviation > 1e-12 * np.abs(values).max(initial=1e-300), deviation, 1.0)
    return (values - mean) / deviation, (mean, deviation)


def fit_number_probe(features, targets, *, kind, recipe=None, random_state=0):
    """Return a model of numbers.

    Parameters
    ----------
    features : (N, D) `numpy.ndarray`
    targets : (N, T) `numpy.ndarray`
    kind : str
        ``"linear"``: least squares. ``"ridge"``: with the penalty, of 17 between 1e-3 and
        1e5, of least leave-one-out error. ``"mlp"``: a network.
    recipe : `~astroclip.estimation.perceptron.PerceptronRecipe`, optional
        Of the network.
    random_state : int

    Returns
    -------
    `~astroclip.estimation.perceptron.Layers`
        Takes features and gives targets, both as they came.

    Raises
    ------
    ValueError
        If the kind is another one.
    """
    check_choice(kind, ("linear", "ridge", "mlp"), "kind")
    near, scaling = _standardised(np.asarray(features, dtype=float))
    wanted, target_scaling = _standardised(np.asarray(targets, dtype=float))
    if kind == "mlp":
        layers = train_perceptron(
            near, wanted, recipe=recipe or PerceptronRecipe(), random_state=random_state
        )
    else:
        weight = _least_squares(near, wanted) if kind == "linear" else _ridge(near, wanted)
        layers = Layers([weight], [np.zeros(len(weight))])
    return layers.rescaled(scaling, target_scaling)


def _least_squares(features, targets):
    """Return weights (T, D), the smallest that fit best.

    Directions in which features vary by no more than the rounding of float32 are left out.
    """
    return np.linalg.lstsq(features, targets, rcond=RESOLUTION)[0].T


def _ridge(features, targets):
    """Return weights (T, D) with the penalty of least leave-one-out error.

    A residual of an example that was left out is the one of the fit over one minus the
    example's leverage; centring takes the leverage 1 / N.
    """
    left, size, right = np.linalg.svd(features, full_matrices=False)
    projected = left.T @ targets
    best, least = RIDGE_PENALTIES[-1], np.inf
    for penalty in RIDGE_PENALTIES:
        shrink = size**2 / (size**2 + penalty)
        leverage = left**2 @ shrink + 1 / len(features)
        residual = targets - left @ (shrink[:, None] * projected)
        error = np.mean((residual / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2)
        if error < least:
            best, least = penalty, error
    return ((size / (size**2 + best))[:, None] * projected).T @ right


def fit_class_probe(features, codes, *, n_classes, kind, recipe=None, random_state=0):
    """Return a model of classes.

    Parameters
    ----------
    features : (N, D) `numpy.ndarray`
    codes : (N,) int `numpy.ndarray`
        Numbers of the true classes.
    n_classes : int
        Classes without an example are given next to no probability.
    kind : str
        ``"logistic"`` (``"linear"`` and ``"ridge"`` are the same): logistic regression with
        the penalty, of six, under which a quarter of the examples are most probable when
        learned from the others. ``"mlp"``: a network.
    recipe : `~astroclip.estimation.perceptron.PerceptronRecipe`, optional
        Of the network.
    random_state : int

    Returns
    -------
    `~astroclip.estimation.perceptron.Layers`
        Takes features as they came and gives logits.
    """
    check_choice(kind, KINDS, "kind")
    near, scaling = _standardised(np.asarray(features, dtype=float))
    if kind == "mlp":
        layers = train_perceptron(
            near, np.eye(n_classes)[codes], recipe=recipe or PerceptronRecipe(),
            random_state=random_state, classes=True,
        )
    else:
        strength = _best_strength(near, codes, n_classes, random_state)
        layers = _logistic(near, codes, n_classes, strength)
    return layers.rescaled(scaling)


def _best_strength(features, codes, n_classes, random_state):
    """Return the inverse penalty under which held-out examples are most probable."""
    folds = make_folds(
        np.arange(len(codes)), n_folds=N_INNER_FOLDS, random_state=random_state, codes=codes
    )
    out = folds == 0
    best, likelihood, layers = 1.0, -np.inf, None
    for strength in LOGISTIC_STRENGTHS:
        layers = _logistic(features[~out], codes[~out], n_classes, strength, start=layers)
        found = log_softmax(layers(features[out]), axis=1)
        found = found[np.arange(int(out.sum())), codes[out]].sum()
        if found > likelihood:
            best, likelihood = float(strength), found
    return best


def _logistic(features, codes, n_classes, strength, *, start=None):
    r"""Return the layer of a logistic regression, a logit for every class.

    It minimises :math:`C \sum_i -\ln p_i + |W|^2 / 2`, scikit-learn's function for several
    classes.
    """
    n_rows, dim = features.shape
    truth = np.eye(n_classes)[codes]
    scale = 1 / (strength * n_rows)

    def loss(flat):
        weight, bias = flat[: n_classes * dim].reshape(n_classes, dim), flat[n_classes * dim :]
        logs = log_softmax(features @ weight.T + bias, axis=1)
        slope = (np.exp(logs) - truth) / n_rows
        gradient = slope.T @ features + scale * weight
        value = -float((truth * logs).sum()) / n_rows + 0.5 * scale * float((weight**2).sum())
        return value, np.concatenate([gradient.ravel(), slope.sum(axis=0)])

    if start is None:
        first = np.zeros(n_classes * (dim + 1))
    else:
        first = np.concatenate([start.weights[0].ravel(), start.biases[0]])
    present = np.isin(np.arange(n_classes), codes)
    bounds = [(None, None)] * (n_classes * dim)
    bounds += [(None, None) if known else (ABSENT, ABSENT) for known in present]
    found = minimize(
        loss, first, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": LOGISTIC_STEPS, "gtol": 1e-6, "ftol": 1e-9},
    ).x
    return Layers(
        [found[: n_classes * dim].reshape(n_classes, dim)], [found[n_classes * dim :]]
    )
