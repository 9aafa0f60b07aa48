"""Time of ``import astroclip`` in a fresh interpreter, against a bare ``import numpy``.

Run it with ``python benchmarks/import_time.py``; it exits with an error if the import takes
longer than ``--limit`` seconds or loads torch or astropy.
"""

import argparse
import subprocess
import sys

CODE = """
import sys, time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
print(seconds, *(name for name in ("torch", "astropy") if name in sys.modules))
"""


def import_seconds(module, repeats):
    """Return the least import time of several fresh interpreters, and heavy modules loaded."""
    least, loaded = float("inf"), set()
    for _ in range(repeats):
        command = [sys.executable, "-c", CODE.format(module=module)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, *names = done.stdout.split()
        least, loaded = min(least, float(seconds)), loaded | set(names)
    return least, loaded


def main():
    """Time both imports and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--limit", type=float, default=0.3, help="seconds")
    options = parser.parse_args()
    baseline, _ = import_seconds("numpy", options.repeats)
    seconds, loaded = import_seconds("astroclip", options.repeats)
    print(f"import numpy     {1e3 * baseline:7.1f} ms")
    print(f"import astroclip {1e3 * seconds:7.1f} ms (limit {1e3 * options.limit:.0f} ms)")
    print(f"torch or astropy imported: {', '.join(sorted(loaded)) or 'neither'}")
    return int(seconds >= options.limit or bool(loaded))


if __name__ == "__main__":
    sys.exit(main())
