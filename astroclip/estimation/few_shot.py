"""Few-shot estimates: heads learned from labelled embeddings with one call, and their file."""

import numpy as np
from astropy.table import Table

from astroclip._validation import check_choice, check_integer
from astroclip.estimation import head_files
from astroclip.estimation.folds import make_folds
from astroclip.estimation.heads import fit_head
from astroclip.estimation.intervals import check_levels, check_probability, conformal_factor
from astroclip.estimation.neighbors import NEEDED, LabelledRows, choose_rows
from astroclip.estimation.parameters import Parameters
from astroclip.estimation.perceptron import PerceptronRecipe
from astroclip.estimation.probes import KINDS
from astroclip.estimation.properties import PropertyKinds, property_names, read_property
from astroclip.estimation.results import ResultTable, answering_modality, support_prefixes
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["FewShotEstimator", "unit_features"]

LEAST_OBJECTS = 4
SUPPORT_NEIGHBORS = 16


class FewShotEstimator(Parameters):
    r"""Learn properties of objects from examples: a small model on top of embeddings.

    Parameters
    ----------
    kind : str
        ``"linear"``: a linear probe, least squares. ``"ridge"``: the same with a penalty
        chosen by leave-one-out error. ``"mlp"``: the papers' network, two hidden layers of
        64. ``"logistic"``: classes alone, with a penalty chosen by held-out likelihood;
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
    hidden, dropout, learning_rate, n_epochs, batch_size
        Of ``kind="mlp"``, see `~astroclip.estimation.perceptron.PerceptronRecipe`. With
        fewer than 6,400 examples there are more epochs than ``n_epochs``: 1,000 steps.
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
    Each modality and property has a head of its own, on standardised unit embeddings.
    Intervals are cross-conformal: the estimate plus and minus the
    :math:`\lceil (n + 1) c \rceil`-th smallest residual of examples that were left out of
    the fit (of the logarithm for positive properties, the shorter way round for angles).
    They have one width for all objects, unlike those of `PropertyEstimator`. Class
    probabilities are divided by a temperature that is fitted to left-out examples.

    The network is the papers', trained by plain numpy: [64, 64], ReLU, dropout 0.1, Adam at
    1e-3, batches of 64; it learns one property at a time, where
    `astroclip.evaluation.few_shot` learns all at once.

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
        dropout=0.1, learning_rate=1e-3, n_epochs=10, batch_size=64, n_support=4000,
    ):
        self.kind = check_choice(kind, KINDS, "kind")
        self._levels = check_levels(confidence, "confidence")
        self.confidence = confidence
        self.n_folds = check_integer(n_folds, "n_folds", minimum=2)
        check_probability(false_alarm_rate, "false_alarm_rate")
        self.false_alarm_rate, self.random_state = false_alarm_rate, random_state
        self.circular, self.positive, self.categorical = circular, positive, categorical
        self._property_kinds = PropertyKinds(circular, positive, categorical)
        self.hidden, self.dropout, self.learning_rate = hidden, dropout, learning_rate
        self.n_epochs, self.batch_size = n_epochs, batch_size
        self._recipe = PerceptronRecipe(
            tuple(hidden), dropout, learning_rate, n_epochs, batch_size
        )
        self.n_support = check_integer(n_support, "n_support", minimum=LEAST_OBJECTS)

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
        validate_embedding_table(table, name="table")
        names = property_names(properties)
        self._property_kinds.check_fitted(names)
        features = unit_features(table)
        valid = np.isfinite(features).all(axis=1)
        kinds = np.asarray(table["modality"]).astype(str)
        self._meta = {key: str(table.meta.get(key, "")) for key in ("MODEL", "WSHA", "PREPVER")}
        self.property_names_, self._properties = names, {}
        self._heads, self._groups, supports = {}, {}, {}
        for name in names:
            found, values, known = read_property(table, name, self._property_kinds)
            self._check_kind(found)
            self._properties[name] = found
            learned = np.unique(kinds[valid & known]).tolist()
            if not learned:
                self._refuse_few(0, "labelled", name)
            for kind in learned:
                rows = np.flatnonzero((kinds == kind) & valid & known)
                self._heads[kind, name] = self._learn(found, table, kind, rows, features, values)
                key = (kind, rows.tobytes())
                if key not in supports:
                    supports[key] = self._support(table, rows)
                self._groups[kind, name] = supports[key]
        self._summarize()
        return self

    def _check_kind(self, found):
        """Raise ValueError if classes alone can be learned and a property is numbers."""
        if self.kind == "logistic" and found.classes is None:
            msg = (
                f"properties names {found.name!r}, which is numbers, and kind is 'logistic', "
                f"which learns classes; expected kind 'ridge', 'linear' or 'mlp'. If the numbers "
                f"are classes, pass categorical=[{found.name!r}]."
            )
            raise ValueError(msg)

    @staticmethod
    def _refuse_few(number, kind, name):
        msg = (
            f"table has {number} {kind} objects with an embedding and a {name!r}; expected at "
            f"least {LEAST_OBJECTS}, and two of every class. Label more of them."
        )
        raise ValueError(msg)

    def _learn(self, found, table, kind, rows, features, values):
        """Return the head of a property that is learned from some rows of one modality."""
        ids = np.asarray(table["id"]).astype(str)[rows]
        n_objects = len(np.unique(ids))
        codes = None if found.classes is None else values[rows]
        if n_objects < LEAST_OBJECTS or (codes is not None and min(np.bincount(codes)) < 2):
            self._refuse_few(n_objects, kind, found.name)
        folds = make_folds(
            ids, n_folds=self.n_folds, random_state=self.random_state, codes=codes
        )
        return fit_head(
            features[rows], values[rows], folds, kind=self.kind, scale=found.scale,
            classes=found.classes, recipe=self._recipe, random_state=self.random_state,
        )

    def _support(self, table, rows):
        """Return examples to compare objects with."""
        kept = choose_rows(rows, self.n_support, self.random_state)
        small = table[list(NEEDED)][kept]
        _, counts = np.unique(np.asarray(small["id"]).astype(str), return_counts=True)
        n_neighbors = min(SUPPORT_NEIGHBORS, max(len(kept) - int(counts.max()), 2))
        group = LabelledRows(
            small, np.arange(len(kept)), n_neighbors=n_neighbors, n_reference=len(rows)
        )
        group.leave_out(
            n_calibration=self.n_support, false_alarm_rate=self.false_alarm_rate,
            random_state=self.random_state,
        )
        return group

    def _summarize(self):
        """Set the public attributes that tell what was learned."""
        rows, self.calibration_, self.similarity_threshold_ = [], {}, {}
        order = sorted(self._heads, key=lambda key: (key[0], self.property_names_.index(key[1])))
        for kind, name in order:
            head, group = self._heads[kind, name], self._groups[kind, name]
            rows.append(
                (kind, name, head.metric, head.score, head.score_error, group.n_reference)
            )
            self.calibration_[kind, name] = (
                head.temperature if self._properties[name].classes is not None
                else conformal_factor(head.residuals, self._levels[0])
            )
            if name == self.property_names_[0]:
                self.similarity_threshold_[kind] = group.threshold
        names = ("modality", "property", "metric", "score", "score_error", "n_reference")
        self.scores_ = Table(rows=rows, names=names)

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
            modality's head.

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
        levels = self._levels if confidence is None else check_levels(confidence, "confidence")
        result = ResultTable(table)
        features = unit_features(table)
        for kind in np.unique(result.kinds):
            rows = np.flatnonzero(result.kinds == kind)
            queries, found = table[rows], {}
            for name in names:
                source = answering_modality(self._heads, str(kind), name)
                head, group = self._heads[source, name], self._groups[source, name]
                result.fill(name, rows, head.columns(features[rows], levels))
                if group not in found:
                    near = group.find(queries, exclude_self=exclude_self)
                    found[group] = group.support(near)
                result.fill(f"{name} support", rows, found[group])
        supports = support_prefixes(self._groups, names)
        return result.finish([self._properties[name] for name in names], supports)

    def _check_fitted(self):
        if not hasattr(self, "_heads"):
            msg = "the estimator is not fitted; call fit(examples, properties) first."
            raise ValueError(msg)

    # ------------------------------------------------------------------ files
    def save(self, path):
        """Write what was learned to one file, complete or not at all.

        Parameters
        ----------
        path : path-like
            A zip file of arrays and JSON with a checksum; no pickle. An existing file is
            replaced.

        Raises
        ------
        ValueError
            If the estimator was not fitted.
        """
        self._check_fitted()
        head_files.write_heads(
            path, self.get_params(), self._meta, self._properties, self._heads, self._groups
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
        parameters, meta, properties, heads, groups = head_files.read_heads(path)
        estimator = cls(**parameters)
        estimator._meta, estimator._properties = meta, properties
        estimator._heads, estimator._groups = heads, groups
        estimator.property_names_ = list(properties)
        estimator._summarize()
        return estimator


def unit_features(table):
    """Return embeddings divided by their lengths (N, D), NaN where there is none."""
    matrix, _ = embedding_matrix(table)
    matrix = matrix.astype(float)
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.divide(matrix, length, out=np.full_like(matrix, np.nan), where=length > 0)
