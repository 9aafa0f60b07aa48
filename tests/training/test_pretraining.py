"""Pre-training: it learns, resumes to the same weights, and an alignment starts from it."""

import csv
import dataclasses

import numpy as np
import pytest
import torch

from astroclip.training.alignment import Alignment
from astroclip.training.masking import MaskedSpectra, MaskingRecipe
from astroclip.training.momentum import MomentumContrast, MomentumRecipe
from astroclip.training.pretraining import (
    load_pretrained_images,
    load_pretrained_spectra,
    pretrain_images,
    pretrain_spectra,
)
from astroclip.training.sources import read_source
from tests.training.survey import make_survey
from tests.training.test_run import QUIET, largest_difference

pytestmark = QUIET

SHARED = {"n_epochs": 2, "epoch_size": 48, "batch_size": 16, "warmup_steps": 2}


@dataclasses.dataclass(frozen=True)
class Case:
    """One objective: its call, class, tiny recipe, loader and place in an alignment."""

    pretrain: object
    objective: type
    recipe: object
    load: object
    tower: str


CASES = {
    "spectra": Case(
        pretrain_spectra, MaskedSpectra, MaskingRecipe(**SHARED, encoder={"width": 16}),
        load_pretrained_spectra, "spectrum_encoder",
    ),
    "images": Case(
        pretrain_images, MomentumContrast,
        MomentumRecipe(**SHARED, n_queued=32, momentum=0.9, encoder={"width": 8}),
        load_pretrained_images, "image_encoder",
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]


def run(case, workspace, output, **changes):
    """Train on the workspace's mix."""
    return case.pretrain(
        workspace.read("train-mix"), workspace.read("validation"), output,
        recipe=dataclasses.replace(case.recipe, **changes), precision="32-true", n_threads=1,
    )


def logged(output, name):
    """Return a column of the newest log by epoch."""
    path = max(output.glob("logs/version_*/metrics.csv"), key=lambda p: p.stat().st_mtime_ns)
    with path.open() as file:
        return {int(row["epoch"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


@pytest.fixture(scope="module")
def trained(case, workspace, tmp_path_factory):
    """Return a folder and the module trained into it."""
    folder = tmp_path_factory.mktemp("pretrained")
    return folder, run(case, workspace, folder)


def test_every_epoch_is_scored(trained):
    folder, _ = trained
    for name in ("loss", "neighbor_r2"):
        values = logged(folder, name)
        assert list(values) == [0, 1]
        assert all(value == value for value in values.values())


def test_interrupted_training_ends_at_the_same_weights(
    case, trained, workspace, tmp_path, monkeypatch
):
    folder, finished = trained
    original = case.objective.training_step

    def interrupted(self, batch, batch_index):
        if self.current_epoch == 1 and batch_index == 1:
            raise InterruptedError
        return original(self, batch, batch_index)

    monkeypatch.setattr(case.objective, "training_step", interrupted)
    with pytest.raises(InterruptedError):
        run(case, workspace, tmp_path)
    monkeypatch.undo()
    resumed = run(case, workspace, tmp_path)
    assert largest_difference(finished, resumed) < 1e-6
    assert logged(tmp_path, "loss")[1] == pytest.approx(logged(folder, "loss")[1], abs=1e-6)


def test_an_alignment_starts_from_what_is_left(case, trained, workspace):
    folder, finished = trained
    alignment = Alignment(workspace.recipe)
    tower = getattr(alignment, case.tower)
    assert largest_difference(tower, finished.encoder) > 0
    tower.load_state_dict(case.load(folder))
    assert largest_difference(tower, finished.encoder) == 0
    assert all(parameter.requires_grad for parameter in tower.parameters())


def losses_of(case, pairs, workspace, output, **changes):
    """Return the loss of every epoch of a longer run."""
    recipe = dataclasses.replace(case.recipe, n_epochs=8, **changes)
    case.pretrain(
        pairs, workspace.read("validation"), output, recipe=recipe, precision="32-true",
        n_threads=1,
    )
    return list(logged(output, "loss").values())


def test_masked_modelling_lowers_its_loss(workspace, tmp_path):
    losses = losses_of(
        CASES["spectra"], workspace.read("train-mix"), workspace, tmp_path, learning_rate=3e-3
    )
    assert losses[-1] < 0.8 * losses[0]


def test_momentum_contrast_lowers_its_loss(workspace, tmp_path):
    rng = np.random.default_rng(1)
    axis = np.arange(64) - 31.5
    width = 10 ** rng.uniform(0.2, 1, (48, 1, 1, 1))
    blobs = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / width**2)
    images = 10 ** rng.uniform(-1, 1.5, (48, 3, 1, 1)) * blobs  # colours tell them apart
    pairs = {**workspace.read("train-mix"), "image": images.astype(np.float16)}
    # with a queue of one batch, the random directions in it are gone after the first step
    losses = losses_of(
        CASES["images"], pairs, workspace, tmp_path, batch_size=24, n_queued=24, n_key_groups=1,
        encoder={"width": 16},
    )
    assert np.mean(losses[-3:]) < 0.9 * losses[1]


def test_the_other_objectives_checkpoint_is_refused(case, trained):
    folder, _ = trained
    other = next(one for one in CASES.values() if one is not case)
    with pytest.raises(ValueError, match="expected a checkpoint of pretrain_"):
        other.load(folder)


def test_a_missing_checkpoint_says_what_to_do(case, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint; make one with pretrain_"):
        case.load(tmp_path)


def test_survey_pairs_train_without_an_instrument_drawn_for_them(case, workspace, tmp_path):
    pairs = read_source(make_survey(32))
    module = case.pretrain(
        pairs, pairs, tmp_path, recipe=dataclasses.replace(case.recipe, n_epochs=1, epoch_size=32),
        precision="32-true", n_threads=1,
    )
    state = module.state_dict()
    assert all(np.isfinite(values.numpy()).all() for values in state.values())
    assert np.isfinite(logged(tmp_path, "loss")[0])


def test_recorded_spectra_reach_the_masked_objective_as_they_are():
    pairs = read_source(make_survey(8))
    recipe = dataclasses.replace(CASES["spectra"].recipe, extra_noise=0.0, batch_size=8)
    module = MaskedSpectra(recipe, pairs=pairs, validation=pairs)
    (batch,) = module.val_dataloader()
    seen = module._recorded(batch, module.observer, torch.Generator().manual_seed(1))
    good = ~pairs["mask"]
    np.testing.assert_array_equal(seen.mask.numpy(), pairs["mask"])
    np.testing.assert_allclose(
        seen.flux.numpy()[good], pairs["spectrum"].astype(np.float32)[good], rtol=1e-6
    )
