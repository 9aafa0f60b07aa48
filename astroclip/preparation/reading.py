"""Files to astropy objects: DESI and SDSS spectra, any that specutils reads, and cutouts."""

import warnings
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning
from astropy.wcs import WCS
from specutils import Spectrum, SpectrumList

from astroclip.exceptions import PreparationError
from astroclip.preparation.arms import are_arms, merge_arms
from astroclip.preparation.bands import header_bands

__all__ = ["file_modality", "read_images", "read_spectra"]

SDSS_FORMATS = ("SDSS-III/IV spec", "SDSS-I/II spSpec")  # older files, which are not identified


def file_modality(path):
    """Return what a file holds by its headers.

    Parameters
    ----------
    path : `pathlib.Path`

    Returns
    -------
    str
        ``"image"`` if it is FITS without tables or 1-D arrays and with an array of 2 or 3
        axes, else ``"spectrum"``, also if it cannot be opened: what the readers of spectra
        say of it is clearer.
    """
    try:
        if not _is_fits(path):
            return "spectrum"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)  # of truncated files
            with fits.open(path) as hdus:
                n_axes = [len(hdu.shape) for hdu in hdus if hdu.is_image]
                all_images = len(n_axes) == len(hdus)
    except (OSError, TypeError, ValueError):
        return "spectrum"
    holds_images = all_images and 1 not in n_axes and max(n_axes, default=0) >= 2
    return "image" if holds_images else "spectrum"


def _checked_path(path):
    """Return a path that names an existing file; raise an error that says what it is."""
    path = Path(path)
    if path.is_dir():
        msg = f"path {str(path)!r} is a directory; expected a file. Pass a list of its files."
        raise IsADirectoryError(msg)
    if not path.exists():
        msg = f"path {str(path)!r} does not exist; check the path."
        raise FileNotFoundError(msg)
    return path


def _is_fits(path):
    with Path(path).open("rb") as file:
        start = file.read(6)
    return start == b"SIMPLE" or start[:2] == b"\x1f\x8b"  # plain or compressed by gzip


def _unreadable(path, what, error):
    return PreparationError(
        f"path {str(path)!r} cannot be read as {what}: {error}. Check that the file is "
        f"complete, or read it with another tool and pass the object."
    )


# ---------------------------------------------------------------------- spectra
def read_spectra(path):
    """Read the spectra of a survey file through specutils.

    Parameters
    ----------
    path : path-like
        A DESI coadd (its arms are merged), an SDSS or BOSS ``spec-*.fits``, or any file
        that specutils identifies.

    Returns
    -------
    list of `~specutils.Spectrum`
        One per object, observed frame; ``meta`` holds ``id``, and ``ra`` and ``dec``
        (degrees) where the file gives them.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    PreparationError
        If the file is damaged or of a format that specutils does not know.
    """
    path = _checked_path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            spectra = _read_desi(path) if _is_desi(path) else _read_specutils(path)
            identity = _identities(path)
    except Exception as error:  # specutils raises whatever its loaders meet
        raise _unreadable(path, "spectra", error) from error
    for number, spectrum in enumerate(spectra):
        named = {key: values[number] for key, values in identity.items() if number < len(values)}
        stem = path.stem if len(spectra) == 1 else f"{path.stem}-{number}"
        spectrum.meta = {**spectrum.meta, "id": stem, **named}
    return spectra


def _is_desi(path):
    if not _is_fits(path):
        return False
    with fits.open(path) as hdus:
        return "B_WAVELENGTH" in hdus and "FIBERMAP" in hdus


def _read_desi(path):
    """Return the spectra of a DESI coadd, whose arms specutils gives one by one."""
    arms = SpectrumList.read(path, format="DESI coadd")
    merged = merge_arms(arms) if are_arms(arms) else arms[0]
    merged = merged if merged.flux.ndim == 2 else merged[None]
    header = merged.meta.get("header", {})
    return [
        Spectrum(
            flux=merged.flux[row],
            spectral_axis=merged.spectral_axis,
            uncertainty=InverseVariance(
                merged.uncertainty.array[row], unit=merged.uncertainty.unit
            ),
            mask=merged.mask[row],
            meta={"header": header},
        )
        for row in range(merged.flux.shape[0])
    ]


def _read_specutils(path):
    """Return the spectra of a file by whichever specutils loader takes it."""
    failures = []
    for reader, options in (
        (Spectrum.read, {}),
        (SpectrumList.read, {}),
        *((Spectrum.read, {"format": name}) for name in SDSS_FORMATS),
    ):
        try:
            content = reader(path, **options)
        except Exception as error:  # the next loader may know the file
            failures.append(str(error).strip().splitlines()[:1])
            continue
        spectra = list(content) if isinstance(content, SpectrumList) else [content]
        return [_sdss_mask(spectrum) for spectrum in spectra]
    reasons = "; ".join(line[0] for line in failures if line)
    raise ValueError(reasons or "no loader knows this file")


def _sdss_mask(spectrum):
    """Return an SDSS spectrum masked where ivar is zero; others unchanged.

    specutils masks every pixel with any bit of ``and_mask``, most of which are remarks
    (bright sky, scattered light): half a spectrum can go. SDSS sets ivar to zero where a
    pixel must not be used.
    """
    header = spectrum.meta.get("header", {})
    if "PLATEID" not in header or not isinstance(spectrum.uncertainty, InverseVariance):
        return spectrum
    mask = ~(np.asarray(spectrum.uncertainty.array) > 0)
    return Spectrum(
        flux=spectrum.flux, spectral_axis=spectrum.spectral_axis,
        uncertainty=spectrum.uncertainty, mask=mask, meta=spectrum.meta,
    )


def _identities(path):
    """Return ids and positions of a FITS file's objects, as far as it names them."""
    if not _is_fits(path):
        return {}
    with fits.open(path) as hdus:
        if "FIBERMAP" in hdus:
            table = hdus["FIBERMAP"].data
            return {
                "id": [str(value) for value in table["TARGETID"]],
                "ra": [float(value) for value in table["TARGET_RA"]],
                "dec": [float(value) for value in table["TARGET_DEC"]],
            }
        header = hdus[0].header
        ra, dec = (header.get(f"PLUG_{key}", header.get(key)) for key in ("RA", "DEC"))
        if isinstance(ra, float | int) and isinstance(dec, float | int):
            return {"ra": [float(ra)], "dec": [float(dec)]}
    return {}


# ---------------------------------------------------------------------- images
def read_images(path, *, bands=None, unit=None):
    """Read a cutout of several bands.

    Parameters
    ----------
    path : path-like
        A FITS file with one cube (band, y, x) or one image per band, as the Legacy
        Surveys' cutout service writes them; planes that their header calls inverse
        variances (``IMAGETYP`` or ``EXTNAME``) become uncertainties.
    bands : sequence of str, optional
        Names of the bands in order; from the header (``BANDS`` or ``BAND0``...) or g, r,
        z when three, by default.
    unit : `~astropy.units.Unit`, optional
        By default the header's ``BUNIT``, or nanomaggy for Legacy Survey files, which
        do not say theirs.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        With WCS, and uncertainty and mask where inverse variances are given.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    PreparationError
        If the file is damaged or holds no images of these bands.
    """
    path = _checked_path(path)
    headers, planes = [], []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyUserWarning)
            with fits.open(path) as hdus:
                headers.append(hdus[0].header)
                for hdu in hdus:
                    if not hdu.is_image or hdu.data is None or hdu.data.ndim < 2:
                        continue
                    data = np.asarray(hdu.data)
                    data = data.astype(data.dtype.newbyteorder("="), copy=False)
                    cube = data.reshape(-1, *data.shape[-2:])
                    planes.extend((hdu.header, plane) for plane in cube)
                    headers.append(hdu.header)
    except (OSError, TypeError, ValueError, IndexError) as error:
        raise _unreadable(path, "images", error) from error
    if not planes:
        raise _unreadable(path, "images", "it holds no image of two or more axes")
    images, ivars = _sort_planes(planes)
    names = _band_names(headers, images, bands)
    if names is None or len(images) != len(names) or len(ivars) not in (0, len(names)):
        raise _unreadable(
            path,
            "images",
            f"it holds {len(images)} images and {len(ivars)} inverse variances, and names the "
            f"bands {names}; pass bands",
        )
    try:
        unit = _image_unit(headers, unit)
    except ValueError as error:
        raise _unreadable(path, "images", f"its BUNIT is unknown, pass unit ({error})") from error
    ccds = {}
    for number, (name, (header, plane)) in enumerate(zip(names, images, strict=True)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(header, naxis=2)
        noise = {}
        if ivars:
            ivar = ivars[number][1]
            noise["uncertainty"] = InverseVariance(ivar, unit=unit**-2)
            noise["mask"] = ~(np.isfinite(ivar) & (ivar > 0))
        wcs = wcs if wcs.has_celestial else None
        ccds[name] = CCDData(plane, unit=unit, wcs=wcs, meta=dict(header), **noise)
    return ccds


def _sort_planes(planes):
    """Return images and inverse variances, as headers and planes, each in file order.

    Planes whose headers do not say what they are are images; of six such planes of three
    bands the last three are inverse variances.
    """
    images, ivars = [], []
    for header, plane in planes:
        words = " ".join(str(header.get(key, "")) for key in ("IMAGETYP", "EXTNAME")).lower()
        is_ivar = "invvar" in words or "ivar" in words
        (ivars if is_ivar else images).append((header, plane))
    if not ivars and len(planes) == 6:
        return images[:3], images[3:]
    return images, ivars


def _band_names(headers, images, bands):
    """Return band names from the argument, the headers or, for three bands, g r z."""
    if bands is not None:
        return list(bands)
    for header in headers:
        if named := header_bands(header):
            return named
    single = [header.get("BAND", header.get("FILTER")) for header, _ in images]
    if single and all(isinstance(name, str) for name in single):
        return [name.strip() for name in single]
    return ["g", "r", "z"] if len(images) == 3 else None


def _image_unit(headers, unit):
    """Return the unit of pixel values."""
    if unit is not None:
        return u.Unit(unit)
    for header in headers:
        if header.get("BUNIT"):
            return u.Unit(header["BUNIT"])
    survey = " ".join(str(h.get(key, "")) for h in headers for key in ("SURVEY", "VERSION"))
    legacy = any(word in survey for word in ("DECaLS", "LegacySurvey", "DR9", "DR10", "BASS"))
    return u.nmgy if legacy else u.dimensionless_unscaled
