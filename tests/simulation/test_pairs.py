"""Pairs: selections hold, shards are complete, resumed and independent of workers."""

import numpy as np
import pytest

from astroclip.simulation.basis import save_basis
from astroclip.simulation.pairs import (
    FLAT,
    MIX,
    Selection,
    make_pairs,
    read_pairs,
    select_galaxies,
    write_pairs,
)

ARGUMENTS = {"seed": 3, "selections": (Selection(1.0, 19.5),), "shard_size": 2}


@pytest.fixture(scope="module")
def folder(basis, tmp_path_factory):
    """Return a folder of five pairs in three shards; its parent holds the small basis."""
    folder = tmp_path_factory.mktemp("simulated") / "pairs"
    save_basis(basis, folder.parent / "basis.npz")
    write_pairs(folder, 5, **ARGUMENTS)
    return folder


def test_shares_add_up():
    for selections in (MIX, FLAT):
        assert sum(selection.share for selection in selections) == pytest.approx(1.0)


def test_selection_is_exact(simulator):
    selection = Selection(1.0, 20.0, (0.1, 0.3), quiescent_only=True)
    sample = select_galaxies(np.random.default_rng(1), 60, simulator, selection)
    assert len(sample) == 60
    assert sample.quiescent.all()
    assert (sample.r_magnitude < 20.0).all()
    assert (sample.redshift >= 0.1).all()
    assert (sample.redshift <= 0.3).all()


def test_pairs_have_the_documented_shapes(simulator):
    made = make_pairs(4, simulator, seed=2)
    assert made["image"].shape == (4, 3, 64, 64)
    assert made["spectrum"].shape == (4, 4360)
    assert made["seeing"].shape == made["magnitude"].shape == (4, 3)
    assert all(np.isfinite(values).all() for values in made.values())
    again = make_pairs(4, simulator, seed=2)
    for name in made:
        np.testing.assert_array_equal(made[name], again[name])


def test_shards_resume_and_do_not_repeat(folder):
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"pairs-{k:05d}.npz" for k in range(3)]
    first = read_pairs(folder)
    assert len(first["redshift"]) == 5
    assert len(np.unique(first["redshift"])) == 5
    paths[1].unlink()
    untouched = paths[0].stat().st_mtime_ns
    assert write_pairs(folder, 5, **ARGUMENTS) == paths
    second = read_pairs(folder)
    assert paths[0].stat().st_mtime_ns == untouched
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert sorted(folder.iterdir()) == paths


def test_reading_stops_early_and_says_when_there_is_nothing(folder):
    assert len(read_pairs(folder, n_pairs=3)["redshift"]) == 3
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        read_pairs(folder.parent)
