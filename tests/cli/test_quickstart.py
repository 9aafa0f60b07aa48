"""``astroclip quickstart`` and ``astroclip models``."""

from astropy.table import Table
from matplotlib import image as pictures

import astroclip
from tests.cli.conftest import DATA


def test_quickstart_prints_three_tables_and_writes_a_panel(run, tmp_path):
    path, samples = tmp_path / "panel.png", tmp_path / "samples"
    status, text, err = run("quickstart", "--output", path, "--samples", samples)
    assert status == 0
    for words in ("1. Embeddings", "2. Nearest", "3. Estimates", "simulation", "sim-", "0.2036"):
        assert words in text
    assert f"wrote {path}" in err
    picture = pictures.imread(path)
    assert picture.shape[0] > 500
    assert picture[..., :3].std() > 0.05
    assert sorted(p.name for p in tmp_path.iterdir()) == ["panel.png", "samples"]
    assert sorted(p.name for p in samples.iterdir()) == sorted(
        p.name for p in (DATA / "samples").glob("*.fits")
    )


def test_models_are_listed_and_described(run):
    status, text, _ = run("models")
    assert status == 0
    for name in astroclip.list_models()["name"]:
        assert name in text
    status, text, _ = run("models", "astroclip-small")
    assert status == 0
    assert "dim          128\n" in text
    assert "size         unknown\n" in text
    assert "Mbyte\n" in run("models", "astroclip-mnras")[1]


def test_models_as_ecsv(run):
    table = Table.read(run("models", "--format", "ecsv")[1], format="ascii.ecsv")
    assert list(table["name"]) == list(astroclip.list_models()["name"])
    one = Table.read(run("models", "stein-resnet50", "--format", "ecsv")[1], format="ascii.ecsv")
    assert list(one["name"]) == ["stein-resnet50"]
