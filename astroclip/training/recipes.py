"""Training recipes: every number that shapes a model, in files that anyone can copy."""

import dataclasses
import tomllib
from pathlib import Path

from astroclip._validation import check_choice

__all__ = ["AlignmentRecipe", "RefinementRound", "find_recipe", "read_recipe", "recipe_names"]

RECIPE_FOLDER = Path(__file__).parent / "recipe_files"


@dataclasses.dataclass(frozen=True)
class RefinementRound:
    """Settings of one round of the spectrum encoder's refinement: a warm restart.

    Attributes
    ----------
    n_epochs, batch_size, learning_rate : AdamW with a cosine decay to zero
    redshift_weight : weight of the loss on redshift bins
    varied_share : fraction of spectra recorded by a random instrument
    tilt, largest_blur, blue_cut : how much those vary; see
        `~astroclip.simulation.spectrographs.observe_spectra_varied`
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
    data: tuple = ("train-mix", "train-wide", "train-flat")

    def instruments(self):
        """Return the options of the random instruments by name."""
        return {
            "broad": True,
            "tilt": self.tilt,
            "largest_blur": self.largest_blur,
            "blue_cut": self.blue_cut,
        }


@dataclasses.dataclass(frozen=True)
class AlignmentRecipe:
    """Settings of an alignment run.

    Attributes
    ----------
    n_mix, n_wide, n_flat : simulated training pairs of the population mix, of the one uniform
        in redshift with the masses of a bright sample, and of the flat one
    n_validation, n_test : held-out pairs of the mix, for every epoch and for the end
    n_reference_mix, n_reference_wide, n_reference_flat : pairs of the reference table,
        never trained on
    seed : fixes weights, order, noise and instruments; data sets are drawn from
        ``seed`` and their own number
    folder : where in the workspace the run keeps checkpoints and logs
    n_epochs, epoch_size, batch_size : length of the run, pairs an epoch (all if None) and
        pairs a step
    learning_rate, weight_decay, warmup_steps : AdamW with a cosine decay to zero
    varied_shares : fraction of spectra recorded by a random instrument, by data set
    varied_share : the same for any other data set
    sdss_share : fraction recorded as SDSS and BOSS do; the rest as DESI does
    instruments : options of the random instruments; see
        `~astroclip.simulation.spectrographs.observe_spectra_varied`
    varied_image_share : fraction of images recorded by a random camera
    missing_band_share : fraction of images that lose one band
    extra_noise : largest noise added to pairs that a survey recorded, in units of theirs
    frozen : encoders (``"spectrum"``, ``"image"``) whose backbones keep their weights
    statistics_share : share of the epochs in which batch normalization follows the statistics of
        single batches, whose noise drowns fine differences; it keeps its own in the rest
    patience : epochs without a better recall@10 of held-out pairs after which the run stops;
        never if None
    redshift_weight, label_weight : weights of the auxiliary losses on redshift bins and
        on the simulation's known properties; zero for pure InfoNCE
    neighbor_weight, memory_size : weight of the loss on estimates from neighbours, and how
        many galaxies these come from
    neighbor_label_weights : of the errors of redshift, mass, sSFR and metallicity in it: the
        errors of what is estimated best are the smallest
    spectrum_label_weights : the same where spectra are estimated from spectra, which have
        directions of the embedding to themselves: images do not limit these. By default those above
    near_redshift_weight : weight of the loss on redshift distributions of neighbours
    outlier_share, outlier_weight, n_contaminants : stars and quasars a step, as a fraction of
        its pairs, weight of the loss that keeps them away from galaxies, and how many there are
    second_view_share, second_view_weight : fraction of spectra recorded twice, and weight
        of the contrast between both recordings
    second_image_share, second_image_weight : the same of images
    n_summaries, survey_share : recordings of every pair that `~astroclip.training.heads` learns
        from, and fraction of the pairs in a step that are taken as the survey records them
    lent_weight : there, weight of the loss on redshifts of spectra that have the features of
        another galaxy beside their own scan, relative to that of the scan itself
    contrast_weight, initial_scale : weight of the contrast between images and spectra, and inverse
        temperature that it starts from
    n_redshift_bins, largest_redshift : bins of the spectra's redshift head, even in log(1 + z)
    n_coarse_redshift_bins : bins of the images' head and of the redshifts of neighbours
    refinement : rounds of the spectrum encoder's refinement, each a `RefinementRound`
    n_image_views : recordings of every image that the refinement aligns with
    spectrum, image : options of the encoders
    """

    n_mix: int = 64_000
    n_wide: int = 28_000
    n_flat: int = 20_000
    n_validation: int = 1_000
    n_test: int = 2_000
    n_reference_mix: int = 20_000
    n_reference_wide: int = 3_000
    n_reference_flat: int = 3_000
    seed: int = 1
    folder: str = "run"
    n_epochs: int = 8
    epoch_size: int | None = 25_600
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup_steps: int = 100
    varied_shares: dict = dataclasses.field(
        default_factory=lambda: {"train-mix": 0.25, "train-wide": 0.7, "train-flat": 0.7}
    )
    varied_share: float = 0.5
    sdss_share: float = 0.15
    instruments: dict = dataclasses.field(
        default_factory=lambda: {
            "broad": True, "tilt": 0.15, "largest_blur": 5.5, "blue_cut": 0.4
        }
    )
    varied_image_share: float = 0.25
    missing_band_share: float = 0.05
    extra_noise: float = 0.5
    frozen: tuple = ()
    statistics_share: float = 1.0
    patience: int | None = None
    redshift_weight: float = 0.7
    label_weight: float = 1.0
    neighbor_weight: float = 1.0
    neighbor_label_weights: tuple = (1.0, 1.0, 1.0, 1.0)
    spectrum_label_weights: tuple | None = None
    memory_size: int = 4096
    near_redshift_weight: float = 0.0
    outlier_share: float = 0.0
    outlier_weight: float = 1.0
    n_contaminants: int = 6_000
    second_view_share: float = 0.2
    second_view_weight: float = 0.3
    second_image_share: float = 0.0
    second_image_weight: float = 0.3
    n_summaries: int = 2
    survey_share: float = 0.5
    lent_weight: float = 0.0
    contrast_weight: float = 1.0
    initial_scale: float = 10.0
    n_redshift_bins: int = 256
    n_coarse_redshift_bins: int = 256
    largest_redshift: float = 0.7
    refinement: tuple = ()
    n_image_views: int = 2
    spectrum: dict = dataclasses.field(default_factory=dict)
    image: dict = dataclasses.field(default_factory=dict)


def recipe_names():
    """Return the names of the recipes that come with the package.

    Examples
    --------
    >>> from astroclip.training.recipes import recipe_names
    >>> recipe_names()[:3]
    ['published', 'published-heads', 'small']
    """
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))


def read_recipe(recipe, section, kind):
    """Return one section of a recipe file as an objective's settings.

    Parameters
    ----------
    recipe : str or path-like
        Name of a recipe of `recipe_names`, or a TOML file.
    section : str
        ``"align"``, ``"spectra"``, ``"images"`` or ``"rest"``.
    kind : type
        Dataclass of the settings. What the section does not name keeps its default.

    Returns
    -------
    ``kind``

    Raises
    ------
    ValueError
        If there is no such recipe, the file is no TOML, or it names an unknown setting.
    FileNotFoundError
        If the file is missing.
    """
    path = Path(recipe)
    if path.suffix != ".toml":
        check_choice(recipe, recipe_names(), "recipe")
        path = RECIPE_FOLDER / f"{recipe}.toml"
    if not path.exists():
        msg = f"recipe file {str(path)!r} is missing; expected one of {recipe_names()} or a file."
        raise FileNotFoundError(msg)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        msg = f"recipe file {str(path)!r} is no TOML: {error}."
        raise ValueError(msg) from error
    values = content.get(section, {})
    known = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            msg = (
                f"recipe file {str(path)!r} sets {name!r} in [{section}]; expected some of "
                f"{', '.join(known)}."
            )
            raise ValueError(msg)
    if "refinement" in values:
        values["refinement"] = [RefinementRound(**_tuples(item)) for item in values["refinement"]]
    return kind(**_tuples(values))


def _tuples(values):
    """Return settings with tuples in the place of TOML's lists."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def find_recipe(recipe):
    """Return an alignment's recipe by name or file, or the recipe itself if it already is one.

    Parameters
    ----------
    recipe : str, path-like or AlignmentRecipe
        See `read_recipe`.

    Examples
    --------
    >>> from astroclip.training.recipes import find_recipe
    >>> find_recipe("small").batch_size
    256
    """
    if isinstance(recipe, AlignmentRecipe):
        return recipe
    return read_recipe(recipe, "align", AlignmentRecipe)
