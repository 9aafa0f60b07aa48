"""The command ``astroclip models``."""

from astroclip.cli.options import add_command
from astroclip.cli.output import say, show

__all__ = ["add_parser", "run_models"]

EXAMPLE = """\
  astroclip models
  astroclip models astroclip-small"""


def add_parser(subparsers):
    """Add ``models`` to the command line's subparsers."""
    parser = add_command(
        subparsers, "models", run_models, help="list the named models",
        description="List the named models, or describe one.", example=EXAMPLE,
    )
    parser.add_argument("model", nargs="?", default=None, metavar="MODEL", help="describe this one")
    parser.add_argument(
        "--format", choices=("table", "ecsv"), default="table",
        help="a readable table (default), or all columns as ECSV",
    )


def run_models(options):
    """List the models or describe one; return the exit status."""
    from astroclip import list_models
    from astroclip._validation import check_choice

    table = list_models()
    if options.model is None:
        columns = ["name", "modalities", "dim", "size", "license", "source"]
        show(table[columns], format=options.format, whole=table)
        return 0
    known = [str(name) for name in table["name"]]
    row = known.index(check_choice(options.model, known, "MODEL"))
    if options.format == "ecsv":
        show(table[row : row + 1], format="ecsv")
        return 0
    for name in table.colnames:
        say(f"{name:12} {_text(table[name], row)}")
    return 0


def _text(column, row):
    """Return a value of a column as text, with its unit."""
    if getattr(column, "mask", [False] * len(column))[row]:
        return "unknown"
    value = format(column[row], column.format or "")
    return f"{value} {column.unit}" if column.unit else value
