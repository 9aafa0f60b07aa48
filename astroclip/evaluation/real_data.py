"""Real objects with known answers: survey files read, and how redshifts of spectra score."""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import Table
from specutils import Spectrum

from astroclip.metrics import nmad, outlier_fraction
from astroclip.preparation import ImageBatch, read_spectra
from astroclip.training.observers import PIXEL_SCALE

__all__ = [
    "estimate_redshifts",
    "read_brown2014",
    "read_fors2",
    "read_merged_desi",
    "read_real_sets",
    "read_rings",
    "redshift_scores",
]

FLUX_UNIT = u.erg / (u.s * u.cm**2 * u.AA)
DISPLAY_SCALES = (2.2, 3.4, 6.0)  # red, green and blue of display images: z, r, g
DISPLAY_OFFSET = 0.03


# ---------------------------------------------------------------------- scores
def estimate_redshifts(estimator, queries, redshift):
    """Estimate redshifts of objects whose redshifts are known.

    Parameters
    ----------
    estimator : `astroclip.PropertyEstimator` or `astroclip.RedshiftEstimator`
        Fitted to ``redshift``.
    queries : `~astropy.table.QTable`
        Embedding table.
    redshift : (N,) array-like
        Spectroscopic redshifts.

    Returns
    -------
    `~astropy.table.Table`
        Columns ``id``, ``redshift``, ``estimate``, ``lower``, ``upper``, ``error``
        (dz / (1 + z)) and ``out_of_distribution``, and ``confidence`` where the estimator has
        one; objects that failed have NaN.
    """
    estimates = estimator.predict(queries)
    true = np.asarray(redshift, dtype=float)
    predicted, low, high = (
        np.asarray(estimates[f"redshift{suffix}"], dtype=float)
        for suffix in ("", "_lower", "_upper")
    )
    table = Table(
        {
            "id": queries["id"],
            "redshift": true,
            "estimate": predicted,
            "lower": low,
            "upper": high,
            "error": (predicted - true) / (1 + true),
            "out_of_distribution": estimates["out_of_distribution"],
        }
    )
    if "redshift_confidence" in estimates.colnames:
        table["confidence"] = np.asarray(estimates["redshift_confidence"], dtype=float)
    return table


def redshift_scores(table):
    """Return the scores of estimated redshifts.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `estimate_redshifts`, or some of its rows.

    Returns
    -------
    dict of str to float
        ``nmad``, ``beyond_0.01`` and ``beyond_0.05`` of those that did not fail (the latter
        also of the more confident half, as ``beyond_0.05_confident``, where the confidence
        is known), ``coverage_68`` and ``n_failed``.
    """
    good = table[np.isfinite(table["estimate"])]
    predicted, true = (np.asarray(good[name], dtype=float) for name in ("estimate", "redshift"))
    inside = (true >= good["lower"]) & (true <= good["upper"])
    scores = {
        "nmad": nmad(predicted, true),
        "beyond_0.01": outlier_fraction(predicted, true, limit=0.01),
        "beyond_0.05": outlier_fraction(predicted, true, limit=0.05),
        "coverage_68": float(np.mean(inside)),
        "n_failed": float(len(table) - len(good)),
    }
    if "confidence" in good.colnames:
        order = np.argsort(-np.asarray(good["confidence"]), kind="stable")
        half = order[: max(len(order) // 2, 1)]
        scores["beyond_0.05_confident"] = outlier_fraction(
            predicted[half], true[half], limit=0.05
        )
    return scores


# ---------------------------------------------------------------------- spectra
def read_real_sets(folder):
    """Read all real spectra with known redshifts, survey by survey.

    Parameters
    ----------
    folder : path-like
        With any of ``fors2/fors2.npz``, ``sdss/*.fits``, ``desi/`` and
        ``brown2014/brown2014.npz``.

    Returns
    -------
    dict of str to (list of `~specutils.Spectrum`, (N,) `numpy.ndarray`)
        Spectra and redshifts by the survey's name: ``FORS2`` (0.02 < z < 0.6), ``SDSS``,
        ``DESI`` and ``Brown et al.``, those that are there.

    Raises
    ------
    FileNotFoundError
        If there is none of them.
    """
    folder = Path(folder)
    readers = {
        "FORS2": (folder / "fors2" / "fors2.npz", read_fors2),
        "SDSS": (folder / "sdss", _read_sdss),
        "DESI": (folder / "desi", _read_desi),
        "Brown et al.": (folder / "brown2014" / "brown2014.npz", read_brown2014),
    }
    sets = {name: read(path) for name, (path, read) in readers.items() if path.exists()}
    if not sets:
        msg = (
            f"folder {str(folder)!r} holds no real spectra; expected any of "
            f"{[str(path.relative_to(folder)) for path, _ in readers.values()]}."
        )
        raise FileNotFoundError(msg)
    return sets


def read_fors2(path, *, redshift_range=(0.02, 0.6)):
    """Read the galaxies of the FORS2 survey of RXJ0054.0-2823 in a redshift range.

    Parameters
    ----------
    path : path-like
        ``fors2.npz``: wavelength (Angstrom), flux (erg/s/cm2/A), ivar, z and sn.
    redshift_range : (float, float)

    Returns
    -------
    spectra : list of `~specutils.Spectrum`
        Highest signal-to-noise ratio first.
    redshift : (N,) `numpy.ndarray`

    References
    ----------
    Giraud et al. (2011), RAA 11, 245.
    """
    with np.load(path, allow_pickle=False) as archive:
        redshift, signal = archive["z"], archive["sn"]
        inside = (redshift > redshift_range[0]) & (redshift < redshift_range[1])
        order = np.flatnonzero(inside)[np.argsort(-signal[inside], kind="stable")]
        wavelength, flux, ivar = (archive[name] for name in ("wavelength", "flux", "ivar"))
    spectra = [
        Spectrum(
            flux=flux[row].astype(float) * FLUX_UNIT,
            spectral_axis=wavelength * u.AA,
            uncertainty=InverseVariance(ivar[row].astype(float), unit=FLUX_UNIT**-2),
            meta={"id": f"fors2-{row}"},
        )
        for row in order
    ]
    return spectra, redshift[order]


def read_brown2014(path):
    """Read the spectral atlas of nearby galaxies of Brown et al., at their redshifts.

    Parameters
    ----------
    path : path-like
        ``brown2014.npz``: wavelength_rest (Angstrom), flux (erg/s/cm2/A), z and name.

    Returns
    -------
    spectra : list of `~specutils.Spectrum`
        Integrated spectra from drift scans, observed frame, without uncertainties.
    redshift : (N,) `numpy.ndarray`

    References
    ----------
    Brown et al. (2014), ApJS 212, 18.
    """
    with np.load(path, allow_pickle=False) as archive:
        redshift, wavelength = archive["z"], archive["wavelength_rest"]
        spectra = [
            Spectrum(
                flux=flux * FLUX_UNIT,
                spectral_axis=wavelength * (1 + value) * u.AA,
                meta={"id": f"brown2014-{name}"},
            )
            for flux, value, name in zip(archive["flux"], redshift, archive["name"], strict=True)
        ]
    return spectra, redshift


def _read_sdss(folder):
    """Return the spectra of SDSS files and the redshifts of their pipeline."""
    spectra, redshift = [], []
    for path in sorted(folder.glob("*.fits")):
        spectra += read_spectra(path)
        redshift.append(float(fits.getdata(path, 2)["Z"][0]))
    return spectra, np.array(redshift)


def _read_desi(folder):
    """Return DESI's galaxies at z = 0.0073, which is doubtful, and 0.2036.

    The first spectrum has a single line, at 5046 Angstrom. As [O III] 5007 it would have a
    companion at 4959 of a third of its flux, which is not there.
    """
    spectra = read_spectra(folder / "coadd-special-dark-27247.fits")
    catalog = fits.getdata(folder / "redrock-special-dark-27247.fits", "REDSHIFTS")
    merged, redshift = read_merged_desi(folder / "heldout_z020.npz")
    return [*spectra, merged], np.array([float(catalog["Z"][0]), redshift])


def read_merged_desi(path):
    """Read a DESI spectrum whose arms are merged.

    Parameters
    ----------
    path : path-like
        An ``.npz`` with wavelength (Angstrom), flux (1e-17 erg/s/cm2/A), ivar, mask,
        object_id and z_true.

    Returns
    -------
    spectrum : `~specutils.Spectrum`
    redshift : float
    """
    unit = u.Unit("1e-17 erg / (s cm2 AA)")
    with np.load(path, allow_pickle=False) as archive:
        spectrum = Spectrum(
            flux=archive["flux"].astype(float) * unit,
            spectral_axis=archive["wavelength"].astype(float) * u.AA,
            uncertainty=InverseVariance(archive["ivar"].astype(float), unit=unit**-2),
            mask=archive["mask"],
            meta={"id": f"desi-{archive['object_id']}"},
        )
        return spectrum, float(archive["z_true"])


# ---------------------------------------------------------------------- images
def read_rings(folder):
    r"""Read display images of galaxies with and without rings as images in nanomaggies.

    Parameters
    ----------
    folder : path-like
        With ``rings.npz`` (array ``rgb``, (N, 152, 152, 3) uint8) and ``rings.csv``
        (column ``ring``, 1 or 0).

    Returns
    -------
    images : `~astroclip.preparation.ImageBatch`
        Two by two pixels in one. The survey's stretch is undone, but for what it clipped.
    ring : (N,) bool `numpy.ndarray`

    Notes
    -----
    A display image is :math:`(f_b s_b + m)\, a / I` with
    :math:`a = \mathrm{arcsinh}(20 I) / \sqrt{20}` and I the mean of :math:`f_b s_b + m`
    over the bands: its own mean is a.
    """
    folder = Path(folder)
    ring = np.asarray(Table.read(folder / "rings.csv", format="ascii.csv")["ring"]) == 1
    with np.load(folder / "rings.npz", allow_pickle=False) as archive:
        display = archive["rgb"].astype(np.float32) / 255
    mean = display.mean(axis=3, keepdims=True)
    intensity = np.sinh(np.sqrt(20) * mean) / 20
    linear = display * intensity / np.maximum(mean, 1 / 255)
    pixels = (linear - DISPLAY_OFFSET) / np.array(DISPLAY_SCALES, np.float32)
    pixels = pixels[..., ::-1].transpose(0, 3, 1, 2)  # (N, 3, 152, 152): g, r, z
    n, n_bands, size, _ = pixels.shape
    pixels = pixels.reshape(n, n_bands, size // 2, 2, size // 2, 2).sum(axis=(3, 5))
    return ImageBatch.from_arrays(pixels, pixel_scale=PIXEL_SCALE), ring
