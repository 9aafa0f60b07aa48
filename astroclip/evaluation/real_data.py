"""Real objects with known redshifts: survey files read into spectra, and how they score."""

from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import Table
from specutils import Spectrum

from astroclip.estimation import PropertyEstimator
from astroclip.evaluation.observation import embed_quietly
from astroclip.metrics import nmad, outlier_fraction
from astroclip.preparation import read_spectra
from astroclip.redshifts.estimator import RedshiftEstimator
from astroclip.redshifts.head import read_redshift_heads

__all__ = [
    "estimate_redshifts",
    "has_redshift_head",
    "read_brown2014",
    "read_distant_object",
    "read_fors2",
    "read_real_sets",
    "read_real_spectra",
    "redshift_scores",
    "score_redshifts",
]

N_BRIGHTEST = 10


def has_redshift_head(model, modality="spectrum"):
    """Return whether a loaded model comes with a redshift head for a modality."""
    try:
        return modality in read_redshift_heads(model).heads
    except ValueError:
        return False


def score_redshifts(
    reference, spectra, redshift, *, n_neighbors=16, model="astroclip-small", method="neighbors"
):
    """Embed real spectra, estimate their redshifts and compare.

    Parameters
    ----------
    reference : `~astropy.table.QTable`
    spectra : sequence of `~specutils.Spectrum`
        Observed frame, vacuum.
    redshift : (N,) array-like
        Spectroscopic redshifts.
    n_neighbors : int
    model : str, path-like or EmbeddingModel
    method : str
        ``"neighbors"``, or ``"head"`` for the redshift head of the model.

    Returns
    -------
    table : `~astropy.table.Table`
        Columns ``id``, ``redshift``, ``estimate``, ``lower``, ``upper``, ``error``
        (dz / (1 + z)) and ``out_of_distribution``, and ``confidence`` of a head's estimates;
        objects that failed have NaN.
    scores : dict of str to float
        See `redshift_scores`.
    """
    table = estimate_redshifts(
        reference, embed_quietly(list(spectra), model), redshift,
        n_neighbors=n_neighbors, model=model, method=method,
    )
    return table, redshift_scores(table)


def estimate_redshifts(
    reference, queries, redshift, *, n_neighbors=16, model="astroclip-small", method="neighbors"
):
    """Return the table of `score_redshifts` for objects that are embedded already."""
    if method == "head":
        estimator = RedshiftEstimator(model=model).fit(reference, ["redshift"])
    else:
        estimator = PropertyEstimator(n_neighbors=n_neighbors).fit(reference, ["redshift"])
    estimates = estimator.predict(queries)
    true = np.asarray(redshift, dtype=float)
    predicted = np.asarray(estimates["redshift"], dtype=float)
    low, high = (
        np.asarray(estimates[f"redshift_{end}"], dtype=float) for end in ("lower", "upper")
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
    if method == "head":
        table["confidence"] = np.asarray(estimates["redshift_confidence"], dtype=float)
    return table


def redshift_scores(table):
    """Return the scores of estimated redshifts.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `score_redshifts`, or some of its rows.

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
        sure = order[: max(len(order) // 2, 1)]
        scores["beyond_0.05_confident"] = outlier_fraction(
            predicted[sure], true[sure], limit=0.05
        )
    return scores


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
    unit = u.erg / (u.s * u.cm**2 * u.AA)
    with np.load(path, allow_pickle=False) as archive:
        redshift, signal = archive["z"], archive["sn"]
        inside = (redshift > redshift_range[0]) & (redshift < redshift_range[1])
        order = np.flatnonzero(inside)[np.argsort(-signal[inside], kind="stable")]
        spectra = [
            Spectrum(
                flux=archive["flux"][row].astype(float) * unit,
                spectral_axis=archive["wavelength"] * u.AA,
                uncertainty=InverseVariance(archive["ivar"][row].astype(float), unit=unit**-2),
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
    unit = u.erg / (u.s * u.cm**2 * u.AA)
    with np.load(path, allow_pickle=False) as archive:
        redshift = archive["z"]
        spectra = [
            Spectrum(
                flux=flux * unit,
                spectral_axis=archive["wavelength_rest"] * (1 + value) * u.AA,
                meta={"id": f"brown2014-{name}"},
            )
            for flux, value, name in zip(archive["flux"], redshift, archive["name"], strict=True)
        ]
    return spectra, redshift


def read_distant_object(folder):
    """Read the DESI object at z = 2.866, beyond what any galaxy model here knows.

    Parameters
    ----------
    folder : path-like
        With ``desi/heldout_z287.npz``.

    Returns
    -------
    spectrum : `~specutils.Spectrum`
    redshift : float
    """
    return _read_merged(Path(folder) / "desi" / "heldout_z287.npz")


def _read_merged(path):
    """Return a merged DESI spectrum and its redshift from an archive of arrays."""
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


def read_real_spectra(folder):
    """Read the sixteen real spectra that every bundled model is judged by.

    Parameters
    ----------
    folder : path-like
        With ``fors2/fors2.npz``, ``sdss/spec-*.fits`` and ``desi/``.

    Returns
    -------
    spectra : list of `~specutils.Spectrum`
        The ten FORS2 galaxies of highest signal-to-noise ratio at 0.05 < z < 0.6, four
        SDSS and BOSS spectra, and DESI galaxies at z = 0.0073 and 0.2036.
    redshift : (16,) `numpy.ndarray`

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    folder = Path(folder)
    spectra, redshift = read_fors2(folder / "fors2" / "fors2.npz", redshift_range=(0.05, 0.6))
    spectra, redshift = spectra[:N_BRIGHTEST], list(redshift[:N_BRIGHTEST])
    for path in sorted((folder / "sdss").glob("spec-*.fits")):
        spectra += read_spectra(path)
        redshift.append(float(fits.getdata(path, 2)["Z"][0]))
    desi, known = _read_desi(folder / "desi")
    return [*spectra, *desi], np.array([*redshift, *known])


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


def _read_sdss(folder):
    """Return the spectra of SDSS files and the redshifts in their headers."""
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
    catalogue = fits.getdata(folder / "redrock-special-dark-27247.fits", "REDSHIFTS")
    merged, redshift = _read_merged(folder / "heldout_z020.npz")
    return [*spectra, merged], np.array([float(catalogue["Z"][0]), redshift])
