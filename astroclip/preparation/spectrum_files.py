"""Files of spectra to specutils objects: survey formats, tables by column name, images."""

import contextlib
import re
import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from specutils import Spectrum, SpectrumCollection, SpectrumList
from specutils.io.registers import identify_spectrum_format

from astroclip.exceptions import AstroclipWarning, PreparationError
from astroclip.preparation.arms import merge_arms
from astroclip.preparation.batches import FLUX_UNIT
from astroclip.preparation.reading import (
    checked_path,
    file_stem,
    fits_source,
    is_fits,
    is_truncated,
)
from astroclip.preparation.spectrum_images import image_spectra
from astroclip.preparation.spectrum_tables import (
    HELP,
    Array,
    ArrayTable,
    Convention,
    Given,
    bad_pixels,
    column_spectra,
    declared_medium,
    find_roles,
    role_of,
)
from astroclip.preparation.unit_strings import given_unit, parse_unit

__all__ = ["read_spectra"]

# Bits of SDSS's SPPIXMASK that say a pixel has no valid flux: FULLREJECT 18, NOSKY 22, NODATA
# 24 (all "INVVAR=0") and COMBINEREJ 25. The others are remarks (bright sky, scattered light,
# a bad pixel nearby). https://classic.sdss.org/dr7/dm/flatFiles/spPlate.html
SDSS_BAD = 1 << 18 | 1 << 22 | 1 << 24 | 1 << 25
# LAMOST: BADCCD, BADPROFILE, NOSKY, BADCENTER, NODATA; bit 3, BRIGHTSKY, is a remark.
LAMOST_BAD = 0b110111
SDSS = Convention("SDSS", FLUX_UNIT, medium="vacuum", bad_bits=SDSS_BAD)
LAMOST = Convention(
    "LAMOST", FLUX_UNIT, is_relative=True, medium="vacuum", bad_bits=LAMOST_BAD
)
DESI = Convention("DESI", FLUX_UNIT, medium="vacuum")
GAMA = Convention("GAMA", FLUX_UNIT)
# https://pypeit.readthedocs.io/en/stable/out_onespec.html
PYPEIT = Convention("PypeIt", medium="vacuum", mask_is_good=True)
OWN = ("SDSS", "LAMOST", "PypeIt")  # of these, tables and images are read here, not by specutils
SPACE = Convention("HST or JWST", medium="vacuum")
UNKNOWN = Convention()
# Loaders of specutils that guess columns, or whose formats are read here by their documents.
NOT_ASKED = re.compile(
    r"tabular-fits|wcs1d-fits|iraf|generic|ECSV|ASCII|IPAC|SDSS-III/IV|SDSS-I/II|SDSS spPlate"
    r"|SDSS-V spec|SDSS-V mwm|DESI|GAMA$|6dFGS|MUSCLES|Data Central|Multiline|Single-Split",
    re.IGNORECASE,
)
TABLE_FORMATS = (
    (b"%ECSV", "ascii.ecsv"), (b"<VOTABLE", "votable"), (b"PAR1", "parquet"),
)
COADDS = ("COADD", "SPECTRUM", "SCIENCE", "SPEC", "DATA", "1D SPECTRUM")


def read_spectra(
    path, *, unit=None, flux=None, wavelength=None, ivar=None, error=None, mask=None
):
    """Read the spectra of a file.

    Survey formats are read as their documents say: DESI coadds and spectra (arms and the
    exposures of a target are merged), SDSS, BOSS and SDSS-V ``spec``, ``spSpec``,
    ``spPlate`` and ``mwm`` files, LAMOST, ESO phase 3, 6dFGS, GAMA, IRAF multispec. Other
    instruments go through the loader of specutils that identifies the file. Tables (FITS,
    ECSV, CSV, VOTable, Parquet) are read by the names and units of their columns, images by
    their header. Files that say too little are refused.

    Parameters
    ----------
    path : path-like
        The file, plain or compressed.
    unit : `~astropy.units.Unit` or str, optional
        Unit of flux that has none of its own.
    flux, wavelength, ivar, error, mask : str, optional
        Names of the columns (of a table) or extensions (of images) that hold them, upper or
        lower case; ``wavelength="WAVE [nm]"`` also gives a unit that is missing. True or
        nonzero in ``mask`` is bad.

    Returns
    -------
    list of `~specutils.Spectrum`
        One per object, observed frame; ``meta`` holds ``id``, ``header``, ``medium``
        (``"air"`` or ``"vacuum"``) where the file declares it, and ``ra`` and ``dec``
        (degrees) where it gives them.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    PreparationError
        If the file is damaged, or does not say which of its arrays are the spectrum's.
    """
    path = checked_path(path)
    given = Given(given_unit(unit), flux, wavelength, ivar, error, mask)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            spectra = _read_fits(path, given) if is_fits(path) else _read_table(path, given)
    except PreparationError as fault:
        raise PreparationError(
            f"path {str(path)!r} cannot be read as spectra: {fault}", flag=fault.flag
        ) from fault
    except Exception as fault:  # astropy raises whatever it meets in damaged files
        raise PreparationError(
            f"path {str(path)!r} cannot be read as spectra: its data end early, or do not fit what "
            f"its header says. Check that the file is complete, or read it with another tool and "
            f"pass a Spectrum."
        ) from fault
    header = spectra[0].meta.get("header", {}) if spectra else {}
    if unit is None and str(header.get("TELESCOP", "")).upper().startswith("LAMOST"):
        warnings.warn(
            f"LAMOST gives flux without absolute calibration: it is taken in units of {FLUX_UNIT}, "
            f"so its shape counts and its level means nothing. Pass unit= to say another.",
            AstroclipWarning,
            stacklevel=2,
        )
    for number, spectrum in enumerate(spectra):
        suffix = spectrum.meta.pop("fiber", number)
        stem = file_stem(path)
        spectrum.meta.setdefault("id", stem if len(spectra) == 1 else f"{stem}-{suffix}")
    return spectra


# ---------------------------------------------------------------------- FITS
def _read_fits(path, given):
    """Return the spectra of a FITS file."""
    with fits.open(fits_source(path), memmap=False) as hdus:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            contents = _contents(hdus)
        if is_truncated(caught):
            raise PreparationError(
                f"it is damaged or incomplete, for it does not end with an extension. Get it "
                f"again. What can be read is {contents}."
            )
        try:
            return _fits_spectra(path, hdus, given)
        except PreparationError as error:
            raise PreparationError(f"{error} The file holds {contents}.") from error


def _fits_spectra(path, hdus, given):
    """Return the spectra of an open FITS file by the first of the ways that knows it."""
    convention, header = _convention(hdus), hdus[0].header
    if not given.names() and (arms := _desi_arms(hdus)):
        return _desi_spectra(hdus, arms)
    is_own = convention.name in OWN
    tables = _spectrum_tables(hdus, given) if is_own or given.names() else None
    is_own = is_own and (tables or "COEFF0" in header or "CRVAL1" in header)
    if not (is_own or given.names()) and (spectra := _specutils_spectra(path, hdus, convention)):
        return spectra
    tables = _spectrum_tables(hdus, given) if tables is None else tables
    if tables:
        spectra = [
            spectrum
            for table in tables
            for spectrum in column_spectra(table, given, convention)
        ]
    elif any(hdu.is_image and hdu.shape for hdu in hdus):
        spectra = image_spectra(hdus, given, convention)
    else:
        raise PreparationError(f"it has no columns of flux and wavelength. {HELP}.")
    if len(spectra) == 1:
        for axis, value in _position(header).items():
            spectra[0].meta.setdefault(axis, value)
    return spectra


def _convention(hdus):
    """Return the `Convention` of the survey that a file says it is of."""
    header = hdus[0].header
    telescope = str(header.get("TELESCOP", "")).upper()
    if telescope.startswith("LAMOST"):
        return LAMOST
    is_sdss = "V_ASTRA" in header or str(header.get("VERS2D", "")).startswith("v")
    if telescope.startswith("SDSS") or "PLATEID" in header or is_sdss:
        return SDSS
    if str(header.get("SURVEY", "")).strip().upper() == "GAMA":
        return GAMA
    if "FIBERMAP" in hdus:
        return DESI
    columns = [{c.lower() for c in hdu.columns.names} for hdu in hdus if not hdu.is_image]
    if any({"flux", "loglam", "ivar", "and_mask", "or_mask"} <= names for names in columns):
        return SDSS
    if telescope in ("HST", "JWST"):
        return SPACE
    spectra = [hdu.header for hdu in hdus if hdu.header.get("DMODCLS") == "OneSpec"]
    if spectra:
        return PYPEIT._replace(unit=FLUX_UNIT if spectra[0].get("FLUXED") else None)
    return UNKNOWN


def _position(header):
    """Return ra and dec in degrees as far as a header gives the object's."""
    for ra, dec in (("PLUG_RA", "PLUG_DEC"), ("RAOBJ", "DECOBJ"), ("RA", "DEC")):
        position = header.get(ra), header.get(dec)
        if all(isinstance(value, float | int) for value in position):
            return {"ra": float(position[0]), "dec": float(position[1])}
    return {}


def _spectrum_tables(hdus, given):
    """Return the `ArrayTable` of each table extension that is to be read."""
    tables = []
    for number, hdu in enumerate(hdus):
        if not isinstance(hdu, fits.BinTableHDU | fits.TableHDU) or isinstance(
            hdu, fits.CompImageHDU
        ):
            continue
        table = _array_table(number, hdu, hdus[0].header)
        roles = {role_of(name) for name in table.arrays}
        lower = {name.lower() for name in table.arrays}
        utypes = " ".join(array.utype.lower() for array in table.arrays.values())
        named = {value.lower() for value in given.names().values()}
        named = {re.sub(r"\s*[\[(].*", "", value) for value in named} | named
        if table.n_rows and _n_pixels(hdu) > 1 and (
            {"flux", "wavelength"} <= roles
            or "fluxaxis.value" in utypes
            or (given.flux and lower & named)
        ):
            tables.append((hdu.name, table))
    if given.names() and len(tables) > 1:
        # the table that has most of the names
        def count(entry):
            lower = {name.lower() for name in entry[1].arrays}
            return sum(value.lower() in lower for value in given.names().values())

        best = max(map(count, tables))
        tables = [entry for entry in tables if count(entry) == best]
    for chosen in (
        [table for name, table in tables if name.upper() in COADDS],
        [table for name, table in tables if name.upper().startswith("BOSS")],  # SDSS-V's mwm
        [table for name, table in tables if name.upper().startswith("APOGEE")],
    ):
        if chosen and len(tables) > 1:
            return chosen
    if len(tables) > 1:
        raise PreparationError(
            f"{len(tables)} of its tables could be the spectrum: "
            f"{', '.join(table.label for _, table in tables)}. Write the one you want to a file "
            f"of its own, or pass a Spectrum."
        )
    for _, table in tables:
        missing = {"flux", "wavelength"} - find_roles(table, given).keys()
        if missing:
            raise PreparationError(
                f"{table.label} has no column named as {' or '.join(sorted(missing))}. {HELP}."
            )
    return [table for _, table in tables]


def _n_pixels(hdu):
    """Return how many values the columns called flux hold, of arrays of any length many."""
    sizes = [
        np.inf if "P" in column.format or "Q" in column.format
        else hdu.header["NAXIS2"] * int(np.prod(hdu.columns.dtype[column.name].shape or 1))
        for column in hdu.columns
        if role_of(column.name) == "flux"
    ]
    return max(sizes, default=np.inf)


def _array_table(number, hdu, primary):
    """Return the `ArrayTable` of a FITS table; its data are read when they are asked for."""
    arrays = {}
    for k, column in enumerate(hdu.columns, start=1):
        arrays[column.name] = Array(
            lambda name=column.name: _native(hdu.data[name]),
            column.unit,
            str(hdu.header.get(f"TUTYP{k}", "")),
            str(hdu.header.get(f"TUCD{k}", "")),
        )
    header = primary.copy()
    header.extend(hdu.header, unique=True, strip=True)
    n_rows = hdu.header["NAXIS2"]
    table = ArrayTable(f"table {hdu.name or number}", arrays, header, n_rows)
    log_linear = str(hdu.header.get("CTYPE", "")).upper() == "LOG-LINEAR"
    if log_linear and "NPIXELS" in hdu.header and "wavelength" not in map(role_of, arrays):
        # SDSS-V's mwmVisit
        cards = (hdu.header[key] for key in ("CRVAL", "CDELT", "NPIXELS"))
        start, step, n_pixels = cards
        arrays["wavelength"] = Array(
            np.broadcast_to(10.0 ** (start + step * np.arange(n_pixels)), (n_rows, n_pixels)),
            "Angstrom",
        )
    return table


def _native(values):
    """Return a column in the machine's byte order, rows of variable length as objects."""
    values = np.asarray(values)
    if values.dtype.hasobject:
        values = np.array([None, *map(np.asarray, values)], dtype=object)[1:]
        lengths = {len(value) for value in values}
        return np.stack(list(values)) if len(lengths) == 1 else values
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _contents(hdus):
    """Return what a FITS file holds, in words."""
    parts = []
    for number, hdu in enumerate(hdus):
        name = f"{number} {hdu.name}".strip()
        if hdu.is_image:
            if hdu.shape:
                parts.append(f"{name}: image {hdu.shape}")
        else:
            columns = [
                column.name + (f" [{column.unit}]" if column.unit else "")
                for column in hdu.columns[:12]
            ]
            more = ", ..." if len(hdu.columns) > 12 else ""
            parts.append(
                f"{name}: table of {hdu.header['NAXIS2']} rows with {', '.join(columns)}{more}"
            )
    return "; ".join(parts[:10]) + ("; ..." if len(parts) > 10 else "") if parts else "no data"


# ---------------------------------------------------------------------- specutils
def _specutils_spectra(path, hdus, convention):
    """Return the spectra of an instrument's file that a loader of specutils identifies."""
    for kind in (SpectrumList, Spectrum, SpectrumCollection):
        labels = identify_spectrum_format(path, dtype=kind)
        labels = [labels] if isinstance(labels, str) else list(labels or [])
        labels = [label for label in labels if not NOT_ASKED.search(label)]
        if not labels:
            continue
        if any(re.search("cube|s3d|s2d|rss", label, re.IGNORECASE) for label in labels):
            shapes = [hdu.shape for hdu in hdus if hdu.is_image and len(hdu.shape) > 1]
            raise PreparationError(
                f"it is a {labels[0]} file with arrays of shape {shapes[:1]}, whose spaxels are "
                f"parts of an object, not objects. Take one spectrum from it and pass "
                f"Spectrum(flux=values * unit, spectral_axis=wavelength)."
            )
        try:
            content = kind.read(path, format=labels[0])
        except Exception as error:
            raise PreparationError(
                f"it looks like a file of {labels[0]}, but specutils cannot read it as one. Name "
                f"its columns with flux= and wavelength=, or pass a Spectrum."
            ) from error
        spectra = [content] if isinstance(content, Spectrum) else list(content)
        # Data Central's files list the science spectrum and its sky, raw counts and so on
        kinds = {s.meta.get("purpose") for s in spectra}
        wanted = next((kind for kind in ("combined", "reduced") if kind in kinds), None)
        science = [s for s in spectra if s.meta.get("purpose") == wanted]
        spectra = [one for s in science or spectra for one in _single_rows(s)]
        medium = declared_medium(hdus[0].header, convention)
        for spectrum in spectra:
            spectrum.meta.setdefault("header", hdus[0].header)
            if medium is not None:
                spectrum.meta.setdefault("medium", medium)
        return spectra
    return []


def _single_rows(spectrum):
    """Return the rows of a Spectrum with 2-D flux as Spectrum objects."""
    if spectrum.flux.ndim == 1:
        return [spectrum]
    if spectrum.flux.ndim > 2:
        raise PreparationError(
            f"it is a cube of shape {spectrum.flux.shape}, whose spaxels are parts of an object, "
            f"not objects. Take one spectrum from it and pass that."
        )
    return [
        Spectrum(
            flux=spectrum.flux[row],
            spectral_axis=spectrum.spectral_axis,
            uncertainty=None if spectrum.uncertainty is None else spectrum.uncertainty[row],
            mask=None if spectrum.mask is None else spectrum.mask[row],
            meta={"header": spectrum.meta.get("header", {})},
        )
        for row in range(spectrum.flux.shape[0])
    ]


# ---------------------------------------------------------------------- DESI
def _desi_arms(hdus):
    """Return the names of the arms a DESI file holds, in order of wavelength."""
    names = {hdu.name.upper() for hdu in hdus}
    arms = [
        name[: -len("_WAVELENGTH")]
        for name in names
        if name.endswith("_WAVELENGTH") and name.replace("_WAVELENGTH", "_FLUX") in names
    ]
    return sorted(arms, key=lambda arm: hdus[f"{arm}_WAVELENGTH"].data[0])


def _desi_spectra(hdus, names):
    """Return one spectrum per target of a DESI coadd or spectra file."""
    header = hdus[0].header
    fibermap = Table(hdus["FIBERMAP"].data) if "FIBERMAP" in hdus else None
    arms = []
    for name in names:
        if f"{name}_IVAR" not in hdus:
            raise PreparationError(
                f"arm {name} has no {name}_IVAR; expected inverse variances as in DESI's files."
            )
        data = {
            kind: _native(hdus[f"{name}_{kind}"].data)
            for kind in ("WAVELENGTH", "FLUX", "IVAR", "MASK")
            if f"{name}_{kind}" in hdus
        }
        unit = parse_unit(hdus[f"{name}_FLUX"].header.get("BUNIT")) or FLUX_UNIT
        flux = np.atleast_2d(data["FLUX"])
        arms.append(
            Spectrum(
                flux=flux * unit,
                spectral_axis=data["WAVELENGTH"] * u.AA,
                uncertainty=InverseVariance(np.atleast_2d(data["IVAR"]), unit=unit**-2),
                # any bit of DESI's mask makes a pixel unusable: the survey's own coadds skip it
                mask=bad_pixels(np.atleast_2d(data["MASK"])) if "MASK" in data else None,
                meta={"header": header, "fibermap": fibermap, "band": name.lower()},
            )
        )
    merged = merge_arms(arms)
    spectra = []
    for row in range(merged.flux.shape[0]):
        meta = {"header": header, "medium": "vacuum"}
        for key in ("id", "ra", "dec"):
            if key in merged.meta:
                value = merged.meta[key][row]
                meta[key] = str(value) if key == "id" else float(value)
        spectra.append(
            Spectrum(
                flux=merged.flux[row],
                spectral_axis=merged.spectral_axis,
                uncertainty=InverseVariance(
                    merged.uncertainty.array[row], unit=merged.uncertainty.unit
                ),
                mask=merged.mask[row],
                meta=meta,
            )
        )
    return spectra


# ---------------------------------------------------------------------- other tables
def _read_table(path, given):
    """Return the spectra of a table that is not FITS."""
    with path.open("rb") as file:
        start = file.read(2048)
    kind = next((name for mark, name in TABLE_FORMATS if mark in start), None)
    suffix = path.suffix.lower()
    if b"\x00" in start and kind is None:
        raise PreparationError(
            "it is neither FITS nor a table in text, VOTable or Parquet. Read it with the tool "
            "that wrote it and pass a Spectrum."
        )
    options = {"format": kind} if kind else {"format": "csv" if suffix == ".csv" else "ascii"}
    if kind == "votable":
        options.update(table_id=0, use_names_over_ids=True)
    try:
        table = Table.read(path, **options)
    except ImportError as error:
        raise PreparationError(
            "it is a Parquet file, and pyarrow, which reads them, is not installed. Install it: "
            "pip install pyarrow."
        ) from error
    except Exception as error:
        raise PreparationError(
            "it is neither FITS nor a table (ECSV, CSV, VOTable, Parquet, columns of text) that "
            "astropy reads. Check that the file is complete, or read it with another tool and "
            "pass a Spectrum."
        ) from error
    if len(table.colnames) == 1 and ";" in table.colnames[0]:
        table = Table.read(path, format="ascii.basic", delimiter=";")
    arrays = {}
    for name in table.colnames:
        column = table[name]
        text = getattr(column, "unit", None)
        meta = {k.lower(): str(v) for k, v in (getattr(column, "meta", None) or {}).items()}
        values = getattr(column, "value", column)
        arrays[name] = Array(
            _rows_of_lists(values), None if text is None else str(text),
            meta.get("utype", ""), meta.get("ucd", ""),
        )
    header = fits.Header()
    for key, value in table.meta.items():
        if isinstance(value, str | int | float | bool):
            with contextlib.suppress(ValueError):
                header[str(key)[:8]] = value
    record = ArrayTable("the table", arrays, header, len(table))
    columns = ", ".join(
        name + (f" [{array.unit}]" if array.unit else "") for name, array in arrays.items()
    )
    contents = f"a table of {len(table)} rows with the columns {columns}"
    try:
        if not len(table):
            raise PreparationError("it holds no rows of a table. Check that the file is complete.")
        missing = {"flux", "wavelength"} - find_roles(record, given).keys()
        if missing:
            raise PreparationError(
                f"it has no column named as {' or '.join(sorted(missing))}. {HELP}."
            )
        return column_spectra(record, given, UNKNOWN)
    except PreparationError as error:
        raise PreparationError(f"{error} The file holds {contents}.") from error


def _rows_of_lists(values):
    """Return a column whose rows are lists as a 2-D array, where their lengths agree."""
    is_ragged = np.ma.asarray(values).dtype.hasobject and len(values)
    return _native(values) if is_ragged and not isinstance(values[0], str) else values
