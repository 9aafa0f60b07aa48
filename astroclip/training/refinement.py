"""Refining the spectrum encoder: sharper redshifts, any instrument, still aligned.

The image encoder stays as it is and its embeddings are computed once; the spectrum
encoder goes on with the same contrast against them, a heavier loss on redshift bins and
instruments that vary more. It costs half of joint training.
"""

import lightning
import numpy as np
import torch
from torch.nn import functional

from astroclip.training.alignment import HEAD_SCALE, recall
from astroclip.training.data import PairBatches
from astroclip.training.observers import Observer
from astroclip.training.optimization import adamw_with_cosine, step_generator

__all__ = ["Refinement", "embed_images"]

LABEL_WEIGHT = 0.5


def embed_images(alignment, pairs, *, n_views, seed):
    """Return embeddings of several recordings of every image.

    Parameters
    ----------
    alignment : `~astroclip.training.alignment.Alignment`
    pairs : dict of str to `numpy.ndarray`
    n_views : int
    seed : int

    Returns
    -------
    (N, n_views, D) float16 `numpy.ndarray`
        Unit vectors.
    """
    observer = Observer(transform_images=True)
    views = []
    for view in range(n_views):
        generator = torch.Generator().manual_seed(seed * 1000 + view)
        rows = []
        for batch in PairBatches(pairs, batch_size=250, shuffle=False):
            pixels, mask = observer.images(batch["image"], batch["seeing"], generator)
            with torch.inference_mode():
                rows.append(functional.normalize(alignment.image_encoder(pixels, mask).float()))
        views.append(torch.cat(rows).half().numpy())
    return np.stack(views, axis=1)


class Refinement(lightning.LightningModule):
    """An aligned model whose spectrum encoder trains on against fixed image embeddings.

    Batch normalization keeps the statistics of the alignment: both encoders stay in
    evaluation mode.

    Parameters
    ----------
    alignment : `~astroclip.training.alignment.Alignment`
        Trained.
    number : int
        Which of the recipe's rounds this is, from zero.
    pairs : dict of str to `numpy.ndarray`, optional
        With ``image_embedding`` from `embed_images` in place of images.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs, likewise.
    """

    def __init__(self, alignment, number=0, *, pairs=None, validation=None):
        super().__init__()
        self.recipe = alignment.recipe
        self.number = number
        self.round = self.recipe.refinement[number]
        self.alignment = alignment
        alignment.image_encoder.requires_grad_(requires_grad=False)
        self.pairs, self.validation = pairs, validation
        self.observer = Observer(
            varied_share=self.round.varied_share, **self.round.instruments()
        )
        self.checks = {"desi": Observer(), "varied": Observer(varied_share=1.0, broad=True)}

    def _loader(self, pairs, *, shuffle):
        batches = PairBatches(
            pairs,
            batch_size=self.round.batch_size,
            seed=self.recipe.seed + 100 * (1 + self.number),
            epoch=self.current_epoch,
            shuffle=shuffle,
            fields=("image_embedding", "spectrum", "redshift"),
        )
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def train_dataloader(self):
        """Return this epoch's batches; Lightning asks anew every epoch."""
        return self._loader(self.pairs, shuffle=True)

    def val_dataloader(self):
        """Return the held-out pairs in order."""
        return self._loader(self.validation, shuffle=False)

    def _embed(self, batch, observer, generator):
        spectra = observer.spectra(batch["spectrum"], generator)
        return self.alignment.spectrum_encoder(spectra.flux, spectra.ivar, spectra.mask).float()

    def training_step(self, batch, batch_index):
        """Return the loss of one batch."""
        generator = step_generator(
            self, 1_000 * (1 + self.number) + self.current_epoch, batch_index
        )
        spectrum = self._embed(batch, self.observer, generator)
        n_views = batch["image_embedding"].shape[1]
        view = int(torch.randint(n_views, (1,), generator=generator, device=generator.device))
        model = self.alignment
        contrast = model.contrast(batch["image_embedding"][:, view], spectrum)
        features = HEAD_SCALE * functional.normalize(spectrum, dim=1)
        target = model.redshift_bins.target(batch["redshift"])
        redshift = functional.cross_entropy(model.spectrum_redshift(features), target)
        labels = (batch["labels"] - model.label_mean) / model.label_scale
        known = functional.smooth_l1_loss(model.spectrum_labels(features), labels)
        loss = contrast + self.round.redshift_weight * redshift + LABEL_WEIGHT * known
        self.log_dict(
            {"loss": loss, "contrast": contrast, "redshift": redshift},
            prog_bar=True, on_step=False, on_epoch=True,
        )
        return loss

    def on_validation_epoch_start(self):
        """Start collecting embeddings."""
        self._held = {name: [] for name in (*self.checks, "image", "redshift")}

    def validation_step(self, batch, batch_index):
        """Embed one held-out batch as DESI and as random instruments record it."""
        for name, observer in self.checks.items():
            embedding = self._embed(batch, observer, step_generator(self, 0, batch_index))
            self._held[name].append(embedding)
        self._held["image"].append(batch["image_embedding"][:, 0])
        self._held["redshift"].append(batch["redshift"])

    def on_validation_epoch_end(self):
        """Log redshift errors for both instruments and retrieval."""
        held = {name: torch.cat(parts) for name, parts in self._held.items()}
        truth, scores = held["redshift"], {}
        for name in self.checks:
            features = HEAD_SCALE * functional.normalize(held[name], dim=1)
            best = self.alignment.redshift_bins.best(self.alignment.spectrum_redshift(features))
            error = (best - truth).abs() / (1 + truth)
            scores[f"{name}_nmad"] = 1.4826 * error.median()
            scores[f"{name}_outliers"] = (error > 0.05).float().mean()
        scores["recall_10"] = recall(held["image"], held["desi"], 10)
        self.log_dict(scores, prog_bar=True)

    def configure_optimizers(self):
        """Return AdamW over everything but the image encoder, with a cosine decay."""
        total = self.round.n_epochs * (len(self.pairs["redshift"]) // self.round.batch_size)
        parameters = [p for p in self.parameters() if p.requires_grad]
        return adamw_with_cosine(
            parameters,
            learning_rate=self.round.learning_rate,
            weight_decay=self.recipe.weight_decay,
            n_warmup=self.recipe.warmup_steps,
            n_steps=total,
        )
