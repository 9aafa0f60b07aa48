"""What a galaxy emits: star-formation histories to rest-frame light to an observed spectrum."""

import math

import numpy as np
import torch

from astroclip.simulation.numerics import SPEED_OF_LIGHT, gaussian_blur
from astroclip.simulation.population import COSMOLOGY

__all__ = ["SpectrumSimulator"]

SOLAR_LUMINOSITY = 3.828e33  # erg/s
MEGAPARSEC = 3.0857e24  # cm
DESI_LINE_SPREAD = 35.0  # km/s, standard deviation; in the noiseless light already
COARSE = 8  # photometry needs every eighth wavelength only
NARROW_LINES = {  # vacuum, Angstrom: LINER and AGN strengths relative to the continuum
    3727.0: (1.6 * 0.7, 4.0),
    4862.68: (0.7 / 3.0, 1.3),
    4960.295: (0.7 * 0.2, 3.0),
    5008.24: (0.7 * 0.6, 9.0),
    6549.86: (0.7 * 0.4, 4.0 / 3.0),
    6564.61: (0.7, 5.0),
    6585.27: (0.7 * 1.2, 4.0),
    6718.29: (0.7 * 0.5, 1.3),
    6732.67: (0.7 * 0.45, 1.1),
}


def _attenuation_curve(wavelength, slope):
    """Return A(lambda)/A_V of Calzetti et al. (2000) times a power law (Noll et al. 2009)."""
    x = wavelength / 1e4
    blue = 2.659 * (-2.156 + 1.509 / x - 0.198 / x**2 + 0.011 / x**3) + 4.05
    red = 2.659 * (-1.857 + 1.04 / x) + 4.05
    curve = torch.where(x < 0.63, blue, red).clamp(min=0.0) / 4.05
    return curve[None] * (wavelength[None] / 5500.0) ** slope[:, None]


def _delayed_mass(time, tau):
    """Return the mass formed by ``time`` in a delayed exponential history of rate t exp(-t/tau)."""
    time = np.clip(time, 0, None)
    return tau**2 * (1 - np.exp(-time / tau) * (1 + time / tau))


class SpectrumSimulator:
    """Turn galaxy properties into photometry and noiseless spectra.

    Parameters
    ----------
    basis : `~astroclip.simulation.basis.SpectralBasis`
    device : str or `torch.device`
        Where the matrix products run.
    """

    def __init__(self, basis, *, device="cpu"):
        self.device = torch.device(device)
        self.basis = basis
        self.log_start = math.log(basis.wavelength[0])
        self.log_step = math.log(basis.wavelength[1] / basis.wavelength[0])
        self.velocity_step = self.log_step * SPEED_OF_LIGHT
        self.wavelength = self._tensor(basis.wavelength)
        n_populations = basis.stars.shape[0] * basis.stars.shape[1]
        self.stars = self._tensor(basis.stars.reshape(n_populations, -1))
        self.continuum = self._tensor(basis.continuum.reshape(-1, len(basis.wavelength)))
        n_lines = len(basis.line_wavelength)
        self.lines = self._tensor(basis.lines.reshape(len(basis.log_ionization), -1, n_lines))
        self.surviving = self._tensor(basis.surviving.reshape(-1))
        self.filters = self._tensor(basis.filters)
        self.line_wavelength = self._tensor(basis.line_wavelength)
        ages = basis.age_edges[1:]
        self.young = self._tensor(np.tile(ages < 1.3e7, basis.stars.shape[0]))

    def _tensor(self, values):
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self.device)

    # ------------------------------------------------------------------ histories
    def _histories(self, galaxies):
        """Return mass fractions per age bin (N, A) of bulge and disc.

        The bulge formed in one early episode; the disc follows a delayed exponential
        with the rate wanted today, and its last 100 Myr are scaled to it (with a burst).
        """
        low, high = self.basis.age_edges[:-1] / 1e9, self.basis.age_edges[1:] / 1e9
        center = 0.5 * (low + high)[None]
        age = galaxies.bulge_age[:, None]
        exists = center < COSMOLOGY.age(galaxies.redshift).value[:, None]
        episode = np.exp(-0.5 * ((center - age) / np.clip(0.12 * age, 0.3, None)) ** 2)
        bulge = (episode * (high - low) + 1e-12) * exists

        start = galaxies.formation_age[:, None]
        taus = np.geomspace(0.15, 30, 60)[None]
        total = _delayed_mass(start, taus)
        recent_rate = (total - _delayed_mass(start - 0.1, taus)) / 0.1e9 / total
        disc_share = np.clip(1 - galaxies.bulge_to_total, 0.1, 1)
        target = 10**galaxies.log_ssfr * 0.6 / disc_share  # per mass formed: 0.6 survives
        nearest = np.argmin(np.abs(np.log((recent_rate + 1e-16) / target[:, None])), axis=1)
        tau = taus[0, nearest][:, None]
        disc = _delayed_mass(start - low, tau) - _delayed_mass(start - high, tau)
        disc = np.clip(disc, 0, None)
        disc /= disc.sum(axis=1, keepdims=True)

        recent = high <= 0.13
        rate = disc[:, recent].sum(axis=1) / 0.1e9
        boost = np.clip(target * 10**galaxies.burst * 0.8 / np.maximum(rate, 1e-20), 1e-3, 300)
        middle = (low >= 0.09) & (high <= 1.0) & ~recent
        disc[:, recent] *= boost[:, None]
        disc[:, middle] *= np.clip(np.sqrt(boost), 0.03, 20)[:, None]
        return (part / part.sum(axis=1, keepdims=True) for part in (bulge, disc))

    def _metal_weights(self, log_metallicity):
        """Return linear interpolation weights (N, Z) over the metallicity grid."""
        grid = np.log10(self.basis.metallicity)
        value = np.clip(log_metallicity, grid[0], grid[-1] - 1e-6)
        left = np.clip(np.searchsorted(grid, value) - 1, 0, len(grid) - 2)
        fraction = (value - grid[left]) / (grid[left + 1] - grid[left])
        weights = np.zeros((len(value), len(grid)))
        rows = np.arange(len(value))
        weights[rows, left] = 1 - fraction
        weights[rows, left + 1] = fraction
        return weights

    def _populations(self, metals, history):
        """Return (N, Z * A) mass fractions from metallicity weights and a history."""
        return self._tensor((metals[:, :, None] * history[:, None, :]).reshape(len(metals), -1))

    # ------------------------------------------------------------------ rest-frame light
    def _nebular(self, galaxies, metals, disc_history):
        """Return line luminosities (N, L) and young mass fractions (N, Z * 15)."""
        n_young = self.basis.lines.shape[2]
        young = self._populations(metals, disc_history[:, :n_young])
        grid = self.basis.log_ionization
        left = np.clip(np.searchsorted(grid, galaxies.log_ionization) - 1, 0, len(grid) - 2)
        fraction = (galaxies.log_ionization - grid[left]) / (grid[left + 1] - grid[left])
        lines = torch.zeros(len(galaxies), self.lines.shape[-1], device=self.device)
        for step in range(len(grid) - 1):
            rows = torch.from_numpy(left == step).to(self.device)
            if rows.any():
                share = self._tensor(fraction)[rows, None]
                low = young[rows] @ self.lines[step]
                high = young[rows] @ self.lines[step + 1]
                lines[rows] = low * (1 - share) + high * share
        return 0.9 * lines, young  # one tenth of the ionizing photons escape or meet dust

    def rest_light(self, galaxies, *, every=1):
        """Return rest-frame luminosities of bulge and disc and the disc's lines.

        Parameters
        ----------
        galaxies : `~astroclip.simulation.population.GalaxySample`
        every : int
            Use every n-th wavelength of the basis.

        Returns
        -------
        bulge, disc : (N, P / every) `torch.Tensor`
            Attenuated continuum in solar luminosities per Angstrom.
        lines : (N, L) `torch.Tensor`
            Attenuated line luminosities in solar luminosities.
        """
        wavelength = self.wavelength[::every]
        bulge_history, disc_history = self._histories(galaxies)
        metals = self._metal_weights(galaxies.log_metallicity - 0.05)
        old = self._populations(
            self._metal_weights(galaxies.log_metallicity - 0.2), bulge_history
        )  # lower than the whole galaxy's: BC03's red sequence is redder than SDSS's
        disc = self._populations(metals, disc_history)
        mass = self._tensor(10**galaxies.log_stellar_mass)
        share = self._tensor(galaxies.bulge_to_total)
        bulge_mass = (mass * share / (old @ self.surviving))[:, None]
        disc_mass = (mass * (1 - share) / (disc @ self.surviving))[:, None]
        stars = self.stars[:, ::every]
        lines, young = self._nebular(galaxies, metals, disc_history)

        curve = _attenuation_curve(wavelength, self._tensor(galaxies.dust_slope))
        depth = self._tensor(galaxies.dust)[:, None]
        birth = (disc * self.young) @ stars + young @ self.continuum[:, ::every]
        diffuse = (disc * (1 - self.young)) @ stars
        screen = 10 ** (-0.4 * depth * curve)
        disc_light = disc_mass * (diffuse + birth * screen**1.1) * screen
        bulge_light = bulge_mass * (old @ stars) * screen**0.35
        line_curve = _attenuation_curve(
            self.line_wavelength, self._tensor(galaxies.dust_slope)
        )
        return bulge_light, disc_light, disc_mass * lines * 10 ** (-0.84 * depth * line_curve)

    def _flux_scale(self, redshift):
        """Return (N, 1) factors from solar luminosities/A at rest to erg/s/cm2/A observed."""
        distance = COSMOLOGY.luminosity_distance(redshift).value * MEGAPARSEC
        factor = SOLAR_LUMINOSITY / (4 * np.pi * distance**2) / (1 + redshift)
        return torch.from_numpy(factor).float().to(self.device)[:, None]

    def _observe(self, light, redshift, wavelength, *, every=1):
        """Return light interpolated at observed ``wavelength`` (numpy, Angstrom)."""
        shift = np.log(wavelength)[None] - np.log1p(redshift)[:, None] - self.log_start
        position = torch.from_numpy(shift / (self.log_step * every)).to(self.device)
        left = position.floor().long().clamp(0, light.shape[1] - 2)
        fraction = (position - left).float()
        return light.gather(1, left) * (1 - fraction) + light.gather(1, left + 1) * fraction

    def photometry(self, galaxies):
        """Return total DECam g, r, z fluxes of bulge and disc in nanomaggies, (N, 3) arrays."""
        bulge, disc, lines = self.rest_light(galaxies, every=COARSE)
        wavelength = self.wavelength[::COARSE]
        bins = (torch.log(self.line_wavelength) - self.log_start) / (self.log_step * COARSE)
        bins = bins.round().long().clamp(0, len(wavelength) - 1)
        disc = disc.index_add(1, bins, lines / (wavelength[bins] * self.log_step * COARSE))
        scale = self._flux_scale(galaxies.redshift) * 1e9
        observed = self.basis.filter_wavelength
        seen = (
            self._observe(part, galaxies.redshift, observed, every=COARSE) for part in (bulge, disc)
        )
        return tuple((scale * (light @ self.filters.T)).cpu().numpy() for light in seen)

    # ------------------------------------------------------------------ spectra
    def _broaden(self, light, dispersion):
        """Return light convolved with Gaussian velocity distributions (km/s per row)."""
        n_pixels = light.shape[1]
        n_padded = 1 << math.ceil(math.log2(n_pixels + 200))
        padded = torch.nn.functional.pad(light, (0, n_padded - n_pixels))
        sigma = self._tensor(dispersion)[:, None] / self.velocity_step
        return gaussian_blur(padded, sigma)[:, :n_pixels]

    def _add_lines(self, light, luminosity, wavelength, dispersion):
        """Add Gaussian lines (N, L) of velocity width ``dispersion`` (km/s, N) in place."""
        sigma = self._tensor(dispersion)[:, None]
        offsets = torch.arange(-40, 41, device=self.device)
        norm = sigma * math.sqrt(2 * math.pi) / SPEED_OF_LIGHT
        for column, line in enumerate(wavelength):
            position = (math.log(line) - self.log_start) / self.log_step
            pixels = offsets + round(position)
            if pixels[0] < 0 or pixels[-1] >= light.shape[1]:
                continue
            velocity = (pixels - position)[None] * self.velocity_step
            profile = torch.exp(-0.5 * (velocity / sigma) ** 2) / (norm * line)
            light[:, pixels] += luminosity[:, column, None] * profile

    def _nuclear_lines(self, galaxies, bulge):
        """Return luminosities (N, lines) of LINER- and AGN-like emission of the bulge."""
        at_red = int((math.log(6600.0) - self.log_start) / self.log_step)
        continuum = bulge[:, at_red - 40 : at_red + 40].mean(dim=1, keepdim=True)
        strengths = self._tensor(list(NARROW_LINES.values()))  # (lines, 2)
        drive = torch.stack([self._tensor(galaxies.liner), self._tensor(galaxies.agn)], dim=1)
        return continuum * (drive @ strengths.T)

    def spectra(self, galaxies, bulge_fraction, disc_fraction, wavelength):
        """Return noiseless observed spectra through a fiber.

        Parameters
        ----------
        galaxies : `~astroclip.simulation.population.GalaxySample`
        bulge_fraction, disc_fraction : (N,) `numpy.ndarray`
            Fractions of bulge and disc light inside the fiber.
        wavelength : (P,) `numpy.ndarray`
            Observed vacuum wavelengths in Angstrom.

        Returns
        -------
        (N, P) `torch.Tensor`
            Flux density in 1e-17 erg/s/cm2/A, observed frame.
        """
        bulge, disc, lines = self.rest_light(galaxies)
        bulge = self._broaden(bulge, galaxies.bulge_dispersion)
        disc = self._broaden(disc, galaxies.disc_dispersion)
        gas = np.hypot(galaxies.gas_dispersion, DESI_LINE_SPREAD)
        self._add_lines(disc, lines, self.basis.line_wavelength, gas)
        nuclear = np.hypot(np.maximum(0.9 * galaxies.bulge_dispersion, 90), DESI_LINE_SPREAD)
        self._add_lines(bulge, self._nuclear_lines(galaxies, bulge), NARROW_LINES, nuclear)
        inside = [self._tensor(fraction)[:, None] for fraction in (bulge_fraction, disc_fraction)]
        total = bulge * inside[0] + disc * inside[1]
        observed = self._observe(total, galaxies.redshift, wavelength)
        return observed * self._flux_scale(galaxies.redshift) * 1e17
