"""The vectors of an index: shards of a reference, and one search over all of them."""

import importlib.util
from dataclasses import dataclass, field

import numpy as np

from astroclip.similarity.approximate import LEAST_ROWS, ApproximateSearch
from astroclip.similarity.cells import Cells, make_cells
from astroclip.similarity.search import nearest, within
from astroclip.similarity.vectors import length_error

__all__ = ["Shard", "Store"]

BLOCK_ROWS = 8192
# where a condition leaves at most so many of a section's rows, they are searched exactly
EXACT_ROWS, EXACT_SHARE = 500_000, 0.25


@dataclass
class Shard:
    """A piece of a reference that is added, written and read as a whole.

    Parameters
    ----------
    columns : `~astropy.table.QTable` or `~astroclip.similarity.columns.ParquetTable`
        All but the embeddings, a row for each object.
    vectors : (P, D) float32 or float16 `numpy.ndarray`, or mapped
        Unit vectors, modality by modality and cell by cell.
    rows : (P,) int `numpy.ndarray`
        The row of ``columns`` of each vector; rows without an embedding have none.
    cells : dict of str to `~astroclip.similarity.cells.Cells`
        By modality, in the order of their positions.
    length_error : float
        Largest difference of a vector's length from one.
    approximate : dict of str to `~astroclip.similarity.approximate.ApproximateSearch`
        By modality; others are searched exactly.
    saved : (`pathlib.Path`, str, dict) or None
        Where it was written to or read from: the index's folder, the shard's name there, and
        the size and checksum of each file.
    """

    columns: object
    vectors: np.ndarray
    rows: np.ndarray
    cells: dict
    length_error: float
    approximate: dict = field(default_factory=dict)
    saved: tuple | None = None

    @classmethod
    def build(cls, columns, unit, modality, usable, *, dtype, random_state, sizes=None):
        """Return the shard of a table's rows.

        Parameters
        ----------
        columns : `~astropy.table.QTable`
        unit : (M, D) float32 `numpy.ndarray`
            Unit vectors.
        modality : (M,) str `numpy.ndarray`
        usable : (M,) bool `numpy.ndarray`
            Rows that have a vector.
        dtype : str
            ``"float32"`` or ``"float16"``.
        random_state : int
        sizes : `~astroclip.similarity.cells.CellSizes`, optional

        Returns
        -------
        `Shard`
        """
        n_rows = int(usable.sum())
        small = len(unit) < np.iinfo(np.int32).max
        rows = np.empty(n_rows, dtype=np.int32 if small else np.int64)
        vectors = np.empty((n_rows, unit.shape[1]), dtype=dtype)
        rng = np.random.default_rng(random_state)
        parts, start = {}, 0
        for name in np.unique(modality[usable]):
            members = np.flatnonzero(usable & (modality == name))
            own = unit if len(members) == len(unit) else unit[members]
            order, cells = make_cells(own, rng=rng, sizes=sizes)
            rows[start : start + len(members)] = members[order]
            for first in range(0, len(order), BLOCK_ROWS):
                chosen = order[first : first + BLOCK_ROWS]
                vectors[start + first : start + first + len(chosen)] = own[chosen]
            parts[str(name)] = cells.moved(start)
            start += len(members)
        return cls(columns, vectors, rows, parts, length_error(vectors))

    def __len__(self):
        return len(self.rows)

    @property
    def n_bytes(self):
        """Bytes of its vectors, rows and cells."""
        arrays = [self.vectors, self.rows]
        arrays += [array for cells in self.cells.values() for array in cells.arrays()]
        return sum(array.nbytes for array in arrays)

    def read(self, positions):
        """Return the vectors at positions, a slice or an array, as float32."""
        return self.vectors[positions].astype(np.float32, copy=False)

    def matrix(self):
        """Return the vectors in the order of the columns, float32; NaN in rows without one."""
        matrix = np.full((len(self.columns), self.vectors.shape[1]), np.nan, dtype=np.float32)
        for first in range(0, len(self), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            matrix[self.rows[part]] = self.vectors[part]
        return matrix

    def build_approximate(self, method, *, recall, random_state):
        """Build approximate searches of the modalities that are large enough for a method."""
        if method == "auto" and importlib.util.find_spec("faiss") is None:
            return
        for name, cells in self.cells.items():
            if cells.stop[-1] - cells.start[0] >= LEAST_ROWS[method]:
                self.approximate[name] = ApproximateSearch.build(
                    self, cells, recall=recall, random_state=random_state
                )


class Store:
    """The vectors of several shards, at positions that go on from one to the next.

    Parameters
    ----------
    shards : list of `Shard`
    device : str or `torch.device`, optional
        Where exact searches multiply.

    Attributes
    ----------
    rows : (P,) int `numpy.ndarray`
        The row of the reference of each vector.
    modalities : list of str
    """

    def __init__(self, shards, *, device=None):
        self.shards, self.device = shards, device
        self.first_row = np.cumsum([0, *[len(shard.columns) for shard in shards]])
        self.first = np.cumsum([0, *map(len, shards)])
        self.rows = shards[0].rows
        if len(shards) > 1:
            rows = [shard.rows + row for shard, row in zip(shards, self.first_row, strict=False)]
            self.rows = np.concatenate(rows)
        self.length_error = max(shard.length_error for shard in shards)
        self.modalities = sorted({name for shard in shards for name in shard.cells})
        self._joined_cells, self._position = {}, None

    def __len__(self):
        return len(self.rows)

    @property
    def dim(self):
        """Length of a vector."""
        return self.shards[0].vectors.shape[1]

    def read(self, positions):
        """Return the vectors at positions, an array or a slice inside a shard, as float32."""
        if len(self.shards) == 1:
            return self.shards[0].read(positions)
        if isinstance(positions, slice):
            number = int(np.searchsorted(self.first, positions.start, side="right")) - 1
            first = int(self.first[number])
            own = slice(positions.start - first, positions.stop - first)
            return self.shards[number].read(own)
        vectors = np.empty((len(positions), self.dim), dtype=np.float32)
        owner = np.searchsorted(self.first, positions, side="right") - 1
        for number in np.unique(owner):
            own = owner == number
            vectors[own] = self.shards[number].read(positions[own] - self.first[number])
        return vectors

    def vectors_of(self, rows):
        """Return the vectors of rows of the reference, NaN for those that have none."""
        if self._position is None:
            self._position = np.full(self.first_row[-1], -1, dtype=self.rows.dtype)
            self._position[self.rows] = np.arange(len(self), dtype=self.rows.dtype)
        vectors = np.full((len(rows), self.dim), np.nan, dtype=np.float32)
        position = self._position[rows]
        vectors[position >= 0] = self.read(position[position >= 0])
        return vectors

    # ------------------------------------------------------------------ modalities
    def names(self, modality, own):
        """Return the modalities that a query of the modality ``own`` is compared with."""
        if modality is None:
            modality = own if own in self.modalities else "all"
        return tuple(name for name in self.modalities if modality in ("all", name))

    def sections(self, names):
        """Yield the shards' numbers, modalities and cells that hold some modalities."""
        for number, shard in enumerate(self.shards):
            for name, cells in shard.cells.items():
                if name in names:
                    yield number, name, cells

    def positions(self, names, allowed=None):
        """Return the positions of some modalities' vectors whose rows are allowed."""
        parts = [np.empty(0, dtype=np.int64)]
        for number, _, cells in self.sections(names):
            parts.append(self.first[number] + np.arange(cells.start[0], cells.stop[-1]))
        positions = np.concatenate(parts)
        return positions if allowed is None else positions[allowed[self.rows[positions]]]

    def count(self, names, allowed=None):
        """Return how many vectors of some modalities may be found."""
        if allowed is None:
            return sum(int(cells.stop[-1] - cells.start[0]) for *_, cells in self.sections(names))
        return len(self.positions(names, allowed))

    # ------------------------------------------------------------------ searching
    def nearest(self, queries, names, n_neighbors, *, allowed=None):
        """Return the rows of the reference most similar to unit vectors.

        Parameters
        ----------
        queries : (N, D) float32 `numpy.ndarray`
        names : sequence of str
            Modalities to search.
        n_neighbors : int
            At most `count`.
        allowed : (M,) bool `numpy.ndarray`, optional
            Rows that may be found.

        Returns
        -------
        rows : (N, n_neighbors) int64 `numpy.ndarray`
            Most similar first; ties in the order of the rows.
        similarity : (N, n_neighbors) float64 `numpy.ndarray`
        """
        exact, found, n_exact = [], [], 0
        for section in self.sections(names):
            number, name, cells = section
            shard = self.shards[number]
            n_rows = n_allowed = int(cells.stop[-1] - cells.start[0])
            own = None
            if allowed is not None:
                own = allowed[self.first_row[number] :][shard.rows]
                n_allowed = int(own[cells.start[0] : cells.stop[-1]].sum())
            few = allowed is not None and n_allowed <= min(EXACT_SHARE * n_rows, EXACT_ROWS)
            if few or name not in shard.approximate or n_neighbors > n_allowed:
                exact.append(section)
                n_exact += n_allowed
                continue
            positions, similarity = shard.approximate[name].search(
                shard, queries, n_neighbors, allowed=own
            )
            rows = self.first_row[number] + shard.rows[positions].astype(np.int64)
            missing = np.flatnonzero(positions[:, -1] < 0)  # too few in the lists looked into
            if len(missing):
                rows[missing], similarity[missing] = self._exact(
                    queries[missing], [section], n_neighbors, allowed
                )
            found.append((rows, similarity))
        if n_exact:
            found.append(self._exact(queries, exact, min(n_neighbors, n_exact), allowed))
        if len(found) == 1:
            return found[0]
        rows, similarity = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
        order = np.lexsort((rows, -similarity), axis=1)[:, :n_neighbors]
        return tuple(np.take_along_axis(each, order, axis=1) for each in (rows, similarity))

    def _exact(self, queries, sections, n_neighbors, allowed):
        """Return the nearest rows of some sections, exactly."""
        allowed = None if allowed is None else allowed[self.rows]
        arguments = (self, queries, n_neighbors, self._cells(sections))
        if self.device is None:
            positions, similarity = nearest(*arguments, allowed=allowed)
        else:
            from astroclip.similarity.devices import nearest_on_device

            positions, similarity = nearest_on_device(
                *arguments, device=self.device, allowed=allowed
            )
        return self.rows[positions].astype(np.int64), similarity

    def _cells(self, sections):
        """Return the cells of some sections, at positions of the store."""
        key = tuple((number, name) for number, name, _ in sections)
        if key not in self._joined_cells:
            self._joined_cells[key] = Cells.joined(
                [cells.moved(self.first[number]) for number, _, cells in sections]
            )
        return self._joined_cells[key]

    def within(self, queries, names, similarity, *, allowed=None):
        """Yield queries' numbers, rows and cosines of all pairs that are similar enough."""
        sections = list(self.sections(names))
        if not sections:
            return
        allowed = None if allowed is None else allowed[self.rows]
        pairs = within(self, queries, similarity, self._cells(sections), allowed=allowed)
        for number, positions, cosine in pairs:
            yield number, self.rows[positions].astype(np.int64), cosine
