"""Rest-frame training: lines land where they belong, and redshift can be moved."""

import dataclasses

import numpy as np
import pytest
import torch

from astroclip.preparation import wavelength_grid
from astroclip.simulation.spectrographs import WAVELENGTH, ObservedSpectra
from astroclip.training.rest_frame import RestFrame, RestFrameRecipe, redshifted, rest_frame

H_ALPHA = 6564.61


def line_spectrum(redshift):
    """Return spectra (N, P) of one line at ``redshift``."""
    centre = H_ALPHA * (1 + redshift)[:, None]
    width = 1e-4 * np.log(10) * centre * 2
    flux = 1 + 5 * np.exp(-0.5 * ((WAVELENGTH[None] - centre) / width) ** 2)
    return torch.from_numpy(flux).float()


@pytest.mark.parametrize("new", [0.05, 0.2, 0.33])
def test_a_moved_line_is_where_the_new_redshift_puts_it(new):
    redshift = np.array([0.1, 0.25, 0.4])
    moved, missing = redshifted(
        line_spectrum(redshift), torch.from_numpy(redshift).float(), torch.full((3,), new)
    )
    peak = WAVELENGTH[moved.masked_fill(missing, 0).argmax(dim=1).numpy()]
    np.testing.assert_allclose(peak, H_ALPHA * (1 + new), rtol=2.5e-4)


def test_light_that_was_never_recorded_is_missing():
    flux = torch.ones(2, 4360)
    _, missing = redshifted(flux, torch.tensor([0.1, 0.3]), torch.tensor([0.3, 0.1]))
    shift = round(np.log10(1.3 / 1.1) / 1e-4)
    assert missing[0, :shift].all() and not missing[0, shift:].any()
    assert missing[1, -shift:].all() and not missing[1, :-shift].any()


def test_rest_frame_puts_lines_at_their_laboratory_wavelength():
    redshift = np.array([0.0, 0.12, 0.45])
    flux = line_spectrum(redshift)
    seen = ObservedSpectra(flux, torch.ones_like(flux), torch.zeros_like(flux, dtype=torch.bool))
    rest = rest_frame(seen, torch.from_numpy(redshift).float())
    grid = wavelength_grid("rest")
    peak = grid[rest.flux.argmax(dim=1).numpy()]
    np.testing.assert_allclose(peak, H_ALPHA, rtol=2.5e-4)
    for row, value in enumerate(redshift):
        recorded = (grid >= WAVELENGTH[1] / (1 + value)) & (grid <= WAVELENGTH[-2] / (1 + value))
        assert not rest.mask[row].numpy()[recorded].any()
        outside = (grid < 0.999 * WAVELENGTH[0] / (1 + value)) | (
            grid > 1.001 * WAVELENGTH[-1] / (1 + value)
        )
        assert rest.mask[row].numpy()[outside].all()
        assert (rest.ivar[row].numpy()[outside] == 0).all()


def test_a_step_has_a_finite_loss_and_gradients(workspace):
    recipe = dataclasses.replace(
        RestFrameRecipe(), batch_size=8, memory_size=16, spectrum={"width": 16}
    )
    pairs = workspace.read("train-mix")
    module = RestFrame(recipe, pairs=pairs, validation=pairs)
    module.log_dict = lambda *_, **__: None
    batch = next(iter(module.train_dataloader()))
    for index in range(2):  # the second one has remembered galaxies
        loss = module.training_step(batch, index)
    loss.backward()
    gradients = [p.grad for p in module.spectrum_encoder.parameters() if p.grad is not None]
    assert len(gradients) > 10
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_new_redshifts_stay_in_reach():
    recipe = RestFrameRecipe()
    module = RestFrame(dataclasses.replace(recipe, spectrum={"width": 16}, memory_size=4))
    redshift = torch.linspace(0.001, 0.6, 200)
    new = module._new_redshift(redshift, torch.Generator().manual_seed(1))
    moved = torch.log10((1 + new) / (1 + redshift)).abs()
    assert float(moved.max()) <= recipe.largest_move + 1e-4
    assert float(new.min()) >= 0 and float(new.max()) <= recipe.redshift_range[1] + 1e-6


def test_the_penalty_is_the_squared_correlation_with_neighbours_redshifts():
    torch.manual_seed(2)
    recipe = dataclasses.replace(RestFrameRecipe(), spectrum={"width": 16}, memory_size=32)
    module = RestFrame(recipe)
    keys, labels = torch.randn(32, 128), torch.randn(32, 3)
    module.memory.remember((keys, keys), labels)
    views, redshift = torch.randn(2, 10, 128), torch.randn(10)
    estimate = torch.cat([module.memory.estimate(view, k)[:, 2] for k, view in enumerate(views)])
    correlation = np.corrcoef(estimate.detach().numpy(), redshift.repeat(2).numpy())[0, 1]
    expected = max(correlation, 0) ** 2
    found = float(module._telltale(tuple(views), redshift).detach())
    assert found == pytest.approx(expected, abs=1e-5)


def test_kinds_are_weighed():
    torch.manual_seed(5)
    recipe = dataclasses.replace(RestFrameRecipe(), spectrum={"width": 16}, memory_size=4)
    views, kinds, found = torch.randn(2, 5, 128), torch.randn(5, 2), {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.5)):
        torch.manual_seed(6)
        module = RestFrame(dataclasses.replace(recipe, kind_weights=weights))
        found[weights] = module._known(tuple(views), kinds).item()
    both = 2 * found[1.0, 0.0] + 0.5 * found[0.0, 1.0]
    assert found[2.0, 0.5] == pytest.approx(both, rel=1e-5)
    assert min(found.values()) > 0
