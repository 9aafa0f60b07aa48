"""Trainings learn, are reproducible, resume to the same weights and start from others."""

import csv
import json

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from astroclip._files import file_sha256
from astroclip.training.align import Alignment
from astroclip.training.objective import find_checkpoint, neighbor_r2, read_start
from astroclip.training.run import OBJECTIVES, load_trained, train
from tests.training.conftest import QUIET, make_recipe, train_in
from tests.training.survey import make_survey

pytestmark = QUIET


def largest_difference(first, second):
    states = first.state_dict(), second.state_dict()
    return max(float((states[0][k].float() - states[1][k].float()).abs().max()) for k in states[0])


def logged(folder, name):
    """Return a column of the newest log by epoch."""
    path = max(folder.glob("logs/version_*/metrics.csv"), key=lambda p: p.stat().st_mtime_ns)
    with path.open() as file:
        return {int(row["epoch"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def start_of(objective, aligned):
    return aligned[1] / "last.ckpt" if objective == "heads" else ()


@pytest.fixture(scope="module", params=OBJECTIVES)
def finished(request, workspace, aligned, tmp_path_factory):
    """Return an objective, its trained module and its folder."""
    if request.param == "align":
        return "align", *aligned
    folder = tmp_path_factory.mktemp(request.param)
    start = start_of(request.param, aligned)
    return request.param, train_in(folder, workspace, request.param, start=start), folder


def test_interrupted_training_ends_at_the_same_weights(
    finished, workspace, aligned, tmp_path, monkeypatch
):
    objective, module, folder = finished
    kind, start = OBJECTIVES[objective], start_of(objective, aligned)
    original = kind.training_step

    def interrupted(self, batch, batch_index):
        if self.current_epoch == 1 and batch_index == 1:
            raise InterruptedError
        return original(self, batch, batch_index)

    monkeypatch.setattr(kind, "training_step", interrupted)
    with pytest.raises(InterruptedError):
        train_in(tmp_path, workspace, objective, start=start)
    monkeypatch.undo()
    resumed = train_in(tmp_path, workspace, objective, start=start)
    assert largest_difference(module, resumed) < 1e-6
    assert logged(tmp_path, "loss")[1] == pytest.approx(logged(folder, "loss")[1], abs=1e-5)


def test_checkpoints_hold_the_trained_weights(finished, workspace):
    objective, module, folder = finished
    section = OBJECTIVES[objective].section
    recipe = make_recipe(**{section: {"folder": str(folder)}})
    assert largest_difference(module, load_trained(objective, recipe, workspace.folder)) == 0


def test_every_epoch_is_logged_and_scored(finished):
    objective, _, folder = finished
    score = {"align": "recall_10", "heads": "recall_10", "rest": "r2_log_ssfr"}
    for name in ("loss", score.get(objective, "neighbor_r2")):
        values = logged(folder, name)
        assert list(values) == [0, 1]
        assert np.isfinite(list(values.values())).all()


def test_a_truncated_checkpoint_is_passed_over(aligned, tmp_path):
    content = find_checkpoint(aligned[1]).read_bytes()
    (tmp_path / "first.ckpt").write_bytes(content)
    (tmp_path / "last.ckpt").write_bytes(content[: len(content) // 2])
    assert find_checkpoint(tmp_path).name == "first.ckpt"


# ---------------------------------------------------------------------- learning
def test_the_alignment_lowers_its_loss(workspace, tmp_path):
    asked = {"contrast": 1.0, "spectrum_redshift": 1.0, "spectrum_labels": 1.0}
    train_in(
        tmp_path, workspace, n_epochs=6, epoch_size=48, learning_rate=3e-3, losses=asked,
        outlier_share=0.0, second_spectrum_share=0.0, second_image_share=0.0,
    )
    losses = list(logged(tmp_path, "loss").values())
    assert losses[-1] < 0.9 * losses[0]


def test_masked_modelling_lowers_its_loss(workspace, tmp_path):
    train_in(tmp_path, workspace, "spectra", n_epochs=5, learning_rate=3e-3)
    losses = list(logged(tmp_path, "loss").values())
    assert losses[-1] < 0.8 * losses[0]


def test_momentum_contrast_lowers_its_loss(workspace, tmp_path):
    rng = np.random.default_rng(1)
    axis = np.arange(64) - 31.5
    width = 10 ** rng.uniform(0.2, 1, (48, 1, 1, 1))
    blobs = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / width**2)
    images = 10 ** rng.uniform(-1, 1.5, (48, 3, 1, 1)) * blobs  # colors tell them apart
    folder = tmp_path / "pairs"
    folder.mkdir()
    pairs = {**workspace.read("train-mix"), "image": images.astype(np.float16)}
    np.savez(folder / "pairs-00000.npz", **pairs)
    # with a queue of one batch, the random directions in it are gone after the first step
    train_in(
        tmp_path / "run", workspace, "images", pairs=[folder], n_epochs=6, epoch_size=48,
        batch_size=24, n_queued=24, image={"width": 16},
    )
    losses = list(logged(tmp_path / "run", "loss").values())
    assert np.mean(losses[-3:]) < 0.9 * losses[1]


@pytest.mark.parametrize("objective", ["align", "spectra", "images"])
def test_survey_pairs_train_too(objective, workspace, tmp_path):
    losses = {"losses": {"contrast": 1.0, "spectrum_redshift": 1.0, "neighbors": 1.0}}
    survey = make_survey(32)
    survey["redshifts"][::3] = np.nan
    module = train_in(
        tmp_path, workspace, objective, pairs=[survey, workspace.pairs_folder("train-mix")],
        n_epochs=1, **(losses if objective == "align" else {}),
    )
    assert all(torch.isfinite(value.float()).all() for value in module.state_dict().values())
    assert np.isfinite(logged(tmp_path, "loss")[0])


# ---------------------------------------------------------------------- start weights
def test_start_takes_what_fits_and_remembers_the_file(aligned, workspace, tmp_path):
    source, folder = aligned
    start = folder / "last.ckpt"
    started = train_in(tmp_path, workspace, start=start, n_epochs=1, learning_rate=1e-12)
    for name in ("spectrum_encoder.stem.weight", "image_encoder.head.0.weight"):
        torch.testing.assert_close(
            started.state_dict()[name], source.state_dict()[name], atol=1e-6, rtol=0
        )
    assert read_start(tmp_path) == [{"file": "last.ckpt", "sha256": file_sha256(start)}]
    assert json.loads((tmp_path / "start.json").read_text()) == read_start(tmp_path)


@pytest.mark.parametrize("objective", ["spectra", "images"])
def test_an_alignment_starts_from_self_supervised_encoders(objective, workspace, tmp_path):
    module = train_in(tmp_path, workspace, objective, n_epochs=1)
    alignment = Alignment(make_recipe())
    encoder = {"spectra": alignment.spectrum_encoder, "images": alignment.image_encoder}[objective]
    assert largest_difference(encoder, module.encoder) > 0
    alignment.start_from(tmp_path / "last.ckpt")
    assert largest_difference(encoder, module.encoder) == 0


def test_start_takes_the_redshift_heads_of_shipped_weights(tmp_path):
    from safetensors.torch import save_file

    module = Alignment(make_recipe())
    weights = {
        "redshift_head.spectrum.weight": torch.ones(300, 128).half(),
        "redshift_head.image.bias": torch.ones(256).half(),
    }
    save_file(weights, tmp_path / "shipped.safetensors")
    missing = module.start_from(tmp_path / "shipped.safetensors")
    assert (module.spectrum_redshift.weight == 1).all() and (module.image_redshift.bias == 1).all()
    assert "spectrum_redshift.bias" in missing and "spectrum_redshift.weight" not in missing


def test_start_without_a_fitting_tensor_is_refused(tmp_path):
    torch.save({"state_dict": {"other": torch.zeros(3)}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="none of whose tensors fits"):
        Alignment(make_recipe()).start_from(tmp_path / "other.ckpt")


# ---------------------------------------------------------------------- faults
def test_what_cannot_be_trained_says_why(workspace, tmp_path):
    survey = make_survey(8)
    with pytest.raises(ValueError, match="objective is 'both'; expected one of 'align', 'heads'"):
        train("both", "tiny", tmp_path)
    with pytest.raises(ValueError, match="^validation is missing; pairs need held-out ones"):
        train("align", "tiny", tmp_path, pairs=[survey])
    with pytest.raises(ValueError, match="^objective 'rest' takes no pairs of your own"):
        train("rest", "tiny", tmp_path, pairs=[survey], validation=survey)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint; train first"):
        load_trained("align", "tiny", tmp_path)
    scan = {"spectrum": {"width": 16, "scan_components": 2}}
    with pytest.raises(ValueError, match="^sources hold no noiseless spectra with known redshift"):
        train_in(tmp_path, workspace, pairs=[survey], **scan)


# ---------------------------------------------------------------------- scores
@pytest.mark.parametrize(("n_objects", "n_neighbors"), [(200, 16), (41, 5), (20, 16)])
def test_neighbor_r2_is_that_of_scikit_learn(n_objects, n_neighbors):
    rng = np.random.default_rng(n_objects)
    features = rng.normal(3, [1, 10, 0.1, 1], (n_objects, 4))
    values = features[:, 0] + 0.3 * rng.normal(size=n_objects)
    half = n_objects // 2
    scaler = StandardScaler().fit(features[:half])
    model = KNeighborsRegressor(min(n_neighbors, half))
    model.fit(scaler.transform(features[:half]), values[:half])
    expected = r2_score(values[half:], model.predict(scaler.transform(features[half:])))
    padded = np.concatenate([features, np.full((n_objects, 1), 7.0)], axis=1)  # tells nothing
    for told in (features, padded):
        found = neighbor_r2(
            torch.from_numpy(told), torch.from_numpy(values), n_neighbors=n_neighbors
        )
        assert float(found) == pytest.approx(expected, abs=1e-6)
