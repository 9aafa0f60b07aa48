"""Scores as rows of one table: what was measured, on what, against what, and the value."""

import numpy as np
from astropy.table import Table

__all__ = ["NOTHING", "ScoreTable", "find_score"]

NOTHING = "-"  # in place of a property or a reference that a score does not have
COLUMNS = (
    "protocol", "data", "query", "reference", "property", "score", "value", "n_queries",
    "n_reference", "seed",
)


class ScoreTable:
    """Collects scores.

    Parameters
    ----------
    seed : int
        Of the run, kept in every row.
    """

    def __init__(self, *, seed):
        self.seed = seed
        self.rows = []

    def add(
        self, protocol, score, value, *, data, query, reference=NOTHING, quantity=NOTHING,
        n_queries, n_reference=0,
    ):
        """Add one score.

        Parameters
        ----------
        protocol, score : str
        value : float
        data, query, reference, quantity : str
            What was scored, from what, against what, and which property.
        n_queries, n_reference : int
        """
        row = (protocol, data, query, reference, quantity, score, float(value))
        self.rows.append((*row, int(n_queries), int(n_reference), self.seed))

    def table(self, **meta):
        """Return the scores as a table.

        Parameters
        ----------
        **meta
            Provenance.

        Returns
        -------
        `~astropy.table.Table`
            Columns ``protocol``, ``data``, ``query``, ``reference``, ``property``, ``score``,
            ``value``, ``n_queries``, ``n_reference`` and ``seed``; ``"-"`` where a row has no
            property or no reference.
        """
        return Table(rows=self.rows, names=COLUMNS, meta=meta)


def find_score(table, score, **wanted):
    """Return one value of a table of scores, None if it was not measured.

    Parameters
    ----------
    table : `~astropy.table.Table`
        From `ScoreTable.table`.
    score : str
    **wanted
        Values of other columns.

    Returns
    -------
    float or None
        The first of the rows that match.

    Examples
    --------
    >>> from astroclip.evaluation.scores import ScoreTable, find_score
    >>> scores = ScoreTable(seed=1)
    >>> scores.add("k-NN", "r2", 0.9, data="pairs", query="image", n_queries=10)
    >>> find_score(scores.table(), "r2", query="image")
    0.9
    """
    chosen = np.asarray(table["score"]) == score
    for name, value in wanted.items():
        chosen &= np.asarray(table[name]) == value
    rows = np.flatnonzero(chosen)
    return float(table["value"][rows[0]]) if len(rows) else None
