"""Samples and numbers that hold the simulator against real data, for the documentation."""

import dataclasses

import numpy as np
import torch
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from astropy.table import Table
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.special import gammainc
from scipy.stats import ks_2samp
from speclite import filters

from astroclip.preparation.resampling import resample_flux
from astroclip.simulation.cameras import observe_images
from astroclip.simulation.contaminants import make_quasars, make_stars
from astroclip.simulation.pairs import Selection, select_galaxies
from astroclip.simulation.population import draw_galaxies
from astroclip.simulation.spectra import SpectrumSimulator
from astroclip.simulation.spectrographs import (
    WAVELENGTH,
    noise_templates,
    observe_spectra_desi,
    observe_spectra_sdss,
)

MAIN_LIMIT = 17.77  # r, SDSS main galaxy sample
MAIN = Selection(1.0, MAIN_LIMIT, (0.003, 0.35))
RECOMBINATION = {"hb": 4862.68, "o3": 5008.24, "ha": 6564.61, "n2": 6585.27}  # vacuum, A
SEED = 20


# ---------------------------------------------------------------------- samples
def sdss_basis(basis):
    """Return the basis with SDSS g, r, z curves in place of DECam's."""
    wavelength = basis.filter_wavelength
    curves = filters.load_filters("sdss2010-g", "sdss2010-r", "sdss2010-z")
    response = np.stack(
        [np.interp(wavelength, c.wavelength, c.response, left=0, right=0) for c in curves]
    )
    reference = 3.631e-20 * 2.99792458e18 / wavelength**2
    weighted = response * wavelength
    norm = (weighted * reference).sum(axis=1, keepdims=True)
    return dataclasses.replace(basis, filters=weighted / norm)


def magnitudes(flux):
    """Return AB magnitudes of nanomaggies."""
    return 22.5 - 2.5 * np.log10(np.maximum(flux, 1e-9))


def simulated_main_sample(basis, n_galaxies):
    """Return galaxies with SDSS r < 17.77 and their g, r, z magnitudes (N, 3)."""
    simulator = SpectrumSimulator(sdss_basis(basis))
    galaxies = select_galaxies(np.random.default_rng(SEED), n_galaxies, simulator, MAIN)
    return galaxies, magnitudes(galaxies.bulge_flux + galaxies.disc_flux)


def real_main_samples(folder):
    """Return redshift, r, g - r and r - z of SDSS galaxies with r < 17.77, by sample.

    ``zoo`` has the galaxies with Galaxy Zoo votes. ``2mass`` has those of the kcorrect
    package, every one detected by 2MASS: at low luminosity it prefers red galaxies. Its
    r is Petrosian and its colors are of model magnitudes.
    """
    table = Table.read(folder / "catalogues" / "sdss_galaxies_5000.csv")
    zoo = [np.asarray(table[f"mag_{band}"], dtype=float) for band in "grz"]
    zoo_z = np.asarray(table["redshift"], dtype=float)
    table = Table(fits.getdata(folder / "catalogues" / "kcorrect_sdss_10000.fits"))
    red = np.asarray(table["EXTINCTION"])
    model = magnitudes(np.asarray(table["MODELFLUX"])) - red
    petrosian = magnitudes(np.asarray(table["PETROFLUX"])[:, 2]) - red[:, 2]
    samples = {
        "zoo": (zoo_z, zoo[1], zoo[0] - zoo[1], zoo[1] - zoo[2]),
        "2mass": (
            np.asarray(table["Z"], dtype=float), petrosian,
            model[:, 1] - model[:, 2], model[:, 2] - model[:, 4],
        ),
    }
    return {name: tuple(v[usable(*values)] for v in values) for name, values in samples.items()}


def usable(z, r, g_r, r_z):
    """Return True for galaxies of the main sample with sensible colors."""
    good = (r < MAIN_LIMIT) & (r > 13.5) & (z > MAIN.redshift_range[0])
    return good & (z < MAIN.redshift_range[1]) & (np.abs(g_r) < 3) & (np.abs(r_z) < 3)


def half_light_radius(galaxies):
    """Return semi-major half-light radii (arcsec) in r of bulge and disc together."""
    radius = np.geomspace(0.05, 60, 400)[None]
    share = galaxies.bulge_flux[:, 1] / (galaxies.bulge_flux + galaxies.disc_flux)[:, 1]
    index = galaxies.bulge_index[:, None]
    coefficient = 2 * index - 1 / 3 + 4 / (405 * index)
    major = (galaxies.bulge_radius / np.sqrt(galaxies.bulge_axis_ratio))[:, None]
    bulge = gammainc(2 * index, coefficient * (radius / major) ** (1 / index))
    disc = gammainc(2, radius / (galaxies.disc_radius[:, None] / 1.678))
    total = share[:, None] * bulge + (1 - share[:, None]) * disc
    return np.array([np.interp(0.5, row, radius[0]) for row in total])


def real_sizes(folder):
    """Return r magnitudes, radii (arcsec) and redshifts of SDSS galaxies by visual type.

    Spirals have the exponential, ellipticals the de Vaucouleurs, others the geometric
    mean of both radii.
    """
    table = Table.read(folder / "catalogues" / "sdss_galaxies_5000.csv")
    r, z = (np.asarray(table[name], dtype=float) for name in ("mag_r", "redshift"))
    exponential, vaucouleurs = (np.asarray(table[n], float) for n in ("expRad_r", "deVRad_r"))
    radius = np.where(table["spiral"] == 1, exponential, np.sqrt(exponential * vaucouleurs))
    radius = np.where(table["elliptical"] == 1, vaucouleurs, radius)
    good = (r > 13.5) & (r < MAIN_LIMIT) & (radius > 0.1) & (z > 0.003)
    return r[good], radius[good], z[good]


# ---------------------------------------------------------------------- numbers
def compare(name, real, simulated, quantiles=(16, 50, 84)):
    """Return a row: name, quantiles of both and the Kolmogorov-Smirnov distance."""
    real, simulated = (np.asarray(v, dtype=float) for v in (real, simulated))
    show = [" / ".join(f"{q:.3g}" for q in np.percentile(v, quantiles)) for v in (real, simulated)]
    offset = np.median(simulated) - np.median(real)
    distance = ks_2samp(real, simulated).statistic
    return name, *show, f"{offset:+.3f}", f"{distance:.2f}"


def absolute_magnitude(r, redshift):
    """Return r minus the distance modulus, without a K correction."""
    modulus = FlatLambdaCDM(70, 0.3).distmod(redshift).value
    return r - modulus


def in_bins(name, x_real, y_real, x_simulated, y_simulated, edges):
    """Return a comparison of ``y`` in every bin of ``x``."""
    rows = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        chosen = [(x >= low) & (x < high) for x in (x_real, x_simulated)]
        if min(mask.sum() for mask in chosen) > 20:
            label = f"{name}, {low:g} to {high:g}"
            rows.append(compare(label, y_real[chosen[0]], y_simulated[chosen[1]]))
    return rows


# ---------------------------------------------------------------------- noise
def sky_statistics(image):
    """Return the scatter and the correlation at lags of 1 to 4 pixels of an empty sky."""
    level = np.median(image)
    rough = 1.4826 * np.median(np.abs(image - level))
    bright = np.abs(gaussian_filter(image, 2) - level) > rough
    sky = np.where(binary_dilation(bright, iterations=4), np.nan, image)
    sky = sky - np.nanmean(sky)
    variance = np.nanmean(sky**2)
    lags = [
        0.5 * np.nanmean(sky[:, lag:] * sky[:, :-lag])
        + 0.5 * np.nanmean(sky[lag:] * sky[:-lag])
        for lag in range(1, 5)
    ]
    return np.sqrt(variance), np.array(lags) / variance


def real_sky(folder):
    """Return sky statistics of a DR9 field in g, r, z in pixels of 0.524 arcsec."""
    with fits.open(folder / "images" / "cutout_59.1067_-30.4848.fits") as hdus:
        images = [hdus[k].data.astype(float) for k in (1, 3, 5)]
    binned = [image.reshape(128, 2, 128, 2).sum(axis=(1, 3)) for image in images]
    return [sky_statistics(image) for image in binned]


def simulated_sky(n_images=60):
    """Return the same of simulated empty images, one list for every band."""
    seeing = torch.tensor([[1.4, 1.25, 1.2]]).expand(n_images, 3)
    generator = torch.Generator().manual_seed(SEED)
    seen = observe_images(torch.zeros(n_images, 3, 128, 128), seeing, generator).pixels.numpy()
    return [[sky_statistics(image.astype(float)) for image in seen[:, b]] for b in range(3)]


# ---------------------------------------------------------------------- spectra
def read_desi(folder):
    """Return wavelength, flux and sigma of a DESI galaxy at z = 0.2036, and its redshift."""
    with np.load(folder / "desi" / "heldout_z020.npz", allow_pickle=False) as archive:
        ivar = np.where(archive["mask"], 0.0, archive["ivar"]).astype(float)
        sigma = np.where(ivar > 0, np.maximum(ivar, 1e-12) ** -0.5, np.nan)
        return archive["wavelength"], archive["flux"].astype(float), sigma, float(archive["z_true"])


def read_sdss(path):
    """Return wavelength, flux and sigma of an SDSS spectrum, its redshift and line fluxes."""
    with fits.open(path) as hdus:
        data, z = hdus[1].data, float(hdus[2].data["Z"][0])
        names = {name.lower(): name for name in data.names}
        ivar = data[names["ivar"]].astype(float)
        lines = {
            key: float(hdus[3].data["LINEAREA"][np.argmin(np.abs(hdus[3].data["LINEWAVE"] - w))])
            for key, w in RECOMBINATION.items()
        }
        sigma = np.where(ivar > 0, np.maximum(ivar, 1e-12) ** -0.5, np.nan)
        flux = data[names["flux"]].astype(float)
        return 10 ** data[names["loglam"]].astype(float), flux, sigma, z, lines


def on_model_grid(wavelength, flux, sigma):
    """Return flux and sigma resampled to the model's grid, NaN where there is no data."""
    good = np.isfinite(sigma)
    ivar = np.where(good, np.nan_to_num(sigma, nan=1.0) ** -2.0, 0.0)
    seen = resample_flux(wavelength, flux[None], ivar[None], ~good[None], WAVELENGTH)
    empty = seen.mask[0] | ~(seen.ivar[0] > 0)
    error = np.where(empty, 1.0, seen.ivar[0]) ** -0.5
    return (np.where(empty, np.nan, values) for values in (seen.flux[0], error))


def most_similar(simulator, flux, sigma, redshift, *, instrument, n_drawn=600):
    """Return the simulated galaxy most like a spectrum on the model's grid.

    Galaxies are drawn above r = 20, put at the redshift and compared with a free scale
    and a free slope of the calibration. The result is its noiseless spectrum and its flux
    as the instrument records it.
    """
    rng = np.random.default_rng(SEED)
    galaxies = draw_galaxies(rng, n_drawn, r_limit=20.0, redshift_range=(0.02, 0.3))
    galaxies.redshift = np.full(n_drawn, redshift)
    fraction = np.full(n_drawn, 0.35)
    clean = simulator.spectra(galaxies, fraction, 0.7 * fraction, WAVELENGTH).numpy()
    use = np.isfinite(flux) & (np.abs(WAVELENGTH - 6500) < 2650)
    slope = (WAVELENGTH - 6500) / 2650
    weight = 1 / (sigma[use] ** 2 + (0.03 * flux[use]) ** 2)
    best, least = None, np.inf
    for row in clean:
        design = np.stack([row, row * slope], axis=1)
        inside = design[use]
        normal = inside.T @ (inside * weight[:, None])
        factor = np.linalg.solve(normal, inside.T @ (flux[use] * weight))
        chi2 = (weight * (flux[use] - inside @ factor) ** 2).mean()
        if chi2 < least:
            least, best = chi2, design @ factor
    red = use & (np.abs(WAVELENGTH - 6800) < 400)
    return best, record(best, np.median(sigma[red]), np.median(flux[red]), instrument)


def record(spectrum, noise, level, instrument):
    """Return the flux recorded of a noiseless spectrum at a noise per pixel, NaN if masked."""
    flux = torch.from_numpy(np.asarray(spectrum, dtype=np.float32))[None]
    generator = torch.Generator().manual_seed(SEED)
    # of the noise at that brightness, what is the sky's: the photons' is added again
    photons = 0.04 * max(level, 0.0)
    sky = float(0.5 * (np.sqrt(photons**2 + 4 * noise**2) - photons))
    if instrument == "desi":
        per_pixel = 0.8 / (6800 * 1e-4 * np.log(10))
        limits = sky * per_pixel**-0.5, 1.001 * sky * per_pixel**-0.5
        seen = observe_spectra_desi(
            flux, generator, templates=noise_templates(), noise_range=limits
        )
    else:
        seen = observe_spectra_sdss(
            flux / 2.3, generator, templates=noise_templates(), noise_range=(sky, 1.001 * sky),
            boss_share=0.0,
        )
    return np.where(seen.mask[0], np.nan, seen.flux[0])


def line_ratios(simulator, galaxies):
    """Return log [N II]/H-alpha, log [O III]/H-beta, and H-alpha's equivalent width (A)."""
    bulge, disc, lines = simulator.rest_light(galaxies)
    flux = {
        key: lines[:, np.argmin(np.abs(simulator.basis.line_wavelength - w))].numpy()
        for key, w in RECOMBINATION.items()
    }
    from astroclip.simulation.spectra import NARROW_LINES

    nuclear = simulator._nuclear_lines(galaxies, bulge).numpy()
    for key, w in RECOMBINATION.items():
        column = np.argmin(np.abs(np.array(list(NARROW_LINES)) - w))
        flux[key] = flux[key] + nuclear[:, column]
    at = np.searchsorted(simulator.basis.wavelength, 6620.0)
    level = (bulge + disc)[:, at - 20 : at + 20].mean(dim=1).numpy()
    width = flux["ha"] / level
    return np.log10(flux["n2"] / flux["ha"]), np.log10(flux["o3"] / flux["hb"]), width


def read_skyserver(folder):
    """Return g - r, r - z, class and redshift of SDSS objects."""
    table = Table.read(folder / "catalogues" / "skyserver_10000.csv")
    g, r, z = (np.asarray(table[band], dtype=float) for band in "grz")
    good = (np.abs(g - r) < 3) & (np.abs(r - z) < 4)
    kind, redshift = np.asarray(table["class"]), np.asarray(table["redshift"], dtype=float)
    return g[good] - r[good], r[good] - z[good], kind[good], redshift[good]


def simulated_contaminants(basis):
    """Return g - r, r - z of simulated stars and quasars in SDSS bands, and redshifts."""
    curves = sdss_basis(basis)
    stars = make_stars(800, curves, seed=SEED)["magnitude"]
    quasars = make_quasars(800, curves, seed=SEED, redshift_range=(0.3, 3.0))
    colors = [(m[:, 0] - m[:, 1], m[:, 1] - m[:, 2]) for m in (stars, quasars["magnitude"])]
    return (*colors, quasars["redshift"])
