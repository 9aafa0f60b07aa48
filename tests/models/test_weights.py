"""Weights files: what is read, what is refused, and downloads without a network."""

import hashlib

import pytest
import torch

from astroclip.exceptions import CheckpointError
from astroclip.models.weights import download_weights, file_sha256, read_safetensors


def test_safetensors_keep_tensors_and_metadata(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3)}, path, metadata={"config": "{}"})
    tensors, metadata = read_safetensors(path)
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3))
    assert metadata == {"config": "{}"}
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


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
