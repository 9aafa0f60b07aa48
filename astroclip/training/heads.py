"""Training the projections of both encoders from cached summaries of their backbones.

What the backbones make of every pair is computed once, for a few recordings of each. A step then
costs a hundredth of one through the encoders, so that batches are large and the end of a
training, where retrieval is decided, can be long.
"""

import hashlib
import json
import os
from pathlib import Path

import lightning
import numpy as np
import torch
from torch.nn import functional

from astroclip.training.alignment import HEAD_SCALE, Alignment
from astroclip.training.data import PairBatches
from astroclip.training.observers import encode_pairs
from astroclip.training.recipes import find_recipe
from astroclip.training.run import (
    find_checkpoint,
    make_trainer,
    read_sources,
    read_start,
    start_from,
    start_from_files,
)
from astroclip.training.sources import join_pairs, read_source
from astroclip.training.templates import templates_of

__all__ = ["HeadAlignment", "summarize_pairs", "train_heads"]

KINDS = ("spectrum", "image")
RECORDED = ("spectrum", "image", "seeing", "ivar", "mask")  # arrays that summaries replace
DIGEST_LENGTH = 12


class HeadAlignment(Alignment):
    """An alignment whose backbones are done: it learns from their summaries.

    The losses are those of `~astroclip.training.alignment.Alignment`. Each step takes one
    recording of every spectrum and image, the survey's own in a share of the recipe and one at
    random in the others, and contrasts another one with it.

    Parameters
    ----------
    recipe : `~astroclip.training.recipes.AlignmentRecipe`
    pairs, validation : dict of str to `numpy.ndarray`, optional
        From `summarize_pairs`.
    contaminants : (M, F) `numpy.ndarray`, optional
        Summaries of spectra of stars and quasars.
    """

    def _freeze(self):
        """Fix both backbones, whatever the recipe says."""
        for name in KINDS:
            encoder = self._encoder(name)
            encoder.requires_grad_(requires_grad=False)
            encoder.projection().requires_grad_(requires_grad=True)

    def _encoder(self, name):
        return getattr(self, f"{name}_encoder")

    def _batches(self, pairs, **options):
        fields = ("redshift", *(f"{name}_summary" for name in KINDS))
        batches = PairBatches(pairs, fields=fields, **options)
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def train_dataloader(self):
        """Return this epoch's batches; Lightning asks anew every epoch."""
        recipe = self.recipe
        return self._batches(
            self.pairs, batch_size=recipe.batch_size, seed=recipe.seed, epoch=self.current_epoch,
            epoch_size=recipe.epoch_size,
        )

    def val_dataloader(self):
        """Return the held-out pairs in order."""
        return self._batches(self.validation, batch_size=250, shuffle=False)

    def _training_views(self, batch, generator):
        """Return embeddings of one recording each, and keep another for its contrast."""
        n_pairs, parts = len(batch["redshift"]), []
        for name in KINDS:
            summaries = batch[f"{name}_summary"]
            n_views = summaries.shape[1]
            embedded = self._encoder(name).project(summaries.flatten(0, 1)).float()
            embedded = embedded.unflatten(0, (n_pairs, n_views))
            draw = torch.rand(n_pairs, n_views + 1, generator=generator, device=generator.device)
            own = draw[:, -1] < self.recipe.survey_share
            draw[own, 0] = -1.0  # the survey's own recording comes first
            order = draw[:, :-1].argsort(dim=1)
            rows = torch.arange(n_pairs, device=order.device)
            parts.append(embedded[rows, order[:, 0]])
            batch[f"{name}_again"] = embedded[rows, order[:, -1]]
        if self.spectrum_encoder.scan is not None:
            batch["scan"] = self._scan_loss(batch["spectrum_summary"], batch["redshift"])
            if self.recipe.lent_weight:
                batch["scan"] = batch["scan"] + self.recipe.lent_weight * self._lent_loss(
                    batch["spectrum_summary"], batch["redshift"], generator
                )
        return *parts, self._outliers(n_pairs, generator)

    def _lent_loss(self, summaries, redshift, generator):
        """Return the cross entropy of the head's redshifts where another galaxy lends its features.

        What the backbone makes of a spectrum unlike all in training is no better than that; the
        scan beside it still holds.
        """
        known = redshift <= self.spectrum_encoder.scan.largest  # not where NaN
        summaries, redshift = summaries[known], redshift[known]
        n_galaxies, device = len(redshift), generator.device
        if not n_galaxies:
            return summaries.new_zeros(())
        view = torch.randint(
            summaries.shape[1], (n_galaxies,), generator=generator, device=device
        )
        lender = torch.randperm(n_galaxies, generator=generator, device=device)
        seen = summaries[torch.arange(n_galaxies, device=device), view]
        embedding = self.spectrum_encoder.project(seen, lender=lender).float()
        logits = self.spectrum_redshift(HEAD_SCALE * functional.normalize(embedding, dim=1))
        return functional.cross_entropy(logits, self.redshift_bins.target(redshift))

    def _outliers(self, n_pairs, generator):
        """Return embeddings of some stars and quasars."""
        n_outliers = round(self.recipe.outlier_share * n_pairs)
        if self.contaminants is None or not n_outliers:
            return torch.zeros(0, device=generator.device)
        rows = torch.randint(
            len(self.contaminants), (n_outliers,), generator=generator, device=generator.device
        )
        summary = torch.from_numpy(self.contaminants[rows.cpu().numpy()]).float()
        return self.spectrum_encoder.project(summary.to(generator.device)).float()

    def _second_spectra(self, batch, spectrum, generator):
        """Return the contrast of some spectra with their other recordings."""
        rows = self._some_rows(self.recipe.second_view_share, spectrum, generator)
        return self._contrast_again(batch["spectrum_again"][rows], spectrum, rows)

    def _second_images(self, batch, image, generator):
        """Return the contrast of some images with their other recordings."""
        rows = self._some_rows(self.recipe.second_image_share, image, generator)
        return self._contrast_again(batch["image_again"][rows], image, rows)

    def _contrast_again(self, again, first, rows):
        """Return the cross entropy, zero where nothing is recorded twice."""
        if not len(rows):
            return first.new_zeros(())
        return super()._contrast_again(again, first, rows)

    def _embed(self, batch, observer, generator, **options):
        """Return embeddings of the first recordings, which are the survey's own."""
        return tuple(
            self._encoder(name).project(batch[f"{name}_summary"][:, 0]).float() for name in KINDS
        )


def summarize_pairs(module, pairs, *, n_views, seed):
    """Return pairs with summaries in the place of spectra and images.

    Parameters
    ----------
    module : `~astroclip.training.alignment.Alignment`
        Trained.
    pairs : dict of str to `numpy.ndarray`
        As `~astroclip.training.sources.read_source` returns them, and ``varied_share``: the
        probability that a random instrument records each in the further views.
    n_views : int
        Recordings of each: the first as the survey records it, the others as in training.
    seed : int

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``spectrum_summary`` and ``image_summary`` (N, n_views, F) float16, and what was
        known besides.
    """
    module.eval()

    def summarize(seen):
        return {
            "spectrum": module.spectrum_encoder.summary(*vars(seen.spectra).values()).half(),
            "image": module.image_encoder.summary(seen.pixels, seen.pixel_mask).half(),
        }

    light = {name: pairs[name] for name in RECORDED if name in pairs}
    views = [encode_pairs(summarize, light, observer=module.plain_observer, seed=seed * 1000)]
    light["varied_share"] = pairs["varied_share"] if n_views > 1 else None
    views += [
        encode_pairs(summarize, light, observer=module.train_observer, seed=seed * 1000 + view)
        for view in range(1, n_views)
    ]
    known = {name: values for name, values in pairs.items() if name not in RECORDED}
    summaries = {
        f"{name}_summary": np.stack([view[name] for view in views], axis=1) for name in KINDS
    }
    return {**known, **summaries}


def summarize_spectra(module, flux, *, seed):
    """Return summaries (M, F) float16 of noiseless spectra (M, P), each recorded once."""
    module.eval()

    def summarize(seen):
        return {"summary": module.spectrum_encoder.summary(*vars(seen.spectra).values()).half()}

    return encode_pairs(
        summarize, {"spectrum": flux}, observer=module.train_observer, seed=seed
    )["summary"]


def train_heads(
    sources, validation, output, *, start, recipe="small-heads", contaminants=None,
    n_threads=None, show_progress=False,
):
    """Train the projections of aligned encoders, resuming from ``output`` if it has begun.

    Parameters
    ----------
    sources : sequence of path-like or dict
        As `~astroclip.training.run.train_alignment` takes them.
    validation : path-like or dict
        Held-out pairs, scored after every epoch.
    output : path-like
        Folder for the summaries of each source, the checkpoint and the log.
    start : path-like or sequence of path-like
        Weights of the encoders, whose backbones stay as they are.
    recipe : str or `~astroclip.training.recipes.AlignmentRecipe`
    contaminants : (N, P) `numpy.ndarray`, optional
        Noiseless spectra of stars and quasars.
    n_threads : int, optional
        Threads of torch; all cores by default.
    show_progress : bool

    Returns
    -------
    `~astroclip.training.alignment.Alignment`
        With the trained projections, on the CPU.

    Raises
    ------
    ValueError
        If nothing to start from is given, or ``output`` holds a run that started from other
        weights.
    """
    recipe = find_recipe(recipe)
    if not start:
        msg = "start is missing; heads are trained on the backbones of a run: give its weights."
        raise ValueError(msg)
    if recipe.n_summaries < 2 and (recipe.second_view_share or recipe.second_image_share):
        msg = (
            f"n_summaries of the recipe is {recipe.n_summaries}; expected 2 or more recordings, of "
            f"which one is contrasted with another, or shares of second ones that are zero."
        )
        raise ValueError(msg)
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    lightning.seed_everything(recipe.seed, verbose=False)
    files = [start] if isinstance(start, (str, Path)) else list(start)
    check_start(files, output)
    encoders = Alignment(recipe)
    for file in files:
        start_from(encoders, file)
    cache = Summaries(encoders, Path(output) / f"summaries-{_digest(files, recipe)}")
    cache.make_templates(sources)
    module = HeadAlignment(
        recipe, pairs=join_pairs(cache.all_pairs(sources)),
        validation=cache.pairs(validation, "validation"),
        contaminants=None if contaminants is None else cache.contaminants(contaminants),
    )
    if find_checkpoint(output) is None:
        start_from_files(module, files, output)
        module.spectrum_encoder.take_templates(encoders.spectrum_encoder)
    trainer = make_trainer(
        output, n_epochs=recipe.n_epochs, patience=recipe.patience, precision="32-true",
        show_progress=show_progress,
    )
    trainer.fit(module, ckpt_path=find_checkpoint(output))
    return module.cpu().eval()


def check_start(files, output):
    """Raise ValueError if a run in a folder started from other weights than these files."""
    if find_checkpoint(output) is None:
        return
    begun = [item["sha256"] for item in read_start(output)]
    if begun != [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]:
        names = ", ".join(repr(str(file)) for file in files)
        msg = (
            f"start is {names}, but the run in {str(output)!r} began from other weights; expected "
            f"the same to go on from. Give those, or another folder."
        )
        raise ValueError(msg)


def _digest(files, recipe):
    """Return the beginning of the sha256 of files in turn and of the spectrum encoder's options."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    digest.update(json.dumps(recipe.spectrum, sort_keys=True).encode())
    return digest.hexdigest()[:DIGEST_LENGTH]


class Summaries:
    """A folder of summaries, each computed once and found again after an interruption.

    Parameters
    ----------
    module : `~astroclip.training.alignment.Alignment`
    folder : path-like
    """

    def __init__(self, module, folder):
        self.module, self.folder = module, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def all_pairs(self, sources):
        """Return `summarize_pairs` of every source; processes of ``torchrun`` share the work."""
        first = int(os.environ.get("RANK", 0)) % len(sources)
        order = [*range(first, len(sources)), *range(first)]
        made = {number: self.pairs(sources[number], number) for number in order}
        return [made[number] for number in range(len(sources))]

    def pairs(self, source, number):
        """Return `summarize_pairs` of a source; ``number`` tells the sources apart."""
        recipe, held_out = self.module.recipe, number == "validation"
        seed = recipe.seed if held_out else recipe.seed + 1 + number
        n_views = 1 if held_out else recipe.n_summaries

        def make():
            pairs = read_source(source) if held_out else read_sources([source], recipe)
            return summarize_pairs(self.module, pairs, n_views=n_views, seed=seed)

        return self._kept(f"{number}.npz", make)

    def make_templates(self, sources):
        """Give a scan without templates those of the noiseless galaxies of all sources."""
        scan, seed = self.module.spectrum_encoder.scan, self.module.recipe.seed
        if scan is None or scan.templates.any():
            return

        def make():
            found = templates_of(scan, (read_source(source) for source in sources), seed=seed)
            return {"templates": found.half().numpy()}

        scan.templates.copy_(torch.from_numpy(self._kept("templates.npz", make)["templates"]))

    def contaminants(self, flux):
        """Return `summarize_spectra` of stars and quasars."""

        def make():
            seed = self.module.recipe.seed
            return {"spectrum": summarize_spectra(self.module, flux, seed=seed)}

        return self._kept("contaminants.npz", make)["spectrum"]

    def _kept(self, name, make):
        """Return the arrays of a file, made at the first call of whatever process."""
        from filelock import FileLock

        path = self.folder / name
        with FileLock(self.folder / f"{name}.lock"):
            if not path.exists():
                partial = path.with_name(f"part-{name}")
                np.savez(partial, **make())
                partial.replace(path)
        with np.load(path) as content:
            return dict(content)
