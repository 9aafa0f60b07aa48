"""Compare encoder designs at an equal budget of processor time; the table of the docs.

    python tools/compare_encoders.py WORKSPACE OUTPUT.csv --part spectra --minutes 4

WORKSPACE is a folder that ``astroclip train`` filled with simulated pairs. Every design is
trained alone from random weights for the same processor time on one thread, on redshift bins
and known properties, and scored by k-NN (k = 16, cosine) on held-out pairs. Rows that OUTPUT
has already are kept. ``--part bound`` trains networks on what the backbones of the bundled model
(or of ``--start``) make of spectra and images, on the known properties alone, and also writes
their predictions for the test pairs: the supervised bounds that ``astroclip evaluate
--supervised-spectrum`` and ``--supervised-image`` take. ``--part pretraining`` needs the encoders
that the objectives spectra and images left in WORKSPACE.
"""

import argparse
import csv
import functools
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from astroclip.evaluation import few_shot
from astroclip.metrics import r2_score
from astroclip.models import load_model
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.simulation.pairs import read_pairs
from astroclip.training.alignment import HEAD_SCALE, N_ESTIMATED, RedshiftBins
from astroclip.training.data import LABELS, PairBatches
from astroclip.training.observers import Observer
from astroclip.training.pretraining import load_pretrained_images, load_pretrained_spectra
from astroclip.training.templates import templates_of

PARTS = ("spectra", "images", "curve", "pretraining", "bound")
BOUND = {"hidden": (512, 256), "n_epochs": 8, "batch_size": 512}  # of `few_shot`
BATCH, N_NEIGHBORS, N_REFERENCE = 128, 16, 2000
LEARNING_RATE = 1.5e-3
LONGER = 2.8  # times the budget: as long as masked modelling and what follows it together
FIELDS = {"spectrum": ("spectrum", "redshift"), "image": ("image", "seeing", "redshift")}
COLUMNS = (
    "part", "design", "million_weights", "n_pairs", "n_seen", "minutes",
    *(f"r2_{name}" for name in LABELS[:N_ESTIMATED]),
    *(f"direct_r2_{name}" for name in LABELS[:N_ESTIMATED]),
)


class PatchSpectrumEncoder(SmallSpectrumEncoder):
    """A transformer on linear tokens of ``patch`` pixels in place of the convolutional stem."""

    def __init__(self, *, patch, width=24, n_blocks=3, **options):
        super().__init__(width=width, n_blocks=n_blocks, **options)
        inner = 4 * width
        self.shortening = patch
        self.stem = nn.Conv2d(3, inner, (1, patch), (1, patch))
        self.blocks = nn.Identity()
        n_tokens = -(-self.n_pixels // patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, n_tokens, inner))

    def tokens(self, channels, level):
        """Return tokens (N, T, C) and which are empty (N, T)."""
        missing = -channels.shape[2] % self.shortening
        features = self.stem(functional.pad(channels, (0, missing))[:, :, None])
        tokens = features[:, :, 0].transpose(1, 2) + self.position + self.level(level)[:, None]
        empty = self._empty_tokens(channels[:, 2], tokens.shape[1])
        return self.transformer(tokens, empty), empty


class LinearGridEncoder(nn.Module):
    """An encoder that sees spectra on as many pixels of equal width in Angstrom."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        grid = np.linspace(WAVELENGTH[0], WAVELENGTH[-1], len(WAVELENGTH))
        place = np.clip(np.interp(grid, WAVELENGTH, np.arange(len(grid))), 0, len(grid) - 1.001)
        self.register_buffer("left", torch.from_numpy(place.astype(int)))
        self.register_buffer("share", torch.from_numpy(place % 1).float())

    def _resampled(self, values):
        return values[:, self.left] * (1 - self.share) + values[:, self.left + 1] * self.share

    def forward(self, flux, ivar, mask):
        """Return embeddings of spectra (N, P) on the logarithmic grid."""
        bad = mask[:, self.left] | mask[:, self.left + 1]
        return self.encoder(self._resampled(flux), self._resampled(ivar), bad)


class WithoutApertures(SmallImageEncoder):
    """The image encoder without its side path of aperture fluxes."""

    def forward(self, pixels, mask):
        """Return embeddings of normalized images (N, 3, S, S); mask True = bad."""
        return self.head(self.features(pixels, mask))


class WithoutWindows(SmallSpectrumEncoder):
    """The spectrum encoder whose side path of window fluxes stays at zero."""

    def __init__(self, **options):
        super().__init__(**options)
        for parameter in self.windows.parameters():
            parameter.requires_grad_(requires_grad=False)


class PatchImageEncoder(nn.Module):
    """A small vision transformer on patches of 8 pixels, flux and validity as channels."""

    def __init__(self, *, width=192, n_blocks=4, dim=128):
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.backbone = VisionTransformer(
            img_size=64, patch_size=8, in_chans=6, embed_dim=width, depth=n_blocks,
            num_heads=6, num_classes=0, global_pool="avg",
        )
        self.head = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, dim))

    def forward(self, pixels, mask):
        """Return embeddings of normalized images (N, 3, S, S); mask True = bad."""
        good = (~mask).to(pixels.dtype)
        return self.head(self.backbone(torch.cat([pixels * good, good], dim=1)))


SPECTRA = {
    "convolutions, 1 transformer block (bundled)": SmallSpectrumEncoder,
    "the same, no side path of window fluxes": WithoutWindows,
    "convolutions of width 16": lambda: SmallSpectrumEncoder(width=16),
    "convolutions of width 32": lambda: SmallSpectrumEncoder(width=32),
    "transformer, tokens of 20 pixels": lambda: PatchSpectrumEncoder(patch=20),
    "transformer, tokens of 40 pixels": lambda: PatchSpectrumEncoder(patch=40),
    "bundled, linear wavelength grid": lambda: LinearGridEncoder(SmallSpectrumEncoder()),
}
IMAGES = {
    "residual network of width 32 (bundled)": SmallImageEncoder,
    "the same, no side path of aperture fluxes": WithoutApertures,
    "residual network of width 24": lambda: SmallImageEncoder(width=24),
    "vision transformer, patches of 8 pixels": PatchImageEncoder,
}


class Supervised(nn.Module):
    """An encoder with the auxiliary heads of the alignment, and their loss."""

    def __init__(self, encoder, kind, label_statistics):
        super().__init__()
        self.encoder, self.kind = encoder, kind
        self.bins = RedshiftBins(256, 0.7)
        self.redshift = nn.Linear(128, 256)
        self.labels = nn.Linear(128, len(LABELS))
        self.mean, self.scale = label_statistics

    def embed(self, batch, observer, generator):
        """Return embeddings (N, 128) of a batch as the observer records it."""
        if self.kind == "image":
            return self.encoder(*observer.images(batch["image"], batch["seeing"], generator))
        seen = observer.spectra(batch["spectrum"], generator)
        return self.encoder(seen.flux, seen.ivar, seen.mask)

    def loss(self, embedding, batch):
        """Return the cross entropy of redshift bins and the error of standardized labels."""
        features = HEAD_SCALE * functional.normalize(embedding, dim=1)
        target = self.bins.target(batch["redshift"])
        known = (batch["labels"] - self.mean) / self.scale
        error = functional.smooth_l1_loss(self.labels(features), known)
        return 0.7 * functional.cross_entropy(self.redshift(features), target) + error

    def read_off(self, embedding):
        """Return the properties (N, 4) that the label head gives."""
        features = HEAD_SCALE * functional.normalize(embedding, dim=1)
        return (self.labels(features) * self.scale + self.mean)[:, :N_ESTIMATED]


def batches_of(pairs, kind, **options):
    """Return batches of the arrays that an encoder needs."""
    return PairBatches(pairs, batch_size=BATCH, fields=FIELDS[kind], **options)


def train(model, pairs, seconds, *, seed=5):
    """Train for so much processor time with a cosine decay over it; return pairs seen."""
    observer = Observer(
        varied_share=0.3, sdss_share=0.15, varied_image_share=0.25, transform_images=True
    )
    generator = torch.Generator().manual_seed(seed)
    used = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(used, lr=LEARNING_RATE, weight_decay=0.03)
    start, n_seen, epoch = time.process_time(), 0, 0
    model.train()
    while True:
        for batch in batches_of(pairs, model.kind, seed=seed, epoch=epoch):
            passed = (time.process_time() - start) / seconds
            if passed >= 1:
                return n_seen
            warm = min(1.0, (n_seen + BATCH) / (30 * BATCH))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * passed))
            loss = model.loss(model.embed(batch, observer, generator), batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(used, 5.0)
            optimizer.step()
            n_seen += BATCH
        epoch += 1


@torch.no_grad()
def embed_all(model, pairs):
    """Return embeddings, the label head's properties and the true ones of all pairs."""
    model.eval()
    generator, observer, parts = torch.Generator().manual_seed(99), Observer(), []
    for batch in batches_of(pairs, model.kind, shuffle=False):
        embedding = model.embed(batch, observer, generator)
        parts.append((embedding, model.read_off(embedding), batch["labels"][:, :N_ESTIMATED]))
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def scores_of(model, reference, held):
    """Return R2 of held-out properties, from neighbours and read off the label head."""
    known, _, values = embed_all(model, reference)
    embedding, direct, truth = embed_all(model, held)
    similarity = functional.normalize(embedding, dim=1) @ functional.normalize(known, dim=1).T
    near = values[similarity.topk(N_NEIGHBORS, dim=1).indices].mean(dim=1)
    scores = {}
    for column, name in enumerate(LABELS[:N_ESTIMATED]):
        scores[f"r2_{name}"] = float(r2_score(near[:, column], truth[:, column]))
        scores[f"direct_r2_{name}"] = float(r2_score(direct[:, column], truth[:, column]))
    return scores


def run_design(part, name, build, kind, data, minutes):
    """Train and score one design; return its row."""
    pairs, reference, held = data
    torch.manual_seed(7)
    labels = torch.cat([batch["labels"] for batch in batches_of(pairs, kind, shuffle=False)])
    statistics = labels.mean(dim=0), labels.std(dim=0).clamp(min=1e-3)
    model = Supervised(build(), kind, statistics).to(memory_format=torch.channels_last)
    n_seen = train(model, pairs, 60 * minutes)
    return {
        "part": part, "design": name, "n_pairs": len(pairs["redshift"]), "n_seen": n_seen,
        "minutes": minutes,
        "million_weights": sum(p.numel() for p in model.encoder.parameters()) / 1e6,
        **scores_of(model, reference, held),
    }


def append_row(path, row):
    """Add a row to the CSV file, with a header if it is new."""
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    rows.append({key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()})
    partial = path.with_name(path.name + ".part")
    with partial.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def write_tables(path, folder):
    """Write the columns that the docs show, one CSV file a part."""
    rows = list(csv.DictReader(path.open()))
    for part in sorted({row["part"] for row in rows}):
        direct = "direct_" if part == "bound" else ""
        scores = [f"{direct}r2_{name}" for name in LABELS[:N_ESTIMATED]]
        target = folder / f"encoders_{part}.csv"
        partial = target.with_name(target.name + ".part")
        with partial.open("w", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            titles = ("redshift", "log M*", "log sSFR", "log Z")
            writer.writerow(["design", "million weights", "objects seen", *titles])
            for row in (row for row in rows if row["part"] == part):
                values = [f"{float(row[name]):.3f}" for name in scores]
                size = f"{float(row['million_weights']):.2f}"
                writer.writerow([row["design"], size, f"{int(row['n_seen']):,}", *values])
        partial.replace(target)


def subset(pairs, n_pairs):
    """Return the first pairs."""
    return {name: values[:n_pairs] for name, values in pairs.items()}


@torch.no_grad()
def summarized(encoder, kind, pairs, *, seed):
    """Return what an encoder's backbone makes of pairs as the survey records them, and labels."""
    generator, observer, parts = torch.Generator().manual_seed(seed), Observer(), []
    for batch in batches_of(pairs, kind, shuffle=False):
        if kind == "image":
            seen = observer.images(batch["image"], batch["seeing"], generator)
        else:
            seen = vars(observer.spectra(batch["spectrum"], generator)).values()
        summary = encoder.summary(*seen)
        if kind == "spectrum":
            summary = encoder.measurements(summary)
        parts.append((summary, batch["labels"][:, :N_ESTIMATED]))
    summary, labels = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return summary, dict(zip(LABELS[:N_ESTIMATED], labels.T.astype(float), strict=True))


def run_bound(kind, weights, pairs, held, path):
    """Write what a network on a bundled backbone predicts of test pairs; return its scores."""
    model = load_model(weights or "astroclip-small")
    encoder = getattr(model.network, f"{kind}_encoder")
    known, values = summarized(encoder, kind, pairs, seed=5)
    queries, truth = summarized(encoder, kind, held, seed=6)
    found = few_shot(known, values, queries, **BOUND)
    predicted = {**found, "redshift": np.expm1(found["redshift"])}
    np.savez(path, **predicted)
    return {
        "part": "bound", "design": f"network on the {kind} backbone", "n_pairs": len(known),
        "n_seen": BOUND["n_epochs"] * len(known), "minutes": float("nan"),
        "million_weights": sum(p.numel() for p in encoder.parameters()) / 1e6,
        **{f"direct_r2_{name}": float(r2_score(found[name], truth[name])) for name in found},
    }


def scanning(pairs):
    """Return the bundled spectrum encoder with templates of these galaxies."""
    encoder = SmallSpectrumEncoder(scan_components=3)
    encoder.scan.templates.copy_(templates_of(encoder.scan, [pairs], seed=0))
    return encoder


def pretrained(build, load, folder):
    """Return a constructor of an encoder that begins with self-supervised weights."""

    def start():
        encoder = build()
        encoder.load_state_dict(load(folder), strict=False)
        return encoder

    return start


def jobs(part, pairs, workspace):
    """Yield name, constructor, modality, training pairs and share of the budget of every run."""
    if part == "spectra":
        yield from ((name, build, "spectrum", pairs, 1) for name, build in SPECTRA.items())
        name = "bundled, and templates at every redshift"
        yield name, functools.partial(scanning, pairs), "spectrum", pairs, 1
    elif part == "images":
        yield from ((name, build, "image", pairs, 1) for name, build in IMAGES.items())
    elif part == "pretraining":
        for kind, build, load in (
            ("spectrum", SmallSpectrumEncoder, load_pretrained_spectra),
            ("image", SmallImageEncoder, load_pretrained_images),
        ):
            folder = workspace / {"spectrum": "spectra", "image": "images"}[kind]
            yield f"{kind} encoder, random weights", build, kind, pairs, 1
            yield f"{kind} encoder, pre-trained", pretrained(build, load, folder), kind, pairs, 1
        name = f"spectrum encoder, random weights, {LONGER} times as long"
        yield name, SmallSpectrumEncoder, "spectrum", pairs, LONGER
    else:
        for n_pairs in (1000, 4000, 16_000, len(pairs["redshift"])):
            yield f"{n_pairs} pairs", SmallImageEncoder, "image", subset(pairs, n_pairs), 1


def main():
    """Run what is missing in the output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--minutes", type=float, default=4.0, help="processor time a design")
    parser.add_argument("--n-pairs", type=int, default=48_000, help="pairs to learn from")
    parser.add_argument("--start", help="weights that the bound starts from; the bundled ones")
    parser.add_argument("--tables", type=Path, help="only write the docs' tables, to this folder")
    options = parser.parse_args()
    if options.tables is not None:
        write_tables(options.output, options.tables)
        return
    torch.set_num_threads(1)
    folder = options.workspace / "pairs"
    pairs = read_pairs(folder / "train-mix", n_pairs=options.n_pairs)
    reference = read_pairs(folder / "reference-mix", n_pairs=N_REFERENCE)
    held = read_pairs(folder / "validation")
    done = set()
    if options.output.exists():
        done = {(r["part"], r["design"]) for r in csv.DictReader(options.output.open())}
    if options.part == "bound":
        for kind in FIELDS:
            if ("bound", f"network on the {kind} backbone") in done:
                continue
            path = options.output.with_name(f"supervised_{kind}.npz")
            row = run_bound(kind, options.start, pairs, read_pairs(folder / "test"), path)
            append_row(options.output, row)
            print(row, flush=True)
        return
    for name, build, kind, chosen, share in jobs(options.part, pairs, options.workspace):
        if (options.part, name) in done:
            continue
        data = chosen, reference, held
        row = run_design(options.part, name, build, kind, data, share * options.minutes)
        append_row(options.output, row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
