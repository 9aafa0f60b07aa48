"""A rest-frame spectrum encoder: galaxies of one kind, at whatever redshift.

One galaxy is put at two redshifts, recorded by two instruments and brought back to rest:
what both recordings share is the galaxy, what differs is distance, range and noise. The
contrast between them therefore asks for an embedding without redshift, and what its
neighbors still tell about the redshift is penalized.
"""

import dataclasses
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from astroclip.metrics import r2_score
from astroclip.models.small import SmallSpectrumEncoder
from astroclip.preparation.grids import GRIDS
from astroclip.simulation.numerics import uniform
from astroclip.simulation.pairs import read_pairs
from astroclip.simulation.spectrographs import WAVELENGTH, ObservedSpectra
from astroclip.training.data import LABELS, label_values
from astroclip.training.losses import (
    InverseTemperature,
    NeighborMemory,
    info_nce,
    neighbor_error,
    redshift_leak,
)
from astroclip.training.objective import HEAD_SCALE, Objective
from astroclip.training.observers import Observer
from astroclip.training.sources import join_pairs

__all__ = ["RestFrame", "redshifted", "rest_frame"]

REST_START, LOG_STEP, N_REST_PIXELS = GRIDS["rest"][1]
LEARNED = ("log_ssfr", "log_metallicity")  # what the embedding is to tell; no mass, no redshift
N_SCORED = 4  # labels that are estimated for held-out galaxies
LIMITS = {"train-mix": 16_000}  # galaxies used of a data set, all of the others
REDSHIFT_RANGE = (0.005, 0.6)  # that galaxies are put at, drawn uniformly
LARGEST_MOVE = 0.12  # largest change of log10(1 + z), so that most of the light stays
BRIGHTNESS_RANGE = 0.7  # dex that every view is brighter or fainter, or it would tell the redshift
ENDS = ((2700.0, 4200.0), (5600.0, 7400.0))
"""Rest-frame wavelengths in Angstrom between which either end of a view is drawn, or the recorded
range would tell the redshift."""
INSTRUMENTS = {
    "broad": True, "tilt": 0.1, "largest_blur": 4.5, "blue_cut": 0.2,
    "signal_to_noise": (1.0, 42.0),
}
"""Options of the random instruments of
`~astroclip.simulation.spectrographs.observe_spectra_varied`."""
VARIED_SHARE, SDSS_SHARE = 0.8, 0.1  # of spectra recorded by these and as SDSS does


def _pixels(ratio):
    """Return a wavelength ratio as a whole number of logarithmic pixels."""
    return torch.round(torch.log10(ratio) / LOG_STEP).long()


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


class RestFrame(Objective):
    """The encoder and its losses.

    Parameters
    ----------
    recipe : `~astroclip.training.recipe.Recipe`
    pairs : dict of str to `numpy.ndarray`, optional
        Noiseless spectra with redshifts and properties.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out ones, scored after every epoch.
    """

    section = "rest"
    fields = ("spectrum", "redshift")

    def __init__(self, recipe, *, pairs=None, validation=None):
        super().__init__(recipe, pairs=pairs, validation=validation)
        self.encoder_options = {"spectrum": self.settings.spectrum}
        self.spectrum_encoder = SmallSpectrumEncoder(**self.settings.spectrum)
        self.spectrum_encoder.to(memory_format=torch.channels_last)
        dim = self.spectrum_encoder.head[-1].out_features
        self.scale = InverseTemperature()
        self.labels = nn.Linear(dim, len(LEARNED))
        self.memory = NeighborMemory(self.settings.memory_size, dim, len(LEARNED) + 1)
        labels = label_values(pairs) if pairs is not None else torch.zeros(2, len(LABELS))
        self.register_buffer("label_mean", labels.mean(dim=0))
        self.register_buffer("label_scale", labels.std(dim=0).clamp(min=1e-3))
        self.observer = Observer(varied_share=VARIED_SHARE, sdss_share=SDSS_SHARE, **INSTRUMENTS)
        self.plain_observer = Observer()

    @classmethod
    def load(cls, recipe, workspace, sources, validation, start):
        """Return the module of a run, with its simulated spectra; see `Objective.load`."""

        def light(folder, n_pairs=None):
            pairs = read_pairs(folder, n_pairs=n_pairs)
            return {name: values for name, values in pairs.items() if name != "image"}

        parts = [light(source, LIMITS.get(Path(source).name)) for source in sources]
        return cls(recipe, pairs=join_pairs(parts), validation=light(validation))

    @property
    def order_seed(self):
        """Seed of the galaxies' order, which differs from the alignment's."""
        return self.settings.seed + 500

    def new_redshift(self, redshift, generator):
        """Return redshifts drawn uniformly from what the range and the largest move allow."""
        low, high = REDSHIFT_RANGE
        factor = 10**LARGEST_MOVE
        lowest = ((1 + redshift) / factor - 1).clamp(min=low)
        highest = ((1 + redshift) * factor - 1).clamp(max=high)
        draw = uniform(generator, (len(redshift),))
        return lowest + (highest - lowest).clamp(min=0) * draw

    def embed(self, flux, redshift, new_redshift, observer, generator, *, ends=None):
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

    def view(self, flux, redshift, generator):
        """Return embeddings of galaxies at drawn redshifts and brightnesses, ends cut off."""
        shape = (len(flux), 1)
        change = BRIGHTNESS_RANGE * (2 * uniform(generator, shape) - 1)
        ends = [uniform(generator, shape, low, high) for low, high in ENDS]
        return self.embed(
            flux * 10**change, redshift, self.new_redshift(redshift, generator), self.observer,
            generator, ends=ends,
        )

    def training_step(self, batch, batch_index):
        """Return the loss of one batch of galaxies, each seen twice."""
        generator = self.step_generator(7_000 + self.current_epoch, batch_index)
        flux, redshift = batch["spectrum"], batch["redshift"]
        views = [self.view(flux, redshift, generator) for _ in range(2)]
        columns = [LABELS.index(name) for name in (*LEARNED, "redshift")]
        standardized = ((batch["labels"] - self.label_mean) / self.label_scale)[:, columns]
        labels, redshift, memory = standardized[:, :-1], standardized[:, -1], self.memory()
        terms = {
            "contrast": info_nce(*views, self.scale()),
            "labels": self.label_error(views, labels),
            "neighbors": neighbor_error(
                views, labels, memory, label_weights=self.settings.label_weights
            ),
            "redshift_leak": redshift_leak(views, redshift, memory),
        }
        self.memory.remember(*views, standardized, redshift)
        loss = sum(weight * terms[name] for name, weight in self.settings.losses.items())
        self.log_dict({"loss": loss, **terms}, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def label_error(self, views, labels):
        """Return the error of labels (N, L) read off both views."""
        weights = labels.new_tensor(self.settings.label_weights)
        total = labels.new_zeros(())
        for view in views:
            read = self.labels(HEAD_SCALE * functional.normalize(view, dim=1))
            error = functional.smooth_l1_loss(read, labels, reduction="none")
            total = total + (weights * error).mean()
        return total

    def held_out(self, batch, generator):
        """Return embeddings of one held-out batch as DESI records it, at its own redshifts."""
        flux, redshift = batch["spectrum"], batch["redshift"]
        embedding = self.embed(flux, redshift, redshift, self.plain_observer, generator)
        return {"embedding": embedding, "labels": batch["labels"]}

    def scores(self, held):
        """Return R2 of properties, estimated for one half of the galaxies from the other."""
        unit, labels = functional.normalize(held["embedding"], dim=1), held["labels"]
        half = len(unit) // 2
        near = (unit[half:] @ unit[:half].T).topk(min(16, half), dim=1).indices
        estimate = labels[:half][near].mean(dim=1)
        return {
            f"r2_{name}": r2_score(estimate[:, k].cpu(), labels[half:, k].cpu())
            for k, name in enumerate(LABELS[:N_SCORED])
        }
