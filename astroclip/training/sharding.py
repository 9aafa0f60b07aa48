"""Sharing out batches among the processes of a distributed training."""

import numpy as np

from astroclip._validation import check_integer

__all__ = ["rank_rows"]


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
        If there is no such rank or the batch cannot be shared out evenly.

    Examples
    --------
    >>> from astroclip.training.sharding import rank_rows
    >>> rank_rows(range(9), 0, 2, 4)
    array([[0, 1],
           [4, 5]])
    >>> rank_rows(range(9), 1, 2, 4)
    array([[2, 3],
           [6, 7]])
    """
    world_size = check_integer(world_size, "world_size")
    rank = check_integer(rank, "rank", minimum=0, maximum=world_size - 1)
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
