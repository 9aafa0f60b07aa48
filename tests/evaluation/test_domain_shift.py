"""Domain shifts: what is recorded otherwise and what is scored."""

import numpy as np
import pytest

from astroclip.evaluation import domain_shift, embed_pairs, score_retrieval
from astroclip.evaluation.baselines import chi_square_ranks, recorded_pair_ranks
from astroclip.evaluation.domain_shift import score_domain_shifts
from astroclip.evaluation.held_out import HELD_OUT, score_neighbors
from astroclip.evaluation.observation import record_spectra
from astroclip.evaluation.scores import find_score


@pytest.fixture
def shifted(run, pairs, monkeypatch):
    """Return the run after three shifts."""
    kept = {name: domain_shift.SPECTRUM_SHIFTS[name] for name in (
        "SDSS-like spectra", "spectra cut to 4500-8500 A")}
    monkeypatch.setattr(domain_shift, "SPECTRUM_SHIFTS", kept)
    monkeypatch.setattr(domain_shift, "IMAGE_SHIFTS", {"shallow": {"depth_loss": 1.0}})
    score_neighbors(run)
    score_domain_shifts(run, pairs)
    return run


def test_the_fall_is_the_difference_of_two_scores(shifted):
    table = shifted.scores.table()
    where = {"protocol": "k-NN", "query": "spectrum", "reference": "spectrum",
             "property": "redshift"}
    cut = "spectra cut to 4500-8500 A"
    usual, fallen = (find_score(table, "r2", data=data, **where) for data in (HELD_OUT, cut))
    assert find_score(table, "r2_fall", data=cut, **where) == pytest.approx(usual - fallen)
    assert find_score(table, "r2_fall", data="shallow", query="image") is not None


def test_one_galaxy_is_sought_as_two_surveys_see_it(shifted, model, pairs):
    seen = embed_pairs(
        model, pairs, seed=1, modalities=("spectrum",), spectra={"instrument": "sdss"}
    ).embeddings("spectrum")
    plain = shifted.held.embeddings("spectrum")
    assert not np.allclose(seen, plain)
    table = shifted.scores.table()
    for names, views in (
        (("SDSS-like spectrum", "DESI-like spectrum"), (seen, plain)),
        (("DESI-like spectrum", "SDSS-like spectrum"), (plain, seen)),
    ):
        found = find_score(table, "recall_1", query=names[0], reference=names[1])
        assert found == score_retrieval(*views)["recall_1"]


def test_noise_bounds_what_is_recognized(shifted, pairs):
    table, light = shifted.scores.table(), pairs["spectrum"]
    seen = {
        f"{name.upper()}-like spectrum": record_spectra(
            pairs, seed=(shifted.scores.seed, 0), instrument=name
        )
        for name in ("sdss", "desi")
    }
    for (name, batch), (other, target) in (list(seen.items()), list(seen.items())[::-1]):
        where = {"data": "SDSS-like spectra", "query": f"{name}, chi-square"}
        for reference, ranks in (
            ("noiseless light", chi_square_ranks(batch, light)),
            (other, recorded_pair_ranks(batch, target, light)),
        ):
            found = find_score(table, "recall_1", reference=reference, **where)
            assert found == pytest.approx((ranks < 1).mean())


def test_a_second_image_has_its_own_noise_and_seeing(shifted, model, pairs):
    seen = embed_pairs(
        model, pairs, seed=shifted.scores.seed + 2, modalities=("image",), images={"blur": 1.2}
    ).embeddings("image")
    first = shifted.held.embeddings("image")
    table = shifted.scores.table()
    where = {"data": domain_shift.SECOND_EPOCH, "query": "second image"}
    found = find_score(table, "recall_1", **where)
    assert found == score_retrieval(seen, first)["recall_1"]
    assert found > 5 / len(first)
