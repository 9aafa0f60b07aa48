"""Redshift distributions, the linear redshift head, and the estimator of redshifts."""

from astroclip._lazy import lazy_names

_MODULE_OF = {
    "LinearRedshiftHead": "head",
    "RedshiftDistribution": "distribution",
    "RedshiftEstimator": "estimator",
    "fit_temperature": "distribution",
    "read_redshift_heads": "head",
    "redshift_edges": "distribution",
    "redshift_target": "distribution",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
