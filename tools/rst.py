"""Text of reStructuredText pages that the tools write."""

import textwrap

WIDTH = 96


def filled(text):
    """Return a paragraph in lines of the page's width."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def simple_table(header, rows):
    """Return rows as a simple table; cells that are no text are made text."""
    cells = [[escaped(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(header))]
    rule = "  ".join("=" * width for width in widths)
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def escaped(text):
    """Return text that docutils takes as it is: no address, emphasis or list."""
    text = text.replace("*", "\\*").replace("@", "\\@")
    return f"\\{text}" if text == "-" else text
