"""Scores on held-out simulated pairs: the model, the baselines and other models."""

import dataclasses
from pathlib import Path

import numpy as np

from astroclip.estimation import PropertyEstimator
from astroclip.evaluation.baselines import (
    boosted_estimates,
    estimate_from_photometry,
    estimate_from_principal_components,
    fibre_features,
    measured_magnitudes,
    read_predictions,
    structural_features,
)
from astroclip.evaluation.observation import EmbeddedPairs, embed_pairs
from astroclip.evaluation.protocols import (
    few_shot,
    information_bound,
    score_estimator,
    score_retrieval,
    zero_shot,
)
from astroclip.evaluation.scores import NO_PROPERTY, ScoreTable
from astroclip.metrics import r2_score
from astroclip.tables import embedding_matrix

__all__ = ["HELD_OUT", "Run", "score_baselines", "score_model", "score_other"]

HELD_OUT = "held-out pairs"
N_RETRIEVED = 1000
MASS = "log_stellar_mass"


@dataclasses.dataclass
class Run:
    """One model under evaluation.

    Attributes
    ----------
    model : `~astroclip.models.EmbeddingModel`
    held : `EmbeddedPairs`
        Pairs never seen.
    known : `EmbeddedPairs`
        Reference pairs.
    scores : `ScoreTable`
    n_neighbors : int
    scale : float or None
        Inverse temperature of the model's contrast.
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
    scale: float | None = None
    label: str = ""
    estimators: dict = dataclasses.field(default_factory=dict)

    def estimator(self, modality):
        """Return the k-NN estimator on the reference's rows of a modality."""
        if modality not in self.estimators:
            estimator = PropertyEstimator(n_neighbors=self.n_neighbors)
            table = self.known.tables[modality]
            self.estimators[modality] = estimator.fit(table, list(self.known.truth))
        return self.estimators[modality]

    def add_estimates(self, protocol, query, estimates, *, reference=NO_PROPERTY, data=HELD_OUT):
        """Add the R2 of estimates by property."""
        for name, predicted in estimates.items():
            self.scores.add(
                protocol, "r2", r2_score(predicted, self.held.truth[name]),
                data=data, query=query, reference=reference, quantity=name,
                n_queries=len(self.held), n_reference=len(self.known),
            )

    def add_neighbors(self, table, source, *, data=HELD_OUT):
        """Add the scores of k-NN estimates for a table of `EmbeddedPairs`."""
        _, valid = embedding_matrix(table)
        table = table[valid]
        truth = {name: np.asarray(table[name]) for name in self.held.truth}
        found = score_estimator(self.estimator(source), table, truth)
        where = {
            "data": data, "query": self.label + str(table["modality"][0]),
            "reference": self.label + source, "n_queries": len(table),
            "n_reference": len(self.known),
        }
        for row in found:
            for score in ("r2", "coverage_68"):
                self.scores.add("k-NN", score, row[score], quantity=row["property"], **where)
        unusual = found["out_of_distribution"][0]
        self.scores.add("k-NN", "out_of_distribution", unusual, **where)

    def add_retrieval(self, first, second, names, *, data=HELD_OUT):
        """Add the scores of retrieval between two sets of embeddings, in both directions."""
        good = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
        first, second = first[good], second[good]
        n_pairs = min(N_RETRIEVED, len(first))
        pairs = ((first, second, names), (second, first, names[::-1]))
        for queries, targets, (query, target) in pairs:
            for score, value in score_retrieval(queries, targets, n_pairs=n_pairs).items():
                self.scores.add(
                    "retrieval", score, value, data=data, query=self.label + query,
                    reference=self.label + target, n_queries=n_pairs, n_reference=n_pairs,
                )


def score_model(run):
    """Add the model's scores: k-NN in and across modalities, zero- and few-shot, retrieval.

    Parameters
    ----------
    run : `Run`
    """
    score_neighbors(run)
    for kind in run.held.tables:
        near, queries = run.known.embeddings(kind), run.held.embeddings(kind)
        estimates = zero_shot(near, run.known.truth, queries, n_neighbors=run.n_neighbors)
        run.add_estimates("zero-shot", kind, estimates, reference=kind)
        estimates = few_shot(near, run.known.truth, queries, seed=run.scores.seed)
        run.add_estimates("few-shot", kind, estimates, reference=kind)
    if len(run.held.tables) == 2:
        views = [run.held.embeddings(kind) for kind in ("image", "spectrum")]
        bound, n_pairs = information_bound(*views, scale=run.scale)
        run.scores.add(
            "mutual information", "nats", bound, data=HELD_OUT, query="image",
            reference="spectrum", n_queries=n_pairs, n_reference=n_pairs,
        )


def score_neighbors(run):
    """Add k-NN estimates in and across modalities, and retrieval where there are both."""
    for source in run.known.tables:
        for table in run.held.tables.values():
            run.add_neighbors(table, source)
    if len(run.held.tables) == 2:
        names = ("image", "spectrum")
        run.add_retrieval(*(run.held.embeddings(kind) for kind in names), names)


def score_baselines(run):
    """Add what methods without a network reach on the same galaxies.

    Parameters
    ----------
    run : `Run`
        Whose pairs hold ``features``, for the principal components.
    """
    held, known, seed = run.held, run.known, run.scores.seed
    options = {"n_neighbors": run.n_neighbors, "seed": seed}
    if known.features is not None:
        estimates = estimate_from_principal_components(
            known.features, known.truth, held.features, **options
        )
        run.add_estimates("k-NN", "spectrum, principal components", estimates)
    magnitudes = [
        measured_magnitudes(part.galaxies["magnitude"], seed=(seed, number))
        for number, part in enumerate((known, held))
    ]
    found = estimate_from_photometry(magnitudes[0], known.truth, magnitudes[1], **options)
    run.add_estimates("k-NN", "photometry", found["magnitudes"])
    run.add_estimates("k-NN", "photometry, r and colours", found["magnitude and colours"])
    run.add_estimates("few-shot", "photometry", found["network"])
    features = [
        structural_features(part.galaxies, seed=(seed, number))
        for number, part in enumerate((known, held))
    ]
    bound = boosted_estimates(features[0], known.truth, features[1], seed=seed)
    run.add_estimates("gradient boosting", "photometry and true shapes", bound)
    _score_mass_bound(run)


def _score_mass_bound(run):
    """Add how well masses would be known if everything else about the spectra were."""
    needed = ("redshift", "log_ssfr", "log_metallicity", MASS)
    if not set(needed) <= set(run.known.truth):
        return
    near, queries = (
        fibre_features(part.galaxies, part.truth, seed=(run.scores.seed, number))
        for number, part in enumerate((run.known, run.held))
    )
    mass = {MASS: run.known.truth[MASS]}
    bound = boosted_estimates(near, mass, queries, seed=run.scores.seed)
    run.add_estimates("gradient boosting", "fibre light and true properties", bound)
    neighbors = zero_shot(near, mass, queries, n_neighbors=run.n_neighbors)
    run.add_estimates("k-NN", "fibre light and true properties", neighbors)


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
        As given to `embed_pairs`.
    """
    if Path(source).suffix == ".npz":
        found = read_predictions(source, run.held.truth, len(run.held))
        run.add_estimates("predictions", label, found)
        return
    from astroclip.models import load_model

    model, seed = load_model(source), run.scores.seed
    held = embed_pairs(model, pairs, seed=seed)
    known = embed_pairs(model, reference, seed=seed + 1)
    score_neighbors(Run(model, held, known, run.scores, run.n_neighbors, label=f"{label}: "))
