"""Files of images to `~astropy.nddata.CCDData` by band."""

import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.utils.exceptions import AstropyUserWarning, AstropyWarning
from astropy.wcs import WCS

from astroclip.preparation.bands import header_bands
from astroclip.preparation.reading import checked_path, unreadable

__all__ = ["read_images"]


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
    path = checked_path(path)
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
        raise unreadable(path, "images", error) from error
    if not planes:
        raise unreadable(path, "images", "it holds no image of two or more axes")
    images, ivars = _sort_planes(planes)
    names = _band_names(headers, images, bands)
    if names is None or len(images) != len(names) or len(ivars) not in (0, len(names)):
        raise unreadable(
            path,
            "images",
            f"it holds {len(images)} images and {len(ivars)} inverse variances, and names the "
            f"bands {names}; pass bands",
        )
    try:
        unit = _image_unit(headers, unit)
    except ValueError as error:
        raise unreadable(path, "images", f"its BUNIT is unknown, pass unit ({error})") from error
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
