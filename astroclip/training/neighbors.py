"""Training for k-NN estimates: properties predicted from the most similar recent galaxies."""

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = ["NeighborMemory"]


class NeighborMemory(nn.Module):
    r"""Embeddings and properties of recent galaxies, to estimate those of new ones from.

    A differentiable k-NN estimate: all remembered galaxies count, with weights that fall
    with distance, and the scale at which they fall is learned.

    .. math:: \hat y_i = \sum_j \mathrm{softmax}_j(s\, q_i \cdot k_j)\, y_j

    Its error as a loss makes neighbours in the embedding alike in these properties, which
    is what estimates from neighbours need; contrast alone does not ask for it.

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
    Goldberger et al. (2004), "Neighbourhood components analysis", NIPS 17, whose
    classification this turns into regression; the memory of recent batches: Wang et al.
    (2020), "Cross-batch memory for embedding learning", arXiv:1912.06798.
    """

    def __init__(self, size, dim, n_labels):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((2,), math.log(20.0)))
        self.register_buffer("keys", torch.zeros(2, size, dim))
        self.register_buffer("labels", torch.zeros(size, n_labels))
        self.redshift_log_scale = nn.Parameter(torch.tensor(math.log(30.0)))
        self.register_buffer("redshift", torch.zeros(size))
        self.register_buffer("n_seen", torch.zeros((), dtype=torch.long))

    @property
    def n_filled(self):
        """Galaxies remembered now."""
        return min(int(self.n_seen), len(self.labels))

    def remembered(self, modality):
        """Return the unit vectors (n_filled, D) remembered of one modality.

        A copy: `remember` writes before the gradient is computed.
        """
        return self.keys[modality, : self.n_filled].clone()

    def estimate(self, query, modality):
        """Return properties (N, L) estimated from remembered galaxies.

        Parameters
        ----------
        query : (N, D) `torch.Tensor`
            Embeddings, normalized here.
        modality : int
            Which embeddings of the remembered galaxies to compare with, 0 or 1.
        """
        scale = self.log_scale[modality].clamp(max=math.log(100.0)).exp()
        keys = self.remembered(modality)
        weight = (scale * functional.normalize(query, dim=1) @ keys.T).softmax(dim=1)
        return weight @ self.labels[: self.n_filled].clone()

    def loss(self, embeddings, labels, *, n_labels=None, label_weights=None, first_weights=None):
        """Return the error of estimates within and across both modalities.

        Parameters
        ----------
        embeddings : sequence of two (N, D) `torch.Tensor`
        labels : (N, L) `torch.Tensor`
            Of order one.
        n_labels : int, optional
            Only the first ones count; all by default.
        label_weights : (n_labels,) sequence of float, optional
            Of the errors of each; alike by default.
        first_weights : (n_labels,) sequence of float, optional
            The same where the first modality is estimated from itself; by default those above.

        Returns
        -------
        `torch.Tensor`
            Zero while nothing is remembered.
        """
        total = embeddings[0].new_zeros(())
        if not self.n_filled or not len(labels):
            return total
        for query, embedding in enumerate(embeddings):
            for key in range(2):
                estimate = self.estimate(embedding, key)[:, :n_labels]
                error = functional.smooth_l1_loss(
                    estimate, labels[:, :n_labels], reduction="none"
                )
                own = query == key == 0 and first_weights is not None
                weights = first_weights if own else label_weights
                if weights is not None:
                    error = error * error.new_tensor(weights)
                total = total + (1.0 if query == key else 0.5) * error.mean()
        return total

    def redshift_loss(self, embedding, redshift, bins):
        """Return the cross entropy of redshifts with those of the most similar galaxies.

        Parameters
        ----------
        embedding : (N, D) `torch.Tensor`
            Of the first modality.
        redshift : (N,) `torch.Tensor`
        bins : `~astroclip.training.alignment.RedshiftBins`

        Returns
        -------
        `torch.Tensor`
            Zero while nothing is remembered.
        """
        if not self.n_filled or not len(redshift):
            return embedding.new_zeros(())
        scale = self.redshift_log_scale.clamp(max=math.log(100.0)).exp()
        keys = self.remembered(0)
        weight = (scale * functional.normalize(embedding, dim=1) @ keys.T).softmax(dim=1)
        probability = weight @ bins.target(self.redshift[: self.n_filled])
        return -(bins.target(redshift) * torch.log(probability + 1e-5)).sum(dim=1).mean()

    def outlier_loss(self, embedding, *, largest_similarity=0.4):
        """Return how much more similar objects of other kinds are to their nearest galaxy.

        Parameters
        ----------
        embedding : (N, D) `torch.Tensor`
            Of the first modality, of objects that are no galaxies.
        largest_similarity : float
            What is allowed.

        Returns
        -------
        `torch.Tensor`
            Mean excess; zero while nothing is remembered.
        """
        if not self.n_filled:
            return embedding.new_zeros(())
        keys = self.remembered(0)
        nearest = (functional.normalize(embedding, dim=1) @ keys.T).topk(
            min(8, self.n_filled), dim=1
        )
        return (nearest.values - largest_similarity).clamp(min=0).mean()

    @torch.no_grad()
    def remember(self, embeddings, labels, redshift=None):
        """Put a batch in the place of the oldest galaxies."""
        size = len(self.labels)
        rows = (self.n_seen + torch.arange(len(labels), device=labels.device)) % size
        for number, embedding in enumerate(embeddings):
            self.keys[number, rows] = functional.normalize(embedding.detach(), dim=1).float()
        self.labels[rows] = labels
        if redshift is not None:
            self.redshift[rows] = redshift
        self.n_seen += len(labels)
