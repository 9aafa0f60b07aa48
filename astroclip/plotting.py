"""Figures: a query beside its neighbours, as images and spectra."""

import numpy as np

from astroclip._validation import check_not_empty

__all__ = ["display_image", "neighbor_panel", "plot_image", "plot_spectrum"]


def display_image(pixels, *, scales=(40.0, 24.0, 12.0)):
    """Return g, r, z images as colours for display.

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
    colours = pixels * np.array(scales)[:, None, None]
    mean = np.clip(colours.mean(axis=0), 1e-6, None)
    display = colours[::-1] * np.arcsinh(8 * mean) / (3.5 * mean)
    return np.round(255 * np.clip(display, 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def plot_image(colours, *, ax=None, title=None):
    """Draw colours (S, S, 3), first row at the bottom, and return the Axes.

    Parameters
    ----------
    colours : (S, S, 3) uint8 `numpy.ndarray`
    ax : `~matplotlib.axes.Axes`, optional
    title : str, optional

    Returns
    -------
    `~matplotlib.axes.Axes`
    """
    ax = _axes(ax)
    ax.imshow(colours, origin="lower", interpolation="nearest")
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
        Observed vacuum wavelength, Angstrom.
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
    ax = _axes(ax)
    flux = np.asarray(flux, dtype=float)
    finite = flux[np.isfinite(flux)]
    top = np.percentile(finite, 99.5) if len(finite) else 0.0
    ax.plot(np.asarray(wavelength) / 1e3, flux / (top if top > 0 else 1.0), lw=0.6, color=color)
    ax.set_ylim(-0.1, 1.25)
    ax.set_yticks([])
    ax.tick_params(labelsize=6)
    if title:
        ax.set_title(title, fontsize=7)
    return ax


def neighbor_panel(queries, *, figure=None):
    """Draw queries, one a row, each beside its neighbours as image and spectrum.

    Parameters
    ----------
    queries : sequence of dict
        Each with ``label``; ``image`` (S, S, 3) uint8 or None; ``spectrum``
        (wavelength, flux) or None; ``neighbors``, rows of a neighbor table; and
        ``previews`` of them, as `astroclip.reference_previews` returns.
    figure : `~matplotlib.figure.Figure`, optional

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    check_not_empty(queries, "queries")
    n_columns = 1 + max(len(query["neighbors"]) for query in queries)
    if figure is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.9 * n_columns, 2.9 * len(queries)), layout="constrained")
    axes = figure.subplots(2 * len(queries), n_columns, squeeze=False)
    for number, query in enumerate(queries):
        _draw_query(axes[2 * number : 2 * number + 2], query)
    for ax in axes[-1]:
        ax.set_xlabel("wavelength / 1000 $\\AA$", fontsize=7)
    return figure


def _draw_query(axes, query):
    """Draw one query in the first column and its neighbours in the others."""
    top, bottom = axes[:, 0]
    if query.get("image") is not None:
        plot_image(query["image"], ax=top, title=query["label"])
    else:
        _empty(top, query["label"], "no image")
    if query.get("spectrum") is not None:
        plot_spectrum(*query["spectrum"], ax=bottom, color="black")
    else:
        _empty(bottom, None, "no spectrum")
    previews = query["previews"]
    for column, row in enumerate(query["neighbors"], start=1):
        title = (
            f"{row['neighbor_id']}\nsimilarity {row['similarity']:.3f}, z = {row['redshift']:.3f}"
        )
        plot_image(previews["image"][column - 1], ax=axes[0, column], title=title)
        plot_spectrum(
            previews["wavelength"], previews["spectrum"][column - 1], ax=axes[1, column]
        )
    for ax in axes[:, 1 + len(query["neighbors"]) :].ravel():
        ax.set_axis_off()


def _empty(ax, title, text):
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(
        0.5, 0.5, text, ha="center", va="center", fontsize=8, color="0.5", transform=ax.transAxes
    )
    if title:
        ax.set_title(title, fontsize=7)


def _axes(ax):
    """Return the Axes given, or those of a new figure."""
    if ax is None:
        from matplotlib.figure import Figure

        ax = Figure(layout="constrained").subplots()
    return ax
