# ruff: noqa: N803, N806 - X and y are what scikit-learn calls them
"""Estimators on plain arrays that scikit-learn's tools take: pipelines, grids, scores."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from astroclip.estimation.folds import make_folds
from astroclip.estimation.heads import fit_head
from astroclip.estimation.intervals import check_levels
from astroclip.estimation.models import ClassVotes, NumberAverage
from astroclip.estimation.perceptron import PerceptronRecipe
from astroclip.estimation.quantiles import weighted_quantiles
from astroclip.estimation.scales import LinearScale
from astroclip.estimation.weights import neighbor_weights

__all__ = ["FewShotClassifier", "FewShotRegressor", "NeighborClassifier", "NeighborRegressor"]


class _NeighborModel(BaseEstimator):
    """What both neighbour estimators share: the search, and left-out rows."""

    def _search(self, features):
        """Index features (N, D); return neighbours of every row among the others."""
        self.n_neighbors_ = max(1, min(self.n_neighbors, len(features) - 1))
        self._index = NearestNeighbors(n_neighbors=self.n_neighbors_).fit(features)
        distance, rows = self._index.kneighbors()  # without queries: each row is left out
        return rows, self._weight(distance)

    def _weight(self, distance):
        return neighbor_weights(distance, weights=self.weights, bandwidth=self.bandwidth)

    def _find(self, features):
        """Return the neighbours' values (N, K) and weights of queries."""
        features = validate_data(self, features, reset=False, dtype=np.float64)
        distance, rows = self._index.kneighbors(features)
        return self._values[rows], self._weight(distance)


class NeighborRegressor(RegressorMixin, _NeighborModel):
    """Numbers from nearest neighbours, with quantiles and conformal intervals.

    Parameters
    ----------
    n_neighbors : int
        At most all rows but one.
    weights : str
        ``"distance"``, ``"uniform"`` or ``"kernel"``, see
        `~astroclip.estimation.weights.neighbor_weights`.
    bandwidth : float, optional
        Of the kernel.
    statistic : str
        ``"mean"`` or ``"median"``.

    Attributes
    ----------
    n_neighbors_ : int
    score_ : float
        R2 of left-out rows.

    Notes
    -----
    What `~astroclip.PropertyEstimator` does with tables of unit embeddings; here features
    are compared by Euclidean distance as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.estimation import NeighborRegressor
    >>> x = np.arange(10.0)[:, None]
    >>> NeighborRegressor(n_neighbors=2).fit(x, 2 * x[:, 0]).predict([[3.0]])
    array([6.])
    """

    def __init__(self, *, n_neighbors=16, weights="distance", bandwidth=None, statistic="mean"):
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.bandwidth = bandwidth
        self.statistic = statistic

    def fit(self, X, y):
        """Keep a reference and calibrate intervals on it.

        Parameters
        ----------
        X : (N, D) array-like
        y : (N,) array-like

        Returns
        -------
        `NeighborRegressor`
        """
        X, y = validate_data(
            self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2
        )
        self._values = np.asarray(y, dtype=float)
        rows, weight = self._search(X)
        self._model = NumberAverage(LinearScale(), statistic=self.statistic)
        self._model.fit(self._values, self._values[rows], weight, self._values)
        self.score_ = self._model.score
        return self

    def predict(self, X):
        """Return estimates (N,) of features (N, D)."""
        check_is_fitted(self)
        return self._model.columns(*self._find(X), ())[""]

    def predict_interval(self, X, *, confidence=0.68):
        """Return the lower and upper ends (N,) of conformal intervals.

        Parameters
        ----------
        X : (N, D) array-like
        confidence : float
        """
        check_is_fitted(self)
        columns = self._model.columns(*self._find(X), check_levels(confidence, "confidence"))
        return columns["_lower"], columns["_upper"]

    def predict_quantiles(self, X, levels):
        """Return weighted quantiles (N, L) of the neighbours' values.

        Parameters
        ----------
        X : (N, D) array-like
        levels : (L,) array-like
            From 0 to 1.
        """
        check_is_fitted(self)
        return weighted_quantiles(*self._find(X), levels).T


class NeighborClassifier(ClassifierMixin, _NeighborModel):
    """Classes from nearest neighbours, with calibrated probabilities.

    Parameters
    ----------
    n_neighbors, weights, bandwidth
        As in `NeighborRegressor`.

    Attributes
    ----------
    classes_ : (C,) `numpy.ndarray`
    n_neighbors_ : int
    score_ : float
        Accuracy for left-out rows.

    Examples
    --------
    >>> from astroclip.estimation import NeighborClassifier
    >>> classifier = NeighborClassifier(n_neighbors=2)
    >>> classifier = classifier.fit([[0], [1], [5], [6], [7]], ["a", "a", "b", "b", "b"])
    >>> classifier.predict([[6.5]])
    array(['b'], dtype='<U1')
    """

    def __init__(self, *, n_neighbors=16, weights="distance", bandwidth=None):
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.bandwidth = bandwidth

    def fit(self, X, y):
        """Keep a reference and calibrate probabilities on it.

        Parameters
        ----------
        X : (N, D) array-like
        y : (N,) array-like
            Classes.

        Returns
        -------
        `NeighborClassifier`
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        self.classes_, self._values = _classes(y)
        rows, weight = self._search(X)
        self._model = ClassVotes(self.classes_)
        self._model.fit(self._values, self._values[rows], weight, self._values)
        self.score_ = self._model.score
        return self

    def predict_proba(self, X):
        """Return probabilities (N, C) of features (N, D)."""
        check_is_fitted(self)
        return self._model.probability(*self._find(X))

    def predict(self, X):
        """Return the most probable classes (N,) of features (N, D)."""
        probability = self.predict_proba(X)
        return self.classes_[probability.argmax(axis=1)]


def _classes(values):
    """Return classes and their numbers; raise ValueError if there is one class alone."""
    check_classification_targets(values)
    classes, codes = np.unique(values, return_inverse=True)
    if len(classes) < 2:
        msg = f"y holds 1 class, {classes[0]!r}; expected at least two classes."
        raise ValueError(msg)
    return classes, codes


class _FewShotModel(BaseEstimator):
    """What both few-shot estimators share: settings and cross-validated heads."""

    def __init__(
        self, *, kind, n_folds=5, random_state=0, hidden=(64, 64), dropout=0.1,
        learning_rate=1e-3, n_epochs=10, batch_size=64,
    ):
        self.kind = kind
        self.n_folds = n_folds
        self.random_state = random_state
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.n_epochs = n_epochs
        self.batch_size = batch_size

    def _learn(self, features, values, codes=None, **options):
        recipe = PerceptronRecipe(
            tuple(self.hidden), self.dropout, self.learning_rate, self.n_epochs, self.batch_size
        )
        folds = make_folds(
            np.arange(len(features)), n_folds=self.n_folds, random_state=self.random_state,
            codes=codes,
        )
        self._head = fit_head(
            features, values, folds, kind=self.kind, recipe=recipe,
            random_state=self.random_state, **options,
        )
        self.score_, self.score_error_ = self._head.score, self._head.score_error

    def _check(self, features):
        return validate_data(self, features, reset=False, dtype=np.float64)


class FewShotRegressor(RegressorMixin, _FewShotModel):
    """Numbers learned from examples, with conformal intervals.

    Parameters
    ----------
    kind : str
        ``"linear"``, ``"ridge"`` or ``"mlp"``.
    n_folds : int
        Of the cross-validation.
    random_state : int
    hidden, dropout, learning_rate, n_epochs, batch_size
        Of the network, see `~astroclip.FewShotEstimator`.

    Attributes
    ----------
    score_, score_error_ : float
        R2 in cross-validation, and its error.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.estimation import FewShotRegressor
    >>> x = np.arange(10.0)[:, None]
    >>> FewShotRegressor(kind="linear").fit(x, 2 * x[:, 0]).predict([[30.0]])
    array([60.])
    """

    def __init__(
        self, *, kind="ridge", n_folds=5, random_state=0, hidden=(64, 64), dropout=0.1,
        learning_rate=1e-3, n_epochs=10, batch_size=64,
    ):
        super().__init__(
            kind=kind, n_folds=n_folds, random_state=random_state, hidden=hidden,
            dropout=dropout, learning_rate=learning_rate, n_epochs=n_epochs,
            batch_size=batch_size,
        )

    def fit(self, X, y):
        """Learn from features X (N, D) and numbers y (N,); return itself."""
        X, y = validate_data(
            self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2
        )
        self._learn(X, np.asarray(y, dtype=float), scale=LinearScale())
        return self

    def predict(self, X):
        """Return estimates (N,) of features (N, D)."""
        check_is_fitted(self)
        return self._head.columns(self._check(X), ())[""]

    def predict_interval(self, X, *, confidence=0.68):
        """Return the lower and upper ends (N,) of conformal intervals.

        Parameters
        ----------
        X : (N, D) array-like
        confidence : float
        """
        check_is_fitted(self)
        columns = self._head.columns(self._check(X), check_levels(confidence, "confidence"))
        return columns["_lower"], columns["_upper"]


class FewShotClassifier(ClassifierMixin, _FewShotModel):
    """Classes learned from examples, with calibrated probabilities.

    Parameters
    ----------
    kind : str
        ``"logistic"`` or ``"mlp"``.
    n_folds, random_state, hidden, dropout, learning_rate, n_epochs, batch_size
        As in `FewShotRegressor`.

    Attributes
    ----------
    classes_ : (C,) `numpy.ndarray`
    score_, score_error_ : float
        Accuracy in cross-validation, and its error.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.estimation import FewShotClassifier
    >>> x = np.arange(10.0)[:, None]
    >>> FewShotClassifier().fit(x, x[:, 0] > 4).predict([[0.0], [9.0]])
    array([False,  True])
    """

    def __init__(
        self, *, kind="logistic", n_folds=5, random_state=0, hidden=(64, 64), dropout=0.1,
        learning_rate=1e-3, n_epochs=10, batch_size=64,
    ):
        super().__init__(
            kind=kind, n_folds=n_folds, random_state=random_state, hidden=hidden,
            dropout=dropout, learning_rate=learning_rate, n_epochs=n_epochs,
            batch_size=batch_size,
        )

    def fit(self, X, y):
        """Learn from features X (N, D) and classes y (N,); return itself."""
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        self.classes_, codes = _classes(y)
        self._learn(X, codes, codes=codes, classes=self.classes_)
        return self

    def predict_proba(self, X):
        """Return probabilities (N, C) of features (N, D)."""
        check_is_fitted(self)
        return self._head.probability(self._check(X))

    def predict(self, X):
        """Return the most probable classes (N,) of features (N, D)."""
        probability = self.predict_proba(X)
        return self.classes_[probability.argmax(axis=1)]
