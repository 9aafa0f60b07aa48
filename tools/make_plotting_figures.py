"""Make the figures of docs/user_guide/plotting.rst from the bundled reference and samples.

    python tools/make_plotting_figures.py [NAME ...]

NAME is neighbors, map, umap, estimates, calibration, reliability, learning or roc; all by
default. umap needs the extra ``plot``.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor

import astroclip
from astroclip import plotting
from astroclip.tables import embedding_matrix

OUTPUT = Path(__file__).parents[1] / "docs" / "figures"
N_TEST, N_NEIGHBORS = 1000, 16
QUIESCENT = -11.0  # log sSFR below which a galaxy counts as quiescent


def split_reference(modality):
    """Return galaxies to estimate and galaxies to estimate from, of one modality."""
    table = astroclip.reference_table()
    table = table[np.asarray(table["modality"]) == modality]
    order = np.random.default_rng(0).permutation(len(table))
    return table[np.sort(order[:N_TEST])], table[np.sort(order[N_TEST : 5 * N_TEST])]


def draw_neighbors():
    """A spectrum and an image beside their neighbors."""
    spectrum = astroclip.sample_spectrum()
    index = astroclip.SimilarityIndex(astroclip.reference_table())
    return plotting.plot_neighbors(spectrum, index.query(spectrum, n_neighbors=4), label="DESI")


def draw_map(method="pca"):
    """A map colored by redshift, with the sample spectra on it."""
    _, table = split_reference("spectrum")
    queries = astroclip.embed(astroclip.sample_spectra())
    return plotting.plot_embedding_map(table, color="redshift", method=method, queries=queries)


def draw_umap():
    """The same by UMAP."""
    return draw_map("umap")


def draw_estimates():
    """Redshifts from images: the answer is not obvious."""
    test, reference = split_reference("image")
    estimator = astroclip.PropertyEstimator(n_neighbors=N_NEIGHBORS)
    estimates = estimator.fit(reference, ["redshift"]).predict(test)
    return plotting.plot_estimates(estimates, test, name="redshift")


def draw_calibration():
    """Intervals of redshifts and masses from images."""
    test, reference = split_reference("image")
    ax = None
    for name in ("redshift", "log_stellar_mass"):
        intervals = {}
        for level in (0.2, 0.4, 0.6, 0.8, 0.95):
            estimator = astroclip.PropertyEstimator(n_neighbors=N_NEIGHBORS, confidence=level)
            intervals[level] = estimator.fit(reference, [name]).predict(test)
        ax = plotting.plot_calibration(intervals, test, name=name, ax=ax)
    return ax


def draw_reliability():
    """Share of quiescent neighbors against being quiescent, from images."""
    test, reference = split_reference("image")
    found = astroclip.SimilarityIndex(reference).query(test, N_NEIGHBORS)
    share = (np.asarray(found["log_ssfr"]) < QUIESCENT).reshape(N_TEST, N_NEIGHBORS).mean(axis=1)
    return plotting.plot_reliability(share, test["log_ssfr"] < QUIESCENT, label="quiescent")


def draw_learning():
    """R2 of masses from spectra against the number of labels, by two heads."""
    test, reference = split_reference("spectrum")
    known, _ = embedding_matrix(reference)
    asked, _ = embedding_matrix(test)
    label = np.asarray(reference["log_stellar_mass"])
    rng = np.random.default_rng(1)
    n_labels = [10, 30, 100, 300, 1000, 3000]
    heads = {
        "ridge": lambda: RidgeCV(np.logspace(-3, 3, 13)),
        "8 neighbors": lambda: KNeighborsRegressor(8, weights="distance"),
    }
    ax = None
    for name, make_head in heads.items():
        scores = np.empty((len(n_labels), 8))
        for row, column in np.ndindex(scores.shape):
            rows = rng.choice(len(label), n_labels[row], replace=False)
            head = make_head().fit(known[rows], label[rows])
            scores[row, column] = r2_score(test["log_stellar_mass"], head.predict(asked))
        ax = plotting.plot_learning_curve(
            n_labels, scores, label=name, score_name="R2 of log stellar mass", ax=ax
        )
    ax.set_ylim(0, 1)
    return ax


def draw_roc():
    """Quiescent galaxies found by their likeness to five examples."""
    ax = None
    for modality in ("spectrum", "image"):
        test, reference = split_reference(modality)
        examples = reference[np.flatnonzero(reference["log_ssfr"] < QUIESCENT)[:5]]
        likeness = embedding_matrix(test)[0] @ embedding_matrix(examples)[0].T
        ax = plotting.plot_roc(
            likeness.mean(axis=1), test["log_ssfr"] < QUIESCENT, label=modality, ax=ax
        )
    return ax


FIGURES = {
    "neighbors": draw_neighbors, "map": draw_map, "umap": draw_umap,
    "estimates": draw_estimates, "calibration": draw_calibration,
    "reliability": draw_reliability, "learning": draw_learning, "roc": draw_roc,
}


def main():
    """Draw the figures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(FIGURES)}")
    for name in parser.parse_args().names or FIGURES:
        path = OUTPUT / f"plotting_{name}.png"
        FIGURES[name]().figure.savefig(path, dpi=130)
        print(path)


if __name__ == "__main__":
    main()
