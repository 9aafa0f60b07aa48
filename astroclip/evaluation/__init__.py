"""Scores of a model by the papers' protocols, beside baselines, on simulated and real objects.

`evaluate` runs all protocols and returns one table; the command is ``astroclip evaluate``.
"""

from astroclip.evaluation.pairs import (
    EmbeddedPairs,
    embed_pairs,
    record_images,
    record_spectra,
    true_properties,
)
from astroclip.evaluation.protocols import (
    best_scale,
    few_shot,
    information_bound,
    score_estimates,
    score_retrieval,
    upstream_ssfr,
    zero_shot,
)
from astroclip.evaluation.real_data import (
    estimate_redshifts,
    read_brown2014,
    read_fors2,
    read_real_sets,
    read_rings,
    redshift_scores,
)
from astroclip.evaluation.report import draw_scores, r2_table
from astroclip.evaluation.run import evaluate

__all__ = [
    "EmbeddedPairs",
    "best_scale",
    "draw_scores",
    "embed_pairs",
    "estimate_redshifts",
    "evaluate",
    "few_shot",
    "information_bound",
    "r2_table",
    "read_brown2014",
    "read_fors2",
    "read_real_sets",
    "read_rings",
    "record_images",
    "record_spectra",
    "redshift_scores",
    "score_estimates",
    "score_retrieval",
    "true_properties",
    "upstream_ssfr",
    "zero_shot",
]
