"""Towers: a backbone and the head that turns its tokens into an embedding."""

from torch import nn

from astroclip.models.layers import MLP, CrossAttentionHead

__all__ = [
    "ClassTokenTower",
    "ImageTower",
    "MeanTokenTower",
    "MocoImageTower",
    "PooledTower",
    "ProjectedTower",
    "SpectrumTower",
]


class SpectrumTower(nn.Module):
    """SpecFormer, cross-attention and an MLP (added to its input in the 2024 model)."""

    def __init__(self, backbone, *, dim, token_width, n_heads, hidden, residual=True):
        super().__init__()
        self.backbone = backbone
        self.cross_attention = CrossAttentionHead(dim, token_width, n_heads)
        self.mlp = MLP(dim, hidden)
        self.residual = residual

    def forward(self, flux, ivar=None, mask=None):
        """Return embeddings (N, D); inverse variance and mask are not used."""
        pooled = self.cross_attention(self.backbone(flux))
        return pooled + self.mlp(pooled) if self.residual else self.mlp(pooled)


class ImageTower(nn.Module):
    """Vision transformer, cross-attention and an MLP that is not added to its input."""

    def __init__(self, backbone, *, dim, token_width, n_heads, hidden):
        super().__init__()
        self.backbone = backbone
        self.cross_attention = CrossAttentionHead(dim, token_width, n_heads)
        self.mlp = MLP(dim, hidden)

    def forward(self, pixels, mask=None):
        """Return embeddings (N, D) of display images (N, 3, S, S); the mask is not used."""
        return self.mlp(self.cross_attention(self.backbone.patch_tokens(pixels)))


class MocoImageTower(nn.Module):
    """MoCo ResNet with its projection and a simple MLP (the workshop model)."""

    def __init__(self, backbone, *, dim, hidden, width):
        super().__init__()
        self.backbone = backbone
        self.mlp = MLP(width, hidden, dim)

    def forward(self, pixels, mask=None):
        """Return embeddings (N, D) of display images (N, 3, S, S)."""
        return self.mlp(self.backbone(pixels))


class ProjectedTower(nn.Module):
    """MoCo ResNet with its projection alone (the workshop model without a further MLP)."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels, mask=None):
        """Return embeddings (N, D) of display images (N, 3, S, S)."""
        return self.backbone(pixels)


class MeanTokenTower(nn.Module):
    """SpecFormer alone: the mean over its tokens."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, flux, ivar=None, mask=None):
        """Return embeddings (N, C) of spectra (N, P)."""
        return self.backbone(flux).mean(dim=1)


class ClassTokenTower(nn.Module):
    """Vision transformer alone: its class token."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels, mask=None):
        """Return embeddings (N, C) of display images (N, 3, S, S)."""
        return self.backbone.class_token(pixels)


class PooledTower(nn.Module):
    """MoCo ResNet alone: its pooled features, before the projection."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels, mask=None):
        """Return embeddings (N, C) of display images (N, 3, S, S)."""
        return self.backbone.features(pixels)
