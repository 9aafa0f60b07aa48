"""Estimates of properties from nearest neighbors, or by small models fitted to examples."""

from astroclip._lazy import lazy_names

_MODULE_OF = {
    "FewShotEstimator": "few_shot",
    "PropertyEstimator": "neighbors",
    "column_numbers": "properties",
    "euclidean_distance": "neighbors",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
