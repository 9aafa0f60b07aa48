"""The figure of an evaluation: the model beside baselines, goals and published figures."""

from pathlib import Path

import numpy as np

from astroclip.evaluation.domain_shift import IMAGE_SHIFTS, SPECTRUM_SHIFTS
from astroclip.evaluation.goals import (
    LIMITS,
    OTHERS,
    PROPERTY_NAMES,
    PUBLISHED,
    RECALL_LIMITS,
)
from astroclip.evaluation.held_out import HELD_OUT
from astroclip.evaluation.scores import find_score

__all__ = ["METHODS", "draw_scores", "write_score_figure"]


def _method(query, reference="-", protocol="k-NN"):
    return {"protocol": protocol, "query": query, "reference": reference}


METHODS = {
    "spectrum": _method("spectrum", "spectrum"),
    "spectrum, zero-shot": _method("spectrum", "spectrum", "zero-shot"),
    "spectrum, few-shot": _method("spectrum", "spectrum", "few-shot"),
    "spectrum among images": _method("spectrum", "image"),
    "image": _method("image", "image"),
    "image, zero-shot": _method("image", "image", "zero-shot"),
    "image, few-shot": _method("image", "image", "few-shot"),
    "image among spectra": _method("image", "spectrum"),
    **{
        f"{label}, {kind}": _method(f"{label}: {kind}", f"{label}: {kind}")
        for label in OTHERS.values()
        for kind in ("spectrum", "image")
    },
    **{
        OTHERS[name]: _method(OTHERS[name], protocol="predictions")
        for name in ("supervised_spectrum", "supervised_image")
    },
    "principal components of spectra": _method("spectrum, principal components"),
    "photometry": _method("photometry"),
    "photometry, r and colours": _method("photometry, r and colours"),
    "photometry, network": _method("photometry", protocol="few-shot"),
    "photometry and true shapes, boosted": _method(
        "photometry and true shapes", protocol="gradient boosting"
    ),
    "fibre light and true properties, boosted": _method(
        "fibre light and true properties", protocol="gradient boosting"
    ),
    "fibre light and true properties, k-NN": _method("fibre light and true properties"),
}
"""Ways to estimate properties, by how tables and figures name them, as rows to look for."""

MODEL_COLOUR, BASELINE_COLOUR, OTHER_COLOUR = "#1f5a96", "#8a8a8a", "#c46a1b"
N_PANELS = 4
LOWEST_R2 = 0.2  # of the panels
PUBLISHED_ROWS = {
    "image": "image", "spectrum": "spectrum", "across modalities": "image among spectra",
    "photometry, network": "photometry, network",
    "image-only encoder (Stein et al. 2021)": f"{OTHERS['image_only']}, image",
}


def draw_scores(table, *, figure=None):
    """Draw scores: estimates by property, retrieval, domain shifts and real redshifts.

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
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 9.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    _draw_properties(top, table)
    axes = bottom.subplots(1, 3)
    _draw_retrieval(axes[0], table)
    _draw_shifts(axes[1], table)
    _draw_real(axes[2], table)
    return figure


def _colour(label):
    """Return the colour of a method: the model, other models, or no network."""
    if any(label.startswith(other) for other in OTHERS.values()):
        return OTHER_COLOUR
    own = label.split(",")[0].split(" among")[0] in ("spectrum", "image")
    return MODEL_COLOUR if own else BASELINE_COLOUR


def _draw_properties(figure, table):
    """Draw R2 by method, a panel for each of the first four properties measured."""
    measured = set(table["property"])
    names = [name for name in PROPERTY_NAMES if name in measured - {"upstream_ssfr"}][:N_PANELS]
    found = {
        label: [find_score(table, "r2", data=HELD_OUT, property=n, **where) for n in names]
        for label, where in METHODS.items()
    }
    found = {k: v for k, v in found.items() if any(value is not None for value in v)}
    labels = list(found)[::-1]
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for number, (ax, name) in enumerate(zip(axes, names, strict=True)):
        for row, label in enumerate(labels):
            limit = _limit(label, name)
            if found[label][number] is not None:
                _draw_r2(ax, row, found[label][number], limit, _colour(label))
            _draw_others(ax, row, label, name, limit)
        ax.set_xlim(LOWEST_R2 - 0.12, 1.14)
        ax.set_title(f"R2 of {PROPERTY_NAMES[name]}", fontsize=9)
        ax.grid(axis="x", color="0.9")
        ax.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(-0.7, len(labels) - 0.2)
    figure.suptitle(
        "Held-out simulated pairs. Blue: this model; orange: other models; grey: no embedding; "
        "bars: goals; open diamonds: published, on other (real) data", fontsize=9,
    )


def _limit(label, name):
    """Return the goal for one method and property, None if there is none."""
    where = METHODS[label]
    if where["protocol"] != "k-NN":
        return None
    return LIMITS.get((where["query"], where["reference"]), {}).get(name)


def _draw_r2(ax, row, value, limit, colour):
    """Draw one R2 with its number, away from the goal; those too low at the panel's edge."""
    position = max(value, LOWEST_R2)
    left = limit is None or value < limit
    ax.plot(position, row, "o", color=colour, ms=6)
    ax.annotate(
        f"{value:.2f}", (position, row), xytext=(-6 if left else 6, 0), fontsize=7, color="0.3",
        textcoords="offset points", ha="right" if left else "left", va="center",
    )


def _draw_others(ax, row, label, name, limit):
    """Draw the goal and the published figures of one method and property."""
    if limit is not None:
        ax.plot([limit, limit], [row - 0.35, row + 0.35], color="black", lw=1.5)
    for published in PUBLISHED:
        if PUBLISHED_ROWS[published.method] == label and published.quantity == PROPERTY_NAMES[name]:
            ax.plot(published.value, row + 0.4, "D", mfc="none", color="0.35", ms=4)


def _draw_retrieval(ax, table):
    """Draw recall against the number of best ones looked at."""
    numbers = (1, 5, 10)
    for query, reference, style in (("image", "spectrum", "o-"), ("spectrum", "image", "s--")):
        where = {"protocol": "retrieval", "data": HELD_OUT, "query": query}
        values = [
            find_score(table, f"recall_{n}", reference=reference, **where) for n in numbers
        ]
        if None not in values:
            ax.plot(numbers, values, style, color=MODEL_COLOUR, label=f"{query} to {reference}")
    limits = zip(*RECALL_LIMITS.items(), strict=True)
    ax.plot(*limits, "_", color="black", ms=16, label="goal among 1,000, each direction")
    ax.set(ylim=(0, 1), xticks=numbers, xlabel="best ones looked at", ylabel="recall")
    among = table["n_reference"][np.asarray(table["score"]) == "recall_1"]
    ax.set_title(f"Retrieval of the partner among {max(among, default=0):,}", fontsize=9)
    _finish(ax)


def _draw_shifts(ax, table):
    """Draw how the R2 of the redshift changes under domain shifts."""
    rows = [(HELD_OUT, "spectrum"), *((name, "spectrum") for name in SPECTRUM_SHIFTS)]
    rows += [(HELD_OUT, "image"), *((name, "image") for name in IMAGE_SHIFTS)]
    drawn = []
    for data, kind in rows:
        value = find_score(
            table, "r2", protocol="k-NN", data=data, query=kind, reference=kind,
            property="redshift",
        )
        if value is not None:
            drawn.append((f"{kind}: as the reference" if data == HELD_OUT else data, value))
    for row, (label, value) in enumerate(drawn[::-1]):
        usual = "as the reference" in label
        ax.barh(row, max(value, 0), color=MODEL_COLOUR, alpha=1.0 if usual else 0.55)
        ax.text(max(value, 0) + 0.02, row, f"{value:.2f}", va="center", fontsize=7)
    ax.set_yticks(range(len(drawn)), [label for label, _ in drawn[::-1]])
    ax.set(xlim=(0, 1.15), xlabel="R2 of redshift, k-NN")
    ax.set_title("Recorded otherwise than the reference", fontsize=9)
    _finish(ax, legend=False)


def _draw_real(ax, table):
    """Draw the outliers among redshifts of real spectra."""
    found = table[np.asarray(table["score"]) == "beyond_0.05"]
    surveys = list(dict.fromkeys(found["data"]))
    methods = list(dict.fromkeys(found["protocol"]))
    for number, method in enumerate(methods):
        values = [find_score(found, "beyond_0.05", protocol=method, data=s) for s in surveys]
        heights = np.arange(len(surveys)) + 0.38 * (number - 0.5 * (len(methods) - 1))
        colour = (MODEL_COLOUR, OTHER_COLOUR)[number]
        bars = ax.barh(heights, values, 0.36, label=method, color=colour)
        texts = [
            f"NMAD {find_score(table, 'nmad', protocol=method, data=s):.4f}" for s in surveys
        ]
        ax.bar_label(bars, texts, padding=3, fontsize=7)
    sizes = [found["n_queries"][np.flatnonzero(found["data"] == s)[0]] for s in surveys]
    ax.set_yticks(
        range(len(surveys)), [f"{s} ({n})" for s, n in zip(surveys, sizes, strict=True)]
    )
    ax.invert_yaxis()
    ax.set(xlabel="fraction with |dz| / (1 + z) > 0.05", xlim=(0, 1))
    ax.set_title("Redshifts of real spectra", fontsize=9)
    _finish(ax, legend=bool(surveys))


def _finish(ax, *, legend=True):
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
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    draw_scores(table).savefig(partial, dpi=110, format="png")
    partial.replace(path)
