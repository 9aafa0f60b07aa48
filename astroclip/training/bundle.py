"""Make the files that ship: weights, reference table, previews and the model card."""

import io
import json
from pathlib import Path

import numpy as np
import torch

from astroclip.models.small import ARCSINH_SCALES
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.simulation.pairs import PROPERTIES
from astroclip.training.align import INSTRUMENTS, VARIED_SHARE, redshift_temperatures
from astroclip.training.objective import HEAD_SCALE
from astroclip.training.observers import Observer, encode_pairs
from astroclip.training.run import load_trained

__all__ = ["embed_pairs", "export_weights", "write_bundle"]

MODEL_NAME = "astroclip-small"
PREVIEW_SIZE = 48
PREVIEW_BINNING = 16
# data sets of the reference: galaxies, and the share recorded by a random instrument
REFERENCE_SETS = {
    "reference-mix": (7_000, 0.0),
    "reference-wide": (2_500, 1.0),
    "reference-flat": (1_500, 1.0),
}
DISPLAY_SCALES = (10.0, 6.0, 3.0)  # g, r, z; arcsinh display of nanomaggies per pixel


def export_weights(module, path, *, temperature=None):
    """Write an alignment's encoders and redshift heads as float16 safetensors.

    Complete or not at all.

    Parameters
    ----------
    module : `~astroclip.training.align.Alignment`
    path : path-like
        The file's metadata holds what `astroclip.load_model` needs to rebuild them.
    temperature : dict of str to float, optional
        Of the redshift heads by modality, from
        `~astroclip.training.align.redshift_temperatures`; one by default.

    Raises
    ------
    ValueError
        If a weight is not finite.
    """
    from safetensors.torch import save

    parts = {
        "spectrum_encoder": module.spectrum_encoder,
        "image_encoder": module.image_encoder,
    }
    has_heads = "spectrum_redshift" in module.settings.losses  # else they have learned nothing
    if has_heads:
        parts |= {
            "redshift_head.spectrum": module.spectrum_redshift,
            "redshift_head.image": module.image_redshift,
        }
    state = {}
    for prefix, part in parts.items():
        for name, tensor in part.state_dict().items():
            tensor = tensor.half() if tensor.is_floating_point() else tensor
            state[f"{prefix}.{name}"] = tensor.contiguous(memory_format=torch.contiguous_format)
    not_finite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if not_finite:
        msg = f"weights {not_finite} are not finite in float16; the training diverged."
        raise ValueError(msg)
    config = {"name": MODEL_NAME, **module.config()}
    if has_heads:
        config["redshift_head"] = {
            "n_bins": {
                "spectrum": module.spectrum_redshift.out_features,
                "image": module.image_redshift.out_features,
            },
            "largest": module.settings.largest_redshift,
            "scale": HEAD_SCALE,
            "temperature": {"spectrum": 1.0, "image": 1.0, **(temperature or {})},
        }
    write_bytes(path, save(state, metadata={"config": json.dumps(config, sort_keys=True)}))


def write_bytes(path, content):
    """Write bytes beside ``path``, then rename."""
    path = Path(path)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)


def write_arrays(path, arrays):
    """Write a compressed archive of arrays, complete or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def embed_pairs(model, pairs, *, varied_share=0.0, seed=0, **varied):
    """Observe noiseless pairs once and embed both views.

    Parameters
    ----------
    model : `~astroclip.models.loading.EmbeddingModel`
    pairs : dict of str to `numpy.ndarray`
    varied_share : float
        Fraction of spectra recorded by a random instrument instead of DESI's.
    seed : int
    **varied
        Options of `~astroclip.simulation.spectrographs.observe_spectra_varied`.

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``spectrum_embedding`` and ``image_embedding`` (N, D) unit vectors,
        ``spectrum_coverage`` (N,), and what was observed: ``flux`` (N, P) float32 and
        ``pixels`` (N, 3, S, S), normalized network input.
    """

    def encode(seen):
        flux, ivar, mask = (values.numpy() for values in vars(seen.spectra).values())
        pixels, pixel_mask = seen.pixels.numpy(), seen.pixel_mask.numpy()
        return {
            "spectrum_embedding": model.encode_spectra(flux, ivar, mask),
            "image_embedding": model.encode_images(pixels, pixel_mask),
            "spectrum_coverage": 1.0 - mask.mean(axis=1, dtype=np.float32),
            "flux": flux,
            "pixels": pixels,
        }

    light = {name: pairs[name] for name in ("spectrum", "image", "seeing")}
    observer = Observer(varied_share=varied_share, **varied)
    return encode_pairs(encode, light, observer=observer, seed=seed)


def _spectrum_previews(flux):
    """Return spectra binned by 16 pixels and scaled to 0-255 (N, P / 16) uint8."""
    n_bins = flux.shape[1] // PREVIEW_BINNING
    binned = flux[:, : n_bins * PREVIEW_BINNING].reshape(len(flux), n_bins, -1).mean(axis=2)
    top = np.percentile(binned, 99.5, axis=1, keepdims=True)
    return np.round(255 * np.clip(binned / np.maximum(top, 1e-6), 0, 1)).astype(np.uint8)


def _image_previews(inputs):
    """Return display pictures (N, S, S, 3) uint8 of normalized images (N, 3, S, S)."""
    margin = (inputs.shape[-1] - PREVIEW_SIZE) // 2
    window = slice(margin, margin + PREVIEW_SIZE)
    nanomaggies = np.sinh(2 * inputs[:, :, window, window])
    nanomaggies /= np.array(ARCSINH_SCALES)[None, :, None, None]
    colours = nanomaggies * np.array(DISPLAY_SCALES)[None, :, None, None]
    mean = np.clip(colours.mean(axis=1, keepdims=True), 1e-6, None)
    display = colours * np.arcsinh(8 * mean) / (3.5 * mean)
    return np.round(255 * np.clip(display[:, ::-1], 0, 1)).astype(np.uint8).transpose(0, 2, 3, 1)


def _jpeg(picture):
    """Return a picture's JPEG file as bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=55)
    return buffer.getvalue()


def write_reference(workspace, model, output):
    """Write ``reference.npz`` and ``reference_previews.npz`` of pairs never trained on."""
    parts = []
    recipe = workspace.recipe
    for name, (n_pairs, varied_share) in REFERENCE_SETS.items():
        pairs = workspace.read(name, n_pairs=n_pairs)
        seen = embed_pairs(
            model, pairs, varied_share=varied_share, seed=recipe.align.seed, **INSTRUMENTS
        )
        parts.append({**seen, **{key: pairs[key] for key in PROPERTIES}})
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    jpegs = [_jpeg(picture) for picture in _image_previews(data.pop("pixels"))]
    previews = {
        "jpeg": np.frombuffer(b"".join(jpegs), dtype=np.uint8),
        "jpeg_start": np.cumsum([0, *map(len, jpegs)]),
        "spectrum": _spectrum_previews(data.pop("flux")),
    }
    n_bins = previews["spectrum"].shape[1]
    used = WAVELENGTH[: n_bins * PREVIEW_BINNING].reshape(n_bins, -1)
    previews["wavelength"] = used.mean(axis=1)
    for name in ("spectrum_embedding", "image_embedding"):
        data[name] = data[name].astype(np.float16)
    data["properties"] = np.array(PROPERTIES)
    data["model_name"] = np.array(MODEL_NAME)
    data["weights_sha256"] = np.array(model.weights_sha256)
    write_arrays(output / "reference.npz", data)
    write_arrays(output / "reference_previews.npz", previews)


def write_bundle(workspace, output, *, recipe_name="small", real_data=None):
    """Write everything that ships of a trained workspace.

    Parameters
    ----------
    workspace : `~astroclip.training.data.Workspace`
        Trained by ``astroclip train``.
    output : path-like
        Folder for ``astroclip-small.safetensors``, ``reference.npz``,
        ``reference_previews.npz`` and ``MODEL_CARD.rst``.
    recipe_name : str
        For the card's commands.
    real_data : path-like, optional
        Folder of real spectra to score on (see `astroclip.evaluation.read_real_spectra`).
    """
    from astroclip.models import load_model
    from astroclip.training.card import write_card

    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    weights = output / f"{MODEL_NAME}.safetensors"
    alignment = load_trained("align", workspace.recipe, workspace.folder)
    recipe = workspace.recipe
    temperature = None
    if "spectrum_redshift" in recipe.align.losses:
        temperature = redshift_temperatures(
            alignment, workspace.read("validation"), seed=recipe.align.seed,
            varied_share=VARIED_SHARE, **INSTRUMENTS,
        )
    export_weights(alignment, weights, temperature=temperature)
    model = load_model(weights)
    write_reference(workspace, model, output)
    scale = float(alignment.scale().detach())
    write_card(workspace, model, output, scale=scale, recipe_name=recipe_name, real_data=real_data)
