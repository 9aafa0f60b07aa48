"""Scores as a table, as a file and as a figure: every number is the table's."""

import numpy as np
from astropy.table import Table
from matplotlib import image as pictures

from astroclip.evaluation import draw_scores, r2_table
from astroclip.evaluation.report import scored_methods, write_score_figure
from astroclip.evaluation.scores import NOTHING, ScoreTable, find_score


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
    assert find_score(table, "recall_1", property=NOTHING, reference=NOTHING) == 0.2
    assert find_score(table, "recall_1", query="spectrum") is None


def test_methods_are_labeled_with_the_models_own_first(made_up):
    assert list(scored_methods(made_up)) == [
        "spectrum", "image", "image among spectra", "spectrum among images",
        "image-only encoder: image", "photometry, few-shot", "photometry",
        "spectrum, principal components", "photometry and true shapes, gradient boosting",
    ]


def test_r2_is_listed_by_method_and_property_masked_where_unknown(made_up):
    table = r2_table(made_up)
    assert table.colnames == ["from", "redshift", "log M*", "log sSFR", "log Z"]
    (row,) = table[table["from"] == "image among spectra"]
    np.testing.assert_allclose(row["redshift"], 0.89)
    one = made_up[(made_up["query"] != "image") | (made_up["property"] != "redshift")]
    (row,) = r2_table(one)[table["from"] == "image"]
    assert row["redshift"] is np.ma.masked and row["log M*"] is not np.ma.masked


def test_every_score_is_drawn_with_its_number_into_a_whole_file(made_up, tmp_path):
    figure = draw_scores(made_up)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:4] == [
        "R2 of redshift", "R2 of log M*", "R2 of log sSFR", "R2 of log Z"
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == list(scored_methods(made_up))[::-1]
    texts = {text.get_text() for ax in figure.axes for text in ax.texts}
    assert {"0.99", "0.94", "NMAD 0.0018"} <= texts
    path = tmp_path / "scores.png"
    write_score_figure(made_up[made_up["query"] == "photometry"], path)
    picture = pictures.imread(path)
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.png"]
