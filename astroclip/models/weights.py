"""Weights files: safetensors, hashes, and downloads from a hub on request."""

import hashlib
from pathlib import Path

from astroclip.exceptions import CheckpointError

__all__ = ["download_weights", "existing_file", "file_sha256", "read_safetensors"]


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
