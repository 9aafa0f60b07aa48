"""What is like nothing in the reference: scores whose null distribution is the reference's own."""

import numpy as np
from astropy.table import QTable

from astroclip._validation import check_choice, check_integer
from astroclip.estimation import euclidean_distance
from astroclip.similarity import SimilarityIndex
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["OutlierDetector"]

METHODS = ("distance", "density")
CALIBRATION_ROWS = 10_000
CHUNK = 1000
SMALLEST_DISTANCE = 1e-10  # of duplicates, as in scikit-learn


class OutlierDetector:
    r"""Score how unusual objects are and say which stand out of a reference.

    Parameters
    ----------
    n_neighbors : int
        Neighbours to look at.
    method : str
        ``"distance"``: the mean distance to the nearest neighbours; or ``"density"``: the
        local outlier factor, which compares it with the same of the neighbours, so that
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

    Fitting for ``"density"`` needs the neighbours of all reference rows, for ``"distance"``
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
    >>> found = detector.score(reference[:3], exclude_self=True)
    >>> found.colnames[:5]
    ['id', 'modality', 'score', 'p_value', 'outlier']
    """

    def __init__(
        self, *, n_neighbors=16, method="distance", false_alarm_rate=0.01, random_state=0
    ):
        self.n_neighbors = check_integer(n_neighbors, "n_neighbors")
        self.method = check_choice(method, METHODS, "method")
        if not 0 < false_alarm_rate < 1:
            msg = f"false_alarm_rate is {false_alarm_rate!r}; expected a number between 0 and 1."
            raise ValueError(msg)
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state

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
            If the reference is too small for the neighbours or the false-alarm rate.
        """
        validate_embedding_table(table, name="table")
        kinds = np.asarray(table["modality"]).astype(str)
        valid = _usable(table)
        self.reference_, self.null_scores_ = table, {}
        self._indexes, self._reach, self._density = {}, {}, {}
        for kind in np.unique(kinds[valid]).tolist():
            rows = np.flatnonzero((kinds == kind) & valid)
            self._check_size(kind, len(rows))
            self._indexes[kind] = SimilarityIndex(table[rows])
            self.null_scores_[kind] = np.sort(self._leave_one_out(kind))
        if not self._indexes:
            msg = "table has no row with an embedding; expected a reference of embedded objects."
            raise ValueError(msg)
        return self

    def _check_size(self, kind, n_rows):
        """Raise ValueError if a modality has too few rows."""
        needed = max(self.n_neighbors + 1, int(np.ceil(1 / self.false_alarm_rate)) - 1)
        if n_rows < needed:
            msg = (
                f"table has {n_rows} {kind} rows with an embedding; expected at least {needed} for "
                f"n_neighbors = {self.n_neighbors} and false_alarm_rate = {self.false_alarm_rate}. "
                f"Use a larger reference, fewer neighbors or a higher rate."
            )
            raise ValueError(msg)

    def _leave_one_out(self, kind):
        """Return scores of reference rows by the others, and keep what a density needs."""
        index = self._indexes[kind]
        chosen = np.arange(len(index))
        if self.method == "distance" and len(chosen) > CALIBRATION_ROWS:
            rng = np.random.default_rng(self.random_state)
            chosen = np.sort(rng.choice(len(chosen), CALIBRATION_ROWS, replace=False))
        rows, distance = self._neighbors(index, index.table[chosen], exclude_self=True)
        if self.method == "distance":
            return distance.mean(axis=1)
        self._reach[kind] = distance[:, -1]
        self._density[kind] = self._local_density(kind, rows, distance)
        return self._density[kind][rows].mean(axis=1) / self._density[kind]

    def _neighbors(self, index, table, *, exclude_self):
        """Return neighbours' rows and distances (N, K) of embedded objects."""
        parts = [
            index.neighbors(
                table[first : first + CHUNK], self.n_neighbors, modality="all",
                exclude_self=exclude_self,
            )[:2]
            for first in range(0, len(table), CHUNK)
        ]
        rows, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
        return rows, euclidean_distance(similarity)

    def _local_density(self, kind, rows, distance):
        """Return the local reachability density: one over the mean reach of the neighbours."""
        reach = np.maximum(self._reach[kind][rows], distance)
        return 1 / (reach.mean(axis=1) + SMALLEST_DISTANCE)

    # ------------------------------------------------------------------ scoring
    def score(self, table, *, exclude_self=False):
        """Score embedded objects against the reference.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the reference's model and weights.
        exclude_self : bool
            Leave out reference rows of the object's own id; for objects of the reference.

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
        validate_embedding_table(table, name="table")
        check_same_model(table, self.reference_, names=("table", "reference"))
        kinds = np.asarray(table["modality"]).astype(str)
        valid = _usable(table)
        columns = np.full((3, len(table)), np.nan)
        nearest = np.full(len(table), "", dtype=object)
        for kind in np.unique(kinds[valid]).tolist():
            if kind not in self._indexes:
                msg = (
                    f"table has {kind} rows and the reference has none; expected rows of modality "
                    f"{' or '.join(self._indexes)}. Fit a reference with {kind} rows."
                )
                raise ValueError(msg)
            rows = np.flatnonzero((kinds == kind) & valid)
            columns[:, rows], nearest[rows] = self._score_kind(kind, table[rows], exclude_self)
        return self._result(table, kinds, columns, nearest)

    def _score_kind(self, kind, table, exclude_self):
        """Return scores, p-values and nearest similarities (3, N), and the nearest ids."""
        index, null = self._indexes[kind], self.null_scores_[kind]
        rows, distance = self._neighbors(index, table, exclude_self=exclude_self)
        score = distance.mean(axis=1)
        if self.method == "density":
            own = self._local_density(kind, rows, distance)
            score = self._density[kind][rows].mean(axis=1) / own
        above = len(null) - np.searchsorted(null, score, side="left")
        similarity = 1 - distance[:, 0] ** 2 / 2
        ids = np.asarray(index.table["id"]).astype(str)[rows[:, 0]]
        return np.array([score, (1 + above) / (1 + len(null)), similarity]), ids

    def _result(self, table, kinds, columns, nearest):
        """Return the scores as a table, with the objects' other columns."""
        result = QTable()
        result["id"] = np.asarray(table["id"]).astype(str)
        result["modality"] = kinds
        result["score"], result["p_value"], similarity = columns
        result["outlier"] = columns[1] <= self.false_alarm_rate  # False for NaN
        result["nearest_id"] = nearest.astype(str)
        result["nearest_similarity"] = similarity
        for name in table.colnames:
            if name != "embedding" and name not in result.colnames:
                result[name] = table[name]
        result.meta.update(table.meta)
        return result


def _usable(table):
    """Return True (N,) for rows whose embedding has a direction."""
    matrix, valid = embedding_matrix(table)
    return valid & (np.linalg.norm(matrix, axis=1) > 0)
