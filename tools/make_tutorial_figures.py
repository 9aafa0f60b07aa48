"""Make the figures and tables of docs/tutorials from the code that those pages show.

    python tools/make_tutorial_figures.py SHARED_DATA [PAGE ...]

The examples of each page are run as they stand, and what they leave behind is drawn, so that page
and figure cannot differ. SHARED_DATA is the folder with ``fors2/fors2.npz``, for the page on
redshifts. Without PAGE all are made. Run it in the root of a checkout.
"""

import contextlib
import csv
import doctest
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import astroclip
from astroclip.evaluation import read_fors2
from astroclip.metrics import retrieval_ranks
from astroclip.plotting import plot_estimates, plot_image

ROOT = Path(__file__).parents[1]
PAGES, FIGURES = ROOT / "docs" / "tutorials", ROOT / "docs" / "figures"
BLUE, ORANGE, GRAY = "#1f5a96", "#c46a1b", "0.6"
for flag in ("REMOTE_DATA", "IGNORE_OUTPUT"):  # of pytest-doctestplus
    doctest.register_optionflag(flag)
UNITS = {"log_stellar_mass": "log mass / solar", "log_ssfr": "log sSFR / yr"}


def run_page(name):
    """Run the examples of a page that need no network; return the names they leave."""
    text = (PAGES / f"{name}.rst").read_text()
    names = {"__name__": name}
    sys.displayhook = lambda value: None  # what the examples show is for the reader
    for example in doctest.DocTestParser().get_examples(text):
        if "REMOTE_DATA" in example.source or "+SKIP" in example.source:
            continue
        if example.exc_msg is None:  # examples that show an error are for the tests
            with contextlib.redirect_stdout(None):
                exec(compile(example.source, name, "single"), names)
    return names


def write_rows(name, header, rows):
    """Write docs/figures/tutorial_NAME.csv."""
    with (FIGURES / f"tutorial_{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def save(figure, name):
    """Write docs/figures/tutorial_NAME.png."""
    figure.savefig(FIGURES / f"tutorial_{name}.png", dpi=120)


def interval_row(estimates, name, digits):
    """Return an estimate of the first object and the ends of its interval as text."""
    columns = (name, f"{name}_lower", f"{name}_upper")
    values = [f"{float(estimates[column][0]):.{digits}f}" for column in columns]
    return [UNITS.get(name, name), *values]


# ---------------------------------------------------------------------- a
def sdss_spectrum():
    """An SDSS spectrum, its neighbors and its properties."""
    names = run_page("sdss_spectrum")
    shown = names["shown"]
    digits = {"similarity": 3, "redshift": 4, "log_stellar_mass": 2, "log_ssfr": 2}
    rows = [
        [row["neighbor_id"], *(f"{float(row[c]):.{n}f}" for c, n in digits.items())]
        for row in shown
    ]
    header = ["neighbor_id", *(UNITS.get(column, column) for column in digits)]
    write_rows("sdss_neighbors", header, rows)
    estimates = names["estimates"]
    rows = [
        interval_row(estimates, name, n)
        for name, n in (("redshift", 4), ("log_stellar_mass", 2), ("log_ssfr", 2))
    ]
    write_rows("sdss_estimates", ["property", "estimate", "lower", "upper"], rows)
    save(names["ax"].figure, "sdss_neighbors")
    observed = names["index"].query(names["table"], n_neighbors=len(names["alike"]))
    draw_frames(names, observed)


def draw_frames(names, observed):
    """Draw where the neighbors of both models lie in redshift and star formation."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    ax = figure.subplots()
    spectra = names["spectra"]
    ax.scatter(
        spectra["redshift"], spectra["log_ssfr"], s=2, lw=0, color="0.8", rasterized=True,
        label=f"reference ({len(spectra):,})",
    )
    for found, color, marker, label in (
        (observed, BLUE, "o", "nearest 50, observed frame"),
        (names["alike"], ORANGE, "s", "nearest 50, rest frame"),
    ):
        ax.scatter(
            found["redshift"], found["log_ssfr"], s=22, lw=0.4, edgecolor="white", color=color,
            marker=marker, label=label,
        )
    ax.axvline(names["catalog_redshift"], color="black", lw=0.8, ls="--", label="SDSS redshift")
    ax.set(xlabel="redshift", ylabel="log sSFR (1/yr)", xlim=(0, 0.66), ylim=(-13.2, -8.3))
    legend = ax.legend(fontsize=8, framealpha=0.95, edgecolor="none", loc="lower left")
    legend.legend_handles[0].set_sizes([16])
    save(figure, "sdss_rest")


# ---------------------------------------------------------------------- b
def cross_modal():
    """Find images from a spectrum."""
    names = run_page("cross_modal")
    save(names["ax"].figure, "cross_modal")
    back = retrieval_ranks(names["image_vectors"], names["spectrum_vectors"])
    n_galaxies = names["n_galaxies"]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    ax = figure.subplots()
    k = np.unique(np.geomspace(1, n_galaxies, 60).astype(int))
    for ranks, color, label in (
        (names["ranks"], BLUE, "images of a spectrum"), (back, ORANGE, "spectra of an image")
    ):
        share = np.array([(ranks < number).mean() for number in k])
        text = f"{label}: {100 * (ranks < 10).mean():.0f} % among the first 10"
        ax.plot(k, share, color=color, lw=1.6, label=text)
    ax.plot(k, k / n_galaxies, color=GRAY, ls="--", lw=1, label="by chance: 1 %")
    ax.axvline(10, color="0.8", lw=0.8, zorder=0)
    ax.set(
        xscale="log", xlim=(1, n_galaxies), ylim=(0, 1.01), xlabel="k",
        ylabel=f"own partner among the first k of {n_galaxies:,}",
    )
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    save(figure, "cross_modal_ranks")


# ---------------------------------------------------------------------- c
def archives():
    """From a name on the sky to neighbors: the part without a network."""
    names = run_page("archives")
    save(names["ax"].figure, "archives")
    rows = [interval_row(names["estimates"], "redshift", 3)]
    write_rows("archives_estimates", ["property", "estimate", "lower", "upper"], rows)


# ---------------------------------------------------------------------- d
def redshifts(shared):
    """Redshifts without a redshift fitter."""
    names = run_page("redshifts")
    by_neighbors, by_head = names["by_neighbors"], names["by_head"]
    rows = []
    for number, spectrum in enumerate(names["spectra"]):
        flagged = by_head["out_of_distribution"][number]
        rows.append([
            spectrum.meta["id"], f"{names['catalog'][number]:.4f}",
            f"{float(by_neighbors['redshift'][number]):.4f}",
            f"{float(by_head['redshift'][number]):.4f}",
            f"{float(by_head['redshift_confidence'][number]):.2f}",
            "yes" if flagged else "no",
        ])
    header = ["spectrum", "catalog", "k-NN", "head", "confidence", "flagged"]
    write_rows("redshifts", header, rows)
    draw_distributions(names)
    fors2_figures(names, shared)


def draw_distributions(names):
    """Draw the head's distribution of each spectrum, with catalog and k-NN redshifts."""
    figure = Figure(figsize=(8.2, 2.9), layout="constrained")
    for number, ax in enumerate(figure.subplots(1, 3)):
        probability = names["probability"][number]
        # a bin is narrower than a line: the other redshifts are marked above the curve
        ax.plot(names["redshift"], probability / probability.max(), color=BLUE, lw=1.5)
        found = float(names["by_neighbors"]["redshift"][number])
        marks = ((names["catalog"][number], "black", "catalog"), (found, ORANGE, "k-NN"))
        for height, (redshift, color, label) in zip((1.1, 1.2), marks, strict=True):
            ax.plot(redshift, height, "v", color=color, ms=5, label=label)
        flagged = names["by_head"]["out_of_distribution"][number]
        confidence = float(names["by_head"]["redshift_confidence"][number])
        state = "flagged" if flagged else "not flagged"
        name = names["spectra"][number].meta["id"]
        ax.set_title(f"{name}\nconfidence {confidence:.2f}, {state}", fontsize=8)
        ax.set(xlim=(0, 0.66), ylim=(0, 1.3), xlabel="redshift", yticks=[])
    ax.legend(fontsize=8, frameon=False)
    figure.axes[0].set_ylabel("probability, head")
    save(figure, "redshift_distributions")


def fors2_figures(names, shared):
    """Draw how head redshifts of real galaxies do, and what keeping the surer ones buys."""
    spectra, true = read_fors2(Path(shared) / "fors2" / "fors2.npz")
    table = astroclip.embed(spectra)
    usable = np.isfinite(np.asarray(table["embedding"])).all(axis=1)
    table, true = table[usable], true[usable]
    by_head, by_neighbors = (names[name].predict(table) for name in ("head", "neighbors"))
    found = np.asarray(by_head["redshift"])
    confidence = np.asarray(by_head["redshift_confidence"])
    error = np.abs(found - true) / (1 + true)
    figure = Figure(figsize=(8.2, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_estimates(by_head, true, ax=left)
    left.set(xlabel="true redshift (FORS2)", ylabel="redshift of the head")
    draw_kept(right, error, confidence)
    save(figure, "redshift_trust")

    unusual = np.asarray(by_head["out_of_distribution"])
    agree = np.abs(found - np.asarray(by_neighbors["redshift"])) < 0.01 * (1 + found)
    rules = {
        "all": np.ones(len(error), bool),
        "not out of distribution": ~unusual,
        "confidence above 0.9": confidence > 0.9,
        "head and k-NN agree": agree,
        "all three": ~unusual & (confidence > 0.9) & agree,
    }
    rows = [
        [rule, int(kept.sum()), *(f"{100 * (error[kept] > limit).mean():.1f} %"
                                  for limit in (0.01, 0.05))]
        for rule, kept in rules.items() if kept.any()
    ]
    write_rows("redshift_rules", ["rule", "kept", "beyond 0.01", "beyond 0.05"], rows)


def draw_kept(ax, error, confidence):
    """Draw the wrong fraction among the most confident objects against the part kept."""
    order = np.argsort(-confidence)
    kept = np.arange(1, len(order) + 1)
    for limit, color in ((0.01, BLUE), (0.05, ORANGE)):
        wrong = np.cumsum(error[order] > limit) / kept
        ax.plot(kept[9:] / len(order), wrong[9:], color=color, label=f"wrong by more than {limit}")
    expected = np.cumsum(1 - confidence[order]) / kept
    ax.plot(kept[9:] / len(order), expected[9:], color=GRAY, ls="--",
            label="expected from the confidences (0.01)")
    ax.set(xlabel="part kept, most confident first", ylabel="wrong fraction", xlim=(0, 1),
           ylim=(0, None))
    ax.grid(color="0.92", lw=0.6)
    ax.legend(fontsize=8, frameon=False)


# ---------------------------------------------------------------------- e
def five_examples():
    """From five examples to five hundred."""
    names = run_page("five_examples")
    thin, found = names["thin"], names["found"]
    ranked = names["search"].rank(new_only=True)
    hits = np.cumsum(names["is_thin"](ranked["id"]))
    start = astroclip.discovery.ExampleSearch(names["images"])
    start.label(names["examples"], True)
    first_hits = np.cumsum(names["is_thin"](start.rank(new_only=True)["id"]))

    figure = Figure(figsize=(8.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(5 + 20 * np.arange(len(found)), found, "o-", color=BLUE, label="search")
    left.axhline(thin.mean(), color=GRAY, ls="--", label="by chance")
    left.set(xlabel="images labeled", ylabel="thin discs among the best 100", ylim=(0, 1))
    right.plot(np.arange(1, len(hits) + 1), hits, color=BLUE, label="after five rounds")
    right.plot(np.arange(1, len(first_hits) + 1), first_hits, color=ORANGE,
               label="five examples only")
    right.plot([0, len(hits)], [0, hits[-1]], color=GRAY, ls="--", label="by chance")
    right.set(xlabel="ranked images looked at", ylabel="thin discs found", xlim=(0, 4000),
              ylim=(0, 1.05 * hits[-1]))
    for ax in (left, right):
        ax.grid(color="0.92", lw=0.6)
        ax.legend(fontsize=8, frameon=False)
    save(figure, "examples_rounds")

    rows = [
        [f"{n:,}", f"{int(first_hits[n - 1])}", f"{int(hits[n - 1])}", f"{n * thin.mean():.0f}"]
        for n in (20, 100, 500, 2000)
    ]
    write_rows("examples", ["best ranked", "five examples", "after five rounds", "by chance"], rows)
    draw_found(names)


def draw_found(names):
    """Draw the five examples over the best six candidates."""
    figure = Figure(figsize=(8.2, 3.2), layout="constrained")
    axes = figure.subplots(2, 6)
    rows = (
        (astroclip.reference_previews(names["examples"])["image"], names["examples"], "example"),
        (names["previews"]["image"], names["best"]["id"], "rank"),
    )
    for line, (pictures, ids, kind) in zip(axes, rows, strict=True):
        for ax in line:
            ax.set_axis_off()
        for number, (ax, picture, name) in enumerate(zip(line, pictures, ids, strict=False)):
            ax.set_axis_on()
            right = "" if kind == "example" else (", thin" if names["answers"][name] else ", other")
            plot_image(picture, ax=ax, title=f"{kind} {number + 1}{right}\n{name}")
    save(figure, "examples_found")


# ---------------------------------------------------------------------- f
def published_models():
    """Our outputs against those of the reference implementation."""
    names = run_page("published_models")
    figure = Figure(figsize=(8.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, color in (("spectra", BLUE), ("images", ORANGE)):
        stored = names["stored"][f"{'spectrum' if kind == 'spectra' else 'image'}_embedding"]
        difference = np.abs(names[kind] - stored).ravel()
        left.scatter(stored, names[kind], s=12, lw=0, alpha=0.7, color=color, label=kind)
        right.hist(np.clip(difference, 1e-9, None), bins=np.geomspace(1e-9, 1e-4, 41),
                   color=color, alpha=0.6, label=f"{kind}, largest {difference.max():.1e}")
    left.axline((0, 0), slope=1, color="0.4", lw=0.8, zorder=0)
    left.set(xlabel="reference implementation", ylabel="astroclip", title="values of embeddings")
    right.axvline(2e-5, color="black", ls="--", lw=1, label="limit of the test")
    right.set_ylim(0, 1.35 * right.get_ylim()[1])
    right.set(xscale="log", xlabel="absolute difference", ylabel="number of values")
    for ax in (left, right):
        ax.legend(fontsize=8, frameon=False)
    save(figure, "published")


def main():
    """Make the figures of the pages that are named, or of all."""
    shared, wanted = sys.argv[1], sys.argv[2:]
    makers = {
        "sdss_spectrum": sdss_spectrum,
        "cross_modal": cross_modal,
        "archives": archives,
        "redshifts": lambda: redshifts(shared),
        "five_examples": five_examples,
        "published_models": published_models,
    }
    for name, make in makers.items():
        if not wanted or name in wanted:
            make()
            print(f"made the figures of {name}")


if __name__ == "__main__":
    main()
