"""Wavelength grids that models and surveys use, all in vacuum Angstrom."""

import numpy as np

from astroclip._validation import check_choice

__all__ = ["GRIDS", "linear_grid", "log_grid", "wavelength_grid"]


def linear_grid(start, stop, n_pixels):
    """Return evenly spaced wavelengths.

    Parameters
    ----------
    start, stop : float
        First and last pixel centre, Angstrom.
    n_pixels : int

    Returns
    -------
    (n_pixels,) `numpy.ndarray`

    Examples
    --------
    >>> from astroclip.preparation import linear_grid
    >>> linear_grid(3600.0, 3602.4, 4)
    array([3600. , 3600.8, 3601.6, 3602.4])
    """
    return np.linspace(start, stop, n_pixels)


def log_grid(start, step, n_pixels):
    """Return wavelengths evenly spaced in log10, so that a redshift is a shift.

    Parameters
    ----------
    start : float
        First pixel centre, Angstrom.
    step : float
        Pixel width in dex; 1e-4 is 69 km/s.
    n_pixels : int

    Returns
    -------
    (n_pixels,) `numpy.ndarray`
    """
    return start * 10 ** (step * np.arange(n_pixels))


GRIDS = {
    "desi": (linear_grid, (3600.0, 9824.0, 7781)),
    "log": (log_grid, (3600.0, 1e-4, 4360)),
    "sdss": (log_grid, (10**3.5797, 1e-4, 3850)),
    "boss": (log_grid, (10**3.5500, 1e-4, 4650)),
}
"""Named grids: function and arguments. ``desi`` is that of merged DESI coadds and of the
published models, ``log`` that of the bundled model."""


def wavelength_grid(grid):
    """Return the wavelengths of a named grid, or an array as a checked grid.

    Parameters
    ----------
    grid : str or (P,) array-like
        ``"desi"``, ``"log"``, ``"sdss"``, ``"boss"``, or vacuum Angstrom, ascending.

    Returns
    -------
    (P,) `numpy.ndarray`

    Raises
    ------
    ValueError
        If the name is unknown or the array is no ascending grid of two pixels or more.

    Examples
    --------
    >>> from astroclip.preparation import wavelength_grid
    >>> len(wavelength_grid("desi"))
    7781
    """
    if isinstance(grid, str):
        function, arguments = GRIDS[check_choice(grid, GRIDS, "wavelength")]
        return function(*arguments)
    grid = np.asarray(grid, dtype=float)
    if grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) > 0).all() or grid[0] <= 0:
        msg = (
            f"wavelength has shape {grid.shape}; expected the name of a grid "
            f"({', '.join(GRIDS)}) or a 1-D array of at least two positive, strictly "
            f"ascending wavelengths in Angstrom."
        )
        raise ValueError(msg)
    return grid
