"""A small network in plain numpy: linear layers, ReLU and dropout, trained by Adam.

The papers' few-shot network has a few thousand parameters. Numpy trains it in a second, and
neither training nor use of one needs torch.
"""

import dataclasses

import numpy as np
from scipy.special import softmax

__all__ = ["Layers", "PerceptronRecipe", "train_perceptron"]

DECAY, SQUARED_DECAY, SMALL = 0.9, 0.999, 1e-8  # Adam's usual ones


@dataclasses.dataclass(frozen=True, eq=False)
class Layers:
    """Linear layers with ReLU between them; one layer alone is a linear model.

    Attributes
    ----------
    weights : list of (n_out, n_in) `numpy.ndarray`
    biases : list of (n_out,) `numpy.ndarray`
    """

    weights: list
    biases: list

    def __call__(self, features):
        """Return outputs (N, T) of features (N, D)."""
        values = np.asarray(features, dtype=float)
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if number:
                values = np.maximum(values, 0.0)
            values = values @ weight.T + bias
        return values

    def rescaled(self, features=(0.0, 1.0), targets=(0.0, 1.0)):
        """Return layers for features and targets as they were before standardisation.

        Parameters
        ----------
        features, targets : (mean, deviation)
            That were subtracted, and divided by.
        """
        weights, biases = list(self.weights), list(self.biases)
        mean, deviation = features
        weights[0] = weights[0] / deviation
        biases[0] = biases[0] - weights[0] @ np.broadcast_to(mean, weights[0].shape[1:])
        mean, deviation = targets
        deviation = np.broadcast_to(deviation, biases[-1].shape)
        weights[-1] = weights[-1] * deviation[:, None]
        biases[-1] = biases[-1] * deviation + mean
        return Layers(weights, biases)


@dataclasses.dataclass(frozen=True)
class PerceptronRecipe:
    """How a network is trained; the defaults are the papers'.

    Attributes
    ----------
    hidden : sequence of int
        Widths of the hidden layers.
    dropout : float
    learning_rate : float
        Of Adam.
    n_epochs, batch_size : int
    least_steps : int
        With few examples there are as many epochs as make so many steps.
    """

    hidden: tuple = (64, 64)
    dropout: float = 0.1
    learning_rate: float = 1e-3
    n_epochs: int = 10
    batch_size: int = 64
    least_steps: int = 1000


def train_perceptron(features, targets, *, recipe, random_state, classes=False):
    """Return a network trained on examples.

    Parameters
    ----------
    features : (N, D) `numpy.ndarray`
        Standardised.
    targets : (N, T) `numpy.ndarray`
        Standardised numbers, or one column per class with a one for the true class.
    recipe : `PerceptronRecipe`
    random_state : int
        Fixes initial weights, order and dropout.
    classes : bool
        Whether the loss is the cross entropy of classes; mean squared error otherwise.

    Returns
    -------
    `Layers`
        Outputs are numbers, or logits of classes.

    References
    ----------
    Parker et al. (2024), MNRAS 531, 4990, and the code published with it; Kingma & Ba
    (2015), arXiv:1412.6980.
    """
    rng = np.random.default_rng(random_state)
    layers = _initial_layers([features.shape[1], *recipe.hidden, targets.shape[1]], rng)
    parameters = [*layers.weights, *layers.biases]
    moments = [(np.zeros_like(values), np.zeros_like(values)) for values in parameters]
    n_steps = 0
    n_batches = -(-len(features) // recipe.batch_size)
    for _ in range(max(recipe.n_epochs, -(-recipe.least_steps // n_batches))):
        order = rng.permutation(len(features))
        for first in range(0, len(order), recipe.batch_size):
            rows = order[first : first + recipe.batch_size]
            n_steps += 1
            gradients = batch_gradients(
                layers, features[rows], targets[rows],
                dropout=recipe.dropout, rng=rng, classes=classes,
            )
            for values, gradient, moment in zip(parameters, gradients, moments, strict=True):
                _adam_step(values, gradient, moment, n_steps, recipe.learning_rate)
    return layers


def _initial_layers(widths, rng):
    """Return random layers, uniform between plus and minus one over the root of inputs."""
    weights, biases = [], []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        reach = 1 / np.sqrt(n_in)
        weights.append(rng.uniform(-reach, reach, (n_out, n_in)))
        biases.append(rng.uniform(-reach, reach, n_out))
    return Layers(weights, biases)


def batch_gradients(layers, features, targets, *, dropout, rng, classes):
    """Return the gradients of the loss of a batch, first of weights, then of biases."""
    inputs, kept = [features], []
    values = features
    last = len(layers.weights) - 1
    for number, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        values = values @ weight.T + bias
        if number < last:
            keep = (rng.random(values.shape) >= dropout) / (1 - dropout)
            keep *= values > 0
            values = values * keep
            kept.append(keep)
            inputs.append(values)
    if classes:
        slope = (softmax(values, axis=1) - targets) / len(targets)
    else:
        slope = 2 * (values - targets) / targets.size
    weights, biases = [None] * (last + 1), [None] * (last + 1)
    for number in range(last, -1, -1):
        weights[number] = slope.T @ inputs[number]
        biases[number] = slope.sum(axis=0)
        if number:
            slope = (slope @ layers.weights[number]) * kept[number - 1]
    return [*weights, *biases]


def _adam_step(values, gradient, moment, n_steps, learning_rate):
    """Change values in place by one step of Adam."""
    first, second = moment
    first += (1 - DECAY) * (gradient - first)
    second += (1 - SQUARED_DECAY) * (gradient**2 - second)
    size = np.sqrt(second / (1 - SQUARED_DECAY**n_steps)) + SMALL
    values -= learning_rate * first / (1 - DECAY**n_steps) / size
