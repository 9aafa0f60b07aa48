"""Results on the standard output, remarks on the error stream, tables in files, exit statuses."""

import sys
import tempfile
from pathlib import Path

__all__ = [
    "EXIT_BROKEN_PIPE",
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "check_output",
    "exit_status",
    "is_watched",
    "say",
    "show",
    "tell",
    "write_output",
]

EXIT_ERROR, EXIT_USAGE, EXIT_SOME_FAILED = 1, 2, 3
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141  # 128 plus the number of the signal
MAX_LINES = 60  # of a table on the screen
FORMATS = {"ra": ".5f", "dec": ".5f"}  # of numbers on the screen; others have three digits


def say(text=""):
    """Write a line of results to the standard output."""
    sys.stdout.write(f"{text}\n")


def tell(text):
    """Write a remark or an error to the error stream."""
    sys.stderr.write(f"astroclip: {text}\n")
    sys.stderr.flush()


def is_watched(options):
    """Return whether to draw progress: someone looks, and ``--quiet`` is not given."""
    return sys.stderr.isatty() and not options.quiet


def exit_status(table):
    """Return 0, or `EXIT_SOME_FAILED` or `EXIT_ERROR` if some or all rows have no embedding.

    Parameters
    ----------
    table : `~astropy.table.Table`
        An embedding table.

    Returns
    -------
    int
    """
    from astroclip.tables import embedding_matrix

    _, valid = embedding_matrix(table)
    if valid.all():
        return 0
    if valid.any():
        return EXIT_SOME_FAILED
    tell("no object has an embedding; the column message says why")
    return EXIT_ERROR


def check_output(options):
    """Raise, before any work is done, if ``--output`` exists or has no folder.

    Raises
    ------
    FileExistsError, FileNotFoundError
    MissingExtraError
        If Parquet is asked for and cannot be written.
    """
    if options.output is None:
        return
    path = Path(options.output)
    if path.exists() and not options.overwrite:
        msg = f"--output {str(path)!r} exists; pass --overwrite to replace it."
        raise FileExistsError(msg)
    if not path.parent.is_dir():
        msg = f"--output {str(path)!r} is in a folder that does not exist; make it first."
        raise FileNotFoundError(msg)
    if path.suffix.lower() == ".parquet":
        from astroclip._validation import import_extra

        for module in ("pyarrow", "pandas"):
            import_extra(module, "catalogs")


def write_output(table, options):
    """Write a table to ``--output``, if that is given, complete or not at all."""
    if options.output is None:
        return
    from astroclip.tables import write_table

    write_table(table, options.output, overwrite=options.overwrite)
    tell(f"wrote {options.output}")


def show(table, *, title=None, format="table", whole=None):  # noqa: A002
    """Show a table on the standard output.

    Parameters
    ----------
    table : `~astropy.table.Table`
        A version that fits a screen.
    title : str, optional
    format : str
        ``"table"``: readable, long ones shortened in the middle; or ``"ecsv"``: for other
        programs.
    whole : `~astropy.table.Table`, optional
        What ``"ecsv"`` shows instead.
    """
    if format == "ecsv":
        from astroclip.tables import write_table

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.ecsv"
            write_table(table if whole is None else whole, path)
            sys.stdout.write(path.read_text())
        return
    if title:
        say(f"\n{title}")
    table = table.copy()
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name].info.format = FORMATS.get(name, ".3f")
    # text to the left, numbers to the right
    align = ["<" if table[name].dtype.kind in "USO" else ">" for name in table.colnames]
    has_units = any(str(table[name].unit or "") for name in table.colnames)
    lines = table.pformat(max_width=-1, max_lines=MAX_LINES, align=align, show_unit=has_units)
    say("\n".join(line.rstrip() for line in lines))
