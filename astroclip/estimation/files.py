"""Files of heads: one zip archive of arrays and JSON, checksummed, without pickle."""

import hashlib
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

__all__ = ["read_archive", "write_archive"]

HEADER, SETTINGS, ARRAYS = "header.json", "settings.json", "arrays.npz"
# what zipfile, json and numpy raise for files that are damaged or something else
DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, KeyError, OSError, RuntimeError,
    ValueError,
)  # fmt: skip


def write_archive(path, settings, arrays, *, format_name, version):
    """Write settings and arrays to one file, complete or not at all.

    Parameters
    ----------
    path : path-like
        An existing file is replaced.
    settings : dict
        Of what JSON can hold.
    arrays : dict of str to `numpy.ndarray`
        Of numbers, bool or text.
    format_name, version : str
        What the file says it is.
    """
    path = Path(path)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    parts = {SETTINGS: json.dumps(settings, indent=1).encode(), ARRAYS: stream.getvalue()}
    header = {"format": format_name, "version": version, "sha256": _checksum(parts)}
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(HEADER, json.dumps(header))
                for name, content in parts.items():
                    archive.writestr(name, content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_archive(path, *, format_name, version, maker):
    """Read a file that `write_archive` wrote.

    Parameters
    ----------
    path : path-like
    format_name, version : str
        What the file must say it is.
    maker : str
        What writes such files, for messages.

    Returns
    -------
    settings : dict
    arrays : dict of str to `numpy.ndarray`

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is another one, of another version, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"path {str(path)!r} is no file; expected one written by {maker}."
        raise FileNotFoundError(msg)
    header, parts = _read_parts(path, maker)
    if header.get("format") != format_name:
        msg = (
            f"path {str(path)!r} is a file of format {header.get('format')!r}; expected "
            f"{format_name!r}, written by {maker}."
        )
        raise ValueError(msg)
    if header.get("version") != version:
        msg = (
            f"path {str(path)!r} is of format version {header.get('version')!r}; expected "
            f"{version!r}. Save it again with this version."
        )
        raise ValueError(msg)
    if _checksum(parts) != header.get("sha256"):
        msg = f"path {str(path)!r} is damaged: its checksum differs. Save it again."
        raise ValueError(msg)
    with np.load(io.BytesIO(parts[ARRAYS]), allow_pickle=False) as arrays:
        return json.loads(parts[SETTINGS]), {name: arrays[name] for name in arrays.files}


def _read_parts(path, maker):
    """Return the header and the checksummed parts of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(HEADER))
            parts = {name: archive.read(name) for name in (SETTINGS, ARRAYS)}
    except DAMAGE as error:
        msg = (
            f"path {str(path)!r} is no readable file of its kind ({error}); expected one written "
            f"by {maker}."
        )
        raise ValueError(msg) from error
    return (header if isinstance(header, dict) else {}), parts


def _checksum(parts):
    digest = hashlib.sha256()
    for name in (SETTINGS, ARRAYS):
        digest.update(len(parts[name]).to_bytes(8, "little"))
        digest.update(parts[name])
    return digest.hexdigest()
