"""Conformal factors against the definition, and names of levels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astroclip.estimation.intervals import check_levels, conformal_factor, percent_name


@given(
    scores=st.lists(st.floats(0, 100), min_size=1, max_size=40), level=st.integers(1, 99)
)
def test_factor_is_the_smallest_that_covers(scores, level):
    scores = np.sort(scores)
    found = conformal_factor(scores, level / 100)
    needed = -(-(len(scores) + 1) * level // 100)  # integers: no rounding
    if needed > len(scores):
        assert found == np.inf
    else:
        assert (scores <= found).sum() >= needed
        assert (scores < found).sum() < needed


def test_covers_at_least_what_is_promised():
    rng = np.random.default_rng(0)
    for n_scores in (9, 10, 99):
        draws = rng.random((4000, n_scores + 1))
        factors = [conformal_factor(np.sort(row[:-1]), 0.8) for row in draws]
        assert 0.78 < np.mean(draws[:, -1] <= factors) < 0.8 + 1 / (n_scores + 1) + 0.02


def test_levels_and_their_names():
    assert check_levels(0.68, "confidence") == (0.68,)
    assert check_levels([0.5, 0.9], "confidence") == (0.5, 0.9)
    assert check_levels((), "quantiles", empty=True) == ()
    names = [percent_name(level) for level in (0.05, 0.5, 0.57, 0.95, 0.6827, 0.997, 0.0013)]
    assert names == ["05", "50", "57", "95", "68_27", "99_7", "00_13"]
    for wrong in (True, "0.5", 0, 1, np.nan, (0.5, 0.5)):
        with pytest.raises(ValueError, match="^confidence is "):
            check_levels(wrong, "confidence")
