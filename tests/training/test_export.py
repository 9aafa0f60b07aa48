"""Pairs written in a survey's layout: what others read there, and what comes back."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.simulation.pairs import PROPERTIES, make_pairs
from astroclip.training import export
from astroclip.training.export import write_hdf5_pairs, write_parquet_pairs
from astroclip.training.sources import read_source
from tests.training.survey import DESI, make_errors, make_survey

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def simulated(simulator):
    return make_pairs(5, simulator, seed=3)


@pytest.fixture(scope="module")
def recorded():
    survey = make_survey(5)
    survey["ivar"], survey["mask"] = make_errors(survey["spectra"])
    survey["images"][2, :, :, 0] = 0  # a band that is missing
    return read_source(survey)


@pytest.fixture(params=["hdf5", "parquet"])
def write(request, tmp_path):
    """Return a function that writes pairs and returns where."""

    def write_pairs(pairs):
        if request.param == "hdf5":
            return write_hdf5_pairs(tmp_path / "pairs.h5", pairs, n_groups=2)
        write_parquet_pairs(tmp_path / "pairs", pairs, rows_per_file=3)
        return tmp_path / "pairs"

    return write_pairs


def test_simulated_pairs_come_back_noiseless(simulated, write, monkeypatch):
    monkeypatch.setattr(export, "BLOCK", 2)
    pairs = read_source(write(simulated))
    assert not {"ivar", "mask"} & set(pairs)
    np.testing.assert_array_equal(pairs["image"], simulated["image"])
    np.testing.assert_array_equal(pairs["seeing"], simulated["seeing"])
    for name in (*PROPERTIES, "fibre_magnitude"):
        np.testing.assert_array_equal(pairs[name], simulated[name])
    # resampled twice: lines are smoothed by a fraction of a pixel, and flux is conserved
    width = np.gradient(WAVELENGTH)
    old, new = (values["spectrum"].astype(float) for values in (simulated, pairs))
    blocks = slice(5, 4355)
    ratio = (new * width)[:, blocks].reshape(5, -1, 50).sum(axis=2) / (old * width)[
        :, blocks
    ].reshape(5, -1, 50).sum(axis=2)
    assert np.abs(ratio - 1).max() < 0.02
    assert np.median(np.abs(new / old - 1)) < 1e-3


def test_recorded_pairs_come_back_with_their_errors(recorded, write):
    pairs = read_source(write(recorded))
    np.testing.assert_array_equal(pairs["id"], recorded["id"])
    np.testing.assert_array_equal(pairs["image"], recorded["image"])
    assert np.isnan(pairs["image"][2, 0]).all()
    changed = pairs["mask"] != recorded["mask"]
    assert changed.mean() < 0.01  # at the edges of gaps
    good = ~(pairs["mask"] | recorded["mask"])
    assert pairs["ivar"][good].sum(dtype=float) == pytest.approx(
        recorded["ivar"][good].sum(dtype=float), rel=0.15
    )
    pull = (pairs["spectrum"][good].astype(float) - recorded["spectrum"][good]) * np.sqrt(
        recorded["ivar"][good].astype(float)
    )
    assert np.std(pull) < 0.6  # smoothed by its neighbours, not changed


def test_the_layout_is_that_of_astroclip(simulated, tmp_path):
    path = write_hdf5_pairs(tmp_path / "pairs.h5", simulated, compression="gzip")
    with h5py.File(path) as file:
        assert sorted(file) == ["0", "1", "2", "3", "4"]  # no group is empty
        group = file["3"]
        assert group["images"].shape == (1, 152, 152, 3)
        assert group["spectra"].shape == (1, 7781, 1)
        assert group["targetids"][0] == 3
        images, spectra = group["images"][0], group["spectra"][0, :, 0]
    np.testing.assert_allclose(
        images.sum(axis=(0, 1)), simulated["image"][3].sum(axis=(1, 2), dtype=float), rtol=1e-5
    )
    expected = np.interp(DESI, WAVELENGTH, simulated["spectrum"][3].astype(float))
    assert np.median(np.abs(spectra / expected - 1)) < 0.01
    assert np.isfinite(spectra).all()
    assert (spectra != 0).all()


def test_parquet_columns_are_lists(recorded, tmp_path):
    first, second = write_parquet_pairs(tmp_path, recorded, rows_per_file=3, prefix="train")
    assert [first.name, second.name] == ["train-00000.parquet", "train-00001.parquet"]
    table = parquet.read_table(first)
    assert table.num_rows == 3
    assert {"image", "spectrum", "redshift", "targetid", "ivar", "mask"} < set(table.column_names)
    assert np.shape(table["image"][0].as_py()) == (152, 152, 3)
    assert len(table["spectrum"][0].as_py()) == 7781
    assert table["targetid"].to_pylist() == [int(name) for name in recorded["id"][:3]]
    assert pyarrow.types.is_boolean(table["mask"].type.value_type)


def test_a_file_is_complete_or_not_there(recorded, tmp_path, monkeypatch):
    def interrupted(*_):
        raise InterruptedError

    monkeypatch.setattr(export, "_survey_images", interrupted)
    with pytest.raises(InterruptedError):
        write_hdf5_pairs(tmp_path / "pairs.h5", recorded)
    with pytest.raises(InterruptedError):
        write_parquet_pairs(tmp_path, recorded)
    assert not (tmp_path / "pairs.h5").exists()
    assert not list(tmp_path.glob("*.parquet"))


def test_what_cannot_be_written_raises(recorded, simulated, tmp_path):
    mixed = {**recorded, "ivar": recorded["ivar"].copy()}
    mixed["ivar"][1] = np.inf
    with pytest.raises(ValueError, match="pairs mix recorded and noiseless ones"):
        write_hdf5_pairs(tmp_path / "pairs.h5", mixed)
    nothing = {name: values[:0] for name, values in simulated.items()}
    with pytest.raises(ValueError, match="pairs are empty"):
        write_parquet_pairs(tmp_path, nothing)
    with pytest.raises(ValueError, match="compression is 'zip'; expected one of None, 'gzip'"):
        write_hdf5_pairs(tmp_path / "pairs.h5", simulated, compression="zip")
