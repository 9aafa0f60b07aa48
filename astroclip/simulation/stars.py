"""What a star emits: black bodies seen through Balmer lines, metal lines and molecular bands.

These are contaminants, not stellar models: the lines stand at their published vacuum
wavelengths with strengths that follow the spectral sequence, and the continuum is a
black body. No stellar library is used, so that a model trained on galaxies meets light
that no stellar population of its training could be mixed from.
"""

import functools

import numpy as np

from astroclip.simulation.basis import air_to_vacuum
from astroclip.simulation.numerics import SPEED_OF_LIGHT

__all__ = ["blanketing", "stellar_light"]

TEMPERATURES = np.array([3000, 3400, 3800, 4400, 5000, 5770, 6500, 7200, 8500, 9800, 12000])
BALMER_LIMIT = 3647.0  # A, vacuum
RYDBERG = 1.0967758e-3  # 1/A, of hydrogen
# group: strength at TEMPERATURES, one in the Sun
STRENGTHS = {
    "balmer": (0.0, 0.0, 0.05, 0.2, 0.45, 1.0, 1.8, 3.6, 7.5, 8.5, 4.5),
    "calcium": (0.7, 0.7, 0.8, 1.1, 1.05, 1.0, 0.5, 0.2, 0.05, 0.02, 0.01),
    "triplet": (0.7, 0.85, 1.0, 1.05, 1.0, 1.0, 0.9, 0.7, 0.4, 0.15, 0.1),
    "neutral": (14.0, 11.0, 8.0, 4.5, 2.0, 1.0, 0.5, 0.3, 0.1, 0.03, 0.0),
    "magnesium": (3.0, 4.0, 5.0, 4.5, 2.0, 1.0, 0.6, 0.4, 0.2, 0.1, 0.03),
    "sodium": (10.0, 8.0, 6.5, 4.0, 1.8, 1.0, 0.6, 0.4, 0.2, 0.1, 0.05),
    "carbon": (0.3, 0.5, 0.8, 1.0, 1.15, 1.0, 0.5, 0.15, 0.0, 0.0, 0.0),
    "iron": (2.6, 2.6, 2.5, 2.1, 1.5, 1.0, 0.6, 0.35, 0.15, 0.05, 0.02),
    "hydride": (1.6, 1.7, 1.5, 1.0, 0.3, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0),
    "titanium": (4.2, 2.2, 0.8, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
}
# wavelength in air, solar equivalent width (A): Moore, Minnaert & Houtgast (1966)
LINES = {
    "calcium": ((3933.66, 20.25), (3968.47, 15.47)),
    "triplet": ((8498.06, 1.46), (8542.14, 3.67), (8662.17, 2.60)),
    "neutral": ((4226.74, 1.48), (6162.18, 0.22), (6122.22, 0.22)),
    "magnesium": ((5167.33, 0.94), (5172.70, 1.26), (5183.62, 1.58), (3838.30, 1.92)),
    "sodium": ((5889.97, 0.75), (5895.94, 0.56), (8183.26, 0.23), (8194.82, 0.30)),
    "iron": (
        (3719.95, 1.66), (3734.87, 3.03), (3820.44, 1.71), (3859.92, 1.55), (4045.82, 1.17),
        (4063.60, 0.79), (4271.77, 0.76), (4325.78, 0.79), (4383.56, 1.01), (4404.76, 0.90),
        (4957.61, 0.70), (5269.55, 0.48), (5328.05, 0.38), (6494.98, 0.17),
    ),
}
# band head in air (A), extent to the red, or to the blue if negative (A), optical depth
BANDS = {
    "carbon": ((4314.0, -26.0, 0.35), (3883.4, -40.0, 0.35), (4215.0, -60.0, 0.05)),
    "hydride": ((5211.0, -180.0, 0.18), (6389.0, 50.0, 0.10), (6908.0, 90.0, 0.12)),
    "titanium": (
        (4761.0, 140.0, 0.30), (4954.0, 160.0, 0.40), (5167.0, 200.0, 0.45),
        (5448.0, 200.0, 0.40), (5847.0, 300.0, 0.50), (6158.0, 500.0, 0.60),
        (6651.0, 330.0, 0.45), (7054.0, 300.0, 0.60), (7589.0, 220.0, 0.35),
        (8432.0, 160.0, 0.22), (8859.0, 150.0, 0.15), (9209.0, 140.0, 0.08),
    ),
}
# wavelength (A) and fraction of the Sun's light that its weak lines take there
BLANKETING = (
    (3300.0, 0.40), (3700.0, 0.34), (3900.0, 0.28), (4100.0, 0.20), (4400.0, 0.17),
    (4800.0, 0.10), (5300.0, 0.07), (6000.0, 0.025), (7000.0, 0.01), (11000.0, 0.005),
)


def blanketing(wavelength):
    """Return the fraction of the Sun's light that its weak lines absorb.

    Parameters
    ----------
    wavelength : array-like
        Angstrom.

    Returns
    -------
    `numpy.ndarray`
        Read off Wildey et al. (1962), ApJ 135, 94, to 0.03.

    Examples
    --------
    >>> from astroclip.simulation.stars import blanketing
    >>> bool(blanketing(4000.0) > blanketing(6000.0))
    True
    """
    return np.interp(wavelength, *zip(*BLANKETING, strict=True))


def _line(wavelength, center, width, damping):
    """Return the optical depth of a line of equivalent width ``width`` (A), Lorentzian.

    Saturation is solved for on a table, so that the width of 1 - exp(-depth) is right.
    """
    offset = np.linspace(-400, 400, 16001)
    depths = np.geomspace(0.01, 300, 120)
    profile = 1 / (1 + offset**2)
    grown = np.trapezoid(1 - np.exp(-depths[:, None] * profile), offset, axis=1)
    depth = np.interp(width / damping, grown, depths)
    return depth / (1 + ((wavelength - center) / damping) ** 2)


def _band(wavelength, head, extent, depth):
    """Return the optical depth of a band with a sharp head that fades over ``extent`` (A)."""
    beyond = (wavelength - head) / extent
    fading = np.where(beyond > 0, np.exp(-2 * np.clip(beyond, 0, None)), 0.0)
    sharp = np.exp(-0.5 * ((wavelength - head) / 4.0) ** 2)  # the head is not a step
    return depth * np.where(beyond > 0, fading, sharp)


def _weak_lines(wavelength):
    """Return the optical depth of weak lines at random places, the same for every star."""
    rng = np.random.default_rng(1962)
    grid = np.linspace(3300.0, 11000.0, 7701)
    cumulative = np.cumsum(blanketing(grid))
    total = cumulative[-1] * (grid[1] - grid[0])  # A of equivalent width
    n_lines = 1500
    centers = np.interp(rng.random(n_lines), cumulative / cumulative[-1], grid)
    widths = rng.exponential(total / n_lines, n_lines)
    depth = np.zeros_like(wavelength)
    for center, width in zip(centers, widths, strict=True):
        sigma = center * 60.0 / SPEED_OF_LIGHT  # 60 km/s
        first, last = np.searchsorted(wavelength, [center - 5 * sigma, center + 5 * sigma])
        x = (wavelength[first:last] - center) / sigma
        depth[first:last] += width / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * x**2)
    return depth


def _balmer(wavelength):
    """Return the optical depth of the Balmer series and its confluence, the Sun's strength."""
    depth = np.zeros_like(wavelength)
    for upper in range(3, 22):
        center = 1 / (RYDBERG * (0.25 - 1 / upper**2))
        depth += 0.42 * min(1.0, (8.5 / upper) ** 2) / (1 + ((wavelength - center) / 3.0) ** 2)
    return depth + np.where(wavelength < BALMER_LIMIT, 0.10, 0.0)


@functools.lru_cache(maxsize=4)
def _features(start, stop, n_pixels):
    """Return the optical depths (groups, P) of a star like the Sun on a logarithmic grid."""
    wavelength = np.geomspace(start, stop, n_pixels)
    depths = {name: np.zeros(n_pixels) for name in STRENGTHS}
    depths["balmer"] = _balmer(wavelength)
    depths["iron"] = _weak_lines(wavelength)
    for name, lines in LINES.items():
        for center, width in lines:
            damping = 2.5 if name == "calcium" else 0.8
            depths[name] += _line(wavelength, float(air_to_vacuum(center)), width, damping)
    for name, bands in BANDS.items():
        for head, extent, depth in bands:
            depths[name] += _band(wavelength, float(air_to_vacuum(head)), extent, depth)
    return np.stack(list(depths.values()))


def _continuum(wavelength, temperature):
    """Return f_lambda of black bodies (N, P), one at 5500 A, hot ones redder beyond it.

    The slope stands for the opacity of the negative hydrogen ion and of the Paschen
    continuum; it brings the colors onto the locus of stars of the SDSS.
    """
    thermal = 1.4387769e8 / temperature[:, None]  # h c / (k T), A
    light = (5500.0 / wavelength) ** 5 * np.expm1(thermal / 5500.0)
    light = light / np.expm1(thermal / wavelength)
    slope = np.interp(temperature, [4000, 5000, 5800, 6500, 8000], [0.0, 0.1, 0.3, 0.4, 0.6])
    return light * np.maximum(wavelength / 5500.0, 1.0) ** slope[:, None]


def stellar_light(temperature, metallicity, wavelength):
    """Return the light of stars at rest.

    Parameters
    ----------
    temperature : (N,) array-like
        Effective temperature in K, 3000 to 12000.
    metallicity : (N,) array-like
        log10 in solar units; metal lines and bands go with its square root.
    wavelength : (P,) `numpy.ndarray`
        Vacuum wavelengths in Angstrom, constant in their logarithm.

    Returns
    -------
    (N, P) `numpy.ndarray`
        f_lambda, with the black-body continuum one at 5500 A.

    References
    ----------
    Solar lines: Moore, Minnaert & Houtgast (1966), NBS Monograph 61. Strengths along the
    sequence: Gray & Corbally (2009), Stellar Spectral Classification, by eye. Titanium
    oxide and calcium hydride bands: Kirkpatrick et al. (1991), ApJS 77, 417.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.simulation.stars import stellar_light
    >>> wavelength = np.geomspace(4000, 9000, 2000)
    >>> stellar_light([3100.0, 9000.0], [0.0, 0.0], wavelength).shape
    (2, 2000)
    """
    temperature = np.asarray(temperature, dtype=float)
    features = _features(float(wavelength[0]), float(wavelength[-1]), len(wavelength))
    metals = 10 ** (0.5 * np.asarray(metallicity, dtype=float))[:, None]
    strengths = np.stack(
        [np.interp(temperature, TEMPERATURES, row) for row in STRENGTHS.values()], axis=1
    )
    strengths[:, 1:] *= metals
    return _continuum(wavelength, temperature) * np.exp(-strengths @ features)
