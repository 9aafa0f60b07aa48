"""Temperatures of an alignment's heads: its own logits, observed once, on a brute-force grid."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional

from astroclip.models import load_model
from astroclip.redshifts.distribution import redshift_edges
from astroclip.redshifts.head import read_redshift_heads
from astroclip.training.alignment import HEAD_SCALE, Alignment, RedshiftBins
from astroclip.training.bundle import embed_pairs, export_weights
from astroclip.training.calibration import fit_temperature, head_logits, head_temperatures


@pytest.fixture(scope="module")
def alignment(recipe):
    torch.manual_seed(4)
    return Alignment(recipe).eval()


@pytest.fixture(scope="module")
def pairs(workspace):
    return workspace.read("validation")


@pytest.fixture(scope="module")
def n_bins(recipe):
    return {"spectrum": recipe.n_redshift_bins, "image": recipe.n_coarse_redshift_bins}


def test_logits_are_those_of_the_written_model(alignment, pairs, tmp_path):
    export_weights(alignment, tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors", device="cpu")
    found = head_logits(alignment, pairs, seed=3, varied_share=0.5)
    seen = embed_pairs(model, pairs, seed=3, varied_share=0.5)
    for kind, logits in found.items():
        head = getattr(alignment, f"{kind}_redshift")
        embedding = torch.from_numpy(seen[f"{kind}_embedding"])
        with torch.inference_mode():
            expected = head(HEAD_SCALE * functional.normalize(embedding, dim=1)).numpy()
        np.testing.assert_allclose(logits, expected, atol=0.05)  # encoders rounded to float16
        assert logits.std() > 0.1


def test_temperatures_are_the_best_of_a_grid(alignment, pairs, recipe, n_bins):
    found = head_temperatures(alignment, pairs, seed=3)
    redshift = torch.from_numpy(pairs["redshift"]).float()
    grid = np.geomspace(0.05, 20, 400)
    for kind, logits in head_logits(alignment, pairs, seed=3).items():
        bins = RedshiftBins(n_bins[kind], recipe.largest_redshift)
        target = bins.target(redshift).numpy()
        loss = [-(target * log_softmax(logits / t, axis=1)).sum(axis=1).mean() for t in grid]
        best = int(np.argmin(loss))
        assert grid[max(best - 1, 0)] <= found[kind] <= grid[min(best + 1, len(grid) - 1)]


def test_galaxies_beyond_the_bins_are_left_out(alignment, pairs, recipe, n_bins):
    beyond = {name: values.copy() for name, values in pairs.items()}
    beyond["redshift"][5] = recipe.largest_redshift + 0.1
    logits = head_logits(alignment, beyond, seed=3)["image"]
    others = np.arange(len(logits)) != 5
    edges = redshift_edges(n_bins["image"], recipe.largest_redshift)
    expected = fit_temperature(logits[others], beyond["redshift"][others], edges)
    assert head_temperatures(alignment, beyond, seed=3)["image"] == expected


def test_temperatures_are_written_and_used(alignment, pairs, recipe, tmp_path):
    temperature = {"spectrum": 0.4, "image": 3.0}
    export_weights(alignment, tmp_path / "model.safetensors", temperature=temperature)
    model = load_model(tmp_path / "model.safetensors", device="cpu")
    seen = embed_pairs(model, pairs, seed=3)
    for kind, value in temperature.items():
        embedding = seen[f"{kind}_embedding"]
        head = getattr(alignment, f"{kind}_redshift")
        with torch.inference_mode():
            logits = head(HEAD_SCALE * torch.from_numpy(embedding)).numpy() / value
        found = read_redshift_heads(model).heads[kind].distribution(embedding)
        expected = np.exp(log_softmax(logits, axis=1))
        np.testing.assert_allclose(found.probability, expected, rtol=0.05)
        assert found.edges[-1] == pytest.approx(recipe.largest_redshift)


def test_bins_are_those_of_training(recipe):
    bins = RedshiftBins(recipe.n_redshift_bins, recipe.largest_redshift)
    logits = torch.eye(recipe.n_redshift_bins)
    edges = redshift_edges(recipe.n_redshift_bins, recipe.largest_redshift)
    centre = np.sqrt((1 + edges[1:]) * (1 + edges[:-1])) - 1
    np.testing.assert_allclose(bins.best(logits), centre, rtol=1e-4, atol=1e-6)
