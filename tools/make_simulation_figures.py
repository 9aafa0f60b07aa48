"""Make the figures and the table of docs/user_guide/simulation.rst.

    python tools/make_simulation_figures.py BASIS_NPZ DATA_FOLDER

BASIS_NPZ is the spectral basis that ``astroclip train`` leaves in its workspace;
DATA_FOLDER holds the real catalogs, spectra and images that the simulator is held against.
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import simulation_checks as checks

from astroclip.simulation.basis import load_basis
from astroclip.simulation.spectra import SpectrumSimulator
from astroclip.simulation.spectrographs import WAVELENGTH

OUTPUT = Path(__file__).parents[1] / "docs" / "figures"
REAL, BIASED, SIMULATED = "0.25", "tab:blue", "tab:orange"
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8,
    "legend.frameon": False, "figure.dpi": 130, "savefig.bbox": "tight",
}


def save(figure, name):
    """Write a figure and close it."""
    figure.savefig(OUTPUT / f"simulation_{name}.png")
    plt.close(figure)


def medians(axis, x, y, edges, color, label, *, spread=True):
    """Draw the median and the 16-84 % range of ``y`` in bins of ``x``."""
    center, rows = [], []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (x >= low) & (x < high)
        if inside.sum() > 20:
            center.append((low + high) / 2)
            rows.append(np.percentile(y[inside], [16, 50, 84]))
    low, middle, high = np.array(rows).T
    axis.plot(center, middle, color=color, lw=2, ls="-" if spread else "--", label=label)
    if spread:
        axis.fill_between(center, low, high, color=color, alpha=0.2, lw=0)


def compare_populations(real, simulated):
    """Return the table's rows of redshifts and colors of r < 17.77 galaxies."""
    rows = []
    for name, (z, r, g_r, r_z) in real.items():
        label = {"zoo": "SDSS, Galaxy Zoo", "2mass": "SDSS, 2MASS"}[name]
        sim_z, sim_r, sim_g_r, sim_r_z = simulated
        x, sim_x = (checks.absolute_magnitude(*pair) for pair in ((r, z), (sim_r, sim_z)))
        rows += [
            checks.compare(f"redshift ({label})", z, sim_z),
            checks.compare(f"g - r ({label})", g_r, sim_g_r),
            checks.compare(f"r - z ({label})", r_z, sim_r_z),
            *checks.in_bins(
                f"g - r ({label}), redshift", z, g_r, sim_z, sim_g_r, (0.02, 0.06, 0.1, 0.15, 0.2)
            ),
            *checks.in_bins(
                f"g - r ({label}), absolute r", x, g_r, sim_x, sim_g_r,
                (-23, -22, -21, -20, -19, -18, -17),
            ),
        ]
    return rows


def draw_densities(axes, real, simulated):
    """Draw the distributions of redshift and of g - r."""
    for axis, column, bins in (
        (axes[0], 0, np.linspace(0, 0.3, 41)), (axes[1], 2, np.linspace(0, 1.5, 46)),
    ):
        shown = (
            (real["zoo"], REAL, "-", "SDSS, Galaxy Zoo"),
            (real["2mass"], BIASED, "--", "SDSS, 2MASS"),
            (simulated, SIMULATED, "-", "simulated"),
        )
        for values, color, line, label in shown:
            axis.hist(
                values[column], bins, density=True, histtype="step", color=color, ls=line,
                label=label, lw=1.5,
            )
        axis.set_ylabel("density")
    axes[0].set(xlabel="redshift", title="Redshifts, r < 17.77")
    axes[1].set(xlabel="g - r", title="Colors")
    axes[0].legend(loc="upper right")


def draw_population(galaxies, magnitude, folder):
    """Draw redshifts, colors and sizes of r < 17.77 galaxies; return rows of the table."""
    real = checks.real_main_samples(folder)
    g, r, z = magnitude.T
    simulated = galaxies.redshift, r, g - r, r - z
    size_r, size, size_z = checks.real_sizes(folder)
    sizes = np.log10(size), np.log10(checks.half_light_radius(galaxies))

    figure, axes = plt.subplots(2, 3, figsize=(10, 6.2), constrained_layout=True)
    axes = axes.ravel()
    draw_densities(axes, real, simulated)
    absolute = {
        name: checks.absolute_magnitude(values[1], values[0])
        for name, values in {**real, "simulated": simulated}.items()
    }
    zoo, biased = real["zoo"], real["2mass"]
    panels = (
        (2, zoo[0], zoo[2], simulated[0], g - r, np.linspace(0, 0.25, 11)),
        (3, absolute["zoo"], zoo[2], absolute["simulated"], g - r, np.arange(-24, -16.4, 0.5)),
        (4, size_r, sizes[0], r, sizes[1], np.linspace(14, 17.75, 9)),
        (5, size_z, sizes[0], simulated[0], sizes[1], np.linspace(0.01, 0.25, 9)),
    )
    point = {"s": 2, "alpha": 0.3, "lw": 0, "rasterized": True}
    for number, x, y, sim_x, sim_y, edges in panels:
        axis = axes[number]
        axis.scatter(x, y, color=REAL, **point)
        axis.scatter(sim_x, sim_y, color=SIMULATED, **point)
        medians(axis, x, y, edges, "black", "SDSS, Galaxy Zoo")
        medians(axis, sim_x, sim_y, edges, "tab:red", "simulated")
        if number in (2, 3):
            other = biased[0] if number == 2 else absolute["2mass"]
            medians(axis, other, biased[2], edges, BIASED, "SDSS, 2MASS", spread=False)
    label_population(axes)
    save(figure, "population")
    return compare_populations(real, simulated) + checks.in_bins(
        "log radius / arcsec, r", size_r, sizes[0], r, sizes[1], (15, 16, 17, 17.77)
    )


def label_population(axes):
    """Set the limits and labels of the panels with points."""
    size = {"ylabel": "log half-light radius / arcsec", "ylim": (-0.3, 1.6)}
    axes[2].set(
        xlabel="redshift", ylabel="g - r", title="Color and redshift", xlim=(0, 0.25),
        ylim=(0, 1.8),
    )
    axes[3].set(
        xlabel="r - distance modulus", ylabel="g - r", title="Color and magnitude",
        xlim=(-16.5, -23.9), ylim=(0, 1.6),
    )
    axes[4].set(xlabel="r", title="Size and magnitude", xlim=(14, 17.8), **size)
    axes[5].set(xlabel="redshift", title="Size and redshift", xlim=(0, 0.25), **size)
    axes[2].legend(loc="upper left")


def draw_sky(folder):
    """Draw noise and its correlation against a real field; return rows of the table."""
    real, simulated = checks.real_sky(folder), checks.simulated_sky()
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), constrained_layout=True)
    rows = []
    for band, (name, color) in enumerate(zip("grz", ("tab:green", "tab:red", "0.3"), strict=True)):
        sigma, lags = real[band]
        sims = np.array([one[0] for one in simulated[band]])
        correlations = np.array([one[1] for one in simulated[band]])
        axes[0].hist(np.log10(sims), 15, histtype="step", color=color, label=name, lw=1.5)
        axes[0].axvline(np.log10(sigma), ymax=0.8, color=color, ls="--", label="DR9 field")
        axes[1].plot(range(1, 5), lags, "o", color=color, label=f"{name}, DR9 field")
        if name == "r":
            low, middle, high = np.percentile(correlations, [16, 50, 84], axis=0)
            axes[1].plot(range(1, 5), middle, color=SIMULATED, label="simulated, median and 68 %")
            axes[1].fill_between(range(1, 5), low, high, color=SIMULATED, alpha=0.25, lw=0)
        low, middle, high = np.percentile(sims, [16, 50, 84])
        rows.append(
            (
                f"sky noise in {name}, nmgy per 0.524 arcsec pixel", f"{sigma:.4f}",
                f"{low:.4f} / {middle:.4f} / {high:.4f}", f"{middle - sigma:+.4f}", "",
            )
        )
        low, middle, high = np.percentile(correlations[:, 0], [16, 50, 84])
        rows.append(
            (
                f"correlation of neighboring pixels in {name}", f"{lags[0]:.2f}",
                f"{low:.2f} / {middle:.2f} / {high:.2f}", f"{middle - lags[0]:+.2f}", "",
            )
        )
    axes[0].set(xlabel="log sky noise / nmgy per pixel", ylabel="images")
    axes[1].axhline(0, color="0.8", lw=0.8, zorder=0)
    axes[1].set(xlabel="lag / pixels of 0.524 arcsec", ylabel="correlation", xticks=range(1, 5))
    axes[0].legend(fontsize=7, loc="upper center", ncols=3)
    axes[0].set_ylim(top=1.45 * axes[0].get_ylim()[1])
    axes[1].legend()
    save(figure, "sky")
    return rows


def window_ratio(flux, model):
    """Return where 100 A windows start and the real over the modelled flux in them."""
    edges = np.arange(4000, 9100, 100)
    inside = [np.abs(WAVELENGTH - edge - 50) < 50 for edge in edges]
    return edges, np.array([np.nanmedian(flux[a]) / np.median(model[a]) for a in inside])


def draw_spectra(simulator, folder):
    """Draw real DESI and SDSS spectra above the most similar simulated ones; return rows."""
    reals = {
        "DESI": checks.read_desi(folder),
        "SDSS": checks.read_sdss(folder / "sdss" / "spec-0412-51871-0308.fits")[:4],
    }
    figure, axes = plt.subplots(4, 1, figsize=(9, 8), sharex=True, constrained_layout=True)
    rows = []
    for pair, (name, real) in zip(axes.reshape(2, 2), reals.items(), strict=True):
        flux, sigma = checks.on_model_grid(*real[:3])
        redshift = real[3]
        model, seen = checks.most_similar(
            simulator, flux, sigma, redshift, instrument=name.lower()
        )
        seen = seen * np.nanmedian(flux) / np.nanmedian(seen)
        top = 2.6 * np.nanmedian(flux)
        pair[0].plot(WAVELENGTH, flux, lw=0.5, color=REAL)
        pair[1].plot(WAVELENGTH, seen, lw=0.5, color=SIMULATED)
        pair[0].set_title(f"{name}, z = {redshift:.4f}", loc="left")
        pair[1].set_title("simulated, recorded alike", loc="left")
        for axis in pair:
            axis.set(xlim=(3600, 9830), ylim=(-0.15 * top, top), ylabel="flux")
        start, ratio = window_ratio(flux, model)
        scatter = " / ".join(f"{100 * ratio[a].std():.1f}" for a in (start < 5500, start >= 5500))
        label = f"{name} galaxy over the most similar one, rms in 100 A, below / above 5500 A"
        rows.append((label, "", f"{scatter} %", "", ""))
    axes[-1].set_xlabel("observed wavelength / A")
    save(figure, "spectra")
    return rows


def draw_lines(simulator, galaxies, folder):
    """Draw the diagram of Baldwin, Phillips & Terlevich; return rows of the table."""
    n2, o3, width = checks.line_ratios(simulator, galaxies)
    forming = ~galaxies.quiescent & (galaxies.agn == 0) & (width > 3)
    active, retired = galaxies.agn > 0, galaxies.quiescent & (galaxies.agn == 0) & (width > 0.3)
    figure, axis = plt.subplots(figsize=(4.6, 4.2), constrained_layout=True)
    for chosen, color, label in (
        (forming, "tab:blue", "star-forming"), (retired, "tab:red", "quiescent"),
        (active, "tab:purple", "AGN"),
    ):
        axis.plot(n2[chosen], o3[chosen], ".", ms=2.5, color=color, alpha=0.6, label=label)
    x = np.linspace(-2, 0.02, 200)
    axis.plot(x, 0.61 / (x - 0.05) + 1.3, "k--", lw=1, label="Kauffmann et al. (2003)")
    x = np.linspace(-2, 0.44, 200)
    axis.plot(x, 0.61 / (x - 0.47) + 1.19, "k-", lw=1, label="Kewley et al. (2001)")
    for path in sorted((folder / "sdss").glob("spec-0*.fits")):
        line = checks.read_sdss(path)[4]
        if min(line.values()) > 0:
            label = "SDSS spectra at z = 0.03" if path.name.startswith("spec-0411") else None
            axis.plot(
                np.log10(line["n2"] / line["ha"]), np.log10(line["o3"] / line["hb"]), "k*", ms=9,
                label=label,
            )
    axis.set(
        xlim=(-2, 0.6), ylim=(-1.3, 1.4), xlabel=r"log [N II] 6585 / H$\alpha$",
        ylabel=r"log [O III] 5008 / H$\beta$",
    )
    axis.legend(fontsize=7, loc="lower left")
    save(figure, "lines")
    below = o3 < 0.61 / np.minimum(n2 - 0.05, -1e-3) + 1.3
    above = o3 > np.where(n2 < 0.47, 0.61 / np.minimum(n2 - 0.47, -1e-3) + 1.19, -9)
    shares = (
        ("star-forming galaxies below Kauffmann's line", below[forming]),
        ("AGN above Kewley's line", above[active]),
        ("quiescent galaxies above Kauffmann's line", ~below[retired]),
    )
    return [(name, "", f"{inside.mean():.0%}", "", "") for name, inside in shares]


def draw_contaminants(basis, folder, galaxies):
    """Draw colors of stars, quasars and galaxies; return rows of the table."""
    g_r, r_z, kind, redshift = checks.read_skyserver(folder)
    stars, quasars, quasar_z = checks.simulated_contaminants(basis)
    magnitude = checks.magnitudes(galaxies.bulge_flux + galaxies.disc_flux)
    colors = magnitude[:, 0] - magnitude[:, 1], magnitude[:, 1] - magnitude[:, 2]
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), constrained_layout=True)
    panels = ((axes[0], "STAR", stars), (axes[1], "GALAXY", colors))
    for axis, name, (x, y) in panels:
        real = kind == name
        axis.plot(g_r[real], r_z[real], ".", color=REAL, ms=2, alpha=0.4, label="SDSS")
        axis.plot(x, y, ".", color=SIMULATED, ms=2.5, alpha=0.6, label="simulated")
        axis.set(xlim=(-0.4, 1.9), ylim=(-0.8, 2.6), xlabel="g - r", ylabel="r - z")
        axis.set_title({"STAR": "Stars", "GALAXY": "Galaxies"}[name])
        axis.legend(loc="upper left")
    real = kind == "QSO"
    edges = np.arange(0.3, 3.01, 0.2)
    axes[2].plot(redshift[real], g_r[real], ".", color=REAL, ms=2, alpha=0.4)
    axes[2].plot(quasar_z, quasars[0], ".", color=SIMULATED, ms=2, alpha=0.4)
    medians(axes[2], redshift[real], g_r[real], edges, "black", "SDSS")
    medians(axes[2], quasar_z, quasars[0], edges, "tab:red", "simulated")
    axes[2].set(xlim=(0.3, 3), ylim=(-0.4, 1), xlabel="redshift", ylabel="g - r", title="Quasars")
    axes[2].legend(loc="upper left")
    save(figure, "contaminants")
    star = kind == "STAR"
    return [
        *checks.in_bins(
            "stars' r - z, g - r", g_r[star], r_z[star], *stars, (0.1, 0.3, 0.5, 0.8, 1.2)
        ),
        *checks.in_bins(
            "quasars' g - r, redshift", redshift[real], g_r[real], quasar_z, quasars[0],
            (0.4, 0.8, 1.2, 1.6, 2.2),
        ),
    ]


def main():
    """Make every figure and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("basis", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--n-galaxies", type=int, default=2500)
    options = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    basis = load_basis(options.basis)
    simulator = SpectrumSimulator(basis)
    with plt.rc_context(STYLE):
        galaxies, magnitude = checks.simulated_main_sample(basis, options.n_galaxies)
        rows = draw_population(galaxies, magnitude, options.data)
        rows += draw_sky(options.data)
        rows += draw_spectra(simulator, options.data)
        rows += draw_lines(simulator, galaxies, options.data)
        rows += draw_contaminants(basis, options.data, galaxies)
    with (OUTPUT / "simulation_checks.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("quantity", "real", "simulated", "median offset", "KS distance"))
        writer.writerows(rows)
    for row in rows:
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
