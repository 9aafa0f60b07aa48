"""The linear redshift head in plain numpy, read from a weights file without torch."""

import dataclasses
from pathlib import Path

import numpy as np
from scipy.special import softmax

from astroclip._files import file_sha256
from astroclip.models.presets import PRESETS
from astroclip.models.weights import find_weights, read_safetensors, redshift_head_settings
from astroclip.redshifts.distribution import RedshiftDistribution, redshift_edges

__all__ = ["LinearRedshiftHead", "RedshiftHeads", "read_redshift_heads"]

PREFIX = "redshift_head."
CHUNK = 1000  # embeddings whose logits are computed at a time: bounds the memory


@dataclasses.dataclass(frozen=True, eq=False)
class LinearRedshiftHead:
    r"""Redshift distributions from embeddings: one linear layer and a softmax.

    Attributes
    ----------
    weight : (B, D) `numpy.ndarray`
    bias : (B,) `numpy.ndarray`
    largest : float
        Upper edge of the last redshift bin.
    scale : float
        Length that embeddings are given.
    temperature : float
        Divides the logits; calibrated on held-out objects, see
        `~astroclip.redshifts.fit_temperature`.

    Notes
    -----
    For an embedding e of any length the probabilities of the B bins are

    .. math:: \mathrm{softmax}\left[(W s\,e / |e| + b) / T\right]
    """

    weight: np.ndarray
    bias: np.ndarray
    largest: float
    scale: float = 1.0
    temperature: float = 1.0

    @property
    def edges(self):
        """Edges of the redshift bins (B + 1,)."""
        return redshift_edges(len(self.bias), self.largest)

    def logits(self, embedding):
        """Return logits (N, B) of embeddings (N, D), before the temperature.

        Raises
        ------
        ValueError
            If embeddings are not (N, D).
        """
        embedding = np.asarray(embedding, dtype=float)
        if embedding.ndim != 2 or embedding.shape[1] != self.weight.shape[1]:
            msg = (
                f"embedding has shape {embedding.shape}; expected (N, {self.weight.shape[1]}), "
                f"as the head's model makes them."
            )
            raise ValueError(msg)
        length = np.linalg.norm(embedding, axis=1, keepdims=True)
        features = self.scale * embedding / np.maximum(length, 1e-12)
        return features @ np.asarray(self.weight, float).T + np.asarray(self.bias, float)

    def distribution(self, embedding, *, temperature=None):
        """Return the redshift distributions of embeddings.

        Parameters
        ----------
        embedding : (N, D) array-like
            Rows that are not finite give NaN.
        temperature : float, optional
            Instead of the head's own.

        Returns
        -------
        `~astroclip.redshifts.distribution.RedshiftDistribution`
            float32 probabilities.
        """
        embedding = np.atleast_1d(embedding)
        temperature = self.temperature if temperature is None else temperature
        probability = np.full((len(embedding), len(self.bias)), np.nan, np.float32)
        for first in range(0, len(embedding), CHUNK):
            rows = np.asarray(embedding[first : first + CHUNK])
            good = np.flatnonzero(np.isfinite(rows).all(axis=-1))
            if len(good):
                logits = self.logits(rows[good])
                probability[first + good] = softmax(logits / temperature, axis=1)
        return RedshiftDistribution(self.edges, probability)


@dataclasses.dataclass(frozen=True, eq=False)
class RedshiftHeads:
    """The redshift heads of a model.

    Attributes
    ----------
    model_name : str
        For messages.
    weights_sha256 : str
        Of the whole file: its heads apply to embeddings of these weights alone.
    heads : dict of str to `LinearRedshiftHead`
        By modality.
    """

    model_name: str
    weights_sha256: str
    heads: dict


def read_redshift_heads(model):
    """Read the redshift heads of a model from its weights file.

    Parameters
    ----------
    model : str, path-like or `~astroclip.models.EmbeddingModel`
        A name or file as in `astroclip.load_model`, which is not loaded, or a model that was
        loaded from a file.

    Returns
    -------
    `RedshiftHeads`

    Raises
    ------
    ValueError
        If the model has no redshift head, or there is no such name.
    CheckpointError
        If the file is damaged, or its heads do not fit its configuration.
    FileNotFoundError, ConnectionError
        If the weights are not there and cannot be fetched.

    Examples
    --------
    >>> from astroclip.redshifts.head import read_redshift_heads
    >>> heads = read_redshift_heads("astroclip-small").heads
    >>> heads["spectrum"].weight.shape, heads["image"].weight.shape
    ((1024, 128), (256, 128))
    """
    if hasattr(model, "network"):  # a loaded model
        name, path = model.name, model.path
    else:
        name = str(model)
        preset = PRESETS.get(name)
        if preset is not None and preset.architecture != "small":  # not worth a download
            raise ValueError(_no_head(name))
        path = find_weights(model)[0]
    if path is None or Path(path).suffix != ".safetensors":
        raise ValueError(_no_head(name))
    arrays, config = read_safetensors(path, framework="np", prefix=PREFIX)
    tensors = {key: array.astype(np.float32) for key, array in arrays.items()}
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    settings = redshift_head_settings(config.get("redshift_head"), shapes)
    if not settings:
        raise ValueError(_no_head(name))
    heads = {
        modality: LinearRedshiftHead(
            tensors[f"{PREFIX}{modality}.weight"], tensors[f"{PREFIX}{modality}.bias"], **values
        )
        for modality, values in settings.items()
    }
    return RedshiftHeads(name, file_sha256(path), heads)


def _no_head(name):
    return (
        f"model {name!r} has no redshift head; expected a weights file with one, which "
        f"astroclip.training writes. Estimate from neighbors instead: "
        f"astroclip.PropertyEstimator."
    )
