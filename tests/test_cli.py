"""The command line: quickstart, embed, models; errors without a traceback."""

import numpy as np
import pytest
from matplotlib import image as pictures

from astroclip.cli import main
from astroclip.reference import DATA
from astroclip.tables import read_table

SPECTRUM = DATA / "samples" / "desi-27247.fits"


def test_quickstart_prints_three_tables_and_writes_a_panel(tmp_path, capsys):
    path = tmp_path / "panel.png"
    assert main(["quickstart", "--output", str(path)]) == 0
    text = capsys.readouterr().out
    for words in ("1. Embeddings", "2. Nearest", "3. Estimates", "simulation", "sim-", "0.2036"):
        assert words in text
    picture = pictures.imread(path)
    assert picture.shape[0] > 500
    assert picture[..., :3].std() > 0.05
    assert [p.name for p in tmp_path.iterdir()] == ["panel.png"]


def test_embed_writes_a_table_of_the_files(tmp_path, capsys):
    path = tmp_path / "table.ecsv"
    assert main(["embed", str(SPECTRUM), "--output", str(path), "--neighbors", "2"]) == 0
    table = read_table(path)
    assert len(table) == 1
    assert np.linalg.norm(table["embedding"][0]) == pytest.approx(1, abs=1e-4)
    assert "Neighbours" in capsys.readouterr().out
    assert main(["embed", str(SPECTRUM), "--output", str(path)]) == 1
    assert "overwrite" in capsys.readouterr().err


def test_a_bad_file_beside_a_good_one_keeps_its_row(tmp_path, capsys):
    bad = tmp_path / "broken.fits"
    bad.write_bytes(SPECTRUM.read_bytes()[:5000])
    assert main(["embed", str(SPECTRUM), str(bad)]) == 0
    text = capsys.readouterr().out
    assert "FAILED" in text
    assert "broken.fits" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "nowhere.fits"], "nowhere.fits"),
        (["embed", str(SPECTRUM), "--model", "no-such-model"], "no-such-model"),
        (["train", "somewhere", "--recipe", "huge"], "recipe is 'huge'"),
    ],
)
def test_errors_are_one_line_on_the_error_stream(arguments, words, capsys):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "astroclip-mnras" in text
    assert "stein-resnet50" in text
