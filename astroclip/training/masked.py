"""Masked modeling of spectra: hidden stretches are reconstructed from what is left.

Nothing about the galaxies is told. The encoder sees hidden pixels as missing data.
"""

import torch
from torch import nn

from astroclip.models.small import SmallSpectrumEncoder, spectrum_channels
from astroclip.training.objective import Objective
from astroclip.training.observers import Observer

__all__ = ["MaskedSpectra", "hide_chunks", "reconstruction_loss"]

N_CHUNKS = 6  # stretches hidden in every spectrum
CHUNK_LENGTH = 288  # pixels; 6 of 288 in 4,360 hide 40 percent, as in the published objective
NOISE_FLOOR = 0.2  # of the mean flux, added in quadrature lest the brightest alone count
VARIED_SHARE = 0.25  # of spectra recorded by a random instrument instead of DESI's
EXTRA_NOISE = 0.5  # largest noise added to spectra that a survey recorded, in units of theirs


def hide_chunks(n_rows, length, generator, *, n_chunks, chunk_length):
    """Return where contiguous stretches are hidden: one at a random place of every section.

    Parameters
    ----------
    n_rows, length : int
        Sequences and their length.
    generator : `torch.Generator`
    n_chunks, chunk_length : int
        Sections of equal length, and the stretch hidden in each.

    Returns
    -------
    (n_rows, length) bool `torch.Tensor`
        True where hidden, ``n_chunks * chunk_length`` times in every row.

    Raises
    ------
    ValueError
        If a chunk does not fit into its section.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.masked import hide_chunks
    >>> generator = torch.Generator().manual_seed(1)
    >>> hide_chunks(2, 778, generator, n_chunks=6, chunk_length=50).sum(dim=1)
    tensor([300, 300])
    """
    section = length // n_chunks
    if chunk_length >= section:
        msg = (
            f"chunk_length is {chunk_length}; expected less than {section}, the length of one "
            f"of {n_chunks} sections of {length}. Hide fewer or shorter chunks."
        )
        raise ValueError(msg)
    device = generator.device
    offset = torch.randint(
        section - chunk_length, (n_rows, n_chunks, 1), generator=generator, device=device
    )
    first = offset + (torch.arange(n_chunks, device=device) * length // n_chunks)[:, None]
    position = torch.arange(length, device=device)
    return ((position >= first) & (position < first + chunk_length)).any(dim=1)


def reconstruction_loss(reconstructed, flux, ivar, hidden, scale, *, noise_floor):
    r"""Return the error of hidden pixels in units of their noise.

    .. math::

        L = \frac{1}{H} \sum_{\mathrm{hidden}} \frac{(y - \mathrm{arcsinh}(f / m))^2}
            {1 / (\mathrm{ivar}\, m^2) + s^2}

    Parameters
    ----------
    reconstructed : (N, P) `torch.Tensor`
        y, dimensionless.
    flux, ivar : (N, P) `torch.Tensor`
        Recorded flux f in 1e-17 erg/s/cm2/A and its inverse square.
    hidden : (N, P) bool `torch.Tensor`
        True for the H pixels that count; their inverse variance is positive.
    scale : (N, 1) `torch.Tensor`
        m, the mean flux that normalizes what the encoder sees.
    noise_floor : float
        s, of the mean flux.

    Returns
    -------
    `torch.Tensor`
        Scalar; zero if nothing is hidden.

    Notes
    -----
    The weight is the inverse variance of f / m, which does not depend on the noise that f
    happens to have: its minimum is the mean of what is recorded.
    """
    target = torch.asinh(torch.where(hidden, flux, 0.0) / scale)
    variance = 1 / torch.where(hidden, ivar * scale**2, 1.0) + noise_floor**2
    error = torch.where(hidden, (reconstructed - target) ** 2 / variance, 0.0)
    return error.sum() / hidden.sum().clamp(min=1)


class MaskedSpectra(Objective):
    """A spectrum encoder that learns to fill in hidden stretches of noisy spectra.

    Parameters
    ----------
    recipe : `~astroclip.training.recipe.Recipe`
    pairs : dict of str to `numpy.ndarray`, optional
        Training pairs with ``spectrum`` and ``redshift``; not needed to load weights.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs scored after every epoch.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990, section 3.1.
    """

    section = "spectra"
    fields = ("spectrum", "redshift")

    def __init__(self, recipe, *, pairs=None, validation=None):
        super().__init__(recipe, pairs=pairs, validation=validation)
        self.encoder = SmallSpectrumEncoder(**recipe.spectrum)
        self.encoder.to(memory_format=torch.channels_last)  # half again as fast on CPUs
        for unreached in (self.encoder.gate, self.encoder.windows, self.encoder.head):
            unreached.requires_grad_(requires_grad=False)
        width = self.encoder.position.shape[-1]
        self.decoder = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, self.encoder.shortening)
        )
        self.observer = Observer(extra_noise=EXTRA_NOISE, varied_share=VARIED_SHARE)
        self.plain_observer = Observer()

    def reconstruct(self, flux, ivar, mask):
        """Return reconstructed arcsinh fluxes (N, P) and the mean flux (N, 1) they are over."""
        channels, level = spectrum_channels(flux, ivar, mask)
        tokens, _ = self.encoder.tokens(channels, level)
        pixels = self.decoder(tokens).flatten(1)[:, : flux.shape[1]]
        return pixels.float(), 10 ** level[:, :1]

    def training_step(self, batch, batch_index):
        """Return the loss of one batch, recorded by instruments drawn for this very step."""
        generator = self.step_generator(self.current_epoch, batch_index)
        spectra = self.observer.spectra(
            batch["spectrum"], generator, ivar=batch.get("ivar"), mask=batch.get("mask")
        )
        hidden = hide_chunks(
            *spectra.flux.shape, generator, n_chunks=N_CHUNKS, chunk_length=CHUNK_LENGTH
        )
        reconstructed, scale = self.reconstruct(spectra.flux, spectra.ivar, spectra.mask | hidden)
        counted = hidden & ~spectra.mask & (spectra.ivar > 0)
        loss = reconstruction_loss(
            reconstructed, spectra.flux, spectra.ivar, counted, scale, noise_floor=NOISE_FLOOR
        )
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def held_out(self, batch, generator):
        """Return the mean tokens (N, C) and redshifts of one held-out batch."""
        spectra = self.plain_observer.spectra(
            batch["spectrum"], generator, ivar=batch.get("ivar"), mask=batch.get("mask")
        )
        tokens, empty = self.encoder.tokens(*spectrum_channels(*vars(spectra).values()))
        seen = (~empty)[:, :, None]
        features = (tokens * seen).sum(dim=1) / seen.sum(dim=1)
        return {"features": features, "redshift": batch["redshift"]}
