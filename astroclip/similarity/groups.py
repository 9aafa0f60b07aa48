"""All pairs of a reference: the graph of nearest neighbors and groups of near duplicates."""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

__all__ = ["duplicate_groups", "neighbor_graph"]

BLOCK_ROWS = 4096


def neighbor_graph(store, n_neighbors, *, modality=None, allowed=None):
    """Return the graph of every row's nearest other rows.

    Parameters
    ----------
    store : `~astroclip.similarity.store.Store`
    n_neighbors : int
    modality : str, optional
        Of the rows to compare with, as in `~astroclip.SimilarityIndex.query`.
    allowed : (M,) bool `numpy.ndarray`, optional
        Rows to take part.

    Returns
    -------
    (M, M) `scipy.sparse.csr_array`
        Cosines. Rows that do not take part are empty.

    Raises
    ------
    ValueError
        If rows of a modality can be compared with too few others.
    """
    n_rows = int(store.first_row[-1])
    parts = []
    for own_modality in store.modalities:
        names = store.names(modality, own_modality)
        positions = store.positions([own_modality], allowed)
        n_others = store.count(names, allowed) - (own_modality in names)
        if len(positions) and n_others < n_neighbors:
            msg = (
                f"n_neighbors is {n_neighbors} and {own_modality} rows can be compared with "
                f"{n_others} others; expected at most that many."
            )
            raise ValueError(msg)
        n_wanted = n_neighbors + (own_modality in names)
        for first in range(0, len(positions), BLOCK_ROWS):
            chosen = positions[first : first + BLOCK_ROWS]
            own = store.rows[chosen].astype(np.int64)
            rows, cosine = store.nearest(store.read(chosen), names, n_wanted, allowed=allowed)
            # the row itself last, then cut off; where ties hide it the last one goes
            keep = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :n_neighbors]
            rows, cosine = (np.take_along_axis(each, keep, axis=1) for each in (rows, cosine))
            parts.append((np.repeat(own, n_neighbors), rows.ravel(), cosine.ravel()))
    if not parts:
        return sparse.csr_array((n_rows, n_rows))
    source, target, cosine = (np.concatenate(each) for each in zip(*parts, strict=True))
    return sparse.csr_array((cosine, (source, target)), shape=(n_rows, n_rows))


def duplicate_groups(store, similarity, *, modality=None, allowed=None):
    """Return the number of the group of near duplicates that each row belongs to.

    Parameters
    ----------
    store, modality, allowed
        As in `neighbor_graph`.
    similarity : float
        Least cosine of two rows that belong together; groups are joined through common rows.

    Returns
    -------
    (M,) int64 `numpy.ndarray`
        Numbered by their first row; -1 for rows that are like no other.
    """
    n_rows = int(store.first_row[-1])
    label = np.arange(n_rows)
    mask = np.ones(n_rows, dtype=bool) if allowed is None else allowed.copy()
    for own_modality in store.modalities:
        if own_modality in store.names(modality, own_modality):
            _join_equal(store, store.positions([own_modality], mask), label, mask)
    for own_modality in store.modalities:
        names = store.names(modality, own_modality)
        positions = store.positions([own_modality], mask)
        for first in range(0, len(positions), BLOCK_ROWS):
            chosen = positions[first : first + BLOCK_ROWS]
            own = store.rows[chosen].astype(np.int64)
            for number, rows, _ in store.within(store.read(chosen), names, similarity,
                                                allowed=mask):
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


def _join_equal(store, positions, label, mask):
    """Label equal vectors alike and leave one of each in the mask: others need no search.

    A survey may hold thousands of copies of one vector, whose pairs are too many to list.
    """
    if not len(positions):
        return
    rows = store.rows[positions]
    blocks = [positions[first : first + BLOCK_ROWS] for first in range(0, len(rows), BLOCK_ROWS)]
    factors = 2 * np.random.default_rng(0).integers(2**62, size=store.dim, dtype=np.uint64) + 1
    code = np.concatenate([  # hashes of the vectors' bytes; adding zero makes -0 into 0
        (store.read(each) + 0).view(np.uint32).astype(np.uint64) @ factors for each in blocks
    ])
    order = np.lexsort((rows, code))
    same = np.zeros(len(order), dtype=bool)
    follows = np.flatnonzero(code[order[1:]] == code[order[:-1]]) + 1
    for first in range(0, len(follows), BLOCK_ROWS):
        part = follows[first : first + BLOCK_ROWS]
        pair = [store.read(positions[order[each]]) for each in (part, part - 1)]
        same[part] = (pair[0] == pair[1]).all(axis=1)
    leader = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    label[rows[order]] = rows[order[leader]]
    mask[rows[order[same]]] = False


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
