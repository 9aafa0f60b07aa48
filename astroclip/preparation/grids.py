"""Wavelength grids that models and surveys use, all in vacuum Angstrom."""

import numpy as np
from astropy import units as u

from astroclip._validation import check_choice, plain_values

__all__ = ["GRIDS", "linear_grid", "log_grid", "wavelength_grid"]


def linear_grid(start, stop, n_pixels):
    """Return evenly spaced wavelengths.

    Parameters
    ----------
    start, stop : float
        First and last pixel center, Angstrom.
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
        First pixel center, Angstrom.
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
    "rest": (log_grid, (2710.0, 1e-4, 4360)),
    "sdss": (log_grid, (10**3.5797, 1e-4, 3850)),
    "boss": (log_grid, (10**3.5500, 1e-4, 4650)),
}
"""Named grids: function and arguments. ``desi`` is that of merged DESI coadds and of the
published models, ``log`` that of the bundled model and ``rest`` that of its rest-frame twin,
2710-7395 Angstrom."""


def wavelength_grid(grid):
    """Return the wavelengths of a named grid, or an array as a checked grid.

    Parameters
    ----------
    grid : str, (P,) array-like or `~astropy.units.Quantity`
        ``"desi"``, ``"log"``, ``"rest"``, ``"sdss"``, ``"boss"``, or vacuum wavelengths,
        ascending, in Angstrom where they carry no unit.

    Returns
    -------
    (P,) `numpy.ndarray`

    Raises
    ------
    ValueError
        If the name is unknown or the array is no ascending grid of two pixels or more.
    `~astropy.units.UnitsError`
        If the array is in a unit that is no wavelength.

    Examples
    --------
    >>> from astroclip.preparation import wavelength_grid
    >>> len(wavelength_grid("desi"))
    7781
    """
    if isinstance(grid, str):
        function, arguments = GRIDS[check_choice(grid, GRIDS, "wavelength")]
        return function(*arguments)
    grid = np.asarray(plain_values(grid, u.AA, "wavelength"), dtype=float)
    if grid.ndim != 1 or len(grid) < 2:
        found = f"has shape {grid.shape}"
    elif not np.isfinite(grid).all():
        found = "has values that are not finite"
    elif not (np.diff(grid) > 0).all() or grid[0] <= 0:
        found = f"goes from {grid[0]:g} to {grid[-1]:g}, not ascending throughout or not positive"
    else:
        return grid
    msg = (
        f"wavelength {found}; expected the name of a grid ({', '.join(GRIDS)}) or a 1-D array "
        f"of at least two positive, finite, strictly ascending wavelengths in Angstrom."
    )
    raise ValueError(msg)
