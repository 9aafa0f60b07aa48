"""Cells of similar vectors, and the largest cosine that a cell's rows can have with a query."""

from dataclasses import dataclass

import numpy as np

from astroclip.similarity.vectors import paired_cosines

__all__ = ["CellSizes", "Cells", "make_cells", "upper_bounds"]

MAX_CENTERS = 1024  # centers of the first k-means; splitting adds to them
SAMPLE_ROWS = 131_072  # rows that centers are fitted to
MIN_GAIN = 0.1  # share of the mean distance to the center that a split must take away
OUTLIER_SIGMA = 6.0  # rows further than this from their cell's center get a cell of their own
N_ROUNDS = 6  # rounds of k-means
BLOCK_ROWS = 8192
BOUND_ROUNDING = 1e-6  # added to bounds, which are computed in float64 and kept in float32


@dataclass(frozen=True)
class CellSizes:
    """How many rows cells have.

    Parameters
    ----------
    least : int
        Fewer rows than this are not clustered.
    mean : int
        Rows for each center of the first k-means.
    largest : int
        A larger cell is cut by the distance from its center.
    split, split_sample : int
        Cells of fewer rows, or with fewer rows in the sample, are not split.
    """

    least: int = 20_000
    mean: int = 2000
    largest: int = 8192
    split: int = 256
    split_sample: int = 64


@dataclass(frozen=True)
class Cells:
    """Runs of rows, each within a shell around a center.

    Parameters
    ----------
    start, stop : (C,) int64 `numpy.ndarray`
        First position of each cell's rows, and the one behind the last.
    centers : (C, D) float32 `numpy.ndarray`
        Unit vectors, or zero for a cell of which nothing is known.
    low, high : (C,) float64 `numpy.ndarray`
        Range of the cosines of the cell's rows with its center.
    """

    start: np.ndarray
    stop: np.ndarray
    centers: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __len__(self):
        return len(self.low)

    def arrays(self):
        """Return its arrays in the order of the constructor."""
        return [self.start, self.stop, self.centers, self.low, self.high]

    def moved(self, distance):
        """Return the cells of the same rows, at positions larger by ``distance``."""
        return Cells(self.start + distance, self.stop + distance, *self.arrays()[2:])

    @classmethod
    def joined(cls, parts):
        """Return the cells of several `Cells`, one after the other."""
        arrays = zip(*[cells.arrays() for cells in parts], strict=True)
        return cls(*[np.concatenate(each) for each in arrays])


def make_cells(vectors, *, rng, sizes=None):
    """Return an order of rows and the cells that they form in it.

    Parameters
    ----------
    vectors : (N, D) float32 `numpy.ndarray`
        Unit vectors.
    rng : `numpy.random.Generator`
        Draws the rows that centers are fitted to.
    sizes : `CellSizes`, optional

    Returns
    -------
    order : (N,) int64 `numpy.ndarray`
        Cell by cell; rows of a cell ascend.
    cells : `Cells`

    Notes
    -----
    Spherical k-means of a sample finds few centers. A cell is halved as long as its rows come
    much nearer to their centers by that: clusters are told apart and broad ones are kept whole.
    Rows far from all centers form cells of their own, and a large cell is cut into shells of
    equal numbers of rows by their cosine with the center.
    """
    sizes = sizes or CellSizes()
    n_rows, dim = vectors.shape
    if n_rows < sizes.least:  # consecutive rows, of which nothing is known
        start = np.arange(0, n_rows, sizes.largest)
        stop = np.minimum(start + sizes.largest, n_rows)
        centers = np.zeros((len(start), dim), dtype=np.float32)
        low, high = np.full(len(start), -1.0), np.ones(len(start))
        return np.arange(n_rows), Cells(start, stop, centers, low, high)
    sample = vectors[np.sort(rng.choice(n_rows, min(n_rows, SAMPLE_ROWS), replace=False))]
    n_centers = int(np.clip(n_rows // sizes.mean, 4, MAX_CENTERS))
    centers = _improved(sample, _seeds(sample, n_centers, rng))
    least = max(sizes.split_sample, sizes.split * len(sample) // n_rows)
    centers = _improved(sample, _split(sample, centers, least), n_rounds=2)
    label, cosine = _assign(vectors, centers)

    # each center's rows by their cosine: the outliers first, then shells
    order = np.lexsort((cosine, label))
    _, first = np.unique(label[order], return_index=True)
    starts = []
    for start, stop in zip(first, [*first[1:], n_rows], strict=True):
        own = cosine[order[start:stop]]
        low, middle = np.quantile(own, [0.16, 0.5])  # one sigma below the median, and this
        inner = start + int(np.searchsorted(own, middle - OUTLIER_SIGMA * (middle - low)))
        for run in ((start, inner), (inner, stop)):
            n_shells = -(-(run[1] - run[0]) // sizes.largest)
            starts.extend(np.linspace(*run, n_shells, endpoint=False).astype(int))
    start = np.array(starts, dtype=np.int64)
    stop = np.append(start[1:], n_rows)
    low, high = cosine[order[start]], cosine[order[stop - 1]]
    owner = label[order[start]]
    order = order[np.lexsort((order, np.repeat(np.arange(len(start)), stop - start)))]
    return order, Cells(start, stop, centers[owner], low, high)


def _normalized(vectors):
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def _seeds(sample, n_centers, rng):
    """Return rows far from each other, by k-means|| (Bahmani et al. 2012, PVLDB 5, 622)."""
    centers = sample[rng.integers(len(sample), size=1)]
    nearest = _assign(sample, centers)[1]
    step = -(-n_centers // 8)
    while len(centers) < n_centers:
        weight = np.clip(1.0 - nearest, 0, None) + 1e-12
        n_more = min(step, n_centers - len(centers))
        more = sample[rng.choice(len(sample), n_more, replace=False, p=weight / weight.sum())]
        nearest = np.maximum(nearest, _assign(sample, more)[1])
        centers = np.concatenate([centers, more])
    return centers


def _improved(sample, centers, n_rounds=N_ROUNDS):
    """Return centers after rounds of spherical k-means; those without rows are dropped."""
    for _ in range(n_rounds):
        label = _assign(sample, centers)[0]
        order = np.argsort(label, kind="stable")
        _, first = np.unique(label[order], return_index=True)
        centers = _normalized(np.add.reduceat(sample[order], first, axis=0))
    return centers


def _split(sample, centers, least):
    """Return centers, cells of at least so many rows halved while that brings rows nearer."""
    label = _assign(sample, centers)[0]
    queue = [np.flatnonzero(label == number) for number in range(len(centers))]
    final = []
    while queue:
        members = queue.pop()
        rows = sample[members]
        center = _normalized(rows.sum(axis=0))
        second = _second_half(rows, center) if len(members) >= least else None
        if second is not None:
            queue += [members[second], members[~second]]
        elif len(members):
            final.append(center)
    return np.stack(final)


def _second_half(rows, center):
    """Return which rows are another cluster, None if they are one."""
    far = rows[(rows @ center).argmin()]
    pair = np.stack([far, rows[(rows @ far).argmin()]])
    pair = _improved(rows, pair, n_rounds=4)
    if len(pair) < 2:
        return None
    product = rows @ pair.T
    distance = max(1 - float((rows @ center).mean()), 1e-9)
    gain = 1 - (1 - float(product.max(axis=1).mean())) / distance
    second = product[:, 1] > product[:, 0]
    return second if gain > MIN_GAIN and 0 < second.sum() < len(rows) else None


def _assign(vectors, centers):
    """Return each row's nearest center and their cosine."""
    label = np.empty(len(vectors), dtype=np.int32)
    cosine = np.empty(len(vectors))
    wide = centers.astype(np.float64)
    for first in range(0, len(vectors), BLOCK_ROWS):
        part = slice(first, first + BLOCK_ROWS)
        block = vectors[part]
        label[part] = (block @ centers.T).argmax(axis=1)
        with np.errstate(invalid="ignore"):
            cosine[part] = paired_cosines(wide[label[part]], block)
    # opposite rows may have the mean 0, a center without a direction: with it, cosines of 0
    # make the bound 1, which is true of all rows
    return label, np.nan_to_num(np.clip(cosine, -1, 1), copy=False, nan=0.0)


def upper_bounds(queries, cells):
    r"""Return how similar each cell's most similar row can be, and how similar it looks.

    For unit vectors q, x and a center c, with :math:`a = q c` and :math:`b = x c`,

    .. math:: q x \le a b + \sqrt{1 - a^2} \sqrt{1 - b^2},

    the triangle inequality of angles. It is largest for the b of the cell nearest to a.

    Parameters
    ----------
    queries : (N, D) float64 `numpy.ndarray`
        Unit vectors.
    cells : `Cells`

    Returns
    -------
    bound, guess : (N, C) float32 `numpy.ndarray`
        The bound, and the cosine with the center times the middle of the cell's range.
    """
    centers = cells.centers.astype(np.float64)
    length = np.linalg.norm(centers, axis=1, keepdims=True)
    product = queries @ (centers / np.where(length > 0, length, 1)).T
    np.clip(product, -1, 1, out=product)
    guess = (product * (0.5 * (cells.low + cells.high))).astype(np.float32)
    nearest = np.clip(product, cells.low, cells.high)
    bound = np.sqrt(np.maximum((1 - product**2) * (1 - nearest**2), 0))
    bound += product * nearest
    bound += BOUND_ROUNDING
    return bound.astype(np.float32), guess
