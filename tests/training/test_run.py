"""Training: it learns, is reproducible, and resumes to the same weights."""

import dataclasses
import types

import lightning
import numpy as np
import pytest
import torch

from astroclip.training.alignment import Alignment
from astroclip.training.bundle import export_weights
from astroclip.training.recipes import find_recipe
from astroclip.training.run import (
    find_checkpoint,
    load_alignment,
    load_refinement,
    read_start,
    start_from,
    train_alignment,
    train_refinement,
)

QUIET = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*isinstance.treespec, LeafSpec.*",
    "ignore:.*exists and is not empty.*",
    "ignore:.*number of training batches.*",
    "ignore:Trying to infer the `batch_size`.*",
    "ignore:.*You're resuming from a checkpoint that ended.*",
    "ignore:.*`IterableDataset` has `__len__` defined.*",
    "ignore:.*GPU available but not used.*",
    "ignore:`torch.jit.script.*",
    "ignore:.*srun.*",
    "ignore:.*in eval mode at the start of training.*",  # refinement keeps its statistics
)
pytestmark = QUIET


def train(workspace, output, **options):
    return train_alignment(
        workspace.training_folders(), workspace.pairs_folder("validation"), output,
        n_threads=1, precision="32-true", **options,
    )


@pytest.fixture(scope="module")
def trained(workspace):
    """Return the workspace's alignment, trained to the end."""
    return train(workspace, workspace.checkpoints, recipe=workspace.recipe)


def largest_difference(first, second):
    states = first.state_dict(), second.state_dict()
    return max(float((states[0][k].float() - states[1][k].float()).abs().max()) for k in states[0])


def test_checkpoint_holds_the_trained_weights(trained, workspace):
    loaded = load_alignment(workspace.checkpoints, recipe=workspace.recipe)
    assert largest_difference(trained, loaded) == 0


def test_log_has_a_line_an_epoch(trained, workspace):
    (log,) = workspace.checkpoints.glob("logs/version_*/metrics.csv")
    header = log.read_text().splitlines()[0].split(",")
    assert {"loss", "contrast", "recall_10", "spectrum_nmad"} <= set(header)


def test_interrupted_training_ends_at_the_same_weights(trained, workspace, tmp_path, monkeypatch):
    original = Alignment.training_step

    def interrupted(self, batch, batch_index):
        if self.current_epoch == 1 and batch_index == 2:
            raise InterruptedError
        return original(self, batch, batch_index)

    monkeypatch.setattr(Alignment, "training_step", interrupted)
    with pytest.raises(InterruptedError):
        train(workspace, tmp_path, recipe=workspace.recipe)
    monkeypatch.undo()
    resumed = train(workspace, tmp_path, recipe=workspace.recipe)
    assert largest_difference(trained, resumed) < 1e-6


def test_a_truncated_checkpoint_is_passed_over(trained, workspace, tmp_path):
    complete = find_checkpoint(workspace.checkpoints)
    content = complete.read_bytes()
    (tmp_path / "first.ckpt").write_bytes(content)
    (tmp_path / "last.ckpt").write_bytes(content[: len(content) // 2])
    assert find_checkpoint(tmp_path).name == "first.ckpt"


def test_training_lowers_the_loss(workspace, tmp_path):
    recipe = dataclasses.replace(workspace.recipe, n_epochs=8)
    train(workspace, tmp_path, recipe=recipe)
    (log,) = tmp_path.glob("logs/version_*/metrics.csv")
    lines = [line.split(",") for line in log.read_text().splitlines()]
    column = lines[0].index("loss")
    losses = [float(line[column]) for line in lines[1:] if line[column]]
    assert losses[-1] < 0.9 * losses[0]


def test_refinement_changes_the_spectrum_encoder_only(trained, workspace):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    train_refinement(trained, workspace, precision="32-true")
    after = load_refinement(workspace.refined, recipe=workspace.recipe).state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert any(key.startswith("spectrum_encoder.") for key in changed)
    assert not any(key.startswith("image_encoder.") for key in changed)


def test_a_finished_refinement_is_loaded_not_repeated(trained, workspace, monkeypatch):
    train_refinement(trained, workspace, precision="32-true")
    finished = load_refinement(workspace.refined, recipe=workspace.recipe)
    fresh = load_alignment(workspace.checkpoints, recipe=workspace.recipe)
    monkeypatch.delattr("astroclip.training.refinement.Refinement.training_step")
    again = train_refinement(fresh, workspace, precision="32-true")
    assert largest_difference(finished, again) == 0


def test_missing_checkpoint_and_recipe_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint; train first"):
        load_alignment(tmp_path)
    with pytest.raises(ValueError, match="recipe is 'large'; expected one of 'published', "):
        find_recipe("large")


def test_frozen_backbones_keep_weights_and_statistics(workspace, tmp_path):
    recipe = dataclasses.replace(workspace.recipe, frozen=("image",), n_epochs=1)
    trained_module = train(workspace, tmp_path, recipe=recipe)
    lightning.seed_everything(recipe.seed, verbose=False)
    fresh = Alignment(recipe)
    before, after = fresh.state_dict(), trained_module.state_dict()
    backbone = [key for key in before if key.startswith("image_encoder.backbone.")]
    assert backbone and all(torch.equal(before[key], after[key]) for key in backbone)
    assert not torch.equal(
        before["image_encoder.head.0.weight"], after["image_encoder.head.0.weight"]
    )


def test_start_takes_what_fits_and_remembers_the_file(trained, workspace, tmp_path):
    start = find_checkpoint(workspace.checkpoints)
    recipe = dataclasses.replace(workspace.recipe, n_epochs=1, learning_rate=1e-12)
    started = train(workspace, tmp_path, recipe=recipe, start=start)
    source = load_alignment(workspace.checkpoints, recipe=workspace.recipe)
    name = "spectrum_encoder.stem.weight"
    torch.testing.assert_close(
        started.state_dict()[name], source.state_dict()[name], atol=1e-6, rtol=0
    )
    (record,) = read_start(tmp_path)
    assert record["file"] == start.name
    assert len(record["sha256"]) == 64


def test_start_takes_the_redshift_heads_of_shipped_weights(trained, workspace, tmp_path):
    source = load_alignment(workspace.checkpoints, recipe=workspace.recipe)
    export_weights(source, tmp_path / "shipped.safetensors")
    module = Alignment(workspace.recipe)
    missing = start_from(module, tmp_path / "shipped.safetensors")
    assert not [name for name in missing if "_redshift." in name]
    for name in ("spectrum_redshift.weight", "image_redshift.bias"):
        torch.testing.assert_close(
            module.state_dict()[name], source.state_dict()[name], atol=1e-3, rtol=1e-3
        )


def test_fixed_statistics_stay(workspace, tmp_path):
    start = find_checkpoint(workspace.checkpoints)
    recipe = dataclasses.replace(
        workspace.recipe, n_epochs=1, statistics_share=0.0, second_image_share=0.5
    )
    started = train(workspace, tmp_path, recipe=recipe, start=start).state_dict()
    source = load_alignment(workspace.checkpoints, recipe=workspace.recipe).state_dict()
    statistics = [name for name in source if name.endswith(("running_mean", "running_var"))]
    assert statistics and all(torch.equal(started[name], source[name]) for name in statistics)
    assert not torch.equal(
        started["image_encoder.head.0.weight"], source["image_encoder.head.0.weight"]
    )


def test_statistics_are_kept_from_the_epoch_that_the_share_says(workspace):
    recipe = dataclasses.replace(workspace.recipe, n_epochs=5, statistics_share=0.6)
    follows = []
    for epoch in range(5):
        module = Alignment(recipe)
        module.trainer = types.SimpleNamespace(current_epoch=epoch)
        module.on_train_epoch_start()
        follows.append((module.spectrum_encoder.training, module.image_encoder.training))
    assert follows == [(True, True)] * 3 + [(False, False)] * 2


def test_second_images_are_contrasted_with_the_first(workspace):
    recipe = dataclasses.replace(
        workspace.recipe, second_image_share=1.0, varied_image_share=0.0, missing_band_share=0.0
    )
    module = Alignment(recipe, validation=workspace.read("validation"))
    batch = next(iter(module.val_dataloader()))
    image = torch.randn(len(batch["redshift"]), module.memory.keys.shape[2])
    generator = torch.Generator().manual_seed(4)
    found = module._second_images(batch, image, generator)
    rows = torch.randperm(len(image), generator=generator.manual_seed(4))
    seen = module.train_observer.images(batch["image"][rows], batch["seeing"][rows], generator)
    again = torch.nn.functional.normalize(module.image_encoder(*seen), dim=1)
    unit = torch.nn.functional.normalize(image, dim=1)
    probability = (recipe.initial_scale * again @ unit.T).softmax(dim=1)
    expected = -torch.log(probability[torch.arange(len(rows)), rows]).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_start_without_a_fitting_tensor_is_refused(tmp_path, workspace):
    torch.save({"state_dict": {"other": torch.zeros(3)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="none of whose tensors fits"):
        start_from(Alignment(workspace.recipe), tmp_path / "other.ckpt")


def test_training_stops_when_nothing_improves(workspace, tmp_path):
    recipe = dataclasses.replace(
        workspace.recipe, n_epochs=9, patience=1, learning_rate=1e-12, epoch_size=32
    )
    train(workspace, tmp_path, recipe=recipe)
    (log,) = tmp_path.glob("logs/version_*/metrics.csv")
    header, *lines = (line.split(",") for line in log.read_text().splitlines())
    epochs = {line[header.index("epoch")] for line in lines}
    assert len(epochs) < 9


def noisy_survey(n_pairs):
    rng = np.random.default_rng(1)
    return {
        "image": rng.normal(0.1, 0.01, (n_pairs, 152, 152, 3)).astype(np.float32),
        "spectrum": rng.normal(5, 1, (n_pairs, 7781)).astype(np.float32),
        "redshift": rng.uniform(0.05, 0.4, n_pairs),
    }


def test_survey_pairs_train_through_the_same_door(workspace, tmp_path):
    survey = noisy_survey(32)
    recipe = dataclasses.replace(workspace.recipe, n_epochs=1, epoch_size=32)
    module = train_alignment(
        [survey], survey, tmp_path, recipe=recipe, n_threads=1, precision="32-true"
    )
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_stars_and_quasars_take_part(workspace, tmp_path):
    contaminants = workspace.contaminants()
    assert contaminants.shape == (8, 4360)
    train(workspace, tmp_path, recipe=workspace.recipe, contaminants=contaminants)
    (log,) = tmp_path.glob("logs/version_*/metrics.csv")
    header, *lines = (line.split(",") for line in log.read_text().splitlines())
    losses = [float(line[header.index("outliers")]) for line in lines if line[header.index("loss")]]
    assert max(losses) > 0


def test_templates_are_made_of_the_pairs_and_what_weighs_them_learns(workspace, tmp_path):
    recipe = dataclasses.replace(
        workspace.recipe, n_epochs=1, refinement=(),
        spectrum={**workspace.recipe.spectrum, "scan_components": 2},
    )
    module = train(workspace, tmp_path / "scan", recipe=recipe)
    encoder = module.spectrum_encoder
    assert encoder.scan.templates.abs().amax(dim=2).min() > 0
    assert encoder.scanned.prior[-1].weight.any() and encoder.scanned.join.weight.any()
    start = find_checkpoint(tmp_path / "scan")
    once = dataclasses.replace(recipe, seed=2)
    further = train(workspace, tmp_path / "further", recipe=once, start=start)
    kept = further.spectrum_encoder.scan.templates
    torch.testing.assert_close(kept, encoder.scan.templates, rtol=0, atol=0)


def test_a_scan_without_galaxies_for_templates_is_refused(workspace, tmp_path):
    survey = noisy_survey(8)
    recipe = dataclasses.replace(workspace.recipe, spectrum={"width": 16, "scan_components": 2})
    with pytest.raises(ValueError, match="^sources hold no noiseless spectra with known redshift"):
        train_alignment([survey], survey, tmp_path, recipe=recipe, n_threads=1)
