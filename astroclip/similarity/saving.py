"""Indexes as files, and tables with their embeddings put together again."""

import hashlib
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from astropy.table import Column, MaskedColumn

from astroclip.similarity.approximate import ApproximateSearch
from astroclip.similarity.cells import Cells
from astroclip.similarity.columns import Columns, MappedColumns, column_arrays
from astroclip.similarity.files import (
    DAMAGE,
    FORMAT_VERSION,
    damaged,
    mapped_arrays,
    read_header,
    unreadable,
    write_archive,
)
from astroclip.similarity.gap import ModalityCenters
from astroclip.similarity.probing import CellSearch
from astroclip.similarity.searching import Searcher
from astroclip.similarity.store import Store
from astroclip.tables import embedding_matrix, read_table

__all__ = ["bare_columns", "full_table", "read_index", "write_index"]

EAGER_BYTES = 128 << 20  # files up to this size are compared with their checksums when opened
CELL_ARRAYS = ("start", "stop", "centers", "low", "high")


def bare_columns(table, *, keep_embedding):
    """Return a table's columns, without its embedding or with it as plain numbers."""
    bare = table.copy(copy_data=False)
    if keep_embedding:
        bare["embedding"] = Column(embedding_matrix(table)[0])
    else:
        bare.remove_column("embedding")
    return Columns(bare)


def full_table(columns, store, place):
    """Return all columns with the embedding in its place, masked where there is none."""
    table = columns.table()
    if "embedding" in table.colnames:
        matrix = np.array(table["embedding"], dtype=np.float32)
        table.remove_column("embedding")
    else:
        matrix = store.matrix(len(columns))
    mask = np.repeat(~np.isfinite(matrix).all(axis=1)[:, None], matrix.shape[1], axis=1)
    matrix[mask] = np.nan
    column = MaskedColumn(matrix, mask=mask, fill_value=np.nan)
    table.add_column(column, name="embedding", index=place)
    return table


def write_index(path, columns, searcher, *, gap, settings):
    """Write an index's parts to one file, complete or not at all."""
    store = searcher.store
    names, plain, description = column_arrays(columns.table())
    arrays = {"vectors": store.vectors, "rows": store.rows}
    for section, cells in store.parts.items():
        for name, array in zip(CELL_ARRAYS, cells.arrays(), strict=True):
            arrays[f"cells_{section}_{name}"] = array
    for section, center in ({} if gap is None else gap.centers).items():
        arrays[f"gap_{section}"] = center
    searches = {}
    for section, search in searcher.approximate.items():
        searches[section] = search.settings()
        for name, array in search.arrays().items():
            arrays[f"{name}_{section}"] = array
    for number, array in enumerate(plain):
        arrays[f"column_{number:03d}"] = array
    header = {
        "columns": names,
        "description": description,
        "sections": store.sections,
        "length_error": store.length_error,
        "approximate": searches,
        "gap": None if gap is None else list(gap.centers),
        "settings": settings,
    }
    write_archive(path, header, arrays)


def read_index(path, *, verify=None):
    """Return what `write_index` wrote, or the table of an index of the first format.

    Returns
    -------
    columns, searcher, gap, settings
        Or a table and three times None.
    """
    header = read_header(path)
    version = header.get("version")
    if version == "1":
        return _read_first_format(path, header), None, None, None
    if version != FORMAT_VERSION:
        msg = (
            f"index {str(path)!r} is of format version {version!r}; expected "
            f"{FORMAT_VERSION!r} or '1'. Make it again from its table, or update astroclip."
        )
        raise ValueError(msg)
    arrays = mapped_arrays(path, header)
    n_bytes = sum(array.dtype.itemsize * int(np.prod(array.shape)) for array in arrays.values())
    if verify or (verify is None and n_bytes <= EAGER_BYTES):
        for array in arrays.values():
            array.verify()
    try:
        return _assembled(header, arrays)
    except DAMAGE as error:
        if str(error) == damaged(path):
            raise
        raise ValueError(unreadable(path, error)) from error


def _assembled(header, arrays):
    """Return an index's parts from a file's arrays."""
    parts = {
        section: Cells(*[arrays[f"cells_{section}_{name}"][:] for name in CELL_ARRAYS])
        for section in header["sections"]
    }
    sections = {name: tuple(bounds) for name, bounds in header["sections"].items()}
    error = header["length_error"]
    store = Store(arrays["vectors"], arrays["rows"][:], sections, parts, length_error=error)
    plain = [arrays[f"column_{number:03d}"] for number in range(len(header["columns"]))]
    columns = MappedColumns(header["columns"], plain, header["description"])
    approximate = {
        section: _approximate(section, each, arrays)
        for section, each in header["approximate"].items()
    }
    searcher = Searcher(store, len(columns), approximate=approximate)
    names = header["gap"]
    gap = None if names is None else ModalityCenters({n: arrays[f"gap_{n}"][:] for n in names})
    return columns, searcher, gap, header["settings"]


def _approximate(section, settings, arrays):
    """Return the approximate search of a modality."""
    if settings["method"] == CellSearch.method:
        known = {name: value for name, value in settings.items() if name != "method"}
        return CellSearch(section, **known)
    rows = arrays[f"approximate_rows_{section}"][:]
    return ApproximateSearch(arrays[f"approximate_{section}"], rows=rows, **settings)


def _read_first_format(path, header):
    """Return the table of an index file of the first format: an archived FITS table."""
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read("table.fits")
    except DAMAGE as error:
        raise ValueError(unreadable(path, error)) from error
    if hashlib.sha256(content).hexdigest() != header.get("sha256"):
        raise ValueError(damaged(path))
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.fits"
        table.write_bytes(content)
        return read_table(table)
