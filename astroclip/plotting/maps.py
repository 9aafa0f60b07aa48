"""Embeddings in two dimensions."""

import numpy as np

from astroclip._validation import check_choice, check_integer, import_extra
from astroclip.plotting._drawing import (
    axes_of,
    column_or_values,
    finish,
    label_of,
    numbers,
    same_length,
)
from astroclip.tables import check_same_model, embedding_matrix, validate_embedding_table

__all__ = ["plot_embedding_map"]

METHODS = ("pca", "umap")
MARKERS = {"spectrum": "o", "image": "s"}
MISSING_COLOR = "0.75"
N_CLASSES = 10  # colors that can be told apart


def plot_embedding_map(
    table, *, color=None, color_name=None, method="pca", queries=None, modality=None,
    max_points=20_000, random_state=0, ax=None,
):
    """Draw embeddings in two dimensions, colored by a property, and return the Axes.

    Parameters
    ----------
    table : `~astropy.table.Table`
        An embedding table. Rows without an embedding are left out; the legend says how
        many.
    color : str or (N,) array-like, optional
        A column, or a value for each row: numbers (a Quantity's unit is in the label of
        the color bar) or at most ten classes. Rows without a value are drawn gray and
        counted in the legend.
    color_name : str, optional
        What the color bar says of values that are no column.
    method : str
        ``"pca"``: the two directions of largest variance; or ``"umap"``, which keeps
        neighborhoods and no distances (the extra ``plot``).
    queries : `~astropy.table.Table`, optional
        Embeddings of the same model to mark as stars; the map is made without them.
    modality : str, optional
        ``"spectrum"`` or ``"image"``: only these rows. Of both, images are squares.
    max_points : int
        Of a larger table so many rows, drawn at random, make the map.
    random_state : int
        Of the choice of rows and of UMAP.
    ax : `~matplotlib.axes.Axes`, optional

    Returns
    -------
    `~matplotlib.axes.Axes`

    Raises
    ------
    KeyError
        If ``color`` is no column.
    MissingExtraError
        If UMAP is asked for and umap-learn is not installed.
    ModelMismatchError
        If ``queries`` are of another model.
    ValueError
        If fewer than three rows have an embedding, or an argument is unknown.

    References
    ----------
    McInnes, Healy & Melville (2018), arXiv:1802.03426 (UMAP).

    Examples
    --------
    >>> import astroclip
    >>> from astroclip.plotting import plot_embedding_map
    >>> reference = astroclip.reference_table()
    >>> ax = plot_embedding_map(reference[:200], color="redshift")
    >>> ax.get_xlabel()[:21]
    'principal component 1'
    """
    check_choice(method, METHODS, "method")
    check_integer(max_points, "max_points", minimum=3)
    validate_embedding_table(table)
    if queries is not None:
        validate_embedding_table(queries, name="queries")
        check_same_model(queries, table, names=("queries", "table"))
    if isinstance(color, str):
        color, color_name = column_or_values(table, color, "table"), color_name or color
    if color is not None:
        color = np.asarray(color) if isinstance(color, list | tuple) else color
        same_length(table, color, ("table", "color"))
    matrix, valid = embedding_matrix(table)
    modalities = np.asarray(table["modality"]).astype(str)
    wanted = np.ones(len(table), bool)
    if modality is not None:
        wanted = modalities == check_choice(modality, MARKERS, "modality")
    rows = np.flatnonzero(valid & wanted)
    if len(rows) < 3:
        msg = (
            f"table has {len(rows)} rows with an embedding to draw; expected at least 3. Pass "
            f"more objects, or leave modality out."
        )
        raise ValueError(msg)
    notes = []
    n_failed = int((wanted & ~valid).sum())
    if n_failed:
        notes.append(f"{n_failed:,} rows without an embedding")
    if len(rows) > max_points:
        notes.append(f"{max_points:,} of {len(rows):,} rows, at random")
        rng = np.random.default_rng(random_state)
        rows = np.sort(rng.choice(rows, max_points, replace=False))
    points, project, labels = _projection(matrix[rows], method, random_state)
    ax = axes_of(ax)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    _draw_points(ax, points, modalities[rows], None if color is None else color[rows], color_name)
    if queries is not None:
        matrix, valid = embedding_matrix(queries)
        if valid.any():
            ax.scatter(
                *project(matrix[valid]).T, s=130, marker="*", color="crimson", edgecolor="white",
                lw=0.8, zorder=5, label=f"queries ({valid.sum():,})",
            )
        if not valid.all():
            notes.append(f"{(~valid).sum():,} queries without an embedding")
    return finish(ax, notes=notes)


def _projection(matrix, method, random_state):
    """Return the points (N, 2), a function that projects others, and labels of the axes."""
    if method == "pca":
        from sklearn.decomposition import PCA

        model = PCA(n_components=2, random_state=random_state).fit(matrix)
        share = model.explained_variance_ratio_
        labels = [
            f"principal component {k + 1} ({100 * share[k]:.0f} % of variance)" for k in (0, 1)
        ]
        return model.transform(matrix), model.transform, labels
    import warnings

    umap = import_extra("umap", "plot")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed makes it use one thread, and numba's own
        n_neighbors = min(15, len(matrix) - 1)
        model = umap.UMAP(metric="cosine", n_neighbors=n_neighbors, random_state=random_state)
        points = model.fit_transform(matrix)
    return points, model.transform, ["UMAP 1", "UMAP 2"]


def _draw_points(ax, points, modalities, color, color_name):
    """Draw points: one color, colors of numbers with a color bar, or colors of classes."""
    if color is None:
        for modality, rows in _by_modality(modalities):
            label = _modality_label(modality, modalities)
            _scatter(ax, points[rows], modality, color="C0", label=label)
        return
    values = getattr(color, "unmasked", color)
    if np.asarray(np.ma.getdata(getattr(values, "value", values))).dtype.kind in "USOb":
        _draw_classes(ax, points, modalities, color, color_name)
        return
    values, unit = numbers(color, "color")
    known = np.isfinite(values)
    _draw_missing(ax, points[~known], color_name)
    if not known.any():
        return
    low, high = np.percentile(values[known], [1, 99])
    for modality, rows in _by_modality(modalities):
        rows = rows & known
        if not rows.any():
            continue
        drawn = _scatter(
            ax, points[rows], modality, c=values[rows], vmin=low, vmax=high, cmap="viridis",
            label=_modality_label(modality, modalities),
        )
    bar = ax.figure.colorbar(drawn, ax=ax, label=label_of(color_name or "color", unit))
    bar.solids.set_alpha(1)


def _draw_classes(ax, points, modalities, color, color_name):
    """Draw points in a color for each class, named in the legend."""
    mask = np.asarray(getattr(color, "mask", False))
    classes = np.asarray(np.ma.getdata(color))
    classes = np.where(mask, "", classes.astype(str))
    names = sorted(set(classes) - {""})
    if len(names) > N_CLASSES:
        msg = (
            f"color holds {len(names)} classes; expected at most {N_CLASSES}, or numbers. Join "
            f"the rare ones."
        )
        raise ValueError(msg)
    _draw_missing(ax, points[classes == ""], color_name)
    for number, name in enumerate(names):
        label = f"{label_of(color_name)}: {name}" if color_name else name
        for modality, rows in _by_modality(modalities):
            chosen = rows & (classes == name)
            if chosen.any():
                _scatter(ax, points[chosen], modality, color=f"C{number}", label=label)
                label = None


def _draw_missing(ax, points, color_name):
    """Draw points without a value in gray, counted in the legend."""
    if len(points):
        label = f"no {label_of(color_name or 'value')} ({len(points):,})"
        _scatter(ax, points, "spectrum", color=MISSING_COLOR, label=label)


def _by_modality(modalities):
    """Return each modality and which points are of it."""
    return [(str(modality), modalities == modality) for modality in np.unique(modalities)]


def _modality_label(modality, modalities):
    """Return the legend's word for a modality, None where there is but one."""
    return modality if len(np.unique(modalities)) > 1 else None


def _scatter(ax, points, modality, **style):
    """Draw points, smaller the more there are."""
    size = float(np.clip(4000 / max(len(points), 1), 2, 25))
    return ax.scatter(
        *points.T, s=size, marker=MARKERS[modality], lw=0, alpha=0.7, rasterized=True, **style
    )
