"""Redshifts of embedded objects from a model's redshift head, and their calibration."""

import numpy as np
from astropy.table import QTable
from sklearn.base import BaseEstimator

from astroclip.estimation.calibration import (
    check_levels,
    check_probability,
    percent_name,
)
from astroclip.estimation.neighbors import choose_rows, nearest_neighbors
from astroclip.estimation.properties import column_numbers, property_names
from astroclip.exceptions import ModelMismatchError
from astroclip.redshifts.distribution import fit_temperature
from astroclip.redshifts.head import read_redshift_heads
from astroclip.similarity import SimilarityIndex
from astroclip.similarity.queries import as_embeddings
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    validate_embedding_table,
)

__all__ = ["RedshiftEstimator"]

PROPERTY = "redshift"
CALIBRATION_ROWS = 4000  # most reference rows of a modality that calibrate
CHUNK = 1000  # objects whose distributions are held at a time: bounds the memory
LEVEL_STEPS = 12  # halvings: the level of intervals is exact to 1 / 4096


class RedshiftEstimator(BaseEstimator):
    r"""Estimate redshifts of embedded objects, as distributions, from a model's redshift head.

    A redshift head is a linear classifier of redshift bins that is trained with the model and
    kept in its weights file. It takes embeddings alone: no reference is needed, and torch is
    not imported.

    Parameters
    ----------
    model : str, path-like or `~astroclip.models.EmbeddingModel`
        Whose head: a name of `astroclip.list_models` or a weights file. It is read when
        first needed.
    confidence : float or sequence of float
        Probabilities that intervals cover the truth.
    quantiles : sequence of float
        Probabilities of quantiles of the distribution to give beside.
    false_alarm_rate : float
        Fraction of the reference that `predict` would call out of distribution.
    random_state : int
        Chooses the rows that calibrate a large reference.

    Attributes
    ----------
    temperature_ : dict of str to float
        By modality: divides the logits of the head. Set by `fit`, like all others.
    calibration_ : dict
        By (modality, ``"redshift"``): the probability that intervals of the first confidence
        hold. Empty unless fitted with redshifts.
    similarity_threshold_ : dict
        By modality: nearest similarity below which an object is out of distribution.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Notes
    -----
    The estimate is the mode of the distribution, refined over the peak; its interval is the
    shortest that holds the probability c and contains the estimate. Fitted with redshifts,
    the head's temperature is calibrated on them (temperature scaling), and the probability
    that intervals hold is chosen so that they cover the :math:`\lceil (n + 1) c \rceil`-th
    part of the n calibration rows (conformal). The probability within 0.01 (1 + z) of the
    estimate is its confidence.

    References
    ----------
    Guo et al. (2017), arXiv:1706.04599 (temperature scaling); Vovk, Gammerman & Shafer
    (2005), Algorithmic Learning in a Random World (conformal intervals).

    Examples
    --------
    >>> import astroclip
    >>> reference = astroclip.reference_table()
    >>> estimator = astroclip.RedshiftEstimator(confidence=(0.68, 0.95))
    >>> estimator.predict(reference[:2]).colnames[2:5]
    ['redshift', 'redshift_lower', 'redshift_upper']
    >>> redshift, probability = estimator.distribution(reference[:2])
    >>> probability.shape
    (2, 1024)
    """

    def __init__(
        self, *, model="astroclip-small", confidence=0.68, quantiles=(), false_alarm_rate=0.01,
        random_state=0,
    ):
        self.model = model
        self.confidence = confidence
        self.quantiles = quantiles
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self._check_settings()

    def _check_settings(self):
        """Return levels of intervals and of quantiles; raise ValueError for a bad setting."""
        check_probability(self.false_alarm_rate, "false_alarm_rate")
        levels = check_levels(self.confidence, "confidence")
        return levels, check_levels(self.quantiles, "quantiles", empty=True)

    # ------------------------------------------------------------------ fitting
    def fit(self, table, properties=None, *, missing=()):
        """Set thresholds by a reference and, with its redshifts, calibrate distributions.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the head's model.
        properties : ``"redshift"`` or sequence of it, optional
            Calibrate on this column too. Rows without it count for thresholds alone.
        missing : float or sequence of float
            Redshifts that stand for unknown ones, such as ``(-9999, -99)``.

        Returns
        -------
        `RedshiftEstimator`
            Itself.

        Raises
        ------
        ModelMismatchError
            If the table's embeddings are of other weights.
        KeyError
            If another property is named, or the table has no redshifts.
        ValueError
            If the table has too few rows, or the model has no redshift head.

        Warns
        -----
        SuspiciousLabelWarning
            If redshifts seem to stand for unknown ones and are not named in ``missing``.
        """
        levels, _ = self._check_settings()
        heads = self._open(table).heads
        truth = np.full(len(table), np.nan)
        if properties is not None:
            for name in property_names(properties):
                if name != PROPERTY:
                    msg = (
                        f"properties names {name!r}, which a redshift head does not give; "
                        f"expected {PROPERTY!r}. Use PropertyEstimator for other properties."
                    )
                    raise KeyError(msg)
            truth, _ = column_numbers(table, PROPERTY, missing=missing)
        index = SimilarityIndex(table)
        modalities = np.asarray(table["modality"]).astype(str)
        matrix, valid = embedding_matrix(table)
        temperature = {modality: head.temperature for modality, head in heads.items()}
        held, threshold = {}, {}
        for modality in np.unique(modalities[valid]).tolist():
            rows = np.flatnonzero((modalities == modality) & valid)
            if len(rows) < 2:
                msg = (
                    f"table has one {modality} row with an embedding; expected at least two of "
                    f"every modality. Use a larger reference."
                )
                raise ValueError(msg)
            chosen = choose_rows(rows, CALIBRATION_ROWS, self.random_state)
            near = nearest_neighbors(index, table[chosen], 1, exclude_self=True)
            threshold[modality] = float(np.quantile(near.similarity, self.false_alarm_rate))
            rows = rows[np.isfinite(truth[rows])]
            if modality not in heads or len(rows) == 0:
                continue
            rows = choose_rows(rows, CALIBRATION_ROWS, self.random_state)
            head = heads[modality]
            inside = rows[(truth[rows] >= head.edges[0]) & (truth[rows] <= head.edges[-1])]
            if len(inside):
                logits = head.logits(matrix[inside])
                temperature[modality] = fit_temperature(logits, truth[inside], head.edges)
            calibrated = head.distribution(matrix[rows], temperature=temperature[modality])
            held[modality] = [_covering_level(calibrated, truth[rows], c) for c in levels]
        if properties is not None and not held:
            msg = (
                f"table has no row with an embedding and a {PROPERTY!r} of a modality that the "
                f"head takes ({', '.join(heads)}). Leave properties out to set thresholds alone."
            )
            raise ValueError(msg)
        self._index, self._held = index, held
        self.temperature_, self.similarity_threshold_ = temperature, threshold
        self.calibration_ = {(modality, PROPERTY): part[0] for modality, part in held.items()}
        return self

    # ------------------------------------------------------------------ predicting
    def predict(self, table, *, exclude_self=False, **options):
        """Estimate redshifts of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable` or object
            An embedding table of the head's model and weights, or objects to embed with that
            model, as `astroclip.embed` takes them: a spectrum, an image, a file, a list.
        exclude_self : bool
            Leave reference rows of the object's own id out of ``nearest_similarity``.
        **options
            Passed to `astroclip.embed` for objects.

        Returns
        -------
        `~astropy.table.QTable`
            One row per object, in order: ``id``, ``modality``, ``redshift``,
            ``redshift_lower``, ``redshift_upper`` (``redshift_lower_95``, ... for further
            levels, ``redshift_q05``, ... for quantiles) and ``redshift_confidence``, the
            probability that the truth is within 0.01 (1 + z) of the estimate; after `fit`
            also ``nearest_similarity`` and ``out_of_distribution``. NaN, and out of
            distribution, for failed objects.

        Raises
        ------
        ModelMismatchError
            If the table's embeddings are of other weights than the head's.
        ValueError
            If there is no head for a modality.
        """
        levels, quantiles = self._check_settings()
        table = as_embeddings(table, self.model, options, name="table")
        suffixes = ["", "_lower", "_upper"]
        for level in levels[1:]:
            suffixes += [f"_lower_{percent_name(level)}", f"_upper_{percent_name(level)}"]
        suffixes += [*(f"_q{percent_name(level)}" for level in quantiles), "_confidence"]
        columns = np.full((len(suffixes), len(table)), np.nan)
        for modality, rows, distribution in self._distributions(table):
            estimate = distribution.mode()
            parts = [estimate]
            for level in getattr(self, "_held", {}).get(modality, levels):
                if np.isfinite(level):
                    parts += distribution.interval(level)
                else:
                    reach = np.where(np.isfinite(estimate), np.inf, np.nan)
                    parts += [-reach, reach]
            parts += [distribution.quantile(level) for level in quantiles]
            columns[:, rows] = [*parts, distribution.probability_within(estimate, 0.01)]
        result = QTable()
        result["id"] = np.asarray(table["id"]).astype(str)
        result["modality"] = np.asarray(table["modality"]).astype(str)
        for suffix, values in zip(suffixes, columns, strict=True):
            result[f"{PROPERTY}{suffix}"] = values
        if hasattr(self, "_index"):
            check_same_model(table, self._index.table, names=("table", "reference"))
            near = nearest_neighbors(self._index, table, 1, exclude_self=exclude_self)
            known = self.similarity_threshold_
            other = next(iter(known.values()))  # for a modality that the reference lacks
            threshold = np.array([known.get(str(name), other) for name in result["modality"]])
            result["nearest_similarity"] = near.similarity
            result["out_of_distribution"] = ~(near.similarity >= threshold)
        result.meta.update(table.meta)
        return result

    def distribution(self, table):
        """Return the distributions over redshift of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the head's model and weights. Objects of two modalities go
            together if their heads have the same bins.

        Returns
        -------
        redshift : (B,) `numpy.ndarray`
            Centers of the bins, even in log(1 + z).
        probability : (N, B) float32 `numpy.ndarray`
            Rows sum to one; NaN for failed objects.

        Raises
        ------
        ModelMismatchError
            If the table's embeddings are of other weights than the head's.
        ValueError
            If there is no head for a modality, or the bins differ.
        """
        center, probability = None, None
        for modality, rows, distribution in self._distributions(table):
            if center is None:
                center = distribution.center
                probability = np.full((len(table), len(center)), np.nan, np.float32)
            elif not np.array_equal(center, distribution.center):
                msg = (
                    f"table has rows of two modalities, whose heads have {len(center)} and "
                    f"{len(distribution.center)} ({modality}) bins; expected one of them. Select "
                    f"rows by table['modality']."
                )
                raise ValueError(msg)
            probability[rows] = distribution.probability
        return center, probability

    def _distributions(self, table):
        """Yield modality, rows and their `RedshiftDistribution`, at most CHUNK rows at a time."""
        opened = self._open(table)
        matrix, _ = embedding_matrix(table)
        modalities = np.asarray(table["modality"]).astype(str)
        for modality in np.unique(modalities[modalities != ""]).tolist():
            if modality not in opened.heads:
                msg = (
                    f"table has rows of modality {modality!r} and model {opened.model_name!r} has "
                    f"a redshift head for {' and '.join(opened.heads)} alone. Leave these rows "
                    f"out, or use PropertyEstimator."
                )
                raise ValueError(msg)
            head = opened.heads[modality]
            temperature = getattr(self, "temperature_", {}).get(modality, head.temperature)
            rows = np.flatnonzero(modalities == modality)
            for first in range(0, len(rows), CHUNK):
                part = rows[first : first + CHUNK]
                yield modality, part, head.distribution(matrix[part], temperature=temperature)

    def _open(self, table):
        """Return the model's heads; raise unless ``table`` has embeddings of their weights."""
        validate_embedding_table(table, name="table")
        if getattr(self, "_opened_model", None) is not self.model:
            self._opened, self._opened_model = read_redshift_heads(self.model), self.model
        opened = self._opened
        if str(table.meta["WSHA"]) != opened.weights_sha256:
            msg = (
                f"table holds embeddings of model {table.meta['MODEL']!r} with weights "
                f"{table.meta['WSHA']!r}; the redshift head of {opened.model_name!r} belongs to "
                f"weights {opened.weights_sha256!r}. Embed with that model, or name the table's "
                f"model: RedshiftEstimator(model=...)."
            )
            raise ModelMismatchError(msg)
        return opened


def _covering_level(distribution, truth, confidence):
    """Return the probability that intervals must hold to cover a share of the truths.

    The share is the conformal one: ceil((n + 1) c) of n. Infinite where that is more than n,
    or than lie inside the bins. The coverage rises with the level, which is found by halving.
    """
    needed = int(np.ceil((len(truth) + 1) * confidence))

    def covers(level):
        lower, upper = distribution.interval(level)
        return np.sum((lower <= truth) & (truth <= upper)) >= needed

    low, high = 0.0, 1.0
    if needed > len(truth) or not covers(high):
        return np.inf
    for _ in range(LEVEL_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if covers(middle) else (middle, high)
    return high
