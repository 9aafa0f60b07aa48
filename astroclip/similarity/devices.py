"""Exact search on a GPU: torch multiplies, float64 on the CPU decides the order."""

import numpy as np

from astroclip.similarity.search import nearest
from astroclip.similarity.vectors import paired_cosines, product_margin

__all__ = ["nearest_on_device"]

QUERY_BLOCK = 1024
SPARE_CANDIDATES = 32  # kept beyond the neighbors


def nearest_on_device(
    store, queries, n_neighbors, cells, *, device, allowed=None, row_block=65_536
):
    """Return the positions of the most similar vectors of a store, exactly, by a device.

    Parameters
    ----------
    store, queries, n_neighbors, cells, allowed
        As in `~astroclip.similarity.search.nearest`.
    device : str or `torch.device`
    row_block : int
        Vectors that are copied to the device at a time, so that it need not hold them all.

    Returns
    -------
    positions : (N, n_neighbors) int64 `numpy.ndarray`
    similarity : (N, n_neighbors) float64 `numpy.ndarray`

    Notes
    -----
    Queries for which near ties leave more rows in question than are kept are searched again on
    the CPU: the result is the same to the last bit.
    """
    import torch

    ranges = [np.arange(*each) for each in zip(cells.start, cells.stop, strict=True)]
    chosen = np.concatenate(ranges)
    chosen = chosen if allowed is None else chosen[allowed[chosen]]
    n_kept = min(n_neighbors + SPARE_CANDIDATES, len(chosen))

    def largest(values, columns):
        values, order = values.topk(min(n_kept, values.shape[1]), dim=1)
        return values, columns.gather(1, order)

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # the bound is that of float32
    try:
        asked = torch.from_numpy(queries).to(device)
        best = torch.zeros((len(queries), 0), device=device)
        column = torch.zeros((len(queries), 0), dtype=torch.int64, device=device)
        for first in range(0, len(chosen), row_block):
            rows = torch.tensor(store.read(chosen[first : first + row_block])).to(device)
            numbers = torch.arange(first, first + len(rows), device=device)
            parts = []
            for start in range(0, len(queries), QUERY_BLOCK):
                part = slice(start, start + QUERY_BLOCK)
                product = asked[part] @ rows.T
                new = largest(product, numbers.expand(product.shape))
                both = [torch.cat(pair, dim=1) for pair in zip((best[part], column[part]), new,
                                                               strict=True)]
                parts.append(largest(*both))
            best, column = (torch.cat(each) for each in zip(*parts, strict=True))
        product, positions = best.cpu().numpy(), chosen[column.cpu().numpy()]
    finally:
        torch.set_float32_matmul_precision(precision)

    similarity = np.empty(positions.shape)
    for number, query in enumerate(queries.astype(np.float64)):
        near = store.read(positions[number])
        own = np.ascontiguousarray(np.broadcast_to(query, near.shape))
        similarity[number] = paired_cosines(own, near)
    order = np.lexsort((store.rows[positions], -similarity), axis=1)[:, :n_neighbors]
    positions, similarity = (
        np.take_along_axis(each, order, axis=1) for each in (positions, similarity)
    )
    margin = 2 * product_margin(queries.shape[1], store.length_error)
    complete = n_kept == len(chosen)
    decided = complete | (product[:, n_neighbors - 1] - margin > product[:, -1])
    left = np.flatnonzero(~decided)
    if len(left):
        found = nearest(store, queries[left], n_neighbors, cells, allowed=allowed)
        positions[left], similarity[left] = found
    return positions, similarity
