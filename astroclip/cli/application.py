"""All commands under one parser, and what becomes of errors, interruptions and pipes."""

import argparse
import contextlib
import os
import sys

from astroclip import __version__
from astroclip.cli.output import EXIT_BROKEN_PIPE, EXIT_ERROR, EXIT_INTERRUPTED, tell

__all__ = ["build_parser", "main"]

DESCRIPTION = "Find galaxies like this one, from spectra and images."
EPILOG = """\
first steps:
  astroclip quickstart --samples samples      run an example, copy sample files
  astroclip neighbors samples                 galaxies like those in a folder
  astroclip estimate samples                  their redshifts and masses, with intervals
  astroclip COMMAND --help                    options and examples of a command

Results go to the standard output, progress and remarks to the error stream. The suffix of
--output chooses the format of a table: .ecsv, .fits or .parquet.

exit status:
  0    done
  1    an error (its message says how to fix it), or no usable object
  2    the command line cannot be understood
  3    done, but some objects failed: their rows say why
  130  interrupted by Ctrl-C; no half-written file is left
  141  the program that reads the output has ended
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
        train,
    )

    for command in (quickstart, embed, neighbors, estimate, fetch, index, models, train, evaluate):
        command.add_parser(subparsers)
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
        0; 1 after an error, whose message says how to fix it; 2 if the arguments cannot be
        understood; 3 if some objects failed; 130 after Ctrl-C; 141 if the reader of the
        output went away.
    """
    try:
        return _run(arguments)
    except BrokenPipeError:
        _drop_output()
        return EXIT_BROKEN_PIPE
    except BaseException as error:
        if not _is_interruption(error):
            raise
        tell("interrupted; no half-written file is left")
        return EXIT_INTERRUPTED


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
    from astroclip.exceptions import MissingExtraError

    try:
        status = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # an OSError that says nothing about the input
        raise
    except (MissingExtraError, OSError, ValueError, TypeError, KeyError) as error:
        is_key = isinstance(error, KeyError) and len(error.args) == 1  # its str() adds quotes
        tell(str(error.args[0]) if is_key else str(error) or type(error).__name__)
        return EXIT_ERROR
    return status


def _drop_output():
    """Point the standard output at nothing, so that flushing it at exit says nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
