"""Write the goals that two runs of ``astroclip evaluate`` reached beside each other.

    python tools/compare_scores.py OTHER/evaluation.ecsv docs/figures/from_random.csv \
        --name "two stages from random weights"

The first column of scores is that of docs/performance.ecsv. Goals that one of both runs did not
measure, and those of speed, are left out.
"""

import argparse
from pathlib import Path

from astropy.table import Table

from astroclip.evaluation.goals import GOALS

BUNDLED = Path(__file__).parents[1] / "docs" / "performance.ecsv"


def compared(first, second, names):
    """Return a table of the goals that both tables of scores tell."""
    rows = []
    for goal in GOALS:
        values = [goal.measure(table) for table in (first, second)]
        if None in values or "a second" in goal.what:
            continue
        digits = 4 if "NMAD" in goal.what else 3
        scores = {name: f"{value:.{digits}f}" for name, value in zip(names, values, strict=True)}
        rows.append({"what": goal.what, **scores})
    return Table(rows)


def main():
    """Read both tables and write what they share."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="evaluation.ecsv of the other model")
    parser.add_argument("output", type=Path, help="CSV file to write")
    parser.add_argument("--name", default="other", help="what the other model is")
    options = parser.parse_args()
    tables = [Table.read(path, format="ascii.ecsv") for path in (BUNDLED, options.other)]
    found = compared(*tables, ("bundled", options.name))
    found.write(options.output, format="ascii.csv", overwrite=True)


if __name__ == "__main__":
    main()
