"""The tables of the page "What is read, and how"."""

from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "reading.rst"


def read_tables():
    """Return title: {first cell: other cells as docutils nodes} of the page's tables."""
    tree = publish_doctree(
        PAGE.read_text(), settings_overrides={"report_level": 5, "halt_level": 5}
    )
    tables = {}
    for table in tree.findall(nodes.table):
        (title,) = table.findall(nodes.title)
        (body,) = table.findall(nodes.tbody)
        rows = [list(row.children) for row in body.children]
        tables[title.astext()] = {cells[0].astext(): cells[1:] for cells in rows}
    return tables


def literals(node):
    """Return the words of a cell that are written as code."""
    return [literal.astext() for literal in node.findall(nodes.literal)]


def covers(title, taken, refused):
    """Check that every row of a table is tested: what is taken, and what is refused, if any."""
    rows = read_tables()[title]
    assert rows.keys() == taken.keys() | refused.keys()
    assert {name for name, cells in rows.items() if cells[-1].astext()} == refused.keys()
    assert all(name in taken or cells[1].astext() == "nothing" for name, cells in rows.items())


class Register(dict):
    """Functions by row of a table; the decorator ``register(row)`` adds one."""

    def __call__(self, row):
        def add(function):
            self.setdefault(row, []).append(function)
            return function

        return add

    def all(self):
        """Return (row, function) pairs."""
        return [(row, function) for row, functions in self.items() for function in functions]
