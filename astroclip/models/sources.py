"""Where a model's weights are, and its redshift heads as plain arrays. No torch here."""

import dataclasses
import json
from pathlib import Path

from astroclip.exceptions import CheckpointError
from astroclip.models.presets import PRESETS
from astroclip.models.weights import download_weights, existing_file, file_sha256
from astroclip.redshifts.head import HEAD_SCALE, LinearRedshiftHead

__all__ = ["DATA", "HeadFile", "find_weights", "head_settings", "read_redshift_heads"]

DATA = Path(__file__).parents[1] / "data"
HEAD_PREFIX = "redshift_head."
SUFFIXES = (".safetensors", ".ckpt", ".pt")


def find_weights(name):
    """Return the path of a model's weights and its preset, None for a file.

    Parameters
    ----------
    name : str or path-like
        As in `astroclip.load_model`.

    Returns
    -------
    path : `pathlib.Path`
    preset : `~astroclip.models.presets.ModelPreset` or None

    Raises
    ------
    ValueError
        If there is no such name.
    FileNotFoundError, ConnectionError
        If the weights are not there and cannot be fetched.
    """
    if isinstance(name, str) and name in PRESETS:
        preset = PRESETS[name]
        source = preset.weights
        if source.bundled:
            return existing_file(DATA / source.filename), preset
        if source.repo_id is None:
            msg = (
                f"model {name!r} has no public weights; expected its file. Call "
                f"load_model('path/to/{source.filename}', preset={name!r})."
            )
            raise FileNotFoundError(msg)
        return download_weights(source.repo_id, source.filename, sha256=source.sha256), preset
    path = Path(name)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if len(files) != 1:
            msg = (
                f"model folder {str(path)!r} holds {len(files)} weights files; expected one "
                f"(.safetensors, .ckpt or .pt). Name the file."
            )
            raise FileNotFoundError(msg)
        return files[0], None
    if path.exists():
        return path, None
    hub = next((p for p in PRESETS.values() if p.weights.repo_id == str(name)), None)
    if hub is not None:
        return download_weights(hub.weights.repo_id, hub.weights.filename), hub
    text = str(name)
    looks_like_file = path.suffix in (*SUFFIXES, ".pth", ".bin")
    if text.count("/") == 1 and not looks_like_file and not text.startswith((".", "/", "~")):
        return download_weights(text, "model.safetensors"), None
    if looks_like_file or "/" in text:
        return existing_file(path), None
    msg = (
        f"model is {text!r}; expected one of {', '.join(PRESETS)}, a weights file, or a hub id "
        f"such as 'polymathic-ai/astroclip'."
    )
    raise ValueError(msg)


def head_settings(config, modality, *, n_bins):
    """Return what a weights file's configuration says of one redshift head.

    Parameters
    ----------
    config : dict or None
        The entry ``redshift_head``: ``n_bins``, ``largest``, ``scale`` and ``temperature``;
        the first and the last may be given by modality.
    modality : str
    n_bins : int
        Rows of the head's weight.

    Returns
    -------
    dict of str to float
        ``largest``, ``scale`` and ``temperature``; the last two 11 and 1 where the file is
        silent.

    Raises
    ------
    CheckpointError
        If the entry is missing, is not what it should be, or has other bins.
    """
    where = f"the configuration of the weights file, entry 'redshift_head' ({modality} head),"
    if not isinstance(config, dict) or not {"n_bins", "largest"} <= set(config):
        msg = (
            f"{where} is {config!r}; expected n_bins and largest, without which the head's "
            f"tensors mean no redshift. Write the file with export_weights."
        )
        raise CheckpointError(msg)
    stated = config["n_bins"]
    if isinstance(stated, dict):
        stated = stated.get(modality)
    if stated != n_bins:
        msg = f"{where} has n_bins {config['n_bins']!r}; its tensors have {n_bins}."
        raise CheckpointError(msg)
    temperature = config.get("temperature", {})
    if isinstance(temperature, dict):
        temperature = temperature.get(modality, 1.0)
    found = {
        "largest": config["largest"],
        "scale": config.get("scale", HEAD_SCALE),
        "temperature": temperature,
    }
    for key, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 < value < float("inf")):
            msg = f"{where} has {key} {value!r}; expected a positive number."
            raise CheckpointError(msg)
    return {key: float(value) for key, value in found.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class HeadFile:
    """The redshift heads of a weights file.

    Attributes
    ----------
    name : str
        For messages.
    weights_sha256 : str
        Of the whole file: embeddings of other weights mean nothing to its heads.
    heads : dict of str to `~astroclip.redshifts.head.LinearRedshiftHead`
        By modality.
    """

    name: str
    weights_sha256: str
    heads: dict


def read_redshift_heads(name):
    """Read the redshift heads of a model without loading the model.

    Parameters
    ----------
    name : str or path-like
        As in `astroclip.load_model`.

    Returns
    -------
    `HeadFile`

    Raises
    ------
    ValueError
        If the model has no redshift head, or there is no such name.
    CheckpointError
        If the file is damaged.
    FileNotFoundError, ConnectionError
        If the weights are not there and cannot be fetched.
    """
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is not None and preset.architecture != "small":  # before it is downloaded
        raise ValueError(_no_head(name))
    path, _ = find_weights(name)
    if path.suffix != ".safetensors":
        raise ValueError(_no_head(str(name)))
    arrays, config = _head_arrays(path)
    heads = {}
    for modality in ("spectrum", "image"):
        weight = arrays.get(f"{HEAD_PREFIX}{modality}.weight")
        bias = arrays.get(f"{HEAD_PREFIX}{modality}.bias")
        if weight is None and bias is None:
            continue
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            msg = (
                f"weights file {str(path)!r} lacks a part of its {modality} redshift head, or "
                f"has one of another shape; expected weight (B, D) and bias (B,)."
            )
            raise CheckpointError(msg)
        settings = head_settings(config, modality, n_bins=len(bias))
        heads[modality] = LinearRedshiftHead(weight, bias, **settings)
    if not heads:
        raise ValueError(_no_head(str(name)))
    return HeadFile(str(name), file_sha256(path), heads)


def _no_head(name):
    return (
        f"model {name!r} has no redshift head; expected a weights file with one, which "
        f"astroclip.training writes. Estimate from neighbors instead: "
        f"PropertyEstimator(method='neighbors')."
    )


def _head_arrays(path):
    """Return a safetensors file's float32 arrays of heads and their configuration."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = [key for key in file.keys() if key.startswith(HEAD_PREFIX)]  # noqa: SIM118
            arrays = {key: file.get_tensor(key).astype("float32") for key in names}
            config = json.loads((file.metadata() or {}).get("config", "{}"))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        msg = (
            f"weights file {str(path)!r} is no readable safetensors file ({error}). Check that "
            f"it is complete."
        )
        raise CheckpointError(msg) from error
    return arrays, config.get("redshift_head") if isinstance(config, dict) else None
