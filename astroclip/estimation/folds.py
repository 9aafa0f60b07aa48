"""Cross-validation: folds that keep rows of one object together."""

import numpy as np

__all__ = ["cross_predict", "make_folds"]


def make_folds(ids, *, n_folds, random_state, codes=None):
    """Return the number of the fold of every row.

    Parameters
    ----------
    ids : (N,) array-like
        Rows of one id share a fold.
    n_folds : int
        At most; no more than there are ids.
    random_state : int
    codes : (N,) int array-like, optional
        Classes that every fold should hold in their shares.

    Returns
    -------
    (N,) int `numpy.ndarray`

    Examples
    --------
    >>> from astroclip.estimation.folds import make_folds
    >>> fold = make_folds(["a", "b", "a", "c"], n_folds=3, random_state=0)
    >>> bool(fold[0] == fold[2]), len(set(fold.tolist()))
    (True, 3)
    """
    _, first, place = np.unique(ids, return_index=True, return_inverse=True)
    order = np.random.default_rng(random_state).permutation(len(first))
    if codes is not None:
        order = order[np.argsort(np.asarray(codes)[first[order]], kind="stable")]
    fold = np.empty(len(first), dtype=int)
    fold[order] = np.arange(len(first)) % min(n_folds, len(first))
    return fold[place]


def cross_predict(fit, features, values, folds):
    """Return predictions of every row by a model that was fitted without its fold.

    Parameters
    ----------
    fit : callable
        Takes features and values and returns a function of features.
    features : (N, D) `numpy.ndarray`
    values : (N, ...) `numpy.ndarray`
    folds : (N,) int `numpy.ndarray`

    Returns
    -------
    (N, T) `numpy.ndarray`
    """
    predicted = None
    for fold in np.unique(folds):
        out = folds == fold
        found = fit(features[~out], values[~out])(features[out])
        if predicted is None:
            predicted = np.empty((len(features), found.shape[1]))
        predicted[out] = found
    return predicted
