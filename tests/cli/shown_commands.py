"""The commands that docs/user_guide/command_line.rst shows, run in order in one folder.

``python tests/cli/shown_commands.py`` writes the page's outputs anew, after a new model.
"""

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "user_guide" / "command_line.rst"
BLOCK = re.compile(r"(?P<head>\.\. code-block:: console\n\n)(?P<body>(?:    .*\n|\n(?=    ))+)")
PROMPT = "    $ "


def shown_commands(text):
    """Return the commands of a page and what it shows after each, as lists of lines."""
    found = []
    for block in BLOCK.finditer(text):
        for line in block["body"].splitlines():
            if line.startswith(PROMPT):
                found.append((line.removeprefix(PROMPT), []))
            else:
                found[-1][1].append(line[4:].rstrip())
    return found


def prepare():
    """Copy the sample files to the folder ``samples``, as the page's first command does."""
    from astroclip.cli.quickstart import copy_samples

    copy_samples("samples")


def run_command(command):
    """Run a shown command in process; return its exit status and standard output."""
    from astroclip.cli import main

    program, *arguments = shlex.split(command)
    if program != "astroclip":
        msg = f"the page shows {command!r}; expected a command that begins with astroclip."
        raise ValueError(msg)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main(arguments)
    return status, output.getvalue()


def rewritten(text):
    """Return a page with the outputs of its commands written anew."""

    def replace(block):
        lines = []
        for line in block["body"].splitlines():
            if line.startswith(PROMPT):
                _, output = run_command(line.removeprefix(PROMPT))
                lines += [line, *(f"    {row}".rstrip() for row in output.strip("\n").splitlines())]
        return block["head"] + "\n".join(lines) + "\n"

    return BLOCK.sub(replace, text)


if __name__ == "__main__":
    page = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        prepare()
        page = rewritten(page)
    PAGE.write_text(page)
    sys.stderr.write(f"wrote {PAGE}\n")
