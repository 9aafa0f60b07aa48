"""One call trains an aligned pair of encoders; a second call resumes where it stopped."""

import ctypes
import dataclasses
import hashlib
import json
import os
import re
import zipfile
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from astroclip.training.alignment import Alignment
from astroclip.training.recipes import find_recipe
from astroclip.training.refinement import Refinement, embed_images
from astroclip.training.sources import join_pairs, read_source
from astroclip.training.templates import templates_of

__all__ = [
    "load_alignment",
    "load_refinement",
    "load_trained",
    "train_alignment",
    "train_refinement",
]

START_FILE = "start.json"
REDSHIFT_HEAD = re.compile(r"^redshift_head\.(spectrum|image)")  # in files that ship


def find_checkpoint(output):
    """Return the newest complete checkpoint in a folder, None if there is none."""
    paths = sorted(Path(output).glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return next((path for path in reversed(paths) if zipfile.is_zipfile(path)), None)


def read_sources(sources, recipe):
    """Return the pairs of several sources as one dict of arrays.

    ``varied_share`` is added: the probability that a noiseless pair's spectrum is recorded
    by a random instrument, by the name of its folder.
    """
    parts = []
    for source in sources:
        pairs = read_source(source)
        name = Path(source).name if isinstance(source, (str, Path)) else None
        share = recipe.varied_shares.get(name, recipe.varied_share)
        pairs["varied_share"] = np.full(len(pairs["redshift"]), share, np.float32)
        parts.append(pairs)
    return join_pairs(parts)


def fast_precision():
    """Return ``"bf16-mixed"`` where the hardware computes in bfloat16, else ``"32-true"``.

    Emulated bfloat16 is ten times slower than float32 on CPUs.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if native else "32-true"


def keep_freed_memory():
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


def make_trainer(output, *, n_epochs, patience=None, precision=None, show_progress=False):
    """Return a Lightning trainer that writes a checkpoint and a log line every epoch.

    Started by ``torchrun``, it shares every batch among the processes.

    Parameters
    ----------
    output : path-like
        Folder for both.
    n_epochs : int
    patience : int, optional
        Stop after so many epochs without a better ``recall_10``.
    precision : str, optional
        Lightning's precision; by default that of `fast_precision`.
    show_progress : bool

    Returns
    -------
    `lightning.Trainer`
    """
    keep_freed_memory()
    # two files an epoch: one of them is complete whenever the process is killed
    callbacks = [ModelCheckpoint(output, save_last=True, save_top_k=1)]
    if patience is not None:
        callbacks.append(EarlyStopping("recall_10", mode="max", patience=patience))
    if show_progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    return lightning.Trainer(
        accelerator="auto",
        **_devices(),
        max_epochs=n_epochs,
        precision=precision or fast_precision(),
        gradient_clip_val=5.0,
        logger=CSVLogger(output, name="logs"),
        callbacks=callbacks,
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
    )


def _devices():
    """Return Lightning's options for the processes that ``torchrun`` started, or for one."""
    n_local, n_all = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if n_all == 1:
        return {"devices": 1}
    return {
        "devices": n_local,
        "num_nodes": n_all // n_local,
        # not every step uses every parameter: nothing is remembered at first
        "strategy": "ddp_find_unused_parameters_true",
        # each process would use its own statistics otherwise; torch has it on GPUs only
        "sync_batchnorm": torch.cuda.is_available(),
    }


def train_alignment(
    sources, validation, output, *, recipe="small", n_epochs=None, start=None,
    contaminants=None, precision=None, n_threads=None, show_progress=False,
):
    """Train image and spectrum encoders on pairs, resuming from ``output`` if it has begun.

    Parameters
    ----------
    sources : sequence of path-like or dict
        Simulated or real pairs, each as `~astroclip.training.sources.read_source` takes them.
    validation : path-like or dict
        Held-out pairs, scored after every epoch.
    output : path-like
        Folder for the checkpoint of the last finished epoch and the log ``metrics.csv``.
    recipe : str or `~astroclip.training.recipes.AlignmentRecipe`
    n_epochs : int, optional
        Overrides the recipe's.
    start : path-like or sequence of path-like, optional
        Weights to start from: weights files (safetensors) or checkpoints of runs, also of
        self-supervised ones. Not read where ``output`` holds a checkpoint to resume from.
    contaminants : (N, P) `numpy.ndarray`, optional
        Noiseless spectra of stars and quasars on the model's grid, to be kept away from
        galaxies.
    precision : str, optional
        Lightning's precision; by default that of `fast_precision`.
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
    lightning.seed_everything(recipe.seed, verbose=False)
    pairs = read_sources(sources, recipe)
    module = Alignment(
        recipe, pairs=pairs, validation=read_source(validation), contaminants=contaminants
    )
    if find_checkpoint(output) is None:
        if start is not None:
            start_from_files(module, start, output)
        scan = module.spectrum_encoder.scan
        if scan is not None and not scan.templates.any():
            scan.templates.copy_(templates_of(scan, [pairs], seed=recipe.seed))
    trainer = make_trainer(
        output, n_epochs=recipe.n_epochs, patience=recipe.patience, precision=precision,
        show_progress=show_progress,
    )
    trainer.fit(module, ckpt_path=find_checkpoint(output))
    return module.cpu().eval()


def start_from(module, path):
    """Load those of a file's tensors that fit an alignment; the others keep their start.

    Parameters
    ----------
    module : `~astroclip.training.alignment.Alignment`
    path : path-like
        A weights file (safetensors) or a checkpoint of an alignment or a refinement.

    Returns
    -------
    list of str
        Names of the module's tensors that the file did not give.

    Raises
    ------
    ValueError
        If no tensor fits.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors = load_file(path)
    else:
        tensors = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    # remembered galaxies belong to the run that saw them
    own = {k: v for k, v in module.state_dict().items() if not k.startswith("memory.")}
    found = {}
    for name, tensor in tensors.items():
        name = REDSHIFT_HEAD.sub(r"\1_redshift", name.removeprefix("alignment."))
        # self-supervised runs call theirs just "encoder": shapes tell which one it is
        for own_name in (name, f"spectrum_{name}", f"image_{name}"):
            if own_name in own and own[own_name].shape == tensor.shape:
                found[own_name] = tensor.to(own[own_name].dtype)
    if not found:
        msg = f"start is {str(path)!r}, none of whose tensors fits; expected this recipe's weights."
        raise ValueError(msg)
    module.load_state_dict(found, strict=False)
    return [name for name in module.state_dict() if name not in found]


def start_from_files(module, start, output):
    """Load files in turn and keep in a run's folder which they were, for the model card."""
    paths = [start] if isinstance(start, (str, Path)) else list(start)
    record = []
    for path in paths:
        start_from(module, path)
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        record.append({"file": Path(path).name, "sha256": digest})
    target = Path(output) / START_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record))


def read_start(output):
    """Return name and sha256 of the files that a run started from; none if from scratch."""
    path = Path(output) / START_FILE
    return json.loads(path.read_text()) if path.exists() else []


def load_alignment(output, *, recipe="small"):
    """Return the module of the last checkpoint that `train_alignment` left in ``output``."""
    module = Alignment(find_recipe(recipe))
    module.load_state_dict(checkpoint_state(output))
    return module.eval()


def checkpoint_state(output):
    """Return the tensors of the newest complete checkpoint in a folder."""
    checkpoint = find_checkpoint(output)
    if checkpoint is None:
        msg = f"folder {str(output)!r} holds no checkpoint; train first (astroclip train)."
        raise FileNotFoundError(msg)
    return torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]


def train_refinement(alignment, workspace, *, precision=None, show_progress=False):
    """Refine an aligned model's spectrum encoder, resuming where it stopped.

    Parameters
    ----------
    alignment : `~astroclip.training.alignment.Alignment`
        Trained; changed in place.
    workspace : `~astroclip.training.workspace.Workspace`
        With its pairs; checkpoints and logs of every round go there.
    precision : str, optional
    show_progress : bool

    Returns
    -------
    `~astroclip.training.alignment.Alignment`
    """
    recipe = alignment.recipe
    lightning.seed_everything(recipe.seed, verbose=False)
    alignment.eval()
    validation = _with_image_embeddings(alignment, workspace.read("validation"))
    for number, settings in enumerate(recipe.refinement):
        folder = _round_folder(workspace.refined, number)
        if _load_finished_round(alignment, number, folder):
            continue
        pairs = join_pairs([workspace.read(name) for name in settings.data])
        pairs = _with_image_embeddings(alignment, pairs)
        module = Refinement(alignment, number, pairs=pairs, validation=validation)
        trainer = make_trainer(
            folder, n_epochs=settings.n_epochs, precision=precision, show_progress=show_progress
        )
        trainer.fit(module, ckpt_path=find_checkpoint(folder))
    return alignment.cpu().eval()


def _load_finished_round(alignment, number, folder):
    """Load a round's weights if all its epochs are done; return whether they are."""
    path = find_checkpoint(folder)
    if path is None:
        return False
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["epoch"] + 1 < alignment.recipe.refinement[number].n_epochs:
        return False
    Refinement(alignment, number).load_state_dict(content["state_dict"])
    return True


def _with_image_embeddings(alignment, pairs):
    """Return pairs whose images are replaced by embeddings of several recordings of them."""
    recipe = alignment.recipe
    embedded = embed_images(alignment, pairs, n_views=recipe.n_image_views, seed=recipe.seed)
    return {
        **{name: values for name, values in pairs.items() if name != "image"},
        "image_embedding": embedded,
    }


def _round_folder(output, number):
    """Return the folder of one round of the refinement, counted from zero."""
    return Path(output) / f"round-{number + 1}"


def load_refinement(output, *, recipe="small"):
    """Return the alignment of the last checkpoint that `train_refinement` left in ``output``."""
    recipe = find_recipe(recipe)
    last = len(recipe.refinement) - 1
    module = Refinement(Alignment(recipe), last)
    module.load_state_dict(checkpoint_state(_round_folder(output, last)))
    return module.alignment.eval()


def load_trained(workspace):
    """Return a workspace's alignment as the last step of its recipe left it."""
    if workspace.recipe.refinement:
        return load_refinement(workspace.refined, recipe=workspace.recipe)
    return load_alignment(workspace.checkpoints, recipe=workspace.recipe)
