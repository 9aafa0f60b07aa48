"""Encoding on a CPU that other processes use, too: rates, and ratios to those on a quiet one.

Run it with ``python benchmarks/processes.py`` on a quiet machine. Encoders run in fresh processes
with torch's own number of threads, once alone, once two processes together, and once beside busy
processes that want half of the cores. "Ours" is `astroclip.models.EmbeddingModel.encode_spectra`,
which divides spectra among threads of one intra-op thread each; "naive" passes the same batches
through the same network in one thread with all intra-op threads, as a loop in torch would. Before
a ratio is printed the embeddings of both are compared; a difference, or with ``--strict`` a missed
target, is an error.
"""

import argparse
import multiprocessing
import os
import sys
import time

import numpy as np

N_BATCH = 64
TARGETS = {"two processes": 0.4, "beside busy processes": 0.5}
"""Least ratios to the quiet rate; fair shares are a half and two thirds."""


def make_arrays(n_spectra):
    """Return flux, ivar and mask (N, P) on the small model's grid."""
    rng = np.random.default_rng(0)
    flux = rng.normal(3, 1, (n_spectra, 4360)).astype(np.float32)
    return flux, np.ones_like(flux), np.zeros(flux.shape, bool)


def encode_naively(model, arrays):
    """Return embeddings of batches that one thread passes through the network."""
    import torch

    found = []
    with torch.inference_mode():
        for first in range(0, len(arrays[0]), N_BATCH):
            batch = [torch.from_numpy(values[first : first + N_BATCH]) for values in arrays]
            found.append(torch.nn.functional.normalize(model.network.encode_spectrum(*batch)))
    return torch.cat(found).numpy()


def encode(way, n_spectra, repeats, together, rates):
    """Encode in a process of its own, from when all are ready, and report the rates."""
    from astroclip import load_model

    model, arrays = load_model("astroclip-small", device="cpu"), make_arrays(n_spectra)
    if not np.allclose(
        encode_naively(model, arrays), model.encode_spectra(*arrays), rtol=0, atol=2e-6
    ):
        sys.exit("the embeddings of the two ways differ")
    together.wait()
    for _ in range(repeats):
        start = time.perf_counter()
        model.encode_spectra(*arrays) if way == "ours" else encode_naively(model, arrays)
        rates.put(n_spectra / (time.perf_counter() - start))
    rates.put(None)


def compute(stop):
    """Keep a core busy."""
    while not stop.is_set():
        sum(number * number for number in range(10**5))


def measure(way, options, *, n_processes=1, n_busy=0):
    """Return the median rate of the slowest process, spectra/s."""
    context = multiprocessing.get_context("spawn")
    stop, together = context.Event(), context.Barrier(n_processes)
    queues = [context.Queue() for _ in range(n_processes)]
    processes = [context.Process(target=compute, args=(stop,)) for _ in range(n_busy)]
    processes += [
        context.Process(
            target=encode, args=(way, options.n_spectra, options.repeats, together, queue)
        )
        for queue in queues
    ]
    for process in processes:
        process.start()
    rates = [np.median(list(iter(queue.get, None))) for queue in queues]
    stop.set()
    for process in processes:
        process.join()
    return min(rates)


def main(arguments=None):
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-spectra", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strict", action="store_true", help="fail if a target is missed")
    options = parser.parse_args(arguments)
    settings = {
        "two processes": {"n_processes": 2},
        "beside busy processes": {"n_busy": max(1, os.cpu_count() // 2)},
    }
    rates, missed = {}, []
    for way in ("ours", "naive"):
        quiet = rates[way, "quiet"] = measure(way, options)
        print(f"{way:<6} {'alone':<24} {quiet:>7.0f} spectra/s", flush=True)
        for name, setting in settings.items():
            rate = rates[way, name] = measure(way, options, **setting)
            text = f"{way:<6} {name:<24} {rate:>7.0f} spectra/s, {rate / quiet:.2f} of alone"
            if way == "ours":
                met = rate >= TARGETS[name] * quiet
                missed += [] if met else [name]
                text += f" (target {TARGETS[name]}: {'met' if met else 'MISSED'})"
            print(text, flush=True)
    for name in ("quiet", *settings):
        ratio = rates["ours", name] / rates["naive", name]
        print(f"ours over naive, {name:<21} {ratio:>7.2f}")
    if options.strict and missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
