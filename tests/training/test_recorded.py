"""Recorded pairs: augmentation that only ever takes away, and noise only where it is due."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.training.data import Observer, image_inputs
from astroclip.training.recorded import Recorded

N_PIXELS = 400


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


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def test_plain_recorded_passes_everything_on():
    flux, ivar, mask = make_spectra(1)
    seen = Recorded().spectra(flux, generator(), ivar=ivar, mask=mask)
    bad = mask.bool()
    assert torch.equal(seen.mask, bad)
    assert torch.equal(seen.flux[~bad], flux[~bad])
    assert torch.equal(seen.ivar[~bad], ivar[~bad])
    assert not seen.flux[bad].any()
    assert not seen.ivar[bad].any()
    pixels, seeing = make_images(2)
    inputs, image_mask = Recorded().images(pixels, seeing, generator())
    assert torch.equal(image_mask, pixels.isnan())
    expected = image_inputs(pixels).nan_to_num(0.0)
    torch.testing.assert_close(inputs, expected)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000), st.floats(0, 2), st.floats(0, 1), st.floats(0, 0.5),
)
def test_augmentation_never_adds_knowledge(seed, extra_noise, cut_share, tilt):
    flux, ivar, mask = make_spectra(seed)
    recorded = Recorded(extra_noise=extra_noise, cut_share=cut_share, tilt=tilt)
    seen = recorded.spectra(flux, generator(seed), ivar=ivar, mask=mask)
    assert not (mask.bool() & ~seen.mask).any()  # nothing masked comes back
    assert not seen.flux[seen.mask].any()
    assert not seen.ivar[seen.mask].any()
    assert torch.isfinite(seen.flux).all()
    good = ~seen.mask
    assert (good.sum(dim=1) >= 0.3 * (mask == 0).sum(dim=1) - 1).all()
    # the tilt scales flux and error alike, so that it drops out of what noise takes away
    along = torch.linspace(-1, 1, N_PIXELS)
    share = torch.where(good, seen.ivar / ivar, torch.nan).log()
    for row in range(len(flux)):
        slope, level = np.polyfit(along[good[row]], share[row][good[row]], 1)
        assert level < 1e-5
        if tilt == 0:
            assert abs(slope) < 1e-4


def test_added_noise_is_as_large_as_the_ivar_says():
    n_spectra, n_pixels = 400, 500
    ivar = torch.full((n_spectra, n_pixels), 4.0)
    flux = torch.zeros_like(ivar)
    seen = Recorded(extra_noise=1.5).spectra(
        flux, generator(3), ivar=ivar, mask=torch.zeros_like(ivar)
    )
    added = 1 / seen.ivar[:, 0] - 1 / 4.0
    assert float(added.max()) <= 1.5**2 / 4 * 1.0001
    assert float(added.sqrt().mean()) == pytest.approx(0.75 / 2, rel=0.1)  # uniform from zero
    ratio = seen.flux.var(dim=1) / added
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)


def test_tilt_keeps_the_signal_to_noise_ratio():
    flux, ivar, mask = make_spectra(4)
    seen = Recorded(tilt=0.3).spectra(flux, generator(4), ivar=ivar, mask=mask)
    good = ~seen.mask
    assert not torch.allclose(seen.flux[good], flux[good], rtol=0.05)
    torch.testing.assert_close(
        (seen.flux * seen.ivar.sqrt())[good], (flux * ivar.sqrt())[good], rtol=1e-4, atol=1e-4
    )


def test_a_spectrum_that_a_cut_would_leave_empty_is_not_cut():
    mask = torch.ones(50, N_PIXELS)
    mask[:, :30] = 0
    flux = ivar = torch.ones(50, N_PIXELS)
    seen = Recorded(cut_share=1.0).spectra(flux, generator(), ivar=ivar, mask=mask)
    assert (~seen.mask).sum(dim=1).min() >= 9


def test_images_are_turned_but_not_changed():
    pixels, seeing = make_images(5)
    inputs, mask = Recorded(transform_images=True).images(pixels, seeing, generator())
    plain, plain_mask = Recorded().images(pixels, seeing, generator())
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
    recorded = Recorded(extra_noise=1.0)
    plain, _ = Recorded().images(pixels, torch.full((2, 3), torch.nan), generator(7))
    inputs, _ = recorded.images(pixels, torch.full((2, 3), torch.nan), generator(7))
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
    recorded = Recorded(missing_band_share=1.0)
    inputs, mask = recorded.images(pixels, seeing, generator(seed))
    lost = mask.all(dim=(2, 3))
    assert (~lost).any(dim=1).all()
    assert (lost[3:].sum(dim=1) == 1).all()
    assert not inputs[mask].any()


def test_only_noiseless_pairs_of_a_mix_get_an_instrument():
    flux, ivar, mask = torch.full((5, 4360), 2.0), torch.ones(5, 4360), torch.zeros(5, 4360)
    ivar[[1, 4]] = torch.inf
    share = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    seen = Recorded(noiseless=Observer()).spectra(
        flux, generator(), ivar=ivar, mask=mask, varied_share=share
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
    inputs, _ = Recorded().images(pixels, seeing, generator())
    plain = image_inputs(pixels)
    changed = (inputs != plain).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False, False, True]


def test_noiseless_pairs_alone_are_recorded_as_an_observer_does():
    flux, share = torch.full((5, 4360), 2.0), torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    pixels, seeing = torch.full((5, 3, 64, 64), 0.1), torch.full((5, 3), 1.3)
    observer, ivar = Observer(missing_band_share=0.3), torch.full((5, 4360), torch.inf)
    recorded = Recorded(noiseless=observer, extra_noise=1.0, cut_share=1.0)
    expected = observer.spectra(flux, generator(), varied_share=share)
    for errors in ({}, {"ivar": ivar, "mask": torch.zeros_like(ivar)}):
        seen = recorded.spectra(flux, generator(), varied_share=share, **errors)
        assert torch.equal(seen.flux, expected.flux)
        assert torch.equal(seen.mask, expected.mask)
    for part, plain in zip(
        recorded.images(pixels, seeing, generator()),
        observer.images(pixels, seeing, generator()),
        strict=True,
    ):
        assert torch.equal(part, plain)


def test_the_generator_fixes_every_draw():
    flux, ivar, mask = make_spectra(9)
    recorded = Recorded(extra_noise=1.0, cut_share=0.5, tilt=0.1)
    first = recorded.spectra(flux, generator(2), ivar=ivar, mask=mask)
    again = recorded.spectra(flux, generator(2), ivar=ivar, mask=mask)
    other = recorded.spectra(flux, generator(3), ivar=ivar, mask=mask)
    assert torch.equal(first.flux, again.flux)
    assert not torch.equal(first.flux, other.flux)
