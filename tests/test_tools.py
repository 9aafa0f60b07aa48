"""The maintainers' tools: goals are measured from the right rows, pages say what was reached."""

import importlib
import io
import sys
from pathlib import Path

import pytest
from astropy.table import Table
from docutils.core import publish_doctree
from docutils.nodes import entry as entry_node
from docutils.nodes import table as table_node

import astroclip
from tests.evaluation.conftest import made_up  # noqa: F401 - fixture

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    """Return a function that imports a tool by name, with tools that it uses beside it."""
    sys.path.insert(0, str(REPOSITORY / "tools"))

    def load(name):
        return importlib.import_module(name)

    yield load
    sys.path.remove(str(REPOSITORY / "tools"))


def doctree(text):
    """Return a document's tree; warnings of docutils are errors."""
    stream = io.StringIO()
    settings = {"warning_stream": stream, "report_level": 2}
    tree = publish_doctree(text, settings_overrides=settings)
    lines = stream.getvalue().splitlines()
    assert not [line for line in lines if "WARNING" in line or "ERROR" in line]
    return tree


def test_a_table_is_valid_and_keeps_every_cell(tool):
    text = tool("rst").simple_table(("recall@1", "value"), [("a b", 1), ("-", 2.5)])
    cells = [entry.astext() for entry in doctree(text).findall(entry_node)]
    assert cells == ["recall@1", "value", "a b", "1", "-", "2.5"]


# ---------------------------------------------------------------------- goals and page
def test_goals_are_measured_from_their_rows(tool, made_up):  # noqa: F811
    rows = tool("make_performance_page").goal_rows(made_up)
    reached = {what: (value, met) for what, _, value, met in rows}
    assert len(reached) == len(rows)  # names are unique
    ratio = "image, R2 of log sSFR over that of boosted photometry and true shapes"
    expected = {
        "spectrum, R2 of redshift": ("0.990", "yes"),
        "spectrum, R2 of log M*": ("0.900", "no"),
        "image, R2 of redshift": ("0.940", "yes"),
        "image among spectra, R2 of redshift": ("0.890", "yes"),
        "image, R2 of redshift above that of the image-only encoder": ("0.150", "yes"),
        "image, R2 of redshift above that of photometry k-NN": ("0.250", "yes"),
        "spectrum, R2 of log Z above that of principal components": ("0.350", "yes"),
        ratio: ("1.875", "yes"),
        "recall@1 among 1,000, worse direction": ("0.300", "yes"),
        "one galaxy as DESI and as SDSS spectrum, recall@1 among 1,000": ("0.300", "no"),
        "spectrum cut to 4500-8500 A, fall of the R2 of redshift": ("0.040", "no"),
        "real spectra, k-NN, NMAD": ("0.0018", "yes"),
        "real spectra, redshift head, beyond 0.05": ("0.125", "no"),
        "images embedded a second": ("400", "yes"),
        "spectra embedded a second": ("not measured", "-"),
        "rest-frame spectrum, R2 of log sSFR": ("not measured", "-"),
    }
    assert {what: reached[what] for what in expected} == expected
    few = made_up.copy()
    few["n_reference"][few["protocol"] == "retrieval"] = 300
    rows = tool("make_performance_page").goal_rows(few)
    (retrieved,) = [row for row in rows if row[0] == "recall@1 among 1,000, worse direction"]
    assert retrieved[2] == "not measured"  # among fewer it means something else


@pytest.mark.parametrize(
    ("options", "value", "met"),
    [
        ({}, 0.5, True),
        ({}, 0.4, False),
        ({"strict": True}, 0.5, False),
        ({"at_most": True}, 0.4, True),
        ({"at_most": True}, 0.6, False),
    ],
)
def test_a_goal_is_met_in_its_sense(tool, options, value, met):
    assert tool("goals").Goal("any", 0.5, lambda table: None, **options).met(value) is met


def test_the_page_parses_and_says_what_was_reached(tool, made_up):  # noqa: F811
    page = tool("make_performance_page")
    text = page.page_text(made_up)
    assert len(list(doctree(text).findall(table_node))) == 6
    for words in (
        "2,000 held-out", "20,000 others", "seed 7", "0.990", "at least 0.99", "not measured",
        "3.50 nats with 1,024 pairs", "**Measured on other data**", "274", "0.0018",
        "bundled reference", "0.79",
    ):
        assert words in text
    few = made_up[(made_up["score"] == "r2") & (made_up["data"] == "held-out pairs")]
    text = page.page_text(few)
    assert "Not measured in this run." in text
    doctree(text)


def test_the_documentations_page_is_that_of_the_kept_scores(tool):
    page = tool("make_performance_page")
    table = Table.read(page.KEPT, format="ascii.ecsv")
    assert (REPOSITORY / "docs" / "performance.rst").read_text() == page.page_text(table)
    assert table.meta["WSHA"] == astroclip.reference_table().meta["WSHA"]


def test_the_pages_figure_has_goals_and_published_scores(tool, made_up):  # noqa: F811
    page = tool("make_performance_page")
    (panel,) = [
        ax for ax in page.draw_page_figure(made_up).axes if ax.get_title() == "R2 of redshift"
    ]
    diamonds = [line for line in panel.lines if line.get_marker() == "D"]
    published = [p for p in tool("goals").PUBLISHED if p.quantity == "redshift"]
    assert sorted(float(line.get_xdata()[0]) for line in diamonds) == sorted(
        p.value for p in published
    )
    bars = {float(line.get_xdata()[0]) for line in panel.lines if len(line.get_xdata()) == 2}
    assert {0.99, 0.74, 0.72} <= bars
