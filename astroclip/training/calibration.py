"""Calibrating the redshift heads on pairs held out from training."""

import numpy as np
import torch

from astroclip.redshifts.distribution import fit_temperature, redshift_edges
from astroclip.training.alignment import HEAD_SCALE
from astroclip.training.observers import Observer, encode_pairs

__all__ = ["fit_temperature", "head_logits", "head_temperatures"]


def head_logits(module, pairs, *, seed=0, **instruments):
    """Return logits of an alignment's redshift heads for pairs observed once.

    Parameters
    ----------
    module : `~astroclip.training.alignment.Alignment`
        Trained, in evaluation mode.
    pairs : dict of str to `numpy.ndarray`
        Noiseless pairs.
    seed : int
    **instruments
        Options of `~astroclip.training.observers.Observer`: the survey's instruments alone by
        default.

    Returns
    -------
    dict of str to (N, bins) `numpy.ndarray`
        By modality.
    """

    def logits(seen):
        embedded = {
            "spectrum": module.spectrum_encoder(*vars(seen.spectra).values()),
            "image": module.image_encoder(seen.pixels, seen.pixel_mask),
        }
        return {
            modality: getattr(module, f"{modality}_redshift")(
                HEAD_SCALE * torch.nn.functional.normalize(embedding.float(), dim=1)
            )
            for modality, embedding in embedded.items()
        }

    return encode_pairs(logits, pairs, observer=Observer(**instruments), seed=seed)


def head_temperatures(module, pairs, **options):
    """Return the temperatures that make an alignment's redshift heads honest.

    Parameters
    ----------
    module : `~astroclip.training.alignment.Alignment`
        Trained, in evaluation mode.
    pairs : dict of str to `numpy.ndarray`
        Noiseless pairs that it was not trained on. Those beyond the bins' largest redshift
        are left out.
    **options
        As in `head_logits`: record spectra and images by instruments as various as those
        that the model will be used with.

    Returns
    -------
    dict of str to float
        By modality; see `~astroclip.redshifts.distribution.fit_temperature`.
    """
    recipe = module.recipe
    redshift = np.asarray(pairs["redshift"], dtype=float)
    inside = redshift <= recipe.largest_redshift
    temperature = {}
    for modality, logits in head_logits(module, pairs, **options).items():
        edges = redshift_edges(logits.shape[1], recipe.largest_redshift)
        temperature[modality] = fit_temperature(logits[inside], redshift[inside], edges)
    return temperature
