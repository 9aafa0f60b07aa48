"""Few-shot estimates: small models learned from labeled embeddings with one call."""

import dataclasses
import warnings

import numpy as np
from astropy.table import Table
from scipy.special import log_softmax
from sklearn.base import BaseEstimator

from astroclip._validation import check_choice, check_integer
from astroclip.estimation.calibration import (
    check_levels,
    check_probability,
    class_columns,
    conformal_factor,
    explained_variance,
    fit_temperature,
    interval_columns,
)
from astroclip.estimation.neighbors import NEEDED, LabeledRows, choose_rows
from astroclip.estimation.properties import property_groups, property_names, read_properties
from astroclip.estimation.results import estimate_table
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["ClassProbe", "FewShotEstimator", "NumberProbe"]

KINDS = ("linear", "ridge", "mlp", "logistic")
LEAST_OBJECTS = 4
SUPPORT_NEIGHBORS = 16
RIDGE_PENALTIES = np.logspace(-3, 5, 17)  # of standardized features
LOGISTIC_STRENGTHS = 10.0 ** np.arange(-3, 3)  # scikit-learn's C, inverse penalties
LOGISTIC_STEPS = 1000
LEAST_STEPS = 1000  # of the network: with few examples there are more epochs
NETWORK_PENALTY = 1.0  # scikit-learn's alpha; as good as the papers' dropout of 0.1
LEAST_OF_CLASS = 4  # examples of every class, of which a quarter can be held out
ABSENT = -20.0  # logit of a class without an example


class FewShotEstimator(BaseEstimator):
    r"""Learn properties of objects from examples: a small model on top of embeddings.

    Parameters
    ----------
    kind : str
        ``"linear"``: a linear probe, least squares. ``"ridge"``: the same with a penalty
        chosen by leave-one-out error. ``"mlp"``: a network of two hidden layers of 64.
        ``"logistic"``: classes alone, with a penalty chosen by held-out likelihood;
        ``"linear"`` and ``"ridge"`` learn classes by it, too.
    confidence : float or sequence of float
        Probabilities that intervals cover the truth.
    n_folds : int
        Folds of the cross-validation. Rows of one id are in one fold.
    false_alarm_rate : float
        Fraction of the examples that `predict` would call out of distribution.
    random_state : int
        Fixes folds, the network and the examples that are kept to flag objects unlike them.
    circular : dict of str to float or `~astropy.units.Quantity`, optional
        Periods of angles: their cosine and sine are learned.
    positive, categorical : sequence of str
        As in `PropertyEstimator`.
    hidden : sequence of int
        Widths of the hidden layers of ``kind="mlp"``.
    learning_rate : float
        Of Adam, for ``kind="mlp"``.
    n_epochs, batch_size : int
        Of ``kind="mlp"``. With fewer than 6,400 examples there are more epochs than
        ``n_epochs``: 1,000 steps.
    n_support : int
        Most examples kept, and written to files, to flag objects unlike them.

    Attributes
    ----------
    property_names_ : list of str
    scores_ : `~astropy.table.Table`
        Columns ``modality``, ``property``, ``metric``, ``score``, ``score_error`` and
        ``n_reference``: R2 of numbers and accuracy of classes in cross-validation, and
        its error from the scatter among folds.
    calibration_ : dict
        By (modality, property): half the width of the first confidence's interval, on the
        property's scale; of classes, the temperature.
    similarity_threshold_ : dict
        By modality: as in `PropertyEstimator`.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range.

    Notes
    -----
    Each modality and property has a model of its own, on standardized unit embeddings:
    `sklearn.linear_model.LinearRegression`, `~sklearn.linear_model.RidgeCV`,
    `~sklearn.linear_model.LogisticRegression`, `sklearn.neural_network.MLPRegressor` or
    `~sklearn.neural_network.MLPClassifier`, and folds are those of
    `sklearn.model_selection.GroupKFold`. Intervals are cross-conformal: the estimate plus and
    minus the :math:`\lceil (n + 1) c \rceil`-th smallest residual of examples that were left
    out of the fit (of the logarithm for positive properties, the shorter way round for
    angles). They have one width for all objects, unlike those of `PropertyEstimator`. Class
    probabilities are divided by a temperature that is fitted to left-out examples.

    The papers' network has dropout, learns all properties at once and is
    `astroclip.evaluation.few_shot`.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990; Vovk (2015), Annals of Mathematics and Artificial
    Intelligence 74, 9 (cross-conformal); Guo et al. (2017), arXiv:1706.04599 (temperature).

    Examples
    --------
    >>> import astroclip
    >>> reference = astroclip.reference_table()
    >>> estimator = astroclip.FewShotEstimator(kind="ridge")
    >>> estimator = estimator.fit(reference[:400], ["redshift"])
    >>> bool(estimator.scores_["score"][0] > 0.8)
    True
    >>> estimator.predict(reference[400:402]).colnames[2:5]
    ['redshift', 'redshift_lower', 'redshift_upper']
    """

    def __init__(
        self, *, kind="ridge", confidence=0.68, n_folds=5, false_alarm_rate=0.01,
        random_state=0, circular=None, positive=(), categorical=(), hidden=(64, 64),
        learning_rate=1e-3, n_epochs=10, batch_size=64, n_support=4000,
    ):
        self.kind = kind
        self.confidence = confidence
        self.n_folds = n_folds
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self.circular = circular
        self.positive = positive
        self.categorical = categorical
        self.hidden = hidden
        self.learning_rate = learning_rate
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.n_support = n_support
        self._check_settings()

    def _check_settings(self):
        """Raise ValueError or TypeError for a setting that cannot be."""
        check_choice(self.kind, KINDS, "kind")
        check_levels(self.confidence, "confidence")
        check_probability(self.false_alarm_rate, "false_alarm_rate")
        check_integer(self.n_folds, "n_folds", minimum=2)
        check_integer(self.n_epochs, "n_epochs")
        check_integer(self.batch_size, "batch_size")
        check_integer(self.n_support, "n_support", minimum=LEAST_OBJECTS)
        property_groups(self.circular, self.positive, self.categorical)

    # ------------------------------------------------------------------ fitting
    def fit(self, table, properties):
        """Learn properties from examples, and cross-validate.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table with a column for every property. Rows whose property is
            masked, NaN or empty text are left out for that property.
        properties : sequence of str

        Returns
        -------
        `FewShotEstimator`
            Itself.

        Raises
        ------
        KeyError
            If a property is no column.
        ValueError
            If there are too few examples, or the kind cannot learn a property.
        """
        self._check_settings()
        validate_embedding_table(table, name="table")
        names = property_names(properties)
        columns = read_properties(
            table, names, circular=self.circular, positive=self.positive,
            categorical=self.categorical,
        )
        features = _unit_features(table)
        valid = np.isfinite(features).all(axis=1)
        modalities = np.asarray(table["modality"]).astype(str)
        ids = np.asarray(table["id"]).astype(str)
        probes, references, searched = {}, {}, {}
        for name, (prop, values, known) in columns.items():
            if self.kind == "logistic" and prop.classes is None:
                msg = (
                    f"properties names {name!r}, which is numbers, and kind is 'logistic', "
                    f"which learns classes; expected kind 'ridge', 'linear' or 'mlp'. If the "
                    f"numbers are classes, pass categorical=[{name!r}]."
                )
                raise ValueError(msg)
            learned = np.unique(modalities[valid & known]).tolist()
            for modality in learned or ["labeled"]:
                rows = np.flatnonzero((modalities == modality) & valid & known)
                n_objects = len(np.unique(ids[rows]))
                enough = prop.classes is None or min(np.bincount(values[rows]), default=0) >= 2
                if n_objects < LEAST_OBJECTS or not enough:
                    msg = (
                        f"table has {n_objects} {modality} objects with an embedding and a "
                        f"{name!r}; expected at least {LEAST_OBJECTS}, and two of every class. "
                        f"Label more of them."
                    )
                    raise ValueError(msg)
                learn = self._learn_numbers if prop.classes is None else self._learn_classes
                probes[modality, name] = learn(prop, features[rows], values[rows], ids[rows])
                key = (modality, rows.tobytes())
                if key not in searched:  # properties with labels on the same rows share them
                    searched[key] = self._keep_examples(table, rows)
                references[modality, name] = searched[key]
        self._meta = {key: str(table.meta.get(key, "")) for key in ("MODEL", "WSHA", "PREPVER")}
        self._set_fitted({name: prop for name, (prop, _, _) in columns.items()}, probes, references)
        return self

    def _learn_numbers(self, prop, features, values, ids):
        """Return the `NumberProbe` of a property's values (N,), on its scale."""
        targets = prop.scale.targets(values)

        def fit(rows):
            return _fit_numbers(features[rows], targets[rows], self)

        left_out, folds = _cross_predict(fit, features, ids, None, self)
        residual = prop.scale.deviation(values, prop.scale.from_targets(left_out))
        score, error = _fold_scores(
            lambda rows: explained_variance(prop.scale, residual[rows], values[rows]), folds
        )
        residuals = np.sort(np.abs(residual))
        return NumberProbe(fit(slice(None)), prop.scale, residuals, score, error)

    def _learn_classes(self, prop, features, codes, ids):
        """Return the `ClassProbe` of a property's numbers of classes (N,)."""
        n_classes = len(prop.classes)

        def fit(rows):
            return _fit_classes(features[rows], codes[rows], n_classes, self)

        logits, folds = _cross_predict(fit, features, ids, codes, self)
        right = logits.argmax(axis=1) == codes
        score, error = _fold_scores(lambda rows: float(right[rows].mean()), folds)
        temperature = fit_temperature(logits, np.eye(n_classes)[codes], prior=1.0)
        return ClassProbe(fit(slice(None)), prop.classes, temperature, score, error)

    def _keep_examples(self, table, rows):
        """Return examples that objects are compared with, to flag those unlike them."""
        kept = choose_rows(rows, self.n_support, self.random_state)
        small = table[list(NEEDED)][kept]
        _, counts = np.unique(np.asarray(small["id"]).astype(str), return_counts=True)
        n_neighbors = min(SUPPORT_NEIGHBORS, max(len(kept) - int(counts.max()), 2))
        reference = LabeledRows(
            small, np.arange(len(kept)), n_neighbors=n_neighbors, n_reference=len(rows)
        )
        reference.leave_out(
            n_calibration=self.n_support, false_alarm_rate=self.false_alarm_rate,
            random_state=self.random_state,
        )
        return reference

    def _set_fitted(self, properties, probes, references):
        """Keep what was learned, and set the public attributes that tell it."""
        self._properties, self._probes, self._references = properties, probes, references
        self.property_names_ = names = list(properties)
        level = check_levels(self.confidence, "confidence")[0]
        rows, self.calibration_, self.similarity_threshold_ = [], {}, {}
        for modality, name in sorted(probes, key=lambda key: (key[0], names.index(key[1]))):
            probe, reference = probes[modality, name], references[modality, name]
            self.calibration_[modality, name] = probe.summary(level)
            score = (probe.metric, probe.score, probe.score_error)
            rows.append((modality, name, *score, reference.n_reference))
            if name == names[0]:
                self.similarity_threshold_[modality] = reference.threshold
        columns = ("modality", "property", "metric", "score", "score_error", "n_reference")
        self.scores_ = Table(rows=rows, names=columns)

    # ------------------------------------------------------------------ predicting
    def predict(self, table, *, properties=None, exclude_self=False, confidence=None):
        """Estimate properties of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the examples' model and weights.
        properties : sequence of str, optional
            Some of those that were learned; all by default.
        exclude_self : bool
            Leave examples of the object's own id out of ``nearest_similarity`` and
            ``local_density``. Estimates know them all the same.
        confidence : float or sequence of float, optional
            Instead of the estimator's own.

        Returns
        -------
        `~astropy.table.QTable`
            The columns of `PropertyEstimator.predict` but for ``n_effective`` and
            quantiles; ``n_reference`` is the number of examples, and
            ``nearest_similarity`` and ``local_density`` are of at most ``n_support`` of
            them. An object whose modality has no example is estimated by the other
            modality's model.

        Raises
        ------
        ModelMismatchError
            If objects and examples come from different models or weights.
        KeyError
            If a property was not learned.
        ValueError
            If the estimator was not fitted, or a confidence is no probability.
        """
        self._check_fitted()
        validate_embedding_table(table, name="table")
        check_same_model(table, self._meta, names=("table", "examples"))
        names = self.property_names_ if properties is None else property_names(properties)
        for name in names:
            if name not in self.property_names_:
                msg = (
                    f"properties names {name!r}, which was not learned; expected some of "
                    f"{self.property_names_}. Fit the estimator with that column."
                )
                raise KeyError(msg)
        levels = self.confidence if confidence is None else confidence
        levels = check_levels(levels, "confidence")
        features = _unit_features(table)

        def estimate(key, rows, near):
            return self._probes[key].columns(features[rows], levels), {}

        asked = [self._properties[name] for name in names]
        return estimate_table(
            table, asked, self._references, estimate, exclude_self=exclude_self
        )

    def _check_fitted(self):
        if not hasattr(self, "_probes"):
            msg = "the estimator is not fitted; call fit(examples, properties) first."
            raise ValueError(msg)

    # ------------------------------------------------------------------ files
    def save(self, path):
        """Write what was learned to one file, complete or not at all.

        Parameters
        ----------
        path : path-like
            A safetensors file: arrays and JSON with a checksum; no pickle. An existing file
            is replaced.

        Raises
        ------
        ValueError
            If the estimator was not fitted.
        """
        from astroclip.estimation.files import write_probes

        self._check_fitted()
        write_probes(
            path, self.get_params(), self._meta, self._properties, self._probes, self._references
        )

    @classmethod
    def open(cls, path):
        """Read a file written by `save`.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        `FewShotEstimator`

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is another one, of another version, or damaged.
        """
        from astroclip.estimation.files import read_probes

        parameters, meta, properties, probes, references = read_probes(path)
        estimator = cls(**parameters)
        estimator._meta = meta
        estimator._set_fitted(properties, probes, references)
        return estimator


# ---------------------------------------------------------------------- what is learned
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
def _unit_features(table):
    """Return embeddings divided by their lengths (N, D), NaN where there is none."""
    matrix, _ = embedding_matrix(table)
    matrix = matrix.astype(float)
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, length, out=np.full_like(matrix, np.nan), where=length > 0)


def _cross_predict(fit, features, ids, codes, settings):
    """Return what models learned without its fold give every row, and the rows' folds.

    Rows of one id share a fold; classes, by their codes, are in the folds in their shares.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    n_folds = min(settings.n_folds, len(np.unique(ids)))
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
