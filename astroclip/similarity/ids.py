"""Looking up rows by their ids, among millions and without a Python dictionary of them."""

import numpy as np

__all__ = ["IdLookup"]

BLOCK_ROWS = 262_144


class IdLookup:
    """Rows of given ids.

    Parameters
    ----------
    ids : (M,) str `numpy.ndarray`, or mapped
        They may repeat.
    """

    def __init__(self, ids):
        self.ids = ids
        parts = [
            _hashes(np.asarray(ids[first : first + BLOCK_ROWS]))
            for first in range(0, len(ids), BLOCK_ROWS)
        ]
        hashes = np.concatenate([np.empty(0, dtype=np.uint64), *parts])
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def rows(self, wanted):
        """Return which rows have which of the wanted ids.

        Parameters
        ----------
        wanted : (N,) str `numpy.ndarray`

        Returns
        -------
        number : (T,) int64 `numpy.ndarray`
            Ascending numbers of wanted ids; an id that no row has is not among them.
        rows : (T,) int64 `numpy.ndarray`
            Rows, ascending for one id.
        """
        wanted = np.asarray(wanted, dtype=str)
        hashes = _hashes(wanted)
        first = np.searchsorted(self._hashes, hashes, side="left")
        count = np.searchsorted(self._hashes, hashes, side="right") - first
        number = np.repeat(np.arange(len(wanted)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        rows = self._order[np.repeat(first, count) + within]
        same = np.asarray(self.ids[rows]) == wanted[number]  # hashes may collide
        return number[same], rows[same]


def _hashes(ids):
    """Return hashes of texts that do not depend on the width of the array."""
    ids = np.ascontiguousarray(ids, dtype=str)
    width = ids.dtype.itemsize // 4
    if not width or not len(ids):
        return np.zeros(len(ids), dtype=np.uint64)
    letters = ids.view(np.uint32).reshape(len(ids), width)
    total = np.zeros(len(ids), dtype=np.uint64)
    factor = 0x9E3779B97F4A7C15
    for column in range(width):
        total += letters[:, column].astype(np.uint64) * np.uint64(factor)
        factor = (factor * 6364136223846793005 + 1442695040888963407) % 2**64 | 1
    return total
