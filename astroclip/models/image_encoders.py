"""Image backbones of the published models: timm's ViT and ResNet, fed their tensors."""

from torch import nn

__all__ = ["ImageTransformer", "MocoResNet", "build_resnet", "build_vit"]


def build_vit(*, image_size=144, patch_size=12, width=1024, depth=24, n_heads=16, hidden=None):
    """Return timm's vision transformer with DINOv2's choices (LayerScale, no classifier)."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=n_heads,
        mlp_ratio=(hidden or 4 * width) / width,
        init_values=1e-5,
        num_classes=0,
    )


def build_resnet(*, layers=(3, 4, 6, 3), bottleneck=True, channels=(64, 128, 256, 512)):
    """Return timm's residual network without pooling or classifier; torchvision's names."""
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    block = Bottleneck if bottleneck else BasicBlock
    return ResNet(block, tuple(layers), channels=tuple(channels), num_classes=0)


class ImageTransformer(nn.Module):
    """The vision transformer of AstroCLIP.

    Parameters
    ----------
    vit : `torch.nn.Module`
        From `build_vit`.
    """

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def patch_tokens(self, pixels):
        """Return patch tokens (N, T, C) as the aligned tower uses them.

        Patch embedding, blocks and norm only: the class token and the position
        embedding are in the file and unused.
        """
        return self.vit.norm(self.vit.blocks(self.vit.patch_embed(pixels)))

    def class_token(self, pixels):
        """Return the class token (N, C), with position embedding, as DINOv2 gives it."""
        return self.vit.forward_features(pixels)[:, 0]


class MocoResNet(nn.Module):
    """ResNet of Stein et al. (2021) with its MoCo v2 projection head.

    Parameters
    ----------
    backbone : `torch.nn.Module`
        From `build_resnet`.
    projection : (int, int) or None
        Hidden and output widths of the projection ``fc``; None for no projection.
    """

    def __init__(self, backbone, *, projection=(2048, 128)):
        super().__init__()
        self.backbone = backbone
        width = backbone.num_features
        self.fc = None
        if projection is not None:
            hidden, dim = projection
            self.fc = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def features(self, pixels):
        """Return pooled features (N, C)."""
        return self.backbone.forward_features(pixels).mean(dim=(2, 3))

    def forward(self, pixels):
        """Return the projection (N, D), or the pooled features without one."""
        pooled = self.features(pixels)
        return pooled if self.fc is None else self.fc(pooled)
