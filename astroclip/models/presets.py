"""Named models as data: what they take, how they are built, where their weights are."""

import dataclasses

__all__ = ["PRESETS", "ImageInput", "ModelPreset", "SpectrumInput", "WeightsSource"]


@dataclasses.dataclass(frozen=True)
class SpectrumInput:
    """How a model takes spectra.

    Attributes
    ----------
    grid : name of the wavelength grid, in vacuum (see ``astroclip.preparation.wavelength_grid``)
    frame : ``"observed"`` or ``"rest"``
    """

    grid: str = "desi"
    frame: str = "observed"


@dataclasses.dataclass(frozen=True)
class ImageInput:
    """How a model takes images.

    Attributes
    ----------
    bands : bands wanted, in order
    pixel_scale : arcsec per pixel
    crop : pixels on a side that the network takes, from the center
    normalization : see ``astroclip.preparation.normalize_images``
    missing_bands : whether a band may be absent
    """

    bands: tuple = ("g", "r", "z")
    pixel_scale: float = 0.262
    crop: int = 144
    normalization: str = "astroclip"
    missing_bands: bool = False


@dataclasses.dataclass(frozen=True)
class WeightsSource:
    """Where weights are.

    Attributes
    ----------
    filename : file in the hub repository, or in the package's data folder
    repo_id : hub repository; None if there is none
    sha256 : expected hash, if known
    n_bytes : size of the file, if known
    bundled : whether the file ships in the package
    """

    filename: str
    repo_id: str | None = None
    sha256: str | None = None
    n_bytes: int | None = None
    bundled: bool = False


@dataclasses.dataclass(frozen=True)
class ModelPreset:
    """One named model.

    Attributes
    ----------
    name : str
    architecture : layout of the weights file; see ``astroclip.models.architectures``
    dim : size of the embedding as published
    spectrum, image : inputs; None for a modality the model does not take
    weights : where they are
    license, source, description : for people
    """

    name: str
    architecture: str
    dim: int
    spectrum: SpectrumInput | None
    image: ImageInput | None
    weights: WeightsSource
    license: str
    source: str
    description: str

    @property
    def modalities(self):
        """Modalities the model takes."""
        given = (("spectrum", self.spectrum), ("image", self.image))
        return tuple(name for name, value in given if value is not None)


PARKER = "Parker et al. (2024), MNRAS 531, 4990"
LANUSSE = "Lanusse, Parker et al. (2023), arXiv:2310.03024, version 1"
STEIN = "Stein et al. (2021), arXiv:2110.13151"
HUB = "polymathic-ai/astroclip"

_ALL = (
    ModelPreset(
        name="astroclip-small",
        architecture="small",
        dim=128,
        spectrum=SpectrumInput(grid="log"),
        image=ImageInput(
            pixel_scale=0.524, crop=64, normalization="asinh", missing_bands=True
        ),
        weights=WeightsSource("astroclip-small.safetensors", bundled=True),
        license="BSD-3-Clause",
        source="this package; trained on simulated galaxies, see its model card",
        description="bundled; convolutional encoders for any optical spectrum and g, r, z images",
    ),
    ModelPreset(
        name="astroclip-small-rest",
        architecture="small",
        dim=128,
        spectrum=SpectrumInput(grid="rest", frame="rest"),
        image=None,
        weights=WeightsSource("astroclip-small-rest.safetensors", bundled=True),
        license="BSD-3-Clause",
        source="this package; trained on simulated galaxies, see its model card",
        description="bundled; rest-frame spectra, similarity that does not depend on redshift",
    ),
    ModelPreset(
        name="astroclip-mnras",
        architecture="astroclip",
        dim=1024,
        spectrum=SpectrumInput(),
        image=ImageInput(),
        weights=WeightsSource("astroclip.ckpt", repo_id=HUB, n_bytes=1_680_000_000),
        license="MIT",
        source=PARKER,
        description="ViT-L and SpecFormer aligned on DESI EDR and the Legacy Surveys",
    ),
    ModelPreset(
        name="specformer",
        architecture="specformer",
        dim=768,
        spectrum=SpectrumInput(),
        image=None,
        weights=WeightsSource("specformer.ckpt", repo_id=HUB),
        license="MIT",
        source=PARKER,
        description="the spectrum encoder before alignment: mean over tokens",
    ),
    ModelPreset(
        name="astrodino",
        architecture="astrodino",
        dim=1024,
        spectrum=None,
        image=ImageInput(),
        weights=WeightsSource("astrodino.ckpt", repo_id=HUB),
        license="MIT",
        source=PARKER,
        description="the image encoder before alignment: DINOv2 class token",
    ),
    ModelPreset(
        name="astroclip-talk",
        architecture="talk",
        dim=128,
        spectrum=SpectrumInput(),
        image=ImageInput(crop=96, normalization="stein"),
        weights=WeightsSource("astroclip-talk.ckpt"),
        license="MIT",
        source=LANUSSE,
        description="the workshop model: MoCo ResNet-50 and a transformer, both frozen",
    ),
    ModelPreset(
        name="stein-resnet50",
        architecture="stein",
        dim=2048,
        spectrum=None,
        image=ImageInput(crop=96, normalization="stein"),
        weights=WeightsSource("resnet50.ckpt"),
        license="MIT",
        source=STEIN,
        description="image-only baseline: MoCo v2 ResNet-50, pooled features",
    ),
)

PRESETS = {preset.name: preset for preset in _ALL}
"""Presets by name."""
