"""What mergers leave around galaxies: faint streams, shells and tails, drawn into images.

They are drawn into the noiseless images of `astroclip.simulation.pairs`, so that the same
cameras record them. Shapes, widths and surface brightnesses follow published surveys; no
orbit is integrated.
"""

import dataclasses

import numpy as np
import torch
from scipy.spatial import cKDTree

from astroclip._validation import check_choice
from astroclip.simulation.images import (
    MOFFAT_INDEX,
    OVERSAMPLING,
    moffat_transform,
    pixels_of_transform,
)
from astroclip.simulation.numerics import FWHM, LARGEST_FLUX
from astroclip.simulation.population import kpc_per_arcsec

__all__ = [
    "SHAPES",
    "TidalFeatures",
    "add_tidal_features",
    "draw_tidal_features",
    "render_tidal_features",
]

SHAPES = ("stream", "shell", "tail")
# per shape: width (kpc), distance (half-light radii), azimuth (degrees)
WIDTHS = {"stream": (1.5, 4.0), "shell": (3.0, 8.0), "tail": (3.0, 7.0)}
DISTANCES = {"stream": (4.0, 10.0), "shell": (3.0, 8.0), "tail": (5.0, 10.0)}
SPANS = {"stream": (120.0, 330.0), "shell": (50.0, 120.0), "tail": (40.0, 150.0)}
SMALLEST_WIDTH, LARGEST_WIDTH = 0.4, 5.0  # arcsec
SMALLEST_DISTANCE = 3.0  # arcsec, outside a fiber and its seeing
LARGEST_DISTANCE = 0.8  # of half the image's side
TAIL_START = 1.2  # half-light radii from the center
TAIL_FADE = 1.5  # e-foldings of brightness along a tail
STREAM_BLUER = 0.1  # mag in g - r
COLOR_SCATTER = 0.05  # mag
CURVE_POINTS = 240  # along a stream or a tail
BRIGHTEST = 15.0  # mag per square arcsec, brighter than any galaxy's outskirts
BRIGHT_PART = 0.2  # of the brightest point: surface brightness is the mean of what is brighter


@dataclasses.dataclass(frozen=True)
class TidalFeatures:
    """Tidal features of N galaxies, one array of length N each.

    Attributes
    ----------
    shape : ``"stream"``, ``"shell"`` or ``"tail"``
    surface_brightness : r (AB) per square arcsec, the mean over the part that is brighter than
        a fifth of the brightest point, before seeing
    distance : of the loop, the outermost shell or the end of the tail from the center, arcsec
    start : of a tail from the center, arcsec
    width : full width at half maximum of streams and tails; e-folding length of the light
        inside a shell's edge; arcsec
    span : azimuth covered, rad
    axis_ratio : minor over major axis of the loop or the shells
    position_angle : from the image's x axis, rad
    count : number of shells or tails
    g_r, r_z : colors
    """

    shape: np.ndarray
    surface_brightness: np.ndarray
    distance: np.ndarray
    start: np.ndarray
    width: np.ndarray
    span: np.ndarray
    axis_ratio: np.ndarray
    position_angle: np.ndarray
    count: np.ndarray
    g_r: np.ndarray
    r_z: np.ndarray

    def __len__(self):
        return len(self.shape)


def draw_tidal_features(
    rng, redshift, half_light_radius, g_r, r_z, *, shapes=SHAPES, surface_brightness=(25.0, 27.5),
    largest_distance=13.4,
):
    """Draw tidal features of galaxies.

    Parameters
    ----------
    rng : `numpy.random.Generator`
    redshift : (N,) array-like
    half_light_radius : (N,) array-like
        Arcsec.
    g_r, r_z : (N,) array-like
        The galaxies' colors.
    shapes : sequence of str
        Shapes to draw from, equally often.
    surface_brightness : (float, float)
        r (AB) per square arcsec, as observed; uniform between these.
    largest_distance : float
        Arcsec; farther features are put there.

    Returns
    -------
    `TidalFeatures`

    Raises
    ------
    ValueError
        If a shape is unknown, or the surface brightnesses are not a range.

    Notes
    -----
    Streams, shells and tails are seen around 12 to 18 % of luminous galaxies (Atkinson et
    al. 2013; Hood et al. 2018, in the Legacy Surveys' r images), none fainter than 27.5 in
    deep images (Sola et al. 2022). Tails are wider and about a magnitude brighter than
    streams there; on average 25.1 against 26.3 in g' around cluster galaxies (Zoller et al.
    2025). Here all shapes share one range of surface brightness, so that shapes can be
    compared. Streams are 0.1 mag bluer in g - r than their galaxies, shells and tails
    have their color.

    References
    ----------
    Atkinson, Abraham & Ferguson (2013), ApJ 765, 28; Hood et al. (2018), ApJ 857, 144;
    Kado-Fong et al. (2018), ApJ 866, 103; Sola et al. (2022), A&A 662, A124; Zoller et al.
    (2025), arXiv:2502.14531.
    """
    shapes = [shapes] if isinstance(shapes, str) else list(shapes)
    for shape in shapes:
        check_choice(shape, SHAPES, "shapes")
    limits = np.sort(np.asarray(surface_brightness, dtype=float))
    if limits.shape != (2,) or not np.isfinite(limits).all() or limits[0] < BRIGHTEST:
        msg = (
            f"surface_brightness is {surface_brightness!r}; expected two magnitudes per square "
            f"arcsec, such as (25.0, 27.5)."
        )
        raise ValueError(msg)
    n = len(redshift)
    shape = rng.choice(shapes, n)
    width, distance, span = (
        _between(rng, table, shape) for table in (WIDTHS, DISTANCES, SPANS)
    )
    radius = np.asarray(half_light_radius, dtype=float)
    width = width / kpc_per_arcsec(np.maximum(redshift, 1e-4))
    distance = (distance * radius).clip(SMALLEST_DISTANCE, largest_distance)
    bluer = np.where(shape == "stream", STREAM_BLUER, 0.0)
    return TidalFeatures(
        shape=shape,
        surface_brightness=rng.uniform(*limits, n),
        distance=distance,
        start=np.clip(TAIL_START * radius, 1.0, 0.6 * distance),
        width=width.clip(SMALLEST_WIDTH, np.minimum(LARGEST_WIDTH, 0.4 * distance)),
        span=np.deg2rad(span),
        axis_ratio=np.where(shape == "stream", rng.uniform(0.4, 0.95, n), rng.uniform(0.75, 1, n)),
        position_angle=rng.uniform(0, 2 * np.pi, n),
        count=np.where(shape == "stream", 1, rng.integers(1, np.where(shape == "shell", 4, 3))),
        g_r=np.asarray(g_r, dtype=float) - bluer + COLOR_SCATTER * rng.standard_normal(n),
        r_z=np.asarray(r_z, dtype=float) - bluer / 2 + COLOR_SCATTER * rng.standard_normal(n),
    )


def _between(rng, table, shape):
    """Return numbers uniform within the limits of each feature's shape."""
    low, high = np.array([table[name] for name in shape]).reshape(-1, 2).T
    return rng.uniform(low, high)


# ---------------------------------------------------------------------- shapes
def _curve_map(x, y, curve, brightness, width):
    """Return a band of Gaussian profile along a curve (2, P) whose ridge has ``brightness``."""
    distance, nearest = cKDTree(curve.T).query(np.stack([x, y], axis=-1))
    return brightness[nearest] * np.exp(-0.5 * (distance * FWHM / width) ** 2)


def _stream_map(feature, x, y):
    """Return a part of an elliptical loop about the galaxy, faint at its ends."""
    share = np.linspace(0, 1, CURVE_POINTS)
    phase = feature.span * (share - 0.5)
    loop = np.stack([np.cos(phase), feature.axis_ratio * np.sin(phase)]) * feature.distance
    return _curve_map(x, y, loop, np.sin(np.pi * share) ** 0.5, feature.width)


def _tail_map(feature, x, y):
    """Return one tail, or two opposite ones, that wind outwards and fade."""
    share = np.linspace(0, 1, CURVE_POINTS)
    radius = feature.start * (feature.distance / feature.start) ** share
    angle = feature.span * share
    tail = np.stack([np.cos(angle), np.sin(angle)]) * radius
    fading = np.exp(-TAIL_FADE * share)
    maps = [_curve_map(x, y, sign * tail, fading, feature.width) for sign in (1, -1)]
    return sum(maps[: feature.count])


def _shell_map(feature, x, y):
    """Return arcs with sharp outer edges, on alternating sides at shrinking radii."""
    total = 0.0
    radius = np.hypot(x, y / feature.axis_ratio)
    for number in range(feature.count):
        side = np.arctan2(y, x * (-1) ** number)
        edge = feature.distance * 0.72**number
        inside = np.exp((radius - edge) / feature.width) * (radius < edge)
        opening = np.exp(-0.5 * (side / (feature.span / FWHM)) ** 4)
        total = total + inside * opening * (radius / edge) ** 2
    return total


_MAPS = {"stream": _stream_map, "shell": _shell_map, "tail": _tail_map}


def _feature_map(feature, axis):
    """Return a feature's light (M, M); its bright part has a mean of one."""
    cosine, sine = np.cos(feature.position_angle), np.sin(feature.position_angle)
    x = (axis[None, :] * cosine + axis[:, None] * sine).astype(np.float32)
    y = (axis[:, None] * cosine - axis[None, :] * sine).astype(np.float32)
    light = _MAPS[str(feature.shape)](feature, x, y)
    return light / light[light > BRIGHT_PART * light.max()].mean()


def render_tidal_features(features, seeing, beta, *, size=64, pixel_scale=0.524):
    """Render noiseless g, r, z images of tidal features alone.

    Parameters
    ----------
    features : `TidalFeatures`
    seeing : (N, 3) array-like
        Full width at half maximum of the point spread function, arcsec.
    beta : (N,) array-like
        Its Moffat index.
    size : int
        Pixels on a side.
    pixel_scale : float
        Arcsec per pixel.

    Returns
    -------
    (N, 3, S, S) `torch.Tensor`
        Nanomaggies per pixel; the galaxy is at the center.
    """
    seeing, beta = np.asarray(seeing, dtype=float), np.asarray(beta, dtype=float)
    n_fine, step = size * OVERSAMPLING, pixel_scale / OVERSAMPLING
    axis = (np.arange(n_fine) - (n_fine - 1) / 2) * step
    pixels = torch.empty(len(features), 3, size, size)
    for row in range(len(features)):
        one = TidalFeatures(
            *(getattr(features, field.name)[row] for field in dataclasses.fields(features))
        )
        light = torch.from_numpy(_feature_map(one, axis).astype(np.float32))
        transform = torch.fft.rfft2(light)
        color = (one.g_r, 0.0, -one.r_z)
        for band in range(3):
            width, index = seeing[row : row + 1, band], beta[row : row + 1]
            spread = moffat_transform(width, index, n_fine, step)[0]
            flux = 10 ** (-0.4 * (one.surface_brightness + color[band] - 22.5)) * step**2
            pixels[row, band] = pixels_of_transform(transform * spread, size).clamp(min=0) * flux
    return pixels


def add_tidal_features(pairs, *, seed, shapes=SHAPES, surface_brightness=(25.0, 27.5)):
    """Give galaxies tidal features: a stream, shells or tails each.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`
        From `astroclip.simulation.pairs.make_pairs`; left as they are.
    seed : int or sequence of int
        Fixes every draw. Only the brightness changes with ``surface_brightness``.
    shapes, surface_brightness
        As of `draw_tidal_features`.

    Returns
    -------
    dict of str to `numpy.ndarray`
        The pairs with changed ``image`` and ``magnitude``, and ``tidal_shape``,
        ``tidal_surface_brightness`` (r, AB per square arcsec), ``tidal_distance`` and
        ``tidal_width`` (arcsec), and ``tidal_share`` of the r-band light. The features lie
        outside the fiber: spectra stay.

    Raises
    ------
    ValueError
        As `draw_tidal_features`.
    """
    rng = np.random.default_rng(seed)
    magnitude = np.asarray(pairs["magnitude"], dtype=float)
    share = np.asarray(pairs["bulge_to_total"], dtype=float)
    size = pairs["image"].shape[-1]
    features = draw_tidal_features(
        rng,
        np.asarray(pairs["redshift"], dtype=float),
        share * pairs["bulge_radius"] + (1 - share) * pairs["disc_radius"],
        magnitude[:, 0] - magnitude[:, 1],
        magnitude[:, 1] - magnitude[:, 2],
        shapes=shapes,
        surface_brightness=surface_brightness,
        largest_distance=LARGEST_DISTANCE * 0.524 * size / 2,
    )
    beta = rng.uniform(*MOFFAT_INDEX, len(magnitude))
    light = render_tidal_features(features, pairs["seeing"], beta, size=size).numpy()
    added = light.sum(axis=(2, 3), dtype=float)
    total = 10 ** (-0.4 * (magnitude - 22.5)) + added
    image = np.asarray(pairs["image"], dtype=np.float32) + light
    return {
        **pairs,
        "image": np.minimum(image, LARGEST_FLUX).astype(np.float16),
        "magnitude": (22.5 - 2.5 * np.log10(total)).astype(np.float32),
        "tidal_shape": features.shape,
        "tidal_surface_brightness": features.surface_brightness.astype(np.float32),
        "tidal_distance": features.distance.astype(np.float32),
        "tidal_width": features.width.astype(np.float32),
        "tidal_share": (added[:, 1] / total[:, 1]).astype(np.float32),
    }
