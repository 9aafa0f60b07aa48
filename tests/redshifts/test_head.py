"""The linear head against a loop and against torch, and the files that it is read from."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file
from scipy.special import softmax
from torch import nn
from torch.nn import functional

from astroclip.exceptions import CheckpointError
from astroclip.models import load_model
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.redshifts.distribution import redshift_edges
from astroclip.redshifts.head import LinearRedshiftHead, read_redshift_heads

DIM, N_BINS, LARGEST = 16, 24, 0.7
ENTRY = {
    "n_bins": N_BINS, "largest": LARGEST, "scale": 11.0,
    "temperature": {"spectrum": 0.8, "image": 1.5},
}  # fmt: skip


def make_head(seed=0, *, n_bins=32, dim=12, **options):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(n_bins, dim)).astype(np.float32)
    bias = rng.normal(size=n_bins).astype(np.float32)
    return LinearRedshiftHead(weight, bias, LARGEST, **options)


def test_distributions_are_a_softmax_of_directions():
    head = make_head(scale=3.0, temperature=0.7)
    embedding = 5 * np.random.default_rng(1).normal(size=(8, 12))
    embedding[2, 4] = np.nan
    distribution = head.distribution(embedding)
    assert distribution.probability.dtype == np.float32
    assert_allclose(distribution.edges, np.expm1(np.linspace(0, np.log(1.7), 33)))
    for row, vector in enumerate(embedding):
        if row == 2:
            assert np.isnan(distribution.probability[row]).all()
            continue
        logits = [
            3.0 * sum(w * x for w, x in zip(weights, vector)) / np.linalg.norm(vector) + bias
            for weights, bias in zip(head.weight, head.bias)
        ]
        assert_allclose(distribution.probability[row], softmax(np.array(logits) / 0.7), rtol=1e-5)
        assert_allclose(head.logits(embedding[[row]])[0], logits, rtol=1e-6)
    sharper = head.distribution(embedding[:1], temperature=0.1)
    assert sharper.probability.max() > distribution.probability[0].max()
    many = head.distribution(np.tile(embedding, (300, 1)))  # more than one block
    assert_array_equal(many.probability, np.tile(distribution.probability, (300, 1)))


def test_no_rows_and_wrong_shapes():
    head = make_head()
    assert head.distribution(np.empty((0, 12))).probability.shape == (0, 32)
    for wrong in (np.zeros(12), np.zeros((2, 11))):
        with pytest.raises(ValueError, match=r"^embedding has shape .*; expected \(N, 12\), as"):
            head.distribution(wrong)


# ---------------------------------------------------------------------- files
def write_model(path, *, heads=("spectrum", "image"), entry=ENTRY, change=None):
    """Write a tiny model's weights file and return the trained layers of its heads."""
    torch.manual_seed(3)
    spectrum, image = {"width": 16, "dim": DIM}, {"width": 8, "dim": DIM}
    layers = {name: nn.Linear(DIM, N_BINS).half().float() for name in ("spectrum", "image")}
    parts = {
        "spectrum_encoder": SmallSpectrumEncoder(**spectrum),
        "image_encoder": SmallImageEncoder(**image),
        **{f"redshift_head.{name}": layers[name] for name in heads},
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


def test_heads_are_the_trained_layers(written, embeddings):
    path, layers = written
    model = load_model(path, device="cpu")
    for source in (path, str(path), path.parent, model):
        opened = read_redshift_heads(source)
        assert opened.weights_sha256 == model.weights_sha256
        assert set(opened.heads) == {"spectrum", "image"}
    for modality, layer in layers.items():
        head = opened.heads[modality]
        unit = functional.normalize(torch.from_numpy(embeddings), dim=1)
        with torch.inference_mode():
            logits = layer(11.0 * unit) / ENTRY["temperature"][modality]
        expected = logits.softmax(dim=1).numpy()
        assert_allclose(head.distribution(embeddings).probability, expected, rtol=1e-4)
        assert_array_equal(head.edges, redshift_edges(N_BINS, LARGEST))


def test_files_without_heads(tmp_path):
    path = tmp_path / "plain.safetensors"
    write_model(path, heads=(), entry=None)
    model = load_model(path, device="cpu")
    with pytest.raises(ValueError, match=r"^model '.*plain\.safetensors' has no redshift head; e"):
        read_redshift_heads(path)
    with pytest.raises(ValueError, match="^model 'toy' has no redshift head; expected"):
        read_redshift_heads(model)


def test_one_head_of_two(tmp_path):
    path = tmp_path / "spectrum.safetensors"
    write_model(path, heads=("spectrum",), entry={**ENTRY, "temperature": 1.25})
    load_model(path, device="cpu")
    heads = read_redshift_heads(path).heads
    assert {name: head.temperature for name, head in heads.items()} == {"spectrum": 1.25}


def test_heads_may_have_bins_of_their_own(tmp_path):
    path = tmp_path / "toy.safetensors"

    def halve(state):
        for name in ("weight", "bias"):
            state[f"redshift_head.image.{name}"] = state[f"redshift_head.image.{name}"][::2].clone()

    bins = {"spectrum": N_BINS, "image": N_BINS // 2}
    write_model(path, entry={**ENTRY, "n_bins": bins}, change=halve)
    load_model(path, device="cpu")
    heads = read_redshift_heads(path).heads
    assert {name: len(head.bias) for name, head in heads.items()} == bins
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


def drop_heads(state):
    for name in [name for name in state if name.startswith("redshift_head")]:
        del state[name]


def with_entry(**changes):
    return {"entry": {**ENTRY, **changes}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"entry": None}, "is None; expected n_bins, largest, scale and temperature"),
        ({"entry": [1]}, r"is \[1\]; expected n_bins, largest"),
        (with_entry(n_bins=23), "has n_bins 23; its tensors have 24"),
        (with_entry(largest=0.0), "has largest 0.0; expected a positive number"),
        (with_entry(largest="big"), "has largest 'big'; expected a positive number"),
        (with_entry(largest=10**400), "has largest 10+; expected a positive number"),
        (with_entry(scale=None), "has scale None; expected a positive number"),
        (with_entry(temperature={"spectrum": -1}), "has temperature -1; expected a positive"),
        (with_entry(temperature=[1]), r"has temperature \[1\]; expected a positive number"),
        ({"change": drop_bias}, r"image redshift head has weight \(24, 16\) and bias None; exp"),
        ({"change": bend_weight}, r"image redshift head has weight \(24,\) and bias \(24,\)"),
        ({"change": drop_heads}, "names a redshift head and its tensors lack"),
    ],
)  # fmt: skip
def test_damaged_heads_are_refused(tmp_path, options, message):
    path = tmp_path / "bad.safetensors"
    write_model(path, **options)
    with pytest.raises(CheckpointError, match=message):
        load_model(path, device="cpu")
    with pytest.raises(CheckpointError, match=message):
        read_redshift_heads(path)


def test_a_truncated_file(written, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(written[0].read_bytes()[:300])
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        read_redshift_heads(path)
