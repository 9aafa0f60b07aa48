"""Simulated pairs of the small basis, a model of random weights, and scores made up by hand."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from astroclip._files import file_sha256
from astroclip.evaluation import embed_pairs
from astroclip.evaluation.run import ALL_REAL, HELD_OUT, Run
from astroclip.evaluation.scores import ScoreTable
from astroclip.models.layers import TwoTower
from astroclip.models.loading import EmbeddingModel
from astroclip.models.presets import PRESETS
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.simulation.pairs import make_pairs
from tests.simulation.conftest import basis, simulator  # noqa: F401 - fixtures

N_PAIRS, N_REFERENCE, N_NEIGHBORS = 24, 80, 8


@pytest.fixture(scope="session")
def pairs(simulator):  # noqa: F811
    """Return a few held-out pairs."""
    return make_pairs(N_PAIRS, simulator, seed=5)


@pytest.fixture(scope="session")
def reference(simulator):  # noqa: F811
    """Return reference pairs."""
    return make_pairs(N_REFERENCE, simulator, seed=6)


def make_model(*, path=None, **towers):
    """Return a model of the bundled one's layout, with the redshift heads of a file."""
    return EmbeddingModel(
        TwoTower(**towers).eval(), PRESETS["astroclip-small"], name="random",
        weights_sha256="0" * 64 if path is None else file_sha256(path),
        device=torch.device("cpu"), path=path,
    )  # fmt: skip


@pytest.fixture(scope="session")
def towers():
    """Return encoders of random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        spectrum = SmallSpectrumEncoder(width=16, dim=16)
        image = SmallImageEncoder(width=8, dim=16)
    return {"spectrum_encoder": spectrum, "image_encoder": image}


@pytest.fixture(scope="session")
def model(towers, tmp_path_factory):
    """Return a model with both towers and a redshift head of spectra."""
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    rng = np.random.default_rng(3)
    head = {"weight": rng.normal(0, 0.2, (32, 16)), "bias": rng.normal(0, 0.2, 32)}
    entry = {"n_bins": 32, "largest": 0.7, "scale": 11.0, "temperature": 1.0}
    save_file(
        {f"redshift_head.spectrum.{name}": values for name, values in head.items()}, path,
        metadata={"config": json.dumps({"redshift_head": entry})},
    )  # fmt: skip
    return make_model(path=path, **towers)


@pytest.fixture(scope="session")
def image_model(towers):
    """Return a model that takes images alone."""
    return make_model(image_encoder=towers["image_encoder"])


@pytest.fixture(scope="session")
def embedded(model, pairs, reference):
    """Return the held-out and the reference pairs, embedded."""
    return tuple(
        embed_pairs(model, source, seed=seed, keep_features=True)
        for source, seed in ((pairs, 1), (reference, 2))
    )


@pytest.fixture
def run(model, embedded):
    """Return an evaluation that holds no score yet."""
    held, known = embedded
    return Run(model, held, known, ScoreTable(seed=1), n_neighbors=N_NEIGHBORS)


def estimate_rows():
    """Yield made-up R2 of properties: protocol, query, reference, property and value."""
    values = {"redshift": 0.99, "log_stellar_mass": 0.9, "log_ssfr": 0.8, "log_metallicity": 0.7}
    for shift, (protocol, query, reference) in enumerate(
        (
            ("k-NN", "spectrum", "spectrum"),
            ("k-NN", "image", "image"),
            ("k-NN", "image", "spectrum"),
            ("k-NN", "spectrum", "image"),
            ("k-NN", "image-only encoder: image", "image-only encoder: image"),
            ("few-shot", "photometry", "-"),
            ("k-NN", "photometry", "-"),
            ("k-NN", "spectrum, principal components", "-"),
            ("gradient boosting", "photometry and true shapes", "-"),
        )
    ):
        for name, value in values.items():
            yield protocol, query, reference, name, value - 0.05 * shift


@pytest.fixture(scope="session")
def made_up():
    """Return a table of made-up scores with rows of every kind."""
    scores = ScoreTable(seed=7)
    sizes = {"n_queries": 2000, "n_reference": 20000}
    for protocol, query, reference, name, value in estimate_rows():
        where = {"data": HELD_OUT, "query": query, "reference": reference, "quantity": name}
        scores.add(protocol, "r2", value, **where, **sizes)
    for data, names in (
        (HELD_OUT, ("image", "spectrum")),
        ("SDSS-like spectra", ("SDSS-like spectrum", "DESI-like spectrum")),
    ):
        for query, target in (names, names[::-1]):
            better = 0.01 * (query == names[0])
            for score, value in (
                ("recall_1", 0.3 + better), ("recall_5", 0.6 + better),
                ("recall_10", 0.8 + better), ("median_rank", 4),
            ):
                scores.add(
                    "retrieval", score, value, data=data, query=query, reference=target,
                    n_queries=1000, n_reference=1000,
                )
    shift = {"data": "spectra cut to 4500-8500 A", "query": "spectrum", "reference": "spectrum"}
    scores.add("k-NN", "r2", 0.95, quantity="redshift", **shift, **sizes)
    scores.add("k-NN", "r2_fall", 0.04, quantity="redshift", **shift, **sizes)
    for protocol in ("k-NN", "redshift head"):
        for data in ("FORS2", ALL_REAL):
            for score, value in (("nmad", 0.0018), ("beyond_0.01", 0.2), ("beyond_0.05", 0.125)):
                scores.add(
                    protocol, score, value, data=data, query="spectrum",
                    reference="bundled reference", quantity="redshift", n_queries=274,
                    n_reference=10000,
                )
    scores.add(
        "mutual information", "nats", 3.5, data=HELD_OUT, query="image", reference="spectrum",
        n_queries=1024, n_reference=1024,
    )
    scores.add("throughput", "objects_per_second", 400, data=HELD_OUT, query="image", n_queries=9)
    return scores.table(MODEL="random", WSHA="0" * 64, NNEIGH=64)
