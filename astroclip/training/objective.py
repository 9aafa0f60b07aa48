"""What every objective shares: batches, optimizer, seeded draws, held-out scores, start weights."""

import dataclasses
import inspect
import json
import math
import re
import zipfile
from pathlib import Path

import lightning
import torch

from astroclip._files import file_sha256
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.models.weights import read_safetensors
from astroclip.training.data import PairBatches
from astroclip.training.sources import join_pairs, read_source

__all__ = [
    "HEAD_SCALE",
    "Objective",
    "find_checkpoint",
    "neighbor_r2",
    "read_start",
    "sized_recipe",
    "start_records",
]

HEAD_SCALE = 11.0  # length of embeddings that heads read: root of 128, features of order one
WEIGHT_DECAY = 0.03  # of matrices; vectors and scalars have none
VALIDATION_BATCH = 250
START_FILE = "start.json"
RANK_STEP = 7_368_787  # a prime beyond any epoch's number of steps
SIZES = {  # options of encoders that fix the shapes of their tensors
    "spectrum": (
        "width", "n_blocks", "n_heads", "dim", "hidden", "pooled", "scan_components",
        "scan_largest",
    ),
    "image": ("width", "layers", "dim", "hidden"),
}
REDSHIFT_HEAD = re.compile(r"^redshift_head\.(spectrum|image)")  # in files that ship


class Objective(lightning.LightningModule):
    """A Lightning module that trains encoders; each objective is a subclass.

    A subclass names its ``section`` of the recipe and the ``fields`` of its batches, and has
    ``training_step`` and ``held_out(batch, generator)``, which returns tensors (N, ...) of held-out
    pairs by name: ``features`` and ``redshift``, or whatever its own ``scores(held)`` takes.

    Parameters
    ----------
    recipe : `~astroclip.training.recipe.Recipe`
    pairs : dict of str to `numpy.ndarray`, optional
        Training pairs; not needed to load weights.
    validation : dict of str to `numpy.ndarray`, optional
        Held-out pairs, scored after every epoch.
    """

    section = "align"
    fields = ("redshift",)
    precision = None  # Lightning's; by default the fastest of the hardware

    def __init__(self, recipe, *, pairs=None, validation=None):
        super().__init__()
        self.recipe = recipe
        self.settings = getattr(recipe, self.section)
        self.pairs, self.validation = pairs, validation

    @classmethod
    def load(cls, recipe, workspace, sources, validation, start):
        """Return the module of a run, with its data.

        Parameters
        ----------
        recipe : `~astroclip.training.recipe.Recipe`
        workspace : `~astroclip.training.data.Workspace`
        sources : sequence of path-like or dict
            Pairs to train on, each as `~astroclip.training.sources.read_source` takes them.
        validation : path-like or dict
        start : sequence of path-like
            The weights that the run starts from, which `start_from` loads afterwards.
        """
        pairs = join_pairs([read_source(source) for source in sources])
        return cls(recipe, pairs=pairs, validation=read_source(validation))

    def begin(self):
        """Complete a new run after its start weights are loaded."""

    # ------------------------------------------------------------------ batches and steps
    def _batches(self, pairs, **options):
        errors = ("ivar", "mask") if "spectrum" in self.fields else ()
        optional = [name for name in (*errors, "varied_share") if name in pairs]
        batches = PairBatches(pairs, fields=(*self.fields, *optional), **options)
        return torch.utils.data.DataLoader(batches, batch_size=None)

    @property
    def order_seed(self):
        """Seed of the pairs' order."""
        return self.settings.seed

    def train_dataloader(self):
        """Return this epoch's batches; Lightning asks anew every epoch."""
        settings = self.settings
        return self._batches(
            self.pairs, batch_size=settings.batch_size, seed=self.order_seed,
            epoch=self.current_epoch, epoch_size=settings.epoch_size,
        )

    def val_dataloader(self):
        """Return the held-out pairs in order."""
        return self._batches(self.validation, batch_size=VALIDATION_BATCH, shuffle=False)

    def step_generator(self, *numbers):
        """Return a generator fixed by the recipe's seed and numbers, on the module's device."""
        seed = 0
        for number in (self.settings.seed, *numbers):
            seed = seed * 1_000_003 + number
        seed += RANK_STEP * self.global_rank  # every process draws its own noise
        return torch.Generator(device=self.device).manual_seed(seed % 2**63)

    @property
    def n_steps(self):
        """Steps of the whole run."""
        return self.settings.n_epochs * (self.settings.epoch_size // self.settings.batch_size)

    def configure_optimizers(self):
        """Return AdamW with a linear warm-up and a cosine decay to zero over the whole run."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim >= 2]
        vectors = [parameter for parameter in trained if parameter.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
            lr=self.settings.learning_rate, weight_decay=WEIGHT_DECAY,
        )
        n_warmup, n_steps = self.settings.warmup_steps, max(self.n_steps, 1)

        def factor(step):
            warm = min(1.0, (step + 1) / n_warmup)
            return warm * 0.5 * (1 + math.cos(math.pi * min(step / n_steps, 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ------------------------------------------------------------------ held-out pairs
    def on_validation_epoch_start(self):
        """Start collecting what is known of held-out pairs."""
        self._held = []

    def validation_step(self, batch, batch_index):
        """Encode one held-out batch, recorded alike in every epoch."""
        self._held.append(self.held_out(batch, self.step_generator(0, batch_index)))

    def on_validation_epoch_end(self):
        """Log the scores of all held-out pairs."""
        held = {name: torch.cat([part[name] for part in self._held]) for name in self._held[0]}
        self.log_dict(self.scores(held), prog_bar=True, sync_dist=True)

    def scores(self, held):
        """Return how well features of held-out pairs tell their redshifts, where known."""
        known = torch.isfinite(held["redshift"])
        if known.sum() <= 3:
            return {}
        return {"neighbor_r2": neighbor_r2(held["features"][known], held["redshift"][known])}

    # ------------------------------------------------------------------ start weights
    def start_from(self, path):
        """Load those of a file's tensors that fit; the others keep their start.

        Parameters
        ----------
        path : path-like
            A weights file (safetensors) or a checkpoint of any objective.

        Returns
        -------
        list of str
            Names of the module's tensors that the file did not give.

        Raises
        ------
        ValueError
            If no tensor fits, or most of an encoder's are of another shape.
        """
        path = Path(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        # remembered galaxies belong to the run that saw them
        own = {k: v for k, v in self.state_dict().items() if not k.startswith("memory.")}
        fitting = {}
        for name, tensor in tensors.items():
            name = REDSHIFT_HEAD.sub(r"\1_redshift", name)
            # self-supervised runs call theirs just "encoder": shapes tell which one it is
            for own_name in (name, f"spectrum_{name}", f"image_{name}"):
                if own_name in own and own[own_name].shape == tensor.shape:
                    fitting[own_name] = tensor.to(own[own_name].dtype)
        if not fitting:
            msg = (
                f"start is {str(path)!r}, none of whose tensors fits; expected weights of this "
                f"recipe's encoders."
            )
            raise ValueError(msg)
        for encoder in ("spectrum_encoder.", "image_encoder.", "encoder."):
            named = [name for name in tensors if name.startswith(encoder) and name in own]
            other = [name for name in named if name not in fitting]
            if 2 * len(other) > len(named):
                msg = (
                    f"start is {str(path)!r}, whose {encoder[:-1].replace('_', ' ')} has other "
                    f"sizes than the recipe's: {len(other)} of {len(named)} tensors do not fit, "
                    f"such as {other[0]} {tuple(tensors[other[0]].shape)} instead of "
                    f"{tuple(own[other[0]].shape)}. Give the recipe the [spectrum] and [image] of "
                    f"the one that these weights were trained with."
                )
                raise ValueError(msg)
        self.load_state_dict(fitting, strict=False)
        return [name for name in self.state_dict() if name not in fitting]


def neighbor_r2(features, values, *, n_neighbors=16):
    """Return how well the nearest neighbors of half of the objects tell the other half's values.

    Parameters
    ----------
    features : (N, D) `torch.Tensor`
        The first half is the reference, the second is estimated.
    values : (N,) `torch.Tensor`
    n_neighbors : int
        Their mean is the estimate; all of a smaller reference.

    Returns
    -------
    `torch.Tensor`
        Scalar, the coefficient of determination R2 of the second half: one for perfect
        estimates, zero for those no better than a constant.

    Notes
    -----
    Features are scaled to the reference's mean zero and deviation one; distances are
    Euclidean.

    Examples
    --------
    >>> import torch
    >>> from astroclip.training.objective import neighbor_r2
    >>> line = torch.linspace(0, 1, 200)[torch.randperm(200)]
    >>> bool(neighbor_r2(line[:, None], line, n_neighbors=1) > 0.99)
    True
    """
    half = len(features) // 2
    reference, query = features[:half].float(), features[half:].float()
    deviation = reference.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)  # a constant feature tells nothing
    distance = torch.cdist(
        query / deviation, reference / deviation, compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearest = distance.topk(min(n_neighbors, half), largest=False).indices
    truth, estimate = values[half:], values[:half][nearest].mean(dim=1)
    return 1 - ((estimate - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()


# ---------------------------------------------------------------------- checkpoints of a run
def find_checkpoint(output):
    """Return the newest complete checkpoint in a folder, None if there is none."""
    paths = sorted(Path(output).glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return next((path for path in reversed(paths) if zipfile.is_zipfile(path)), None)


def start_records(paths):
    """Return what is to be remembered of the files that a run starts from.

    Returns
    -------
    list of dict
        ``file`` (name), ``sha256`` and, for weights files that say them, the sizes of their
        encoders: ``spectrum`` and ``image``, or ``rest``.
    """
    return [
        {"file": Path(path).name, "sha256": file_sha256(path), **_start_sizes(Path(path))}
        for path in paths
    ]


def _start_sizes(path):
    """Return the sizes of a file's encoders, if it or the folder of its run says them."""
    if path.suffix != ".safetensors":
        sizes = {}
        for record in read_start(path.parent):
            sizes |= {name: record[name] for name in (*SIZES, "rest") if name in record}
        return sizes
    _, config = read_safetensors(path, framework="np", prefix="no tensor")
    if config.get("architecture") != "small":
        return {}
    sizes = {}
    for modality, encoder in (("spectrum", SmallSpectrumEncoder), ("image", SmallImageEncoder)):
        if modality in config:
            defaults = inspect.signature(encoder).parameters
            sizes[modality] = {
                name: config[modality].get(name, defaults[name].default)
                for name in SIZES[modality]
            }
    if config.get("preset", config.get("name")) == "astroclip-small-rest":
        return {"rest": sizes["spectrum"]}
    return sizes


def sized_recipe(recipe, section, records):
    """Return a recipe whose encoders have the sizes of the weights that a run starts from.

    Parameters
    ----------
    recipe : `~astroclip.training.recipe.Recipe`
    section : str
        Of the objective.
    records : list of dict
        From `start_records` or `read_start`.
    """
    for record in records:
        if section == "rest":
            spectrum = {**recipe.rest.spectrum, **record.get("rest", {})}
            rest = dataclasses.replace(recipe.rest, spectrum=spectrum)
            recipe = dataclasses.replace(recipe, rest=rest)
        else:
            own = {name: {**getattr(recipe, name), **record.get(name, {})} for name in SIZES}
            recipe = dataclasses.replace(recipe, **own)
    return recipe


def read_start(output):
    """Return the `start_records` of a run's folder; none if it began from random weights."""
    path = Path(output) / START_FILE
    return json.loads(path.read_text()) if path.exists() else []
