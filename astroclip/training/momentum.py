"""Momentum contrast of images: two recordings of one galaxy against a queue of others.

Nothing about the galaxies is told. The loss, its queue and the moving average come from the
package lightly (extra ``train``).
"""

import copy

import torch
from torch import distributed, nn

from astroclip._validation import import_extra
from astroclip.models.small import SmallImageEncoder
from astroclip.training.objective import Objective
from astroclip.training.observers import AugmentingObserver, Observer

__all__ = ["MomentumContrast", "encode_in_groups", "queued_contrast"]

TEMPERATURE = 0.2  # of the contrast
MOMENTUM = (0.996, 1.0)
"""Of the key encoder's moving average at the first and at the last step, along half a cosine."""
HIDDEN_WIDTH, PROJECTION_WIDTH = 256, 128  # of the perceptron whose output is contrasted
N_KEY_GROUPS = 4  # parts of a shuffled batch that the key encoder normalizes apart


def queued_contrast(*, temperature, n_queued, width):
    """Return lightly's contrastive loss with a queue of keys that checkpoints hold.

    Parameters
    ----------
    temperature : float
    n_queued : int
        Keys in the queue; random directions until it has been filled once.
    width : int
        Length of a key.

    Returns
    -------
    `lightly.loss.NTXentLoss`
        Called with queries and keys (N, width): the cross entropy of each query's own key
        among it and the queue. Keys then replace the oldest of the queue, if the queries
        ask for a gradient. Keys of all processes do, where there are several.

    Raises
    ------
    MissingExtraError
        If lightly is not installed.
    """
    loss = import_extra("lightly.loss", "train").NTXentLoss(
        temperature=temperature,
        memory_bank_size=(n_queued, width),
        gather_distributed=distributed.is_available(),
    )
    queue = loss.memory_bank
    for name in ("bank", "bank_ptr"):  # lightly leaves them out of checkpoints
        queue.register_buffer(name, getattr(queue, name), persistent=True)
    return loss


def encode_in_groups(encoder, pixels, mask, generator, *, n_groups):
    """Return embeddings of a batch in parts whose batch normalization sees only themselves.

    A key must not share its batch statistics with its query, which would give it away. On
    one device this takes the place of shuffling keys between devices.

    Parameters
    ----------
    encoder : `torch.nn.Module`
    pixels, mask : (N, B, S, S) `torch.Tensor`
    generator : `torch.Generator`
        Draws which images share a part.
    n_groups : int

    Returns
    -------
    (N, D) `torch.Tensor`
        In the order of the images.

    References
    ----------
    Shuffling BN: He et al. (2020), arXiv:1911.05722, section 3.3.
    """
    order = torch.randperm(len(pixels), generator=generator, device=generator.device)
    parts = [encoder(pixels[rows], mask[rows]) for rows in order.chunk(n_groups)]
    return torch.cat(parts)[torch.argsort(order)]


class MomentumContrast(Objective):
    """An image encoder that learns to tell a galaxy's second recording from other galaxies.

    Queries come from an encoder that is trained, keys from a moving average of it, each
    through a projection that is thrown away afterwards.

    Parameters
    ----------
    recipe : `~astroclip.training.recipe.Recipe`
    pairs : dict of str to `numpy.ndarray`, optional
        Training pairs with ``image``, ``seeing`` and ``redshift``; not needed to load weights.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs scored after every epoch.

    Raises
    ------
    ValueError
        If the queue does not hold a whole number of batches.
    MissingExtraError
        If lightly is not installed.

    References
    ----------
    He et al. (2020), arXiv:1911.05722; Chen et al. (2020), arXiv:2003.04297; for galaxies
    Stein et al. (2021), arXiv:2110.13151.
    """

    section = "images"
    fields = ("image", "seeing", "redshift")

    def __init__(self, recipe, *, pairs=None, validation=None):
        super().__init__(recipe, pairs=pairs, validation=validation)
        n_queued, batch_size = self.settings.n_queued, self.settings.batch_size
        if n_queued % batch_size:
            msg = f"n_queued is {n_queued}; expected a multiple of batch_size, {batch_size}."
            raise ValueError(msg)
        self.encoder = SmallImageEncoder(**recipe.image)
        self.encoder.to(memory_format=torch.channels_last)  # half again as fast on CPUs
        self.projection = nn.Sequential(
            nn.Linear(self.encoder.head[-1].out_features, HIDDEN_WIDTH),
            nn.ReLU(),
            nn.Linear(HIDDEN_WIDTH, PROJECTION_WIDTH),
        )
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(requires_grad=False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(requires_grad=False)
        self.contrast = queued_contrast(
            temperature=TEMPERATURE, n_queued=n_queued, width=PROJECTION_WIDTH
        )
        self.observer = AugmentingObserver()
        self.plain_observer = Observer()

    def training_step(self, batch, batch_index):
        """Return the loss of one batch in two recordings drawn for this very step."""
        generator = self.step_generator(self.current_epoch, batch_index)
        schedule = import_extra("lightly.utils.scheduler", "train").cosine_schedule
        move_towards = import_extra("lightly.models.utils", "train").update_momentum
        momentum = schedule(self.global_step, self.n_steps, *MOMENTUM)
        # key = momentum * key + (1 - momentum) * query, for every parameter
        move_towards(self.encoder, self.key_encoder, momentum)
        move_towards(self.projection, self.key_projection, momentum)
        first, second = (
            self.observer.images(batch["image"], batch["seeing"], generator) for _ in range(2)
        )
        queries = self.projection(self.encoder(*first)).float()
        with torch.no_grad():
            keys = encode_in_groups(self.key_encoder, *second, generator, n_groups=N_KEY_GROUPS)
            keys = self.key_projection(keys).float()
        loss = self.contrast(queries, keys)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def held_out(self, batch, generator):
        """Return embeddings (N, dim) and redshifts of one held-out batch."""
        pixels = self.plain_observer.images(batch["image"], batch["seeing"], generator)
        return {"features": self.encoder(*pixels), "redshift": batch["redshift"]}
