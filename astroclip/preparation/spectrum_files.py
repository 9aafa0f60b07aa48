"""Files of spectra to specutils objects: DESI, SDSS and any that specutils reads."""

import warnings

import numpy as np
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.utils.exceptions import AstropyWarning
from specutils import Spectrum, SpectrumList

from astroclip.preparation.arms import are_arms, merge_arms
from astroclip.preparation.reading import checked_path, is_fits, unreadable

__all__ = ["read_spectra"]

SDSS_FORMATS = ("SDSS-III/IV spec", "SDSS-I/II spSpec")  # older files, which are not identified


def read_spectra(
    path, *, unit=None, flux=None, wavelength=None, ivar=None, error=None, mask=None
):
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
    path = checked_path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            spectra = _read_desi(path) if _is_desi(path) else _read_specutils(path)
            identity = _identities(path)
    except Exception as error:  # specutils raises whatever its loaders meet
        raise unreadable(path, "spectra", error) from error
    for number, spectrum in enumerate(spectra):
        named = {key: values[number] for key, values in identity.items() if number < len(values)}
        stem = path.stem if len(spectra) == 1 else f"{path.stem}-{number}"
        spectrum.meta = {**spectrum.meta, "id": stem, **named}
    return spectra


def _is_desi(path):
    if not is_fits(path):
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
    if not is_fits(path):
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
