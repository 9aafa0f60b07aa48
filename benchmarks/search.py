"""Search by astroclip, FAISS and scikit-learn in one run: rates, neighbors found, files.

Run it with ``python benchmarks/search.py``, with ``--n-rows`` for other sizes than a million
clustered unit vectors, or with ``--table`` for embeddings of your own. Rates are printed beside
that of FAISS's exact search (``IndexFlatIP``) on the same machine. It exits with an error if a
neighbor of the exact search differs from a float64 sort, or an approximate one misses its recall.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from sklearn.neighbors import NearestNeighbors

from astroclip import SimilarityIndex
from astroclip.tables import embedding_matrix, make_embedding_table, read_table

N_NEIGHBORS = 10
BLOCK_ROWS = 20_000
OPENING = """
import sys, time
import numpy as np
from astroclip import SimilarityIndex
start = time.perf_counter()
index = SimilarityIndex.open(sys.argv[1])
opened = time.perf_counter()
index.query_vectors(np.random.default_rng(0).normal(size=index.dim), 10)
print(opened - start, time.perf_counter() - opened)
"""


def clustered_vectors(n_rows, dim, *, rng, n_clusters=500, spread=0.5):
    """Return float32 unit vectors around random centers of very different sizes."""
    centers = rng.standard_normal((n_clusters, dim), dtype=np.float32)
    share = rng.dirichlet(np.full(n_clusters, 0.5))
    vectors = centers[rng.choice(n_clusters, n_rows, p=share)]
    for first in range(0, n_rows, BLOCK_ROWS):
        block = vectors[first : first + BLOCK_ROWS]
        block += np.float32(spread) * rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors


def as_table(vectors):
    """Return vectors as an embedding table."""
    n_rows = len(vectors)
    return make_embedding_table(
        np.arange(n_rows).astype(str), "spectrum", vectors, coverage=1.0, flags=0,
        model_name="benchmark", weights_sha256="0" * 64, preparation_version="1",
        redshift=np.linspace(0, 1, n_rows),
    )


def best_time(function, repeats=3):
    """Return the least seconds of some calls, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def sorted_neighbors(queries, references):
    """Return neighbors' rows by plain float64 cosines, ties by row."""
    wide = queries.astype(float)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    cosine = np.empty((len(queries), 0))
    for first in range(0, len(references), BLOCK_ROWS):
        part = references[first : first + BLOCK_ROWS].astype(float)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        new = np.broadcast_to(np.arange(first, first + len(part)), (len(queries), len(part)))
        rows = np.concatenate([rows, new], axis=1)
        cosine = np.concatenate([cosine, wide @ part.T], axis=1)
        order = np.lexsort((rows, -cosine), axis=1)[:, :N_NEIGHBORS]
        rows, cosine = (np.take_along_axis(each, order, axis=1) for each in (rows, cosine))
    return rows


def found_share(rows, expected):
    """Return the share of the expected neighbors that were found."""
    return float(np.mean([np.isin(*pair).mean() for pair in zip(expected, rows, strict=True)]))


def main():
    """Print the figures and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-rows", type=int, default=1_000_000)
    parser.add_argument("--n-queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--table", help="of embeddings, some of which become the queries")
    options = parser.parse_args()
    rng, failed = np.random.default_rng(20240531), []
    if options.table is None:
        n_all = options.n_rows + options.n_queries
        vectors = clustered_vectors(n_all, options.dim, rng=rng)
    else:
        matrix, valid = embedding_matrix(read_table(options.table))
        vectors = rng.permutation(matrix[valid])
    queries, references = vectors[: options.n_queries], vectors[options.n_queries :]
    few = queries[:1000]
    asked, asked_few, table = as_table(queries), as_table(few), as_table(references)
    n_threads = faiss.omp_get_max_threads()
    print(f"{len(references):,} x {references.shape[1]}, {n_threads} threads")

    def show(name, n_queries, seconds, share, wanted=0.0):
        rate = n_queries / seconds
        print(f"{name:44} {rate:9,.0f} queries/s {rate / flat:7.2f} x FAISS  {share:8.3%} found")
        if share < wanted:
            failed.append(name)

    index = faiss.IndexFlatIP(references.shape[1])
    index.add(references)
    seconds, found = best_time(lambda: index.search(few, N_NEIGHBORS)[1])
    flat, expected = len(few) / seconds, sorted_neighbors(few, references)
    show("FAISS IndexFlatIP", len(few), seconds, found_share(found, expected))
    brute = NearestNeighbors(n_neighbors=N_NEIGHBORS, metric="cosine", algorithm="brute")
    brute.fit(references)
    seconds, found = best_time(lambda: brute.kneighbors(few[:200], return_distance=False), 1)
    show("scikit-learn, brute force", 200, seconds, found_share(found, expected[:200]))
    for dtype in ("float16", "float32"):
        seconds, index = best_time(lambda dtype=dtype: SimilarityIndex(table, dtype=dtype), 1)
        print(f"building, {dtype}: {seconds:.1f} s, {index.n_bytes / len(index):.0f} bytes a row")
        stored = references.astype(dtype).astype(np.float32)
        expected = sorted_neighbors(few, stored)
        seconds, (rows, _, _) = best_time(lambda: index.neighbors(asked_few, N_NEIGHBORS))  # noqa: B023
        same = float((rows == expected).all(axis=1).mean())
        show(f"exact, {dtype}", len(few), seconds, same, wanted=1.0)
    whole, (true, _, _) = best_time(lambda: index.neighbors(asked, N_NEIGHBORS), 1)
    show("exact, all queries at a time", len(queries), whole, 1.0)
    condition = {"where": "redshift < 0.1"}
    seconds, _ = best_time(lambda: index.neighbors(asked_few, N_NEIGHBORS, **condition))
    show("exact, a condition that leaves a tenth", len(few), seconds, 1.0)

    with tempfile.TemporaryDirectory() as folder:
        seconds, _ = best_time(lambda: index.save(Path(folder) / "index"), 1)
        print(f"saving: {seconds:.2f} s")
        more = as_table(queries[:5000])
        opened = SimilarityIndex.open(Path(folder) / "index").append(more)
        seconds, _ = best_time(lambda: opened.save(Path(folder) / "index"), 1)
        print(f"appending 5,000 rows to the file: {seconds:.2f} s")
        command = [sys.executable, "-c", OPENING, str(Path(folder) / "index")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        opening, first = map(float, done.stdout.split())
        print(f"opening: {opening:.2f} s, and {first:.2f} s to the first answer")

    seconds, index = best_time(lambda: SimilarityIndex(table, method="approximate"), 1)
    print(f"building with approximate search, measured: {seconds:.1f} s")
    for wanted in (0.97, 0.99):
        index.set_recall(wanted)
        seconds, (rows, _, _) = best_time(lambda: index.neighbors(asked, N_NEIGHBORS))
        name = f"approximate, {wanted} wanted, {index.recall_:.3f} measured"
        show(name, len(queries), seconds, found_share(rows, true), wanted=wanted - 0.005)
    if failed:
        print(f"missed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
