"""The command ``astroclip evaluate``: options, output and simulated pairs."""

import numpy as np
import pytest
from astropy.table import Table

from astroclip.cli import build_parser, main
from astroclip.evaluation import run as run_module
from astroclip.simulation import pairs as pairs_module


@pytest.fixture
def calls(made_up, monkeypatch):
    """Return what `evaluate` is called with; it returns a made-up table."""
    found = []

    def evaluate(*positional, **options):
        found.append((positional, options))
        return made_up

    monkeypatch.setattr(run_module, "evaluate", evaluate)
    return found


def test_table_and_figure_are_written_and_goals_shown(calls, made_up, tmp_path, capsys):
    output = tmp_path / "scores"
    arguments = [
        "evaluate", "--pairs", "held", "--reference", "one", "two", "--real-data", "real",
        "--output", str(output), "--image-only", "ssl.safetensors", "--neighbors", "32",
    ]
    assert main(arguments) == 0
    ((pairs, reference), options) = calls[0]
    assert (pairs, reference) == ("held", ["one", "two"])
    assert options["real_data"] == "real"
    assert options["others"] == {"image-only encoder": "ssl.safetensors"}
    assert options["n_neighbors"] == 32
    table = Table.read(output / "evaluation.ecsv")
    np.testing.assert_allclose(table["value"], made_up["value"])
    assert table.meta["MODEL"] == "random"
    assert sorted(path.name for path in output.iterdir()) == ["evaluation.ecsv", "evaluation.png"]
    text = capsys.readouterr().out
    assert "spectrum, R2 of redshift: 0.990 (goal: at least 0.99) met" in text
    assert "spectra embedded a second: not measured" in text


def test_pairs_that_are_not_given_are_simulated(calls, tmp_path, monkeypatch):
    made = []

    def write_pairs(folder, n_pairs, **options):
        made.append((folder, n_pairs, options["seed"]))

    monkeypatch.setattr(pairs_module, "write_pairs", write_pairs)
    assert main(["evaluate", "--output", str(tmp_path), "--simulate", "30"]) == 0
    (held, n_held, seed), (known, n_known, other) = made
    assert (n_held, n_known) == (30, 300)
    assert seed != other
    assert calls[0][0] == (held, [known])
    assert main(["evaluate", "--output", str(tmp_path), "--simulate", "0"]) == 1


def test_missing_pairs_are_an_error_without_a_traceback(tmp_path, capsys):
    arguments = ["--pairs", str(tmp_path), "--reference", str(tmp_path)]
    status = main(["evaluate", "--output", str(tmp_path / "out"), *arguments])
    assert status == 1
    assert "pairs-" in capsys.readouterr().err


def test_the_parser_imports_neither_torch_nor_scikit_learn():
    import subprocess
    import sys

    code = (
        "import sys; from astroclip.cli import build_parser; build_parser(); "
        "print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert build_parser().parse_args(["evaluate"]).model == "astroclip-small"
