"""Weights files: where they are, downloads, and safetensors. Nothing here needs torch."""

import json
from pathlib import Path

from astroclip._files import file_sha256
from astroclip.exceptions import CheckpointError
from astroclip.models.presets import PRESETS

__all__ = [
    "DATA",
    "download_weights",
    "existing_file",
    "find_weights",
    "read_safetensors",
    "redshift_head_settings",
]

DATA = Path(__file__).parents[1] / "data"  # files that ship with the package
SUFFIXES = (".safetensors", ".ckpt", ".pt")


def existing_file(path):
    """Return a path that is an existing file; raise an error that says what it is."""
    path = Path(path)
    if path.is_dir():
        msg = f"weights {str(path)!r} is a directory; expected a weights file. Name the file in it."
        raise IsADirectoryError(msg)
    if not path.exists():
        msg = f"weights file {str(path)!r} does not exist; check the path."
        raise FileNotFoundError(msg)
    return path


def find_weights(name):
    """Return the path of a model's weights, downloaded if need be, and its preset.

    Parameters
    ----------
    name : str or path-like
        As in `astroclip.load_model`.

    Returns
    -------
    path : `pathlib.Path`
    preset : `~astroclip.models.presets.ModelPreset` or None
        None for a file or a hub id that is no named model's.

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
    path, text = Path(name), str(name)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        if len(files) != 1:
            msg = (
                f"model folder {text!r} holds {len(files)} weights files; expected one "
                f"(.safetensors, .ckpt or .pt). Name the file."
            )
            raise FileNotFoundError(msg)
        return files[0], None
    if path.exists():
        return path, None
    preset = next((p for p in PRESETS.values() if p.weights.repo_id == text), None)
    if preset is not None:
        return download_weights(text, preset.weights.filename), preset
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


def download_weights(repo_id, filename, *, sha256=None):
    """Fetch a weights file from the Hugging Face hub, or find it in the local cache.

    Parameters
    ----------
    repo_id : str
        Such as ``"polymathic-ai/astroclip"``.
    filename : str
    sha256 : str, optional
        Expected hash.

    Returns
    -------
    `pathlib.Path`

    Raises
    ------
    ConnectionError
        If the file is neither cached nor reachable.
    CheckpointError
        If its hash is another one.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(hf_hub_download(repo_id, filename))
    except HFValidationError as error:
        msg = f"model {repo_id!r} is no model name, file or hub id: {error}"
        raise ValueError(msg) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        msg = (
            f"{filename!r} of {repo_id!r} is not in the local cache and could not be fetched "
            f"from the Hugging Face hub ({type(error).__name__}). Connect to the network, or "
            f"download the file elsewhere and pass its path to load_model."
        )
        raise ConnectionError(msg) from error
    if sha256 is not None and file_sha256(path) != sha256:
        msg = (
            f"{str(path)!r} has sha256 {file_sha256(path)}; expected {sha256}. Delete the file "
            f"and fetch it again."
        )
        raise CheckpointError(msg)
    return path


def read_safetensors(path, *, framework="pt", prefix=""):
    """Read a safetensors file.

    Parameters
    ----------
    path : path-like
    framework : str
        ``"pt"`` for tensors of torch, ``"np"`` for arrays of numpy.
    prefix : str
        How the names of the wanted tensors begin.

    Returns
    -------
    tensors : dict of str to `torch.Tensor` or `numpy.ndarray`
    config : dict
        The model's configuration, JSON in the file's metadata; empty where there is none.

    Raises
    ------
    CheckpointError
        If the file is no safetensors file, damaged, or has another configuration.
    """
    from safetensors import SafetensorError, safe_open

    path = existing_file(path)
    try:
        with safe_open(path, framework=framework) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            text = (file.metadata() or {}).get("config", "{}")
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        msg = (
            f"weights file {str(path)!r} is no readable safetensors file ({error}). Check that "
            f"it is complete."
        )
        raise CheckpointError(msg) from error
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"weights file {str(path)!r} has an unreadable configuration: {error}."
        raise CheckpointError(msg) from error
    if not isinstance(config, dict):
        msg = f"weights file {str(path)!r} has the configuration {text[:40]!r}; expected a dict."
        raise CheckpointError(msg)
    return tensors, config


def redshift_head_settings(config, shapes):
    """Return the settings of a weights file's redshift heads, checked against its tensors.

    Parameters
    ----------
    config : dict or None
        Entry ``redshift_head`` of the file's configuration: ``n_bins``, ``largest`` (upper
        edge of the last bin), ``scale`` (length that embeddings are given) and
        ``temperature`` (divides the logits). The first and the last may be given by modality.
    shapes : dict of str to tuple of int
        Of the file's tensors. A head is ``redshift_head.<modality>.weight`` (bins, dim) and
        ``redshift_head.<modality>.bias`` (bins); other tensors are passed over.

    Returns
    -------
    dict of str to dict
        ``largest``, ``scale`` and ``temperature`` as floats, by modality. Empty for a file
        without heads.

    Raises
    ------
    CheckpointError
        If the configuration does not fit the tensors, or one of them is missing.
    """
    settings = {}
    for modality in ("spectrum", "image"):
        weight, bias = (
            shapes.get(f"redshift_head.{modality}.{part}") for part in ("weight", "bias")
        )
        if weight is None and bias is None:
            continue
        if weight is None or len(weight) != 2 or bias is None or tuple(bias) != (weight[0],):
            msg = (
                f"the weights file's {modality} redshift head has weight {weight} and bias "
                f"{bias}; expected shapes (bins, dim) and (bins,). Check that it is complete."
            )
            raise CheckpointError(msg)
        where = f"the configuration of the weights file, entry 'redshift_head' ({modality} head),"
        if not isinstance(config, dict):
            msg = (
                f"{where} is {config!r}; expected n_bins, largest, scale and temperature, "
                f"without which the tensors define no redshifts. Write the file with "
                f"astroclip.training."
            )
            raise CheckpointError(msg)
        values = {
            key: entry.get(modality) if isinstance(entry := config.get(key), dict) else entry
            for key in ("n_bins", "largest", "scale", "temperature")
        }
        for key, value in values.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (is_number and 0 < value < 1e30):
                msg = f"{where} has {key} {value!r}; expected a positive number."
                raise CheckpointError(msg)
        if values.pop("n_bins") != weight[0]:
            msg = f"{where} has n_bins {config['n_bins']!r}; its tensors have {weight[0]}."
            raise CheckpointError(msg)
        settings[modality] = {key: float(value) for key, value in values.items()}
    if config and not settings:
        msg = (
            "the weights file's configuration names a redshift head and its tensors lack "
            "redshift_head.<modality>.weight. Check that it is complete."
        )
        raise CheckpointError(msg)
    return settings
