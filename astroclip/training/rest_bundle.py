"""Write the files of the rest-frame model that ship."""

import json
from pathlib import Path

import numpy as np
import torch

from astroclip.evaluation.report import simple_table
from astroclip.metrics import r2_score
from astroclip.training.align import INSTRUMENTS
from astroclip.training.bundle import REFERENCE_SETS, write_arrays, write_bytes
from astroclip.training.card import start_text
from astroclip.training.data import TRAINING_SETS
from astroclip.training.objective import read_start
from astroclip.training.observers import Observer, encode_pairs
from astroclip.training.rest_frame import (
    BRIGHTNESS_RANGE,
    KINDS,
    LIMITS,
    LOG_STEP,
    N_REST_PIXELS,
    REST_START,
    rest_frame,
)
from astroclip.training.run import load_trained

__all__ = ["embed_rest", "export_rest_weights", "write_rest_bundle"]

MODEL_NAME = "astroclip-small-rest"
SCORED = ("redshift", "log_stellar_mass", "log_ssfr", "log_metallicity")
TEST_SEED = 1000


def export_rest_weights(module, path):
    """Write a rest-frame encoder as float16 safetensors, complete or not at all."""
    from safetensors.torch import save

    state = {
        f"spectrum_encoder.{name}": (
            tensor.half() if tensor.is_floating_point() else tensor
        ).contiguous(memory_format=torch.contiguous_format)
        for name, tensor in module.spectrum_encoder.state_dict().items()
    }
    config = {"name": MODEL_NAME, **module.config()}
    write_bytes(path, save(state, metadata={"config": json.dumps(config, sort_keys=True)}))


def embed_rest(model, pairs, *, varied_share=0.0, seed=0, **varied):
    """Observe noiseless pairs' spectra once, bring them to rest and embed them.

    Parameters
    ----------
    model : `~astroclip.models.loading.EmbeddingModel`
    pairs : dict of str to `numpy.ndarray`
    varied_share : float
        Fraction of spectra recorded by a random instrument instead of DESI's.
    seed : int
    **varied
        Options of `~astroclip.simulation.spectrographs.observe_spectra_varied`.

    Returns
    -------
    embedding : (N, D) float32 `numpy.ndarray`
    coverage : (N,) float32 `numpy.ndarray`
    """

    def encode(seen):
        rest = rest_frame(seen.spectra, seen.redshift)
        flux, ivar, mask = (values.numpy() for values in vars(rest).values())
        coverage = 1.0 - mask.mean(axis=1, dtype=np.float32)
        return {"embedding": model.encode_spectra(flux, ivar, mask), "coverage": coverage}

    light = {name: pairs[name] for name in ("spectrum", "redshift")}
    observer = Observer(varied_share=varied_share, **varied)
    encoded = encode_pairs(encode, light, observer=observer, seed=seed)
    return encoded["embedding"], encoded["coverage"]


def write_rest_bundle(workspace, output):
    """Write ``astroclip-small-rest.safetensors`` and ``reference_rest.npz``.

    Parameters
    ----------
    workspace : `~astroclip.training.data.Workspace`
        In which the objective ``rest`` was trained.
    output : path-like
        Folder of the observed-frame bundle, whose reference galaxies these are again.
    """
    from astroclip.models import load_model

    output = Path(output)
    weights = output / f"{MODEL_NAME}.safetensors"
    export_rest_weights(load_trained("rest", workspace.recipe, workspace.folder), weights)
    model = load_model(weights)
    seed = workspace.recipe.align.seed
    parts = [
        embed_rest(
            model, workspace.read(name, n_pairs=n_pairs), varied_share=share, seed=seed,
            **INSTRUMENTS,
        )
        for name, (n_pairs, share) in REFERENCE_SETS.items()
    ]
    embedding, coverage = (np.concatenate(column) for column in zip(*parts, strict=True))
    _write_rest_card(workspace, model, output, embedding, weights)
    write_arrays(
        output / "reference_rest.npz",
        {
            "spectrum_embedding": embedding.astype(np.float16),
            "spectrum_coverage": coverage,
            "model_name": np.array(MODEL_NAME),
            "weights_sha256": np.array(model.weights_sha256),
        },
    )



CARD = """\
Model card: astroclip-small-rest
================================

.. Written by ``astroclip bundle``; do not edit.

**What it is.** A spectrum encoder ({n_parameters:,} parameters, 128 dimensions) for spectra in the
rest frame (vacuum, 1e-4 dex pixels): galaxies of one kind lie close together wherever they
are. It sees {window}, not what only some redshifts show, and no brightness.
Weights: {megabytes:.1f} MB, float16, sha256
``{sha256}``.

**Recipe.** Each galaxy is put at two redshifts, made brighter or fainter by up to
{brightness} dex, recorded by two instruments, brought back to rest and cut at either end;
InfoNCE between both recordings (weight {contrast_weight}), losses on the specific
star-formation rate and the metallicity (weights {kind_weights}), and a penalty (weight
{penalty}) on what neighbours tell about the redshift.
{n_pairs:,} galaxies of the training sets of astroclip-small, {n_epochs} epochs of
{epoch_size:,}, batch {batch_size}, seed {seed}. The idea is that of Liang et al. (2023), AJ 166,
75, whose encoder is unsupervised. {start}

Made again by::

    astroclip train WORKSPACE --objective rest --start WORKSPACE/run/last.ckpt
    astroclip train WORKSPACE --objective rest --recipe small-heads \\
        --start WORKSPACE/rest/last.ckpt

**Scores.** {n_test:,} held-out pairs of the mix, recorded as DESI records them; R2 of k-NN
estimates (k = 64) from the {n_reference:,} galaxies of the mix in the bundled reference.
Low is good for the redshift. The same from the true specific star-formation rate and metallicity,
instead of the embedding, tells what these alone say about it: R2 of redshift {bound:.3f}.

{scores}

**Limits.** Redshifts 0.001 to 0.65, to be known to 100 km/s or so. What a galaxy's kind says about
its redshift in a survey limited in brightness cannot be taken out without losing the kind.
"""


def _window_text(recipe):
    """Return the rest-frame wavelengths that the encoder sees."""
    first, end = recipe.spectrum.get("window", (0, N_REST_PIXELS))
    low, high = (REST_START * 10 ** (LOG_STEP * pixel) for pixel in (first, end - 1))
    return f"{low:.0f}-{high:.0f} Angstrom"


def _write_rest_card(workspace, model, output, embedding, weights):
    """Measure the rest-frame model on held-out pairs and write ``MODEL_CARD_REST.rst``."""
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.preprocessing import StandardScaler

    recipe = workspace.recipe.rest
    n_mix, _ = REFERENCE_SETS["reference-mix"]
    known = workspace.read("reference-mix", n_pairs=n_mix)
    held = workspace.read("test")
    queries, _ = embed_rest(model, held, seed=TEST_SEED)
    n_known = len(known["redshift"])
    k_nearest = KNeighborsRegressor(min(64, n_known), weights="distance")
    k_nearest.fit(embedding[:n_known], np.stack([known[name] for name in SCORED], axis=1))
    estimates = k_nearest.predict(queries)
    cells = [f"{r2_score(estimates[:, k], held[name]):.3f}" for k, name in enumerate(SCORED)]

    kinds = [np.stack([pairs[name] for name in KINDS], axis=1) for pairs in (known, held)]
    scaler = StandardScaler().fit(kinds[0])
    by_kind = KNeighborsRegressor(min(64, n_known))
    by_kind.fit(scaler.transform(kinds[0]), known["redshift"])
    bound = r2_score(by_kind.predict(scaler.transform(kinds[1])), held["redshift"])
    n_pairs = 0
    for name in TRAINING_SETS:
        size = getattr(workspace.recipe.data, f"n_{name.removeprefix('train-')}")
        n_pairs += min(LIMITS.get(name, size), size)
    text = CARD.format(
        n_parameters=sum(p.numel() for p in model.network.spectrum_encoder.parameters()),
        megabytes=weights.stat().st_size / 1e6,
        sha256=model.weights_sha256,
        penalty=recipe.losses["redshift_leak"],
        contrast_weight=recipe.losses["contrast"],
        kind_weights=" and ".join(f"{weight:g}" for weight in recipe.kind_weights),
        window=_window_text(recipe),
        brightness=BRIGHTNESS_RANGE,
        start=start_text(read_start(workspace.folder / recipe.folder)),
        n_pairs=n_pairs,
        n_epochs=recipe.n_epochs,
        epoch_size=recipe.epoch_size,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        n_test=len(held["redshift"]),
        n_reference=n_known,
        bound=bound,
        scores=simple_table(("redshift", "log M*", "log sSFR", "log Z"), [cells]),
    )
    write_bytes(output / "MODEL_CARD_REST.rst", text.encode())
