"""What all figures share: the Axes, columns as plain numbers, labels with units."""

import numpy as np
from astropy import units as u
from astropy.table import Table

from astroclip._columns import column_arrays
from astroclip._validation import check_unit

__all__ = [
    "POINT_COLOR",
    "UNUSUAL_COLOR",
    "axes_of",
    "column_or_values",
    "count_note",
    "finish",
    "label_of",
    "numbers",
    "same_length",
    "same_unit",
]

POINT_COLOR, UNUSUAL_COLOR = "#1f5a96", "#c46a1b"
FIGURE_SIZE = (5.2, 4.2)  # inches
NOTE = "astroclip-note"  # marks what says how many objects are missing


def axes_of(ax, *, figsize=FIGURE_SIZE):
    """Return the Axes given, or those of a new figure of pyplot."""
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(figsize=figsize, layout="constrained")[1]
    if not hasattr(ax, "get_xlim"):
        msg = (
            f"ax is of type {type(ax).__name__}; expected a matplotlib Axes, such as the second "
            f"that plt.subplots() returns."
        )
        raise TypeError(msg)
    return ax


def numbers(values, name, *, n_axes=1):
    """Return values as a float array, NaN where masked, and their unit or None.

    Parameters
    ----------
    values : array-like
        Plain or masked array, column or Quantity with ``n_axes`` axes.
    name : str
        How errors name it.
    n_axes : int
    """
    data, mask, unit = column_arrays(values)
    if data.dtype.kind not in "fiub" or data.ndim != n_axes:
        what = "a number for each object" if n_axes == 1 else f"numbers with {n_axes} axes"
        msg = f"{name} is of {data.dtype} with shape {data.shape}; expected {what}."
        raise ValueError(msg)
    return np.where(mask, np.nan, data.astype(float)), unit


def column_or_values(values, column, name):
    """Return a table's column, or values that are no table as they are."""
    if not isinstance(values, Table):
        return values
    if column not in values.colnames:
        there = [other for other in values.colnames if other != "embedding"]
        msg = (
            f"{name} has no column {column!r}; expected one of {there}. Name another property."
        )
        raise KeyError(msg)
    return values[column]


def same_unit(values, unit, target, name):
    """Return values converted to ``target``, which the other values of a figure are in."""
    if unit is None and target is None:
        return values
    if unit is None or target is None:
        msg = (
            f"{name} has {'no unit' if unit is None else f'unit {str(unit)!r}'} and what it is "
            f"compared with has {'none' if target is None else repr(str(target))}; expected units "
            f"that convert. Multiply by an astropy unit, or take .value of both."
        )
        raise u.UnitsError(msg)
    check_unit(unit, target, name)
    return (values * unit).to_value(target)


def same_length(first, second, names):
    """Raise ValueError unless two arrays have as many rows."""
    if len(first) != len(second):
        msg = (
            f"{names[1]} has {len(second)} values and {names[0]} has {len(first)}; expected one "
            f"of each for every object, in the same order."
        )
        raise ValueError(msg)


def label_of(name, unit=None):
    """Return the label of a property: words, and the unit in parentheses."""
    words = str(name).replace("_", " ")
    return words if unit is None else f"{words} ({unit.to_string('unicode')})"


def count_note(n_left_out, n_objects, why):
    """Return notes that say how many objects are missing; empty if none is."""
    return [f"{n_left_out:,} of {n_objects:,} left out: {why}"] if n_left_out else []


def finish(ax, *, notes=(), location="best"):
    """Draw grid and legend; notes are the legend's last lines, without a symbol."""
    ax.grid(color="0.92", lw=0.6)
    ax.set_axisbelow(True)
    for note in notes:
        ax.plot([], [], " ", label=note, gid=NOTE)
    entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: getattr(entry[0], "get_gid", lambda: None)() == NOTE)
    if entries:
        handles, labels = zip(*entries, strict=True)
        ax.legend(
            handles, labels, fontsize=8, frameon=True, framealpha=0.85, edgecolor="none",
            loc=location,
        )
    return ax
