"""The estimator of properties from nearest neighbors, and what it is made of."""

import dataclasses

import numpy as np
from astropy.table import Table
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import BaseEstimator

from astroclip._validation import check_choice, check_integer
from astroclip.estimation.calibration import (
    check_levels,
    check_probability,
    class_columns,
    conformal_factor,
    explained_variance,
    interval_columns,
    percent_name,
    weighted_quantiles,
)
from astroclip.estimation.properties import (
    property_groups,
    property_names,
    read_properties,
)
from astroclip.estimation.results import estimate_table
from astroclip.similarity import SimilarityIndex
from astroclip.similarity.queries import as_embeddings
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    validate_embedding_table,
)

__all__ = [
    "ClassVotes", "LabeledRows", "Neighbors", "NumberAverage", "PropertyEstimator", "choose_rows",
    "euclidean_distance", "intrinsic_dimension", "nearest_neighbors", "neighbor_weights",
]  # fmt: skip

WEIGHTS = ("distance", "uniform", "kernel")
STATISTICS = ("mean", "median")
CHUNK = 1000  # queries that are searched at a time: bounds the memory
NEEDED = ("id", "modality", "embedding", "coverage", "flags", "message")
RESOLUTION = 1e-7  # distance of float32 unit vectors that are equal but for rounding
KERNEL_REACH = 2.0  # standard deviations of the kernel between the query and its k-th neighbor
FLOOR = 1e-3  # least scatter of neighbors' values, relative to that of the reference
LOG_SMOOTHINGS = (np.log(1e-3), np.log(1e3))  # bounds of the fit
LOG_TEMPERATURES = (np.log(0.05), np.log(20.0))
LEAST_PROBABILITY = 1e-12  # of a class, before its logarithm is taken


class PropertyEstimator(BaseEstimator):
    r"""Estimate properties of objects from those of their nearest neighbors.

    Parameters
    ----------
    n_neighbors : int
        Neighbors to average, from 2.
    weights : str
        ``"distance"``: inverse Euclidean distance of unit vectors; ``"uniform"``; or
        ``"kernel"``: Gaussian in that distance.
    confidence : float or sequence of float
        Probabilities that intervals cover the truth.
    false_alarm_rate : float
        Fraction of the reference that `predict` would call out of distribution.
    random_state : int
        Chooses the rows that calibrate a large reference.
    statistic : str
        ``"mean"`` or ``"median"`` of the neighbors' values.
    quantiles : sequence of float
        Probabilities of quantiles of the neighbors' weighted values to give beside.
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
        farthest neighbor by default.
    n_calibration : int
        Most reference rows of a modality that are left out, one at a time, to calibrate.

    Attributes
    ----------
    property_names_ : list of str
    calibration_ : dict
        By (modality, property): the conformal factor of the first ``confidence``; of
        classes, the temperature.
    scores_ : `~astropy.table.Table`
        Columns ``modality``, ``property``, ``metric``, ``score`` and ``n_reference``: R2 of
        numbers and accuracy of classes for left-out reference rows.
    similarity_threshold_ : dict
        By modality: nearest similarity below which a query is out of distribution, for the
        first property.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range.

    Notes
    -----
    The estimate is `sklearn.neighbors.KNeighborsRegressor`'s on unit vectors. Intervals
    are conformal: every calibration row of the reference is
    estimated from all others (leave one out, by id), the absolute residual is divided by
    the weighted scatter of the neighbors' values, and the factor q is the
    :math:`\lceil (n + 1) c \rceil`-th smallest of these scores; the interval is the
    estimate plus and minus q times the scatter, and infinite where the reference has too
    few rows for c. For queries that are exchangeable with
    the reference it covers the truth with probability c to the accuracy of leave-one-out
    stability; real objects and a simulated reference are not exchangeable.

    Positive properties are treated so in their logarithm. Angles are averaged as
    unit vectors (the median: of deviations from that mean), residuals and scatter are
    those of the shorter way round, and no interval is longer than the period. Classes get
    the neighbors' weighted votes, smoothed by the classes' frequencies and divided by a
    temperature, both fitted to the likelihood of left-out rows: see
    `~astroclip.estimation.neighbors.ClassVotes`.

    It is a scikit-learn estimator in its settings (``get_params``, ``set_params``,
    `sklearn.base.clone`), but takes tables: `~astroclip.tables.make_embedding_table` makes
    one of plain arrays.

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
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.confidence = confidence
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self.statistic = statistic
        self.quantiles = quantiles
        self.circular = circular
        self.positive = positive
        self.categorical = categorical
        self.bandwidth = bandwidth
        self.n_calibration = n_calibration
        self._check_settings()

    def _check_settings(self):
        """Raise ValueError or TypeError for a setting that cannot be."""
        check_integer(self.n_neighbors, "n_neighbors", minimum=2)
        check_integer(self.n_calibration, "n_calibration", minimum=2)
        check_choice(self.weights, WEIGHTS, "weights")
        check_choice(self.statistic, STATISTICS, "statistic")
        check_levels(self.confidence, "confidence")
        check_levels(self.quantiles, "quantiles", empty=True)
        check_probability(self.false_alarm_rate, "false_alarm_rate")
        property_groups(self.circular, self.positive, self.categorical)
        if self.bandwidth is not None and self.weights != "kernel":
            msg = (
                f"bandwidth is {self.bandwidth!r} and weights is {self.weights!r}, which has "
                f"none; expected None. Leave it out, or pass weights='kernel'."
            )
            raise ValueError(msg)
        if self.bandwidth is not None and not 0 < self.bandwidth < np.inf:
            msg = f"bandwidth is {self.bandwidth!r}; expected a positive distance, or None."
            raise ValueError(msg)

    # ------------------------------------------------------------------ fitting
    def fit(self, table, properties=None, *, missing=(), index=None):
        """Take a reference and calibrate intervals and thresholds on it.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table with a column for every property. Rows whose property is
            masked, NaN or empty text are left out for that property.
        properties : sequence of str
            Names of columns.
        missing : float, str, or sequence of these
            Values that stand for unknown ones, such as ``(-9999, -99)``: their rows are left
            out, too.
        index : `~astroclip.SimilarityIndex`, optional
            Of that very table, row by row: an approximate one, for instance. Exact by
            default.

        Returns
        -------
        `PropertyEstimator`
            Itself.

        Raises
        ------
        KeyError
            If a property is no column.
        ValueError
            If the reference is too small, a property cannot be estimated, there is none,
            or the index has another number of rows.

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
        if index is not None and len(index) != len(table):
            msg = (
                f"index has {len(index)} rows and table {len(table)}; expected an index of the "
                f"very same table. Make it from that: SimilarityIndex(table)."
            )
            raise ValueError(msg)
        modalities = np.asarray(table["modality"]).astype(str)
        _, valid = embedding_matrix(table)
        labeled = {}  # rows and properties that have labels on just them, to share one search
        for name, (_, _, known) in columns.items():
            counts = []
            for modality in np.unique(modalities[valid]).tolist():
                rows = np.flatnonzero((modalities == modality) & valid & known)
                counts.append((len(rows), modality))
                if len(rows):
                    key = (modality, rows.tobytes())
                    labeled.setdefault(key, (rows, []))[1].append(name)
            largest = max(counts, default=(0, "labeled"))
            too_few = [pair for pair in counts if 0 < pair[0] <= self.n_neighbors]
            if too_few or largest[0] == 0:
                number, modality = too_few[0] if too_few else largest
                msg = (
                    f"table has {number} {modality} rows with an embedding and a {name!r}; "
                    f"expected more than n_neighbors = {self.n_neighbors}. Use a larger reference "
                    f"or fewer neighbors."
                )
                raise ValueError(msg)

        references, models, scores = {}, {}, []
        for (modality, _), (rows, members) in labeled.items():
            reference = LabeledRows(table, rows, n_neighbors=self.n_neighbors, index=index)
            left_out, near = reference.leave_out(
                n_calibration=self.n_calibration, false_alarm_rate=self.false_alarm_rate,
                random_state=self.random_state,
            )
            weight = self._weight(near)
            for name in members:
                prop, values, _ = columns[name]
                if prop.classes is None:
                    model = NumberAverage(prop.scale, statistic=self.statistic)
                else:
                    model = ClassVotes(prop.classes)
                model.fit(values[rows], values[near.rows], weight, values[left_out])
                references[modality, name], models[modality, name] = reference, model
                scores.append((modality, name, model.metric, model.score, len(rows)))
        scores.sort(key=lambda row: (row[0], names.index(row[1])))
        self.reference_, self.property_names_ = table, names
        self._properties = {name: prop for name, (prop, _, _) in columns.items()}
        self._values = {name: values for name, (_, values, _) in columns.items()}
        self._references, self._models = references, models
        self.scores_ = Table(
            rows=scores, names=("modality", "property", "metric", "score", "n_reference")
        )
        level = check_levels(self.confidence, "confidence")[0]
        self.calibration_ = {key: model.summary(level) for key, model in models.items()}
        self.similarity_threshold_ = {
            modality: reference.threshold
            for (modality, name), reference in references.items() if name == names[0]
        }  # fmt: skip
        return self

    def _weight(self, near):
        return neighbor_weights(near.distance, weights=self.weights, bandwidth=self.bandwidth)

    # ------------------------------------------------------------------ predicting
    def predict(
        self, table, *, properties=None, exclude_self=False, confidence=None, **options
    ):
        """Estimate properties of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable` or object
            An embedding table of the reference's model and weights, or objects to embed with that
            model, as `astroclip.embed` takes them: a spectrum, an image, a file, a list.
        properties : sequence of str, optional
            Some of those the estimator was fitted with; all by default.
        exclude_self : bool
            Leave out reference rows of the object's own id: for objects that are in the
            reference.
        confidence : float or sequence of float, optional
            Instead of the estimator's own.
        **options
            Passed to `astroclip.embed` for objects.

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

            Then, of the first property: ``n_effective`` (effective number of neighbors),
            ``nearest_similarity`` and ``out_of_distribution``, ``n_reference`` (reference
            rows searched) and ``local_density``, the density of reference rows around the
            object relative to that around a typical reference row: with the distance
            :math:`r_k` of its farthest neighbor, the median :math:`r_0` of that for the
            reference and the reference's intrinsic dimension m it is
            :math:`(r_0 / r_k)^m`. A property that is known of other reference rows than the
            first has columns of its own, such as ``p_n_reference``.

            An object whose modality has no reference rows with the property is compared
            with those of the other modality; its interval is then of theirs.

        Raises
        ------
        ModelMismatchError
            If object and reference come from different models or weights.
        KeyError
            If the estimator was not fitted with a property.
        ValueError
            If the estimator was not fitted, or a confidence is no probability.
        """
        if not hasattr(self, "reference_"):
            msg = "the estimator is not fitted; call fit(reference, properties) first."
            raise ValueError(msg)
        table = as_embeddings(table, self.reference_.meta["MODEL"], options, name="table")
        validate_embedding_table(table, name="table")
        check_same_model(table, self.reference_, names=("table", "reference"))
        names = property_names(properties, fitted=self.property_names_)
        levels = self.confidence if confidence is None else confidence
        levels = check_levels(levels, "confidence")
        quantiles = check_levels(self.quantiles, "quantiles", empty=True)

        def estimate(key, rows, near):
            weight = self._weight(near)
            values = self._values[key[1]][near.rows]
            columns = self._models[key].columns(values, weight, levels, quantiles)
            return columns, {"n_effective": effective_number(weight)}

        asked = [self._properties[name] for name in names]
        return estimate_table(
            table, asked, self._references, estimate, exclude_self=exclude_self
        )


# ---------------------------------------------------------------------- search
@dataclasses.dataclass(frozen=True, eq=False)
class Neighbors:
    """Neighbors of queries.

    Attributes
    ----------
    rows : (N, K) int `numpy.ndarray`
        Rows of the reference table, nearest first; zero for failed queries.
    distance : (N, K) `numpy.ndarray`
        Of unit vectors, in rising order; NaN for failed queries.
    similarity : (N,) `numpy.ndarray`
        Cosine of the nearest.
    """

    rows: np.ndarray
    distance: np.ndarray
    similarity: np.ndarray


def nearest_neighbors(index, table, n_neighbors, **options):
    """Return the `Neighbors` of an embedding table's rows.

    Parameters
    ----------
    index : `~astroclip.SimilarityIndex`
    table : `~astropy.table.QTable`
    n_neighbors : int
    **options
        Of `astroclip.SimilarityIndex.neighbors`.
    """
    parts = [
        index.neighbors(table[first : first + CHUNK], n_neighbors, **options)
        for first in range(0, len(table), CHUNK)
    ]
    rows, similarity, valid = (np.concatenate(part) for part in zip(*parts, strict=True))
    rows = np.where(valid[:, None], rows, 0)
    return Neighbors(rows, euclidean_distance(similarity), similarity[:, 0])


def choose_rows(rows, n_rows, random_state):
    """Return at most ``n_rows`` of the rows, drawn at random and in order."""
    if len(rows) <= n_rows:
        return rows
    return np.sort(np.random.default_rng(random_state).choice(rows, n_rows, replace=False))


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


class LabeledRows:
    r"""Reference rows of one modality that have a label, to be searched.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The reference.
    rows : (M,) int `numpy.ndarray`
        Rows of the table that are searched, more than ``n_neighbors``.
    n_neighbors : int
    index : `~astroclip.SimilarityIndex`, optional
        Of the whole table. By default the rows are indexed, exactly.
    n_reference : int, optional
        Rows that the searched ones stand for; by default they are all.

    Attributes
    ----------
    table, rows, n_neighbors, n_reference
        As given.
    threshold : float
        Similarity that the stated share of left-out reference rows fall below.
    typical_distance : float
        Median distance of left-out reference rows from their farthest neighbor.
    dimension : float
        See `intrinsic_dimension`.
    """

    def __init__(self, table, rows, *, n_neighbors, index=None, n_reference=None):
        self.table, self.rows, self.n_neighbors = table, rows, n_neighbors
        self.n_reference = len(rows) if n_reference is None else n_reference
        self._whole_index = index
        if index is None:
            self._index, self._where = SimilarityIndex(table[list(NEEDED)][rows]), None
        else:
            where = np.zeros(len(table), dtype=bool)
            where[rows] = True
            self._index, self._where = index, None if where.all() else where

    def find(self, queries, *, exclude_self=False):
        """Return the `Neighbors` of an embedding table's rows.

        Parameters
        ----------
        queries : `~astropy.table.QTable`
        exclude_self : bool
            Leave out reference rows of the query's own id.
        """
        near = nearest_neighbors(
            self._index, queries, self.n_neighbors, modality="all", where=self._where,
            exclude_self=exclude_self,
        )
        if self._whole_index is not None:
            return near
        return dataclasses.replace(near, rows=self.rows[near.rows])

    def leave_out(self, *, n_calibration, false_alarm_rate, random_state):
        """Find the neighbors of reference rows among the others and keep what is usual.

        Parameters
        ----------
        n_calibration : int
            Most rows to leave out, one after the other.
        false_alarm_rate : float
        random_state : int

        Returns
        -------
        rows : (n,) int `numpy.ndarray`
            Rows of the reference table.
        neighbors : `Neighbors`
        """
        rows = choose_rows(self.rows, n_calibration, random_state)
        near = self.find(self.table[list(NEEDED)][rows], exclude_self=True)
        self.threshold = float(np.quantile(near.similarity, false_alarm_rate))
        farthest = np.maximum(near.distance[:, -1], RESOLUTION)
        self.typical_distance = float(np.median(farthest))
        self.dimension = intrinsic_dimension(near.distance)
        return rows, near

    def support(self, near):
        r"""Return how well the reference supports estimates of queries, by column.

        Parameters
        ----------
        near : `Neighbors`

        Returns
        -------
        dict of str to (N,) `numpy.ndarray`
            ``nearest_similarity``, ``out_of_distribution``, ``n_reference``, and
            ``local_density``: :math:`(r_0 / r_k)^m` with the distance of the farthest
            neighbor, its median for the reference and the `intrinsic_dimension`.
        """
        farthest = np.maximum(near.distance[:, -1], RESOLUTION)
        with np.errstate(over="ignore", under="ignore"):
            density = (self.typical_distance / farthest) ** self.dimension
        return {
            "nearest_similarity": near.similarity,
            "out_of_distribution": ~(near.similarity >= self.threshold),
            "n_reference": np.full(len(density), self.n_reference),
            "local_density": density,
        }


def intrinsic_dimension(distance):
    r"""Return the number of dimensions in which objects scatter, from their neighbors.

    Parameters
    ----------
    distance : (N, K) array-like
        Distances of K neighbors in rising order, K at least two.

    Returns
    -------
    float
        At least one.

    Notes
    -----
    The maximum-likelihood estimate, whose inverse is averaged over objects:

    .. math:: 1 / m = \left\langle \frac{1}{K - 1}
        \sum_{j < K} \ln \frac{r_K}{r_j} \right\rangle

    References
    ----------
    Levina & Bickel (2004), Advances in Neural Information Processing Systems 17; MacKay &
    Ghahramani (2005), comments on it.
    """
    distance = np.maximum(np.asarray(distance, dtype=float), RESOLUTION)
    inverse = np.log(distance[:, -1:] / distance[:, :-1]).mean()
    return float(1 / min(max(inverse, 1e-3), 1.0))


# ---------------------------------------------------------------------- weights
def neighbor_weights(distance, *, weights="distance", bandwidth=None):
    r"""Return the weight of every neighbor.

    Parameters
    ----------
    distance : (N, K) array-like
        Distances of K neighbors; rows of NaN give NaN.
    weights : str
        ``"distance"``: :math:`1 / d`; neighbors at distance zero share all the weight, as
        in scikit-learn. ``"uniform"``: one. ``"kernel"``: Gaussian,
        :math:`\exp(-d^2 / 2 h^2)`.
    bandwidth : float, optional
        The kernel's h, in units of the distance; by default half the distance of the
        query's farthest neighbor, so that this one weighs :math:`e^{-2}` = 0.14.

    Returns
    -------
    (N, K) `numpy.ndarray`
        Not normalized. The kernel's are relative to the nearest neighbor's, so that far
        queries do not lose all of them.

    Examples
    --------
    >>> from astroclip.estimation.neighbors import neighbor_weights
    >>> neighbor_weights([[0.5, 1.0]])
    array([[2., 1.]])
    >>> neighbor_weights([[0.0, 1.0]], weights="kernel").round(3)
    array([[1.   , 0.135]])
    """
    check_choice(weights, WEIGHTS, "weights")
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
    r"""Return the effective number of neighbors (N,), :math:`(\sum w)^2 / \sum w^2`."""
    return weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)


# ---------------------------------------------------------------------- models of one property
class NumberAverage:
    """Numbers from the values of neighbors, with conformal intervals.

    Parameters
    ----------
    scale : `~astroclip.estimation.properties.LinearScale`
    statistic : str
        ``"mean"`` or ``"median"``.

    Attributes
    ----------
    residuals : (n,) `numpy.ndarray`
        Absolute residuals of left-out objects relative to the scatter of their neighbors'
        values, in rising order.
    score : float
        R2 of left-out objects.
    """

    metric = "r2"

    def __init__(self, scale, *, statistic="mean"):
        self.scale, self.statistic = scale, statistic

    def fit(self, reference, near, weight, truth):
        """Calibrate on left-out objects.

        Parameters
        ----------
        reference : (M,) `numpy.ndarray`
            Values of the whole reference, on the scale.
        near, weight : (n, K) `numpy.ndarray`
            Values and weights of the neighbors of left-out objects.
        truth : (n,) `numpy.ndarray`

        Returns
        -------
        `NumberAverage`
            Itself.
        """
        self.floor = FLOOR * self.scale.spread(reference) + 1e-12
        estimate, scatter, _ = self._summarize(near, weight, ())
        residual = self.scale.deviation(truth, estimate)
        self.residuals = np.sort(np.abs(residual) / scatter)
        self.score = explained_variance(self.scale, residual, truth)
        return self

    def summary(self, confidence):
        """Return the conformal factor of a level."""
        return conformal_factor(self.residuals, confidence)

    def columns(self, near, weight, levels, quantiles=()):
        """Return estimates by the suffix of their columns.

        Parameters
        ----------
        near, weight : (N, K) `numpy.ndarray`
        levels : sequence of float
            Of intervals.
        quantiles : sequence of float
        """
        estimate, scatter, at_levels = self._summarize(near, weight, quantiles)
        columns = interval_columns(self.scale, estimate, scatter, self.residuals, levels)
        for level, values in zip(quantiles, at_levels, strict=True):
            columns[f"_q{percent_name(level)}"] = self.scale.from_scale(values)
        return columns

    def _summarize(self, near, weight, quantiles):
        """Return estimate (N,), scatter (N,) about the mean and quantiles (L, N)."""
        mean = self.scale.mean(near, weight)
        deviation = self.scale.deviation(near, mean[:, None])
        variance = (weight * deviation**2).sum(axis=1) / weight.sum(axis=1)
        scatter = np.maximum(np.sqrt(variance), self.floor)
        levels = (*quantiles, *([0.5] if self.statistic == "median" else []))
        if not levels:
            return mean, scatter, ()
        at_levels = mean + weighted_quantiles(deviation, weight, levels)
        estimate = mean if self.statistic == "mean" else at_levels[-1]
        return estimate, scatter, at_levels[: len(quantiles)]


class ClassVotes:
    r"""Class probabilities from the votes of neighbors, calibrated by left-out objects.

    Parameters
    ----------
    classes : (C,) `numpy.ndarray`

    Attributes
    ----------
    frequency : (C,) `numpy.ndarray`
        Share of every class in the reference.
    smoothing, temperature : float
    score : float
        Share of left-out objects whose most probable class is right.

    Notes
    -----
    With the weighted share f of a class among n effective neighbors, its frequency g in the
    reference, the smoothing a and the temperature T the probability is

    .. math:: p \propto \left(\frac{n f + a g}{n + a}\right)^{1/T}

    Smoothing and temperature maximize the likelihood of left-out objects times a Gaussian
    of unit width in their logarithms, which matters for a handful of objects alone.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", arXiv:1706.04599.
    """

    metric = "accuracy"

    def __init__(self, classes):
        self.classes = classes

    def fit(self, reference, near, weight, truth):
        """Calibrate on left-out objects; see `NumberAverage.fit`, with numbers of classes."""
        counts = np.bincount(reference, minlength=len(self.classes)) + 0.5  # none impossible
        self.frequency = counts / counts.sum()
        share, number = self._shares(near, weight), effective_number(weight)

        def loss(settings):
            smoothing, temperature = np.exp(settings)
            logs = log_softmax(self._logits(share, number, smoothing) / temperature, axis=1)
            log_loss = -float(logs[np.arange(len(truth)), truth].sum())
            return log_loss + 0.5 * float(np.sum(settings**2))

        bounds = [LOG_SMOOTHINGS, LOG_TEMPERATURES]
        best = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=bounds).x
        self.smoothing, self.temperature = (float(value) for value in np.exp(best))
        self.score = float(np.mean(self.probability(near, weight).argmax(axis=1) == truth))
        return self

    def summary(self, confidence):
        """Return the temperature."""
        return self.temperature

    def columns(self, near, weight, levels, quantiles=()):
        """Return class probabilities by the suffix of their columns."""
        return class_columns(self.probability(near, weight), self.classes)

    def probability(self, near, weight):
        """Return class probabilities (N, C) of neighbors' classes and weights (N, K)."""
        logits = self._logits(
            self._shares(near, weight), effective_number(weight), self.smoothing
        )
        return np.exp(log_softmax(logits / self.temperature, axis=1))

    def _shares(self, near, weight):
        """Return the weighted share (N, C) of every class among neighbors (N, K)."""
        n_rows, n_classes = len(near), len(self.classes)
        cell = near + n_classes * np.arange(n_rows)[:, None]  # one histogram for all rows
        total = np.bincount(cell.ravel(), weight.ravel(), minlength=n_rows * n_classes)
        total = total.reshape(n_rows, n_classes)
        return total / total.sum(axis=1, keepdims=True)

    def _logits(self, share, number, smoothing):
        """Return logarithms (N, C) of smoothed shares, before the temperature."""
        number = number[:, None]
        smooth = (number * share + smoothing * self.frequency) / (number + smoothing)
        return np.log(np.maximum(smooth, LEAST_PROBABILITY))
