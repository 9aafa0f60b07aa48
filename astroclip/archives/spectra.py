"""Spectra as every archive here gives them."""

import numpy as np
from astropy.nddata import InverseVariance
from specutils import Spectrum

__all__ = ["make_spectrum"]


def make_spectrum(
    flux, wavelength, ivar, mask, *, archive, id, redshift, redshift_error, redshift_warning,
    object_class, ra, dec, survey,
):
    """Return a spectrum whose meta says what it is and where it comes from.

    Parameters
    ----------
    flux, wavelength : (P,) `~astropy.units.Quantity`
        Observed frame, vacuum.
    ivar : (P,) array-like or `~astropy.nddata.InverseVariance`
    mask : (P,) bool array-like or None
        True where bad; pixels of zero ivar are bad anyway.
    archive : Archive
    id : str
    redshift, redshift_error : float
        NaN where unknown.
    redshift_warning : int
        0 if the archive trusts its redshift.
    object_class : str
        Such as "GALAXY".
    ra, dec : float
        Degrees.
    survey : str

    Returns
    -------
    `~specutils.Spectrum`
    """
    ivar = np.asarray(getattr(ivar, "array", ivar), dtype=float)
    bad = ~(np.isfinite(ivar) & (ivar > 0))
    if mask is not None:
        bad |= np.asarray(mask, dtype=bool)
    meta = {
        "archive": archive.name, "id": str(id), "medium": "vacuum", "redshift": redshift,
        "redshift_error": redshift_error, "redshift_warning": redshift_warning,
        "class": object_class, "ra": ra, "dec": dec, "survey": survey,
        "credit": archive.credit,
    }
    return Spectrum(
        flux=flux,
        spectral_axis=np.asarray(wavelength.value, dtype=float) * wavelength.unit,
        uncertainty=InverseVariance(ivar),
        mask=bad,
        redshift=redshift if np.isfinite(redshift) else 0.0,
        meta=meta,
    )
