"""Images and spectra: one of them, and a query beside its neighbors."""

import contextlib
import warnings

import numpy as np
from astropy import units as u
from astropy.table import Table
from astropy.visualization import AsinhStretch, PercentileInterval

from astroclip._validation import check_not_empty
from astroclip.exceptions import AstroclipWarning, PreparationError
from astroclip.plotting._drawing import axes_of
from astroclip.preparation.batches import ImageBatch, SpectrumBatch

__all__ = [
    "display_image",
    "neighbor_panel",
    "plot_image",
    "plot_neighbors",
    "plot_spectrum",
    "query_parts",
]

WAVELENGTH_LABEL = "wavelength / 1000 Å"
FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
IMAGE_SIZE = 96  # pixels of a query's image
PIXEL_SCALE = 0.262  # arcsec, that of the previews of the reference
LARGEST = 2000  # pixels on a side of an image that is drawn whole
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


def plot_image(image, *, ax=None, title=None):
    """Draw an image, first row at the bottom, and return the Axes.

    Parameters
    ----------
    image : object
        A dict of band to `~astropy.nddata.CCDData` such as `astroclip.sample_image`
        returns, a `~astropy.nddata.CCDData`, a file, or any image that `astroclip.embed`
        takes. Of g, r, z that can be prepared for a model `display_image` makes colors;
        others are drawn in gray, the first band of several. Also an array, drawn as it is:
        colors (S, S, 3) such as `display_image` returns, or gray values (S, S).
    ax : `~matplotlib.axes.Axes`, optional
    title : str, optional

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    TypeError, ValueError
        If it is no image, or several.

    Examples
    --------
    >>> import astroclip
    >>> from astroclip.plotting import plot_image
    >>> ax = plot_image(astroclip.sample_image(), title="a field of the Legacy Surveys")
    """
    if not isinstance(image, np.ndarray):
        colors = _image_colors(_one_object(image, "image"))
    elif image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)):
        colors = image
    else:
        msg = (
            f"image is an array of shape {image.shape}; expected (S, S, 3) colors or (S, S). Pass "
            f"g, r, z images (3, S, S) through display_image first."
        )
        raise ValueError(msg)
    ax = axes_of(ax)
    ax.imshow(colors, origin="lower", interpolation="nearest", cmap="gray")
    ax.set_xticks([])
    ax.set_yticks([])
    if title:
        ax.set_title(title, fontsize=7)
    return ax


def plot_spectrum(spectrum, flux=None, *, ax=None, title=None, color="C0"):
    """Draw a spectrum and return the Axes.

    Parameters
    ----------
    spectrum : object
        A `~specutils.Spectrum`, a `~specutils.SpectrumList` of one spectrograph's arms, a
        file, or any spectrum that `astroclip.embed` takes: its good pixels in gray, and
        over them their mean, weighted with inverse variances, in steps of some 16 pixels.
        Or the observed wavelengths (P,) of ``flux``, in Angstrom without a unit.
    flux : (P,) array-like, optional
        Any scale; drawn relative to its 99.5th percentile where that is positive. NaN is
        left out.
    ax : `~matplotlib.axes.Axes`, optional
    title : str, optional
    color : str

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    TypeError, ValueError
        If it is no spectrum, or several.

    Examples
    --------
    >>> import astroclip
    >>> from astroclip.plotting import plot_spectrum
    >>> ax = plot_spectrum(astroclip.sample_spectrum(), title="DESI, z = 0.2036")
    """
    if flux is None and isinstance(spectrum, np.ndarray):
        msg = "flux is missing; expected it beside an array of wavelengths, or a Spectrum alone."
        raise TypeError(msg)
    wavelength, pixels = spectrum, None
    if flux is None:
        item = _one_object(spectrum, "spectrum")
        pixels, (wavelength, flux) = _spectrum_arrays(item), _item_part(item)
    if isinstance(wavelength, u.Quantity):
        wavelength = wavelength.to_value(u.AA, equivalencies=u.spectral())
    flux = np.asarray(getattr(flux, "value", flux), dtype=float)
    finite = flux[np.isfinite(flux)]
    top = np.percentile(finite, 99.5) if len(finite) else 0.0
    scale = top if top > 0 else 1.0
    is_new = ax is None
    ax = axes_of(ax)
    if pixels is not None:
        ax.plot(pixels[0] / 1e3, pixels[1] / scale, lw=0.4, color="0.8")
    ax.plot(np.asarray(wavelength) / 1e3, flux / scale, lw=0.6, color=color)
    ax.set_ylim(-0.1, 1.25)
    ax.set_yticks([])
    ax.tick_params(labelsize=6)
    if is_new:
        ax.set(xlabel=WAVELENGTH_LABEL, ylabel="flux density, relative")
    if title:
        ax.set_title(title, fontsize=7)
    return ax


def _one_object(objects, modality):
    """Return the one spectrum or image that something holds; ``modality`` names it in errors."""
    items = _readable(objects, modality)
    if len(items) > 1:
        msg = f"{modality} holds {len(items)} objects; expected one {modality}. Pass one of them."
        raise ValueError(msg)
    found = items[0].modality
    if found != modality:
        msg = f"{modality} holds one {found}; expected one {modality}. Use plot_{found}."
        raise TypeError(msg)
    return items[0]


def _readable(objects, name):
    """Return anything that `astroclip.embed` takes as a list of single objects.

    The error of one that cannot be read is raised.
    """
    from astroclip.preparation.objects import sort_objects  # takes seconds: imports specutils

    items = list(sort_objects(objects, name=name))
    for item in items:
        if isinstance(item.data, PreparationError):
            raise item.data
    return items


def _spectrum_arrays(item):
    """Return the wavelength in Angstrom and the flux of a spectrum, NaN where it is bad."""
    if isinstance(item.data, SpectrumBatch):
        bad = item.data.mask[item.row]
        return item.data.wavelength, np.where(bad, np.nan, item.data.flux[item.row])
    spectrum = item.data if item.row is None else item.data[item.row]
    axis = spectrum.spectral_axis
    if not axis.unit.is_equivalent(u.AA, u.spectral()):
        msg = (
            f"spectrum has a spectral axis in {str(axis.unit)!r}; expected wavelengths, "
            f"frequencies or energies. Calibrate it first."
        )
        raise u.UnitsError(msg)
    wavelength = axis.to(u.AA, u.spectral())
    flux = spectrum.flux
    if flux.unit.is_equivalent(FLUX_UNIT, u.spectral_density(wavelength)):
        flux = flux.to(FLUX_UNIT, u.spectral_density(wavelength))
    bad = np.zeros(flux.shape, bool) if spectrum.mask is None else np.asarray(spectrum.mask, bool)
    return wavelength.value, np.where(bad, np.nan, flux.value)


def _image_colors(item, *, size=None):
    """Return colors for display, or gray values where there are no g, r, z that can be prepared.

    Parameters
    ----------
    item : SingleObject
    size : int, optional
        Pixels on a side of the middle that is drawn; all of the image by default.
    """
    from astroclip.preparation import prepare_images

    if isinstance(item.data, ImageBatch):
        pixels = item.data.pixels[item.row]
        return display_image(pixels) if len(pixels) == 3 else _gray(pixels[0])
    first = next(iter(item.data.values())) if isinstance(item.data, dict) else item.data
    height, width = first.data.shape[-2:]
    scale = PIXEL_SCALE
    if first.wcs is not None and first.wcs.has_celestial:
        scale = first.wcs.celestial.proj_plane_pixel_scales()[0].to_value(u.arcsec)
    whole = int(np.clip(round(max(height, width) * scale / PIXEL_SCALE), 1, LARGEST))
    try:
        batch = prepare_images(
            [item], size=size or whole, pixel_scale=PIXEL_SCALE,
            image_scale=PIXEL_SCALE if first.wcs is None else None, pad=True, min_coverage=0.0,
        )
    except (ValueError, TypeError, u.UnitsError):  # no g, r, z, or no calibration
        pixels = first.data.reshape(-1, height, width)[0]
        bad = None if first.mask is None else first.mask.reshape(-1, height, width)[0]
        return _gray(pixels if bad is None else np.where(bad, np.nan, pixels))
    return display_image(batch.pixels[0])


def _gray(pixels):
    """Return gray colors (S, S, 3) of pixels (S, S), arcsinh between two percentiles."""
    stretch = AsinhStretch(0.03) + PercentileInterval(99.5)  # the second is applied first
    values = np.zeros(pixels.shape)
    good = np.isfinite(pixels)
    if good.any():
        values[good] = stretch(pixels[good].astype(float))
    return np.round(255 * np.nan_to_num(values)).astype(np.uint8)[..., None].repeat(3, axis=2)


# ---------------------------------------------------------------------- a query and its neighbors
def plot_neighbors(
    query, neighbors, *, previews=None, objects=None, label="query", ax=None
):
    """Draw a query beside its neighbors, image over spectrum, and return the Axes.

    Parameters
    ----------
    query : object
        What was looked for, to draw it: a spectrum, an image, a list with one of each, each
        as in `plot_spectrum` and `plot_image`; or None to draw neighbors alone.
    neighbors : `~astropy.table.Table`
        Rows of one query, from `astroclip.SimilarityIndex.query`.
    previews : dict, optional
        What the neighbors look like: ``image`` (K, S, S, 3) uint8, or ``spectrum``
        (K, P) with ``wavelength`` (P,), or all three.
    objects : dict or list, optional
        The neighbors themselves, spectra or images: by id, or in their order. By default
        they are read from the files in the column ``file``; those of the bundled reference
        have previews. Of a neighbor that cannot be had, the id and the similarity are
        drawn.
    label : str
        Title of the query.
    ax : `~matplotlib.axes.Axes`, optional
        Is divided: the parts are its child axes, column by column, image first.

    Returns
    -------
    `~matplotlib.axes.Axes`

    Warns
    -----
    ~astroclip.exceptions.AstroclipWarning
        If there is nothing to draw of any neighbor.

    Raises
    ------
    TypeError
        If ``neighbors`` is no table or the query none of these.
    ValueError
        If there are no neighbors, or neighbors of several queries.

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
    lacking = {"neighbor_id", "similarity"} - set(neighbors.colnames)
    if lacking:
        msg = (
            f"neighbors has no column {sorted(lacking)[0]!r} among {neighbors.colnames}; expected "
            f"the table that SimilarityIndex.query returns."
        )
        raise ValueError(msg)
    if "query_id" in neighbors.colnames and len(set(neighbors["query_id"])) > 1:
        msg = (
            f"neighbors holds rows of {len(set(neighbors['query_id']))} queries; expected those of "
            f"one. Take neighbors[neighbors['query_id'] == name]."
        )
        raise ValueError(msg)
    if previews is None:
        parts = _find_parts(neighbors, objects)
    else:
        parts = _preview_parts(previews, len(neighbors))
    if not any(part["image"] is not None or part["spectrum"] is not None for part in parts):
        msg = (
            "nothing is known of the neighbors but ids and similarities. Pass their spectra or "
            "images as objects, a dict by id or a list in the order of neighbors."
        )
        warnings.warn(msg, AstroclipWarning, stacklevel=2)
    first = int(query is not None)  # column of the first neighbor
    n_columns = first + len(neighbors)
    own = query_parts(query)
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
    if first:
        _draw_parts(axes[:, 0], label, own, "black")
    _draw_neighbors(axes[:, first:], neighbors, parts)
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
        A new one of pyplot by default.

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
        import matplotlib.pyplot as plt

        figsize = (1.9 * n_columns, 2.9 * len(queries))
        figure = plt.figure(figsize=figsize, layout="constrained")
    axes = figure.subplots(2 * len(queries), n_columns, squeeze=False)
    for number, query in enumerate(queries):
        rows = axes[2 * number : 2 * number + 2]
        own = {"image": query.get("image"), "spectrum": query.get("spectrum")}
        _draw_parts(rows[:, 0], query["label"], own, "black")
        parts = _preview_parts(query["previews"], len(query["neighbors"]))
        _draw_neighbors(rows[:, 1:], query["neighbors"], parts)
    for ax in axes[-1]:
        ax.set_xlabel(WAVELENGTH_LABEL, fontsize=7)
    return figure


def query_parts(query, *, name="query"):
    """Return how an object is drawn: ``image`` colors and ``spectrum``, None where absent.

    Parameters
    ----------
    query : object
        As in `plot_neighbors`.
    name : str, optional
        How errors name it.

    Returns
    -------
    dict
        ``image`` (S, S, 3) uint8 or None; ``spectrum`` (wavelength in Angstrom, flux) or
        None.

    Raises
    ------
    TypeError, ValueError
        If it is neither, or several of one kind.
    """
    parts = {"image": None, "spectrum": None}
    for item in [] if query is None else _readable(query, name):
        if parts[item.modality] is not None:
            msg = f"{name} holds several objects; expected one {item.modality}. Pass one of them."
            raise ValueError(msg)
        parts[item.modality] = _item_part(item)
    return parts


def _item_part(item):
    """Return colors of an image's middle, or a spectrum averaged over pixels of a log grid."""
    from astroclip.preparation import prepare_spectra

    if item.modality == "image":
        return _image_colors(item, size=IMAGE_SIZE)
    if isinstance(item.data, SpectrumBatch):
        return _spectrum_arrays(item)
    try:
        batch = prepare_spectra([item], wavelength="log")
    except PreparationError:  # of another range or without a good pixel
        return _spectrum_arrays(item)
    n_used = len(batch.wavelength) // N_PIXELS * N_PIXELS
    flux, weight, wavelength = (
        values[:n_used].reshape(-1, N_PIXELS)
        for values in (batch.flux[0], batch.ivar[0], batch.wavelength)
    )
    total, summed = weight.sum(axis=1), (flux * weight).sum(axis=1)
    mean = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
    return wavelength.mean(axis=1), mean


# ---------------------------------------------------------------------- what neighbors look like
def _preview_parts(previews, n_neighbors):
    """Return the parts, see `query_parts`, of neighbors whose previews are given."""
    images, spectra = previews.get("image"), previews.get("spectrum")
    return [
        {
            "image": None if images is None else images[row],
            "spectrum": None if spectra is None else (previews["wavelength"], spectra[row]),
        }
        for row in range(n_neighbors)
    ]


def _find_parts(neighbors, objects):
    """Return the parts of neighbors from objects, files or the bundled reference."""
    from astroclip.datasets import reference_previews

    names = [str(name) for name in neighbors["neighbor_id"]]
    if not isinstance(objects, dict | list | tuple | None):
        msg = (
            f"objects is of type {type(objects).__name__}; expected a dict of objects by neighbor "
            f"id, or a list of them in the order of neighbors."
        )
        raise TypeError(msg)
    if isinstance(objects, dict):
        objects = [objects.get(name) for name in names]
    elif objects is None:
        objects = [None] * len(names)
    if len(objects) != len(names):
        msg = (
            f"objects holds {len(objects)} objects and neighbors {len(names)} rows; expected one "
            f"for each row, or a dict by neighbor id."
        )
        raise ValueError(msg)
    files = neighbors["file"] if "file" in neighbors.colnames else [""] * len(names)
    known, parts = {}, []  # what files hold, each read once
    for number, (name, given, file) in enumerate(zip(names, objects, files, strict=True)):
        part = {"image": None, "spectrum": None}
        if given is not None:
            part = query_parts(given, name=f"objects[{number}]")
        elif str(file):
            with contextlib.suppress(OSError, ValueError):  # it is not there any more
                if file not in known:
                    known[file] = []
                    known[file] = _readable(str(file), "neighbors")
                items = [item for item in known[file] if len(known[file]) == 1 or item.id == name]
                for item in items[:1]:
                    part[item.modality] = _item_part(item)
        else:
            with contextlib.suppress(KeyError):  # of a reference of the user's own
                (part,) = _preview_parts(reference_previews([name]), 1)
        parts.append(part)
    return parts


# ---------------------------------------------------------------------- drawing
def _draw_neighbors(axes, neighbors, parts):
    """Draw neighbors in columns, and leave the columns after them empty."""
    for column, (row, part) in enumerate(zip(neighbors, parts, strict=True)):
        title = f"{row['neighbor_id']}\nsimilarity {row['similarity']:.3f}"
        if "redshift" in row.colnames and np.isfinite(row["redshift"]):
            title += f", z = {row['redshift']:.3f}"
        _draw_parts(axes[:, column], title, part, "C0")
    for ax in axes[:, len(neighbors) :].ravel():
        ax.set_axis_off()


def _draw_parts(axes, title, parts, color):
    """Draw an image over a spectrum, or say that one is missing."""
    top, bottom = axes
    top.set_title(title, fontsize=7)
    if parts["image"] is not None:
        plot_image(parts["image"], ax=top)
    if parts["spectrum"] is not None:
        plot_spectrum(*parts["spectrum"], ax=bottom, color=color)
    for ax, name in ((top, "image"), (bottom, "spectrum")):
        if parts[name] is None:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.text(
                0.5, 0.5, f"no {name}", ha="center", va="center", fontsize=8, color="0.5",
                transform=ax.transAxes,
            )
