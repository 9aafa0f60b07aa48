"""Weights files made to harm: each is refused before anything runs or much memory is taken.

Every file goes through `astroclip.load_model`, under a limit of the address space. The canary is
a file that the attacks try to make.
"""

import builtins
import collections
import functools
import io
import json
import operator
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import tempfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import astroclip
from astroclip.exceptions import CheckpointError, UnsafeCheckpointError
from astroclip.models.checkpoints import read_checkpoint

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
ALLOWED_MEMORY = 2**27  # bytes beyond what the process has; the golden file takes 1 MB
CANARY = Path(tempfile.gettempdir()) / f"astroclip-canary-{os.getpid()}"  # attacks try to make it
STATE = torch.load(GOLDEN / "specformer.ckpt", weights_only=True)["state_dict"]


# ---------------------------------------------------------------------- writing files
class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Built:
    """Pickles as an object that is made by a call and then given a state."""

    def __init__(self, function, arguments, state):
        self.parts = function, arguments, state

    def __reduce__(self):
        return self.parts


class Storage:
    """Pickles as the persistent id of a storage."""

    def __init__(self, n_elements, kind=torch.FloatStorage, key="0"):
        self.saved_id = ("storage", kind, key, "cpu", n_elements)


class Tensor(Call):
    """Pickles as a tensor of any storage, offset, size and stride."""

    def __init__(self, storage, size, stride, offset=0):
        super().__init__(
            torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False,
            collections.OrderedDict(),
        )


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return item.saved_id if isinstance(item, Storage) else None


def pickled(content):
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(content)
    return stream.getvalue()


def zipped(pickle_bytes, *, compression=zipfile.ZIP_STORED, **members):
    """Return a checkpoint in the zip format; members are storages by key, "0" by default."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        for key, data in (members or {"0": bytes(16)}).items():
            archive.writestr(f"archive/data/{key}", data)
    return stream.getvalue()


def checkpoint(extra, **members):
    """Return a checkpoint with a tensor and something else, written by hand."""
    tensor = Tensor(Storage(4), (4,), (1,))
    return zipped(pickled({"state_dict": {"a": tensor}, "hyper_parameters": extra}), **members)


def legacy(content, *storages, magic=0x1950A86A20F9469CFC6C):
    """Return a checkpoint in the format before PyTorch 1.6."""
    parts = [pickled(part) for part in (magic, 1001, {"little_endian": True}, content)]
    keys = pickled([str(number) for number in range(len(storages))])
    body = b"".join(struct.pack("<q", n_elements) + data for n_elements, data in storages)
    return b"".join(parts) + keys + body


def raw(*opcodes):
    """Return a checkpoint of a pickle given by its opcodes."""
    return zipped(b"\x80\x04" + b"".join(opcodes) + b".")


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def safetensors(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def configured(config):
    """Return the bundled model's file with another configuration."""
    content = (astroclip.models.weights.DATA / "astroclip-small.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = {"config": config if isinstance(config, str) else json.dumps(config)}
    return safetensors(header, content[8 + length :])


def bundled_config(**changes):
    path = astroclip.models.weights.DATA / "astroclip-small.safetensors"
    config = astroclip.models.weights.read_safetensors(path, framework="np")[1]
    for modality, options in changes.items():
        config[modality] = {**config[modality], **options}
    return config


def make_canary(path):
    Path(path).touch()


# ---------------------------------------------------------------------- the corpus
def calls():
    """Return pickles that would run code, by name."""
    text, build = str(CANARY), {"hooks": Call(make_canary, str(CANARY))}
    tensor = Tensor(Storage(4), (4,), (1,))
    return {
        "os.system": Call(os.system, f"touch {text}"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", text]),
        "eval": Call(builtins.eval, f"open({text!r}, 'w')"),
        "exec": Call(builtins.exec, f"open({text!r}, 'w')"),
        "open": Call(builtins.open, text, "w"),
        "__import__": Call(builtins.__import__, "antigravity"),
        "getattr": Call(builtins.getattr, {}, "keys"),
        "chain of getattr": Call(builtins.getattr, Call(builtins.__import__, "os"), "system"),
        "attrgetter": Call(operator.attrgetter, "system"),
        "methodcaller": Call(operator.methodcaller, "touch"),
        "map": Call(builtins.map, make_canary, [text]),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(make_canary, text))),
        "torch.load": Call(torch.load, text),
        "_load_from_bytes": Call(torch.storage._load_from_bytes, b"x"),
        "_rebuild_from_type_v2": Call(
            torch._tensor._rebuild_from_type_v2, make_canary, int, (text,), {}
        ),
        "rebuild of no storage": Call(
            torch._utils._rebuild_tensor_v2, Call(make_canary, text), 0, (1,), (1,)
        ),
        "numpy.load": Call(np.load, text),
        "function type": Call(types.SimpleNamespace),
        "foreign class": Call(collections.deque, [1]),
        "own function": Call(make_canary, text),
        "in a state": Built(io.StringIO, ("",), build),
        "state of a tensor": Built(
            torch._utils._rebuild_tensor_v2, tensor.arguments, (tensor, 0, (10**9,), (1,))
        ),
        "partial of a call": functools.partial(int, Call(make_canary, text)),
        "key of a dict": {Call(make_canary, text): 1},
    }


CALLS = calls()
SHORT = b"\x8c\x05posix\x8c\x06system"
OPCODES = {
    "GLOBAL and REDUCE": (b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R",),
    "STACK_GLOBAL": (SHORT, b"\x93\x8c\x04true\x85R"),
    "INST": (b"(S'true'\niposix\nsystem\n",),
    "OBJ": (b"(cposix\nsystem\nS'true'\no",),
    "NEWOBJ of a builtin": (b"cbuiltins\ntype\n)\x81",),
    "dotted name": (b"\x8c\x08builtins\x8c\x0ceval.__self__\x93",),
    "extension code": (b"\x82\x01",),
    "text persistent id": (b"P1\n",),
    "persistent id that is no storage": (b"X\x01\x00\x00\x00x\x85Q",),
    "BUILD on a class": (b"ccollections\nOrderedDict\n}X\x04\x00\x00\x00itemK\x01sb",),
    "BUILD on a function": (
        b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x07\x00\x00\x00__doc__K\x01s\x86b",
    ),
    "BUILD on a class of Python": (
        b"ccollections\nCounter\nN}X\x07\x00\x00\x00__doc__K\x01s\x86b",
    ),
    "BUILD on slots of a type": (b"cbuiltins\ndict\nN}X\x04\x00\x00\x00keysK\x01s\x86b",),
    "BUILD on a dtype": (b"ctorch\nfloat32\n}X\x01\x00\x00\x00xK\x01sb",),
    "memo of 2^32 entries": (b"]r\xff\xff\xff\xff",),
    "memo of 10^11 entries": (b"]p99999999999\n",),
    "bytes of a terabyte": (b"\x8e" + struct.pack("<Q", 2**40),),
    "text of an exabyte": (b"\x8d" + struct.pack("<Q", 2**60),),
    "bytearray of a terabyte": (b"\x96" + struct.pack("<Q", 2**40),),
    "frame of an exabyte": (b"\x95" + struct.pack("<Q", 2**60),),
    "integer of two gigabytes": (b"\x8b" + struct.pack("<i", 2**31 - 1),),
    "100,000 nested lists": (b"]" * 10**5 + b"a" * (10**5 - 1),),
    "no pickle": (b"\xff\xfe",),
}

STORED = Storage(4)
TENSORS = {
    "shape of zero stride": Tensor(STORED, (10**12,), (0,)),
    "shape of 2^200": Tensor(STORED, (2**100, 2**100), (0, 0)),
    "shape larger than its storage": Tensor(STORED, (5,), (1,)),
    "negative shape": Tensor(STORED, (-4,), (1,)),
    "negative stride": Tensor(STORED, (4,), (-1,)),
    "stride beyond the storage": Tensor(STORED, (2,), (4,)),
    "offset beyond the storage": Tensor(STORED, (4,), (1,), 1),
    "negative offset": Tensor(STORED, (4,), (1,), -1),
    "shape of text": Tensor(STORED, ("4",), (1,)),
    "shape that is no tuple": Tensor(STORED, 4, 1),
    "fewer strides": Tensor(STORED, (2, 2), (1,)),
    "storage larger than its file": Tensor(Storage(10**12), (4,), (1,)),
    "storage smaller than its file": Tensor(Storage(3), (3,), (1,)),
    "storage of negative size": Tensor(Storage(-4), (4,), (1,)),
    "storage of no size": Tensor(Storage(None), (4,), (1,)),
    "storage of wide numbers": Tensor(Storage(4, torch.DoubleStorage), (4,), (1,)),
    "storage of no type": Tensor(Storage(4, int), (4,), (1,)),
    "storage of quantized numbers": Tensor(Storage(4, torch.QInt8Storage), (4,), (1,)),
    "storage in two ways": [
        Tensor(Storage(4), (4,), (1,)), Tensor(Storage(16, torch.ByteStorage), (16,), (1,)),
    ],
    "storage that is not there": Tensor(Storage(4, key="7"), (4,), (1,)),
    "storage outside the archive": Tensor(Storage(4, key="../../etc/passwd"), (4,), (1,)),
}  # fmt: skip


def other_zips():
    """Return zip files that are no checkpoints, or not as PyTorch writes them, by name."""
    plain = pickled({"state_dict": {"a": Tensor(Storage(2**25), (2**25,), (1,))}})
    whole = (GOLDEN / "specformer.ckpt").read_bytes()
    two = io.BytesIO(checkpoint({}))
    outside = io.BytesIO(checkpoint({}))
    big_endian = io.BytesIO(checkpoint({}))
    script = io.BytesIO(raw(b"c__torch__\nModule\n)\x81"))
    for stream, name, data in (
        (two, "other/data.pkl", pickled({})),
        (outside, "../../outside.txt", b"x"),
        (big_endian, "archive/byteorder", b"big"),
        (script, "archive/code/__torch__.py", b"import os"),
    ):
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr(name, data)
    return {
        "compressed storage of 128 MB": zipped(
            plain, compression=zipfile.ZIP_DEFLATED, **{"0": bytes(2**27)}
        ),
        "compressed pickle": zipped(b"\x80\x02]q\x00." * 10**6, compression=zipfile.ZIP_DEFLATED),
        "two pickles": two.getvalue(),
        "path out of the archive": outside.getvalue(),
        "big-endian": big_endian.getvalue(),
        "TorchScript": script.getvalue(),
        "half a file": whole[: len(whole) // 2],
        "without its beginning": whole[1000:],
        "without its end": whole[:-10],
        "list instead of a dict": zipped(pickled([1, 2])),
        "no tensors": zipped(pickled({"state_dict": {}})),
    }


def legacy_files():
    tensor = {"state_dict": {"a": Tensor(Storage(4), (4,), (1,))}}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    system = Call(os.system, f"touch {CANARY}")
    return {
        "other magic": legacy(tensor, (4, bytes(16)), magic=1),
        "call for a magic": pickled(system),
        "call for a header": pickled(0x1950A86A20F9469CFC6C) + pickled(system),
        "call for the keys": legacy(tensor)[: -len(pickled([]))] + pickled(system),
        "storage of a terabyte": legacy(
            {"state_dict": {"a": Tensor(Storage(2**38), (4,), (1,))}}, (2**38, bytes(16))
        ),
        "storage of negative size": legacy(tensor, (-4, bytes(16))),
        "storage of another size": legacy(tensor, (3, bytes(16))),
        "storage that is cut": legacy(tensor, (4, bytes(9))),
        "storage that is missing": legacy(tensor),
        "storage that no tensor has": legacy({}, (4, bytes(16))),
        "tar": tar.getvalue(),
        "empty": b"",
        "text": b"these are no weights\n" * 20,
    }


def state_files():
    """Return checkpoints that pass the reader and describe no model."""
    blocks = {**STATE, "blocks.999999999.layernorm1.weight": torch.ones(48)}
    digits = {**STATE, f"blocks.{'9' * 5000}.layernorm1.weight": torch.ones(48)}
    flat = {**STATE, "data_embed.weight": torch.ones(0, 22)}
    wide = {**STATE, "data_embed.weight": torch.ones(3)}
    return {
        "block number of 10^9": saved({"state_dict": blocks}),
        "block number of 5000 digits": saved({"state_dict": digits}),
        "width of zero": saved({"state_dict": flat}),
        "weight of one dimension": saved({"state_dict": wide}),
        **{
            f"slices that overlap by {overlap!r}": saved(
                {"state_dict": STATE, "hyper_parameters": {"slice_overlap": overlap}}
            )
            for overlap in ("a", 20, -1)
        },
    }


ONE = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def safetensors_files():
    deep = "[" * 10**5 + "]" * 10**5
    return {
        "header of an exabyte": safetensors(b"{}", length=2**60),
        "header longer than the file": safetensors(b"{}", length=90_000_000),
        "header cut": safetensors({"a": ONE}, bytes(16))[:20],
        "offsets beyond the file": safetensors({"a": ONE}, bytes(8)),
        "offsets that overlap": safetensors({"a": ONE, "b": ONE}, bytes(16)),
        "offsets in reverse": safetensors({"a": {**ONE, "data_offsets": [16, 0]}}, bytes(16)),
        "offsets with a hole": safetensors({"a": {**ONE, "data_offsets": [8, 24]}}, bytes(24)),
        "offsets of 2^64": safetensors({"a": {**ONE, "data_offsets": [0, 2**64 - 1]}}, bytes(16)),
        "negative shape": safetensors({"a": {**ONE, "shape": [-4]}}, bytes(16)),
        "shape that overflows": safetensors({"a": {**ONE, "shape": [2**33, 2**33]}}, bytes(16)),
        "shape of another size": safetensors({"a": {**ONE, "shape": [5]}}, bytes(16)),
        "type that does not exist": safetensors({"a": {**ONE, "dtype": "F37"}}, bytes(16)),
        "no UTF-8": safetensors(b'{"\xff\xfe": 1}'),
        "NaN for JSON": safetensors(b'{"a": NaN}'),
        "list for JSON": safetensors(b"[1, 2]"),
        "deep JSON": safetensors(deep.encode()),
        "no tensors": safetensors({}),
        "bytes after the tensors": safetensors({"a": ONE}, bytes(99)),
        "configuration that is no JSON": configured("{"),
        "configuration of a list": configured([1]),
        "configuration that is deep": configured(deep),
        "configuration of a list of options": configured({"architecture": "small", "spectrum": []}),
        "architecture of a list": configured({"architecture": ["small"]}),
        "architecture that does not exist": configured({"architecture": "large"}),
        "option that does not exist": configured(bundled_config(spectrum={"command": "ls"})),
        "width of a terabyte": configured(bundled_config(spectrum={"width": 2**40})),
        "width of NaN": configured(bundled_config(spectrum={"width": float("nan")})),
        "width of text": configured(bundled_config(spectrum={"width": "24"})),
        "a billion blocks": configured(bundled_config(spectrum={"n_blocks": 10**9})),
        "a billion layers": configured(bundled_config(image={"layers": [10**9] * 4})),
        "a scan to redshift 10^9": configured(bundled_config(spectrum={"scan_largest": 1e9})),
    }


def corpus():
    """Return the bytes of every file, by name."""
    files = {}
    for name, content in CALLS.items():
        files[f"{name}.ckpt"] = checkpoint(content)
        files[f"{name}, legacy.ckpt"] = legacy({"hyper_parameters": content}, (4, bytes(16)))
    files |= {f"{name}.ckpt": raw(*opcodes) for name, opcodes in OPCODES.items()}
    files |= {f"{name}.ckpt": checkpoint(content) for name, content in TENSORS.items()}
    files |= {f"zip, {name}.ckpt": content for name, content in other_zips().items()}
    files |= {f"legacy, {name}.ckpt": content for name, content in legacy_files().items()}
    files |= {f"{name}.ckpt": content for name, content in state_files().items()}
    return files | {f"{name}.safetensors": data for name, data in safetensors_files().items()}


FILES = corpus()


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """Load both kinds of files first: their imports do not count as what a hostile file takes."""
    astroclip.load_model(GOLDEN / "specformer.ckpt", device="cpu")
    astroclip.load_model(device="cpu")


@pytest.fixture
def memory_limit():
    """Limit the address space, so that a large allocation fails at once."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(statistics.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWED_MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def causes(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused(name, tmp_path, memory_limit):
    path = tmp_path / f"file{Path(name).suffix}"
    path.write_bytes(FILES[name])
    CANARY.unlink(missing_ok=True)
    before = set(sys.modules)
    with pytest.raises(CheckpointError) as caught:
        astroclip.load_model(path, device="cpu")
    assert not CANARY.exists()
    assert "antigravity" not in set(sys.modules) - before
    for error in causes(caught.value):  # refused, not failed for want of memory
        assert not isinstance(error, MemoryError), error
        assert "allocate" not in str(error)
    if name.split(",")[0].removesuffix(".ckpt") in CALLS:
        unsafe = isinstance(caught.value, UnsafeCheckpointError)
        assert unsafe or "reconstructs" in str(caught.value)


def test_attributes_of_shared_functions_and_classes_stay(tmp_path):
    shared = (collections.Counter, torch._utils._rebuild_tensor_v2, torch.float32)
    before = [dict(getattr(item, "__dict__", {})) | {"doc": item.__doc__} for item in shared]
    for name in OPCODES:
        path = tmp_path / "file.ckpt"
        path.write_bytes(FILES[f"{name}.ckpt"])
        with pytest.raises(CheckpointError):
            read_checkpoint(path)
    after = [dict(getattr(item, "__dict__", {})) | {"doc": item.__doc__} for item in shared]
    assert after == before


def test_two_to_the_hundred_paths_and_a_cycle_take_no_time(tmp_path):
    bomb = [torch.ones(2)]
    for _ in range(100):
        bomb = [bomb, bomb]
    cycle = []
    cycle.append(cycle)
    torch.save({"bomb": bomb, "cycle": cycle}, tmp_path / "a.ckpt")
    content = read_checkpoint(tmp_path / "a.ckpt")
    assert content["bomb"][0] is content["bomb"][1]
    assert content["cycle"][0] is content["cycle"]
