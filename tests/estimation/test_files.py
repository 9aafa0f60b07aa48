"""Files of heads: whole or not at all, and nothing else is taken for one."""

import json
import pickle
import zipfile

import numpy as np
import pytest

from astroclip.estimation import files
from astroclip.estimation.files import read_archive, write_archive

KNOWN = {"format_name": "toy", "version": "1"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "toy.zip"
    write_archive(path, {"a": [1, None]}, {"x": np.arange(300.0), "t": np.array(["b"])}, **KNOWN)
    return path


def read(path):
    return read_archive(path, maker="the maker", **KNOWN)


def test_there_and_back(path):
    settings, arrays = read(path)
    assert settings == {"a": [1, None]}
    assert arrays["x"].tolist() == list(range(300))
    assert arrays["t"].tolist() == ["b"]
    assert [entry.name for entry in path.parent.iterdir()] == ["toy.zip"]


def test_no_byte_can_be_changed(path):
    content = path.read_bytes()
    good = read(path)[1]["x"]
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        try:
            found = read(path)[1]["x"]
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert np.array_equal(found, good)
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is no readable file of its kind"):
            read(path)


def test_an_interrupted_write_leaves_the_old_file(path, monkeypatch):
    content = path.read_bytes()

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_archive(path, {}, {}, **KNOWN)
    assert path.read_bytes() == content
    assert [entry.name for entry in path.parent.iterdir()] == ["toy.zip"]


def test_other_files_are_refused(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="is no file; expected one written by the maker"):
        read(tmp_path / "absent")
    np.savez(tmp_path / "arrays.npz", x=np.zeros(2))
    (tmp_path / "pickle").write_bytes(pickle.dumps({"a": 1}))
    for name in ("arrays.npz", "pickle"):
        with pytest.raises(ValueError, match="is no readable file of its kind .*the maker"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="is a file of format 'toy'; expected 'other'"):
        read_archive(path, format_name="other", version="1", maker="m")
    with pytest.raises(ValueError, match="is of format version '1'; expected '2'"):
        read_archive(path, format_name="toy", version="2", maker="m")


def test_settings_that_were_changed_are_noticed(path):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["settings.json"] = json.dumps({"a": [2, None]}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="is damaged: its checksum differs"):
        read(path)


def test_objects_are_never_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        write_archive(tmp_path / "x", {}, {"x": np.array([{}], dtype=object)}, **KNOWN)
