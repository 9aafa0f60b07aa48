"""Probes: models of one property on embeddings, learned by scikit-learn and applied by numpy.

What is learned is kept as plain arrays, which files hold without a pickle.
"""

import dataclasses
import warnings

import numpy as np
from scipy.special import log_softmax

from astroclip.estimation.calibration import (
    class_columns,
    conformal_factor,
    explained_variance,
    fit_temperature,
    interval_columns,
)

__all__ = ["KINDS", "ClassProbe", "NumberProbe", "learn_classes", "learn_numbers"]

KINDS = ("linear", "ridge", "mlp", "logistic")
RIDGE_PENALTIES = np.logspace(-3, 5, 17)  # of standardized features
LOGISTIC_STRENGTHS = 10.0 ** np.arange(-3, 3)  # scikit-learn's C, inverse penalties
LOGISTIC_STEPS = 1000
LEAST_STEPS = 1000  # of the network: with few examples there are more epochs
NETWORK_PENALTY = 1.0  # scikit-learn's alpha; as good as the papers' dropout of 0.1
LEAST_OF_CLASS = 4  # examples of every class, of which a quarter can be held out
ABSENT = -20.0  # logit of a class without an example


@dataclasses.dataclass(frozen=True, eq=False)
class NumberProbe:
    """A model of numbers, and how far it errs.

    Attributes
    ----------
    layers : list of (weight, bias)
        Linear layers, weights (n_out, n_in), with ReLU between them: `apply_layers`. One
        alone is a linear model.
    scale : `~astroclip.estimation.properties.LinearScale`
    residuals : (n,) `numpy.ndarray`
        Absolute residuals of examples that were left out of a fit, in rising order, on the
        scale.
    score, score_error : float
        R2 of these examples, and the standard deviation of the folds' R2 over the root of
        their number.
    """

    layers: list
    scale: object
    residuals: np.ndarray
    score: float
    score_error: float
    metric = "r2"

    def summary(self, confidence):
        """Return half the width of a level's intervals, on the scale."""
        return conformal_factor(self.residuals, confidence)

    def columns(self, features, levels):
        """Return estimates by the suffix of their columns; NaN for features that are NaN."""
        estimate = self.scale.from_targets(apply_layers(self.layers, features))
        scatter = np.ones(len(estimate))
        return interval_columns(self.scale, estimate, scatter, self.residuals, levels)


@dataclasses.dataclass(frozen=True, eq=False)
class ClassProbe:
    """A model of classes, and its calibration.

    Attributes
    ----------
    layers : list of (weight, bias)
        As in `NumberProbe`; the last gives logits.
    classes : (C,) `numpy.ndarray`
    temperature : float
        Divides the logits; fitted to examples that were left out of a fit.
    score, score_error : float
        Accuracy for these examples, as in `NumberProbe`.
    """

    layers: list
    classes: np.ndarray
    temperature: float
    score: float
    score_error: float
    metric = "accuracy"

    def summary(self, confidence):
        """Return the temperature."""
        return self.temperature

    def columns(self, features, levels):
        """Return class probabilities by the suffix of their columns; NaN where features are."""
        logits = apply_layers(self.layers, features) / self.temperature
        with np.errstate(invalid="ignore"):
            probability = np.exp(log_softmax(logits, axis=1))
        return class_columns(probability, self.classes)


def apply_layers(layers, features):
    """Return outputs (N, T) of features (N, D): linear layers with ReLU between them."""
    for number, (weight, bias) in enumerate(layers):
        if number:
            features = np.maximum(features, 0.0)
        features = features @ weight.T + bias
    return features


# ---------------------------------------------------------------------- learning
def learn_numbers(prop, features, values, ids, settings):
    """Return the `NumberProbe` of examples, cross-validated.

    Parameters
    ----------
    prop : `~astroclip.estimation.properties.Property`
    features : (N, D) `numpy.ndarray`
    values : (N,) `numpy.ndarray`
        On the property's scale.
    ids : (N,) `numpy.ndarray` of str
        Rows of one id share a fold.
    settings : `~astroclip.FewShotEstimator`
        Its kind, folds, network and random state.
    """
    scale = prop.scale
    targets = scale.targets(values)

    def fit(rows):
        return _fit_numbers(features[rows], targets[rows], settings)

    left_out, folds = _cross_predict(fit, features, ids, None, settings)
    residual = scale.deviation(values, scale.from_targets(left_out))
    score, error = _fold_scores(
        lambda rows: explained_variance(scale, residual[rows], values[rows]), folds
    )
    return NumberProbe(fit(slice(None)), scale, np.sort(np.abs(residual)), score, error)


def learn_classes(prop, features, codes, ids, settings):
    """Return the `ClassProbe` of examples, as `learn_numbers`; codes number the classes."""
    n_classes = len(prop.classes)

    def fit(rows):
        return _fit_classes(features[rows], codes[rows], n_classes, settings)

    logits, folds = _cross_predict(fit, features, ids, codes, settings)
    right = logits.argmax(axis=1) == codes
    score, error = _fold_scores(lambda rows: float(right[rows].mean()), folds)
    temperature = fit_temperature(logits, np.eye(n_classes)[codes], prior=1.0)
    return ClassProbe(fit(slice(None)), prop.classes, temperature, score, error)


def _cross_predict(fit, features, ids, codes, settings):
    """Return what models learned without its fold give every row, and the rows' folds.

    Rows of one id share a fold; classes, by their codes, are in the folds in their shares.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    n_folds = min(settings.n_folds, len(np.unique(ids)))
    if codes is not None:  # scikit-learn wants a class with as many examples as folds
        n_folds = min(n_folds, np.bincount(codes).max())
    options = {"n_splits": n_folds, "shuffle": True, "random_state": settings.random_state}
    splitter = GroupKFold(**options) if codes is None else StratifiedGroupKFold(**options)
    outputs, folds = None, np.empty(len(features), dtype=int)
    with warnings.catch_warnings():  # of classes with fewer examples than folds: that is fine
        warnings.simplefilter("ignore", UserWarning)
        splits = list(splitter.split(features, codes, groups=ids))
    for fold, (learned, left_out) in enumerate(splits):
        output = apply_layers(fit(learned), features[left_out])
        if outputs is None:
            outputs = np.empty((len(features), output.shape[1]))
        outputs[left_out], folds[left_out] = output, fold
    return outputs, folds


def _fold_scores(score, folds):
    """Return the score of all rows, and the error of it from the scatter among folds."""
    values = [score(folds == fold) for fold in np.unique(folds)]
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return score(np.ones(len(folds), dtype=bool)), float(error)


def _fit_numbers(features, targets, settings):
    """Return layers that take features (N, D) and give targets (N, T), both as they came."""
    from sklearn.linear_model import LinearRegression, RidgeCV
    from sklearn.preprocessing import StandardScaler

    inputs, outputs = StandardScaler().fit(features), StandardScaler().fit(targets)
    near, wanted = inputs.transform(features), outputs.transform(targets)
    if settings.kind == "mlp":
        layers = _fit_network(near, wanted, settings)
    else:
        linear = settings.kind == "linear"
        model = LinearRegression() if linear else RidgeCV(alphas=RIDGE_PENALTIES)
        model.fit(near, wanted)
        layers = [(model.coef_, model.intercept_)]
    weight, bias = layers[-1]
    layers[-1] = (weight * outputs.scale_[:, None], bias * outputs.scale_ + outputs.mean_)
    return _without_scaling(layers, inputs)


def _fit_classes(features, codes, n_classes, settings):
    """Return layers that take features (N, D) as they came and give logits (N, C)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
    from sklearn.preprocessing import StandardScaler

    inputs = StandardScaler().fit(features)
    near = inputs.transform(features)
    present, counts = np.unique(codes, return_counts=True)
    if len(present) == 1:
        weight, bias = np.zeros((1, features.shape[1])), np.zeros(1)
        layers = [(weight, bias)]
    elif settings.kind == "mlp":
        layers = _fit_network(near, codes, settings)
    else:
        model = LogisticRegression(max_iter=LOGISTIC_STEPS)
        if counts.min() >= LEAST_OF_CLASS:
            quarter = StratifiedShuffleSplit(
                1, test_size=0.25, random_state=settings.random_state
            )
            model = GridSearchCV(
                model, {"C": LOGISTIC_STRENGTHS}, scoring="neg_log_loss", cv=quarter
            ).fit(near, codes).best_estimator_
        else:
            model.fit(near, codes)
        layers = [(model.coef_, model.intercept_)]
    weight, bias = layers[-1]
    if len(present) == 2:  # scikit-learn gives the second class's log odds alone
        weight, bias = np.vstack([0 * weight, weight]), np.append(0.0, bias)
    full_weight = np.zeros((n_classes, weight.shape[1]))
    full_bias = np.full(n_classes, ABSENT)
    full_weight[present], full_bias[present] = weight, bias
    layers[-1] = (full_weight, full_bias)
    return _without_scaling(layers, inputs)


def _fit_network(features, targets, settings):
    """Return the layers of a network trained on numbers (N, T), or numbers of classes (N,)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    n_batches = -(-len(features) // settings.batch_size)
    model = MLPRegressor if targets.ndim == 2 else MLPClassifier
    network = model(
        hidden_layer_sizes=settings.hidden, learning_rate_init=settings.learning_rate,
        batch_size=min(settings.batch_size, len(features)), alpha=NETWORK_PENALTY,
        max_iter=max(settings.n_epochs, -(-LEAST_STEPS // n_batches)),
        random_state=settings.random_state,
    )
    with warnings.catch_warnings():  # the number of epochs is what is asked for
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(features, targets.squeeze())
    weights = [weight.T for weight in network.coefs_]
    return list(zip(weights, network.intercepts_, strict=True))


def _without_scaling(layers, scaler):
    """Return layers for features as they were before a `StandardScaler`."""
    weight, bias = layers[0]
    weight = weight / scaler.scale_
    return [(weight, bias - weight @ scaler.mean_), *layers[1:]]
