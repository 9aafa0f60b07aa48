"""Objectives that align two views of one object."""

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ContrastiveLoss", "info_nce"]


def info_nce(first, second, scale):
    r"""Return the symmetric InfoNCE loss of paired embeddings.

    .. math::

        L = -\frac{1}{2N} \sum_i \left[
            \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_i \cdot b_j}}
          + \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_j \cdot b_i}} \right]

    Parameters
    ----------
    first, second : (N, D) `torch.Tensor`
        Embeddings; row i of both is the same object. They are normalized here.
    scale : float or `torch.Tensor`
        Inverse temperature s.

    Returns
    -------
    `torch.Tensor`
        Scalar, in nats. ``log(N)`` minus it bounds the mutual information from below.

    References
    ----------
    van den Oord et al. (2018), arXiv:1807.03748, eq. 4; Radford et al. (2021),
    arXiv:2103.00020, figure 3.

    Examples
    --------
    >>> import torch
    >>> from astroclip.models.losses import info_nce
    >>> views = torch.eye(4)
    >>> bool(info_nce(views, views, 100.0) < 1e-6)
    True
    """
    logits = scale * functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T
    target = torch.arange(len(first), device=first.device)
    return 0.5 * (
        functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
    )


class ContrastiveLoss(nn.Module):
    """InfoNCE with a learnable inverse temperature, clamped from above.

    Parameters
    ----------
    initial_scale : float
        Inverse temperature to start from.
    largest_scale : float
        Clamp that keeps training stable (Radford et al. 2021 use 100).
    """

    def __init__(self, *, initial_scale=10.0, largest_scale=100.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial_scale)))
        self.largest = math.log(largest_scale)

    @property
    def scale(self):
        """Inverse temperature now."""
        return self.log_scale.clamp(max=self.largest).exp()

    def forward(self, first, second):
        """Return the loss of paired embeddings (N, D); see `info_nce`."""
        return info_nce(first, second, self.scale)
