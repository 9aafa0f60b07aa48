"""A rest-frame spectrum encoder: galaxies alike in kind, wherever they are.

One galaxy is put at two redshifts, recorded by two instruments and brought back to rest:
what both recordings share is the galaxy, what differs is distance, range and noise. The
contrast between them therefore asks for an embedding without redshift, and what its
neighbours still tell about the redshift is penalized.
"""

import dataclasses

import lightning
import torch
from torch import nn
from torch.nn import functional

from astroclip.metrics import r2_score
from astroclip.models.losses import ContrastiveLoss
from astroclip.models.small import SmallSpectrumEncoder
from astroclip.preparation.grids import GRIDS
from astroclip.simulation.spectrographs import WAVELENGTH, ObservedSpectra
from astroclip.training.alignment import HEAD_SCALE, N_ESTIMATED
from astroclip.training.data import LABELS, PairBatches, label_values
from astroclip.training.neighbors import NeighborMemory
from astroclip.training.observers import Observer
from astroclip.training.optimization import adamw_with_cosine, step_generator

__all__ = ["RestFrame", "RestFrameRecipe", "redshifted", "rest_frame"]

REST_START, LOG_STEP, N_REST_PIXELS = GRIDS["rest"][1]
KINDS = ("log_ssfr", "log_metallicity")  # what the embedding is to tell; no mass, no redshift


def _pixels(ratio):
    """Return a wavelength ratio as a whole number of logarithmic pixels."""
    return torch.round(torch.log10(ratio) / LOG_STEP).long()


def _uniform(generator, shape):
    """Return numbers drawn between zero and one on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def _shifted(values, shift, n_pixels, fill):
    """Return rows (N, n_pixels) whose pixel i is pixel i + shift of ``values`` (N, P)."""
    source = torch.arange(n_pixels, device=values.device)[None] + shift[:, None]
    inside = (source >= 0) & (source < values.shape[1])
    moved = values.gather(1, source.clamp(0, values.shape[1] - 1))
    return torch.where(inside, moved, torch.as_tensor(fill, dtype=values.dtype))


def redshifted(flux, redshift, new_redshift):
    """Move observed spectra to other redshifts.

    Parameters
    ----------
    flux : (N, P) `torch.Tensor`
        Noiseless, on the model's logarithmic grid, observed frame.
    redshift, new_redshift : (N,) `torch.Tensor`
        Where the galaxies are, and where to put them. Shifts are rounded to a pixel of
        69 km/s.

    Returns
    -------
    flux : (N, P) `torch.Tensor`
        With its brightness unchanged; light that was not recorded repeats the last pixel.
    missing : (N, P) bool `torch.Tensor`
        True where it was not.
    """
    shift = -_pixels((1 + new_redshift) / (1 + redshift))
    source = torch.arange(flux.shape[1], device=flux.device)[None] + shift[:, None]
    missing = (source < 0) | (source >= flux.shape[1])
    return flux.gather(1, source.clamp(0, flux.shape[1] - 1)), missing


def rest_frame(spectra, redshift):
    """Bring recorded spectra to the rest frame of their galaxies.

    Parameters
    ----------
    spectra : `~astroclip.simulation.spectrographs.ObservedSpectra`
        On the model's logarithmic grid, observed frame.
    redshift : (N,) `torch.Tensor`

    Returns
    -------
    `~astroclip.simulation.spectrographs.ObservedSpectra`
        On the grid ``"rest"``, to a pixel of 69 km/s; masked where nothing was recorded.
    """
    shift = _pixels(REST_START * (1 + redshift) / WAVELENGTH[0])
    return ObservedSpectra(
        _shifted(spectra.flux, shift, N_REST_PIXELS, 0.0),
        _shifted(spectra.ivar, shift, N_REST_PIXELS, 0.0),
        _shifted(spectra.mask, shift, N_REST_PIXELS, fill=True),
    )


@dataclasses.dataclass(frozen=True)
class RestFrameRecipe:
    """Settings of the rest-frame encoder's training.

    Attributes
    ----------
    folder : where in the workspace the run keeps checkpoints and logs
    n_epochs, epoch_size, batch_size : length of the run, pairs an epoch and a step
    learning_rate, weight_decay, warmup_steps : AdamW with a cosine decay to zero
    seed : fixes weights, order, noise and instruments
    redshift_range : galaxies are put at redshifts drawn uniformly from it
    largest_move : largest change of log10(1 + z), so that most of the light stays
    redshift_penalty : weight of the squared correlation of redshifts with those estimated
        from neighbours
    brightness_range : every view is made brighter or fainter by up to so many dex, or
        brightness would tell the redshift
    blue_range, red_range : rest-frame wavelengths, Angstrom, between which either end of a
        view is drawn, or the recorded range would tell it
    contrast_weight : weight of finding a galaxy's other view among all, which keeps whatever both
        share, mass and with it redshift among it
    label_weight, neighbor_weight, memory_size : losses on the kind of galaxy, directly and
        estimated from neighbours; zero for pure contrast
    kind_weights : of the specific star-formation rate and the metallicity in the kind
    instruments : options of the random instruments
    spectrum : options of the encoder: by default it sees 3600-5950 Angstrom, which are
        recorded at every redshift, and no brightness
    """

    folder: str = "rest"
    n_epochs: int = 3
    epoch_size: int | None = 10_240
    batch_size: int = 128
    learning_rate: float = 7e-4
    weight_decay: float = 0.03
    warmup_steps: int = 50
    seed: int = 1
    redshift_range: tuple = (0.005, 0.6)
    largest_move: float = 0.12
    redshift_penalty: float = 3.0
    brightness_range: float = 0.7
    blue_range: tuple = (2700.0, 4200.0)
    red_range: tuple = (5600.0, 7400.0)
    contrast_weight: float = 1.0
    kind_weights: tuple = (1.0, 1.0)
    label_weight: float = 0.5
    neighbor_weight: float = 1.0
    memory_size: int = 4096
    instruments: dict = dataclasses.field(
        default_factory=lambda: {
            "broad": True, "tilt": 0.1, "largest_blur": 4.5, "blue_cut": 0.2,
            "signal_to_noise": (1.0, 42.0),
        }
    )
    spectrum: dict = dataclasses.field(
        default_factory=lambda: {"window": [1233, 3416], "brightness": False}
    )


class RestFrame(lightning.LightningModule):
    """The encoder, its losses and its optimizer.

    Parameters
    ----------
    recipe : RestFrameRecipe
    pairs : dict of str to `numpy.ndarray`, optional
        Noiseless spectra with redshifts and properties.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out ones, scored after every epoch.
    """

    def __init__(self, recipe, *, pairs=None, validation=None):
        super().__init__()
        self.recipe = recipe
        self.pairs, self.validation = pairs, validation
        self.spectrum_encoder = SmallSpectrumEncoder(**recipe.spectrum)
        self.spectrum_encoder.to(memory_format=torch.channels_last)
        dim = self.spectrum_encoder.head[-1].out_features
        self.contrast = ContrastiveLoss()
        self.kinds = nn.Linear(dim, len(KINDS))
        self.memory = NeighborMemory(recipe.memory_size, dim, len(KINDS) + 1)
        labels = label_values(pairs) if pairs is not None else torch.zeros(2, len(LABELS))
        self.register_buffer("label_mean", labels.mean(dim=0))
        self.register_buffer("label_scale", labels.std(dim=0).clamp(min=1e-3))
        self.observer = Observer(varied_share=0.8, sdss_share=0.1, **recipe.instruments)
        self.plain_observer = Observer()

    # ------------------------------------------------------------------ data
    def _loader(self, pairs, **options):
        batches = PairBatches(pairs, fields=("spectrum", "redshift"), **options)
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def train_dataloader(self):
        """Return this epoch's batches; Lightning asks anew every epoch."""
        recipe = self.recipe
        return self._loader(
            self.pairs, batch_size=recipe.batch_size, seed=recipe.seed + 500,
            epoch=self.current_epoch, epoch_size=recipe.epoch_size,
        )

    def val_dataloader(self):
        """Return the held-out galaxies in order."""
        return self._loader(self.validation, batch_size=250, shuffle=False)

    # ------------------------------------------------------------------ steps
    def _new_redshift(self, redshift, generator):
        """Return redshifts drawn uniformly from what the range and the largest move allow."""
        low, high = self.recipe.redshift_range
        factor = 10**self.recipe.largest_move
        lowest = ((1 + redshift) / factor - 1).clamp(min=low)
        highest = ((1 + redshift) * factor - 1).clamp(max=high)
        draw = torch.rand(len(redshift), generator=generator, device=redshift.device)
        return lowest + (highest - lowest).clamp(min=0) * draw

    def _embed(self, flux, redshift, new_redshift, observer, generator, *, ends=None):
        """Return embeddings of galaxies moved to other redshifts, recorded and restored.

        What lies outside the rest-frame wavelengths ``ends`` (two of (N, 1)) is hidden.
        """
        moved, missing = redshifted(flux, redshift, new_redshift)
        seen = observer.spectra(moved, generator)
        seen = ObservedSpectra(
            seen.flux.masked_fill(missing, 0.0), seen.ivar.masked_fill(missing, 0.0),
            seen.mask | missing,
        )
        rest = rest_frame(seen, new_redshift)
        if ends is not None:
            pixel = torch.arange(N_REST_PIXELS, device=flux.device)
            wavelength = REST_START * 10 ** (LOG_STEP * pixel)
            hidden = (wavelength < ends[0]) | (wavelength > ends[1])
            rest = dataclasses.replace(rest, mask=rest.mask | hidden)
        return self.spectrum_encoder(rest.flux, rest.ivar, rest.mask).float()

    def _training_view(self, flux, redshift, generator):
        """Return embeddings of galaxies at drawn redshifts and brightnesses, ends cut off."""
        recipe, n_galaxies = self.recipe, (len(flux), 1)
        change = recipe.brightness_range * (2 * _uniform(generator, n_galaxies) - 1)
        ends = [
            low + (high - low) * _uniform(generator, n_galaxies)
            for low, high in (recipe.blue_range, recipe.red_range)
        ]
        return self._embed(
            flux * 10**change, redshift, self._new_redshift(redshift, generator), self.observer,
            generator, ends=ends,
        )

    def _standardized(self, batch):
        columns = [LABELS.index(name) for name in (*KINDS, "redshift")]
        return ((batch["labels"] - self.label_mean) / self.label_scale)[:, columns]

    def _telltale(self, views, redshift):
        """Return the squared correlation of redshifts with those estimated from neighbours."""
        if not self.memory.n_filled:
            return redshift.new_zeros(())
        estimate = torch.cat([self.memory.estimate(view, k)[:, -1] for k, view in enumerate(views)])
        pair = torch.stack([estimate, redshift.repeat(2)])
        pair = pair - pair.mean(dim=1, keepdim=True)
        pair = pair / pair.norm(dim=1, keepdim=True).clamp(min=1e-6)
        return (pair[0] * pair[1]).sum().clamp(min=0) ** 2

    def _known(self, views, kinds):
        """Return the error of kinds (N, L) read off both views."""
        weights = kinds.new_tensor(self.recipe.kind_weights)
        total = kinds.new_zeros(())
        for view in views:
            read = self.kinds(HEAD_SCALE * functional.normalize(view, dim=1))
            error = functional.smooth_l1_loss(read, kinds, reduction="none")
            total = total + (weights * error).mean()
        return total

    def training_step(self, batch, batch_index):
        """Return the loss of one batch of galaxies, each seen twice."""
        generator = step_generator(self, 7_000 + self.current_epoch, batch_index)
        flux, redshift = batch["spectrum"], batch["redshift"]
        views = [self._training_view(flux, redshift, generator) for _ in range(2)]
        labels, n_kinds, recipe = self._standardized(batch), len(KINDS), self.recipe
        terms = {
            "contrast": self.contrast(*views),
            "known": self._known(views, labels[:, :n_kinds]),
            "neighbors": self.memory.loss(
                views, labels, n_labels=n_kinds, label_weights=recipe.kind_weights
            ),
            "telltale": self._telltale(views, labels[:, n_kinds]),
        }
        self.memory.remember(views, labels)
        weights = {
            "contrast": recipe.contrast_weight,
            "known": recipe.label_weight,
            "neighbors": recipe.neighbor_weight,
            "telltale": recipe.redshift_penalty,
        }
        loss = sum(weights[name] * term for name, term in terms.items())
        self.log_dict(
            {"loss": loss, **terms},
            prog_bar=True, on_step=False, on_epoch=True,
        )
        return loss

    def on_validation_epoch_start(self):
        """Start collecting embeddings."""
        self._held = []

    def validation_step(self, batch, batch_index):
        """Embed one held-out batch as DESI records it, at its own redshift."""
        generator = step_generator(self, 0, batch_index)
        flux, redshift = batch["spectrum"], batch["redshift"]
        embedding = self._embed(flux, redshift, redshift, self.plain_observer, generator)
        self._held.append((embedding, batch["labels"]))

    def on_validation_epoch_end(self):
        """Log R2 of properties, estimated for one half of the galaxies from the other."""
        embedding, labels = (torch.cat(parts) for parts in zip(*self._held, strict=True))
        unit = functional.normalize(embedding, dim=1)
        half = len(unit) // 2
        n_neighbors = min(16, half)
        near = (unit[half:] @ unit[:half].T).topk(n_neighbors, dim=1).indices
        estimate = labels[:half][near].mean(dim=1)
        self.log_dict(
            {
                f"r2_{name}": r2_score(estimate[:, k].cpu(), labels[half:, k].cpu())
                for k, name in enumerate(LABELS[:N_ESTIMATED])
            },
            prog_bar=True,
        )

    def configure_optimizers(self):
        """Return AdamW with a linear warm-up and a cosine decay over the whole run."""
        recipe = self.recipe
        n_pairs = recipe.epoch_size or len(self.pairs["redshift"])
        return adamw_with_cosine(
            list(self.parameters()),
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            n_warmup=recipe.warmup_steps,
            n_steps=recipe.n_epochs * (n_pairs // recipe.batch_size),
        )

    def config(self):
        """Return what a weights file must say for `load_model` to rebuild the encoder."""
        dim = self.spectrum_encoder.head[-1].out_features
        return {
            "architecture": "small",
            "dim": dim,
            "spectrum": {**self.recipe.spectrum, "dim": dim},
            "recipe": dataclasses.asdict(self.recipe),
        }
