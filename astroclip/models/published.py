"""The published models: SpecFormer, the image backbones, and the towers that end in an embedding.

Shapes in comments: N objects, P pixels of a spectrum, S pixels on a side of an image, T tokens,
C channels of a token, D values of an embedding. Names of parameters are those of the published
checkpoints. `astroclip.models.architectures` builds these modules with the dimensions of a file.
"""

import torch
from torch import nn
from torch.nn import functional

from astroclip.models.layers import MLP, CrossAttention, TransformerBlock

__all__ = [
    "AttentionTower",
    "ClassTokenTower",
    "MeanTokenTower",
    "ResNetTower",
    "SpecFormer",
    "VisionTransformer",
    "build_resnet",
    "build_vit",
    "tokenize_spectra",
]


# ---------------------------------------------------------------------- spectra
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
    deviation = flux.std(dim=1, keepdim=True).clamp(min=0.2)  # (N, 1)
    mean = flux.mean(dim=1, keepdim=True)  # (N, 1)
    step = section - overlap
    n_slices = -(-(flux.shape[1] - overlap) // step) - 1
    slices = ((flux - mean) / deviation).unfold(1, section, step)[:, :n_slices]  # (N, T, section)
    tokens = functional.pad(slices, (2, 0, 1, 0))  # (N, T + 1, section + 2)
    tokens[:, 0, 0] = (mean[:, 0] - 2) / 2
    tokens[:, 0, 1] = (deviation[:, 0] - 2) / 8
    return tokens


class SpecFormer(nn.Module):
    """Transformer over spectrum slices with a layer that reconstructs them.

    Parameters
    ----------
    input_dim : int
        Values per slice.
    embed_dim : int
        Width of the tokens inside.
    num_layers, num_heads : int
    max_len : int
        Most tokens.
    hidden : int, optional
        Width of the MLPs, four times ``embed_dim`` by default.
    section, overlap : int
        Slices of the spectrum; see `tokenize_spectra`.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990.
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
        position = torch.arange(tokens.shape[1], device=flux.device)  # (T,)
        x = self.data_embed(tokens) + self.position_embed(position)  # (N, T, C)
        for block in self.blocks:
            x = block(x)
        return self.final_layernorm(x)

    def reconstruct(self, flux):
        """Return the reconstructed slices (N, T, input_dim) of spectra (N, P)."""
        return self.head(self(flux))


# ---------------------------------------------------------------------- images
def build_vit(*, image_size=144, patch_size=12, width=1024, depth=24, n_heads=16, hidden=None):
    """Return timm's vision transformer with DINOv2's choices (LayerScale, no classifier)."""
    from timm.models import vision_transformer

    return vision_transformer.VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=n_heads,
        mlp_ratio=(hidden or 4 * width) / width,
        init_values=1e-5,
        num_classes=0,
    )


class VisionTransformer(nn.Module):
    """The patch tokens of a vision transformer as the aligned tower uses them.

    The class token and the position embedding are in the aligned model's file and not used.

    Parameters
    ----------
    vit : `torch.nn.Module`
        From `build_vit`.
    """

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, pixels):
        """Return tokens (N, T, C) of display images (N, 3, S, S)."""
        return self.vit.norm(self.vit.blocks(self.vit.patch_embed(pixels)))


def build_resnet(*, layers=(3, 4, 6, 3), bottleneck=True, channels=(64, 128, 256, 512)):
    """Return timm's residual network without pooling or classifier; torchvision's names."""
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    block = Bottleneck if bottleneck else BasicBlock
    return ResNet(block, tuple(layers), channels=tuple(channels), num_classes=0)


# ---------------------------------------------------------------------- towers
class AttentionTower(nn.Module):
    """A tower of the aligned models: backbone, cross-attention, MLP.

    Parameters
    ----------
    backbone : `torch.nn.Module`
        From inputs to tokens (N, T, token_width).
    dim : int
        Length of an embedding.
    token_width, n_heads, hidden : int
        Channels of the tokens, attention heads, width of the MLP.
    residual : bool
        Whether the MLP's output is added to its input: so for spectra, not for images.
    """

    def __init__(self, backbone, *, dim, token_width, n_heads, hidden, residual):
        super().__init__()
        self.backbone = backbone
        self.cross_attention = CrossAttention(dim, token_width, n_heads)
        self.mlp = MLP(dim, hidden)
        self.residual = residual

    def forward(self, values, ivar=None, mask=None):
        """Return embeddings (N, D); inverse variances and masks are not used."""
        pooled = self.cross_attention(self.backbone(values))  # (N, T, C) to (N, D)
        return pooled + self.mlp(pooled) if self.residual else self.mlp(pooled)


class MeanTokenTower(nn.Module):
    """SpecFormer before its alignment: the mean over its tokens."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, flux, ivar=None, mask=None):
        """Return embeddings (N, C) of spectra (N, P)."""
        return self.backbone(flux).mean(dim=1)


class ClassTokenTower(nn.Module):
    """The vision transformer before its alignment: DINOv2's class token, with positions."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels, mask=None):
        """Return embeddings (N, C) of display images (N, 3, S, S)."""
        return self.backbone.vit.forward_features(pixels)[:, 0]


class ResNetTower(nn.Module):
    """ResNet of Stein et al. (2021), alone or with what the workshop model puts on it.

    Parameters
    ----------
    backbone : `torch.nn.Module`
        From `build_resnet`.
    projection : (int, int), optional
        Hidden and output widths of the MoCo v2 projection ``fc``.
    mlp : (int, int), optional
        Hidden and output widths of the MLP after the projection.

    References
    ----------
    Stein et al. (2021), arXiv:2110.13151; Lanusse, Parker et al. (2023), arXiv:2310.03024v1.
    """

    def __init__(self, backbone, *, projection=None, mlp=None):
        super().__init__()
        self.backbone = backbone
        self.fc = self.mlp = nn.Identity()
        width = backbone.num_features
        if projection is not None:
            hidden, dim = projection
            self.fc = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, dim))
            width = dim
        if mlp is not None:
            hidden, dim = mlp
            self.mlp = MLP(width, hidden, dim)

    def forward(self, pixels, mask=None):
        """Return embeddings (N, D) of display images (N, 3, S, S)."""
        maps = self.backbone.forward_features(pixels)  # (N, C, S / 32, S / 32)
        return self.mlp(self.fc(maps.mean(dim=(2, 3))))
