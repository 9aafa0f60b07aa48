"""Masked modelling against slow loops: what is hidden, what counts, what the encoder sees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.models.small import spectrum_channels
from astroclip.training.masked import MaskedSpectra, hide_chunks, reconstruction_loss
from astroclip.training.recipe import read_recipe
from astroclip.training.sources import read_source
from tests.training.survey import make_survey

N_PIXELS = 4360


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def module():
    """Return a small objective that is not trained."""
    torch.manual_seed(1)
    module = MaskedSpectra(read_recipe({"spectrum": {"width": 16, "dim": 16}}))
    module.log = lambda *_, **__: None  # outside of a trainer
    return module


@pytest.fixture(scope="module")
def spectra():
    rng = np.random.default_rng(2)
    flux = torch.from_numpy(rng.normal(3, 1, (3, N_PIXELS))).float()
    ivar = torch.from_numpy(rng.uniform(0.5, 2, (3, N_PIXELS))).float()
    mask = torch.from_numpy(rng.random((3, N_PIXELS)) < 0.05)
    mask[1, 3000:] = True
    return flux, ivar, mask


@settings(max_examples=30, deadline=None)
@given(st.integers(60, 500), st.integers(1, 6), st.integers(1, 9), st.integers(0, 1000))
def test_every_section_hides_one_chunk(length, n_chunks, chunk_length, seed):
    hidden = hide_chunks(
        3, length, seeded(seed), n_chunks=n_chunks, chunk_length=chunk_length
    ).numpy()
    starts = [number * length // n_chunks for number in range(n_chunks)] + [length]
    for row in hidden:
        assert row.sum() == n_chunks * chunk_length
        for first, last in zip(starts[:-1], starts[1:]):
            places = first + np.flatnonzero(row[first:last])
            np.testing.assert_array_equal(places, np.arange(chunk_length) + places[0])


def test_rows_hide_different_places_and_the_seed_fixes_them():
    options = {"n_chunks": 6, "chunk_length": 288}
    hidden = hide_chunks(4, N_PIXELS, seeded(), **options)
    assert torch.equal(hidden, hide_chunks(4, N_PIXELS, seeded(), **options))
    assert not torch.equal(hidden[0], hidden[1])
    assert hidden.float().mean() == pytest.approx(0.4, abs=0.01)


def test_chunks_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match="chunk_length is 50; expected less than 50, the length"):
        hide_chunks(1, 100, seeded(), n_chunks=2, chunk_length=50)


@pytest.mark.parametrize("noise_floor", [0.05, 0.2, 1.0])
def test_loss_is_the_documented_sum(noise_floor):
    rng = np.random.default_rng(5)
    flux, guess = rng.normal(2, 3, (2, 4, 30))
    ivar = rng.uniform(0.01, 9, (4, 30))
    scale = rng.uniform(0.5, 4, (4, 1))
    hidden = rng.random((4, 30)) < 0.4
    flux[~hidden], ivar[~hidden] = np.nan, 0.0  # what is not hidden must not matter
    total = 0.0
    for row, pixel in zip(*np.nonzero(hidden)):
        mean = scale[row, 0]
        variance = 1 / (ivar[row, pixel] * mean**2) + noise_floor**2
        total += (guess[row, pixel] - np.arcsinh(flux[row, pixel] / mean)) ** 2 / variance
    tensors = (torch.from_numpy(values) for values in (guess, flux, ivar, hidden, scale))
    found = reconstruction_loss(*tensors, noise_floor=noise_floor)
    assert float(found) == pytest.approx(total / hidden.sum(), rel=1e-12)


def test_only_hidden_pixels_ask_for_a_gradient():
    guess = torch.zeros(2, 20, requires_grad=True)
    hidden = torch.rand(2, 20, generator=seeded()) < 0.3
    flux, ivar = torch.ones(2, 20), torch.ones(2, 20)
    loss = reconstruction_loss(guess, flux, ivar, hidden, torch.ones(2, 1), noise_floor=0.2)
    loss.backward()
    assert torch.equal(guess.grad != 0, hidden)


def test_nothing_hidden_costs_nothing():
    none = torch.zeros(2, 5, dtype=torch.bool)
    loss = reconstruction_loss(
        torch.ones(2, 5), torch.ones(2, 5), torch.zeros(2, 5), none, torch.ones(2, 1),
        noise_floor=0.2,
    )
    assert float(loss) == 0


def test_hidden_pixels_are_not_seen(module, spectra):
    flux, ivar, mask = spectra
    hidden = mask | hide_chunks(3, N_PIXELS, seeded(), n_chunks=6, chunk_length=288)
    with torch.inference_mode():
        expected, scale = module.reconstruct(flux, ivar, hidden)
        found, other_scale = module.reconstruct(
            torch.where(hidden, 1e4, flux), torch.where(hidden, 50.0, ivar), hidden
        )
    assert expected.shape == flux.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(other_scale, scale, rtol=0, atol=0)
    visible = torch.where(hidden, 0.0, ivar)
    mean = (visible * flux).sum(dim=1) / visible.sum(dim=1)
    torch.testing.assert_close(scale[:, 0], mean, rtol=1e-4, atol=0)


@pytest.fixture
def batch(spectra):
    """Return recorded spectra as a batch, with a redshift each."""
    flux, ivar, mask = spectra
    names = ("spectrum", "ivar", "mask", "redshift")
    return dict(zip(names, (flux, ivar, mask.float(), torch.tensor([0.1, 0.2, 0.3])), strict=True))


def step(module, batch):
    """Return the loss of a step with the draws of the first one of an epoch."""
    module.trainer = type("Trainer", (), {"current_epoch": 0, "global_rank": 0})
    return module.training_step(batch, 0)


def test_bad_pixels_do_not_count(module, batch):
    mask = batch["mask"] == 1
    changed = {
        **batch, "spectrum": torch.where(mask, -1e5, batch["spectrum"]),
        "ivar": torch.where(mask, 1e3, batch["ivar"]),
    }
    module.eval()
    with torch.inference_mode():
        expected = step(module, batch)
        torch.testing.assert_close(step(module, changed), expected, rtol=0, atol=0)
        nothing = step(module, {**batch, "mask": torch.ones_like(batch["mask"])})
    assert torch.isfinite(expected)
    assert float(nothing) == 0


def test_features_are_the_mean_of_tokens_with_data(module, batch, spectra):
    with torch.inference_mode():
        held = module.eval().held_out(batch, seeded())
        tokens, _ = module.encoder.tokens(*spectrum_channels(*spectra))
    assert torch.equal(held["redshift"], batch["redshift"])
    for row, values, bad in zip(held["features"].numpy(), tokens.numpy(), spectra[2].numpy()):
        share = [(~bad[32 * t : 32 * t + 32]).sum() / 32 for t in range(len(values))]
        expected = values[np.array(share) >= 0.1].mean(axis=0)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)


def test_the_loss_reaches_all_but_pooling_and_head(module, batch):
    module.zero_grad()
    step(module.train(), batch).backward()
    unreached = {name for name, p in module.named_parameters() if p.grad is None}
    assert unreached == {name for name, p in module.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in unreached} == {"gate", "windows", "head"}


def test_recorded_spectra_reach_the_objective_with_their_errors():
    pairs = read_source(make_survey(4))
    recipe = read_recipe({"spectrum": {"width": 16}})
    module = MaskedSpectra(recipe, pairs=pairs, validation=pairs)
    (batch,) = module.val_dataloader()
    np.testing.assert_array_equal(batch["mask"].numpy() == 1, pairs["mask"])
    np.testing.assert_array_equal(batch["ivar"].numpy(), pairs["ivar"].astype(np.float32))
