"""The command ``astroclip``: everything the library does, on files.

Nothing heavy is imported before a command needs it, so that ``--help`` is quick.
"""

from astroclip.cli.application import build_parser, main

__all__ = ["build_parser", "main"]
