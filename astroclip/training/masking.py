"""Masked modelling of spectra: hidden stretches are reconstructed from what is left.

Nothing about the galaxies is told. `MaskedSpectra` trains the bundled model's encoder, which
sees hidden pixels as missing data; `specformer_masked_loss` is the objective of the published
transformer.
"""

import dataclasses

import torch
from torch import nn

from astroclip.models.published import tokenize_spectra
from astroclip.models.small import SmallSpectrumEncoder, spectrum_channels
from astroclip.training.observers import Observer
from astroclip.training.optimization import step_generator
from astroclip.training.self_supervision import SelfSupervised

__all__ = [
    "MaskedSpectra",
    "MaskingRecipe",
    "hide_chunks",
    "reconstruction_loss",
    "specformer_masked_loss",
]


@dataclasses.dataclass(frozen=True)
class MaskingRecipe:
    """Settings of masked modelling.

    Attributes
    ----------
    n_epochs, epoch_size, batch_size : length of the run, spectra an epoch (all if None) and
        spectra a step
    learning_rate, weight_decay, warmup_steps : AdamW with a cosine decay to zero
    seed : fixes weights, order, noise, instruments and what is hidden
    n_chunks, chunk_length : stretches hidden in every spectrum and their length in pixels;
        6 times 288 of 4,360 hide 40 percent, as 6 times 50 of 778 tokens do in the published
        objective, 400 Angstrom each
    noise_floor : part of the mean flux added in quadrature to the noise, lest the brightest
        spectra alone count
    varied_share : fraction of spectra recorded by a random instrument instead of DESI's
    extra_noise : largest noise added to spectra that a survey recorded, in units of theirs
    encoder : options of `~astroclip.models.SmallSpectrumEncoder`
    """

    n_epochs: int = 4
    epoch_size: int | None = 20_480
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup_steps: int = 50
    seed: int = 1
    n_chunks: int = 6
    chunk_length: int = 288
    noise_floor: float = 0.2
    varied_share: float = 0.25
    extra_noise: float = 0.5
    encoder: dict = dataclasses.field(default_factory=dict)


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
    >>> from astroclip.training.masking import hide_chunks
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
    place = torch.randint(
        section - chunk_length, (n_rows, n_chunks, 1), generator=generator, device=device
    )
    first = place + (torch.arange(n_chunks, device=device) * length // n_chunks)[:, None]
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


class MaskedSpectra(SelfSupervised):
    """A spectrum encoder that learns to fill in hidden stretches of noisy spectra.

    Parameters
    ----------
    recipe : `MaskingRecipe`
    pairs : dict of str to `numpy.ndarray`, optional
        Training pairs with ``spectrum`` and ``redshift``; not needed to load weights.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs scored after every epoch.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990, section 3.1.
    """

    fields = ("spectrum", "redshift")

    def __init__(self, recipe, *, pairs=None, validation=None):
        super().__init__(recipe, pairs=pairs, validation=validation)
        self.encoder = SmallSpectrumEncoder(**recipe.encoder)
        self.encoder.to(memory_format=torch.channels_last)  # half again as fast on CPUs
        for unreached in (self.encoder.gate, self.encoder.windows, self.encoder.head):
            unreached.requires_grad_(requires_grad=False)
        width = self.encoder.position.shape[-1]
        self.decoder = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, self.encoder.shortening)
        )
        self.observer = Observer(
            extra_noise=recipe.extra_noise, varied_share=recipe.varied_share
        )
        self.plain_observer = Observer()

    def reconstruct(self, flux, ivar, mask):
        """Return reconstructed arcsinh fluxes (N, P) and the mean flux (N, 1) they are over."""
        channels, level = spectrum_channels(flux, ivar, mask)
        tokens, _ = self.encoder.tokens(channels, level)
        pixels = self.decoder(tokens).flatten(1)[:, : flux.shape[1]]
        return pixels.float(), 10 ** level[:, :1]

    def loss(self, spectra, generator):
        """Return the loss of recorded spectra, hiding what ``generator`` says."""
        hidden = hide_chunks(
            *spectra.flux.shape,
            generator,
            n_chunks=self.recipe.n_chunks,
            chunk_length=self.recipe.chunk_length,
        )
        reconstructed, scale = self.reconstruct(spectra.flux, spectra.ivar, spectra.mask | hidden)
        counted = hidden & ~spectra.mask & (spectra.ivar > 0)
        return reconstruction_loss(
            reconstructed, spectra.flux, spectra.ivar, counted, scale,
            noise_floor=self.recipe.noise_floor,
        )

    def _recorded(self, batch, observer, generator):
        """Return a batch's spectra; those that a survey recorded get no instrument again."""
        return observer.spectra(
            batch["spectrum"], generator, ivar=batch.get("ivar"), mask=batch.get("mask")
        )

    def training_step(self, batch, batch_index):
        """Return the loss of one batch, recorded by instruments drawn for this very step."""
        generator = step_generator(self, self.current_epoch, batch_index)
        loss = self.loss(self._recorded(batch, self.observer, generator), generator)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def features(self, batch, generator):
        """Return the mean token (N, C) of spectra as DESI or their survey records them."""
        spectra = self._recorded(batch, self.plain_observer, generator)
        channels = spectrum_channels(spectra.flux, spectra.ivar, spectra.mask)
        tokens, empty = self.encoder.tokens(*channels)
        seen = (~empty)[:, :, None]
        return (tokens * seen).sum(dim=1) / seen.sum(dim=1)


def specformer_masked_loss(specformer, flux, generator, *, n_chunks=6, chunk_length=50):
    """Return the published masked-modelling loss of a SpecFormer.

    Chunks of tokens are set to zero, all tokens are reconstructed, and the mean squared
    error counts where zeroing changed a value, divided by the fraction of these values.

    Parameters
    ----------
    specformer : `~astroclip.models.SpecFormer`
    flux : (N, P) `torch.Tensor`
        1e-17 erg/s/cm2/A on the published grid, 7,781 pixels.
    generator : `torch.Generator`
    n_chunks, chunk_length : int
        Chunks and tokens in each.

    Returns
    -------
    `torch.Tensor`
        Scalar.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990, section 3.1.
    """
    tokens = tokenize_spectra(flux, section=specformer.section, overlap=specformer.overlap)
    hidden = hide_chunks(
        *tokens.shape[:2], generator, n_chunks=n_chunks, chunk_length=chunk_length
    )
    visible = tokens.masked_fill(hidden[:, :, None], 0.0)
    changed = visible != tokens
    error = (_reconstruct_tokens(specformer, visible) - tokens) ** 2
    return torch.where(changed, error, 0.0).mean() / changed.float().mean()


def _reconstruct_tokens(specformer, tokens):
    """Return tokens (N, T, values) reconstructed from tokens that may be zeroed."""
    position = torch.arange(tokens.shape[1], device=tokens.device)
    x = specformer.data_embed(tokens) + specformer.position_embed(position)
    for block in specformer.blocks:
        x = block(x)
    return specformer.head(specformer.final_layernorm(x))
