"""Make docs/performance.rst and its figure from a table of scores.

    astroclip evaluate --pairs FOLDER --reference FOLDER --real-data FOLDER --output OUT
    python tools/make_performance_page.py OUT/evaluation.ecsv

The table is kept as docs/performance.ecsv; without an argument the page is made from it. With
``--keep LABEL`` (it may be given again), the kept table's rows of another model stay, whose label
begins so: for scores of the same pairs with the same seed. Baselines must agree.
"""

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Table, join, vstack
from goals import GOALS, LIMITS, PUBLISHED
from rst import filled, simple_table

from astroclip._files import written
from astroclip.evaluation.report import PROPERTY_NAMES, draw_scores, r2_table, scored_methods
from astroclip.evaluation.run import ALL_REAL, HELD_OUT, REAL_NEIGHBORS
from astroclip.evaluation.scores import NOTHING, find_score

DOCS = Path(__file__).parents[1] / "docs"
KEPT, FIGURE = DOCS / "performance.ecsv", DOCS / "performance.png"
KEYS = ("protocol", "data", "query", "reference", "property", "score")
BASELINE, TOLERANCE = "photometry", 0.002  # of another processor's arithmetic
UNMEASURED = "not measured"

PAGE = """\
Performance
===========

.. Written by ``tools/make_performance_page.py``; do not edit.

{summary}

.. image:: {figure}
   :alt: Scores of the model, the baselines and published figures

Made again by::

    python tools/make_comparison_models.py WORKSPACE MODELS
    astroclip evaluate --pairs FOLDER --reference FOLDER --real-data FOLDER --output OUT \\
        --rest-frame astroclip-small-rest --image-only MODELS/image_only.safetensors \\
        --self-supervised MODELS/published.safetensors \\
        --supervised-spectrum MODELS/supervised_spectrum.npz \\
        --supervised-image MODELS/supervised_image.npz
    python tools/make_performance_page.py OUT/evaluation.ecsv

Goals
-----

{goals}

Mutual information of image and spectrum, lower bound: {information}.

Properties
----------

R2 on the held-out pairs. k-NN takes k = {n_neighbors} with distance weights; zero-shot is the
same on standardized embeddings and few-shot a small network on them
(`astroclip.evaluation.few_shot`). "ln SFR - ln Z" is what AstroCLIP's published code calls
sSFR. The last rows know no embedding: they say what the same galaxies give without one.

{properties}

Retrieval
---------

Each query's own partner among all the others.

{retrieval}

Other instruments and noise
---------------------------

The held-out pairs recorded otherwise; the reference stays as it was. R2 of the k-NN estimates,
and how far that of the redshift falls.

{shifts}

Real spectra
------------

{real}

Published elsewhere
-------------------

**Measured on other data**: real galaxies of other selections, with real noise. They say what
the method does there, and cannot be compared with the rows above number by number.

{published}
"""


def with_earlier(table, earlier, labels):
    """Return scores and the rows of an earlier run's other models."""
    check_baselines(table, earlier)
    kept = np.zeros(len(earlier), dtype=bool)
    for name in ("query", "reference"):
        kept |= [str(value).startswith(tuple(labels)) for value in earlier[name]]
    joined = vstack([table, earlier[kept]], metadata_conflicts="silent")
    joined.meta = {**table.meta, "EARLIER": " and ".join(labels)}
    return joined


def check_baselines(table, earlier):
    """Raise ValueError unless both runs scored the same galaxies."""
    both = join(table, earlier, keys=KEYS, metadata_conflicts="silent")
    both = both[(both["query"] == BASELINE) & (both["score"] == "r2")]
    differ = np.abs(both["value_1"] - both["value_2"])
    if not len(both) or differ.max() > TOLERANCE:
        msg = (
            f"{KEPT.name} has other scores of {BASELINE!r} than the new table; expected the same "
            f"pairs and seed. Score the other models again."
        )
        raise ValueError(msg)


# ---------------------------------------------------------------------- text
def _text(value, digits=3):
    """Return a number as text; "-" for None."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def _number(value):
    """Return a number with the digits that matter: 0.0018, 0.74, 311."""
    if abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 0.01 and value else f"{value:.3f}"


def goal_rows(table):
    """Return the goals as rows: what, at least or at most, reached, and whether that is met."""
    rows = []
    for goal in GOALS:
        sense = "at most" if goal.at_most else ("more than" if goal.strict else "at least")
        value = goal.measure(table)
        reached = UNMEASURED if value is None else _number(value)
        met = NOTHING if value is None else ("yes" if goal.met(value) else "no")
        rows.append((goal.what, f"{sense} {goal.limit:g}", reached, met))
    return rows


def _summary(table):
    """Return what was measured, on how many objects."""
    rows = table[np.asarray(table["data"]) == HELD_OUT]
    sizes = rows[np.asarray(rows["score"]) == "r2"]
    return filled(
        f"Model ``{table.meta['MODEL']}`` (weights sha256 ``{str(table.meta['WSHA'])[:12]}...``), "
        f"scored on {sizes['n_queries'][0]:,} held-out simulated pairs against a reference of "
        f"{sizes['n_reference'][0]:,} others, seed {sizes['seed'][0]}. Everything on this page but "
        f"the last table comes from one run of ``astroclip evaluate``{_earlier(table)}."
    )


def _earlier(table):
    """Return which rows an earlier run on the same pairs gave."""
    if "EARLIER" not in table.meta:
        return ""
    return f", the rows of {table.meta['EARLIER']} from an earlier one on the same pairs"


def _properties(table):
    """Return the table of R2 by method and property."""
    scores = r2_table(table)
    rows = [
        [NOTHING if cell is np.ma.masked else _text(cell) for cell in list(row)[1:]]
        for row in scores
    ]
    rows = [(label, *cells) for label, cells in zip(scores["from"], rows, strict=True)]
    return simple_table(scores.colnames, rows)


def _retrieval(table):
    """Return the table of retrieval scores."""
    retrieved = table[np.asarray(table["protocol"]) == "retrieval"]
    rows = []
    for row in retrieved[np.asarray(retrieved["score"]) == "recall_1"]:
        where = {name: row[name] for name in ("data", "query", "reference")}
        values = [find_score(retrieved, f"recall_{n}", **where) for n in (1, 5, 10)]
        rank = find_score(retrieved, "median_rank", **where)
        among = f"{row['n_reference']:,}"
        rows.append((*where.values(), among, *map(_text, values), _text(rank, 0)))
    header = ("data", "query", "among", "of", "recall@1", "recall@5", "recall@10", "median rank")
    return simple_table(header, rows)


def _shifts(table):
    """Return the table of domain shifts."""
    names = [name for name in PROPERTY_NAMES if name in set(table["property"])]
    falls = table[np.asarray(table["score"]) == "r2_fall"]
    rows = []
    for row in falls:
        where = {"protocol": "k-NN", "data": row["data"], "query": row["query"]}
        values = [find_score(table, "r2", property=name, **where) for name in names]
        rows.append((row["data"], *map(_text, values), _text(row["value"])))
    header = ("query", *(PROPERTY_NAMES[name] for name in names), "fall, redshift")
    return simple_table(header, rows)


def _real(table):
    """Return the tables of real redshifts and the score of rings."""
    measured = table[np.asarray(table["score"]) == "nmad"]
    if not len(measured):
        return "Not measured in this run."
    rows = []
    for row in measured:
        where = {"protocol": row["protocol"], "data": row["data"]}
        scores = ("beyond_0.01", "beyond_0.05", "beyond_0.05_confident", "coverage_68")
        values = [find_score(table, score, **where) for score in scores]
        nmad = _text(row["value"], 4)
        rows.append((row["data"], row["protocol"], row["n_queries"], nmad, *map(_text, values)))
    header = (
        "survey", "method", "spectra", "NMAD", "beyond 0.01", "beyond 0.05",
        "more confident half", "68 % interval holds",
    )
    reference = measured["reference"][0]
    text = filled(
        f"Redshifts, k = {REAL_NEIGHBORS} in the {reference}: normalized median absolute "
        f"deviation of dz / (1 + z), fractions beyond 0.01 and 0.05 (of the more confident half "
        f"by the redshift head), and the fraction inside the 68 % interval. \"{ALL_REAL}\" is "
        f"all surveys together."
    )
    text = f"{text}\n\n{simple_table(header, rows)}"
    precision = find_score(table, "average_precision", data="rings")
    if precision is None:
        return text
    share = find_score(table, "share_of_rings", data="rings")
    n_rings = table["n_queries"][np.flatnonzero(np.asarray(table["data"]) == "rings")[0]]
    rings = filled(
        f"Rings in {n_rings} display images of DECaLS galaxies, a linear classifier on "
        f"image embeddings: average precision {precision:.3f} in cross-validation, {share:.3f} by "
        f"chance."
    )
    return f"{text}\n\n{rings}"


def _information(table):
    """Return the mutual-information bound as text."""
    value = find_score(table, "nats", protocol="mutual information")
    if value is None:
        return UNMEASURED
    row = np.flatnonzero(np.asarray(table["score"]) == "nats")[0]
    n_pairs = table["n_queries"][row]
    return f"{value:.2f} nats with {n_pairs:,} pairs (it cannot exceed {np.log(n_pairs):.2f})"


def page_text(table):
    """Return the page of a table of scores."""
    published = [(p.method, p.quantity, f"{p.value:.2f}", p.source) for p in PUBLISHED]
    return PAGE.format(
        summary=_summary(table),
        figure=FIGURE.name,
        goals=simple_table(("what", "goal", "reached", "met"), goal_rows(table)),
        information=_information(table),
        n_neighbors=table.meta["NNEIGH"],
        properties=_properties(table),
        retrieval=_retrieval(table),
        shifts=_shifts(table),
        real=_real(table),
        published=simple_table(("from", "property", "R2", "source"), published),
    )


def draw_page_figure(table):
    """Return the figure of `draw_scores` with the goals as bars and published R2 as diamonds."""
    figure = draw_scores(table)
    methods = scored_methods(table)
    titles = {f"R2 of {title}": name for name, title in PROPERTY_NAMES.items()}
    panels = [ax for ax in figure.axes if ax.get_title() in titles]
    rows = {text.get_text(): row for row, text in enumerate(panels[0].get_yticklabels())}
    for ax in panels:
        name = titles[ax.get_title()]
        for label, where in methods.items():
            limit = LIMITS.get((where["query"], where["reference"]), {}).get(name)
            if where["protocol"] == "k-NN" and limit is not None:
                row = rows[label]
                ax.plot([limit, limit], [row - 0.35, row + 0.35], color="black", lw=1.5)
        for published in PUBLISHED:
            if published.label in rows and published.quantity == PROPERTY_NAMES[name]:
                row = rows[published.label] + 0.4
                ax.plot(published.value, row, "D", mfc="none", color="0.35", ms=4)
    figure.supxlabel(
        "Bars: goals; open diamonds: published, measured on other (real) data", fontsize=9
    )
    return figure


def main():
    """Keep the table named on the command line and write page and figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--keep", action="append", default=[], metavar="LABEL")
    options = parser.parse_args()
    table = Table.read(options.table or KEPT, format="ascii.ecsv")
    if options.table and options.keep:
        table = with_earlier(table, Table.read(KEPT, format="ascii.ecsv"), options.keep)
    if options.table:
        with written(KEPT) as partial:
            table.write(partial, format="ascii.ecsv", overwrite=True)
    with written(FIGURE) as partial:
        draw_page_figure(table).savefig(partial, dpi=110, format="png")
    with written(DOCS / "performance.rst") as partial:
        partial.write_text(page_text(table))


if __name__ == "__main__":
    main()
