"""Weights files: safetensors, hashes, and downloads from a hub on request."""

import hashlib
from pathlib import Path

from astroclip.exceptions import CheckpointError

__all__ = [
    "download_weights", "existing_file", "file_sha256", "read_safetensors",
    "redshift_head_settings",
]


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


def read_safetensors(path):
    """Read a safetensors file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    tensors : dict of str to `torch.Tensor`
    metadata : dict of str to str

    Raises
    ------
    CheckpointError
        If the file is no safetensors file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = existing_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        msg = (
            f"weights file {str(path)!r} is no readable safetensors file ({error}). Check that "
            f"it is complete."
        )
        raise CheckpointError(msg) from error


def file_sha256(path):
    """Return the sha256 of a file as a hexadecimal string."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download_weights(repo_id, filename, *, revision=None, sha256=None):
    """Fetch a weights file from the Hugging Face hub, or find it in the local cache.

    Parameters
    ----------
    repo_id : str
        Such as ``"polymathic-ai/astroclip"``.
    filename : str
    revision : str, optional
        Branch, tag or commit.
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
        path = Path(hf_hub_download(repo_id, filename, revision=revision))
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
