"""Few-shot estimates: small models learned from labeled embeddings with one call."""

import numpy as np
from astropy.table import Table
from sklearn.base import BaseEstimator

from astroclip._validation import check_choice, check_integer
from astroclip.estimation.calibration import check_levels, check_probability
from astroclip.estimation.files import read_probes, write_probes
from astroclip.estimation.neighbors import NEEDED, LabeledRows, choose_rows
from astroclip.estimation.probes import KINDS, learn_classes, learn_numbers
from astroclip.estimation.properties import (
    property_groups,
    property_names,
    read_properties,
)
from astroclip.estimation.results import estimate_table
from astroclip.similarity.queries import as_embeddings
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    validate_embedding_table,
)

__all__ = ["FewShotEstimator"]

LEAST_OBJECTS = 4
SUPPORT_NEIGHBORS = 16  # of an object among the examples, for its local density


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
    def fit(self, table, properties, *, missing=()):
        """Learn properties from examples, and cross-validate.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table with a column for every property. Rows whose property is
            masked, NaN or empty text are left out for that property.
        properties : sequence of str
        missing : float, str, or sequence of these
            Values that stand for unknown ones, such as ``(-9999, -99)``: their rows are left
            out, too.

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

        Warns
        -----
        SuspiciousLabelWarning
            If values seem to stand for unknown ones and are not named in ``missing``.
        """
        self._check_settings()
        validate_embedding_table(table, name="table")
        names = property_names(properties)
        columns = read_properties(
            table, names, circular=self.circular, positive=self.positive,
            categorical=self.categorical, missing=missing,
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
                learn = learn_numbers if prop.classes is None else learn_classes
                probes[modality, name] = learn(
                    prop, features[rows], values[rows], ids[rows], self
                )
                key = (modality, rows.tobytes())
                if key not in searched:  # properties with labels on the same rows share them
                    searched[key] = self._keep_examples(table, rows)
                references[modality, name] = searched[key]
        self._meta = {key: str(table.meta.get(key, "")) for key in ("MODEL", "WSHA", "PREPVER")}
        self._set_fitted({name: prop for name, (prop, _, _) in columns.items()}, probes, references)
        return self

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
    def predict(
        self, table, *, properties=None, exclude_self=False, confidence=None, **options
    ):
        """Estimate properties of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable` or object
            An embedding table of the examples' model and weights, or objects to embed with that
            model, as `astroclip.embed` takes them: a spectrum, an image, a file, a list.
        properties : sequence of str, optional
            Some of those that were learned; all by default.
        exclude_self : bool
            Leave examples of the object's own id out of ``nearest_similarity`` and
            ``local_density``. Estimates know them all the same.
        confidence : float or sequence of float, optional
            Instead of the estimator's own.
        **options
            Passed to `astroclip.embed` for objects.

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
        table = as_embeddings(table, self._meta["MODEL"], options, name="table")
        validate_embedding_table(table, name="table")
        check_same_model(table, self._meta, names=("table", "examples"))
        names = property_names(properties, fitted=self.property_names_)
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
        parameters, meta, properties, probes, references = read_probes(path)
        estimator = cls(**parameters)
        estimator._meta = meta
        estimator._set_fitted(properties, probes, references)
        return estimator


def _unit_features(table):
    """Return embeddings divided by their lengths (N, D), NaN where there is none."""
    matrix, _ = embedding_matrix(table)
    matrix = matrix.astype(float)
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, length, out=np.full_like(matrix, np.nan), where=length > 0)
