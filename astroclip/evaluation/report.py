"""Scores of an evaluation as a small table and as a figure."""

import numpy as np
from astropy.table import MaskedColumn, Table
from matplotlib.figure import Figure

from astroclip._files import written
from astroclip.evaluation.run import HELD_OUT, IMAGE_SHIFTS, SPECTRUM_SHIFTS
from astroclip.evaluation.scores import NOTHING, find_score

__all__ = ["PROPERTY_NAMES", "draw_scores", "r2_table", "scored_methods", "write_score_figure"]

PROPERTY_NAMES = {
    "redshift": "redshift",
    "log_stellar_mass": "log M*",
    "log_age": "log age",
    "log_ssfr": "log sSFR",
    "log_metallicity": "log Z",
    "upstream_ssfr": "ln SFR - ln Z",
}
"""Properties as tables and figures name them."""

MODEL_COLOR, OTHER_COLOR, BASELINE_COLOR = "#1f5a96", "#c46a1b", "#8a8a8a"
N_PANELS = 4
LOWEST_R2 = 0.2  # smaller ones are drawn at the panels' left edge


def scored_methods(table):
    """Return the ways to estimate properties of held-out pairs that a table has scores of.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `evaluate`.

    Returns
    -------
    dict of str to dict
        By label, such as ``"image among spectra"``: the ``protocol``, ``query`` and
        ``reference`` of the rows; the model's own first, then other models, then baselines.
    """
    rows = table[(np.asarray(table["data"]) == HELD_OUT) & (np.asarray(table["score"]) == "r2")]
    methods = {}
    for row in rows:
        where = {name: str(row[name]) for name in ("protocol", "query", "reference")}
        label = where["query"]
        if where["reference"] not in (where["query"], NOTHING):
            among = where["reference"].split(": ")[-1]
            label = f"{label} among {'spectra' if among == 'spectrum' else 'images'}"
        if where["protocol"] not in ("k-NN", "predictions"):
            label = f"{label}, {where['protocol']}"
        methods[label] = where
    return dict(sorted(methods.items(), key=lambda item: _group(item[1])))


def _group(where):
    """Return 0 for the model's own scores, 1 for those of other models, 2 for baselines."""
    if where["query"] in ("spectrum", "image"):
        return 0
    return 1 if ": " in where["query"] or where["protocol"] == "predictions" else 2


def r2_table(table):
    """Return R2 of the held-out pairs by method and property.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `evaluate`.

    Returns
    -------
    `~astropy.table.Table`
        Column ``from``, then one for each property measured, masked where it was not.
    """
    methods, measured = scored_methods(table), set(table["property"])
    columns = {"from": list(methods)}
    for name, title in PROPERTY_NAMES.items():
        if name in measured:
            values = [
                find_score(table, "r2", data=HELD_OUT, property=name, **where)
                for where in methods.values()
            ]
            columns[title] = MaskedColumn(
                [0.0 if value is None else value for value in values],
                mask=[value is None for value in values], format=".3f",
            )
    return Table(columns)


def draw_scores(table, *, figure=None):
    """Draw scores: estimates by property, retrieval, other instruments and real redshifts.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `evaluate`.
    figure : `~matplotlib.figure.Figure`, optional

    Returns
    -------
    `~matplotlib.figure.Figure`
    """
    if figure is None:
        figure = Figure(figsize=(13, 9.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    _draw_properties(top, table)
    axes = bottom.subplots(1, 3)
    _draw_retrieval(axes[0], table)
    _draw_shifts(axes[1], table)
    _draw_real(axes[2], table)
    return figure


def _draw_properties(figure, table):
    """Draw R2 by method, a panel for each of the first four properties measured."""
    measured = set(table["property"]) - {"upstream_ssfr"}
    names = [name for name in PROPERTY_NAMES if name in measured][:N_PANELS]
    methods = dict(reversed(scored_methods(table).items()))  # the first at the top
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        for row, where in enumerate(methods.values()):
            value = find_score(table, "r2", data=HELD_OUT, property=name, **where)
            if value is not None:
                position = max(value, LOWEST_R2)
                color = (MODEL_COLOR, OTHER_COLOR, BASELINE_COLOR)[_group(where)]
                ax.plot(position, row, "o", color=color, ms=6)
                ax.annotate(
                    f"{value:.2f}", (position, row), xytext=(-6, 0), fontsize=7, color="0.3",
                    textcoords="offset points", ha="right", va="center",
                )
        ax.set_xlim(LOWEST_R2 - 0.12, 1.14)
        ax.set_title(f"R2 of {PROPERTY_NAMES[name]}", fontsize=9)
        _finish(ax, legend=False)
    axes[0].set_yticks(range(len(methods)), list(methods))
    axes[0].set_ylim(-0.7, len(methods) - 0.2)
    figure.suptitle(
        "Held-out simulated pairs. Blue: this model; orange: other models; gray: no embedding",
        fontsize=9,
    )


def _draw_retrieval(ax, table):
    """Draw recall against the number of best ones looked at."""
    numbers = (1, 5, 10)
    for query, reference, style in (("image", "spectrum", "o-"), ("spectrum", "image", "s--")):
        where = {"protocol": "retrieval", "data": HELD_OUT, "query": query}
        values = [
            find_score(table, f"recall_{n}", reference=reference, **where) for n in numbers
        ]
        if None not in values:
            ax.plot(numbers, values, style, color=MODEL_COLOR, label=f"{query} to {reference}")
    ax.set(ylim=(0, 1), xticks=numbers, xlabel="best ones looked at", ylabel="recall")
    among = table["n_reference"][np.asarray(table["score"]) == "recall_1"]
    ax.set_title(f"Retrieval of the partner among {max(among, default=0):,}", fontsize=9)
    _finish(ax, legend=bool(ax.lines))


def _draw_shifts(ax, table):
    """Draw how the R2 of the redshift changes when queries are recorded otherwise."""
    rows = [(HELD_OUT, "spectrum"), *((name, "spectrum") for name in SPECTRUM_SHIFTS)]
    rows += [(HELD_OUT, "image"), *((name, "image") for name in IMAGE_SHIFTS)]
    bars = []
    for data, modality in rows:
        value = find_score(
            table, "r2", protocol="k-NN", data=data, query=modality, reference=modality,
            property="redshift",
        )
        if value is not None:
            label = f"{modality}: as the reference" if data == HELD_OUT else data
            bars.append((label, max(value, 0), value, 1.0 if data == HELD_OUT else 0.55))
    for row, (_, width, value, alpha) in enumerate(bars[::-1]):
        ax.barh(row, width, color=MODEL_COLOR, alpha=alpha)
        ax.text(width + 0.02, row, f"{value:.2f}", va="center", fontsize=7)
    ax.set_yticks(range(len(bars)), [label for label, *_ in bars[::-1]])
    ax.set(xlim=(0, 1.15), xlabel="R2 of redshift, k-NN")
    ax.set_title("Recorded otherwise than the reference", fontsize=9)
    _finish(ax, legend=False)


def _draw_real(ax, table):
    """Draw the outliers among redshifts of real spectra."""
    outliers = table[np.asarray(table["score"]) == "beyond_0.05"]
    surveys = list(dict.fromkeys(outliers["data"]))
    methods = list(dict.fromkeys(outliers["protocol"]))
    for number, method in enumerate(methods):
        values = [find_score(outliers, "beyond_0.05", protocol=method, data=s) for s in surveys]
        heights = np.arange(len(surveys)) + 0.38 * (number - 0.5 * (len(methods) - 1))
        color = (MODEL_COLOR, OTHER_COLOR)[number]
        bars = ax.barh(heights, values, 0.36, label=method, color=color)
        texts = [
            f"NMAD {find_score(table, 'nmad', protocol=method, data=s):.4f}" for s in surveys
        ]
        ax.bar_label(bars, texts, padding=3, fontsize=7)
    sizes = [outliers["n_queries"][np.flatnonzero(outliers["data"] == s)[0]] for s in surveys]
    ax.set_yticks(
        range(len(surveys)), [f"{s} ({n})" for s, n in zip(surveys, sizes, strict=True)]
    )
    ax.invert_yaxis()
    ax.set(xlabel="fraction with |dz| / (1 + z) > 0.05", xlim=(0, 1))
    ax.set_title("Redshifts of real spectra", fontsize=9)
    _finish(ax, legend=bool(surveys))


def _finish(ax, *, legend):
    ax.tick_params(labelsize=8)
    ax.grid(axis="x", color="0.9")
    ax.set_axisbelow(True)
    if legend:
        ax.legend(fontsize=8, frameon=False)


def write_score_figure(table, path):
    """Write `draw_scores` as a PNG file, complete or not at all.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `evaluate`.
    path : path-like
    """
    with written(path) as partial:
        draw_scores(table).savefig(partial, dpi=110, format="png")
