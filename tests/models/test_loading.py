"""Files to models: every layout, dimensions from tensors, heads from records, errors."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional

from astroclip.exceptions import CheckpointError
from astroclip.models.architectures import build_model, model_tensors, recorded_heads
from astroclip.models.checkpoints import find_foreign, read_checkpoint
from astroclip.models.loading import load_model, select_device
from astroclip.models.published import SpecFormer, build_resnet

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def randomize(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.2, generator=generator)
    return module.eval()


def torchvision_resnet(layers=(1, 1, 1, 1)):
    """Return torchvision's residual network: the independent reference."""
    from torchvision.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, list(layers), num_classes=16)
    width = network.fc.in_features
    network.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))
    return randomize(network)


def save_stein(path, network, wrapper=""):
    state = {f"{wrapper}encoder_q.{k}": v for k, v in network.state_dict().items()}
    state |= {f"{wrapper}encoder_k.{k}": v for k, v in network.state_dict().items()}
    state |= {f"{wrapper}queue": torch.randn(16, 8), f"{wrapper}queue_ptr": torch.zeros(1)}
    state |= {f"{wrapper}val_queue": torch.randn(16, 8), f"{wrapper}val_queue_ptr": torch.zeros(1)}
    torch.save({"state_dict": state}, path)
    return path


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_stein_equals_torchvision(tmp_path, wrapper):
    network = torchvision_resnet()
    model = load_model(save_stein(tmp_path / "stein.ckpt", network, wrapper), device="cpu")
    pixels = np.random.default_rng(0).random((3, 3, 96, 96), dtype=np.float32)
    found = model.encode_images(pixels, normalize=False)
    network.fc = nn.Identity()
    expected = network(torch.from_numpy(pixels)).detach().numpy()
    assert model.name == "stein-resnet50"
    assert found.shape == (3, 2048)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def talk_state(network, spectrum_state, dim=16, n_heads=4):
    """Return a state dict in the names of the workshop's training script, and its head."""
    width = len(spectrum_state["data_embed.weight"])
    pooling = nn.MultiheadAttention(dim, n_heads, kdim=width, vdim=width, batch_first=True)
    parts = {
        "multihead_attn": randomize(pooling),
        "norm": randomize(nn.LayerNorm(dim), 1),
        "linear1": randomize(nn.Linear(dim, 4 * dim), 2),
        "linear2": randomize(nn.Linear(4 * dim, dim), 3),
    }
    state = {f"image_encoder.backbone.{k}": v for k, v in network.state_dict().items()}
    state |= {f"spectrum_encoder.model.{k}": v for k, v in spectrum_state.items()}
    for name, module in parts.items():
        state |= {f"spectrum_encoder.{name}.{k}": v for k, v in module.state_dict().items()}
    state |= {"spectrum_encoder.query": torch.randn(1, 1, dim), "logit_scale": torch.tensor(2.7)}
    return state, parts


def test_workshop_layout(tmp_path):
    network = torchvision_resnet()
    state = torch.load(GOLDEN / "specformer.ckpt", weights_only=True)["state_dict"]
    specformer = load_model(GOLDEN / "specformer.ckpt", device="cpu").network.spectrum_encoder
    whole, parts = talk_state(network, state)
    torch.save({"state_dict": whole}, tmp_path / "talk.ckpt")
    model = load_model(tmp_path / "talk.ckpt", device="cpu", heads={"spectrum": 3})
    rng = np.random.default_rng(1)
    pixels = rng.random((2, 3, 96, 96), dtype=np.float32)
    flux = rng.normal(3, 1, (2, 7781)).astype(np.float32)
    expected = network(torch.from_numpy(pixels)).detach().numpy()
    found = model.encode_images(pixels, normalize=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    tokens = specformer.backbone(torch.from_numpy(flux))
    query = whole["spectrum_encoder.query"].repeat(2, 1, 1)
    pooled = parts["norm"](parts["multihead_attn"](query, tokens, tokens)[0])[:, 0]
    expected = pooled + parts["linear2"](functional.gelu(parts["linear1"](pooled)))
    found = model.encode_spectra(flux, normalize=False)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=2e-5)


def save_dino(path, **sizes):
    network = randomize(VisionTransformer(init_values=1.0, num_classes=0, **sizes))
    depth, state = sizes["depth"], {}
    for key, value in network.state_dict().items():
        parts = key.split(".")
        if parts[0] == "blocks":  # two chunks
            parts.insert(1, str(int(parts[1]) // (-(-depth // 2))))
        state["backbone." + ".".join(parts)] = value
    state |= {"backbone.mask_token": torch.zeros(1, sizes["embed_dim"])}
    torch.save({"teacher": state | {"dino_head.last_layer.weight": torch.ones(2)}}, path)
    return network


@pytest.mark.parametrize(
    ("image", "patch", "width", "depth", "heads"),
    [(144, 12, 40, 3, 5), (96, 16, 64, 4, 4), (128, 16, 64, 2, 8), (144, 8, 24, 1, 2)],
)
def test_other_image_dimensions(tmp_path, image, patch, width, depth, heads):
    network = save_dino(
        tmp_path / "d.ckpt", img_size=image, patch_size=patch, embed_dim=width, depth=depth,
        num_heads=heads,
    )
    model = load_model(tmp_path / "d.ckpt", device="cpu", heads={"image": heads})
    assert (model.preset.image.crop, model.dim) == (image, width)
    pixels = np.random.default_rng(0).random((2, 3, image, image), dtype=np.float32)
    expected = network.forward_features(torch.from_numpy(pixels))[:, 0].detach().numpy()
    np.testing.assert_allclose(model.encode_images(pixels, normalize=False), expected, atol=2e-5)


def test_unrecorded_heads_are_asked_for(tmp_path):
    save_dino(
        tmp_path / "d.ckpt", img_size=144, patch_size=12, embed_dim=64, depth=1, num_heads=4
    )
    with pytest.raises(CheckpointError, match="heads={'image'"):
        load_model(tmp_path / "d.ckpt", device="cpu")
    with pytest.raises(CheckpointError, match="divisor of the width, 64"):
        load_model(tmp_path / "d.ckpt", device="cpu", heads={"image": 5})
    with pytest.raises(ValueError, match="heads"):
        load_model(tmp_path / "d.ckpt", device="cpu", heads={"pictures": 4})


def test_heads_and_overlap_recorded_per_tower():
    content = read_checkpoint(GOLDEN / "astroclip.ckpt")
    records = content["hyper_parameters"]
    for tower, heads in (("image_encoder", 2), ("spectrum_encoder", 8)):
        for module in find_foreign(records[tower], "MultiheadAttention"):
            module.state["num_heads"] = heads
    for module in find_foreign(records, "AttributeDict"):
        module.state["items"]["slice_overlap"] = 5
    network = build_model(
        "astroclip", model_tensors(content), heads=recorded_heads(records), options=records
    )
    image, spectrum = network.image_encoder, network.spectrum_encoder
    assert image.cross_attention.multihead_attn.num_heads == 2
    assert spectrum.cross_attention.multihead_attn.num_heads == 8
    assert spectrum.backbone.overlap == 5


def change(tensors):
    """Return tensors with one key gone, one added and one of another shape."""
    tensors = dict(tensors)
    del tensors["final_layernorm.bias"]
    tensors["surplus.weight"] = torch.ones(3)
    tensors["head.bias"] = torch.ones(5)
    return tensors


def test_wrong_keys_are_listed(tmp_path):
    content = torch.load(GOLDEN / "specformer.ckpt", weights_only=True)
    content["state_dict"] = change(content["state_dict"])
    torch.save(content, tmp_path / "s.ckpt")
    with pytest.raises(CheckpointError, match="missing") as caught:
        load_model(tmp_path / "s.ckpt", device="cpu")
    for part in ("final_layernorm.bias", "surplus.weight", "head.bias (5,) instead of (22,)"):
        assert part in str(caught.value)


def golden_state(name):
    content = torch.load(GOLDEN / f"{name}.ckpt", weights_only=True)
    return dict(content.get("state_dict", content.get("teacher")))


def renamed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def shifted(state):
    """Return tensors of another model of the same layout."""
    return {k: v + 0.5 if v.is_floating_point() else v for k, v in state.items()}


def assert_loads_as_golden(path, content, name, **heads):
    torch.save(content, path)
    found = load_model(path, device="cpu", heads=heads)
    expected = load_model(GOLDEN / f"{name}.ckpt", device="cpu")
    expected = expected.network.state_dict()
    assert set(found.network.state_dict()) == set(expected)
    for key, value in found.network.state_dict().items():
        assert torch.equal(value, expected[key])


WRAPPINGS = {
    "flat": lambda state: state,
    "compiled": lambda state: {"state_dict": renamed(state, "_orig_mod.")},
    "compiled in Lightning": lambda state: {"state_dict": renamed(state, "model._orig_mod.")},
    "Lightning compiled": lambda state: {"state_dict": renamed(state, "_orig_mod.model.")},
    "data-parallel": lambda state: {"model_state_dict": renamed(state, "module.")},
    "everything": lambda state: {"state_dict": renamed(state, "_forward_module.model.module.net.")},
    "DeepSpeed": lambda state: {"module": state, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
    "nested": lambda state: {"model": {"state_dict": renamed(state, "module.")}, "epoch": 3},
    "checkpointed blocks": lambda state: {
        "state_dict": {
            key.replace("blocks.", "_fsdp_wrapped_module.blocks._checkpoint_wrapped_module."): value
            for key, value in state.items()
        }
    },
    "averaged": lambda state: renamed(state, "module.") | {"n_averaged": torch.tensor(4)},
    "with its loss": lambda state: renamed(state, "net.") | {"criterion.weight": torch.ones(2)},
    "equal average": lambda state: {
        "state_dict": renamed(state, "model.") | renamed(state, "ema_model.module.")
    },
    "teacher and student": lambda state: {"student": shifted(state), "teacher": state},
    "teacher and student in one": lambda state: {
        "model": renamed(shifted(state), "student.") | renamed(state, "teacher.")
    },
}


@pytest.mark.parametrize("how", WRAPPINGS)
def test_wrapped_checkpoints(tmp_path, how):
    content = WRAPPINGS[how](golden_state("specformer"))
    assert_loads_as_golden(tmp_path / "w.ckpt", content, "specformer", spectrum=3)


@pytest.mark.parametrize("prefix", ["model.", "_orig_mod.module.", "image_tower.astrodino."])
def test_prefixes_of_other_layouts(tmp_path, prefix):
    state = renamed(golden_state("astrodino"), prefix)
    assert_loads_as_golden(tmp_path / "d.ckpt", {"teacher": state}, "astrodino", image=4)
    content = read_checkpoint(GOLDEN / "astroclip.ckpt")["state_dict"]
    state = renamed(content, prefix)
    assert_loads_as_golden(tmp_path / "a.ckpt", {"state_dict": state}, "astroclip", image=4,
                           spectrum=3)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "model.module."])
def test_wrapped_safetensors(tmp_path, prefix):
    from safetensors.torch import save_file

    state = golden_state("specformer")
    save_file(renamed(state, prefix), tmp_path / "s.safetensors")
    found = load_model(tmp_path / "s.safetensors", device="cpu", heads={"spectrum": 3})
    assert found.name == "specformer"


@pytest.mark.parametrize(
    ("first", "second"), [("model.", "ema_model.module."), ("net.", "averaged_model.")]
)
def test_two_models_that_differ_are_refused(tmp_path, first, second):
    state = golden_state("specformer")
    both = renamed(state, first) | renamed(shifted(state), second)
    nested = {first.strip("."): state, second.strip("."): shifted(state)}
    for content in ({"state_dict": both}, nested):
        torch.save(content, tmp_path / "two.ckpt")
        with pytest.raises(CheckpointError, match="several models.*which differ"):
            load_model(tmp_path / "two.ckpt", device="cpu")


def test_part_of_a_model_is_not_taken_for_another(tmp_path):
    content = read_checkpoint(GOLDEN / "astroclip.ckpt")["state_dict"]
    half = {k: v for k, v in content.items() if k.startswith("spectrum_encoder.")}
    torch.save({"state_dict": half}, tmp_path / "half.ckpt")
    with pytest.raises(CheckpointError, match="beside .*spectrum_encoder.cross_attention.query"):
        load_model(tmp_path / "half.ckpt", device="cpu")


def test_other_architecture():
    with pytest.raises(CheckpointError, match="architecture 'specformer'"):
        load_model(GOLDEN / "specformer.ckpt", device="cpu", preset="astroclip-mnras")


def test_unknown_layout(tmp_path):
    torch.save({"state_dict": {"layer.weight": torch.ones(2)}}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"layer\.weight"):
        load_model(tmp_path / "x.ckpt", device="cpu")


def test_published_sizes():
    with torch.device("meta"):
        network = SpecFormer()
    assert sum(p.numel() for p in network.parameters()) == 43_177_750


def test_torchvision_names_are_timms():
    with torch.device("meta"):
        expected = {k for k in torchvision.models.resnet50().state_dict() if k[:3] != "fc."}
        assert set(build_resnet().state_dict()) == expected


def test_select_device():
    assert select_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="device is 'abacus'"):
        select_device("abacus")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu():
    with np.load(GOLDEN / "io.npz") as file:
        pixels, expected = file["image_rgb"], file["image_embedding"]
    model = load_model(GOLDEN / "astroclip.ckpt", device="cuda")
    assert np.abs(model.encode_images(pixels, normalize=False) - expected).max() <= 2e-5
