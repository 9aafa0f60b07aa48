"""The redshift head: exactly the trained layer's, in files with it, without it, and damaged."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from astroclip.exceptions import CheckpointError
from astroclip.models import load_model
from astroclip.models.redshift_head import RedshiftHead, build_redshift_head
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.models.sources import read_redshift_heads

DIM, N_BINS, LARGEST = 16, 24, 0.7
ENTRY = {
    "n_bins": N_BINS, "largest": LARGEST, "scale": 11.0,
    "temperature": {"spectrum": 0.8, "image": 1.5},
}  # fmt: skip


def write_model(path, *, heads=("spectrum", "image"), entry=ENTRY, change=None):
    """Write a tiny model's weights file and return the trained layers of its heads."""
    torch.manual_seed(3)
    spectrum, image = {"width": 16, "dim": DIM}, {"width": 8, "dim": DIM}
    layers = {kind: nn.Linear(DIM, N_BINS).half().float() for kind in ("spectrum", "image")}
    parts = {
        "spectrum_encoder": SmallSpectrumEncoder(**spectrum),
        "image_encoder": SmallImageEncoder(**image),
        **{f"redshift_head.{kind}": layers[kind] for kind in heads},
    }
    state = {
        f"{prefix}.{name}": tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for prefix, part in parts.items()
        for name, tensor in part.state_dict().items()
    }
    config = {
        "name": "toy", "architecture": "small", "spectrum": spectrum, "image": image,
        **({} if entry is None else {"redshift_head": entry}),
    }  # fmt: skip
    if change is not None:
        change(state)
    save_file(state, path, metadata={"config": json.dumps(config)})
    return layers


@pytest.fixture(scope="module")
def embeddings():
    return np.random.default_rng(5).normal(size=(9, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "toy.safetensors"
    return path, write_model(path)


def test_a_head_of_trained_tensors_is_the_trained_head(embeddings):
    torch.manual_seed(1)
    layer = nn.Linear(DIM, N_BINS)
    head = build_redshift_head(layer.weight, layer.bias, largest=LARGEST)
    tensor = torch.from_numpy(embeddings)
    with torch.inference_mode():
        expected = layer(11.0 * functional.normalize(tensor, dim=1))  # as alignment does
        assert torch.equal(head(tensor), expected)
        assert torch.equal(head.probabilities(tensor), expected.softmax(dim=1))
        found = head.distribution(embeddings)
    np.testing.assert_allclose(found.probability, expected.softmax(dim=1).numpy(), rtol=1e-4)
    np.testing.assert_allclose(head.edges, np.expm1(np.linspace(0, np.log(1.7), N_BINS + 1)))
    np.testing.assert_allclose(head.centre, found.centre)
    assert not head.training


def test_temperature_divides_logits(embeddings):
    torch.manual_seed(1)
    head = RedshiftHead(DIM, N_BINS, largest=LARGEST, scale=5.0, temperature=0.5)
    tensor = torch.from_numpy(embeddings)
    with torch.inference_mode():
        expected = functional.softmax(2 * head(tensor), dim=1)
        torch.testing.assert_close(head.probabilities(tensor), expected)
    np.testing.assert_allclose(
        head.distribution(embeddings).probability, expected.numpy(), rtol=1e-4
    )


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"^weight has shape \(24, 16\) and bias \(23,\); expec"):
        build_redshift_head(torch.zeros(24, 16), torch.zeros(23), largest=LARGEST)


def test_a_loaded_model_gives_distributions(written, embeddings):
    path, layers = written
    model = load_model(path, device="cpu")
    embeddings = embeddings.copy()
    embeddings[3] = np.nan
    for kind, layer in layers.items():
        found = model.redshift_distribution(embeddings, modality=kind)
        unit = functional.normalize(torch.from_numpy(embeddings), dim=1)
        with torch.inference_mode():
            logits = layer(11.0 * unit) / ENTRY["temperature"][kind]
        expected = logits.softmax(dim=1).numpy()
        np.testing.assert_allclose(found.probability, expected, rtol=1e-4)
        np.testing.assert_array_equal(np.isnan(found.mode()), np.arange(9) == 3)
    flux = np.abs(np.random.default_rng(1).normal(3, 1, (2, 4360))).astype(np.float32)
    assert len(model.redshift_distribution(model.encode_spectra(flux))) == 2
    with pytest.raises(ValueError, match=r"^embedding has shape \(2, 15\); expected \(N, 16\)"):
        model.redshift_distribution(np.zeros((2, 15)))


def test_heads_are_read_without_the_model(written, embeddings):
    path, _ = written
    model, file = load_model(path, device="cpu"), read_redshift_heads(path)
    assert file.weights_sha256 == model.weights_sha256
    assert set(file.heads) == {"spectrum", "image"}
    for kind, head in file.heads.items():
        expected = model.redshift_distribution(embeddings, modality=kind).probability
        np.testing.assert_array_equal(head.distribution(embeddings).probability, expected)
        assert head.temperature == ENTRY["temperature"][kind]
    assert set(read_redshift_heads(path.parent).heads) == {"spectrum", "image"}


def test_old_files_load_and_say_that_they_have_no_head(tmp_path):
    path = tmp_path / "old.safetensors"
    write_model(path, heads=(), entry=None)
    model = load_model(path, device="cpu")
    assert model.dim == DIM
    with pytest.raises(ValueError, match="^model 'toy' has no redshift head .* none for any mod"):
        model.redshift_distribution(np.zeros((1, DIM)))
    with pytest.raises(ValueError, match=r"^model '.*old\.safetensors' has no redshift head; exp"):
        read_redshift_heads(path)


def test_one_head_of_two(tmp_path):
    path = tmp_path / "spectrum.safetensors"
    write_model(path, heads=("spectrum",), entry={"n_bins": N_BINS, "largest": LARGEST})
    model = load_model(path, device="cpu")
    assert model.redshift_distribution(np.ones((1, DIM))).probability.shape == (1, N_BINS)
    assert read_redshift_heads(path).heads["spectrum"].temperature == 1.0
    with pytest.raises(ValueError, match="no redshift head for modality 'image'; it has one for s"):
        model.redshift_distribution(np.zeros((1, DIM)), modality="image")


def test_heads_may_have_bins_of_their_own(tmp_path, embeddings):
    path = tmp_path / "toy.safetensors"

    def halve(state):
        for name in ("weight", "bias"):
            state[f"redshift_head.image.{name}"] = state[f"redshift_head.image.{name}"][::2].clone()

    bins = {"spectrum": N_BINS, "image": N_BINS // 2}
    write_model(path, entry={**ENTRY, "n_bins": bins}, change=halve)
    model, heads = load_model(path, device="cpu"), read_redshift_heads(path).heads
    for kind, n_bins in bins.items():
        found = model.redshift_distribution(embeddings, modality=kind)
        assert found.probability.shape == (9, n_bins)
        assert len(heads[kind].bias) == n_bins
    write_model(path, entry={**ENTRY, "n_bins": bins})
    with pytest.raises(CheckpointError, match=r"\(image head\), has n_bins .* its tensors have 24"):
        load_model(path, device="cpu")


@pytest.mark.parametrize("name", ["astroclip-mnras", "stein-resnet50", "weights.ckpt"])
def test_models_that_cannot_have_a_head_are_not_fetched(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=f"^model '{name}' has no redshift head"):
        read_redshift_heads(name)


def drop_bias(state):
    del state["redshift_head.image.bias"]


def bend_weight(state):
    state["redshift_head.image.weight"] = torch.zeros(N_BINS)


def with_entry(**changes):
    return {"entry": {**ENTRY, **changes}}


@pytest.mark.parametrize(
    ("options", "loaded", "read"),
    [
        ({"entry": None}, "expected n_bins and largest", "expected n_bins and largest"),
        (with_entry(n_bins=23), "has n_bins 23; its tensors have 24", "n_bins 23; its tensors"),
        (with_entry(largest=0.0), "has largest 0.0; expected a positive", "largest 0.0; expect"),
        (with_entry(largest="big"), "has largest 'big'; expected a pos", "largest 'big'; expect"),
        (with_entry(temperature={"spectrum": -1}), "temperature -1; expe", "temperature -1; exp"),
        (with_entry(temperature=[1]), r"temperature \[1\]; expected", r"temperature \[1\]; expec"),
        ({"change": drop_bias}, r"missing: redshift_head\.image\.bias", "lacks a part of its im"),
        ({"change": bend_weight}, r"image\.weight has shape \(24,\)", "lacks a part of its im"),
    ],
)  # fmt: skip
def test_damaged_heads_are_refused(tmp_path, options, loaded, read):
    path = tmp_path / "bad.safetensors"
    write_model(path, **options)
    with pytest.raises(CheckpointError, match=loaded):
        load_model(path, device="cpu")
    with pytest.raises(CheckpointError, match=read):
        read_redshift_heads(path)


def test_a_configured_head_must_be_there(tmp_path):
    path = tmp_path / "empty.safetensors"
    write_model(path, heads=())
    with pytest.raises(CheckpointError, match="names a redshift head and its tensors lack"):
        load_model(path, device="cpu")


def test_a_truncated_file(written, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(written[0].read_bytes()[:300])
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        read_redshift_heads(path)


def test_written_tensors_carry_the_documented_names(written):
    names = {name for name in load_file(written[0]) if name.startswith("redshift_head")}
    assert names == {
        f"redshift_head.{kind}.{part}" for kind in ("spectrum", "image")
        for part in ("weight", "bias")
    }
