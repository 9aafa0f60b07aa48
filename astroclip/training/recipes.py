"""Training recipes: every number that shapes a model, in one place."""

import dataclasses

from astroclip._validation import check_choice

__all__ = ["AlignmentRecipe", "RECIPES", "RefinementRound", "find_recipe"]


@dataclasses.dataclass(frozen=True)
class RefinementRound:
    """Settings of one round of the spectrum encoder's refinement: a warm restart.

    Attributes
    ----------
    n_epochs, batch_size, learning_rate : AdamW with a cosine decay to zero
    redshift_weight : weight of the loss on redshift bins
    varied_share : fraction of spectra recorded by a random instrument
    tilt, largest_blur, blue_cut : how much those vary; see
        `~astroclip.simulation.instruments.observe_spectra_varied`
    data : data sets of the workspace that it uses

    References
    ----------
    Warm restarts: Loshchilov & Hutter (2017), arXiv:1608.03983.
    """

    n_epochs: int = 4
    batch_size: int = 256
    learning_rate: float = 1e-3
    redshift_weight: float = 2.0
    varied_share: float = 0.75
    tilt: float = 0.12
    largest_blur: float = 4.5
    blue_cut: float = 0.25
    data: tuple = ("train-mix", "train-flat", "refine-flat")

    def instruments(self):
        """Return the options of the random instruments by name."""
        return {
            "broad": True,
            "tilt": self.tilt,
            "largest_blur": self.largest_blur,
            "blue_cut": self.blue_cut,
        }


WIDE_ROUND = RefinementRound(
    n_epochs=5,
    batch_size=96,
    redshift_weight=1.0,
    varied_share=0.65,
    tilt=0.2,
    largest_blur=5.5,
    blue_cut=0.4,
    data=("train-mix", "refine-wide"),
)


@dataclasses.dataclass(frozen=True)
class AlignmentRecipe:
    """Settings of an alignment run.

    Attributes
    ----------
    n_mix, n_flat : simulated training pairs of the population mix and of the flat one
    n_validation, n_test : held-out pairs of the mix, for every epoch and for the end
    n_reference_mix, n_reference_flat, n_reference_wide : pairs of the reference table,
        never trained on
    seed : fixes weights, order, noise and instruments; data sets are drawn from
        ``seed`` and their own number
    n_epochs, batch_size : length of the run and pairs per step
    learning_rate, weight_decay, warmup_steps : AdamW with a cosine decay to zero
    varied_share : fraction of spectra recorded by a random instrument instead of DESI's
    missing_band_share : fraction of images that lose one band
    redshift_weight, label_weight : weights of the auxiliary losses on redshift bins and
        on the simulation's known properties; zero for pure InfoNCE
    n_redshift_bins, largest_redshift : bins of the redshift head, even in log(1 + z)
    n_refine_flat, n_refine_wide : pairs of a further flat sample and of one with the masses
        of a bright sample that only the refinement of the spectrum encoder uses
    n_refine_mix : pairs of the training mix that it uses
    refinement : rounds of the refinement, each a `RefinementRound`
    n_image_views : recordings of every image that the refinement aligns with
    spectrum, image : options of the encoders
    """

    n_mix: int = 28_000
    n_flat: int = 12_000
    n_validation: int = 1_000
    n_test: int = 2_000
    n_reference_mix: int = 4_500
    n_reference_flat: int = 3_000
    n_reference_wide: int = 3_000
    seed: int = 1
    n_epochs: int = 6
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
    n_refine_flat: int = 12_000
    n_refine_wide: int = 16_000
    n_refine_mix: int = 16_000
    refinement: tuple = (
        RefinementRound(),
        WIDE_ROUND,
        dataclasses.replace(WIDE_ROUND, n_epochs=3, learning_rate=7e-4),
    )
    n_image_views: int = 2
    spectrum: dict = dataclasses.field(default_factory=dict)
    image: dict = dataclasses.field(default_factory=dict)


RECIPES = {
    "small": AlignmentRecipe(),
    "tiny": AlignmentRecipe(
        n_mix=600,
        n_flat=200,
        n_validation=100,
        n_test=200,
        n_reference_mix=200,
        n_reference_flat=100,
        n_reference_wide=100,
        n_refine_flat=100,
        n_refine_wide=100,
        n_refine_mix=300,
        refinement=(
            RefinementRound(n_epochs=1, batch_size=16),
            RefinementRound(n_epochs=1, batch_size=16, data=("train-mix", "refine-wide")),
        ),
        n_epochs=2,
        batch_size=32,
        warmup_steps=2,
        spectrum={"width": 16},
        image={"width": 8},
    ),
}
"""``small`` makes the bundled model; ``tiny`` shows in a minute that everything runs."""


def find_recipe(recipe):
    """Return a recipe by name, or the recipe itself if it already is one.

    Raises
    ------
    ValueError
        If there is no recipe of that name.

    Examples
    --------
    >>> from astroclip.training.recipes import find_recipe
    >>> find_recipe("small").batch_size
    256
    """
    if isinstance(recipe, AlignmentRecipe):
        return recipe
    return RECIPES[check_choice(recipe, RECIPES, "recipe")]
