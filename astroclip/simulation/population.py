"""What a galaxy is: redshift, mass, star formation, dust and shape from published relations."""

import dataclasses

import numpy as np
from astropy.cosmology import FlatLambdaCDM

__all__ = ["COSMOLOGY", "GalaxySample", "draw_galaxies", "kpc_per_arcsec", "mass_function"]

COSMOLOGY = FlatLambdaCDM(70.0, 0.3)
LARGEST_REDSHIFT = 0.8  # the relations below are of galaxies nearer than this
LOG_MASS_RANGE = (7.0, 12.3)
SOLAR_R_MAGNITUDE = 4.65  # AB, absolute, DECam r


def kpc_per_arcsec(redshift):
    """Return the proper kpc that one arcsecond subtends."""
    return 1.0 / COSMOLOGY.arcsec_per_kpc_proper(redshift).value


@dataclasses.dataclass
class GalaxySample:
    """Physical properties of N galaxies, one array of length N each.

    Attributes
    ----------
    redshift : observed redshift
    log_stellar_mass : log10 of the surviving stellar mass, solar masses
    log_ssfr : log10 of the specific star-formation rate, 1/yr
    log_metallicity : log10 of the stellar metallicity, solar units
    bulge_to_total : fraction of the stellar mass in the bulge
    quiescent : True for galaxies off the star-forming sequence
    dust : V-band attenuation of the disc's stars, mag
    dust_slope : deviation of the attenuation curve's slope from Calzetti's
    axis_ratio, bulge_axis_ratio : minor over major axis as seen
    disc_radius, bulge_radius : half-light semi-major axes, arcsec
    bulge_index : Sersic index of the bulge
    bulge_dispersion, disc_dispersion, gas_dispersion : velocity dispersions, km/s
    log_ionization : ionization parameter log U of the H II regions
    bulge_age, formation_age : ages of the bulge and of the disc's first stars, Gyr
    burst : log10 of the last 100 Myr's star formation over its long-term average
    agn, liner : strength of narrow-line AGN and LINER-like emission, 1 = typical
    bulge_flux, disc_flux : (N, 3) total DECam g, r, z fluxes, nanomaggies
    """

    redshift: np.ndarray
    log_stellar_mass: np.ndarray
    log_ssfr: np.ndarray
    log_metallicity: np.ndarray
    bulge_to_total: np.ndarray
    quiescent: np.ndarray
    dust: np.ndarray
    dust_slope: np.ndarray
    axis_ratio: np.ndarray
    bulge_axis_ratio: np.ndarray
    disc_radius: np.ndarray
    bulge_radius: np.ndarray
    bulge_index: np.ndarray
    bulge_dispersion: np.ndarray
    disc_dispersion: np.ndarray
    gas_dispersion: np.ndarray
    log_ionization: np.ndarray
    bulge_age: np.ndarray
    formation_age: np.ndarray
    burst: np.ndarray
    agn: np.ndarray
    liner: np.ndarray
    bulge_flux: np.ndarray = None
    disc_flux: np.ndarray = None

    def __len__(self):
        return len(self.redshift)

    def __getitem__(self, index):
        return type(self)(
            **{name: None if a is None else a[index] for name, a in vars(self).items()}
        )

    @classmethod
    def concatenate(cls, samples):
        """Return one sample with the galaxies of several, in order."""
        return cls(
            **{
                name: None if first is None else np.concatenate([vars(s)[name] for s in samples])
                for name, first in vars(samples[0]).items()
            }
        )

    @property
    def r_magnitude(self):
        """Total DECam r magnitude (AB)."""
        return 22.5 - 2.5 * np.log10(self.bulge_flux[:, 1] + self.disc_flux[:, 1])


def mass_function(log_mass):
    """Return galaxies per Mpc^3 per dex of stellar mass.

    Parameters
    ----------
    log_mass : array-like
        log10 of the stellar mass in solar masses.

    References
    ----------
    Baldry et al. (2012), MNRAS 421, 621, double Schechter function of table 2.

    Examples
    --------
    >>> from astroclip.simulation.population import mass_function
    >>> bool(mass_function(9.0) > mass_function(11.0))
    True
    """
    x = 10 ** (np.asarray(log_mass) - 10.66)
    return np.log(10) * np.exp(-x) * (3.96e-3 * x**0.65 + 0.79e-3 * x**-0.47)


def _faintest_mass(redshift, r_limit):
    """Return the log mass below which no galaxy at ``redshift`` passes ``r_limit``.

    The bluest populations have log(M/L_r) near -0.6; one magnitude per unit redshift
    allows for the K correction of red galaxies.
    """
    absolute = r_limit - COSMOLOGY.distmod(redshift).value - 1.0 * redshift
    return 0.4 * (SOLAR_R_MAGNITUDE - absolute) - 0.6


def _draw_redshift_and_mass(rng, n_galaxies, r_limit, redshift_range, flat_redshift):
    """Return redshifts and log masses from volume times mass function above the limit."""
    redshift = np.linspace(*redshift_range, 1200)
    log_mass = np.linspace(*LOG_MASS_RANGE, 531)
    density = mass_function(log_mass)
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    faintest = np.clip(_faintest_mass(redshift, r_limit), *LOG_MASS_RANGE)
    below = np.interp(faintest, log_mass, cumulative)
    weight = np.ones_like(redshift)
    if not flat_redshift:
        weight = (cumulative[-1] - below) * COSMOLOGY.differential_comoving_volume(redshift).value
    share = np.cumsum(weight)
    drawn = np.interp(rng.random(n_galaxies), share / share[-1], redshift)
    start = np.interp(drawn, redshift, below)
    rank = start + (cumulative[-1] - start) * rng.random(n_galaxies)
    return drawn, np.interp(rank, cumulative, log_mass)


def _star_formation(rng, log_mass, age):
    """Return the quiescent flag and log sSFR (1/yr): Speagle et al. (2014), eq. 28.

    Lowered by 0.12 dex, halfway to Renzini & Peng (2015): the full rates make the blue
    galaxies of a r < 17.8 sample 0.1 mag bluer in g - r than SDSS's.
    """
    n = len(log_mass)
    quiescent = rng.random(n) < 1 / (1 + np.exp(-(log_mass - 10.35) / 0.35))
    sequence = (0.84 - 0.026 * age) * log_mass - (6.51 - 0.11 * age) - log_mass - 0.12
    log_ssfr = np.where(
        quiescent,
        -11.9 + 0.45 * rng.standard_normal(n),
        sequence + 0.3 * rng.standard_normal(n),
    )
    green = rng.random(n) < 0.08
    log_ssfr = np.where(green, -11 + 0.3 * rng.standard_normal(n), log_ssfr)
    return quiescent, np.clip(log_ssfr, -13.5, -8.5)


def _metallicity(rng, log_mass):
    """Return log Z of the stars in solar units: Gallazzi et al. (2005), table 2."""
    mass = [7.5, 8.91, 9.31, 9.72, 10.11, 10.31, 10.51, 10.91, 11.31, 11.91]
    metal = [-1.0, -0.62, -0.62, -0.5, -0.23, -0.11, -0.01, 0.07, 0.12, 0.15]
    scatter = np.where(log_mass < 10, 0.25, 0.14)
    return np.interp(log_mass, mass, metal) + scatter * rng.standard_normal(len(log_mass))


def _bulge_to_total(rng, log_mass, quiescent):
    """Return bulge mass fractions: beta distributions per type, small in dwarfs."""
    n = len(log_mass)
    disky = rng.beta(1.2, 1.2 + 4 * np.clip(1 - (log_mass - 9.5) / 3, 0.4, 1.2), n)
    fraction = np.where(quiescent, rng.beta(4, 1.6, n), disky)
    return np.where((log_mass < 9.3) & ~quiescent, 0.2 * fraction, fraction)


def _sizes(rng, log_mass, quiescent, scale):
    """Return disc and bulge half-light radii in arcsec: Shen et al. (2003), table 1.

    ``scale`` is kpc per arcsec.
    """
    n = len(log_mass)
    mass = 10**log_mass
    late = np.log10(0.1 * mass**0.14 * (1 + mass / 3.98e10) ** 0.25)
    early = np.log10(2.88e-6 * mass**0.56)
    disc = 10 ** (late + 0.18 * rng.standard_normal(n)) / scale
    spheroid = np.maximum(
        early + 0.13 * rng.standard_normal(n), np.log10(0.5) + 0.1 * rng.standard_normal(n)
    )
    bulge = np.where(quiescent, 1.0, 0.3) * 10**spheroid / scale
    return disc, np.maximum(bulge, 0.05)


def _dust(rng, log_mass, quiescent, axis_ratio):
    """Return A_V of the disc: Garn & Best (2010) for H-alpha, 0.44 of it for the stars.

    The ratio is that of Calzetti et al. (2000); larger ones, up to 0.9 in the literature,
    make the galaxies of an r < 17.8 sample redder than SDSS's at every luminosity.
    """
    n = len(log_mass)
    x = log_mass - 10
    balmer = np.clip(0.91 + 0.77 * x + 0.11 * x**2 - 0.09 * x**3, 0.05, 2.5)
    inclined = 0.6 - 0.8 * np.log10(axis_ratio)
    star_forming = 0.44 * balmer * np.exp(0.35 * rng.standard_normal(n)) * inclined
    return np.where(quiescent, 0.05 * np.exp(0.6 * rng.standard_normal(n)), star_forming)


def draw_galaxies(
    rng, n_galaxies, *, r_limit=19.5, redshift_range=(0.01, 0.6), flat_redshift=False,
    shuffled_redshift=False,
):
    """Draw the physical properties of galaxies, before any cut on their light.

    Parameters
    ----------
    rng : `numpy.random.Generator`
    n_galaxies : int
    r_limit : float
        Galaxies too light to reach this r magnitude are not drawn; the exact cut needs
        their spectra and is `astroclip.simulation.pairs.select_galaxies`.
    redshift_range : (float, float)
    flat_redshift : bool
        Draw redshifts uniformly instead of by comoving volume.
    shuffled_redshift : bool
        Draw masses by comoving volume and the limit, then redshifts uniformly and
        independently of them: massive galaxies at every redshift.

    Returns
    -------
    `GalaxySample`
        Without fluxes.

    Raises
    ------
    ValueError
        If the redshift range is empty or goes beyond what the relations hold for.

    References
    ----------
    Masses Baldry et al. (2012); quiescent fraction a logistic of log M; star formation
    Speagle et al. (2014); metallicity Gallazzi et al. (2005); dust Garn & Best (2010);
    sizes Shen et al. (2003); dispersions Faber & Jackson (1976).
    """
    low, high = redshift_range
    if not 0.0 < low < high <= LARGEST_REDSHIFT:
        msg = (
            f"redshift_range is {redshift_range}; expected 0 < lowest < highest <= "
            f"{LARGEST_REDSHIFT}."
        )
        raise ValueError(msg)
    redshift, log_mass = _draw_redshift_and_mass(
        rng, n_galaxies, r_limit, redshift_range, flat_redshift
    )
    if shuffled_redshift:
        redshift = rng.uniform(low, high, n_galaxies)
    n, normal = n_galaxies, rng.standard_normal
    age = COSMOLOGY.age(redshift).value  # Gyr
    quiescent, log_ssfr = _star_formation(rng, log_mass, age)
    log_metallicity = _metallicity(rng, log_mass)
    thickness = 0.2
    axis_ratio = np.sqrt(thickness**2 + (1 - thickness**2) * rng.random(n) ** 2)
    disc_radius, bulge_radius = _sizes(rng, log_mass, quiescent, kpc_per_arcsec(redshift))
    dispersion = 10 ** (2.2 + 0.28 * (log_mass - 10.6) + 0.07 * normal(n))
    early_index = np.clip(2.2 + 1.2 * (log_mass - 9.5) + 0.6 * normal(n), 1, 6)
    late_index = np.clip(1.8 + 0.8 * normal(n), 0.7, 4.5)
    early_shape = np.clip(0.75 + 0.17 * normal(n), 0.3, 1)
    late_shape = np.clip(0.85 + 0.1 * normal(n), 0.4, 1)
    return GalaxySample(
        redshift=redshift,
        log_stellar_mass=log_mass,
        log_ssfr=log_ssfr,
        log_metallicity=log_metallicity,
        bulge_to_total=_bulge_to_total(rng, log_mass, quiescent),
        quiescent=quiescent,
        dust=_dust(rng, log_mass, quiescent, axis_ratio),
        dust_slope=np.where(quiescent, -0.2, -0.1) + 0.1 * normal(n),
        axis_ratio=axis_ratio,
        bulge_axis_ratio=np.where(quiescent, early_shape, late_shape),
        disc_radius=disc_radius,
        bulge_radius=bulge_radius,
        bulge_index=np.where(quiescent, early_index, late_index),
        bulge_dispersion=np.clip(dispersion, 40, 380),
        disc_dispersion=np.clip(0.5 * dispersion, 30, 180),
        gas_dispersion=np.clip(0.5 * dispersion, 35, 220),
        log_ionization=np.clip(-3.3 - 0.8 * log_metallicity + 0.2 * normal(n), -4, -2.01),
        bulge_age=np.clip(
            age * rng.uniform(0.65, 0.97, n) * np.where(log_mass < 10, 0.8, 1), 2, None
        ),
        formation_age=age * rng.uniform(0.75, 0.97, n),
        burst=0.2 * normal(n),
        agn=np.where(rng.random(n) < 0.05 * (log_mass > 10), np.exp(0.8 * normal(n)), 0.0),
        liner=np.exp(0.7 * normal(n)) * (log_mass > 10),
    )
