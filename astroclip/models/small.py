"""Encoders of the bundled models: small, for any instrument, with missing data.

Spectra pass a convolutional stem that shortens 4,360 logarithmic pixels to 137 tokens, a
transformer block in which tokens without data are masked, and a gated attention pooling over the
tokens that have data. Fluxes in wide windows are added to the pooled tokens, and a scan with
templates (`astroclip.models.redshift_scan`) to the hidden units of the projection. Images pass a
small residual network (timm's) that sees flux and validity of each band as separate channels;
fluxes in nested apertures around the center are added to the hidden units of its projection.

Windows, scan and apertures measure what convolutions learn slowly: colors, and redshifts from many
faint lines. Their last layers start at zero, so that an encoder without them can be trained on.

Shapes: N objects, P pixels of a spectrum, S pixels on a side of an image, T tokens of C channels.
"""

import torch
from torch import nn
from torch.nn import functional

from astroclip.models.redshift_scan import RedshiftScan, ScanPath

__all__ = ["SmallImageEncoder", "SmallSpectrumEncoder", "spectrum_channels"]

LEAST_TOKEN_COVERAGE = 0.1
N_WINDOWS = 20  # of the spectrum, for its colors
APERTURE_RADII = (1.5, 3.0, 5.5, 9.0, 15.0)  # pixels
APERTURE_FLOOR = 0.05  # nanomaggies, near the noise of the smallest aperture
ARCSINH_SCALES = (20.0, 12.0, 6.0)  # the "asinh" normalization of preparation.bands


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


def window_features(channels, ivar, level):
    """Return the spectrum's colors: its flux in wide windows.

    Parameters
    ----------
    channels : (N, 3, P) `torch.Tensor`
        From `spectrum_channels`.
    ivar : (N, P) `torch.Tensor`
    level : (N, 2) `torch.Tensor`
        From `spectrum_channels`.

    Returns
    -------
    (N, 2 * N_WINDOWS + 2) `torch.Tensor`
        Mean arcsinh flux of each window, weighted by inverse variance (zero without
        data), the fraction of the window with data, and the level.
    """
    n_pixels = channels.shape[2] // N_WINDOWS * N_WINDOWS
    good = channels[:, 2, :n_pixels]
    # inverse variances vary by decades between objects: only their ratios matter
    weight = torch.where(good > 0, ivar[:, :n_pixels], 0.0)
    weight = weight / weight.amax(dim=1, keepdim=True).clamp(min=1e-30)
    flux, weight, good = (
        values.reshape(len(values), N_WINDOWS, -1)
        for values in (channels[:, 0, :n_pixels], weight, good)
    )
    mean = (weight * flux).sum(dim=2) / weight.sum(dim=2).clamp(min=1e-12)
    return torch.cat([mean, good.mean(dim=2), level], dim=1)


def aperture_features(pixels, good, apertures):
    """Return an image's brightness and colors: its flux in nested apertures.

    Parameters
    ----------
    pixels : (N, 3, S, S) `torch.Tensor`
        g, r, z in the "asinh" normalization, zero where there is no valid data.
    good : (N, 3, S, S) `torch.Tensor`
        One where there is.
    apertures : (A, S, S) `torch.Tensor`
        From `aperture_masks`.

    Returns
    -------
    (N, 6 * A) `torch.Tensor`
        A quarter of the arcsinh of every band's flux in units of `APERTURE_FLOOR`, and the
        fraction of the aperture with data.
    """
    scale = pixels.new_tensor(ARCSINH_SCALES)[None, :, None, None]
    flux = torch.sinh(2 * pixels.float()) / scale
    total = torch.einsum("nbyx,ayx->nba", flux, apertures).flatten(1)
    normalized = apertures / apertures.sum(dim=(1, 2), keepdim=True)
    share = torch.einsum("nbyx,ayx->nba", good.float(), normalized)
    return torch.cat([torch.asinh(total / APERTURE_FLOOR) / 4, share.flatten(1)], dim=1)


def aperture_masks(size):
    """Return circular apertures (A, S, S) around the image's center with soft edges."""
    axis = torch.arange(size) - (size - 1) / 2
    radius = torch.sqrt(axis[None, :] ** 2 + axis[:, None] ** 2)
    edge = torch.tensor(APERTURE_RADII)[:, None, None]
    return (edge + 0.5 - radius[None]).clamp(0, 1)


class SidePath(nn.Sequential):
    """Two layers from measured features to a network's hidden width, zero at first."""

    def __init__(self, n_features, n_hidden, n_out):
        super().__init__(
            nn.Linear(n_features, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out)
        )
        nn.init.zeros_(self[2].weight)
        nn.init.zeros_(self[2].bias)

    def forward(self, features):
        # features are arcsinh fluxes of up to ten: the 8 bits of bfloat16 round the flux to 3 %
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


class PointwiseConvolution(nn.Conv2d):
    """A convolution with one pixel's kernel that takes every ``step``-th pixel.

    It equals a convolution with strides, whose gradient in torch 2.14 writes beyond its memory
    on processors with AVX-512 (channels last, fewer than 16 channels). Average pooling over one
    pixel takes the pixels: a slice would too, but its gradient has another order in memory, which
    makes the layers before it several times as slow.
    """

    def __init__(self, n_in, n_out, *, step):
        super().__init__(n_in, n_out, 1, bias=False)
        self.step = step

    def forward(self, x):
        if max(self.step) > 1:
            x = functional.avg_pool2d(x, 1, stride=self.step)
        return super().forward(x)


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
        self.shortcut = PointwiseConvolution(n_in, n_out, step=(1, stride))

    def forward(self, x):
        y = functional.gelu(self.norm1(self.conv1(x)))
        return functional.gelu(self.shortcut(x) + self.norm2(self.conv2(y)))


class AttentionBlock(nn.TransformerEncoderLayer):
    """A transformer block whose attention takes the mask of empty tokens as it is.

    It equals its parent with ``norm_first=True`` and no dropout. The parent writes the mask out
    for every head and query, which takes longer than the attention.
    """

    def forward(self, tokens, empty):
        """Return tokens (N, T, C); those that are ``empty`` (N, T) are hidden from others."""
        tokens = tokens + self._attend(self.norm1(tokens), empty)
        hidden = self.activation(self.linear1(self.norm2(tokens)))
        return tokens + self.linear2(hidden)

    def _attend(self, tokens, empty):
        attention = self.self_attn
        projected = functional.linear(
            tokens, attention.in_proj_weight, attention.in_proj_bias
        ).unflatten(2, (3, attention.num_heads, attention.head_dim))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mask = ~empty[:, None, None].expand(-1, -1, empty.shape[1], -1)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attention.out_proj(seen.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Attention blocks, one after the other; those after the first start as the identity."""

    def __init__(self, n_channels, *, n_blocks, n_heads):
        super().__init__()
        self.layers = nn.ModuleList(
            AttentionBlock(
                n_channels, n_heads, 2 * n_channels, dropout=0.0, activation="gelu",
                batch_first=True, norm_first=True,
            )
            for _ in range(n_blocks)
        )
        for block in self.layers[1:]:
            nn.init.zeros_(block.self_attn.out_proj.weight)
            nn.init.zeros_(block.linear2.weight)
            nn.init.zeros_(block.linear2.bias)

    def forward(self, tokens, empty):
        """Return tokens (N, T, C); those that are ``empty`` (N, T) are hidden from others."""
        for block in self.layers:
            tokens = block(tokens, empty)
        return tokens


class SmallSpectrumEncoder(nn.Module):
    """Spectrum encoder with a coverage mask.

    Parameters
    ----------
    n_pixels : int
        Length of the wavelength grid.
    width : int
        Channels after the first block, a multiple of eight and at least 16; the next two blocks
        double them. The channels-last convolutions of torch 2.14 on CPUs crash with fewer.
    n_blocks, n_heads : int
        Transformer blocks and their attention heads. Blocks after the first start as the
        identity, so that they can be added to a trained encoder.
    dim : int
        Size of the embedding.
    window : (int, int), optional
        First pixel seen and the one after the last; all by default.
    brightness : bool
        Whether the mean flux is seen, or only its shape and signal-to-noise ratio.
    level_range : (float, float), optional
        log10 of the mean flux in 1e-17 erg/s/cm2/A to which the brightness of spectra is
        clipped: the range of the training data. Not clipped by default.
    hidden : int
        Width of the projection between pooled tokens and embedding.
    pooled : int, optional
        Values that the tokens are pooled to; as many as a token has by default.
    scan_components : int
        Principal components of each class of galaxies whose light is compared with spectra at every
        redshift, see `~astroclip.models.redshift_scan.RedshiftScan`; no comparison by default.
        The grid must be even in log10 of wavelength, with steps of 0.0001.
    scan_largest : float
        Redshift that they are compared to.
    """

    def __init__(
        self, *, n_pixels=4360, width=24, n_blocks=1, n_heads=4, dim=128, window=None,
        brightness=True, level_range=None, hidden=256, pooled=None,
        scan_components=0, scan_largest=0.7,
    ):
        super().__init__()
        self.window, self.brightness, self.level_range = window, brightness, level_range
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
        self.transformer = Transformer(inner, n_blocks=n_blocks, n_heads=n_heads)
        self.pooled = pooled or inner
        self.gate = nn.Linear(inner, 2 * self.pooled)
        self.level = nn.Linear(2, inner)
        self.windows = SidePath(2 * N_WINDOWS + 2, 128, self.pooled)
        self.head = nn.Sequential(
            nn.LayerNorm(self.pooled), nn.Linear(self.pooled, hidden), nn.GELU(),
            nn.Linear(hidden, dim),
        )
        self.scan = self.scanned = None
        if scan_components:
            self.scan = RedshiftScan(
                n_pixels, largest=scan_largest, n_components=scan_components
            )
            self.scanned = ScanPath(self.pooled, self.scan, hidden)

    def _empty_tokens(self, coverage, n_tokens):
        """Return True (N, T) for tokens with too little data; one token always stays."""
        pad = n_tokens * self.shortening - coverage.shape[1]
        share = functional.avg_pool1d(functional.pad(coverage[:, None], (0, pad)), self.shortening)
        empty = share[:, 0] < LEAST_TOKEN_COVERAGE
        return empty & ~(empty.all(dim=1, keepdim=True))

    def tokens(self, channels, level):
        """Return tokens (N, T, C) and which are empty (N, T) of `spectrum_channels`."""
        image = channels[:, :, None].contiguous(memory_format=torch.channels_last)
        features = self.blocks(functional.gelu(self.stem(image)))
        tokens = features.squeeze(2).transpose(1, 2)  # (N, T, C)
        empty = self._empty_tokens(channels[:, 2], tokens.shape[1])
        # attention in bfloat16 takes three times as long on CPUs; autocast on GPUs stays
        with torch.autocast("cpu", enabled=False):
            tokens = tokens.float() + self.position + self.level(level)[:, None]
            return self.transformer(tokens, empty), empty

    def forward(self, flux, ivar, mask):
        """Return embeddings (N, dim) of spectra (N, P) on the model's grid."""
        return self.project(self.summary(flux, ivar, mask))

    def summary(self, flux, ivar, mask):
        """Return the features (N, F) that `project` takes: pooled tokens, windows and scan."""
        if self.window is not None:
            pixel = torch.arange(mask.shape[1], device=mask.device)
            mask = mask | (pixel < self.window[0]) | (pixel >= self.window[1])
        channels, level = spectrum_channels(flux, ivar, mask)
        if not self.brightness:
            level = torch.stack([torch.zeros_like(level[:, 0]), level[:, 1]], dim=1)
        elif self.level_range is not None:
            level = torch.stack([level[:, 0].clamp(*self.level_range), level[:, 1]], dim=1)
        tokens, empty = self.tokens(channels, level)
        logits, values = self.gate(tokens).float().chunk(2, dim=2)
        attention = logits.masked_fill(empty[:, :, None], -1e4).softmax(dim=1)
        pooled = (attention * values).sum(dim=1)
        parts = [pooled, window_features(channels, ivar, level)]
        if self.scan is not None:
            parts += self.scan(flux, ivar, mask)
        return torch.cat(parts, dim=1)

    def project(self, summary, *, tokens_of=None):
        """Return embeddings (N, dim) of summaries (N, F).

        With ``tokens_of`` (N,), row i has the tokens and windows of row ``tokens_of[i]`` beside its
        own scan: a loss on such rows teaches the projection to read redshift from the scan alone.
        """
        pooled, *scan = self._joined(summary)
        normalize, widen, activate, narrow = self.head
        hidden = widen(normalize(pooled if tokens_of is None else pooled[tokens_of]))
        if scan:
            hidden = hidden + self.scanned(pooled, *scan)
        return narrow(activate(hidden))

    def _joined(self, summary):
        """Return tokens plus windows (N, pooled), and the two parts of a scan if there is one."""
        ends = [self.pooled, self.pooled + 2 * N_WINDOWS + 2]
        if self.scan is not None:
            ends.append(ends[-1] + self.scan.n_lags)
        pooled, measured, *scan = summary.tensor_split(ends, dim=1)
        return pooled + self.windows(measured), *(scan if self.scan is not None else ())

    def log_posterior(self, summary):
        """Return the logarithms (N, n_lags) of redshifts' probabilities that a scan gives.

        Redshifts are even in log(1 + z) from zero, in steps of
        ``astroclip.models.redshift_scan.LAG_STEP``.
        """
        pooled, evidence, _ = self._joined(summary)
        return self.scanned.log_posterior(pooled, evidence)

    def measurements(self, summary):
        """Return summaries (N, F) with the scan's posterior, transformed, for its evidence."""
        if self.scan is None:
            return summary
        own = summary[:, : self.pooled + 2 * N_WINDOWS + 2]
        return torch.cat([own, self.scanned.features(*self._joined(summary))], dim=1)

    def projection(self):
        """Return the modules that `project` uses."""
        parts = [self.windows, self.head]
        return nn.ModuleList(parts if self.scan is None else [*parts, self.scanned])


class SmallImageEncoder(nn.Module):
    """Image encoder that tolerates bad pixels and missing bands.

    Parameters
    ----------
    width : int
        Channels of the first of four stages; each next stage doubles them.
    layers : sequence of int
        Residual blocks per stage.
    dim : int
        Size of the embedding.
    hidden : int
        Width of the projection between pooled features and embedding.
    """

    def __init__(self, *, width=32, layers=(1, 1, 1, 1), dim=128, hidden=256):
        super().__init__()
        from timm.models.resnet import BasicBlock, ResNet

        n_bands = len(ARCSINH_SCALES)
        channels = tuple(width * 2**stage for stage in range(4))
        self.backbone = ResNet(
            BasicBlock, tuple(layers), in_chans=2 * n_bands, num_classes=0,
            channels=channels, stem_width=width // 2, stem_type="deep",
        )
        self.backbone.maxpool = nn.Identity()  # 64-pixel images are small enough
        for block in self.backbone.modules():
            if isinstance(block, BasicBlock) and block.downsample is not None:
                strided = block.downsample[0]
                n_in, n_out = strided.in_channels, strided.out_channels
                block.downsample[0] = PointwiseConvolution(n_in, n_out, step=strided.stride)
        inner = channels[-1]
        self.apertures = SidePath(2 * n_bands * len(APERTURE_RADII), 192, hidden)
        self.head = nn.Sequential(
            nn.Linear(2 * inner, hidden), nn.GELU(), nn.Linear(hidden, dim)
        )

    def features(self, pixels, mask):
        """Return pooled features (N, 2 C) of the residual network: mean and maximum."""
        good = (~mask).to(pixels.dtype)
        maps = self.backbone.forward_features(torch.cat([pixels * good, good], dim=1))
        return torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)

    def forward(self, pixels, mask):
        """Return embeddings (N, dim) of normalized images (N, 3, S, S); mask True = bad."""
        return self.project(self.summary(pixels, mask))

    def summary(self, pixels, mask):
        """Return the features (N, F) that `project` takes: pooled maps and apertures."""
        good = (~mask).to(pixels.dtype)
        apertures = aperture_masks(pixels.shape[-1]).to(pixels.device)
        measured = aperture_features(pixels * good, good, apertures)
        return torch.cat([self.features(pixels, mask), measured], dim=1)

    def project(self, summary):
        """Return embeddings (N, dim) of summaries (N, F)."""
        features, measured = summary.tensor_split([self.head[0].in_features], dim=1)
        hidden = self.head[0](features) + self.apertures(measured)
        return self.head[2](self.head[1](hidden))

    def projection(self):
        """Return the modules that `project` uses."""
        return nn.ModuleList([self.apertures, self.head])
