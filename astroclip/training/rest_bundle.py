"""Train the rest-frame encoder in a workspace and write the files of it that ship."""

import json
from pathlib import Path

import lightning
import numpy as np
import torch

from astroclip.training.bundle import REFERENCE_SETS, write_arrays, write_bytes
from astroclip.training.data import Observer, PairBatches
from astroclip.training.rest_frame import RestFrame, RestFrameRecipe, rest_frame
from astroclip.training.run import (
    checkpoint_state,
    find_checkpoint,
    join_pairs,
    make_trainer,
    start_from_files,
)

__all__ = ["load_rest_frame", "train_rest_frame", "write_rest_bundle"]

MODEL_NAME = "astroclip-small-rest"
TRAINING_SETS = {"train-mix": 16_000, "train-wide": None, "train-flat": None}


def train_rest_frame(
    workspace, *, recipe=None, start=None, precision=None, n_threads=None, show_progress=False,
):
    """Train the rest-frame encoder on a workspace's spectra, resuming if it has begun.

    Parameters
    ----------
    workspace : `~astroclip.training.workspace.Workspace`
        With its pairs; checkpoints and logs go to its folder ``rest``.
    recipe : `~astroclip.training.rest_frame.RestFrameRecipe`, optional
        By default that of the class.
    start : path-like, optional
        Weights to start from, such as those of the observed-frame encoder.
    precision : str, optional
        Lightning's precision; by default the fastest of the hardware.
    n_threads : int, optional
        Threads of torch; all cores by default.
    show_progress : bool

    Returns
    -------
    `~astroclip.training.rest_frame.RestFrame`
    """
    recipe = recipe or RestFrameRecipe()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    pairs = join_pairs(
        [_light(workspace.read(name, n_pairs=n_pairs)) for name, n_pairs in TRAINING_SETS.items()]
    )
    module = RestFrame(recipe, pairs=pairs, validation=_light(workspace.read("validation")))
    output = workspace.rest
    if start is not None and find_checkpoint(output) is None:
        start_from_files(module, start, output)
    trainer = make_trainer(
        output, n_epochs=recipe.n_epochs, precision=precision, show_progress=show_progress
    )
    trainer.fit(module, ckpt_path=find_checkpoint(output))
    return module.cpu().eval()


def _light(pairs):
    """Return pairs without their images."""
    return {name: values for name, values in pairs.items() if name != "image"}


def load_rest_frame(workspace, *, recipe=None):
    """Return the module of the last checkpoint that `train_rest_frame` left."""
    module = RestFrame(recipe or RestFrameRecipe())
    module.load_state_dict(checkpoint_state(workspace.rest))
    return module.eval()


def export_rest_weights(module, path):
    """Write a rest-frame encoder as float16 safetensors, complete or not at all."""
    from safetensors.torch import save

    state = {
        f"spectrum_encoder.{name}": (
            tensor.half() if tensor.is_floating_point() else tensor
        ).contiguous(memory_format=torch.contiguous_format)
        for name, tensor in module.spectrum_encoder.state_dict().items()
    }
    config = {"name": MODEL_NAME, **module.config()}
    write_bytes(path, save(state, metadata={"config": json.dumps(config, sort_keys=True)}))


def embed_rest(model, pairs, *, varied_share=0.0, seed=0, **varied):
    """Observe noiseless pairs' spectra once, bring them to rest and embed them.

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
    embedding : (N, D) float32 `numpy.ndarray`
    coverage : (N,) float32 `numpy.ndarray`
    """
    observer = Observer(varied_share=varied_share, **varied)
    generator = torch.Generator().manual_seed(seed)
    embedding, coverage = [], []
    fields = ("spectrum", "redshift")
    for batch in PairBatches(pairs, batch_size=250, shuffle=False, fields=fields):
        seen = rest_frame(observer.spectra(batch["spectrum"], generator), batch["redshift"])
        flux, ivar, mask = (t.numpy() for t in (seen.flux, seen.ivar, seen.mask))
        embedding.append(model.encode_spectra(flux, ivar, mask))
        coverage.append(1.0 - mask.mean(axis=1, dtype=np.float32))
    return np.concatenate(embedding), np.concatenate(coverage)


def write_rest_bundle(workspace, output, *, recipe=None):
    """Write ``astroclip-small-rest.safetensors`` and ``reference_rest.npz``.

    Parameters
    ----------
    workspace : `~astroclip.training.workspace.Workspace`
        Trained by `train_rest_frame`.
    output : path-like
        Folder of the observed-frame bundle, whose reference galaxies these are again.
    recipe : `~astroclip.training.rest_frame.RestFrameRecipe`, optional
    """
    from astroclip.models import load_model

    output = Path(output)
    weights = output / f"{MODEL_NAME}.safetensors"
    export_rest_weights(load_rest_frame(workspace, recipe=recipe), weights)
    model = load_model(weights)
    seed, instruments = workspace.recipe.seed, workspace.recipe.instruments
    parts = [
        embed_rest(
            model, workspace.read(name, n_pairs=n_pairs), varied_share=share, seed=seed,
            **instruments,
        )
        for name, (n_pairs, share) in REFERENCE_SETS.items()
    ]
    embedding, coverage = (np.concatenate(column) for column in zip(*parts, strict=True))
    write_arrays(
        output / "reference_rest.npz",
        {
            "spectrum_embedding": embedding.astype(np.float16),
            "spectrum_coverage": coverage,
            "model_name": np.array(MODEL_NAME),
            "weights_sha256": np.array(model.weights_sha256),
        },
    )

