"""The file of an index: an uncompressed archive of arrays, mapped into memory, with checksums."""

import hashlib
import json
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

__all__ = ["DAMAGE", "MappedArray", "mapped_arrays", "read_header", "write_archive"]

FORMAT = "astroclip-index"
FORMAT_VERSION = "2"
BLOCK_BYTES = 1 << 20  # bytes of an array that share a checksum
DIGEST_BYTES = 16
ALIGNMENT = 64
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # section 4.3.7 of PKWARE's APPNOTE
PADDING_ID = 0xD935  # of the extra field that aligns members, as in Android's archives
# what zipfile and json raise for files that are damaged or something else
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    ValueError,
)


def write_archive(path, header, arrays):
    """Write arrays to one file, complete or not at all.

    Parameters
    ----------
    path : path-like
        An existing file is replaced once the new one is complete.
    header : dict
        What JSON can hold.
    arrays : dict of str to array
        numpy arrays, or mapped ones.

    Notes
    -----
    The file is an uncompressed zip archive of ``.npy`` files, which `numpy.load` reads, aligned
    so that they can be mapped into memory, and of ``header.json``. A SHA-256, cut to 16 bytes,
    stands in ``checksums.npy`` for every MiB of every array.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    layout, digests = {}, []
    try:
        with partial.open("wb") as stream:
            with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
                for name, array in arrays.items():
                    digests += _write_array(archive, stream, f"{name}.npy", array)
                    shape = [int(size) for size in array.shape]
                    layout[name] = [np.dtype(array.dtype).str, shape]
                checksums = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)
                _write_array(archive, stream, "checksums.npy", checksums)
                whole = hashlib.sha256(checksums.tobytes()).hexdigest()
                first = {"format": FORMAT, "version": FORMAT_VERSION}
                header = {**first, **header, "arrays": layout, "checksums": whole}
                archive.writestr("header.json", json.dumps(header, indent=1))
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_array(archive, stream, name, array):
    """Write one array and return the checksums of its blocks."""
    info = zipfile.ZipInfo(name)
    start = stream.tell() + LOCAL_HEADER.size + len(name) + 20  # 20 of zip64's sizes
    n_padding = -(start + 4) % ALIGNMENT
    info.extra = struct.pack("<HH", PADDING_ID, n_padding) + bytes(n_padding)
    digests = []
    with archive.open(info, "w", force_zip64=True) as member:
        shape = tuple(int(size) for size in array.shape)
        described = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(array.dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(member, described)
        for block in _byte_blocks(array):
            member.write(block)
            digests.append(_digest(block))
    return digests


def _byte_blocks(array):
    """Yield an array's bytes in blocks of one checksum, without a copy of it all."""
    if array.ndim == 0 or 0 in array.shape:
        return
    row = int(np.prod(array.shape[1:])) * array.dtype.itemsize
    n_rows = max(1, 16 * BLOCK_BYTES // max(row, 1))
    left = b""
    for first in range(0, len(array), n_rows):
        left += np.ascontiguousarray(array[first : first + n_rows]).tobytes()
        n_whole = len(left) // BLOCK_BYTES * BLOCK_BYTES
        for start in range(0, n_whole, BLOCK_BYTES):
            yield left[start : start + BLOCK_BYTES]
        left = left[n_whole:]
    if left:
        yield left


def _digest(block):
    return hashlib.sha256(block).digest()[:DIGEST_BYTES]


def read_header(path):
    """Return the header of an index file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is none of an index.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"index {str(path)!r} is no file; expected one written by SimilarityIndex.save."
        raise FileNotFoundError(msg)
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read("header.json"))
    except DAMAGE as error:
        raise ValueError(unreadable(path, error)) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        msg = (
            f"index {str(path)!r} is no index file: its header does not name the format "
            f"{FORMAT!r}; expected a file written by SimilarityIndex.save."
        )
        raise ValueError(msg)
    return header


def unreadable(path, error):
    """Return the message about a file that cannot be read as an index."""
    return (
        f"index {str(path)!r} is no readable index file ({error}); expected one written "
        f"by SimilarityIndex.save. Make it again from its table."
    )


def damaged(path):
    """Return the message about a file whose content has changed."""
    return f"index {str(path)!r} is damaged: its checksum differs. Make it again from its table."


def mapped_arrays(path, header):
    """Return the arrays of an index file, mapped into memory.

    Parameters
    ----------
    path : path-like
    header : dict
        As `read_header` returned it.

    Returns
    -------
    dict of str to `MappedArray`

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as stream:
            checksums = np.array(_mapped(archive, stream, path, "checksums", "|u1", None))
            checksums = checksums.reshape(-1, DIGEST_BYTES)
            if hashlib.sha256(checksums.tobytes()).hexdigest() != header["checksums"]:
                raise ValueError(damaged(path))
            arrays, first = {}, 0
            for name, (dtype, shape) in header["arrays"].items():
                values = _mapped(archive, stream, path, name, dtype, shape)
                last = first + -(-values.nbytes // BLOCK_BYTES)
                arrays[name] = MappedArray(values, checksums[first:last], path)
                first = last
    except ValueError as error:
        if str(error) == damaged(path):
            raise
        raise ValueError(unreadable(path, error)) from error
    except DAMAGE as error:
        raise ValueError(unreadable(path, error)) from error
    if first != len(checksums):
        raise ValueError(damaged(path))
    return arrays


def _mapped(archive, stream, path, name, dtype, shape):
    """Map one member's array; its place follows from the archive, its form from the header."""
    info = archive.getinfo(f"{name}.npy")
    stream.seek(info.header_offset)
    fields = LOCAL_HEADER.unpack(stream.read(LOCAL_HEADER.size))
    start = info.header_offset + LOCAL_HEADER.size + fields[-2] + fields[-1]
    stream.seek(start)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0) or info.compress_type != zipfile.ZIP_STORED:
        msg = f"{name}.npy is no plain array"
        raise ValueError(msg)
    own_shape, fortran, own_dtype = np.lib.format.read_array_header_1_0(stream)
    wanted = own_shape if shape is None else tuple(shape)
    n_bytes = int(np.prod(own_shape, dtype=object)) * own_dtype.itemsize
    if (own_dtype.str, own_shape, fortran) != (dtype, wanted, False) or own_dtype.hasobject:
        msg = f"{name}.npy is not as the header says"
        raise ValueError(msg)
    if stream.tell() + n_bytes != start + info.file_size:
        msg = f"{name}.npy has another size"
        raise ValueError(msg)
    if n_bytes == 0:
        return np.empty(own_shape, own_dtype)
    return np.memmap(path, own_dtype, "r", stream.tell(), own_shape)


class MappedArray:
    """An array in a file; a block of it is compared with its checksum when it is first read.

    Parameters
    ----------
    values : `numpy.memmap`
    digests : (B, 16) uint8 `numpy.ndarray`
    path : path-like
        How errors name the file.
    """

    def __init__(self, values, digests, path):
        self._values, self._digests, self._path = np.asarray(values), digests, path
        self._left = np.ones(len(digests), dtype=bool)
        self._all_read = not len(digests)
        self.dtype, self.shape, self.ndim = values.dtype, values.shape, values.ndim

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Return some rows, a slice or an array of numbers, checked."""
        if not self._all_read:
            self._check(self._blocks(rows))
        return self._values[rows]

    def __array__(self, dtype=None, copy=None):
        """Return all of it, checked."""
        return np.asarray(self[:], dtype=dtype)

    def _blocks(self, rows):
        """Return the numbers of the blocks that hold some rows."""
        row = self._values.nbytes // max(len(self), 1)
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            if stop <= start:
                return ()
            return np.arange(start * row // BLOCK_BYTES, -(-stop * row // BLOCK_BYTES))
        rows = np.asarray(rows).astype(np.int64).ravel()
        rows = np.where(rows < 0, rows + len(self), rows)
        touched = np.zeros(len(self._left), dtype=bool)
        first, last = rows * row // BLOCK_BYTES, ((rows + 1) * row - 1) // BLOCK_BYTES
        for more in range(int((last - first).max(initial=0)) + 1):
            touched[np.minimum(first + more, last)] = True
        return np.flatnonzero(touched)

    def _check(self, blocks):
        data = self._values.reshape(-1).view(np.uint8)
        for block in blocks:
            if self._left[block]:
                part = data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
                if _digest(part) != self._digests[block].tobytes():
                    raise ValueError(damaged(self._path))
                self._left[block] = False
        self._all_read = not self._left.any()

    def verify(self):
        """Compare all of it with its checksums.

        Raises
        ------
        ValueError
            If one differs.
        """
        self._check(np.arange(len(self._left)))
