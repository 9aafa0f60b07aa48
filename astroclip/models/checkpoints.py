"""PyTorch checkpoints, read without running anything that they name.

A checkpoint is a pickle, and unpickling imports and calls whatever the file names. The reader
here builds plain containers and tensors only. Instances of other classes (Lightning keeps whole
modules among its hyper-parameters) become `Foreign` placeholders that hold their state; any other
call is refused. The pickle yields descriptions of tensors; memory for them is taken only after all
their sizes agree with the file's.

`torch.load` is not used. Measured with torch 2.14: ``weights_only=True`` refuses the checkpoint
of the published aligned model (it sets items of Lightning's ``AttributeDict``) and inflates a
compressed file of 0.2 MB to 200 MB; a ``pickle_module`` of one's own is passed over for TorchScript
archives, which torch then loads with their code.
"""

import builtins
import io
import math
import mmap
import pickle
import pickletools
import struct
import zipfile
from pathlib import PurePosixPath

import torch

from astroclip.exceptions import CheckpointError, UnsafeCheckpointError
from astroclip.models.weights import existing_file

__all__ = ["Foreign", "find_foreign", "read_checkpoint"]

DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool",
    )
}  # fmt: skip
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
PLAIN_TYPES = {
    "set", "frozenset", "list", "dict", "tuple", "int", "float", "bool", "str", "complex", "slice",
    "object",
}  # fmt: skip
# harmless pickles of hyper-parameters call these: the arguments are kept, nothing is called
RECORDED_CALLS = {
    "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath",
    "pathlib.PureWindowsPath", "functools.partial", "numpy.dtype",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "torch.device", "torch.Size", "_codecs.encode",
}  # fmt: skip
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # first object of files written before PyTorch 1.6


# ---------------------------------------------------------------------- what a pickle may build
class _ForeignType(type):
    """The type of placeholder classes: calling one would have run foreign code."""

    def __call__(cls, *args, **kwargs):
        if cls.qualified_name not in RECORDED_CALLS:
            msg = (
                f"the checkpoint's pickle calls {cls.qualified_name!r}, which could run code; "
                f"nothing was run. Only files that hold tensors, plain containers and "
                f"instances of model classes are read. Convert the weights to safetensors "
                f"where you trust the file."
            )
            raise UnsafeCheckpointError(msg)
        return cls.__new__(cls, *args, **kwargs)


class Foreign(metaclass=_ForeignType):
    """An instance of a class the file names, which was neither imported nor run.

    Attributes
    ----------
    arguments : tuple
        What it was made with.
    state : dict
        Its attributes; under ``"items"`` and ``"elements"`` what was put into it as into a
        dict or a list.
    """

    qualified_name = ""

    def __new__(cls, *args, **kwargs):
        """Return an instance that keeps the arguments."""
        instance = object.__new__(cls)
        instance.arguments, instance.state = args, dict(kwargs)
        return instance

    def __setstate__(self, state):
        """Keep attributes."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.state.update(part)

    def __setitem__(self, key, value):
        """Keep an item of a dict-like object."""
        self.state.setdefault("items", {})[key] = value

    def append(self, value):
        """Keep an element of a list-like or set-like object."""
        self.state.setdefault("elements", []).append(value)

    add = append

    def extend(self, values):
        """Keep elements of a list-like object."""
        self.state.setdefault("elements", []).extend(values)


class _Sealed:
    """An object whose attributes a pickle may not set."""

    def __setstate__(self, state):
        msg = "the checkpoint's pickle changes a function or a tensor; refused."
        raise UnsafeCheckpointError(msg)


class _Function(_Sealed):
    """A function that a pickle may call.

    BUILD sets attributes of whatever it is given, so a pickle must never hold the function
    itself, nor a class written in Python: both are shared by the whole process.
    """

    __slots__ = ("_run",)

    def __init__(self, run):
        self._run = run

    def __call__(self, *args):
        return self._run(*args)


class _Storage(_Sealed):
    """Where a tensor's numbers are in the file, as the pickle says."""

    __slots__ = ("dtype", "key", "n_elements")

    def __init__(self, dtype, key, n_elements):
        self.dtype, self.key, self.n_elements = dtype, key, n_elements


class _TensorRecord(_Sealed):
    """A tensor as the pickle describes it: part of a storage."""

    __slots__ = ("storage", "offset", "size", "stride")

    def __init__(self, storage, offset, size, stride, *rest):
        numbers = (offset, *size, *stride)
        if (
            not isinstance(storage, _Storage)
            or len(size) != len(stride)
            or not all(isinstance(number, int) and number >= 0 for number in numbers)
        ):
            msg = "the checkpoint's pickle rebuilds a tensor from something that is no storage."
            raise UnsafeCheckpointError(msg)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        # without the first condition a stride of zero makes petabytes of a few bytes
        if math.prod(size) > storage.n_elements or (0 not in size and last >= storage.n_elements):
            msg = (
                f"the checkpoint's pickle describes a tensor of shape {tuple(size)}, which does "
                f"not fit its storage of {storage.n_elements} elements."
            )
            raise CheckpointError(msg)
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride


class _Dict(dict):
    """A dict of the file; attributes that PyTorch gives state dicts are dropped."""

    def __setstate__(self, state):
        """Keep nothing."""


def _reconstruct(cls, base, state):
    """Stand in for ``copyreg._reconstructor``: make a placeholder, call nothing."""
    if not isinstance(cls, _ForeignType):
        msg = "the checkpoint's pickle reconstructs an object that is no model class."
        raise UnsafeCheckpointError(msg)
    return cls.__new__(cls)


FUNCTIONS = {
    "torch._utils._rebuild_tensor": _TensorRecord,
    "torch._utils._rebuild_tensor_v2": _TensorRecord,
    "torch._utils._rebuild_parameter": lambda data, *rest: data,
    "collections.OrderedDict": lambda items=(): _Dict(items),
    "collections.Counter": lambda counts=(): _Dict(counts),
    "copyreg._reconstructor": _reconstruct,
    "copy_reg._reconstructor": _reconstruct,
}


class _Unpickler(pickle.Unpickler):
    """Builds plain containers, descriptions of tensors and placeholders; imports nothing."""

    def __init__(self, file, storages):
        super().__init__(file, encoding="utf-8")
        self._storages, self._classes = storages, {}

    def find_class(self, module, name):
        qualified = f"{module}.{name}"
        if qualified in FUNCTIONS:
            return _Function(FUNCTIONS[qualified])
        if module in ("torch", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and name in DTYPES:  # torch's own getattr would import submodules
            return DTYPES[name]
        if module in ("builtins", "__builtin__"):
            if name in PLAIN_TYPES:
                return getattr(builtins, name)
            msg = (
                f"the checkpoint's pickle names {qualified!r}, which could run code; nothing was "
                f"run. Expected tensors, plain containers and model classes only."
            )
            raise UnsafeCheckpointError(msg)
        if qualified not in self._classes:
            self._classes[qualified] = _ForeignType(
                name.split(".")[-1], (Foreign,), {"qualified_name": qualified}
            )
        return self._classes[qualified]

    def persistent_load(self, saved_id):
        what, dtype, key, _, n_elements = saved_id[:5]
        if (
            what != "storage"
            or not isinstance(dtype, torch.dtype)
            or not isinstance(key, str)
            or not isinstance(n_elements, int)
        ):
            msg = f"the checkpoint's pickle refers to {saved_id!r}; expected a tensor's storage."
            raise CheckpointError(msg)
        storage = self._storages.setdefault(key, _Storage(dtype, key, n_elements))
        if (storage.dtype, storage.n_elements) != (dtype, n_elements):
            msg = f"the checkpoint's pickle describes storage {key!r} in two ways."
            raise CheckpointError(msg)
        return storage


def _unpickle(file, storages):
    """Return the object of the pickle that begins where ``file`` (a buffer in memory) stands.

    The C unpickler allocates what lengths and memo indices ask for before it sees the data,
    64 GB for seven bytes; `pickletools.genops` takes only bytes that are there.
    """
    start, largest = file.tell(), 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            largest = max(largest, argument)
    stop = file.tell()
    if largest > stop - start:  # honest writers count their entries
        msg = f"the pickle's memo has an index of {largest} in {stop - start} bytes"
        raise ValueError(msg)
    file.seek(start)
    return _Unpickler(io.BytesIO(file.read(stop - start)), storages).load()


# ---------------------------------------------------------------------- files
def read_checkpoint(path):
    """Read a PyTorch checkpoint without importing or running anything it names.

    Parameters
    ----------
    path : path-like
        A file written by ``torch.save`` (zip or legacy format).

    Returns
    -------
    dict
        Tensors on the CPU, plain containers, and `Foreign` placeholders.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    UnsafeCheckpointError
        If the pickle would call anything but a tensor's constructor.
    CheckpointError
        If the file is no checkpoint, or damaged, or its sizes contradict each other.
    """
    path = existing_file(path)
    try:
        content = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        msg = (
            f"weights file {str(path)!r} is no readable PyTorch checkpoint "
            f"({type(error).__name__}: {error}). Check that it is complete, or pass a "
            f".safetensors file."
        )
        raise CheckpointError(msg) from error
    if not isinstance(content, dict):
        msg = (
            f"weights file {str(path)!r} holds an object of type {type(content).__name__}; "
            f"expected a dict of tensors."
        )
        raise CheckpointError(msg)
    return content


def _read_zip(path):
    """Read the zip format: ``data.pkl`` and one member per storage, none compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if PurePosixPath(name).name == "data.pkl"]
        if len(pickles) != 1:
            msg = f"weights file {str(path)!r} is a zip file without a PyTorch checkpoint in it."
            raise CheckpointError(msg)
        outside = [name for name in members if ".." in name.split("/") or name.startswith("/")]
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
        total = sum(member.file_size for member in members.values())
        if outside or packed or total > path.stat().st_size:
            msg = (
                f"weights file {str(path)!r} is a zip file that is compressed, longer than the "
                f"file or has paths out of it; PyTorch writes none of these."
            )
            raise CheckpointError(msg)
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in members and archive.read(order) not in (b"little", b""):
            msg = f"weights file {str(path)!r} is big-endian; expected little-endian tensors."
            raise CheckpointError(msg)
        storages = {}
        content = _unpickle(io.BytesIO(archive.read(pickles[0])), storages)
        raw = {
            key: _checked(storage, archive.read(f"{folder}data/{key}"))
            for key, storage in storages.items()
        }
        return _with_tensors(content, raw, {})


def _read_legacy(path):
    """Read the format before PyTorch 1.6: three headers, the pickle, then the storages."""
    with (
        path.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file,
    ):
        if _unpickle(file, {}) != LEGACY_MAGIC:
            msg = "it does not begin like a PyTorch checkpoint"
            raise ValueError(msg)
        _unpickle(file, {})  # version of the format
        _unpickle(file, {})  # byte order and sizes of types
        storages, raw = {}, {}
        content = _unpickle(file, storages)
        for key in _unpickle(file, {}):
            (n_elements,) = struct.unpack("<q", file.read(8))
            n_bytes = n_elements * storages[key].dtype.itemsize
            if not 0 <= n_bytes <= len(file) - file.tell():
                msg = f"storage {key!r} claims {n_elements} elements, more than the file holds"
                raise ValueError(msg)
            raw[key] = _checked(storages[key], file.read(n_bytes))
        return _with_tensors(content, raw, {})


def _checked(storage, raw):
    """Return the bytes of a storage if there are as many as the pickle says."""
    if len(raw) != storage.n_elements * storage.dtype.itemsize:
        msg = (
            f"storage {storage.key!r} has {len(raw)} bytes; its pickle says {storage.n_elements} "
            f"elements of {storage.dtype}"
        )
        raise ValueError(msg)
    return bytearray(raw)


def _with_tensors(value, raw, seen):
    """Return a value of the pickle with tensors, views of their storages, for their records.

    ``seen`` keeps what containers became by their identity: a pickle of a hundred bytes can
    hold a list of lists with 2^100 paths through it, or a list that holds itself.
    """
    if isinstance(value, _TensorRecord):
        data, storage = raw[value.storage.key], value.storage
        if not data:
            return torch.empty(value.size, dtype=storage.dtype)
        flat = torch.frombuffer(data, dtype=storage.dtype)
        return torch.as_strided(flat, value.size, value.stride, value.offset)
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = value
    if isinstance(value, dict):
        for key in value:
            value[key] = _with_tensors(value[key], raw, seen)
    elif isinstance(value, list):
        value[:] = [_with_tensors(item, raw, seen) for item in value]
    elif isinstance(value, tuple):
        seen[id(value)] = tuple(_with_tensors(item, raw, seen) for item in value)
    elif isinstance(value, Foreign):
        value.state = _with_tensors(value.state, raw, seen)
    return seen[id(value)]


def find_foreign(content, class_name):
    """Return all placeholders of a class in nested containers and placeholders, nearest first.

    Parameters
    ----------
    content : object
        What `read_checkpoint` returned, or part of it.
    class_name : str
        Last part of the class's name.

    Returns
    -------
    list of `Foreign`
    """
    matches, level, seen = [], [content], set()
    while level:
        following = []
        for item in level:
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, Foreign):
                if type(item).__name__ == class_name:
                    matches.append(item)
                item = item.state
            if isinstance(item, dict):
                following += item.values()
            elif isinstance(item, list | tuple):
                following += item
        level = following
    return matches
