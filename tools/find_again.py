"""What of one galaxy's two spectra is found again, and from which redshifts.

Makes docs/figures/found_again.csv and docs/figures/redshifts_by_signal.csv from simulated pairs
and the bundled model (or another one that scans).

    python tools/find_again.py PAIRS
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from astropy.table import Table

from astroclip.evaluation.baselines import recorded_pair_ranks
from astroclip.evaluation.observation import record_spectra
from astroclip.metrics import nmad, outlier_fraction, retrieval_ranks
from astroclip.models import load_model
from astroclip.models.redshift_scan import LAG_STEP
from astroclip.redshifts.head import read_redshift_heads
from astroclip.simulation.pairs import read_pairs
from astroclip.training.templates import kinds_of

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
INSTRUMENTS = {"DESI-like": "desi", "SDSS-like": "sdss"}
KINDS = ("quiescent", "star-forming")
SIGNALS = (0, 1, 2, 4, np.inf)  # mean signal-to-noise ratio a pixel
FAR = 0.002  # dz / (1 + z)


def embedded(model, batch):
    """Return the embeddings of recorded spectra and the redshifts that their scans give."""
    network = model.network
    arrays = (torch.from_numpy(np.array(part)) for part in (batch.flux, batch.ivar, batch.mask))
    with torch.inference_mode():
        rows = zip(*(part.split(250) for part in arrays), strict=True)
        scans, embeddings = [], []
        for row in rows:
            embeddings.append(network.encode_spectrum(*row))
            scans.append(network.spectrum_encoder.scan(*row)[0].argmax(dim=1))
        embedding = torch.cat(embeddings)
    embedding = embedding.numpy()
    heads = read_redshift_heads(model).heads
    distribution = heads["spectrum"].distribution(embedding)
    best = distribution.center[distribution.probability.argmax(axis=1)]
    return embedding, best, np.expm1(torch.cat(scans).numpy() * LAG_STEP)


def signal(batch):
    """Return the mean signal-to-noise ratio of every spectrum's valid pixels."""
    good = ~batch.mask & (batch.ivar > 0)
    ratio = np.where(good, batch.flux * np.sqrt(np.where(good, batch.ivar, 0)), 0)
    return ratio.sum(axis=1) / np.maximum(good.sum(axis=1), 1)


def redshift_rows(name, batch, pairs, estimates):
    """Yield the errors of redshifts by kind of galaxy and signal."""
    truth, ratio, kinds = pairs["redshift"], signal(batch), kinds_of(pairs["log_ssfr"])
    for number, kind in enumerate(KINDS):
        for low, high in zip(SIGNALS, SIGNALS[1:], strict=False):
            rows = (kinds == number) & (ratio >= low) & (ratio < high)
            if not rows.any():
                continue
            row = {
                "spectra": name, "galaxies": kind, "number": int(rows.sum()),
                "signal-to-noise": f"{low}-{high}" if np.isfinite(high) else f"above {low}",
            }
            for label, found in estimates.items():
                pair = found[rows], truth[rows]
                row[f"{label}, NMAD"] = f"{nmad(*pair):.5f}"
                far = 100 * outlier_fraction(*pair, limit=FAR)
                row[f"{label}, beyond {FAR}"] = f"{far:.1f} %"
            yield row


def main():
    """Record, embed, search and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", help="folder of simulated shards that took no part in training")
    parser.add_argument("--model", default="astroclip-small")
    parser.add_argument("--number", type=int, default=1000, help="of galaxies")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=FIGURES)
    options = parser.parse_args()
    pairs = read_pairs(options.pairs, n_pairs=options.number)
    model = load_model(options.model)
    batches, views, redshifts = {}, {}, []
    for name, instrument in INSTRUMENTS.items():
        batch = record_spectra(pairs, seed=(options.seed, 0), instrument=instrument)
        views[name], head, scan = embedded(model, batch)
        redshifts += redshift_rows(name, batch, pairs, {"scan": scan, "head": head})
        batches[name] = batch
    kinds, found = kinds_of(pairs["log_ssfr"]), []
    for name, other in (tuple(INSTRUMENTS), tuple(INSTRUMENTS)[::-1]):
        ranks = {
            "model": retrieval_ranks(views[name], views[other]),
            "noise allows": recorded_pair_ranks(batches[name], batches[other], pairs["spectrum"]),
        }
        for label, rows in (*((k, kinds == n) for n, k in enumerate(KINDS)), ("all", kinds >= 0)):
            shares = {who: f"{(rank[rows] == 0).mean():.3f}" for who, rank in ranks.items()}
            found.append({"query": name, "among": other, "galaxies": label, **shares})
    for name, rows in (("found_again", found), ("redshifts_by_signal", redshifts)):
        target = options.output / f"{name}.csv"
        Table(rows).write(target, format="ascii.csv", overwrite=True)
        print(target.read_text())


if __name__ == "__main__":
    main()
