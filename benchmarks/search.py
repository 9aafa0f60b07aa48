"""Exact search against scikit-learn's brute-force cosine search: same vectors, same cores.

Run it with ``python benchmarks/search.py``; it exits with an error if a neighbour differs or
the ratio is below ``--least-ratio``. scikit-learn is timed in float32, like the table, and
its neighbours are checked in float64: its float32 distances swap neighbours that differ by
less than their rounding.
"""

import argparse
import sys
import time

import numpy as np
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info

from astroclip import SimilarityIndex
from astroclip.tables import make_embedding_table


def clustered_vectors(n_rows, dim, *, rng, n_clusters=500, spread=0.5):
    """Return float32 unit vectors around random centres of very different sizes."""
    centers = rng.normal(size=(n_clusters, dim))
    share = rng.dirichlet(np.full(n_clusters, 0.5))
    vectors = centers[rng.choice(n_clusters, n_rows, p=share)]
    vectors += spread * rng.normal(size=(n_rows, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


def as_table(vectors, prefix):
    """Return vectors as an embedding table."""
    n_rows = len(vectors)
    return make_embedding_table(
        [f"{prefix}-{row}" for row in range(n_rows)],
        "spectrum",
        vectors,
        coverage=np.ones(n_rows),
        flags=np.zeros(n_rows, dtype=int),
        model_name="benchmark",
        weights_sha256="0" * 64,
        preparation_version="1",
    )


def scikit_learn(reference, queries, n_neighbors):
    """Return neighbours' rows and the seconds that finding them took."""
    model = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute")
    model.fit(reference)
    start = time.perf_counter()
    rows = model.kneighbors(queries, return_distance=False)
    return rows, time.perf_counter() - start


def ours(index, table, n_neighbors):
    """Return neighbours' rows and the seconds that finding them took."""
    start = time.perf_counter()
    rows, _, _ = index.neighbors(table, n_neighbors)
    return rows, time.perf_counter() - start


def main():
    """Time both, compare their neighbours and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-rows", type=int, default=200_000)
    parser.add_argument("--n-queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--n-neighbors", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--least-ratio", type=float, default=2.0)
    options = parser.parse_args()
    rng = np.random.default_rng(20240531)
    vectors = clustered_vectors(options.n_rows + options.n_queries, options.dim, rng=rng)
    reference, queries = vectors[: options.n_rows], vectors[options.n_rows :]
    table = as_table(queries, "query")
    start = time.perf_counter()
    index = SimilarityIndex(as_table(reference, "row"))
    print(f"{options.n_rows} x {options.dim} indexed in {time.perf_counter() - start:.2f} s")
    threads = sorted({pool["num_threads"] for pool in threadpool_info()})
    print(f"threads of the BLAS and OpenMP pools: {threads}")

    runs = [
        (
            ours(index, table, options.n_neighbors),
            scikit_learn(reference, queries, options.n_neighbors),
        )
        for _ in range(options.repeats)
    ]
    rows, single = runs[0][0][0], runs[0][1][0]
    exact, _ = scikit_learn(
        reference.astype(float), queries.astype(float), options.n_neighbors
    )
    n_different = int((rows != exact).any(axis=1).sum())
    n_rounded = int((single != exact).any(axis=1).sum())
    best, theirs = (min(run[side][1] for run in runs) for side in (0, 1))
    for name, seconds in (("astroclip", best), ("scikit-learn", theirs)):
        print(f"{name:13} {options.n_queries / seconds:8.0f} queries/s ({seconds:.3f} s)")
    print(f"ratio {theirs / best:.2f} (at least {options.least_ratio})")
    print(f"queries whose neighbours differ from scikit-learn in float64: {n_different}")
    print(f"(scikit-learn in float32 differs from itself in float64 for {n_rounded})")
    return int(n_different > 0 or theirs / best < options.least_ratio)


if __name__ == "__main__":
    sys.exit(main())
