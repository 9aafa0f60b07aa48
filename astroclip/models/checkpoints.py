"""PyTorch checkpoints, read without running anything.

A PyTorch checkpoint is a pickle, and unpickling imports and calls whatever the file
names. The reader here builds tensors and plain containers only. Instances of foreign
classes (Lightning keeps whole modules among its hyper-parameters) become inert
placeholders that hold their state; a call of anything else is refused.
"""

import collections
import io
import pickle
import struct
import zipfile

import torch

from astroclip.exceptions import CheckpointError, UnsafeCheckpointError
from astroclip.models.weights import existing_file

__all__ = ["Foreign", "find_foreign", "read_checkpoint"]

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
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
DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool",
    )
}
PLAIN = {
    "set": set,
    "frozenset": frozenset,
    "list": list,
    "dict": dict,
    "tuple": tuple,
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "complex": complex,
    "slice": slice,
}
# Called by harmless pickles of hyper-parameters; recorded here, never called.
RECORDED = {
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.PurePosixPath",
    "pathlib.WindowsPath",
    "pathlib.PureWindowsPath",
    "functools.partial",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "torch.device",
    "torch.Size",
    "_codecs.encode",
}
BUILTIN_MODULES = ("builtins", "__builtin__")
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _ForeignType(type):
    """The type of placeholder classes: calling one would have run foreign code."""

    def __call__(cls, *args, **kwargs):
        if cls.qualified_name not in RECORDED:
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
        Its attributes, and under ``"items"`` what was put into it as a container.
    """

    qualified_name = ""

    def __new__(cls, *args, **kwargs):
        """Return an instance that keeps the arguments."""
        instance = object.__new__(cls)
        instance.arguments = args
        instance.state = dict(kwargs)
        return instance

    def __setstate__(self, state):
        """Keep attributes."""
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.state.update(part)

    def __setitem__(self, key, value):
        """Keep an item of a dict-like object."""
        self.state.setdefault("items", {})[_hashable(key)] = value

    def append(self, value):
        """Keep an element of a list-like object."""
        self.state.setdefault("elements", []).append(value)

    def extend(self, values):
        """Keep elements of a list-like object."""
        self.state.setdefault("elements", []).extend(values)

    def add(self, value):
        """Keep an element of a set-like object."""
        self.append(value)


def _hashable(key):
    return key if isinstance(key, str | int | float | bool | tuple) else repr(type(key))


def _rebuild_tensor(storage, offset, size, stride, *rest):
    """Return a tensor as a view of its storage, copied so that it owns its memory."""
    if not isinstance(storage, torch.Tensor):
        msg = "the checkpoint's pickle rebuilds a tensor from something that is no storage."
        raise UnsafeCheckpointError(msg)
    return torch.as_strided(storage, tuple(size), tuple(stride), int(offset)).clone()


def _rebuild_parameter(data, *rest):
    return data


def _reconstruct(cls, base, state):
    """Stand in for ``copyreg._reconstructor``: make a placeholder, call nothing."""
    if not isinstance(cls, _ForeignType):
        msg = "the checkpoint's pickle reconstructs an object that is no model class."
        raise UnsafeCheckpointError(msg)
    return cls.__new__(cls)


def _counter(counts=()):
    return dict(counts)


class _Function:
    """A function a pickle may call and may not change.

    BUILD sets attributes of whatever it is given, so a file must never hold the function
    itself, nor a class written in Python: both are shared by the whole process.
    """

    __slots__ = ("_run",)

    def __init__(self, run):
        object.__setattr__(self, "_run", run)

    def __call__(self, *args):
        return self._run(*args)

    def __setstate__(self, state):
        """Refuse to be changed."""
        msg = "the checkpoint's pickle changes a function; refused."
        raise UnsafeCheckpointError(msg)


ALLOWED = {
    "torch._utils._rebuild_tensor_v2": _Function(_rebuild_tensor),
    "torch._utils._rebuild_tensor": _Function(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Function(_rebuild_parameter),
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": _Function(_counter),
    "copyreg._reconstructor": _Function(_reconstruct),
    "copy_reg._reconstructor": _Function(_reconstruct),
    "builtins.object": object,
    "__builtin__.object": object,
}


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds tensors, plain containers and placeholders; imports nothing it is told to."""

    def __init__(self, file, load_storage):
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage
        self._classes = {}

    def find_class(self, module, name):
        qualified = f"{module}.{name}"
        if qualified in ALLOWED:
            return ALLOWED[qualified]
        if module in BUILTIN_MODULES and name in PLAIN:
            return PLAIN[name]
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if module == "torch" and name in DTYPES:  # torch's own getattr would import submodules
            return DTYPES[name]
        if module in BUILTIN_MODULES:
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
        if not (isinstance(saved_id, tuple) and saved_id and saved_id[0] == "storage"):
            msg = f"the checkpoint's pickle refers to {saved_id!r}; expected a tensor's storage."
            raise CheckpointError(msg)
        dtype, key = saved_id[1], saved_id[2]
        if not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            msg = f"the checkpoint's pickle names the storage {saved_id!r} of an unknown type."
            raise CheckpointError(msg)
        return self._load_storage(dtype, key, saved_id)


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
        If the file is no checkpoint, or damaged.
    """
    path = existing_file(path)
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                content = _read_zip(path)
            else:
                file.seek(0)
                content = _read_legacy(file)
    except (UnsafeCheckpointError, CheckpointError):
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
    """Read the zip format: ``data.pkl`` and one file per storage."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            msg = f"weights file {str(path)!r} is a zip file without a PyTorch checkpoint in it."
            raise CheckpointError(msg)
        folder = pickles[0][: -len("data.pkl")]
        order = f"{folder}byteorder"
        if order in names and archive.read(order) not in (b"little", b""):
            msg = f"weights file {str(path)!r} is big-endian; expected little-endian tensors."
            raise CheckpointError(msg)
        cache = {}

        def load(dtype, key, _):
            if key not in cache:
                raw = bytearray(archive.read(f"{folder}data/{key}"))
                cache[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0).to(dtype)
            return cache[key]

        return _RestrictedUnpickler(io.BytesIO(archive.read(pickles[0])), load).load()


def _read_legacy(file):
    """Read the format before PyTorch 1.6: three headers, the pickle, then the storages."""
    storages = {}

    def load(dtype, key, saved_id):
        if key not in storages:
            storages[key] = torch.zeros(int(saved_id[4]), dtype=dtype)
        return storages[key]

    def part():
        return _RestrictedUnpickler(file, load).load()

    if part() != LEGACY_MAGIC:
        msg = "it does not begin like a PyTorch checkpoint"
        raise ValueError(msg)
    part(), part()
    pending = _LegacyTensors()
    content = _LegacyUnpickler(file, load, pending).load()
    for key in part():
        (n_elements,) = struct.unpack("<q", file.read(8))
        storage = storages[key]
        raw = bytearray(file.read(n_elements * storage.element_size()))
        storage[:n_elements] = torch.frombuffer(raw, dtype=storage.dtype)
    pending.fill()
    return content


class _LegacyTensors:
    """Tensors made before their storages were read: copied when they are."""

    def __init__(self):
        self._views = []

    def rebuild(self, storage, offset, size, stride, *rest):
        if not isinstance(storage, torch.Tensor):
            msg = "the checkpoint's pickle rebuilds a tensor from something that is no storage."
            raise UnsafeCheckpointError(msg)
        view = torch.as_strided(storage, tuple(size), tuple(stride), int(offset))
        tensor = torch.empty_like(view)
        self._views.append((tensor, view))
        return tensor

    def fill(self):
        for tensor, view in self._views:
            tensor.copy_(view)


class _LegacyUnpickler(_RestrictedUnpickler):
    def __init__(self, file, load_storage, pending):
        super().__init__(file, load_storage)
        self._pending = pending

    def find_class(self, module, name):
        found = super().find_class(module, name)
        is_rebuild = isinstance(found, _Function) and found._run is _rebuild_tensor
        return _Function(self._pending.rebuild) if is_rebuild else found


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
    found, level, seen = [], [content], set()
    while level:
        following = []
        for item in level:
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, Foreign):
                if type(item).__name__ == class_name:
                    found.append(item)
                following += list(item.state.values())
            elif isinstance(item, dict):
                following += list(item.values())
            elif isinstance(item, list | tuple):
                following += list(item)
        level = following
    return found
