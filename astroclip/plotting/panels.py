"""A query beside its neighbors, as images and spectra."""

import numpy as np
from astropy.table import Table

from astroclip._validation import check_not_empty
from astroclip.plotting._drawing import axes_of
from astroclip.plotting.display import display_image, plot_image, plot_spectrum

__all__ = ["neighbor_panel", "plot_neighbors", "query_parts"]

WAVELENGTH_LABEL = "wavelength / 1000 Å"
IMAGE_SIZE, PIXEL_SCALE = 96, 0.262  # of a query's picture: pixels, arcsec
N_PIXELS = 16  # of the log grid, drawn as one


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
    _check_neighbors(neighbors)
    if previews is None:
        from astroclip.datasets import reference_previews

        previews = reference_previews(neighbors["neighbor_id"])
    content = {"label": label, "neighbors": neighbors, "previews": previews, **query_parts(query)}
    n_columns = len(neighbors) + (query is not None)
    ax = axes_of(ax, figsize=(1.9 * n_columns, 3.4))
    ax.set_axis_off()
    width, gap = 1 / n_columns, 0.06 / n_columns
    axes = np.array(
        [
            [
                ax.inset_axes([(column + 0.0) * width + gap, bottom, width - 2 * gap, height])
                for column in range(n_columns)
            ]
            for bottom, height in ((0.44, 0.44), (0.12, 0.28))
        ]
    )
    _draw_query(axes, content, first=int(query is not None))
    for lower in axes[1]:
        lower.set_xlabel(WAVELENGTH_LABEL, fontsize=7)
    ax.child_axes.sort(key=lambda child: [*axes.T.ravel()].index(child))
    return ax


def _check_neighbors(neighbors):
    """Raise unless this is a table of the neighbors of one query."""
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

    parts = {"image": None, "spectrum": None}
    if query is None:
        return parts
    for item in query if isinstance(query, list | tuple) else [query]:
        if isinstance(item, Spectrum):
            parts["spectrum"] = _binned(item)
        elif isinstance(item, dict):
            parts["image"] = _picture(item)
        else:
            msg = (
                f"query is or holds a {type(item).__name__}; expected a Spectrum, a dict of band "
                f"to CCDData, a list of both, or None."
            )
            raise TypeError(msg)
    return parts


def _picture(images):
    """Return the display colors of images by band, at the scale of the reference's."""
    from astroclip.preparation import prepare_images

    batch = prepare_images(images, size=IMAGE_SIZE, pixel_scale=PIXEL_SCALE)
    return display_image(batch.pixels[0])


def _binned(spectrum):
    """Return wavelength and flux of a prepared spectrum, averaged over bins of pixels."""
    from astroclip.preparation import prepare_spectra

    batch = prepare_spectra(spectrum, wavelength="log")
    n_used = len(batch.wavelength) // N_PIXELS * N_PIXELS
    weight = batch.ivar[0, :n_used].reshape(-1, N_PIXELS)
    flux = (batch.flux[0, :n_used].reshape(-1, N_PIXELS) * weight).sum(axis=1)
    total = weight.sum(axis=1)
    wavelength = batch.wavelength[:n_used].reshape(-1, N_PIXELS).mean(axis=1)
    return wavelength, np.divide(flux, total, out=np.full(len(flux), np.nan), where=total > 0)


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


def _draw_query(axes, query, *, first=1):
    """Draw one query in the first column, if it has one, and its neighbors in the others."""
    if first:
        _draw_parts(axes[:, 0], query["label"], query.get("image"), query.get("spectrum"), "black")
    previews = query["previews"]
    images, spectra = previews.get("image"), previews.get("spectrum")
    for column, row in enumerate(query["neighbors"]):
        image = None if images is None else images[column]
        spectrum = None if spectra is None else (previews["wavelength"], spectra[column])
        _draw_parts(axes[:, first + column], _title(row), image, spectrum, "C0")
    for ax in axes[:, first + len(query["neighbors"]) :].ravel():
        ax.set_axis_off()


def _draw_parts(axes, title, image, spectrum, color):
    """Draw an image over a spectrum, or say that one is missing."""
    top, bottom = axes
    if image is not None:
        plot_image(image, ax=top, title=title)
    else:
        _empty(top, title, "no image")
    if spectrum is not None:
        plot_spectrum(*spectrum, ax=bottom, color=color)
    else:
        _empty(bottom, None, "no spectrum")


def _title(row):
    """Return a neighbor's id, similarity and, if known, redshift."""
    title = f"{row['neighbor_id']}\nsimilarity {row['similarity']:.3f}"
    return f"{title}, z = {row['redshift']:.3f}" if "redshift" in row.colnames else title


def _empty(ax, title, text):
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(
        0.5, 0.5, text, ha="center", va="center", fontsize=8, color="0.5", transform=ax.transAxes
    )
    if title:
        ax.set_title(title, fontsize=7)
