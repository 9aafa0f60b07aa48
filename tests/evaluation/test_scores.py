"""The table of scores: rows, columns, and a way back from ECSV."""

from astropy.table import Table

from astroclip.evaluation.scores import NO_PROPERTY, ScoreTable, find_score


def test_rows_come_back_from_a_file_and_are_found(tmp_path):
    scores = ScoreTable(seed=4)
    where = {"data": "pairs", "query": "image", "n_queries": 10}
    scores.add("k-NN", "r2", 0.5, reference="image", quantity="redshift", n_reference=50, **where)
    scores.add("k-NN", "r2", 0.7, reference="image", quantity="log_ssfr", n_reference=50, **where)
    scores.add("retrieval", "recall_1", 0.2, **where)
    path = tmp_path / "scores.ecsv"
    scores.table(MODEL="one").write(path)
    table = Table.read(path)
    assert table.meta["MODEL"] == "one"
    assert table.colnames == [
        "protocol", "data", "query", "reference", "property", "score", "value", "n_queries",
        "n_reference", "seed",
    ]
    assert set(table["seed"]) == {4}
    assert find_score(table, "r2", property="log_ssfr") == 0.7
    assert find_score(table, "r2") == 0.5
    assert find_score(table, "recall_1", property=NO_PROPERTY, reference=NO_PROPERTY) == 0.2
    assert find_score(table, "recall_1", query="spectrum") is None
