"""The whole command: help, exit statuses, errors in one line, Ctrl-C and broken pipes."""

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from astroclip.cli import build_parser, output
from astroclip.cli import models as models_module
from astroclip.datasets import DATA

SPECTRUM = DATA / "samples" / "desi-27247.fits"
OWN = (
    "quickstart", "embed", "neighbors", "estimate", "fetch", "index build", "index info",
    "index query", "models", "train", "bundle", "evaluate",
)
COMMAND = [sys.executable, "-m", "astroclip.cli"]


def command_parsers(parser=None, prefix=""):
    """Return the parsers of all commands by name."""
    found = {}
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                found[f"{prefix}{name}"] = child
                found |= command_parsers(child, f"{prefix}{name} ")
    return found


# ---------------------------------------------------------------------- help
def test_help_lists_commands_examples_and_exit_statuses(run):
    status, text, _ = run("--help")
    assert status == 0
    for words in ("quickstart", "neighbors", "exit status:", "  3    done, but some objects"):
        assert words in text
    for code in re.findall(r"^  (\d+) +\w", text, re.MULTILINE):
        assert int(code) in {
            0, output.EXIT_ERROR, output.EXIT_USAGE, output.EXIT_SOME_FAILED,
            output.EXIT_INTERRUPTED, output.EXIT_BROKEN_PIPE,
        }


@pytest.mark.parametrize("name", OWN)
def test_help_of_a_command_has_an_example_that_the_parser_takes(name):
    parser = command_parsers()[name]
    assert len(parser.description) > 30
    lines = parser.epilog.replace("\\\n", " ").splitlines()
    assert lines[0] == "examples:"
    examples = [line for line in lines if line.strip().startswith(f"astroclip {name}")]
    assert examples
    for line in examples:
        arguments = shlex.split(line.split("      and then")[0])[1:]
        assert callable(build_parser().parse_args(arguments).run)


def test_options_are_spelled_the_same_everywhere():
    parsers = command_parsers()
    shared = {
        "--model": ("embed", "neighbors", "estimate", "index build", "index query", "evaluate"),
        "--device": ("embed", "neighbors", "estimate", "index build", "index query"),
        "--batch-size": ("embed", "neighbors", "estimate", "index build", "index query"),
        "--n-neighbors": ("embed", "neighbors", "estimate", "index query"),
        "--ids": ("embed", "neighbors", "estimate", "index build", "index query"),
        "--modality": ("neighbors", "index query"),
        "--where": ("neighbors", "estimate", "index query"),
        "--reference": ("neighbors", "estimate", "evaluate"),
        "--output": ("embed", "neighbors", "estimate", "fetch", "index build", "index query"),
        "--overwrite": ("embed", "neighbors", "estimate", "fetch", "index build", "index query"),
        "--format": ("embed", "neighbors", "estimate", "fetch", "index query", "models"),
        "--target": ("neighbors", "estimate", "index query"),
    }
    for option, names in shared.items():
        for name in names:
            assert option in parsers[name]._option_string_actions, f"{name} has no {option}"
    spelled = {o for parser in parsers.values() for o in parser._option_string_actions}
    assert all(re.fullmatch(r"-h|--[a-z]+(-[a-z]+)*", option) for option in spelled)


def test_the_version_is_the_package_s(run):
    import astroclip

    assert run("--version")[:2] == (0, f"{astroclip.__version__}\n")


# ---------------------------------------------------------------------- wrong command lines
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["embd"], "invalid choice: 'embd'"),
        (["embed"], "INPUT"),
        (["embed", "x.fits", "--output", "x.txt"], "ends in .ecsv, .fits, .parquet"),
        (["neighbors", "x.fits", "--n-neighbors", "0"], "whole number of at least 1"),
        (["neighbors", "x.fits", "--n-neighbors", "two"], "whole number of at least 1"),
        (["neighbors", "x.fits", "--modality", "sound"], "invalid choice: 'sound'"),
        (["estimate", "x.fits", "--confidence", "68"], "between 0 and 1"),
        (["estimate", "x.fits", "--properties", ","], "names separated by commas"),
        (["index", "build", "x.fits"], "--output"),
        (["index"], "COMMAND"),
        (["embed", "x.fits", "--no-such-option"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_understood_is_exit_2(arguments, words, run):
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "nowhere.fits"], "path 'nowhere.fits' does not exist"),
        (["embed", "nothing*.fits"], "pattern 'nothing*.fits' matches no file"),
        (["embed", str(SPECTRUM), "--model", "no-such-model"], "no-such-model"),
        (["embed", str(SPECTRUM), "--device", "abacus"], "device is 'abacus'"),
        (["embed", str(SPECTRUM), "--redshift", "far"], "--redshift is 'far'"),
        (["neighbors", str(SPECTRUM), "--reference", "no.fits"], "--reference 'no.fits' does not"),
        (["neighbors", str(SPECTRUM), "--model", "astroclip-mnras"], "has no bundled reference"),
        (["neighbors"], "nothing to look for; expected INPUT"),
        (["index", "info", "no.index"], "index 'no.index' does not exist"),
        (["index", "query", "no.index", str(SPECTRUM)], "index 'no.index' does not exist"),
        (["models", "gpt"], "MODEL is 'gpt'; expected one of"),
        (["train", "somewhere", "--recipe", "huge"], "recipe is 'huge'"),
        (["fetch", "list.ecsv"], "table of targets 'list.ecsv' does not exist"),
        (["embed", str(SPECTRUM), "--output", "no/folder/x.fits"], "folder that does not exist"),
    ],
)
def test_errors_are_one_line_and_exit_1(arguments, words, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments)
    assert status == 1
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("astroclip: ")
    assert words in last
    assert list(tmp_path.rglob("*.*")) == []


# ---------------------------------------------------------------------- interruptions
def test_ctrl_c_is_exit_130_without_a_traceback(run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(models_module, "show", interrupt)
    status, out, err = run("models")
    assert (status, out) == (130, "")
    assert err == "astroclip: interrupted; no half-written file is left\n"


def test_ctrl_c_while_a_table_is_written_leaves_nothing(run, tables, tmp_path, monkeypatch):
    from astropy.table import Table

    def interrupted_write(self, path, **_):
        Path(path).write_text("half a table")
        raise KeyboardInterrupt

    monkeypatch.setattr(Table, "write", interrupted_write)
    arguments = (tables / "queries.ecsv", "--output", tmp_path / "out.ecsv")
    assert run("embed", *arguments)[0] == 130
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def heeded_ctrl_c():
    """Have children heed Ctrl-C even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
def test_ctrl_c_during_embedding_leaves_no_file(tmp_path, heeded_ctrl_c):
    folder = tmp_path / "spectra"
    folder.mkdir()
    for number in range(500):
        (folder / f"copy-{number}.fits").symlink_to(SPECTRUM)
    process = subprocess.Popen(
        [*COMMAND, "embed", str(folder), "--output", str(tmp_path / "out.ecsv")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    first = process.stderr.readline()
    assert first == "astroclip: embedding 500 files with astroclip-small\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    # Python itself ends by the signal where an extension's own code was interrupted; a shell
    # shows 130 for both
    assert process.returncode in (130, -signal.SIGINT)
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("astroclip: interrupted; no half-written file is left\n")
    assert [path.name for path in tmp_path.iterdir()] == ["spectra"]


def test_ctrl_c_while_a_class_is_made_is_ctrl_c(run, monkeypatch):
    def interrupted(*_, **__):
        raise RuntimeError("Error calling __set_name__") from KeyboardInterrupt()

    monkeypatch.setattr(models_module, "show", interrupted)
    status, out, err = run("models")
    assert (status, out) == (output.EXIT_INTERRUPTED, "")
    assert err.endswith("interrupted; no half-written file is left\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs a shell with PIPESTATUS")
def test_a_broken_pipe_is_silent():
    line = f"{shlex.join([*COMMAND, 'models'])} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() == "141"
