"""Aligning the two encoders: symmetric InfoNCE with auxiliary losses on known properties."""

import dataclasses
import math

import lightning
import torch
from torch import nn
from torch.nn import functional

from astroclip.metrics import r2_score
from astroclip.models.distributed import gather_with_gradient
from astroclip.models.losses import ContrastiveLoss
from astroclip.models.redshift_scan import LAG_STEP
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.simulation.spectrographs import ObservedSpectra
from astroclip.training.data import LABELS, PairBatches, label_values
from astroclip.training.neighbors import NeighborMemory
from astroclip.training.observers import Observer
from astroclip.training.optimization import adamw_with_cosine, step_generator

__all__ = ["Alignment", "RedshiftBins"]

HEAD_SCALE = 11.0  # length of embeddings that heads read: root of 128, features of order one
IMAGE_WEIGHT = 0.5  # of an image's auxiliary losses: they cannot become as small
SCAN_SPREAD = 0.8  # redshifts of a scan: what counts as the same
N_ESTIMATED = 4  # labels that neighbours estimate: redshift, mass, sSFR, metallicity


class RedshiftBins(nn.Module):
    """Bins even in log(1 + z): targets for a redshift distribution and its summaries.

    Parameters
    ----------
    n_bins : int
    largest : float
        Upper edge of the last bin; the first begins at zero.
    """

    def __init__(self, n_bins, largest):
        super().__init__()
        self.n_bins, self.width = n_bins, math.log1p(largest) / n_bins
        self.register_buffer("centre", torch.arange(n_bins) + 0.5, persistent=False)

    def target(self, redshift):
        """Return probabilities (N, bins): a Gaussian 0.8 bins wide around the truth."""
        position = torch.log1p(redshift)[:, None] / self.width
        return torch.softmax(-0.5 * ((self.centre[None] - position) / 0.8) ** 2, dim=1)

    def best(self, logits):
        """Return the redshift (N,) of the most probable bin."""
        return torch.expm1(self.centre[logits.argmax(dim=1)] * self.width)


def _fields(pairs, *more):
    """Return the arrays of pairs that batches hold: of real ones also their errors."""
    optional = [name for name in ("ivar", "mask") if name in pairs]
    return ("image", "seeing", "spectrum", "redshift", *optional, *more)


def recall(image, spectrum, n_best):
    """Return the share of images whose own spectrum is among the ``n_best`` most similar."""
    similarity = functional.normalize(image, dim=1) @ functional.normalize(spectrum, dim=1).T
    rank = (similarity > similarity.diag()[:, None]).sum(dim=1)
    return (rank < n_best).float().mean()


def known_error(predicted, labels):
    """Return the smooth absolute error of predictions (N, L) over labels that are known."""
    known = torch.isfinite(labels)
    error = functional.smooth_l1_loss(
        predicted, torch.where(known, labels, predicted.detach()), reduction="sum"
    )
    return error / known.sum().clamp(min=1)


class Alignment(lightning.LightningModule):
    """Both encoders, their loss and their optimizer.

    Parameters
    ----------
    recipe : `~astroclip.training.recipes.AlignmentRecipe`
    pairs : dict of str to `numpy.ndarray`, optional
        Training pairs; not needed to load weights.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs scored after every epoch.
    contaminants : (N, P) `numpy.ndarray`, optional
        Noiseless spectra of stars and quasars, to be kept away from galaxies.
    """

    def __init__(self, recipe, *, pairs=None, validation=None, contaminants=None):
        super().__init__()
        self.recipe = recipe
        self.pairs, self.validation = pairs, validation
        self.contaminants = contaminants
        self.spectrum_encoder = SmallSpectrumEncoder(**recipe.spectrum)
        self.image_encoder = SmallImageEncoder(**recipe.image)
        for encoder in (self.spectrum_encoder, self.image_encoder):
            encoder.to(memory_format=torch.channels_last)  # half again as fast on CPUs
        dim = self.spectrum_encoder.head[-1].out_features
        self.contrast = ContrastiveLoss(initial_scale=recipe.initial_scale)
        self.redshift_bins = RedshiftBins(recipe.n_redshift_bins, recipe.largest_redshift)
        self.coarse_bins = RedshiftBins(recipe.n_coarse_redshift_bins, recipe.largest_redshift)
        self.spectrum_redshift = nn.Linear(dim, recipe.n_redshift_bins)
        self.image_redshift = nn.Linear(dim, recipe.n_coarse_redshift_bins)
        self.spectrum_labels = nn.Linear(dim, len(LABELS))
        self.image_labels = nn.Linear(dim, len(LABELS))
        labels = label_values(pairs) if pairs is not None else torch.zeros(2, len(LABELS))
        mean = labels.nanmean(dim=0)
        scale = (labels - mean).square().nanmean(dim=0).sqrt()
        self.register_buffer("label_mean", mean.nan_to_num(0.0))
        self.register_buffer("label_scale", scale.nan_to_num(1.0).clamp(min=1e-3))
        self.memory = NeighborMemory(recipe.memory_size, dim, N_ESTIMATED)
        self.train_observer = Observer(
            varied_share=recipe.varied_share,
            sdss_share=recipe.sdss_share,
            varied_image_share=recipe.varied_image_share,
            missing_band_share=recipe.missing_band_share,
            extra_noise=recipe.extra_noise,
            transform_images=True,
            **recipe.instruments,
        )
        self.plain_observer = Observer()
        self._freeze()

    def _freeze(self):
        """Fix the backbones that the recipe names; their heads go on learning."""
        for name in self.recipe.frozen:
            encoder = getattr(self, f"{name}_encoder")
            encoder.requires_grad_(requires_grad=False)
            encoder.projection().requires_grad_(requires_grad=True)

    def on_train_epoch_start(self):
        """Keep the statistics of frozen backbones, or of both encoders."""
        recipe = self.recipe
        done = self.current_epoch >= recipe.statistics_share * recipe.n_epochs
        fixed = ("spectrum", "image") if done else recipe.frozen
        for name in fixed:
            getattr(self, f"{name}_encoder").eval()

    # ------------------------------------------------------------------ data
    def train_dataloader(self):
        """Return this epoch's batches; Lightning asks anew every epoch."""
        batches = PairBatches(
            self.pairs,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            epoch=self.current_epoch,
            epoch_size=self.recipe.epoch_size,
            fields=_fields(self.pairs, "varied_share"),
        )
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def val_dataloader(self):
        """Return the held-out pairs in order."""
        batches = PairBatches(
            self.validation, batch_size=250, shuffle=False, fields=_fields(self.validation)
        )
        return torch.utils.data.DataLoader(batches, batch_size=None)

    # ------------------------------------------------------------------ steps
    def _embed(self, batch, observer, generator, *, varied_share=None, outliers=None):
        """Return embeddings of spectra and images; those of outliers follow the spectra's."""
        spectra = observer.spectra(
            batch["spectrum"], generator, ivar=batch.get("ivar"), mask=batch.get("mask"),
            varied_share=varied_share,
        )
        if outliers is not None:
            joined = zip(vars(spectra).values(), vars(outliers).values(), strict=True)
            spectra = ObservedSpectra(*(torch.cat(parts) for parts in joined))
        pixels, mask = observer.images(batch["image"], batch["seeing"], generator)
        summary = self.spectrum_encoder.summary(spectra.flux, spectra.ivar, spectra.mask)
        spectrum = self.spectrum_encoder.project(summary)
        if self.training and self.spectrum_encoder.scan is not None:
            redshift = batch["redshift"]
            batch["scan"] = self._scan_loss(summary[: len(redshift), None], redshift)
        image = self.image_encoder(pixels, mask)
        return spectrum.float(), image.float()

    def _standardized(self, batch):
        return (batch["labels"] - self.label_mean) / self.label_scale

    def bins(self, modality):
        """Return the `RedshiftBins` of a modality's redshift head."""
        return self.redshift_bins if modality == "spectrum" else self.coarse_bins

    def _auxiliary(self, embedding, modality, batch):
        """Return the redshift-bin and property losses of one modality."""
        features = HEAD_SCALE * functional.normalize(embedding, dim=1)
        has_redshift = torch.isfinite(batch["redshift"])
        target = self.bins(modality).target(batch["redshift"][has_redshift])
        logits = getattr(self, f"{modality}_redshift")(features)[has_redshift]
        redshift = functional.cross_entropy(logits, target) if len(logits) else 0.0
        labels = getattr(self, f"{modality}_labels")(features)
        known = known_error(labels, self._standardized(batch))
        if modality == "spectrum" and "scan" in batch:
            redshift = redshift + batch["scan"]
        return self.recipe.redshift_weight * redshift + self.recipe.label_weight * known

    def _scan_loss(self, summaries, redshift):
        """Return the cross entropy of redshifts (N,) that scans give, of recordings (N, V, F)."""
        known = redshift <= self.spectrum_encoder.scan.largest  # not where NaN
        if not known.any():
            return summaries.new_zeros(())
        log_posterior = self.spectrum_encoder.log_posterior(summaries[known].flatten(0, 1))
        lags = torch.arange(log_posterior.shape[1], device=redshift.device)
        distance = lags - torch.log1p(redshift[known])[:, None] / LAG_STEP
        target = torch.softmax(-0.5 * (distance / SCAN_SPREAD) ** 2, dim=1)
        return -(target.repeat_interleave(summaries.shape[1], dim=0) * log_posterior).sum(1).mean()

    @torch.no_grad()
    def _remember(self, spectrum, image, labels, redshift):
        """Remember the pairs of all processes whose labels are known."""
        parts = [spectrum, image, labels, redshift[:, None]]
        seen = gather_with_gradient(torch.cat(parts, dim=1))
        seen = seen[torch.isfinite(seen).all(dim=1)]
        *views, labels, redshift = seen.split([part.shape[1] for part in parts], dim=1)
        self.memory.remember(views, labels, redshift[:, 0])

    def _second_spectra(self, batch, spectrum, generator):
        """Return the contrast of further recordings of some spectra with the first ones."""
        rows = self._some_rows(self.recipe.second_view_share, spectrum, generator)
        if not len(rows):
            return spectrum.new_zeros(())
        seen = self.train_observer.spectra(
            batch["spectrum"][rows], generator,
            **{name: batch[name][rows] for name in ("ivar", "mask") if name in batch},
        )
        again = self.spectrum_encoder(seen.flux, seen.ivar, seen.mask).float()
        return self._contrast_again(again, spectrum, rows)

    def _second_images(self, batch, image, generator):
        """Return the contrast of further recordings of some images with the first ones."""
        rows = self._some_rows(self.recipe.second_image_share, image, generator)
        if not len(rows):
            return image.new_zeros(())
        seen = self.train_observer.images(batch["image"][rows], batch["seeing"][rows], generator)
        return self._contrast_again(self.image_encoder(*seen).float(), image, rows)

    @staticmethod
    def _some_rows(share, first, generator):
        """Return a random share of a batch's rows."""
        n_again = round(share * len(first))
        return torch.randperm(len(first), generator=generator, device=first.device)[:n_again]

    def _contrast_again(self, again, first, rows):
        """Return the cross entropy of finding rows of a batch by second recordings of them."""
        similarity = functional.normalize(again, dim=1) @ functional.normalize(first, dim=1).T
        return functional.cross_entropy(self.contrast.scale * similarity, rows)

    def _outliers(self, n_pairs, generator):
        """Return some stars and quasars as an instrument records them, or None.

        They are encoded together with galaxies: a batch of their own would be normalized
        to look like galaxies.
        """
        n_outliers = round(self.recipe.outlier_share * n_pairs)
        if self.contaminants is None or not n_outliers:
            return None
        rows = torch.randint(
            len(self.contaminants), (n_outliers,), generator=generator, device=generator.device
        )
        flux = torch.from_numpy(self.contaminants[rows.cpu().numpy()]).float()
        return self.train_observer.spectra(flux.to(generator.device), generator)

    def _training_views(self, batch, generator):
        """Return embeddings of a batch's spectra and images, and of outliers."""
        spectrum, image = self._embed(
            batch, self.train_observer, generator, varied_share=batch["varied_share"],
            outliers=self._outliers(len(batch["redshift"]), generator),
        )
        return spectrum[: len(image)], image, spectrum[len(image) :]

    def training_step(self, batch, batch_index):
        """Return the loss of one batch, recorded by instruments drawn for this very step."""
        recipe = self.recipe
        generator = step_generator(self, self.current_epoch, batch_index)
        spectrum, image, outliers = self._training_views(batch, generator)
        terms = {
            "contrast": self.contrast(image, spectrum),
            "again": self._second_spectra(batch, spectrum, generator),
            "image_again": self._second_images(batch, image, generator),
            "spectrum": self._auxiliary(spectrum, "spectrum", batch),
            "image": self._auxiliary(image, "image", batch),
            **self._memory_terms(batch, spectrum, image, outliers),
        }
        weights = {
            "contrast": recipe.contrast_weight,
            "again": recipe.second_view_weight,
            "image_again": recipe.second_image_weight,
            "image": IMAGE_WEIGHT,
            "neighbors": recipe.neighbor_weight,
            "near_redshift": recipe.near_redshift_weight,
            "outliers": recipe.outlier_weight,
        }
        loss = sum(weights.get(name, 1.0) * term for name, term in terms.items())
        self.log_dict(
            {"loss": loss, **terms, "scale": self.contrast.scale.detach()},
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            sync_dist=True,
        )
        return loss

    def _memory_terms(self, batch, spectrum, image, outliers):
        """Return the losses against remembered galaxies, and remember these."""
        labels = self._standardized(batch)[:, :N_ESTIMATED]
        known = torch.isfinite(labels).all(dim=1)
        views, redshift = (spectrum[known], image[known]), batch["redshift"][known]
        terms = {
            "neighbors": self.memory.loss(
                views, labels[known], label_weights=self.recipe.neighbor_label_weights,
                first_weights=self.recipe.spectrum_label_weights,
            ),
            "near_redshift": self.memory.redshift_loss(views[0], redshift, self.coarse_bins),
        }
        if len(outliers):
            terms["outliers"] = self.memory.outlier_loss(outliers)
        self._remember(spectrum, image, labels, batch["redshift"])
        return terms

    def on_validation_epoch_start(self):
        """Start collecting embeddings."""
        self._held = {"spectrum": [], "image": [], "redshift": [], "labels": []}

    def validation_step(self, batch, batch_index):
        """Embed one held-out batch as DESI and DR9 record it."""
        generator = step_generator(self, 0, batch_index)
        spectrum, image = self._embed(batch, self.plain_observer, generator)
        held = {"spectrum": spectrum, "image": image, "redshift": batch["redshift"]}
        held["labels"] = self._standardized(batch)
        for name, value in held.items():
            self._held[name].append(value)

    def on_validation_epoch_end(self):
        """Log retrieval and redshift scores of the held-out pairs."""
        held = {name: torch.cat(parts) for name, parts in self._held.items()}
        truth = held["redshift"]
        known = torch.isfinite(truth)
        scores = {"recall_10": recall(held["image"], held["spectrum"], 10)}
        for name, head in (("spectrum", self.spectrum_redshift), ("image", self.image_redshift)):
            logits = head(HEAD_SCALE * functional.normalize(held[name], dim=1))
            error = ((self.bins(name).best(logits) - truth).abs() / (1 + truth))[known]
            scores[f"{name}_nmad"] = 1.4826 * error.median()
            scores[f"{name}_outliers"] = (error > 0.05).float().mean()
            scores |= self._estimate_scores(held, name)
        self.log_dict(scores, prog_bar=True, sync_dist=True)

    def _estimate_scores(self, held, name):
        """Return R2 of properties of held-out pairs, estimated from remembered galaxies."""
        if not self.memory.n_filled:
            return {}
        modality = ("spectrum", "image").index(name)
        keys = self.memory.keys[modality, : self.memory.n_filled]
        similarity = functional.normalize(held[name], dim=1) @ keys.T
        n_neighbors = min(16, self.memory.n_filled)
        near = self.memory.labels[similarity.topk(n_neighbors, dim=1).indices].mean(dim=1)
        scores = {}
        for column, label in enumerate(LABELS[:N_ESTIMATED]):
            truth = held["labels"][:, column]
            known = torch.isfinite(truth)
            if known.sum() > 1:
                estimate = near[known, column].cpu()
                scores[f"{name}_r2_{label}"] = r2_score(estimate, truth[known].cpu())
        return scores

    # ------------------------------------------------------------------ optimizer
    def configure_optimizers(self):
        """Return AdamW with a linear warm-up and a cosine decay over the whole run."""
        recipe = self.recipe
        n_pairs = recipe.epoch_size or len(self.pairs["redshift"])
        total = recipe.n_epochs * (n_pairs // recipe.batch_size)
        return adamw_with_cosine(
            list(self.parameters()),
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            n_warmup=recipe.warmup_steps,
            n_steps=total,
        )

    def config(self):
        """Return what a weights file must say for `load_model` to rebuild the encoders."""
        dim = self.spectrum_encoder.head[-1].out_features
        return {
            "architecture": "small",
            "dim": dim,
            "spectrum": {**self.recipe.spectrum, "dim": dim},
            "image": {**self.recipe.image, "dim": dim},
            "recipe": dataclasses.asdict(self.recipe),
        }
