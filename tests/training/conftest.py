"""A handful of pairs made of the simulator's small basis, and models trained on them."""

import numpy as np
import pytest

from astroclip.simulation.basis import save_basis
from astroclip.simulation.pairs import make_pairs
from astroclip.training.data import DATA_SETS, Workspace
from astroclip.training.recipe import read_recipe
from astroclip.training.run import OBJECTIVES, train
from tests.simulation.conftest import basis, simulator  # noqa: F401 - fixtures

SCHEDULE = {"n_epochs": 2, "epoch_size": 32, "batch_size": 16, "warmup_steps": 2}
TABLES = {
    "data": {
        "n_mix": 48, "n_wide": 8, "n_flat": 8, "n_validation": 24, "n_test": 60,
        "n_reference_mix": 70, "n_reference_wide": 10, "n_reference_flat": 10, "n_contaminants": 8,
    },
    "spectrum": {"width": 16},
    "image": {"width": 8},
    "align": {
        **SCHEDULE, "memory_size": 48, "n_redshift_bins": 300, "outlier_share": 0.2,
        "second_spectrum_share": 0.5, "second_image_share": 0.5,
        "losses": {
            "contrast": 1.0, "second_spectra": 0.3, "second_images": 0.3,
            "spectrum_redshift": 0.7, "image_redshift": 0.35, "spectrum_labels": 1.0,
            "image_labels": 0.5, "neighbors": 1.0, "neighbor_redshift": 0.3, "outliers": 1.0,
        },
    },
    "spectra": SCHEDULE,
    "images": {**SCHEDULE, "n_queued": 32},
    "rest": {**SCHEDULE, "memory_size": 32, "spectrum": {"width": 16}},
}
QUIET = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:.*exists and is not empty.*",
    "ignore:.*number of training batches.*",
    "ignore:Trying to infer the `batch_size`.*",
    "ignore:.*You're resuming from a checkpoint that ended.*",
    "ignore:.*`IterableDataset` has `__len__` defined.*",
    "ignore:.*GPU available but not used.*",
    "ignore:`torch.jit.script.*",
    "ignore:.*srun.*",
    "ignore:.*in eval mode at the start of training.*",
)
"""What Lightning warns of in trainings this small."""


def make_recipe(**tables):
    """Return the tests' recipe with some settings changed: ``make_recipe(align={"seed": 2})``."""
    content = {name: {**values, **tables.get(name, {})} for name, values in TABLES.items()}
    return read_recipe(content)


def train_in(folder, workspace, objective="align", *, start=(), pairs=None, **settings):
    """Train an objective in a folder with the pairs of a workspace or others."""
    section = OBJECTIVES[objective].section
    encoders = {name: settings.pop(name) for name in ("spectrum", "image") if name in settings}
    recipe = make_recipe(**encoders, **{section: {**settings, "folder": str(folder)}})
    validation = workspace.pairs_folder("validation") if pairs is not None else None
    return train(
        objective, recipe, workspace.folder, pairs=pairs, validation=validation, start=start,
        n_threads=1, precision="32-true",
    )


@pytest.fixture(scope="session")
def recipe():
    """Return the tests' recipe."""
    return make_recipe()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory, basis, simulator, recipe):  # noqa: F811
    """Return a workspace whose data sets are parts of one, which is simulated faster."""
    made = Workspace(tmp_path_factory.mktemp("workspace"), recipe)
    save_basis(basis, made.folder / "pairs" / "basis.npz")
    sizes = [getattr(recipe.data, size) for size, _, _ in DATA_SETS.values()]
    pairs, first = make_pairs(sum(sizes), simulator, seed=1), 0
    for name, size in zip(DATA_SETS, sizes, strict=True):
        folder = made.pairs_folder(name)
        folder.mkdir()
        rows = slice(first, first := first + size)
        part = {key: values[rows] for key, values in pairs.items()}
        np.savez(folder / "pairs-00000.npz", **part)
    made.simulate()
    return made


@pytest.fixture(scope="session")
def aligned(workspace, tmp_path_factory):
    """Return an alignment that was trained, and its folder."""
    folder = tmp_path_factory.mktemp("aligned")
    return train_in(folder, workspace), folder
