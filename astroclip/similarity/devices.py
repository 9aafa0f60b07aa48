"""Exact search on a GPU: torch multiplies, float64 on the CPU settles the order."""

import numpy as np

from astroclip.similarity.exact import nearest
from astroclip.similarity.vectors import as_float32, paired_cosines, product_margin

__all__ = ["nearest_on_device"]

QUERY_BLOCK = 1024
ROW_BLOCK = 65_536
SPARE = 32  # candidates beyond the neighbours


def nearest_on_device(store, queries, n_neighbors, *, device, cells=None, allowed=None):
    """Return the positions of the most similar rows of a store, exactly, by a device.

    Parameters
    ----------
    store, queries, n_neighbors, cells, allowed
        As in `~astroclip.similarity.exact.nearest`.
    device : str or `torch.device`
        The store is copied to it in blocks, so that it need not hold it all.

    Returns
    -------
    positions : (N, n_neighbors) int64 `numpy.ndarray`
    similarity : (N, n_neighbors) float64 `numpy.ndarray`

    Notes
    -----
    Queries for which near ties leave more rows in question than are kept are searched anew on
    the CPU: the result is the same to the last bit.
    """
    cells = store.cells() if cells is None else cells
    margin = 2 * product_margin(queries.shape[1], store.length_error)
    ranges = [np.arange(*each) for each in zip(cells.start, cells.stop, strict=True)]
    chosen = np.concatenate(ranges)
    chosen = chosen if allowed is None else chosen[allowed[chosen]]
    n_kept = min(n_neighbors + SPARE, len(chosen))
    product, place = _largest(store, queries, chosen, n_kept, device)
    positions = chosen[place]
    complete = n_kept == len(chosen)
    sure = complete | (product[:, n_neighbors - 1] - margin > product[:, -1])
    similarity = np.empty(positions.shape)
    wide = queries.astype(np.float64)
    for number in range(len(queries)):
        near = as_float32(store.read(positions[number]))
        own = np.broadcast_to(wide[number], near.shape)
        similarity[number] = paired_cosines(np.ascontiguousarray(own), near)
    order = np.lexsort((store.rows[positions], -similarity), axis=1)[:, :n_neighbors]
    positions, similarity = (
        np.take_along_axis(each, order, axis=1) for each in (positions, similarity)
    )
    left = np.flatnonzero(~sure)
    if len(left):
        found = nearest(store, queries[left], n_neighbors, cells=cells, allowed=allowed)
        positions[left], similarity[left] = found
    return positions, similarity


def _largest(store, queries, chosen, n_kept, device):
    """Return each query's largest float32 products with chosen rows, and their places."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # the bound is that of float32
    try:
        asked = torch.from_numpy(queries).to(device)
        best = torch.full((len(queries), 0), 0.0, device=device)
        place = torch.full((len(queries), 0), 0, dtype=torch.int64, device=device)
        for first in range(0, len(chosen), ROW_BLOCK):
            block = np.ascontiguousarray(store.read(chosen[first : first + ROW_BLOCK]))
            rows = torch.from_numpy(block).to(device).float()
            parts = []
            for start in range(0, len(queries), QUERY_BLOCK):
                part = slice(start, start + QUERY_BLOCK)
                value, column = _top(asked[part] @ rows.T, n_kept)
                value = torch.cat([best[part], value], dim=1)
                column = torch.cat([place[part], column + first], dim=1)
                value, order = _top(value, n_kept)
                parts.append((value, column.gather(1, order)))
            best, place = (torch.cat(each) for each in zip(*parts, strict=True))
        return best.cpu().numpy(), place.cpu().numpy()
    finally:
        torch.set_float32_matmul_precision(precision)


def _top(values, n_kept):
    return values.topk(min(n_kept, values.shape[1]), dim=1)
