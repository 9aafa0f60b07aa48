"""The checkpoint reader: what it reads, and that it imports nothing. See test_hostile_files."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from astroclip.exceptions import CheckpointError
from astroclip.models.checkpoints import Foreign, read_checkpoint

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


def test_no_name_is_imported(tmp_path):
    path = tmp_path / "raw.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}X\x01\x00\x00\x00actorch\n_inductor\ns.")
    code = (
        "import sys; from astroclip.models.checkpoints import read_checkpoint; "
        f"read_checkpoint({str(path)!r}); print('torch._inductor' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_foreign_classes_are_inert():
    content = read_checkpoint(GOLDEN / "astroclip.ckpt")
    head = content["hyper_parameters"]["image_encoder"]
    assert isinstance(head, Foreign)
    assert head.qualified_name == "astroclip.models.astroclip.ImageHead"
    assert "dinov2" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_equal_torch_load(tmp_path, zipped):
    storage = torch.arange(24.0)
    state = {
        "plain": storage.reshape(4, 6),
        "shared": storage.reshape(4, 6).T,
        "half": torch.randn(3).half(),
        "bf16": torch.randn(3).bfloat16(),
        "number": torch.tensor(7),
        "flags": torch.tensor([True, False]),
    }
    torch.save({"state_dict": state}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(tmp_path / "a.pt")["state_dict"]
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


def test_errors_name_the_file(tmp_path):
    for name, content in {"text": b"no weights", "pickle": pickle.dumps({"a": 1})}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name}' is no readable PyTorch checkpoint"):
            read_checkpoint(tmp_path / name)


def test_directory_and_missing_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="directory"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.ckpt")
