"""The whole evaluation in one call: every protocol and baseline in the same run."""

import time
from pathlib import Path

from tqdm.auto import tqdm

from astroclip.evaluation.domain_shift import score_domain_shifts
from astroclip.evaluation.held_out import (
    HELD_OUT,
    Run,
    score_baselines,
    score_model,
    score_other,
)
from astroclip.evaluation.observation import (
    embed_pairs,
    iterate_pairs,
    record_images,
    record_spectra,
)
from astroclip.evaluation.real_scores import score_real_redshifts, score_rings
from astroclip.evaluation.scores import ScoreTable

__all__ = ["evaluate"]

SEED = 1000
N_TIMED = 512


def evaluate(
    pairs, reference, *, model="astroclip-small", real_data=None, others=None, n_neighbors=64,
    scale=None, seed=SEED, show_progress=False,
):
    """Score a model, and baselines on the same galaxies, by every protocol.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`, path-like or sequence of path-like
        Simulated pairs that the model never saw: from
        `~astroclip.simulation.pairs.read_pairs`, or folders of shards.
    reference : dict of str to `numpy.ndarray`, path-like or sequence of path-like
        Others, to estimate from; more than ``n_neighbors``.
    model : str, path-like or `~astroclip.models.EmbeddingModel`
    real_data : path-like, optional
        Folder with real spectra (see `read_real_sets`) and a folder ``rings``.
    others : dict of str to path-like, optional
        Other models by what they are, scored on the same galaxies: weights, or an ``.npz``
        of predictions for ``pairs``.
    n_neighbors : int
        Of the k-NN estimates for simulated pairs; 16 serve for real spectra.
    scale : float, optional
        The model's inverse temperature, for the mutual-information bound; the best one for
        other pairs by default.
    seed : int
        Fixes noise, instruments, and what the baselines draw.
    show_progress : bool

    Returns
    -------
    `~astropy.table.Table`
        One score a row, columns ``protocol``, ``data``, ``query``, ``reference``,
        ``property``, ``score``, ``value``, ``n_queries``, ``n_reference``, ``seed``; the
        meta names the model (MODEL) and its weights (WSHA).

    Raises
    ------
    FileNotFoundError
        If a folder holds no pairs or none of the real spectra.
    ValueError
        If the reference has too few pairs.
    """
    from astroclip.models import load_model

    if not hasattr(model, "encode_spectra"):
        model = load_model(model)
    keep_features = "spectrum" in model.modalities
    held = embed_pairs(model, pairs, seed=seed, keep_features=keep_features)
    known = embed_pairs(model, reference, seed=seed + 1, keep_features=keep_features)
    if len(known) <= n_neighbors:
        msg = (
            f"reference has {len(known)} pairs; expected more than n_neighbors = {n_neighbors}. "
            f"Simulate more with write_pairs, or use fewer neighbors."
        )
        raise ValueError(msg)
    run = Run(model, held, known, ScoreTable(seed=seed), n_neighbors=n_neighbors, scale=scale)
    stages = [
        ("model", lambda: score_model(run)),
        ("baselines", lambda: score_baselines(run)),
        ("domain shifts", lambda: score_domain_shifts(run, pairs)),
        ("throughput", lambda: score_throughput(run, pairs)),
        *(_other_stage(run, *item, pairs, reference) for item in (others or {}).items()),
        *_real_stages(run, real_data, reference),
    ]
    progress = tqdm(stages, disable=not show_progress, unit="stage")
    for name, score in progress:
        progress.set_description(name)
        score()
    return run.scores.table(MODEL=model.name, WSHA=model.weights_sha256, NNEIGH=n_neighbors)


def _other_stage(run, label, source, pairs, reference):
    """Return name and function of the stage that scores another model."""
    return label, lambda: score_other(run, label, source, pairs, reference)


def _real_stages(run, folder, reference):
    """Yield the stages that the model and the folder of real data allow."""
    if folder is None:
        return
    spectrum = run.model.preset.spectrum
    if "spectrum" in run.held.tables and spectrum.frame == "observed":
        yield "real spectra", lambda: score_real_redshifts(run, folder, reference)
    rings = Path(folder) / "rings"
    if "image" in run.held.tables and rings.is_dir():
        yield "rings", lambda: score_rings(run, rings)


def score_throughput(run, pairs):
    """Add how many objects in memory are embedded each second on this machine, now.

    Parameters
    ----------
    run : `~astroclip.evaluation.held_out.Run`
    pairs : dict, path-like or sequence of path-like
    """
    from astroclip.embedding import embed

    first = next(iterate_pairs(pairs))
    sample = {name: values[:N_TIMED] for name, values in first.items()}
    record = {"spectrum": record_spectra, "image": record_images}
    for kind in run.held.tables:
        if kind == "spectrum" and run.model.preset.spectrum.frame != "observed":
            continue
        batch = record[kind](sample, seed=run.scores.seed)
        start = time.perf_counter()
        embed(batch, model=run.model)
        rate = len(batch) / (time.perf_counter() - start)
        run.scores.add(
            "throughput", "objects_per_second", rate, data=HELD_OUT, query=kind,
            n_queries=len(batch),
        )
