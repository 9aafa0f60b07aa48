"""Property estimates: from nearest neighbours, or redshifts from a model's own head."""

import numpy as np
from astropy import units as u
from astropy.table import QTable

from astroclip._validation import check_choice, check_integer, check_not_empty
from astroclip.similarity import SimilarityIndex
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["PropertyEstimator", "euclidean_distance"]

METHODS = ("neighbors", "head")
WEIGHTS = ("distance", "uniform")
DEFAULT_MODEL = "astroclip-small"
CALIBRATION_ROWS = 4000
CHUNK = 1000
RESOLUTION = 1e-7  # distance of float32 unit vectors that are equal but for rounding


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


class PropertyEstimator:
    r"""Estimate properties of objects from those of their nearest neighbours, or by a head.

    Parameters
    ----------
    n_neighbors : int
        Neighbours to average. For ``method="neighbors"``.
    weights : str
        ``"distance"``: inverse Euclidean distance of unit vectors; or ``"uniform"``. For
        ``method="neighbors"``.
    method : str
        ``"neighbors"``; or ``"head"``: redshifts from the redshift head that ships with a
        model's weights, as distributions over redshift. It reads embeddings alone, no
        reference is needed, and torch is not imported.
    model : str, path-like or `~astroclip.models.EmbeddingModel`, optional
        Whose head, for ``method="head"``: a name of `astroclip.list_models` or a weights
        file. ``"astroclip-small"`` by default.
    confidence : float
        Probability that an interval covers the truth.
    false_alarm_rate : float
        Fraction of the reference that `predict` would call out of distribution.
    random_state : int
        Chooses the rows that calibrate a large reference.

    Attributes
    ----------
    property_names_ : list of str
    calibration_ : dict
        By (modality, property): the conformal factor; of a head, the probability that its
        intervals hold.
    similarity_threshold_ : dict
        By modality: nearest similarity below which a query is out of distribution.
    temperature_ : dict
        By modality: divides the logits of a head (``method="head"``).

    Raises
    ------
    ValueError
        If a setting is unknown or out of range, or the model has no redshift head.

    Notes
    -----
    The estimate is `sklearn.neighbors.KNeighborsRegressor`'s on unit vectors. Intervals
    are conformal: every calibration row of the reference (at most 4,000 a modality) is
    estimated from all others (leave one out, by id), the absolute residual is divided by
    the weighted scatter of the neighbours' values, and the factor q is the
    :math:`\lceil (n + 1) c \rceil`-th smallest of these scores; the interval is the
    estimate plus and minus q times the scatter, and infinite where the reference has too
    few rows for c. For queries that are exchangeable with
    the reference it covers the truth with probability c to the accuracy of leave-one-out
    stability; real objects and a simulated reference are not exchangeable.

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
    >>> estimator = astroclip.PropertyEstimator(n_neighbors=16)
    >>> estimator = estimator.fit(reference, ["redshift"])
    >>> sorted(estimator.predict(reference[:1]).colnames)[:3]
    ['id', 'modality', 'n_effective']
    """

    def __init__(
        self, *, n_neighbors=64, weights="distance", method="neighbors", model=None,
        confidence=0.68, false_alarm_rate=0.01, random_state=0,
    ):
        self.n_neighbors = check_integer(n_neighbors, "n_neighbors", minimum=2)
        self.weights = check_choice(weights, WEIGHTS, "weights")
        for value, name in ((confidence, "confidence"), (false_alarm_rate, "false_alarm_rate")):
            if not 0 < value < 1:
                msg = f"{name} is {value!r}; expected a number between 0 and 1."
                raise ValueError(msg)
        self.confidence = confidence
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self.method = check_choice(method, METHODS, "method")
        self._head = self._open_head(model)

    def _open_head(self, model):
        """Return the estimator of the model's head, None for neighbours."""
        if self.method == "neighbors":
            if model is not None:
                msg = (
                    f"model is given and method is {self.method!r}, which needs none; expected "
                    f"None. Leave it out, or pass method='head'."
                )
                raise ValueError(msg)
            return None
        from astroclip.head_estimation import HeadEstimator  # it imports this module

        head = HeadEstimator(
            DEFAULT_MODEL if model is None else model,
            confidence=self.confidence,
            false_alarm_rate=self.false_alarm_rate,
            random_state=self.random_state,
        )
        self.temperature_ = head.temperature_
        return head

    # ------------------------------------------------------------------ fitting
    def fit(self, table, properties=None):
        """Take a reference and calibrate intervals and thresholds on it.

        A head estimates without it. Fitted, it flags objects out of distribution, and with
        ``properties="redshift"`` it is calibrated on the reference's redshifts.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table with a column for every property. Rows whose property is
            masked or NaN are left out for that property.
        properties : sequence of str
            ``"redshift"`` or None for a head; needed for neighbours.

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
            If the reference is too small, a property is not numeric, or there is none.
        """
        if self._head is not None:
            return self._fit_head(table, properties)
        validate_embedding_table(table, name="table")
        if properties is None:
            msg = "properties is None; expected names of columns, such as ['redshift']."
            raise ValueError(msg)
        properties = [properties] if isinstance(properties, str) else list(properties)
        check_not_empty(properties, "properties")
        self.reference_ = table
        self.property_names_ = properties
        self._values, self._units = {}, {}
        for name in properties:
            self._values[name], self._units[name] = column_numbers(table, name)
        self._indexes, self.calibration_, self.similarity_threshold_ = {}, {}, {}
        kinds = np.asarray(table["modality"]).astype(str)
        _, valid = embedding_matrix(table)
        for kind in np.unique(kinds):
            members = np.flatnonzero((kinds == kind) & valid)
            for name in properties:
                rows = members[np.isfinite(self._values[name][members])]
                self._add_index(kind, name, rows)
                self._calibrate(kind, name)
        return self

    def _fit_head(self, table, properties):
        """Fit the head's estimator and show what it learned as this one's."""
        head = self._head.fit(table, properties)
        self.reference_, self.property_names_ = table, ["redshift"]
        self.calibration_, self.temperature_ = head.calibration_, head.temperature_
        self.similarity_threshold_ = head.similarity_threshold_
        return self

    def _add_index(self, kind, name, rows):
        """Index the reference rows of a modality that have a property."""
        if len(rows) <= self.n_neighbors:
            msg = (
                f"table has {len(rows)} {kind} rows with an embedding and a {name!r}; expected "
                f"more than n_neighbors = {self.n_neighbors}. Use a larger reference or fewer "
                f"neighbors."
            )
            raise ValueError(msg)
        for (other_kind, _), (other_rows, index) in self._indexes.items():
            if other_kind == kind and np.array_equal(other_rows, rows):
                self._indexes[kind, name] = rows, index
                return
        self._indexes[kind, name] = rows, SimilarityIndex(self.reference_[rows])

    def _calibrate(self, kind, name):
        """Estimate reference rows from the others and keep the conformal factor."""
        rows, index = self._indexes[kind, name]
        chosen = np.arange(len(rows))
        if len(rows) > CALIBRATION_ROWS:
            rng = np.random.default_rng(self.random_state)
            chosen = np.sort(rng.choice(len(rows), CALIBRATION_ROWS, replace=False))
        found = self._neighbors(index, index.table[chosen], exclude_self=True)
        estimate, scatter, _ = self._average(found, self._values[name][rows])
        residual = np.abs(estimate - self._values[name][rows[chosen]])
        score = np.append(np.sort(residual / scatter), np.inf)
        rank = int(np.ceil(len(score) * self.confidence))
        self.calibration_[kind, name] = float(score[rank - 1])
        nearest = found[1][:, 0]
        threshold = float(np.quantile(nearest, self.false_alarm_rate))
        self.similarity_threshold_[kind] = min(
            threshold, self.similarity_threshold_.get(kind, threshold)
        )

    def _neighbors(self, index, table, *, exclude_self):
        """Return neighbours' rows and similarities in chunks of queries."""
        parts = [
            index.neighbors(
                table[first : first + CHUNK], self.n_neighbors, modality="all",
                exclude_self=exclude_self,
            )
            for first in range(0, len(table), CHUNK)
        ]
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _average(self, found, values):
        """Return the weighted mean, scatter and effective number of neighbours' values."""
        rows, similarity, valid = found
        weight = self._weight(similarity)
        near = np.where(valid[:, None], values[np.maximum(rows, 0)], np.nan)
        total = weight.sum(axis=1)
        mean = (weight * near).sum(axis=1) / total
        variance = (weight * (near - mean[:, None]) ** 2).sum(axis=1) / total
        floor = 1e-3 * np.std(values) + 1e-12
        effective = np.where(valid, total**2 / (weight**2).sum(axis=1), np.nan)
        return mean, np.maximum(np.sqrt(variance), floor), effective

    def _weight(self, similarity):
        """Return weights (N, K); an exact match takes all of it, as in scikit-learn."""
        if self.weights == "uniform":
            return np.ones(similarity.shape)
        distance = euclidean_distance(similarity)
        exact = distance < RESOLUTION
        weight = 1.0 / np.where(exact, 1.0, distance)
        return np.where(exact.any(axis=1, keepdims=True), exact.astype(float), weight)

    # ------------------------------------------------------------------ predicting
    def predict(self, table, *, properties=None, exclude_self=False):
        """Estimate properties of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the reference's, or the head's, model and weights.
        properties : sequence of str, optional
            Some of those the estimator was fitted with; all by default. ``"redshift"`` for
            a head.
        exclude_self : bool
            Leave out reference rows of the object's own id.

        Returns
        -------
        `~astropy.table.QTable`
            One row per object, in order: ``id``, ``modality``; for each property ``p`` the
            columns ``p``, ``p_lower``, ``p_upper`` in its unit (NaN for failed objects);
            ``n_effective`` (effective number of neighbours of the first property),
            ``nearest_similarity`` and ``out_of_distribution``. An object whose modality
            the reference lacks is compared with all its rows of the other one.

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
            If the estimator was not fitted and needs it, or there is no head for a modality.
        """
        if self._head is not None:
            return self._head.predict(table, properties=properties, exclude_self=exclude_self)
        if not hasattr(self, "reference_"):
            msg = "the estimator is not fitted; call fit(reference, properties) first."
            raise ValueError(msg)
        validate_embedding_table(table, name="table")
        check_same_model(table, self.reference_, names=("table", "reference"))
        names = self._wanted(properties)
        result = QTable()
        result["id"] = np.asarray(table["id"]).astype(str)
        result["modality"] = np.asarray(table["modality"]).astype(str)
        kinds = np.asarray(result["modality"])
        shared = np.full((2, len(table)), np.nan)  # n_effective, nearest_similarity
        unusual = np.zeros(len(table), dtype=bool)
        for number, name in enumerate(names):
            columns = np.full((3, len(table)), np.nan)
            for kind in np.unique(kinds):
                rows = np.flatnonzero(kinds == kind)
                source = kind if (kind, name) in self._indexes else self._other(name)
                found = self._estimate(source, name, table[rows], exclude_self)
                columns[:, rows], extras = found
                if number == 0:
                    shared[:, rows] = extras
                    low = self.similarity_threshold_[source]
                    unusual[rows] = ~(extras[1] >= low)
            for suffix, values in zip(("", "_lower", "_upper"), columns, strict=True):
                unit = self._units[name]
                result[f"{name}{suffix}"] = values if unit is None else values * unit
        result["n_effective"], result["nearest_similarity"] = shared
        result["out_of_distribution"] = unusual
        result.meta.update(table.meta)
        return result

    def distribution(self, table):
        """Return the distributions over redshift that a head gives embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the head's model and weights.

        Returns
        -------
        redshift : (B,) `numpy.ndarray`
            Centres of the bins, even in log(1 + z).
        probability : (N, B) float32 `numpy.ndarray`
            Rows sum to one; NaN for failed objects.

        Raises
        ------
        ModelMismatchError
            If the table's embeddings are of other weights than the head's.
        ValueError
            If the method is not ``"head"``, or there is no head for a modality.
        """
        if self._head is None:
            msg = (
                f"method is {self.method!r}, which gives no distribution; expected 'head'. Make "
                f"the estimator with PropertyEstimator(method='head')."
            )
            raise ValueError(msg)
        return self._head.distribution(table)

    def _wanted(self, properties):
        names = self.property_names_ if properties is None else list(
            [properties] if isinstance(properties, str) else properties
        )
        check_not_empty(names, "properties")
        for name in names:
            if name not in self.property_names_:
                msg = (
                    f"properties names {name!r}, which the estimator was not fitted with; "
                    f"expected some of {self.property_names_}. Fit it with that column."
                )
                raise KeyError(msg)
        return names

    def _other(self, name):
        """Return the modality the reference has, for queries of the one it lacks."""
        return next(kind for kind, other in self._indexes if other == name)

    def _estimate(self, kind, name, table, exclude_self):
        """Return estimate and interval (3, N), and effective number and similarity (2, N)."""
        rows, index = self._indexes[kind, name]
        found = self._neighbors(index, table, exclude_self=exclude_self)
        estimate, scatter, effective = self._average(found, self._values[name][rows])
        reach = self.calibration_[kind, name] * scatter
        columns = np.array([estimate, estimate - reach, estimate + reach])
        return columns, np.array([effective, found[1][:, 0]])


def column_numbers(table, name):
    """Return a column as floats (masked as NaN) and its unit, or None."""
    if name not in table.colnames:
        msg = (
            f"properties names {name!r}, which is no column of the table; expected some of "
            f"{[column for column in table.colnames if column != 'embedding']}."
        )
        raise KeyError(msg)
    column = table[name]
    unit = getattr(column, "unit", None)
    if unit == u.dimensionless_unscaled:
        unit = None
    mask = np.asarray(getattr(column, "mask", False))
    values = np.ma.getdata(getattr(column, "unmasked", column))
    values = np.asarray(getattr(values, "value", values))
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        msg = (
            f"properties names {name!r}, a column of {values.dtype} with shape {values.shape}; "
            f"expected numbers, one a row."
        )
        raise ValueError(msg)
    return np.where(mask, np.nan, values.astype(float)), unit
