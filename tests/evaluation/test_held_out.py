"""Scores on held-out pairs equal those computed one by one."""

import numpy as np
import pytest
from sklearn.metrics import r2_score as sklearn_r2
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from astroclip.evaluation import information_bound, score_retrieval
from astroclip.evaluation.baselines import fibre_features
from astroclip.evaluation.held_out import HELD_OUT, score_baselines, score_model, score_other
from astroclip.evaluation.scores import find_score
from tests.evaluation.conftest import N_NEIGHBORS


@pytest.fixture
def scored(run):
    """Return the run and the table of its model's scores."""
    score_model(run)
    return run, run.scores.table()


def test_every_direction_and_property_is_scored_as_scikit_learn_does(scored):
    run, table = scored
    for query in ("spectrum", "image"):
        for source in ("spectrum", "image"):
            regressor = KNeighborsRegressor(N_NEIGHBORS, weights="distance")
            near, rows = run.known.embeddings(source), run.held.embeddings(query)
            for name, truth in run.held.truth.items():
                regressor.fit(near, run.known.truth[name])
                found = find_score(
                    table, "r2", protocol="k-NN", query=query, reference=source, property=name
                )
                expected = sklearn_r2(truth, regressor.predict(rows))
                assert found == pytest.approx(expected, abs=2e-3)


def test_retrieval_and_information_are_in_the_table(scored):
    run, table = scored
    views = [run.held.embeddings(kind) for kind in ("image", "spectrum")]
    expected = score_retrieval(*views)
    for score, value in expected.items():
        found = find_score(table, score, query="image", reference="spectrum", data=HELD_OUT)
        assert found == value
    bound, n_pairs = information_bound(*views)
    row = table[table["score"] == "nats"][0]
    assert row["value"] == pytest.approx(bound)
    assert row["n_queries"] == n_pairs == 18


def test_zero_and_few_shot_are_there_for_both_modalities(scored):
    _, table = scored
    for protocol in ("zero-shot", "few-shot"):
        rows = table[table["protocol"] == protocol]
        assert set(rows["query"]) == {"spectrum", "image"}
        assert set(rows["property"]) >= {"redshift", "log_stellar_mass", "upstream_ssfr"}


def test_baselines_are_scored_on_the_same_galaxies(run):
    score_baselines(run)
    table = run.scores.table()
    assert set(table["query"]) == {
        "spectrum, principal components", "photometry", "photometry, r and colours",
        "photometry and true shapes", "fibre light and true properties",
    }
    assert set(table["n_queries"]) == {len(run.held)}
    assert set(table["n_reference"]) == {len(run.known)}
    mass = find_score(table, "r2", query="photometry", protocol="k-NN", property="redshift")
    assert mass > 0  # magnitudes tell redshifts, even from few galaxies


def test_masses_of_neighbours_in_what_is_true_are_those_of_scikit_learn(run):
    score_baselines(run)
    near, queries = (
        fibre_features(part.galaxies, part.truth, seed=(run.scores.seed, number))
        for number, part in enumerate((run.known, run.held))
    )
    scaler = StandardScaler().fit(near)
    neighbors = KNeighborsRegressor(run.n_neighbors, weights="distance")
    neighbors.fit(scaler.transform(near), run.known.truth["log_stellar_mass"])
    expected = sklearn_r2(
        run.held.truth["log_stellar_mass"], neighbors.predict(scaler.transform(queries))
    )
    found = find_score(
        run.scores.table(), "r2", query="fibre light and true properties", protocol="k-NN"
    )
    assert found == pytest.approx(expected, abs=1e-6)


def test_another_model_and_predictions_are_scored_beside(
    run, image_model, pairs, reference, tmp_path, monkeypatch
):
    monkeypatch.setattr("astroclip.models.load_model", lambda source: image_model, raising=False)
    score_other(run, "image-only encoder", "weights.safetensors", pairs, reference)
    table = run.scores.table()
    assert set(table["query"]) == {"image-only encoder: image"}
    assert find_score(table, "r2", property="redshift") is not None
    path = tmp_path / "predictions.npz"
    np.savez(path, redshift=run.held.truth["redshift"])
    score_other(run, "supervised encoder", path, pairs, reference)
    found = find_score(run.scores.table(), "r2", query="supervised encoder", property="redshift")
    assert found == 1.0


def test_objects_that_could_not_be_embedded_are_left_out(run):
    table = run.held.tables["image"].copy()
    embedding = np.ma.array(np.asarray(table["embedding"]), mask=False)
    embedding[3] = np.ma.masked
    table["embedding"] = embedding
    run.add_neighbors(table, "image")
    rows = run.scores.table()
    assert set(rows["n_queries"]) == {len(table) - 1}
    assert np.isfinite(rows["value"]).all()
    first = run.held.embeddings("image").copy()
    first[3] = np.nan
    run.add_retrieval(first, run.held.embeddings("spectrum"), ("image", "spectrum"))
    assert run.scores.table()["n_queries"][-1] == len(table) - 1
