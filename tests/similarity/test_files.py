"""The archive: arrays come back as they were, numpy reads them too, blocks are checked once."""

import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from astroclip.similarity import files

ARRAYS = {
    "matrix": np.arange(70_000, dtype=np.float32).reshape(-1, 7),
    "half": np.linspace(-1, 1, 600_000).astype(np.float16).reshape(-1, 3),
    "text": np.array(["galaxy", "é", ""]),
    "nothing": np.empty((0, 5), dtype=np.int64),
    "flags": np.array([True, False, True]),
}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "arrays"
    files.write_archive(path, {"note": 3}, ARRAYS)
    return path


def test_arrays_come_back(written):
    header = files.read_header(written)
    assert header["note"] == 3
    arrays = files.mapped_arrays(written, header)
    with np.load(written) as archive:
        for name, expected in ARRAYS.items():
            assert_array_equal(arrays[name][:], expected)
            assert arrays[name].dtype == expected.dtype
            assert len(arrays[name]) == len(expected)
            assert_array_equal(archive[name], expected)
            arrays[name].verify()
    assert [path.name for path in written.parent.iterdir()] == ["arrays"]


def test_members_are_aligned(written):
    with zipfile.ZipFile(written) as archive, written.open("rb") as stream:
        assert archive.testzip() is None
        for name in ARRAYS:
            stream.seek(archive.getinfo(f"{name}.npy").header_offset)
            fields = files.LOCAL_HEADER.unpack(stream.read(files.LOCAL_HEADER.size))
            assert (stream.tell() + fields[-2] + fields[-1]) % files.ALIGNMENT == 0


@given(rows=st.lists(st.integers(0, 199_999), max_size=5), start=st.integers(0, 200_000))
def test_only_touched_blocks_are_checked(rows, start, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "shared"
    if not path.exists():
        files.write_archive(path, {}, ARRAYS)
    array = files.mapped_arrays(path, files.read_header(path))["half"]
    assert_array_equal(array[np.array(rows, dtype=int)], ARRAYS["half"][rows])
    touched = {row * 6 // files.BLOCK_BYTES for row in rows}
    touched |= {(row * 6 + 5) // files.BLOCK_BYTES for row in rows}
    assert set(np.flatnonzero(~array._left)) == touched
    assert_array_equal(array[start : start + 10], ARRAYS["half"][start : start + 10])


def test_a_changed_block_is_refused_when_it_is_read(written):
    header = files.read_header(written)
    with zipfile.ZipFile(written) as archive:
        place = archive.getinfo("half.npy").header_offset
    content = bytearray(written.read_bytes())
    content[place + files.BLOCK_BYTES + 5000] ^= 1
    written.write_bytes(content)
    array = files.mapped_arrays(written, header)["half"]
    assert_array_equal(array[:1000], ARRAYS["half"][:1000])
    for rows in (slice(None), np.array([190_000])):
        with pytest.raises(ValueError, match="arrays' is damaged: its checksum differs"):
            array[rows]


@pytest.mark.parametrize("change", [{"matrix": ["<f4", [7, 10_000]]}, {"matrix": ["<f8", [10]]},
                                    {"another": ["<f4", [1]]}])
def test_layout_must_be_the_headers(written, change):
    header = files.read_header(written)
    header["arrays"].update(change)
    with pytest.raises(ValueError, match="is no readable index file"):
        files.mapped_arrays(written, header)


def test_header_without_a_format_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("header.json", json.dumps({"arrays": {}}))
    with pytest.raises(ValueError, match="its header does not name the format"):
        files.read_header(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="none' is no file; expected one written by"):
        files.read_header(tmp_path / "none")
