"""How good a model is: estimates and retrieval on simulated pairs, redshifts of real spectra."""

import warnings
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import Table
from specutils import Spectrum

from astroclip.estimation import PropertyEstimator
from astroclip.exceptions import FailedObjectWarning
from astroclip.metrics import nmad, outlier_fraction, r2_score, recall_at, retrieval_ranks
from astroclip.preparation import read_spectra

__all__ = [
    "read_brown2014",
    "read_distant_object",
    "read_fors2",
    "read_real_spectra",
    "score_estimates",
    "score_redshifts",
    "score_retrieval",
]

N_BRIGHTEST = 10


def score_estimates(reference, queries, truth, *, n_neighbors=64, modality=None):
    """Return R2, interval coverage and width of k-NN estimates for every property.

    Parameters
    ----------
    reference : `~astropy.table.QTable`
        Embedding table with the properties as columns.
    queries : `~astropy.table.QTable`
        Embedding table of held-out objects of one modality.
    truth : dict of str to (N,) array-like
        True properties of the queries by name.
    n_neighbors : int
    modality : str, optional
        Estimate from reference rows of this modality instead of the queries' own.

    Returns
    -------
    `~astropy.table.Table`
        Columns ``property``, ``r2``, ``coverage_68`` (fraction of truths inside the
        interval) and ``out_of_distribution`` (fraction of queries so flagged).
    """
    if modality is not None:
        reference = reference[np.asarray(reference["modality"]) == modality]
    estimator = PropertyEstimator(n_neighbors=n_neighbors).fit(reference, list(truth))
    estimates = estimator.predict(queries)
    rows = []
    for name, values in truth.items():
        predicted, low, high = (
            np.asarray(u.Quantity(estimates[f"{name}{suffix}"]).value)
            for suffix in ("", "_lower", "_upper")
        )
        values = np.asarray(values, dtype=float)
        inside = np.mean((values >= low) & (values <= high))
        unusual = np.mean(estimates["out_of_distribution"])
        rows.append((name, r2_score(predicted, values), float(inside), float(unusual)))
    return Table(rows=rows, names=("property", "r2", "coverage_68", "out_of_distribution"))


def score_retrieval(queries, targets, *, n_pairs=1000):
    """Return recall at 1, 5 and 10 and the median rank of paired embeddings.

    Parameters
    ----------
    queries, targets : (N, D) array-like
        Row i of both is the same object; the first ``n_pairs`` are used.
    n_pairs : int

    Returns
    -------
    dict of str to float
        ``recall_1``, ``recall_5``, ``recall_10``, ``median_rank`` (one is best).
    """
    queries, targets = queries[:n_pairs], targets[:n_pairs]
    scores = {f"recall_{n}": recall_at(queries, targets, n) for n in (1, 5, 10)}
    scores["median_rank"] = float(np.median(retrieval_ranks(queries, targets)) + 1)
    return scores


def score_redshifts(reference, spectra, redshift, *, n_neighbors=16, model="astroclip-small"):
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

    Returns
    -------
    table : `~astropy.table.Table`
        Columns ``id``, ``redshift``, ``estimate``, ``lower``, ``upper``, ``error``
        (dz / (1 + z)) and ``out_of_distribution``; objects that failed have NaN.
    scores : dict of str to float
        ``nmad``, ``beyond_0.01`` and ``beyond_0.05`` of those that did not fail,
        ``coverage_68`` and ``n_failed``.
    """
    from astroclip.embedding import embed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)  # counted in the scores
        queries = embed(list(spectra), model=model)
    estimator = PropertyEstimator(n_neighbors=n_neighbors).fit(reference, ["redshift"])
    estimates = estimator.predict(queries)
    true = np.asarray(redshift, dtype=float)
    predicted = np.asarray(estimates["redshift"], dtype=float)
    low, high = (
        np.asarray(estimates[f"redshift_{end}"], dtype=float) for end in ("lower", "upper")
    )
    good = np.isfinite(predicted)
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
    scores = {
        "nmad": nmad(predicted[good], true[good]),
        "beyond_0.01": outlier_fraction(predicted[good], true[good], limit=0.01),
        "beyond_0.05": outlier_fraction(predicted[good], true[good], limit=0.05),
        "coverage_68": float(np.mean((true >= low)[good] & (true <= high)[good])),
        "n_failed": float(np.sum(~good)),
    }
    return table, scores


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
    spectra += read_spectra(folder / "desi" / "coadd-special-dark-27247.fits")
    catalogue = fits.getdata(folder / "desi" / "redrock-special-dark-27247.fits", "REDSHIFTS")
    redshift.append(float(catalogue["Z"][0]))
    merged, value = _read_merged(folder / "desi" / "heldout_z020.npz")
    return [*spectra, merged], np.array([*redshift, value])
