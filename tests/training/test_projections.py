"""Projections from cached summaries: backbones stay, summaries are made once."""

import threading

import numpy as np
import pytest
import torch
from torch.nn import functional

from astroclip.training.align import Alignment, read_sources
from astroclip.training.objective import HEAD_SCALE, find_checkpoint
from astroclip.training.projections import ProjectionAlignment, Summaries, summarize_pairs
from tests.training.conftest import QUIET, make_recipe, train_in

pytestmark = QUIET

SCAN = {
    "spectrum": {"width": 16, "scan_components": 2},
    "losses": {"contrast": 1.0, "scan_redshift": 1.0, "swapped_redshift": 1.0},
}


@pytest.fixture(scope="module")
def scanning(workspace, aligned, tmp_path_factory):
    """Return projections trained with a scan, and their folder."""
    folder = tmp_path_factory.mktemp("scanning")
    return train_in(folder, workspace, "heads", start=aligned[1] / "last.ckpt", **SCAN), folder


def test_only_what_projects_is_trained(aligned, scanning):
    before, after = aligned[0].state_dict(), scanning[0].state_dict()
    for name in ("spectrum", "image"):
        encoder = getattr(scanning[0], f"{name}_encoder")
        projection = {id(parameter) for parameter in encoder.projection().parameters()}
        for key, parameter in encoder.named_parameters():
            full = f"{name}_encoder.{key}"
            if full in before:
                assert torch.equal(before[full], after[full]) == (id(parameter) not in projection)
    statistics = [key for key in before if key.endswith("running_mean")]
    assert statistics and all(torch.equal(before[key], after[key]) for key in statistics)
    scanned = scanning[0].spectrum_encoder.scanned
    assert scanned.join.weight.any() and scanned.prior[-1].weight.any()


def test_summaries_project_to_the_embeddings(workspace, aligned, recipe):
    module = aligned[0]
    pairs = read_sources([workspace.pairs_folder("train-mix")], recipe)
    found = summarize_pairs(module, pairs, n_views=3, seed=5)
    assert found["spectrum_summary"].shape[:2] == found["image_summary"].shape[:2] == (48, 3)
    assert "spectrum" not in found and "image" not in found
    np.testing.assert_array_equal(found["redshift"], pairs["redshift"])
    generator = torch.Generator().manual_seed(5000)
    with torch.no_grad():
        flux, image, seeing = (
            torch.from_numpy(pairs[name]).float() for name in ("spectrum", "image", "seeing")
        )
        seen = module.plain_observer.spectra(flux, generator)
        pixels = module.plain_observer.images(image, seeing, generator)
        expected = {
            "spectrum": module.spectrum_encoder(seen.flux, seen.ivar, seen.mask),
            "image": module.image_encoder(*pixels),
        }
        for name, embedding in expected.items():
            summary = torch.from_numpy(found[f"{name}_summary"]).float()
            own = getattr(module, f"{name}_encoder").project(summary[:, 0])
            torch.testing.assert_close(own, embedding, rtol=0.01, atol=0.02)
            assert not torch.allclose(summary[:, 0], summary[:, 1])


def made_up_batch(module, n_pairs, n_views=2):
    """Return a batch of random summaries."""
    encoder, rng = module.spectrum_encoder, np.random.default_rng(0)
    n_scan = 0 if encoder.scan is None else encoder.scan.n_lags + encoder.scan.n_measured
    sizes = {
        "spectrum": encoder.pooled + 42 + n_scan,
        "image": module.image_encoder.head[0].in_features + 30,
    }
    batch = {"redshift": torch.linspace(0.1, 0.6, n_pairs)}
    for name, size in sizes.items():
        summary = rng.normal(size=(n_pairs, n_views, size))
        batch[f"{name}_summary"] = torch.from_numpy(summary).float()
    return batch


def test_a_step_takes_one_recording_and_contrasts_another():
    shares = {"second_spectrum_share": 1.0, "second_image_share": 0.5}
    module = ProjectionAlignment(make_recipe(align=shares))
    batch = made_up_batch(module, 20)
    with torch.no_grad():
        views = module.views(batch, torch.Generator().manual_seed(1))
        assert not len(views["outliers"])
        for name, n_again in (("spectrum", 20), ("image", 10)):
            rows = views[f"second_{name}_rows"]
            assert len(set(rows.tolist())) == n_again
            project = getattr(module, f"{name}_encoder").project
            both = torch.stack(
                [project(batch[f"{name}_summary"][rows, view]) for view in (0, 1)], dim=1
            )
            pair = torch.stack([views[name][rows], views[f"second_{name}"]], dim=1)
            swapped = (pair - both).abs().amax(dim=(1, 2)) > 1e-5
            expected = torch.where(swapped[:, None, None], both.flip(1), both)
            torch.testing.assert_close(pair, expected)
            assert 0 < swapped.sum() < n_again


def test_all_recordings_are_scanned_where_the_redshift_is_in_range(scanning):
    module, encoder = scanning[0], scanning[0].spectrum_encoder
    batch = made_up_batch(module, 4)
    batch["redshift"] = torch.tensor([0.1, torch.nan, 0.3, 0.9])
    with torch.no_grad():
        views = module.views(batch, torch.Generator().manual_seed(1))
        expected = [
            encoder.log_posterior(batch["spectrum_summary"][row, view][None])
            for row in (0, 2) for view in range(2)
        ]
    torch.testing.assert_close(views["scan_log_posterior"], torch.cat(expected))
    torch.testing.assert_close(views["scanned_redshift"], torch.tensor([0.1, 0.1, 0.3, 0.3]))


def test_swapped_features_leave_each_spectrum_its_own_scan(scanning):
    module, encoder = scanning[0], scanning[0].spectrum_encoder
    batch = made_up_batch(module, 3, n_views=1)
    batch["redshift"] = torch.tensor([torch.nan, 0.31, 0.9])
    with torch.no_grad():  # one galaxy is known: the other is itself
        views = module.views(batch, torch.Generator().manual_seed(0))
        embedding = encoder.project(batch["spectrum_summary"][1])
        expected = module.spectrum_redshift(HEAD_SCALE * functional.normalize(embedding, dim=1))
        torch.testing.assert_close(views["swapped_logits"], expected)
        assert views["swapped_target"].tolist() == pytest.approx([0.31])
        batch["redshift"] = torch.tensor([0.2, 0.31, 0.1])
        views = module.views(batch, torch.Generator().manual_seed(0))
        own = module.read_off(views["spectrum"], views["image"])["spectrum_logits"]
    assert (views["swapped_logits"] - own).abs().amax(dim=1).max() > 1e-3
    batch["redshift"] = torch.full((3,), torch.nan)
    assert not len(module.views(batch, torch.Generator().manual_seed(0))["swapped_logits"])


# ---------------------------------------------------------------------- what is kept
def test_summaries_and_templates_are_made_once_and_runs_resume(
    scanning, workspace, aligned, monkeypatch
):
    module, folder = scanning
    (cache,) = folder.glob("summaries-*")
    files = {path.name for path in cache.glob("*.npz")}
    assert files == {
        "0.npz", "1.npz", "2.npz", "validation.npz", "templates.npz", "contaminants.npz"
    }
    templates = module.spectrum_encoder.scan.templates
    assert templates.abs().amax(dim=2).min() > 0
    with np.load(cache / "templates.npz") as content:
        np.testing.assert_array_equal(content["templates"], templates.half())
    made = {path: path.stat().st_mtime_ns for path in cache.glob("*.npz")}
    start = aligned[1] / "last.ckpt"
    again = train_in(folder, workspace, "heads", start=start, **{**SCAN, "n_epochs": 3})
    torch.testing.assert_close(again.spectrum_encoder.scan.templates, templates, rtol=0, atol=0)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.npz")} == made


def test_templates_of_the_start_are_kept(scanning, workspace, tmp_path):
    module, folder = scanning
    templates = module.spectrum_encoder.scan.templates.clone()
    further = train_in(
        tmp_path, workspace, "heads", start=find_checkpoint(folder), **{**SCAN, "n_epochs": 1}
    )
    torch.testing.assert_close(further.spectrum_encoder.scan.templates, templates, rtol=0, atol=0)
    assert not list(tmp_path.glob("summaries-*/templates.npz"))


@pytest.mark.parametrize(("rank", "order"), [("0", "012"), ("1", "120"), ("4", "120")])
def test_processes_begin_with_summaries_of_their_own(
    rank, order, aligned, workspace, tmp_path, monkeypatch
):
    monkeypatch.setenv("RANK", rank)
    pairs = workspace.read("train-mix", n_pairs=3)
    sources = [tmp_path / name for name in "abc"]
    for number, folder in enumerate(sources):
        folder.mkdir()
        one = {name: values[number : number + 1] for name, values in pairs.items()}
        np.savez(folder / "pairs-00000.npz", **one)
    found = Summaries(aligned[0], tmp_path).training_pairs(sources)
    np.testing.assert_array_equal(found["redshift"], pairs["redshift"])
    made = sorted(tmp_path.glob("?.npz"), key=lambda path: path.stat().st_mtime_ns)
    assert "".join(path.stem for path in made) == order


def test_summaries_are_made_by_one_process_at_a_time(tmp_path, recipe, workspace, monkeypatch):
    module, made, found = Alignment(recipe), [], []
    original = module.spectrum_encoder.summary

    def summary(*spectra):
        made.append(len(spectra[0]))
        return original(*spectra)

    monkeypatch.setattr(module.spectrum_encoder, "summary", summary)
    flux = workspace.contaminants()

    def read():
        found.append(Summaries(module, tmp_path).spectra(flux))

    workers = [threading.Thread(target=read) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert made == [8]
    np.testing.assert_array_equal(*found)


# ---------------------------------------------------------------------- faults
def test_second_recordings_need_two(aligned, workspace, tmp_path):
    with pytest.raises(ValueError, match="^n_views of the recipe is 1; expected 2 or more"):
        train_in(tmp_path, workspace, "heads", start=aligned[1] / "last.ckpt", n_views=1)


def test_projections_need_weights_to_start_from(workspace, tmp_path):
    with pytest.raises(ValueError, match="start is missing; projections are trained on the backb"):
        train_in(tmp_path, workspace, "heads")


def test_a_run_does_not_go_on_from_other_weights(scanning, workspace, tmp_path):
    _, folder = scanning
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": Alignment(make_recipe()).state_dict()}, other)
    with pytest.raises(ValueError, match=r"^start is '.*other.ckpt', but the run in '.*' began"):
        train_in(folder, workspace, "heads", start=other, **SCAN)
    assert len(list(folder.glob("summaries-*"))) == 1


def test_a_loss_on_a_scan_needs_one(aligned, workspace, tmp_path):
    losses = {"contrast": 1.0, "scan_redshift": 1.0}
    with pytest.raises(ValueError, match="^loss 'scan_redshift' takes 'scan_log_posterior', which"):
        train_in(tmp_path, workspace, "heads", start=aligned[1] / "last.ckpt", losses=losses)
