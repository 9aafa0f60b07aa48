"""A workspace's data sets, and pairs as batches in an order that the seed fixes."""

from pathlib import Path

import numpy as np
import torch

from astroclip._files import written
from astroclip.simulation.basis import load_basis
from astroclip.simulation.contaminants import make_quasars, make_stars
from astroclip.simulation.pairs import FLAT, MIX, WIDE, read_pairs, write_pairs
from astroclip.training.distributed import n_processes, process_rank, rank_rows

__all__ = ["LABELS", "PairBatches", "Workspace", "label_values"]

LABELS = (
    "redshift",
    "log_stellar_mass",
    "log_ssfr",
    "log_metallicity",
    "bulge_to_total",
    "axis_ratio",
    "fibre_g",
    "fibre_r",
    "fibre_z",
)


# name: (setting of the size, number added to the recipe's seed, selection)
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

    Data sets are simulated once and found again on resuming.

    Parameters
    ----------
    folder : path-like
    recipe : `~astroclip.training.recipe.Recipe`
    """

    def __init__(self, folder, recipe):
        self.folder = Path(folder)
        self.recipe = recipe

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
        data = self.recipe.data
        for name, (size, offset, selections) in DATA_SETS.items():
            write_pairs(
                self.pairs_folder(name), getattr(data, size), seed=data.seed + offset,
                selections=selections, n_workers=n_workers, show_progress=show_progress,
            )
        self.contaminants()

    def contaminants(self):
        """Return noiseless spectra (N, P) of stars and quasars, made at the first call."""
        path = self.folder / "pairs" / "contaminants.npy"
        if not path.exists():
            basis_file = self.folder / "pairs" / "basis.npz"
            if not basis_file.exists():
                msg = (
                    f"the recipe's outlier_share in [align] is {self.recipe.align.outlier_share}; "
                    f"expected 0 in workspace {str(self.folder)!r}, which holds no simulated stars "
                    f"and quasars. Set it to 0 in the recipe."
                )
                raise FileNotFoundError(msg)
            basis = load_basis(basis_file)
            half = self.recipe.data.n_contaminants // 2
            seed = (self.recipe.data.seed, 30)
            parts = make_stars(half, basis, seed=seed), make_quasars(half, basis, seed=seed)
            with written(path) as partial:
                np.save(partial, np.concatenate([part["spectrum"] for part in parts]))
        return np.load(path)


class PairBatches(torch.utils.data.IterableDataset):
    """One epoch of shuffled batches of noiseless pairs held in memory.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`
        From `astroclip.simulation.pairs.read_pairs`.
    batch_size : int
        Pairs a step, of all processes together where several share the training.
    seed : int
    epoch : int
        With the seed fixes the order.
    epoch_size : int, optional
        Pairs an epoch; all by default. Epochs go on where the last one stopped, through
        one shuffled pass after another.
    shuffle : bool
        When False, all pairs in order, the last batch short.
    fields : sequence of str
        Arrays that batches hold beside the labels.
    """

    def __init__(
        self, pairs, *, batch_size, seed=0, epoch=0, epoch_size=None, shuffle=True,
        fields=("image", "seeing", "spectrum", "redshift"),
    ):
        self.pairs = pairs
        self.fields = fields
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.shuffle = shuffle
        self.n_pairs = len(pairs["redshift"])
        self.epoch_size = epoch_size or self.n_pairs

    def __len__(self):
        n_short = 0 if self.shuffle else self.batch_size - 1  # in order, the rest is kept
        return (self.epoch_size + n_short) // self.batch_size

    def _shuffled(self):
        """Return this epoch's rows: its stretch of one shuffled pass after another."""
        first = self.epoch * self.epoch_size
        last = first + self.epoch_size
        passes = range(first // self.n_pairs, (last - 1) // self.n_pairs + 1)
        orders = [np.random.default_rng((self.seed, p)).permutation(self.n_pairs) for p in passes]
        start = first - passes[0] * self.n_pairs
        return np.concatenate(orders)[start : start + self.epoch_size]

    def __iter__(self):
        if self.shuffle:
            batches = rank_rows(self._shuffled(), process_rank(), n_processes(), self.batch_size)
        else:  # every process scores all held-out pairs
            order = np.arange(self.n_pairs)
            batches = np.split(order, range(self.batch_size, self.n_pairs, self.batch_size))
        for rows in batches:
            rows = np.sort(rows)
            batch = {
                name: torch.from_numpy(self.pairs[name][rows]).float() for name in self.fields
            }
            yield {**batch, "labels": label_values(self.pairs, rows)}


def label_values(pairs, rows=slice(None)):
    """Return the properties (N, 9) in the form that linear heads regress, NaN where unknown."""
    n_pairs = len(pairs["redshift"][rows])
    unknown = np.full(n_pairs, np.nan)
    values = {name: pairs[name][rows] if name in pairs else unknown for name in LABELS}
    if "fibre_magnitude" in pairs:
        for number, band in enumerate("grz"):
            values[f"fibre_{band}"] = pairs["fibre_magnitude"][rows, number]
    values["redshift"] = np.log1p(values["redshift"])
    values["log_ssfr"] = np.clip(values["log_ssfr"], -13, -8)
    values["bulge_to_total"] = np.log10(values["bulge_to_total"] + 0.02)
    return torch.from_numpy(np.stack([values[name] for name in LABELS], axis=1)).float()
