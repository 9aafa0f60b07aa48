"""Saved indexes: alike when opened, written in shards, whole or refused, whoever made them."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal
from pyarrow import parquet

from astroclip.similarity import SimilarityIndex, columns, files
from astroclip.similarity.files import read_index
from tests.similarity.clouds import as_unit, broad, make_table, mixed_table, random_table


def names_in(path):
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


def assert_same_answers(index, other, queries):
    first, again = (each.query(queries, 4, modality="all") for each in (index, other))
    assert (again.colnames, again.meta) == (first.colnames, first.meta)
    for name in first.colnames:
        assert_array_equal(again[name], first[name])


@pytest.fixture
def saved(tmp_path):
    table = random_table(12, ids=[f"α-{row}" for row in range(12)], failed=[1] + [0] * 11)
    SimilarityIndex(table).save(tmp_path / "index")
    return table, tmp_path / "index"


def test_saved_index_searches_alike(saved):
    table, path = saved
    assert_same_answers(SimilarityIndex(table), SimilarityIndex.open(path), table)
    shard = next(path.glob("shard-*")).name
    assert names_in(path) == ["manifest.json", shard] + [
        f"{shard}/{name}" for name in ("cells.npy", "columns.parquet", "rows.npy", "vectors.npy")
    ]
    vectors = np.load(next(path.glob("*/vectors.npy")))
    assert_array_equal(vectors, np.asarray(table["embedding"])[1:])
    assert parquet.read_table(next(path.glob("*/*.parquet")))["id"].to_pylist() == list(table["id"])


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"center_modalities": True}, {}])
def test_options_are_kept(options, tmp_path):
    table = mixed_table(30)
    index = SimilarityIndex(table[:40], **options)
    index.append(table[40:])
    index.save(tmp_path / "index")
    again = SimilarityIndex.open(tmp_path / "index")
    assert (again.dtype, repr(again)) == (index.dtype, repr(index))
    assert_same_answers(index, again, table)
    again.save(tmp_path / "index")  # over the folder that it reads from
    again.save(tmp_path / "copy")
    for path in (tmp_path / "index", tmp_path / "copy"):
        third = SimilarityIndex.open(path)
        assert_same_answers(index, third, table)
        assert third.table.colnames == table.colnames
        assert_array_equal(third.table["embedding"], index.table["embedding"])


def test_table_without_an_embedding_is_kept(tmp_path):
    table = random_table(5, failed=np.ones(5, int))
    SimilarityIndex(table).save(tmp_path / "index")
    again = SimilarityIndex.open(tmp_path / "index")
    assert again.table["embedding"].mask.all()
    assert len(again.query(random_table(1, failed=[1]), 1)) == 0
    assert len(again.append(random_table(3, ids=list("xyz"))).query_ids("x", 2)) == 2


# ---------------------------------------------------------------------- shards
def test_appending_writes_only_what_is_new(tmp_path):
    table, more = mixed_table(300), mixed_table(20, seed=1)
    more["id"] = [f"new-{row % 20}" for row in range(40)]
    path = tmp_path / "index"
    SimilarityIndex(table).save(path)
    before = {each: (each.stat().st_ino, each.stat().st_mtime_ns) for each in path.rglob("*/*")}
    index = SimilarityIndex.open(path).append(more)
    index.save(path)
    after = {each: (each.stat().st_ino, each.stat().st_mtime_ns) for each in path.rglob("*/*")}
    assert {each: after[each] for each in before} == before
    assert len(after) == 2 * len(before)
    new = sum(each.stat().st_size for each in set(after) - set(before))
    assert new < 0.2 * sum(each.stat().st_size for each in before)
    again = SimilarityIndex.open(path)
    assert_same_answers(index, again, table)
    fresh = SimilarityIndex(again.table)
    assert_same_answers(fresh, again, more)
    again.remove("new-3").save(path)  # the first shard stays
    assert {each: each.stat().st_mtime_ns for each in before} == {
        each: kept for each, (_, kept) in before.items()
    }
    assert len(list(path.glob("shard-*"))) == 2
    assert len(SimilarityIndex.open(path)) == 638


def test_a_reader_keeps_its_answers(tmp_path):
    table, other = random_table(200, redshift=np.linspace(0, 1, 200)), random_table(50, seed=5)
    SimilarityIndex(table).save(tmp_path / "index")
    reader, late = (SimilarityIndex.open(tmp_path / "index") for _ in range(2))
    expected = reader.query(table[:20], 5, where="redshift > 0.5")
    SimilarityIndex.open(tmp_path / "index").append(other).save(tmp_path / "index")
    SimilarityIndex(other).save(tmp_path / "index")  # replaced, the old shards are removed
    for index in (reader, late):  # the late one reads its columns only now
        found = index.query(table[:20], 5, where="redshift > 0.5")
        for name in expected.colnames:
            assert_array_equal(found[name], expected[name])
    assert len(SimilarityIndex.open(tmp_path / "index")) == 50
    late.save(tmp_path / "copy")
    assert_same_answers(reader, SimilarityIndex.open(tmp_path / "copy"), table)


def test_two_writers_do_not_undo_each_other(tmp_path):
    path = tmp_path / "index"
    SimilarityIndex(random_table(20)).save(path)
    one, other = (SimilarityIndex.open(path) for _ in range(2))
    one.append(random_table(3, ids=list("abc"))).save(path)
    with pytest.raises(OSError, match="changed by another process since it was opened"):
        other.append(random_table(3, ids=list("xyz"))).save(path)
    one.append(random_table(2, ids=list("de"))).save(path)
    assert len(SimilarityIndex.open(path)) == 25


def test_a_folder_that_is_being_written_is_left_alone(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "index"
    index = SimilarityIndex(random_table(20))
    index.save(path)
    number = os.open(path, os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="is being written by another process"):
        index.save(path)
    os.close(number)
    index.save(path)


def test_other_things_are_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    (tmp_path / "empty").mkdir()
    index = SimilarityIndex(random_table(5))
    with pytest.raises(FileExistsError, match="file' is a file; expected a new path"):
        index.save(tmp_path / "file")
    with pytest.raises(FileExistsError, match="folder' holds 'thesis.tex', which is no part of"):
        index.save(tmp_path / "folder")
    with pytest.raises(FileNotFoundError):
        index.save(tmp_path / "none" / "index")
    index.save(tmp_path / "empty")
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "mine"
    table = random_table(3, extra_columns={"thing": np.array([{}, [], ()], dtype=object)})
    with pytest.raises(ValueError, match=r"^table\['thing'\] holds Python objects; expected"):
        SimilarityIndex(table).save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


KILLED = """
import os, signal, sys, time
import numpy as np
from astroclip.similarity import SimilarityIndex
from tests.similarity.clouds import random_table
path, n_rows, rng = sys.argv[1], 400, np.random.default_rng(0)
for attempt in range(20):
    writer = os.fork()
    if not writer:
        index = SimilarityIndex.open(path)
        for number in range(1000):
            ids = [f"new-{attempt}-{number}-{row}" for row in range(5)]
            index.append(random_table(5, ids=ids)).save(path)
    killed = time.perf_counter() + rng.uniform(0.02, 0.2)
    while time.perf_counter() < killed:  # a reader finds an index at any moment
        found = len(SimilarityIndex.open(path))
        if found < n_rows or found % 5:
            raise SystemExit(f"{found} rows after {n_rows}")
        n_rows = found
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    n_rows = len(SimilarityIndex.open(path, verify=True))
print(n_rows)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_writer_leaves_an_index(tmp_path):
    path = tmp_path / "index"
    SimilarityIndex(random_table(400)).save(path)
    command = [sys.executable, "-c", KILLED, path]
    n_rows = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert n_rows > 400
    index = SimilarityIndex.open(path)
    assert len(index) == n_rows
    index.save(path)  # removes what the killed ones left
    listed = json.loads((path / "manifest.json").read_text())["shards"]
    assert sorted(each.name for each in path.iterdir()) == ["manifest.json"] + sorted(
        each["name"] for each in listed
    )


def test_interrupted_first_save_is_told_and_done_again(tmp_path):
    path = tmp_path / "index"
    SimilarityIndex(random_table(5)).save(path)
    (path / "manifest.json").rename(path / ".manifest.12.part.json")
    with pytest.raises(ValueError, match="has no manifest.json: something else, or writing was"):
        SimilarityIndex.open(path)
    SimilarityIndex(random_table(6)).save(path)
    assert len(SimilarityIndex.open(path)) == 6
    assert len(list(path.iterdir())) == 2


# ---------------------------------------------------------------------- damage
def test_no_changed_byte_goes_unnoticed(saved):
    table, path = saved
    rng = np.random.default_rng(0)
    for file in [path / "manifest.json", *path.glob("*/*")]:
        content = file.read_bytes()
        for position in rng.integers(len(content), size=40):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(damaged)
            try:
                again = SimilarityIndex.open(path).table
            except ValueError as error:
                assert str(path) in str(error)
                assert "Make it again" in str(error)
            else:  # white space of the manifest
                assert file.name == "manifest.json"
                assert again["id"].tolist() == table["id"].tolist()
        file.write_bytes(content)
    for name in ("vectors.npy", "columns.parquet", "rows.npy"):
        file = next(path.glob(f"*/{name}"))
        content = file.read_bytes()
        for share in (0, 0.5, 0.999):
            file.write_bytes(content[: int(share * len(content))])
            with pytest.raises(ValueError, match=f"{name} is damaged: its size or checksum"):
                SimilarityIndex.open(path)
        file.unlink()
        with pytest.raises(ValueError, match=f"no readable index.*{name}"):
            SimilarityIndex.open(path)
        file.write_bytes(content)


def test_large_files_are_compared_on_demand(saved):
    table, path = saved
    large = {"verified_bytes": 0, "small_bytes": 0}  # as if all files were larger than that
    file = next(path.glob("*/vectors.npy"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    read_index(path, **large)
    with pytest.raises(ValueError, match="vectors.npy is damaged: its size or checksum differs"):
        read_index(path, verify=True, **large)


def test_other_things_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none' does not exist; expected a folder written"):
        SimilarityIndex.open(tmp_path / "none")
    (tmp_path / "file").write_bytes(b"SIMPLE  =                    T")
    with pytest.raises(ValueError, match="file' is no readable index .it is a file"):
        SimilarityIndex.open(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder' is no readable index .it has no manifest.json"):
        SimilarityIndex.open(tmp_path / "folder")


# ---------------------------------------------------------------------- hostile files
@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Return an index with all kinds of files."""
    pytest.importorskip("faiss")
    vectors = as_unit(broad(np.random.default_rng(0), 1100, 8))
    path = tmp_path_factory.mktemp("honest") / "index"
    SimilarityIndex(make_table(vectors), method="approximate").save(path)
    return path


@pytest.fixture
def forged(honest, tmp_path):
    """Return a copy of the index, and what signs it again after it was changed."""
    path = tmp_path / "forged"
    shutil.copytree(honest, path)
    shard = next(path.glob("shard-*"))

    def sign(change=lambda manifest: None, *, rehash=True):
        manifest = json.loads((path / "manifest.json").read_text())
        for name, about in manifest["shards"][0]["files"].items():
            if rehash and (shard / name).is_file():
                about["bytes"] = (shard / name).stat().st_size
                about["sha256"] = files.file_sha256(shard / name)
        change(manifest)
        manifest["sha256"] = files._manifest_sha256(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))

    return path, shard, sign


def assert_refused(path):
    """Opening, verified or not, ends in a message, and takes little memory."""
    for verify in (None, True, False):
        tracemalloc.start()
        before = pa.total_allocated_bytes()
        try:
            with pytest.raises(ValueError, match="is no readable index .*Make it again"):
                SimilarityIndex.open(path, verify=verify)
            assert tracemalloc.get_traced_memory()[1] < 30e6
            assert pa.total_allocated_bytes() - before < 30e6
        finally:
            tracemalloc.stop()


def first(manifest):
    return manifest["shards"][0]


LISTS = ("approximate", "spectrum")
MANIFESTS = {
    "absolute path": lambda m: first(m).update(name="/etc"),
    "path upwards": lambda m: first(m).update(name="../../etc"),
    "shard of another name": lambda m: first(m).update(name="shard-0123456789abcdeF"),
    "name with a line end": lambda m: first(m).update(name=first(m)["name"] + "\n"),
    "name that is a list": lambda m: first(m).update(name=["shard"]),
    "shard twice": lambda m: m["shards"].append(first(m)),
    "no shards": lambda m: m.update(shards=[]),
    "shards by name": lambda m: m.update(shards={"0": first(m)}),
    "shards nested": lambda m: m.update(shards=[m["shards"]]),
    "file upwards": lambda m: first(m)["files"].update({"../vectors.npy": {"bytes": 9}}),
    "file absolute": lambda m: first(m)["files"].update({"/dev/zero": {"bytes": 0}}),
    "file missing": lambda m: first(m)["files"].pop("rows.npy"),
    "file without a checksum": lambda m: first(m)["files"]["rows.npy"].pop("sha256"),
    "checksum of a file is none": lambda m: first(m)["files"]["rows.npy"].update(sha256=None),
    "size of a file is negative": lambda m: first(m)["files"]["rows.npy"].update(bytes=-1),
    "huge rows": lambda m: first(m).update(n_rows=2**40),
    "huge counts": lambda m: first(m).update(n_rows=2**40, n_vectors=2**40,
                                            modalities={"spectrum": [0, 2**40]}),
    "count beyond 64 bits": lambda m: first(m).update(n_rows=2**70),
    "negative count": lambda m: first(m).update(n_vectors=-1),
    "fewer rows than vectors": lambda m: first(m).update(n_rows=3),
    "count that is true": lambda m: first(m).update(n_vectors=True),
    "fractional count": lambda m: first(m).update(n_rows=1100.5),
    "modality of another kind": lambda m: first(m).update(modalities={"radio": [0, 1100]}),
    "modality out of range": lambda m: first(m).update(modalities={"spectrum": [0, 2000]}),
    "modality with a gap": lambda m: first(m).update(modalities={"spectrum": [5, 1100]}),
    "modalities nowhere": lambda m: first(m).update(modalities={}),
    "huge dim": lambda m: m.update(dim=2**62),
    "dim of zero": lambda m: m.update(dim=0),
    "another dim": lambda m: m.update(dim=9),
    "object dtype": lambda m: m.update(dtype="object"),
    "dtype that is a list": lambda m: m.update(dtype=["float32"]),
    "another dtype": lambda m: m.update(dtype="float16"),
    "unknown method": lambda m: m["settings"].update(method="__import__"),
    "no settings": lambda m: m.pop("settings"),
    "recall of infinity": lambda m: m["settings"].update(recall=float("inf")),
    "centers of another length": lambda m: m.update(modality_centers={"spectrum": [0.1]}),
    "centers that are text": lambda m: m.update(modality_centers={"spectrum": ["x"] * 8}),
    "length error of nan": lambda m: first(m).update(length_error=float("nan")),
    "lists of another modality": lambda m: first(m).update(approximate={"image": {}}),
    "huge lists": lambda m: first(m)["approximate"]["spectrum"].update(n_lists=2**40),
    "negative probes": lambda m: first(m)["approximate"]["spectrum"].update(n_probe=-1),
    "scale of nan": lambda m: first(m)["approximate"]["spectrum"].update(scale=float("nan")),
    "another version": lambda m: m.update(version=99),
    "another format": lambda m: m.update(format="pickle"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifests_are_refused(name, forged):
    path, _, sign = forged
    sign(MANIFESTS[name])
    assert_refused(path)


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b"3", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000,
    b'{"format": "astroclip-index", "version": 1}', b"1" * 10_000, pickle.dumps({"a": 1}),
], ids=range(11))
def test_manifests_that_are_none_are_refused(content, forged):
    path, _, _ = forged
    (path / "manifest.json").write_bytes(content)
    assert_refused(path)


class Touch:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


def npy(array=None, *, header=None, version=(1, 0), content=b""):
    """Return the bytes of a .npy file, with a header of one's own."""
    stream = io.BytesIO()
    if array is not None:
        np.lib.format.write_array(stream, array, version=version, allow_pickle=True)
        return stream.getvalue()
    stream.write(np.lib.format.magic(*version))
    text = (header + " " * (-(len(header) + 11) % 64) + "\n").encode()
    stream.write(len(text).to_bytes(2, "little") + text + content)
    return stream.getvalue()


def described(shape, dtype="'<f4'", fortran=False):
    return f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


ARRAYS = {
    "objects": ("vectors.npy", npy(np.array([Touch()] * 1100, dtype=object))),
    "objects by their header": ("vectors.npy", npy(header=described((1100, 8), "'|O'"))),
    "pickle alone": ("vectors.npy", pickle.dumps(Touch())),
    "huge shape": ("vectors.npy", npy(header=described((2**40, 8)))),
    "shape beyond 64 bits": ("vectors.npy", npy(header=described((2**62, 2**62)))),
    "shape that overflows to nothing": ("vectors.npy", npy(header=described((2**62, 16)))),
    "negative shape": ("vectors.npy", npy(header=described((-1100, 8)))),
    "right shape without content": ("vectors.npy", npy(header=described((1100, 8)))),
    "columns first": ("vectors.npy", npy(np.asfortranarray(np.zeros((1100, 8), "f4")))),
    "other numbers": ("vectors.npy", npy(np.zeros((1100, 8)))),
    "one row too few": ("vectors.npy", npy(np.zeros((1099, 8), "f4"))),
    "another version": ("vectors.npy", npy(np.zeros((1100, 8), "f4"), version=(2, 0))),
    "header that is code": ("vectors.npy", npy(header="__import__('os').system('touch hacked')")),
    "endless header": ("vectors.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
    "no array": ("rows.npy", b"GIF89a"),
    "nothing": ("rows.npy", b"\n"),
    "rows out of range": ("rows.npy", npy(np.arange(1, 1101, dtype="i4"))),
    "negative rows": ("rows.npy", npy(np.arange(-1, 1099, dtype="i4"))),
    "rows twice": ("rows.npy", npy(np.zeros(1100, dtype="i4"))),
    "cells of other numbers": ("cells.npy", npy(np.zeros(1))),
    "no cells": ("cells.npy", npy(np.zeros(0, files._cell_dtype(8)))),
    "empty cells": ("cells.npy", npy(np.zeros(1, files._cell_dtype(8)))),
    "cells out of range": ("cells.npy", npy(np.array([(0, 2**40, [0] * 8, -1, 1)],
                                                     files._cell_dtype(8)))),
    "cells without a bound": ("cells.npy", npy(np.array([(0, 1100, [0] * 8, np.nan, np.nan)],
                                                        files._cell_dtype(8)))),
    "lists out of range": ("spectrum-positions.npy", npy(np.full(1100, 5000, dtype="i4"))),
    "negative lists": ("spectrum-sizes.npy", npy(np.full(27, -5))),
    "lists too large": ("spectrum-sizes.npy", npy(np.full(27, 2**62))),
    "codes of another width": ("spectrum-codes.npy", npy(np.zeros((1100, 9), "u1"))),
    "faiss's own format": ("spectrum-centers.npy", b"IwSq" + bytes(100)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_hostile_arrays_are_refused(name, forged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, shard, sign = forged
    file, content = ARRAYS[name]
    (shard / file).write_bytes(content)
    sign()
    assert_refused(path)
    assert not (tmp_path / "hacked").exists()


def rewritten(shard, change, **options):
    """Write the columns again after a change of the Arrow table."""
    options = {"compression": "none", "use_dictionary": False, **options}
    table = change(parquet.read_table(shard / "columns.parquet"))
    parquet.write_table(table, shard / "columns.parquet", **options)


def renamed(table, **metadata):
    """Return a table whose column ``coverage`` describes itself otherwise."""
    number = table.schema.get_field_index("coverage")
    field = table.schema.field(number).with_metadata({
        **table.schema.field(number).metadata,
        **{name.encode(): text.encode() for name, text in metadata.items()},
    })
    return table.set_column(number, field, table["coverage"])


def with_header(table, text):
    return table.replace_schema_metadata({columns.HEADER: text})


def as_constant(table, values):
    field = table.schema.field("message")
    return table.set_column(table.schema.get_field_index("message"), field, values)


COLUMNS = {
    "compressed": lambda s: rewritten(s, lambda t: t, compression="zstd"),
    "coded by a dictionary": lambda s: rewritten(s, lambda t: t, use_dictionary=True),
    "one large text many times": lambda s: rewritten(s, lambda t: as_constant(
        t, pa.array(["x" * 10**5] * 1100)), use_dictionary=["message"]),
    "another number of rows": lambda s: rewritten(s, lambda t: t[:5]),
    "no ids": lambda s: rewritten(s, lambda t: t.drop(["id"])),
    "dtype of objects": lambda s: rewritten(s, lambda t: renamed(t, dtype="|O")),
    "dtype that is code": lambda s: rewritten(s, lambda t: renamed(t, dtype="f4,(9,)f4")),
    "dtype of another size": lambda s: rewritten(s, lambda t: renamed(t, dtype="<f8")),
    "huge rows": lambda s: rewritten(s, lambda t: renamed(t, shape="[1000000000]")),
    "negative rows": lambda s: rewritten(s, lambda t: renamed(t, shape="[-4]")),
    "shape that is none": lambda s: rewritten(s, lambda t: renamed(t, shape="[")),
    "no description": lambda s: rewritten(s, lambda t: t.replace_schema_metadata({})),
    "values missing": lambda s: rewritten(s, lambda t: t.cast(pa.schema([
        each.with_nullable(True) for each in t.schema], metadata=t.schema.metadata)).set_column(
            0, t.schema.field(0).with_nullable(True), pa.nulls(1100, pa.string()))),
    "description that makes objects": lambda s: rewritten(s, lambda t: with_header(
        t, "!!python/object/apply:os.system ['touch hacked']")),
    "description that is no list": lambda s: rewritten(s, lambda t: with_header(t, "3")),
    "description of other columns": lambda s: rewritten(s, lambda t: with_header(
        t, "datatype:\n- {name: x, datatype: float64}")),
    "description that is nested": lambda s: rewritten(s, lambda t: with_header(t, "[" * 900)),
    "classes of others": lambda s: rewritten(s, lambda t: with_header(
        t, t.schema.metadata[columns.HEADER].decode().replace(
            "meta:", "meta:\n  __serialized_columns__: {id: {__class__: os.system, "
            "value: !astropy.table.SerializedColumn {name: id}}}", 1))),
    "no Parquet": lambda s: (s / "columns.parquet").write_bytes(b"PAR1" + bytes(99) + b"PAR1"),
    "a pickle": lambda s: (s / "columns.parquet").write_bytes(pickle.dumps(Touch())),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_hostile_columns_are_refused(name, forged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, shard, sign = forged
    COLUMNS[name](shard)
    sign()
    if name == "values missing":  # seen when they are read
        with pytest.raises(ValueError, match="lacks values"):
            SimilarityIndex.open(path).query_vectors(np.ones(8), 3)
    else:
        assert_refused(path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", ["vectors.npy", "columns.parquet"])
def test_links_and_pipes_are_refused(name, forged):
    path, shard, sign = forged
    (shard / name).rename(shard.parent.parent / name)
    (shard / name).symlink_to(shard.parent.parent / name)
    sign()
    assert_refused(path)
    (shard / name).unlink()
    os.mkfifo(shard / name)
    assert_refused(path)
