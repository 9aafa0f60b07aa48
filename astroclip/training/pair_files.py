"""Where pairs are kept: simulated shards, HDF5 and Parquet files, arrays in memory.

Each kind of source is a class with the same four things: ``n_pairs`` (at most; None where
it is not known beforehand), ``noiseless``, ``incomplete`` (what to say of groups that cannot
be used) and ``blocks(split, size)``, which yields its pairs ``size`` at a time.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from astroclip._validation import import_extra
from astroclip.simulation.pairs import PROPERTIES, SHARD_SIZE

__all__ = ["LABEL_SHAPES", "RawPairs", "open_parts", "split_rows"]

TRAIN_SHARE = 0.8  # of the pairs of every group, as AstroCLIP divides its file
LABEL_SHAPES = {
    **{name: () for name in PROPERTIES if name != "redshift"},
    "fibre_magnitude": (3,),
}
"""What a simulation knows of its galaxies and a source may, and the shape of each."""
NAMES = {
    "image": ("image", "images"),
    "spectrum": ("spectrum", "spectra", "flux"),
    "ivar": ("ivar", "ivars"),
    "mask": ("mask", "masks"),
    "redshift": ("redshift", "redshifts", "z"),
    "id": ("id", "ids", "object_id", "targetid", "targetids"),
    "wavelength": ("wavelength", "wavelengths"),
    "seeing": ("seeing",),
    **{name: (name,) for name in LABEL_SHAPES},
}
"""Names under which sources hold what training needs."""


@dataclasses.dataclass(eq=False)
class RawPairs:
    """A block of pairs as a source holds them.

    Attributes
    ----------
    origin : str
        File and group, or number of the dict, that it comes from.
    first : int
        Number of its first pair there.
    image, spectrum, ivar, mask : (N, ...) `numpy.ndarray`, list of N arrays or None
        In the source's own shapes; None for a pair that has none.
    wavelength : (P,) or (N, P) `numpy.ndarray` or None
        Vacuum Angstrom.
    redshift : (N,) `numpy.ndarray`
    id : (N,) `numpy.ndarray` of str
    labels : dict of str to `numpy.ndarray`
        Those of ``LABEL_SHAPES`` that are known.
    seeing : (N, 3) `numpy.ndarray` or None
    noiseless : bool
        Light that awaits recording: a simulation's.
    """

    origin: str
    first: int
    image: object
    spectrum: object
    redshift: np.ndarray
    id: np.ndarray
    ivar: object = None
    mask: object = None
    wavelength: np.ndarray | None = None
    labels: dict = dataclasses.field(default_factory=dict)
    seeing: np.ndarray | None = None
    noiseless: bool = False


def split_rows(n_pairs, split):
    """Return the first row of a split in a group of pairs, and the row after its last.

    As AstroCLIP divides its file: of every group the first four fifths train.

    Examples
    --------
    >>> from astroclip.training.pair_files import split_rows
    >>> split_rows(10, "train"), split_rows(10, "test"), split_rows(10, None)
    ((0, 8), (8, 10), (0, 10))
    """
    edge = int(TRAIN_SHARE * n_pairs)
    return {"train": (0, edge), "test": (edge, n_pairs), None: (0, n_pairs)}[split]


def open_parts(source, noiseless):
    """Return the parts a source consists of; see `~astroclip.training.sources.read_source`."""
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), noiseless)
    if isinstance(source, Mapping):
        return [ArrayPart([source], noiseless)]
    if isinstance(source, list | tuple):
        paths = [isinstance(item, str | os.PathLike) for item in source]
        if any(paths):
            if not all(paths):
                item = source[paths.index(False)]
                msg = (
                    f"source[{paths.index(False)}] is of type {type(item).__name__} among paths; "
                    f"expected all to be paths, or all dicts of arrays."
                )
                raise TypeError(msg)
            return [part for path in source for part in _open_path(Path(path), noiseless)]
    if isinstance(source, Iterable):
        return [ArrayPart(source, noiseless)]
    msg = (
        f"source is of type {type(source).__name__}; expected a path, a list of paths, a dict "
        f"of arrays or an iterable of such dicts."
    )
    raise TypeError(msg)


def _open_path(path, noiseless):
    """Return the parts of a file or folder."""
    if path.is_dir():
        shards = sorted(path.glob("pairs-*.npz"))
        if shards:
            return [ShardPart(path, shards)]
        files = sorted(
            file for ending in ("parquet", "pq", "h5", "hdf5") for file in path.rglob(f"*.{ending}")
        )
        if not files:
            msg = (
                f"source {str(path)!r} is a folder without pairs; expected pairs-*.npz shards of "
                f"a simulation, or .parquet, .pq, .h5 or .hdf5 files."
            )
            raise FileNotFoundError(msg)
        return [_open_file(file, noiseless) for file in files]
    if not path.exists():
        msg = f"source {str(path)!r} does not exist; expected a file or folder of pairs."
        raise FileNotFoundError(msg)
    return [_open_file(path, noiseless)]


def _open_file(path, noiseless):
    """Return the part of a file, whose first bytes tell its format."""
    with path.open("rb") as file:
        start = file.read(8)
    if start == b"\x89HDF\r\n\x1a\n":
        return Hdf5Part(path, noiseless)
    if start[:4] == b"PAR1":
        return ParquetPart(path, noiseless)
    msg = (
        f"source {str(path)!r} begins with {start!r}; expected an HDF5 or a Parquet file, or the "
        f"folder of npz shards. Is the download complete?"
    )
    raise ValueError(msg)


def _names_of(held):
    """Return the names under which a source holds what training needs, by our names."""
    own = {
        wanted: next((name for name in names if name in held), None)
        for wanted, names in NAMES.items()
    }
    return {wanted: name for wanted, name in own.items() if name is not None}


def _make_block(fields, origin, first, n_pairs, noiseless):
    """Return `RawPairs` of the arrays of a source, with what is unknown filled in."""
    if fields.get("redshift") is None:
        fields["redshift"] = np.full(n_pairs, np.nan)
    if fields.get("id") is None:
        fields["id"] = [f"{origin}/{first + row}" for row in range(n_pairs)]
    ids = np.asarray(fields["id"]).reshape(-1)
    fields["id"] = np.array(
        [name.decode() if isinstance(name, bytes) else str(name) for name in ids], dtype=str
    )
    fields["redshift"] = np.asarray(fields["redshift"], dtype=float).reshape(-1)
    labels = {name: fields.pop(name) for name in LABEL_SHAPES if name in fields}
    return RawPairs(origin=origin, first=first, labels=labels, noiseless=noiseless, **fields)


class ShardPart:
    """A folder of shards from `~astroclip.simulation.pairs.write_pairs`."""

    noiseless = True
    incomplete = ()

    def __init__(self, folder, paths):
        self.folder, self.paths = folder, paths
        self.n_pairs = SHARD_SIZE * len(paths)  # the last may hold fewer

    def blocks(self, split, size):
        """Yield shards as they are: they need no conversion."""
        number = 0
        for path in self.paths:
            with np.load(path, allow_pickle=False) as archive:
                pairs = {name: archive[name] for name in archive.files}
            n_pairs = len(pairs["redshift"])
            names = [f"{self.folder.name}/{number + row}" for row in range(n_pairs)]
            number += n_pairs
            rows = slice(*split_rows(n_pairs, split))
            yield {
                **{name: values[rows] for name, values in pairs.items()},
                "id": np.array(names)[rows],
            }


class Hdf5Part:
    """An HDF5 file with groups of datasets, or datasets without a group."""

    def __init__(self, path, noiseless):
        self.path = path
        self.incomplete = []  # what to say of groups without images or spectra
        self.groups = {}
        h5py = import_extra("h5py", "catalogs")
        with self._open(h5py) as file:
            own = bool(file.attrs.get("noiseless", False))
            self._examine(h5py, file)
        self.noiseless = own if noiseless is None else noiseless
        if not self.groups:
            msg = (
                f"source {str(path)!r} holds no pairs: {'; '.join(self.incomplete) or 'no groups'}."
                f" Expected groups '0', '1', ... with datasets images, spectra, redshifts and "
                f"targetids."
            )
            raise ValueError(msg)
        self.n_pairs = sum(n_pairs for _, n_pairs in self.groups.values())

    def _open(self, h5py):
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            msg = (
                f"source {str(self.path)!r} cannot be read as HDF5: {error}. Check that the file "
                f"is complete."
            )
            raise ValueError(msg) from error

    def _examine(self, h5py, file):
        """Find the groups with pairs, their datasets and lengths."""
        names = [name for name, item in file.items() if isinstance(item, h5py.Group)]
        names.sort(key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
        if any(isinstance(item, h5py.Dataset) for item in file.values()):
            names = ["/", *names]
        for name in names:
            held = [key for key, item in file[name].items() if isinstance(item, h5py.Dataset)]
            datasets = _names_of(held)
            lacking = [NAMES[key][1] for key in ("image", "spectrum") if key not in datasets]
            if not lacking:
                self.groups[name] = datasets, self._length(file[name], datasets, name)
            elif name != "/" or len(lacking) == 1:  # the top may have other datasets
                self.incomplete.append(
                    f"{self.path.name} group {name!r} has no {' and no '.join(lacking)} "
                    f"(it has {', '.join(held) or 'nothing'})"
                )

    def _length(self, group, datasets, name):
        """Return the number of pairs of a group, whose datasets must agree."""
        lengths = {
            held: len(group[held])
            for key, held in datasets.items()
            if not (key == "wavelength" and group[held].ndim == 1)
        }
        if len(set(lengths.values())) > 1:
            msg = (
                f"source {str(self.path)!r} group {name!r} has datasets of different lengths "
                f"{lengths}; expected one row for each pair in all of them."
            )
            raise ValueError(msg)
        return lengths[datasets["image"]]

    def blocks(self, split, size):
        """Yield the pairs of group after group."""
        h5py = import_extra("h5py", "catalogs")
        with self._open(h5py) as file:
            for name, (datasets, n_pairs) in self.groups.items():
                group, origin = file[name], f"{self.path.name}/{name}".replace("//", "")
                first, end = split_rows(n_pairs, split)
                for start in range(first, end, size):
                    rows = slice(start, min(start + size, end))
                    fields = {
                        key: group[held][()]
                        if key == "wavelength" and group[held].ndim == 1
                        else group[held][rows]
                        for key, held in datasets.items()
                    }
                    yield _make_block(fields, origin, start, rows.stop - start, self.noiseless)


class ParquetPart:
    """A Parquet file with one row for each pair; a split goes by the file's name if it can."""

    incomplete = ()

    def __init__(self, path, noiseless):
        self.path = path
        parquet = import_extra("pyarrow.parquet", "catalogs")
        pyarrow = import_extra("pyarrow", "catalogs")
        try:
            with parquet.ParquetFile(path) as file:
                self.n_pairs = file.metadata.num_rows
                names = file.schema_arrow.names
                metadata = file.schema_arrow.metadata or {}
        except (OSError, pyarrow.ArrowInvalid) as error:
            msg = (
                f"source {str(path)!r} cannot be read as Parquet: {error}. Check that the file "
                f"is complete."
            )
            raise ValueError(msg) from error
        self.noiseless = metadata.get(b"noiseless") == b"1" if noiseless is None else noiseless
        self.columns = _names_of(names)
        lacking = [key for key in ("image", "spectrum") if key not in self.columns]
        if lacking:
            msg = (
                f"source {str(path)!r} has no column {' and no '.join(lacking)}; it has "
                f"{', '.join(names)}. Expected image, spectrum, redshift and targetid."
            )
            raise ValueError(msg)

    def _rows(self, split):
        """Return the rows of a split: all or none where files are named train- and test-."""
        for name in ("train", "test"):
            if self.path.name.startswith(name) or self.path.parent.name == name:
                return (0, self.n_pairs) if split in (None, name) else (0, 0)
        return split_rows(self.n_pairs, split)

    def blocks(self, split, size):
        """Yield the rows in order."""
        parquet = import_extra("pyarrow.parquet", "catalogs")
        first, end = self._rows(split)
        if first == end:
            return
        row = 0
        with parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(size, columns=list(self.columns.values())):
                rows = slice(max(first - row, 0), max(min(end - row, len(batch)), 0))
                start, row = row + rows.start, row + len(batch)
                if rows.start >= rows.stop:
                    continue
                part = batch[rows]
                fields = {key: _column(part.column(held)) for key, held in self.columns.items()}
                yield _make_block(fields, self.path.name, start, len(part), self.noiseless)
                if row >= end:
                    return


def _column(column):
    """Return a column as an array (N, ...), or as a list where rows differ in shape."""
    import pyarrow
    import pyarrow.compute

    if isinstance(column, pyarrow.FixedShapeTensorArray) and not column.null_count:
        return column.to_numpy_ndarray()
    if isinstance(column, pyarrow.ExtensionArray):
        column = column.storage
    rows, shape, values = column, [len(column)], column
    while _is_list(values.type):
        lengths = pyarrow.compute.list_value_length(values)
        sizes = pyarrow.compute.unique(lengths).to_pylist()
        if len(sizes) != 1 or sizes[0] is None:
            return [_row(row) for row in rows.to_pylist()]
        shape.append(sizes[0])
        values = values.flatten()
    if values.null_count and len(shape) > 1:
        return [_row(row) for row in rows.to_pylist()]
    return values.to_numpy(zero_copy_only=False).reshape(shape)


def _is_list(kind):
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _row(values):
    """Return one row's nested list as an array, NaN for nulls, None where it has no shape."""
    if values is None:
        return None
    with contextlib.suppress(ValueError, TypeError):
        return np.array(values, dtype=float)
    return np.empty(0)


class ArrayPart:
    """Dicts of arrays, each a group of pairs."""

    n_pairs = None
    incomplete = ()

    def __init__(self, dicts, noiseless):
        self.dicts = dicts
        self.noiseless = bool(noiseless)

    def blocks(self, split, size):
        """Yield the pairs of dict after dict."""
        for number, item in enumerate(self.dicts):
            origin = f"source[{number}]"
            fields = self._fields(item, origin)
            n_pairs = self._length(fields, origin)
            first, end = split_rows(n_pairs, split)
            shared = "wavelength" in fields and fields["wavelength"].ndim == 1
            for start in range(first, end, size):
                rows = slice(start, min(start + size, end))
                part = {
                    key: values if key == "wavelength" and shared else values[rows]
                    for key, values in fields.items()
                }
                yield _make_block(part, origin, start, rows.stop - start, self.noiseless)

    @staticmethod
    def _fields(item, origin):
        """Return what a dict holds by our names."""
        if not isinstance(item, Mapping):
            msg = f"{origin} is of type {type(item).__name__}; expected a dict of arrays."
            raise TypeError(msg)
        names = _names_of(item)
        lacking = [key for key in ("image", "spectrum") if key not in names]
        if lacking:
            msg = (
                f"{origin} has no {' and no '.join(lacking)}; it has "
                f"{', '.join(map(str, item)) or 'nothing'}. Expected image, spectrum, redshift."
            )
            raise ValueError(msg)
        return {
            key: item[held]
            if isinstance(item[held], list) and key != "wavelength"
            else np.asarray(item[held])
            for key, held in names.items()
        }

    @staticmethod
    def _length(fields, origin):
        """Return the number of pairs of a dict, whose arrays must agree."""
        lengths = {
            key: len(values) if isinstance(values, list) or values.ndim else 0
            for key, values in fields.items()
            if not (key == "wavelength" and values.ndim == 1)
        }
        if len(set(lengths.values())) > 1:
            msg = (
                f"{origin} has arrays of different lengths {lengths}; expected one row for each "
                f"pair in all of them."
            )
            raise ValueError(msg)
        return lengths["image"]
