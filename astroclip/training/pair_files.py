"""Where pairs are kept: simulated shards, HDF5 and Parquet files, arrays in memory."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from astroclip._validation import import_extra
from astroclip.simulation.pairs import PROPERTIES, SHARD_SIZE

__all__ = ["LABEL_SHAPES", "Part", "RawPairs", "open_parts", "split_rows"]

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
class Part:
    """One file, folder of shards or sequence of dicts, opened and examined but not yet read.

    Attributes
    ----------
    n_pairs : int or None
        At most; None where it is not known beforehand.
    noiseless : bool
    blocks : callable
        ``blocks(split, size)`` yields its pairs, ``size`` at a time, as `RawPairs` or, of shards,
        as arrays that need no conversion.
    incomplete : list of str
        What to say of groups that cannot be used.
    is_shards : bool
        Whether they are simulated shards, with arrays beyond those of a survey.
    """

    n_pairs: int | None
    noiseless: bool
    blocks: Callable
    incomplete: list = dataclasses.field(default_factory=list)
    is_shards: bool = False


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
    if isinstance(source, str | os.PathLike | Mapping):
        source = [source]
    if not isinstance(source, Iterable):
        msg = (
            f"source is of type {type(source).__name__}; expected a path, a list of paths, a dict "
            f"of arrays or an iterable of such dicts."
        )
        raise TypeError(msg)
    if not isinstance(source, list | tuple):  # a generator of dicts is not run through twice
        return [_open_arrays(source, noiseless)]
    paths = [isinstance(item, str | os.PathLike) for item in source]
    if not any(paths):
        return [_open_arrays(source, noiseless)]
    if not all(paths):
        number = paths.index(False)
        msg = (
            f"source[{number}] is of type {type(source[number]).__name__} among paths; expected "
            f"all to be paths, or all dicts of arrays."
        )
        raise TypeError(msg)
    return [part for path in source for part in _open_path(Path(path), noiseless)]


def _open_path(path, noiseless):
    """Return the parts of a file or folder."""
    files = [path]
    if path.is_dir():
        shards = sorted(path.glob("pairs-*.npz"))
        if shards:
            return [_open_shards(path, shards)]
        files = sorted(
            file for ending in ("parquet", "pq", "h5", "hdf5") for file in path.rglob(f"*.{ending}")
        )
        if not files:
            msg = (
                f"source {str(path)!r} is a folder without pairs; expected pairs-*.npz shards of "
                f"a simulation, or .parquet, .pq, .h5 or .hdf5 files."
            )
            raise FileNotFoundError(msg)
    elif not path.exists():
        msg = f"source {str(path)!r} does not exist; expected a file or folder of pairs."
        raise FileNotFoundError(msg)
    parts = []
    for file in files:
        with file.open("rb") as stream:
            start = stream.read(8)  # tells the format
        if start == b"\x89HDF\r\n\x1a\n":
            parts.append(_open_hdf5(file, noiseless))
        elif start[:4] == b"PAR1":
            parts.append(_open_parquet(file, noiseless))
        else:
            msg = (
                f"source {str(file)!r} begins with {start!r}; expected an HDF5 or a Parquet file, "
                f"or the folder of npz shards. Is the download complete?"
            )
            raise ValueError(msg)
    return parts


def _names_of(held):
    """Return the names under which a source holds what training needs, by our names."""
    own = {
        wanted: next((own for name in names for own in held if str(own).lower() == name), None)
        for wanted, names in NAMES.items()
    }
    return {wanted: name for wanted, name in own.items() if name is not None}


def _n_pairs_of(lengths, origin, arrays):
    """Return the number of pairs of a group, whose arrays must agree."""
    if len(set(lengths.values())) > 1:
        msg = (
            f"{origin} has {arrays} of different lengths {lengths}; expected one row for each pair "
            f"in all of them."
        )
        raise ValueError(msg)
    return next(iter(lengths.values()))


def _raw_pairs(fields, origin, first, n_pairs, noiseless):
    """Return `RawPairs` of the arrays of a source, with what is unknown filled in."""
    if fields.get("redshift") is None:
        fields["redshift"] = np.full(n_pairs, np.nan)
    if fields.get("id") is None:
        fields["id"] = [f"{origin}/{first + row}" for row in range(n_pairs)]
    ids = _per_pair(fields["id"], "id", (), n_pairs, origin)
    fields["id"] = np.array(
        [name.decode() if isinstance(name, bytes) else str(name) for name in ids], dtype=str
    )
    shapes = {"redshift": (), "seeing": (3,), **LABEL_SHAPES}
    for name in [name for name in shapes if fields.get(name) is not None]:
        fields[name] = _per_pair(fields[name], name, shapes[name], n_pairs, origin, number=True)
    labels = {name: fields.pop(name) for name in LABEL_SHAPES if name in fields}
    return RawPairs(origin=origin, first=first, labels=labels, noiseless=noiseless, **fields)


def _per_pair(values, name, shape, n_pairs, origin, *, number=False):
    """Return values (N, ...) of the pairs; raise ValueError for others."""
    values = np.asarray(values)
    wanted = (n_pairs, *shape)
    if values.size != np.prod(wanted) or (number and values.dtype.kind not in "biufO"):
        msg = (
            f"source {origin} has {name} of shape {values.shape} and type {values.dtype}; expected "
            f"{'numbers' if number else 'names'} of shape {wanted}."
        )
        raise ValueError(msg)
    values = values.reshape(wanted)
    try:
        return values.astype(float) if number else values
    except (TypeError, ValueError) as error:
        msg = f"source {origin} has {name} that is no number ({error}); expected numbers or NaN."
        raise ValueError(msg) from error


# ---------------------------------------------------------------------- simulated shards
def _open_shards(folder, paths):
    """Return the part of a folder from `~astroclip.simulation.pairs.write_pairs`."""

    def blocks(split, size):
        number = 0
        for path in paths:
            with np.load(path, allow_pickle=False) as archive:
                pairs = {name: archive[name] for name in archive.files}
            n_pairs = len(pairs["redshift"])
            pairs["id"] = np.array([f"{folder.name}/{number + row}" for row in range(n_pairs)])
            number += n_pairs
            rows = slice(*split_rows(n_pairs, split))
            yield {name: values[rows] for name, values in pairs.items()}

    # the last shard may hold fewer
    return Part(SHARD_SIZE * len(paths), noiseless=True, blocks=blocks, is_shards=True)


# ---------------------------------------------------------------------- HDF5
def _open_hdf5(path, noiseless):
    """Return the part of an HDF5 file: groups of datasets, or datasets without a group."""
    h5py = import_extra("h5py", "catalogs")

    def opened():
        try:
            return h5py.File(path, "r")
        except OSError as error:
            msg = (
                f"source {str(path)!r} cannot be read as HDF5: {error}. Check that the file is "
                f"complete."
            )
            raise ValueError(msg) from error

    groups, incomplete = {}, []  # by name: the datasets by our names, and the number of pairs
    with opened() as file:
        if noiseless is None:
            noiseless = bool(file.attrs.get("noiseless", False))
        names = [name for name, item in file.items() if isinstance(item, h5py.Group)]
        names.sort(key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
        if any(isinstance(item, h5py.Dataset) for item in file.values()):
            names = ["/", *names]
        for name in names:
            group = file[name]
            held = [key for key, item in group.items() if isinstance(item, h5py.Dataset)]
            datasets = _names_of(held)
            lacking = [NAMES[key][1] for key in ("image", "spectrum") if key not in datasets]
            if not lacking:
                origin = f"source {str(path)!r} group {name!r}"
                lengths = {}
                for key, dataset in datasets.items():
                    shape = group[dataset].shape
                    if not shape:
                        msg = (
                            f"{origin} has dataset {dataset!r} of shape (); expected one row for "
                            f"each pair."
                        )
                        raise ValueError(msg)
                    if not (key == "wavelength" and len(shape) == 1):
                        lengths[dataset] = shape[0]
                groups[name] = datasets, _n_pairs_of(lengths, origin, "datasets")
            elif name != "/" or len(lacking) == 1:  # the top may have other datasets
                incomplete.append(
                    f"{path.name} group {name!r} has no {' and no '.join(lacking)} "
                    f"(it has {', '.join(held) or 'nothing'})"
                )
    if not groups:
        msg = (
            f"source {str(path)!r} holds no pairs: {'; '.join(incomplete) or 'no groups'}."
            f" Expected groups '0', '1', ... with datasets images, spectra, redshifts and "
            f"targetids."
        )
        raise ValueError(msg)

    def blocks(split, size):
        with opened() as file:
            for name, (datasets, n_pairs) in groups.items():
                group, origin = file[name], f"{path.name}/{name}".replace("//", "")
                first, end = split_rows(n_pairs, split)
                for start in range(first, end, size):
                    rows = slice(start, min(start + size, end))
                    fields = {
                        key: group[dataset][()]
                        if key == "wavelength" and group[dataset].ndim == 1
                        else group[dataset][rows]
                        for key, dataset in datasets.items()
                    }
                    yield _raw_pairs(fields, origin, start, rows.stop - start, noiseless)

    return Part(sum(n_pairs for _, n_pairs in groups.values()), noiseless, blocks, incomplete)


# ---------------------------------------------------------------------- Parquet
def _open_parquet(path, noiseless):
    """Return the part of a Parquet file with one row for each pair."""
    parquet = import_extra("pyarrow.parquet", "catalogs")
    pyarrow = import_extra("pyarrow", "catalogs")
    try:
        with parquet.ParquetFile(path) as file:
            n_pairs = file.metadata.num_rows
            names = file.schema_arrow.names
            metadata = file.schema_arrow.metadata or {}
    except (OSError, pyarrow.ArrowInvalid) as error:
        msg = (
            f"source {str(path)!r} cannot be read as Parquet: {error}. Check that the file is "
            f"complete."
        )
        raise ValueError(msg) from error
    if noiseless is None:
        noiseless = metadata.get(b"noiseless") == b"1"
    columns = _names_of(names)
    lacking = [key for key in ("image", "spectrum") if key not in columns]
    if lacking:
        msg = (
            f"source {str(path)!r} has no column {' and no '.join(lacking)}; it has "
            f"{', '.join(names)}. Expected image, spectrum, redshift and targetid."
        )
        raise ValueError(msg)

    def blocks(split, size):
        first, end = split_rows(n_pairs, split)
        for name in ("train", "test"):  # files named so belong to one split as a whole
            if path.name.startswith(name) or path.parent.name == name:
                first, end = (0, n_pairs) if split in (None, name) else (0, 0)
        if first == end:
            return
        row = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(size, columns=list(columns.values())):
                rows = slice(max(first - row, 0), max(min(end - row, len(batch)), 0))
                start, row = row + rows.start, row + len(batch)
                if rows.start < rows.stop:
                    chosen = batch[rows]
                    fields = {key: _column(chosen.column(name)) for key, name in columns.items()}
                    yield _raw_pairs(fields, path.name, start, len(chosen), noiseless)
                if row >= end:
                    return

    return Part(n_pairs, noiseless, blocks)


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


# ---------------------------------------------------------------------- arrays
def _open_arrays(dicts, noiseless):
    """Return the part of dicts of arrays, each a group of pairs."""
    noiseless = bool(noiseless)

    def blocks(split, size):
        for number, item in enumerate(dicts):
            origin = f"source[{number}]"
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
            fields = {  # rows of several shapes stay a list
                key: item[name]
                if isinstance(item[name], list) and key != "wavelength"
                else np.asarray(item[name])
                for key, name in names.items()
            }
            grid = fields.get("wavelength")
            shared = {"wavelength": grid} if grid is not None and grid.ndim == 1 else {}
            rowwise = {key: values for key, values in fields.items() if key not in shared}
            lengths = {
                key: len(values) if isinstance(values, list) or values.ndim else 0
                for key, values in rowwise.items()
            }
            first, end = split_rows(_n_pairs_of(lengths, origin, "arrays"), split)
            for start in range(first, end, size):
                rows = slice(start, min(start + size, end))
                chosen = {key: values[rows] for key, values in rowwise.items()}
                yield _raw_pairs(
                    {**chosen, **shared}, origin, start, rows.stop - start, noiseless
                )

    return Part(None, noiseless, blocks)
