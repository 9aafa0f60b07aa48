"""Recipes: files say what they mean, and unknown words in them are refused."""

import pytest

from astroclip.training.masking import MaskingRecipe
from astroclip.training.momentum import MomentumRecipe
from astroclip.training.recipes import AlignmentRecipe, find_recipe, read_recipe, recipe_names
from astroclip.training.rest_frame import RestFrameRecipe

SECTIONS = {
    "align": AlignmentRecipe, "spectra": MaskingRecipe, "images": MomentumRecipe,
    "rest": RestFrameRecipe,
}


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("section", SECTIONS)
def test_every_recipe_serves_every_objective(name, section):
    assert isinstance(read_recipe(name, section, SECTIONS[section]), SECTIONS[section])


def test_the_published_recipe_knows_no_properties():
    recipe = find_recipe("published")
    assert recipe.redshift_weight == recipe.label_weight == recipe.neighbor_weight == 0


def test_a_file_overrides_what_it_names(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[align]\nbatch_size = 12\nfrozen = ['image']\n")
    recipe = find_recipe(path)
    assert recipe.batch_size == 12
    assert recipe.frozen == ("image",)
    assert recipe.learning_rate == AlignmentRecipe().learning_rate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[align]\nbatchsize = 12\n", r"sets 'batchsize' in \[align\]; expected some of"),
        ("[align\n", "is no TOML"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        find_recipe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mine\.toml' is missing"):
        find_recipe(tmp_path / "mine.toml")
