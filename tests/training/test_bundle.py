"""Bundles: what is written loads, embeds as the trained encoders and says what it holds."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.special import log_softmax
from torch.nn import functional

from astroclip import SimilarityIndex
from astroclip.cli import main
from astroclip.models import load_model
from astroclip.redshifts import read_redshift_heads
from astroclip.simulation.pairs import PROPERTIES
from astroclip.tables import embedding_matrix, read_table
from astroclip.training.align import (
    INSTRUMENTS,
    VARIED_SHARE,
    Alignment,
    redshift_temperatures,
)
from astroclip.training.bundle import embed_recorded, export_weights, write_bundle
from astroclip.training.data import Workspace
from astroclip.training.objective import HEAD_SCALE
from astroclip.training.observers import Observer
from astroclip.training.recipe import read_recipe
from astroclip.training.rest_frame import RestFrame
from tests.training.conftest import make_recipe


@pytest.fixture(scope="module")
def untrained(workspace, tmp_path_factory):
    """Return a workspace that holds checkpoints of random weights, and their modules."""
    folder = tmp_path_factory.mktemp("checkpoints")
    recipe = make_recipe(
        align={"folder": str(folder / "align")}, rest={"folder": str(folder / "rest")}
    )
    torch.manual_seed(4)
    modules = {"align": Alignment(recipe).eval(), "rest": RestFrame(recipe).eval()}
    for name, module in modules.items():
        (folder / name).mkdir()
        torch.save({"state_dict": module.state_dict()}, folder / name / "last.ckpt")
    return Workspace(workspace.folder, recipe), modules


@pytest.fixture(scope="module")
def made(untrained, tmp_path_factory):
    """Return the folder of a bundle of both models."""
    folder = tmp_path_factory.mktemp("bundle")
    for objective in ("align", "rest"):
        write_bundle(untrained[0], folder, objective=objective)
    return folder


def test_weights_load_and_embed_as_the_trained_encoders(untrained, made):
    _, modules = untrained
    rng = np.random.default_rng(1)
    for objective, name in (("align", "astroclip-small"), ("rest", "astroclip-small-rest")):
        model = load_model(made / f"{name}.safetensors", device="cpu")
        encoder = modules[objective].spectrum_encoder
        flux = np.abs(rng.normal(3, 1, (3, encoder.n_pixels))).astype(np.float32)
        ivar, mask = np.ones_like(flux), np.zeros(flux.shape, bool)
        with torch.inference_mode():
            arrays = (torch.from_numpy(values) for values in (flux, ivar, mask))
            expected = functional.normalize(encoder(*arrays), dim=1).numpy()
        np.testing.assert_allclose(model.encode_spectra(flux, ivar, mask), expected, atol=5e-3)


def test_weights_hold_the_recipe_they_were_made_by(untrained, made):
    with safe_open(made / "astroclip-small.safetensors", "numpy") as file:
        config = json.loads(file.metadata()["config"])
    assert config["spectrum"] == {"width": 16, "dim": 128}
    assert read_recipe(config["recipe"]) == untrained[0].recipe


def test_the_reference_holds_the_properties_and_belongs_to_the_weights(untrained, made):
    workspace, _ = untrained
    known = np.concatenate(
        [
            workspace.read(f"reference-{name}")["log_stellar_mass"]
            for name in ("mix", "wide", "flat")
        ]
    )
    for suffix, name, modalities in (
        ("", "astroclip-small", {"spectrum", "image"}),
        ("-rest", "astroclip-small-rest", {"spectrum"}),
    ):
        reference = read_table(made / f"reference{suffix}.fits")
        assert set(reference["modality"]) == modalities
        assert set(PROPERTIES) <= set(reference.colnames)
        model = load_model(made / f"{name}.safetensors", device="cpu")
        assert reference.meta["WSHA"] == model.weights_sha256
        spectra = reference[reference["modality"] == "spectrum"]
        np.testing.assert_allclose(np.sort(spectra["log_stellar_mass"]), np.sort(known))
        matrix, valid = embedding_matrix(reference)
        assert valid.all()
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1.0, rtol=1e-5)
        found = SimilarityIndex(spectra).query(spectra[:5], 1)
        assert found["neighbor_id"].tolist() == spectra["id"][:5].tolist()


def test_the_command_writes_what_was_trained_from_pairs_of_ones_own(untrained, tmp_path, capsys):
    workspace, _ = untrained
    folder = workspace.folder
    recipe = tmp_path / "mine.toml"
    checkpoint = workspace.recipe.align.folder
    recipe.write_text(
        f'[spectrum]\nwidth = 16\n[image]\nwidth = 8\n[align]\nfolder = "{checkpoint}"\n'
        "n_redshift_bins = 300\nmemory_size = 48\n"
        "[align.losses]\ncontrast = 1.0\nspectrum_redshift = 0.7\n"
    )
    output = tmp_path / "out"
    status = main(
        [
            "bundle", str(folder), str(output), "--recipe", str(recipe),
            "--pairs", str(workspace.pairs_folder("test")),
            "--validation", str(workspace.pairs_folder("validation")),
        ]
    )
    assert status == 0, capsys.readouterr().err
    assert sorted(path.name for path in output.iterdir()) == [
        "astroclip-small.safetensors", "reference.fits"
    ]
    assert len(read_table(output / "reference.fits")) == 2 * 60
    assert main(["bundle", str(tmp_path), str(output), "--recipe", "tiny"]) == 1
    assert "holds no checkpoint" in capsys.readouterr().err


def test_recordings_are_embedded_with_what_was_seen(untrained, made):
    workspace, _ = untrained
    pairs = workspace.read("validation")
    model = load_model(made / "astroclip-small.safetensors", device="cpu")
    observer = Observer(varied_share=0.5)
    encoded = embed_recorded(model, pairs, observer=observer, seed=3, keep_inputs=True)
    assert encoded["flux"].shape == pairs["spectrum"].shape
    assert encoded["pixels"].shape == pairs["image"].shape
    again = embed_recorded(model, pairs, observer=observer, seed=3)
    for name in ("spectrum_embedding", "image_embedding", "spectrum_coverage"):
        np.testing.assert_array_equal(encoded[name], again[name])
    rest = load_model(made / "astroclip-small-rest.safetensors", device="cpu")
    encoded = embed_recorded(rest, pairs, seed=3)
    assert sorted(encoded) == ["spectrum_coverage", "spectrum_embedding"]
    assert (encoded["spectrum_coverage"] < 1).all()


def test_temperatures_are_written_and_used(untrained, made, tmp_path):
    workspace, modules = untrained
    module, pairs = modules["align"], workspace.read("validation")
    fitted = redshift_temperatures(
        module, pairs, seed=workspace.recipe.align.seed, varied_share=VARIED_SHARE, **INSTRUMENTS
    )
    heads = read_redshift_heads(made / "astroclip-small.safetensors").heads
    assert {name: head.temperature for name, head in heads.items()} == pytest.approx(fitted)

    temperature = {"spectrum": 0.4, "image": 3.0}
    path = tmp_path / "model.safetensors"
    export_weights(module, path, temperature=temperature)
    encoded = embed_recorded(load_model(path, device="cpu"), pairs, seed=3)
    heads = read_redshift_heads(path).heads
    for modality, value in temperature.items():
        embedding = encoded[f"{modality}_embedding"]
        layer = getattr(module, f"{modality}_redshift")
        with torch.inference_mode():
            logits = layer(HEAD_SCALE * torch.from_numpy(embedding)).numpy() / value
        distribution = heads[modality].distribution(embedding)
        expected = np.exp(log_softmax(logits, axis=1))
        np.testing.assert_allclose(distribution.probability, expected, rtol=0.05)
        assert distribution.edges[-1] == pytest.approx(module.settings.largest_redshift)


def test_weights_that_diverged_are_refused(untrained, tmp_path):
    recipe = untrained[0].recipe
    module = Alignment(recipe)
    with torch.no_grad():
        module.spectrum_redshift.bias[0] = 1e6  # beyond float16
    with pytest.raises(ValueError, match="redshift_head.spectrum.bias"):
        export_weights(module, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())
