"""The figure of scores: every panel holds what the table says."""

from matplotlib import image as pictures

from astroclip.evaluation.figures import METHODS, draw_scores, write_score_figure


def texts(figure):
    """Return all texts of a figure."""
    return {text.get_text() for ax in figure.axes for text in ax.texts}


def test_every_score_is_drawn_with_its_number(made_up):
    figure = draw_scores(made_up)
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:4] == [
        "R2 of redshift", "R2 of log M*", "R2 of log sSFR", "R2 of log Z"
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert set(labels) <= set(METHODS)
    assert {"spectrum", "image among spectra", "photometry"} <= set(labels)
    assert {"0.99", "0.94", "NMAD 0.0018"} <= texts(figure)


def test_a_file_is_written_whole(made_up, tmp_path):
    path = tmp_path / "scores.png"
    write_score_figure(made_up, path)
    picture = pictures.imread(path)
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.png"]


def test_a_table_with_few_scores_is_drawn_all_the_same(made_up):
    few = made_up[made_up["query"] == "photometry"]
    assert draw_scores(few) is not None
