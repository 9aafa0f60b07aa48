"""Training the projections of both encoders from cached summaries of their backbones.

What the backbones make of every pair is computed once, for a few recordings of each. A step then
costs a hundredth of one through the encoders, so that batches are large and the end of a
training, where retrieval is decided, can be long.
"""

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from astroclip._files import written
from astroclip.training.align import MODALITIES, Alignment, read_sources
from astroclip.training.objective import HEAD_SCALE, find_checkpoint, read_start, start_records
from astroclip.training.observers import encode_pairs
from astroclip.training.sources import join_pairs, read_source
from astroclip.training.templates import templates_of

__all__ = ["ProjectionAlignment", "Summaries", "summarize_pairs"]

RECORDED = ("spectrum", "image", "seeing", "ivar", "mask")  # arrays that summaries replace
DIGEST_LENGTH = 12  # hexadecimal digits that name a folder of summaries


class ProjectionAlignment(Alignment):
    """An alignment whose backbones are done: it learns from their summaries.

    The losses are those of `~astroclip.training.align.Alignment`. Each step takes one
    recording of every spectrum and image, the survey's own in a share of the recipe and one at
    random in the others, and contrasts another one with it.

    Parameters
    ----------
    recipe : `~astroclip.training.recipe.Recipe`
    pairs, validation : dict of str to `numpy.ndarray`, optional
        From `summarize_pairs`.
    contaminants : (M, F) `numpy.ndarray`, optional
        Summaries of spectra of stars and quasars.
    """

    fields = ("redshift", "spectrum_summary", "image_summary")
    precision = "32-true"  # a step is too small for half precision to shorten it

    def __init__(self, recipe, **data):
        super().__init__(recipe, **data)
        for encoder in (self.spectrum_encoder, self.image_encoder):
            encoder.requires_grad_(requires_grad=False)
            encoder.projection().requires_grad_(requires_grad=True)

    @classmethod
    def load(cls, recipe, workspace, sources, validation, start):
        """Return the module of a run, with summaries of its data; see `Objective.load`.

        Raises
        ------
        ValueError
            If nothing to start from is given, or the run's folder holds one that started from
            other weights.
        """
        settings, output = recipe.align, workspace.folder / recipe.align.folder
        if not start:
            msg = (
                "start is missing; projections are trained on the backbones of a run: give its "
                "weights."
            )
            raise ValueError(msg)
        shares = settings.second_spectrum_share, settings.second_image_share
        if settings.n_views < 2 and any(shares):
            msg = (
                f"n_views of the recipe is {settings.n_views}; expected 2 or more recordings, of "
                f"which one is contrasted with another, or shares of second ones that are zero."
            )
            raise ValueError(msg)
        weights = [item["sha256"] for item in start_records(start)]
        begun = [item["sha256"] for item in read_start(output)]
        if find_checkpoint(output) is not None and begun != weights:
            names = ", ".join(repr(str(file)) for file in start)
            msg = (
                f"start is {names}, but the run in {str(output)!r} began from other weights; "
                f"expected the same to go on from. Give those, or another folder."
            )
            raise ValueError(msg)
        encoders = Alignment(recipe)
        for file in start:
            encoders.start_from(file)
        # summaries depend on the weights, the encoder and the number of recordings
        made_of = json.dumps([weights, recipe.spectrum, settings.n_views], sort_keys=True)
        digest = sha256(made_of.encode()).hexdigest()[:DIGEST_LENGTH]
        cache = Summaries(encoders, output / f"summaries-{digest}")
        cache.make_templates(sources)
        module = cls(
            recipe, pairs=cache.training_pairs(sources),
            validation=cache.held_out_pairs(validation),
            contaminants=(
                cache.spectra(workspace.contaminants()) if settings.outlier_share else None
            ),
        )
        scan = encoders.spectrum_encoder.scan
        module.templates = None if scan is None else scan.templates
        return module

    def begin(self):
        """Scan with the templates that the summaries were made with."""
        if self.templates is not None:
            self.spectrum_encoder.scan.templates.copy_(self.templates)

    def views(self, batch, generator):
        """Return embeddings of one recording each, and of another for the contrast with it."""
        n_pairs, views = len(batch["redshift"]), {}
        encoder, settings = self.spectrum_encoder, self.settings
        again = {}
        for name in MODALITIES:
            summaries = batch[f"{name}_summary"]  # (N, V, F)
            n_views = summaries.shape[1]
            embedded = getattr(self, f"{name}_encoder").project(summaries.flatten(0, 1)).float()
            embedded = embedded.unflatten(0, (n_pairs, n_views))
            draw = torch.rand(n_pairs, n_views + 1, generator=generator, device=generator.device)
            own = draw[:, -1] < settings.survey_share
            draw[own, 0] = -1.0  # the survey's own recording comes first
            order = draw[:, :-1].argsort(dim=1)
            rows = torch.arange(n_pairs, device=order.device)
            views[name], again[name] = embedded[rows, order[:, 0]], embedded[rows, order[:, -1]]
        views |= self.scanned(batch["spectrum_summary"], batch["redshift"])
        if "swapped_redshift" in settings.losses and encoder.scan is not None:
            views |= self._swapped(batch["spectrum_summary"], batch["redshift"], generator)
        contaminants = self.some_contaminants(n_pairs, generator)
        views["outliers"] = views["spectrum"][:0]
        if contaminants is not None:
            views["outliers"] = encoder.project(contaminants).float()
        shares = settings.second_spectrum_share, settings.second_image_share
        for name, share in zip(MODALITIES, shares, strict=True):
            rows = self.some_rows(share, views[name], generator)
            views[f"second_{name}"], views[f"second_{name}_rows"] = again[name][rows], rows
        return views

    def _swapped(self, summaries, redshift, generator):
        """Return logits of spectra beside whose scan stand the features of another galaxy."""
        encoder, device = self.spectrum_encoder, generator.device
        known = redshift <= encoder.scan.largest  # not where NaN
        summaries, redshift = summaries[known], redshift[known]
        if not len(redshift):
            empty = redshift[:0]
            return {"swapped_logits": empty[:, None], "swapped_target": empty}
        n_galaxies, n_views = summaries.shape[:2]
        view = torch.randint(n_views, (n_galaxies,), generator=generator, device=device)
        other = torch.randperm(n_galaxies, generator=generator, device=device)
        seen = summaries[torch.arange(n_galaxies, device=device), view]
        embedding = encoder.project(seen, tokens_of=other).float()
        features = HEAD_SCALE * functional.normalize(embedding, dim=1)
        return {"swapped_logits": self.spectrum_redshift(features), "swapped_target": redshift}

    def embed(self, batch, generator):
        """Return embeddings of the first recordings, which are the survey's own."""
        return tuple(
            getattr(self, f"{name}_encoder").project(batch[f"{name}_summary"][:, 0]).float()
            for name in MODALITIES
        )


def summarize_pairs(module, pairs, *, n_views, seed):
    """Return pairs with summaries in the place of spectra and images.

    Parameters
    ----------
    module : `~astroclip.training.align.Alignment`
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
    for view in range(1, n_views):
        light["varied_share"] = pairs["varied_share"]
        views.append(
            encode_pairs(summarize, light, observer=module.train_observer, seed=seed * 1000 + view)
        )
    known = {name: values for name, values in pairs.items() if name not in RECORDED}
    summaries = {
        f"{name}_summary": np.stack([view[name] for view in views], axis=1) for name in MODALITIES
    }
    return {**known, **summaries}


class Summaries:
    """A folder of summaries, each computed once and found again after an interruption.

    Parameters
    ----------
    module : `~astroclip.training.align.Alignment`
    folder : path-like
    """

    def __init__(self, module, folder):
        self.module, self.folder = module, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def training_pairs(self, sources):
        """Return `summarize_pairs` of all sources together."""
        recipe, summarized = self.module.recipe, {}
        # processes of torchrun begin with different sources, and so share the work
        first = int(os.environ.get("RANK", 0)) % len(sources)
        for number in (*range(first, len(sources)), *range(first)):

            def make(number=number):
                return summarize_pairs(
                    self.module, read_sources([sources[number]], recipe),
                    n_views=recipe.align.n_views, seed=recipe.align.seed + 1 + number,
                )

            summarized[number] = self._kept(f"{number}.npz", make)
        return join_pairs([summarized[number] for number in range(len(sources))])

    def held_out_pairs(self, source):
        """Return `summarize_pairs` of held-out pairs, recorded by the survey's instruments."""

        def make():
            seed = self.module.settings.seed
            return summarize_pairs(self.module, read_source(source), n_views=1, seed=seed)

        return self._kept("validation.npz", make)

    def make_templates(self, sources):
        """Give a scan without templates those of the noiseless galaxies of all sources."""
        scan, seed = self.module.spectrum_encoder.scan, self.module.settings.seed
        if scan is None or scan.templates.any():
            return

        def make():
            fitted = templates_of(scan, (read_source(source) for source in sources), seed=seed)
            return {"templates": fitted.half().numpy()}

        scan.templates.copy_(torch.from_numpy(self._kept("templates.npz", make)["templates"]))

    def spectra(self, flux):
        """Return summaries (M, F) float16 of noiseless spectra (M, P), each recorded once."""
        module = self.module.eval()

        def summarize(seen):
            summary = module.spectrum_encoder.summary(*vars(seen.spectra).values())
            return {"spectrum": summary.half()}

        def make():
            return encode_pairs(
                summarize, {"spectrum": flux}, observer=module.train_observer,
                seed=module.settings.seed,
            )

        return self._kept("contaminants.npz", make)["spectrum"]

    def _kept(self, name, make):
        """Return the arrays of a file, made at the first call of whatever process."""
        from filelock import FileLock

        path = self.folder / name
        with FileLock(self.folder / f"{name}.lock"):
            if not path.exists():
                with written(path) as partial:
                    np.savez(partial, **make())
        with np.load(path) as content:
            return dict(content)
