"""A reader of pickles that runs nothing they name.

A checkpoint's pickle is a program for a stack machine: it names callables and applies them.
Here only the handful that rebuild tensors and plain containers exist, each a function of
this module. Every other class becomes an inert stand-in that keeps its name and state, so
that numbers recorded beside the weights can be read; every other function is refused.
No name in the file is ever imported.
"""

import pickle
from collections import OrderedDict

import torch

from astroclip.exceptions import CheckpointError, UnsafeCheckpointError

__all__ = ["ForeignObject", "LazyTensor", "StorageRecord", "restricted_load"]

DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16",
        "int64", "int32", "int16", "int8", "uint8", "bool",
    )
}
STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "UntypedStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Packages whose classes the published checkpoints hold. Applying one of their classes to
# arguments gives a stand-in too; a function of theirs is refused like any other.
REFERENCE_PACKAGES = (
    "astroclip.", "dinov2.", "lightning.", "pytorch_lightning.", "omegaconf.", "torch.nn.modules.",
)
# Values that pickle as a call and say nothing about weights: a stand-in replaces each.
INERT_CALLS = {
    "torch.device",
    "torch.Size",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
}


# Modules that no weights file has a reason to name, even without applying anything.
REFUSED_MODULES = {
    "code", "codeop", "ctypes", "importlib", "marshal", "nt", "os", "pickle", "posix", "pty",
    "runpy", "shutil", "socket", "subprocess", "sys", "webbrowser",
}
PLAIN_TYPES = {
    "bool", "bytearray", "bytes", "complex", "dict", "float", "int", "list", "object", "range",
    "slice", "str", "tuple", "type",
}


def _refuse(name):
    msg = (
        f"the checkpoint asks to run {name!r}, which rebuilds no tensor; refused, and nothing "
        f"was run. Do not open this file with other software. If you trust its source, ask "
        f"there for the weights as safetensors."
    )
    raise UnsafeCheckpointError(msg)


class ForeignType(type):
    """The type of stand-in classes; calling one as a function is refused."""

    def __call__(cls, *args, **kwargs):
        _refuse(cls.qualified_name)


class ForeignObject(metaclass=ForeignType):
    """Stand-in for an object of a class that this package does not import.

    Attributes
    ----------
    qualified_name : str
        Module and name of the class in the file.
    state : object
        What the file gives as its state: a dict for most classes.
    items : dict
        What the file puts into it, if it is a mapping.
    """

    qualified_name = ""

    def __new__(cls, *args, **kwargs):
        self = object.__new__(cls)
        self.__dict__.update(state={}, items={})
        return self

    def __call__(self, *args, **kwargs):
        _refuse(self.qualified_name)

    def __setstate__(self, state):
        self.__dict__["state"] = state

    def __setitem__(self, key, value):
        self.items[key] = value

    def append(self, value):
        """Take one element of a foreign list or set and drop it."""

    extend = add = append

    def child(self, name):
        """Return a submodule of a foreign `torch.nn.Module`, or None."""
        return self._entries("_modules").get(name)

    def number(self, *names):
        """Return the first of these attributes or items that is an int, or None."""
        for entries in (self.state, self.items):
            for name in names:
                value = entries.get(name) if isinstance(entries, dict) else None
                if type(value) is int:
                    return value
        return None

    def attribute(self, name):
        """Return an attribute, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None

    def _entries(self, name):
        entries = self.attribute(name)
        return entries if isinstance(entries, dict) else {}


class StorageRecord:
    """Where the numbers of one or more tensors lie; read on demand.

    Parameters
    ----------
    key : str
        Name of the storage in the file.
    dtype : `torch.dtype`
    read : callable
        Returns the bytes of the storage of that name as a `bytearray`.
    """

    def __init__(self, key, dtype, read):
        self.key, self.dtype, self._read = key, dtype, read
        self._content = None

    def tensor(self, dtype):
        """Return the storage's numbers as a flat tensor."""
        if self._content is None:
            self._content = self._read(self.key)
        content = self._content
        if len(content) % dtype.itemsize:
            msg = f"the checkpoint's storage {self.key!r} is damaged: {len(content)} bytes."
            raise CheckpointError(msg)
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


class LazyTensor:
    """A tensor of a checkpoint that is read when asked for.

    Attributes
    ----------
    shape : tuple of int
    dtype : `torch.dtype`
    """

    def __init__(self, storage, offset, shape, stride, dtype):
        self.storage, self.offset, self.stride = storage, offset, stride
        self.shape, self.dtype = shape, dtype

    def read(self):
        """Return the `torch.Tensor`."""
        flat = self.storage.tensor(self.dtype)
        try:
            return flat.as_strided(self.shape, self.stride, self.offset)
        except RuntimeError as error:
            msg = (
                f"the checkpoint is damaged: a tensor of shape {self.shape} does not fit into "
                f"storage {self.storage.key!r} of {flat.numel()} numbers."
            )
            raise CheckpointError(msg) from error


# ------------------------------------------------------------ the callables that exist
def _is_sizes(value):
    return isinstance(value, tuple | list) and all(type(v) is int and v >= 0 for v in value)


def _rebuild_tensor(storage, offset, shape, stride, *rest, dtype=None):
    if not isinstance(storage, StorageRecord):
        _refuse("torch._utils._rebuild_tensor_v2 on something that is not a storage")
    if isinstance(shape, ForeignObject) or not (_is_sizes(shape) and _is_sizes(stride)):
        msg = f"the checkpoint is damaged: a tensor has shape {shape!r} and stride {stride!r}."
        raise CheckpointError(msg)
    return LazyTensor(storage, int(offset), tuple(shape), tuple(stride), dtype or storage.dtype)


def _rebuild_tensor_of_dtype(storage, offset, shape, stride, grad, hooks, dtype, *rest):
    if dtype not in DTYPES.values():
        msg = f"the checkpoint holds a tensor of type {dtype!r}; expected one of {sorted(DTYPES)}."
        raise CheckpointError(msg)
    return _rebuild_tensor(storage, offset, shape, stride, dtype=dtype)


def _rebuild_parameter(data, *rest):
    return data


def _rebuild_from_type(function, kind, args, state=None):
    if not isinstance(function, Builder):
        _refuse("torch._tensor._rebuild_from_type_v2 of a function that rebuilds no tensor")
    return function(*args)


def _reconstruct(kind, base, state):
    if not isinstance(kind, ForeignType):
        _refuse("copyreg._reconstructor of a class that is not inert")
    return kind.__new__(kind)


def _encode(text, encoding="utf-8"):
    if not isinstance(text, str) or encoding not in ("latin1", "utf-8"):
        _refuse("_codecs.encode of something that is not text")
    return text.encode(encoding)


def _default_dict(factory=None, *rest):
    return {}


class Builder:
    """One of this module's functions under the name that pickles use for it."""

    __slots__ = ("function",)

    def __init__(self, function):
        object.__setattr__(self, "function", function)

    def __call__(self, *args):
        return self.function(*args)

    def __setattr__(self, name, value):
        _refuse(f"assignment to {name}")

    def __setstate__(self, state):
        _refuse("assignment to a function")


class StorageType:
    """The name of a storage class; only its number type matters."""

    __slots__ = ("dtype",)

    def __init__(self, dtype):
        self.dtype = dtype

    def __call__(self, *args):
        _refuse("a torch storage class")

    def __setstate__(self, state):
        _refuse("assignment to a torch storage class")


BUILDERS = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_of_dtype,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _default_dict,
    "collections.Counter": _default_dict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstruct,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler whose names all resolve to objects of this module."""

    def __init__(self, file, read_storage):
        super().__init__(file, encoding="utf-8")
        self._read_storage = read_storage
        self._foreign = {}
        self._storages = {}

    def find_class(self, module, name):
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if full in BUILDERS:
            return Builder(BUILDERS[full])
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return StorageType(STORAGE_DTYPES[name])
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        plain = module == "builtins" and name in PLAIN_TYPES
        if module.split(".")[0] in REFUSED_MODULES or (module == "builtins" and not plain):
            _refuse(full)
        return self._stand_in(module, name, full)

    def _stand_in(self, module, name, full):
        if full not in self._foreign:
            kind = ForeignType(str(name), (ForeignObject,), {"qualified_name": full})
            is_class = name.rsplit(".", 1)[-1][:1].isupper()
            known = f"{module}.".startswith(REFERENCE_PACKAGES) and is_class
            if full in INERT_CALLS or known:
                # __new__ alone: calling the type itself stays refused
                kind = InertType(str(name), (kind,), {})
            self._foreign[full] = kind
        return self._foreign[full]

    def persistent_load(self, pid):
        if not (isinstance(pid, tuple) and len(pid) >= 4 and pid[0] == "storage"):
            msg = "the checkpoint is damaged: it refers to something that is not a storage."
            raise CheckpointError(msg)
        kind, key = pid[1], str(pid[2])
        if not isinstance(kind, StorageType):
            msg = f"the checkpoint holds a storage of unknown type {kind!r}."
            raise CheckpointError(msg)
        if key not in self._storages:
            self._storages[key] = StorageRecord(key, kind.dtype, self._read_storage)
        return self._storages[key]


class InertType(ForeignType):
    """The type of stand-in classes that may be called: the result is a stand-in again."""

    def __call__(cls, *args, **kwargs):
        return cls.__new__(cls)


def restricted_load(file, read_storage, *, name="the checkpoint"):
    """Read one pickle without running or importing anything that it names.

    Parameters
    ----------
    file : binary file
    read_storage : callable
        Returns the bytes (`bytearray`) of the storage of a given key.
    name : str, optional
        How errors name the file.

    Returns
    -------
    object
        Plain containers, strings and numbers; a `LazyTensor` for each tensor, and a
        `ForeignObject` for each object of any other class.

    Raises
    ------
    UnsafeCheckpointError
        If the pickle applies a function that is not one of the known rebuilders.
    CheckpointError
        If the pickle is damaged.
    """
    try:
        return RestrictedUnpickler(file, read_storage).load()
    except CheckpointError as error:
        raise type(error)(f"{name}: {error}") from None
    except (
        pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError,
        LookupError, MemoryError, RecursionError, TypeError, ValueError,
    ) as error:
        msg = f"{name} is damaged: its pickle cannot be read ({error})."
        raise CheckpointError(msg) from error
