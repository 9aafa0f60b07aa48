"""Embedding tables: schema, provenance, files complete or not at all, matches on the sky."""

import builtins
import importlib

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from astroclip import __version__, tables
from astroclip.exceptions import MissingExtraError, ModelMismatchError
from astroclip.tables import Flag

SUFFIXES = [".ecsv", ".fits", ".parquet"]


def unit_vectors(n_rows, dim, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n_rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_table(n_rows=6, dim=5, **options):
    """Return an embedding table of random unit vectors."""
    options = {
        "coverage": np.linspace(0.5, 1, n_rows),
        "flags": np.zeros(n_rows, int),
        "model_name": "toy",
        "weights_sha256": "ab" * 32,
        "preparation_version": "7",
        **options,
    }
    ids = options.pop("ids", [f"galaxy-{row}" for row in range(n_rows)])
    embedding = options.pop("embedding", unit_vectors(n_rows, dim))
    return tables.make_embedding_table(ids, options.pop("modality", "image"), embedding, **options)


def full_table():
    """Return a table with failed rows, unknown values, masks, units and odd names."""
    extra = {
        "mass": MaskedColumn(np.arange(6.0), mask=[0, 1, 0, 0, 0, 1], unit="kg"),
        "class": MaskedColumn(np.arange(6), mask=[0, 0, 1, 0, 0, 0]),
        "age": np.arange(6.0) * u.Gyr,
        "good": np.arange(6) > 2,
        "note": ["", "α Cen", "", "b", "c", "d"],
        "embedding_version": np.arange(6),
    }
    return make_table(
        ids=["Å-1", "b", "c", "d", "e", "f"],
        modality=["image", "spectrum"] * 3,
        flags=[Flag.FAILED | Flag.BAD_INPUT, 0, Flag.PADDED, 0, Flag.FAILED, 8],
        messages=["unit 'ct'; expected 10⁻¹⁷ erg", "", "", "", "none", ""],
        ra=[1, 2, np.nan, 4, 5, 6],
        dec=np.arange(6.0),
        redshift=[0.1, np.nan, 0.2, 0.3, 0.4, 0.5],
        extra_columns=extra,
    )


# ---------------------------------------------------------------------- making
@given(flags=st.lists(st.integers(0, 2047), min_size=1, max_size=8))
def test_flagged_rows_are_masked_and_no_others(flags):
    table = make_table(len(flags), flags=flags)
    failed = [flag % 2 == 1 for flag in flags]
    assert_array_equal(table["embedding"].mask, np.repeat(failed, 5).reshape(-1, 5))
    matrix, valid = tables.embedding_matrix(table)
    assert_array_equal(valid, ~np.array(failed))
    assert_array_equal(matrix[valid], unit_vectors(len(flags), 5)[valid])
    assert_array_equal(np.isnan(np.ma.getdata(table["embedding"])), table["embedding"].mask)
    assert np.isnan(matrix[failed]).all()
    assert_array_equal(table["flags"], flags)


@given(value=st.integers(0, 2047))
def test_flag_names_add_up(value):
    names = tables.flag_names(value)
    assert sum(Flag[name] for name in names) == value
    assert len(set(names)) == bin(value).count("1")


def test_columns_and_provenance():
    table = full_table()
    assert table.colnames[:9] == [*tables.REQUIRED, "ra", "dec", "redshift"]
    assert type(table) is QTable
    assert table["ra"].unit == table["dec"].unit == u.deg
    assert table["age"].unit == u.Gyr
    assert table["embedding"].dtype == np.float32
    date = table.meta.pop("DATE")
    assert len(date) == 19
    assert table.meta == {
        "MODEL": "toy", "WSHA": "ab" * 32, "PREPVER": "7", "ASTROCLP": __version__,
    }  # fmt: skip


def test_input_is_not_changed_and_unknown_columns_are_left_out():
    embedding = unit_vectors(6, 5)
    table = make_table(
        embedding=embedding, flags=[1] * 6, ra=[np.nan] * 6, dec=np.full(6, np.nan), coverage=0.5
    )
    assert np.isfinite(embedding).all()
    assert table.colnames == list(tables.REQUIRED)
    assert_array_equal(table["coverage"], [0.5] * 6)


MISFITS = {
    "embedding": (np.ones((5, 3)), r"^embedding has shape \(5, 3\); expected \(6, D\)"),
    "ids": ("one", r"^ids has shape \(\); expected a sequence"),
    "modality": (["image"] * 2, r"^modality has shape \(2,\); expected one value, or one for each"),
    "flags": ([0, 1], r"^flags has shape \(2,\).* 6 objects"),
    "coverage": ([1.0, 1.0], r"^coverage has shape \(2,\)"),
    "messages": ([""], r"^messages has shape \(1,\)"),
    "ra": ([1.0], r"^ra has shape \(1,\)"),
    "redshift": (np.ones((6, 2)), r"^redshift has shape \(6, 2\)"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_lengths_must_agree(name):
    value, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        make_table(**{name: value})


def test_unknown_modality():
    with pytest.raises(ValueError, match="^modality is 'sound'; expected one of 'spectrum', "):
        make_table(modality=["image"] * 5 + ["sound"])


# ---------------------------------------------------------------------- checking
def without(table, *, column=None, key=None):
    if column:
        table.remove_column(column)
    if key:
        del table.meta[key]
    return table


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: [1, 2], TypeError, "^query is of type list; expected an embedding table. Make"),
        (lambda: without(make_table(), column="flags"), ValueError, "^query has no column 'flags'"),
        (lambda: without(make_table(), key="WSHA"), ValueError, "meta lacks WSHA. Keep the meta"),
        (lambda: make_table()[:0], ValueError, "^query is empty; expected at least one row"),
        (lambda: flattened(make_table()), ValueError, r"^query\['embedding'\] has shape \(6,\)"),
    ],
)
def test_what_is_no_embedding_table(make, error, message):
    with pytest.raises(error, match=message):
        tables.validate_embedding_table(make(), name="query")


def flattened(table):
    table["embedding"] = np.ones(6)
    return table


@pytest.mark.parametrize(
    ("key", "what"),
    [("MODEL", "model"), ("WSHA", "weights"), ("PREPVER", "preparation version"), ("DATE", None)],
)
@pytest.mark.parametrize("as_meta", [False, True])
def test_models_must_agree(key, what, as_meta):
    first, second = make_table(), make_table()
    second.meta[key] = "another"
    pair = (first.meta, second.meta) if as_meta else (first, second)
    if what is None:
        tables.check_same_model(*pair)
        return
    with pytest.raises(ModelMismatchError, match=rf"^a and b .* different {what} \({key} '.*Embed"):
        tables.check_same_model(*pair, names=("a", "b"))


def test_row_name_gives_position_and_id():
    assert tables.row_name(make_table(), 3, name="query") == "query[3] (id 'galaxy-3')"


# ---------------------------------------------------------------------- files
def assert_same_column(first, second):
    """Compare two columns: unit, mask (NaN counts as masked), values and type."""
    assert getattr(first, "unit", None) == getattr(second, "unit", None)
    values, masks = [], []
    for column in (first, second):
        mask = np.array(getattr(column, "mask", np.zeros(column.shape, bool)))
        column = getattr(column, "unmasked", column)
        column = np.ma.getdata(getattr(column, "value", column))
        values.append(np.asarray(column))
        masks.append(mask | (column != column))
    assert_array_equal(*masks)
    assert values[0].dtype.kind == values[1].dtype.kind
    assert values[1].dtype.isnative
    assert_array_equal(values[0][~masks[0]], values[1][~masks[0]])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [full_table, make_table])
def test_round_trip(suffix, make, tmp_path):
    table, path = make(), tmp_path / f"table{suffix}"
    before = table.copy()
    tables.write_table(table, path)
    again = tables.read_table(path)
    assert type(again) is QTable
    assert again.meta == table.meta
    assert again.colnames == table.colnames
    for name in table.colnames:
        assert_same_column(table[name], again[name])
        assert_same_column(table[name], before[name])
    assert again["embedding"].dtype == np.float32
    assert_array_equal(again["embedding"].mask, table["embedding"].mask)
    assert not np.any(getattr(again["message"], "mask", False))
    tables.validate_embedding_table(again)
    tables.check_same_model(again, table)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_masked_text_is_empty_when_read(suffix, tmp_path):
    table = make_table(extra_columns={"note": MaskedColumn(list("abcdef"), mask=[1] + [0] * 5)})
    tables.write_table(table, tmp_path / f"table{suffix}")
    again = tables.read_table(tmp_path / f"table{suffix}")
    assert again["note"].tolist() == ["", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_table_without_embeddings(suffix, tmp_path):
    table = QTable({"id": ["a", "b"], "embedding_0000": [1.0, 2.0], "age": [1, 2] * u.Gyr})
    table.rename_column("embedding_0000", "embedding_mean")
    tables.write_table(table, tmp_path / f"table{suffix}")
    again = tables.read_table(tmp_path / f"table{suffix}")
    assert again.colnames == ["id", "embedding_mean", "age"]
    assert_array_equal(again["age"], [1, 2] * u.Gyr)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_write_leaves_nothing_and_damages_nothing(
    suffix, error, exists, tmp_path, monkeypatch
):
    path = tmp_path / f"table{suffix}"
    if exists:
        tables.write_table(make_table(), path)
    before = path.read_bytes() if exists else None

    def write_half(self, partial, **options):
        partial.write_bytes(b"half a table")
        raise error

    monkeypatch.setattr(Table, "write", write_half)
    with pytest.raises(error):
        tables.write_table(full_table(), path, overwrite=True)
    assert list(tmp_path.iterdir()) == [path] * exists
    assert not exists or path.read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_existing_file_is_replaced_only_on_request(suffix, tmp_path):
    path = tmp_path / f"table{suffix}"
    tables.write_table(make_table(), path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=rf"^path '.*table{suffix}' exists; pass overwrite"):
        tables.write_table(full_table(), path)
    assert path.read_bytes() == before
    tables.write_table(full_table(), path, overwrite=True)
    assert tables.read_table(path)["id"][0] == "Å-1"


def test_unknown_and_missing_files(tmp_path):
    message = r"^path '.*table.csv' ends in '.csv'; expected one of .ecsv, .fits, .parquet"
    for call in (tables.read_table, lambda path: tables.write_table(make_table(), path)):
        with pytest.raises(ValueError, match=message):
            call(tmp_path / "table.csv")
    for suffix in SUFFIXES:
        with pytest.raises(FileNotFoundError, match=f"none{suffix}"):
            tables.read_table(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("module", ["pyarrow", "pandas"])
def test_parquet_names_the_extra(module, tmp_path, monkeypatch):
    def import_module(name):
        if name == module:
            raise ImportError(name)
        return builtins.__import__(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(MissingExtraError, match=rf"^{module} is .*'astroclip\[catalogs\]'"):
        tables.write_table(make_table(), tmp_path / "table.parquet")
