"""Calibrating the redshift heads on pairs held out from training."""

import numpy as np
import torch

from astroclip.redshifts.distribution import fit_temperature, redshift_edges
from astroclip.training.alignment import HEAD_SCALE
from astroclip.training.data import Observer, PairBatches

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
        Options of `~astroclip.training.data.Observer`: the survey's instruments alone by
        default.

    Returns
    -------
    dict of str to (N, bins) `numpy.ndarray`
        By modality.
    """
    observer = Observer(**instruments)
    generator = torch.Generator().manual_seed(seed)
    found = {"spectrum": [], "image": []}
    for batch in PairBatches(pairs, batch_size=250, shuffle=False):
        with torch.inference_mode():
            spectra = observer.spectra(batch["spectrum"], generator)
            pixels, mask = observer.images(batch["image"], batch["seeing"], generator)
            embedded = {
                "spectrum": module.spectrum_encoder(spectra.flux, spectra.ivar, spectra.mask),
                "image": module.image_encoder(pixels, mask),
            }
            for modality, embedding in embedded.items():
                head = getattr(module, f"{modality}_redshift")
                unit = torch.nn.functional.normalize(embedding.float(), dim=1)
                found[modality].append(head(HEAD_SCALE * unit).numpy())
    return {modality: np.concatenate(parts) for modality, parts in found.items()}


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
