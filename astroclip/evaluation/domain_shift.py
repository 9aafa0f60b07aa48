"""The held-out pairs recorded otherwise: other instruments, noise, range, depth and seeing."""

import numpy as np

from astroclip.evaluation.baselines import chi_square_ranks, recorded_pair_ranks
from astroclip.evaluation.held_out import HELD_OUT, N_RETRIEVED
from astroclip.evaluation.observation import embed_pairs, iterate_pairs, record_spectra
from astroclip.evaluation.scores import find_score
from astroclip.tables import embedding_matrix

__all__ = ["IMAGE_SHIFTS", "SPECTRUM_SHIFTS", "score_domain_shifts"]

SPECTRUM_SHIFTS = {
    "SDSS-like spectra": {"instrument": "sdss"},
    "spectra of varied instruments": {"instrument": "varied"},
    "spectra cut to 4500-8500 A": {"wavelength_range": (4500.0, 8500.0)},
    "spectra with twice the noise": {"noise": 2.0},
}
IMAGE_SHIFTS = {
    "images 1 mag shallower": {"depth_loss": 1.0},
    "images with 1.4 times the seeing": {"blur": 1.4},
    "SDSS-like images": {"camera": "sdss"},
    "images of varied cameras": {"camera": "varied"},
}
SAME_GALAXY = "SDSS-like spectra"  # also searched among the DESI-like ones, and the reverse
SECOND_EPOCH = "a second epoch of images, 1.2 times the seeing"
SECOND_BLUR = 1.2


def score_domain_shifts(run, pairs):
    """Add scores of queries recorded otherwise than the reference.

    Parameters
    ----------
    run : `~astroclip.evaluation.held_out.Run`
    pairs : dict, path-like or sequence of path-like
        The held-out pairs.
    """
    shifts = (("spectrum", "spectra", SPECTRUM_SHIFTS), ("image", "images", IMAGE_SHIFTS))
    for kind, option, conditions in shifts:
        if kind not in run.held.tables:
            continue
        for data, settings in conditions.items():
            seen = embed_pairs(
                run.model, pairs, seed=run.scores.seed, modalities=(kind,), **{option: settings}
            )
            score_shift(run, seen.tables[kind], kind, data)
    if "spectrum" in run.held.tables:
        score_noise_bound(run, pairs)
    if "image" in run.held.tables:
        score_second_epoch(run, pairs)


def score_noise_bound(run, pairs):
    """Add how many spectra of either instrument their noise leaves recognizable.

    Each is compared, by chi-square, with the noiseless light of all galaxies, and by way of
    that with the spectra of the other instrument: measures of what a search could reach.
    """
    first = next(iterate_pairs(pairs))
    sample = {name: first[name][:N_RETRIEVED] for name in ("spectrum", "redshift")}
    light, seed = sample["spectrum"], (run.scores.seed, 0)
    recorded = {
        name: record_spectra(sample, seed=seed, instrument=instrument)
        for name, instrument in (("SDSS-like", "sdss"), ("DESI-like", "desi"))
    }
    for name, batch in recorded.items():
        _add_ranks(run, chi_square_ranks(batch, light), name, "noiseless light")
        other = next(key for key in recorded if key != name)
        ranks = recorded_pair_ranks(batch, recorded[other], light)
        _add_ranks(run, ranks, name, f"{other} spectrum")


def _add_ranks(run, ranks, instrument, reference):
    """Add the scores of a search by chi-square."""
    found = {f"recall_{n}": (ranks < n).mean() for n in (1, 5, 10)}
    for score, value in {**found, "median_rank": np.median(ranks) + 1}.items():
        run.scores.add(
            "retrieval", score, float(value), data=SAME_GALAXY,
            query=f"{instrument} spectrum, chi-square", reference=reference,
            n_queries=len(ranks), n_reference=len(ranks),
        )


def score_second_epoch(run, pairs):
    """Add how well an image of another night, with its own noise and seeing, finds the first."""
    seen = embed_pairs(
        run.model, pairs, seed=run.scores.seed + 2, modalities=("image",),
        images={"blur": SECOND_BLUR},
    )
    names = ("second image", "first image")
    views = (seen.embeddings("image"), run.held.embeddings("image"))
    run.add_retrieval(*views, names, data=SECOND_EPOCH)


def score_shift(run, table, kind, data):
    """Add the scores of one kind of query: k-NN, fall of its redshifts' R2, retrieval."""
    run.add_neighbors(table, kind, data=data)
    usual, shifted = (
        find_score(
            run.scores.table(), "r2", protocol="k-NN", data=name, query=kind, reference=kind,
            property="redshift",
        )
        for name in (HELD_OUT, data)
    )
    run.scores.add(
        "k-NN", "r2_fall", usual - shifted, data=data, query=kind, reference=kind,
        quantity="redshift", n_queries=len(run.held), n_reference=len(run.known),
    )
    other = {"spectrum": "image", "image": "spectrum"}[kind]
    embedded, _ = embedding_matrix(table)
    if other in run.held.tables:
        run.add_retrieval(embedded, run.held.embeddings(other), (kind, other), data=data)
    if data == SAME_GALAXY:
        names = ("SDSS-like spectrum", "DESI-like spectrum")
        run.add_retrieval(embedded, run.held.embeddings(kind), names, data=data)
