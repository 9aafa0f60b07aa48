"""The data sets of a training run: simulated once into a folder, found again on resuming."""

from pathlib import Path

import numpy as np

from astroclip.simulation.basis import load_basis
from astroclip.simulation.contaminants import make_quasars, make_stars
from astroclip.simulation.pairs import FLAT, MIX, WIDE, read_pairs, write_pairs

__all__ = ["Workspace"]

# name: (recipe field of the size, number added to the recipe's seed, selection)
DATA_SETS = {
    "train-mix": ("n_mix", 0, MIX),
    "train-wide": ("n_wide", 22, WIDE),
    "train-flat": ("n_flat", 10, FLAT),
    "reference-mix": ("n_reference_mix", 1, MIX),
    "reference-wide": ("n_reference_wide", 21, WIDE),
    "reference-flat": ("n_reference_flat", 11, FLAT),
    "test": ("n_test", 2, MIX),
    "validation": ("n_validation", 3, MIX),
}
TRAINING_SETS = ("train-mix", "train-wide", "train-flat")


class Workspace:
    """A folder with the pairs, checkpoints and logs of one training run.

    Parameters
    ----------
    folder : path-like
    recipe : `~astroclip.training.recipes.AlignmentRecipe`
    """

    def __init__(self, folder, recipe):
        self.folder = Path(folder)
        self.recipe = recipe

    @property
    def checkpoints(self):
        """Folder of checkpoints and logs."""
        return self.folder / self.recipe.folder

    @property
    def refined(self):
        """Folder of checkpoints and logs of the refinement."""
        return self.folder / "refined"

    def pairs_folder(self, name):
        """Return the folder of one data set's shards."""
        return self.folder / "pairs" / name

    def read(self, name, *, n_pairs=None):
        """Return one data set's pairs; see `~astroclip.simulation.pairs.read_pairs`."""
        return read_pairs(self.pairs_folder(name), n_pairs=n_pairs)

    def training_folders(self):
        """Return the folders that the alignment trains on."""
        return [self.pairs_folder(name) for name in TRAINING_SETS]

    def simulate(self, *, n_workers=1, show_progress=False):
        """Write the shards of every data set that are not there yet."""
        for name, (size, offset, selections) in DATA_SETS.items():
            write_pairs(
                self.pairs_folder(name),
                getattr(self.recipe, size),
                seed=self.recipe.seed + offset,
                selections=selections,
                n_workers=n_workers,
                show_progress=show_progress,
            )
        self.contaminants()

    def contaminants(self):
        """Return noiseless spectra (N, P) of stars and quasars, made at the first call."""
        path = self.folder / "pairs" / "contaminants.npy"
        if not path.exists():
            basis = load_basis(self.folder / "pairs" / "basis.npz")
            half = self.recipe.n_contaminants // 2
            seed = (self.recipe.seed, 30)
            parts = make_stars(half, basis, seed=seed), make_quasars(half, basis, seed=seed)
            partial = path.with_name("contaminants.part.npy")
            np.save(partial, np.concatenate([part["spectrum"] for part in parts]))
            partial.replace(path)
        return np.load(path)
