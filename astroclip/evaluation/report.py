"""The performance page: scores beside goals, baselines and published figures."""

import textwrap
from pathlib import Path

import numpy as np

from astroclip.evaluation.figures import METHODS, write_score_figure
from astroclip.evaluation.goals import GOALS, PROPERTY_NAMES, PUBLISHED
from astroclip.evaluation.held_out import HELD_OUT
from astroclip.evaluation.real_scores import ALL_REAL, REAL_NEIGHBORS
from astroclip.evaluation.scores import NO_PROPERTY, find_score

__all__ = ["goal_rows", "simple_table", "write_performance_page"]

UNMEASURED = "not measured"

PAGE = """\
Performance
===========

.. Written by ``tools/make_performance_page.py``; do not edit.

{summary}

.. image:: {figure}
   :alt: Scores of the model, the baselines and published figures

Made again by::

    astroclip evaluate --pairs FOLDER --reference FOLDER --real-data FOLDER \\
        --rest-frame astroclip-small-rest --image-only FILE --self-supervised FILE \\
        --supervised-spectrum FILE --supervised-image FILE --output OUT
    python tools/make_performance_page.py OUT/evaluation.ecsv

Goals
-----

{goals}

Mutual information of image and spectrum, lower bound: {information}.

Properties
----------

R2 on the held-out pairs. k-NN takes k = {n_neighbors} with distance weights; zero-shot is the
same on standardised embeddings and few-shot a small network on them
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


def simple_table(header, rows):
    """Return rows as a reStructuredText simple table.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequence
        What is no text is made text.

    Returns
    -------
    str

    Examples
    --------
    >>> from astroclip.evaluation.report import simple_table
    >>> print(simple_table(("a", "bc"), [(1, 2)]))
    =  ==
    a  bc
    =  ==
    1  2
    =  ==
    """
    cells = [[_escaped(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(header))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _escaped(text):
    """Return text that reStructuredText takes as it is: no address, list or footnote."""
    text = text.replace("*", "\\*").replace("@", "\\@")
    return f"\\{text}" if text == NO_PROPERTY else text


def _filled(text):
    """Return a paragraph in lines that fit."""
    return textwrap.fill(text, 96, break_long_words=False, break_on_hyphens=False)


def _text(value, digits=3):
    """Return a number as text; "-" for None."""
    return NO_PROPERTY if value is None else f"{value:.{digits}f}"


def _number(value):
    """Return a number with the digits that matter: 0.0018, 0.74, 311."""
    if abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 0.01 and value else f"{value:.3f}"


def goal_rows(table):
    """Return the goals as rows: what, at least or at most, reached, and whether that is met.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `evaluate`.

    Returns
    -------
    list of (str, str, str, str)
    """
    rows = []
    for goal in GOALS:
        sense = "at most" if goal.at_most else ("more than" if goal.strict else "at least")
        value = goal.measure(table)
        reached = UNMEASURED if value is None else _number(value)
        met = NO_PROPERTY if value is None else ("yes" if goal.met(value) else "no")
        rows.append((goal.what, f"{sense} {goal.limit:g}", reached, met))
    return rows


def _summary(table):
    """Return what was measured, on how many objects."""
    rows = table[np.asarray(table["data"]) == HELD_OUT]
    sizes = rows[np.asarray(rows["score"]) == "r2"]
    return _filled(
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
    names = [name for name in PROPERTY_NAMES if name in set(table["property"])]
    rows = []
    for label, where in METHODS.items():
        values = [
            find_score(table, "r2", data=HELD_OUT, property=name, **where) for name in names
        ]
        if any(value is not None for value in values):
            rows.append((label, *map(_text, values)))
    return simple_table(("from", *(PROPERTY_NAMES[name] for name in names)), rows)


def _retrieval(table):
    """Return the table of retrieval scores."""
    found = table[np.asarray(table["protocol"]) == "retrieval"]
    rows = []
    for row in found[np.asarray(found["score"]) == "recall_1"]:
        where = {name: row[name] for name in ("data", "query", "reference")}
        values = [find_score(found, f"recall_{n}", **where) for n in (1, 5, 10)]
        rank = find_score(found, "median_rank", **where)
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
    found = table[(np.asarray(table["score"]) == "nmad")]
    if not len(found):
        return "Not measured in this run."
    rows = []
    for row in found:
        where = {"protocol": row["protocol"], "data": row["data"]}
        scores = ("beyond_0.01", "beyond_0.05", "beyond_0.05_confident", "coverage_68")
        values = [find_score(table, score, **where) for score in scores]
        nmad = _text(row["value"], 4)
        rows.append((row["data"], row["protocol"], row["n_queries"], nmad, *map(_text, values)))
    header = (
        "survey", "method", "spectra", "NMAD", "beyond 0.01", "beyond 0.05",
        "more confident half", "68 % interval holds",
    )
    reference = found["reference"][0]
    text = _filled(
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
    rings = _filled(
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


def write_performance_page(table, path):
    """Write the documentation's page of scores, and its figure beside it.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `evaluate`.
    path : path-like
        The page (``.rst``); the figure has the same name and ``.png``. Both are written
        complete or not at all.
    """
    path = Path(path)
    figure = path.with_suffix(".png")
    write_score_figure(table, figure)
    published = [(p.method, p.quantity, f"{p.value:.2f}", p.source) for p in PUBLISHED]
    text = PAGE.format(
        summary=_summary(table),
        figure=figure.name,
        goals=simple_table(("what", "goal", "reached", "met"), goal_rows(table)),
        information=_information(table),
        n_neighbors=table.meta["NNEIGH"],
        properties=_properties(table),
        retrieval=_retrieval(table),
        shifts=_shifts(table),
        real=_real(table),
        published=simple_table(("from", "property", "R2", "source"), published),
    )
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    partial.replace(path)
