"""Building blocks with the published checkpoints' parameter names, and the model of two towers.

Shapes: N objects, T tokens of C channels, H attention heads, D values of an embedding.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["CrossAttention", "MLP", "SelfAttention", "TransformerBlock", "TwoTower"]


class MLP(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width, hidden, dim=None):
        super().__init__()
        self.encoder = nn.Linear(width, hidden)
        self.decoder = nn.Linear(hidden, dim or width)

    def forward(self, x):
        """Return (..., dim) of (..., width)."""
        return self.decoder(functional.gelu(self.encoder(x)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens with one fused projection."""

    def __init__(self, width, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.attention = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x):
        """Return tokens (N, T, C) mixed with each other."""
        n_objects, n_tokens, width = x.shape
        heads = self.attention(x).view(n_objects, n_tokens, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (N, H, T, C / H)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.projection(mixed.transpose(1, 2).reshape(n_objects, n_tokens, width))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, width, n_heads, hidden):
        super().__init__()
        self.layernorm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, n_heads)
        self.layernorm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden)

    def forward(self, x):
        """Return tokens (N, T, C) after the block."""
        x = x + self.attention(self.layernorm1(x))
        return x + self.mlp(self.layernorm2(x))


class CrossAttention(nn.Module):
    """One learned query attends to all tokens: (N, T, C) to (N, D)."""

    def __init__(self, dim, token_width, n_heads):
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.multihead_attn = nn.MultiheadAttention(
            dim, n_heads, kdim=token_width, vdim=token_width, batch_first=True
        )
        self.layernorm = nn.LayerNorm(dim)

    def forward(self, tokens):
        """Return (N, D) of tokens (N, T, C)."""
        query = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.multihead_attn(query, tokens, tokens, need_weights=False)
        return self.layernorm(pooled[:, 0])


class TwoTower(nn.Module):
    """A spectrum encoder and an image encoder over one embedding space; one may be absent.

    Parameters
    ----------
    spectrum_encoder, image_encoder : `torch.nn.Module` or None
    """

    def __init__(self, *, spectrum_encoder=None, image_encoder=None):
        super().__init__()
        self.spectrum_encoder = spectrum_encoder
        self.image_encoder = image_encoder

    def encode_spectrum(self, flux, ivar, mask):
        """Return embeddings (N, D), not normalized, of spectra (N, P)."""
        return self.spectrum_encoder(flux, ivar, mask)

    def encode_image(self, pixels, mask):
        """Return embeddings (N, D), not normalized, of normalized images (N, B, S, S)."""
        return self.image_encoder(pixels, mask)
