"""Unit vectors: lengths, cosines computed in one way, rounding bounds, and modality means."""

import numpy as np

__all__ = [
    "ModalityCenters",
    "cosines",
    "length_error",
    "paired_cosines",
    "product_margin",
    "unit_rows",
]

# a length this near to 1 counts as 1, by the type that vectors are stored in
UNIT_TOLERANCE = {"float32": 1e-6, "float16": 1e-3}
BLOCK_ROWS = 8192


def unit_rows(matrix, *, dtype="float32"):
    """Return rows divided by their lengths, and which have one.

    Rows of unit length are kept to the last bit: dividing them again would reorder
    neighbors that differ by a rounding.

    Parameters
    ----------
    matrix : (N, D) float32 `numpy.ndarray`
        Divided in place.
    dtype : str
        ``"float16"`` if rows are, or will be, stored in half precision; their lengths are
        not as near to one.

    Returns
    -------
    unit : (N, D) float32 `numpy.ndarray`
        ``matrix``; zero where there is no direction.
    has_direction : (N,) bool `numpy.ndarray`
        False for zero and non-finite rows.
    """
    has_direction = np.empty(len(matrix), dtype=bool)
    for first in range(0, len(matrix), BLOCK_ROWS):
        block = matrix[first : first + BLOCK_ROWS]
        length = np.linalg.norm(block, axis=1, keepdims=True)
        known = (length > 0) & np.isfinite(length)  # False for NaN
        length[np.abs(length - 1) < UNIT_TOLERANCE[dtype]] = 1
        with np.errstate(invalid="ignore"):
            np.divide(block, length, out=block, where=known)
        block[~known[:, 0]] = 0
        has_direction[first : first + BLOCK_ROWS] = known[:, 0]
    return matrix, has_direction


def length_error(vectors):
    """Return the largest difference of a vector's length from one."""
    largest = 0.0
    for first in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[first : first + BLOCK_ROWS].astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        largest = max(largest, float(np.abs(length - 1).max()))
    return largest


def product_margin(dim, error):
    """Return how far a float32 product of unit vectors can be from their cosine.

    Summing ``dim`` products in any order, fused or not, errs by at most ``dim`` roundings of
    the sum of their sizes, which is at most one; a row's length errs besides.

    Parameters
    ----------
    dim : int
    error : float
        Largest difference of a row's length from one.

    Returns
    -------
    float

    References
    ----------
    Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    rounding = (dim + 8) * np.finfo(np.float32).eps / 2
    return 1.01 * (rounding + error) + 2 * UNIT_TOLERANCE["float32"]


def cosines(queries, block):
    """Return the cosines of all queries with all rows of a block, in float64.

    Every pair is summed by the same loop, so that equal rows give equal bits; a matrix
    product would not promise that.

    Parameters
    ----------
    queries : (N, D) or (M, D) float64 `numpy.ndarray`
    block : (M, D) `numpy.ndarray`

    Returns
    -------
    (N, M) float64 `numpy.ndarray`
    """
    block = block.astype(np.float64)
    products = np.einsum("nd,md->nm", queries, block)
    length = np.sqrt(np.einsum("md,md->m", block, block))
    products /= length * np.sqrt(np.einsum("nd,nd->n", queries, queries))[:, None]
    return products


def paired_cosines(queries, block):
    """Return the cosine of each query with the row of the block beside it, as `cosines` does.

    Parameters
    ----------
    queries : (M, D) float64 `numpy.ndarray`
    block : (M, D) `numpy.ndarray`

    Returns
    -------
    (M,) float64 `numpy.ndarray`
    """
    block = block.astype(np.float64)
    products = np.einsum("md,md->m", queries, block)
    length = np.sqrt(np.einsum("md,md->m", block, block))
    return products / (length * np.sqrt(np.einsum("md,md->m", queries, queries)))


class ModalityCenters:
    """The mean direction of each modality, to subtract from its embeddings.

    Parameters
    ----------
    centers : dict of str to (D,) array
        By modality.

    Notes
    -----
    Contrastive training leaves the modalities in narrow cones around different directions
    (Liang et al. 2022, NeurIPS 35, 17612). Subtracting each one's mean and scaling to unit
    length again lets a query be compared with both modalities on one footing.
    """

    def __init__(self, centers):
        self.centers = {name: np.asarray(each, dtype=np.float64) for name, each in centers.items()}

    @classmethod
    def fit(cls, unit, modality):
        """Return the centers of unit vectors (N, D) of some modalities (N,)."""
        names = np.unique(modality)
        means = {str(name): unit[modality == name].mean(axis=0, dtype=float) for name in names}
        return cls(means)

    def centered(self, unit, modality):
        """Return centered unit vectors.

        Parameters
        ----------
        unit : (N, D) float32 `numpy.ndarray`
        modality : (N,) str `numpy.ndarray`

        Returns
        -------
        vectors : (N, D) float32 `numpy.ndarray`
        has_direction : (N,) bool `numpy.ndarray`
            False where nothing is left.

        Raises
        ------
        ValueError
            If the reference has no rows of a modality.
        """
        vectors = unit.copy()
        for name in np.unique(modality):
            if str(name) not in self.centers:
                msg = (
                    f"modality {str(name)!r} of the query was not in the reference when its "
                    f"centers were fitted; expected {' or '.join(map(repr, self.centers))}. Make "
                    f"the index with center_modalities=False, or from a table with both."
                )
                raise ValueError(msg)
            members = modality == name
            vectors[members] -= self.centers[str(name)].astype(np.float32)
        return unit_rows(vectors)
