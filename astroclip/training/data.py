"""Pairs as batches of arrays, in an order that the seed fixes."""

import numpy as np
import torch

from astroclip.models.distributed import n_processes, process_rank
from astroclip.training.sharding import rank_rows

__all__ = ["BANDS", "LABELS", "PairBatches", "label_values"]

BANDS = ("g", "r", "z")

LABELS = (
    "redshift",
    "log_stellar_mass",
    "log_ssfr",
    "log_metallicity",
    "bulge_to_total",
    "axis_ratio",
    *(f"fibre_{band}" for band in BANDS),
)


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

    def _order(self):
        """Return this epoch's rows: its stretch of one shuffled pass after another."""
        if not self.shuffle:
            return np.arange(self.n_pairs)
        first = self.epoch * self.epoch_size
        last = first + self.epoch_size
        passes = range(first // self.n_pairs, (last - 1) // self.n_pairs + 1)
        orders = [np.random.default_rng((self.seed, p)).permutation(self.n_pairs) for p in passes]
        start = first - passes[0] * self.n_pairs
        return np.concatenate(orders)[start : start + self.epoch_size]

    def __iter__(self):
        order = self._order()
        if self.shuffle:
            batches = rank_rows(order, process_rank(), n_processes(), self.batch_size)
        else:  # every process scores all held-out pairs
            batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        for rows in batches:
            yield self._batch(np.sort(rows))

    def _batch(self, rows):
        """Return the arrays of some pairs; labels that are not known are NaN."""
        batch = {
            name: torch.from_numpy(self.pairs[name][rows]).float()
            for name in self.fields
        }
        batch["labels"] = label_values(self.pairs, rows)
        return batch


def label_values(pairs, rows=slice(None)):
    """Return the properties (N, 9) in the form the auxiliary heads regress, NaN if unknown."""
    n_pairs = len(pairs["redshift"][rows])
    unknown = np.full(n_pairs, np.nan)
    values = {name: pairs[name][rows] if name in pairs else unknown for name in LABELS}
    fibre = pairs["fibre_magnitude"][rows] if "fibre_magnitude" in pairs else None
    for number, band in enumerate(BANDS):
        values[f"fibre_{band}"] = unknown if fibre is None else fibre[:, number]
    values["redshift"] = np.log1p(values["redshift"])
    values["log_ssfr"] = np.clip(values["log_ssfr"], -13, -8)
    values["bulge_to_total"] = np.log10(values["bulge_to_total"] + 0.02)
    return torch.from_numpy(np.stack([values[name] for name in LABELS], axis=1)).float()
