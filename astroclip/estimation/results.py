"""Tables of results: one row per object, columns filled part by part."""

import numpy as np
from astropy.table import QTable

from astroclip.estimation.properties import add_columns

__all__ = ["SUPPORT", "ResultTable", "answering_modality", "support_prefixes"]

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


def answering_modality(fitted, kind, name):
    """Return the modality whose fit of a property answers for objects of a modality.

    Parameters
    ----------
    fitted : dict
        By modality and property.
    kind, name : str
        Modality of the objects, and the property.

    Returns
    -------
    str
        Their own if the property was known of it, else one of which it was.
    """
    if (kind, name) in fitted:
        return kind
    return next(other for other, known in fitted if known == name)


def support_prefixes(groups, names):
    """Return what goes before the support columns of properties, as `ResultTable.finish` takes it.

    Parameters
    ----------
    groups : dict
        The labelled rows of each modality and property.
    names : sequence of str
        Properties. Those known of the same rows as the first share its columns.

    Returns
    -------
    dict of str to str
    """

    def rows_of(name):
        return {kind: group for (kind, known), group in groups.items() if known == name}

    prefixes = {f"{names[0]} support": ""}
    for name in names[1:]:
        if rows_of(name) != rows_of(names[0]):
            prefixes[f"{name} support"] = f"{name}_"
    return prefixes
