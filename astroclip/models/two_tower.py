"""Two towers over one embedding space; a tower may be absent."""

from torch import nn

__all__ = ["TwoTower"]


class TwoTower(nn.Module):
    """A spectrum encoder and an image encoder.

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
