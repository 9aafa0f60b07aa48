"""Scores on real objects: redshifts of spectra, and rings in display images."""

from pathlib import Path

import numpy as np
from astropy.table import vstack

from astroclip.evaluation.observation import PIXEL_SCALE, embed_pairs, embed_quietly
from astroclip.evaluation.real_data import (
    estimate_redshifts,
    has_redshift_head,
    read_real_sets,
    redshift_scores,
)
from astroclip.preparation import ImageBatch
from astroclip.tables import embedding_matrix

__all__ = ["ALL_REAL", "read_rings", "score_real_redshifts", "score_rings"]

ALL_REAL = "all real spectra"
REAL_NEIGHBORS = 16
DISPLAY_SCALES = (2.2, 3.4, 6.0)  # red, green and blue: z, r, g
DISPLAY_OFFSET = 0.03
N_FOLDS = 5


def real_reference(run, reference):
    """Return spectra with redshifts for real ones to be compared with, and what they are.

    The bundled reference if it belongs to the model, else the run's reference pairs as
    recorded by DESI and again by varied instruments.
    """
    from astroclip.datasets import reference_table

    table = reference_table()
    if table.meta["WSHA"] == run.model.weights_sha256:
        return table[np.asarray(table["modality"]) == "spectrum"], "bundled reference"
    varied = embed_pairs(
        run.model, reference, seed=run.scores.seed + 2, modalities=("spectrum",),
        spectra={"instrument": "varied"},
    ).tables["spectrum"]
    varied["id"] = [f"varied-{number}" for number in range(len(varied))]
    joined = vstack([run.known.tables["spectrum"], varied], metadata_conflicts="silent")
    return joined, "reference pairs"


def score_real_redshifts(run, folder, reference):
    """Add the scores of redshifts of real spectra, survey by survey and together.

    Parameters
    ----------
    run : `~astroclip.evaluation.held_out.Run`
        Of a model that takes spectra in the observed frame.
    folder : path-like
        See `~astroclip.evaluation.real_data.read_real_sets`.
    reference : dict, path-like or sequence of path-like
        The reference pairs.
    """
    known, source = real_reference(run, reference)
    embedded = {
        name: (embed_quietly(list(spectra), run.model), redshift)
        for name, (spectra, redshift) in read_real_sets(folder).items()
    }
    methods = {"k-NN": "neighbors"}
    if has_redshift_head(run.model):
        methods["redshift head"] = "head"
    for protocol, method in methods.items():
        options = {"method": method, "n_neighbors": REAL_NEIGHBORS, "model": run.model}
        found = {
            name: estimate_redshifts(known, table, redshift, **options)
            for name, (table, redshift) in embedded.items()
        }
        found[ALL_REAL] = vstack(list(found.values()), metadata_conflicts="silent")
        for name, table in found.items():
            for score, value in redshift_scores(table).items():
                run.scores.add(
                    protocol, score, value, data=name, query="spectrum", reference=source,
                    quantity="redshift", n_queries=len(table), n_reference=len(known),
                )


# ---------------------------------------------------------------------- rings
def read_rings(folder):
    r"""Read display images of galaxies with and without rings as images in nanomaggies.

    Parameters
    ----------
    folder : path-like
        With ``rings.npz`` (array ``rgb``, (N, 152, 152, 3) uint8) and ``rings.csv``
        (column ``ring``, 1 or 0).

    Returns
    -------
    images : `~astroclip.preparation.ImageBatch`
        Two by two pixels in one. The survey's stretch is undone, but for what it clipped.
    ring : (N,) bool `numpy.ndarray`

    Notes
    -----
    A display image is :math:`(f_b s_b + m)\, a / I` with
    :math:`a = \mathrm{arcsinh}(20 I) / \sqrt{20}` and I the mean of :math:`f_b s_b + m`
    over the bands: its own mean is a.
    """
    from astropy.table import Table

    folder = Path(folder)
    ring = np.asarray(Table.read(folder / "rings.csv", format="ascii.csv")["ring"]) == 1
    with np.load(folder / "rings.npz", allow_pickle=False) as archive:
        display = archive["rgb"].astype(np.float32) / 255
    mean = display.mean(axis=3, keepdims=True)
    intensity = np.sinh(np.sqrt(20) * mean) / 20
    linear = display * intensity / np.maximum(mean, 1 / 255)
    pixels = (linear - DISPLAY_OFFSET) / np.array(DISPLAY_SCALES, np.float32)
    pixels = pixels[..., ::-1].transpose(0, 3, 1, 2)  # g, r, z planes
    n, n_bands, size, _ = pixels.shape
    pixels = pixels.reshape(n, n_bands, size // 2, 2, size // 2, 2).sum(axis=(3, 5))
    return ImageBatch.from_arrays(pixels, pixel_scale=PIXEL_SCALE), ring


def score_rings(run, folder):
    """Add the average precision of a linear classifier of rings on image embeddings.

    Parameters
    ----------
    run : `~astroclip.evaluation.held_out.Run`
    folder : path-like
        See `read_rings`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    images, ring = read_rings(folder)
    embedding, valid = embedding_matrix(embed_quietly(images, run.model))
    embedding, ring = embedding[valid], ring[valid]
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=run.scores.seed)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    rank = cross_val_predict(classifier, embedding, ring, cv=folds, method="decision_function")
    scores = {
        "average_precision": average_precision_score(ring, rank),
        "share_of_rings": ring.mean(),  # what chance would reach
    }
    for score, value in scores.items():
        run.scores.add(
            "linear classifier", score, value, data="rings", query="image",
            n_queries=len(ring), n_reference=len(ring),
        )
