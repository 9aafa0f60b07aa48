"""Training recipes: every number that shapes a model, in one place."""

import dataclasses

__all__ = ["AlignmentRecipe", "RECIPES"]


@dataclasses.dataclass(frozen=True)
class AlignmentRecipe:
    """Settings of an alignment run.

    Attributes
    ----------
    seed : fixes weights, order, noise and instruments
    n_epochs, batch_size : length of the run and pairs per step
    learning_rate, weight_decay, warmup_steps : AdamW with a cosine decay to zero
    varied_share : fraction of spectra recorded by a random instrument instead of DESI's
    missing_band_share : fraction of images that lose one band
    redshift_weight, label_weight : weights of the auxiliary losses on redshift bins and
        on the simulation's known properties; zero for pure InfoNCE
    n_redshift_bins, largest_redshift : bins of the redshift head, even in log(1 + z)
    spectrum, image : options of the encoders
    """

    seed: int = 1
    n_epochs: int = 12
    batch_size: int = 256
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.03
    warmup_steps: int = 100
    varied_share: float = 0.5
    missing_band_share: float = 0.1
    redshift_weight: float = 0.5
    label_weight: float = 1.0
    n_redshift_bins: int = 256
    largest_redshift: float = 0.7
    spectrum: dict = dataclasses.field(default_factory=dict)
    image: dict = dataclasses.field(default_factory=dict)


RECIPES = {
    "small": AlignmentRecipe(),
    "tiny": AlignmentRecipe(
        n_epochs=2,
        batch_size=32,
        warmup_steps=2,
        spectrum={"width": 8},
        image={"width": 8},
    ),
}
"""``small`` makes the bundled model; ``tiny`` shows in a minute that everything runs."""
