"""Pairs as batches: what a training step sees, drawn afresh from noiseless light."""

import functools

import numpy as np
import torch

from astroclip.models.distributed import n_processes, process_rank
from astroclip.models.small import ARCSINH_SCALES
from astroclip.simulation.instruments import (
    ObservedSpectra,
    noise_templates,
    observe_images,
    observe_images_varied,
    observe_spectra_desi,
    observe_spectra_sdss,
    observe_spectra_varied,
)
from astroclip.training.sharding import rank_rows

__all__ = ["BANDS", "LABELS", "PairBatches", "Observer", "full_precision", "image_inputs"]

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


def full_precision(record):
    """Make a method that records light do so in its own precision under autocast.

    bfloat16 would round fluxes to three digits, and mix types.

    Parameters
    ----------
    record : callable
        Its first argument is the object, its second a tensor.
    """

    @functools.wraps(record)
    def recorded(observer, light, *arguments, **options):
        with torch.autocast(light.device.type, enabled=False):
            return record(observer, light, *arguments, **options)

    return recorded


def image_inputs(pixels):
    """Return g, r, z nanomaggies (N, 3, S, S) scaled as `normalize_images` does for "asinh".

    The same formula in torch, for use on the training device.
    """
    scales = torch.tensor(ARCSINH_SCALES, device=pixels.device)[None, :, None, None]
    return torch.asinh(pixels * scales) / 2


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


class Observer:
    """Records noiseless pairs: the survey's instrument, SDSS's, or one drawn at random.

    Parameters
    ----------
    varied_share, sdss_share : float
        Fractions of spectra recorded by `observe_spectra_varied` and by
        `observe_spectra_sdss`, the rest by `observe_spectra_desi`.
    varied_image_share : float
        Fraction of images recorded by `observe_images_varied`, the rest by
        `observe_images`.
    missing_band_share : float
        Fraction of images that lose one band.
    transform_images : bool
        Rotate and flip images at random.
    **varied
        Options of `observe_spectra_varied`.
    """

    def __init__(
        self, *, varied_share=0.0, sdss_share=0.0, varied_image_share=0.0,
        missing_band_share=0.0, transform_images=False, **varied,
    ):
        self.varied_share = varied_share
        self.sdss_share = sdss_share
        self.varied_image_share = varied_image_share
        self.varied = varied
        self.missing_band_share = missing_band_share
        self.transform_images = transform_images
        self.templates = noise_templates()

    @full_precision
    def spectra(self, flux, generator, *, varied_share=None):
        """Return `ObservedSpectra` of noiseless flux (N, P) on the model's grid.

        ``varied_share`` (N,) replaces the observer's own, galaxy by galaxy.
        """
        share = self.varied_share if varied_share is None else varied_share
        draw = torch.rand(len(flux), generator=generator, device=flux.device)
        varied = draw < share
        sdss = ~varied & (draw < share + self.sdss_share)
        recorders = (
            (varied, lambda rows: self._record(observe_spectra_varied, rows, generator)),
            (sdss, lambda rows: self._record(observe_spectra_sdss, rows, generator)),
            (~(varied | sdss), lambda rows: self._record(observe_spectra_desi, rows, generator)),
        )
        parts, order = [], []
        for chosen, record in recorders:
            rows = torch.nonzero(chosen)[:, 0]
            if len(rows):
                parts.append(record(flux[rows]))
                order.append(rows)
        back = torch.argsort(torch.cat(order))
        return ObservedSpectra(
            *(
                torch.cat([getattr(part, name) for part in parts])[back]
                for name in ("flux", "ivar", "mask")
            )
        )

    def _record(self, instrument, flux, generator):
        options = self.varied if instrument is observe_spectra_varied else {}
        return instrument(flux, generator, templates=self.templates.to(flux.device), **options)

    @full_precision
    def images(self, pixels, seeing, generator):
        """Return network input (N, 3, S, S) and mask of noiseless images."""
        observed, mask = self._cameras(pixels, seeing, generator)
        inputs = image_inputs(observed)
        if self.missing_band_share:
            mask = mask | self._lost_bands(mask, generator)
        inputs = inputs.masked_fill(mask, 0.0)
        if self.transform_images:
            turns = int(torch.randint(8, (1,), generator=generator, device=generator.device))
            inputs, mask = (torch.rot90(part, turns % 4, (2, 3)) for part in (inputs, mask))
            if turns >= 4:
                inputs, mask = inputs.flip(3), mask.flip(3)
        return inputs, mask

    def _cameras(self, pixels, seeing, generator):
        """Return nanomaggies and masks of images recorded by either camera."""
        draw = torch.rand(len(pixels), generator=generator, device=pixels.device)
        varied = draw < self.varied_image_share
        recorded = torch.empty_like(pixels)
        mask = torch.zeros_like(pixels, dtype=torch.bool)
        for record, chosen in ((observe_images_varied, varied), (observe_images, ~varied)):
            rows = torch.nonzero(chosen)[:, 0]
            if len(rows):
                observed = record(pixels[rows], seeing[rows], generator)
                recorded[rows], mask[rows] = observed.pixels, observed.mask
        return recorded, mask

    def _lost_bands(self, mask, generator):
        """Return True (N, 3, 1, 1) for the band that some images lose."""
        n, n_bands = mask.shape[:2]
        device = generator.device
        lost = torch.rand(n, 1, generator=generator, device=device) < self.missing_band_share
        band = torch.randint(n_bands, (n, 1), generator=generator, device=device)
        chosen = torch.arange(n_bands, device=device)[None] == band
        return (lost & chosen)[:, :, None, None]
