"""The command ``astroclip``.

Packages are imported when a command needs them, so that ``--help`` is quick.
"""

from astroclip.cli.application import build_parser, main

__all__ = ["build_parser", "main"]
