"""Tidal features: the brightness asked for, the shapes they are named after, and seeds."""


import numpy as np
import pytest
import torch

from astroclip.simulation.cameras import observe_images
from astroclip.simulation.pairs import Selection, make_pairs
from astroclip.simulation.population import kpc_per_arcsec
from astroclip.simulation.tidal import (
    SHAPES,
    WIDTHS,
    TidalFeatures,
    add_tidal_features,
    draw_tidal_features,
    render_tidal_features,
)

SHARP = 0.05  # arcsec: a point spread function within a pixel


def feature(shape, **changes):
    """Return one feature of given shape."""
    fields = {
        "surface_brightness": 25.0, "distance": 10.0, "start": 3.0, "width": 2.0, "span": 1.5,
        "axis_ratio": 1.0, "position_angle": 0.0, "count": 1, "g_r": 0.7, "r_z": 0.4, **changes,
    }
    arrays = {name: np.array([value]) for name, value in fields.items()}
    return TidalFeatures(shape=np.array([shape]), **arrays)


def render(shape, *, size=128, pixel_scale=0.25, seeing=SHARP, **changes):
    """Return the r-band light (S, S), and x, y in arcsec."""
    pixels = render_tidal_features(
        feature(shape, **changes), np.full((1, 3), seeing), np.array([3.0]), size=size,
        pixel_scale=pixel_scale,
    )
    axis = (np.arange(size) - (size - 1) / 2) * pixel_scale
    return pixels[0].numpy(), *np.meshgrid(axis, axis)


@pytest.fixture(scope="module")
def pairs(simulator):
    return make_pairs(12, simulator, seed=9, selections=(Selection(1.0, 19.5),))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("brightness", [24.0, 27.0])
def test_the_bright_part_has_the_surface_brightness_asked_for(shape, brightness):
    light, _, _ = render(shape, surface_brightness=brightness)
    r = light[1] / 0.25**2
    mean = r[r > 0.2 * r.max()].mean()
    assert 22.5 - 2.5 * np.log10(mean) == pytest.approx(brightness, abs=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_differ_by_the_colors(shape):
    light, _, _ = render(shape)
    magnitude = 22.5 - 2.5 * np.log10(light.sum(axis=(1, 2)))
    assert magnitude[0] - magnitude[1] == pytest.approx(0.7, abs=1e-3)
    assert magnitude[1] - magnitude[2] == pytest.approx(0.4, abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_seeing_keeps_the_flux(shape):
    sharp, blurred = (render(shape, seeing=seeing)[0] for seeing in (SHARP, 1.4))
    np.testing.assert_allclose(
        blurred.sum(axis=(1, 2)), sharp.sum(axis=(1, 2)), rtol=2e-3
    )
    assert blurred[1].max() < sharp[1].max()


def test_a_stream_is_a_gaussian_band_on_its_loop():
    light, x, y = render("stream", span=3.0, width=2.0)
    along_x = np.abs(y) < 0.15
    radius, cut = x[along_x], light[1][along_x]
    right = radius > 0
    peak = radius[right][cut[right].argmax()]
    assert peak == pytest.approx(10.0, abs=0.25)
    wide = np.flatnonzero(cut[right] > cut[right].max() / 2)
    assert np.ptp(radius[right][wide]) == pytest.approx(2.0, abs=0.3)
    expected = cut[right].max() * np.exp(-0.5 * ((radius[right] - 10) / (2 / 2.355)) ** 2)
    np.testing.assert_allclose(cut[right], expected, atol=0.03 * cut.max())
    assert light[1][(x < -5)].max() < 0.02 * light[1].max()  # the loop's other side is dark


def test_a_stream_on_an_inclined_loop_comes_nearer():
    light, x, y = render("stream", span=4.5, axis_ratio=0.5)
    bright = light[1] > 0.5 * light[1].max()
    assert np.abs(x[bright]).max() == pytest.approx(11, abs=0.8)
    assert np.abs(y[bright]).max() == pytest.approx(6, abs=0.8)


def test_shells_have_sharp_outer_edges_on_alternating_sides():
    light, x, y = render("shell", count=2, width=2.0, span=1.2)
    along_x = np.abs(y) < 0.15
    order = np.argsort(x[along_x])
    radius, cut = x[along_x][order], light[1][along_x][order]
    for side, edge in ((1, 10.0), (-1, 7.2)):
        outward = radius * side
        assert cut[outward > edge + 0.3].max() < 0.05 * cut.max()
        inside = (outward > edge - 1.0) & (outward < edge - 0.2)
        assert cut[inside].min() > 0.3 * cut.max()
        # fades inwards by the width
        one, two = (cut[np.abs(outward - edge + step).argmin()] for step in (0.5, 2.5))
        assert two / one == pytest.approx(np.exp(-1) * ((edge - 2.5) / (edge - 0.5)) ** 2, rel=0.15)
    assert light[1][np.abs(np.arctan2(y, x) - np.pi / 2) < 0.2].max() < 0.05 * cut.max()


def test_tails_wind_outwards_and_fade():
    light, x, y = render("tail", count=1, span=1.0)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    for share in (0.1, 0.5, 0.9):
        at = 3.0 * (10 / 3) ** share
        ring = np.abs(radius - at) < 0.2
        center = np.average(angle[ring], weights=light[1][ring])
        assert center == pytest.approx(share, abs=0.12)
    inner, outer = (light[1][np.abs(radius - at) < 0.2].max() for at in (4.0, 9.0))
    shares = np.log(np.array([4.0, 9.0]) / 3) / np.log(10 / 3)
    assert outer / inner == pytest.approx(np.exp(-1.5 * np.diff(shares)[0]), rel=0.1)


def test_two_tails_are_opposite():
    light, _, _ = render("tail", count=2)
    np.testing.assert_allclose(light, light[:, ::-1, ::-1], atol=1e-3 * light.max())


@pytest.mark.parametrize("shape", SHAPES)
def test_position_angles_turn_features(shape):
    light, turned = (render(shape, position_angle=angle)[0] for angle in (0.0, np.pi / 2))
    np.testing.assert_allclose(turned[1], np.rot90(light[1], -1), atol=0.01 * light.max())


def test_draws_stay_in_their_published_ranges():
    rng, n = np.random.default_rng(4), 3000
    redshift = rng.uniform(0.02, 0.2, n)
    drawn = draw_tidal_features(
        rng, redshift, np.full(n, 1.5), np.full(n, 0.8), np.full(n, 0.4),
        surface_brightness=(27.0, 25.0),
    )
    assert {str(shape) for shape in drawn.shape} == set(SHAPES)
    assert drawn.surface_brightness.min() >= 25
    assert drawn.surface_brightness.max() <= 27
    assert drawn.distance.max() <= 13.4
    assert drawn.distance.min() >= 3.0
    assert np.all(drawn.start < drawn.distance)
    for shape in SHAPES:
        chosen = (drawn.shape == shape) & (drawn.width > 0.4) & (drawn.width < 5)
        chosen &= drawn.width < 0.39 * drawn.distance
        width = drawn.width[chosen] * kpc_per_arcsec(redshift[chosen])
        assert width.min() >= WIDTHS[shape][0] - 1e-6
        assert width.max() <= WIDTHS[shape][1] + 1e-6
        assert abs((drawn.shape == shape).mean() - 1 / 3) < 0.04
    stream = drawn.shape == "stream"
    assert drawn.g_r[stream].mean() == pytest.approx(0.7, abs=0.01)
    assert drawn.g_r[~stream].mean() == pytest.approx(0.8, abs=0.01)
    assert set(np.unique(drawn.count[drawn.shape == "shell"])) == {1, 2, 3}
    assert set(np.unique(drawn.count[drawn.shape == "tail"])) == {1, 2}


def test_light_is_added_to_the_pairs(pairs):
    before = {name: values.copy() for name, values in pairs.items()}
    made = add_tidal_features(pairs, seed=3, surface_brightness=(24.0, 25.0))
    for name, values in before.items():
        np.testing.assert_array_equal(values, pairs[name])
    added = made["image"].astype(float) - pairs["image"]
    assert added.sum() > 0
    flux, plain = (10 ** (-0.4 * (m["magnitude"].astype(float) - 22.5)) for m in (made, pairs))
    np.testing.assert_allclose(added.sum(axis=(2, 3)), flux - plain, rtol=0.05)
    np.testing.assert_allclose(made["tidal_share"], 1 - (plain / flux)[:, 1], atol=1e-3)
    np.testing.assert_array_equal(made["spectrum"], pairs["spectrum"])
    assert len(made["tidal_shape"]) == len(pairs["redshift"])


def test_seeds_fix_every_draw_and_brightness_only_scales(pairs):
    bright = (24.0, 24.0)
    first, again, other = (
        add_tidal_features(pairs, seed=seed, surface_brightness=bright) for seed in (5, 5, 6)
    )
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["image"], other["image"])
    fainter = add_tidal_features(pairs, seed=5, surface_brightness=(26.5, 26.5))
    np.testing.assert_array_equal(first["tidal_shape"], fainter["tidal_shape"])
    np.testing.assert_array_equal(first["tidal_distance"], fainter["tidal_distance"])
    light = [(m["image"].astype(float) - pairs["image"])[:, 1].sum() for m in (first, fainter)]
    assert light[0] / light[1] == pytest.approx(10, rel=0.05)


def test_kinds_can_be_chosen_and_cameras_record_them(pairs):
    made = add_tidal_features(pairs, seed=1, shapes="shell")
    assert set(made["tidal_shape"].tolist()) == {"shell"}
    pixels, seeing = (torch.from_numpy(made[key]).float() for key in ("image", "seeing"))
    seen = observe_images(pixels, seeing, torch.Generator().manual_seed(1))
    assert seen.pixels.isfinite().all()


def test_wrong_arguments_are_refused(pairs):
    with pytest.raises(ValueError, match="shapes is 'plume'"):
        add_tidal_features(pairs, seed=1, shapes=["stream", "plume"])
    with pytest.raises(ValueError, match="surface_brightness is"):
        add_tidal_features(pairs, seed=1, surface_brightness=(25.0, np.nan))
    with pytest.raises(ValueError, match="surface_brightness is"):
        add_tidal_features(pairs, seed=1, surface_brightness=(0.1, 0.01))
