"""Spectra kept as FITS images: wavelengths by the header, other arrays by name or row."""

import re
import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from specutils import SpectrumCollection

from astroclip.exceptions import PreparationError
from astroclip.preparation.identity import find_column
from astroclip.preparation.spectrum_tables import (
    Array,
    ArrayTable,
    Given,
    column_spectra,
    find_roles,
    split_unit,
)
from astroclip.preparation.unit_strings import parse_unit

__all__ = ["has_spectral_axis", "image_spectra", "spectral_axis_number"]

FLUX_NAMES = {"sci", "data", "spectrum", "spec", "science", "signal", "primary", "obj", "object"}
# Types of axis that are spectral: FITS' (Greisen et al. 2006, A&A 446, 747) and others' words.
STANDARD = ("WAVE", "AWAV", "FREQ", "ENER", "WAVN", "VRAD", "VOPT", "VELO", "ZOPT", "BETA")
OTHER = ("WAVELENGTH", "LAMBDA", "ANGSTROM", "MULTISPE", "LOGLAM", "LOG-LAM", "LOGLAMBDA")
# What the cards ROWn or ARRAYn of 2-D files call their rows; first match counts.
ROW_WORDS = (
    (r"no.?cal|continuum|sky|model|template", None),
    (r"inv.*var|ivar", "ivar"),
    (r"var", "variance"),
    (r"err|sigma|stdev|noise|std", "error"),
    (r"mask|qual", "mask"),
    (r"spectrum|flux|object|science|data", "flux"),
)
SIXDF_CARDS = ("OBSRA", "OBSDEC", "Z", "Z_HELIO", "QUALITY")


def spectral_axis_number(header):
    """Return the number of a header's spectral axis, 0 if none is declared."""
    if "COEFF0" in header or str(header.get("CTYPE1", "")).upper().startswith("MULTISPE"):
        return 1
    for axis in range(1, 5):
        kind = str(header.get(f"CTYPE{axis}", "")).strip().upper()
        unit = parse_unit(header.get(f"CUNIT{axis}"))
        if kind[:4] in STANDARD or kind.startswith(OTHER):
            return axis
        if unit is not None and unit != u.deg and unit.is_equivalent(u.AA, u.spectral()):
            return axis
    is_iraf = "DC-FLAG" in header or "APNUM1" in header
    return int(is_iraf or "label=wavelength" in str(header.get("WAT1_001", "")).lower())


def has_spectral_axis(header, shape):
    """Return whether an array holds spectra by its header, or by its shape if that is mute."""
    axis = spectral_axis_number(header)
    if axis:  # one of length 1 says at what frequency an image was taken
        return axis > len(shape) or shape[-axis] > 1
    if str(header.get("CTYPE1", ""))[:4].strip("-").upper() in ("RA", "DEC", "GLON", "GLAT"):
        return False
    real = [length for length in shape if length > 1]
    first = header.get("CRVAL1", 0)
    is_linear = str(header.get("CTYPE1", "")).strip().upper() == "LINEAR" and first > 1000
    return len(real) == 1 or (len(real) == 2 and real[1] >= 200 and (is_linear or real[0] <= 10))


def image_spectra(hdus, given, convention):
    """Return the spectra of a FITS file's image arrays.

    Parameters
    ----------
    hdus : `~astropy.io.fits.HDUList`
    given : `~astroclip.preparation.spectrum_tables.Given`
        Names of extensions.
    convention : `~astroclip.preparation.spectrum_tables.Convention`

    Returns
    -------
    list of `~specutils.Spectrum`
    """
    arrays, headers = {}, {}
    for number, hdu in enumerate(hdus):
        if hdu.is_image and hdu.shape:
            name = hdu.name or ("PRIMARY" if number == 0 else f"HDU{number}")
            name = name if name not in arrays else f"{name},{hdu.ver}"
            values = np.asarray(hdu.data)
            values = values.astype(values.dtype.newbyteorder("="), copy=False)
            arrays[name] = Array(values, hdu.header.get("BUNIT"))
            headers[name] = hdu.header
    label = "its image arrays"
    roles = find_roles(ArrayTable(label, arrays), given)
    for role, name in given.names().items():
        if text := split_unit(name)[1]:
            arrays[roles[role]] = arrays[roles[role]]._replace(unit=text)
    if "flux" not in roles:
        found = [name for name in arrays if name.lower() in FLUX_NAMES]
        found = found or [name for name in arrays if re.fullmatch(r"HDU\d+", name)]
        found = list(arrays) if len(arrays) == 1 else found
        if len(found) != 1:
            raise PreparationError(
                f"{len(found)} of its image arrays are named as flux would be: "
                f"{', '.join(arrays)} are there. Name the extension that is: flux= (on the command "
                f"line --flux)."
            )
        roles["flux"] = found[0]
    name = roles["flux"]
    header = _merged(hdus[0].header, headers[name])
    label = f"extension {name}"
    values = arrays[name].values
    if convention.name == "SDSS" and name == "PRIMARY" and _is_plate(hdus):
        # spPlate: flux, inverse variance, and-mask, by place
        roles.update(ivar=list(arrays)[1], mask=list(arrays)[2])
    if _is_iraf(header) and values.ndim > 1:
        columns = _iraf_arrays(header, values, arrays[name].unit, label)
    else:
        columns = _rows_or_extensions(hdus, roles, arrays, header, label, convention)
    if "wavelength" not in columns:
        n_pixels = columns["flux"].values.shape[-1]
        columns["wavelength"] = header_wavelengths(header, n_pixels, label)
    # arrays go by their roles from here on
    table = ArrayTable(label, columns, header)
    spectra = column_spectra(table, Given(unit=given.unit), convention)
    _identify_fibers(spectra, hdus, header)
    return spectra


def _merged(primary, header):
    """Return a header with the primary header's cards that it lacks."""
    if primary is header:
        return header
    merged = header.copy()
    merged.extend(primary, unique=True, strip=True)
    return merged


def _is_plate(hdus):
    """Return whether the first three arrays are flux, ivar and mask of many fibers."""
    shapes = [hdu.shape for hdu in hdus[:3] if hdu.is_image]
    return len(shapes) == 3 and len(set(shapes)) == 1 and len(shapes[0]) == 2


def _is_iraf(header):
    kind = str(header.get("CTYPE1", "")).upper()
    return kind.startswith("MULTISPE") or "APNUM1" in header or "BANDID1" in header


def _rows_or_extensions(hdus, roles, arrays, header, label, convention):
    """Return role: Array for one spectrum, or for one per row of several extensions."""
    values, unit = arrays[roles["flux"]].values, arrays[roles["flux"]].unit
    axis = spectral_axis_number(header)
    shape = values.shape
    values = np.squeeze(values)
    if values.ndim > 2 or (axis == 3 and values.ndim > 1):
        raise PreparationError(
            f"{label} is a cube of shape {shape}, whose spaxels are parts of an object, not "
            f"objects. Take one spectrum from it, such as the sum in an aperture: "
            f"Spectrum(flux=cube[:, y, x] * unit, spectral_axis=wavelength)."
        )
    if values.ndim == 0:
        raise PreparationError(f"{label} holds a single number; expected a spectrum.")
    is_alone = len(roles) == 1  # else the rows of each extension are objects
    if values.ndim == 2 and is_alone and (layout := _row_layout(header, values, convention)):
        columns = {role: Array(values[row]) for role, row in layout.items()}
        if convention.name != "SDSS":  # whose BUNIT, 1.0E-17 erg/cm/s/Ang, is short of a cm
            columns["flux"] = columns["flux"]._replace(unit=unit)
        return columns
    columns = {}
    turn = values.ndim == 2 and axis == 2
    for role, name in roles.items():
        other = np.squeeze(arrays[name].values)
        if role != "wavelength" and other.shape != values.shape:
            raise PreparationError(
                f"extension {name} ({role}) has shape {arrays[name].values.shape} beside flux of "
                f"shape {shape}; expected equal ones. Name another: {role}= (on the command line "
                f"--{role})."
            )
        columns[role] = arrays[name]._replace(
            values=other.T if turn and other.ndim == 2 else other
        )
        if role == "wavelength" and re.match("log", name, re.IGNORECASE):
            columns[role] = columns[role]._replace(unit="log10(Angstrom)")
    n_rows = len(columns["flux"].values)
    is_listed = any(isinstance(hdu, fits.BinTableHDU) and len(hdu.data) == n_rows for hdu in hdus)
    if values.ndim == 2 and is_alone and not is_listed:
        raise PreparationError(
            f"{label} has {n_rows} rows of {values.shape[1]} pixels, and nothing says whether they "
            f"are objects, places along a slit, or flux and errors of one object. Take the rows "
            f"you want and pass Spectrum(flux=row * unit, spectral_axis=wavelength)."
        )
    if turn:
        columns.setdefault("wavelength", header_wavelengths(header, len(values), label, axis=2))
    return columns


def _row_layout(header, values, convention):
    """Return role: row where the rows of a 2-D image are quantities of one spectrum."""
    n_rows = len(values)
    if convention.name == "SDSS" and n_rows in (4, 5):  # spSpec
        return {"flux": 0, "error": 2, "mask": 3}
    if convention.name == "LAMOST" and n_rows == 5:
        # row 2 holds wavelengths from DR1 on, a continuum-free spectrum in the pilot survey
        axis = np.diff(values[2])
        is_axis = (axis > 0).all() and values[2, 0] > 1000
        return {"flux": 0, "ivar": 1, "mask": 3, **({"wavelength": 2} if is_axis else {})}
    if n_rows in (3, 4) and all(card in header for card in SIXDF_CARDS):
        return {"flux": 0, "variance": 1}
    for card in ("ROW", "ARRAY"):
        layout = {}
        for row in range(n_rows):
            text = str(header.get(f"{card}{row + 1}", "")).lower()
            role = next((role for word, role in ROW_WORDS if re.search(word, text)), None)
            if text and role and role not in layout:
                layout[role] = row
        if "flux" in layout:
            return layout
    return None


# ---------------------------------------------------------------------- wavelengths
def header_wavelengths(header, n_pixels, label, axis=1):
    """Return the wavelengths (frequencies, energies) along an axis of an image, as an `Array`.

    Logarithmic axes are those of SDSS (``COEFF0``, ``COEFF1``), IRAF (``DC-FLAG`` 1) and
    FITS (``WAVE-LOG``); first pixels count from 1, as ``CRPIXn`` does.
    """
    pixel = np.arange(n_pixels) + 1.0
    if "COEFF0" in header and "COEFF1" in header:
        return Array(10.0 ** (header["COEFF0"] + header["COEFF1"] * (pixel - 1)), "Angstrom")
    kind = str(header.get(f"CTYPE{axis}", "")).strip().upper()
    start = header.get(f"CRVAL{axis}")
    step = header.get(f"CD{axis}_{axis}", header.get(f"CDELT{axis}"))
    if start is None or not step:
        raise PreparationError(
            f"{label} has no wavelengths: neither an array named as such nor CRVAL{axis} and "
            f"CDELT{axis} in its header. Name the extension that holds them: wavelength= (on the "
            f"command line --wavelength), or pass a Spectrum."
        )
    is_iraf_log = header.get("DC-FLAG", 0) == 1
    is_standard = kind[:4] in STANDARD and not kind.startswith(OTHER)
    if is_standard and kind not in ("WAVE", "AWAV") and not is_iraf_log:
        return _fits_wavelengths(header, n_pixels, axis)
    values = start + step * (pixel - header.get(f"CRPIX{axis}", 0.0))
    text = str(header.get(f"CUNIT{axis}") or "").strip()
    if not text:
        words = re.search(r"units=(\S+)", str(header.get(f"WAT{axis}_001", "")))
        text = words[1] if words else ""
    unit = parse_unit(text)
    if unit is not None and not unit.is_equivalent(u.AA, u.spectral()):
        unit = None
    is_sdss = str(header.get("TELESCOP", "")).startswith("SDSS")
    if is_iraf_log or "LOG" in kind or (is_sdss and values.max() < 6):
        return Array(10.0**values, str(unit or "Angstrom"))
    if unit is None and is_standard and values.max() < 1e-3:
        unit = u.m  # the standard's default
    if unit is None and not (values.min() > 1200 and values.max() < 1e5):
        raise PreparationError(
            f"{label} has an axis from {values[0]:.6g} to {values[-1]:.6g} of type {kind!r} "
            f"without a unit; expected wavelengths. Write CUNIT{axis} (and DC-FLAG = 1 if they are "
            f"logarithms) into the header, or pass a Spectrum."
        )
    return Array(values, str(unit or "Angstrom"))


def _fits_wavelengths(header, n_pixels, axis):
    """Return an axis of a type that FITS defines, by astropy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        wcs = WCS(header, naxis=[axis])
        values = wcs.all_pix2world(np.arange(n_pixels), 0)[0]
    return Array(values, str(wcs.wcs.cunit[0] or "m"))


# ---------------------------------------------------------------------- IRAF
def _iraf_arrays(header, values, unit, label):
    """Return role: Array of IRAF's apertures, one row each.

    ``BANDIDn`` says what the planes are: the extracted spectrum, raw, sky, sigma.
    """
    if values.ndim == 3:
        bands = [str(header.get(f"BANDID{n + 1}", "")).lower() for n in range(len(values))]
        spectrum = [n for n, text in enumerate(bands) if text.startswith("spectrum")]
        if len(values) == 1:
            spectrum = [0]
        if len(spectrum) != 1:
            raise PreparationError(
                f"{label} holds {len(values)} bands called {bands} (BANDIDn); expected one that "
                f"begins with 'spectrum'. Take the band you want and pass a Spectrum."
            )
        sigma = [n for n, text in enumerate(bands) if text.startswith("sigma")]
        columns = {"flux": Array(values[spectrum[0]], unit)}
        if sigma:
            columns["error"] = Array(values[sigma[0]], unit)
    elif "BANDID2" in header and "APNUM2" not in header:
        return _iraf_arrays(header, values[:, None], unit, label)
    else:
        columns = {"flux": Array(values, unit)}
    flux = columns["flux"].values
    if str(header.get("CTYPE1", "")).upper().startswith("MULTISPE"):
        columns["wavelength"] = _multispec_wavelengths(header, flux)
    else:
        columns["wavelength"] = header_wavelengths(header, flux.shape[1], label)
    axis = np.atleast_2d(columns["wavelength"].values)
    spans = np.sort(np.stack([axis.min(axis=1), axis.max(axis=1)], axis=1), axis=0)
    width = np.median(spans[:, 1] - spans[:, 0])
    if len(spans) > 1 and (np.diff(spans[:, 0]) > 0.5 * width).any():
        raise PreparationError(
            f"{label} holds {len(spans)} apertures that follow one another in wavelength "
            f"({spans[0, 0]:.0f}-{spans[0, 1]:.0f}, {spans[1, 0]:.0f}-{spans[1, 1]:.0f} ...): "
            f"orders of one object, which must be merged. Merge them first (IRAF's scombine)."
        )
    return columns


def _multispec_wavelengths(header, flux):
    """Return wavelengths (apertures, pixels) of IRAF's multispec format, by specutils."""
    clean = fits.Header(
        [card for card in header.cards if re.match(r"WAT2_|CRVAL|CD\d|CDELT|CRPIX", card.keyword)]
    )
    text = str(header.get("WAT1_001", "")) + str(header.get("WAT2_001", ""))
    words = re.search(r"units=[\"']?(\w+)", text)
    unit = parse_unit(words[1]) if words else u.AA
    clean.update({
        "WCSDIM": 2, "CTYPE1": "MULTISPE", "CTYPE2": "MULTISPE", "BUNIT": "adu",
        "WAT1_001": "wtype=multispec label=Wavelength units=Angstrom",
        "WAT2_999": " ",  # a single card is not understood
    })
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collection = SpectrumCollection.read(
            fits.HDUList([fits.PrimaryHDU(flux, clean)]), format="iraf"
        )
    return Array(collection.spectral_axis.value, str(unit or "Angstrom"))


# ---------------------------------------------------------------------- ids
def _identify_fibers(spectra, hdus, header):
    """Give the rows of a file of fibers their apertures, fibers and positions."""
    if len(spectra) < 2:
        return
    for hdu in hdus:
        names = hdu.columns.names if isinstance(hdu, fits.BinTableHDU) else []
        upper = {name.upper(): name for name in names}
        if not names or len(hdu.data) != len(spectra):
            continue
        key = next((upper[k] for k in ("TARGETID", "FIBERID", "FIBER", "ID", "NAME") if k in upper),
                   None)
        for row, spectrum in enumerate(spectra):
            if key == upper.get("TARGETID"):
                spectrum.meta["id"] = str(hdu.data[key][row]).strip()
            elif key:
                spectrum.meta["fiber"] = str(hdu.data[key][row]).strip()
            for axis in ("ra", "dec"):
                column = find_column(names, axis)
                if column is not None and hdu.data[column].dtype.kind == "f":
                    spectrum.meta[axis] = float(hdu.data[column][row])
        return
    for row, spectrum in enumerate(spectra):
        words = str(header.get(f"APNUM{row + 1}", "")).split()
        if words:
            spectrum.meta["fiber"] = words[0]
