"""Columns in Parquet files and of several shards: the same rows as in memory."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, QTable, vstack
from astropy.time import Time
from astropy.utils.masked import Masked
from numpy.testing import assert_array_equal

from astroclip.similarity.columns import ParquetTable, StackedTable, write_parquet


def make(n_rows=8, seed=0):
    """Return a table with columns of all kinds."""
    rng, row = np.random.default_rng(seed), np.arange(n_rows)
    table = QTable({
        "id": [f"α-{number}" for number in row],
        "ra": rng.uniform(0, 360, n_rows) * u.deg,
        "mass": MaskedColumn(rng.random(n_rows), mask=row % 2, unit="Msun"),
        "mass2": rng.integers(0, 9, n_rows),
        "age": Masked(rng.random(n_rows) * u.Gyr, mask=row % 3 == 0),
        "name": MaskedColumn([f"é{number}" for number in row], mask=row == 5),
        "bytes": np.array([b"ab", b"c"])[row % 2],
        "phase": rng.random(n_rows) + 1j,
        "half": rng.random(n_rows).astype(np.float16),
        "big": rng.integers(0, 2**15, n_rows).astype(">i2"),
        "position": SkyCoord(row, row, unit="deg"),
        "seen": Time(50_000 + row, format="mjd"),
        "bands": rng.random((n_rows, 3)),
        "cube": rng.random((n_rows, 2, 3)) < 0.5,
        "words": np.array([["a", ""], ["bcd", "é"]])[row % 2],
        "good": row > 3,
    })
    table["bands"].description = "three of them"
    table.meta["MODEL"] = "toy"
    table.meta["nested"] = {"list": [1, 2.5, "three"]}
    return table


def assert_same(found, expected):
    assert found.colnames == expected.colnames
    assert found.meta == expected.meta
    for name in expected.colnames:
        one, other = found[name], expected[name]
        assert type(one) is type(other), name
        assert one.shape == other.shape, name
        assert one.info.unit == other.info.unit
        assert one.info.description == other.info.description
        if name == "position":
            assert (one.separation(other) == 0).all()
            continue
        mask = np.asarray(getattr(other, "mask", False))
        assert_array_equal(np.asarray(getattr(one, "mask", False)), mask)
        same = np.asarray(getattr(one == other, "unmasked", one == other))
        assert np.all(np.ma.getdata(same) | mask), name


@pytest.fixture(params=["whole", "by row group", "shards"])
def table(request, tmp_path):
    path = tmp_path / "columns.parquet"
    expected = make()
    if request.param == "shards":
        write_parquet(expected[3:], path)
        return StackedTable([expected[:3], ParquetTable(path)])
    if request.param == "by row group":
        write_parquet(expected, path, group_rows=3)
        return ParquetTable(path, whole_bytes=0)
    write_parquet(expected, path)
    return ParquetTable(path)


def test_rows_and_columns_of_all_kinds_come_back(table):
    expected = make()
    assert (len(table), table.colnames, table.meta) == (8, expected.colnames, expected.meta)
    for rows in (slice(None), slice(2, 5), np.array([6, 0, 0, 4]), np.arange(0)):
        assert_same(table[rows], expected[rows])
    for name in ("ra", "mass", "age", "bands", "good", "id"):
        column = table[name]
        assert_same(QTable({name: column}), QTable({name: expected[name]}))
    assert table["id"].dtype == expected["id"].dtype


@pytest.mark.parametrize("whole_bytes", [0, 1 << 20])
def test_a_file_that_is_replaced_is_read_as_it_was(whole_bytes, tmp_path):
    path, expected = tmp_path / "columns.parquet", make()
    write_parquet(expected, path)
    table = ParquetTable(path, whole_bytes=whole_bytes)
    write_parquet(make(3, seed=1), tmp_path / "other.parquet")
    (tmp_path / "other.parquet").replace(path)
    assert_same(table[:], expected)
    assert len(ParquetTable(path)) == 3


def test_rows_can_be_changed(table):
    rows = table[np.array([1, 2])]
    rows["mass2"][:] = -1
    rows.remove_column("ra")
    assert "ra" in table.colnames
    assert (table["mass2"] >= 0).all()


def test_columns_that_a_shard_lacks_are_masked_there():
    first, second = make(4)[["id", "ra", "good"]], make(3, seed=1)[["id", "mass2"]]
    stacked = StackedTable([first, second])
    expected = vstack([first, second], metadata_conflicts="silent")
    expected.meta = first.meta
    assert_same(stacked[:], expected)
    for rows in ([0, 1], [5, 4], [6, 0]):
        assert_same(stacked[np.array(rows)], expected[rows])
    assert stacked["good"].mask.tolist() == [False] * 4 + [True] * 3


def test_python_objects_are_refused(tmp_path):
    table = QTable({"thing": np.array([{}, [], ()], dtype=object)})
    with pytest.raises(ValueError, match=r"^table\['thing'\] holds Python objects; expected"):
        write_parquet(table, tmp_path / "columns.parquet")
