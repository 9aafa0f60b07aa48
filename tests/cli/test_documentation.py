"""The commands of the user guide do what it shows."""

import math
import re

import pytest

from astroclip.cli import main
from tests.cli.shown_commands import PAGE, prepare, run_command, shown_commands

EXPECTED_STATUS = {"astroclip neighbors nowhere.fits": 1}
DATE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+")
TOLERANCE = 0.006  # of numbers: machines differ in the last digits


def words(lines):
    """Return the words of lines, rules of tables and lengths of blanks aside."""
    return [word for line in lines for word in line.replace("[", "[ ").split()
            if set(word) != {"-"}]


def same(shown, found):
    """Return whether two words are equal, or numbers that nearly are."""
    if shown == found or (DATE.fullmatch(shown) and DATE.fullmatch(found)):
        return True
    try:
        return math.isclose(float(shown.strip("[],")), float(found.strip("[],")), abs_tol=TOLERANCE)
    except ValueError:
        return False


def test_shown_commands_give_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare()
    commands = shown_commands(PAGE.read_text())
    assert len(commands) >= 8
    for command, shown in commands:
        status, output = run_command(command)
        assert status == EXPECTED_STATUS.get(command, 0), command
        expected, found = words(shown), words(output.splitlines())
        different = [
            pair for pair in zip(expected, found, strict=False) if not same(*pair)
        ]
        assert len(expected) == len(found) and not different, (
            f"{command} gives something else than the page shows ({different[:3]}); after a "
            f"change that is meant, run python tests/cli/shown_commands.py"
        )


@pytest.mark.parametrize(
    "name", ["quickstart", "embed", "neighbors", "estimate", "fetch", "index", "models", "train",
             "evaluate", "bundle"],
)
def test_every_command_is_on_the_page(name, capsys):
    assert f"astroclip {name}" in PAGE.read_text()
    assert main([name, "--help"]) == 0
    assert f"usage: astroclip {name}" in capsys.readouterr().out
