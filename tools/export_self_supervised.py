"""Write the weights of a self-supervised run as files that ``astroclip evaluate`` takes.

    python tools/export_self_supervised.py WORKSPACE OUTPUT

WORKSPACE is one in which the recipe ``published`` was trained: the objectives spectra and
images, then the alignment, then the heads of ``published-heads``. OUTPUT receives
``image_only.safetensors`` (both encoders before the alignment; ``astroclip evaluate
--image-only``) and ``published.safetensors`` (after all; ``--self-supervised``).
"""

import argparse
from pathlib import Path

from astroclip.training.alignment import Alignment
from astroclip.training.bundle import export_weights
from astroclip.training.pretraining import load_pretrained_images, load_pretrained_spectra
from astroclip.training.recipes import find_recipe
from astroclip.training.run import load_alignment


def main():
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    recipe = find_recipe("published")
    before = Alignment(recipe)
    before.spectrum_encoder.load_state_dict(
        load_pretrained_spectra(options.workspace / "spectra"), strict=False
    )
    before.image_encoder.load_state_dict(
        load_pretrained_images(options.workspace / "images"), strict=False
    )
    export_weights(before.eval(), options.output / "image_only.safetensors")
    recipe = find_recipe("published-heads")
    after = load_alignment(options.workspace / recipe.folder, recipe=recipe)
    export_weights(after.eval(), options.output / "published.safetensors")


if __name__ == "__main__":
    main()
