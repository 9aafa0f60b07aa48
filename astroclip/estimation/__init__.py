"""Estimates of properties: from nearest neighbours, or by heads learned from examples.

The estimators on plain arrays are scikit-learn's in kind, and are imported when first used.
"""

import importlib

from astroclip.estimation.estimator import PropertyEstimator
from astroclip.estimation.few_shot import FewShotEstimator
from astroclip.estimation.properties import column_numbers
from astroclip.estimation.weights import euclidean_distance

ARRAY_ESTIMATORS = (
    "FewShotClassifier", "FewShotRegressor", "NeighborClassifier", "NeighborRegressor",
)  # fmt: skip

__all__ = [
    "FewShotClassifier",
    "FewShotEstimator",
    "FewShotRegressor",
    "NeighborClassifier",
    "NeighborRegressor",
    "PropertyEstimator",
    "column_numbers",
    "euclidean_distance",
]


def __getattr__(name):
    if name in ARRAY_ESTIMATORS:
        return getattr(importlib.import_module("astroclip.estimation.arrays"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
