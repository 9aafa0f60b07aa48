"""Where a model's weights are. No torch here."""

from pathlib import Path

from astroclip.models.presets import PRESETS
from astroclip.models.weights import download_weights, existing_file

__all__ = ["DATA", "find_weights"]

DATA = Path(__file__).parents[1] / "data"
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
