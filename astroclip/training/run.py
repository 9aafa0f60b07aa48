"""One call trains an aligned pair of encoders; a second call resumes where it stopped."""

import dataclasses
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from astroclip.simulation.pairs import read_pairs
from astroclip.training.alignment import Alignment
from astroclip.training.recipes import find_recipe

__all__ = ["load_alignment", "train_alignment"]

CHECKPOINT = "last.ckpt"


def _read_folders(folders):
    """Return the pairs of several folders as one."""
    parts = [read_pairs(folder) for folder in folders]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def train_alignment(
    folders, validation, output, *, recipe="small", n_epochs=None, precision=None,
    n_threads=None, show_progress=False,
):
    """Train image and spectrum encoders on pairs, resuming from ``output`` if it has begun.

    Parameters
    ----------
    folders : sequence of path-like
        Folders of shards from `astroclip.simulation.pairs.write_pairs`.
    validation : path-like
        Folder of held-out pairs, scored after every epoch.
    output : path-like
        Folder for the checkpoint of the last finished epoch and the log ``metrics.csv``.
    recipe : str or `~astroclip.training.recipes.AlignmentRecipe`
    n_epochs : int, optional
        Overrides the recipe's.
    precision : str, optional
        Lightning's precision; ``"bf16-mixed"`` by default.
    n_threads : int, optional
        Threads of torch; all cores by default.
    show_progress : bool

    Returns
    -------
    `~astroclip.training.alignment.Alignment`
        Trained, on the CPU. The same seed, data and threads give the same weights,
        interrupted or not.
    """
    recipe = find_recipe(recipe)
    if n_epochs is not None:
        recipe = dataclasses.replace(recipe, n_epochs=n_epochs)
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    output = Path(output)
    lightning.seed_everything(recipe.seed, verbose=False)
    module = Alignment(
        recipe, pairs=_read_folders(folders), validation=read_pairs(validation)
    )
    callbacks = [ModelCheckpoint(output, save_last=True, save_top_k=0, every_n_epochs=1)]
    if show_progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=recipe.n_epochs,
        precision=precision or "bf16-mixed",
        gradient_clip_val=5.0,
        logger=CSVLogger(output, name="logs"),
        callbacks=callbacks,
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
    )
    checkpoint = output / CHECKPOINT
    trainer.fit(module, ckpt_path=checkpoint if checkpoint.exists() else None)
    return module.cpu().eval()


def load_alignment(output, *, recipe="small"):
    """Return the module of the last checkpoint that `train_alignment` left in ``output``."""
    recipe = find_recipe(recipe)
    module = Alignment(recipe)
    state = torch.load(Path(output) / CHECKPOINT, map_location="cpu", weights_only=True)
    module.load_state_dict(state["state_dict"])
    return module.eval()
