"""The whole evaluation in one call: every protocol and baseline in the same run.

`evaluate` embeds the held-out and the reference pairs once; every stage after it adds rows to
one table of scores.
"""

import contextlib
import dataclasses
import time
from pathlib import Path

import numpy as np
from astropy.table import vstack
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from astroclip.datasets import reference_table
from astroclip.embedding import embed
from astroclip.estimation import PropertyEstimator
from astroclip.evaluation.baselines import (
    aperture_features,
    boosted_estimates,
    chi_square_ranks,
    colors,
    measured_magnitudes,
    principal_component_estimates,
    read_predictions,
    recorded_pair_ranks,
    structural_features,
)
from astroclip.evaluation.pairs import (
    EmbeddedPairs,
    embed_pairs,
    embed_quietly,
    iterate_pairs,
    record_images,
    record_spectra,
)
from astroclip.evaluation.protocols import (
    few_shot,
    information_bound,
    score_estimates,
    score_retrieval,
    zero_shot,
)
from astroclip.evaluation.real_data import (
    estimate_redshifts,
    read_real_sets,
    read_rings,
    redshift_scores,
)
from astroclip.evaluation.scores import NOTHING, ScoreTable, find_score
from astroclip.metrics import r2_score
from astroclip.models import load_model
from astroclip.redshifts import RedshiftEstimator, read_redshift_heads
from astroclip.tables import embedding_matrix

__all__ = ["evaluate"]

SEED = 1000
HELD_OUT = "held-out pairs"
N_RETRIEVED = 1000  # pairs among which partners are sought
N_TIMED = 512
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
SAME_GALAXY = "SDSS-like spectra"  # also sought among the DESI-like ones, and the reverse
SECOND_EPOCH = "a second epoch of images, 1.2 times the seeing"
SECOND_BLUR = 1.2
ALL_REAL = "all real spectra"
REAL_NEIGHBORS = 16
N_FOLDS = 5


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
        Folder with real spectra (see `read_real_sets`) and a folder ``rings`` (see
        `read_rings`).
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
    run = Run(model, held, known, ScoreTable(seed=seed), n_neighbors=n_neighbors)
    stages = {
        "model": lambda: score_model(run, scale=scale),
        "baselines": lambda: score_baselines(run),
        "other instruments": lambda: score_shifts(run, pairs),
        "noise": lambda: score_noise(run, pairs),
        "throughput": lambda: score_throughput(run, pairs),
    }
    for label, source in (others or {}).items():
        stages[label] = lambda label=label, source=source: score_other(
            run, label, source, pairs, reference
        )
    if real_data is not None:
        if "spectrum" in held.tables and model.preset.spectrum.frame == "observed":
            stages["real spectra"] = lambda: score_real_redshifts(
                run, real_data, *spectra_reference(run, reference)
            )
        if "image" in held.tables and (Path(real_data) / "rings").is_dir():
            stages["rings"] = lambda: score_rings(run, Path(real_data) / "rings")
    progress = tqdm(stages.items(), disable=not show_progress, unit="stage")
    for name, stage in progress:
        progress.set_description(name)
        stage()
    return run.scores.table(MODEL=model.name, WSHA=model.weights_sha256, NNEIGH=n_neighbors)


@dataclasses.dataclass
class Run:
    """One model under evaluation, and the scores so far.

    Attributes
    ----------
    model : `~astroclip.models.EmbeddingModel`
    held : `EmbeddedPairs`
        Pairs never seen.
    known : `EmbeddedPairs`
        Reference pairs.
    scores : `ScoreTable`
    n_neighbors : int
    label : str
        Put before what is queried, for models other than the one evaluated.
    estimators : dict
        By modality: fitted on the reference.
    """

    model: object
    held: EmbeddedPairs
    known: EmbeddedPairs
    scores: ScoreTable
    n_neighbors: int = 64
    label: str = ""
    estimators: dict = dataclasses.field(default_factory=dict)

    def add_estimates(self, protocol, query, estimates, *, reference=NOTHING):
        """Add the R2 of estimates (N,) for the held-out pairs, by property."""
        for name, predicted in estimates.items():
            self.scores.add(
                protocol, "r2", r2_score(predicted, self.held.truth[name]),
                data=HELD_OUT, query=query, reference=reference, quantity=name,
                n_queries=len(self.held), n_reference=len(self.known),
            )

    def add_neighbors(self, queries, modality, *, data=HELD_OUT):
        """Add the scores of k-NN estimates from reference rows of a modality.

        ``queries`` is a table of `EmbeddedPairs`; rows that failed are left out.
        """
        if modality not in self.estimators:
            estimator = PropertyEstimator(n_neighbors=self.n_neighbors)
            table = self.known.tables[modality]
            self.estimators[modality] = estimator.fit(table, list(self.known.truth))
        _, valid = embedding_matrix(queries)
        queries = queries[valid]
        truth = {name: np.asarray(queries[name]) for name in self.held.truth}
        estimates = self.estimators[modality].predict(queries, properties=list(truth))
        scored = score_estimates(estimates, truth)
        where = {
            "data": data, "query": self.label + str(queries["modality"][0]),
            "reference": self.label + modality, "n_queries": len(queries),
            "n_reference": len(self.known),
        }
        for row in scored:
            for score in ("r2", "coverage_68"):
                self.scores.add("k-NN", score, row[score], quantity=row["property"], **where)
        unusual = scored["out_of_distribution"][0]
        self.scores.add("k-NN", "out_of_distribution", unusual, **where)

    def add_retrieval(self, first, second, names, *, data=HELD_OUT):
        """Add the scores of retrieval between two sets of embeddings, in both directions."""
        good = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
        first, second = first[good], second[good]
        n_pairs = min(N_RETRIEVED, len(first))
        directions = ((first, second, names), (second, first, names[::-1]))
        for queries, targets, (query, target) in directions:
            for score, value in score_retrieval(queries, targets, n_pairs=n_pairs).items():
                self.scores.add(
                    "retrieval", score, value, data=data, query=self.label + query,
                    reference=self.label + target, n_queries=n_pairs, n_reference=n_pairs,
                )


# ---------------------------------------------------------------------- simulated pairs
def score_model(run, *, scale=None):
    """Add the model's scores: k-NN in and across modalities, zero- and few-shot, retrieval."""
    score_neighbors(run)
    for modality in run.held.tables:
        near, queries = run.known.embeddings(modality), run.held.embeddings(modality)
        estimates = zero_shot(near, run.known.truth, queries, n_neighbors=run.n_neighbors)
        run.add_estimates("zero-shot", modality, estimates, reference=modality)
        estimates = few_shot(near, run.known.truth, queries, seed=run.scores.seed)
        run.add_estimates("few-shot", modality, estimates, reference=modality)
    if len(run.held.tables) == 2:
        views = [run.held.embeddings(modality) for modality in ("image", "spectrum")]
        bound, n_pairs = information_bound(*views, scale=scale)
        run.scores.add(
            "mutual information", "nats", bound, data=HELD_OUT, query="image",
            reference="spectrum", n_queries=n_pairs, n_reference=n_pairs,
        )


def score_neighbors(run):
    """Add k-NN estimates in and across modalities, and retrieval where there are both."""
    for modality in run.known.tables:
        for table in run.held.tables.values():
            run.add_neighbors(table, modality)
    if len(run.held.tables) == 2:
        names = ("image", "spectrum")
        run.add_retrieval(*(run.held.embeddings(modality) for modality in names), names)


def score_baselines(run):
    """Add what methods without a network reach on the same galaxies.

    Photometry and true shapes, and the light in the fiber with true properties, are features
    that no survey measures so well: what they give bounds what images and spectra can.
    """
    held, known, truth, seed = run.held, run.known, run.known.truth, run.scores.seed
    n_neighbors = run.n_neighbors
    if known.features is not None:
        estimates = principal_component_estimates(
            known.features, truth, held.features, n_neighbors=n_neighbors, seed=seed
        )
        run.add_estimates("k-NN", "spectrum, principal components", estimates)

    near, queries = (
        measured_magnitudes(part.galaxies["magnitude"], seed=(seed, number))
        for number, part in enumerate((known, held))
    )
    estimates = zero_shot(near, truth, queries, n_neighbors=n_neighbors)
    run.add_estimates("k-NN", "photometry", estimates)
    estimates = zero_shot(colors(near), truth, colors(queries), n_neighbors=n_neighbors)
    run.add_estimates("k-NN", "photometry, r and colors", estimates)
    estimates = few_shot(near, truth, queries, seed=seed)
    run.add_estimates("few-shot", "photometry", estimates)

    near, queries = (
        structural_features(part.galaxies, seed=(seed, number))
        for number, part in enumerate((known, held))
    )
    estimates = boosted_estimates(near, truth, queries, seed=seed)
    run.add_estimates("gradient boosting", "photometry and true shapes", estimates)

    if {"redshift", "log_ssfr", "log_metallicity", "log_stellar_mass"} <= set(truth):
        near, queries = (
            aperture_features(part.galaxies, part.truth, seed=(seed, number))
            for number, part in enumerate((known, held))
        )
        mass = {"log_stellar_mass": truth["log_stellar_mass"]}
        estimates = boosted_estimates(near, mass, queries, seed=seed)
        run.add_estimates("gradient boosting", "fiber light and true properties", estimates)
        estimates = zero_shot(near, mass, queries, n_neighbors=n_neighbors)
        run.add_estimates("k-NN", "fiber light and true properties", estimates)


def score_other(run, label, source, pairs, reference):
    """Add the scores of another model, or of another's predictions, on the same pairs.

    Parameters
    ----------
    run : `Run`
    label : str
        Says what the model is.
    source : str or path-like
        An ``.npz`` of predictions for the held-out pairs, or a model that
        `astroclip.load_model` takes: its k-NN estimates and, with two towers, retrieval.
    pairs, reference : dict, path-like or sequence of path-like
        As given to `evaluate`.
    """
    if Path(source).suffix == ".npz":
        predictions = read_predictions(source, run.held.truth, len(run.held))
        run.add_estimates("predictions", label, predictions)
        return
    model, seed = load_model(source), run.scores.seed
    held = embed_pairs(model, pairs, seed=seed)
    known = embed_pairs(model, reference, seed=seed + 1)
    score_neighbors(Run(model, held, known, run.scores, run.n_neighbors, label=f"{label}: "))


# ---------------------------------------------------------------------- other instruments
def score_shifts(run, pairs, *, spectrum_shifts=SPECTRUM_SHIFTS, image_shifts=IMAGE_SHIFTS):
    """Add scores of held-out pairs recorded otherwise than the reference.

    Parameters
    ----------
    run : `Run`
        With the scores of its model.
    pairs : dict, path-like or sequence of path-like
        The held-out pairs.
    spectrum_shifts, image_shifts : dict of str to dict
        Options of `~astroclip.evaluation.record_spectra` and
        `~astroclip.evaluation.record_images`, by what the data are called.
    """
    other = {"spectrum": "image", "image": "spectrum"}
    shifts = (("spectrum", "spectra", spectrum_shifts), ("image", "images", image_shifts))
    for modality, option, conditions in shifts:
        if modality not in run.held.tables:
            continue
        for data, settings in conditions.items():
            shifted = embed_pairs(
                run.model, pairs, seed=run.scores.seed, modalities=(modality,),
                **{option: settings},
            )
            run.add_neighbors(shifted.tables[modality], modality, data=data)
            where = {"query": modality, "reference": modality}
            usual, fallen = (
                find_score(
                    run.scores.table(), "r2", protocol="k-NN", data=name, property="redshift",
                    **where,
                )
                for name in (HELD_OUT, data)
            )
            run.scores.add(
                "k-NN", "r2_fall", usual - fallen, data=data, quantity="redshift",
                n_queries=len(run.held), n_reference=len(run.known), **where,
            )
            embedded = shifted.embeddings(modality)
            if other[modality] in run.held.tables:
                partners = run.held.embeddings(other[modality])
                run.add_retrieval(embedded, partners, (modality, other[modality]), data=data)
            if data == SAME_GALAXY:
                names = ("SDSS-like spectrum", "DESI-like spectrum")
                run.add_retrieval(embedded, run.held.embeddings(modality), names, data=data)
    if "image" in run.held.tables:
        shifted = embed_pairs(
            run.model, pairs, seed=run.scores.seed + 2, modalities=("image",),
            images={"blur": SECOND_BLUR},
        )
        names = ("second image", "first image")
        views = (shifted.embeddings("image"), run.held.embeddings("image"))
        run.add_retrieval(*views, names, data=SECOND_EPOCH)


def score_noise(run, pairs):
    """Add how many spectra of either instrument their noise leaves recognizable.

    Each is compared, by chi-square, with the noiseless light of all galaxies, and by way of
    that with the spectra of the other instrument: measures of what a search could reach.
    """
    if "spectrum" not in run.held.tables:
        return
    first = next(iterate_pairs(pairs))
    sample = {name: first[name][:N_RETRIEVED] for name in ("spectrum", "redshift")}
    light, seed = sample["spectrum"], (run.scores.seed, 0)
    recorded = {
        name: record_spectra(sample, seed=seed, instrument=instrument)
        for name, instrument in (("SDSS-like", "sdss"), ("DESI-like", "desi"))
    }
    for (name, batch), other in zip(recorded.items(), list(recorded)[::-1], strict=True):
        for reference, ranks in (
            ("noiseless light", chi_square_ranks(batch, light)),
            (f"{other} spectrum", recorded_pair_ranks(batch, recorded[other], light)),
        ):
            scores = {f"recall_{n}": (ranks < n).mean() for n in (1, 5, 10)}
            scores["median_rank"] = np.median(ranks) + 1
            for score, value in scores.items():
                run.scores.add(
                    "retrieval", score, value, data=SAME_GALAXY,
                    query=f"{name} spectrum, chi-square", reference=reference,
                    n_queries=len(ranks), n_reference=len(ranks),
                )


def score_throughput(run, pairs):
    """Add how many objects in memory are embedded each second on this machine, now."""
    first = next(iterate_pairs(pairs))
    sample = {name: values[:N_TIMED] for name, values in first.items()}
    record = {"spectrum": record_spectra, "image": record_images}
    for modality in run.held.tables:
        if modality == "spectrum" and run.model.preset.spectrum.frame != "observed":
            continue
        batch = record[modality](sample, seed=run.scores.seed)
        start = time.perf_counter()
        embed(batch, model=run.model)
        rate = len(batch) / (time.perf_counter() - start)
        run.scores.add(
            "throughput", "objects_per_second", rate, data=HELD_OUT, query=modality,
            n_queries=len(batch),
        )


# ---------------------------------------------------------------------- real objects
def spectra_reference(run, reference):
    """Return the embedding table that redshifts of real spectra are estimated from, and its name.

    It is the bundled reference if that belongs to the model, else the run's reference pairs as
    recorded by DESI and again by varied instruments.

    Parameters
    ----------
    run : `Run`
        Of a model that takes spectra in the observed frame.
    reference : dict, path-like or sequence of path-like
        The reference pairs.
    """
    bundled = reference_table()
    if bundled.meta["WSHA"] == run.model.weights_sha256:
        return bundled[np.asarray(bundled["modality"]) == "spectrum"], "bundled reference"
    varied = embed_pairs(
        run.model, reference, seed=run.scores.seed + 2, modalities=("spectrum",),
        spectra={"instrument": "varied"},
    ).tables["spectrum"]
    varied["id"] = [f"varied-{number}" for number in range(len(varied))]
    known = vstack([run.known.tables["spectrum"], varied], metadata_conflicts="silent")
    return known, "reference pairs"


def score_real_redshifts(run, folder, known, source):
    """Add the scores of redshifts of real spectra, survey by survey and together.

    Parameters
    ----------
    run : `Run`
        Of a model that takes spectra in the observed frame.
    folder : path-like
        See `~astroclip.evaluation.read_real_sets`.
    known : `~astropy.table.QTable`
        Embedded spectra with redshifts to estimate from.
    source : str
        What rows of scores call them.
    """
    embedded = {
        name: (embed_quietly(list(spectra), run.model), redshift)
        for name, (spectra, redshift) in read_real_sets(folder).items()
    }
    estimators = {"k-NN": PropertyEstimator(n_neighbors=REAL_NEIGHBORS)}
    with contextlib.suppress(ValueError):  # of a model without a redshift head
        if "spectrum" in read_redshift_heads(run.model).heads:
            estimators["redshift head"] = RedshiftEstimator(model=run.model)
    for protocol, estimator in estimators.items():
        estimator.fit(known, ["redshift"])
        estimates = {
            name: estimate_redshifts(estimator, table, redshift)
            for name, (table, redshift) in embedded.items()
        }
        estimates[ALL_REAL] = vstack(list(estimates.values()), metadata_conflicts="silent")
        for name, table in estimates.items():
            for score, value in redshift_scores(table).items():
                run.scores.add(
                    protocol, score, value, data=name, query="spectrum", reference=source,
                    quantity="redshift", n_queries=len(table), n_reference=len(known),
                )


def score_rings(run, folder):
    """Add the average precision of a linear classifier of rings on image embeddings.

    Parameters
    ----------
    run : `Run`
    folder : path-like
        See `~astroclip.evaluation.read_rings`.
    """
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
