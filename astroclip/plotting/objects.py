"""Images and spectra: one of them, and a query beside its neighbors."""

import numpy as np
from astropy import units as u
from astropy.table import Table

from astroclip._validation import check_not_empty
from astroclip.plotting._drawing import axes_of

__all__ = [
    "display_image",
    "neighbor_panel",
    "plot_image",
    "plot_neighbors",
    "plot_spectrum",
    "query_parts",
]

WAVELENGTH_LABEL = "wavelength / 1000 Å"
IMAGE_SIZE = 96  # pixels of a query's image
PIXEL_SCALE = 0.262  # arcsec, that of the previews of the reference
N_PIXELS = 16  # pixels of the log grid that a query's spectrum is averaged over


# ---------------------------------------------------------------------- one object


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


# ---------------------------------------------------------------------- a query and its neighbors
def plot_neighbors(query, neighbors, *, previews=None, label="query", ax=None):
    """Draw a query beside its neighbors, image over spectrum, and return the Axes.

    Parameters
    ----------
    query : object
        What was looked for, to draw it: a `~specutils.Spectrum`, a dict of g, r, z to
        `~astropy.nddata.CCDData`, a list with one of each, or None to draw neighbors
        alone.
    neighbors : `~astropy.table.Table`
        Rows of one query, from `astroclip.SimilarityIndex.query`.
    previews : dict, optional
        What the neighbors look like: ``image`` (K, S, S, 3) uint8, or ``spectrum``
        (K, P) with ``wavelength`` (P,), or all three. Those of the bundled reference by
        default.
    label : str
        Title of the query.
    ax : `~matplotlib.axes.Axes`, optional
        Is divided: the parts are its child axes, column by column, image first.

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    TypeError
        If ``neighbors`` is no table or the query none of these.
    ValueError
        If there are no neighbors, or neighbors of several queries.
    KeyError
        If there are no previews of a neighbor in the bundled reference.

    Examples
    --------
    >>> import astroclip
    >>> from astroclip.plotting import plot_neighbors
    >>> spectrum = astroclip.sample_spectrum()
    >>> index = astroclip.SimilarityIndex(astroclip.reference_table())
    >>> ax = plot_neighbors(spectrum, index.query(spectrum, n_neighbors=3))
    >>> len(ax.child_axes)
    8
    """
    if not isinstance(neighbors, Table):
        msg = (
            f"neighbors is of type {type(neighbors).__name__}; expected the table that "
            f"SimilarityIndex.query returns."
        )
        raise TypeError(msg)
    check_not_empty(neighbors, "neighbors")
    if "query_id" in neighbors.colnames and len(set(neighbors["query_id"])) > 1:
        msg = (
            f"neighbors holds rows of {len(set(neighbors['query_id']))} queries; expected those of "
            f"one. Take neighbors[neighbors['query_id'] == name]."
        )
        raise ValueError(msg)
    if previews is None:
        from astroclip.datasets import reference_previews

        previews = reference_previews(neighbors["neighbor_id"])
    content = {"label": label, "neighbors": neighbors, "previews": previews, **query_parts(query)}
    first = int(query is not None)  # column of the first neighbor
    n_columns = first + len(neighbors)
    ax = axes_of(ax, figsize=(1.9 * n_columns, 3.4))
    ax.set_axis_off()
    width, gap = 1 / n_columns, 0.06 / n_columns
    axes = np.array(
        [
            [
                ax.inset_axes([column * width + gap, bottom, width - 2 * gap, height])
                for bottom, height in ((0.44, 0.44), (0.12, 0.28))
            ]
            for column in range(n_columns)
        ]
    ).T  # image over spectrum, one column per object
    _draw_query(axes, content, first=first)
    for lower in axes[1]:
        lower.set_xlabel(WAVELENGTH_LABEL, fontsize=7)
    return ax


def neighbor_panel(queries, *, figure=None):
    """Draw queries, one a row, each beside its neighbors as image and spectrum.

    For one query in one Axes: `plot_neighbors`.

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

    Raises
    ------
    ValueError
        If there are no queries.
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
        ax.set_xlabel(WAVELENGTH_LABEL, fontsize=7)
    return figure


def query_parts(query):
    """Return how a query is drawn: ``image`` colors and ``spectrum``, None where absent.

    Parameters
    ----------
    query : object
        As in `plot_neighbors`.

    Returns
    -------
    dict
        ``image`` (S, S, 3) uint8 or None; ``spectrum`` (wavelength in Angstrom, flux) or
        None.
    """
    from specutils import Spectrum

    from astroclip.preparation import prepare_images, prepare_spectra

    parts = {"image": None, "spectrum": None}
    if query is None:
        return parts
    for item in query if isinstance(query, list | tuple) else [query]:
        if isinstance(item, Spectrum):
            batch = prepare_spectra(item, wavelength="log")
            n_used = len(batch.wavelength) // N_PIXELS * N_PIXELS
            flux, weight, wavelength = (
                values[:n_used].reshape(-1, N_PIXELS)
                for values in (batch.flux[0], batch.ivar[0], batch.wavelength)
            )
            total, summed = weight.sum(axis=1), (flux * weight).sum(axis=1)
            mean = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
            parts["spectrum"] = wavelength.mean(axis=1), mean
        elif isinstance(item, dict):
            batch = prepare_images(item, size=IMAGE_SIZE, pixel_scale=PIXEL_SCALE)
            parts["image"] = display_image(batch.pixels[0])
        else:
            msg = (
                f"query is or holds a {type(item).__name__}; expected a Spectrum, a dict of band "
                f"to CCDData, a list of both, or None."
            )
            raise TypeError(msg)
    return parts


def _draw_query(axes, query, *, first=1):
    """Draw one query in the first column, if it has one, and its neighbors from ``first`` on."""
    if first:
        _draw_parts(axes[:, 0], query["label"], query.get("image"), query.get("spectrum"), "black")
    previews = query["previews"]
    images, spectra = previews.get("image"), previews.get("spectrum")
    for column, row in enumerate(query["neighbors"]):
        title = f"{row['neighbor_id']}\nsimilarity {row['similarity']:.3f}"
        if "redshift" in row.colnames:
            title += f", z = {row['redshift']:.3f}"
        image = None if images is None else images[column]
        spectrum = None if spectra is None else (previews["wavelength"], spectra[column])
        _draw_parts(axes[:, first + column], title, image, spectrum, "C0")
    for ax in axes[:, first + len(query["neighbors"]) :].ravel():
        ax.set_axis_off()


def _draw_parts(axes, title, image, spectrum, color):
    """Draw an image over a spectrum, or say that one is missing."""
    top, bottom = axes
    top.set_title(title, fontsize=7)
    if image is not None:
        plot_image(image, ax=top)
    if spectrum is not None:
        plot_spectrum(*spectrum, ax=bottom, color=color)
    for ax, part, text in ((top, image, "no image"), (bottom, spectrum, "no spectrum")):
        if part is None:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.text(
                0.5, 0.5, text, ha="center", va="center", fontsize=8, color="0.5",
                transform=ax.transAxes,
            )
