"""Objects of files through a model, so many at a time, in the order they were read."""

import math
import warnings
from pathlib import Path

import numpy as np

from astroclip.cli.output import tell

__all__ = ["EmbeddingJob", "read_redshifts"]

CHUNK = 256  # objects held at a time
KNOWN = ("ra", "dec", "redshift")


class EmbeddingJob:
    """Embeds objects as files are added and keeps their rows.

    Parameters
    ----------
    model : str
    options : `argparse.Namespace`
        Those of `astroclip.cli.options.model_options`.
    ids : sequence of str, optional
        Only the objects of these ids.

    Attributes
    ----------
    rows : list of dict
        The columns of each object, in order.
    seen : set of str
        The ids of all objects, wanted or not.
    """

    def __init__(self, model, options, *, ids=None):
        self.model = model
        self.options = options
        self.wanted = None if ids is None else set(ids)
        self.redshifts = read_redshifts(options.redshift)
        self.rows, self.seen = [], set()
        self._waiting = []  # (row, modality, object)
        self._meta = None

    def add(self, path):
        """Read a file; objects that wait are embedded once there are enough."""
        from astroclip.exceptions import PreparationError
        from astroclip.preparation.objects import sort_objects
        from astroclip.tables import Flag

        try:
            found = sort_objects(path, name="file")
        except (PreparationError, OSError) as error:
            if self.wanted is None or path.stem in self.wanted:
                flags = int(getattr(error, "flag", 0)) | Flag.FAILED | Flag.BAD_INPUT
                self._new_row(path, path.stem, "spectrum", flags, _without_name(str(error)))
            self.seen.add(path.stem)
            return
        for name, item in zip(found.ids(), found.content, strict=True):
            self.seen.add(str(name))
            if self.wanted is None or str(name) in self.wanted:
                row = self._new_row(path, str(name), found.modality, 0, "")
                self._waiting.append((row, found.modality, item))
        if len(self._waiting) >= CHUNK:
            self.finish()

    def _new_row(self, path, name, modality, flags, message):
        row = {
            "id": name, "modality": modality, "flags": int(flags), "message": message,
            "coverage": 0.0, "embedding": None, "file": str(path),
            "ra": math.nan, "dec": math.nan, "redshift": math.nan,
        }
        self.rows.append(row)
        return row

    def finish(self):
        """Embed the objects that wait."""
        for modality in ("spectrum", "image"):
            members = [(row, item) for row, kind, item in self._waiting if kind == modality]
            if members:
                self._embed(modality, members)
        self._waiting = []

    def _embed(self, modality, members):
        """Embed objects of one modality and fill their rows."""
        from astroclip.embedding import embed
        from astroclip.exceptions import FailedObjectWarning
        from astroclip.tables import embedding_matrix

        options = self.options
        given = {"zero_point": options.zero_point} if modality == "image" else {}
        given |= {"medium": options.medium} if modality == "spectrum" else {}
        ids = [row["id"] for row, _ in members]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FailedObjectWarning)  # a remark sums them up
            table = embed(
                [item for _, item in members], model=self.model, ids=ids,
                redshift=self._redshift(ids), device=options.device,
                batch_size=options.batch_size, **given,
            )
        self._meta = dict(table.meta)
        matrix, _ = embedding_matrix(table)
        for number, (row, _) in enumerate(members):
            row["embedding"] = matrix[number]
            row["flags"], row["coverage"] = int(table["flags"][number]), table["coverage"][number]
            row["message"] = _without_name(str(table["message"][number]))
            for name in KNOWN:
                if name in table.colnames:
                    row[name] = float(getattr(table[name], "value", table[name])[number])

    def _redshift(self, ids):
        """Return redshifts of objects, NaN where unknown, or None where none was given."""
        if self.redshifts is None or isinstance(self.redshifts, float):
            return self.redshifts
        found = np.array([self.redshifts.get(name, math.nan) for name in ids])
        return found if np.isfinite(found).any() else None

    def table(self):
        """Return the rows as one embedding table; at least one must hold an embedding.

        Returns
        -------
        `~astropy.table.QTable`
        """
        from astroclip.tables import make_embedding_table

        dim = len(next(row["embedding"] for row in self.rows if row["embedding"] is not None))
        missing = np.full(dim, np.nan, np.float32)
        columns = {name: [row[name] for row in self.rows] for name in self.rows[0]}
        return make_embedding_table(
            columns["id"],
            columns["modality"],
            [missing if row is None else row for row in columns["embedding"]],
            coverage=columns["coverage"],
            flags=columns["flags"],
            messages=columns["message"],
            **{name: columns[name] for name in KNOWN},
            model_name=self._meta["MODEL"],
            weights_sha256=self._meta["WSHA"],
            preparation_version=self._meta["PREPVER"],
            extra_columns={"file": columns["file"]},
        )


def _without_name(message):
    """Return a message without the name of the argument in front; the row names the object."""
    head, separator, rest = message.partition(": ")
    return rest if separator and (head == "file" or head.startswith("objects")) else message


def read_redshifts(text):
    """Return what ``--redshift`` says: None, one number, or a dict by id.

    Parameters
    ----------
    text : str or None
        A number, or the path of a table with columns ``id`` and ``redshift``.

    Returns
    -------
    None, float or dict

    Raises
    ------
    FileNotFoundError
        If the text is no number and names no file.
    ValueError
        If the table lacks a column.
    """
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        path = Path(text).expanduser()
    if not path.is_file():
        msg = (
            f"--redshift is {text!r}; expected a number, or the file of a table with columns id "
            f"and redshift."
        )
        raise FileNotFoundError(msg)
    from astropy.table import Table

    table = Table.read(path)
    missing = [name for name in ("id", "redshift") if name not in table.colnames]
    if missing:
        msg = (
            f"--redshift {text!r} has no column {missing[0]!r}; expected id and redshift. It has "
            f"{', '.join(table.colnames)}."
        )
        raise ValueError(msg)
    values = np.ma.filled(np.ma.asarray(table["redshift"], dtype=float), math.nan)
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in table["id"]]
    tell(f"{np.isfinite(values).sum():,} redshifts from {text}")
    return dict(zip(names, values, strict=True))
