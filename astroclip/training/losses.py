"""Losses of the alignment: pure functions of embeddings, labels and options.

A function with the decorator `loss` takes part in the alignment once a recipe gives it a weight
under its name, in the table ``[align.losses]``. Its arguments are filled in by name from what a
step knows:

- ``spectrum``, ``image`` (N, D): embeddings of the batch, of any length;
- ``second_spectrum``, ``second_image`` (K, D): embeddings of second recordings, and
  ``second_spectrum_rows``, ``second_image_rows`` (K,): which rows of the batch they are;
- ``redshift`` (N,) and ``labels`` (N, L): redshifts and standardized properties, NaN if unknown;
- ``spectrum_logits``, ``image_logits`` (N, B): redshift bins read off the embeddings, and
  ``spectrum_read``, ``image_read`` (N, L): properties read off them;
- ``scan_log_posterior`` (M, Z) and ``scanned_redshift`` (M,): see `scan_redshift`, of encoders
  with a scan;
- ``swapped_logits`` (M, B) and ``swapped_target`` (M,): see `swapped_redshift`, of projections of
  encoders with a scan;
- ``outliers`` (K, D): embeddings of stars and quasars;
- ``memory``: recent galaxies, `Remembered`;
- ``scale``: the learned inverse temperature;
- every setting of the recipe's table ``[align]``.
"""

import dataclasses
import inspect
import math

import torch
from torch import distributed, nn
from torch.nn import functional

from astroclip.models.redshift_scan import LAG_STEP
from astroclip.training.distributed import gather_with_gradient, n_processes, process_rank

__all__ = [
    "InverseTemperature",
    "NeighborMemory",
    "Remembered",
    "contrast",
    "image_labels",
    "image_redshift",
    "info_nce",
    "known_error",
    "loss",
    "neighbor_error",
    "neighbor_estimate",
    "neighbor_redshift",
    "neighbors",
    "outliers",
    "redshift_cross_entropy",
    "redshift_leak",
    "redshift_target",
    "scan_redshift",
    "second_images",
    "second_spectra",
    "spectrum_labels",
    "spectrum_redshift",
    "swapped_redshift",
    "weighted_losses",
]

N_NEIGHBOR_BINS = 256  # redshift bins of the loss on neighbors' redshifts
TARGET_WIDTH = 0.8  # bins, standard deviation of the distribution that counts as true
LARGEST_SCALE = 100.0  # inverse temperature; Radford et al. (2021) clamp at the same value
OUTLIER_SIMILARITY = 0.4  # cosine that stars and quasars may have to galaxies
N_NEAREST = 8  # galaxies that an outlier is compared with

LOSSES = {}
"""The losses that a recipe can give a weight, by name."""


def loss(function):
    """Make a function a loss that a recipe can give a weight, under the function's name."""
    LOSSES[function.__name__] = function
    return function


def weighted_losses(weights, known):
    """Return the weighted sum of losses, and each of them.

    Parameters
    ----------
    weights : dict of str to float
        By the name of the loss.
    known : dict
        What a step knows, by the names of the losses' arguments.

    Returns
    -------
    total : `torch.Tensor`
        Scalar.
    terms : dict of str to `torch.Tensor`
        The losses without their weights.

    Raises
    ------
    ValueError
        If a loss takes an argument that is not known.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.losses import weighted_losses
    >>> views = {"spectrum": torch.eye(4), "image": torch.eye(4), "scale": 1.0}
    >>> total, terms = weighted_losses({"contrast": 2.0}, views)
    >>> float(total / terms["contrast"])
    2.0
    """
    terms = {}
    for name in weights:
        arguments = inspect.signature(LOSSES[name]).parameters
        unknown = [argument for argument in arguments if argument not in known]
        if unknown:
            msg = (
                f"loss {name!r} takes {unknown[0]!r}, which this objective does not know; expected "
                f"some of {', '.join(known)}. Take {name} out of the recipe's losses."
            )
            raise ValueError(msg)
        terms[name] = LOSSES[name](**{argument: known[argument] for argument in arguments})
    return sum(weight * terms[name] for name, weight in weights.items()), terms


# ---------------------------------------------------------------------- contrast
def info_nce(first, second, scale):
    r"""Return the symmetric InfoNCE loss of paired embeddings.

    .. math::

        L = -\frac{1}{2N} \sum_i \left[
            \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_i \cdot b_j}}
          + \log \frac{e^{s\, a_i \cdot b_i}}{\sum_j e^{s\, a_j \cdot b_i}} \right]

    Parameters
    ----------
    first, second : (N, D) `torch.Tensor`
        Embeddings; row i of both is the same object. They are normalized here.
    scale : float or `torch.Tensor`
        Inverse temperature s.

    Returns
    -------
    `torch.Tensor`
        Scalar, in nats. ``log(N)`` minus it bounds the mutual information from below.

    Raises
    ------
    ValueError
        If batches differ in size between processes.

    Notes
    -----
    Where several processes train together, N counts the pairs of all. Every process contrasts its
    own rows with the embeddings of all, a share of the matrix of similarities that fits its
    memory. The mean over processes of these partial losses is the loss of the whole batch, and so
    is the mean of their gradients, which `~torch.nn.parallel.DistributedDataParallel` takes:
    `~astroclip.training.distributed.gather_with_gradient` returns the sum over processes of what
    their partial losses ask of each embedding. The value is that of the whole batch on every
    process.

    References
    ----------
    van den Oord et al. (2018), arXiv:1807.03748, eq. 4; Radford et al. (2021),
    arXiv:2103.00020, figure 3.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.losses import info_nce
    >>> views = torch.eye(4)
    >>> bool(info_nce(views, views, 100.0) < 1e-6)
    True
    """
    first, second = functional.normalize(first, dim=1), functional.normalize(second, dim=1)
    target = torch.arange(len(first), device=first.device)
    if n_processes() == 1:
        logits = scale * first @ second.T
        return 0.5 * (
            functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)
        )
    all_first, all_second = gather_with_gradient(torch.cat([first, second], dim=1)).chunk(2, dim=1)
    target = target + process_rank() * len(first)
    own = 0.5 * (
        functional.cross_entropy(scale * first @ all_second.T, target)
        + functional.cross_entropy(scale * second @ all_first.T, target)
    )
    mean = own.detach().clone()
    distributed.all_reduce(mean)
    return own + (mean / n_processes() - own.detach())


@loss
def contrast(image, spectrum, scale):
    """Return the InfoNCE loss of images and spectra."""
    return info_nce(image, spectrum, scale)


def _find_again(again, first, rows, scale):
    """Return the cross entropy of finding rows (K,) of a batch by second recordings of them."""
    if not len(rows):
        return first.new_zeros(())
    similarity = functional.normalize(again, dim=1) @ functional.normalize(first, dim=1).T
    return functional.cross_entropy(scale * similarity, rows)


@loss
def second_spectra(spectrum, second_spectrum, second_spectrum_rows, scale):
    """Return the cross entropy of finding spectra by second recordings of them."""
    return _find_again(second_spectrum, spectrum, second_spectrum_rows, scale)


@loss
def second_images(image, second_image, second_image_rows, scale):
    """Return the cross entropy of finding images by second recordings of them."""
    return _find_again(second_image, image, second_image_rows, scale)


class InverseTemperature(nn.Module):
    """A learned inverse temperature, clamped from above, which keeps training stable.

    Parameters
    ----------
    initial : float
        To start from.
    """

    def __init__(self, initial=10.0):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self):
        """Return the inverse temperature, at most 100."""
        return self.log_scale.clamp(max=math.log(LARGEST_SCALE)).exp()


# ---------------------------------------------------------------------- known properties
def redshift_target(redshift, n_bins, *, step, first=0.5):
    """Return the distributions (N, n_bins) over bins that count as true of redshifts.

    Parameters
    ----------
    redshift : (N,) `torch.Tensor`
    n_bins : int
    step : float
        Width of a bin in log(1 + z).
    first : float
        Center of the first bin, in bins: one half where bins begin at redshift zero.

    Returns
    -------
    (N, n_bins) `torch.Tensor`
        Gaussians 0.8 bins wide in log(1 + z): `astroclip.redshifts.redshift_target` on tensors.
    """
    centers = torch.arange(n_bins, device=redshift.device) + first
    position = torch.log1p(redshift)[:, None] / step
    return torch.softmax(-0.5 * ((centers - position) / TARGET_WIDTH) ** 2, dim=1)


def redshift_cross_entropy(logits, redshift, largest):
    """Return the cross entropy of redshifts that are known with logits of bins.

    Parameters
    ----------
    logits : (N, B) `torch.Tensor`
        Of bins even in log(1 + z) from zero to ``largest``.
    redshift : (N,) `torch.Tensor`
        NaN where unknown.
    largest : float

    Returns
    -------
    `torch.Tensor`
        Scalar, zero if no redshift is known.
    """
    known = torch.isfinite(redshift)
    if not known.any():
        return logits.new_zeros(())
    step = math.log1p(largest) / logits.shape[1]
    target = redshift_target(redshift[known], logits.shape[1], step=step)
    return functional.cross_entropy(logits[known], target)


@loss
def spectrum_redshift(spectrum_logits, redshift, largest_redshift):
    """Return the cross entropy of redshifts read off spectra."""
    return redshift_cross_entropy(spectrum_logits, redshift, largest_redshift)


@loss
def image_redshift(image_logits, redshift, largest_redshift):
    """Return the cross entropy of redshifts read off images."""
    return redshift_cross_entropy(image_logits, redshift, largest_redshift)


@loss
def scan_redshift(scan_log_posterior, scanned_redshift):
    """Return the cross entropy of redshifts that `~astroclip.models.redshift_scan` measures.

    Parameters
    ----------
    scan_log_posterior : (M, Z) `torch.Tensor`
        Logarithms of the probabilities of redshifts even in log(1 + z) from zero.
    scanned_redshift : (M,) `torch.Tensor`
        The true ones.
    """
    if not len(scanned_redshift):
        return scan_log_posterior.new_zeros(())
    n_lags = scan_log_posterior.shape[1]
    target = redshift_target(scanned_redshift, n_lags, step=LAG_STEP, first=0.0)
    return -(target * scan_log_posterior).sum(dim=1).mean()


@loss
def swapped_redshift(swapped_logits, swapped_target, largest_redshift):
    """Return the cross entropy of redshifts where the backbone's features are another galaxy's.

    What the backbone makes of a spectrum unlike all in training is no better than another galaxy's
    features; the template scan beside it still holds, and the projection learns to rely on it.
    """
    return redshift_cross_entropy(swapped_logits, swapped_target, largest_redshift)


def known_error(predicted, labels):
    """Return the smooth absolute error of predictions (N, L) over labels that are not NaN."""
    known = torch.isfinite(labels)
    error = functional.smooth_l1_loss(
        predicted, torch.where(known, labels, predicted.detach()), reduction="sum"
    )
    return error / known.sum().clamp(min=1)


@loss
def spectrum_labels(spectrum_read, labels):
    """Return the error of known properties read off spectra."""
    return known_error(spectrum_read, labels)


@loss
def image_labels(image_read, labels):
    """Return the error of known properties read off images."""
    return known_error(image_read, labels)


# ---------------------------------------------------------------------- neighbors
@dataclasses.dataclass
class Remembered:
    """Embeddings and properties of M recent galaxies, and learned scales of similarity.

    Attributes
    ----------
    spectrum, image : (M, D) `torch.Tensor`
        Unit vectors; of any two views where there are no images.
    labels : (M, L) `torch.Tensor`
    redshift : (M,) `torch.Tensor`
    label_scales : (2,) `torch.Tensor`
        Of similarities to ``spectrum`` and to ``image``, where labels are estimated.
    redshift_scale : `torch.Tensor`
        Where redshifts are estimated.
    """

    spectrum: torch.Tensor
    image: torch.Tensor
    labels: torch.Tensor
    redshift: torch.Tensor
    label_scales: torch.Tensor
    redshift_scale: torch.Tensor

    def __len__(self):
        return len(self.redshift)


class NeighborMemory(nn.Module):
    """Keeps the last galaxies of a training, for losses on estimates from neighbors.

    Parameters
    ----------
    size : int
        Galaxies remembered.
    dim : int
        Length of an embedding.
    n_labels : int
        Properties of each.

    References
    ----------
    Wang et al. (2020), "Cross-batch memory for embedding learning", arXiv:1912.06798.
    """

    def __init__(self, size, dim, n_labels):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((2,), math.log(20.0)))
        self.redshift_log_scale = nn.Parameter(torch.tensor(math.log(30.0)))
        self.register_buffer("keys", torch.zeros(2, size, dim))
        self.register_buffer("labels", torch.zeros(size, n_labels))
        self.register_buffer("redshift", torch.zeros(size))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.long))

    def forward(self):
        """Return what is `Remembered` now, as copies: the next batch replaces the oldest."""
        filled = slice(min(int(self.n_seen), len(self.labels)))
        scales, redshift_scale = (
            values.clamp(max=math.log(LARGEST_SCALE)).exp()
            for values in (self.log_scale, self.redshift_log_scale)
        )
        return Remembered(
            *self.keys[:, filled].clone(), self.labels[filled].clone(),
            self.redshift[filled].clone(), scales, redshift_scale,
        )

    @torch.no_grad()
    def remember(self, spectrum, image, labels, redshift):
        """Put a batch in the place of the oldest galaxies."""
        size = len(self.labels)
        rows = (self.n_seen + torch.arange(len(labels), device=labels.device)) % size
        for number, embedding in enumerate((spectrum, image)):
            self.keys[number, rows] = functional.normalize(embedding.detach(), dim=1).float()
        self.labels[rows], self.redshift[rows] = labels, redshift
        self.n_seen += len(labels)


def neighbor_estimate(query, keys, values, scale):
    r"""Return values estimated from all remembered galaxies, the most similar ones first of all.

    .. math:: \hat y_i = \sum_j \mathrm{softmax}_j(s\, q_i \cdot k_j)\, y_j

    A k-NN estimate that can be differentiated: weights fall with distance instead of ending at the
    k-th galaxy, and the scale s at which they fall is learned.

    Parameters
    ----------
    query : (N, D) `torch.Tensor`
        Embeddings, normalized here.
    keys : (M, D) `torch.Tensor`
        Unit vectors.
    values : (M, L) `torch.Tensor`
    scale : float or `torch.Tensor`

    Returns
    -------
    (N, L) `torch.Tensor`

    References
    ----------
    Goldberger et al. (2004), "Neighbourhood components analysis", NIPS 17, whose classification
    this turns into regression.
    """
    return (scale * functional.normalize(query, dim=1) @ keys.T).softmax(dim=1) @ values


def neighbor_error(views, labels, memory, *, label_weights, first_weights=None):
    """Return the error of properties estimated from neighbors within and across two views.

    Parameters
    ----------
    views : sequence of two (N, D) `torch.Tensor`
        Embeddings of spectra and images, or whatever ``memory`` has in their places.
    labels : (N, L) `torch.Tensor`
        Of order one; as many of the remembered labels as there are, the first ones.
    memory : Remembered
    label_weights : (L,) sequence of float
        Of the errors of each.
    first_weights : (L,) sequence of float, optional
        The same where the first view is estimated from itself; by default those above.

    Returns
    -------
    `torch.Tensor`
        Scalar; estimates across the views count half. Zero while nothing is remembered.
    """
    total = views[0].new_zeros(())
    if not len(memory) or not len(labels):
        return total
    for number, query in enumerate(views):
        for other, keys in enumerate((memory.spectrum, memory.image)):
            estimate = neighbor_estimate(query, keys, memory.labels, memory.label_scales[other])
            error = functional.smooth_l1_loss(
                estimate[:, : labels.shape[1]], labels, reduction="none"
            )
            own = number == other == 0 and first_weights is not None
            weights = error.new_tensor(first_weights if own else label_weights)
            total = total + (1.0 if number == other else 0.5) * (error * weights).mean()
    return total


@loss
def neighbors(
    spectrum, image, labels, memory, neighbor_label_weights, spectrum_label_weights
):
    """Return the error of properties estimated from neighbors, see `neighbor_error`.

    It makes neighbors alike in these properties, which estimates from neighbors need and contrast
    alone does not ask for.
    """
    labels = labels[:, : memory.labels.shape[1]]
    known = torch.isfinite(labels).all(dim=1)
    return neighbor_error(
        (spectrum[known], image[known]), labels[known], memory,
        label_weights=neighbor_label_weights, first_weights=spectrum_label_weights,
    )


@loss
def neighbor_redshift(spectrum, redshift, labels, memory, largest_redshift):
    """Return the cross entropy of redshifts with those of the most similar spectra.

    Of galaxies that are remembered too: those with all properties known. Zero while nothing is
    remembered.
    """
    known = torch.isfinite(labels[:, : memory.labels.shape[1]]).all(dim=1)
    if not len(memory) or not known.any():
        return spectrum.new_zeros(())
    step = math.log1p(largest_redshift) / N_NEIGHBOR_BINS
    target, remembered = (
        redshift_target(values, N_NEIGHBOR_BINS, step=step)
        for values in (redshift[known], memory.redshift)
    )
    probability = neighbor_estimate(
        spectrum[known], memory.spectrum, remembered, memory.redshift_scale
    )
    return -(target * torch.log(probability + 1e-5)).sum(dim=1).mean()


@loss
def outliers(outliers, memory):
    """Return by how much stars and quasars are too similar to their nearest galaxies, on average.

    Zero while nothing is remembered.
    """
    if not len(memory) or not len(outliers):
        return outliers.new_zeros(())
    similarity = functional.normalize(outliers, dim=1) @ memory.spectrum.T
    nearest = similarity.topk(min(N_NEAREST, len(memory)), dim=1).values
    return (nearest - OUTLIER_SIMILARITY).clamp(min=0).mean()


def redshift_leak(views, redshift, memory):
    """Return the squared correlation of redshifts with those estimated from neighbors.

    Parameters
    ----------
    views : sequence of two (N, D) `torch.Tensor`
    redshift : (N,) `torch.Tensor`
        In the unit of the last remembered label.
    memory : Remembered

    Returns
    -------
    `torch.Tensor`
        Scalar, zero where they are anticorrelated or nothing is remembered.
    """
    if not len(memory):
        return redshift.new_zeros(())
    estimate = torch.cat([
        neighbor_estimate(view, keys, memory.labels, scale)[:, -1]
        for view, keys, scale in zip(
            views, (memory.spectrum, memory.image), memory.label_scales, strict=True
        )
    ])
    pair = torch.stack([estimate, redshift.repeat(2)])
    pair = pair - pair.mean(dim=1, keepdim=True)
    pair = pair / pair.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return (pair[0] * pair[1]).sum().clamp(min=0) ** 2
