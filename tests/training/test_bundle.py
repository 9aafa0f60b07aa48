"""Bundles: what is written loads, is labelled as simulated and says its scores."""

import numpy as np
import pytest

from astroclip.datasets import read_reference
from astroclip.models import load_model
from astroclip.models.small import SmallSpectrumEncoder
from astroclip.tables import embedding_matrix
from astroclip.training import bundle as module
from astroclip.training.align import Alignment
from astroclip.training.bundle import write_bundle
from astroclip.training.card import _own_text, _scan_text
from astroclip.training.data import Workspace
from astroclip.training.recipe import AlignRecipe
from astroclip.training.rest_bundle import write_rest_bundle
from astroclip.training.run import train
from tests.training.conftest import QUIET, make_recipe

pytestmark = QUIET


@pytest.fixture(scope="module")
def made(workspace, tmp_path_factory):
    """Return a bundle of untrained weights and its alignment."""
    folder = tmp_path_factory.mktemp("bundle")
    alignment = Alignment(workspace.recipe).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_trained", lambda *_: alignment)
        write_bundle(workspace, folder, recipe_name="tiny")
    return folder, alignment


def test_weights_load_and_embed_as_the_trained_encoders(made):
    folder, alignment = made
    model = load_model(folder / "astroclip-small.safetensors", device="cpu")
    flux = np.abs(np.random.default_rng(1).normal(3, 1, (3, 4360))).astype(np.float32)
    embedding = model.encode_spectra(flux)
    for name, tensor in alignment.spectrum_encoder.state_dict().items():
        half = tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor
        stored = model.network.spectrum_encoder.state_dict()[name]
        assert np.allclose(half.numpy(), stored.numpy()), name
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1.0, rtol=1e-5)


def test_reference_is_labelled_and_belongs_to_the_weights(made):
    folder, _ = made
    reference = read_reference(folder / "reference.npz")
    assert len(reference) == 2 * 90
    assert set(reference["source"]) == {"simulation"}
    assert all(str(name).startswith("sim-") for name in reference["id"])
    model = load_model(folder / "astroclip-small.safetensors", device="cpu")
    assert reference.meta["WSHA"] == model.weights_sha256
    matrix, valid = embedding_matrix(reference)
    assert valid.all()
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1.0, rtol=1e-5)


def test_previews_have_one_entry_a_galaxy(made):
    folder, _ = made
    with np.load(folder / "reference_previews.npz", allow_pickle=False) as previews:
        assert len(previews["jpeg_start"]) == 91
        assert previews["jpeg_start"][-1] == len(previews["jpeg"])
        assert previews["spectrum"].shape == (90, len(previews["wavelength"]))


def test_card_says_recipe_scores_and_limits(made):
    text = (made[0] / "MODEL_CARD.rst").read_text()
    for words in ("Seed 1", r"recall\@10", "Not measured", "Limits", "--recipe tiny", "sha256"):
        assert words in text
    assert not list(made[0].glob("*.part"))


def test_card_says_that_templates_are_fitted():
    scanning = SmallSpectrumEncoder(width=16, dim=16, scan_components=2, scan_largest=0.5)
    text = " ".join(_scan_text(scanning).split())
    assert "mean and 2 principal components" in text and "882 redshifts from 0 to 0.5" in text
    assert _scan_text(SmallSpectrumEncoder(width=16, dim=16)) == ""


def test_card_says_what_counts_among_spectra():
    recipe = AlignRecipe(
        neighbor_label_weights=(2, 5, 4, 1), spectrum_label_weights=(10, 800, 15, 6),
        losses={"swapped_redshift": 1.5},
    )
    text = " ".join(_own_text(recipe).split())
    assert "count 10 (2), 800 (5), 15 (4) and 6 (1) times" in text and "(weight 1.5)" in text
    assert _own_text(AlignRecipe()) == ""


def test_the_rest_frame_bundle_holds_the_same_galaxies(made, workspace):
    folder, _ = made
    settings = {
        "n_epochs": 1, "folder": "rest-again", "kind_weights": [1.0, 0.2],
        "losses": {"contrast": 0.4, "kinds": 0.5, "neighbors": 1.0, "redshift_leak": 3.0},
    }
    recipe = make_recipe(rest=settings)
    train("rest", recipe, workspace.folder, n_threads=1, precision="32-true")
    write_rest_bundle(Workspace(workspace.folder, recipe), folder)
    rest = read_reference(folder / "reference.npz", embeddings=folder / "reference_rest.npz")
    assert len(rest) == 90
    assert set(rest["modality"]) == {"spectrum"}
    model = load_model(folder / "astroclip-small-rest.safetensors", device="cpu")
    assert model.modalities == ("spectrum",)
    assert model.preset.spectrum.frame == "rest"
    assert rest.meta["WSHA"] == model.weights_sha256
    text = (folder / "MODEL_CARD_REST.rst").read_text()
    assert "R2 of redshift" in text and model.weights_sha256 in text
    assert "(weight 0.4)" in text and "(weights 1 and 0.2)" in text
    assert (workspace.folder / "rest-again" / "last.ckpt").exists()
