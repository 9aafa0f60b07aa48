"""Batches: every pair once an epoch, seeded order, inputs equal to the library's own."""

import numpy as np
import torch

from astroclip.preparation import normalize_images
from astroclip.training.augmenting_observer import AugmentingObserver
from astroclip.training.data import Observer, PairBatches, image_inputs
from astroclip.training.recorded import Recorded


def test_an_epoch_holds_every_pair_once_and_its_order_follows_the_seed(workspace):
    pairs = workspace.read("train-mix")
    batches = PairBatches(pairs, batch_size=16, seed=3, epoch=1)
    seen = torch.cat([batch["redshift"] for batch in batches]).numpy()
    np.testing.assert_array_equal(np.sort(seen), np.sort(pairs["redshift"]))
    again = torch.cat([batch["redshift"] for batch in batches]).numpy()
    np.testing.assert_array_equal(seen, again)
    other = PairBatches(pairs, batch_size=16, seed=3, epoch=2)
    assert not np.array_equal(seen, torch.cat([batch["redshift"] for batch in other]).numpy())


def test_unshuffled_batches_keep_order_and_the_rest(workspace):
    pairs = workspace.read("train-mix")
    batches = PairBatches(pairs, batch_size=20, shuffle=False)
    sizes = [len(batch["redshift"]) for batch in batches]
    assert sizes == [20, 20, 8]
    assert len(batches) == 3


def test_training_scales_images_as_users_images_are_scaled():
    pixels = np.random.default_rng(1).normal(0, 0.1, (4, 3, 8, 8)).astype(np.float32)
    expected = normalize_images(pixels, bands="grz", normalization="asinh")
    np.testing.assert_allclose(image_inputs(torch.from_numpy(pixels)).numpy(), expected, atol=1e-6)


def test_observer_mixes_instruments_in_their_shares():
    flux = torch.ones(200, 4360)
    observer = Observer(varied_share=0.25, sdss_share=0.25, broad=True)
    observed = observer.spectra(flux, torch.Generator().manual_seed(1))
    incomplete = observed.mask.any(dim=1)
    assert 70 < int(incomplete.sum()) < 130  # DESI spectra are complete, the others rarely
    alone = torch.zeros(200)
    complete = Observer().spectra(flux, torch.Generator().manual_seed(1), varied_share=alone)
    assert not complete.mask.any()


def test_observer_takes_a_share_for_every_galaxy():
    share = torch.cat([torch.zeros(30), torch.ones(30)])
    observed = Observer(broad=True).spectra(
        torch.ones(60, 4360), torch.Generator().manual_seed(1), varied_share=share
    )
    assert not observed.mask[:30].any()
    assert observed.mask[30:].any(dim=1).float().mean() > 0.8


def test_observed_rows_stay_with_their_galaxies():
    flux = torch.arange(1.0, 41.0)[:, None] * torch.ones(40, 4360) * 100
    observed = Observer(varied_share=0.0, sdss_share=0.5).spectra(
        flux, torch.Generator().manual_seed(3)
    )
    level = (observed.flux * ~observed.mask).sum(dim=1) / (~observed.mask).sum(dim=1)
    assert np.corrcoef(level.log(), flux[:, 0].log())[0, 1] > 0.8


def test_epochs_go_through_the_pairs_before_any_comes_again(workspace):
    pairs = workspace.read("train-mix")
    seen = []
    for epoch in range(3):
        batches = PairBatches(pairs, batch_size=16, seed=3, epoch=epoch, epoch_size=16)
        (batch,) = batches
        seen.append(batch["redshift"].numpy())
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(pairs["redshift"]))
    later = PairBatches(pairs, batch_size=16, seed=3, epoch=3, epoch_size=16)
    assert set(next(iter(later))["redshift"].tolist()) <= set(pairs["redshift"].tolist())


def test_observer_drops_bands_and_masks_them():
    observer = Observer(missing_band_share=0.5)
    pixels, mask = observer.images(
        torch.ones(60, 3, 16, 16), torch.full((60, 3), 1.3), torch.Generator().manual_seed(2)
    )
    lost = mask.all(dim=(2, 3))
    assert 15 < int(lost.any(dim=1).sum()) < 45
    assert int(lost.sum(dim=1).max()) == 1
    assert torch.all(pixels[mask] == 0)


def test_light_is_recorded_in_full_precision_under_autocast(workspace):
    pairs = workspace.read("train-mix")
    flux, pixels, seeing = (
        torch.from_numpy(pairs[name][:8]).float() for name in ("spectrum", "image", "seeing")
    )
    for observer in (
        Observer(varied_share=0.5, sdss_share=0.25, varied_image_share=0.5, transform_images=True),
        Recorded(transform_images=True),
        AugmentingObserver(),
    ):
        found = []
        for enabled in (False, True):
            generator = torch.Generator().manual_seed(7)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                inputs, _ = observer.images(pixels, seeing, generator)
                found.append([inputs])
                if not isinstance(observer, AugmentingObserver):
                    found[-1].append(observer.spectra(flux, generator).flux)
        for plain, under_autocast in zip(*found, strict=True):
            assert under_autocast.dtype == torch.float32
            torch.testing.assert_close(under_autocast, plain, rtol=0, atol=0)
