"""Read weights files of three formats into one form, without running anything they hold.

PyTorch's zip archives (since 1.6), its older stream of pickles, and safetensors. Tensors
are read when asked for, so optimizer states and duplicates cost nothing.
"""

import json
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from astroclip.exceptions import CheckpointError
from astroclip.models.unpickling import DTYPES, LazyTensor, restricted_load

__all__ = ["Checkpoint", "read_checkpoint"]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STATE_KEYS = ("state_dict", "teacher", "model", "model_state_dict")
RECORD_KEYS = ("hyper_parameters", "config")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weights file holds.

    Attributes
    ----------
    path : `~pathlib.Path`
    tensors : dict of str to object
        Each value has ``shape``, ``dtype`` and ``read()``, which returns a `torch.Tensor`.
    entry : str
        Under which entry of the file the tensors were found, such as ``"state_dict"``.
    records : dict
        Numbers and names recorded beside the weights (Lightning's hyper_parameters).
    config : dict
        The JSON that files of this package carry in their metadata.
    """

    path: Path
    tensors: dict
    entry: str
    records: dict
    config: dict


def read_checkpoint(path):
    """Read a weights file without running or importing anything that it names.

    Parameters
    ----------
    path : path-like
        A PyTorch checkpoint (zip archive or the older format) or a safetensors file; the
        content decides, not the suffix.

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        If the file is missing, a directory, truncated or of another kind.
    UnsafeCheckpointError
        If its pickle would run code. Nothing was run.
    """
    path = Path(path)
    if path.is_dir():
        msg = f"{path} is a directory; expected a weights file."
        raise CheckpointError(msg)
    if not path.is_file():
        msg = f"{path} does not exist; expected a weights file."
        raise CheckpointError(msg)
    with path.open("rb") as file:
        start = file.read(16)
    if start[:4] == b"PK\x03\x04":
        return _from_root(path, _read_zip(path))
    if start[:1] == b"\x80":
        return _from_root(path, _read_legacy(path))
    if start[8:9] == b"{":
        return _read_safetensors(path)
    what = "is empty" if not start else f"starts with {start!r}"
    msg = (
        f"{path} is not a weights file: it {what}. Expected a PyTorch checkpoint or a "
        f"safetensors file; a small text file may be a pointer left by an unfinished download."
    )
    raise CheckpointError(msg)


def _from_root(path, root):
    """Return the Checkpoint of an unpickled object."""
    entries = [(key, root[key]) for key in STATE_KEYS if isinstance(root, dict) and key in root]
    for entry, content in [*entries, ("", root)]:
        if not isinstance(content, dict):
            continue
        tensors = {k: v for k, v in content.items() if isinstance(v, LazyTensor)}
        if tensors:
            records = next((root[k] for k in RECORD_KEYS if isinstance(root.get(k), dict)), {})
            return Checkpoint(path, tensors, entry, records, {})
    found = ", ".join(map(repr, list(root)[:8])) if isinstance(root, dict) else type(root).__name__
    msg = (
        f"{path} holds no named tensors; expected them under one of {', '.join(STATE_KEYS)} or "
        f"at the top, and found {found}."
    )
    raise CheckpointError(msg)


def _damaged(path, error):
    msg = f"{path} is truncated or damaged ({error}). Download or copy it again."
    return CheckpointError(msg)


# ---------------------------------------------------------------------- zip archives
def _read_zip(path):
    """Return the object in a PyTorch zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            roots = [name[: -len("data.pkl")] for name in members if name.endswith("/data.pkl")]
            if len(roots) != 1:
                msg = f"{path} is a zip archive, but not a PyTorch checkpoint: it has no data.pkl."
                raise CheckpointError(msg)
            root = roots[0]
            order = members.get(root + "byteorder")
            if order is not None and archive.read(order).decode() != sys.byteorder:
                msg = f"{path} was written on a machine of the other byte order."
                raise CheckpointError(msg)

            def read_storage(key):
                return _read_member(path, members, f"{root}data/{key}")

            with archive.open(root + "data.pkl") as file:
                return restricted_load(file, read_storage, name=str(path))
    except (zipfile.BadZipFile, EOFError, OSError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _read_member(path, members, name):
    """Return the bytes of one storage of a zip archive."""
    info = members.get(name)
    if info is None or info.compress_type != zipfile.ZIP_STORED:
        raise _damaged(path, f"storage {name!r} is missing or compressed")
    content = bytearray(info.file_size)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            n_bytes = file.readinto(content)
            while 0 < n_bytes < len(content):
                step = file.readinto(memoryview(content)[n_bytes:])
                if not step:
                    break
                n_bytes += step
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    if n_bytes != len(content):
        raise _damaged(path, f"storage {name!r} is short")
    return content


# ---------------------------------------------------------------------- older format
def _read_legacy(path):
    """Return the object in PyTorch's older format.

    Five pickles follow each other (magic number, version, system, the object, the keys of
    its storages), then each storage's length and numbers.
    """
    places = {}

    def read_storage(key):
        if key not in places:
            raise _damaged(path, f"storage {key!r} is missing")
        offset, n_bytes = places[key]
        with path.open("rb") as file:
            file.seek(offset)
            return bytearray(file.read(n_bytes))

    dtypes = {}
    with path.open("rb") as file:
        parts = []
        for _ in range(5):
            parts.append(restricted_load(file, read_storage, name=str(path)))
            if parts[0] != LEGACY_MAGIC:
                msg = f"{path} is a pickle, but not a PyTorch checkpoint."
                raise CheckpointError(msg)
        _collect_storages(parts[3], dtypes)
        keys = parts[4] if isinstance(parts[4], list) else []
        for key in map(str, keys):
            head = file.read(8)
            if len(head) < 8:
                raise _damaged(path, "storages are missing")
            n_bytes = struct.unpack("<q", head)[0] * dtypes.get(key, DTYPES["uint8"]).itemsize
            places[key] = (file.tell(), n_bytes)
            if n_bytes < 0 or file.tell() + n_bytes > path.stat().st_size:
                raise _damaged(path, f"storage {key!r} is short")
            file.seek(n_bytes, 1)
    return parts[3]
