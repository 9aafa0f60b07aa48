"""Models: architectures, presets and weights files, in torch."""

import importlib

_MODULE_OF = {
    "EmbeddingModel": "loading",
    "ImageInput": "presets",
    "ModelPreset": "presets",
    "PRESETS": "presets",
    "SmallImageEncoder": "small",
    "SmallSpectrumEncoder": "small",
    "SpecFormer": "published",
    "SpectrumInput": "presets",
    "TwoTower": "layers",
    "WeightsSource": "presets",
    "load_model": "loading",
    "select_device": "loading",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605


def __getattr__(name):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__():
    return __all__
