"""The store of an index: unit vectors in the order in which they are searched."""

import numpy as np

from astroclip.similarity.cells import Cells, make_cells, plain_cells
from astroclip.similarity.vectors import as_float32

__all__ = ["Store"]

BLOCK_ROWS = 8192
DTYPES = ("float32", "float16")


class Store:
    """Unit vectors, modality by modality and cell by cell.

    Parameters
    ----------
    vectors : (P, D) float32 or float16 `numpy.ndarray`, or mapped
    rows : (P,) int `numpy.ndarray`
        The row of the table of each position.
    sections : dict of str to (int, int)
        First and last position, exclusive, of each modality.
    parts : dict of str to `~astroclip.similarity.cells.Cells`
        Of each modality.
    length_error : float
        Largest difference of a vector's length from one.
    """

    def __init__(self, vectors, rows, sections, parts, *, length_error):
        self.vectors, self.rows = vectors, rows
        self.sections, self.parts = sections, parts
        self.length_error = length_error
        self._joined = {}

    @classmethod
    def build(cls, unit, modality, usable, *, dtype="float32", rng, centers=None):
        """Return the store of the usable rows of a matrix.

        Parameters
        ----------
        unit : (M, D) float32 `numpy.ndarray`
            Unit vectors.
        modality : (M,) str `numpy.ndarray`
        usable : (M,) bool `numpy.ndarray`
            Rows to keep.
        dtype : str
            ``"float32"`` or ``"float16"``.
        rng : `numpy.random.Generator`
        centers : dict of str to array, optional
            Centers of cells to use again, by modality.

        Returns
        -------
        `Store`
        """
        n_rows = int(usable.sum())
        small = len(unit) < np.iinfo(np.int32).max
        rows = np.empty(n_rows, dtype=np.int32 if small else np.int64)
        vectors = np.empty((n_rows, unit.shape[1]), dtype=dtype)
        sections, parts, start = {}, {}, 0
        for name in np.unique(modality[usable]):
            members = np.flatnonzero(usable & (modality == name))
            own = unit if len(members) == len(unit) else unit[members]
            order, cells = make_cells(own, rng=rng, centers=(centers or {}).get(str(name)))
            stop = start + len(members)
            rows[start:stop] = members[order]
            for first in range(0, len(order), BLOCK_ROWS):
                chosen = order[first : first + BLOCK_ROWS]
                vectors[start + first : start + first + len(chosen)] = own[chosen]
            sections[str(name)], parts[str(name)] = (start, stop), cells.moved(start)
            start = stop
        return cls(vectors, rows, sections, parts, length_error=_length_error(vectors))

    @classmethod
    def of_rows(cls, vectors):
        """Return a store of unit vectors in their own order, of which nothing else is known."""
        n_rows, dim = vectors.shape
        parts = {"all": plain_cells(n_rows, dim)}
        sections = {"all": (0, n_rows)}
        error = _length_error(vectors)
        return cls(vectors, np.arange(n_rows), sections, parts, length_error=error)

    def __len__(self):
        return len(self.rows)

    @property
    def dtype(self):
        """Name of the vectors' type."""
        return np.dtype(self.vectors.dtype).name

    @property
    def dim(self):
        """Length of a vector."""
        return self.vectors.shape[1]

    @property
    def n_bytes(self):
        """Bytes that the store takes: vectors, rows and cells."""
        arrays = [self.vectors, self.rows]
        arrays += [array for cells in self.parts.values() for array in cells.arrays()]
        return sum(int(np.prod(array.shape)) * array.dtype.itemsize for array in arrays)

    def read(self, positions):
        """Return vectors at positions, a slice or an array, as they are stored."""
        return self.vectors[positions]

    def cells(self, names=None):
        """Return the cells of some modalities, of all by default."""
        names = tuple(self.sections) if names is None else tuple(names)
        if names not in self._joined:
            none, empty = np.empty(0, dtype=np.int64), np.empty(0)
            none = Cells(none, none, np.empty((0, self.dim), dtype=np.float32), empty, empty)
            self._joined[names] = sum((self.parts[name] for name in names), start=none)
        return self._joined[names]

    def centers(self):
        """Return the distinct centers of each modality's cells, for a store like this one."""
        found = {name: np.unique(cells.centers, axis=0) for name, cells in self.parts.items()}
        return {name: each for name, each in found.items() if each.any()}

    def positions(self, n_rows):
        """Return the position of each of a table's rows, -1 for rows that are not stored."""
        positions = np.full(n_rows, -1, dtype=self.rows.dtype)
        positions[self.rows] = np.arange(len(self), dtype=self.rows.dtype)
        return positions

    def matrix(self, n_rows):
        """Return the vectors in the table's order, float32; NaN in rows that are not stored."""
        matrix = np.full((n_rows, self.dim), np.nan, dtype=np.float32)
        for first in range(0, len(self), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            matrix[self.rows[part]] = as_float32(self.read(part))
        return matrix


def _length_error(vectors):
    """Return the largest difference of a vector's length from one."""
    largest = 0.0
    for first in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[first : first + BLOCK_ROWS].astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        largest = max(largest, float(np.abs(length - 1).max()))
    return largest
