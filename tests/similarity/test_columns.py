"""Columns in memory and in a file give the same rows."""

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable
from numpy.testing import assert_array_equal

from astroclip.similarity.columns import Columns, MappedColumns, column_arrays


def make():
    table = QTable(
        {
            "id": ["a", "b", "c", "d"],
            "ra": [1.0, 2, 3, 4] * u.deg,
            "mass": MaskedColumn([1, 2, 3, 4], mask=[0, 1, 0, 0]),
            "mass2": [5, 6, 7, 8],
        }
    )
    table.meta["MODEL"] = "toy"
    return table


@pytest.fixture(params=["memory", "file"])
def columns(request):
    table = make()
    return Columns(table) if request.param == "memory" else MappedColumns(*column_arrays(table))


def test_rows_and_columns(columns):
    table = make()
    assert columns.names == table.colnames
    assert dict(columns.meta) == dict(table.meta)
    assert len(columns) == 4
    for rows in ([2, 0], slice(None)):
        taken = columns.take(rows)
        assert taken.colnames == table.colnames
        for name in table.colnames:
            assert_array_equal(np.ma.getdata(taken[name]), np.ma.getdata(table[name][rows]))
    assert columns.column("ra").unit == u.deg
    assert columns.column("mass").mask.tolist() == [False, True, False, False]
    assert np.asarray(columns.texts("id")[:]).tolist() == ["a", "b", "c", "d"]
    assert columns.table()["mass2"].tolist() == [5, 6, 7, 8]


def test_a_table_of_the_columns_can_change_without_them(columns):
    columns.table().remove_column("ra")
    assert "ra" in columns.names
    assert "ra" in columns.take([0]).colnames
