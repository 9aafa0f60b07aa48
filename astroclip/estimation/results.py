"""Tables of results: one row per object, columns filled part by part."""

import numpy as np
from astropy.table import QTable

from astroclip.estimation.properties import add_columns

__all__ = ["SUPPORT", "ResultTable"]

SUPPORT = ("n_effective", "nearest_similarity", "out_of_distribution", "n_reference",
           "local_density")
FAILED = {"out_of_distribution": True, "n_reference": 0}  # NaN for all others


class ResultTable:
    """Gathers estimates of an embedding table's rows.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        Whose rows, ids, modalities and meta the result has.
    """

    def __init__(self, table):
        self.table = table
        self.kinds = np.asarray(table["modality"]).astype(str)
        self._columns = {}

    def fill(self, name, rows, columns):
        """Set columns of a property, or of the support of its estimates, in some rows.

        Parameters
        ----------
        name : str
        rows : (n,) int `numpy.ndarray`
        columns : dict of str to (n,) `numpy.ndarray`
        """
        parts = self._columns.setdefault(name, {})
        for suffix, values in columns.items():
            if suffix not in parts:
                failed = FAILED.get(suffix, np.nan)
                parts[suffix] = np.full(len(self.table), failed)
            parts[suffix][rows] = values

    def finish(self, properties, supports):
        """Return the table.

        Parameters
        ----------
        properties : sequence of `~astroclip.estimation.properties.Property`
        supports : dict of str to str
            What goes before the names of support columns, by the name they were filled
            under.

        Returns
        -------
        `~astropy.table.QTable`
        """
        result = QTable()
        result["id"] = np.asarray(self.table["id"]).astype(str)
        result["modality"] = self.kinds
        for found in properties:
            add_columns(result, found, self._columns[found.name])
        for name, prefix in supports.items():
            columns = self._columns[name]
            for suffix in SUPPORT:
                if suffix in columns:
                    result[f"{prefix}{suffix}"] = columns[suffix]
        result.meta.update(self.table.meta)
        return result
