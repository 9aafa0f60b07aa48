"""Files of few-shot estimators: whole or not at all, and nothing else is taken for one."""

import json
import pickle

import numpy as np
import pytest
from astropy import units as u
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import save_file

from astroclip import FewShotEstimator
from astroclip.estimation.files import _checksum
from tests.estimation.surveys import sky

NAMES = ["age", "angle", "size", "kind"]
OPTIONS = {"circular": {"angle": 180 * u.deg}, "positive": ("size",), "confidence": (0.68, 0.95)}


@pytest.fixture(scope="module")
def examples():
    table, _ = sky(120, 1)
    table["angle"][:40] = np.nan
    return table


@pytest.fixture(scope="module")
def fitted(examples):
    return FewShotEstimator(n_folds=2, **OPTIONS).fit(examples, NAMES)


@pytest.fixture
def path(fitted, tmp_path):
    fitted.save(tmp_path / "few.safetensors")
    return tmp_path / "few.safetensors"


def parts_of(path):
    """Return a file's arrays, settings and metadata."""
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    return arrays, json.loads(metadata["settings"]), metadata


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_files_go_there_and_back(examples, fitted, kind, tmp_path):
    if kind == "ridge":
        estimator = fitted
    else:
        estimator = FewShotEstimator(kind="mlp", hidden=(8,), n_folds=2, learning_rate=0.01)
        estimator.fit(examples, ["age", "kind"])
    estimator.save(tmp_path / "few")
    again = FewShotEstimator.open(tmp_path / "few")
    assert again.get_params() == estimator.get_params()
    assert again.calibration_ == estimator.calibration_
    assert again.similarity_threshold_ == estimator.similarity_threshold_
    assert (again.scores_ == estimator.scores_).all()
    held_out, _ = sky(40, 2, failed=np.arange(40) == 3)
    first, second = estimator.predict(held_out), again.predict(held_out)
    assert first.colnames == second.colnames
    assert ("angle_n_reference" in first.colnames) == (kind == "ridge")
    for name in first.colnames:
        assert_array_equal(first[name], second[name])
    assert first["kind"].dtype == second["kind"].dtype
    again.save(tmp_path / "few")  # and over itself
    assert [entry.name for entry in tmp_path.iterdir()] == ["few"]


def test_no_byte_can_be_changed(path, examples):
    content = path.read_bytes()
    expected = FewShotEstimator.open(path).predict(examples[:5])
    for position in range(0, len(content), len(content) // 150):
        changed = bytes([content[position] ^ 0x41])
        path.write_bytes(content[:position] + changed + content[position + 1 :])
        try:
            found = FewShotEstimator.open(path).predict(examples[:5])
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert_array_equal(found["age"], expected["age"])
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is no readable file of its kind"):
            FewShotEstimator.open(path)


def test_other_files_are_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no file; expected one written by FewShotEst"):
        FewShotEstimator.open(tmp_path / "absent")
    np.savez(tmp_path / "arrays.npz", x=np.zeros(2))
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "text").write_text("no estimator")
    for name in ("arrays.npz", "pickle", "text"):
        with pytest.raises(ValueError, match="is no readable file of its kind .*FewShotEstimator"):
            FewShotEstimator.open(tmp_path / name)
    save_file({"x": np.zeros(2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="has format None; expected 'astroclip-few-shot'"):
        FewShotEstimator.open(tmp_path / "weights")
    arrays, _, metadata = parts_of(path)
    save_file(arrays, path, metadata={**metadata, "version": "0"})
    with pytest.raises(ValueError, match="has version '0'; expected '2'"):
        FewShotEstimator.open(path)
    save_file(arrays, path, metadata={**metadata, "settings": metadata["settings"] + " "})
    with pytest.raises(ValueError, match="is damaged: its checksum differs"):
        FewShotEstimator.open(path)


def change_entry(group, number, **values):
    def change(settings, arrays):
        settings[group][number].update(values)

    return change


def drop_array(settings, arrays):
    del arrays["probe0.layer0.weight"]


def bend_layer(settings, arrays):
    arrays["probe0.layer0.weight"] = arrays["probe0.layer0.weight"][:, :3].copy()


def bend_embedding(settings, arrays):
    arrays["reference0.embedding"] = arrays["reference0.embedding"][:5].copy()


def drop_settings(settings, arrays):
    settings.clear()


@pytest.mark.parametrize(
    "change",
    [
        drop_array, bend_layer, bend_embedding, drop_settings,
        change_entry("references", 0, n_neighbors=10**9),
        change_entry("references", 0, n_neighbors="many"),
        change_entry("references", 0, threshold=None),
        change_entry("references", 0, ids="abc"),
        change_entry("probes", 0, reference=9),
        change_entry("probes", 0, n_layers=0),
        change_entry("probes", 0, property="mass"),
        change_entry("properties", 0, scale="cubic"),
        change_entry("properties", 0, unit="kg of feathers"),
        change_entry("properties", 0, scale="circular", period=[1]),
        change_entry("properties", 3, classes=["a", "b"]),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_refused(path, change):
    arrays, settings, metadata = parts_of(path)
    change(settings, arrays)
    text = json.dumps(settings)
    forged = {**metadata, "settings": text, "sha256": _checksum(text, arrays)}
    save_file(arrays, path, metadata=forged)
    with pytest.raises(ValueError, match="holds no complete estimator .*FewShotEstimator.save"):
        FewShotEstimator.open(path)
