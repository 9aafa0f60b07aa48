"""From a name to a Target, through the real clients and a server on loopback."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData
from astropy.table import Table

import astroclip
from astroclip.archives import (
    Archive,
    ArchiveError,
    Target,
    UnresolvedNameError,
    fetch,
    fetch_many,
)
from tests.archives.conftest import POSITION


class Silent(Archive):
    """An archive of one's own that has nothing."""

    name = "mine"
    products = ("spectra",)

    def fetch_spectra(self, coord):
        """Fail in its own way."""
        raise ArchiveError("has nothing", "look elsewhere")


class Broken(Archive):
    """An archive of one's own with a fault in it."""

    name = "broken"
    products = ("catalog",)

    def fetch_catalog(self, coord):
        """Stumble."""
        return {}["z"]


def test_from_a_name_to_an_image(server, quick):
    target = fetch("NGC 4303", archives="legacysurvey", **quick)
    assert target.name == "NGC 4303"
    assert target.coord.separation(POSITION) < 0.01 * u.arcsec
    assert list(target.images) == ["g", "r", "z"]
    assert len(target.failures) == 0
    for band, ccd in target.images.items():
        assert isinstance(ccd, CCDData)
        assert ccd.unit == u.nmgy
        assert ccd.meta["archive"] == "legacysurvey"
        np.testing.assert_array_equal(ccd.data, server.legacy[band].data[4:156, 4:156])
        centre = ccd.wcs.pixel_to_world(75.5, 75.5)
        assert centre.separation(POSITION) < 0.3 * u.arcsec
    table = astroclip.embed(target.images)
    assert table["id"][0] == "NGC 4303"
    assert not table["flags"][0] & 1


def test_a_position_needs_no_name_service(server, quick):
    target = fetch(POSITION, archives=["legacysurvey"], **quick)
    assert target.name == "J035625.61-302905.3"
    assert server.count("sesame") == 0
    assert "grz images" in repr(target)


@pytest.mark.parametrize(
    "text", ["59.1067 -30.4848", "03h56m25.608s -30d29m05.28s", "03:56:25.608 -30:29:05.28"]
)
def test_a_position_in_words(server, quick, text):
    target = fetch(text, archives="legacysurvey", products=["catalog"], **quick)
    assert target.coord.separation(POSITION) < 0.01 * u.arcsec
    assert server.requests == []


def test_an_impossible_position_in_words_is_raised(server, quick):
    with pytest.raises(UnresolvedNameError, match="'10 95' looks like a position and is none"):
        fetch("10 95", archives="legacysurvey", **quick)
    assert server.requests == []


def test_an_unknown_name_is_raised(server, quick):
    with pytest.raises(UnresolvedNameError, match="knows no object of this name; check"):
        fetch("Nowhere 1", archives="legacysurvey", **quick)


def test_a_dead_name_service_is_raised_with_other_advice_after_its_retries(server, quick):
    server.fail("sesame", "500")
    with pytest.raises(UnresolvedNameError, match="HTTP 500 .*Trouble.*try again later"):
        fetch("NGC 4303", archives="legacysurvey", **quick)
    assert server.count("sesame") == 2


def test_a_name_service_that_recovers(server, quick):
    server.fail("sesame", "500", times=1)
    assert fetch("NGC 4303", archives="legacysurvey", products=[], **quick).coord is not None


def test_a_dripping_name_service_meets_its_deadline(server, impatient):
    server.fail("sesame", "drip")
    with pytest.raises(UnresolvedNameError, match="within 0.4 s"):
        fetch("NGC 4303", archives="legacysurvey", **impatient)


def test_an_answer_without_position_is_not_kept(server, quick):
    server.fail("sesame", "html", times=1)
    with pytest.raises(UnresolvedNameError, match="a web page .Scheduled maintenance."):
        fetch("NGC 4303", archives="legacysurvey", **quick)
    assert fetch("NGC 4303", archives="legacysurvey", products=[], **quick).coord is not None


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("archives", "galex", "archives\\[0\\] is 'galex'; expected one of"),
        ("archives", [], "archives is empty"),
        ("products", "movies", "products is 'movies'"),
        ("size", 0, "size is 0; expected at least 1"),
        ("bands", ["q"], "band is 'q'"),
        ("bands", [], "bands is empty"),
        ("timeout", -1, "timeout is -1; expected a positive number"),
        ("radius", np.nan, "radius is nan"),
        ("n_retries", -1, "n_retries is -1"),
    ],
)
def test_invalid_arguments_are_raised(name, value, error):
    with pytest.raises(ValueError, match=error):
        fetch(POSITION, **{name: value})


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"colour": 1}, "unexpected argument 'colour'; expected some of archives"),
        ({"archives": [3]}, "archives\\[0\\] is of type int"),
    ],
)
def test_arguments_of_other_types_are_raised(arguments, error):
    with pytest.raises(TypeError, match=error):
        fetch(POSITION, **arguments)


def test_objects_of_other_types_are_raised():
    with pytest.raises(TypeError, match="name_or_coord is of type int"):
        fetch(4303)
    with pytest.raises(TypeError, match="SkyCoord of shape"):
        fetch(SkyCoord([1, 2], [3, 4], unit="deg"))
    with pytest.raises(ValueError, match="empty name; pass a name"):
        fetch(" ")
    with pytest.raises(TypeError, match="Pass one object to"):
        fetch_many("NGC 4303")
    with pytest.raises(ValueError, match="objects is empty"):
        fetch_many([])
    with pytest.raises(ValueError, match="expected 'ra' and 'dec'"):
        fetch_many(Table({"flux": [1.0]}))


def test_failures_are_rows_and_the_rest_comes(server, quick):
    target = fetch(POSITION, archives=[Silent(), "legacysurvey", Broken()], **quick)
    assert set(target.images) == {"g", "r", "z"}
    rows = {row["archive"]: row for row in target.failures}
    assert rows["mine"]["reason"] == "has nothing"
    assert rows["mine"]["advice"] == "look elsewhere"
    assert rows["broken"]["product"] == "catalog"
    assert "KeyError" in rows["broken"]["reason"]
    assert len(target.catalog) == 0 and "redshift" in target.catalog.colnames


def test_images_fall_back_on_the_next_archive(server, quick):
    server.fail("viewer", "404")
    target = fetch(POSITION, archives=["legacysurvey", "hips"], **quick)
    assert {ccd.meta["archive"] for ccd in target.images.values()} == {"hips"}
    assert target.failures["archive"].tolist() == ["legacysurvey"]


def test_archives_after_the_first_complete_one_are_left_in_peace(server, quick):
    fetch(POSITION, archives=["legacysurvey", "hips"], **quick)
    assert server.count("hips2fits") == 0


def test_the_archive_with_most_bands_wins_if_none_has_all(server, quick):
    target = fetch(
        POSITION, archives=["legacysurvey", "sdss"], bands=["u", "g", "y", "r"],
        products="images", **quick | {"size": 64},
    )
    assert list(target.images) == ["g", "r"]
    assert target.failures["archive"].tolist() == ["legacysurvey", "sdss"]


def test_many_objects_in_order_with_all_failures(server, quick):
    server.fail("viewer/fits-cutout?ra=60", "404")
    objects = ["NGC 4303", SkyCoord(60, -30, unit="deg"), "Nowhere 1", POSITION]
    targets, failures = fetch_many(objects, archives="legacysurvey", **quick)
    assert [len(target.images) for target in targets] == [3, 0, 0, 3]
    assert [target.name for target in targets][::2] == ["NGC 4303", "Nowhere 1"]
    assert targets[2].coord is None and "no position" in repr(targets[2])
    assert failures["target"].tolist() == [targets[1].name, "Nowhere 1"]
    assert failures["archive"].tolist() == ["legacysurvey", "sesame"]
    assert all(failures["advice"] != "")


def test_many_objects_of_a_table(server, quick, capsys):
    table = Table({"NAME": ["a", "b"], "RA": [59.1067, 59.1067], "Dec": [-30.4848, -30.4848]})
    targets, failures = fetch_many(
        table, archives="legacysurvey", show_progress=True, **quick
    )
    assert [target.name for target in targets] == ["a", "b"]
    assert len(failures) == 0 and failures.colnames[0] == "target"
    captured = capsys.readouterr()
    assert captured.out == "" and "archive" in captured.err


def test_many_positions_and_names_of_a_table(server, quick):
    targets, _ = fetch_many(
        SkyCoord([59.1067, 59.1067], [-30.4848, -30.4848], unit="deg"),
        archives="legacysurvey", **quick,
    )
    assert len(targets) == 2
    targets, _ = fetch_many(Table({"name": ["NGC 1"]}), archives="legacysurvey", **quick)
    assert targets[0].name == "NGC 1" and len(targets[0].images) == 3


def test_a_position_by_a_table_with_units(server, quick):
    table = Table({"ra": [59.1067 / 15] * u.hourangle, "dec": [-30.4848] * u.deg})
    targets, _ = fetch_many(table, archives="legacysurvey", products="images", **quick)
    assert targets[0].coord.separation(POSITION) < 0.01 * u.arcsec


def test_pulling_the_plug_before_and_after(server, quick):
    fetch(POSITION, archives="legacysurvey", **quick)
    server.fail("", "plug")
    again = fetch(POSITION, archives="legacysurvey", **quick)
    assert len(again.images) == 3  # from the cache
    archives = ["legacysurvey", "sdss", "hips"]
    elsewhere = fetch(SkyCoord(1, 2, unit="deg"), archives=archives, **quick)
    assert set(elsewhere.failures["archive"]) == {"legacysurvey", "sdss", "hips"}
    assert all("connection broke" in reason for reason in elsewhere.failures["reason"])


def test_an_empty_target_shows_itself():
    assert repr(Target("x", None)).startswith("<Target x (no position): 0 spectra")
