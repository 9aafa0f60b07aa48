"""Tables of what a search found."""

import numpy as np
from astropy import units as u
from astropy.coordinates import angular_separation
from astropy.table import QTable

from astroclip.similarity.queries import degrees

__all__ = ["neighbor_table"]

OWN = ("id", "embedding", "query_id", "rank", "neighbor_id", "similarity")


def neighbor_table(queries, columns, number, rows, similarity, rank):
    """Return a table of neighbours.

    Parameters
    ----------
    queries : `~astroclip.similarity.queries.Queries`
    columns : `~astroclip.similarity.columns.Columns`
        Of the reference.
    number : (T,) int `numpy.ndarray`
        Which query each row of the result belongs to.
    rows : (T,) int `numpy.ndarray`
        Rows of the reference.
    similarity : (T,) `numpy.ndarray`
    rank : (T,) int `numpy.ndarray`

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``query_id``, ``rank``, ``neighbor_id``, ``similarity``, ``separation`` (arcsec)
        where both sides have positions, and the reference's own columns of other names.
    """
    own = columns.take(rows)
    result = QTable()
    result["query_id"] = queries.ids[number]
    result["rank"] = rank
    result["neighbor_id"] = np.asarray(own["id"]).astype(str)
    result["similarity"] = similarity.astype(np.float32)
    taken = set(OWN)
    position = [degrees(own, name) for name in ("ra", "dec")]
    if all(each is not None for each in (queries.ra, queries.dec, *position)):
        angles = np.radians([queries.ra[number], queries.dec[number], *position])
        result["separation"] = (angular_separation(*angles) * u.rad).to(u.arcsec)
        taken.add("separation")
    for name in own.colnames:
        if name not in taken:
            result[name] = own[name]
    result.meta.update(columns.meta)
    return result
