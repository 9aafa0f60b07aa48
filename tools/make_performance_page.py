"""Make docs/performance.rst and its figure from a table of scores.

    astroclip evaluate --pairs FOLDER --reference FOLDER --real-data FOLDER --output OUT
    python tools/make_performance_page.py OUT/evaluation.ecsv

The table is kept as docs/performance.ecsv; without an argument the page is made from it. With
``--keep LABEL`` (it may be given again), the kept table's rows of another model stay, whose label
begins so: for scores of the same pairs with the same seed. Baselines must agree.
"""

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Table, join, vstack

from astroclip.evaluation import write_performance_page, write_score_figure

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "performance.ecsv"
KEYS = ("protocol", "data", "query", "reference", "property", "score")
BASELINE, TOLERANCE = "photometry", 0.002  # of another processor's arithmetic


def with_earlier(table, earlier, labels):
    """Return scores and the rows of an earlier run's other models."""
    check_baselines(table, earlier)
    kept = np.zeros(len(earlier), dtype=bool)
    for name in ("query", "reference"):
        kept |= [str(value).startswith(tuple(labels)) for value in earlier[name]]
    joined = vstack([table, earlier[kept]], metadata_conflicts="silent")
    joined.meta = {**table.meta, "EARLIER": " and ".join(labels)}
    return joined


def check_baselines(table, earlier):
    """Raise ValueError unless both runs scored the same galaxies."""
    both = join(table, earlier, keys=KEYS, metadata_conflicts="silent")
    both = both[(both["query"] == BASELINE) & (both["score"] == "r2")]
    differ = np.abs(both["value_1"] - both["value_2"])
    if not len(both) or differ.max() > TOLERANCE:
        msg = (
            f"{KEPT.name} has other scores of {BASELINE!r} than the new table; expected the same "
            f"pairs and seed. Score the other models again."
        )
        raise ValueError(msg)


def main():
    """Keep the table named on the command line and write page and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--keep", action="append", default=[], metavar="LABEL")
    options = parser.parse_args()
    table = Table.read(options.table or KEPT, format="ascii.ecsv")
    if options.table and options.keep:
        table = with_earlier(table, Table.read(KEPT, format="ascii.ecsv"), options.keep)
    if options.table:
        partial = KEPT.with_name(KEPT.name + ".part")
        table.write(partial, format="ascii.ecsv", overwrite=True)
        partial.replace(KEPT)
    write_performance_page(table, DOCS / "performance.rst")
    write_score_figure(table, DOCS / "performance.png")


if __name__ == "__main__":
    main()
