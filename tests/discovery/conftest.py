"""Made-up embedding tables: clusters on a sphere, with a rare kind that is known."""

import numpy as np
import pytest

from astroclip.tables import make_embedding_table


def make_table(embedding, *, ids=None, modality="image", sha="1" * 64, flags=0, **columns):
    """Return an embedding table of given vectors."""
    n = len(embedding)
    return make_embedding_table(
        [f"g{row}" for row in range(n)] if ids is None else ids,
        modality,
        embedding,
        coverage=1.0,
        flags=flags,
        model_name="made-up",
        weights_sha256=sha,
        preparation_version="1",
        extra_columns=columns,
    )


def unit(vectors):
    """Return rows of unit length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def rare():
    """Return a table and which of its rows are of a rare kind that differs in a weak direction."""
    rng = np.random.default_rng(3)
    scatter = np.array([1.0, 0.7, 0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    vectors = scatter * rng.standard_normal((600, 8)) + np.array([2.0, 0, 0, 0, 0, 0, 0, 0])
    kind = np.arange(600) % 12 == 5
    vectors[kind, 4] += 0.35
    table = make_table(unit(vectors), redshift_true=rng.random(600))
    return table, kind
