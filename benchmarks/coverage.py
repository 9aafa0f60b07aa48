"""What conformal intervals cover: on held-out simulated galaxies, and on real spectra.

Run it with ``python benchmarks/coverage.py``. The bundled reference is split at random into
halves, several times: one half is the reference and the other is held out, in both
modalities. It exits with an error unless the mean over splits and properties of what the
intervals cover is 66-70 % and 94-96 % in each modality; single properties are printed with
the scatter expected of them.

``--pairs FOLDER`` measures on simulated pairs that the bundled reference does not hold (see
`astroclip.simulation.pairs.write_pairs`): they are observed, embedded, and estimated from the
whole reference, which was recorded by a mix of instruments: what is recorded by DESI's alone is
covered more often, what is recorded by random ones less. Against halves of themselves they are
like their reference again. ``--data FOLDER`` measures on real spectra with known redshifts,
survey by survey (see `astroclip.evaluation.read_real_sets`); these need not be like the
reference, and no bound is set.
"""

import argparse
import sys

import numpy as np
from astropy import units as u

import astroclip

LEVELS = (0.68, 0.95)
BOUNDS = ((0.66, 0.70), (0.94, 0.96))
PROPERTIES = (
    "redshift", "log_stellar_mass", "log_ssfr", "log_metallicity", "bulge_to_total", "dust",
)  # fmt: skip


def make_estimator(options):
    """Return the estimator that is measured."""
    if options.few_shot:
        return astroclip.FewShotEstimator(kind=options.few_shot, confidence=LEVELS)
    return astroclip.PropertyEstimator(
        n_neighbors=options.n_neighbors, weights=options.weights, confidence=LEVELS
    )


def covered(result, truth, name):
    """Return whether the intervals hold the truth, by level (2, N)."""
    truth = np.asarray(u.Quantity(truth[name]).value)
    rows = []
    for suffix in ("", "_95"):
        low, high = (
            np.asarray(u.Quantity(result[f"{name}_{end}{suffix}"]).value)
            for end in ("lower", "upper")
        )
        rows.append((low <= truth) & (truth <= high))
    return np.array(rows)


def split_halves(reference, seed):
    """Return two halves of a reference; both rows of a galaxy are in the same."""
    ids = np.asarray(reference["id"]).astype(str)
    names = np.unique(ids)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    first = np.isin(ids, chosen)
    return reference[first], reference[~first]


def print_shares(title, shares, n_objects):
    """Print what is covered, with the scatter that so many objects allow."""
    noise = [np.sqrt(level * (1 - level) / n_objects) for level in LEVELS]
    text = "  ".join(
        f"{100 * share:5.1f} % of {100 * level:.0f} % (noise {100 * error:.1f})"
        for share, level, error in zip(shares, LEVELS, noise, strict=True)
    )
    print(f"  {title:32s}{text}")


def measure_table(estimator, held_out, properties, label):
    """Print what is covered for an embedding table; return shares (P, 2) by modality."""
    result = estimator.predict(held_out)
    shares = {}
    modalities = np.asarray(held_out["modality"]).astype(str)
    for modality in np.unique(modalities):
        rows = modalities == modality
        shares[modality] = np.array(
            [covered(result[rows], held_out[rows], name).mean(axis=1) for name in properties]
        )
        if label:
            for name, share in zip(properties, shares[modality], strict=True):
                print_shares(f"{modality} {name}", share, rows.sum())
            flagged = np.mean(result["out_of_distribution"][rows])
            print(f"  {modality}: {100 * flagged:.1f} % flagged out of distribution")
    return shares


def measure_halves(options, reference, properties, title):
    """Measure on halves of a table of pairs; return whether all bounds are met."""
    parts = {}
    for seed in range(options.n_splits):
        known, held_out = split_halves(reference, seed)
        estimator = make_estimator(options).fit(known, properties)
        for modality, shares in measure_table(estimator, held_out, properties, "").items():
            parts.setdefault(modality, []).append(shares)
    n_objects = len(held_out) // len(parts)
    print(f"Halves of {title}, {n_objects} held out, {options.n_splits} splits")
    good = True
    for modality, splits in parts.items():
        mean = np.mean(splits, axis=0)
        for name, share in zip(properties, mean, strict=True):
            print_shares(f"{modality} {name}", share, n_objects)
        total = mean.mean(axis=0)
        print_shares(f"{modality}, all", total, n_objects)
        inside = [low <= share <= high for share, (low, high) in zip(total, BOUNDS, strict=True)]
        good &= all(inside)
    return good


def measure_pairs(options):
    """Measure on simulated pairs in a folder."""
    from astropy.table import vstack

    from astroclip.evaluation import embed_pairs

    model = astroclip.load_model("astroclip-small")
    held = embed_pairs(model, options.pairs, seed=0, spectra={"instrument": options.instrument})
    reference = astroclip.reference_table()
    names = [name for name in held.truth if name in reference.colnames]
    estimator = make_estimator(options).fit(reference, names)
    print(f"Simulated pairs, {len(held)} galaxies, spectra as of {options.instrument}")
    for table in held.tables.values():
        measure_table(estimator, table, names, "pairs")
    both = vstack(list(held.tables.values()), metadata_conflicts="silent")
    measure_halves(options, both, names, "these pairs")


def measure_real(options):
    """Measure redshifts of real spectra, survey by survey."""
    import warnings

    from astroclip.evaluation import read_real_sets
    from astroclip.exceptions import FailedObjectWarning

    reference = astroclip.reference_table()
    spectra = reference[reference["modality"] == "spectrum"]
    estimators = {
        "estimator": make_estimator(options).fit(spectra, ["redshift"]),
        "head": astroclip.RedshiftEstimator(confidence=LEVELS).fit(spectra, "redshift"),
    }
    for name, (objects, redshift) in read_real_sets(options.data).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FailedObjectWarning)  # they are counted
            table = astroclip.embed(list(objects))
        table["redshift"] = redshift
        print(f"{name}, {len(table)} real spectra")
        for title, estimator in estimators.items():
            result = estimator.predict(table)
            good = np.isfinite(result["redshift"])
            trusted = good & ~np.asarray(result["out_of_distribution"])
            inside = covered(result, table, "redshift")
            print_shares(f"{title}, redshift", inside[:, good].mean(axis=1), good.sum())
            if trusted.any():
                text = f"{title}, {trusted.sum()} not flagged"
                print_shares(text, inside[:, trusted].mean(axis=1), trusted.sum())


def main():
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-splits", type=int, default=5)
    parser.add_argument("--n-neighbors", type=int, default=64)
    parser.add_argument("--weights", default="distance")
    parser.add_argument("--few-shot", help="measure a few-shot estimator of this kind instead")
    parser.add_argument("--pairs", help="folder of simulated pairs")
    parser.add_argument("--instrument", default="varied", help="that observes the pairs")
    parser.add_argument("--data", help="folder of real spectra")
    options = parser.parse_args()
    title = "the bundled reference"
    good = measure_halves(options, astroclip.reference_table(), PROPERTIES, title)
    if options.pairs:
        measure_pairs(options)
    if options.data:
        measure_real(options)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
