"""Self-supervised encoders in one call each; a second call resumes where it stopped.

What they leave is loaded by `load_pretrained_spectra` and `load_pretrained_images`, and an
alignment can start from it:

    alignment.spectrum_encoder.load_state_dict(load_pretrained_spectra(folder))
    alignment.image_encoder.load_state_dict(load_pretrained_images(folder))
"""

import lightning
import torch

from astroclip.training.masking import MaskedSpectra, MaskingRecipe
from astroclip.training.momentum import MomentumContrast, MomentumRecipe
from astroclip.training.run import find_checkpoint, make_trainer

__all__ = [
    "load_pretrained_images",
    "load_pretrained_spectra",
    "pretrain_images",
    "pretrain_spectra",
]

PREFIX = "encoder."


def pretrain_spectra(
    pairs, validation, output, *, recipe=None, precision=None, n_threads=None,
    show_progress=False,
):
    """Train a spectrum encoder by masked modelling, resuming from ``output`` if it has begun.

    Parameters
    ----------
    pairs, validation : dict of str to `numpy.ndarray`
        Pairs to train on and held-out ones, scored after every epoch; see
        `~astroclip.simulation.pairs.read_pairs`.
    output : path-like
        Folder for the checkpoint of the last finished epoch and the log ``metrics.csv``.
    recipe : `~astroclip.training.masking.MaskingRecipe`, optional
        By default that of the class.
    precision : str, optional
        Lightning's precision; by default the fastest of the hardware.
    n_threads : int, optional
        Threads of torch; all cores by default.
    show_progress : bool

    Returns
    -------
    `~astroclip.training.masking.MaskedSpectra`
        Trained, on the CPU. The same seed, data and threads give the same weights,
        interrupted or not.
    """
    return _pretrain(
        MaskedSpectra, recipe or MaskingRecipe(), pairs, validation, output,
        precision=precision, n_threads=n_threads, show_progress=show_progress,
    )


def pretrain_images(
    pairs, validation, output, *, recipe=None, precision=None, n_threads=None,
    show_progress=False,
):
    """Train an image encoder by momentum contrast, resuming from ``output`` if it has begun.

    Parameters
    ----------
    pairs, validation : dict of str to `numpy.ndarray`
        Pairs to train on and held-out ones, scored after every epoch; see
        `~astroclip.simulation.pairs.read_pairs`.
    output : path-like
        Folder for the checkpoint of the last finished epoch and the log ``metrics.csv``.
    recipe : `~astroclip.training.momentum.MomentumRecipe`, optional
        By default that of the class.
    precision : str, optional
        Lightning's precision; by default the fastest of the hardware.
    n_threads : int, optional
        Threads of torch; all cores by default.
    show_progress : bool

    Returns
    -------
    `~astroclip.training.momentum.MomentumContrast`
        Trained, on the CPU. The same seed, data and threads give the same weights,
        interrupted or not.

    Raises
    ------
    MissingExtraError
        If lightly is not installed.
    """
    return _pretrain(
        MomentumContrast, recipe or MomentumRecipe(), pairs, validation, output,
        precision=precision, n_threads=n_threads, show_progress=show_progress,
    )


def _pretrain(
    objective, recipe, pairs, validation, output, *, precision, n_threads, show_progress
):
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    module = objective(recipe, pairs=pairs, validation=validation)
    trainer = make_trainer(
        output, n_epochs=recipe.n_epochs, precision=precision, show_progress=show_progress
    )
    trainer.fit(module, ckpt_path=find_checkpoint(output))
    return module.cpu().eval()


def load_pretrained_spectra(output):
    """Return the spectrum encoder's tensors that `pretrain_spectra` left in a folder.

    Parameters
    ----------
    output : path-like

    Returns
    -------
    dict of str to `torch.Tensor`
        Takes ``load_state_dict`` of a `~astroclip.models.SmallSpectrumEncoder` with the
        options of the recipe. Its pooling and head are as they were drawn: masked modelling
        does not reach them.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If it is that of another objective.
    """
    return _encoder_state(output, "decoder.1.weight", "pretrain_spectra")


def load_pretrained_images(output):
    """Return the image encoder's tensors that `pretrain_images` left in a folder.

    Parameters
    ----------
    output : path-like

    Returns
    -------
    dict of str to `torch.Tensor`
        Takes ``load_state_dict`` of a `~astroclip.models.SmallImageEncoder` with the options
        of the recipe.

    Raises
    ------
    FileNotFoundError
        If there is no checkpoint.
    ValueError
        If it is that of another objective.
    """
    return _encoder_state(output, "projection.0.weight", "pretrain_images")


def _encoder_state(output, needed, maker):
    """Return the encoder's part of the newest checkpoint, which must hold tensor ``needed``."""
    checkpoint = find_checkpoint(output)
    if checkpoint is None:
        msg = f"folder {str(output)!r} holds no checkpoint; make one with {maker}."
        raise FileNotFoundError(msg)
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    if needed not in state:
        msg = f"{str(checkpoint)!r} has no tensor {needed!r}; expected a checkpoint of {maker}."
        raise ValueError(msg)
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }
