"""Densities and dimensions of points whose density and dimension are known."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial import cKDTree

from astroclip.estimation.neighbors import LabelledRows, choose_rows, intrinsic_dimension
from tests.estimation.surveys import as_unit, make_table

OPTIONS = {"n_calibration": 5000, "false_alarm_rate": 0.05, "random_state": 0}


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_dimension_of_uniform_points(dimension):
    points = np.random.default_rng(0).random((4000, dimension))
    distance = cKDTree(points).query(points, k=21)[0][:, 1:]
    assert intrinsic_dimension(distance) == pytest.approx(dimension, rel=0.12)


def test_dimension_of_duplicates_is_finite():
    assert np.isfinite(intrinsic_dimension(np.zeros((5, 4))))
    assert intrinsic_dimension([[0, 0, 1.0]]) == 1


def test_density_is_relative_to_the_references():
    rng = np.random.default_rng(1)
    # the northern half of a sphere four times as dense as the southern
    points = as_unit(rng.normal(size=(8000, 3)))
    kept = (points[:, 2] > 0) | (rng.random(8000) < 0.25)
    reference = make_table(points[kept])
    group = LabelledRows(reference, np.arange(kept.sum()), n_neighbors=32)
    group.leave_out(**OPTIONS)
    assert group.dimension == pytest.approx(2, rel=0.1)
    poles = make_table(as_unit([[0.1, 0, 1], [0.2, 0.1, 1], [0, 0.1, -1], [0.1, 0.2, -1]]))
    density = group.support(group.find(poles))["local_density"]
    assert density[:2].mean() / density[2:].mean() == pytest.approx(4, rel=0.35)
    assert_allclose(density[:2], 1, rtol=0.6)  # most of the reference is in the north


def test_support_of_failed_and_far_objects():
    points = as_unit(np.random.default_rng(2).normal(size=(300, 3)) + [4, 0, 0])
    rows = np.arange(20, 300)
    group = LabelledRows(make_table(points), rows, n_neighbors=8)
    left_out, _ = group.leave_out(**OPTIONS)
    assert_array_equal(left_out, rows)
    queries = make_table(as_unit([[1, 0, 0], [1, 0, 0], [-1, 0, 0]]), failed=[0, 1, 0])
    found = group.support(group.find(queries))
    assert_array_equal(found["out_of_distribution"], [False, True, True])
    assert_array_equal(np.isnan(found["local_density"]), [False, True, False])
    assert found["local_density"][2] < 0.01 < found["local_density"][0]
    assert_array_equal(found["n_reference"], 280)


def test_rows_are_chosen_with_the_seed():
    rows = np.arange(100) * 3
    assert choose_rows(rows, 200, 0) is rows
    chosen = choose_rows(rows, 10, 1)
    assert_array_equal(chosen, choose_rows(rows, 10, 1))
    assert len(set(chosen)) == 10
    assert set(chosen) <= set(rows)
