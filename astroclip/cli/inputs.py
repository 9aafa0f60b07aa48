"""Arguments to files, files to objects, objects to one embedding table."""

import glob
import warnings
from pathlib import Path

import numpy as np

from astroclip.cli.output import progress_bar, tell

__all__ = [
    "embed_files",
    "find_files",
    "is_embedding_table",
    "join_tables",
    "load_objects",
    "only_ids",
    "read_embeddings",
]

OBJECT_SUFFIXES = (".fits", ".fit", ".fits.gz")
TABLE_SUFFIXES = (".ecsv", ".parquet")
N_REASONS = 5  # failures shown


def find_files(arguments):
    """Return the files that arguments name, each once.

    Parameters
    ----------
    arguments : sequence of str
        Files; folders, of which the FITS files and tables of embeddings are taken in order
        of name; and patterns with ``*``, ``?``, ``[...]`` or ``**``.

    Returns
    -------
    list of `pathlib.Path`

    Raises
    ------
    FileNotFoundError
        If a file is not there, or a folder or pattern gives none.
    """
    found = {}
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            paths = sorted(item for item in path.iterdir() if _is_usual(item))
            what = f"folder {argument!r} holds no file ending in {', '.join(OBJECT_SUFFIXES)}"
        elif path.exists():
            paths, what = [path], ""
        elif glob.has_magic(argument):
            matches = sorted(glob.glob(str(path), recursive=True))
            paths = [item for item in map(Path, matches) if item.is_file()]
            what = f"pattern {argument!r} matches no file"
        else:
            paths, what = [], f"file {argument!r} does not exist"
        if not paths:
            msg = f"{what}; check the path."
            raise FileNotFoundError(msg)
        found |= dict.fromkeys(paths)
    return list(found)


def _is_usual(path):
    """Return whether a folder's file is one to take: FITS or a table, and not hidden."""
    name = path.name.lower()
    if not path.is_file() or name.startswith("."):
        return False
    if name.endswith(TABLE_SUFFIXES):
        return is_embedding_table(path)  # catalogues and the like are passed over
    return name.endswith(OBJECT_SUFFIXES)


# ---------------------------------------------------------------------- tables
def is_embedding_table(path):
    """Return whether a file holds a table with embeddings.

    Parameters
    ----------
    path : `pathlib.Path`

    Returns
    -------
    bool
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return True  # nothing else is read from it
    if suffix == ".ecsv":
        with path.open(encoding="utf-8", errors="replace") as lines:
            header = [line for line, _ in zip(lines, range(500), strict=False) if line[0] == "#"]
        return any("name: embedding" in line for line in header)
    if suffix != ".fits":
        return False
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with fits.open(path) as hdus:
                tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
                return any("embedding" in table.columns.names for table in tables)
    except (OSError, TypeError, ValueError):
        return False  # the readers of objects say what is wrong with it


def read_embeddings(path):
    """Read a table of embeddings; see `astroclip.tables.read_table`.

    Raises
    ------
    ValueError
        If it is damaged or holds no embeddings.
    """
    from astropy.utils.exceptions import AstropyWarning

    from astroclip.exceptions import MissingExtraError
    from astroclip.tables import read_table, validate_embedding_table

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            table = read_table(path)
    except MissingExtraError:
        raise
    except Exception as error:  # each format raises what its reader meets
        msg = f"file {str(path)!r} cannot be read as a table: {error}. Is it complete?"
        raise ValueError(msg) from error
    validate_embedding_table(table, name=f"table {str(path)!r}")
    return table


def join_tables(tables, labels):
    """Return embedding tables of one model as one.

    Raises
    ------
    ModelMismatchError
        If they are of different models.
    """
    from astropy.table import vstack

    from astroclip.tables import check_same_model

    for table, label in zip(tables[1:], labels[1:], strict=True):
        check_same_model(table, tables[0], names=(label, labels[0]))
    return tables[0] if len(tables) == 1 else vstack(tables, metadata_conflicts="silent")


def only_ids(table, ids):
    """Return the rows of a table that carry one of the ids; all rows if that is None.

    Raises
    ------
    KeyError
        If no row carries an id.
    """
    if ids is None:
        return table
    held = np.asarray(table["id"]).astype(str)
    _check_found(ids, set(held))
    return table[np.isin(held, ids)]


def _check_found(ids, held):
    """Raise KeyError if a wanted id is not among those there are."""
    missing = [name for name in ids if name not in held]
    if missing:
        some = ", ".join(sorted(held)[:3])
        msg = f"--ids names {missing[0]!r}, which no object has; they have ids such as {some}."
        raise KeyError(msg)


# ---------------------------------------------------------------------- objects
def load_objects(options, *, model="astroclip-small"):
    """Return what the inputs hold as one embedding table: tables as they are, objects embedded.

    Parameters
    ----------
    options : `argparse.Namespace`
        With those of `astroclip.cli.options.query_options` and ``model_options``.
    model : str
        The model of objects, unless ``--model`` names one.

    Returns
    -------
    `~astropy.table.QTable`

    Raises
    ------
    FileNotFoundError
        If an input is not there.
    ValueError
        If there is no input, a table is damaged, or no object could be embedded.
    ModelMismatchError
        If tables are of different models.
    """
    paths = find_files(options.inputs)
    if not paths:
        msg = "no INPUT is given; expected files, folders, patterns or tables of embeddings."
        raise ValueError(msg)
    kinds = [is_embedding_table(path) for path in paths]
    tables = [read_embeddings(path) for path, table in zip(paths, kinds, strict=True) if table]
    labels = [f"table {str(path)!r}" for path, table in zip(paths, kinds, strict=True) if table]
    objects = [path for path, table in zip(paths, kinds, strict=True) if not table]
    if objects:
        ids = options.ids if not tables else None
        tables.append(embed_files(objects, options, model=options.model or model, ids=ids))
        labels.append("what the files embed to")
    return only_ids(join_tables(tables, labels), options.ids)


def embed_files(paths, options, *, model, ids=None):
    """Embed the spectra and images of files, a few hundred at a time.

    Parameters
    ----------
    paths : sequence of `pathlib.Path`
    options : `argparse.Namespace`
        With those of ``model_options`` and ``quiet``.
    model : str
    ids : sequence of str, optional
        Only the objects of these ids.

    Returns
    -------
    `~astropy.table.QTable`
        An embedding table in the order of files, with a column ``file``. A file that
        cannot be read has one failed row, named as the file.

    Raises
    ------
    ValueError
        If no object could be embedded; its message holds the reasons.
    """
    from astroclip.cli.embedding import EmbeddingJob
    from astroclip.tables import Flag

    tell(f"embedding {len(paths):,} file{'s' if len(paths) > 1 else ''} with {model}")
    job = EmbeddingJob(model, options, ids=ids)
    with progress_bar(len(paths), "file", quiet=options.quiet) as progress:
        for path in paths:
            job.add(path)
            progress.update(1)
        job.finish()
    if ids is not None:
        _check_found(ids, job.seen)
    failed = [row for row in job.rows if row["flags"] & Flag.FAILED]
    if len(failed) == len(job.rows):
        reasons = _reasons(failed)
        msg = "\n  ".join([f"none of {len(failed):,} objects could be embedded:", *reasons])
        raise ValueError(msg)
    if failed:
        what = f"{len(failed):,} of {len(job.rows):,} objects failed:"
        tell("\n  ".join([what, *_reasons(failed)]))
    return job.table()


def _reasons(failed):
    """Return a line for each of the first failures."""
    lines = [f"{row['id']}: {row['message']}" for row in failed[:N_REASONS]]
    return lines + (["..."] if len(failed) > N_REASONS else [])
