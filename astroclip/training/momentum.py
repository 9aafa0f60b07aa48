"""Momentum contrast of images: two recordings of one galaxy against a queue of others.

Nothing about the galaxies is told. The loss, its queue and the moving average come from the
package lightly (extra ``train``).
"""

import copy
import dataclasses

import torch
from torch import distributed, nn

from astroclip._validation import import_extra
from astroclip.models.small import SmallImageEncoder
from astroclip.training.observers import AugmentingObserver, Observer
from astroclip.training.optimization import step_generator
from astroclip.training.self_supervision import SelfSupervised

__all__ = ["MomentumContrast", "MomentumRecipe", "encode_in_groups", "queued_contrast"]


@dataclasses.dataclass(frozen=True)
class MomentumRecipe:
    """Settings of momentum contrast.

    Attributes
    ----------
    n_epochs, epoch_size, batch_size : length of the run, images an epoch (all if None) and
        images a step
    learning_rate, weight_decay, warmup_steps : AdamW with a cosine decay to zero
    seed : fixes weights, order, augmentations and noise
    temperature : of the contrast
    n_queued : keys of earlier images that are contrasted with, a multiple of ``batch_size``
    momentum, final_momentum : of the key encoder's moving average at the first and at the last
        step, along half a cosine; alike for a constant one
    hidden_width, projection_width : of the projection, a perceptron whose output is contrasted
    n_key_groups : parts of a shuffled batch that the key encoder normalizes apart
    augmentation : options of `~astroclip.training.observers.AugmentingObserver`
    encoder : options of `~astroclip.models.SmallImageEncoder`
    """

    n_epochs: int = 4
    epoch_size: int | None = 20_480
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup_steps: int = 50
    seed: int = 1
    temperature: float = 0.2
    n_queued: int = 4096
    momentum: float = 0.996
    final_momentum: float = 1.0
    hidden_width: int = 256
    projection_width: int = 128
    n_key_groups: int = 4
    augmentation: dict = dataclasses.field(default_factory=dict)
    encoder: dict = dataclasses.field(default_factory=dict)


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


class MomentumContrast(SelfSupervised):
    """An image encoder that learns to tell a galaxy's second recording from other galaxies.

    Queries come from an encoder that is trained, keys from a moving average of it, each
    through a projection that is thrown away afterwards.

    Parameters
    ----------
    recipe : `MomentumRecipe`
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

    fields = ("image", "seeing", "redshift")

    def __init__(self, recipe, *, pairs=None, validation=None):
        if recipe.n_queued % recipe.batch_size:
            msg = (
                f"n_queued is {recipe.n_queued}; expected a multiple of batch_size, "
                f"{recipe.batch_size}."
            )
            raise ValueError(msg)
        super().__init__(recipe, pairs=pairs, validation=validation)
        self.encoder = SmallImageEncoder(**recipe.encoder)
        self.encoder.to(memory_format=torch.channels_last)  # half again as fast on CPUs
        self.projection = nn.Sequential(
            nn.Linear(self.encoder.head[-1].out_features, recipe.hidden_width),
            nn.ReLU(),
            nn.Linear(recipe.hidden_width, recipe.projection_width),
        )
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(requires_grad=False)
        self.key_projection = copy.deepcopy(self.projection).requires_grad_(requires_grad=False)
        self.contrast = queued_contrast(
            temperature=recipe.temperature,
            n_queued=recipe.n_queued,
            width=recipe.projection_width,
        )
        self.observer = AugmentingObserver(**recipe.augmentation)
        self.plain_observer = Observer()

    @property
    def momentum(self):
        """Momentum of the moving average at this step."""
        schedule = import_extra("lightly.utils.scheduler", "train").cosine_schedule
        first, last = self.recipe.momentum, self.recipe.final_momentum
        return schedule(self.global_step, self.n_steps, first, last)

    def update_keys(self, momentum):
        """Move the key encoder's parameters towards the query encoder's.

        Parameters
        ----------
        momentum : float
            ``key = momentum * key + (1 - momentum) * query``.
        """
        update = import_extra("lightly.models.utils", "train").update_momentum
        update(self.encoder, self.key_encoder, momentum)
        update(self.projection, self.key_projection, momentum)

    @torch.no_grad()
    def keys(self, pixels, mask, generator):
        """Return keys (N, projection_width) of network inputs, without a gradient."""
        embedding = encode_in_groups(
            self.key_encoder, pixels, mask, generator, n_groups=self.recipe.n_key_groups
        )
        return self.key_projection(embedding).float()

    def training_step(self, batch, batch_index):
        """Return the loss of one batch in two recordings drawn for this very step."""
        generator = step_generator(self, self.current_epoch, batch_index)
        self.update_keys(self.momentum)
        first, second = (
            self.observer.images(batch["image"], batch["seeing"], generator) for _ in range(2)
        )
        queries = self.projection(self.encoder(*first)).float()
        loss = self.contrast(queries, self.keys(*second, generator))
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def features(self, batch, generator):
        """Return embeddings (N, dim) of images as DR9 or their survey records them."""
        return self.encoder(*self.plain_observer.images(batch["image"], batch["seeing"], generator))
