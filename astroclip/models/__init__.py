"""Models: architectures, presets and weights files, in torch."""

from astroclip._lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
