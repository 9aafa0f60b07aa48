"""From the tensors of a weights file to a model: every layout, its dimensions read from the file.

Each layout has a function that takes the file's tensors and returns an empty model with the
tensors under the model's names; `BUILDERS` lists them. To add one, write such a function, give
it a line in `MARKS` and `BUILDERS`, and a preset in ``astroclip.models.presets``.
"""

import dataclasses
import re

import torch

from astroclip.exceptions import CheckpointError
from astroclip.models.checkpoints import Foreign, find_foreign
from astroclip.models.layers import TwoTower
from astroclip.models.published import (
    AttentionTower,
    ClassTokenTower,
    MeanTokenTower,
    ResNetTower,
    SpecFormer,
    VisionTransformer,
    build_resnet,
    build_vit,
)
from astroclip.models.weights import redshift_head_settings

__all__ = [
    "ATTENTION_HEADS",
    "BUILDERS",
    "build_model",
    "fit_preset",
    "identify_architecture",
    "model_tensors",
    "recorded_heads",
]

ATTENTION_HEADS = ("image", "spectrum", "image_pooling", "spectrum_pooling")
"""What numbers of attention heads are of: two backbones and the cross-attentions after them."""

MARKS = {  # a tensor that only files of this layout have
    "astroclip": "image_encoder.backbone.patch_embed.proj.weight",
    "talk": "image_encoder.backbone.layer1.0.conv1.weight",
    "specformer": "data_embed.weight",
    "astrodino": "backbone.patch_embed.proj.weight",
    "stein": "encoder_q.layer1.0.conv1.weight",
    "small": "spectrum_encoder.stem.weight",
}
N_LISTED = 5  # names in a message
POOLING_HEADS = 4  # of the cross-attentions, where a file does not say: as the reference's
SPECFORMER_HEADS = {768: 6}  # by width
VIT_HEADS = {384: 6, 768: 12, 1024: 16, 1536: 24}  # DINOv2's widths: 64 channels a head
UNUSED = re.compile(
    r"(^|\.)(mask_token|num_batches_tracked|logit_scale|n_averaged)$|^\w*(loss|criterion|metric)"
)
WRAPPERS = {  # of torch.compile, DistributedDataParallel, FSDP, checkpointing, Lightning Fabric
    "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
}  # fmt: skip
TALK_NAMES = (
    (r"^spectrum_encoder\.model\.", "spectrum_encoder.backbone."),
    (r"^spectrum_encoder\.(query$|multihead_attn\.)", r"spectrum_encoder.cross_attention.\1"),
    (r"^spectrum_encoder\.norm\.", "spectrum_encoder.cross_attention.layernorm."),
    (r"^(\w+_encoder)\.linear1\.", r"\1.mlp.encoder."),
    (r"^(\w+_encoder)\.linear2\.", r"\1.mlp.decoder."),
)


# ---------------------------------------------------------------------- files
def model_tensors(content):
    """Return the flat tensors of the model in a checkpoint, without what wrappers add to names.

    Parameters
    ----------
    content : dict
        Of a file: tensors by name, or nested dicts of them at any depth.

    Returns
    -------
    dict of str to `torch.Tensor`
        Those of the model, by names without prefix.

    Raises
    ------
    CheckpointError
        If there are no tensors, two models that differ, other than a teacher and its student, or
        further tensors beside the model.

    Notes
    -----
    `MARKS` tell where a model is: what stands before a mark is the prefix, whatever wrappers gave
    it (``_orig_mod.model.``, ``module.``, ``net.``). Of self-distillation the teacher is taken,
    as DINO's evaluations do; of a model and its moving average neither, unless they are equal.
    """
    containers = _containers(content)
    if not containers:
        msg = "the weights file holds no tensors; expected a checkpoint of a known model."
        raise CheckpointError(msg)
    for mark in MARKS.values():
        found = [
            (f"{path}{name.removesuffix(mark)}", name.removesuffix(mark), tensors)
            for path, tensors in containers.items()
            for name in tensors
            if f".{name}".endswith(f".{mark}")
        ]
        if found:
            break
    else:
        return next(iter(containers.values()))
    teachers = [model for model in found if "teacher" in model[0].split(".")]
    if teachers:
        students = [model[0].replace("teacher.", "student.") for model in teachers]
        found = [model for model in found if model[0] not in students]
    (where, prefix, tensors), *others = found
    own = _part(tensors, prefix)
    for other_where, other_prefix, other_tensors in others:
        other = _part(other_tensors, other_prefix)
        names = {name for name in {*own, *other} if not _unused(name)}
        if not all(_same(own.get(name), other.get(name)) for name in names):
            msg = (
                f"the weights file holds several models, {where!r} and {other_where!r}, which "
                f"differ; expected one. Save the tensors of the one that you want to a file of "
                f"their own: torch.save({{name: tensor, ...}}, path)."
            )
            raise CheckpointError(msg)
    known = (prefix, *(p for _, p, t in others if t is tensors))
    if teachers:
        known += (prefix.replace("teacher.", "student."),)
    beside = [name for name in tensors if not name.startswith(known) and not _unused(name)]
    if beside:
        msg = (
            f"the weights file's model {where!r} stands beside {len(beside)} other tensors "
            f"({', '.join(beside[:N_LISTED])}{', ...' * (len(beside) > N_LISTED)}), of which it is "
            f"not known whether they belong to it; expected one model. Save its tensors to a file "
            f"of their own: torch.save({{name: tensor, ...}}, path)."
        )
        raise CheckpointError(msg)
    return own


def _containers(content):
    """Return the dicts in nested dicts that hold tensors, by their paths, nearest first.

    Names lose the components that only wrappers have.
    """
    containers, level, seen = {}, [("", content)], set()
    while level:
        following = []
        for path, part in level:
            if id(part) in seen:
                continue
            seen.add(id(part))
            items = {key: value for key, value in part.items() if isinstance(key, str)}
            tensors = {}
            for key, value in items.items():
                if isinstance(value, torch.Tensor):
                    name = ".".join(word for word in key.split(".") if word not in WRAPPERS)
                    if name in tensors and not _same(tensors[name], value):
                        msg = (
                            f"the weights file holds two tensors {name!r} that differ, with and "
                            f"without a wrapper's name ({key!r}); expected one model."
                        )
                        raise CheckpointError(msg)
                    tensors[name] = value
                    continue
                if isinstance(value, Foreign):  # a dict of a class of its own
                    value = value.state.get("items")
                if isinstance(value, dict):
                    following.append((f"{path}{key}.", value))
            if tensors:
                containers[path] = tensors
        level = following
    return containers


def _same(one, other):
    """Return whether two tensors, or None, are the same tensor."""
    if one is None or other is None or one.dtype != other.dtype:
        return False
    return torch.equal(one, other)


def identify_architecture(tensors):
    """Return the name of the layout that tensors are in.

    Raises
    ------
    CheckpointError
        If it is none that is known.
    """
    for name, mark in MARKS.items():
        if mark in tensors:
            return name
    first = ", ".join(sorted(tensors)[:3])
    msg = (
        f"the weights file's {len(tensors)} tensors ({first}, ...) are of no architecture that is "
        f"known; expected one of {', '.join(MARKS)}. See astroclip.list_models()."
    )
    raise CheckpointError(msg)


def recorded_heads(hyper_parameters):
    """Return the numbers of attention heads that a checkpoint records, which tensors do not show.

    Parameters
    ----------
    hyper_parameters : object
        Of `~astroclip.models.checkpoints.read_checkpoint`.

    Returns
    -------
    dict of str to int
        By the names of `ATTENTION_HEADS`, without those that are not recorded.
    """
    records = hyper_parameters if isinstance(hyper_parameters, dict) else {}
    image, spectrum = records.get("image_encoder"), records.get("spectrum_encoder")
    places = {
        "image": (image, ("MemEffAttention", "Attention")),
        "spectrum": (spectrum, ("SelfAttention",)),
        "image_pooling": (image, ("MultiheadAttention",)),
        "spectrum_pooling": (spectrum, ("MultiheadAttention",)),
    }
    heads = {}
    for name, (content, class_names) in places.items():
        modules = [m for class_name in class_names for m in find_foreign(content, class_name)]
        values = [m.state.get("num_heads", m.state.get("n_heads")) for m in modules]
        if name == "spectrum":
            values.append(records.get("num_heads"))
        valid = [value for value in values if isinstance(value, int) and value > 0]
        if valid:
            heads[name] = valid[0]
    return heads


def build_model(architecture, tensors, *, heads=None, options=None):
    """Build a model of a file's dimensions and load its tensors.

    Parameters
    ----------
    architecture : str
        Layout of the file; see `identify_architecture`.
    tensors : dict of str to `torch.Tensor`
        See `model_tensors`.
    heads : dict of str to int, optional
        Numbers of attention heads; see `recorded_heads`. Where one is missing, that of the
        published width; for another width an error asks for it, since a guess would give
        wrong embeddings.
    options : dict, optional
        Plain settings the file records.

    Returns
    -------
    `~astroclip.models.layers.TwoTower`
        float32, in evaluation mode.

    Raises
    ------
    CheckpointError
        If tensors are missing, left over or misshapen; the first of each are listed.
    """
    try:
        with torch.device("meta"):  # shapes alone, no memory
            model, state = BUILDERS[architecture](tensors, dict(heads or {}), dict(options or {}))
    except CheckpointError:
        raise
    except Exception as error:  # whatever layers raise for dimensions that cannot be
        msg = (
            f"the weights file describes no {architecture!r} model that can be built "
            f"({type(error).__name__}: {error}). Check that it is complete."
        )
        raise CheckpointError(msg) from error
    expected = model.state_dict()
    state = {key: value for key, value in state.items() if key in expected or not _unused(key)}
    problems = {
        "missing": [key for key in expected if key not in state and not _unused(key)],
        "extra": [key for key in state if key not in expected],
        "misshapen": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    details = "; ".join(
        f"{len(keys)} {name}: {', '.join(keys[:N_LISTED])}{', ...' * (len(keys) > N_LISTED)}"
        for name, keys in problems.items()
        if keys
    )
    if details:
        msg = (
            f"the weights file does not fit its architecture: {details}. Use a file of this "
            f"architecture, or name the right preset."
        )
        raise CheckpointError(msg)
    for key, value in expected.items():
        value = state[key] if key in state else torch.zeros(value.shape, dtype=value.dtype)
        state[key] = value.float() if value.is_floating_point() else value
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def fit_preset(preset, network):
    """Return a preset whose image crop is the size that a vision transformer was made for."""
    vit = getattr(getattr(network.image_encoder, "backbone", None), "vit", None)
    if vit is None:
        return preset
    crop = vit.patch_embed.img_size[0]
    return dataclasses.replace(preset, image=dataclasses.replace(preset.image, crop=crop))


# ---------------------------------------------------------------------- reading dimensions
def _unused(key):
    return UNUSED.search(key) is not None


def _shape(tensors, key):
    if key not in tensors:
        msg = f"the weights file lacks {key!r}, from which dimensions are read; is it complete?"
        raise CheckpointError(msg)
    return tuple(tensors[key].shape)


def _count(tensors, pattern):
    """Return how many numbers a pattern's group matches; they must be 0, 1, ... without a gap."""
    numbers = {m[1] for key in tensors if (m := re.match(pattern, key))}
    if numbers != {str(number) for number in range(len(numbers))}:
        msg = (
            f"the weights file numbers its blocks {', '.join(sorted(numbers)[:5])}, ... "
            f"({pattern}); expected 0 to {len(numbers) - 1}. Is it complete?"
        )
        raise CheckpointError(msg)
    return len(numbers)


def _part(tensors, prefix):
    """Return the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _n_heads(heads, which, width, published):
    """Return a number of attention heads that is known and divides the width."""
    n_heads = heads.get(which, published.get(width))
    if n_heads is None:
        msg = (
            f"the weights file does not say how many attention heads its {which} transformer of "
            f"width {width} has, and tensors do not show it. Pass heads={{{which!r}: ...}} to "
            f"load_model."
        )
        raise CheckpointError(msg)
    if width % n_heads:
        msg = f"heads[{which!r}] is {n_heads}; expected a divisor of the width, {width}."
        raise CheckpointError(msg)
    return n_heads


# ---------------------------------------------------------------------- backbones
def _specformer(tensors, heads, options):
    """Return an empty SpecFormer of the tensors' dimensions."""
    width, input_dim = _shape(tensors, "data_embed.weight")
    section = options.get("slice_section_length", input_dim - 2)
    recorded = (
        module.state.get("items", {}).get("slice_overlap")
        for module in find_foreign(options, "AttributeDict")
    )
    default = next((value for value in recorded if isinstance(value, int)), (input_dim - 2) // 2)
    overlap = options.get("slice_overlap", default)
    if section != input_dim - 2 or not isinstance(overlap, int) or not 0 <= overlap < section:
        msg = (
            f"the weights file records slices of {section!r} pixels that overlap by {overlap!r}; "
            f"expected {input_dim - 2} pixels, two fewer than its tokens have values, and an "
            f"overlap from 0 to {input_dim - 3}."
        )
        raise CheckpointError(msg)
    return SpecFormer(
        input_dim=input_dim,
        embed_dim=width,
        num_layers=_count(tensors, r"blocks\.(\d+)\."),
        num_heads=_n_heads(heads, "spectrum", width, SPECFORMER_HEADS),
        max_len=_shape(tensors, "position_embed.weight")[0],
        hidden=_shape(tensors, "blocks.0.mlp.encoder.weight")[0],
        section=section,
        overlap=overlap,
    )


def _vision_transformer(tensors, heads):
    """Return an empty vision transformer of DINOv2 tensors, and the tensors in timm's names.

    DINOv2 counts blocks within chunks: ``blocks.<chunk>.<number>.``.
    """
    tensors = {
        re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): value
        for key, value in tensors.items()
        if not _unused(key)
    }
    width, _, patch, _ = _shape(tensors, "patch_embed.proj.weight")
    n_positions = _shape(tensors, "pos_embed")[1]
    side = round((n_positions - 1) ** 0.5)
    vit = build_vit(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\."),
        n_heads=_n_heads(heads, "image", width, VIT_HEADS),
        hidden=_shape(tensors, "blocks.0.mlp.fc1.weight")[0],
    )
    return VisionTransformer(vit), {f"vit.{key}": value for key, value in tensors.items()}


def _resnet(tensors):
    """Return an empty residual network of tensors in torchvision's names."""
    return build_resnet(
        layers=[_count(tensors, rf"layer{k}\.(\d+)\.") for k in range(1, 5)],
        bottleneck="layer1.0.conv3.weight" in tensors,
        channels=[_shape(tensors, f"layer{k}.0.conv1.weight")[0] for k in range(1, 5)],
    )


def _attention_tower(backbone, tensors, token_width, n_heads, *, residual):
    """Return an empty tower of a backbone and a cross-attention of the tensors' dimensions."""
    return AttentionTower(
        backbone,
        dim=_shape(tensors, "cross_attention.query")[-1],
        token_width=token_width,
        n_heads=n_heads,
        hidden=_shape(tensors, "mlp.encoder.weight")[0],
        residual=residual,
    )


def _aligned_spectrum_tower(tensors, heads, options):
    tensors = _part(tensors, "spectrum_encoder.")
    inner = _part(tensors, "backbone.")
    backbone = _specformer(inner, heads, options)
    width = backbone.data_embed.out_features
    n_heads = heads.get("spectrum_pooling", POOLING_HEADS)
    return _attention_tower(backbone, tensors, width, n_heads, residual=True)


# ---------------------------------------------------------------------- layouts
def _build_astroclip(tensors, heads, options):
    image = _part(tensors, "image_encoder.")
    backbone, inner = _vision_transformer(_part(image, "backbone."), heads)
    width = backbone.vit.embed_dim
    n_heads = heads.get("image_pooling", POOLING_HEADS)
    model = TwoTower(
        spectrum_encoder=_aligned_spectrum_tower(tensors, heads, options),
        image_encoder=_attention_tower(backbone, image, width, n_heads, residual=False),
    )
    state = {k: v for k, v in tensors.items() if not k.startswith("image_encoder.backbone.")}
    return model, state | {f"image_encoder.backbone.{k}": v for k, v in inner.items()}


def _build_specformer(tensors, heads, options):
    model = TwoTower(spectrum_encoder=MeanTokenTower(_specformer(tensors, heads, options)))
    return model, {f"spectrum_encoder.backbone.{key}": value for key, value in tensors.items()}


def _build_astrodino(tensors, heads, options):
    backbone, inner = _vision_transformer(_part(tensors, "backbone."), heads)
    model = TwoTower(image_encoder=ClassTokenTower(backbone))
    return model, {f"image_encoder.backbone.{key}": value for key, value in inner.items()}


def _build_stein(tensors, heads, options):
    # neither the projection nor the momentum encoder and its queue give the published features
    inner = {k: v for k, v in _part(tensors, "encoder_q.").items() if not k.startswith("fc.")}
    model = TwoTower(image_encoder=ResNetTower(_resnet(inner)))
    return model, {f"image_encoder.backbone.{key}": value for key, value in inner.items()}


def _build_talk(tensors, heads, options):
    for pattern, name in TALK_NAMES:
        tensors = {re.sub(pattern, name, key): value for key, value in tensors.items()}
    inner = _part(tensors, "image_encoder.backbone.")
    mlp = None
    if "image_encoder.mlp.encoder.weight" in tensors:
        names = [f"image_encoder.mlp.{part}.weight" for part in ("encoder", "decoder")]
        mlp = tuple(_shape(tensors, name)[0] for name in names)
    projection = _shape(inner, "fc.0.weight")[0], _shape(inner, "fc.2.weight")[0]
    model = TwoTower(
        spectrum_encoder=_aligned_spectrum_tower(tensors, heads, options),
        image_encoder=ResNetTower(_resnet(inner), projection=projection, mlp=mlp),
    )
    state = {k: v for k, v in tensors.items() if not k.startswith("image_encoder.backbone.")}
    for key, value in inner.items():
        prefix = "image_encoder." if key.startswith("fc.") else "image_encoder.backbone."
        state[prefix + key] = value
    return model, state


def _build_small(tensors, heads, options):
    from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder

    encoders = {
        "spectrum": (SmallSpectrumEncoder, "n_blocks", 1, r"transformer\.layers\.(\d+)\."),
        "image": (SmallImageEncoder, "layers", (1, 1, 1, 1), r"backbone\.(layer\d\.\d+)\."),
    }
    towers = {}
    for modality, (encoder, setting, default, pattern) in encoders.items():
        part = _part(tensors, f"{modality}_encoder.")
        if not part:
            continue
        # checked first: a configuration must not ask for a million blocks that are not there
        n_blocks = len({m[1] for key in part if (m := re.match(pattern, key))})
        stated = options.get(modality, {}).get(setting, default)
        if n_blocks != (stated if isinstance(stated, int) else sum(stated)):
            msg = (
                f"the weights file's configuration has {setting} {stated!r} for its {modality} "
                f"encoder; its tensors have {n_blocks} blocks."
            )
            raise CheckpointError(msg)
        towers[f"{modality}_encoder"] = encoder(**options.get(modality, {}))
    # redshift heads are used in numpy, by astroclip.redshifts: here they are only checked
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    settings = redshift_head_settings(options.get("redshift_head"), shapes)
    checked = {f"redshift_head.{m}.{part}" for m in settings for part in ("weight", "bias")}
    state = {key: value for key, value in tensors.items() if key not in checked}
    return TwoTower(**towers), state


BUILDERS = {
    "astroclip": _build_astroclip,
    "specformer": _build_specformer,
    "astrodino": _build_astrodino,
    "stein": _build_stein,
    "talk": _build_talk,
    "small": _build_small,
}
"""Functions of (tensors, heads, options) that return an empty model and its state, by layout."""
