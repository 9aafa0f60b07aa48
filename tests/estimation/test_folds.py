"""Folds keep objects together; predictions of a row never know it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from astroclip.estimation.folds import cross_predict, make_folds


@given(
    ids=st.lists(st.integers(0, 12), min_size=2, max_size=40), n_folds=st.integers(2, 6),
    seed=st.integers(0, 9),
)
def test_folds_are_even_and_keep_ids_together(ids, n_folds, seed):
    folds = make_folds(ids, n_folds=n_folds, random_state=seed)
    of_id = {}
    for name, fold in zip(ids, folds):
        assert of_id.setdefault(name, fold) == fold
    counts = np.bincount(list(of_id.values()))
    assert len(counts) == min(n_folds, len(of_id))
    assert counts.max() - counts.min() <= 1


def test_folds_share_the_classes():
    codes = np.repeat([0, 1, 2], [50, 10, 5])
    folds = make_folds(np.arange(65), n_folds=5, random_state=0, codes=codes)
    for fold in range(5):
        assert_array_equal(np.bincount(codes[folds == fold]), [10, 2, 1])


def test_predictions_are_of_models_without_the_row():
    values = np.random.default_rng(0).normal(size=20)
    folds = make_folds(np.arange(20), n_folds=4, random_state=0)

    def fit(features, known):
        return lambda queries: np.full((len(queries), 1), known.sum())

    found = cross_predict(fit, values[:, None], values, folds)[:, 0]
    expected = [values[folds != fold].sum() for fold in folds]
    np.testing.assert_allclose(found, expected)
