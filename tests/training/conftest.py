"""A handful of pairs made of the simulator's small basis."""

import dataclasses

import pytest

from astroclip.simulation.basis import save_basis
from astroclip.training.recipes import find_recipe
from astroclip.training.workspace import Workspace
from tests.simulation.conftest import basis, simulator  # noqa: F401 - fixtures

SIZES = {
    "n_mix": 48, "n_wide": 8, "n_flat": 8, "n_validation": 24, "n_test": 60,
    "n_reference_mix": 70, "n_reference_wide": 10, "n_reference_flat": 10, "epoch_size": 64,
    "memory_size": 48, "n_contaminants": 8, "outlier_share": 0.2, "near_redshift_weight": 0.3,
    "n_redshift_bins": 300,
}


@pytest.fixture(scope="session")
def recipe():
    """Return the tiny recipe with even fewer pairs."""
    return dataclasses.replace(
        find_recipe("tiny"), batch_size=16, n_epochs=2, n_image_views=1, **SIZES
    )


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, basis, recipe):  # noqa: F811
    """Return a workspace whose pairs are simulated."""
    folder = tmp_path_factory.mktemp("workspace")
    save_basis(basis, folder / "pairs" / "basis.npz")
    made = Workspace(folder, recipe)
    made.simulate()
    return made
