"""Pairs to files in the layouts of surveys, which `read_source` and others' code read."""

from pathlib import Path

import numpy as np

from astroclip._validation import check_choice, check_integer, import_extra
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.resampling import fill_bad_pixels, resample_flux
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.training.conversion import LABEL_SHAPES

__all__ = ["write_hdf5_pairs", "write_parquet_pairs"]

BLOCK = 128
BINNING = 2  # pixels of 0.262 arcsec to one of training's
BORDER = 12  # pixels that reading cuts off again: 152 is 128 and two borders
DIGITS = 19  # fewer always fit an int64
COMPRESSIONS = (None, "gzip", "lzf")


def _survey_images(image):
    """Return images (N, 152, 152, 3) float32 of training's, nothing in their border."""
    fine = np.repeat(np.repeat(image.astype(np.float32), BINNING, axis=2), BINNING, axis=3)
    border = ((0, 0), (0, 0), (BORDER, BORDER), (BORDER, BORDER))
    return np.moveaxis(np.pad(fine / BINNING**2, border), 1, 3)


def _survey_spectra(pairs, rows):
    """Return flux, ivar and mask (N, 7781) of training's spectra; the last two may be None."""
    grid = wavelength_grid("desi")
    flux = pairs["spectrum"][rows].astype(float)
    if "ivar" not in pairs:
        new = resample_flux(WAVELENGTH, flux, np.ones_like(flux), np.zeros(flux.shape, bool), grid)
        return fill_bad_pixels(new.flux, new.mask).astype(np.float32), None, None
    ivar, mask = pairs["ivar"][rows].astype(float) / _gain(), pairs["mask"][rows] != 0
    new = resample_flux(WAVELENGTH, flux, ivar, mask, grid)
    # the mean, not that of independent pixels: finer ones share what a coarse one knows
    shared = resample_flux(WAVELENGTH, ivar, np.ones_like(ivar), mask, grid)
    return new.flux.astype(np.float32), shared.flux.astype(np.float32), new.mask


def _gain():
    """Return the factors (P,) by which reading raises ivar as it sums finer pixels up."""
    grid = wavelength_grid("desi")
    ones = np.ones((1, len(grid)))
    return resample_flux(grid, ones, ones, ones < 1, WAVELENGTH).ivar[0]


def _identity(pairs, rows):
    """Return ids as strings and as numbers, the row where they are no numbers."""
    names = np.asarray(pairs["id"][rows] if "id" in pairs else rows).astype(str)
    numbers = [
        int(name) if name.isdecimal() and len(name) < DIGITS else row
        for name, row in zip(names, rows, strict=True)
    ]
    return names, np.array(numbers, dtype=np.int64)


def _fields(pairs, rows):
    """Return a block in a survey's layout by the names of Parquet columns."""
    names, numbers = _identity(pairs, rows)
    flux, ivar, mask = _survey_spectra(pairs, rows)
    fields = {
        "image": _survey_images(pairs["image"][rows]),
        "spectrum": flux,
        "redshift": pairs["redshift"][rows].astype(np.float32),
        "targetid": numbers,
        "id": names,
    }
    fields |= {"ivar": ivar, "mask": mask} if ivar is not None else {}
    fields |= {"seeing": pairs["seeing"][rows]} if "seeing" in pairs else {}
    labels = {
        name: pairs[name][rows].astype(np.float32) for name in LABEL_SHAPES if name in pairs
    }
    return {**fields, **labels}


def _check_pairs(pairs):
    """Raise ValueError if pairs are none, or mix recorded and noiseless ones."""
    if len(pairs["redshift"]) == 0:
        msg = "pairs are empty; expected at least one to write."
        raise ValueError(msg)
    if "ivar" in pairs and np.isinf(pairs["ivar"]).any():
        msg = (
            "pairs mix recorded and noiseless ones, which have infinite ivar; expected one kind. "
            "Write each to a file of its own."
        )
        raise ValueError(msg)


def write_hdf5_pairs(path, pairs, *, n_groups=10, compression=None):
    """Write pairs as an HDF5 file in the layout of AstroCLIP's ``astroclip_desi.1.1.5.h5``.

    Parameters
    ----------
    path : path-like
        Complete or not there at all.
    pairs : dict of str to `numpy.ndarray`
        From `~astroclip.simulation.pairs.make_pairs`,
        `~astroclip.simulation.pairs.read_pairs` or
        `~astroclip.training.sources.read_source`; recorded or noiseless, not both.
    n_groups : int
        Groups ``"0"``, ``"1"``, ... that the pairs are divided among in order; none is
        empty.
    compression : str, optional
        ``"gzip"`` or ``"lzf"``.

    Returns
    -------
    `pathlib.Path`

    Notes
    -----
    Each group holds ``images`` (N, 152, 152, 3) float32, g, r, z in nanomaggies per 0.262
    arcsec pixel (a quarter of training's pixel each, with an empty border), ``spectra``
    (N, 7781, 1) float32, 1e-17 erg/s/cm2/A on ``linspace(3600, 9824, 7781)``,
    ``redshifts``, ``targetids``, and besides what AstroCLIP has ``ids``, ``seeing``, the
    properties by name and, of recorded pairs, ``ivar`` and ``mask``. Noiseless pairs are
    marked by the file's attribute ``noiseless``.
    """
    _check_pairs(pairs)
    check_choice(compression, COMPRESSIONS, "compression")
    h5py = import_extra("h5py", "catalogs")
    n_groups = min(check_integer(n_groups, "n_groups"), len(pairs["redshift"]))
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    plural = {name: f"{name}s" for name in ("image", "redshift", "targetid", "id")}
    plural["spectrum"] = "spectra"
    with h5py.File(partial, "w") as file:
        file.attrs["noiseless"] = "ivar" not in pairs
        for number, rows in enumerate(np.array_split(np.arange(len(pairs["redshift"])), n_groups)):
            group = file.create_group(str(number))
            for start in range(0, len(rows), BLOCK):
                fields = _fields(pairs, rows[start : start + BLOCK])
                fields["spectrum"] = fields["spectrum"][:, :, None]
                fields["id"] = np.char.encode(fields["id"], "utf-8")
                for name, values in fields.items():
                    name = plural.get(name, name)
                    if name not in group:
                        shape = (len(rows), *values.shape[1:])
                        kind = h5py.string_dtype() if name == "ids" else values.dtype
                        group.create_dataset(name, shape, kind, compression=compression)
                    group[name][start : start + len(values)] = values
    partial.replace(path)
    return path


def write_parquet_pairs(folder, pairs, *, rows_per_file=1000, prefix="pairs"):
    """Write pairs as Parquet files, one row for each pair.

    Parameters
    ----------
    folder : path-like
        Made if missing. Each file is complete or not there at all.
    pairs : dict of str to `numpy.ndarray`
        As `write_hdf5_pairs` takes them.
    rows_per_file : int
    prefix : str
        Files are named ``<prefix>-00000.parquet``; ``train`` and ``test`` make a split.

    Returns
    -------
    list of `pathlib.Path`

    Notes
    -----
    Columns are ``image`` (lists of 152 x 152 x 3), ``spectrum`` (7781), ``redshift``,
    ``targetid``, ``id``, ``seeing``, the properties by name and, of recorded pairs,
    ``ivar`` and ``mask``; units are those of `write_hdf5_pairs`. Noiseless pairs are marked
    in the schema's metadata.
    """
    _check_pairs(pairs)
    pyarrow = import_extra("pyarrow", "catalogs")
    parquet = import_extra("pyarrow.parquet", "catalogs")
    rows_per_file = check_integer(rows_per_file, "rows_per_file")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"noiseless": "0" if "ivar" in pairs else "1"}
    n_pairs, paths = len(pairs["redshift"]), []
    for number, first in enumerate(range(0, n_pairs, rows_per_file)):
        path = folder / f"{prefix}-{number:05d}.parquet"
        partial = path.with_name(path.name + ".part")
        end, writer = min(first + rows_per_file, n_pairs), None
        for start in range(first, end, BLOCK):
            fields = _fields(pairs, np.arange(start, min(start + BLOCK, end)))
            columns = {name: _lists(pyarrow, values) for name, values in fields.items()}
            table = pyarrow.table(columns).replace_schema_metadata(metadata)
            writer = writer or parquet.ParquetWriter(partial, table.schema)
            writer.write_table(table)
        writer.close()
        partial.replace(path)
        paths.append(path)
    return paths


def _lists(pyarrow, values):
    """Return an array (N, ...) as an Arrow array of fixed-size lists."""
    column = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, size)
    return column
