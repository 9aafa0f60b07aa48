"""Threads and processes: objects are divided among threads, nobody's settings change, no hang."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from astroclip.models.loading import load_model

FORKS = """
import os
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import numpy as np, torch
import astroclip

sample = astroclip.sample_spectrum()

def embedded():
    return astroclip.embed([sample] * 3)["embedding"].filled(np.nan)

def check(found):
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)

torch.set_num_threads(2)
torch.ones(2000, 2000).exp()  # the threads of OpenMP are started
expected = embedded()
assert torch.get_num_threads() == 2
context = multiprocessing.get_context("fork")
with ProcessPoolExecutor(1, mp_context=context) as pool:
    check(pool.submit(embedded).result())
if (child := os.fork()) == 0:
    check(embedded())
    os._exit(torch.get_num_threads() - 1)
assert os.waitpid(child, 0)[1] == 0
check(embedded())
assert torch.get_num_threads() == 2
"""


@pytest.fixture(scope="module")
def model():
    return load_model("astroclip-small", device="cpu")


@pytest.fixture
def threads():
    """Return a function that sets torch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def threads_of_another():
    """Return torch's number of threads in one that computes for the first time."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def arrays_of(modality, n_objects):
    rng = np.random.default_rng(3)
    if modality == "image":
        shape = (n_objects, 3, 64, 64)
        return [rng.normal(0, 0.2, shape), rng.random(shape) < 0.1]
    shape = (n_objects, 4360)
    mask = np.zeros(shape, bool)
    mask[:, 1000:1800] = True  # a long gap, which is not bridged
    return [rng.normal(3, 1, shape), rng.uniform(1, 5, shape), mask]


def encode(model, modality, arrays, **options):
    method = {"spectrum": model.encode_spectra, "image": model.encode_images}[modality]
    return method(*arrays, **options)


@pytest.mark.parametrize("modality", ["spectrum", "image"])
@pytest.mark.parametrize("n_objects", [0, 1, 17])
def test_any_number_of_threads_gives_the_same_rows(model, threads, modality, n_objects):
    arrays = arrays_of(modality, n_objects)
    inputs = [torch.from_numpy(values) for values in arrays]
    inputs = [values if values.dtype == torch.bool else values.float() for values in inputs]
    expected = np.empty((0, 128))
    with torch.inference_mode():
        if n_objects:
            expected = getattr(model.network, f"encode_{modality}")(*inputs).numpy()
    for number in (1, 2, 5):
        threads(number)
        for size in (None, 7):
            found = encode(model, modality, arrays, normalize=False, batch_size=size)
            assert found.shape == (n_objects, 128) and found.dtype == np.float32
            scale = np.abs(expected).max(initial=1)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("n_objects", [1, 20])
def test_settings_of_threads_stay(model, threads, n_objects):
    arrays = arrays_of("spectrum", n_objects)
    with ThreadPoolExecutor(1) as users:
        users.submit(torch.get_num_threads).result()
        users.submit(torch.set_num_threads, 4).result()
        threads(3)
        for run in (lambda f, *a: f(*a), lambda f, *a: users.submit(f, *a).result()):
            run(encode, model, "spectrum", arrays)
            assert torch.get_num_threads() == 3
            assert users.submit(torch.get_num_threads).result() == 4
            assert threads_of_another() == 3
            assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()


def test_settings_stay_after_an_error(model, threads, monkeypatch):
    threads(2)

    def fail(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.network, "encode_spectrum", fail)
    for n_objects in (1, 20):
        with pytest.raises(RuntimeError, match="out of memory"):
            encode(model, "spectrum", arrays_of("spectrum", n_objects))
        assert (torch.get_num_threads(), threads_of_another()) == (2, 2)
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPool")]


def test_passes_use_one_thread_each_and_share_the_batch(model, threads, monkeypatch):
    seen = []

    def note(flux, ivar, mask):
        seen.append((len(flux), torch.get_num_threads(), threading.get_ident()))
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        return torch.zeros(len(flux), 128)

    monkeypatch.setattr(model.network, "encode_spectrum", note)
    threads(4)
    done = []
    model.encode_spectra(
        np.ones((100, 8)), batch_size=32, precision="bf16", progress=done.append
    )
    assert {(size, number) for size, number, _ in seen} == {(8, 1), (4, 1)}
    assert threading.get_ident() not in {who for *_, who in seen}
    assert done == [*range(8, 100, 8), 100]
    seen.clear()
    model.encode_spectra(np.ones((1, 8)), precision="bf16")
    assert seen == [(1, 1, threading.get_ident())]


def test_few_objects_of_a_large_network_keep_the_threads(model, threads, monkeypatch):
    seen = []

    def note(flux, ivar, mask):
        seen.append((len(flux), torch.get_num_threads()))
        return torch.zeros(len(flux), 128)

    monkeypatch.setattr(model.network, "encode_spectrum", note)
    monkeypatch.setattr(model, "n_parameters", 300_000_000)
    threads(3)
    model.encode_spectra(np.ones((2, 8)))
    model.encode_spectra(np.ones((3, 8)))
    assert seen == [(2, 3), (1, 1), (1, 1), (1, 1)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_processes_embed():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
