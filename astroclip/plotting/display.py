"""One image or one spectrum."""

import numpy as np

from astroclip.plotting._drawing import axes_of

__all__ = ["display_image", "plot_image", "plot_spectrum"]


def display_image(pixels, *, scales=(40.0, 24.0, 12.0)):
    """Return g, r, z images as colors for display.

    Parameters
    ----------
    pixels : (3, S, S) `numpy.ndarray`
        g, r, z in nanomaggies per 0.262 arcsec pixel; NaN is drawn black.
    scales : sequence of float
        Brightness of each band.

    Returns
    -------
    (S, S, 3) uint8 `numpy.ndarray`
        Red, green and blue from z, r and g through an arcsinh stretch.

    References
    ----------
    Lupton et al. (2004), PASP 116, 133.
    """
    pixels = np.nan_to_num(np.asarray(pixels, dtype=float), posinf=0.0, neginf=0.0)
    colors = pixels * np.array(scales)[:, None, None]
    mean = np.clip(colors.mean(axis=0), 1e-6, None)
    display = colors[::-1] * np.arcsinh(8 * mean) / (3.5 * mean)
    return np.round(255 * np.clip(display, 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def plot_image(colors, *, ax=None, title=None):
    """Draw colors (S, S, 3), first row at the bottom, and return the Axes.

    Parameters
    ----------
    colors : (S, S, 3) uint8 `numpy.ndarray`
        Such as `display_image` returns.
    ax : `~matplotlib.axes.Axes`, optional
    title : str, optional

    Returns
    -------
    `~matplotlib.axes.Axes`
    """
    ax = axes_of(ax)
    ax.imshow(colors, origin="lower", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    if title:
        ax.set_title(title, fontsize=7)
    return ax


def plot_spectrum(wavelength, flux, *, ax=None, title=None, color="C0"):
    """Draw a spectrum and return the Axes.

    Parameters
    ----------
    wavelength : (P,) `numpy.ndarray`
        Observed vacuum wavelength, Angstrom; a Quantity of another unit is converted.
    flux : (P,) `numpy.ndarray`
        Any scale; drawn relative to its 99.5th percentile where that is positive. NaN is
        left out.
    ax : `~matplotlib.axes.Axes`, optional
    title : str, optional
    color : str

    Returns
    -------
    `~matplotlib.axes.Axes`
    """
    from astropy import units as u

    ax = axes_of(ax)
    if isinstance(wavelength, u.Quantity):
        wavelength = wavelength.to_value(u.AA, equivalencies=u.spectral())
    flux = np.asarray(getattr(flux, "value", flux), dtype=float)
    finite = flux[np.isfinite(flux)]
    top = np.percentile(finite, 99.5) if len(finite) else 0.0
    ax.plot(np.asarray(wavelength) / 1e3, flux / (top if top > 0 else 1.0), lw=0.6, color=color)
    ax.set_ylim(-0.1, 1.25)
    ax.set_yticks([])
    ax.tick_params(labelsize=6)
    if title:
        ax.set_title(title, fontsize=7)
    return ax
