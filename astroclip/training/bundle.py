"""A trained model as files: weights that `astroclip.load_model` takes, and a reference table."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from astropy.table import vstack
from safetensors.torch import save_file

from astroclip._files import written
from astroclip.models.loading import load_model
from astroclip.preparation import PREPARATION_VERSION
from astroclip.simulation.pairs import PROPERTIES
from astroclip.tables import make_embedding_table, write_table
from astroclip.training.align import INSTRUMENTS, VARIED_SHARE, redshift_temperatures
from astroclip.training.objective import HEAD_SCALE
from astroclip.training.observers import Observer, encode_pairs
from astroclip.training.rest_frame import rest_frame
from astroclip.training.run import load_trained, read_sources_used
from astroclip.training.sources import read_source

__all__ = ["embed_recorded", "export_weights", "has_redshift_heads", "write_bundle"]

NAMES = {"align": "astroclip-small", "rest": "astroclip-small-rest"}
"""Presets whose preparation the models of an objective need."""
REFERENCE_SETS = {"reference-mix": 0.0, "reference-wide": 1.0, "reference-flat": 1.0}
"""Simulated pairs of the reference, and the share of spectra recorded by a random instrument."""


def write_bundle(workspace, output, *, objective="align", pairs=None, validation=None):
    """Write a trained model and its reference table.

    Parameters
    ----------
    workspace : `~astroclip.training.data.Workspace`
        Filled by `~astroclip.training.run.train`.
    output : path-like
        Folder for ``astroclip-small.safetensors`` and ``reference.fits``, or
        ``astroclip-small-rest.safetensors`` and ``reference-rest.fits``.
    objective : str
        ``"align"``, also for projections that were trained alone, or ``"rest"``.
    pairs : sequence of path-like or dict, optional
        What the reference holds, each as `~astroclip.training.sources.read_source` takes it; by
        default the pairs of one's own that the model was trained on, or else the workspace's
        simulated reference galaxies.
    validation : path-like or dict, optional
        Held-out pairs that the redshift heads are calibrated on; by default those of the
        training.

    Raises
    ------
    FileNotFoundError
        If the model was not trained, or there are no pairs.

    Notes
    -----
    The model's name, which tables of its embeddings carry, is that of the workspace's folder.
    """
    recipe, name, output = workspace.recipe, NAMES[objective], Path(output)
    module = load_trained(objective, recipe, workspace.folder)
    used = read_sources_used(workspace.folder / module.settings.folder)
    if used is not None and not workspace.pairs_folder("reference-mix").exists():
        pairs = used["pairs"] if pairs is None else pairs
        validation = used["validation"] if validation is None else validation
    if pairs is None:
        sources = {name: workspace.pairs_folder(name) for name in REFERENCE_SETS}
    else:
        sources = {f"pairs-{number}": source for number, source in enumerate(pairs)}
    temperature = None
    if has_redshift_heads(module):
        held = workspace.pairs_folder("validation") if validation is None else validation
        temperature = redshift_temperatures(
            module, read_source(held), seed=recipe.align.seed, varied_share=VARIED_SHARE,
            **INSTRUMENTS,
        )
    output.mkdir(parents=True, exist_ok=True)
    own_name = workspace.folder.absolute().name + ("-rest" if objective == "rest" else "")
    export_weights(
        module, output / f"{name}.safetensors", name=own_name, temperature=temperature
    )
    model = load_model(output / f"{name}.safetensors")
    tables = []
    for label, source in sources.items():
        part = read_source(source)
        observer = Observer(varied_share=REFERENCE_SETS.get(label, 0.0), **INSTRUMENTS)
        encoded = embed_recorded(model, part, observer=observer, seed=recipe.align.seed)
        known = {name: part[name] for name in PROPERTIES if name != "redshift"}
        n_pairs = len(part["redshift"])
        tables += [
            make_embedding_table(
                part["id"],
                modality,
                encoded[f"{modality}_embedding"],
                coverage=encoded[f"{modality}_coverage"],
                flags=np.zeros(n_pairs, dtype=np.int32),
                redshift=part["redshift"],
                model_name=model.name,
                weights_sha256=model.weights_sha256,
                preparation_version=PREPARATION_VERSION,
                extra_columns={"source": np.full(n_pairs, label), **known},
            )
            for modality in model.modalities
        ]
    suffix = "-rest" if objective == "rest" else ""
    table = vstack(tables, metadata_conflicts="silent")
    write_table(table, output / f"reference{suffix}.fits", overwrite=True)


def embed_recorded(model, pairs, *, observer=None, seed=0, keep_inputs=False):
    """Record pairs once and embed them.

    Parameters
    ----------
    model : `~astroclip.models.EmbeddingModel`
        In this package's layout; spectra are brought to rest at their redshifts if it takes them
        so.
    pairs : dict of str to `numpy.ndarray`
        From `~astroclip.training.sources.read_source`.
    observer : `~astroclip.training.observers.Observer`, optional
        The survey's instruments alone by default.
    seed : int
    keep_inputs : bool
        Whether to return what was recorded, too.

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``spectrum_embedding`` and ``image_embedding`` (N, D), unit vectors, and
        ``spectrum_coverage`` and ``image_coverage`` (N,), of the model's modalities; ``flux``
        (N, P) and ``pixels`` (N, 3, S, S), scaled as network input, on request.
    """
    if "image" not in model.modalities:
        pairs = {name: values for name, values in pairs.items() if name != "image"}

    def encode(seen):
        arrays = {}
        if "spectrum" in model.modalities:
            spectra = seen.spectra
            if model.preset.spectrum.frame == "rest":
                spectra = rest_frame(spectra, seen.redshift)
            flux, ivar, mask = (values.numpy() for values in vars(spectra).values())
            arrays["spectrum_embedding"] = model.encode_spectra(flux, ivar, mask)
            arrays["spectrum_coverage"] = 1.0 - mask.mean(axis=1, dtype=np.float32)
            if keep_inputs:
                arrays["flux"] = flux
        if "image" in model.modalities:
            pixels, mask = seen.pixels.numpy(), seen.pixel_mask.numpy()
            arrays["image_embedding"] = model.encode_images(pixels, mask)
            arrays["image_coverage"] = 1.0 - mask.mean(axis=(1, 2, 3), dtype=np.float32)
            if keep_inputs:
                arrays["pixels"] = pixels
        return arrays

    return encode_pairs(encode, pairs, observer=observer, seed=seed)


def has_redshift_heads(module):
    """Return whether the redshift heads of a module have learned anything."""
    return module.section == "align" and "spectrum_redshift" in module.settings.losses


def export_weights(module, path, *, name=None, temperature=None):
    """Write a trained module's encoders and redshift heads as float16 safetensors.

    Complete or not at all.

    Parameters
    ----------
    module : `~astroclip.training.align.Alignment` or `~astroclip.training.rest_frame.RestFrame`
    path : path-like
        The file's metadata holds what `astroclip.load_model` needs to rebuild them.
    name : str, optional
        The model's; by default that of the bundled model of this objective.
    temperature : dict of str to float, optional
        Of the redshift heads by modality, from
        `~astroclip.training.align.redshift_temperatures`; one by default.

    Raises
    ------
    ValueError
        If a weight is not finite.
    """
    dim = module.spectrum_encoder.head[-1].out_features
    config = {
        "name": name or NAMES[module.section],
        "preset": NAMES[module.section],
        "architecture": "small",
        "dim": dim,
        "recipe": dataclasses.asdict(module.recipe),
    }
    parts = {}
    for modality, options in module.encoder_options.items():
        config[modality] = {**options, "dim": dim}
        parts[f"{modality}_encoder"] = getattr(module, f"{modality}_encoder")
    if has_redshift_heads(module):
        heads = {"spectrum": module.spectrum_redshift, "image": module.image_redshift}
        parts |= {f"redshift_head.{modality}": head for modality, head in heads.items()}
        config["redshift_head"] = {
            "n_bins": {modality: head.out_features for modality, head in heads.items()},
            "largest": module.settings.largest_redshift,
            "scale": HEAD_SCALE,
            "temperature": {"spectrum": 1.0, "image": 1.0, **(temperature or {})},
        }
    state = {}
    for prefix, part in parts.items():
        for key, tensor in part.state_dict().items():
            tensor = tensor.half() if tensor.is_floating_point() else tensor
            state[f"{prefix}.{key}"] = tensor.contiguous(memory_format=torch.contiguous_format)
    not_finite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if not_finite:
        msg = f"weights {not_finite} are not finite in float16; the training diverged."
        raise ValueError(msg)
    with written(path) as partial:
        save_file(state, partial, metadata={"config": json.dumps(config, sort_keys=True)})
