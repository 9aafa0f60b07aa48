"""From tensors to towers: every layout of weights file, its dimensions read from the file."""

import dataclasses
import re

import torch

from astroclip.exceptions import CheckpointError
from astroclip.models.checkpoints import find_foreign
from astroclip.models.heads import (
    ClassTokenTower,
    ImageTower,
    MeanTokenTower,
    MocoImageTower,
    PooledTower,
    ProjectedTower,
    SpectrumTower,
)
from astroclip.models.image_encoders import ImageTransformer, MocoResNet, build_resnet, build_vit
from astroclip.models.specformer import SpecFormer
from astroclip.models.two_tower import TwoTower
from astroclip.models.weights import redshift_head_settings

__all__ = ["Heads", "build_model", "fit_preset", "identify_architecture", "model_tensors"]

POOLING_HEADS = 4
POOLING_CLASSES = ("MultiheadAttention",)
UNUSED = re.compile(r"(^|\.)(mask_token|num_batches_tracked|logit_scale)$")
PUBLISHED_HEADS = {384: 6, 768: 12, 1024: 16, 1536: 24}  # DINOv2's widths: 64 channels a head
TALK_NAMES = (
    (r"^spectrum_encoder\.model\.", "spectrum_encoder.backbone."),
    (r"^spectrum_encoder\.(query$|multihead_attn\.)", r"spectrum_encoder.cross_attention.\1"),
    (r"^spectrum_encoder\.norm\.", "spectrum_encoder.cross_attention.layernorm."),
    (r"^(\w+_encoder)\.linear1\.", r"\1.mlp.encoder."),
    (r"^(\w+_encoder)\.linear2\.", r"\1.mlp.decoder."),
)


@dataclasses.dataclass
class Heads:
    """Numbers of attention heads, which tensors do not show.

    Attributes
    ----------
    image, spectrum : int or None
        Of the backbones. Where a file does not say, those of the published widths; for any
        other width an error asks for them, since a guess would give wrong embeddings.
    image_pooling, spectrum_pooling : int or None
        Of the cross-attentions; 4, as the reference makes them, where a file does not say.
    """

    image: int | None = None
    spectrum: int | None = None
    image_pooling: int | None = None
    spectrum_pooling: int | None = None

    def fill(self, hyper_parameters):
        """Return these, completed from a checkpoint's hyper-parameters."""
        plain = hyper_parameters if isinstance(hyper_parameters, dict) else {}
        found = {
            "image": _number_of_heads(plain.get("image_encoder"), ("MemEffAttention", "Attention")),
            "spectrum": _number_of_heads(plain.get("spectrum_encoder"), ("SelfAttention",))
            or plain.get("num_heads"),
            "image_pooling": _number_of_heads(plain.get("image_encoder"), POOLING_CLASSES),
            "spectrum_pooling": _number_of_heads(plain.get("spectrum_encoder"), POOLING_CLASSES),
        }
        return Heads(**{name: getattr(self, name) or value for name, value in found.items()})


def _number_of_heads(content, class_names):
    """Return ``num_heads`` of the first placeholder of these classes, or None."""
    for class_name in class_names:
        for module in find_foreign(content, class_name):
            value = module.state.get("num_heads", module.state.get("n_heads"))
            if isinstance(value, int) and value > 0:
                return value
    return None


def _check_heads(heads, width, which, published):
    """Return a number of heads that is known and divides the width."""
    heads = heads or published.get(width)
    if heads is None:
        msg = (
            f"the weights file does not say how many attention heads its {which} transformer of "
            f"width {width} has, and tensors do not show it. Pass heads={{{which!r}: ...}} to "
            f"load_model."
        )
        raise CheckpointError(msg)
    if width % heads:
        msg = f"heads[{which!r}] is {heads}; expected a divisor of the width, {width}."
        raise CheckpointError(msg)
    return heads


def _recorded_overlap(hyper_parameters):
    """Return the overlap of slices that a checkpoint records anywhere, or None."""
    for module in find_foreign(hyper_parameters, "AttributeDict"):
        value = module.state.get("items", {}).get("slice_overlap")
        if isinstance(value, int):
            return value
    return None


# ---------------------------------------------------------------------- files
def model_tensors(content):
    """Return the flat tensors of a checkpoint without prefixes that wrappers add."""
    for key in ("state_dict", "teacher", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        msg = "the weights file holds no tensors; expected a checkpoint of a known model."
        raise CheckpointError(msg)
    while all(key.startswith("module.") for key in tensors):
        tensors = {key[len("module.") :]: value for key, value in tensors.items()}
    return tensors


def identify_architecture(tensors):
    """Return the name of the layout that tensors are in.

    Raises
    ------
    CheckpointError
        If it is none that is known.
    """
    keys = set(tensors)
    marks = (
        ("astroclip", "image_encoder.backbone.patch_embed.proj.weight"),
        ("talk", "image_encoder.backbone.layer1.0.conv1.weight"),
        ("specformer", "data_embed.weight"),
        ("astrodino", "backbone.patch_embed.proj.weight"),
        ("stein", "encoder_q.layer1.0.conv1.weight"),
        ("small", "spectrum_encoder.stem.weight"),
    )
    for name, mark in marks:
        if mark in keys:
            return name
    first = ", ".join(sorted(keys)[:3])
    msg = (
        f"the weights file's {len(keys)} tensors ({first}, ...) are of no architecture that is "
        f"known; expected one of {', '.join(name for name, _ in marks)}. "
        f"See astroclip.list_models()."
    )
    raise CheckpointError(msg)


def _shape(tensors, key):
    if key not in tensors:
        msg = f"the weights file lacks {key!r}, from which dimensions are read; is it complete?"
        raise CheckpointError(msg)
    return tuple(tensors[key].shape)


def _count(tensors, pattern):
    """Return one more than the largest number that a pattern's group matches, or zero."""
    numbers = [int(m[1]) for key in tensors if (m := re.match(pattern, key))]
    return max(numbers, default=-1) + 1


def _part(tensors, prefix):
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


# ---------------------------------------------------------------------- backbones
def _specformer(tensors, heads, options):
    """Return an empty SpecFormer of the tensors' dimensions."""
    width, input_dim = _shape(tensors, "data_embed.weight")
    section = options.get("slice_section_length", input_dim - 2)
    return SpecFormer(
        input_dim=input_dim,
        embed_dim=width,
        num_layers=_count(tensors, r"blocks\.(\d+)\."),
        num_heads=_check_heads(heads, width, "spectrum", {768: 6}),
        max_len=_shape(tensors, "position_embed.weight")[0],
        hidden=_shape(tensors, "blocks.0.mlp.encoder.weight")[0],
        section=section,
        overlap=options.get("slice_overlap", _recorded_overlap(options) or section // 2),
    )


def _without_chunks(tensors):
    """Return DINOv2 tensors in timm's names: blocks without the chunk's number."""
    renamed = {}
    for key, value in tensors.items():
        key = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key)
        if not UNUSED.search(key):
            renamed[key] = value
    return renamed


def _vision_transformer(tensors, heads):
    """Return an empty vision transformer of the (renamed) tensors' dimensions."""
    width, _, patch, _ = _shape(tensors, "patch_embed.proj.weight")
    n_positions = _shape(tensors, "pos_embed")[1]
    side = round((n_positions - 1) ** 0.5)
    vit = build_vit(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\."),
        n_heads=_check_heads(heads, width, "image", PUBLISHED_HEADS),
        hidden=_shape(tensors, "blocks.0.mlp.fc1.weight")[0],
    )
    return ImageTransformer(vit)


def _resnet(tensors):
    """Return an empty MoCo ResNet of the tensors' dimensions, torchvision's names."""
    bottleneck = "layer1.0.conv3.weight" in tensors
    backbone = build_resnet(
        layers=[_count(tensors, rf"layer{k}\.(\d+)\.") for k in range(1, 5)],
        bottleneck=bottleneck,
        channels=[_shape(tensors, f"layer{k}.0.conv1.weight")[0] for k in range(1, 5)],
    )
    projection = None
    if "fc.0.weight" in tensors:
        projection = (_shape(tensors, "fc.0.weight")[0], _shape(tensors, "fc.2.weight")[0])
    return MocoResNet(backbone, projection=projection)


def _resnet_names(tensors):
    """Return torchvision's names as `MocoResNet` has them."""
    return {
        key if key.startswith("fc.") else f"backbone.{key}": value for key, value in tensors.items()
    }


# ---------------------------------------------------------------------- towers
def _attention_tower(tower, backbone, tensors, token_width, heads, **options):
    dim = _shape(tensors, "cross_attention.query")[-1]
    return tower(
        backbone,
        dim=dim,
        token_width=token_width,
        n_heads=heads or POOLING_HEADS,
        hidden=_shape(tensors, "mlp.encoder.weight")[0],
        **options,
    )


def _spectrum_tower(tensors, heads, options, *, residual):
    part = _part(tensors, "spectrum_encoder.")
    inner = _part(part, "backbone.")
    return _attention_tower(
        SpectrumTower,
        _specformer(inner, heads.spectrum, options),
        part,
        _shape(inner, "data_embed.weight")[0],
        heads.spectrum_pooling,
        residual=residual,
    )


def _build_astroclip(tensors, heads, options):
    image = _part(tensors, "image_encoder.")
    inner = _without_chunks(_part(image, "backbone."))
    image_tower = _attention_tower(
        ImageTower,
        _vision_transformer(inner, heads.image),
        image,
        _shape(inner, "patch_embed.proj.weight")[0],
        heads.image_pooling,
    )
    model = TwoTower(
        spectrum_encoder=_spectrum_tower(tensors, heads, options, residual=True),
        image_encoder=image_tower,
    )
    state = {k: v for k, v in tensors.items() if not k.startswith("image_encoder.backbone.")}
    state |= {f"image_encoder.backbone.vit.{key}": value for key, value in inner.items()}
    return model, state


def _build_specformer(tensors, heads, options):
    model = TwoTower(spectrum_encoder=MeanTokenTower(_specformer(tensors, heads.spectrum, options)))
    return model, {f"spectrum_encoder.backbone.{key}": value for key, value in tensors.items()}


def _build_astrodino(tensors, heads, options):
    inner = _without_chunks(_part(tensors, "backbone."))
    model = TwoTower(image_encoder=ClassTokenTower(_vision_transformer(inner, heads.image)))
    return model, {f"image_encoder.backbone.vit.{key}": value for key, value in inner.items()}


def _build_stein(tensors, heads, options):
    inner = _part(tensors, "encoder_q.")  # the momentum encoder and its queue are not needed
    model = TwoTower(image_encoder=PooledTower(_resnet(inner)))
    state = {f"image_encoder.backbone.{k}": v for k, v in _resnet_names(inner).items()}
    return model, state


def _build_talk(tensors, heads, options):
    for pattern, name in TALK_NAMES:
        tensors = {re.sub(pattern, name, key): value for key, value in tensors.items()}
    image = _part(tensors, "image_encoder.")
    inner = _part(image, "backbone.")
    backbone = _resnet(inner)
    if "mlp.encoder.weight" in image:
        hidden, width = _shape(image, "mlp.encoder.weight")
        dim = _shape(image, "mlp.decoder.weight")[0]
        tower = MocoImageTower(backbone, dim=dim, hidden=hidden, width=width)
    else:
        tower = ProjectedTower(backbone)
    model = TwoTower(
        spectrum_encoder=_spectrum_tower(tensors, heads, options, residual=True),
        image_encoder=tower,
    )
    state = {k: v for k, v in tensors.items() if not k.startswith("image_encoder.backbone.")}
    state |= {f"image_encoder.backbone.{k}": v for k, v in _resnet_names(inner).items()}
    return model, state


def _build_small(tensors, heads, options):
    from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder

    towers = {
        name: encoder(**options.get(name, {}))
        for name, encoder in (("spectrum", SmallSpectrumEncoder), ("image", SmallImageEncoder))
        if any(key.startswith(f"{name}_encoder.") for key in tensors)
    }
    model = TwoTower(
        spectrum_encoder=towers.get("spectrum"), image_encoder=towers.get("image")
    )
    # redshift heads are used in numpy, by astroclip.redshifts: here they are only checked
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    checked = {
        f"redshift_head.{modality}.{part}"
        for modality in redshift_head_settings(options.get("redshift_head"), shapes)
        for part in ("weight", "bias")
    }
    return model, {key: value for key, value in tensors.items() if key not in checked}


BUILDERS = {
    "astroclip": _build_astroclip,
    "specformer": _build_specformer,
    "astrodino": _build_astrodino,
    "stein": _build_stein,
    "talk": _build_talk,
    "small": _build_small,
}


def build_model(architecture, tensors, *, heads=None, options=None):
    """Build a model of a file's dimensions and load its tensors.

    Parameters
    ----------
    architecture : str
        Layout of the file; see `identify_architecture`.
    tensors : dict of str to `torch.Tensor`
        See `model_tensors`.
    heads : `Heads`, optional
    options : dict, optional
        Plain settings the file records.

    Returns
    -------
    `~astroclip.models.two_tower.TwoTower`
        float32, in evaluation mode.

    Raises
    ------
    CheckpointError
        If tensors are missing, left over or misshapen; all are listed.
    """
    with torch.device("meta"):
        model, state = BUILDERS[architecture](tensors, heads or Heads(), dict(options or {}))
    expected = model.state_dict()
    state = {k: v for k, v in state.items() if k in expected or not UNUSED.search(k)}
    _check_fit(expected, state)
    state = {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }
    for key, value in model.state_dict().items():
        if UNUSED.search(key) and key not in state:
            state[key] = torch.zeros(value.shape, dtype=value.dtype)
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def fit_preset(preset, network):
    """Return a preset whose image crop is the size that a vision transformer was made for."""
    vit = getattr(getattr(network.image_encoder, "backbone", None), "vit", None)
    if vit is None:
        return preset
    crop = vit.patch_embed.img_size[0]
    image = dataclasses.replace(preset.image, crop=crop, size=max(crop, preset.image.size))
    return dataclasses.replace(preset, image=image)


def _check_fit(expected, state):
    """Raise `CheckpointError` listing every tensor that is missing, left over or misshapen."""
    missing = [key for key in expected if key not in state and not UNUSED.search(key)]
    extra = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = (("missing", missing), ("extra", extra), ("misshapen", misshapen))
    if any(listed for _, listed in problems):
        details = "; ".join(f"{name}: {', '.join(listed)}" for name, listed in problems if listed)
        msg = (
            f"the weights file does not fit its architecture: {details}. Use a file of this "
            f"architecture, or name the right preset."
        )
        raise CheckpointError(msg)
