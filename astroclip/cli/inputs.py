"""What the arguments of a command name: files, tables of embeddings, an index, a target."""

import re
import warnings
from pathlib import Path

import numpy as np

from astroclip.cli.output import is_watched, tell

__all__ = [
    "embed_positions",
    "embed_target",
    "file_stem",
    "load_index",
    "model_of",
    "load_objects",
    "only_ids",
    "parse_target",
    "read_redshifts",
]

DEFAULT_MODEL = "astroclip-small"
N_REASONS = 5  # failures shown


# ---------------------------------------------------------------------- tables
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
    missing = np.setdiff1d(ids, held)
    if len(missing):
        some = ", ".join(np.unique(held)[:3])
        msg = f"--ids names {str(missing[0])!r}, which no object has; they have ids such as {some}."
        raise KeyError(msg)
    return table[np.isin(held, ids)]


# ---------------------------------------------------------------------- objects
def load_objects(options, *, model=DEFAULT_MODEL):
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
    from astropy.table import vstack

    from astroclip.preparation.reading import find_files
    from astroclip.tables import check_same_model, is_embedding_table

    paths = find_files(options.inputs)
    if not paths:
        msg = "no INPUT is given; expected files, folders, patterns or tables of embeddings."
        raise ValueError(msg)
    objects, tables = [], {}
    for path in paths:
        if is_embedding_table(path):
            tables[f"table {str(path)!r}"] = read_embeddings(path)
        else:
            objects.append(path)
    if objects:
        model = options.model or model
        tell(f"embedding {len(objects):,} file{'s' if len(objects) > 1 else ''} with {model}")
        tables["what the files embed to"] = _embed(objects, options, model=model)
    (first, table), *others = tables.items()
    for label, other in others:
        check_same_model(other, table, names=(label, first))
    if others:
        table = vstack(list(tables.values()), metadata_conflicts="silent")
    return only_ids(table, options.ids)


def embed_positions(options, *, model=DEFAULT_MODEL):
    """Return the embeddings of ``--positions`` in the one mosaic that the inputs are.

    Raises
    ------
    FileNotFoundError
        If a file is not there.
    ValueError
        If files are not one, or one for each band, or the table has no positions.
    """
    from astropy.coordinates import SkyCoord
    from astropy.table import Table

    from astroclip._columns import column_arrays, column_degrees
    from astroclip.preparation.reading import find_files

    paths, bands = find_files(options.inputs), options.bands
    if len(paths) == 1:
        mosaic = str(paths[0])
    elif bands and len(bands) == len(paths):
        mosaic, options.bands = dict(zip(bands, map(str, paths), strict=True)), None
    else:
        msg = (
            f"--positions is given with {len(paths)} files and --bands names {len(bands or ())}; "
            f"expected one mosaic: a file of all bands, or one for each band that --bands names "
            f"in their order."
        )
        raise ValueError(msg)
    path = Path(options.positions).expanduser()
    if not path.is_file():
        msg = f"--positions {options.positions!r} does not exist; expected a table's file."
        raise FileNotFoundError(msg)
    table = Table.read(path)
    columns = {name.lower(): table[name] for name in table.colnames}
    if not {"ra", "dec"} <= set(columns):
        msg = (
            f"--positions {options.positions!r} has columns {', '.join(table.colnames)}; expected "
            f"ra and dec in degrees."
        )
        raise ValueError(msg)
    position = SkyCoord(column_degrees(columns["ra"]), column_degrees(columns["dec"]), unit="deg")
    ids = redshift = None
    if "id" in columns:
        names = column_arrays(columns["id"])[0]
        ids = np.char.decode(names, "utf-8") if names.dtype.kind == "S" else names.astype(str)
    if "redshift" in columns:
        values, mask, _ = column_arrays(columns["redshift"])
        redshift = np.where(mask, np.nan, values.astype(float))
    model = options.model or model
    tell(f"embedding {len(table):,} positions with {model}")
    return only_ids(
        _embed(mosaic, options, model=model, ids=ids, position=position, redshift=redshift),
        options.ids,
    )


def embed_target(options, *, model):
    """Fetch ``--target`` and return the embeddings of its spectra and images.

    Raises
    ------
    ValueError
        If nothing could be fetched or embedded; the message holds the reasons.
    """
    from astroclip import archives

    if options.inputs:
        msg = "--target and INPUT are both given; expected one of them."
        raise ValueError(msg)
    target = archives.fetch(parse_target(options.target), show_progress=is_watched(options))
    for row in target.failures:
        tell(f"{row['archive']} {row['product']}: {row['reason']}; {row['advice']}")
    stem = file_stem(target)
    ids = [f"{stem}-spectrum-{number}" for number, _ in enumerate(target.spectra, start=1)]
    ids = [f"{stem}-spectrum"] if len(ids) == 1 else ids
    objects = list(target.spectra)
    if target.images:
        objects, ids = [*objects, target.images], [*ids, f"{stem}-image"]
    if not objects:
        msg = f"no archive has a spectrum or an image of {options.target!r}."
        raise ValueError(msg)
    return _embed(objects, options, model=options.model or model, ids=ids)


def _embed(objects, options, *, model, ids=None, position=None, redshift=None):
    """Embed objects with the options of the command line; say which failed.

    Raises
    ------
    ValueError
        If none could be embedded; its message holds the reasons.
    """
    from astroclip.embedding import embed
    from astroclip.exceptions import FailedObjectWarning
    from astroclip.tables import Flag

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)  # said below
        table = embed(
            objects, model=model, ids=ids, position=position,
            redshift=read_redshifts(options.redshift) if redshift is None else redshift,
            medium=options.medium, zero_point=options.zero_point, device=options.device,
            pixel_scale=options.pixel_scale, unit=options.unit, bands=options.bands,
            flux=options.flux, wavelength=options.wavelength, ivar=options.ivar,
            error=options.error, mask=options.mask,
            batch_size=options.batch_size, show_progress=is_watched(options),
        )
    failed = np.flatnonzero(table["flags"] & Flag.FAILED)
    if not len(failed):
        return table
    lines = []
    for row in failed[:N_REASONS]:
        reason = str(table["message"][row]).removeprefix(f"objects[{row}]").lstrip(": ")
        file = str(table["file"][row]) if "file" in table.colnames else ""
        lines.append(reason if file and file in reason else f"{table['id'][row]}: {reason}")
    lines += ["..."] if len(failed) > N_REASONS else []
    if len(failed) == len(table):
        msg = "\n  ".join([f"none of {len(failed):,} objects could be embedded:", *lines])
        raise ValueError(msg)
    tell("\n  ".join([f"{len(failed):,} of {len(table):,} objects failed:", *lines]))
    return table


def read_redshifts(text):
    """Return what ``--redshift`` says: None, one number, or a table.

    Parameters
    ----------
    text : str or None
        A number, or the path of a table with columns ``id`` and ``redshift``.

    Returns
    -------
    None, float or `~astropy.table.Table`

    Raises
    ------
    FileNotFoundError
        If the text is no number and names no file.
    ValueError
        If the file is no table.
    """
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        path = Path(text).expanduser()
    if not path.is_file():
        msg = (
            f"--redshift is {text!r}; expected a number, or the file of a table with columns id "
            f"and redshift."
        )
        raise FileNotFoundError(msg)
    from astropy.table import Table

    try:
        table = Table.read(path)
    except Exception as error:  # each format raises what its reader meets
        msg = f"--redshift {text!r} cannot be read as a table: {error}. Is it complete?"
        raise ValueError(msg) from error
    tell(f"{len(table):,} redshifts from {text}")
    return table


# ---------------------------------------------------------------------- index and target
def load_index(reference, model):
    """Return the index to search.

    Parameters
    ----------
    reference : str or None
        A table of embeddings, an index that ``astroclip index build`` wrote, or None for the
        bundled galaxies.
    model : str or None
        The model whose bundled reference is wanted.

    Returns
    -------
    `~astroclip.SimilarityIndex`

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ValueError
        If it is damaged, or the model has no bundled reference.
    """
    from astroclip import SimilarityIndex
    from astroclip.datasets import REFERENCE_FILES, reference_table
    from astroclip.tables import is_embedding_table

    if reference is None:
        model = model or DEFAULT_MODEL
        if model not in REFERENCE_FILES:
            msg = (
                f"model {model!r} has no bundled reference (only {', '.join(REFERENCE_FILES)} "
                f"have); pass --reference with a table of its embeddings."
            )
            raise ValueError(msg)
        return SimilarityIndex(reference_table(model))
    path = Path(reference).expanduser()
    if not path.exists():
        msg = f"--reference {reference!r} does not exist; expected a table of embeddings or index."
        raise FileNotFoundError(msg)
    if path.is_file() and is_embedding_table(path):
        return SimilarityIndex(read_embeddings(path))
    return SimilarityIndex.open(path)


def model_of(index, reference):
    """Return the model whose embeddings an index holds, as `astroclip.load_model` takes it.

    Parameters
    ----------
    index : `~astroclip.SimilarityIndex` or `~astropy.table.Table`
    reference : str or None
        Where it comes from.

    Returns
    -------
    str
        The weights file beside the reference that has its sha256, or else the model's name.
    """
    from astroclip._files import file_sha256

    if reference is not None:
        for path in sorted(Path(reference).expanduser().absolute().parent.glob("*.safetensors")):
            if file_sha256(path) == str(index.meta["WSHA"]):
                return str(path)
    return str(index.meta["MODEL"])


def parse_target(text):
    """Return a sky position, or a name as it is; see `astroclip.archives.names.parse_position`."""
    from astroclip.archives.names import parse_position

    position = parse_position(text)
    return text.strip() if position is None else position


def file_stem(target):
    """Return a target's name as the start of a file name."""
    return re.sub(r"[^\w.+-]+", "_", str(target.name)).strip("_.") or "target"
