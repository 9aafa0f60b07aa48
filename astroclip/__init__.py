"""Find galaxies like this one: spectra and images in one embedding space.

Everything here is imported when first used, so that ``import astroclip`` is quick and
does not load torch.
"""

import importlib

__version__ = "0.1.0.dev0"

__citation__ = """\
@article{2024MNRAS.531.4990P,
  author = {{Parker}, Liam and {Lanusse}, Francois and {Golkar}, Siavash and others},
  title = {{AstroCLIP: a cross-modal foundation model for galaxies}},
  journal = {Monthly Notices of the Royal Astronomical Society},
  volume = {531}, pages = {4990}, year = {2024}, doi = {10.1093/mnras/stae1450}
}
"""

_MODULE_OF = {
    "FewShotEstimator": "estimation",
    "PropertyEstimator": "estimation",
    "RedshiftEstimator": "redshifts",
    "SimilarityIndex": "similarity",
    "embed": "embedding",
    "list_models": "embedding",
    "load_model": "models.loading",
    "reference_previews": "datasets",
    "reference_table": "datasets",
    "sample_image": "datasets",
    "sample_spectra": "datasets",
    "sample_spectrum": "datasets",
}

__all__ = ["__citation__", *sorted(_MODULE_OF)]  # noqa: PLE0604


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__():
    return [*__all__, "__version__"]
