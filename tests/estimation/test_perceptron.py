"""The numpy network against torch's: outputs, gradients, Adam's steps, what it learns."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from astroclip.estimation.perceptron import (
    Layers,
    PerceptronRecipe,
    _adam_step,
    _initial_layers,
    batch_gradients,
    train_perceptron,
)
from astroclip.evaluation import few_shot
from astroclip.metrics import r2_score


def torch_network(layers):
    parts = []
    for weight, bias in zip(layers.weights, layers.biases):
        linear = torch.nn.Linear(*weight.shape[::-1], dtype=torch.float64)
        linear.weight.data = torch.from_numpy(weight.copy())
        linear.bias.data = torch.from_numpy(bias.copy())
        parts += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*parts[:-1])


@pytest.mark.parametrize("classes", [False, True])
def test_outputs_gradients_and_steps_are_torchs(classes):
    rng = np.random.default_rng(0)
    layers = _initial_layers([5, 7, 6, 3], rng)
    network = torch_network(layers)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    features = rng.normal(size=(20, 5))
    targets = np.eye(3)[rng.integers(0, 3, 20)] if classes else rng.normal(size=(20, 3))
    parameters = [*layers.weights, *layers.biases]
    moments = [(np.zeros_like(values), np.zeros_like(values)) for values in parameters]
    loss = torch.nn.functional.cross_entropy if classes else torch.nn.functional.mse_loss
    for step in range(1, 6):
        optimizer.zero_grad()
        loss(network(torch.from_numpy(features)), torch.from_numpy(targets)).backward()
        found = batch_gradients(layers, features, targets, dropout=0.0, rng=rng, classes=classes)
        linear = network[::2]
        expected = [part.weight.grad for part in linear] + [part.bias.grad for part in linear]
        for gradient, other in zip(found, expected):
            assert_allclose(gradient, other.numpy(), rtol=1e-8, atol=1e-12)
        optimizer.step()
        for values, gradient, moment in zip(parameters, found, moments):
            _adam_step(values, gradient, moment, step, 0.01)
        assert_allclose(layers(features), network(torch.from_numpy(features)).detach().numpy())


def test_dropout_keeps_the_mean():
    rng = np.random.default_rng(1)
    layers = Layers([np.eye(2), np.ones((1, 2))], [np.ones(2), np.zeros(1)])
    features, targets = np.zeros((1, 2)), np.zeros((1, 1))
    found = [
        batch_gradients(layers, features, targets, dropout=0.4, rng=rng, classes=False)[3][0]
        for _ in range(4000)
    ]
    assert np.mean(found) == pytest.approx(4.0, rel=0.05)  # twice the output, 2 on average


def test_learns_as_well_as_the_papers_network():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(1600, 3))
    truth = np.sin(features[:, 0]) + features[:, 1] * features[:, 2]
    near, query = features[:1000], features[1000:]
    theirs = few_shot(near, {"y": truth[:1000]}, query, n_epochs=20)["y"]
    recipe = PerceptronRecipe(n_epochs=20, least_steps=1)
    layers = train_perceptron(near, truth[:1000, None], recipe=recipe, random_state=0)
    ours = layers(query)[:, 0]
    assert r2_score(ours, truth[1000:]) == pytest.approx(r2_score(theirs, truth[1000:]), abs=0.1)
    assert r2_score(ours, truth[1000:]) > 0.4


def test_rescaled_layers_take_and_give_plain_values():
    rng = np.random.default_rng(3)
    layers = _initial_layers([4, 6, 2], rng)
    features = rng.normal(2, 3, (9, 4))
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    found = layers.rescaled((mean, deviation), (np.array([1.0, 2]), np.array([3.0, 4])))(features)
    assert_allclose(found, layers((features - mean) / deviation) * [3, 4] + [1, 2])


def test_few_examples_get_more_epochs_and_the_seed_decides():
    features = np.random.default_rng(4).normal(size=(30, 2))
    targets = features[:, :1] * 2
    recipe = PerceptronRecipe(hidden=(16,), dropout=0.0)
    first, again, other = (
        train_perceptron(features, targets, recipe=recipe, random_state=seed)(features)
        for seed in (0, 0, 1)
    )
    assert_allclose(first, again, rtol=0)
    assert not np.allclose(first, other)
    assert r2_score(first[:, 0], targets[:, 0]) > 0.97
