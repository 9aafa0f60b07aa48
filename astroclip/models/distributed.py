"""What training on several processes needs of the models: embeddings of all of them."""

import torch
from torch import distributed

__all__ = ["gather_with_gradient", "n_processes", "process_rank"]


def _is_distributed():
    return distributed.is_available() and distributed.is_initialized()


def n_processes():
    """Return how many processes train together; one outside of `torch.distributed`.

    Examples
    --------
    >>> from astroclip.models.distributed import n_processes
    >>> n_processes()
    1
    """
    return distributed.get_world_size() if _is_distributed() else 1


def process_rank():
    """Return the number of this process among them, from zero."""
    return distributed.get_rank() if _is_distributed() else 0


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
    >>> from astroclip.models.distributed import gather_with_gradient
    >>> gather_with_gradient(torch.zeros(4, 2)).shape
    torch.Size([4, 2])
    """
    if n_processes() == 1:
        return embedding
    _check_shapes(embedding)
    return _Gather.apply(embedding.contiguous())


def _check_shapes(embedding):
    """Raise ValueError on all processes alike unless their embeddings have one shape."""
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
