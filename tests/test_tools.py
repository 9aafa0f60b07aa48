"""Tools that build on the encoders: their designs embed, and widened weights keep their meaning."""

import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.table import Table
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from torch.nn import functional

from astroclip.models import load_model
from astroclip.models.small import SmallSpectrumEncoder

TOOLS = Path(__file__).parents[1] / "tools"
PREFIX = "spectrum_encoder."


def load_tool(name):
    """Return a tool's module."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def spectra():
    generator = torch.Generator().manual_seed(3)
    flux = 2 + torch.rand(4, 4360, generator=generator)
    return flux, torch.full_like(flux, 4.0), torch.rand(flux.shape, generator=generator) < 0.05


def test_every_design_that_is_compared_embeds_spectra(spectra):
    designs = load_tool("compare_encoders").SPECTRA
    assert len(designs) > 3
    for name, make in designs.items():
        with torch.inference_mode():
            embedding = make().eval()(*spectra)
        assert embedding.shape == (4, 128), name
        assert torch.isfinite(embedding).all(), name


def test_the_scanning_design_has_templates_of_its_galaxies(spectra):
    rng = np.random.default_rng(1)
    pairs = {
        "spectrum": (2 + rng.random((40, 4360))).astype(np.float32),
        "redshift": rng.uniform(0.05, 0.4, 40),
        "log_ssfr": np.where(np.arange(40) < 20, -12.0, -10.0),
    }
    encoder = load_tool("compare_encoders").scanning(pairs).eval()
    assert encoder.scan.templates.abs().amax(dim=2).min() > 0
    with torch.inference_mode():
        assert torch.isfinite(encoder(*spectra)).all()


def test_what_is_found_again_is_counted_by_kind_and_signal():
    tool = load_tool("find_again")
    batch = types.SimpleNamespace(
        flux=np.array([[1.0, 3.0], [4.0, 9.0]]), ivar=np.array([[4.0, 1.0], [1.0, 0.0]]),
        mask=np.array([[False, False], [False, False]]),
    )
    np.testing.assert_allclose(tool.signal(batch), [2.5, 4.0])
    pairs = {"redshift": np.array([0.1, 0.3]), "log_ssfr": np.array([-12.0, -10.0])}
    quiet, forming = tool.redshift_rows("x", batch, pairs, {"scan": np.array([0.1011, 0.2])})
    assert (quiet["galaxies"], quiet["signal-to-noise"]) == ("quiescent", "2-4")
    assert (forming["galaxies"], forming["signal-to-noise"]) == ("star-forming", "above 4")
    assert (quiet["scan, NMAD"], quiet["scan, beyond 0.002"]) == ("0.00148", "0.0 %")
    assert (forming["scan, NMAD"], forming["scan, beyond 0.002"]) == ("0.11405", "100.0 %")


def test_goals_that_both_runs_measured_are_compared():
    tool = load_tool("compare_scores")
    first = Table.read(tool.BUNDLED, format="ascii.ecsv")
    second = first[[str(query) != "image" for query in first["query"]]]
    second["value"] = second["value"] - 0.1
    found = tool.compared(first, second, ("this", "that"))
    assert not [what for what in found["what"] if what.startswith("image, ") or "second" in what]
    (row,) = found[found["what"] == "spectrum, R2 of log sSFR"]
    known = first[
        (first["protocol"] == "k-NN") & (first["data"] == "held-out pairs")
        & (first["query"] == "spectrum") & (first["reference"] == "spectrum")
        & (first["property"] == "log_ssfr") & (first["score"] == "r2")
    ]
    assert row["this"] == f"{known['value'][0]:.3f}"
    assert row["that"] == f"{known['value'][0] - 0.1:.3f}"


def test_redshifts_are_scored_from_neighbours_among_the_others():
    tool = load_tool("moved_galaxies")
    rng = np.random.default_rng(2)
    features, values = rng.random((400, 2)), rng.random(400)
    known = KNeighborsRegressor(64, weights="distance").fit(features[:300], values[:300])
    expected = r2_score(values[300:], known.predict(features[300:]))
    assert tool.score(features, values) == pytest.approx(expected)


def test_galaxies_are_put_elsewhere_and_their_places_returned():
    tool = load_tool("moved_galaxies")
    rng = np.random.default_rng(2)
    pairs = {
        "spectrum": (2 + rng.random((12, 4360))).astype(np.float32),
        "redshift": rng.uniform(0.1, 0.4, 12).astype(np.float32),
    }
    model = load_model("astroclip-small-rest", device="cpu")
    stayed, place = tool.embedded(model, pairs, move=False, seed=1)
    np.testing.assert_array_equal(place, pairs["redshift"])
    moved, place = tool.embedded(model, pairs, move=True, seed=1)
    assert (np.abs(place - pairs["redshift"]) > 1e-3).all()
    np.testing.assert_allclose(np.linalg.norm(np.vstack([stayed, moved]), axis=1), 1, rtol=1e-5)


def test_a_widened_encoder_computes_what_it_did(spectra):
    tool = load_tool("widen_encoder")
    torch.manual_seed(4)
    narrow = SmallSpectrumEncoder(width=16, dim=16).eval()
    torch.nn.init.normal_(narrow.windows[2].weight, std=0.1)
    wide = SmallSpectrumEncoder(width=16, dim=16, pooled=128).eval()
    state = {f"{PREFIX}{name}": value.clone() for name, value in narrow.state_dict().items()}
    tool.widen_pooling(state)
    wide.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items()})
    with torch.inference_mode():
        found, expected = wide(*spectra), narrow(*spectra)
    assert functional.cosine_similarity(found, expected).min() > 0.999
    weight = state[f"{PREFIX}gate.weight"]
    assert not torch.equal(weight[:64], weight[64:128])  # copies that differ can part


def test_finer_bins_lie_on_lines_between_the_old_ones():
    tool = load_tool("widen_encoder")
    bins = torch.arange(6.0)
    state = {f"{tool.HEAD}weight": 2 * bins[:, None].repeat(1, 3), f"{tool.HEAD}bias": bins + 1}
    tool.refine_bins(state, 24)
    expected = ((torch.arange(24) + 0.5) / 4 - 0.5).clamp(0, 5)
    torch.testing.assert_close(state[f"{tool.HEAD}bias"], expected + 1)
    torch.testing.assert_close(state[f"{tool.HEAD}weight"], 2 * expected[:, None].repeat(1, 3))
