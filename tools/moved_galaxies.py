"""What the rest-frame model tells of where galaxies are put, and what their kind does.

    python tools/moved_galaxies.py PAIRS

Galaxies of simulated PAIRS are put at redshifts drawn at random, recorded as DESI does, brought
back to rest and embedded. R2 of k-NN estimates (k = 64) for the last quarter, from the others: of
the redshift where they are put, of that where they belong, and of the latter from the true kinds
instead of embeddings.
"""

import argparse

import numpy as np
import torch
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from astroclip.metrics import r2_score
from astroclip.models import load_model
from astroclip.simulation.pairs import read_pairs
from astroclip.training.data import PairBatches
from astroclip.training.observers import Observer
from astroclip.training.rest_frame import KINDS, RestFrame, RestFrameRecipe

FIELDS = ("spectrum", "redshift")


def embedded(model, pairs, *, move, seed):
    """Return embeddings of galaxies and the redshifts at which they are recorded."""
    module, observer = RestFrame(RestFrameRecipe()), Observer()
    module.spectrum_encoder = model.network.spectrum_encoder
    generator, rows, places = torch.Generator().manual_seed(seed), [], []
    for batch in PairBatches(pairs, batch_size=250, shuffle=False, fields=FIELDS):
        flux, place = batch["spectrum"], batch["redshift"]
        if move:
            place = module._new_redshift(place, generator)
        with torch.inference_mode():
            rows.append(module._embed(flux, batch["redshift"], place, observer, generator))
        places.append(place)
    return torch.nn.functional.normalize(torch.cat(rows)).numpy(), torch.cat(places).numpy()


def score(features, values):
    """Return the R2 of the last quarter's values, estimated from neighbours among the others."""
    n_known = len(values) * 3 // 4
    nearest = KNeighborsRegressor(64, weights="distance").fit(features[:n_known], values[:n_known])
    return float(r2_score(nearest.predict(features[n_known:]), values[n_known:]))


def main():
    """Print all scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", help="folder of simulated shards that took no part in training")
    parser.add_argument("--model", default="astroclip-small-rest")
    parser.add_argument("--number", type=int, default=8000, help="of galaxies")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    pairs = read_pairs(options.pairs, n_pairs=options.number)
    model, redshift = load_model(options.model), pairs["redshift"]
    for move in (False, True):
        features, place = embedded(model, pairs, move=move, seed=options.seed)
        where = "put elsewhere" if move else "where they are"
        print(f"{where}: own redshift {score(features, redshift):.3f}", end="")
        print(f", that of the place {score(features, place):.3f}")
    kinds = StandardScaler().fit_transform(np.column_stack([pairs[name] for name in KINDS]))
    print(f"true kinds: own redshift {score(kinds, redshift):.3f}")


if __name__ == "__main__":
    main()
