"""Make docs/performance.rst and its figure from a table of scores.

    astroclip evaluate --pairs FOLDER --reference FOLDER --real-data FOLDER --output OUT
    python tools/make_performance_page.py OUT/evaluation.ecsv

The table is kept as docs/performance.ecsv; without an argument the page is made from it.
"""

import shutil
import sys
from pathlib import Path

from astropy.table import Table

from astroclip.evaluation import write_performance_page

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "performance.ecsv"


def main():
    """Keep the table named on the command line and write the page."""
    if len(sys.argv) > 1:
        shutil.copyfile(sys.argv[1], KEPT)
    write_performance_page(Table.read(KEPT, format="ascii.ecsv"), DOCS / "performance.rst")


if __name__ == "__main__":
    main()
