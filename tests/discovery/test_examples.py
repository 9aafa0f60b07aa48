"""Searching by examples: scores against scikit-learn, suggestions, labels in and out."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from astroclip.discovery import ExampleSearch
from astroclip.exceptions import ModelMismatchError
from astroclip.tables import Flag, embedding_matrix
from tests.discovery.conftest import make_table, unit


@pytest.fixture
def search(rare):
    table, kind = rare
    search = ExampleSearch(table, random_state=1)
    search.label(np.asarray(table["id"])[kind][:5], True)
    return search


def scaled(matrix):
    """Return principal components over their floored scatter, by a singular value decomposition."""
    centered = matrix - matrix.mean(axis=0)
    _, size, axes = np.linalg.svd(centered, full_matrices=False)
    variance = size**2 / len(matrix)
    components = centered @ axes.T / np.sqrt(variance + 0.01 * variance[0])
    return 5 * components / np.sqrt((components**2).sum(axis=1).mean())


def test_prototype_scores_are_the_naive_formula(rare):
    table, kind = rare
    points = scaled(embedding_matrix(table)[0].astype(float))
    search = ExampleSearch(table, method="prototype")
    rows, others = np.flatnonzero(kind)[:4], np.flatnonzero(~kind)[:3]
    search.label([f"g{row}" for row in rows], True)
    mean = points[rows].mean(axis=0)
    np.testing.assert_allclose(search.scores(), points @ mean, rtol=1e-4, atol=1e-4)
    search.label([f"g{row}" for row in others], False)
    other = points[others].mean(axis=0)
    expected = (points - (mean + other) / 2) @ (mean - other)
    np.testing.assert_allclose(search.scores(), expected, rtol=1e-4, atol=1e-4)


def test_logistic_scores_are_those_of_scikit_learn(rare):
    table, kind = rare
    table = table[:80]
    kind = kind[:80]
    points = scaled(embedding_matrix(table)[0].astype(float))
    search = ExampleSearch(table, random_state=2)
    search.label(np.asarray(table["id"]), kind)  # nothing is left as background
    # each class weighs as much as all labels: twice the weights of class_weight="balanced"
    expected = LogisticRegression(C=0.2, class_weight="balanced", max_iter=1000)
    np.testing.assert_allclose(
        search.scores(), expected.fit(points, kind).decision_function(points), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("method", ["logistic", "prototype"])
def test_examples_beat_the_mean_of_raw_embeddings(rare, method):
    table, kind = rare
    search = ExampleSearch(table, method=method)
    ids = np.asarray(table["id"])
    search.label(ids[kind][:6], True)
    search.label(ids[~kind][:20], False)
    matrix = embedding_matrix(table)[0]
    naive = matrix @ matrix[kind][:6].mean(axis=0)
    new = np.asarray(~np.isin(ids, search.labels["id"]))
    found = average_precision_score(kind[new], search.scores()[new])
    assert found > 2 * average_precision_score(kind[new], naive[new])
    assert found > 4 * kind[new].mean()


def test_iterating_finds_the_rare_kind(rare):
    table, kind = rare
    search = ExampleSearch(table)
    search.label(np.asarray(table["id"])[kind][:2], True)
    for _ in range(6):
        wanted = search.suggest(10)
        search.label(wanted["id"], kind[[int(name[1:]) for name in wanted["id"]]])
    labels = search.labels
    assert search.n_rounds == 7
    assert labels["round"].tolist() == sorted(labels["round"].tolist())
    assert np.sum(labels["label"]) > 0.5 * kind.sum()  # a tenth of the labels: chance finds 5


def test_rank_orders_by_score_and_carries_columns(search, rare):
    table, kind = rare
    found = search.rank()
    assert found.colnames[:5] == ["id", "rank", "score", "labeled", "label"]
    assert "embedding" not in found.colnames
    np.testing.assert_array_equal(found["rank"], np.arange(1, 601))
    assert np.all(np.diff(found["score"]) <= 0)
    rows = [int(name[1:]) for name in found["id"]]
    np.testing.assert_array_equal(found["redshift_true"], table["redshift_true"][rows])
    np.testing.assert_array_equal(found["score"], search.scores()[rows])
    assert found["labeled"].sum() == 5
    assert found["label"][np.asarray(found["labeled"])].tolist() == [True] * 5
    np.testing.assert_array_equal(found["label"].mask, ~found["labeled"])
    new = search.rank(7, new_only=True)
    assert len(new) == 7
    assert not new["labeled"].any()
    assert found.meta["MODEL"] == "made-up"


def test_suggestions_are_what_they_say(search):
    scores = search.scores()
    known = np.isin(np.asarray(search.table["id"]), search.labels["id"])
    likely = search.suggest(8, strategy="likely")
    np.testing.assert_array_equal(likely["score"], np.sort(scores[~known])[::-1][:8])
    uncertain = search.suggest(8, strategy="uncertain")
    np.testing.assert_allclose(
        np.abs(uncertain["score"]), np.sort(np.abs(scores[~known]))[:8]
    )
    assert likely["rank"].tolist() == list(range(1, 9))


def test_diverse_suggestions_are_farthest_first(search):
    points = scaled(embedding_matrix(search.table)[0].astype(float))
    ids = np.asarray(search.table["id"]).tolist()
    candidates = [ids.index(name) for name in search.suggest(60)["id"]]
    known = [ids.index(name) for name in search.labels["id"]]
    expected = []
    for _ in range(6):
        gaps = [
            min(np.linalg.norm(points[row] - points[other]) for other in known + expected)
            if row not in expected else -1
            for row in candidates
        ]
        expected.append(candidates[int(np.argmax(gaps))])
    found = search.suggest(6, strategy="diverse")
    assert [ids.index(name) for name in found["id"]] == expected


@pytest.mark.parametrize("strategy", ["likely", "uncertain", "diverse"])
def test_suggestions_end_with_the_objects(rare, strategy):
    table = rare[0][:12]
    search = ExampleSearch(table)
    search.label(["g0", "g1"], [True, False])
    assert len(set(search.suggest(50, strategy=strategy)["id"].tolist())) == 10
    search.label(np.asarray(table["id"])[2:], False)
    assert len(search.suggest(5, strategy=strategy)) == 0


def test_same_random_state_gives_the_same(rare):
    table, kind = rare
    found = []
    for seed in (1, 1, 2):
        search = ExampleSearch(table, random_state=seed)
        search.label(np.asarray(table["id"])[kind][:3], True)
        found.append(search.scores())
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_scores_of_another_table(search, rare):
    np.testing.assert_array_equal(search.scores(rare[0][40:50]), search.scores()[40:50])
    other = make_table(np.eye(8)[:3], sha="2" * 64)
    with pytest.raises(ModelMismatchError, match="table and reference"):
        search.scores(other)


def test_objects_without_embedding_rank_last_and_are_not_suggested(rare):
    vectors = embedding_matrix(rare[0])[0][:30]
    flags = np.zeros(30, int)
    flags[[4, 9]] = Flag.FAILED
    search = ExampleSearch(make_table(vectors, flags=flags))
    search.label("g0", True)
    found = search.rank()
    assert found["id"][-2:].tolist() == ["g4", "g9"]
    assert np.isnan(found["score"][-2:]).all()
    assert not {"g4", "g9"} & set(search.suggest(30)["id"].tolist())
    with pytest.raises(ValueError, match=r"table\[9\] \(id 'g9'\) has no embedding"):
        search.label(["g1", "g9"], True)
    assert len(search.labels) == 1


def test_one_modality_is_searched(rare):
    vectors = embedding_matrix(rare[0])[0][:20]
    ids = [f"g{row % 10}" for row in range(20)]
    kinds = np.repeat(["image", "spectrum"], 10)
    table = make_table(vectors, ids=ids, modality=kinds)
    with pytest.raises(ValueError, match="Pass modality='image'"):
        ExampleSearch(table)
    search = ExampleSearch(table, modality="spectrum")
    assert len(search) == 10
    assert set(search.table["modality"].tolist()) == {"spectrum"}
    with pytest.raises(ValueError, match="modality is 'images'"):
        ExampleSearch(table, modality="images")
    with pytest.raises(ValueError, match="2 rows of id 'g0'"):
        ExampleSearch(make_table(vectors, ids=ids))


def test_labels_are_saved_and_loaded(search, rare, tmp_path):
    path = tmp_path / "labels.ecsv"
    search.label(["g7", "g8"], False)
    search.save_labels(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        search.save_labels(path)
    search.save_labels(path, overwrite=True)
    again = ExampleSearch(rare[0], random_state=1)
    again.load_labels(path)
    for name in ("id", "label", "round"):
        assert again.labels[name].tolist() == search.labels[name].tolist()
    np.testing.assert_array_equal(again.scores(), search.scores())
    fewer = ExampleSearch(rare[0][:60])
    fewer.load_labels(path)
    part = ExampleSearch(rare[0][:20])
    with pytest.raises(KeyError, match="no id of the 20 rows"):
        part.load_labels(path)
    assert len(part.labels) == 0
    part.load_labels(path, ignore_missing=True)
    assert part.labels["id"].tolist() == ["g5", "g17", "g7", "g8"]
    assert not list(tmp_path.glob(".*"))


def test_foreign_files_are_refused(search, rare, tmp_path):
    with pytest.raises(ValueError, match=r"does not end in '.ecsv'"):
        search.save_labels(tmp_path / "labels.csv")
    with pytest.raises(FileNotFoundError, match="save_labels"):
        search.load_labels(tmp_path / "none.ecsv")
    path = tmp_path / "table.ecsv"
    rare[0][:3].write(path)
    with pytest.raises(ValueError, match="lacks 'label', 'round'"):
        search.load_labels(path)
    path.write_text("no table\n1 2 3\n")
    with pytest.raises(ValueError, match="no readable ECSV"):
        search.load_labels(path)


def test_labels_can_be_changed_and_taken_back(search):
    search.label("g5", False)
    assert dict(zip(search.labels["id"], search.labels["label"], strict=True))["g5"] == False  # noqa: E712
    search.unlabel(["g5", "g17"])
    assert len(search.labels) == 3
    assert "3 examples, 0 counter-examples" in repr(search)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([True, False, True], "shape"),
        ([1, 2], r"values\[1\] is .*2"),
        ([1.0, np.nan], r"values\[1\] is .*nan"),
        (["yes", "no"], "dtype"),
        (np.ma.MaskedArray([True, False], mask=[False, True]), r"values\[1\] is masked"),
    ],
)
def test_wrong_labels_are_refused(search, values, message):
    with pytest.raises(ValueError, match=message):
        search.label(["g1", "g2"], values)
    assert len(search.labels) == 5


def test_wrong_use_is_refused(rare):
    table = rare[0]
    search = ExampleSearch(table)
    with pytest.raises(ValueError, match="no example is labeled"):
        search.rank()
    search.label("g0", False)
    with pytest.raises(ValueError, match="1 counter-examples"):
        search.suggest(3)
    with pytest.raises(KeyError, match=r"ids\[1\] is 'h1'"):
        search.label(["g1", "h1"], True)
    search.label("g1", True)
    with pytest.raises(ValueError, match="strategy is 'best'"):
        search.suggest(3, strategy="best")
    with pytest.raises(ValueError, match="n_rows is 0"):
        search.suggest(0)
    with pytest.raises(ValueError, match="method is 'svm'"):
        ExampleSearch(table, method="svm")
    with pytest.raises(TypeError, match="expected an embedding table"):
        ExampleSearch([1, 2])


def test_equal_embeddings_and_few_dimensions_do_not_break():
    table = make_table(unit(np.ones((6, 3))))
    search = ExampleSearch(table)
    search.label("g2", True)
    found = search.rank()
    assert np.isfinite(found["score"]).all()
    assert found["id"].tolist() == [f"g{row}" for row in range(6)]  # ties in reference order
