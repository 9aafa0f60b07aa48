"""Results on the standard output, remarks on the error stream, tables in files."""

import sys
import tempfile
from pathlib import Path

__all__ = ["check_output", "fits_screen", "progress_bar", "say", "show", "tell", "write_output"]

MAX_LINES = 60  # of a table on the screen
DIGITS = {"ra": ".5f", "dec": ".5f"}


def say(text=""):
    """Write a line of results to the standard output."""
    sys.stdout.write(f"{text}\n")


def tell(text):
    """Write a remark or an error to the error stream."""
    sys.stderr.write(f"astroclip: {text}\n")
    sys.stderr.flush()


def progress_bar(n_items, unit, *, quiet=False):
    """Return a tqdm bar on the error stream; it is not drawn where no one looks."""
    from tqdm import tqdm

    return tqdm(total=n_items, unit=unit, file=sys.stderr, disable=True if quiet else None)


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


def fits_screen(table, names):
    """Return a table with those of the named columns that it has."""
    return table[[name for name in names if name in table.colnames]]


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
        sys.stdout.write(_ecsv(table if whole is None else whole))
        return
    if title:
        say(f"\n{title}")
    table = table.copy()
    for name in table.colnames:
        if table[name].dtype.kind == "f":
            table[name].info.format = DIGITS.get(name, ".3f")
    has_units = any(str(table[name].unit or "") for name in table.colnames)
    lines = table.pformat(
        max_width=-1, max_lines=MAX_LINES, align=_alignment(table), show_unit=has_units
    )
    say("\n".join(line.rstrip() for line in lines))


def _alignment(table):
    """Return where columns stand: text to the left, numbers to the right."""
    return ["<" if table[name].dtype.kind in "USO" else ">" for name in table.colnames]


def _ecsv(table):
    """Return a table as the text of an ECSV file."""
    from astroclip.tables import write_table

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.ecsv"
        write_table(table, path)
        return path.read_text()
