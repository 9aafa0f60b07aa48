"""Rest-frame training: lines land where they belong, and redshift can be moved."""

import numpy as np
import pytest
import torch

from astroclip.preparation import wavelength_grid
from astroclip.simulation.spectrographs import WAVELENGTH, ObservedSpectra
from astroclip.training.rest_frame import LARGEST_MOVE, RestFrame, redshifted, rest_frame
from tests.training.conftest import make_recipe

H_ALPHA = 6564.61


def line_spectrum(redshift):
    """Return spectra (N, P) of one line at ``redshift``."""
    center = H_ALPHA * (1 + redshift)[:, None]
    width = 1e-4 * np.log(10) * center * 2
    flux = 1 + 5 * np.exp(-0.5 * ((WAVELENGTH[None] - center) / width) ** 2)
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
    pairs = workspace.read("train-mix")
    module = RestFrame(make_recipe(rest={"batch_size": 8}), pairs=pairs, validation=pairs)
    module.log_dict = lambda *_, **__: None
    batch = next(iter(module.train_dataloader()))
    for index in range(2):  # the second one has remembered galaxies
        loss = module.training_step(batch, index)
    loss.backward()
    gradients = [p.grad for p in module.spectrum_encoder.parameters() if p.grad is not None]
    assert len(gradients) > 10
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_losses_are_weighed_as_the_recipe_says(workspace):
    pairs = workspace.read("train-mix")
    found, terms = {}, {}
    for weights in ({"contrast": 1.0}, {"labels": 1.0}, {"contrast": 0.5, "labels": 3.0}):
        torch.manual_seed(2)
        module = RestFrame(make_recipe(rest={"losses": weights}), pairs=pairs)
        module.log_dict = lambda logged, **_: terms.update(logged)
        loss = module.training_step(next(iter(module.train_dataloader())), 0)
        found[tuple(weights)] = float(loss.detach())
    expected = 0.5 * found["contrast",] + 3 * found["labels",]
    assert found["contrast", "labels"] == pytest.approx(expected, rel=1e-5)
    assert set(terms) == {"loss", "contrast", "labels", "neighbors", "redshift_leak"}


def test_new_redshifts_stay_in_reach():
    module = RestFrame(make_recipe())
    redshift = torch.linspace(0.001, 0.6, 200)
    new = module.new_redshift(redshift, torch.Generator().manual_seed(1))
    moved = torch.log10((1 + new) / (1 + redshift)).abs()
    assert float(moved.max()) <= LARGEST_MOVE + 1e-4
    assert float(new.min()) >= 0 and float(new.max()) <= 0.6 + 1e-6


def test_labels_are_weighed():
    torch.manual_seed(5)
    views, labels, found = torch.randn(2, 5, 128), torch.randn(5, 2), {}
    for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.5)):
        torch.manual_seed(6)
        module = RestFrame(make_recipe(rest={"label_weights": weights}))
        found[weights] = module.label_error(tuple(views), labels).item()
    both = 2 * found[1.0, 0.0] + 0.5 * found[0.0, 1.0]
    assert found[2.0, 0.5] == pytest.approx(both, rel=1e-5)
    assert min(found.values()) > 0
