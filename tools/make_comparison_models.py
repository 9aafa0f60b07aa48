"""Make what the performance page compares the released model with.

    python tools/make_comparison_models.py WORKSPACE OUTPUT

In WORKSPACE the recipe ``published`` was trained: the objectives spectra and images, then the
alignment, then the objective heads of ``published-heads``. OUTPUT receives the files that options
of ``astroclip evaluate`` take: ``image_only.safetensors`` (``--image-only``: both encoders before
the alignment), ``published.safetensors`` (``--self-supervised``: after all), and predictions for
the pairs WORKSPACE/pairs/test by networks on the released model's backbones that learn nothing but
the known properties, ``supervised_spectrum.npz`` and ``supervised_image.npz``.
"""

import argparse
from pathlib import Path

import numpy as np

from astroclip import load_model
from astroclip._files import written
from astroclip.evaluation import few_shot
from astroclip.simulation.pairs import read_pairs
from astroclip.training.align import Alignment
from astroclip.training.bundle import export_weights
from astroclip.training.data import LABELS, label_values
from astroclip.training.observers import encode_pairs
from astroclip.training.recipe import read_recipe
from astroclip.training.run import load_trained

NETWORK = {"hidden": (512, 256), "n_epochs": 8, "batch_size": 512}
N_PAIRS = 48_000  # that the networks learn from
N_PROPERTIES = 4  # redshift, mass, star formation, metallicity
FIELDS = {"spectrum": ("spectrum",), "image": ("image", "seeing")}


def summaries(encoder, modality, pairs, *, seed):
    """Return what an encoder's backbone makes of pairs as the survey records them."""

    def encode(seen):
        if modality == "image":
            return {"summary": encoder.summary(seen.pixels, seen.pixel_mask)}
        summary = encoder.summary(*vars(seen.spectra).values())
        return {"summary": encoder.measurements(summary)}

    light = {name: pairs[name] for name in FIELDS[modality]}
    return encode_pairs(encode, light, seed=seed)["summary"]


def supervised_predictions(model, modality, pairs, held):
    """Return the properties that a network on a model's backbone predicts of held-out pairs."""
    encoder = getattr(model.network, f"{modality}_encoder")
    labels = label_values(pairs)[:, :N_PROPERTIES].numpy()  # log(1 + z) in place of z
    values = dict(zip(LABELS[:N_PROPERTIES], labels.T, strict=True))
    known = summaries(encoder, modality, pairs, seed=5)
    predicted = few_shot(known, values, summaries(encoder, modality, held, seed=6), **NETWORK)
    return {**predicted, "redshift": np.expm1(predicted["redshift"])}


def main():
    """Write all files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    workspace, output = options.workspace, options.output
    output.mkdir(parents=True, exist_ok=True)
    recipe = read_recipe("published")
    before = Alignment(recipe)
    for settings in (recipe.spectra, recipe.images):
        before.start_from(workspace / settings.folder / "last.ckpt")
    export_weights(before.eval(), output / "image_only.safetensors")
    after = load_trained("align", "published-heads", workspace)
    export_weights(after, output / "published.safetensors")
    model = load_model("astroclip-small")
    pairs = read_pairs(workspace / "pairs" / "train-mix", n_pairs=N_PAIRS)
    held = read_pairs(workspace / "pairs" / "test")
    for modality in FIELDS:
        with written(output / f"supervised_{modality}.npz") as partial:
            np.savez(partial, **supervised_predictions(model, modality, pairs, held))


if __name__ == "__main__":
    main()
