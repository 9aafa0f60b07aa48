"""An index as a folder: a manifest, and shards of arrays and columns that are never changed.

``docs/user_guide/search.rst`` has the table of the format. Writers add folders of shards and
replace the manifest last, so that a reader finds the old index or the new one. Nothing in the
files is executed, and sizes are compared with those of the files before memory is asked for.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

import numpy as np

from astroclip._files import file_sha256, written
from astroclip.similarity.approximate import ApproximateSearch
from astroclip.similarity.cells import Cells
from astroclip.similarity.columns import ParquetTable, write_parquet
from astroclip.similarity.store import Shard
from astroclip.similarity.vectors import ModalityCenters

__all__ = ["METHODS", "check_writable", "read_index", "write_index"]

FORMAT, VERSION = "astroclip-index", 1
MANIFEST = "manifest.json"
METHODS = ("exact", "approximate", "auto")
DTYPES = {"float32": "<f4", "float16": "<f2"}
MODALITIES = ("image", "spectrum")
VERIFIED_BYTES, SMALL_BYTES = 128 << 20, 4 << 20
MANIFEST_BYTES = 64 << 20  # no manifest is larger
MAX_DIM = 65_536
SHARD_NAME = re.compile(r"shard-[0-9a-f]{16}")
LEFTOVER_NAME = re.compile(r"\.shard-[0-9a-f]{16}\.part|\.manifest\.\d+\.part\.json")


# ---------------------------------------------------------------------- writing
def check_writable(path):
    """Raise FileExistsError unless an index may be written to a path: nothing else is there.

    Parameters
    ----------
    path : path-like

    Raises
    ------
    FileExistsError
        If it is a file, or a folder that holds anything but an index.
    """
    path = Path(path)
    if not path.exists():
        return
    foreign = path.is_dir() and [each.name for each in path.iterdir() if not _is_ours(each.name)]
    if not path.is_dir() or foreign:
        what = f"holds {foreign[0]!r}, which is no part of an index" if foreign else "is a file"
        msg = f"path {str(path)!r} {what}; expected a new path, an empty folder or an index."
        raise FileExistsError(msg)


def _is_ours(name):
    return name == MANIFEST or SHARD_NAME.fullmatch(name) or LEFTOVER_NAME.fullmatch(name)


def write_index(path, shards, *, settings, centers, opened=None):
    """Write an index to a folder; shards that are there already are not written again.

    Parameters
    ----------
    path : path-like
        An index that is there is replaced.
    shards : list of `~astroclip.similarity.store.Shard`
    settings : dict
        ``method``, ``recall``, ``random_state`` and ``embedding_position``.
    centers : `~astroclip.similarity.vectors.ModalityCenters` or None
    opened : (`pathlib.Path`, str) or None
        The folder that the index was read from or written to last, and its checksum then.

    Returns
    -------
    (`pathlib.Path`, str)
        The folder and its checksum now.

    Raises
    ------
    FileExistsError
        If something else is at the path.
    OSError
        If another process is writing there, or has since the index was read.
    """
    path = Path(path).absolute()
    check_writable(path)
    is_new, new_names = not path.exists(), []
    path.mkdir(exist_ok=True)
    try:
        with _lock(path):
            there = opened is not None and opened[0] == path and (path / MANIFEST).exists()
            if there and _read_manifest(path)["sha256"] != opened[1]:
                msg = (
                    f"index {str(path)!r} was changed by another process since it was opened; "
                    f"expected to add to what was opened. Open it again and repeat the change."
                )
                raise OSError(msg)
            entries = []
            for shard in shards:
                folder, name, files = shard.saved or (None, None, None)
                if folder != path or not (path / name).is_dir():
                    name, files = _write_shard(path, shard)
                    new_names.append(name)
                entries.append(_described(shard, name, files))
            first = shards[0]
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "model": str(first.columns.meta["MODEL"]),
                "dim": first.vectors.shape[1],
                "dtype": np.dtype(first.vectors.dtype).name,
                "settings": settings,
                "modality_centers": None if centers is None else {
                    name: each.tolist() for name, each in centers.centers.items()
                },
                "shards": entries,
            }
            manifest["sha256"] = _manifest_sha256(manifest)
            with written(path / MANIFEST) as partial:
                partial.write_text(json.dumps(manifest, indent=1))
            _sync(path)
            names = {entry["name"] for entry in entries}
            for each in path.iterdir():  # of earlier indexes and of writers that were killed
                if each.name in names or each.name == MANIFEST or not _is_ours(each.name):
                    continue
                if each.is_file():
                    each.unlink(missing_ok=True)
                else:  # where the system keeps files that are open, the next writer removes them
                    shutil.rmtree(each, ignore_errors=True)
    except BaseException:
        for name in new_names:
            shutil.rmtree(path / name, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise
    for shard, entry in zip(shards, entries, strict=True):
        shard.saved = path, entry["name"], entry["files"]
    return path, manifest["sha256"]


@contextlib.contextmanager
def _lock(path):
    """Let one process at a time write to a folder; the system ends the lock of a killed one."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    number = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        msg = f"index {str(path)!r} is being written by another process; wait until it is done."
        raise OSError(msg) from error
    finally:
        os.close(number)


def _sync(path):
    """Make sure that a file, or a folder's names, outlast a power cut."""
    if path.is_dir() and os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _write_shard(path, shard):
    """Write a shard to a new folder; return its name, and the size and checksum of each file."""
    name = f"shard-{secrets.token_hex(8)}"
    partial = path / f".{name}.part"
    dim = shard.vectors.shape[1]
    cells = np.empty(sum(map(len, shard.cells.values())), _cell_dtype(dim))
    if len(cells):
        arrays = Cells.joined(list(shard.cells.values())).arrays()
        for field, array in zip(("start", "stop", "center", "low", "high"), arrays, strict=True):
            cells[field] = array
    arrays = {"vectors": shard.vectors, "rows": shard.rows, "cells": cells}
    for modality, search in shard.approximate.items():
        for each in ApproximateSearch.ARRAYS:
            arrays[f"{modality}-{each}"] = getattr(search, each)
    try:
        partial.mkdir()
        for each, array in arrays.items():
            array = np.asarray(array)
            np.save(partial / f"{each}.npy", array.astype(array.dtype.newbyteorder("<"),
                                                          copy=False))
        columns = partial / "columns.parquet"
        if isinstance(shard.columns, ParquetTable):
            shard.columns.source.seek(0)
            with columns.open("wb") as stream:
                while content := shard.columns.source.read(16 << 20):
                    stream.write(content)
        else:
            write_parquet(shard.columns, columns)
        files = {}
        for each in sorted(partial.iterdir()):
            _sync(each)
            files[each.name] = {"bytes": each.stat().st_size, "sha256": file_sha256(each)}
        _sync(partial)
        partial.rename(path / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return name, files


def _described(shard, name, files):
    """Return what the manifest says of a shard."""
    return {
        "name": name,
        "n_rows": len(shard.columns),
        "n_vectors": len(shard),
        "modalities": {
            modality: [int(cells.start[0]), int(cells.stop[-1])]
            for modality, cells in shard.cells.items()
        },
        "length_error": shard.length_error,
        "approximate": {
            modality: {"n_lists": len(search.centers), "n_probe": search.n_probe,
                       "scale": search.scale, "recall": search.recall}
            for modality, search in shard.approximate.items()
        },
        "files": files,
    }


def _cell_dtype(dim):
    return np.dtype([
        ("start", "<i8"), ("stop", "<i8"), ("center", "<f4", (dim,)), ("low", "<f8"),
        ("high", "<f8"),
    ])


def _manifest_sha256(manifest):
    """Return the checksum of a manifest without the one that it holds."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------- reading
def read_index(path, *, verify=None, verified_bytes=VERIFIED_BYTES, small_bytes=SMALL_BYTES):
    """Return the parts of the index in a folder.

    Parameters
    ----------
    path : path-like
    verify : bool, optional
        As in `~astroclip.SimilarityIndex.open`.
    verified_bytes, small_bytes : int
        An index up to the first size is compared with its checksums by default, and of a larger
        one the files up to the second.

    Returns
    -------
    shards : list of `~astroclip.similarity.store.Shard`
        Vectors and codes are mapped, columns are read when they are asked for.
    settings : dict
    centers : `~astroclip.similarity.vectors.ModalityCenters` or None
    opened : (`pathlib.Path`, str)
        As `write_index` returns it.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If it is no index, of another version, or damaged.
    """
    path = Path(path).absolute()
    if not path.exists():
        msg = (
            f"index {str(path)!r} does not exist; expected a folder written by "
            f"SimilarityIndex.save."
        )
        raise FileNotFoundError(msg)
    while True:
        manifest = _read_manifest(path)
        try:
            _check_manifest(manifest)
            sizes = [
                each["bytes"] for entry in manifest["shards"] for each in entry["files"].values()
            ]
            verified = small_bytes
            if verify is not None or sum(sizes) <= verified_bytes:
                verified = -1 if verify is False else max(sizes)
            shards = [
                _read_shard(path / entry["name"], entry, manifest, verified)
                for entry in manifest["shards"]
            ]
            centers = manifest["modality_centers"]
            centers = None if centers is None else ModalityCenters(centers)
        except Exception as error:  # whatever numpy, Arrow, YAML and astropy raise
            if _read_manifest(path)["sha256"] != manifest["sha256"]:
                continue  # a writer replaced the index meanwhile
            raise ValueError(_unreadable(path, error)) from error
        for shard, entry in zip(shards, manifest["shards"], strict=True):
            shard.saved = path, entry["name"], entry["files"]
        return shards, manifest["settings"], centers, (path, manifest["sha256"])


def _unreadable(path, reason):
    reason = " ".join(str(reason).split())[:500]
    return (
        f"index {str(path)!r} is no readable index ({reason}); expected a folder written by "
        f"SimilarityIndex.save. Make it again from its table."
    )


def _read_manifest(path):
    """Return the manifest of a folder, whose checksum is right."""
    try:
        if not path.is_dir():
            _require(False, "it is a file")
        if not (path / MANIFEST).is_file():
            _require(False, f"it has no {MANIFEST}: something else, or writing was interrupted")
        _require((path / MANIFEST).stat().st_size <= MANIFEST_BYTES, "its manifest is too large")
        manifest = json.loads((path / MANIFEST).read_bytes())
        known = isinstance(manifest, dict) and manifest.get("format") == FORMAT
        _require(known, f"its manifest does not name the format {FORMAT!r}")
        version = manifest.get("version")
        _require(version == VERSION, f"its format has version {version!r}, not {VERSION}")
        _require(manifest.get("sha256") == _manifest_sha256(manifest),
                 f"{MANIFEST} is damaged: its checksum differs")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(_unreadable(path, error)) from error
    return manifest


def _require(condition, message):
    if not condition:
        raise ValueError(message)


def _is_integer(value, low, high):
    return type(value) is int and low <= value <= high


def _is_number(value, low, high):
    return type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _check_manifest(manifest):
    """Raise ValueError, or KeyError and TypeError, unless a manifest describes an index."""
    dim, settings = manifest["dim"], manifest["settings"]
    _require(_is_integer(dim, 1, MAX_DIM), f"dim is {dim!r}")
    _require(manifest["dtype"] in DTYPES, f"dtype is {manifest['dtype']!r}")
    _require(settings["method"] in METHODS, f"method is {settings['method']!r}")
    _require(_is_number(settings["recall"], 0, 1), "recall is no number between 0 and 1")
    _require(_is_integer(settings["random_state"], 0, 2**63), "random_state is no integer")
    position = settings["embedding_position"]
    _require(_is_integer(position, 0, 2**31), "embedding_position is no integer")
    for name, center in (manifest["modality_centers"] or {}).items():
        good = name in MODALITIES and isinstance(center, list) and len(center) == dim
        good = good and all(_is_number(each, -2, 2) for each in center)
        _require(good, f"modality_centers[{name!r}] is no vector")
    _require(isinstance(manifest["shards"], list) and manifest["shards"], "it has no shards")
    for entry in manifest["shards"]:
        name, n_vectors = entry["name"], entry["n_vectors"]
        _require(isinstance(name, str) and SHARD_NAME.fullmatch(name), f"shard is named {name!r}")
        good = _is_integer(entry["n_rows"], 1, 2**48) and _is_integer(n_vectors, 0, 2**48)
        good = good and n_vectors <= entry["n_rows"]
        _require(good, f"{name} has invalid counts of rows or vectors")
        good = _is_number(entry["length_error"], 0, 0.01)
        _require(good, f"length_error of {name} is out of range")
        position = 0
        for modality, (start, stop) in entry["modalities"].items():
            good = modality in MODALITIES and start == position and _is_integer(stop, start + 1,
                                                                                n_vectors)
            _require(good, f"modalities of {name} are no consecutive ranges")
            position = stop
        _require(position == n_vectors, f"modalities of {name} leave vectors out")
        expected = {"vectors.npy", "rows.npy", "cells.npy", "columns.parquet"}
        for modality, known in entry["approximate"].items():
            good = modality in entry["modalities"]
            _require(good, f"{name} has inverted lists of {modality!r}, but no vectors")
            good = _is_integer(known["n_lists"], 1, n_vectors)
            good = good and _is_integer(known["n_probe"], 1, known["n_lists"])
            good = good and known["scale"] > 0 and _is_number(known["scale"], 0, 1e9)
            good = good and _is_number(known["recall"], 0, 1)
            _require(good, f"{name} has invalid settings of inverted lists")
            expected |= {f"{modality}-{each}.npy" for each in ApproximateSearch.ARRAYS}
        _require(set(entry["files"]) == expected, f"{name} has other files than {sorted(expected)}")
        for file, about in entry["files"].items():
            good = _is_integer(about["bytes"], 1, 2**60)
            _require(good and isinstance(about["sha256"], str), f"{name}/{file} has no checksum")
    names = {entry["name"] for entry in manifest["shards"]}
    _require(len(names) == len(manifest["shards"]), "it has shards of one name")


def _read_shard(folder, entry, manifest, verified):
    """Return a shard whose files up to ``verified`` bytes are as they were written."""
    for name, about in entry["files"].items():
        found = (folder / name).lstat()
        _require(stat.S_ISREG(found.st_mode), f"{folder.name}/{name} is no plain file")
        same = found.st_size == about["bytes"]
        if same and found.st_size <= verified:
            same = file_sha256(folder / name) == about["sha256"]
        _require(same, f"{folder.name}/{name} is damaged: its size or checksum differs")
    dim, n_vectors, n_rows = manifest["dim"], entry["n_vectors"], entry["n_rows"]
    columns = ParquetTable(folder / "columns.parquet")
    _require(len(columns) == n_rows, "columns.parquet has another number of rows")
    _require({"id", "modality"} <= set(columns.colnames), "columns.parquet lacks columns")
    _require({"MODEL", "WSHA"} <= set(columns.meta), "columns.parquet names no model")
    vectors = _mapped(folder / "vectors.npy", DTYPES[manifest["dtype"]], (n_vectors, dim))
    number = "<i4" if n_rows < np.iinfo(np.int32).max else "<i8"
    rows = np.array(_mapped(folder / "rows.npy", number, (n_vectors,)))
    good = not len(rows) or (rows.min() >= 0 and rows.max() < n_rows)
    good = good and len(np.unique(rows)) == len(rows)
    _require(good, "rows.npy has numbers that repeat or are out of range")
    table = np.array(_mapped(folder / "cells.npy", _cell_dtype(dim), (None,)))
    _require(
        np.array_equal(table["start"][1:], table["stop"][:-1])
        and (table["start"] < table["stop"]).all()
        and np.isfinite(table["center"]).all()
        and (table["low"] >= -1).all() and (table["high"] <= 1).all()
        and (table["low"] <= table["high"]).all(),
        "cells.npy has invalid cells",
    )
    cells, approximate = {}, {}
    for modality, (start, stop) in entry["modalities"].items():
        own = table[(table["start"] >= start) & (table["stop"] <= stop)]
        whole = len(own) and own["start"][0] == start and own["stop"][-1] == stop
        _require(whole, f"cells.npy does not cover {modality}")
        names = ("start", "stop", "center", "low", "high")
        cells[modality] = Cells(*[np.ascontiguousarray(own[name]) for name in names])
    for modality, known in entry["approximate"].items():
        start, stop = entry["modalities"][modality]
        n_lists = known["n_lists"]
        shapes = {"centers": ("<f4", (n_lists, dim)), "sizes": ("<i8", (n_lists,)),
                  "positions": (number, (stop - start,)), "codes": ("|u1", (stop - start, dim))}
        arrays = {
            name: _mapped(folder / f"{modality}-{name}.npy", *shapes[name])
            for name in ApproximateSearch.ARRAYS
        }
        for name in ("centers", "sizes", "positions"):
            arrays[name] = np.array(arrays[name])
        sizes, positions = arrays["sizes"], arrays["positions"]
        good = (sizes >= 0).all() and (sizes <= len(positions)).all()
        good = good and sizes.sum() == len(positions) and np.isfinite(arrays["centers"]).all()
        good = good and positions.min() >= start and positions.max() < stop
        _require(good, f"the inverted lists of {modality} do not fit its vectors")
        options = {name: known[name] for name in ("scale", "n_probe", "recall")}
        approximate[modality] = ApproximateSearch(**arrays, **options)
    return Shard(columns, vectors, rows, cells, entry["length_error"], approximate)


def _mapped(path, dtype, shape):
    """Map an array of a ``.npy`` file; its header must be as expected (None: any length)."""
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        _require(version == (1, 0), f"{path.name} is no plain array")
        own_shape, fortran, own_dtype = np.lib.format.read_array_header_1_0(stream)
        start = stream.tell()
    fits = len(own_shape) == len(shape) and not fortran and own_dtype == np.dtype(dtype)
    fits = fits and all(size in (None, own) for size, own in zip(shape, own_shape, strict=True))
    n_bytes = int(np.prod(own_shape, dtype=object)) * own_dtype.itemsize
    fits = fits and start + n_bytes == path.stat().st_size
    _require(fits, f"{path.name} has another type or shape than the manifest says")
    if not n_bytes:
        return np.empty(own_shape, own_dtype)
    # as a plain array: a memmap makes a memmap, slowly, of each of its parts
    return np.asarray(np.memmap(path, own_dtype, "r", start, own_shape))
