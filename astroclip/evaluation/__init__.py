"""How good a model is: the papers' protocols and baselines, on simulated pairs and real objects.

`evaluate` runs all of it and returns one table; the command is ``astroclip evaluate``.
"""

import importlib

_MODULE_OF = {
    "EmbeddedPairs": "observation",
    "best_scale": "protocols",
    "embed_pairs": "observation",
    "evaluate": "run",
    "few_shot": "protocols",
    "information_bound": "protocols",
    "observe_pairs": "observation",
    "record_images": "observation",
    "record_spectra": "observation",
    "read_brown2014": "real_data",
    "read_distant_object": "real_data",
    "read_fors2": "real_data",
    "read_real_sets": "real_data",
    "read_real_spectra": "real_data",
    "redshift_scores": "real_data",
    "score_estimates": "protocols",
    "score_redshifts": "real_data",
    "score_retrieval": "protocols",
    "true_properties": "observation",
    "upstream_ssfr": "protocols",
    "write_performance_page": "report",
    "write_score_figure": "figures",
    "zero_shot": "protocols",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__():
    return __all__
