"""The columns of a reference beside its vectors: held in memory, or read from a file on demand."""

from copy import deepcopy

import numpy as np
from astropy.table import QTable, Table, meta, serialize
from astropy.utils.data_info import serialize_context_as

__all__ = ["Columns", "MappedColumns", "column_arrays"]


class Columns:
    """A table's columns without its embeddings, in memory.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        Its columns are shared, not copied.
    """

    def __init__(self, table):
        self._table = table

    def __len__(self):
        return len(self._table)

    @property
    def names(self):
        """Names of the columns."""
        return list(self._table.colnames)

    @property
    def meta(self):
        """The table's meta."""
        return self._table.meta

    def column(self, name):
        """Return a column."""
        return self._table[name]

    def texts(self, name):
        """Return a column of plain text, as an array or something indexed like one."""
        return np.asarray(self._table[name]).astype(str)

    def take(self, rows):
        """Return some rows as a table."""
        return self._table[rows]

    def table(self):
        """Return all rows as a table that shares the columns."""
        return QTable(self._table, copy=False)


def column_arrays(table):
    """Return a table as plain arrays and a description of how to put it together again.

    Parameters
    ----------
    table : `~astropy.table.QTable`

    Returns
    -------
    names : list of str
    arrays : list of `numpy.ndarray`
    description : list of str
        YAML, as in astropy's own formats.

    Raises
    ------
    ValueError
        If a column holds Python objects.
    """
    with serialize_context_as("hdf5"):  # masks as columns of their own
        plain = serialize.represent_mixins_as_columns(table)
    arrays = []
    for name in plain.colnames:
        column = np.ma.getdata(plain[name])
        array = np.ascontiguousarray(column)
        if array.dtype.hasobject:
            msg = (
                f"table[{name!r}] holds Python objects; expected numbers, text or quantities. "
                f"Convert it, such as with table[{name!r}].astype(str), before saving."
            )
            raise ValueError(msg)
        arrays.append(array)
    return list(plain.colnames), arrays, meta.get_yaml_from_table(plain)


class MappedColumns:
    """A table's columns in a file: rows are read when they are asked for.

    Parameters
    ----------
    names : list of str
    arrays : list of mapped arrays
    description : list of str
        As `column_arrays` returned them.
    """

    def __init__(self, names, arrays, description):
        self._arrays = dict(zip(names, arrays, strict=True))
        self._header = meta.get_header_from_yaml(description)
        first = self.take(np.arange(0))
        self.names, self.meta = list(first.colnames), first.meta
        self._kept = {}

    def __len__(self):
        return len(next(iter(self._arrays.values())))

    def take(self, rows, wanted=None):
        """Return some rows as a table, of one column or of all."""
        names = [
            name for name in self._arrays
            if wanted is None or name == wanted or name.startswith(f"{wanted}.")
        ]
        described = {each["name"]: each for each in self._header["datatype"]}
        table = Table()
        for name in names:
            table[name] = self._arrays[name][rows]
            for attribute in ("unit", "format", "description", "meta"):
                if described[name].get(attribute) is not None:
                    setattr(table[name].info, attribute, described[name][attribute])
        table.meta.update(deepcopy(self._header.get("meta", {})))  # used up below
        composed = table.meta.get("__serialized_columns__", {})
        if wanted is not None:
            composed = {name: each for name, each in composed.items() if name == wanted}
            table.meta["__serialized_columns__"] = composed
        return QTable(serialize._construct_mixins_from_columns(table), copy=False)

    def column(self, name):
        """Return a column; it is kept."""
        if name not in self._kept:
            self._kept[name] = self.take(slice(None), wanted=name)[name]
        return self._kept[name]

    def texts(self, name):
        """Return a column of plain text, as an array or something indexed like one."""
        plain = f"{name}.mask" not in self._arrays and self._arrays[name].dtype.kind == "U"
        return self._arrays[name] if plain else np.asarray(self.column(name)).astype(str)

    def table(self):
        """Return all rows as a table of its own, read now."""
        return self.take(slice(None)).copy()
