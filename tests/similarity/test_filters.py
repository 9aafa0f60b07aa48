"""Filters against astropy's separations and offset frames, and against masks made by hand."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, QTable
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from astroclip.similarity.columns import Columns
from astroclip.similarity.filters import allowed_rows


def sky(n_rows=3000, seed=0):
    rng = np.random.default_rng(seed)
    ra = rng.uniform(0, 360, n_rows)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, n_rows)))
    mass = MaskedColumn(rng.random(n_rows), mask=rng.random(n_rows) < 0.1)
    return QTable({"ra": ra * u.deg, "dec": dec * u.deg, "mass": mass, "size": ra * u.kpc})


TABLE = sky()
PLACES = SkyCoord(TABLE["ra"], TABLE["dec"])
COLUMNS = Columns(TABLE)
PLACE = st.tuples(st.floats(0, 360), st.floats(-90, 90)).map(lambda p: SkyCoord(*p, unit="deg"))


@given(center=PLACE, radius=st.floats(0.01, 180))
def test_cones_are_astropys(center, radius):
    inside = allowed_rows(COLUMNS, near=(center, radius * u.deg))
    separation = PLACES.separation(center)
    sure = np.abs(separation - radius * u.deg) > 1e-9 * u.deg
    assert_array_equal(inside[sure], (separation <= radius * u.deg)[sure])


@given(center=PLACE, width=st.floats(0.1, 170), height=st.floats(0.1, 170))
def test_boxes_are_astropys(center, width, height):
    inside = allowed_rows(COLUMNS, near=(center, width * u.deg, height * u.deg))
    offset = PLACES.transform_to(center.skyoffset_frame())
    lon, lat = np.abs(offset.lon.wrap_at(180 * u.deg).deg), np.abs(offset.lat.deg)
    sure = (np.abs(lon - width / 2) > 1e-9) & (np.abs(lat - height / 2) > 1e-9)
    assert_array_equal(inside[sure], ((lon <= width / 2) & (lat <= height / 2))[sure])


def test_several_cones_and_other_frames_and_units():
    centers = SkyCoord([10, 200], [20, -40], unit="deg")
    inside = allowed_rows(COLUMNS, near=(centers.galactic, 600 * u.arcmin))
    expected = np.zeros(len(TABLE), dtype=bool)
    for center in centers:
        expected |= PLACES.separation(center) <= 10 * u.deg
    assert_array_equal(inside, expected)


def test_rows_without_a_place_are_nowhere():
    table = QTable({"ra": [1.0, np.nan, 1], "dec": MaskedColumn([2.0, 2, 2], mask=[0, 0, 1])})
    near = (SkyCoord(1, 2, unit="deg"), 180 * u.deg)
    assert allowed_rows(Columns(table), near=near).tolist() == [True, False, False]
    box = (*near, 180 * u.deg)
    assert allowed_rows(Columns(table), near=box).tolist() == [True, False, False]


def test_ranges_include_their_ends_and_leave_out_masked_values():
    mass, mask = np.asarray(TABLE["mass"].filled(-1)), TABLE["mass"].mask
    low, high = mass[~mask][:2].min(), mass[~mask][:2].max()
    for limits in ((low, high), (None, high), (low, None), [low, high]):
        start = -np.inf if limits[0] is None else limits[0]
        stop = np.inf if limits[1] is None else limits[1]
        expected = (mass >= start) & (mass <= stop) & ~mask
        assert_array_equal(allowed_rows(COLUMNS, where={"mass": limits}), expected)
    both = allowed_rows(COLUMNS, where={"mass": (0.5, None), "size": (0 * u.Mpc, 0.1 * u.Mpc)})
    assert_array_equal(both, (mass >= 0.5) & ~mask & (TABLE["ra"].value <= 100))


def test_conditions_are_joined():
    near = (SkyCoord(50, 0, unit="deg"), 60 * u.deg)
    masks = [allowed_rows(COLUMNS, where="mass > 0.3"), allowed_rows(COLUMNS, near=near)]
    joined = allowed_rows(COLUMNS, where="mass > 0.3", near=near)
    assert_array_equal(joined, masks[0] & masks[1])
    assert allowed_rows(COLUMNS) is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"where": {"age": (0, 1)}}, ValueError, "where names 'age', which is no column"),
        ({"where": {"mass": 3}}, ValueError, r"where\['mass'\] is 3; expected \(lowest, highest"),
        ({"where": {"size": (1 * u.s, None)}}, u.UnitsError, r"where\['size'\] has unit 's'"),
        ({"where": np.ones(3)}, ValueError, "where has dtype float64 .* 3000 rows"),
        ({"near": (3, 4)}, TypeError, r"near is \(3, 4\); expected \(center, radius\)"),
        ({"near": PLACES[0]}, TypeError, "near is <SkyCoord"),
        ({"near": (PLACES[0], 3)}, u.UnitsError, "near has size no unit"),
        ({"near": (PLACES[0], 3 * u.deg, 2 * u.s)}, u.UnitsError, "near has height unit 's'"),
        ({"near": (PLACES[:2], 3 * u.deg, 2 * u.deg)}, ValueError, "near has 2 centers of a box"),
    ],
)
def test_other_conditions_are_refused(options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        allowed_rows(COLUMNS, **options)


def test_places_need_positions():
    with pytest.raises(ValueError, match="^near is given and the reference has no columns 'ra'"):
        allowed_rows(Columns(TABLE["mass",]), near=(PLACES[0], 3 * u.deg))
