"""Toy embedding tables whose properties follow from a few latent numbers."""

import numpy as np
from astropy import units as u

from astroclip import tables


def as_unit(vectors):
    vectors = np.asarray(vectors, dtype=float)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_table(vectors, *, modality="spectrum", prefix="row", failed=None, **columns):
    n_rows = len(vectors)
    return tables.make_embedding_table(
        [f"{prefix}-{row}" for row in range(n_rows)],
        modality,
        vectors,
        coverage=1.0,
        flags=np.zeros(n_rows, int) if failed is None else failed,
        model_name="toy",
        weights_sha256="ab" * 32,
        preparation_version="7",
        extra_columns=columns,
    )


def survey(n_rows, seed, *, prefix="row", **options):
    """Return simulated galaxies whose mass scatters more the larger their first latent is."""
    rng = np.random.default_rng(seed)
    latent = rng.uniform(-1, 1, (n_rows, 3))
    basis = np.random.default_rng(0).normal(size=(6, 12))
    vectors = np.concatenate([latent, latent**2], axis=1) @ basis + basis.sum(axis=0)
    scatter = 0.05 + 0.6 * (1 + latent[:, 0]) ** 2
    mass = 10 + latent @ [1.0, 2.0, -1.0] + scatter * rng.normal(size=n_rows)
    age = 5 + np.exp(latent[:, 1]) * (1 + 0.2 * rng.standard_t(4, n_rows))
    columns = {"mass": mass, "age": age * u.Gyr}
    return make_table(as_unit(vectors), prefix=prefix, **columns, **options), latent


def sky(n_rows, seed, *, prefix="row", **options):
    """Return galaxies with an angle, a positive size, a class and a true probability of it."""
    table, latent = survey(n_rows, seed, prefix=prefix, **options)
    rng = np.random.default_rng(seed + 7777)
    angle = 90 + 170 * latent[:, 0] + 8 * rng.normal(size=n_rows)  # goes round twice
    table["angle"] = np.mod(angle, 180) * u.deg
    table["size"] = np.exp(latent[:, 1] * 2 + 0.3 * rng.normal(size=n_rows)) * u.kpc
    probability = 1 / (1 + np.exp(-4 * latent[:, 1] - 1))
    spiral = rng.random(n_rows) < probability
    third = rng.random(n_rows) < 0.2
    table["kind"] = np.where(third, "other", np.where(spiral, "spiral", "elliptical"))
    table["is_spiral"] = spiral
    return table, probability


def turned(difference, period):
    """Return differences of angles, the shorter way round."""
    return (np.asarray(difference) + period / 2) % period - period / 2
