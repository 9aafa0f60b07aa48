"""The checkpoint reader: what it reads, what it refuses, and that nothing runs."""

import builtins
import collections
import functools
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from astroclip.exceptions import CheckpointError, UnsafeCheckpointError
from astroclip.models.checkpoints import Foreign, read_checkpoint

GOLDEN = Path(__file__).parents[1] / "data" / "golden"


class Reduced:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Stateful:
    """Pickles as an object whose state is a call."""

    def __init__(self, content):
        self.content = content


def touch(path):
    Path(path).touch()


def payloads(marker):
    text = str(marker)
    return {
        "os.system": Reduced(os.system, f"touch {text}"),
        "eval": Reduced(builtins.eval, f"open({text!r}, 'w')"),
        "exec": Reduced(builtins.exec, f"open({text!r}, 'w')"),
        "getattr": Reduced(builtins.getattr, {}, "keys"),
        "Popen": Reduced(subprocess.Popen, ["touch", text]),
        "torch.load": Reduced(torch.load, text),
        "numpy.load": Reduced(np.load, text),
        "user function": Reduced(touch, text),
        "in a state": Stateful(Reduced(touch, text)),
        "partial of a call": functools.partial(int, Reduced(touch, text)),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", list(payloads("x")))
def test_code_is_refused_and_not_run(tmp_path, case, zipped):
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    content = {"state_dict": {"a": torch.ones(2)}, "hyper_parameters": payloads(marker)[case]}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match="checkpoint's pickle"):
        read_checkpoint(path)
    assert not marker.exists()


def write_pickle(folder, payload):
    path = folder / "raw.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    return path


@pytest.mark.parametrize(
    "name",
    [b"collections\nCounter", b"torch._utils\n_rebuild_tensor_v2", b"copyreg\n_reconstructor"],
)
def test_build_changes_nothing_shared(tmp_path, name):
    attribute = b"__doc__"
    state = b"N}X" + bytes([len(attribute), 0, 0, 0]) + attribute + b"K\x01s\x86b"
    before = collections.Counter.__doc__, torch._utils._rebuild_tensor_v2.__doc__
    with pytest.raises(UnsafeCheckpointError, match="changes"):
        read_checkpoint(write_pickle(tmp_path, b"\x80\x02c" + name + b"\n" + state + b"."))
    assert (collections.Counter.__doc__, torch._utils._rebuild_tensor_v2.__doc__) == before


def test_no_name_is_imported(tmp_path):
    path = write_pickle(tmp_path, b"\x80\x02}X\x01\x00\x00\x00actorch\n_inductor\ns.")
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


def damaged_files(folder):
    whole = (GOLDEN / "specformer.ckpt").read_bytes()
    contents = {
        "text": b"these are no weights\n" * 20,
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "pickle": pickle.dumps({"a": 1}, protocol=2),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    return folder


@pytest.mark.parametrize("name", ["text", "empty", "half", "pickle", "zip"])
def test_damaged_files(tmp_path, name):
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(damaged_files(tmp_path) / name)


def test_directory_and_missing_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="directory"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.ckpt")
