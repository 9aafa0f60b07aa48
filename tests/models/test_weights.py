"""Weights files: what is read, what is refused, and downloads without a network."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from astroclip.exceptions import CheckpointError
from astroclip.models.weights import download_weights, read_safetensors


def test_safetensors_keep_tensors_and_configuration(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b.c": torch.ones(2).half()}
    save_file(tensors, path, metadata={"config": '{"name": "toy"}'})
    found, config = read_safetensors(path)
    assert set(found) == {"a", "b.c"}
    assert torch.equal(found["a"], tensors["a"])
    assert config == {"name": "toy"}
    arrays, _ = read_safetensors(path, framework="np", prefix="b.")
    assert list(arrays) == ["b.c"] and arrays["b.c"].dtype == np.float16


def test_finding_and_reading_weights_needs_no_torch(tmp_path):
    code = (
        "import sys; from astroclip.models.weights import find_weights, read_safetensors; "
        "read_safetensors(find_weights('astroclip-small')[0], framework='np'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_truncated_safetensors(tmp_path):
    from safetensors.torch import save

    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"a": torch.ones(100)})[:200])
    with pytest.raises(CheckpointError, match="no readable safetensors"):
        read_safetensors(path)


def test_download_without_network(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ConnectionError, match="pass its path to load_model"):
        download_weights("polymathic-ai/astroclip", "astroclip.ckpt")


def test_download_checks_sha256(monkeypatch, tmp_path):
    import huggingface_hub

    path = tmp_path / "file.ckpt"
    path.write_bytes(b"replaced")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: str(path))
    with pytest.raises(CheckpointError, match="expected 00"):
        download_weights("a/b", "file.ckpt", sha256="00")
