"""The effort of approximate searches."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from astroclip.similarity.store import Store
from astroclip.similarity.tuning import KnownNeighbors, least_effort, wanted_recall
from tests.similarity.clouds import as_unit, broad, naive_neighbors


@pytest.mark.parametrize("needed", [1, 2, 7, 40, 100])
def test_least_effort_is_found_within_a_tenth(needed):
    found = least_effort(lambda effort: effort >= needed, 100)
    assert needed <= found <= max(needed + 1, 1.1 * needed + 1)
    assert least_effort(lambda effort: False, 100) == 100


def test_a_tenth_of_the_misses_is_to_be_avoided_besides():
    assert wanted_recall(0.9) == pytest.approx(0.91)


class Partial:
    """Finds all neighbours of even queries, and of odd ones none but themselves."""

    def __init__(self, similarity):
        self.similarity = similarity

    def search(self, store, place, queries, n_neighbors, *, effort):
        found = self.similarity.copy()[-len(queries):]
        found[1::2, 1:] = -1.0
        return None, found


def test_recall_leaves_the_row_itself_out():
    vectors = as_unit(broad(np.random.default_rng(4), 700, 12))
    store = Store.of_rows(vectors)
    known = KnownNeighbors.sample(store, "all", random_state=3)
    rows, cosine = naive_neighbors(known.queries, vectors, 11)
    cosine = np.take_along_axis(cosine, rows, axis=1)
    assert_array_equal(known.positions, rows)
    assert len(np.unique(known.positions[:, 0])) == 700
    assert known.recall(Partial(cosine), store, None, effort=1, first=False) == pytest.approx(0.5)
