"""Heads from cached summaries: backbones stay, summaries are computed once, runs resume."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from astroclip.models import load_model
from astroclip.models.redshift_scan import LAG_STEP
from astroclip.training import heads
from astroclip.training.alignment import HEAD_SCALE, Alignment
from astroclip.training.bundle import export_weights
from astroclip.training.heads import HeadAlignment, Summaries, summarize_pairs, train_heads
from astroclip.training.run import (
    find_checkpoint,
    load_alignment,
    read_sources,
    train_alignment,
)
from tests.training.test_run import QUIET

pytestmark = QUIET


@pytest.fixture(scope="module")
def head_recipe(recipe):
    return dataclasses.replace(
        recipe, batch_size=16, epoch_size=48, n_epochs=2, second_view_share=0.5,
        second_image_share=0.5, refinement=(),
    )


@pytest.fixture(scope="module")
def start(workspace, recipe, tmp_path_factory):
    """Return the checkpoint of a short alignment."""
    folder = tmp_path_factory.mktemp("aligned")
    train_alignment(
        workspace.training_folders(), workspace.pairs_folder("validation"), folder,
        recipe=dataclasses.replace(recipe, n_epochs=1, refinement=()),
    )
    return find_checkpoint(folder)


def train(workspace, output, recipe, start):
    return train_heads(
        workspace.training_folders(), workspace.pairs_folder("validation"), output,
        recipe=recipe, start=start, contaminants=workspace.contaminants(),
    )


@pytest.fixture(scope="module")
def trained(workspace, head_recipe, start, tmp_path_factory):
    output = tmp_path_factory.mktemp("heads")
    return train(workspace, output, head_recipe, start), output


@pytest.fixture(scope="module")
def before(head_recipe, start):
    return load_alignment(start.parent, recipe=head_recipe).state_dict()


def test_only_what_projects_is_trained(trained, before):
    module, _ = trained
    after = module.state_dict()
    for name in ("spectrum", "image"):
        encoder = getattr(module, f"{name}_encoder")
        head = {id(parameter) for parameter in encoder.projection().parameters()}
        for key, parameter in encoder.named_parameters():
            full = f"{name}_encoder.{key}"
            changed = not torch.equal(before[full], after[full])
            assert changed == (id(parameter) in head), key
    statistics = [key for key in before if key.endswith("running_mean")]
    assert statistics and all(torch.equal(before[key], after[key]) for key in statistics)


def test_the_checkpoint_is_one_of_an_alignment(trained, head_recipe):
    module, output = trained
    loaded = load_alignment(output, recipe=head_recipe).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in module.state_dict().items())


def test_summaries_project_to_the_embeddings(workspace, head_recipe, start):
    module = load_alignment(start.parent, recipe=head_recipe)
    pairs = read_sources([workspace.pairs_folder("train-mix")], head_recipe)
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


def test_a_step_takes_one_recording_and_contrasts_another(head_recipe):
    rng = np.random.default_rng(0)
    module = HeadAlignment(head_recipe)
    sizes = {
        "spectrum": module.spectrum_encoder.gate.in_features + 42,
        "image": module.image_encoder.head[0].in_features + 30,
    }
    batch = {"redshift": torch.rand(20)}
    for name, size in sizes.items():
        batch[f"{name}_summary"] = torch.from_numpy(rng.normal(size=(20, 2, size))).float()
    spectrum, image, outliers = module._training_views(batch, torch.Generator().manual_seed(1))
    assert not len(outliers)
    for name, first in (("spectrum", spectrum), ("image", image)):
        project = getattr(module, f"{name}_encoder").project
        views = torch.stack([project(batch[f"{name}_summary"][:, view]) for view in (0, 1)], dim=1)
        pair = torch.stack([first, batch[f"{name}_again"]], dim=1)
        swapped = (pair - views).abs().amax(dim=(1, 2)) > 1e-5
        torch.testing.assert_close(pair, torch.where(swapped[:, None, None], views.flip(1), views))
        assert 0 < swapped.sum() < 20


def test_summaries_are_found_again_and_runs_resume(
    workspace, head_recipe, start, trained, tmp_path, monkeypatch
):
    module, _ = trained
    train(workspace, tmp_path, dataclasses.replace(head_recipe, n_epochs=1), start)

    def never(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(heads, "summarize_pairs", never)
    monkeypatch.setattr(heads, "summarize_spectra", never)
    again = train(workspace, tmp_path, head_recipe, start)
    assert again.state_dict().keys() == module.state_dict().keys()
    assert not list(tmp_path.glob("*/part-*"))


def test_processes_begin_with_summaries_of_their_own(monkeypatch, tmp_path):
    made = []
    monkeypatch.setattr(Summaries, "pairs", lambda self, source, number: made.append(source))
    for rank, expected in (("0", "abc"), ("1", "bca"), ("4", "bca")):
        made.clear()
        monkeypatch.setenv("RANK", rank)
        Summaries(None, tmp_path).all_pairs("abc")
        assert "".join(made) == expected


def test_summaries_are_made_by_one_process_at_a_time(tmp_path):
    both, begun, finish = threading.Barrier(2), threading.Event(), threading.Event()
    made, found = [], []

    def make():
        made.append(1)
        begun.set()
        assert finish.wait(30)
        return {"values": np.arange(3)}

    def read():
        both.wait(30)
        found.append(Summaries(None, tmp_path)._kept("0.npz", make))

    workers = [threading.Thread(target=read) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert begun.wait(30)
    finish.set()
    for worker in workers:
        worker.join()
    assert len(made) == 1
    assert [list(content["values"]) for content in found] == [[0, 1, 2]] * 2


def test_second_recordings_need_two(workspace, head_recipe, start, tmp_path):
    single = dataclasses.replace(head_recipe, n_summaries=1)
    with pytest.raises(ValueError, match="^n_summaries of the recipe is 1; expected 2 or more"):
        train(workspace, tmp_path, single, start)


def test_heads_need_weights_to_start_from(workspace, head_recipe, tmp_path):
    with pytest.raises(ValueError, match="start is missing; heads are trained on the backbones"):
        train(workspace, tmp_path, head_recipe, None)


def test_a_run_does_not_go_on_from_other_weights(trained, workspace, head_recipe, tmp_path):
    _, output = trained
    torch.save({"state_dict": Alignment(head_recipe).state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"^start is '.*other.ckpt', but the run in '.*' began"):
        train(workspace, output, head_recipe, tmp_path / "other.ckpt")
    assert len(list(output.glob("summaries-*"))) == 1
    fresh = Alignment(head_recipe).state_dict()
    torch.save({"state_dict": fresh}, tmp_path / "fresh.ckpt")
    train(workspace, tmp_path / "run", head_recipe, tmp_path / "fresh.ckpt")
    train(workspace, tmp_path / "run", head_recipe, tmp_path / "fresh.ckpt")
    assert len(list((tmp_path / "run").glob("summaries-*"))) == 1


@pytest.fixture(scope="module")
def scan_recipe(head_recipe):
    return dataclasses.replace(head_recipe, spectrum={**head_recipe.spectrum, "scan_components": 2})


@pytest.fixture(scope="module")
def scanning(workspace, scan_recipe, start, tmp_path_factory):
    output = tmp_path_factory.mktemp("scanning")
    return train(workspace, output, scan_recipe, start), output


def test_templates_are_made_once_and_kept(scanning, workspace, scan_recipe, start, monkeypatch):
    module, output = scanning
    templates = module.spectrum_encoder.scan.templates
    assert templates.abs().amax(dim=2).min() > 0
    with np.load(next(output.glob("summaries-*/templates.npz"))) as content:
        np.testing.assert_array_equal(content["templates"], templates.half())
    loaded = load_alignment(output, recipe=scan_recipe)
    torch.testing.assert_close(loaded.spectrum_encoder.scan.templates, templates, rtol=0, atol=0)

    def never(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(heads, "templates_of", never)
    again = train(workspace, output, dataclasses.replace(scan_recipe, n_epochs=3), start)
    torch.testing.assert_close(again.spectrum_encoder.scan.templates, templates, rtol=0, atol=0)


def test_templates_of_the_start_are_kept(scanning, workspace, scan_recipe, tmp_path, monkeypatch):
    module, output = scanning
    templates = module.spectrum_encoder.scan.templates.clone()
    monkeypatch.setattr(heads, "templates_of", None)
    once = dataclasses.replace(scan_recipe, n_epochs=1)
    further = train(workspace, tmp_path, once, find_checkpoint(output))
    torch.testing.assert_close(further.spectrum_encoder.scan.templates, templates, rtol=0, atol=0)


def test_what_weighs_the_scan_learns(scanning):
    module, _ = scanning
    scanned = module.spectrum_encoder.scanned
    assert scanned.join.weight.any() and scanned.prior[-1].weight.any()


def test_exported_weights_scan_as_they_were_trained(scanning, workspace, tmp_path):
    module, _ = scanning
    export_weights(module, tmp_path / "scanning.safetensors")
    network = load_model(tmp_path / "scanning.safetensors", device="cpu").network
    flux = torch.from_numpy(workspace.read("validation")["spectrum"]).float()
    seen = module.plain_observer.spectra(flux, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = network.encode_spectrum(seen.flux, seen.ivar, seen.mask)
        expected = module.spectrum_encoder(seen.flux, seen.ivar, seen.mask)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999
    torch.testing.assert_close(
        network.spectrum_encoder.scan.templates, module.spectrum_encoder.scan.templates,
        rtol=0, atol=0,
    )


def test_the_loss_of_the_scan_is_the_cross_entropy_of_all_recordings(scanning):
    module, _ = scanning
    encoder = module.spectrum_encoder
    rng = np.random.default_rng(0)
    size = encoder.pooled + 42 + encoder.scan.n_lags + encoder.scan.n_measured
    summaries = torch.from_numpy(rng.normal(size=(4, 2, size))).float()
    redshift = torch.tensor([0.1, torch.nan, 0.3, 0.9])
    loss = module._scan_loss(summaries, redshift)
    terms = []
    for row in (0, 2):
        for view in range(2):
            logs = encoder.log_posterior(summaries[row, view][None])[0].detach().double().numpy()
            place = np.log1p(float(redshift[row])) / LAG_STEP
            target = np.exp(-0.5 * ((np.arange(len(logs)) - place) / 0.8) ** 2)
            terms.append(-(target / target.sum() * logs).sum())
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)
    assert module._scan_loss(summaries, torch.full((4,), torch.nan)) == 0


def scanned_summaries(encoder, n_galaxies, n_views=2):
    size = encoder.pooled + 42 + encoder.scan.n_lags + encoder.scan.n_measured
    rng = np.random.default_rng(1)
    return torch.from_numpy(rng.normal(size=(n_galaxies, n_views, size))).float()


def test_lent_features_leave_each_spectrum_its_own_scan(scanning):
    encoder = scanning[0].spectrum_encoder
    summaries = scanned_summaries(encoder, 5)[:, 0]
    lender = torch.tensor([2, 0, 1, 4, 3])
    n_own = encoder.pooled + 42
    with torch.inference_mode():
        found = encoder.project(summaries, lender=lender)
        own, lent = summaries, summaries[lender]
        pooled, evidence, measured = encoder._joined(own)
        others = lent[:, : encoder.pooled] + encoder.windows(lent[:, encoder.pooled : n_own])
        hidden = encoder.head[1](encoder.head[0](others))
        hidden = hidden + encoder.scanned(pooled, evidence, measured)
        torch.testing.assert_close(found, encoder.head[3](encoder.head[2](hidden)))
        plain = encoder.project(summaries)
        torch.testing.assert_close(encoder.project(summaries, lender=torch.arange(5)), plain)
    assert not torch.allclose(found, plain)


def test_the_loss_of_lent_features_is_the_cross_entropy_of_the_head(scanning):
    module, _ = scanning
    summaries = scanned_summaries(module.spectrum_encoder, 3, n_views=1)
    redshift = torch.tensor([torch.nan, 0.31, 0.9])  # one is known: it lends to itself
    loss = module._lent_loss(summaries, redshift, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        embedding = module.spectrum_encoder.project(summaries[1])
        unit = HEAD_SCALE * torch.nn.functional.normalize(embedding, dim=1)
        logs = module.spectrum_redshift(unit)[0].double().log_softmax(dim=0).numpy()
    centre = (np.log1p(0.31) / module.redshift_bins.width - np.arange(len(logs)) - 0.5) / 0.8
    target = np.exp(-0.5 * centre**2)
    assert loss.item() == pytest.approx(-(target / target.sum() * logs).sum(), rel=1e-4)
    unknown = torch.full((3,), torch.nan)
    assert module._lent_loss(summaries, unknown, torch.Generator().manual_seed(0)) == 0


def test_lent_features_join_the_loss_of_the_scan(scanning, scan_recipe):
    module, _ = scanning
    summaries = scanned_summaries(module.spectrum_encoder, 6)
    size = module.image_encoder.head[0].in_features + 30
    batch = {
        "redshift": torch.linspace(0.1, 0.6, 6), "spectrum_summary": summaries,
        "image_summary": torch.randn(6, 2, size, generator=torch.Generator().manual_seed(3)),
    }
    found = {}
    for weight in (0.0, 2.0, 6.0):
        recipe = dataclasses.replace(scan_recipe, lent_weight=weight)
        other = HeadAlignment(recipe)
        other.load_state_dict(module.state_dict())
        seen, generator = dict(batch), torch.Generator().manual_seed(1)
        other._training_views(seen, generator)
        found[weight] = seen["scan"].item()
    scan = module._scan_loss(summaries, batch["redshift"]).item()
    assert found[0.0] == pytest.approx(scan, rel=1e-5)
    assert found[2.0] > scan + 0.1
    assert found[6.0] - scan == pytest.approx(3 * (found[2.0] - scan), rel=1e-4)
