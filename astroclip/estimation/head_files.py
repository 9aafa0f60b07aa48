"""Learned heads as settings and arrays of one file, and back."""

import numpy as np
from astropy import units as u

from astroclip.estimation.files import read_archive, write_archive
from astroclip.estimation.heads import ClassHead, NumberHead
from astroclip.estimation.neighbors import LabelledRows
from astroclip.estimation.perceptron import Layers
from astroclip.estimation.properties import Property
from astroclip.estimation.scales import make_scale
from astroclip.tables import embedding_matrix, make_embedding_table

__all__ = ["read_heads", "write_heads"]

FORMAT = "astroclip-few-shot"
FORMAT_VERSION = "1"
MAKER = "FewShotEstimator.save"
GROUP_NUMBERS = ("threshold", "typical_distance", "dimension", "n_neighbors", "n_reference")


def write_heads(path, parameters, meta, properties, heads, groups):
    """Write heads to one file.

    Parameters
    ----------
    path : path-like
    parameters : dict
        Of the estimator.
    meta : dict of str to str
        The model of the embeddings.
    properties : dict of str to `~astroclip.estimation.properties.Property`
    heads, groups : dict
        Head and `~astroclip.estimation.neighbors.LabelledRows` by (modality, property).
    """
    arrays, entries = {}, []
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}
    for number, ((kind, name), head) in enumerate(heads.items()):
        entry = {
            "modality": kind, "property": name, "score": float(head.score),
            "score_error": float(head.score_error), "n_layers": len(head.layers.weights),
            "support": numbers[groups[kind, name]],
        }  # fmt: skip
        for layer, values in enumerate(zip(head.layers.weights, head.layers.biases, strict=True)):
            for part, array in zip(("weight", "bias"), values, strict=True):
                arrays[f"head{number}_{part}{layer}"] = array
        if properties[name].classes is None:
            arrays[f"head{number}_residuals"] = head.residuals
        else:
            entry["temperature"] = float(head.temperature)
        entries.append(entry)
    for group, number in numbers.items():
        arrays[f"support{number}_id"] = np.asarray(group.table["id"]).astype(str)
        arrays[f"support{number}_embedding"] = embedding_matrix(group.table)[0]
    settings = {
        "parameters": _plain_parameters(parameters),
        "meta": meta,
        "properties": [_describe(found) for found in properties.values()],
        "heads": entries,
        "supports": [
            {key: getattr(group, key) for key in GROUP_NUMBERS}
            | {"modality": str(group.table["modality"][0])}
            for group in numbers
        ],
    }
    write_archive(path, settings, arrays, format_name=FORMAT, version=FORMAT_VERSION)


def _plain_parameters(parameters):
    """Return settings of an estimator as JSON can hold them."""
    plain = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            plain[name] = {key: _plain_period(period) for key, period in value.items()}
        elif isinstance(value, str) or value is None:
            plain[name] = value
        else:
            plain[name] = np.asarray(value).tolist()
    return plain


def _plain_period(period):
    if isinstance(period, u.Quantity):
        return [float(period.value), period.unit.to_string()]
    return [float(period), None]


def _describe(found):
    """Return a property as JSON can hold it."""
    return {
        "name": found.name,
        "unit": None if found.unit is None else found.unit.to_string(),
        "scale": None if found.scale is None else found.scale.name,
        "period": None if found.scale is None else found.scale.period,
        "classes": None if found.classes is None else found.classes.tolist(),
    }


def read_heads(path):
    """Read a file that `write_heads` wrote.

    Returns
    -------
    parameters, meta, properties, heads, groups : dict
        As `write_heads` takes them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is another one, of another version, or damaged.
    """
    settings, arrays = read_archive(
        path, format_name=FORMAT, version=FORMAT_VERSION, maker=MAKER
    )
    meta = settings["meta"]
    properties = {entry["name"]: _property(entry) for entry in settings["properties"]}
    supports = [
        _support(entry, arrays, number, meta) for number, entry in enumerate(settings["supports"])
    ]
    heads, groups = {}, {}
    for number, entry in enumerate(settings["heads"]):
        key = entry["modality"], entry["property"]
        heads[key] = _head(entry, arrays, number, properties[entry["property"]])
        groups[key] = supports[entry["support"]]
    return _parameters(settings["parameters"]), meta, properties, heads, groups


def _parameters(plain):
    """Return settings of an estimator as they were given."""
    parameters = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    if parameters.get("circular") is not None:
        parameters["circular"] = {
            name: number if unit is None else number * u.Unit(unit)
            for name, (number, unit) in parameters["circular"].items()
        }
    return parameters


def _property(entry):
    unit = None if entry["unit"] is None else u.Unit(entry["unit"])
    if entry["classes"] is not None:
        return Property(entry["name"], classes=np.asarray(entry["classes"]))
    return Property(entry["name"], unit, make_scale(entry["scale"], entry["period"]))


def _head(entry, arrays, number, found):
    """Return a head of its entry and arrays."""
    weights, biases = (
        [arrays[f"head{number}_{part}{layer}"] for layer in range(entry["n_layers"])]
        for part in ("weight", "bias")
    )
    layers = Layers(weights, biases)
    scores = entry["score"], entry["score_error"]
    if found.classes is not None:
        return ClassHead(layers, found.classes, entry["temperature"], *scores)
    return NumberHead(layers, found.scale, arrays[f"head{number}_residuals"], *scores)


def _support(entry, arrays, number, meta):
    """Return the examples that objects are compared with."""
    ids = arrays[f"support{number}_id"]
    table = make_embedding_table(
        ids, entry["modality"], arrays[f"support{number}_embedding"], coverage=1.0,
        flags=np.zeros(len(ids), dtype=int), model_name=meta["MODEL"],
        weights_sha256=meta["WSHA"], preparation_version=meta["PREPVER"],
    )  # fmt: skip
    group = LabelledRows(
        table, np.arange(len(table)), n_neighbors=entry["n_neighbors"],
        n_reference=entry["n_reference"],
    )
    for name in ("threshold", "typical_distance", "dimension"):
        setattr(group, name, entry[name])
    return group
