"""The estimator of properties from nearest neighbors."""

import numpy as np
from astropy.table import Table

from astroclip._validation import check_choice, check_integer
from astroclip.estimation.intervals import check_levels, check_probability
from astroclip.estimation.models import STATISTICS, ClassVotes, NumberAverage
from astroclip.estimation.neighbors import LabelledRows
from astroclip.estimation.parameters import Parameters
from astroclip.estimation.properties import PropertyKinds, property_names, read_property
from astroclip.estimation.results import ResultTable, answering_modality, support_prefixes
from astroclip.estimation.weights import (
    WEIGHTS,
    check_bandwidth,
    effective_number,
    neighbor_weights,
)
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["PropertyEstimator"]

BLOCK = 20_000  # queries whose neighbours are held at a time


class PropertyEstimator(Parameters):
    r"""Estimate properties of objects from those of their nearest neighbours, or by a head.

    Parameters
    ----------
    n_neighbors : int
        Neighbours to average, from 2. This and everything else is for
        ``method="neighbors"`` unless said otherwise.
    weights : str
        ``"distance"``: inverse Euclidean distance of unit vectors; ``"uniform"``; or
        ``"kernel"``: Gaussian in that distance.
    method : str
        ``"neighbors"``; or ``"head"``: redshifts from the redshift head that ships with a
        model's weights, as distributions over redshift. It reads embeddings alone, no
        reference is needed, and torch is not imported.
    model : str, path-like or `~astroclip.models.EmbeddingModel`, optional
        Whose head, for ``method="head"``: a name of `astroclip.list_models` or a weights
        file. ``"astroclip-small"`` by default.
    confidence : float or sequence of float
        Probabilities that intervals cover the truth. Either method.
    false_alarm_rate : float
        Fraction of the reference that `predict` would call out of distribution. Either
        method.
    random_state : int
        Chooses the rows that calibrate a large reference. Either method.
    statistic : str
        ``"mean"`` or ``"median"`` of the neighbours' values.
    quantiles : sequence of float
        Probabilities of quantiles to give beside: of the neighbours' weighted values, or of
        a head's distribution.
    circular : dict of str to float or `~astropy.units.Quantity`, optional
        Periods of angles, such as ``{"position_angle": 180 * u.deg}``.
    positive : sequence of str
        Properties that are averaged by their logarithm: estimates and intervals stay above
        zero.
    categorical : sequence of str
        Properties that are classes although they are numbers. Columns of text or bool
        always are.
    bandwidth : float, optional
        Standard deviation of ``weights="kernel"``; half the distance of each query's
        farthest neighbour by default.
    n_calibration : int
        Most reference rows of a modality that are left out, one at a time, to calibrate.

    Attributes
    ----------
    property_names_ : list of str
    calibration_ : dict
        By (modality, property): the conformal factor of the first ``confidence``; of
        classes, the temperature; of a head, the probability that its intervals hold.
    scores_ : `~astropy.table.Table`
        Columns ``modality``, ``property``, ``metric``, ``score`` and ``n_reference``: R2 of
        numbers and accuracy of classes for left-out reference rows.
    similarity_threshold_ : dict
        By modality: nearest similarity below which a query is out of distribution, for the
        first property.
    temperature_ : dict
        By modality: divides the logits of a head (``method="head"``).

    Raises
    ------
    ValueError
        If a setting is unknown or out of range, or the model has no redshift head.

    Notes
    -----
    The estimate is `sklearn.neighbors.KNeighborsRegressor`'s on unit vectors. Intervals
    are conformal: every calibration row of the reference is
    estimated from all others (leave one out, by id), the absolute residual is divided by
    the weighted scatter of the neighbours' values, and the factor q is the
    :math:`\lceil (n + 1) c \rceil`-th smallest of these scores; the interval is the
    estimate plus and minus q times the scatter, and infinite where the reference has too
    few rows for c. For queries that are exchangeable with
    the reference it covers the truth with probability c to the accuracy of leave-one-out
    stability; real objects and a simulated reference are not exchangeable.

    Positive properties are treated so in their logarithm. Angles are averaged as
    unit vectors (the median: of deviations from that mean), residuals and scatter are
    those of the shorter way round, and no interval is longer than the period. Classes get
    the neighbours' weighted votes, smoothed by the classes' frequencies and divided by a
    temperature, both fitted to the likelihood of left-out rows: see
    `~astroclip.estimation.categories.VoteCalibration`.

    A head's estimate is the mode of its distribution, refined over the peak; its interval
    is the shortest that holds the probability c and contains the estimate. Fitted with
    redshifts, the head's temperature is calibrated on them, and the probability that
    intervals hold is made that which covers the :math:`\lceil (n + 1) c \rceil`-th part of
    the n calibration rows. The probability within 0.01 (1 + z) of the estimate is its
    confidence.

    References
    ----------
    Vovk, Gammerman & Shafer (2005), Algorithmic Learning in a Random World; Lei et al.
    (2018), JASA 113, 1094, section 5.2 (locally weighted scores); Barber et al. (2021),
    Annals of Statistics 49, 486 (leave-one-out residuals, "jackknife+").

    Examples
    --------
    >>> import astroclip
    >>> reference = astroclip.reference_table()
    >>> estimator = astroclip.PropertyEstimator(n_neighbors=16, confidence=(0.68, 0.95))
    >>> estimator = estimator.fit(reference, ["redshift"])
    >>> estimator.predict(reference[:1]).colnames[2:7]
    ['redshift', 'redshift_lower', 'redshift_upper', 'redshift_lower_95', 'redshift_upper_95']
    """

    def __init__(
        self, *, n_neighbors=64, weights="distance", confidence=0.68, false_alarm_rate=0.01,
        random_state=0, statistic="mean", quantiles=(), circular=None, positive=(),
        categorical=(), bandwidth=None, n_calibration=20_000,
    ):
        self.n_neighbors = check_integer(n_neighbors, "n_neighbors", minimum=2)
        self.weights = check_choice(weights, WEIGHTS, "weights")
        self._levels = check_levels(confidence, "confidence")
        self._quantiles = check_levels(quantiles, "quantiles", empty=True)
        check_probability(false_alarm_rate, "false_alarm_rate")
        self.confidence, self.quantiles = confidence, quantiles
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self.statistic = check_choice(statistic, STATISTICS, "statistic")
        self.circular, self.positive, self.categorical = circular, positive, categorical
        self._property_kinds = PropertyKinds(circular, positive, categorical)
        check_bandwidth(bandwidth, weights)
        self.bandwidth = bandwidth
        self.n_calibration = check_integer(n_calibration, "n_calibration", minimum=2)

    # ------------------------------------------------------------------ fitting
    def fit(self, table, properties, *, index=None):
        """Take a reference and calibrate intervals and thresholds on it.

        A head estimates without it. Fitted, it flags objects out of distribution, and with
        ``properties="redshift"`` it is calibrated on the reference's redshifts.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table with a column for every property. Rows whose property is
            masked, NaN or empty text are left out for that property.
        properties : sequence of str
            ``"redshift"`` or None for a head; needed for neighbours.
        index : `~astroclip.SimilarityIndex`, optional
            Of that very table, row by row: an approximate one, for instance. Exact by
            default. For ``method="neighbors"``.

        Returns
        -------
        `PropertyEstimator`
            Itself.

        Raises
        ------
        KeyError
            If a property is no column, or none of a head's.
        ModelMismatchError
            If the table's embeddings are of other weights than the head's.
        ValueError
            If the reference is too small, a property cannot be estimated, there is none,
            or the index has another number of rows.
        """
        validate_embedding_table(table, name="table")
        names = property_names(properties)
        self._property_kinds.check_fitted(names)
        if index is not None and len(index) != len(table):
            msg = (
                f"index has {len(index)} rows and table {len(table)}; expected an index of the "
                f"very same table. Make it from that: SimilarityIndex(table)."
            )
            raise ValueError(msg)
        self.reference_, self.property_names_ = table, names
        self._properties, self._values, self._groups, self._models = {}, {}, {}, {}
        self.calibration_, self.similarity_threshold_ = {}, {}
        scores = []
        groups = self._group_rows(table, names)
        for (kind, _), (rows, members) in groups.items():
            scores += self._fit_group(kind, rows, members, index)
        scores.sort(key=lambda row: (row[0], names.index(row[1])))
        columns = ("modality", "property", "metric", "score", "n_reference")
        self.scores_ = Table(rows=scores, names=columns)
        return self

    def _group_rows(self, table, names):
        """Return rows and properties that have labels on just them, by modality."""
        kinds = np.asarray(table["modality"]).astype(str)
        _, valid = embedding_matrix(table)
        groups = {}
        for name in names:
            found = read_property(table, name, self._property_kinds)
            self._properties[name], self._values[name], known = found
            counts = []
            for kind in np.unique(kinds[valid]):
                rows = np.flatnonzero((kinds == kind) & valid & known)
                counts.append((len(rows), str(kind)))
                if len(rows):
                    _, members = groups.setdefault((kind, rows.tobytes()), (rows, []))
                    members.append(name)
            self._check_counts(counts, name)
        return groups

    def _check_counts(self, counts, name):
        """Raise ValueError unless modalities with labels have enough of them."""
        largest = max(counts, default=(0, "labelled"))
        few = [pair for pair in counts if 0 < pair[0] <= self.n_neighbors]
        if few or largest[0] == 0:
            number, kind = few[0] if few else largest
            msg = (
                f"table has {number} {kind} rows with an embedding and a {name!r}; expected "
                f"more than n_neighbors = {self.n_neighbors}. Use a larger reference or fewer "
                f"neighbors."
            )
            raise ValueError(msg)

    def _fit_group(self, kind, rows, names, index):
        """Calibrate the properties that have labels on some rows; return their scores."""
        group = LabelledRows(self.reference_, rows, n_neighbors=self.n_neighbors, index=index)
        left_out, found = group.leave_out(
            n_calibration=self.n_calibration, false_alarm_rate=self.false_alarm_rate,
            random_state=self.random_state,
        )
        weight = self._weight(found)
        scores = []
        for name in names:
            values = self._values[name]
            model = self._new_model(name)
            model.fit(values[rows], values[found.rows], weight, values[left_out])
            self._groups[kind, name], self._models[kind, name] = group, model
            self.calibration_[kind, name] = model.summary(self._levels[0])
            scores.append((kind, name, model.metric, model.score, len(rows)))
            if name == self.property_names_[0]:
                self.similarity_threshold_[kind] = group.threshold
        return scores

    def _new_model(self, name):
        found = self._properties[name]
        if found.classes is not None:
            return ClassVotes(found.classes)
        return NumberAverage(found.scale, statistic=self.statistic, quantiles=self._quantiles)

    def _weight(self, found):
        return neighbor_weights(found.distance, weights=self.weights, bandwidth=self.bandwidth)

    # ------------------------------------------------------------------ predicting
    def predict(self, table, *, properties=None, exclude_self=False, confidence=None):
        """Estimate properties of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the reference's, or the head's, model and weights.
        properties : sequence of str, optional
            Some of those the estimator was fitted with; all by default. ``"redshift"`` for
            a head.
        exclude_self : bool
            Leave out reference rows of the object's own id: for objects that are in the
            reference.
        confidence : float or sequence of float, optional
            Instead of the estimator's own. For ``method="neighbors"``.

        Returns
        -------
        `~astropy.table.QTable`
            One row per object, in order: ``id``, ``modality``; for each property ``p`` that
            is a number the columns ``p``, ``p_lower``, ``p_upper`` in its unit (NaN for
            failed objects), ``p_lower_95``, ``p_upper_95`` for a further level of 0.95 and
            ``p_q05`` for a quantile of 0.05. Angles and their quantiles are from zero to
            below the period; the ends of their intervals are not, so that they stand on
            either side of the estimate. For each class: ``p``, the most probable one (masked
            for failed objects), ``p_probability``, its probability, and ``p_probability_a``
            for every class a.

            Then, of the first property: ``n_effective`` (effective number of neighbours),
            ``nearest_similarity`` and ``out_of_distribution``, ``n_reference`` (reference
            rows searched) and ``local_density``, the density of reference rows around the
            object relative to that around a typical reference row: with the distance
            :math:`r_k` of its farthest neighbour, the median :math:`r_0` of that for the
            reference and the reference's intrinsic dimension m it is
            :math:`(r_0 / r_k)^m`. A property that is known of other reference rows than the
            first has columns of its own, such as ``p_n_reference``.

            An object whose modality has no reference rows with the property is compared
            with those of the other modality; its interval is then of theirs.

            Of a head: ``id``, ``modality``, ``redshift``, ``redshift_lower``,
            ``redshift_upper`` and ``redshift_confidence``, the probability that the truth is
            within 0.01 (1 + z) of the estimate; after `fit` also ``nearest_similarity`` and
            ``out_of_distribution``.

        Raises
        ------
        ModelMismatchError
            If object and reference, or head, come from different models or weights.
        KeyError
            If the estimator was not fitted with a property, or its head does not give it.
        ValueError
            If the estimator was not fitted and needs it, there is no head for a modality,
            or a confidence is no probability.
        """
        if not hasattr(self, "reference_"):
            msg = "the estimator is not fitted; call fit(reference, properties) first."
            raise ValueError(msg)
        validate_embedding_table(table, name="table")
        check_same_model(table, self.reference_, names=("table", "reference"))
        names = self._wanted(properties)
        levels = self._levels if confidence is None else check_levels(confidence, "confidence")
        result = ResultTable(table)
        for kind in np.unique(result.kinds):
            rows = np.flatnonzero(result.kinds == kind)
            for first in range(0, len(rows), BLOCK):
                part = rows[first : first + BLOCK]
                self._predict_block(result, str(kind), part, names, levels, exclude_self)
        supports = support_prefixes(self._groups, names)
        return result.finish([self._properties[name] for name in names], supports)

    def _predict_block(self, result, kind, rows, names, levels, exclude_self):
        """Fill in estimates of some rows of one modality."""
        queries, found = result.table[rows], {}
        for name in names:
            source = answering_modality(self._groups, kind, name)
            group, model = self._groups[source, name], self._models[source, name]
            if group not in found:
                found[group] = group.find(queries, exclude_self=exclude_self)
            near = found[group]
            weight = self._weight(near)
            columns = model.columns(self._values[name][near.rows], weight, levels)
            result.fill(name, rows, columns)
            support = {"n_effective": effective_number(weight), **group.support(near)}
            result.fill(f"{name} support", rows, support)

    def _wanted(self, properties):
        """Return the properties asked for, all of which were fitted."""
        names = self.property_names_ if properties is None else property_names(properties)
        for name in names:
            if name not in self.property_names_:
                msg = (
                    f"properties names {name!r}, which the estimator was not fitted with; "
                    f"expected some of {self.property_names_}. Fit it with that column."
                )
                raise KeyError(msg)
        return names
