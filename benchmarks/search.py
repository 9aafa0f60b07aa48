"""Search against FAISS and scikit-learn: a million clustered unit vectors, the same cores.

Run it with ``python benchmarks/search.py``, or in parts with ``--part exact``, ``approximate``,
``store`` and ``filters``. Every figure is printed with its goal; it exits with an error if one
is missed or a neighbour of the exact search differs from a float64 reference.

Goals in queries per second are those of a machine on which FAISS's IndexFlatIP answers 803
queries per second in batches of 1,000. Where it is slower, in the same run, they are scaled
down in proportion, and the factor is printed.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_info

from astroclip import SimilarityIndex
from astroclip.tables import make_embedding_table

FLAT_RATE = 803  # of IndexFlatIP where the goals were set
PARTS = ("exact", "store", "approximate", "filters")


class Report:
    """Prints figures beside their goals and remembers whether all were reached."""

    def __init__(self):
        self.missed = []

    def show(self, name, value, unit="", *, least=None, most=None):
        """Print a figure; it must be at least, or at most, its goal."""
        goal, reached = "", True
        if least is not None:
            goal, reached = f"at least {least:,.4g}", value >= least
        if most is not None:
            goal, reached = f"at most {most:,.4g}", value <= most
        mark = "" if not goal else ("reached" if reached else "MISSED")
        print(f"{name:58} {value:12,.4g} {unit:10} {goal:18} {mark}", flush=True)
        if not reached:
            self.missed.append(name)


def clustered_vectors(n_rows, dim, *, rng, n_clusters=500, spread=0.5):
    """Return float32 unit vectors around random centres of very different sizes, and which."""
    centers = rng.standard_normal((n_clusters, dim), dtype=np.float32)
    share = rng.dirichlet(np.full(n_clusters, 0.5))
    cluster = rng.choice(n_clusters, n_rows, p=share)
    vectors = centers[cluster]
    for first in range(0, n_rows, 100_000):
        block = vectors[first : first + 100_000]
        block += np.float32(spread) * rng.standard_normal(block.shape, dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return vectors, cluster


def as_table(vectors, prefix, **columns):
    """Return vectors as an embedding table."""
    n_rows = len(vectors)
    return make_embedding_table(
        np.char.add(f"{prefix}-", np.arange(n_rows).astype(str)),
        "spectrum",
        vectors,
        coverage=1.0,
        flags=0,
        model_name="benchmark",
        weights_sha256="0" * 64,
        preparation_version="1",
        **columns,
    )


class Data:
    """Reference and queries that all parts share."""

    def __init__(self, options):
        rng = np.random.default_rng(options.seed)
        n_rows, n_queries = options.n_rows, options.n_queries
        n_all = n_rows + n_queries + options.n_quick
        vectors, cluster = clustered_vectors(n_all, options.dim, rng=rng)
        self.reference, self.queries, self.many = np.split(
            vectors, [n_rows, n_rows + n_queries]
        )
        ra, dec = rng.uniform(0, 360, n_rows), np.degrees(np.arcsin(rng.uniform(-1, 1, n_rows)))
        extra = {"cluster": cluster[:n_rows] / cluster.max()}
        self.table = as_table(
            self.reference, "row", ra=ra, dec=dec, redshift=rng.random(n_rows),
            extra_columns=extra,
        )
        self.query_table = as_table(self.queries, "query")
        self.many_table = as_table(self.many, "query")
        self.n_neighbors = options.n_neighbors
        self._flat = None

    def index(self, **options):
        """Return an index and the seconds that building it took."""
        start = time.perf_counter()
        index = SimilarityIndex(self.table, **options)
        return index, time.perf_counter() - start

    def flat_rate(self, repeats):
        """Return the rate of IndexFlatIP, measured once, and its neighbours."""
        if self._flat is None:
            flat = faiss.IndexFlatIP(self.reference.shape[1])
            flat.add(self.reference)
            seconds, found = best_time(
                lambda: flat.search(self.queries, self.n_neighbors), repeats
            )
            self._flat = len(self.queries) / seconds, found[1]
        return self._flat


def best_time(function, repeats):
    """Return the least seconds of some calls, and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def float64_neighbors(queries, references, n_neighbors, block=20_000):
    """Return neighbours' rows by plain float64 cosines, ties by row."""
    wide = queries.astype(float)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    cosine = np.empty((len(queries), 0))
    for first in range(0, len(references), block):
        part = references[first : first + block].astype(float)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        product = wide @ part.T
        near = np.argpartition(product, -n_neighbors, axis=1)[:, -n_neighbors:]
        rows = np.concatenate([rows, near + first], axis=1)
        cosine = np.concatenate([cosine, np.take_along_axis(product, near, axis=1)], axis=1)
        order = np.lexsort((rows, -cosine), axis=1)[:, :n_neighbors]
        rows, cosine = (np.take_along_axis(each, order, axis=1) for each in (rows, cosine))
    return rows


def brute_rate(data, n_queries):
    """Return the rate of scikit-learn's brute-force search, in float32 as the vectors are."""
    model = NearestNeighbors(
        n_neighbors=data.n_neighbors, metric="cosine", algorithm="brute"
    ).fit(data.reference)
    part = data.queries[:n_queries]
    seconds, _ = best_time(lambda: model.kneighbors(part, return_distance=False), 1)
    return len(part) / seconds


def recall(rows, expected):
    """Return the part of the expected neighbours that were found."""
    both = [len(np.intersect1d(*pair)) for pair in zip(rows, expected, strict=True)]
    return float(np.mean(both)) / expected.shape[1]


class PeakMemory:
    """Measures how far the memory of this process rises above what it had (Linux)."""

    def __enter__(self):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to the present
        self.before = self._read("VmRSS")
        return self

    def __exit__(self, *error):
        self.rise = self._read("VmHWM") - self.before

    @staticmethod
    def _read(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def run_exact(data, options, report):
    """Exact search: rate, neighbours, memory."""
    print("\nExact search")
    index, seconds = data.index()
    report.show("building the index", seconds, "s")
    table, n_neighbors = data.query_table, data.n_neighbors
    with PeakMemory() as memory:
        seconds, (rows, _, _) = best_time(lambda: index.neighbors(table, n_neighbors), 1)
    more, _ = best_time(lambda: index.neighbors(table, n_neighbors), options.repeats)
    ours = len(table) / min(seconds, more)
    report.show("astroclip, float32, batch of queries", ours, "queries/s")
    vectors = index.n_bytes
    report.show(
        "its peak memory by the store", (vectors + memory.rise) / vectors, most=1.3
    )
    del index
    flat, flat_rows = data.flat_rate(options.repeats)
    report.show("faiss IndexFlatIP", flat, "queries/s")
    report.show("astroclip by faiss", ours / flat, least=1.0)
    brute = brute_rate(data, options.n_brute)
    report.show("scikit-learn, brute force", brute, "queries/s")
    report.show("astroclip by scikit-learn", ours / brute, least=3.0)
    expected = float64_neighbors(data.queries, data.reference, n_neighbors)
    differ = (rows != expected).any(axis=1)
    report.show("queries whose neighbours differ from float64", differ.sum(), most=0)
    differ = (flat_rows != expected).any(axis=1).sum()
    report.show("the same of faiss, which rounds to float32", differ)
    index, seconds = data.index(dtype="float16")
    with PeakMemory() as memory:
        seconds, _ = best_time(lambda: index.neighbors(table, n_neighbors), options.repeats)
    report.show("astroclip, float16", len(table) / seconds, "queries/s")
    vectors = index.n_bytes
    report.show("its peak memory by the store", (vectors + memory.rise) / vectors, most=1.3)


def run_store(data, options, report):
    """The store: bytes a row, saving, opening, the first query."""
    print("\nStore and file")
    index, _ = data.index(dtype="float16")
    n_rows, dim = data.reference.shape
    report.show(
        "float16 store", index.n_bytes / n_rows, "bytes/row", most=1.1 * 2 * dim
    )
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float16", "float32"):
            path = Path(folder) / f"index-{dtype}"
            if dtype == "float32":
                index, _ = data.index()
            start = time.perf_counter()
            index.save(path)
            report.show(f"saving, {dtype}", time.perf_counter() - start, "s")
            report.show(f"file, {dtype}, all columns", path.stat().st_size / n_rows, "bytes/row")
            command = [sys.executable, __file__, "--probe", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            opening, first = json.loads(done.stdout)
            report.show(f"opening in a new process, {dtype}", opening, "s", most=0.5)
            report.show(f"first query, {dtype}", first, "s", most=1.0)


def probe(path):
    """Print the seconds that opening an index and its first query take."""
    start = time.perf_counter()
    index = SimilarityIndex.open(path)
    opened = time.perf_counter()
    vector = np.random.default_rng(0).normal(size=index.dim)
    index.query_vectors(vector, 10)
    print(json.dumps([opened - start, time.perf_counter() - opened]))


def run_approximate(data, options, report):
    """Approximate search: rate and recall at two wanted recalls, building."""
    print("\nApproximate search")
    flat, _ = data.flat_rate(1)
    scale = min(1.0, flat / FLAT_RATE)
    report.show("faiss IndexFlatIP", flat, "queries/s")
    report.show("factor by which goals are scaled to this machine", scale)
    for method in options.method or ("ivf", "cells"):
        run_method(method, scale, flat, data, options, report)


def run_method(method, scale, flat, data, options, report):
    """One approximate method at two wanted recalls."""
    index, seconds = data.index(method=method, recall=0.97)
    print(f"method {method!r}")
    report.show("building, with the measurement of its recall", seconds, "s", most=60)
    n_neighbors, table = data.n_neighbors, data.many_table
    exact, _ = data.index()
    expected, _, _ = exact.neighbors(table, n_neighbors)
    del exact
    for wanted, goal in ((0.97, 30_000), (0.99, 8_000)):
        index.set_recall(wanted)
        seconds, (rows, _, _) = best_time(
            lambda: index.neighbors(table, n_neighbors), options.repeats
        )
        rate = len(table) / seconds
        report.show(f"recall@{n_neighbors}, {wanted} wanted: as the index says", index.recall_)
        report.show("  on other queries", recall(rows, expected), least=wanted)
        report.show("  rate", rate, "queries/s", least=goal * scale)
        report.show("  by faiss IndexFlatIP", rate / flat)


def run_filters(data, options, report):
    """Filters that leave a tenth of the rows: cost of an exact search, recall of a quick one."""
    print("\nFilters that leave 10 % of the rows")
    n_neighbors, table = data.n_neighbors, data.query_table
    cone = np.degrees(np.arccos(1 - 2 * 0.1)) * u.deg
    filters = {
        "text": {"where": "redshift < 0.1"},
        "ranges": {"where": {"redshift": (0.3, 0.4)}},
        "mask": {"where": np.asarray(data.table["redshift"]) > 0.9},
        "cone on the sky": {"near": (SkyCoord(150, 2, unit="deg"), cone)},
        "clusters": {"where": "cluster < 0.1"},
    }
    index, _ = data.index()
    whole, _ = best_time(lambda: index.neighbors(table, n_neighbors), options.repeats)
    report.show("exact, all rows", len(table) / whole, "queries/s")
    expected = {}
    for name, chosen in filters.items():
        seconds, (expected[name], _, _) = best_time(
            lambda chosen=chosen: index.neighbors(table, n_neighbors, **chosen), options.repeats
        )
        most = 2.0 if name != "clusters" else None
        report.show(f"exact, {name}: cost by that of all rows", seconds / whole, most=most)
    del index
    index, _ = data.index(method=(options.method or ["ivf"])[0], recall=0.97)
    whole, _ = best_time(lambda: index.neighbors(table, n_neighbors), options.repeats)
    report.show("approximate, all rows", len(table) / whole, "queries/s")
    for name, chosen in filters.items():
        seconds, (rows, _, _) = best_time(
            lambda chosen=chosen: index.neighbors(table, n_neighbors, **chosen), 1
        )
        report.show(f"approximate, {name}: rate", len(table) / seconds, "queries/s")
        report.show(f"approximate, {name}: recall", recall(rows, expected[name]), least=0.95)


def main():
    """Run the parts asked for and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="all by default")
    parser.add_argument("--n-rows", type=int, default=1_000_000)
    parser.add_argument("--n-queries", type=int, default=1000)
    parser.add_argument("--n-quick", type=int, default=10_000, help="queries, approximate")
    parser.add_argument("--n-brute", type=int, default=1000, help="queries, scikit-learn")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--method", action="append", help="approximate: ivf and cells by default")
    parser.add_argument("--n-neighbors", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20240531)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe)
        return 0
    threads = sorted({pool["num_threads"] for pool in threadpool_info()})
    print(f"{options.n_rows:,} x {options.dim}, k = {options.n_neighbors}, batches of "
          f"{options.n_queries}; {os.cpu_count()} cores, threads of the pools {threads}")
    start = time.perf_counter()
    data, report = Data(options), Report()
    print(f"vectors made in {time.perf_counter() - start:.1f} s")
    runs = {"exact": run_exact, "store": run_store, "approximate": run_approximate,
            "filters": run_filters}
    for part in options.part or PARTS:
        runs[part](data, options, report)
    if report.missed:
        print(f"\nmissed: {'; '.join(report.missed)}")
    return int(bool(report.missed))


if __name__ == "__main__":
    sys.exit(main())
