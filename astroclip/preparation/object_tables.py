"""Tables with one object per row, as data frames hold them, to spectra and images.

Columns hold arrays: ``flux``, ``wavelength``, ``ivar`` and so on by the names that files have,
by themselves, or as parts of a nested column (``spectrum.flux``), as in the Multimodal Universe
(https://github.com/MultimodalUniverse/MultimodalUniverse) and in HATS catalogs with nested
columns (https://nested-pandas.readthedocs.io).
"""

import hashlib
import re

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty
from astropy.table import Table

from astroclip.exceptions import PreparationError
from astroclip.preparation.bands import canonical_band
from astroclip.preparation.batches import FLUX_UNIT
from astroclip.preparation.identity import find_column, plain_id, plain_redshifts, warn_rounded
from astroclip.preparation.spectrum_tables import (
    Array,
    ArrayTable,
    Convention,
    Given,
    column_spectrum,
    find_roles,
    flux_unit,
    role_of,
)
from astroclip.preparation.unit_strings import parse_unit

__all__ = ["holds_objects", "is_row", "is_table", "read_table_rows", "table_rows"]

BARE = Convention("table", FLUX_UNIT)
SPECTRUM = re.compile(r"(spectrum|spectra|spec|coadd)[._/]", re.IGNORECASE)
IMAGE = re.compile(r"(image|images|cutout|img)[._/]", re.IGNORECASE)
HELP = (
    "Expected columns of arrays such as flux, wavelength (or lambda, loglam) and ivar, or "
    "spectrum with these parts, or image with the parts band, flux and scale. Name them with "
    "flux=, wavelength=, ivar=, error=, mask="
)


# ---------------------------------------------------------------------- what is a table
def is_table(objects):
    """Return whether something is a table of astropy, pandas or pyarrow."""
    is_pandas = hasattr(objects, "iloc") and hasattr(objects, "columns")
    is_arrow = hasattr(objects, "column_names") and hasattr(objects, "num_rows")
    return isinstance(objects, Table) or is_pandas or is_arrow


def is_row(element):
    """Return whether a dict is one row of such a table, and no dict of bands."""
    if not all(isinstance(key, str) for key in element):
        return False
    nested = [key for key, value in element.items() if isinstance(value, dict)]
    roles = {role_of(key) for key in element}
    return bool(nested) or {"flux", "wavelength"} <= roles


def holds_objects(table):
    """Return whether a table of astropy has columns of spectra or images, by their names."""
    names = {role_of(SPECTRUM.sub("", name)) for name in table.colnames}
    return {"flux", "wavelength"} <= names or any(
        name.lower() in ("spectrum", "image") or IMAGE.match(name) for name in table.colnames
    )


# ---------------------------------------------------------------------- columns
def _columns(table):
    """Return the columns of a table by name, nested ones by part, as `Array`."""
    columns = {}
    if isinstance(table, dict):  # one row
        for name, value in table.items():
            cell = np.empty(1, dtype=object)
            cell[0] = value
            _add(columns, name, cell, None)
    elif isinstance(table, Table):
        for name in table.colnames:
            column = table[name]
            unit = getattr(column, "unit", None)
            values = getattr(column, "value", column)
            _add(columns, name, np.ma.asarray(values), None if unit is None else str(unit))
    elif hasattr(table, "column_names"):
        for name in table.column_names:
            _add_arrow(columns, name, table[name])
    else:
        for name in table.columns:
            values = table[name].array
            if hasattr(values, "__arrow_array__") and values.dtype.kind == "O":
                _add_arrow(columns, str(name), values.__arrow_array__())
            else:
                _add(columns, str(name), table[name].to_numpy(), None)
    return columns


def _add(columns, name, values, unit):
    """Add a column, or the parts of one whose cells are dicts or small tables."""
    if values.dtype != object:
        columns[name] = Array(values, unit)
        return
    cells = [None if cell is np.ma.masked else cell for cell in values]
    first = next((cell for cell in cells if cell is not None), None)
    if isinstance(first, dict) or is_table(first):
        keys = first.keys() if isinstance(first, dict) else _columns(first).keys()
        for key in keys:
            parts = np.empty(len(cells), dtype=object)
            for row, cell in enumerate(cells):
                try:
                    part = None if cell is None else cell[key]
                except (KeyError, TypeError, IndexError):
                    part = None
                parts[row] = part
            _add(columns, f"{name}.{key}", parts, unit)
        return
    columns[name] = Array(_regular(cells), unit)


def _add_arrow(columns, name, array):
    """Add a column of pyarrow, nested to any depth."""
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # no chunk, or too many values for one
            array = pa.concat_arrays(array.chunks)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_struct(kind):
        for number, part in enumerate(array.flatten()):
            _add_arrow(columns, f"{name}.{kind.field(number).name}", part)
    elif _is_list(kind) and pa.types.is_struct(kind.value_type):  # a list of records
        for number in range(kind.value_type.num_fields):
            part = pa.ListArray.from_arrays(array.offsets, array.values.field(number))
            _add_arrow(columns, f"{name}.{kind.value_type.field(number).name}", part)
    elif _is_list(kind):
        regular = _regular_arrow(array)
        if regular is None:
            cells = array.to_numpy(zero_copy_only=False)
            regular = _regular(list(cells))
        columns[name] = Array(regular)
    else:
        columns[name] = Array(array.to_numpy(zero_copy_only=False))


def _is_list(kind):
    import pyarrow as pa

    return any(
        test(kind) for test in (pa.types.is_list, pa.types.is_large_list,
                                pa.types.is_fixed_size_list)
    )


def _regular_arrow(array):
    """Return lists of equal lengths as one array without copies, None if they differ."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shape = [len(array)]
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if not _is_list(array.type):
            break
        ends = pc.min_max(pc.list_value_length(array)).as_py()
        if array.null_count or ends["min"] != ends["max"]:
            return None
        shape.append(ends["min"])
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False).reshape(shape)


def _regular(cells):
    """Return cells of one shape as one array; else an object array of arrays and None."""
    arrays = [None if cell is None else _cell(cell) for cell in cells]
    shapes = {None if each is None else each.shape for each in arrays}
    if len(shapes) == 1 and None not in shapes:
        stacked = np.stack(arrays) if arrays else np.array([])
        if stacked.dtype != object:
            return stacked
    result = np.empty(len(arrays), dtype=object)
    for row, each in enumerate(arrays):
        result[row] = each.item() if each is not None and each.ndim == 0 else each
    return result


def _cell(value):
    """Return the content of a cell as an array; nested lists of one shape become numbers."""
    if isinstance(value, u.Quantity):
        value = value.value
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim:
        value = value.tolist()
        value = [each.tolist() if isinstance(each, np.ndarray) else each for each in value]
    try:
        return np.ma.asarray(value) if np.ma.isMaskedArray(value) else np.asarray(value)
    except ValueError:  # ragged
        ragged = np.empty(len(value), dtype=object)
        ragged[:] = value
        return ragged


# ---------------------------------------------------------------------- rows
def table_rows(table, options):
    """Return the objects of a table's rows.

    Parameters
    ----------
    table : `~astropy.table.Table`, ``pandas.DataFrame``, ``pyarrow.Table`` or dict
        One object per row; a dict is one row.
    options : `~astroclip.preparation.reading.ReadOptions`
        What the user says of columns and units.

    Returns
    -------
    list of tuple
        One ``(modality, data, row, identity)`` per object, in the order of rows: as in
        `~astroclip.preparation.objects.SingleObject`, where ``identity`` is a dict of what the
        row says of ``id``, ``ra``, ``dec`` and ``redshift``. A row with a spectrum and an image
        is two objects of one id.

    Raises
    ------
    PreparationError
        If no columns are those of spectra or images.
    """
    columns = _columns(table)
    if not columns or not len(next(iter(columns.values())).values):
        msg = "is a table without rows; expected one per object."
        raise PreparationError(msg)
    n_rows = len(next(iter(columns.values())).values)
    if "embedding" in columns:
        msg = (
            "is a table of embeddings already; expected spectra or images. Pass it to a "
            "SimilarityIndex or an estimator as it is."
        )
        raise PreparationError(msg)
    unit = None if options.unit is None else u.Unit(options.unit)
    given = Given(
        unit, options.flux, options.wavelength, options.ivar, options.error, options.mask
    )
    spectra = _spectrum_group(columns, given, n_rows)
    images = _image_columns(columns, options.bands)
    if spectra is None and not images:
        msg = f"is a table with the columns {_listed(columns)}, none of them known. {HELP}."
        raise PreparationError(msg)
    identities = _identities(columns, n_rows)
    found = [[] for _ in range(n_rows)]
    if spectra is not None:
        for row, data, part in _spectra(*spectra, given):
            if data is not None:
                found[row].append(("spectrum", data, part, identities[row]))
    for row in range(n_rows) if images else ():
        image = _image(columns, images, row, unit, options.bands)
        if image is not None:
            found[row].append(("image", image, None, identities[row]))
    for row in range(n_rows):
        if not found[row]:
            modality = "spectrum" if spectra is not None else "image"
            fault = PreparationError(f"(row {row} of the table) has no {modality}: it is empty.")
            found[row].append((modality, fault, None, identities[row]))
    return [one for row in found for one in row]


def read_table_rows(path, options):
    """Return what `table_rows` does of a Parquet file with columns of lists; None of others."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            return None
    try:
        from pyarrow import types
        from pyarrow.parquet import read_schema, read_table

        kinds = read_schema(path).types
    except Exception:  # the reader of spectra says what is wrong or missing
        return None
    if not any(types.is_nested(getattr(kind, "storage_type", kind)) for kind in kinds):
        return None
    try:
        return table_rows(read_table(path), options)
    except PreparationError as error:
        raise PreparationError(f"path {str(path)!r} {error}", flag=error.flag) from error


def _listed(columns):
    """Return columns with units and shapes of their cells, as messages show them."""
    texts = []
    for name, array in list(columns.items())[:30]:
        shape = np.shape(array.values)[1:]
        more = [array.unit] if array.unit else []
        more += [f"arrays of shape {shape}"] if shape else []
        texts.append(name + (f" [{', '.join(more)}]" if more else ""))
    return ", ".join(texts) + (", ..." if len(columns) > 30 else "")


def _spectrum_group(columns, given, n_rows):
    """Return the columns that are parts of the spectra and their roles, None if there is none."""
    if given.names():
        record = ArrayTable("the table", columns, n_rows=n_rows)
        short = {name.lower(): name for name in columns}
        for name in columns:  # `flux` also names spectrum.flux, where nothing else is
            short.setdefault(re.split(r"[.]", name)[-1].lower(), name)
        named = {
            role: name if name in columns else short.get(name.lower(), name)
            for role, name in given.names().items()
        }
        given = Given(given.unit, **named)
        if not {"flux", "wavelength"} <= find_roles(record, given).keys():
            prefix = re.match(r".*[._/]", named.get("flux") or named.get("wavelength") or "")
            own = prefix[0] if prefix else ""
            parts = {key: value for key, value in columns.items() if key.startswith(own)}
            roles = {role_of(key[len(own):]): key for key in parts}
            named = {
                role: roles[role] for role in ("flux", "wavelength", "ivar", "error", "mask")
                if role in roles
            } | named
            given = Given(given.unit, **named)
        return record, find_roles(record, given)
    groups = {}
    for name, array in columns.items():
        prefix = re.match(r".*[.]", name) or SPECTRUM.match(name)
        prefix = prefix[0] if prefix else ""
        if not IMAGE.match(prefix):
            groups.setdefault(prefix, {})[name[len(prefix) :]] = array
    found = {}
    for prefix, arrays in groups.items():
        if {"flux", "wavelength"} <= {role_of(name) for name in arrays}:
            record = ArrayTable("the table", arrays, n_rows=n_rows)
            found[prefix] = record, find_roles(record, Given(given.unit))
    if len(found) > 1:
        msg = (
            f"is a table with several spectra per row, in {', '.join(map(repr, found))}; expected "
            f"one. Name its columns with flux=, wavelength= and ivar=, such as "
            f"flux={next(iter(found)) + 'flux'!r}."
        )
        raise PreparationError(msg)
    return next(iter(found.values()), None)


def _spectra(record, roles, given):
    """Yield row, spectra and the row's place in them; a None or an error instead of spectra.

    Rows that share their wavelengths are rows of one Spectrum.
    """
    arrays = {role: record.arrays[name].read() for role, name in roles.items()}
    bare = BARE if given.unit is None else BARE._replace(unit=given.unit)
    unit = flux_unit(
        record.arrays[roles["flux"]].unit, given.unit, bare, f"the table, column {roles['flux']},"
    )
    if any(np.ndim(values) == 1 and values.dtype != object for values in arrays.values()):
        single = [roles[role] for role, values in arrays.items() if np.ndim(values) == 1]
        msg = (
            f"is a table with one number per row in {', '.join(single)}; expected arrays, one "
            f"object per row. Read a table of the pixels of one spectrum into a Spectrum."
        )
        raise PreparationError(msg)
    groups = {}
    for row in range(record.n_rows):
        if arrays["flux"][row] is None or not np.size(arrays["flux"][row]):
            yield row, None, None
            continue
        groups.setdefault(_grid_key(arrays, row), []).append(row)
    for rows in groups.values():
        present = {
            role: values for role, values in arrays.items() if values[rows[0]] is not None
        }
        try:
            if "wavelength" not in present:
                raise PreparationError("the table has flux and no wavelength in this row.")
            parts = {
                role: _numbers(values, rows, role) for role, values in present.items()
            }
            parts["wavelength"] = parts["wavelength"][0].astype(float)
            names = {role: name for role, name in roles.items() if role in present}
            spectrum = column_spectrum(parts, names, record, unit, given, BARE)
        except (PreparationError, TypeError, ValueError) as error:
            for row in rows:
                fault = PreparationError(f"(row {row} of the table) cannot be used: {error}")
                yield row, fault, None
            continue
        for part, row in enumerate(rows):
            yield row, spectrum, part


def _grid_key(arrays, row):
    """Return what rows of one Spectrum share: wavelengths and the shapes of all parts."""
    wavelength = arrays["wavelength"][row]
    shapes = tuple(None if values[row] is None else np.shape(values[row])
                   for values in arrays.values())
    if wavelength is None:
        return shapes
    digest = hashlib.blake2b(np.ascontiguousarray(np.ma.filled(wavelength, -1)), digest_size=16)
    return digest.digest(), shapes


def _numbers(values, rows, role):
    """Return the parts of some rows as one plain array (row, pixel)."""
    whole = values.dtype != object and len(rows) == len(values)
    chosen = values if whole else np.ma.stack([values[row] for row in rows])
    masked = np.ma.getmaskarray(chosen) if np.ma.isMaskedArray(chosen) else None
    chosen = np.asarray(chosen)
    if role not in ("mask", "good") and chosen.dtype.kind != "f":
        chosen = chosen.astype(float)
    chosen = chosen.astype(chosen.dtype.newbyteorder("="), copy=False)
    if masked is not None and masked.any():
        chosen = np.where(masked, {"mask": 1, "good": 0}.get(role, np.nan), chosen)
    return chosen


def _identities(columns, n_rows):
    """Return what each row says of its id, position and redshift."""
    result = [{} for _ in range(n_rows)]
    if (key := find_column(columns, "id")) is not None:
        warn_rounded(columns[key].values, f"column {key!r} of the table")
        for row, value in enumerate(columns[key].values):
            result[row]["id"] = plain_id(value)
    for what in ("ra", "dec", "redshift"):
        key = find_column(columns, what)
        if key is None or np.ndim(columns[key].values) != 1:
            continue
        try:
            values = np.ma.filled(np.ma.asarray(columns[key].values, dtype=float), np.nan)
        except (TypeError, ValueError):
            continue
        own = parse_unit(columns[key].unit)
        if what == "redshift":
            values = plain_redshifts(values, f"column {key!r} of the table")
        elif own is not None and own.is_equivalent(u.deg):
            values = values * own.to(u.deg)
        for row, value in enumerate(values):
            result[row][what] = float(value)
    return result


# ---------------------------------------------------------------------- images
def _image_columns(columns, bands):
    """Return the columns of images by role, or by band; empty if there are none."""
    for prefix in dict.fromkeys(
        match[0] for name in columns if (match := re.match(r".*[.]", name) or IMAGE.match(name))
    ):
        parts = {
            name[len(prefix) :].lower(): name for name in columns if name.startswith(prefix)
        }
        named = next((parts[key] for key in ("band", "bands", "filter") if key in parts), None)
        pixels = next((parts[key] for key in ("flux", "array", "data") if key in parts), None)
        if pixels is not None and (named is not None or bands is not None):
            if _n_axes(columns[pixels].values) != 3:
                continue
            return {"stack": pixels, "band": named} | {
                role: parts[name]
                for role, names in {
                    "ivar": ("ivar", "invvar"), "error": ("error", "err", "sigma"),
                    "mask": ("mask",), "scale": ("scale", "pixel_scale", "pixscale"),
                }.items()
                for name in names
                if name in parts
            }
    found = {}
    for name, array in columns.items():
        match = re.fullmatch(r"(?:image|cutout|img|flux)[._/](.+)|(.+)[._/](?:image|cutout)", name,
                             re.IGNORECASE)
        if match and _n_axes(array.values) == 2:
            band = match[1] or match[2]
            try:
                canonical_band(band)
            except ValueError:
                continue
            found[band] = name
    if found:
        return {"bands": found}
    stack = next(
        (name for name in columns if name.lower() in ("image", "images", "cutout")
         and _n_axes(columns[name].values) == 3), None,
    )
    return {"stack": stack, "band": None} if stack and bands is not None else {}


def _n_axes(values):
    """Return the number of axes of the arrays in a column's cells."""
    if values.dtype != object:
        return np.ndim(values) - 1
    return next((np.ndim(np.asarray(_cell(cell))) for cell in values if cell is not None), 0)


def _image(columns, names, row, unit, bands):
    """Return a row's image as a dict of band to CCDData, its error, or None if it has none."""
    try:
        if "bands" in names:
            cells = {band: columns[name].values[row] for band, name in names["bands"].items()}
            units = {band: columns[name].unit for band, name in names["bands"].items()}
            parts = {
                band: {"pixels": np.asarray(cell, dtype=np.float32)}
                for band, cell in cells.items() if cell is not None
            }
        else:
            cells = columns[names["stack"]].values[row]
            if cells is None:
                return None
            listed = columns[names["band"]].values[row] if names["band"] else bands
            listed = [str(b.decode() if isinstance(b, bytes) else b) for b in listed]
            units = dict.fromkeys(listed, columns[names["stack"]].unit)
            if len(listed) != len(cells):
                raise PreparationError(
                    f"the table has {len(cells)} planes and names {len(listed)} bands "
                    f"({', '.join(listed)}); expected a name for each."
                )
            if len(set(listed)) < len(listed):
                raise PreparationError(
                    f"the table names a band twice ({', '.join(listed)}); expected each once."
                )
            parts = {}
            for k, band in enumerate(listed):
                parts[band] = {"pixels": np.asarray(cells[k], dtype=np.float32)}
                for role in ("ivar", "error", "mask", "scale"):
                    if role in names and columns[names[role]].values[row] is not None:
                        cell = columns[names[role]].values[row]
                        parts[band][role] = cell if np.ndim(cell) == 0 else cell[k]
        return {
            band: _ccd(part, unit, units[band]) for band, part in parts.items()
        } or None
    except (PreparationError, TypeError, ValueError, IndexError) as error:
        return PreparationError(f"(row {row} of the table) cannot be used as an image: {error}")


def _ccd(part, unit, text):
    """Return the CCDData of a band; bare numbers are nanomaggies."""
    own = parse_unit(text)
    unit = own if own is not None else u.nmgy if unit is None else unit
    meta = {}
    if "scale" in part and np.isfinite(float(part["scale"])):
        meta["PIXSCALE"] = float(part["scale"])
    noise = {}
    if "ivar" in part:
        noise["uncertainty"] = InverseVariance(np.asarray(part["ivar"], float), unit=unit**-2)
    elif "error" in part:
        noise["uncertainty"] = StdDevUncertainty(np.asarray(part["error"], float), unit=unit)
    if "mask" in part:
        noise["mask"] = np.asarray(part["mask"]).astype(bool)
    return CCDData(part["pixels"], unit=unit, meta=meta, **noise)
