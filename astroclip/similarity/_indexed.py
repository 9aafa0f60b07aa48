"""A table of embeddings that can be searched, changed, saved and opened."""

import weakref
from pathlib import Path

import numpy as np
from astropy.table import vstack

from astroclip._validation import check_choice
from astroclip.similarity.gap import ModalityCenters
from astroclip.similarity.ids import IdLookup
from astroclip.similarity.saving import bare_columns, full_table, read_index, write_index
from astroclip.similarity.searching import METHODS, Searcher
from astroclip.similarity.store import DTYPES, Store
from astroclip.similarity.vectors import HALF_TOLERANCE, UNIT_TOLERANCE, unit_rows
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["IndexedTable"]

KINDS = ("spectrum", "image")


class IndexedTable:
    """What `~astroclip.SimilarityIndex` is beside its queries: rows that come, go and are kept.

    Parameters
    ----------
    table, method, recall, dtype, center_modalities, device, random_state
        As in `~astroclip.SimilarityIndex`.
    """

    def __init__(
        self, table, *, method="exact", recall=0.97, dtype="float32", center_modalities=False,
        device=None, random_state=0,
    ):
        validate_embedding_table(table)
        self.method = check_choice(method, METHODS, "method")
        self.dtype = check_choice(dtype, DTYPES, "dtype")
        self._settings = {"recall": _check_recall(recall), "random_state": random_state}
        self._gap = None
        self._place = table.colnames.index("embedding")
        matrix, valid = embedding_matrix(table)
        self._fill(table, matrix, valid, centered=bool(center_modalities), device=device)

    def _fill(self, table, matrix, valid, *, centered, device=None, old=None):
        """Take a table and its embeddings; ``old`` has cells and approximate searches to reuse."""
        # rows that come back from a store in half precision keep their bits
        kept = old is not None and self.dtype == "float16" and not centered
        tolerance = HALF_TOLERANCE if kept else UNIT_TOLERANCE
        unit, directed = unit_rows(matrix, copy=False, tolerance=tolerance)
        valid = valid & directed
        modality = np.asarray(table["modality"]).astype(str)
        if centered:
            if self._gap is None:
                self._gap = ModalityCenters.fit(unit[valid], modality[valid])
            directed = np.zeros(len(unit), dtype=bool)
            unit[valid], directed[valid] = self._gap.centered(unit[valid], modality[valid])
            valid &= directed
        rng = np.random.default_rng(self._settings["random_state"])
        centers = None if old is None else old.store.centers()
        store = Store.build(unit, modality, valid, dtype=self.dtype, rng=rng, centers=centers)
        self._columns = bare_columns(table, keep_embedding=centered)
        self._start(Searcher(store, len(table), device=device))
        if self.method != "exact":
            self._searcher.build_approximate(
                self.method, **self._settings, old=None if old is None else old.approximate
            )

    def _start(self, searcher):
        self._searcher = searcher
        self.dim = searcher.store.dim
        self._lookup, self._table = None, None

    def __len__(self):
        return len(self._columns)

    def __repr__(self):
        modality = np.asarray(self._columns.texts("modality")[:])
        counts = {name: int((modality == name).sum()) for name in KINDS}
        held = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        model = self._columns.meta["MODEL"]
        how = "" if self.method == "exact" else f", {self.method}, recall {self.recall_:.3f}"
        return f"<SimilarityIndex of {held} rows, model {model!r}{how}>"

    @property
    def table(self):
        """The reference's rows and columns, put together when asked for.

        Embeddings are the unit vectors as they are stored, or, in an index with centred
        modalities, those of the table that it was made from.
        """
        table = None if self._table is None else self._table()
        if table is None:
            table = full_table(self._columns, self._searcher.store, self._place)
            self._table = weakref.ref(table)
        return table

    @property
    def meta(self):
        """The reference's meta: its model, weights and versions."""
        return self._columns.meta

    @property
    def recall_(self):
        """Measured recall of the ten nearest neighbours."""
        return self._searcher.recall

    @property
    def n_bytes(self):
        """Bytes of memory that the vectors and their cells take."""
        return self._searcher.store.n_bytes

    # ------------------------------------------------------------------ changing
    def set_recall(self, recall):
        """Set how hard approximate searches try from another wanted recall, and measure it.

        Parameters
        ----------
        recall : float
            Part of the true ten nearest neighbours that is to be found.

        Returns
        -------
        `SimilarityIndex`
            Itself.
        """
        self._settings["recall"] = _check_recall(recall)
        for name, search in self._searcher.approximate.items():
            search.set_effort(self._searcher.store, name, **self._settings)
        return self

    def append(self, table):
        """Add rows behind those of the reference.

        Cells, centers of modalities and trained approximate searches are kept; the recall is
        measured anew.

        Parameters
        ----------
        table : `~astropy.table.QTable`
            An embedding table of the same model and weights. Columns that only one side has are
            masked on the other.

        Returns
        -------
        `SimilarityIndex`
            Itself.

        Raises
        ------
        ModelMismatchError
            If it comes from another model or weights.
        TypeError, ValueError
            If it is no embedding table, or its embeddings have another length.
        """
        validate_embedding_table(table, name="table")
        check_same_model(table, self._columns.meta, names=("table", "reference"))
        if table["embedding"].shape[1] != self.dim:
            msg = (
                f"table['embedding'] has shape {table['embedding'].shape}; expected "
                f"(N, {self.dim}), as in the reference. Pass embeddings as the model made them."
            )
            raise ValueError(msg)
        meta = dict(self._columns.meta)
        joined = vstack([self.table, table], metadata_conflicts="silent")
        joined.meta.clear()
        joined.meta.update(meta)
        approximate = self._searcher.approximate
        self._refill(joined, approximate)
        return self

    def merge(self, other):
        """Add the rows of another index.

        Parameters
        ----------
        other : `SimilarityIndex`
            Of the same model and weights.

        Returns
        -------
        `SimilarityIndex`
            Itself.

        Raises
        ------
        ModelMismatchError
            If it is of another model or weights.
        TypeError
            If it is no index.
        """
        if not isinstance(other, IndexedTable):
            msg = (
                f"other is of type {type(other).__name__}; expected a SimilarityIndex. Add a "
                f"table with append."
            )
            raise TypeError(msg)
        check_same_model(other._columns.meta, self._columns.meta, names=("other", "reference"))
        return self.append(other.table)

    def remove(self, ids):
        """Take out all rows of some ids.

        Parameters
        ----------
        ids : str or sequence of str

        Returns
        -------
        `SimilarityIndex`
            Itself.

        Raises
        ------
        KeyError
            If the reference has no row of an id; nothing is taken out.
        ValueError
            If no row would be left.
        """
        kept = np.ones(len(self), dtype=bool)
        kept[self._rows_of(ids)] = False
        if not kept.any():
            msg = f"ids names all {len(self)} rows of the reference; expected to keep some."
            raise ValueError(msg)
        approximate = {
            name: search.emptied() for name, search in self._searcher.approximate.items()
        }
        self._refill(self.table[kept], approximate)
        return self

    def _refill(self, table, approximate):
        """Take another table, with what was learned of the one before."""
        old = Searcher(self._searcher.store, len(self), approximate=approximate)
        matrix, valid = embedding_matrix(table)
        device = self._searcher.device
        centered = self._gap is not None
        self._fill(table, matrix, valid, centered=centered, device=device, old=old)

    # ------------------------------------------------------------------ rows
    def _ids(self):
        """Return the lookup of rows by id, made once."""
        if self._lookup is None:
            self._lookup = IdLookup(self._columns.texts("id"))
        return self._lookup

    def _rows_of(self, ids, name="ids"):
        """Return all rows of ids."""
        ids = np.atleast_1d(np.asarray(ids)).astype(str)
        if not len(ids):
            msg = f"{name} is empty; expected at least one id."
            raise ValueError(msg)
        number, rows = self._ids().rows(ids)
        missing = np.setdiff1d(np.arange(len(ids)), number)
        if len(missing):
            msg = (
                f"{name}[{missing[0]}] is {str(ids[missing[0]])!r}, which is no id of the "
                f"reference ({len(missing)} of {len(ids)} are not); expected ids of its rows."
            )
            raise KeyError(msg)
        return rows

    def _rows(self, rows):
        """Return rows of the reference as an embedding table, without putting together the rest."""
        rows = np.asarray(rows)
        table = self._columns.take(rows)
        if "embedding" not in table.colnames:
            matrix = np.full((len(rows), self.dim), np.nan, dtype=np.float32)
            place = self._searcher.place[rows]
            known = place >= 0
            matrix[known] = self._searcher.store.read(place[known])
            table["embedding"] = matrix
        return table

    # ------------------------------------------------------------------ files
    def save(self, path):
        """Write the index to one file, complete or not at all.

        Parameters
        ----------
        path : path-like
            Replaced if it exists. An uncompressed zip archive of ``.npy`` arrays with a header
            and checksums of every MiB; no pickle.

        Raises
        ------
        ValueError
            If a column of the table holds Python objects.
        """
        settings = {
            **self._settings, "method": self.method, "dtype": self.dtype, "place": self._place,
        }
        write_index(path, self._columns, self._searcher, gap=self._gap, settings=settings)

    @classmethod
    def open(cls, path, *, verify=None, device=None):
        """Open an index written by `save`; it stays in its file and is read as it is used.

        Parameters
        ----------
        path : path-like
        verify : bool, optional
            Whether to compare all of the file with its checksums now. By default up to
            128 MB are; of a larger file the layout is, and the rest block by block when it is
            first read.
        device : str or `torch.device`, optional
            As for a new index.

        Returns
        -------
        `SimilarityIndex`

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is no index, of another version, or damaged.
        """
        path = Path(path)
        columns, searcher, gap, settings = read_index(path, verify=verify)
        if searcher is None:
            return cls(columns, device=device)
        index = cls.__new__(cls)
        index.method, index.dtype = settings["method"], settings["dtype"]
        index._settings = {name: settings[name] for name in ("recall", "random_state")}
        index._gap, index._place, index._columns = gap, settings["place"], columns
        searcher.device = device
        index._start(searcher)
        return index


def _check_recall(recall):
    if not 0 < recall < 1:
        msg = f"recall is {recall!r}; expected a number between 0 and 1."
        raise ValueError(msg)
    return float(recall)
