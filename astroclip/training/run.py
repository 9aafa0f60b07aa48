"""One call trains an objective in a workspace; a second call resumes where it stopped."""

import ctypes
import json
import os
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from astroclip._files import written
from astroclip._validation import check_choice
from astroclip.models.weights import find_weights
from astroclip.training.align import Alignment
from astroclip.training.data import Workspace
from astroclip.training.masked import MaskedSpectra
from astroclip.training.momentum import MomentumContrast
from astroclip.training.objective import (
    START_FILE,
    find_checkpoint,
    read_start,
    sized_recipe,
    start_records,
)
from astroclip.training.projections import ProjectionAlignment
from astroclip.training.recipe import read_recipe
from astroclip.training.rest_frame import RestFrame

__all__ = ["OBJECTIVES", "load_trained", "read_sources_used", "train"]

PAIRS_FILE = "pairs.json"

OBJECTIVES = {
    "align": Alignment,
    "heads": ProjectionAlignment,
    "spectra": MaskedSpectra,
    "images": MomentumContrast,
    "rest": RestFrame,
}


def train(
    objective, recipe, workspace, *, pairs=None, validation=None, start=(), n_workers=1,
    n_threads=None, precision=None, show_progress=False,
):
    """Train an objective of a recipe, or resume where an earlier call stopped.

    Parameters
    ----------
    objective : str
        ``"align"`` (both encoders), ``"heads"`` (their projections alone), ``"spectra"`` (masked
        modeling), ``"images"`` (momentum contrast) or ``"rest"`` (the rest-frame encoder).
    recipe : str, path-like, dict or `~astroclip.training.recipe.Recipe`
        See `~astroclip.training.recipe.read_recipe`.
    workspace : path-like
        Folder for simulated pairs, checkpoints and logs. The checkpoint of the last finished epoch
        and ``metrics.csv`` are in the folder of it that the recipe names for the objective.
    pairs : sequence of path-like or dict, optional
        What to train on, each as `~astroclip.training.sources.read_source` takes it. By default
        the recipe's pairs, which are simulated into the workspace first.
    validation : path-like or dict, optional
        Held-out pairs, scored after every epoch. Needed with ``pairs``.
    start : str, path-like or sequence of these
        Weights to start from: names of bundled models, weights files (safetensors) or checkpoints
        of any objective. What fits is taken; where a weights file says the sizes of its encoders,
        the run's have these, whatever the recipe says. Not loaded where there is a checkpoint to
        resume from.
    n_workers : int
        Processes that simulate.
    n_threads : int, optional
        Threads of torch; all cores by default.
    precision : str, optional
        Lightning's precision; by default the fastest of the hardware.
    show_progress : bool

    Returns
    -------
    `~astroclip.training.objective.Objective`
        Trained, on the CPU. The same seed, data and threads give the same weights, interrupted or
        not. Started by ``torchrun``, processes share every batch.

    Raises
    ------
    ValueError
        If the objective or the recipe is unknown, pairs come without validation or cannot be used
        for the objective, or start weights do not fit.
    """
    check_choice(objective, tuple(OBJECTIVES), "objective")
    recipe, objective_class = read_recipe(recipe), OBJECTIVES[objective]
    workspace = Workspace(workspace, recipe)
    if pairs is None:
        workspace.simulate(n_workers=n_workers, show_progress=show_progress)
        pairs, validation = workspace.training_folders(), workspace.pairs_folder("validation")
    elif validation is None:
        msg = "validation is missing; pairs need held-out ones (--validation), in any of the forms."
        raise ValueError(msg)
    elif objective_class is RestFrame:
        msg = (
            "objective 'rest' takes no pairs of your own: it puts galaxies at other redshifts, for "
            "which their light must be noiseless. Leave pairs out to train on simulated ones."
        )
        raise ValueError(msg)
    start = [start] if isinstance(start, (str, os.PathLike)) else list(start or ())
    start = [find_weights(item)[0] for item in start]
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    settings = getattr(recipe, objective_class.section)
    output = workspace.folder / settings.folder
    begun = find_checkpoint(output) is not None
    records = read_start(output) if begun else start_records(start)
    recipe = sized_recipe(recipe, objective_class.section, records)
    lightning.seed_everything(settings.seed, verbose=False)
    module = objective_class.load(recipe, workspace, pairs, validation, start)
    if not begun:
        for path in start:
            module.start_from(path)
        output.mkdir(parents=True, exist_ok=True)
        kept = {START_FILE: records, PAIRS_FILE: _sources_used(pairs, validation)}
        for name, content in kept.items():
            if content:
                with written(output / name) as partial:
                    partial.write_text(json.dumps(content))
        module.begin()
    trainer = _make_trainer(
        output, n_epochs=settings.n_epochs, precision=precision or module.precision,
        show_progress=show_progress,
    )
    trainer.fit(module, ckpt_path=find_checkpoint(output))
    return module.cpu().eval()


def load_trained(objective, recipe, workspace):
    """Return an objective's module with the weights of its last checkpoint in a workspace.

    Parameters
    ----------
    objective, recipe, workspace
        As `train` takes them.

    Returns
    -------
    `~astroclip.training.objective.Objective`

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    """
    check_choice(objective, tuple(OBJECTIVES), "objective")
    recipe, objective_class = read_recipe(recipe), OBJECTIVES[objective]
    folder = Path(workspace) / getattr(recipe, objective_class.section).folder
    checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        msg = f"folder {str(folder)!r} holds no checkpoint; train first (astroclip train)."
        raise FileNotFoundError(msg)
    recipe = sized_recipe(recipe, objective_class.section, read_start(folder))
    module = objective_class(recipe)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    return module.eval()


def _sources_used(pairs, validation):
    """Return the paths of pairs and held-out pairs; None where they are no files."""
    if not all(isinstance(item, (str, os.PathLike)) for item in (*pairs, validation)):
        return None
    return {
        "pairs": [str(Path(item).absolute()) for item in pairs],
        "validation": str(Path(validation).absolute()),
    }


def read_sources_used(folder):
    """Return the files that a run was trained with, from its folder.

    Returns
    -------
    dict or None
        ``pairs``, a list of paths, and ``validation``, a path. None where they were no files.
    """
    path = Path(folder) / PAIRS_FILE
    return json.loads(path.read_text()) if path.exists() else None


def _make_trainer(output, *, n_epochs, precision, show_progress):
    """Return a Lightning trainer that writes a checkpoint and a log line every epoch."""
    _keep_freed_memory()
    # two files an epoch: one of them is complete whenever the process is killed
    callbacks = [ModelCheckpoint(output, save_last=True, save_top_k=1)]
    if show_progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    # torchrun says how many processes there are: on this machine, and in all
    n_local, n_all = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    devices = {"devices": 1}
    if n_all > 1:
        devices = {
            "devices": n_local,
            "num_nodes": n_all // n_local,
            # not every step uses every parameter: nothing is remembered at first
            "strategy": "ddp_find_unused_parameters_true",
            # each process would use its own statistics otherwise; torch has it on GPUs only
            "sync_batchnorm": torch.cuda.is_available(),
        }
    return lightning.Trainer(
        accelerator="auto",
        **devices,
        max_epochs=n_epochs,
        precision=precision or _fast_precision(),
        gradient_clip_val=5.0,
        logger=CSVLogger(output, name="logs"),
        callbacks=callbacks,
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
    )


def _fast_precision():
    """Return ``"bf16-mixed"`` where the hardware computes in bfloat16, else ``"32-true"``.

    Emulated bfloat16 is ten times slower than float32 on CPUs.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if native else "32-true"


def _keep_freed_memory():
    """Let glibc keep freed memory instead of returning it to the system.

    A step allocates hundreds of megabytes; clearing fresh pages for them every time costs
    more than the arithmetic of the augmentations. Other systems are left alone.
    """
    mmap_max, trim_threshold = -4, -1  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
