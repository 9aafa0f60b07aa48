"""Recording and augmentation: shares, seeds, and no knowledge that the light does not have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from astroclip.preparation import normalize_images
from astroclip.preparation.bands import deredden
from astroclip.training.observers import (
    AugmentingObserver,
    Observer,
    blur_images,
    encode_pairs,
    image_inputs,
    redden_images,
    rotate_and_flip_images,
    shift_images,
)

N_PIXELS = 400
SEEING = torch.tensor([[1.4, 1.25, 1.2]])
STILL = {"mean_reddening": 0.0, "largest_blur": 0.0, "largest_shift": 0, "missing_band_share": 0.0}


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def orientations(image):
    """Return the eight rotations and reflections of an image (B, S, S)."""
    turned = [np.rot90(image, k, (1, 2)) for k in range(4)]
    return turned + [image[:, :, ::-1] for image in turned]


def make_spectra(seed, n_spectra=6, n_pixels=N_PIXELS):
    """Return flux, ivar and mask, as floats like a batch's, with bad values under the mask."""
    rng = np.random.default_rng(seed)
    ivar = rng.uniform(0.1, 10, (n_spectra, n_pixels))
    flux = rng.normal(5, 1, ivar.shape) + rng.normal(0, 1, ivar.shape) * ivar**-0.5
    mask = rng.random(ivar.shape) < 0.1
    flux[mask], ivar[mask & (flux > 0)] = np.nan, 0
    return (torch.from_numpy(values.astype(np.float32)) for values in (flux, ivar, mask))


def make_images(seed, n_images=8, size=16):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.normal(0, 0.01, (n_images, 3, size, size)).astype(np.float32))
    pixels[:, :, 2, 5] = torch.nan
    return pixels, torch.full((n_images, 3), torch.nan)


# ---------------------------------------------------------------------- noiseless light
def test_observer_mixes_instruments_in_their_shares():
    flux = torch.ones(200, 4360)
    observer = Observer(varied_share=0.25, sdss_share=0.25, broad=True)
    observed = observer.spectra(flux, seeded(1))
    incomplete = observed.mask.any(dim=1)
    assert 70 < int(incomplete.sum()) < 130  # DESI spectra are complete, the others rarely
    alone = torch.zeros(200)
    complete = Observer().spectra(flux, seeded(1), varied_share=alone)
    assert not complete.mask.any()


def test_observer_takes_a_share_for_every_galaxy():
    share = torch.cat([torch.zeros(30), torch.ones(30)])
    observed = Observer(broad=True).spectra(
        torch.ones(60, 4360), seeded(1), varied_share=share
    )
    assert not observed.mask[:30].any()
    assert observed.mask[30:].any(dim=1).float().mean() > 0.8


def test_observed_rows_stay_with_their_galaxies():
    flux = torch.arange(1.0, 41.0)[:, None] * torch.ones(40, 4360) * 100
    observed = Observer(varied_share=0.0, sdss_share=0.5).spectra(
        flux, seeded(3)
    )
    level = (observed.flux * ~observed.mask).sum(dim=1) / (~observed.mask).sum(dim=1)
    assert np.corrcoef(level.log(), flux[:, 0].log())[0, 1] > 0.8


def test_observer_drops_bands_and_masks_them():
    observer = Observer(missing_band_share=0.5)
    pixels, mask = observer.images(
        torch.ones(60, 3, 16, 16), torch.full((60, 3), 1.3), seeded(2)
    )
    lost = mask.all(dim=(2, 3))
    assert 15 < int(lost.any(dim=1).sum()) < 45
    assert int(lost.sum(dim=1).max()) == 1
    assert torch.all(pixels[mask] == 0)


def test_training_scales_images_as_users_images_are_scaled():
    pixels = np.random.default_rng(1).normal(0, 0.1, (4, 3, 8, 8)).astype(np.float32)
    expected = normalize_images(pixels, bands="grz", normalization="asinh")
    np.testing.assert_allclose(image_inputs(torch.from_numpy(pixels)).numpy(), expected, atol=1e-6)


def test_light_is_recorded_in_full_precision_under_autocast():
    flux = 1 + torch.rand(8, 4360, generator=seeded())
    pixels, seeing = torch.rand(8, 3, 64, 64, generator=seeded()), SEEING.repeat(8, 1)
    for observer in (
        Observer(varied_share=0.5, sdss_share=0.25, varied_image_share=0.5, transform_images=True),
        AugmentingObserver(),
    ):
        found = []
        for enabled in (False, True):
            generator = seeded(7)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                inputs, _ = observer.images(pixels, seeing, generator)
                found.append([inputs])
                if not isinstance(observer, AugmentingObserver):
                    found[-1].append(observer.spectra(flux, generator).flux)
        for plain, under_autocast in zip(*found, strict=True):
            assert under_autocast.dtype == torch.float32
            torch.testing.assert_close(under_autocast, plain, rtol=0, atol=0)



# ---------------------------------------------------------------------- recorded pairs
def test_plain_recorded_passes_everything_on():
    flux, ivar, mask = make_spectra(1)
    seen = Observer().spectra(flux, seeded(), ivar=ivar, mask=mask)
    bad = mask.bool()
    assert torch.equal(seen.mask, bad)
    assert torch.equal(seen.flux[~bad], flux[~bad])
    assert torch.equal(seen.ivar[~bad], ivar[~bad])
    assert not seen.flux[bad].any()
    assert not seen.ivar[bad].any()
    pixels, seeing = make_images(2)
    inputs, image_mask = Observer().images(pixels, seeing, seeded())
    assert torch.equal(image_mask, pixels.isnan())
    expected = image_inputs(pixels).nan_to_num(0.0)
    torch.testing.assert_close(inputs, expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 2))
def test_augmentation_never_adds_knowledge(seed, extra_noise):
    flux, ivar, mask = make_spectra(seed)
    seen = Observer(extra_noise=extra_noise).spectra(flux, seeded(seed), ivar=ivar, mask=mask)
    assert not (mask.bool() & ~seen.mask).any()  # nothing masked comes back
    assert not seen.flux[seen.mask].any()
    assert not seen.ivar[seen.mask].any()
    assert torch.isfinite(seen.flux).all()
    assert (seen.ivar <= ivar * 1.00001)[~seen.mask].all()


def test_added_noise_is_as_large_as_the_ivar_says():
    n_spectra, n_pixels = 400, 500
    ivar = torch.full((n_spectra, n_pixels), 4.0)
    flux = torch.zeros_like(ivar)
    seen = Observer(extra_noise=1.5).spectra(
        flux, seeded(3), ivar=ivar, mask=torch.zeros_like(ivar)
    )
    added = 1 / seen.ivar[:, 0] - 1 / 4.0
    assert float(added.max()) <= 1.5**2 / 4 * 1.0001
    assert float(added.sqrt().mean()) == pytest.approx(0.75 / 2, rel=0.1)  # uniform from zero
    ratio = seen.flux.var(dim=1) / added
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)


def test_images_are_turned_but_not_changed():
    pixels, seeing = make_images(5)
    inputs, mask = Observer(transform_images=True).images(pixels, seeing, seeded())
    plain, plain_mask = Observer().images(pixels, seeing, seeded())
    places = set()
    for row in range(len(pixels)):
        for band in range(3):
            np.testing.assert_array_equal(
                np.sort(inputs[row, band].ravel()), np.sort(plain[row, band].ravel())
            )
        places.add(tuple(np.argwhere(mask[row, 0].numpy())[0]))
        images = [np.rot90(plain[row], turn, (1, 2)) for turn in range(4)]
        images += [image[:, :, ::-1] for image in images]
        assert any(np.array_equal(inputs[row], image) for image in images)
    assert len(places) > 2
    assert int(mask.sum()) == int(plain_mask.sum())


def test_added_image_noise_follows_each_image_own():
    rng = np.random.default_rng(6)
    level = torch.tensor([0.01, 1.0])[:, None, None, None]
    pixels = level * torch.from_numpy(rng.normal(0, 1, (2, 3, 64, 64)).astype(np.float32))
    recorded = Observer(extra_noise=1.0)
    plain, _ = Observer().images(pixels, torch.full((2, 3), torch.nan), seeded(7))
    inputs, _ = recorded.images(pixels, torch.full((2, 3), torch.nan), seeded(7))
    scales = torch.tensor([20.0, 12.0, 6.0])[None, :, None, None]
    added = (torch.sinh(2 * inputs) - torch.sinh(2 * plain)) / scales
    share = added.std(dim=(2, 3)) / level[:, :, 0, 0]
    assert share.max() < 1.1
    assert (share.std(dim=1) < 0.05 * share.mean(dim=1)).all()  # one share for an image's bands


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_band_is_lost_only_where_another_stays(seed):
    pixels, seeing = make_images(seed)
    pixels[:3, :2] = torch.nan
    recorded = Observer(missing_band_share=1.0)
    inputs, mask = recorded.images(pixels, seeing, seeded(seed))
    lost = mask.all(dim=(2, 3))
    assert (~lost).any(dim=1).all()
    assert (lost[3:].sum(dim=1) == 1).all()
    assert not inputs[mask].any()


def test_only_noiseless_pairs_of_a_mix_get_an_instrument():
    flux, ivar, mask = torch.full((5, 4360), 2.0), torch.ones(5, 4360), torch.zeros(5, 4360)
    ivar[[1, 4]] = torch.inf
    share = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    seen = Observer().spectra(
        flux, seeded(), ivar=ivar, mask=mask, varied_share=share
    )
    assert seen.mask.any(dim=1).tolist() == [False, True, False, False, False]
    assert torch.equal(seen.flux[[0, 2, 3]], flux[[0, 2, 3]])
    assert torch.equal(seen.ivar[[0, 2, 3]], ivar[[0, 2, 3]])
    drawn = seen.flux[[1, 4]]
    assert (drawn != 2).all()  # DESI's are complete, others are not
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.isfinite(seen.ivar).all()
    pixels, seeing = make_images(8, n_images=5, size=64)
    pixels, seeing = pixels.nan_to_num(0.0), seeing.clone()
    seeing[[1, 4]] = 1.3
    inputs, _ = Observer().images(pixels, seeing, seeded())
    plain = image_inputs(pixels)
    changed = (inputs != plain).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False, False, True]


def test_noiseless_pairs_alone_are_recorded_as_an_observer_does():
    flux, share = torch.full((5, 4360), 2.0), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    pixels, seeing = torch.full((5, 3, 64, 64), 0.1), torch.full((5, 3), 1.3)
    ivar = torch.full((5, 4360), torch.inf)
    observer = Observer(missing_band_share=0.3)
    recorded = Observer(missing_band_share=0.3, extra_noise=1.0)
    expected = observer.spectra(flux, seeded(), varied_share=share)
    for errors in ({}, {"ivar": ivar, "mask": torch.zeros_like(ivar)}):
        seen = recorded.spectra(flux, seeded(), varied_share=share, **errors)
        assert torch.equal(seen.flux, expected.flux)
        assert torch.equal(seen.mask, expected.mask)
    for part, plain in zip(
        recorded.images(pixels, seeing, seeded()),
        observer.images(pixels, seeing, seeded()),
        strict=True,
    ):
        assert torch.equal(part, plain)


def test_the_generator_fixes_every_draw():
    flux, ivar, mask = make_spectra(9)
    recorded = Observer(extra_noise=1.0)
    first = recorded.spectra(flux, seeded(2), ivar=ivar, mask=mask)
    again = recorded.spectra(flux, seeded(2), ivar=ivar, mask=mask)
    other = recorded.spectra(flux, seeded(3), ivar=ivar, mask=mask)
    assert torch.equal(first.flux, again.flux)
    assert not torch.equal(first.flux, other.flux)



# ---------------------------------------------------------------------- augmentation
def test_each_image_takes_one_of_eight_orientations_as_likely():
    image = np.random.default_rng(1).normal(size=(3, 5, 5)).astype(np.float32)
    n_images = 1600
    turned = rotate_and_flip_images(torch.from_numpy(image).repeat(n_images, 1, 1, 1), seeded())
    count = [int((turned == torch.from_numpy(o.copy())).all((1, 2, 3)).sum())
             for o in orientations(image)]
    assert sum(count) == n_images
    assert min(count) > 150 and max(count) < 250


def test_shift_is_a_copy_of_what_is_inside():
    images = torch.from_numpy(np.random.default_rng(2).normal(size=(12, 2, 9, 9)))
    moved, mask = shift_images(images, seeded(), largest=3)
    steps = set()
    for image, result, bad in zip(images.numpy(), moved.numpy(), mask.numpy()):
        rows, columns = np.nonzero(~bad[0])
        matches = [
            (down, right)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if len(rows) == (9 - abs(down)) * (9 - abs(right))
            and all(0 <= r + down < 9 and 0 <= c + right < 9 for r, c in zip(rows, columns))
            and np.array_equal(result[:, rows, columns], image[:, rows + down, columns + right])
        ]
        assert len(matches) == 1
        assert (bad == bad[0]).all()
        assert (result[bad] == 0).all()
        steps.add(matches[0])
    assert len(steps) > 6


def test_no_shift_leaves_images_complete():
    images = torch.randn(3, 3, 8, 8, generator=seeded())
    moved, mask = shift_images(images, seeded(), largest=0)
    assert torch.equal(moved, images)
    assert not mask.any()


@pytest.mark.parametrize("fwhm", [0.4, 1.1, 2.0])
def test_blur_equals_scipy_inside(fwhm):
    images = np.random.default_rng(3).normal(size=(2, 3, 40, 40)).astype(np.float32)
    widths = torch.tensor([[fwhm, 0.5 * fwhm, 0.0], [fwhm, fwhm, fwhm]])
    blurred = blur_images(torch.from_numpy(images), widths).numpy()
    for number, band in np.ndindex(2, 3):
        sigma = float(widths[number, band]) / 2.3548200450309493 / 0.524
        expected = gaussian_filter(images[number, band].astype(float), sigma, truncate=8)
        inside = (slice(14, -14),) * 2
        np.testing.assert_allclose(
            blurred[number, band][inside], expected[inside], rtol=0, atol=2e-6
        )
    np.testing.assert_array_equal(blurred[0, 2], images[0, 2])


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 5), st.floats(-100, 100))
def test_blur_keeps_a_flat_background(fwhm, level):
    blurred = blur_images(torch.full((1, 1, 12, 12), level), torch.tensor([[fwhm]]))
    np.testing.assert_allclose(blurred.numpy(), level, rtol=1e-5, atol=1e-6)


def test_dereddening_undoes_reddening():
    images = torch.rand(4, 3, 6, 6, generator=seeded())
    reddening = torch.tensor([0.0, 0.03, 0.1, 0.5])
    reddened = redden_images(images, reddening)
    restored = deredden(reddened.numpy(), ("g", "r", "z"), reddening.numpy())
    np.testing.assert_allclose(restored, images.numpy(), rtol=1e-5)
    assert torch.equal(reddened[0], images[0])
    assert (reddened[1:] < images[1:]).all()



def test_views_are_seeded_and_independent():
    images = 5 * torch.rand(8, 3, 32, 32, generator=seeded())
    kept, observer = images.clone(), AugmentingObserver()
    generator = seeded(4)
    first, second = (observer.images(images, SEEING.repeat(8, 1), generator) for _ in range(2))
    again = observer.images(images, SEEING.repeat(8, 1), seeded(4))
    assert torch.equal(images, kept)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.isclose(first[0], second[0])[~(first[1] | second[1])].all()
    for pixels, mask in (first, second):
        assert torch.isfinite(pixels).all()
        assert (pixels[mask] == 0).all()


def test_without_augmentation_the_image_only_turns():
    images = torch.rand(6, 3, 16, 16, generator=seeded()) * 1e5  # noise is one part in a thousand
    observer = AugmentingObserver(
        mean_reddening=0.0, largest_blur=0.0, largest_shift=0, missing_band_share=0.0
    )
    inputs, mask = observer.images(images, SEEING.repeat(6, 1), seeded())
    assert not mask.any()
    for image, result in zip(images.numpy(), inputs.numpy()):
        flux = np.sinh(2 * result) / np.array([20.0, 12.0, 6.0])[:, None, None]
        close = [np.allclose(flux, o, rtol=0.05, atol=50) for o in orientations(image)]
        assert sum(close) == 1


def test_reddening_has_the_stated_mean_and_bands_are_lost_in_their_share():
    n = 2000
    images = torch.full((n, 3, 4, 4), 1e6)
    observer = AugmentingObserver(
        mean_reddening=0.05, largest_blur=0.0, largest_shift=0, missing_band_share=0.2
    )
    inputs, mask = observer.images(images, SEEING.repeat(n, 1), seeded())
    lost = mask.all(dim=(2, 3))
    assert 0.17 < float(lost.any(dim=1).float().mean()) < 0.23
    flux = torch.sinh(2 * inputs.double()) / torch.tensor([20.0, 12.0, 6.0])[:, None, None]
    dimming = -2.5 * torch.log10(flux[~lost[:, 0], 0].mean(dim=(1, 2)) / 1e6)
    assert float(dimming.mean()) == pytest.approx(0.05 * 3.214, rel=0.07)


def test_recorded_images_get_no_noise_again_and_keep_their_bad_pixels():
    images = torch.rand(6, 3, 16, 16, generator=seeded())
    images[0, :, 3, 4] = torch.nan
    observer = AugmentingObserver(**STILL, extra_noise=0.0)
    inputs, mask = observer.images(images, torch.full((6, 3), torch.nan), seeded())
    assert torch.equal(mask.sum(dim=(2, 3)), torch.isnan(images).sum(dim=(2, 3)))
    assert torch.isfinite(inputs).all()
    for image, result in zip(images.numpy(), inputs.numpy(), strict=True):
        flux = np.sinh(2 * result) / np.array([20.0, 12.0, 6.0])[:, None, None]
        known = np.nan_to_num(image)
        assert any(np.allclose(flux, turned, atol=1e-5) for turned in orientations(known))


def test_bad_pixels_of_recorded_images_do_not_spread_when_blurred():
    images = torch.rand(4, 3, 16, 16, generator=seeded())
    images[:, 1, 5, 5] = torch.nan
    observer = AugmentingObserver(largest_shift=0, missing_band_share=0.0)
    inputs, mask = observer.images(images, torch.full((4, 3), torch.nan), seeded())
    assert mask.sum() == 4
    assert torch.isfinite(inputs).all()


# ---------------------------------------------------------------------- whole data sets
def test_encoded_pairs_are_those_of_each_batch_in_turn():
    rng = np.random.default_rng(5)
    pairs = {
        "spectrum": rng.uniform(1, 5, (5, 4360)).astype(np.float32),
        "image": rng.uniform(0, 1, (5, 3, 16, 16)).astype(np.float32),
        "seeing": np.full((5, 3), 1.3, np.float32),
        "redshift": np.arange(5.0),
    }

    def encode(seen):
        level, sky = seen.spectra.flux.mean(dim=1), seen.pixels.mean(dim=(1, 2, 3))
        return {"level": level, "sky": sky, "redshift": seen.redshift}

    found = encode_pairs(encode, pairs, observer=Observer(sdss_share=0.5), seed=3, batch_size=2)
    generator, levels, skies = seeded(3), [], []
    for rows in (slice(0, 2), slice(2, 4), slice(4, 5)):
        flux, image, seeing = (
            torch.from_numpy(pairs[name][rows]) for name in ("spectrum", "image", "seeing")
        )
        observer = Observer(sdss_share=0.5)
        levels.append(observer.spectra(flux, generator).flux.mean(dim=1))
        skies.append(observer.images(image, seeing, generator)[0].mean(dim=(1, 2, 3)))
    np.testing.assert_array_equal(found["level"], torch.cat(levels))
    np.testing.assert_array_equal(found["sky"], torch.cat(skies))
    np.testing.assert_array_equal(found["redshift"], pairs["redshift"])


def test_encoding_uses_the_shares_and_errors_of_the_pairs():
    flux = np.full((6, 4360), 2.0, np.float32)
    share = np.array([0, 1, 0, 1, 1, 0], np.float32)
    ivar = np.where(np.arange(6)[:, None] < 2, 4.0, np.inf) * np.ones_like(flux)
    pairs = {"spectrum": flux, "varied_share": share}
    seen = encode_pairs(lambda seen: {"mask": seen.spectra.mask}, pairs)
    np.testing.assert_array_equal(seen["mask"].any(axis=1), share > 0)  # DESI's are complete
    pairs |= {"ivar": ivar.astype(np.float32), "mask": np.zeros(flux.shape, bool)}
    seen = encode_pairs(lambda seen: vars(seen.spectra), pairs)
    assert (seen["flux"][:2] == 2).all() and (seen["ivar"][:2] == 4).all()
    assert seen["mask"].any(axis=1).tolist() == [False, False, False, True, True, False]
