"""What a quasar emits: a power law, broad and narrow lines, iron, dust and absorbing gas."""

import dataclasses

import numpy as np

__all__ = ["QuasarSample", "draw_quasars", "quasar_light"]

LYMAN_ALPHA = 1215.67  # A
CONTINUUM_BREAK = 5000.0  # A
# of f_lambda on either side of the break; the composite's red slope, +0.45, holds the light
# of host galaxies and makes quasars at z < 1 too red by 0.1 mag in i - z
BLUE_SLOPE, RED_SLOPE = -1.56, -0.7
# vacuum wavelength, rest equivalent width, standard deviation (A), broad
LINES = (
    (1033.0, 9.8, 7.8, True),  # Lyman beta, O VI
    (1215.67, 92.9, 19.5, True),
    (1240.14, 1.1, 2.7, True),  # N V
    (1304.0, 1.7, 5.4, True),  # O I
    (1398.3, 8.1, 14.2, True),  # Si IV, O IV]
    (1549.06, 23.8, 14.3, True),  # C IV
    (1640.42, 0.5, 3.9, True),  # He II
    (1908.73, 21.2, 23.6, True),  # C III]
    (2080.0, 2.5, 14.0, True),  # Fe III
    (2326.44, 2.0, 22.0, True),  # C II]
    (2798.75, 32.3, 35.0, True),  # Mg II
    (3426.84, 1.2, 5.8, False),  # [Ne V]
    (3728.48, 1.6, 3.3, False),  # [O II]
    (3869.85, 1.4, 5.3, False),  # [Ne III]
    (4102.89, 5.1, 18.6, True),
    (4341.68, 12.6, 20.3, True),
    (4862.68, 46.2, 40.4, True),
    (4960.30, 3.5, 3.9, False),
    (5008.24, 13.2, 6.0, False),  # [O III]
    (5877.29, 4.9, 23.5, True),  # He I
    (6564.61, 194.5, 47.4, True),
    (6585.27, 2.0, 5.7, False),  # [N II]
    (6718.29, 1.6, 2.1, False),  # [S II]
    (6732.67, 1.5, 2.5, False),
)
# wavelength, rest equivalent width, standard deviation (A) of blends of Fe II and of the Balmer
# continuum, whose shapes are only rough
BLENDS = (
    (2480.0, 35.0, 100.0),
    (3050.0, 55.0, 240.0),
    (4565.0, 20.0, 60.0),
    (5250.0, 22.0, 65.0),
)


@dataclasses.dataclass
class QuasarSample:
    """Properties of N quasars, one array of length N each.

    Attributes
    ----------
    redshift : observed redshift
    slope : deviation of the continuum's power-law index from the composite's
    reddening : E(B - V) of dust in the quasar, mag
    line_strength : (N, lines) factors of the lines' equivalent widths
    line_width : factor of the broad lines' widths
    """

    redshift: np.ndarray
    slope: np.ndarray
    reddening: np.ndarray
    line_strength: np.ndarray
    line_width: np.ndarray

    def __len__(self):
        return len(self.redshift)


def draw_quasars(rng, n_quasars, *, redshift_range=(0.5, 4.0)):
    """Draw quasars, uniform in redshift.

    Parameters
    ----------
    rng : `numpy.random.Generator`
    n_quasars : int
    redshift_range : (float, float)

    Returns
    -------
    `QuasarSample`
        Power-law indices scatter by 0.25, equivalent widths by 0.35 in the logarithm
        together and 0.15 each, and widths by 0.25; reddening is exponential, 0.025 mag.

    Raises
    ------
    ValueError
        If the range is empty or starts below zero.
    """
    low, high = redshift_range
    if not 0.0 <= low < high:
        msg = f"redshift_range is {redshift_range}; expected 0 <= lowest < highest."
        raise ValueError(msg)
    n_lines = len(LINES)
    together = 0.35 * rng.standard_normal((n_quasars, 1))
    return QuasarSample(
        redshift=rng.uniform(low, high, n_quasars),
        slope=0.25 * rng.standard_normal(n_quasars),
        reddening=rng.exponential(0.025, n_quasars),
        line_strength=np.exp(together + 0.15 * rng.standard_normal((n_quasars, n_lines))),
        line_width=np.exp(0.25 * rng.standard_normal(n_quasars)),
    )


def _emission(rest, quasars):
    """Return emission (N, P) relative to the continuum."""
    total = np.zeros_like(rest)
    width = quasars.line_width[:, None]
    for column, (center, equivalent, sigma, is_broad) in enumerate(LINES):
        spread = sigma * (width if is_broad else 1.0)
        peak = equivalent * quasars.line_strength[:, column, None] / (spread * np.sqrt(2 * np.pi))
        total += peak * np.exp(-0.5 * ((rest - center) / spread) ** 2)
    shared = quasars.line_strength.mean(axis=1, keepdims=True)
    for center, equivalent, sigma in BLENDS:
        peak = equivalent * shared / (sigma * np.sqrt(2 * np.pi))
        total += peak * np.exp(-0.5 * ((rest - center) / sigma) ** 2)
    return total


def _dust(rest, reddening):
    """Return the transmission (N, P) of dust like the Small Magellanic Cloud's.

    A(lambda) / E(B - V) = 1.39 (lambda / micron)^-1.2: Prevot et al. (1984), A&A 132, 389.
    """
    return 10 ** (-0.4 * reddening[:, None] * 1.39 * (rest / 1e4) ** -1.2)


def _forest(rng, rest, redshift):
    """Return the transmission (N, P) of the intergalactic gas.

    The mean follows Kamble et al. (2020), ApJ 892, 70; the optical depths of pixels are
    gamma-distributed, which keeps that mean exactly. Below 912 A light fades at once.
    """
    absorber = rest * (1 + redshift[:, None]) / LYMAN_ALPHA - 1
    mean_depth = 0.0055 * (1 + absorber.clip(0)) ** 3.18
    # Lyman beta and the lines above it absorb there too
    mean_depth = np.where(rest < 1025.72, 1.3 * mean_depth, mean_depth)
    shape = 0.5
    drawn = rng.standard_gamma(shape, rest.shape) * np.expm1(mean_depth / shape)
    lyman_limit = np.clip(rest / 911.75, 0, 1) ** 10
    # the quasar ionizes the gas around itself, which is left out
    return np.where(rest < LYMAN_ALPHA, np.exp(-drawn), 1.0) * lyman_limit


def quasar_light(rng, quasars, wavelength):
    """Return the observed light of quasars.

    Parameters
    ----------
    rng : `numpy.random.Generator`
        Draws the intervening gas.
    quasars : `QuasarSample`
    wavelength : (P,) `numpy.ndarray`
        Observed vacuum wavelengths in Angstrom.

    Returns
    -------
    (N, P) `numpy.ndarray`
        f_lambda, with the unreddened continuum one at 5000 A at rest, beyond which it is
        flatter, for the most part by the light of host galaxies.

    References
    ----------
    Continuum and lines: Vanden Berk et al. (2001), AJ 122, 549, rounded from table 2; the
    Fe II blends and the Balmer continuum are rough. Scatter of the index: Richards et al.
    (2003), AJ 126, 1131.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.simulation.quasars import draw_quasars, quasar_light
    >>> rng = np.random.default_rng(1)
    >>> quasar_light(rng, draw_quasars(rng, 3), np.geomspace(3600, 9800, 500)).shape
    (3, 500)
    """
    rest = wavelength / (1 + quasars.redshift[:, None])
    x = rest / CONTINUUM_BREAK
    light = np.where(x < 1, x**BLUE_SLOPE, x**RED_SLOPE) * x ** quasars.slope[:, None]
    light = light * (1 + _emission(rest, quasars))
    return light * _dust(rest, quasars.reddening) * _forest(rng, rest, quasars.redshift)
