"""``python -m astroclip.cli``, which is what the command ``astroclip`` runs."""

import sys

from astroclip.cli.application import main

if __name__ == "__main__":
    sys.exit(main())
