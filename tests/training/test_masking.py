"""Masked modelling against slow loops: what is hidden, what counts, what the encoder sees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.models.small import spectrum_channels
from astroclip.models.published import SpecFormer, tokenize_spectra
from astroclip.simulation.spectrographs import ObservedSpectra
from astroclip.training.masking import (
    MaskedSpectra,
    MaskingRecipe,
    _reconstruct_tokens,
    hide_chunks,
    reconstruction_loss,
    specformer_masked_loss,
)

N_PIXELS = 4360


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def module():
    """Return a small objective that is not trained."""
    torch.manual_seed(1)
    return MaskedSpectra(MaskingRecipe(encoder={"width": 16, "dim": 16})).eval()


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


def test_bad_pixels_do_not_count(module, spectra):
    flux, ivar, mask = spectra
    with torch.inference_mode():
        expected = module.loss(ObservedSpectra(flux, ivar, mask), seeded())
        changed = ObservedSpectra(torch.where(mask, -1e5, flux), torch.where(mask, 1e3, ivar), mask)
        found = module.loss(changed, seeded())
        nothing = module.loss(ObservedSpectra(flux, ivar, torch.ones_like(mask)), seeded())
    assert torch.isfinite(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert float(nothing) == 0


def test_features_are_the_mean_of_tokens_with_data(module, spectra, monkeypatch):
    flux, ivar, mask = spectra
    observed = ObservedSpectra(flux, ivar, mask)
    monkeypatch.setattr(module.plain_observer, "spectra", lambda *_, **__: observed)
    with torch.inference_mode():
        features = module.features({"spectrum": flux}, seeded()).numpy()
        tokens, _ = module.encoder.tokens(*spectrum_channels(flux, ivar, mask))
    for row, values, bad in zip(features, tokens.numpy(), mask.numpy()):
        share = [(~bad[32 * t : 32 * t + 32]).sum() / 32 for t in range(len(values))]
        expected = values[np.array(share) >= 0.1].mean(axis=0)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)


def test_the_loss_reaches_all_but_pooling_and_head(spectra):
    module = MaskedSpectra(MaskingRecipe(encoder={"width": 16, "dim": 16}))
    module.loss(ObservedSpectra(*spectra), seeded()).backward()
    unreached = {name for name, p in module.named_parameters() if p.grad is None}
    assert unreached == {name for name, p in module.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in unreached} == {"gate", "windows", "head"}


def naive_tokens(flux):
    """Return SpecFormer's tokens of one spectrum, slice by slice."""
    deviation = max(flux.std(ddof=1), 0.2)
    standard = (flux - flux.mean()) / deviation
    slices = [standard[first : first + 20] for first in range(0, len(flux) - 20, 10)]
    tokens = np.zeros((len(slices) + 1, 22))
    tokens[1:, 2:] = slices
    tokens[0, :2] = (flux.mean() - 2) / 2, (deviation - 2) / 8
    return tokens


def test_specformer_loss_is_the_published_formula():
    torch.manual_seed(3)
    model = SpecFormer(embed_dim=8, num_layers=0, num_heads=1).double().eval()
    flux = np.random.default_rng(4).normal(2, 1, (2, 7781))
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    hidden = hide_chunks(2, 778, seeded(7), n_chunks=6, chunk_length=50).numpy()
    squares, n_values, n_changed = 0.0, 0, 0
    for row, hide in zip(flux, hidden):
        tokens = naive_tokens(row)
        assert tokens.shape == (778, 22)
        for number, token in enumerate(tokens):
            seen = np.zeros(22) if hide[number] else token
            x = weights["data_embed.weight"] @ seen + weights["data_embed.bias"]
            x = x + weights["position_embed.weight"][number]
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            x = x * weights["final_layernorm.weight"] + weights["final_layernorm.bias"]
            guess = weights["head.weight"] @ x + weights["head.bias"]
            changed = seen != token
            squares += ((guess - token)[changed] ** 2).sum()
            n_changed += changed.sum()
            n_values += 22
    expected = (squares / n_values) / (n_changed / n_values)
    found = specformer_masked_loss(model, torch.from_numpy(flux), seeded(7))
    assert n_changed >= 2 * 6 * 50 * 20 - 22
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)


def test_reconstruction_from_complete_tokens_is_specformers_own():
    torch.manual_seed(4)
    model = SpecFormer(embed_dim=12, num_layers=2, num_heads=2, hidden=16).eval()
    flux = torch.randn(2, 1001, generator=seeded())
    with torch.inference_mode():
        tokens = _reconstruct_tokens(model, tokenize_spectra(flux))
        torch.testing.assert_close(tokens, model.reconstruct(flux), rtol=0, atol=1e-6)


def test_specformer_learns_from_its_loss():
    torch.manual_seed(5)
    model = SpecFormer(embed_dim=12, num_layers=1, num_heads=2, hidden=16)
    flux = torch.sin(torch.arange(2001) / 300).repeat(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(25):
        loss = specformer_masked_loss(model, flux, seeded(step), chunk_length=15)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])
