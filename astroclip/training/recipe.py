"""Training recipes: the numbers that shape a model, in TOML files that anyone can copy."""

import dataclasses
import difflib
import inspect
import tomllib
from pathlib import Path

from astroclip._validation import check_choice
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.training.losses import LOSSES

__all__ = [
    "AlignRecipe",
    "DataRecipe",
    "MomentumRecipe",
    "Recipe",
    "RestRecipe",
    "Schedule",
    "read_recipe",
    "recipe_names",
]

RECIPE_FOLDER = Path(__file__).parent / "recipe_files"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Table ``[data]``: the pairs that a workspace simulates.

    Attributes
    ----------
    n_mix, n_wide, n_flat : training pairs of the population mix, of the one uniform in redshift
        with the masses of a bright sample, and of the flat one
    n_validation, n_test : held-out pairs of the mix, for every epoch and for the end
    n_reference_mix, n_reference_wide, n_reference_flat : pairs of the reference table, never
        trained on
    n_contaminants : stars and quasars
    seed : every data set is drawn from it and a number of its own
    """

    n_mix: int = 64_000
    n_wide: int = 28_000
    n_flat: int = 20_000
    n_validation: int = 1_000
    n_test: int = 2_000
    n_reference_mix: int = 20_000
    n_reference_wide: int = 3_000
    n_reference_flat: int = 3_000
    n_contaminants: int = 6_000
    seed: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """What the tables of all objectives have in common, and all of table ``[spectra]``.

    Attributes
    ----------
    folder : where in the workspace the run keeps checkpoints and logs
    n_epochs, epoch_size, batch_size : length of the run, objects an epoch and a step
    learning_rate, warmup_steps : of AdamW, with a cosine decay to zero
    seed : fixes weights, order, noise and instruments
    """

    folder: str = "spectra"
    n_epochs: int = 4
    epoch_size: int = 20_480
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    seed: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignRecipe(Schedule):
    """Table ``[align]``: the alignment, or its projections alone (``--objective heads``).

    Attributes
    ----------
    losses : dict of str to float
        Table ``[align.losses]``: the weight of each loss of `astroclip.training.losses` that
        counts. Losses that are not named are not computed.
    initial_scale : inverse temperature that the contrast starts from
    varied_shares : fraction of spectra recorded by a random instrument, by data set; half of
        any other data set
    sdss_share : fraction of spectra recorded as SDSS and BOSS do; the rest as DESI does
    second_spectrum_share, second_image_share : fraction of spectra and of images that are recorded
        twice
    outlier_share : stars and quasars a step, as a fraction of its pairs
    statistics_share : share of the epochs in which batch normalization follows the statistics of
        single batches, whose noise drowns fine differences; it keeps its own in the rest
    n_redshift_bins, largest_redshift : bins of the spectra's redshift head, even in log(1 + z)
    memory_size : how many recent galaxies the losses on neighbors compare with
    neighbor_label_weights : of the errors of redshift, mass, sSFR and metallicity estimated from
        neighbors: the errors of what is estimated best are the smallest
    spectrum_label_weights : the same where spectra are estimated from spectra, which have
        directions of the embedding to themselves; by default those above
    n_views, survey_share : of the projections: recordings of every pair, and fraction of the pairs
        in a step that are taken as the survey records them
    """

    folder: str = "run"
    n_epochs: int = 8
    epoch_size: int = 25_600
    batch_size: int = 256
    warmup_steps: int = 100
    losses: dict = dataclasses.field(default_factory=lambda: {"contrast": 1.0})
    initial_scale: float = 10.0
    varied_shares: dict = dataclasses.field(
        default_factory=lambda: {"train-mix": 0.25, "train-wide": 0.7, "train-flat": 0.7}
    )
    sdss_share: float = 0.15
    second_spectrum_share: float = 0.0
    second_image_share: float = 0.0
    outlier_share: float = 0.0
    statistics_share: float = 1.0
    n_redshift_bins: int = 256
    largest_redshift: float = 0.7
    memory_size: int = 4096
    neighbor_label_weights: tuple = (1.0, 1.0, 1.0, 1.0)
    spectrum_label_weights: tuple | None = None
    n_views: int = 2
    survey_share: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumRecipe(Schedule):
    """Table ``[images]``: momentum contrast.

    Attributes
    ----------
    n_queued : keys of earlier images that are contrasted with, a multiple of ``batch_size``
    """

    folder: str = "images"
    n_queued: int = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class RestRecipe(Schedule):
    """Table ``[rest]``: the rest-frame encoder.

    Attributes
    ----------
    losses : dict of str to float
        Table ``[rest.losses]``: weights of ``contrast`` (finding a galaxy's other view among all,
        which keeps whatever both share, mass and with it redshift among it), ``labels`` (star
        formation and metallicity read off the embedding), ``neighbors`` (the same estimated from
        neighbors) and ``redshift_leak`` (what neighbors tell about the redshift, see
        `astroclip.training.losses.redshift_leak`).
    label_weights : of the specific star-formation rate and of the metallicity
    memory_size : galaxies that the losses on neighbors compare with
    spectrum : dict
        Table ``[rest.spectrum]``: options of the encoder; by default it sees 3600-5950 Angstrom,
        which are recorded at every redshift, and no brightness.
    """

    folder: str = "rest"
    n_epochs: int = 3
    epoch_size: int = 10_240
    learning_rate: float = 7e-4
    losses: dict = dataclasses.field(
        default_factory=lambda: {
            "contrast": 1.0, "labels": 0.5, "neighbors": 1.0, "redshift_leak": 3.0
        }
    )
    label_weights: tuple = (1.0, 1.0)
    memory_size: int = 4096
    spectrum: dict = dataclasses.field(
        default_factory=lambda: {"window": (1233, 3416), "brightness": False}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe; each attribute is a table of its file.

    Attributes
    ----------
    data : DataRecipe
    spectrum, image : dict
        Options of `~astroclip.models.SmallSpectrumEncoder` and of
        `~astroclip.models.SmallImageEncoder`.
    align : AlignRecipe
        Objectives ``align`` and ``heads``.
    spectra : Schedule
        Masked modeling.
    images : MomentumRecipe
    rest : RestRecipe
    """

    data: DataRecipe = dataclasses.field(default_factory=DataRecipe)
    spectrum: dict = dataclasses.field(default_factory=dict)
    image: dict = dataclasses.field(default_factory=dict)
    align: AlignRecipe = dataclasses.field(default_factory=AlignRecipe)
    spectra: Schedule = dataclasses.field(default_factory=Schedule)
    images: MomentumRecipe = dataclasses.field(default_factory=MomentumRecipe)
    rest: RestRecipe = dataclasses.field(default_factory=RestRecipe)


def recipe_names():
    """Return the names of the recipes that come with the package.

    Examples
    --------
    >>> from astroclip.training.recipe import recipe_names
    >>> recipe_names()
    ['published', 'published-heads', 'small', 'small-heads', 'tiny']
    """
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.toml"))


def read_recipe(recipe):
    """Return a recipe by name, from a TOML file or from the tables of one.

    Parameters
    ----------
    recipe : str, path-like, dict or Recipe
        Name of a recipe of `recipe_names`; a TOML file; or its content as nested dicts. What is
        not named keeps its default.

    Returns
    -------
    Recipe

    Raises
    ------
    ValueError
        If there is no such recipe, the file is no TOML, or it has a table, a setting, an option of
        an encoder or a loss that is not known.
    FileNotFoundError
        If the file is missing.

    Examples
    --------
    >>> from astroclip.training.recipe import read_recipe
    >>> read_recipe("small").align.batch_size
    256
    >>> read_recipe({"align": {"n_epochs": 2}}).align.n_epochs
    2
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, dict):
        return _filled(Recipe, recipe, "recipe", "")
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
    return _filled(Recipe, content, f"recipe file {str(path)!r}", "")


def _filled(settings_class, values, source, table):
    """Return a dataclass of settings from one table of a recipe, and those within it."""
    fields = {field.name: field for field in dataclasses.fields(settings_class)}
    _check_names(values, fields, source, table)
    settings = {}
    for name, value in values.items():
        inner = f"{table}.{name}" if table else name
        default = fields[name].default_factory
        if isinstance(value, dict) and dataclasses.is_dataclass(default):
            settings[name] = _filled(default, value, source, inner)
        elif isinstance(value, dict):
            known = DICT_NAMES.get(inner)
            if known is not None:
                _check_names(value, known, source, inner)
            settings[name] = {key: _tupled(item) for key, item in value.items()}
        else:
            settings[name] = _tupled(value)
    return settings_class(**settings)


def _options(encoder):
    return tuple(inspect.signature(encoder).parameters)


DICT_NAMES = {
    "spectrum": _options(SmallSpectrumEncoder),
    "rest.spectrum": _options(SmallSpectrumEncoder),
    "image": _options(SmallImageEncoder),
    "align.losses": LOSSES,
    "rest.losses": tuple(RestRecipe().losses),
}
"""What the tables that become dicts may name; any name where they are not listed."""


def _check_names(values, known, source, table):
    """Raise ValueError for a name that a table cannot have, with the one that may be meant."""
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            where = f" in [{table}]" if table else ""
            msg = f"{source} sets {name!r}{where}; expected some of {', '.join(known)}.{hint}"
            raise ValueError(msg)


def _tupled(value):
    """Return a TOML list as a tuple."""
    return tuple(value) if isinstance(value, list) else value
