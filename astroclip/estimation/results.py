"""Tables of results: one row per object, filled a block of rows at a time."""

import numpy as np
from astropy.table import MaskedColumn, QTable

__all__ = ["estimate_table"]

BLOCK = 20_000  # objects whose neighbors are held at a time: bounds the memory
SUPPORT = ("n_effective", "nearest_similarity", "out_of_distribution", "n_reference",
           "local_density")  # fmt: skip
FAILED = {"out_of_distribution": True, "n_reference": 0}  # NaN for all others


def estimate_table(table, properties, references, estimate, *, exclude_self=False):
    """Estimate properties of an embedding table's rows and return them as a table.

    Parameters
    ----------
    table : `~astropy.table.QTable`
    properties : sequence of `~astroclip.estimation.properties.Property`
    references : dict of (str, str) to `~astroclip.estimation.neighbors.LabeledRows`
        By modality and name of the property. Objects of a modality without labels are
        compared with the other modality.
    estimate : callable
        Takes a key of ``references``, rows (n,) of the table and their
        `~astroclip.estimation.neighbors.Neighbors` among the labeled rows; returns the
        property's columns (n,) by suffix, and further columns of support by name.
    exclude_self : bool
        Leave out reference rows of the object's own id.

    Returns
    -------
    `~astropy.table.QTable`
        Columns ``id`` and ``modality``, those of the properties, and the support of the
        first property: ``nearest_similarity``, ``out_of_distribution``, ``n_reference`` and
        ``local_density``. A property whose labels are on other rows than the first's has
        support columns of its own, such as ``dust_n_reference``.

    Raises
    ------
    ValueError
        If two columns of the result would have one name.
    """
    modalities = np.asarray(table["modality"]).astype(str)
    columns = {prop.name: {} for prop in properties}
    supports = {prop.name: {} for prop in properties}
    blocks = [
        (modality, rows[first : first + BLOCK])
        for modality in np.unique(modalities).tolist()
        for rows in [np.flatnonzero(modalities == modality)]
        for first in range(0, len(rows), BLOCK)
    ]
    for modality, rows in blocks:
        queries, neighbors = table[rows], {}
        for prop in properties:
            key = (modality, prop.name)
            if key not in references:
                key = next(other for other in references if other[1] == prop.name)
            reference = references[key]
            if reference not in neighbors:
                neighbors[reference] = reference.find(queries, exclude_self=exclude_self)
            near = neighbors[reference]
            values, support = estimate(key, rows, near)
            support |= reference.support(near)
            for parts, new in ((columns[prop.name], values), (supports[prop.name], support)):
                for name, part in new.items():
                    if name not in parts:
                        parts[name] = np.full(len(table), FAILED.get(name, np.nan))
                    parts[name][rows] = part

    result = QTable()
    result["id"] = np.asarray(table["id"]).astype(str)
    result["modality"] = modalities
    for prop in properties:
        for suffix, values in columns[prop.name].items():
            name = f"{prop.name}{suffix}"
            if name in result.colnames:
                msg = (
                    f"the result has two columns {name!r}: properties or classes whose names go "
                    f"on like those of {prop.name!r} clash. Rename a column, or estimate them "
                    f"apart."
                )
                raise ValueError(msg)
            if prop.classes is not None and suffix == "":
                failed = np.isnan(values)  # values are the numbers of classes
                classes = prop.classes[np.where(failed, 0, values).astype(int)]
                if classes.dtype.kind == "U":
                    classes = np.where(failed, "", classes)
                result[name] = MaskedColumn(classes, mask=failed)
            elif prop.unit is not None and prop.classes is None:
                result[name] = values * prop.unit
            else:
                result[name] = values
    labeled = {
        prop.name: {key[0]: value for key, value in references.items() if key[1] == prop.name}
        for prop in properties
    }
    first = properties[0].name
    for name, support in supports.items():
        if name == first or labeled[name] != labeled[first]:
            prefix = "" if name == first else f"{name}_"
            for suffix in SUPPORT:
                if suffix in support:
                    result[f"{prefix}{suffix}"] = support[suffix]
    result.meta.update(table.meta)
    return result
