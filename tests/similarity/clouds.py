"""Clouds of vectors with ties of all kinds, embedding tables of them, and the naive search."""

import numpy as np

from astroclip import tables


def as_unit(vectors):
    vectors = np.asarray(vectors, dtype=float)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_table(vectors, *, ids=None, modality="spectrum", failed=None, **options):
    ids = [f"row-{row}" for row in range(len(vectors))] if ids is None else ids
    return tables.make_embedding_table(
        ids,
        modality,
        vectors,
        coverage=1.0,
        flags=0 if failed is None else failed,
        model_name="toy",
        weights_sha256="ab" * 32,
        preparation_version="7",
        **options,
    )


def random_table(n_rows=30, dim=8, seed=0, **options):
    return make_table(as_unit(np.random.default_rng(seed).normal(size=(n_rows, dim))), **options)


def mixed_table(n_galaxies=20, dim=8, seed=0, **options):
    """Galaxies with a spectrum and an image of the same id; the images lie a little apart."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n_galaxies, dim))
    shift = rng.normal(size=dim)
    vectors = [latent, latent + 0.3 * rng.normal(size=latent.shape) + shift]
    return make_table(
        as_unit(np.concatenate(vectors)),
        ids=[f"galaxy-{row % n_galaxies}" for row in range(2 * n_galaxies)],
        modality=np.repeat(["spectrum", "image"], n_galaxies),
        **options,
    )


def naive_neighbors(queries, references, n_neighbors):
    """Sort all float64 cosines stably: ties stay in reference order."""
    queries, references = queries.astype(float), references.astype(float)
    cosine = np.stack([(references * query).sum(axis=1) for query in queries])
    cosine /= np.sqrt((references**2).sum(axis=1)) * np.linalg.norm(queries, axis=1)[:, None]
    return np.argsort(-cosine, axis=1, kind="stable")[:, :n_neighbors], cosine


def scattered(rng, n_rows, dim):
    return rng.normal(size=(n_rows, dim))


def clustered(rng, n_rows, dim):
    centers = rng.normal(size=(5, dim))
    return centers[rng.integers(5, size=n_rows)] + 0.01 * rng.normal(size=(n_rows, dim))


def broad(rng, n_rows, dim):
    centers = rng.normal(size=(12, dim))
    return centers[rng.integers(12, size=n_rows)] + 0.5 * rng.normal(size=(n_rows, dim))


def curved(rng, n_rows, dim):
    """A surface of two dimensions."""
    place = rng.uniform(-2, 2, size=(n_rows, 2))
    return np.sin(place @ rng.normal(size=(2, dim)) + np.arange(dim))


def antipodal(rng, n_rows, dim):
    return rng.choice([-1.0, 1.0], size=(n_rows, 1)) * rng.normal(size=(3, dim))[
        rng.integers(3, size=n_rows)
    ]


def duplicated(rng, n_rows, dim):
    return rng.normal(size=(7, dim))[rng.integers(7, size=n_rows)]


def collinear(rng, n_rows, dim):
    return rng.normal(size=dim) + 3e-6 * rng.normal(size=(n_rows, dim))


def on_a_grid(rng, n_rows, dim):
    return np.where(rng.random((n_rows, dim)) < 0.5, -1.0, 1.0)


CLOUDS = (scattered, clustered, broad, curved, antipodal, duplicated, collinear, on_a_grid)
