"""The way the user guide shows from pairs of one's own to neighbors found with one's own model."""

import pytest
import torch
from astropy import units as u
from astropy.table import QTable
from specutils import Spectrum

import astroclip
from astroclip.cli import main
from astroclip.tables import read_table
from astroclip.training.align import Alignment
from astroclip.training.bundle import write_bundle
from astroclip.training.data import Workspace
from astroclip.training.recipe import read_recipe
from astroclip.training.run import train
from astroclip.training.sources import read_source
from tests.training.conftest import QUIET
from tests.training.survey import DESI, make_errors, make_survey

h5py = pytest.importorskip("h5py")
pytestmark = QUIET

RECIPE = """
[spectrum]
width = 16

[image]
width = 8

[align]
n_epochs = 1
epoch_size = 16
batch_size = 8
warmup_steps = 1

[align.losses]
contrast = 1.0
spectrum_redshift = 0.5
"""


def write_pairs(path, n_pairs, seed):
    survey = make_survey(n_pairs, seed)
    survey["ivar"], survey["mask"] = make_errors(survey["spectra"])
    with h5py.File(path, "w") as file:
        for name, values in survey.items():
            file[f"0/{name}"] = values
    return survey


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """Return a folder with pairs, a recipe and a bundle of a model trained with them."""
    folder = tmp_path_factory.mktemp("survey")
    write_pairs(folder / "survey.h5", 16, 1)
    write_pairs(folder / "held.h5", 8, 2)
    (folder / "mine.toml").write_text(RECIPE)
    train(
        "align", folder / "mine.toml", folder / "own", pairs=[folder / "survey.h5"],
        validation=folder / "held.h5", start="astroclip-small", n_threads=1,
        precision="32-true",
    )
    assert main(
        ["bundle", str(folder / "own"), str(folder / "out"), "--recipe", str(folder / "mine.toml")]
    ) == 0
    return folder


def test_the_run_starts_from_the_bundled_encoders_whatever_the_recipes_sizes(survey):
    own = astroclip.load_model(survey / "out" / "astroclip-small.safetensors", device="cpu")
    bundled = astroclip.load_model("astroclip-small", device="cpu")
    states = [model.network.state_dict() for model in (own, bundled)]
    assert {k: v.shape for k, v in states[0].items()} == {k: v.shape for k, v in states[1].items()}
    change = [
        (states[0][key] - value).abs().max() for key, value in states[1].items()
        if value.is_floating_point() and "running" not in key
    ]
    assert 0 < max(change) < 0.01  # two steps at a learning rate of 0.001


def test_tables_carry_the_name_of_the_workspace(survey):
    reference = read_table(survey / "out" / "reference.fits")
    model = astroclip.load_model(survey / "out" / "astroclip-small.safetensors", device="cpu")
    assert (reference.meta["MODEL"], reference.meta["WSHA"]) == ("own", model.weights_sha256)
    table = astroclip.embed(astroclip.sample_spectrum(), model=model)
    assert (table.meta["MODEL"], table.meta["WSHA"]) == ("own", model.weights_sha256)
    assert len(reference) == 2 * 16
    index = astroclip.SimilarityIndex(reference)
    with pytest.raises(ValueError, match="model is 'own'"):
        index.query(astroclip.sample_spectrum(), 1)
    assert len(index.query(astroclip.sample_spectrum(), 3, model=model)) == 3


@pytest.mark.parametrize("named", [True, False])
def test_commands_take_the_reference_with_the_model_beside_it(survey, tmp_path, named, capsys):
    pairs = make_survey(16, 1)
    flux = pairs["spectra"][5, :, 0] * u.Unit("1e-17 erg / (s cm2 AA)")
    Spectrum(flux=flux, spectral_axis=DESI * u.AA).write(
        tmp_path / "mine.fits", format="tabular-fits"
    )
    reference = ["--reference", str(survey / "out" / "reference.fits")]
    if named:
        reference += ["--model", str(survey / "out" / "astroclip-small.safetensors")]
    output = tmp_path / "found.ecsv"
    mine = str(tmp_path / "mine.fits")
    assert main(["neighbors", mine, *reference, "--output", str(output)]) == 0, (
        capsys.readouterr().err
    )
    found = QTable.read(output)
    assert found["neighbor_id"][0] == str(pairs["targetids"][5])
    assert found["similarity"][0] > 0.9
    assert main(["estimate", mine, *reference, "--method", "head"]) == 0


def test_the_workspaces_simulated_pairs_are_not_looked_for(survey, tmp_path):
    write_bundle(
        Workspace(survey / "own", read_recipe(survey / "mine.toml")),
        tmp_path / "again", pairs=[survey / "held.h5"],
    )
    assert len(read_table(tmp_path / "again" / "reference.fits")) == 2 * 8


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"redshifts": lambda s: 0.1}, ("bad.h5", "group '0'", "'redshifts' of shape ()")),
        ({"redshifts": lambda s: s["redshifts"].astype("S")}, ("bad.h5/0", "redshift", "numbers")),
        ({"redshifts": lambda s: [[0.1, 0.2]] * 4}, ("(4, 2)", "shape (4,)")),
        ({"log_ssfr": lambda s: [[0.1, 0.2]] * 4}, ("log_ssfr of shape (4, 2)", "shape (4,)")),
        ({"images": lambda s: s["images"][:, :99]}, ("bad.h5", "(99, 152, 3)", "128 x 128")),
        ({"spectra": lambda s: s["spectra"][:, :99]}, ("bad.h5", "99 pixels; expected 7781")),
        ({"spectra": lambda s: 1e-17 * s["spectra"]}, ("bad.h5", "units of 1e-17 erg/s/cm2/A")),
        ({"images": lambda s: 1e-9 * s["images"]}, ("bad.h5", "expected nanomaggies")),
    ],
)
def test_a_bad_file_of_pairs_is_named_with_what_is_wrong(tmp_path, changed, words):
    survey = make_survey(4)
    survey |= {name: change(survey) for name, change in changed.items()}
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        for name, values in survey.items():
            file[f"0/{name}"] = values
    with pytest.raises(ValueError) as caught:
        read_source(tmp_path / "bad.h5")
    for word in words:
        assert word in str(caught.value)


def test_weights_of_other_sizes_are_refused(survey, tmp_path):
    small = Alignment(read_recipe({"spectrum": {"width": 16}, "image": {"width": 8}}))
    torch.save({"state_dict": small.state_dict()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"spectrum encoder has other sizes.*instead of"):
        Alignment(read_recipe({})).start_from(tmp_path / "last.ckpt")
