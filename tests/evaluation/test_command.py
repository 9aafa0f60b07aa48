"""The command ``astroclip evaluate``: options, output and simulated pairs."""

import subprocess
import sys

import numpy as np
from astropy.table import Table

from astroclip.cli import build_parser, main


def test_a_model_is_scored_into_table_and_figure(pairs, reference, tmp_path, capsys):
    for name, part in (("held", pairs), ("known", reference)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "pairs-00000.npz", **part)
    np.savez(tmp_path / "supervised.npz", redshift=pairs["redshift"])
    output = tmp_path / "scores"
    arguments = [
        "evaluate", "--model", "astroclip-small", "--pairs", str(tmp_path / "held"),
        "--reference", str(tmp_path / "known"), "--output", str(output), "--neighbors", "8",
        "--supervised-spectrum", str(tmp_path / "supervised.npz"),
    ]
    assert main(arguments) == 0
    table = Table.read(output / "evaluation.ecsv")
    assert table.meta["MODEL"] == "astroclip-small" and table.meta["NNEIGH"] == 8
    assert sorted(path.name for path in output.iterdir()) == ["evaluation.ecsv", "evaluation.png"]
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["supervised spectrum encoder"][3] == "1.000"
    chosen = (table["query"] == "spectrum") & (table["reference"] == "spectrum")
    chosen &= (table["protocol"] == "k-NN") & (table["data"] == "held-out pairs")
    chosen &= (table["score"] == "r2") & (table["property"] == "redshift")
    assert float(rows["spectrum"][1]) == np.round(table["value"][chosen][0], 3)
    assert "goal" not in " ".join(lines)


def test_missing_pairs_are_an_error_without_a_traceback(tmp_path, capsys):
    arguments = ["--pairs", str(tmp_path), "--reference", str(tmp_path)]
    status = main(["evaluate", "--output", str(tmp_path / "out"), *arguments])
    assert status == 1
    assert "pairs-" in capsys.readouterr().err
    assert main(["evaluate", "--output", str(tmp_path), "--simulate", "0"]) == 1


def test_the_parser_imports_neither_torch_nor_scikit_learn():
    code = (
        "import sys; from astroclip.cli import build_parser; build_parser(); "
        "print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert build_parser().parse_args(["evaluate"]).model == "astroclip-small"
