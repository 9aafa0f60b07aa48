"""Outlier scores, whose null distribution is that of the reference's own objects."""

import numpy as np
from astropy.table import QTable
from sklearn.base import BaseEstimator

from astroclip._validation import check_choice, check_integer
from astroclip.estimation.calibration import check_probability
from astroclip.estimation.neighbors import choose_rows, nearest_neighbors
from astroclip.similarity import SimilarityIndex
from astroclip.similarity.queries import as_embeddings
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    validate_embedding_table,
)

__all__ = ["OutlierDetector"]

METHODS = ("distance", "density")
CALIBRATION_ROWS = 10_000  # most reference rows of a modality that ``"distance"`` scores
SMALLEST_DISTANCE = 1e-10  # of duplicates, as in scikit-learn


class OutlierDetector(BaseEstimator):
    r"""Score how unusual objects are and say which stand out of a reference.

    Parameters
    ----------
    n_neighbors : int
        Neighbors to look at.
    method : str
        ``"distance"``: the mean distance to the nearest neighbors; or ``"density"``: the
        local outlier factor, which compares it with the same of the neighbors, so that
        sparse regions of the reference are not outliers themselves.
    false_alarm_rate : float
        Fraction of objects like the reference's that are called outliers.
    random_state : int
        Chooses the rows that calibrate a large reference, for ``method="distance"``.

    Attributes
    ----------
    reference_ : `~astropy.table.QTable`
    null_scores_ : dict of str to `numpy.ndarray`
        By modality: the reference's own scores, each row's by all others, ascending.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range.

    Notes
    -----
    Distances are Euclidean between unit vectors. Each reference row is scored by the others
    (leave one out, by id); the p-value of an object is

    .. math:: p = \frac{1 + \#\{\text{null scores} \ge s\}}{1 + n},

    and it is an outlier where p is at most the false-alarm rate. Objects that are
    exchangeable with the reference are then flagged at that rate; a real survey and a
    simulated reference are not, and its normal objects are flagged more often.

    The local outlier factor is scikit-learn's `~sklearn.neighbors.LocalOutlierFactor`, computed
    from the neighbors that `~astroclip.SimilarityIndex` finds and leaving out rows by id.
    Fitting for ``"density"`` needs the neighbors of all reference rows, for ``"distance"``
    those of at most 10,000 a modality.

    References
    ----------
    Ramaswamy, Rastogi & Shim (2000), SIGMOD, 427 (distances); Breunig et al. (2000), SIGMOD,
    93 (local outlier factor); Bates et al. (2023), Annals of Statistics 51, 149 (conformal
    p-values of outliers).

    Examples
    --------
    >>> import astroclip
    >>> from astroclip.discovery import OutlierDetector
    >>> reference = astroclip.reference_table()[:2000]
    >>> detector = OutlierDetector(n_neighbors=8).fit(reference)
    >>> scores = detector.score(reference[:3], exclude_self=True)
    >>> scores.colnames[:5]
    ['id', 'modality', 'score', 'p_value', 'outlier']
    """

    def __init__(
        self, *, n_neighbors=16, method="distance", false_alarm_rate=0.01, random_state=0
    ):
        self.n_neighbors = n_neighbors
        self.method = method
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state
        self._check_settings()

    def _check_settings(self):
        """Raise ValueError or TypeError for a setting that cannot be."""
        check_integer(self.n_neighbors, "n_neighbors")
        check_choice(self.method, METHODS, "method")
        check_probability(self.false_alarm_rate, "false_alarm_rate")

    def fit(self, table):
        """Take a reference and score each of its rows by the others.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of objects that count as usual.

        Returns
        -------
        `OutlierDetector`
            Itself.

        Raises
        ------
        ValueError
            If the reference is too small for the neighbors or the false-alarm rate.
        """
        self._check_settings()
        validate_embedding_table(table, name="table")
        modalities = np.asarray(table["modality"]).astype(str)
        usable = _has_direction(table)
        if not usable.any():
            msg = "table has no row with an embedding; expected a reference of embedded objects."
            raise ValueError(msg)
        needed = max(self.n_neighbors + 1, int(np.ceil(1 / self.false_alarm_rate)) - 1)
        self.reference_, self.null_scores_ = table, {}
        self._indexes, self._reach, self._density = {}, {}, {}
        for modality in np.unique(modalities[usable]).tolist():
            members = np.flatnonzero((modalities == modality) & usable)
            if len(members) < needed:
                msg = (
                    f"table has {len(members)} {modality} rows with an embedding; expected at "
                    f"least {needed} for n_neighbors = {self.n_neighbors} and false_alarm_rate = "
                    f"{self.false_alarm_rate}. Use a larger reference, fewer neighbors or a "
                    f"higher rate."
                )
                raise ValueError(msg)
            self._indexes[modality] = index = SimilarityIndex(table[members])
            chosen = np.arange(len(members))
            if self.method == "distance":
                chosen = choose_rows(chosen, CALIBRATION_ROWS, self.random_state)
            near = self._find(index, index.table[chosen], exclude_self=True)
            scores = near.distance.mean(axis=1)
            if self.method == "density":
                self._reach[modality] = near.distance[:, -1]
                density = self._local_density(modality, near)
                self._density[modality] = density
                scores = density[near.rows].mean(axis=1) / density
            self.null_scores_[modality] = np.sort(scores)
        return self

    def _find(self, index, table, *, exclude_self):
        """Return the `~astroclip.estimation.neighbors.Neighbors` of embedded objects."""
        return nearest_neighbors(
            index, table, self.n_neighbors, modality="all", exclude_self=exclude_self
        )

    def _local_density(self, modality, near):
        """Return the local reachability density: one over the mean reach of the neighbors."""
        reach = np.maximum(self._reach[modality][near.rows], near.distance)
        return 1 / (reach.mean(axis=1) + SMALLEST_DISTANCE)

    # ------------------------------------------------------------------ scoring
    def score(self, table, *, exclude_self=False, **options):
        """Score embedded objects against the reference.

        Parameters
        ----------
        table : `~astropy.table.QTable` or object
            An embedding table of the reference's model and weights, or objects to embed with that
            model, as `astroclip.embed` takes them: a spectrum, an image, a file, a list.
        exclude_self : bool
            Leave out reference rows of the object's own id; for objects of the reference.
        **options
            Passed to `astroclip.embed` for objects.

        Returns
        -------
        `~astropy.table.QTable`
            One row per object, in order: ``id``, ``modality``; ``score``, larger is more
            unusual; ``p_value``; ``outlier`` (bool); ``nearest_id`` and
            ``nearest_similarity``, the reference object most alike; and the table's other
            columns. Objects without an embedding have NaN, an empty ``nearest_id`` and are no
            outliers: nothing is known about them.

        Raises
        ------
        ModelMismatchError
            If objects and reference come from different models or weights.
        ValueError
            If the detector was not fitted, or the reference has no rows of a modality.
        """
        if not hasattr(self, "null_scores_"):
            msg = "the detector is not fitted; call fit(reference) first."
            raise ValueError(msg)
        table = as_embeddings(table, self.reference_.meta["MODEL"], options, name="table")
        validate_embedding_table(table, name="table")
        check_same_model(table, self.reference_, names=("table", "reference"))
        modalities = np.asarray(table["modality"]).astype(str)
        usable = _has_direction(table)
        score, p_value, similarity = np.full((3, len(table)), np.nan)
        nearest = np.full(len(table), "", dtype=object)
        for modality in np.unique(modalities[usable]).tolist():
            if modality not in self._indexes:
                msg = (
                    f"table has {modality} rows and the reference has none; expected rows of "
                    f"modality {' or '.join(self._indexes)}. Fit a reference with {modality} rows."
                )
                raise ValueError(msg)
            rows = np.flatnonzero((modalities == modality) & usable)
            index, null = self._indexes[modality], self.null_scores_[modality]
            near = self._find(index, table[rows], exclude_self=exclude_self)
            score[rows] = near.distance.mean(axis=1)
            if self.method == "density":
                density = self._density[modality][near.rows].mean(axis=1)
                score[rows] = density / self._local_density(modality, near)
            as_unusual = len(null) - np.searchsorted(null, score[rows], side="left")
            p_value[rows] = (1 + as_unusual) / (1 + len(null))
            similarity[rows] = near.similarity
            nearest[rows] = np.asarray(index.table["id"]).astype(str)[near.rows[:, 0]]
        result = QTable()
        result["id"] = np.asarray(table["id"]).astype(str)
        result["modality"] = modalities
        result["score"], result["p_value"] = score, p_value
        result["outlier"] = p_value <= self.false_alarm_rate  # False for NaN
        result["nearest_id"] = nearest.astype(str)
        result["nearest_similarity"] = similarity
        for name in table.colnames:
            if name != "embedding" and name not in result.colnames:
                result[name] = table[name]
        result.meta.update(table.meta)
        return result


def _has_direction(table):
    """Return True (N,) for rows with an embedding that is not zero."""
    matrix, valid = embedding_matrix(table)
    return valid & (np.linalg.norm(matrix, axis=1) > 0)
