"""What few labels give: a ridge regression on embeddings against neighbors.

Run it with ``python benchmarks/few_labels.py``. Both learn from so many spectra of the bundled
reference and estimate those of others; R2, means of several draws. The guide's page on estimates
takes its figures from here.
"""

import argparse

import numpy as np

import astroclip
from astroclip.metrics import r2_score

PROPERTIES = ("redshift", "log_stellar_mass")
N_ESTIMATED = 2000


def scores(table, n_labels, seed):
    """Return R2 (methods, properties) of one draw of labeled spectra."""
    rows = np.random.default_rng(seed).permutation(len(table))[: n_labels + N_ESTIMATED]
    known, others = table[rows[:n_labels]], table[rows[n_labels:]]
    found = []
    for estimator in (
        astroclip.FewShotEstimator(kind="ridge"), astroclip.PropertyEstimator(n_neighbors=16),
    ):  # fmt: skip
        estimates = estimator.fit(known, list(PROPERTIES)).predict(others)
        pairs = ((np.asarray(part[name]) for part in (estimates, others)) for name in PROPERTIES)
        found.append([r2_score(*pair) for pair in pairs])
    return found


def main():
    """Print a line for every number of labels and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", nargs="+", type=int, default=[200, 5000])
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    table = astroclip.reference_table()
    table = table[table["modality"] == "spectrum"]
    print(f"{'labels':>6}  {'method':<13}", *(f"{name:>16}" for name in PROPERTIES))
    for n_labels in options.labels:
        mean = np.mean([scores(table, n_labels, seed) for seed in range(options.draws)], axis=0)
        for method, row in zip(("ridge", "16 neighbors"), mean, strict=True):
            print(f"{n_labels:>6}  {method:<13}", *(f"{value:16.3f}" for value in row))


if __name__ == "__main__":
    main()
