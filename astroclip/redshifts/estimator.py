"""Redshifts of embedded objects from a model's own head, and their calibration."""

import numpy as np
from astropy.table import QTable

from astroclip._validation import check_not_empty
from astroclip.estimation.intervals import percent_name
from astroclip.estimation.neighbors import CHUNK, choose_rows
from astroclip.estimation.properties import column_numbers
from astroclip.exceptions import ModelMismatchError
from astroclip.redshifts.head import fit_temperature
from astroclip.similarity import SimilarityIndex
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["HeadEstimator"]

PROPERTY = "redshift"
CALIBRATION_ROWS = 4000
LEVEL_STEPS = 12  # halvings: the level is exact to 1 / 4096


class HeadEstimator:
    """What `~astroclip.PropertyEstimator` does with ``method="head"``.

    Parameters
    ----------
    model : str, path-like or `~astroclip.models.EmbeddingModel`
        Of a name or path the heads alone are read, without torch.
    confidence, quantiles : sequence of float
    false_alarm_rate, random_state
        As in `~astroclip.PropertyEstimator`.

    Attributes
    ----------
    temperature_ : dict of str to float
        By modality: the file's, or that of the reference's redshifts.
    calibration_ : dict
        By (modality, ``"redshift"``): the probability that intervals of the first confidence
        hold. Empty unless fitted with redshifts.
    similarity_threshold_ : dict
        By modality: as in `~astroclip.PropertyEstimator`. Empty unless fitted.
    """

    def __init__(self, model, *, confidence, false_alarm_rate, random_state, quantiles=()):
        self.name, self.weights_sha256, self.heads = _read_heads(model)
        self.confidence, self.quantiles = confidence, quantiles
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self._reset()

    def _reset(self):
        self.temperature_ = {kind: head.temperature for kind, head in self.heads.items()}
        self.calibration_, self.similarity_threshold_ = {}, {}
        self._held, self._index = {}, None  # probabilities that intervals hold, by modality

    # ------------------------------------------------------------------ fitting
    def fit(self, table, properties=None):
        """Set thresholds by a reference and, with its redshifts, calibrate distributions.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the head's model.
        properties : ``"redshift"`` or sequence of it, optional
            Calibrate on this column too. Rows without it count for thresholds alone.

        Returns
        -------
        `HeadEstimator`
            Itself.

        Raises
        ------
        ModelMismatchError
            If the table's embeddings are of other weights.
        KeyError
            If another property is named, or the table has no redshifts.
        ValueError
            If the table has too few rows.
        """
        self._check_table(table)
        truth = None
        if properties is not None:
            self._wanted(properties)
            truth, _ = column_numbers(table, PROPERTY)
        self._reset()
        self._index = SimilarityIndex(table)
        kinds = np.asarray(table["modality"]).astype(str)
        matrix, valid = embedding_matrix(table)
        for kind in np.unique(kinds[valid]):
            self._set_threshold(kind, table, np.flatnonzero((kinds == kind) & valid))
        for kind in self.heads if truth is not None else ():
            rows = np.flatnonzero((kinds == kind) & valid & np.isfinite(truth))
            if len(rows):
                rows = self._choose(rows)
                self._calibrate(kind, matrix[rows], truth[rows])
        if truth is not None and not self.calibration_:
            msg = (
                f"table has no row with an embedding and a {PROPERTY!r} of a modality that the "
                f"head takes ({', '.join(self.heads)}). Leave properties out to set thresholds "
                f"alone."
            )
            raise ValueError(msg)
        return self

    def _choose(self, rows):
        """Return at most CALIBRATION_ROWS of the rows, drawn with the seed."""
        return choose_rows(rows, CALIBRATION_ROWS, self.random_state)

    def _set_threshold(self, kind, table, rows):
        """Keep the similarity that few reference rows fall below, leaving each one out."""
        if len(rows) < 2:
            msg = (
                f"table has one {kind} row with an embedding; expected at least two of every "
                f"modality. Use a larger reference."
            )
            raise ValueError(msg)
        nearest = self._nearest(table[self._choose(rows)], exclude_self=True)
        self.similarity_threshold_[kind] = float(np.quantile(nearest, self.false_alarm_rate))

    def _nearest(self, table, *, exclude_self):
        """Return the similarity (N,) of each row's nearest reference row."""
        parts = [
            self._index.neighbors(table[first : first + CHUNK], 1, exclude_self=exclude_self)[1]
            for first in range(0, len(table), CHUNK)
        ]
        return np.concatenate(parts)[:, 0]

    def _calibrate(self, kind, embedding, truth):
        """Fit the temperature, then the probability that intervals must hold."""
        head = self.heads[kind]
        inside = (truth >= head.edges[0]) & (truth <= head.edges[-1])
        if inside.any():
            logits = head.logits(embedding[inside])
            self.temperature_[kind] = fit_temperature(logits, truth[inside], head.edges)
        found = head.distribution(embedding, temperature=self.temperature_[kind])
        held = [_covering_level(found, truth, level) for level in self.confidence]
        self._held[kind], self.calibration_[kind, PROPERTY] = held, held[0]

    # ------------------------------------------------------------------ predicting
    def predict(self, table, *, properties=None, exclude_self=False):
        """Estimate redshifts of embedded objects.

        Parameters
        ----------
        table : `~astropy.table.QTable`
        properties : ``"redshift"`` or sequence of it, optional
        exclude_self : bool
            As in `~astroclip.PropertyEstimator.predict`.

        Returns
        -------
        `~astropy.table.QTable`
            See `~astroclip.PropertyEstimator.predict`.

        Raises
        ------
        ModelMismatchError, KeyError, ValueError
            As in `~astroclip.PropertyEstimator.predict`.
        """
        self._check_table(table)
        self._wanted([PROPERTY] if properties is None else properties)
        result = QTable()
        result["id"] = np.asarray(table["id"]).astype(str)
        result["modality"] = np.asarray(table["modality"]).astype(str)
        names = self._columns()
        columns = np.full((len(names), len(table)), np.nan)
        for kind, rows, embedding in self._chunks(table):
            head, temperature = self.heads[kind], self.temperature_[kind]
            found = head.distribution(embedding, temperature=temperature)
            held = self._held.get(kind, self.confidence)
            columns[:, rows] = _summaries(found, held, self.quantiles)
        for name, values in zip(names, columns, strict=True):
            result[name] = values
        if self._index is not None:
            check_same_model(table, self._index.table, names=("table", "reference"))
            nearest = self._nearest(table, exclude_self=exclude_self)
            result["nearest_similarity"] = nearest
            result["out_of_distribution"] = ~(nearest >= self._thresholds(result["modality"]))
        result.meta.update(table.meta)
        return result

    def _columns(self):
        """Return names of columns, in the order of `_summaries`."""
        further = [
            f"_{end}_{percent_name(level)}"
            for level in self.confidence[1:]
            for end in ("lower", "upper")
        ]
        quantiles = [f"_q{percent_name(level)}" for level in self.quantiles]
        suffixes = ["", "_lower", "_upper", *further, *quantiles, "_confidence"]
        return [f"{PROPERTY}{suffix}" for suffix in suffixes]

    def _thresholds(self, kinds):
        """Return each row's threshold: of its modality, or of the one the reference has."""
        known = self.similarity_threshold_
        other = next(iter(known.values()))
        return np.array([known.get(str(kind), other) for kind in kinds])

    def distribution(self, table):
        """Return redshifts of the bins' centres (B,) and probabilities (N, B).

        See `~astroclip.PropertyEstimator.distribution`.
        """
        self._check_table(table)
        head = next(iter(self.heads.values()))
        probability = np.full((len(table), len(head.bias)), np.nan, np.float32)
        for kind, rows, embedding in self._chunks(table):
            temperature = self.temperature_[kind]
            found = self.heads[kind].distribution(embedding, temperature=temperature)
            probability[rows], centre = found.probability, found.centre
        return centre, probability

    def _chunks(self, table):
        """Yield modality, rows and embeddings of a table, at most CHUNK rows at a time."""
        matrix, _ = embedding_matrix(table)
        kinds = np.asarray(table["modality"]).astype(str)
        for kind in np.unique(kinds):
            if kind not in self.heads:
                msg = (
                    f"table has rows of modality {str(kind)!r} and model {self.name!r} has a "
                    f"redshift head for {' and '.join(self.heads)} alone. Leave these rows out, "
                    f"or use method='neighbors'."
                )
                raise ValueError(msg)
            rows = np.flatnonzero(kinds == kind)
            for first in range(0, len(rows), CHUNK):
                part = rows[first : first + CHUNK]
                yield kind, part, matrix[part]

    # ------------------------------------------------------------------ checks
    def _check_table(self, table):
        """Raise unless ``table`` is an embedding table of the head's own weights."""
        validate_embedding_table(table, name="table")
        if str(table.meta["WSHA"]) != self.weights_sha256:
            msg = (
                f"table holds embeddings of model {table.meta['MODEL']!r} with weights "
                f"{table.meta['WSHA']!r}; the redshift head of {self.name!r} belongs to weights "
                f"{self.weights_sha256!r}. Embed with that model, or name the table's model: "
                f"PropertyEstimator(method='head', model=...)."
            )
            raise ModelMismatchError(msg)

    @staticmethod
    def _wanted(properties):
        """Raise unless properties are the one that a head gives."""
        names = [properties] if isinstance(properties, str) else list(properties)
        check_not_empty(names, "properties")
        for name in names:
            if name != PROPERTY:
                msg = (
                    f"properties names {name!r}, which a redshift head does not give; expected "
                    f"{PROPERTY!r}. Use method='neighbors' for other properties."
                )
                raise KeyError(msg)


def _read_heads(model):
    """Return a model's name, the sha256 of its weights and its heads by modality."""
    network = getattr(model, "network", None)
    if network is None:
        from astroclip.models.sources import read_redshift_heads

        file = read_redshift_heads(model)
        return file.name, file.weights_sha256, file.heads
    heads = {kind: head.to_arrays() for kind, head in network.redshift_head.items()}
    if not heads:
        msg = (
            f"model {model.name!r} has no redshift head; expected one with it. Use "
            f"method='neighbors', or another weights file."
        )
        raise ValueError(msg)
    return model.name, model.weights_sha256, heads


def _summaries(found, levels, quantiles):
    """Return estimate, ends of intervals, quantiles and confidence (P, N) of distributions."""
    estimate = found.mode()
    rows = [estimate]
    for level in levels:
        if np.isfinite(level):
            rows += found.interval(level)
        else:
            reach = np.where(np.isfinite(estimate), np.inf, np.nan)
            rows += [-reach, reach]
    rows += [found.quantile(level) for level in quantiles]
    return np.array([*rows, found.probability_within(estimate)])


def _covering_level(found, truth, confidence):
    """Return the probability that intervals must hold to cover a share of the truths.

    The share is the conformal one: ceil((n + 1) c) of n. Infinite where that is more than n
    or more than lie inside the bins.
    """
    needed = int(np.ceil((len(truth) + 1) * confidence))

    def enough(level):
        lower, upper = found.interval(level)
        return np.sum((lower <= truth) & (truth <= upper)) >= needed

    low, high = 0.0, 1.0
    if needed > len(truth) or not enough(high):
        return np.inf
    for _ in range(LEVEL_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
