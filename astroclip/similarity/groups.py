"""All pairs of a reference: the graph of nearest neighbours and groups of near duplicates."""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

__all__ = ["duplicate_groups", "neighbor_graph"]

BLOCK_ROWS = 4096


def neighbor_graph(searcher, n_neighbors, names_of, *, allowed=None):
    """Return the graph of every row's nearest other rows.

    Parameters
    ----------
    searcher : `~astroclip.similarity.searching.Searcher`
    n_neighbors : int
    names_of : callable
        Returns the modalities that rows of a modality are compared with.
    allowed : (M,) bool `numpy.ndarray`, optional
        Rows to take part.

    Returns
    -------
    (M, M) `scipy.sparse.csr_array`
        Cosines. Rows that do not take part are empty.
    """
    store, n_rows = searcher.store, searcher.n_rows
    parts = []
    for kind, (start, stop) in store.sections.items():
        names = names_of(kind)
        positions = np.arange(start, stop)
        if allowed is not None:
            positions = positions[allowed[store.rows[positions]]]
        n_wanted = n_neighbors + (kind in names)
        for first in range(0, len(positions), BLOCK_ROWS):
            chosen = positions[first : first + BLOCK_ROWS]
            own = store.rows[chosen].astype(np.int64)
            unit = np.asarray(store.read(chosen), dtype=np.float32)
            rows, cosine = searcher.nearest(unit, names, n_wanted, allowed=allowed)
            # the row itself last, then cut off; where ties hide it the last one goes
            keep = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :n_neighbors]
            rows, cosine = (np.take_along_axis(each, keep, axis=1) for each in (rows, cosine))
            parts.append((np.repeat(own, n_neighbors), rows.ravel(), cosine.ravel()))
    if not parts:
        return sparse.csr_array((n_rows, n_rows))
    source, target, cosine = (np.concatenate(each) for each in zip(*parts, strict=True))
    return sparse.csr_array((cosine, (source, target)), shape=(n_rows, n_rows))


def duplicate_groups(searcher, similarity, names_of, *, allowed=None):
    """Return the number of the group of near duplicates that each row belongs to.

    Parameters
    ----------
    searcher : `~astroclip.similarity.searching.Searcher`
    similarity : float
        Least cosine of two rows that belong together; groups are joined through common rows.
    names_of : callable
        Returns the modalities that rows of a modality are compared with.
    allowed : (M,) bool `numpy.ndarray`, optional
        Rows to take part.

    Returns
    -------
    (M,) int64 `numpy.ndarray`
        Numbered by their first row; -1 for rows that are like no other.
    """
    store, n_rows = searcher.store, searcher.n_rows
    label = np.arange(n_rows)
    mask = np.ones(n_rows, dtype=bool) if allowed is None else allowed.copy()
    label, mask = _join_equal(store, label, mask, names_of)
    for kind, (start, stop) in store.sections.items():
        positions = np.arange(start, stop)
        positions = positions[mask[store.rows[positions]]]
        for first in range(0, len(positions), BLOCK_ROWS):
            chosen = positions[first : first + BLOCK_ROWS]
            own = store.rows[chosen].astype(np.int64)
            unit = np.asarray(store.read(chosen), dtype=np.float32)
            pairs = searcher.within(unit, names_of(kind), similarity, allowed=mask)
            for number, rows, _ in pairs:
                label = _joined(label, own[number], rows)
    usable = np.zeros(n_rows, dtype=bool)
    usable[store.rows] = True
    usable &= True if allowed is None else allowed
    _, first, number, count = np.unique(
        label, return_index=True, return_inverse=True, return_counts=True
    )
    several = usable & (count[number] > 1)
    groups = np.full(n_rows, -1)
    order = np.unique(first[number[several]])
    groups[several] = np.searchsorted(order, first[number[several]])
    return groups


def _join_equal(store, label, mask, names_of):
    """Join rows of equal bytes and leave one of each in the mask: the rest needs no search."""
    for kind, (start, stop) in store.sections.items():
        rows = store.rows[start:stop]
        inside = np.flatnonzero(mask[rows])
        if kind not in names_of(kind) or not len(inside):
            continue
        code = np.concatenate([
            _codes(store.read(start + inside[first : first + BLOCK_ROWS]))
            for first in range(0, len(inside), BLOCK_ROWS)
        ])
        order = np.lexsort((rows[inside], code))
        same = np.zeros(len(order), dtype=bool)
        follows = np.flatnonzero(code[order[1:]] == code[order[:-1]]) + 1
        for first in range(0, len(follows), BLOCK_ROWS):
            part = follows[first : first + BLOCK_ROWS]
            pair = [store.read(start + inside[order[each]]) for each in (part, part - 1)]
            same[part] = (pair[0] == pair[1]).all(axis=1)
        leader = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        label[rows[inside[order]]] = rows[inside[order[leader]]]
        mask[rows[inside[order[same]]]] = False
    return label, mask


def _codes(vectors):
    """Return a hash of each vector's bytes."""
    vectors = np.ascontiguousarray(vectors) + np.zeros(1, dtype=vectors.dtype)  # -0 is 0
    words = vectors.view(np.uint16).astype(np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64)
    return words @ (2 * factors + 1)


def _joined(label, first, second):
    """Return labels after joining the groups of pairs of rows, the least label for all."""
    pairs = np.stack([label[first], label[second]])
    pairs = pairs[:, pairs[0] != pairs[1]]
    if not pairs.shape[1]:
        return label
    present, small = np.unique(pairs, return_inverse=True)
    small = small.reshape(pairs.shape)
    shape = (len(present), len(present))
    ones = np.ones(small.shape[1], dtype=np.int8)
    graph = sparse.coo_array((ones, (small[0], small[1])), shape=shape)
    _, component = connected_components(graph, directed=False)
    least = np.full(component.max() + 1, len(label))
    np.minimum.at(least, component, present)
    renamed = np.arange(len(label))
    renamed[present] = least[component]
    return renamed[label]
