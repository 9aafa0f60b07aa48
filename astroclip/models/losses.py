"""Objectives that align two views of one object."""

import math

import torch
from torch import distributed, nn
from torch.nn import functional

from astroclip.models.distributed import gather_with_gradient, n_processes, process_rank

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


def _gathered_info_nce(first, second, scale):
    """Return `info_nce` of all processes' pairs, each computing its own rows.

    Every process contrasts its rows with the embeddings of all, a share of the matrix of
    similarities that fits its memory. The mean over processes of these partial losses is the
    loss of the whole batch, and so is the mean of their gradients, which
    `~torch.nn.parallel.DistributedDataParallel` takes: `gather_with_gradient` returns the
    sum over processes of what their partial losses ask of each embedding. The value is that
    of the whole batch on every process.
    """
    first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    all_first, all_second = gather_with_gradient(torch.cat([first, second], dim=1)).chunk(2, dim=1)
    target = torch.arange(len(first), device=first.device) + process_rank() * len(first)
    own = 0.5 * (
        functional.cross_entropy(scale * first @ all_second.T, target)
        + functional.cross_entropy(scale * second @ all_first.T, target)
    )
    mean = own.detach().clone()
    distributed.all_reduce(mean)
    return own + (mean / n_processes() - own.detach())


class ContrastiveLoss(nn.Module):
    """InfoNCE with a learnable inverse temperature, clamped from above.

    Where `torch.distributed` runs more than one process, the contrast is with the pairs of
    all: batches must have the same size on every rank, and the gradients averaged over ranks
    are those of one process with all the pairs.

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
        """Return the loss of paired embeddings (N, D); see `info_nce`.

        Raises
        ------
        ValueError
            If batches differ in size between ranks.
        """
        if n_processes() > 1:
            return _gathered_info_nce(first, second, self.scale)
        return info_nce(first, second, self.scale)
