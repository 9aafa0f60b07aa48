"""What self-supervised objectives share: batches, optimizer and a score every epoch."""

import lightning
import torch

from astroclip.training.data import PairBatches
from astroclip.training.optimization import adamw_with_cosine, step_generator

__all__ = ["SelfSupervised", "neighbor_r2"]

N_NEIGHBORS = 16


def neighbor_r2(features, values, *, n_neighbors=N_NEIGHBORS):
    """Return how well the nearest neighbours of half of the objects tell the other half's values.

    Parameters
    ----------
    features : (N, D) `torch.Tensor`
        The first half is the reference, the second is estimated.
    values : (N,) `torch.Tensor`
    n_neighbors : int
        Their mean is the estimate; all of a smaller reference.

    Returns
    -------
    `torch.Tensor`
        Scalar, the coefficient of determination R2 of the second half: one for perfect
        estimates, zero for those no better than a constant.

    Notes
    -----
    Features are scaled to the reference's mean zero and deviation one; distances are
    Euclidean.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.self_supervision import neighbor_r2
    >>> line = torch.linspace(0, 1, 200)[torch.randperm(200)]
    >>> bool(neighbor_r2(line[:, None], line, n_neighbors=1) > 0.99)
    True
    """
    half = len(features) // 2
    reference, query = features[:half].float(), features[half:].float()
    deviation = reference.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)  # a constant feature tells nothing
    distance = torch.cdist(
        query / deviation, reference / deviation, compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = distance.topk(min(n_neighbors, half), largest=False).indices
    truth, estimate = values[half:], values[:half][nearest].mean(dim=1)
    return 1 - ((estimate - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()


class SelfSupervised(lightning.LightningModule):
    """An encoder that learns from one modality without knowing anything about its objects.

    Redshifts only score it: every epoch its features of held-out pairs estimate them
    (`neighbor_r2`). A subclass has ``fields``, the arrays that its batches hold, a
    ``training_step`` and ``features(batch, generator)``.

    Parameters
    ----------
    recipe : object
        With ``n_epochs``, ``epoch_size``, ``batch_size``, ``learning_rate``,
        ``weight_decay``, ``warmup_steps`` and ``seed``.
    pairs : dict of str to `numpy.ndarray`, optional
        Training pairs; not needed to load weights.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs scored after every epoch.
    """

    fields = ("redshift",)

    def __init__(self, recipe, *, pairs=None, validation=None):
        super().__init__()
        self.recipe = recipe
        self.pairs, self.validation = pairs, validation

    @property
    def n_steps(self):
        """Steps of the whole run."""
        n_pairs = self.recipe.epoch_size or len(self.pairs["redshift"])
        return self.recipe.n_epochs * (n_pairs // self.recipe.batch_size)

    def _fields(self, pairs):
        """Return the arrays that batches hold: of recorded spectra also their errors."""
        errors = ("ivar", "mask") if "spectrum" in self.fields else ()
        return (*self.fields, *(name for name in errors if name in pairs))

    def train_dataloader(self):
        """Return this epoch's batches; Lightning asks anew every epoch."""
        batches = PairBatches(
            self.pairs,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=self.current_epoch,
            epoch_size=self.recipe.epoch_size,
            fields=self._fields(self.pairs),
        )
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def val_dataloader(self):
        """Return the held-out pairs in order."""
        batches = PairBatches(
            self.validation, batch_size=250, shuffle=False, fields=self._fields(self.validation)
        )
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def on_validation_epoch_start(self):
        """Start collecting features."""
        self._held = {"features": [], "redshift": []}

    def validation_step(self, batch, batch_index):
        """Encode one held-out batch, recorded alike in every epoch."""
        generator = step_generator(self, 0, batch_index)
        self._held["features"].append(self.features(batch, generator))
        self._held["redshift"].append(batch["redshift"])

    def on_validation_epoch_end(self):
        """Log how well features of the held-out pairs tell their redshifts, where known."""
        held = {name: torch.cat(parts) for name, parts in self._held.items()}
        known = torch.isfinite(held["redshift"])
        if known.sum() > 3:
            score = neighbor_r2(held["features"][known], held["redshift"][known])
            self.log("neighbor_r2", score, prog_bar=True)

    def configure_optimizers(self):
        """Return AdamW with a linear warm-up and a cosine decay over the whole run."""
        return adamw_with_cosine(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            learning_rate=self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            n_warmup=self.recipe.warmup_steps,
            n_steps=self.n_steps,
        )
