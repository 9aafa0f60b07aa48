"""All commands under one parser, and what becomes of errors, interruptions and pipes."""

import argparse
import contextlib
import os
import sys

from astroclip import __version__
from astroclip.cli.output import tell

__all__ = [
    "BROKEN_PIPE",
    "INTERRUPTED",
    "MENDABLE",
    "SOME_FAILED",
    "USAGE",
    "build_parser",
    "main",
]

MENDABLE, USAGE, SOME_FAILED, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 130, 141
DESCRIPTION = "Find galaxies like this one, from spectra and images."
EPILOG = """\
first steps:
  astroclip quickstart --samples samples      the whole path, without a network
  astroclip neighbors samples                 galaxies like those in a folder
  astroclip estimate samples                  their redshifts and masses, with intervals
  astroclip COMMAND --help                    options and an example of a command

Results go to the standard output, progress and remarks to the error stream. Tables are written
by the suffix of --output: .ecsv, .fits or .parquet.

exit status:
  0    done
  1    an error that can be mended, shown in one line; or no object could be used
  2    the command line cannot be understood
  3    done, but some objects failed: their rows say why
  130  interrupted by Ctrl-C; no half-written file is left
  141  whoever read the output stopped reading
"""


def build_parser():
    """Return the parser of all commands.

    Returns
    -------
    `argparse.ArgumentParser`
        Its results carry ``run``, a function of them that returns the exit status.
    """
    parser = argparse.ArgumentParser(
        prog="astroclip", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    from astroclip.cli import (
        embed,
        estimate,
        evaluate,
        fetch,
        index,
        models,
        neighbors,
        quickstart,
    )
    from astroclip.training.commands import add_parser as add_training

    for room in (quickstart, embed, neighbors, estimate, fetch, index, models):
        room.add_parser(subparsers)
    add_training(subparsers)
    evaluate.add_parser(subparsers)
    return parser


def main(arguments=None):
    """Run the command line and return the exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0; 1 after an error that the user can mend, which is shown without a traceback; 2 if
        the arguments cannot be understood; 3 if some objects failed; 130 after Ctrl-C; 141
        if the reader of the output went away.
    """
    try:
        return _run(arguments)
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except BaseException as error:
        if not _is_interruption(error):
            raise
        tell("interrupted; no half-written file is left")
        return INTERRUPTED


def _is_interruption(error):
    """Return whether Ctrl-C is behind an error: Python 3.11 wraps it while a class is made."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__
    return False


def _run(arguments):
    """Parse, run and flush; return the exit status."""
    try:
        options = build_parser().parse_args(arguments)
    except SystemExit as stop:  # help, the version or a fault has been shown
        sys.stdout.flush()
        return stop.code or 0
    from astroclip.exceptions import CheckpointError, MissingExtraError, PreparationError

    mendable = (
        CheckpointError, MissingExtraError, PreparationError,
        OSError, ValueError, TypeError, KeyError,
    )
    try:
        status = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # an OSError, but not one to mend
        raise
    except mendable as error:
        tell(_first_words(error))
        return MENDABLE
    return status


def _first_words(error):
    """Return what an error says; a KeyError's text without its quotes."""
    if isinstance(error, KeyError) and len(error.args) == 1:
        return str(error.args[0])
    return str(error) or type(error).__name__


def _drop_output():
    """Point the standard output at nothing, so that flushing it at exit says nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
