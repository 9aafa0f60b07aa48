"""Unit vectors: lengths, half precision, rounding bounds, and cosines computed one way."""

import numpy as np

__all__ = [
    "HALF_TOLERANCE",
    "UNIT_TOLERANCE",
    "as_float32",
    "cosines",
    "paired_cosines",
    "product_margin",
    "unit_rows",
]

UNIT_TOLERANCE = 1e-6  # lengths this near to one count as one
HALF_TOLERANCE = 1e-3  # of vectors that were kept in half precision
BLOCK_ROWS = 8192  # rows worked on at a time


def unit_rows(matrix, *, copy=True, tolerance=UNIT_TOLERANCE):
    """Return rows divided by their lengths, and which have one.

    Rows of unit length are kept to the last bit: dividing them again would reorder
    neighbours that differ by a rounding.

    Parameters
    ----------
    matrix : (N, D) float32 `numpy.ndarray`
    copy : bool
        False to divide in place.
    tolerance : float
        How far a length may be from one to count as one.

    Returns
    -------
    unit : (N, D) float32 `numpy.ndarray`
        Zero where there is no direction.
    directed : (N,) bool `numpy.ndarray`
        False for zero and non-finite rows.
    """
    unit = matrix.copy() if copy else matrix
    directed = np.empty(len(unit), dtype=bool)
    for first in range(0, len(unit), BLOCK_ROWS):
        block = unit[first : first + BLOCK_ROWS]
        length = np.linalg.norm(block, axis=1, keepdims=True)
        known = (length > 0) & np.isfinite(length)  # False for NaN
        length[np.abs(length - 1) < tolerance] = 1
        with np.errstate(invalid="ignore"):
            np.divide(block, length, out=block, where=known)
        block[~known[:, 0]] = 0
        directed[first : first + BLOCK_ROWS] = known[:, 0]
    return unit, directed


def as_float32(block):
    """Return finite values as float32; half precision by its bits, thrice as fast as a cast.

    Parameters
    ----------
    block : float16 or float32 `numpy.ndarray`
        Contiguous.

    Returns
    -------
    float32 `numpy.ndarray`
        The same array if it is float32 already.
    """
    if block.dtype != np.float16:
        return np.asarray(block, dtype=np.float32)
    bits = np.ascontiguousarray(block).view(np.uint16).astype(np.uint32)
    sign = bits & 0x8000
    sign <<= 16
    bits &= 0x7FFF
    bits <<= 13
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)  # the exponents' biases differ by 112
    bits |= sign
    return values


def product_margin(dim, length_error):
    """Return how far a float32 product of unit vectors can be from their cosine.

    Summing ``dim`` products in any order, fused or not, errs by at most ``dim`` roundings of
    the sum of their sizes, which is at most one; a row's length errs besides.

    Parameters
    ----------
    dim : int
    length_error : float
        Largest difference of a row's length from one.

    Returns
    -------
    float

    References
    ----------
    Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.1.
    """
    rounding = (dim + 8) * np.finfo(np.float32).eps / 2
    return 1.01 * (rounding + length_error) + 2 * UNIT_TOLERANCE


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
