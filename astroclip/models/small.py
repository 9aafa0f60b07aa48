"""Encoders of the bundled models: made for two cores, any instrument and missing data.

Spectra pass a convolutional stem that shortens 4,360 logarithmic pixels to 137 tokens,
a transformer block in which tokens without data are masked, and a gated attention
pooling over the tokens that have data. Images pass a small residual network (timm's)
that sees flux and validity of each band as separate channels.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["SmallImageEncoder", "SmallSpectrumEncoder", "spectrum_channels"]

LEAST_TOKEN_COVERAGE = 0.1


def spectrum_channels(flux, ivar, mask):
    """Return what the spectrum encoder sees of flux, inverse variance and mask.

    Parameters
    ----------
    flux, ivar : (N, P) `torch.Tensor`
        1e-17 erg/s/cm2/A and its inverse square.
    mask : (N, P) bool `torch.Tensor`
        True where there is no valid data; flux and ivar are ignored there.

    Returns
    -------
    channels : (N, 3, P) `torch.Tensor`
        arcsinh of the flux over its weighted mean; half the arcsinh of half the
        signal-to-noise ratio; one where there is data. All are zero elsewhere.
    level : (N, 2) `torch.Tensor`
        log10 of the weighted mean flux and of the mean signal-to-noise ratio.
    """
    good = ~mask & (ivar > 0)
    flux = torch.where(good, flux, 0.0)
    ivar = torch.where(good, ivar, 0.0)
    weight = ivar / ivar.sum(dim=1, keepdim=True).clamp(min=1e-30)
    mean = (weight * flux).sum(dim=1, keepdim=True)
    floor = 0.1 * (weight * flux.abs()).sum(dim=1, keepdim=True)
    mean = torch.maximum(mean, floor).clamp(min=1e-4)
    signal_to_noise = flux * ivar.sqrt()
    n_good = good.sum(dim=1, keepdim=True).clamp(min=1)
    typical = signal_to_noise.sum(dim=1, keepdim=True) / n_good
    channels = [
        torch.asinh(flux / mean),
        torch.asinh(signal_to_noise / 2) / 2,
        good.to(flux.dtype),
    ]
    level = torch.cat([mean.log10(), typical.clamp(min=1e-2).log10()], dim=1)
    return torch.stack(channels, dim=1), level


class ResidualBlock(nn.Module):
    """Two convolutions along wavelength with a shortcut; the first shortens by ``stride``.

    Written in two dimensions, one of length one: channels-last memory, which makes
    convolutions on a CPU half again as fast, exists only there.
    """

    def __init__(self, n_in, n_out, *, kernel, stride):
        super().__init__()
        shape, padding = (1, kernel), (0, kernel // 2)
        self.conv1 = nn.Conv2d(n_in, n_out, shape, (1, stride), padding, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, shape, 1, padding, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, (1, stride), bias=False)

    def forward(self, x):
        y = functional.gelu(self.norm1(self.conv1(x)))
        return functional.gelu(self.shortcut(x) + self.norm2(self.conv2(y)))


class SmallSpectrumEncoder(nn.Module):
    """Spectrum encoder with a coverage mask.

    Parameters
    ----------
    n_pixels : int
        Length of the wavelength grid.
    width : int
        Channels after the first block, a multiple of eight from 16; they double twice and
        stay. The channels-last convolutions of torch 2.14 on CPUs crash with fewer.
    n_blocks, n_heads : int
        Transformer blocks and their attention heads.
    dim : int
        Size of the embedding.
    """

    def __init__(self, *, n_pixels=4360, width=24, n_blocks=1, n_heads=4, dim=128):
        super().__init__()
        if width < 16 or width % 8:
            msg = f"width is {width}; expected a multiple of eight, 16 or more."
            raise ValueError(msg)
        inner = 4 * width
        self.n_pixels = n_pixels
        self.stem = nn.Conv2d(3, width // 2, (1, 11), (1, 2), (0, 5))
        self.blocks = nn.Sequential(
            ResidualBlock(width // 2, width, kernel=7, stride=2),
            ResidualBlock(width, 2 * width, kernel=7, stride=2),
            ResidualBlock(2 * width, 4 * width, kernel=5, stride=2),
            ResidualBlock(4 * width, inner, kernel=5, stride=2),
        )
        self.shortening = 32
        n_tokens = -(-n_pixels // self.shortening)
        self.position = nn.Parameter(0.02 * torch.randn(1, n_tokens, inner))
        layer = nn.TransformerEncoderLayer(
            inner, n_heads, 2 * inner, dropout=0.0, activation="gelu",
            batch_first=True, norm_first=True,
        )
        self.transformer = nn.TransformerEncoder(layer, n_blocks, enable_nested_tensor=False)
        self.gate = nn.Linear(inner, 2 * inner)
        self.level = nn.Linear(2, inner)
        self.head = nn.Sequential(
            nn.LayerNorm(inner), nn.Linear(inner, 256), nn.GELU(), nn.Linear(256, dim)
        )

    def _empty_tokens(self, coverage, n_tokens):
        """Return True (N, T) for tokens with too little data; one token always stays."""
        pad = n_tokens * self.shortening - coverage.shape[1]
        share = functional.avg_pool1d(functional.pad(coverage[:, None], (0, pad)), self.shortening)
        empty = share[:, 0] < LEAST_TOKEN_COVERAGE
        return empty & ~(empty.all(dim=1, keepdim=True))

    def forward(self, flux, ivar, mask):
        """Return embeddings (N, dim) of spectra (N, P) on the model's grid."""
        channels, level = spectrum_channels(flux, ivar, mask)
        image = channels[:, :, None].contiguous(memory_format=torch.channels_last)
        features = self.blocks(functional.gelu(self.stem(image)))
        tokens = features[:, :, 0].transpose(1, 2)  # (N, T, C)
        tokens = tokens + self.position + self.level(level)[:, None]
        empty = self._empty_tokens(channels[:, 2], tokens.shape[1])
        tokens = self.transformer(tokens, src_key_padding_mask=empty)
        logits, values = self.gate(tokens).float().chunk(2, dim=2)
        attention = logits.masked_fill(empty[:, :, None], -1e4).softmax(dim=1)
        return self.head((attention * values).sum(dim=1))


class SmallImageEncoder(nn.Module):
    """Image encoder that tolerates bad pixels and missing bands.

    Parameters
    ----------
    n_bands : int
    width : int
        Channels of the first of four stages; each next stage doubles them.
    layers : sequence of int
        Residual blocks per stage.
    dim : int
        Size of the embedding.
    """

    def __init__(self, *, n_bands=3, width=32, layers=(1, 1, 1, 1), dim=128):
        super().__init__()
        from timm.models.resnet import BasicBlock, ResNet

        channels = tuple(width * 2**stage for stage in range(4))
        self.backbone = ResNet(
            BasicBlock, tuple(layers), in_chans=2 * n_bands, num_classes=0,
            channels=channels, stem_width=width // 2, stem_type="deep",
        )
        self.backbone.maxpool = nn.Identity()  # 64-pixel images are small enough
        inner = channels[-1]
        self.head = nn.Sequential(nn.Linear(2 * inner, 256), nn.GELU(), nn.Linear(256, dim))

    def forward(self, pixels, mask):
        """Return embeddings (N, dim) of normalized images (N, B, S, S); mask True = bad."""
        good = (~mask).to(pixels.dtype)
        features = self.backbone.forward_features(torch.cat([pixels * good, good], dim=1))
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return self.head(pooled)
