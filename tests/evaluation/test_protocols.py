"""Protocols against scikit-learn, torch and slow formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import astroclip
from astroclip.evaluation import (
    best_scale,
    few_shot,
    information_bound,
    score_estimates,
    score_retrieval,
    upstream_ssfr,
    zero_shot,
)
from astroclip.tables import embedding_matrix
from astroclip.training.losses import info_nce


@pytest.fixture(scope="module")
def halves():
    """Return spectra of the bundled reference, and others."""
    reference = astroclip.reference_table()
    spectra = reference[np.asarray(reference["modality"]) == "spectrum"]
    return spectra[::4], spectra[1::8]


@pytest.fixture(scope="module")
def problem():
    """Return features and two properties of 300 objects and features of 40 others."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(340, 6)) * [1, 10, 0.1, 1, 1, 1] + 5
    values = {"sum": features @ [1, 0.1, 3, 0, 0, 1], "product": features[:, 0] * features[:, 3]}
    known = {name: column[:300] for name, column in values.items()}
    return features[:300], known, features[300:], {k: v[300:] for k, v in values.items()}


def unit(vectors):
    """Return vectors of length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_scores_equal_scikit_learns(halves):
    reference, queries = halves
    truth = {"redshift": np.asarray(queries["redshift"])}
    estimator = astroclip.PropertyEstimator(n_neighbors=16).fit(reference, ["redshift"])
    scores = score_estimates(estimator.predict(queries), truth)
    regressor = KNeighborsRegressor(16, weights="distance")
    regressor.fit(embedding_matrix(reference)[0], np.asarray(reference["redshift"]))
    predicted = regressor.predict(embedding_matrix(queries)[0])
    assert scores["r2"][0] == pytest.approx(r2_score(truth["redshift"], predicted), abs=1e-4)
    assert 0.6 < scores["coverage_68"][0] < 0.76


def test_retrieval_of_copies_is_perfect_and_of_noise_is_chance():
    vectors = np.random.default_rng(1).normal(size=(500, 32))
    assert score_retrieval(vectors, vectors)["recall_1"] == 1.0
    noise = np.random.default_rng(2).normal(size=(500, 32))
    assert score_retrieval(vectors, noise)["recall_10"] < 0.08


def test_retrieval_equals_a_naive_loop_over_the_first_pairs():
    rng = np.random.default_rng(4)
    queries = unit(rng.normal(size=(60, 4)))
    targets = unit(queries + 0.5 * rng.normal(size=(60, 4)))
    ranks = []
    for number in range(40):
        order = np.argsort(-(targets[:40] @ queries[number]))
        ranks.append(order.tolist().index(number) + 1)
    scores = score_retrieval(queries, targets, n_pairs=40)
    for n_best in (1, 5, 10):
        assert scores[f"recall_{n_best}"] == np.mean(np.array(ranks) <= n_best)
    assert scores["median_rank"] == np.median(ranks)


# ---------------------------------------------------------------------- estimates
def test_zero_shot_equals_a_scikit_learn_pipeline_on_standardized_targets(problem):
    features, values, queries, _ = problem
    found = zero_shot(features, values, queries, n_neighbors=20)
    for name, column in values.items():
        pipeline = make_pipeline(StandardScaler(), KNeighborsRegressor(20, weights="distance"))
        mean, scatter = column.mean(), column.std()
        pipeline.fit(features, (column - mean) / scatter)
        np.testing.assert_allclose(found[name], pipeline.predict(queries) * scatter + mean)


def test_features_that_are_not_standardized_stay_as_they_are(problem):
    features, values, queries, _ = problem
    regressor = KNeighborsRegressor(5, weights="distance").fit(features, values["sum"])
    found = zero_shot(features, values, queries, n_neighbors=5, standardize=False)
    np.testing.assert_allclose(found["sum"], regressor.predict(queries))


def test_few_shot_equals_the_published_network_written_out(problem):
    features, values, queries, _ = problem
    found = few_shot(features, {"sum": values["sum"]}, queries, n_epochs=2, dropout=0.0, seed=5)
    mean, scatter = features.mean(axis=0), features.std(axis=0)
    near, query = (torch.tensor((x - mean) / scatter).float() for x in (features, queries))
    center, width = values["sum"].mean(), values["sum"].std()
    wanted = torch.tensor((values["sum"] - center) / width).float()
    torch.manual_seed(5)
    layers = [torch.nn.Linear(6, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 1)]
    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def network(x):
        return layers[2](torch.relu(layers[1](torch.relu(layers[0](x)))))[:, 0]

    for _ in range(2):
        order = torch.randperm(300)
        for first in range(0, 300, 64):
            rows = order[first : first + 64]
            optimizer.zero_grad()
            ((network(near[rows]) - wanted[rows]) ** 2).mean().backward()
            optimizer.step()
    expected = network(query).detach().numpy() * width + center
    np.testing.assert_allclose(found["sum"], expected, rtol=1e-4, atol=1e-4)


def test_few_shot_learns_is_repeatable_and_leaves_the_global_generator_alone(problem):
    features, values, queries, truth = problem
    state = torch.get_rng_state()
    found = few_shot(features, values, queries, n_epochs=60, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert r2_score(truth["sum"], found["sum"]) > 0.9
    again = few_shot(features, values, queries, n_epochs=60, seed=1)
    np.testing.assert_array_equal(found["product"], again["product"])


def test_the_upstream_rate_is_what_its_code_computes():
    rate, mass, metallicity = np.array([-10.0, -11.5]), np.array([10.2, 9.1]), np.array([0.1, -0.5])
    found = upstream_ssfr(
        {"log_ssfr": rate, "log_stellar_mass": mass, "log_metallicity": metallicity}
    )
    expected = np.log(10 ** (rate + mass)) - np.log(10**metallicity)
    np.testing.assert_allclose(found, expected)


# ---------------------------------------------------------------------- information
@given(scale=st.floats(0.5, 200), seed=st.integers(0, 1000))
def test_the_bound_is_that_of_the_training_loss(scale, seed):
    rng = np.random.default_rng(seed)
    first = unit(rng.normal(size=(30, 5)))
    second = unit(first + 0.3 * rng.normal(size=(30, 5)))
    bound, n_pairs = information_bound(first, second, scale=scale, batch_size=20)
    loss = info_nce(torch.tensor(first[:20]), torch.tensor(second[:20]), scale)
    assert n_pairs == 20
    assert bound == pytest.approx(np.log(20) - float(loss), abs=1e-9)


def test_the_best_scale_is_the_best_of_a_grid_and_found_outside_the_batch():
    rng = np.random.default_rng(7)
    first = unit(rng.normal(size=(400, 8)))
    second = unit(first + 0.4 * rng.normal(size=(400, 8)))
    outside = slice(300, 400)
    scale = best_scale(first[outside], second[outside])
    losses = [
        float(info_nce(torch.tensor(first[outside]), torch.tensor(second[outside]), s))
        for s in (0.9 * scale, scale, 1.1 * scale)
    ]
    assert min(losses) == losses[1]
    bound, n_pairs = information_bound(first, second)
    assert n_pairs == 300
    assert bound == information_bound(first, second, scale=scale, batch_size=300)[0]
    assert 0 < bound < np.log(300)
