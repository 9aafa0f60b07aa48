"""Tables of neighbours: columns of the reference, none of them twice."""

import numpy as np
from astropy import units as u
from astropy.table import QTable

from astroclip.similarity.columns import Columns
from astroclip.similarity.queries import Queries
from astroclip.similarity.results import neighbor_table


def test_separation_replaces_a_column_of_its_name():
    reference = QTable({"id": ["a", "b"], "ra": [10, 11] * u.deg, "dec": [0, 60] * u.deg,
                        "separation": [7, 8], "rank": [5, 6]})
    queries = Queries(np.array(["q"]), np.array(["image"]), np.ones((1, 2), np.float32),
                      np.array([True]), np.array([10.0]), np.array([60.0]))
    zero = np.zeros(2, dtype=int)
    options = (zero, np.array([1, 0]), np.array([0.9, 0.8]), np.array([1, 2]))
    table = neighbor_table(queries, Columns(reference), *options)
    assert table.colnames == ["query_id", "rank", "neighbor_id", "similarity", "separation", "ra",
                              "dec"]
    assert table["rank"].tolist() == [1, 2]
    separation = table["separation"].to_value(u.deg)
    np.testing.assert_allclose(separation[1], 60)
    np.testing.assert_allclose(separation[0], 0.5, rtol=1e-3)
    queries.ra = None
    assert neighbor_table(queries, Columns(reference), *options)["separation"].tolist() == [8, 7]
