"""The store: all usable rows once, by modality, and in the table's order again on request."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from astroclip.similarity import cells
from astroclip.similarity.store import Store
from tests.similarity.clouds import as_unit


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_store_has_usable_rows_by_modality(dtype, monkeypatch):
    monkeypatch.setattr(cells, "LEAST_ROWS", 100)
    rng = np.random.default_rng(0)
    unit = as_unit(rng.normal(size=(900, 6)))
    modality = rng.choice(["spectrum", "image"], size=900)
    usable = rng.random(900) < 0.9
    store = Store.build(unit, modality, usable, dtype=dtype, rng=rng)
    assert (len(store), store.dtype, store.dim) == (usable.sum(), dtype, 6)
    assert_array_equal(np.sort(store.rows), np.flatnonzero(usable))
    for name, (start, stop) in store.sections.items():
        assert (modality[store.rows[start:stop]] == name).all()
        assert (store.parts[name].start[0], store.parts[name].stop[-1]) == (start, stop)
    assert_array_equal(store.read(slice(None)), unit.astype(dtype)[store.rows])
    matrix = store.matrix(900)
    assert_array_equal(matrix[usable], unit.astype(dtype)[usable].astype(np.float32))
    assert np.isnan(matrix[~usable]).all()
    place = store.positions(900)
    assert_array_equal(place[store.rows], np.arange(len(store)))
    assert_array_equal(place == -1, ~usable)
    assert len(store.cells()) == sum(len(store.cells([name])) for name in store.sections)
    lengths = np.linalg.norm(store.read(slice(None)).astype(float), axis=1)
    assert store.length_error == pytest.approx(np.abs(lengths - 1).max(), rel=1e-9)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("float16", 2)])
def test_store_takes_little_more_than_its_vectors(dtype, width):
    rng = np.random.default_rng(1)
    unit = as_unit(rng.normal(size=(30_000, 128)))
    kind = np.full(len(unit), "spectrum")
    store = Store.build(unit, kind, np.ones(len(unit), bool), dtype=dtype, rng=rng)
    assert 128 * width < store.n_bytes / len(unit) < 1.1 * 128 * width
