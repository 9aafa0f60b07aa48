"""The alignment: what a step records and contrasts, what is logged, temperatures of its heads."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional

from astroclip.redshifts.distribution import redshift_edges
from astroclip.training.align import Alignment, redshift_logits, redshift_temperatures
from astroclip.training.objective import HEAD_SCALE
from astroclip.training.observers import Observer
from tests.training.conftest import QUIET, make_recipe, train_in

pytestmark = QUIET


@pytest.fixture(scope="module")
def module(recipe, workspace):
    torch.manual_seed(4)
    pairs = {**workspace.read("train-mix"), "varied_share": np.full(48, 0.5, np.float32)}
    return Alignment(
        recipe, pairs=pairs, validation=workspace.read("validation"),
        contaminants=workspace.contaminants(),
    ).eval()


def test_a_step_knows_second_recordings_and_outliers_of_its_batch(module):
    batch = next(iter(module.train_dataloader()))
    with torch.no_grad():
        views = module.views(batch, torch.Generator().manual_seed(4))
    assert views["spectrum"].shape == views["image"].shape == (16, 128)
    assert len(views["outliers"]) == round(0.2 * 16)
    for name in ("spectrum", "image"):
        rows = views[f"second_{name}_rows"]
        assert len(set(rows.tolist())) == 8
        first, second = (
            functional.normalize(views[key], dim=1) for key in (name, f"second_{name}")
        )
        own = (second * first[rows]).sum(dim=1)
        assert own.mean() > (second @ first.T).mean()  # the same galaxies, recorded again
        assert own.max() < 0.99999


def test_scores_are_those_of_naive_loops(module):
    rng = np.random.default_rng(3)
    held = {
        "spectrum": torch.from_numpy(rng.normal(size=(40, 128))).float(),
        "redshift": torch.from_numpy(np.where(np.arange(40) < 3, np.nan, rng.uniform(0, 0.6, 40))),
        "labels": torch.from_numpy(rng.normal(size=(40, 9))).float(),
    }
    held["image"] = held["spectrum"] + torch.from_numpy(rng.normal(0, 2, (40, 128))).float()
    with torch.no_grad():
        scores = module.scores(held)
        logits = module.spectrum_redshift(HEAD_SCALE * functional.normalize(held["spectrum"]))
    image, spectrum = (functional.normalize(held[name]).numpy() for name in ("image", "spectrum"))
    ranks = [(spectrum @ image[row] > spectrum[row] @ image[row]).sum() for row in range(40)]
    assert float(scores["recall_10"]) == pytest.approx(np.mean(np.array(ranks) < 10))
    edges = redshift_edges(300, 0.7)
    center = np.sqrt((1 + edges[1:]) * (1 + edges[:-1])) - 1
    truth = held["redshift"].numpy()
    error = np.abs(center[logits.argmax(dim=1).numpy()] - truth) / (1 + truth)
    assert float(scores["spectrum_nmad"]) == pytest.approx(
        1.4826 * np.sort(error[3:])[18], rel=1e-4
    )
    assert not [name for name in scores if "_r2_" in name]  # nothing is remembered


def test_estimates_of_held_out_pairs_are_scored_once_galaxies_are_remembered(aligned):
    _, folder = aligned
    (log,) = folder.glob("logs/version_*/metrics.csv")
    header = log.read_text().splitlines()[0].split(",")
    assert {"loss", "contrast", "outliers", "recall_10", "spectrum_nmad"} <= set(header)
    assert {"spectrum_r2_log_stellar_mass", "image_r2_redshift"} <= set(header)


def test_stars_and_quasars_take_part(aligned):
    _, folder = aligned
    (log,) = folder.glob("logs/version_*/metrics.csv")
    header, *lines = (line.split(",") for line in log.read_text().splitlines())
    losses = [float(line[header.index("outliers")]) for line in lines if line[header.index("loss")]]
    assert len(losses) == 2 and max(losses) > 0


def test_statistics_are_kept_from_the_epoch_that_the_share_says(workspace, tmp_path, aligned):
    source, folder = aligned
    started = train_in(
        tmp_path, workspace, start=folder / "last.ckpt", statistics_share=0.0, n_epochs=1
    ).state_dict()
    before = source.state_dict()
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics and all(torch.equal(started[name], before[name]) for name in statistics)
    name = "image_encoder.head.0.weight"
    assert not torch.equal(started[name], before[name])


def test_templates_are_made_of_the_pairs_and_what_weighs_them_learns(workspace, tmp_path):
    losses = {"contrast": 1.0, "scan_redshift": 1.0}
    options = {"n_epochs": 1, "losses": losses, "spectrum": {"width": 16, "scan_components": 2}}
    encoder = train_in(tmp_path / "scan", workspace, **options).spectrum_encoder
    assert encoder.scan.templates.abs().amax(dim=2).min() > 0
    assert encoder.scanned.prior[-1].weight.any() and encoder.scanned.join.weight.any()
    start = tmp_path / "scan" / "last.ckpt"
    further = train_in(tmp_path / "further", workspace, start=start, seed=2, **options)
    kept = further.spectrum_encoder.scan.templates
    torch.testing.assert_close(kept, encoder.scan.templates, rtol=0, atol=0)


def test_labels_are_standardized_where_they_are_known(workspace):
    pairs = {name: values.copy() for name, values in workspace.read("train-mix").items()}
    pairs["log_stellar_mass"][:5] = np.nan
    module = Alignment(make_recipe(), pairs=pairs)
    mass = pairs["log_stellar_mass"][5:].astype(float)
    assert float(module.label_mean[1]) == pytest.approx(mass.mean(), rel=1e-5)
    assert float(module.label_scale[1]) == pytest.approx(mass.std(), rel=1e-4)


# ---------------------------------------------------------------------- redshift heads
def test_logits_are_read_off_pairs_recorded_once(module, workspace):
    pairs = workspace.read("validation")
    found = redshift_logits(module, pairs, seed=3, varied_share=0.5)
    observer, generator = Observer(varied_share=0.5), torch.Generator().manual_seed(3)
    flux, image, seeing = (
        torch.from_numpy(pairs[name]).float() for name in ("spectrum", "image", "seeing")
    )
    with torch.inference_mode():
        seen = observer.spectra(flux, generator)
        pixels = observer.images(image, seeing, generator)
        spectrum = module.spectrum_encoder(seen.flux, seen.ivar, seen.mask)
        expected = {
            "spectrum": module.spectrum_redshift(HEAD_SCALE * functional.normalize(spectrum)),
            "image": module.image_redshift(
                HEAD_SCALE * functional.normalize(module.image_encoder(*pixels))
            ),
        }
    for name, logits in expected.items():
        np.testing.assert_allclose(found[name], logits, atol=1e-4)


def test_temperatures_are_the_best_of_a_grid_of_galaxies_inside_the_bins(module, workspace):
    pairs = {name: values.copy() for name, values in workspace.read("validation").items()}
    pairs["redshift"][5] = 0.9
    found = redshift_temperatures(module, pairs, seed=3)
    inside = np.arange(len(pairs["redshift"])) != 5
    position, grid = np.log1p(pairs["redshift"][inside, None]), np.geomspace(0.05, 20, 400)
    for name, logits in redshift_logits(module, pairs, seed=3).items():
        n_bins = logits.shape[1]
        distance = np.arange(n_bins) + 0.5 - position / (np.log1p(0.7) / n_bins)
        target = np.exp(log_softmax(-0.5 * (distance / 0.8) ** 2, axis=1))
        loss = [
            -(target * log_softmax(logits[inside] / t, axis=1)).sum(axis=1).mean() for t in grid
        ]
        best = int(np.argmin(loss))
        assert grid[max(best - 1, 0)] <= found[name] <= grid[min(best + 1, len(grid) - 1)]
