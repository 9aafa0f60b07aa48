"""Files of few-shot estimators: safetensors arrays with JSON and a checksum, nothing pickled."""

import hashlib
import json
from pathlib import Path

import numpy as np
from astropy import units as u

from astroclip._files import written
from astroclip.estimation.neighbors import LabeledRows
from astroclip.estimation.probes import ClassProbe, NumberProbe
from astroclip.estimation.properties import SCALES, CircularScale, Property
from astroclip.tables import embedding_matrix, make_embedding_table

__all__ = ["read_probes", "write_probes"]

FORMAT = "astroclip-few-shot"
FORMAT_VERSION = "2"
REFERENCE_NUMBERS = ("threshold", "typical_distance", "dimension", "n_neighbors", "n_reference")


def write_probes(path, parameters, meta, properties, probes, references):
    """Write what a `FewShotEstimator` learned to one file, complete or not at all.

    Parameters
    ----------
    path : path-like
        An existing file is replaced.
    parameters : dict
        Of the estimator.
    meta : dict of str to str
        The model of the embeddings.
    properties : dict of str to `~astroclip.estimation.properties.Property`
    probes, references : dict
        Probe and `~astroclip.estimation.neighbors.LabeledRows` by (modality, property).
    """
    from safetensors.numpy import save_file

    arrays, entries = {}, []
    numbers = {reference: n for n, reference in enumerate(dict.fromkeys(references.values()))}
    for number, ((modality, name), probe) in enumerate(probes.items()):
        for layer, (weight, bias) in enumerate(probe.layers):
            arrays[f"probe{number}.layer{layer}.weight"] = weight
            arrays[f"probe{number}.layer{layer}.bias"] = bias
        entry = {
            "modality": modality, "property": name, "score": float(probe.score),
            "score_error": float(probe.score_error), "n_layers": len(probe.layers),
            "reference": numbers[references[modality, name]],
        }  # fmt: skip
        if properties[name].classes is None:
            arrays[f"probe{number}.residuals"] = probe.residuals
        else:
            entry["temperature"] = float(probe.temperature)
        entries.append(entry)
    for reference, number in numbers.items():
        arrays[f"reference{number}.embedding"] = embedding_matrix(reference.table)[0]
    settings = {
        "parameters": {name: _plain(value) for name, value in parameters.items()},
        "meta": meta,
        "properties": [
            {
                "name": prop.name,
                "unit": None if prop.unit is None else prop.unit.to_string(),
                "scale": next(
                    (name for name, scale in SCALES.items() if type(prop.scale) is scale), None
                ),
                "period": getattr(prop.scale, "period", None),
                "classes": None if prop.classes is None else prop.classes.tolist(),
            }
            for prop in properties.values()
        ],
        "probes": entries,
        "references": [
            {
                "modality": str(reference.table["modality"][0]),
                "ids": np.asarray(reference.table["id"]).astype(str).tolist(),
                **{key: getattr(reference, key) for key in REFERENCE_NUMBERS},
            }
            for reference in numbers
        ],
    }
    text = json.dumps(settings)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {
        "format": FORMAT, "version": FORMAT_VERSION, "settings": text,
        "sha256": _checksum(text, arrays),
    }  # fmt: skip
    with written(path) as partial:
        save_file(arrays, partial, metadata=metadata)


def _plain(value):
    """Return a setting of an estimator as JSON can hold it."""
    if isinstance(value, dict):  # periods of angles
        return {
            name: [float(u.Quantity(period).value), u.Quantity(period).unit.to_string()]
            if isinstance(period, u.Quantity) else [float(period), None]
            for name, period in value.items()
        }  # fmt: skip
    return value if isinstance(value, str) or value is None else np.asarray(value).tolist()


def _checksum(text, arrays):
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def read_probes(path):
    """Read a file that `write_probes` wrote.

    Returns
    -------
    parameters, meta, properties, probes, references : dict
        As `write_probes` takes them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is another one, of another version, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        msg = f"path {str(path)!r} is no file; expected one written by FewShotEstimator.save."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") == FORMAT and metadata.get("version") == FORMAT_VERSION:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        msg = (
            f"path {str(path)!r} is no readable file of its kind ({error}); expected one written "
            f"by FewShotEstimator.save."
        )
        raise ValueError(msg) from error
    for key, wanted in (("format", FORMAT), ("version", FORMAT_VERSION)):
        if metadata.get(key) != wanted:
            msg = (
                f"path {str(path)!r} has {key} {metadata.get(key)!r}; expected {wanted!r}. Save "
                f"the estimator again with this version of astroclip."
            )
            raise ValueError(msg)
    text = metadata.get("settings", "")
    if _checksum(text, arrays) != metadata.get("sha256"):
        msg = f"path {str(path)!r} is damaged: its checksum differs. Save the estimator again."
        raise ValueError(msg)
    try:
        return _parse(json.loads(text), arrays)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        msg = (
            f"path {str(path)!r} holds no complete estimator ({error}); expected a file written "
            f"by FewShotEstimator.save."
        )
        raise ValueError(msg) from error


def _parse(settings, arrays):
    """Return what a file's settings and arrays describe; raise an error if they do not fit."""
    parameters = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings["parameters"].items()
    }
    if parameters["circular"] is not None:
        parameters["circular"] = {
            name: number if unit is None else number * u.Unit(unit)
            for name, (number, unit) in parameters["circular"].items()
        }
    properties = {}
    for entry in settings["properties"]:
        if entry["classes"] is not None:
            prop = Property(entry["name"], classes=np.asarray(entry["classes"]))
        else:
            kind = SCALES[entry["scale"]]
            scale = kind(entry["period"]) if kind is CircularScale else kind()
            unit = None if entry["unit"] is None else u.Unit(entry["unit"])
            prop = Property(entry["name"], unit, scale)
        properties[prop.name] = prop
    meta = settings["meta"]
    references = []
    for number, entry in enumerate(settings["references"]):
        n_rows, n_neighbors = len(entry["ids"]), entry["n_neighbors"]
        if not 0 < n_neighbors <= n_rows:
            msg = f"reference {number} has {n_rows} rows for {n_neighbors} neighbors"
            raise ValueError(msg)
        table = make_embedding_table(
            entry["ids"], entry["modality"], arrays[f"reference{number}.embedding"], coverage=1.0,
            flags=np.zeros(n_rows, dtype=int), model_name=meta["MODEL"],
            weights_sha256=meta["WSHA"], preparation_version=meta["PREPVER"],
        )  # fmt: skip
        reference = LabeledRows(
            table, np.arange(n_rows), n_neighbors=n_neighbors, n_reference=entry["n_reference"]
        )
        for name in ("threshold", "typical_distance", "dimension"):
            setattr(reference, name, float(entry[name]))
        references.append(reference)
    probes, labeled = {}, {}
    for number, entry in enumerate(settings["probes"]):
        key = entry["modality"], entry["property"]
        prop = properties[entry["property"]]
        labeled[key] = reference = references[entry["reference"]]
        layers, n_outputs = [], reference.table["embedding"].shape[1]
        for layer in range(entry["n_layers"]):
            weight, bias = (
                arrays[f"probe{number}.layer{layer}.{part}"] for part in ("weight", "bias")
            )
            if weight.shape != (len(bias), n_outputs):
                msg = f"layer {layer} of probe {number} has a weight of shape {weight.shape}"
                raise ValueError(msg)
            layers.append((weight, bias))
            n_outputs = len(bias)
        scores = entry["score"], entry["score_error"]
        if prop.classes is not None:
            wanted = len(prop.classes)
            probes[key] = ClassProbe(layers, prop.classes, float(entry["temperature"]), *scores)
        else:
            wanted = prop.scale.targets(np.zeros(1)).shape[1]
            residuals = arrays[f"probe{number}.residuals"]
            probes[key] = NumberProbe(layers, prop.scale, residuals, *scores)
        if not layers or n_outputs != wanted:
            msg = f"probe {number} gives {n_outputs} numbers; expected {wanted}"
            raise ValueError(msg)
    missing = set(properties) - {name for _, name in probes}
    if missing or not probes:
        msg = f"there is no probe of {sorted(missing)}"
        raise ValueError(msg)
    return parameters, meta, properties, probes, labeled
