"""Make the figures and the tables of docs/user_guide/discovery.rst.

    python tools/make_discovery_figures.py PAIRS_FOLDER DATA_FOLDER

PAIRS_FOLDER holds test pairs as ``astroclip train`` leaves them in its workspace, with the
spectral basis (basis.npz) in its parent folder; DATA_FOLDER has a folder ``rings`` with display
images of real galaxies and labels.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

import astroclip
from astroclip.discovery import ExampleSearch, OutlierDetector
from astroclip.evaluation import read_rings, record_images, record_spectra
from astroclip.evaluation.pairs import embed_quietly
from astroclip.plotting import display_image
from astroclip.preparation import ImageBatch, SpectrumBatch
from astroclip.simulation.basis import load_basis
from astroclip.simulation.contaminants import make_quasars, make_stars
from astroclip.simulation.pairs import read_pairs
from astroclip.simulation.population import COSMOLOGY
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.simulation.tidal import SHAPES, add_tidal_features
from astroclip.tables import embedding_matrix

OUTPUT = Path(__file__).parents[1] / "docs" / "figures"
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8,
    "legend.frameon": False, "figure.dpi": 130, "savefig.bbox": "tight",
}
SEED = 20
PIXEL_SCALE = 0.524  # arcsec
BRIGHTNESSES = (24.0, 25.0, 26.0, 27.0)  # r mag / arcsec2
PREVALENCE = 0.12  # clear tidal features: Atkinson et al. (2013)
N_STARTS, N_EXAMPLES, N_NEW, N_LABELS = 8, 5, 20, 105
TABLE_LABELS = (5, 25, 65, 105)
EDGE_ON = 0.25  # axis ratio
STRATEGIES = {
    "likely": "tab:red", "uncertain": "tab:blue", "diverse": "tab:green", "random labels": "0.45",
    "mean of the examples": "black",
}
FAINT = (24.0, 14.0, 7.0)  # scales of the display
N_SHOWN = 24  # galaxies that examples are chosen from
LEAST_TOP = 0.3  # of the axis of average precision
N_USUAL, N_ODD = 600, 100
FALSE_ALARMS = 0.01
ARMS = ((3600.0, 5780.0), (5780.0, 7570.0), (7570.0, 9830.0))  # A, of DESI


def save(figure, name):
    """Write a figure and close it."""
    figure.savefig(OUTPUT / f"discovery_{name}.png")
    plt.close(figure)


def write_rows(name, header, rows):
    """Write a table for the documentation and print it."""
    with (OUTPUT / f"discovery_{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    for row in (header, *rows):
        print(*row, sep=" | ")


def take(pairs, rows):
    """Return some of the pairs."""
    return {name: values[rows] for name, values in pairs.items()}


# ---------------------------------------------------------------------- learning curves
def luminous_hosts(pairs):
    """Return pairs like the galaxies of Atkinson et al. (2013): M_r < -19.3, 0.04 < z < 0.2."""
    redshift = pairs["redshift"].astype(float)
    distance = COSMOLOGY.luminosity_distance(np.maximum(redshift, 1e-3)).value
    absolute = pairs["magnitude"][:, 1] - 5 * np.log10(distance) - 25
    return take(pairs, (redshift > 0.04) & (redshift < 0.2) & (absolute < -19.3))


def light_over_noise(before, after, recorded):
    """Return the median S/N of the added r light in all its pixels, had one its shape."""
    added = after["image"][:, 1].astype(float) - before["image"][:, 1]
    pixels = recorded.pixels[:, 1]
    middle = np.median(pixels, axis=(1, 2), keepdims=True)
    sky = 1.4826 * np.median(np.abs(pixels - middle), axis=(1, 2))
    return float(np.median(np.sqrt((added**2).sum(axis=(1, 2))) / sky))


def tidal_tasks(model, pairs):
    """Return by name the table, the labels and the notes of the searches for tidal features."""
    hosts = luminous_hosts(pairs)
    n_hosts = len(hosts["redshift"])
    chosen = np.random.default_rng(SEED).permutation(n_hosts)[: round(PREVALENCE * n_hosts)]
    plain = embed_quietly(record_images(hosts, seed=SEED), model)
    plain["id"] = [f"galaxy-{row}" for row in range(n_hosts)]
    label = np.isin(np.arange(n_hosts), chosen)
    tasks, notes = {}, []
    for brightness in BRIGHTNESSES:
        before = take(hosts, chosen)
        after = add_tidal_features(
            before, seed=SEED, surface_brightness=(brightness, brightness)
        )
        recorded = record_images(after, seed=SEED + 1)
        table = plain.copy()
        table["embedding"][chosen] = embedding_matrix(embed_quietly(recorded, model))[0]
        tasks[f"tidal features, {brightness:.0f} mag/arcsec2"] = table, label
        notes.append(
            (
                f"{brightness:.0f}", f"{np.median(after['tidal_share']):.1%}",
                f"{light_over_noise(before, after, recorded):.0f}",
            )
        )
    tasks[f"edge-on discs (b/a < {EDGE_ON})"] = plain, hosts["axis_ratio"] < EDGE_ON
    return tasks, notes


def ring_task(model, folder):
    """Return the table and the labels of the search for rings."""
    images, ring = read_rings(folder / "rings")
    table = embed_quietly(images, model)
    table["id"] = [f"ring-{row}" for row in range(len(table))]
    return table, ring


def learning_curve(table, label, strategy, seed):
    """Return numbers of labels, average precision of held-out objects, and examples found."""
    rng = np.random.default_rng((SEED, seed, 1))  # (SEED, 0) would draw as SEED does
    order = rng.permutation(len(table))
    pool, held = order[: len(table) // 2], order[len(table) // 2 :]
    known, others = table[pool], table[held]
    ids, truth = np.asarray(known["id"]), label[pool]
    search = ExampleSearch(known, random_state=seed)
    search.label(ids[truth][:N_EXAMPLES].tolist(), True)
    curve = []
    while True:
        given = search.labels
        n_labels, n_found = len(given), int(np.sum(given["label"]))
        if strategy == "mean of the examples":
            examples = known[np.isin(ids, given["id"][given["label"]])]
            scores = embedding_matrix(others)[0] @ embedding_matrix(examples)[0].mean(axis=0)
        else:
            scores = search.scores(others)
        curve.append((n_labels, average_precision_score(label[held], scores), n_found))
        if n_labels >= min(N_LABELS, len(pool) - N_NEW):
            return np.array(curve).T
        if strategy in ("likely", "uncertain", "diverse"):
            new = np.asarray(search.suggest(N_NEW, strategy=strategy)["id"])
        else:
            new = np.setdiff1d(ids, given["id"])
            new = rng.choice(new, N_NEW, replace=False)
        search.label(new, [bool(truth[ids == name][0]) for name in new])


def draw_learning(tasks):
    """Draw average precision against labels; return the rows of the table."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), constrained_layout=True)
    rows = []
    for axis, (name, (table, label)) in zip(axes.ravel(), tasks.items(), strict=True):
        axis.axhline(label.mean(), color="0.7", ls=":", label="random order")
        top = label.mean()
        for strategy, color in STRATEGIES.items():
            curves = np.array(
                [learning_curve(table, label, strategy, seed) for seed in range(N_STARTS)]
            )
            count, precision, found = curves[0, 0], curves[:, 1], curves[:, 2]
            low, mean, high = precision.min(axis=0), precision.mean(axis=0), precision.max(axis=0)
            axis.plot(count, mean, color=color, label=strategy, lw=1.6)
            if strategy in ("likely", "random labels"):
                axis.fill_between(count, low, high, color=color, alpha=0.15, lw=0)
            top = max(top, high.max())
            at = [int(np.searchsorted(count, wanted)) for wanted in TABLE_LABELS]
            cells = [
                f"{mean[k]:.2f} ({low[k]:.2f}-{high[k]:.2f})" if k < len(count) else ""
                for k in at
            ]
            last = f"{found[:, -1].mean() - N_EXAMPLES:.0f} of {count[-1] - N_EXAMPLES:.0f}"
            rows.append((name, f"{label.mean():.2f}", strategy, *cells, last))
        top = min(1.02, max(LEAST_TOP, 1.15 * top))
        axis.set(title=name, ylim=(0, top), xlabel="labels")
    for axis in axes[:, 0]:
        axis.set_ylabel("average precision, held out")
    axes[0, 0].legend(loc="upper left", ncols=2, fontsize=6.5)
    save(figure, "learning")
    return rows


def draw_tidal(pairs):
    """Draw a rather bright example of each kind of feature at each surface brightness."""
    hosts = take(luminous_hosts(pairs), slice(N_SHOWN))
    figure, axes = plt.subplots(
        len(SHAPES), len(BRIGHTNESSES), figsize=(7.2, 5.4), constrained_layout=True
    )
    for row, kind in enumerate(SHAPES):
        for axis, brightness in zip(axes[row], BRIGHTNESSES, strict=True):
            made = add_tidal_features(
                hosts, seed=SEED, shapes=[kind], surface_brightness=(brightness, brightness)
            )
            if brightness == BRIGHTNESSES[0]:
                light = made["tidal_share"] * 10 ** (-0.4 * made["magnitude"][:, 1])
                shown = [int(np.argsort(light)[round(0.85 * len(light))])]
            recorded = record_images(take(made, shown), seed=SEED)
            axis.imshow(display_image(recorded.pixels[0], scales=FAINT), origin="lower")
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(f"{brightness:.0f} mag/arcsec$^2$")
        axes[row, 0].set_ylabel(kind)
    save(figure, "tidal")


# ---------------------------------------------------------------------- oddities
def line(rng, size, width, *, length=None):
    """Return a straight track (S, S) of unit height through a random place."""
    axis = np.arange(size)
    middle, angle = rng.uniform(0.15 * size, 0.85 * size, 2), rng.uniform(0, np.pi)
    x, y = axis[None, :] - middle[0], axis[:, None] - middle[1]
    across = x * np.sin(angle) - y * np.cos(angle)
    track = np.exp(-0.5 * (across / width) ** 2)
    if length is not None:
        track = track * (np.abs(x * np.cos(angle) + y * np.sin(angle)) < length / 2)
    return track


def add_trails(rng, pixels):
    """Add a satellite's trail to one band of each image, 22-24 mag/arcsec2."""
    for image in pixels:
        peak = 10 ** (-0.4 * (rng.uniform(22, 24) - 22.5)) * PIXEL_SCALE**2
        image[rng.integers(3)] += peak * line(rng, image.shape[-1], 1.2)


def add_cosmic_rays(rng, pixels):
    """Add 3 to 12 sharp tracks of 0.3 to 10 nmgy per pixel to one band of each image."""
    for image in pixels:
        band = rng.integers(3)
        for _ in range(rng.integers(3, 13)):
            track = line(rng, image.shape[-1], 0.4, length=rng.uniform(2, 14))
            image[band] += np.exp(rng.uniform(np.log(0.3), np.log(10))) * track


def saturate(rng, pixels):
    """Clip one band of each image at a quarter of its central peak, with a bleed trail."""
    for image in pixels:
        plane, middle = image[rng.integers(3)], image.shape[-1] // 2
        level = 0.25 * plane[middle - 3 : middle + 3, middle - 3 : middle + 3].max()
        np.minimum(plane, level, out=plane)
        length = rng.integers(10, middle)
        plane[middle - length : middle + length, middle - 1 : middle + 1] = level


def kill_regions(rng, pixels):
    """Set half of one band of each image to zero, unmasked: a dead amplifier."""
    for image in pixels:
        half = rng.choice([slice(None, 32), slice(32, None)])
        image[rng.integers(3), :, half] = 0.0


def misscale_bands(rng, pixels):
    """Multiply or divide one band of each image by three."""
    for image in pixels:
        image[rng.integers(3)] *= rng.choice([1 / 3, 3.0])


def blend(rng, pairs):
    """Return pairs with another galaxy 1.5 to 4 arcsec away, its light in the fiber too."""
    n = len(pairs["redshift"])
    other = np.roll(np.arange(n), 1)
    image = pairs["image"].astype(np.float32)
    for row in range(n):
        distance, angle = rng.uniform(1.5, 4) / PIXEL_SCALE, rng.uniform(0, 2 * np.pi)
        shift = np.rint(distance * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        image[row] += np.roll(pairs["image"][other[row]].astype(np.float32), shift, axis=(1, 2))
    share = rng.uniform(0.3, 1.0, (n, 1))
    spectrum = pairs["spectrum"].astype(np.float32) + share * pairs["spectrum"][other]
    return {**pairs, "image": image, "spectrum": spectrum}


def in_arm(rng):
    """Return True (P,) in one of DESI's arms."""
    low, high = ARMS[rng.integers(3)]
    return (low <= WAVELENGTH) & (high > WAVELENGTH)


def add_hits(rng, flux, ivar):
    """Add 10 to 40 unmasked cosmic-ray hits, 20 to 200 times the noise."""
    for row in range(len(flux)):
        at = rng.integers(0, flux.shape[1], rng.integers(10, 41))
        flux[row, at] += np.exp(rng.uniform(3, 5.3, len(at))) / np.sqrt(ivar[row, at])


def misscale_arms(rng, flux, ivar):
    """Multiply or divide one arm by two, its errors too."""
    for row in range(len(flux)):
        arm, factor = in_arm(rng), rng.choice([0.5, 2.0])
        flux[row, arm] *= factor
        ivar[row, arm] /= factor**2


def kill_arms(rng, flux, ivar):
    """Leave nothing but noise in one arm."""
    for row in range(len(flux)):
        arm = in_arm(rng)
        flux[row, arm] = rng.standard_normal(arm.sum()) / np.sqrt(ivar[row, arm])


def odd_images(pairs, contaminants):
    """Return batches of odd images by kind."""
    rng = np.random.default_rng((SEED, 1))
    whole = {
        **contaminants, "blend of two galaxies": blend(rng, pairs),
        "blank sky": {**pairs, "image": np.zeros_like(pairs["image"])},
        "all flux x 30": {**pairs, "image": 30 * pairs["image"].astype(np.float32)},
    }
    batches = {
        kind: record_images(made, seed=(SEED, number))
        for number, (kind, made) in enumerate(whole.items())
    }
    changes = {
        "satellite trail": add_trails, "cosmic-ray tracks": add_cosmic_rays,
        "saturated band": saturate, "dead half of a band": kill_regions,
        "one band x 3 or / 3": misscale_bands,
    }
    for number, (kind, change) in enumerate(changes.items()):
        recorded = record_images(pairs, seed=(SEED, 50 + number))
        pixels = recorded.pixels.copy()
        change(rng, pixels)
        batches[kind] = ImageBatch.from_arrays(pixels, pixel_scale=PIXEL_SCALE)
    return batches


def odd_spectra(pairs, contaminants):
    """Return batches of odd spectra by kind."""
    rng = np.random.default_rng((SEED, 2))
    whole = {
        **contaminants, "blend of two galaxies": blend(rng, pairs),
        "blank sky": {**pairs, "spectrum": np.zeros_like(pairs["spectrum"])},
        "all flux x 30": {**pairs, "spectrum": 30 * pairs["spectrum"].astype(np.float32)},
    }
    batches = {
        kind: record_spectra(made, seed=(SEED, number))
        for number, (kind, made) in enumerate(whole.items())
    }
    changes = {
        "cosmic-ray hits": add_hits, "one arm x 2 or / 2": misscale_arms,
        "one arm noise only": kill_arms,
    }
    for number, (kind, change) in enumerate(changes.items()):
        recorded = record_spectra(pairs, seed=(SEED, 50 + number))
        flux, ivar = recorded.flux.copy(), recorded.ivar.copy()
        change(rng, flux, ivar)
        batches[kind] = SpectrumBatch.from_arrays(
            recorded.wavelength, flux, ivar=ivar, mask=recorded.mask
        )
    return batches


def score_oddities(model, reference, usual, odd, modality):
    """Return by method the scores of usual objects and, by kind, of odd ones."""
    reference = reference[np.asarray(reference["modality"]) == modality]
    tables = {kind: embed_quietly(batch, model) for kind, batch in odd.items()}
    usual = embed_quietly(usual, model)
    found = {}
    for method in ("distance", "density"):
        detector = OutlierDetector(method=method).fit(reference)
        found[method] = (
            detector.score(usual), {kind: detector.score(table) for kind, table in tables.items()}
        )
    return found


def outlier_rows(found, modality):
    """Return the rows of the table: areas under the ROC and shares found, by kind."""
    rows = []
    flagged = [f"{np.mean(found[method][0]['outlier']):.1%}" for method in found]
    n_usual = len(next(iter(found.values()))[0])
    rows.append(
        (modality, "usual galaxies", n_usual, "", "1.0%", flagged[0], "", "1.0%", flagged[1])
    )
    for kind in next(iter(found.values()))[1]:
        cells = []
        for usual, odd in found.values():
            scores, label = joined_scores(usual, odd[kind])
            limit = np.quantile(scores[~label], 1 - FALSE_ALARMS)
            cells += [
                f"{roc_auc_score(label, scores):.2f}", f"{np.mean(scores[label] > limit):.0%}",
                f"{np.mean(odd[kind]['outlier']):.0%}",
            ]
        rows.append((modality, kind, len(odd[kind]), *cells))
    return rows


def joined_scores(usual, odd):
    """Return finite scores of usual and odd objects, and which are odd."""
    scores = np.concatenate([np.asarray(usual["score"]), np.asarray(odd["score"])])
    label = np.arange(len(scores)) >= len(usual)
    known = np.isfinite(scores)
    return scores[known], label[known]


def draw_roc(by_modality):
    """Draw a ROC for each kind of oddity, by distance."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 5.6), constrained_layout=True)
    titles = "Images", "Spectra"
    for axis, title, found in zip(axes, titles, by_modality.values(), strict=True):
        usual, odd = found["distance"]
        colors = plt.get_cmap("tab10")(np.arange(len(odd)) % 10)
        for color, (kind, table) in zip(colors, odd.items(), strict=True):
            scores, label = joined_scores(usual, table)
            false, true, _ = roc_curve(label, scores)
            area = roc_auc_score(label, scores)
            axis.plot(np.maximum(false, 1e-3), true, color=color, label=f"{kind}, {area:.2f}")
        axis.plot(np.geomspace(1e-3, 1, 50), np.geomspace(1e-3, 1, 50), color="0.7", ls=":")
        axis.axvline(FALSE_ALARMS, color="0.8", lw=0.8, zorder=0)
        axis.set(
            xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02), xlabel="usual galaxies flagged",
            ylabel="odd objects flagged", title=f"{title}, score by distance",
        )
        axis.legend(
            title="kind, area under the curve", loc="upper center", bbox_to_anchor=(0.5, -0.13),
            ncols=2,
        )
    save(figure, "roc")


def draw_oddities(images, spectra):
    """Draw one object of each kind."""
    columns = max(len(images), len(spectra))
    figure, axes = plt.subplots(
        2, columns, figsize=(1.5 * columns, 3.4), constrained_layout=True, squeeze=False
    )
    for axis in axes.ravel():
        axis.set(xticks=[], yticks=[])
        axis.set_visible(False)
    for axis, (kind, batch) in zip(axes[0], images.items(), strict=False):
        axis.set_visible(True)
        axis.imshow(display_image(batch.pixels[1]), origin="lower")
        axis.set_title(kind, fontsize=6.5)
    for axis, (kind, batch) in zip(axes[1], spectra.items(), strict=False):
        axis.set_visible(True)
        flux = batch.flux[1]
        low, high = np.percentile(flux, [0.5, 99.5])
        axis.plot(batch.wavelength, flux, lw=0.3, color="tab:blue")
        axis.set_ylim(low - 0.2 * (high - low), high + 0.3 * (high - low))
        axis.set_title(kind, fontsize=6.5)
    save(figure, "oddities")


def study_outliers(model, reference, pairs, basis):
    """Draw the figures of outliers and write their table."""
    usual, used = take(pairs, slice(N_USUAL)), take(pairs, slice(N_USUAL, N_USUAL + N_ODD))
    contaminants = {
        "star": make_stars(N_ODD, basis, seed=(SEED, 3)),
        "quasar": make_quasars(N_ODD, basis, seed=(SEED, 4)),
    }
    images, spectra = odd_images(used, contaminants), odd_spectra(used, contaminants)
    draw_oddities(images, spectra)
    by_modality = {
        "image": score_oddities(
            model, reference, record_images(usual, seed=SEED + 2), images, "image"
        ),
        "spectrum": score_oddities(
            model, reference, record_spectra(usual, seed=SEED + 2), spectra, "spectrum"
        ),
    }
    draw_roc(by_modality)
    header = (
        "modality", "kind", "objects", "distance: ROC area", "found at 1 %", "flagged",
        "density: ROC area", "found at 1 %", "flagged",
    )
    rows = [row for name, found in by_modality.items() for row in outlier_rows(found, name)]
    write_rows("outliers", header, rows)


def main():
    """Make every figure and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("data", type=Path)
    options = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(options.pairs)
    basis = load_basis(options.pairs.parent / "basis.npz")
    model, reference = astroclip.load_model("astroclip-small"), astroclip.reference_table()
    with plt.rc_context(STYLE):
        draw_tidal(pairs)
        tasks, notes = tidal_tasks(model, pairs)
        tasks["rings (real images)"] = ring_task(model, options.data)
        rows = draw_learning(tasks)
        labels = [f"{number} labels" for number in TABLE_LABELS]
        header = ("looked for", "prevalence", "labels chosen by", *labels, "found by labeling")
        write_rows("learning", header, rows)
        header = ("r mag/arcsec2", "share of the r light", "S/N of the light in all pixels")
        write_rows("tidal", header, notes)
        study_outliers(model, reference, pairs, basis)


if __name__ == "__main__":
    main()
