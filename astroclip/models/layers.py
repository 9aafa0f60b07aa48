"""Blocks that the published encoders share, with their checkpoints' parameter names."""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["CrossAttentionHead", "MLP", "SelfAttention", "TransformerBlock"]


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
        """Return tokens (B, T, C) mixed with each other."""
        n_batch, n_tokens, width = x.shape
        heads = self.attention(x).view(n_batch, n_tokens, 3, self.n_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each (B, H, T, C / H)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.projection(mixed.transpose(1, 2).reshape(n_batch, n_tokens, width))


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    def __init__(self, width, n_heads, hidden):
        super().__init__()
        self.layernorm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, n_heads)
        self.layernorm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden)

    def forward(self, x):
        """Return tokens (B, T, C) after the block."""
        x = x + self.attention(self.layernorm1(x))
        return x + self.mlp(self.layernorm2(x))


class CrossAttentionHead(nn.Module):
    """One learned query attends to all tokens: (B, T, C) to (B, D)."""

    def __init__(self, dim, token_width, n_heads):
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.multihead_attn = nn.MultiheadAttention(
            dim, n_heads, kdim=token_width, vdim=token_width, batch_first=True
        )
        self.layernorm = nn.LayerNorm(dim)

    def forward(self, tokens):
        """Return (B, D) of tokens (B, T, C)."""
        query = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.multihead_attn(query, tokens, tokens, need_weights=False)
        return self.layernorm(pooled[:, 0])
