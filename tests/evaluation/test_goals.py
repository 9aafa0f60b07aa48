"""Goals: measured from the right rows, met in the right sense."""

import pytest

from astroclip.evaluation.goals import GOALS, PUBLISHED, Goal
from astroclip.evaluation.report import goal_rows


@pytest.fixture(scope="module")
def reached(made_up):
    """Return what a made-up table reaches, by goal."""
    return {what: (value, met) for what, _, value, met in goal_rows(made_up)}


def test_goals_are_measured_from_their_rows(reached):
    assert reached["spectrum, R2 of redshift"] == ("0.990", "yes")
    assert reached["spectrum, R2 of log M*"] == ("0.900", "no")
    assert reached["image, R2 of redshift"] == ("0.940", "yes")
    assert reached["image among spectra, R2 of redshift"] == ("0.890", "yes")
    assert reached["image, R2 of redshift above that of the image-only encoder"] == ("0.150", "yes")
    assert reached["image, R2 of redshift above that of photometry k-NN"] == ("0.250", "yes")
    assert reached["spectrum, R2 of log Z above that of principal components"] == ("0.350", "yes")
    ratio = "image, R2 of log sSFR over that of boosted photometry and true shapes"
    assert reached[ratio] == ("1.875", "yes")
    assert reached["recall@1 among 1,000, worse direction"] == ("0.300", "yes")
    same = "one galaxy as DESI and as SDSS spectrum, recall@1 among 1,000"
    assert reached[same] == ("0.300", "no")
    cut = "spectrum cut to 4500-8500 A, fall of the R2 of redshift"
    assert reached[cut] == ("0.040", "no")
    assert reached["real spectra, k-NN, NMAD"] == ("0.0018", "yes")
    assert reached["real spectra, redshift head, beyond 0.05"] == ("0.125", "no")
    assert reached["images embedded a second"] == ("400", "yes")


def test_what_was_not_measured_is_said_so(reached):
    for what in ("spectra embedded a second", "rest-frame spectrum, R2 of log sSFR"):
        assert reached[what] == ("not measured", "-")


@pytest.mark.parametrize(
    ("options", "value", "met"),
    [
        ({}, 0.5, True),
        ({}, 0.4, False),
        ({"strict": True}, 0.5, False),
        ({"at_most": True}, 0.4, True),
        ({"at_most": True}, 0.6, False),
    ],
)
def test_a_goal_is_met_in_its_sense(options, value, met):
    assert Goal("any", 0.5, lambda table: None, **options).met(value) is met


def test_recall_among_fewer_pairs_is_not_what_the_goal_means(made_up):
    few = made_up.copy()
    few["n_reference"][few["protocol"] == "retrieval"] = 300
    found = {what: reached for what, _, reached, _ in goal_rows(few)}
    assert found["recall@1 among 1,000, worse direction"] == "not measured"


def test_names_are_unique_and_published_figures_name_their_source():
    assert len({goal.what for goal in GOALS}) == len(GOALS)
    assert all(0 < figure.value < 1 and "Parker" in figure.source for figure in PUBLISHED)
