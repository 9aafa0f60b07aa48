"""Recipes: files say what they mean, and unknown words in them are refused."""

import tomllib
from pathlib import Path

import pytest
import torch

from astroclip.training.losses import LOSSES, loss
from astroclip.training.recipe import AlignRecipe, Recipe, read_recipe, recipe_names
from astroclip.training.run import OBJECTIVES, train
from tests.training.conftest import QUIET, make_recipe

STAGES = sorted((Path(__file__).parents[2] / "tools" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("recipe", [*recipe_names(), *STAGES], ids=str)
def test_every_recipe_is_read_and_says_what_it_is_for(recipe):
    assert isinstance(read_recipe(recipe), Recipe)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_smallest_recipe_serves_every_objective(objective):
    recipe = read_recipe("tiny")
    if objective == "heads":  # the same table as for align
        recipe = read_recipe({"spectrum": recipe.spectrum, "image": recipe.image})
    OBJECTIVES[objective](recipe)


@pytest.mark.parametrize("name", ["published", "published-heads"])
def test_the_published_recipes_know_no_properties(name):
    assert set(read_recipe(name).align.losses) == {"contrast", "second_spectra", "second_images"}


def test_a_file_overrides_what_it_names(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "[align]\nbatch_size = 12\nneighbor_label_weights = [1, 2, 3, 4]\n"
        "[align.losses]\ncontrast = 2.0\n[spectrum]\nlevel_range = [0.0, 1.0]\n"
    )
    recipe = read_recipe(path)
    assert recipe.align.batch_size == 12
    assert recipe.align.neighbor_label_weights == (1, 2, 3, 4)
    assert recipe.align.losses == {"contrast": 2.0}
    assert recipe.spectrum == {"level_range": (0.0, 1.0)}
    assert recipe.align.learning_rate == AlignRecipe().learning_rate
    assert recipe == read_recipe(tomllib.loads(path.read_text())) == read_recipe(recipe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[alinge]\n", r"sets 'alinge'; expected some of data, .*Did you mean 'align'\?"),
        ("[align]\nbatchsize = 12\n", r"sets 'batchsize' in \[align\].*mean 'batch_size'\?"),
        ("[align.losses]\nneighbor = 1\n", r"in \[align.losses\].*Did you mean 'neighbors'\?"),
        ("[rest.losses]\nleak = 1\n", r"sets 'leak' in \[rest.losses\]; expected some of contrast"),
        ("[spectrum]\nwith = 1\n", r"sets 'with' in \[spectrum\].*Did you mean 'width'\?"),
        ("[rest]\nspectrum = {windows = 1}\n", r"in \[rest.spectrum\].*Did you mean 'window'\?"),
        ("[align\n", "is no TOML"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mine\.toml' is missing"):
        read_recipe(tmp_path / "mine.toml")
    with pytest.raises(ValueError, match="recipe is 'large'; expected one of 'published', "):
        read_recipe("large")


@QUIET
def test_a_new_loss_is_a_function_and_a_weight(workspace, tmp_path):
    @loss
    def uniformity(spectrum, image):
        """Return the mean similarity of different galaxies."""
        unit = torch.nn.functional.normalize(torch.cat([spectrum, image]), dim=1)
        return (unit @ unit.T).mean()

    try:
        recipe = make_recipe(
            align={"folder": str(tmp_path), "n_epochs": 1, "losses": {"uniformity": 3.0}}
        )
        train("align", recipe, workspace.folder, n_threads=1, precision="32-true")
    finally:
        LOSSES.pop("uniformity")
    (log,) = tmp_path.glob("logs/version_*/metrics.csv")
    header, *lines = (line.split(",") for line in log.read_text().splitlines())
    row = next(line for line in lines if line[header.index("uniformity")])
    values = [float(row[header.index(name)]) for name in ("loss", "uniformity")]
    assert values[0] == pytest.approx(3 * values[1], rel=1e-4)
