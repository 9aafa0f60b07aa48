"""Several processes that train together: who they are, their rows and their embeddings."""

import numpy as np
import torch
from torch import distributed

from astroclip._validation import check_integer

__all__ = ["gather_with_gradient", "n_processes", "process_rank", "rank_rows"]


def n_processes():
    """Return how many processes train together; one outside of `torch.distributed`.

    Examples
    --------
    >>> from astroclip.training.distributed import n_processes
    >>> n_processes()
    1
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def process_rank():
    """Return the number of this process among them, from zero."""
    return distributed.get_rank() if n_processes() > 1 else 0


def rank_rows(order, rank, world_size, batch_size):
    """Return the rows that one process takes of every batch.

    Batch k of all processes together is batch k of one process alone, so that a training
    means the same however many share it.

    Parameters
    ----------
    order : (N,) array-like of int
        Rows in the epoch's order, the same on every process.
    rank : int
        This process, from zero.
    world_size : int
        Number of processes.
    batch_size : int
        Pairs of a batch of all processes together, a multiple of ``world_size``.

    Returns
    -------
    (N // batch_size, batch_size // world_size) `numpy.ndarray`
        One line for each batch; the rest that fills no batch is left out, so that every
        process makes as many steps.

    Raises
    ------
    ValueError
        If the batch cannot be shared out evenly.

    Examples
    --------
    >>> from astroclip.training.distributed import rank_rows
    >>> rank_rows(range(9), 0, 2, 4)
    array([[0, 1],
           [4, 5]])
    >>> rank_rows(range(9), 1, 2, 4)
    array([[2, 3],
           [6, 7]])
    """
    batch_size = check_integer(batch_size, "batch_size")
    if batch_size % world_size:
        msg = (
            f"batch_size is {batch_size}; expected a multiple of the {world_size} processes that "
            f"share a batch, such as {-(-batch_size // world_size) * world_size}."
        )
        raise ValueError(msg)
    order = np.asarray(order)
    n_batches = len(order) // batch_size
    shared = order[: n_batches * batch_size].reshape(
        n_batches, world_size, batch_size // world_size
    )
    return shared[:, rank]


class _Gather(torch.autograd.Function):
    """Rows of all processes, by rank; the gradients of all processes come back summed."""

    @staticmethod
    def forward(context, embedding):
        context.n_rows = len(embedding)
        parts = [torch.empty_like(embedding) for _ in range(n_processes())]
        distributed.all_gather(parts, embedding)
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient):
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        first = process_rank() * context.n_rows
        return total[first : first + context.n_rows]


def gather_with_gradient(embedding):
    """Return the embeddings of all processes, through which gradients flow back.

    Parameters
    ----------
    embedding : (N, D) `torch.Tensor`
        Of this process; the same shape on every process.

    Returns
    -------
    (N * n_processes, D) `torch.Tensor`
        Rows of rank 0 first. The gradient of ``embedding`` is the sum of what the losses
        of all processes ask for. With one process, ``embedding`` itself.

    Raises
    ------
    ValueError
        On every process, if the shapes differ.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.distributed import gather_with_gradient
    >>> gather_with_gradient(torch.zeros(4, 2)).shape
    torch.Size([4, 2])
    """
    if n_processes() == 1:
        return embedding
    if embedding.ndim != 2:
        msg = f"embedding has shape {tuple(embedding.shape)}; expected (N, D)."
        raise ValueError(msg)
    own = torch.tensor(embedding.shape, device=embedding.device)
    gathered = [torch.empty_like(own) for _ in range(n_processes())]
    distributed.all_gather(gathered, own)
    shapes = [tuple(shape) for shape in torch.stack(gathered).tolist()]
    if len(set(shapes)) > 1:
        listed = ", ".join(str(shape) for shape in shapes)
        msg = (
            f"embedding has shapes {listed} on ranks 0 to {len(shapes) - 1}; expected the same "
            f"on every rank. Give every rank as many pairs: drop the short last batch."
        )
        raise ValueError(msg)
    return _Gather.apply(embedding.contiguous())
