"""Labels that a user gives: which objects are examples and which are not, and when."""

from pathlib import Path

import numpy as np
from astropy.table import QTable

from astroclip._validation import check_length
from astroclip.tables import write_table

__all__ = ["label_values", "read_labels", "write_labels"]

FORMAT = "astroclip-labels"
REQUIRED = ("id", "label", "round")


def label_values(values, n_objects):
    """Return labels as a bool array; True or 1 is an example, False or 0 is none.

    Parameters
    ----------
    values : bool or (N,) array-like
    n_objects : int

    Returns
    -------
    (N,) bool `numpy.ndarray`

    Raises
    ------
    ValueError
        If a value is anything else, or there are too many or too few.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf" or getattr(values, "mask", False) is True:
        msg = f"values has dtype {values.dtype}; expected True or False (1 or 0) for each id."
        raise ValueError(msg)
    values = check_length(values, n_objects, "values", of="ids")
    strange = ~((values == 0) | (values == 1))
    if strange.any():
        first = int(np.flatnonzero(strange)[0])
        msg = (
            f"values[{first}] is {values[first]!r}; expected True or False (1 or 0). Take ids "
            f"whose label is not known out."
        )
        raise ValueError(msg)
    return values.astype(bool)


def write_labels(labels, path, *, overwrite=False):
    """Write a table of labels to an ECSV file, complete or not at all.

    Parameters
    ----------
    labels : `~astropy.table.QTable`
        Columns ``id``, ``label`` and ``round``.
    path : path-like
        Ending in ``.ecsv``.
    overwrite : bool

    Raises
    ------
    ValueError
        If the path does not end in ``.ecsv``.
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    _check_suffix(path)
    labels = labels.copy()
    labels.meta["FORMAT"] = FORMAT
    write_table(labels, path, overwrite=overwrite)


def read_labels(path):
    """Read a table of labels from an ECSV file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    `~astropy.table.QTable`

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no table of labels.
    """
    _check_suffix(path)
    if not Path(path).is_file():
        msg = f"path {str(path)!r} is no file; expected one written by save_labels."
        raise FileNotFoundError(msg)
    try:
        labels = QTable.read(path, format="ascii.ecsv")
    except Exception as error:  # whatever the parser meets in a damaged or foreign file
        msg = f"path {str(path)!r} is no readable ECSV file ({error}); expected saved labels."
        raise ValueError(msg) from error
    missing = [name for name in REQUIRED if name not in labels.colnames]
    if missing or labels.meta.get("FORMAT") != FORMAT:
        found = f"lacks {', '.join(map(repr, missing))}" if missing else "names another format"
        msg = f"path {str(path)!r} holds no labels: it {found}; expected a file of save_labels."
        raise ValueError(msg)
    return labels


def _check_suffix(path):
    """Raise ValueError unless a path ends in ``.ecsv``."""
    if Path(path).suffix.lower() != ".ecsv":
        msg = f"path {str(path)!r} does not end in '.ecsv'; expected a file of labels."
        raise ValueError(msg)
