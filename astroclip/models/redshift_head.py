"""The redshift head: a linear layer from an embedding to a distribution over redshift."""

import torch
from torch import nn
from torch.nn import functional

from astroclip.exceptions import CheckpointError
from astroclip.models.sources import HEAD_PREFIX, head_settings
from astroclip.redshifts.distribution import redshift_edges
from astroclip.redshifts.head import HEAD_SCALE, LinearRedshiftHead

__all__ = ["RedshiftHead", "build_redshift_head", "build_redshift_heads"]


class RedshiftHead(nn.Module):
    """Logits of redshift bins, linear in the direction of an embedding.

    Parameters
    ----------
    dim : int
        Length of an embedding.
    n_bins : int
        Bins, even in log(1 + z) from zero.
    largest : float
        Upper edge of the last bin.
    scale : float
        Length that embeddings are given.
    temperature : float
        Divides the logits in `probabilities`; it is calibrated after training and no
        parameter.

    Notes
    -----
    The head sees the direction of an embedding alone, so a table of unit embeddings is as
    good as the spectra it was made from.
    """

    def __init__(self, dim, n_bins, *, largest, scale=HEAD_SCALE, temperature=1.0):
        super().__init__()
        linear = nn.Linear(dim, n_bins)
        self.weight, self.bias = linear.weight, linear.bias
        self.largest, self.scale, self.temperature = largest, scale, temperature

    @property
    def edges(self):
        """Redshifts of the bins' edges, (n_bins + 1,) `numpy.ndarray`."""
        return redshift_edges(len(self.bias), self.largest)

    @property
    def centre(self):
        """Redshifts of the bins' centres in log(1 + z), (n_bins,) `numpy.ndarray`."""
        return redshift_edges(2 * len(self.bias), self.largest)[1::2]

    def forward(self, embedding):
        """Return logits (N, n_bins) of embeddings (N, dim), before the temperature."""
        features = self.scale * functional.normalize(embedding, dim=1)
        return functional.linear(features, self.weight, self.bias)

    def probabilities(self, embedding):
        """Return calibrated probabilities (N, n_bins) of embeddings (N, dim)."""
        return torch.softmax(self(embedding) / self.temperature, dim=1)

    def to_arrays(self):
        """Return the head in numpy, `~astroclip.redshifts.head.LinearRedshiftHead`."""
        weight, bias = (part.detach().cpu().float().numpy() for part in (self.weight, self.bias))
        return LinearRedshiftHead(
            weight, bias, largest=self.largest, scale=self.scale, temperature=self.temperature
        )

    def distribution(self, embedding):
        """Return the redshift distributions of embeddings in plain arrays.

        Parameters
        ----------
        embedding : (N, dim) array-like
            Of any length; rows that are not finite give NaN.

        Returns
        -------
        `~astroclip.redshifts.distribution.RedshiftDistribution`
        """
        return self.to_arrays().distribution(embedding)


def build_redshift_head(weight, bias, *, largest, scale=HEAD_SCALE, temperature=1.0):
    """Return a head made of the tensors of a trained linear layer.

    Parameters
    ----------
    weight : (n_bins, dim) `torch.Tensor`
        Such as ``spectrum_redshift.weight`` of
        `~astroclip.training.alignment.Alignment`, whose heads this reproduces exactly.
    bias : (n_bins,) `torch.Tensor`
    largest, scale, temperature : float
        As in `RedshiftHead`.

    Returns
    -------
    `RedshiftHead`
        In evaluation mode.

    Raises
    ------
    ValueError
        If the shapes do not belong together.
    """
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        msg = (
            f"weight has shape {tuple(weight.shape)} and bias {tuple(bias.shape)}; expected "
            f"(n_bins, dim) and (n_bins,)."
        )
        raise ValueError(msg)
    n_bins, dim = weight.shape
    with torch.device("meta"):
        head = RedshiftHead(dim, n_bins, largest=largest, scale=scale, temperature=temperature)
    head.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return head.eval()


def build_redshift_heads(tensors, config):
    """Return empty heads of a weights file's dimensions, by modality.

    Parameters
    ----------
    tensors : dict of str to `torch.Tensor`
        Heads are those of ``redshift_head.<modality>.weight``.
    config : dict or None
        The file's configuration; see `~astroclip.models.sources.head_settings`.

    Returns
    -------
    dict of str to `RedshiftHead`
        Empty for files without heads.

    Raises
    ------
    CheckpointError
        If the configuration does not fit the tensors, or names a head that is not there.
    """
    heads = {}
    for modality in ("spectrum", "image"):
        weight = tensors.get(f"{HEAD_PREFIX}{modality}.weight")
        if weight is None:
            continue
        if weight.ndim != 2:
            msg = (
                f"the weights file's {HEAD_PREFIX}{modality}.weight has shape "
                f"{tuple(weight.shape)}; expected (bins, embedding)."
            )
            raise CheckpointError(msg)
        n_bins, dim = weight.shape
        settings = head_settings(config, modality, n_bins=n_bins)
        heads[modality] = RedshiftHead(dim, n_bins, **settings)
    if config and not heads:
        msg = (
            f"the weights file's configuration names a redshift head and its tensors lack "
            f"{HEAD_PREFIX}<modality>.weight; is it complete?"
        )
        raise CheckpointError(msg)
    return heads
