"""The performance page: valid reStructuredText with the table's own numbers."""

import io

import pytest
from docutils.core import publish_doctree
from docutils.nodes import entry as entry_node
from docutils.nodes import table as table_node

from astroclip.evaluation import write_performance_page
from astroclip.evaluation.report import simple_table


def doctree(text):
    """Return a document's tree; warnings of docutils are errors."""
    stream = io.StringIO()
    settings = {"warning_stream": stream, "report_level": 2}
    tree = publish_doctree(text, settings_overrides=settings)
    lines = stream.getvalue().splitlines()
    assert not [line for line in lines if "WARNING" in line or "ERROR" in line]
    return tree


def test_a_table_is_valid_and_keeps_every_cell():
    text = simple_table(("recall@1", "value"), [("a b", 1), ("-", 2.5)])
    cells = [entry.astext() for entry in doctree(text).findall(entry_node)]
    assert cells == ["recall@1", "value", "a b", "1", "-", "2.5"]


@pytest.fixture(scope="module")
def page(made_up, tmp_path_factory):
    """Return the folder of a page written from a made-up table."""
    folder = tmp_path_factory.mktemp("page")
    write_performance_page(made_up, folder / "performance.rst")
    return folder


def test_the_page_parses_and_says_what_was_reached(page):
    text = (page / "performance.rst").read_text()
    tree = doctree(text)
    assert len(list(tree.findall(table_node))) == 6
    for words in (
        "2,000 held-out", "20,000 others", "seed 7", "0.990", "at least 0.99", "not measured",
        "3.50 nats with 1,024 pairs", "**Measured on other data**", "274", "0.0018",
        "bundled reference", "0.79",
    ):
        assert words in text
    assert sorted(path.name for path in page.iterdir()) == ["performance.png", "performance.rst"]


def test_a_run_without_real_data_says_so(made_up, tmp_path):
    few = made_up[made_up["score"] == "r2"]
    few = few[few["data"] == "held-out pairs"]
    write_performance_page(few, tmp_path / "page.rst")
    text = (tmp_path / "page.rst").read_text()
    assert "Not measured in this run." in text
    doctree(text)
