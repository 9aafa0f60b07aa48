"""Pairs as batches: what a training step sees, drawn afresh from noiseless light."""

import numpy as np
import torch

from astroclip.simulation.instruments import (
    ObservedSpectra,
    noise_templates,
    observe_images,
    observe_spectra_desi,
    observe_spectra_varied,
)

__all__ = ["LABELS", "PairBatches", "Observer", "image_inputs"]

LABELS = (
    "redshift",
    "log_stellar_mass",
    "log_ssfr",
    "log_metallicity",
    "bulge_to_total",
    "axis_ratio",
)
ARCSINH_SCALES = (20.0, 12.0, 6.0)  # the "asinh" normalization of preparation.bands


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
    seed : int
    epoch : int
        With the seed fixes the order.
    shuffle : bool
        When False, all pairs in order, the last batch short.
    fields : sequence of str
        Arrays that batches hold beside the labels.
    """

    def __init__(
        self, pairs, *, batch_size, seed=0, epoch=0, shuffle=True,
        fields=("image", "seeing", "spectrum", "redshift"),
    ):
        self.pairs = pairs
        self.fields = fields
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.shuffle = shuffle
        self.n_pairs = len(pairs["redshift"])

    def __len__(self):
        n_short = 0 if self.shuffle else self.batch_size - 1  # in order, the rest is kept
        return (self.n_pairs + n_short) // self.batch_size

    def __iter__(self):
        order = np.arange(self.n_pairs)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n_pairs)
        for number in range(len(self)):
            rows = np.sort(order[number * self.batch_size : (number + 1) * self.batch_size])
            yield self._batch(rows)

    def _batch(self, rows):
        batch = {
            name: torch.from_numpy(self.pairs[name][rows]).float()
            for name in self.fields
        }
        batch["labels"] = label_values({name: self.pairs[name][rows] for name in LABELS})
        return batch


def label_values(pairs):
    """Return the properties (N, 6) in the form the auxiliary heads regress."""
    values = dict(pairs)
    values["redshift"] = np.log1p(values["redshift"])
    values["log_ssfr"] = np.clip(values["log_ssfr"], -13, -8)
    values["bulge_to_total"] = np.log10(values["bulge_to_total"] + 0.02)
    return torch.from_numpy(np.stack([values[name] for name in LABELS], axis=1)).float()


class Observer:
    """Records noiseless pairs: the survey's instrument, or one drawn at random.

    Parameters
    ----------
    varied_share : float
        Fraction of spectra recorded by `observe_spectra_varied`, the rest by
        `observe_spectra_desi`.
    missing_band_share : float
        Fraction of images that lose one band.
    transform_images : bool
        Rotate and flip images at random.
    **varied
        Options of `observe_spectra_varied`.
    """

    def __init__(
        self, *, varied_share=0.0, missing_band_share=0.0, transform_images=False, **varied
    ):
        self.varied_share = varied_share
        self.varied = varied
        self.missing_band_share = missing_band_share
        self.transform_images = transform_images
        self.templates = noise_templates()

    def spectra(self, flux, generator):
        """Return `ObservedSpectra` of noiseless flux (N, P) on the model's grid."""
        templates = self.templates.to(flux.device)
        order = torch.randperm(len(flux), generator=generator, device=flux.device)
        n_varied = round(self.varied_share * len(flux))
        varied, plain = order[:n_varied], order[n_varied:]
        parts = []
        if n_varied:
            parts.append(
                observe_spectra_varied(
                    flux[varied], generator, templates=templates, **self.varied
                )
            )
        if len(plain):
            parts.append(observe_spectra_desi(flux[plain], generator, templates=templates))
        back = torch.argsort(order)
        return ObservedSpectra(
            *(
                torch.cat([getattr(part, name) for part in parts])[back]
                for name in ("flux", "ivar", "mask")
            )
        )

    def images(self, pixels, seeing, generator):
        """Return network input (N, 3, S, S) and mask of noiseless images."""
        observed = observe_images(pixels, seeing, generator)
        inputs, mask = image_inputs(observed.pixels), observed.mask
        if self.transform_images:
            draw = torch.randint(8, (1,), generator=generator, device=generator.device)
            turns = int(draw)
            inputs = torch.rot90(inputs, turns % 4, (2, 3))
            inputs = inputs.flip(3) if turns >= 4 else inputs
        if self.missing_band_share:
            n = len(inputs)
            device = generator.device
            lost = torch.rand(n, generator=generator, device=device) < self.missing_band_share
            band = torch.randint(inputs.shape[1], (n,), generator=generator, device=device)
            rows = torch.arange(n, device=device)[lost]
            mask[rows, band[lost]] = True
            inputs = inputs.masked_fill(mask, 0.0)
        return inputs, mask
