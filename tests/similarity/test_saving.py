"""Saved indexes: alike when opened, whole or refused, read as they are used."""

import io
import json
import zipfile

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn
from astropy.time import Time
from astropy.utils.masked import Masked
from numpy.testing import assert_array_equal

from astroclip import tables
from astroclip.similarity import SimilarityIndex, files, saving
from tests.similarity.clouds import mixed_table, random_table


@pytest.fixture
def saved(tmp_path):
    table = random_table(12, ids=[f"α-{row}" for row in range(12)], failed=[1] + [0] * 11)
    SimilarityIndex(table).save(tmp_path / "index.zip")
    return table, tmp_path / "index.zip"


def test_saved_index_searches_alike(saved):
    table, path = saved
    index = SimilarityIndex.open(path)
    first, again = (each.query(table, n_neighbors=4) for each in (SimilarityIndex(table), index))
    assert (again.colnames, again.meta) == (first.colnames, first.meta)
    for name in first.colnames:
        assert_array_equal(again[name], first[name])
    assert list(path.parent.iterdir()) == [path]


def test_no_changed_byte_goes_unnoticed(saved):
    table, path = saved
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path) as archive:
        headers = {info.filename: info.header_offset for info in archive.infolist()}
    ends = [*range(80), *range(len(content) - 170, len(content))]
    refused = 0
    for position in [*ends, *rng.integers(len(content), size=200)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            again = SimilarityIndex.open(path).table
        except ValueError as error:
            assert str(path) in str(error)
            assert "expected" in str(error) or "Make it again" in str(error)
            refused += 1
        else:  # a field or a gap of the archive that says nothing
            assert again["id"].tolist() == table["id"].tolist()
            assert_array_equal(np.asarray(again["embedding"]), np.asarray(table["embedding"]))
    assert refused > 150
    for name in ("vectors", "rows", "column_000", "checksums"):
        damaged = bytearray(content)
        damaged[headers[f"{name}.npy"] + 256] ^= 4  # behind the headers of zip and npy
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged|is no readable"):
            SimilarityIndex.open(path)


def test_large_files_are_checked_where_they_are_read(saved, monkeypatch):
    table, path = saved
    monkeypatch.setattr(saving, "EAGER_BYTES", 0)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("header.json"))
        number = header["columns"].index("coverage")
        place = archive.getinfo(f"column_{number:03d}.npy").header_offset
    content[place + 256] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="index.zip' is damaged: its checksum differs"):
        SimilarityIndex.open(path, verify=True)
    index = SimilarityIndex.open(path)
    rows, _, _ = index.neighbors(table[1:3], 2)  # reads vectors only
    assert rows.shape == (2, 2)
    with pytest.raises(ValueError, match="index.zip' is damaged: its checksum differs"):
        index.query(table[1:3], 2)


def test_nothing_is_read_before_it_is_used(saved, monkeypatch):
    table, path = saved
    monkeypatch.setattr(saving, "EAGER_BYTES", 0)
    index = SimilarityIndex.open(path)
    unread = {name for name, each in index._columns._arrays.items() if each._left.any()}
    assert {"coverage", "flags", "message"} <= unread
    assert index._searcher.store.vectors._left.any()
    index.query(table[1:2], 2, where="coverage > 0.5")
    unread = {name for name, each in index._columns._arrays.items() if each._left.any()}
    assert "coverage" not in unread


def test_columns_of_all_kinds_come_back(tmp_path):
    table = mixed_table(
        4, ra=np.arange(8.0), dec=np.arange(8.0), extra_columns={
            "mass": MaskedColumn(np.arange(8.0), mask=np.arange(8) % 2, unit="Msun"),
            "age": Masked(np.arange(8.0) * u.Gyr, mask=np.arange(8) % 3 == 0),
            "name": MaskedColumn([f"é{row}" for row in range(8)], mask=np.arange(8) == 5),
            "place": SkyCoord(np.arange(8), np.arange(8), unit="deg"),
            "seen": Time(50_000 + np.arange(8), format="mjd"),
            "bands": np.arange(24.0).reshape(8, 3),
            "good": np.arange(8) > 3,
        },
    )
    table["bands"].description = "three of them"
    SimilarityIndex(table).save(tmp_path / "index")
    again = SimilarityIndex.open(tmp_path / "index").table
    assert again.colnames == table.colnames
    assert again.meta == table.meta
    for name in table.colnames:
        assert type(again[name]) is type(table[name]), name
        assert again[name].info.unit == table[name].info.unit
        if name == "place":
            assert (again[name].separation(table[name]) == 0).all()
        else:
            assert_array_equal(np.ma.getmaskarray(again[name]), np.ma.getmaskarray(table[name]))
            same = again[name] == table[name]
            assert np.ma.filled(getattr(same, "unmasked", same), True).all() or name == "embedding"
    assert again["bands"].description == "three of them"
    found = SimilarityIndex.open(tmp_path / "index").query(table[4:6], 2, where="good")
    assert found["seen"].shape == (4,)


def test_python_objects_are_refused(tmp_path):
    table = random_table(3, extra_columns={"thing": np.array([{}, [], ()], dtype=object)})
    with pytest.raises(ValueError, match=r"^table\['thing'\] holds Python objects; expected"):
        SimilarityIndex(table).save(tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"center_modalities": True}, {}])
def test_options_are_kept(options, tmp_path):
    table = mixed_table(30)
    index = SimilarityIndex(table, **options)
    index.save(tmp_path / "index")
    again = SimilarityIndex.open(tmp_path / "index")
    assert (again.dtype, repr(again)) == (index.dtype, repr(index))
    for found, expected in zip(
        again.neighbors(table, 4), index.neighbors(table, 4), strict=True
    ):
        assert_array_equal(found, expected)
    again.save(tmp_path / "index")  # over the file that it reads from
    third = SimilarityIndex.open(tmp_path / "index")
    assert_array_equal(third.neighbors(table, 4)[0], index.neighbors(table, 4)[0])


def test_first_format_is_read(tmp_path):
    table = random_table(12, failed=[1] + [0] * 11)
    tables.write_table(table, tmp_path / "table.fits")
    content = (tmp_path / "table.fits").read_bytes()
    import hashlib

    header = {**GOOD, "sha256": hashlib.sha256(content).hexdigest()}
    with zipfile.ZipFile(tmp_path / "index", "w") as made:
        made.writestr("header.json", json.dumps(header))
        made.writestr("table.fits", content)
    again = SimilarityIndex.open(tmp_path / "index")
    expected = SimilarityIndex(table).neighbors(table, 3)
    assert_array_equal(again.neighbors(table, 3)[0], expected[0])


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_index_is_refused(saved, share):
    path = saved[1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="^index '.*index.zip' is no readable index file .* Make"):
        SimilarityIndex.open(path)


def archive(header, name="table.fits"):
    """Return the bytes of a zip file of a header and a file that is no table."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("header.json", header)
        made.writestr(name, "other")
    return stream.getvalue()


STORED, DEFLATED = (b"PK\1\2\x14\3\x14\0\0\0" + method for method in (b"\0\0", b"\x08\0"))
GOOD = {"format": "astroclip-index", "version": "1", "sha256": "0"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"SIMPLE  =                    T", "is no readable index file .File is not a zip file"),
        (archive("{}", "paper.pdf"), "is no index file: its header does not name the format"),
        (archive(json.dumps(GOOD), "paper.pdf"), r"is no readable .*table\.fits.* Make it again"),
        (archive(json.dumps({**GOOD, "version": "2"})), "is no readable index file"),
        (archive("{"), "is no readable index file"),
        (archive("no").replace(STORED, DEFLATED), "is no readable index file .Error -3 while dec"),
        (archive("[]"), "is no index file: its header does not name the format"),
        (archive('{"version": "1"}'), "is no index file: its header does not name the format"),
        (archive(json.dumps({**GOOD, "version": "9"})), "is of format version '9'; expected '2' "),
        (archive(json.dumps(GOOD)), "is damaged: its checksum differs. Make it again"),
    ],
)
def test_foreign_file_is_refused(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=f"^index '.*file' {message}"):
        SimilarityIndex.open(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="none' is no file; expected one written by"):
        SimilarityIndex.open(tmp_path / "none")


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("after", [0, 3, 8])
def test_interrupted_save_leaves_the_old_file_or_none(exists, after, tmp_path, monkeypatch):
    path = tmp_path / "index.zip"
    if exists:
        SimilarityIndex(random_table()).save(path)
    before = path.read_bytes() if exists else None
    calls = []
    digest = files._digest

    def fail(block):
        calls.append(block)
        if len(calls) > after:
            raise KeyboardInterrupt
        return digest(block)

    monkeypatch.setattr(files, "_digest", fail)
    with pytest.raises(KeyboardInterrupt):
        SimilarityIndex(random_table(seed=2)).save(path)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [before] * exists
