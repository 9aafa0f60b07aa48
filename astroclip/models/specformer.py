"""SpecFormer: the transformer over spectrum slices of Parker et al. (2024)."""

import torch
from torch import nn
from torch.nn import functional

from astroclip.models.layers import TransformerBlock

__all__ = ["SpecFormer", "tokenize_spectra"]


def tokenize_spectra(flux, *, section=20, overlap=10):
    """Cut standardized spectra into overlapping slices, a statistics token in front.

    Parameters
    ----------
    flux : (N, P) `torch.Tensor`
        1e-17 erg/s/cm2/A on the published grid.
    section, overlap : int
        Length and overlap of slices in pixels.

    Returns
    -------
    (N, T + 1, section + 2) `torch.Tensor`
        Token 0 holds ``(mean - 2) / 2`` and ``(std - 2) / 8``; the others start with two
        zeros. 7,781 pixels give 778 tokens of 22.

    Notes
    -----
    The reference code always drops the last slice, complete or not.
    """
    deviation = flux.std(dim=1, keepdim=True).clamp(min=0.2)
    mean = flux.mean(dim=1, keepdim=True)
    step = section - overlap
    n_slices = -(-(flux.shape[1] - overlap) // step) - 1
    slices = ((flux - mean) / deviation).unfold(1, section, step)[:, :n_slices]
    tokens = functional.pad(slices, (2, 0, 1, 0))
    tokens[:, 0, 0] = (mean[:, 0] - 2) / 2
    tokens[:, 0, 1] = (deviation[:, 0] - 2) / 8
    return tokens


class SpecFormer(nn.Module):
    """Transformer encoder of spectrum slices with a reconstruction head.

    Parameters
    ----------
    input_dim : int
        Values per token.
    embed_dim : int
        Width of the tokens inside.
    num_layers, num_heads : int
    max_len : int
        Most tokens.
    hidden : int, optional
        Width of the MLPs, four times ``embed_dim`` by default.
    section, overlap : int
        Slices of the spectrum; see `tokenize_spectra`.
    """

    def __init__(
        self, *, input_dim=22, embed_dim=768, num_layers=6, num_heads=6, max_len=800,
        hidden=None, section=20, overlap=10,
    ):
        super().__init__()
        self.section, self.overlap = section, overlap
        self.data_embed = nn.Linear(input_dim, embed_dim)
        self.position_embed = nn.Embedding(max_len, embed_dim)
        self.blocks = nn.ModuleList(
            TransformerBlock(embed_dim, num_heads, hidden or 4 * embed_dim)
            for _ in range(num_layers)
        )
        self.final_layernorm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, input_dim)

    def forward(self, flux):
        """Return tokens (N, T, C) of spectra (N, P)."""
        tokens = tokenize_spectra(flux, section=self.section, overlap=self.overlap)
        position = torch.arange(tokens.shape[1], device=flux.device)
        x = self.data_embed(tokens) + self.position_embed(position)
        for block in self.blocks:
            x = block(x)
        return self.final_layernorm(x)

    def reconstruct(self, flux):
        """Return the reconstructed tokens (N, T, input_dim) of spectra (N, P)."""
        return self.head(self(flux))
