"""What the tests of the command line share: small tables, and commands run in process."""

import numpy as np
import pytest

import astroclip
from astroclip.cli import main
from astroclip.datasets import DATA
from astroclip.tables import write_table

N_GALAXIES = 60
SPECTRUM = DATA / "samples" / "desi-27247.fits"
IMAGE = DATA / "samples" / "legacysurvey-59.1067-30.4848.fits"


@pytest.fixture
def run(capsys):
    """Return a function that runs a command: exit status, standard output, error stream."""

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def reference():
    """Return spectra and images of some reference galaxies."""
    table = astroclip.reference_table()
    half = len(table) // 2
    return table[np.r_[:N_GALAXIES, half : half + N_GALAXIES]]


@pytest.fixture(scope="session")
def tables(tmp_path_factory, reference):
    """Return a folder with tables of embeddings: reference, queries and another model's."""
    folder = tmp_path_factory.mktemp("tables")
    write_table(reference, folder / "reference.fits")
    queries = reference[[3, N_GALAXIES + 5]]
    queries["id"] = ["first", "second"]
    write_table(queries, folder / "queries.ecsv")
    write_table(queries, folder / "queries.parquet")
    queries.meta["WSHA"] = "0" * 64
    write_table(queries, folder / "other.ecsv")
    return folder
