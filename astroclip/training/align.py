"""Aligning the two encoders: InfoNCE and whatever losses the recipe adds."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from astroclip.metrics import r2_score
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.redshifts.distribution import fit_temperature, redshift_edges
from astroclip.simulation.spectrographs import ObservedSpectra
from astroclip.training.data import LABELS, label_values
from astroclip.training.distributed import gather_with_gradient
from astroclip.training.losses import InverseTemperature, NeighborMemory, weighted_losses
from astroclip.training.objective import HEAD_SCALE, Objective
from astroclip.training.observers import Observer, encode_pairs
from astroclip.training.sources import join_pairs, read_source
from astroclip.training.templates import templates_of

__all__ = ["Alignment", "redshift_logits", "redshift_temperatures"]

INSTRUMENTS = {"broad": True, "tilt": 0.15, "largest_blur": 5.5, "blue_cut": 0.4}
"""Options of the random instruments of
`~astroclip.simulation.spectrographs.observe_spectra_varied`."""
VARIED_SHARE = 0.5
"""Of spectra recorded by these: second recordings, stars and quasars, and data sets that the recipe
does not name."""
VARIED_IMAGE_SHARE = 0.25  # of images recorded by a random camera
MISSING_BAND_SHARE = 0.05  # of images that lose one band
EXTRA_NOISE = 0.5  # largest noise added to pairs that a survey recorded, in units of theirs
IMAGE_BINS = 256  # redshift bins of images, which are less precise than spectra
N_ESTIMATED = 4  # labels that neighbors estimate: redshift, mass, sSFR, metallicity
N_NEIGHBORS = 16  # that held-out properties are estimated from
MODALITIES = ("spectrum", "image")


class Alignment(Objective):
    """Both encoders, what their losses need, and their scores.

    Parameters
    ----------
    recipe : `~astroclip.training.recipe.Recipe`
    pairs : dict of str to `numpy.ndarray`, optional
        Training pairs; not needed to load weights.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs scored after every epoch.
    contaminants : (N, P) `numpy.ndarray`, optional
        Noiseless spectra of stars and quasars, to be kept away from galaxies.
    """

    fields = ("image", "seeing", "spectrum", "redshift")

    def __init__(self, recipe, *, pairs=None, validation=None, contaminants=None):
        super().__init__(recipe, pairs=pairs, validation=validation)
        settings = self.settings
        self.contaminants = contaminants
        self.encoder_options = {"spectrum": recipe.spectrum, "image": recipe.image}
        self.spectrum_encoder = SmallSpectrumEncoder(**recipe.spectrum)
        self.image_encoder = SmallImageEncoder(**recipe.image)
        for encoder in (self.spectrum_encoder, self.image_encoder):
            encoder.to(memory_format=torch.channels_last)  # half again as fast on CPUs
        dim = self.spectrum_encoder.head[-1].out_features
        self.scale = InverseTemperature(settings.initial_scale)
        self.spectrum_redshift = nn.Linear(dim, settings.n_redshift_bins)
        self.image_redshift = nn.Linear(dim, IMAGE_BINS)
        self.spectrum_labels = nn.Linear(dim, len(LABELS))
        self.image_labels = nn.Linear(dim, len(LABELS))
        labels = label_values(pairs) if pairs is not None else torch.zeros(2, len(LABELS))
        mean = labels.nanmean(dim=0)
        scale = (labels - mean).square().nanmean(dim=0).sqrt()
        self.register_buffer("label_mean", mean.nan_to_num(0.0))
        self.register_buffer("label_scale", scale.nan_to_num(1.0).clamp(min=1e-3))
        self.memory = NeighborMemory(settings.memory_size, dim, N_ESTIMATED)
        self.train_observer = Observer(
            varied_share=VARIED_SHARE,
            sdss_share=settings.sdss_share,
            varied_image_share=VARIED_IMAGE_SHARE,
            missing_band_share=MISSING_BAND_SHARE,
            extra_noise=EXTRA_NOISE,
            transform_images=True,
            **INSTRUMENTS,
        )
        self.plain_observer = Observer()

    @classmethod
    def load(cls, recipe, workspace, sources, validation, start):
        """Return the module of a run, with its data; see `Objective.load`."""
        return cls(
            recipe, pairs=read_sources(sources, recipe), validation=read_source(validation),
            contaminants=workspace.contaminants() if recipe.align.outlier_share else None,
        )

    def begin(self):
        """Make the templates of a scan that has none."""
        scan = self.spectrum_encoder.scan
        if scan is not None and not scan.templates.any():
            scan.templates.copy_(templates_of(scan, [self.pairs], seed=self.settings.seed))

    def on_train_epoch_start(self):
        """Keep the statistics of batch normalization from the epoch that the recipe says."""
        if self.current_epoch >= self.settings.statistics_share * self.settings.n_epochs:
            self.spectrum_encoder.eval()
            self.image_encoder.eval()

    # ------------------------------------------------------------------ steps
    def training_step(self, batch, batch_index):
        """Return the loss of one batch, recorded by instruments drawn for this very step."""
        generator = self.step_generator(self.current_epoch, batch_index)
        views = self.views(batch, generator)
        labels = (batch["labels"] - self.label_mean) / self.label_scale
        known = {
            **vars(self.settings),
            **views,
            **self.read_off(views["spectrum"], views["image"]),
            "redshift": batch["redshift"],
            "labels": labels,
            "memory": self.memory(),
            "scale": self.scale(),
        }
        loss, terms = weighted_losses(self.settings.losses, known)
        self._remember(views["spectrum"], views["image"], labels, batch["redshift"])
        self.log_dict(
            {"loss": loss, **terms, "scale": known["scale"].detach()},
            prog_bar=True, on_step=False, on_epoch=True, sync_dist=True,
        )
        return loss

    def views(self, batch, generator):
        """Return embeddings of a batch as it is recorded for a step.

        Returns
        -------
        dict of str to `torch.Tensor`
            What `astroclip.training.losses` says that a step knows of embeddings and scans.
        """
        encoder, n_pairs = self.spectrum_encoder, len(batch["redshift"])
        contaminants = self.some_contaminants(n_pairs, generator)
        if contaminants is not None:
            contaminants = self.train_observer.spectra(contaminants, generator)
        seen = self.train_observer.spectra(
            batch["spectrum"], generator, ivar=batch.get("ivar"), mask=batch.get("mask"),
            varied_share=batch["varied_share"],
        )
        if contaminants is not None:
            # encoded together: batch normalization would make a batch of them look like galaxies
            joined = zip(vars(seen).values(), vars(contaminants).values(), strict=True)
            seen = ObservedSpectra(*(torch.cat(parts) for parts in joined))
        pixels = self.train_observer.images(batch["image"], batch["seeing"], generator)
        summary = encoder.summary(*vars(seen).values())
        spectrum = encoder.project(summary).float()
        scan = self.scanned(summary[:n_pairs, None], batch["redshift"])
        image = self.image_encoder(*pixels).float()
        spectrum, outliers = spectrum[:n_pairs], spectrum[n_pairs:]
        again = {}
        rows = self.some_rows(self.settings.second_spectrum_share, spectrum, generator)
        if len(rows):
            errors = {name: batch[name][rows] for name in ("ivar", "mask") if name in batch}
            seen = self.train_observer.spectra(batch["spectrum"][rows], generator, **errors)
            again["second_spectrum"] = encoder(*vars(seen).values()).float()
        again["second_spectrum_rows"] = rows
        rows = self.some_rows(self.settings.second_image_share, image, generator)
        if len(rows):
            seen = self.train_observer.images(
                batch["image"][rows], batch["seeing"][rows], generator
            )
            again["second_image"] = self.image_encoder(*seen).float()
        again["second_image_rows"] = rows
        return {
            "spectrum": spectrum, "image": image, "outliers": outliers,
            "second_spectrum": spectrum[:0], "second_image": image[:0], **again, **scan,
        }

    def some_contaminants(self, n_pairs, generator):
        """Return rows of the contaminants drawn at random, the recipe's share of ``n_pairs``."""
        n_outliers = round(self.settings.outlier_share * n_pairs)
        if self.contaminants is None or not n_outliers:
            return None
        rows = torch.randint(
            len(self.contaminants), (n_outliers,), generator=generator, device=generator.device
        )
        drawn = torch.from_numpy(self.contaminants[rows.cpu().numpy()]).float()
        return drawn.to(generator.device)

    @staticmethod
    def some_rows(share, first, generator):
        """Return a random share of a batch's rows."""
        order = torch.randperm(len(first), generator=generator, device=first.device)
        return order[: round(share * len(first))]

    def scanned(self, summaries, redshift):
        """Return what a scan makes of summaries (N, V, F) of V recordings, where z is in its range.

        Returns
        -------
        dict of str to `torch.Tensor`
            ``scan_log_posterior`` and ``scanned_redshift``, see
            `astroclip.training.losses.scan_redshift`; nothing without a scan.
        """
        encoder = self.spectrum_encoder
        if encoder.scan is None:
            return {}
        known = redshift <= encoder.scan.largest  # not where NaN
        summaries, redshift = summaries[known], redshift[known]
        return {
            "scan_log_posterior": encoder.log_posterior(summaries.flatten(0, 1)),
            "scanned_redshift": redshift.repeat_interleave(summaries.shape[1]),
        }

    def read_off(self, spectrum, image):
        """Return logits of redshift bins and properties read off the directions of embeddings."""
        read = {}
        for name, embedding in zip(MODALITIES, (spectrum, image), strict=True):
            features = HEAD_SCALE * functional.normalize(embedding, dim=1)
            read[f"{name}_logits"] = getattr(self, f"{name}_redshift")(features)
            read[f"{name}_read"] = getattr(self, f"{name}_labels")(features)
        return read

    @torch.no_grad()
    def _remember(self, spectrum, image, labels, redshift):
        """Remember the pairs of all processes whose labels are known."""
        parts = [spectrum, image, labels[:, :N_ESTIMATED], redshift[:, None]]
        seen = gather_with_gradient(torch.cat(parts, dim=1))
        seen = seen[torch.isfinite(seen).all(dim=1)]
        spectrum, image, labels, redshift = seen.split([part.shape[1] for part in parts], dim=1)
        self.memory.remember(spectrum, image, labels, redshift[:, 0])

    # ------------------------------------------------------------------ held-out pairs
    def embed(self, batch, generator):
        """Return embeddings of spectra and images as the survey records them."""
        spectra = self.plain_observer.spectra(
            batch["spectrum"], generator, ivar=batch.get("ivar"), mask=batch.get("mask")
        )
        pixels = self.plain_observer.images(batch["image"], batch["seeing"], generator)
        spectrum = self.spectrum_encoder(*vars(spectra).values())
        return spectrum.float(), self.image_encoder(*pixels).float()

    def held_out(self, batch, generator):
        """Return embeddings and what is known of one held-out batch."""
        spectrum, image = self.embed(batch, generator)
        labels = (batch["labels"] - self.label_mean) / self.label_scale
        return {
            "spectrum": spectrum, "image": image, "redshift": batch["redshift"], "labels": labels
        }

    def scores(self, held):
        """Return retrieval scores, redshift errors and R2 of estimates from remembered galaxies."""
        truth = held["redshift"]
        known = torch.isfinite(truth)
        spectrum, image = (functional.normalize(held[name], dim=1) for name in MODALITIES)
        similarity = image @ spectrum.T
        rank = (similarity > similarity.diag()[:, None]).sum(dim=1)
        scores = {"recall_10": (rank < 10).float().mean()}
        read = self.read_off(held["spectrum"], held["image"])
        memory = self.memory()
        for name, unit in zip(MODALITIES, (spectrum, image), strict=True):
            if f"{name}_redshift" in self.settings.losses:
                logits = read[f"{name}_logits"]
                step = math.log1p(self.settings.largest_redshift) / logits.shape[1]
                best = torch.expm1((logits.argmax(dim=1) + 0.5) * step)
                error = ((best - truth).abs() / (1 + truth))[known]
                scores[f"{name}_nmad"] = 1.4826 * error.median()
                scores[f"{name}_outliers"] = (error > 0.05).float().mean()
            if not len(memory):
                continue
            similarity = unit @ getattr(memory, name).T
            near = similarity.topk(min(N_NEIGHBORS, len(memory)), dim=1).indices
            estimates = memory.labels[near].mean(dim=1)
            for column, label in enumerate(LABELS[:N_ESTIMATED]):
                values = held["labels"][:, column]
                rows = torch.isfinite(values)
                if rows.sum() > 1:
                    scores[f"{name}_r2_{label}"] = r2_score(
                        estimates[rows, column].cpu(), values[rows].cpu()
                    )
        return scores


def read_sources(sources, recipe):
    """Return the pairs of several sources as one dict of arrays.

    ``varied_share`` is added: the probability that a noiseless pair's spectrum is recorded
    by a random instrument, by the name of its folder.
    """
    parts = []
    for source in sources:
        pairs = read_source(source)
        name = Path(source).name if isinstance(source, (str, Path)) else None
        share = recipe.align.varied_shares.get(name, VARIED_SHARE)
        pairs["varied_share"] = np.full(len(pairs["redshift"]), share, np.float32)
        parts.append(pairs)
    return join_pairs(parts)


def redshift_logits(module, pairs, *, seed=0, **instruments):
    """Return logits of an alignment's redshift heads for pairs that are recorded once.

    Parameters
    ----------
    module : Alignment
        Trained, in evaluation mode.
    pairs : dict of str to `numpy.ndarray`
        Noiseless pairs.
    seed : int
    **instruments
        Options of `~astroclip.training.observers.Observer`: the survey's instruments alone by
        default.

    Returns
    -------
    dict of str to (N, bins) `numpy.ndarray`
        By modality.
    """

    def encode(seen):
        spectrum = module.spectrum_encoder(*vars(seen.spectra).values()).float()
        image = module.image_encoder(seen.pixels, seen.pixel_mask).float()
        read = module.read_off(spectrum, image)
        return {name: read[f"{name}_logits"] for name in MODALITIES}

    return encode_pairs(encode, pairs, observer=Observer(**instruments), seed=seed)


def redshift_temperatures(module, pairs, **options):
    """Return the temperatures that calibrate an alignment's redshift heads.

    Parameters
    ----------
    module : Alignment
        Trained, in evaluation mode.
    pairs : dict of str to `numpy.ndarray`
        Noiseless pairs that it was not trained on. Those beyond the bins' largest redshift
        are left out.
    **options
        As in `redshift_logits`: record spectra and images by instruments as various as those
        that the model will be used with.

    Returns
    -------
    dict of str to float
        By modality; see `~astroclip.redshifts.fit_temperature`.
    """
    largest = module.settings.largest_redshift
    redshift = np.asarray(pairs["redshift"], dtype=float)
    inside = redshift <= largest
    return {
        modality: fit_temperature(
            logits[inside], redshift[inside], redshift_edges(logits.shape[1], largest)
        )
        for modality, logits in redshift_logits(module, pairs, **options).items()
    }
