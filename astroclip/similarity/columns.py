"""The columns of a reference beside its vectors: in Parquet files, and of several shards as one.

Both classes are read like an `~astropy.table.QTable`: they have ``colnames``, ``meta``, a length,
columns by name, and rows by slice or by an array of numbers.
"""

import json
import re
from copy import deepcopy

import numpy as np
from astropy.table import QTable, Table, meta, serialize, vstack
from astropy.utils.data_info import serialize_context_as

__all__ = ["ParquetTable", "StackedTable", "write_parquet"]

GROUP_ROWS = 32_768
WHOLE_BYTES = 64 << 20
HEADER = b"table_meta_yaml"  # the key that astropy's own Parquet files use
PLAIN_DTYPE = re.compile(r"[<|][biufcSUMm]\d{1,4}(\[\w{1,4}\])?")


def _arrow_type(dtype, shape):
    """Return the Arrow type of a column: the dtype of a number and the shape of a row."""
    import pyarrow as pa

    if dtype.kind == "U":
        arrow_type = pa.string()
    elif dtype.kind in "biuf" and dtype.itemsize <= 8:
        arrow_type = pa.from_numpy_dtype(dtype)
    else:  # complex numbers, bytes, times
        arrow_type = pa.binary(dtype.itemsize)
    return pa.list_(arrow_type, int(np.prod(shape))) if shape else arrow_type


def write_parquet(table, path, *, group_rows=GROUP_ROWS):
    """Write a table to a Parquet file.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        Units, masks, descriptions, meta and astropy's own columns (coordinates, times) are kept.
    path : path-like
    group_rows : int
        Rows of a row group, the least that is read of a large file.

    Raises
    ------
    ValueError
        If a column holds Python objects.

    Notes
    -----
    Values are neither compressed nor coded by dictionaries, so that no small file can ask for
    much memory when it is read. Tables are taken apart as for astropy's own Parquet files, which
    are not used because reading them needs pandas and keeps one dimension of a row only.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with serialize_context_as("hdf5"):  # masks become columns of their own
        plain = serialize.represent_mixins_as_columns(table)
    fields, arrays = [], []
    for name in plain.colnames:
        array = np.ascontiguousarray(np.ma.getdata(plain[name]))
        if array.dtype.hasobject:
            msg = (
                f"table[{name!r}] holds Python objects; expected numbers, text or quantities. "
                f"Convert it, such as with table[{name!r}].astype(str), before saving."
            )
            raise ValueError(msg)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        shape = array.shape[1:]
        arrow_type = _arrow_type(array.dtype, shape)
        item = arrow_type.value_type if shape else arrow_type
        if pa.types.is_fixed_size_binary(item):
            values = pa.FixedSizeBinaryArray.from_buffers(
                item, array.size, [None, pa.py_buffer(array.tobytes())]
            )
        else:
            values = pa.array(array.ravel(), type=item)
        if shape:
            values = pa.FixedSizeListArray.from_arrays(values, type=arrow_type)
        details = {"dtype": array.dtype.str, "shape": json.dumps(shape)}
        fields.append(pa.field(name, arrow_type, nullable=False, metadata=details))
        arrays.append(values)
    header = "\n".join(meta.get_yaml_from_table(plain)).encode()
    schema = pa.schema(fields, metadata={HEADER: header})
    parquet.write_table(
        pa.Table.from_arrays(arrays, schema=schema), path, row_group_size=group_rows,
        compression="none", use_dictionary=False, write_statistics=False,
    )


class ParquetTable:
    """A table in a file of `write_parquet`: rows are read when they are asked for.

    Parameters
    ----------
    path : `pathlib.Path`
        The file is kept open, so that it is read as it is now even if it is replaced.
    whole_bytes : int
        A file up to this size is read as a whole at its first use.

    Raises
    ------
    ValueError
        If the file is none of `write_parquet`, or would take much more memory than its size.
        Others than this come from Arrow and astropy, for files that are damaged.
    """

    def __init__(self, path, *, whole_bytes=WHOLE_BYTES):
        import pyarrow as pa
        from pyarrow import parquet

        self.source = pa.memory_map(str(path))
        self._file = parquet.ParquetFile(self.source)
        self._n_bytes, self._whole_bytes = self.source.size(), whole_bytes
        self._formats = self._checked_formats()
        header = self._file.schema_arrow.metadata[HEADER].decode()
        self._header = meta.get_header_from_yaml(header.split("\n"))
        n_rows = [
            self._file.metadata.row_group(number).num_rows
            for number in range(self._file.num_row_groups)
        ]
        self._starts = np.concatenate([[0], np.cumsum(n_rows)]).astype(np.int64)
        self._whole, self._kept = None, {}
        empty = self._assembled(self._file.schema_arrow.empty_table())
        self.colnames, self.meta = list(empty.colnames), empty.meta

    def _checked_formats(self):
        """Return the dtype and the shape of a row of each column, all of them safe to read."""
        schema, about = self._file.schema_arrow, self._file.metadata
        formats, n_bytes = {}, 0
        for field in schema:
            details = field.metadata or {}
            dtype = details.get(b"dtype", b"").decode()
            shape = json.loads(details.get(b"shape", b"null"))
            usable = PLAIN_DTYPE.fullmatch(dtype) and isinstance(shape, list)
            usable = usable and all(type(size) is int and 0 < size < 2**31 for size in shape)
            usable = usable and field.type == _arrow_type(np.dtype(dtype), shape)
            if not usable:
                msg = f"column {field.name!r} is not as SimilarityIndex.save writes it"
                raise ValueError(msg)
            formats[field.name] = np.dtype(dtype), tuple(shape)
            if np.dtype(dtype).kind != "U":
                n_values = int(np.prod(shape, dtype=object)) * about.num_rows
                n_bytes += n_values * np.dtype(dtype).itemsize
        chunks = [
            about.row_group(group).column(number)
            for group in range(about.num_row_groups)
            for number in range(about.row_group(group).num_columns)
        ]
        plain = {"PLAIN", "RLE", "BIT_PACKED"}  # the latter two count rows of lists
        if n_bytes > 8 * self._n_bytes or any(  # a bool takes one bit in the file
            chunk.compression != "UNCOMPRESSED" or not set(chunk.encodings) <= plain
            for chunk in chunks
        ):
            msg = "its columns would take more memory than they take in the file"
            raise ValueError(msg)
        return formats

    def __len__(self):
        return int(self._starts[-1])

    def __getitem__(self, item):
        """Return a column by its name, or some rows as a table."""
        if self._n_bytes <= self._whole_bytes:
            if self._whole is None:
                self._whole = self._assembled(self._file.read())
            return self._whole[item]
        if isinstance(item, str):
            if item not in self._kept:
                parts = re.compile(f"{re.escape(item)}(\\..*)?")  # such as "mass.mask"
                names = [name for name in self._formats if parts.fullmatch(name)]
                self._kept[item] = self._assembled(self._file.read(columns=names), item)[item]
            return self._kept[item]
        import pyarrow as pa

        rows = np.arange(len(self))[item]
        order = np.argsort(rows, kind="stable")
        groups, first = np.unique(
            np.searchsorted(self._starts, rows[order], side="right") - 1, return_index=True
        )
        parts = [self._file.schema_arrow.empty_table()]
        for group, own in zip(groups, np.split(rows[order], first[1:]), strict=False):
            part = self._file.read_row_group(int(group))
            parts.append(part.take(pa.array(own - self._starts[group])))
        return self._assembled(pa.concat_tables(parts))[np.argsort(order)]

    def _assembled(self, arrow, wanted=None):
        """Return the table of an Arrow table, which may hold the parts of a wanted column only."""
        described = {each["name"]: each for each in self._header["datatype"]}
        table = Table()
        for name in arrow.column_names:
            table[name] = self._plain_array(arrow, name)
            for attribute in ("unit", "format", "description", "meta"):
                if described[name].get(attribute) is not None:
                    setattr(table[name].info, attribute, described[name][attribute])
        table.meta.update(deepcopy(self._header.get("meta", {})))  # used up below
        if wanted is not None and "__serialized_columns__" in table.meta:
            composed = table.meta["__serialized_columns__"]
            own = {name: each for name, each in composed.items() if name == wanted}
            table.meta["__serialized_columns__"] = own
        return QTable(serialize._construct_mixins_from_columns(table), copy=False)

    def _plain_array(self, arrow, name):
        """Return a column of an Arrow table as a numpy array of its own."""
        import pyarrow as pa
        import pyarrow.compute

        dtype, shape = self._formats[name]
        values = arrow[name].combine_chunks()
        if values.null_count:
            msg = f"column {name!r} lacks values"
            raise ValueError(msg)
        n_rows = len(values)
        values = values.flatten() if shape else values
        if dtype.kind == "U":
            width = pa.compute.max(pa.compute.utf8_length(values)).as_py() or 1
            if 4 * width * len(values) > max(64 * self._n_bytes, 1 << 30):
                msg = f"column {name!r} would take much more memory than it takes in the file"
                raise ValueError(msg)
            array = values.to_numpy(zero_copy_only=False).astype(f"U{width}")
        elif pa.types.is_fixed_size_binary(values.type):
            start = values.offset * dtype.itemsize
            content = values.buffers()[1]
            content = b"" if content is None else content.to_pybytes()
            array = np.frombuffer(content, dtype, len(values), start if content else 0).copy()
        else:
            array = np.array(values.to_numpy(zero_copy_only=False))
        return array.reshape(n_rows, *shape)


class StackedTable:
    """The columns of several shards, one below the other.

    Parameters
    ----------
    tables : list of `~astropy.table.QTable` or `ParquetTable`
        Columns that a table lacks are masked there. Meta is that of the first.
    """

    def __init__(self, tables):
        self._tables = tables
        self._starts = np.cumsum([0, *map(len, tables)])
        self._empty = vstack([table[:0] for table in tables], metadata_conflicts="silent")
        self._kept = {}
        self.colnames, self.meta = list(self._empty.colnames), tables[0].meta

    def __len__(self):
        return int(self._starts[-1])

    def __getitem__(self, item):
        """Return a column by its name, or some rows as a table."""
        if isinstance(item, str):
            if item not in self._kept:
                parts = []
                for table in self._tables:
                    part = QTable({"length": np.zeros(len(table), dtype=bool)})
                    if item in table.colnames:
                        part["column"] = table[item]
                    parts.append(part)
                self._kept[item] = vstack(parts, metadata_conflicts="silent")["column"]
                self._kept[item].info.name = item
            return self._kept[item]
        rows = np.arange(len(self))[item]
        number = np.searchsorted(self._starts, rows, side="right") - 1
        parts = [self._empty]  # its columns and their masks do not depend on the rows
        for each in np.unique(number):
            parts.append(self._tables[each][rows[number == each] - self._starts[each]])
        result = vstack(parts, metadata_conflicts="silent")
        result.meta.clear()
        result.meta.update(self.meta)
        return result[np.argsort(np.argsort(number, kind="stable"))]
