"""Galaxies seen both ways: select them like surveys do and write noiseless pairs to shards."""

import dataclasses
import multiprocessing
from pathlib import Path

import numpy as np
import torch

from astroclip._files import written
from astroclip.simulation.basis import build_basis, load_basis, save_basis
from astroclip.simulation.images import render_images
from astroclip.simulation.numerics import LARGEST_FLUX
from astroclip.simulation.population import GalaxySample, draw_galaxies
from astroclip.simulation.spectra import SpectrumSimulator
from astroclip.simulation.spectrographs import WAVELENGTH

__all__ = [
    "FLAT",
    "MIX",
    "WIDE",
    "Selection",
    "make_pairs",
    "read_pairs",
    "select_galaxies",
    "write_pairs",
]

PROPERTIES = (
    "redshift",
    "log_stellar_mass",
    "log_ssfr",
    "log_metallicity",
    "bulge_to_total",
    "axis_ratio",
    "dust",
)
RENDER_BATCH = 50
SHARD_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class Selection:
    """One survey-like cut and its share of the galaxies.

    Attributes
    ----------
    share : fraction of all pairs
    r_limit : faintest r magnitude (AB)
    redshift_range : lowest and highest redshift
    quiescent_only : keep only galaxies off the star-forming sequence
    flat_redshift : draw redshifts uniformly instead of by volume
    parent_r_limit : draw the masses of galaxies brighter than this by volume, and redshifts
        uniformly and independently of them
    """

    share: float
    r_limit: float
    redshift_range: tuple = (0.01, 0.6)
    quiescent_only: bool = False
    flat_redshift: bool = False
    parent_r_limit: float | None = None


MIX = (
    Selection(0.60, 19.5),
    Selection(0.25, 20.2, (0.01, 0.65)),
    Selection(0.15, 20.8, (0.35, 0.65), quiescent_only=True),
)
"""The population mix: a BGS-like bright sample, a deeper one and an LRG-like one."""

FLAT = (
    Selection(0.8, 22.0, (0.002, 0.65), flat_redshift=True),
    Selection(0.2, 20.0, (0.001, 0.05), flat_redshift=True),
)
"""Uniform in redshift and down to zero: mostly dwarfs, as there are most of them."""

WIDE = (
    Selection(0.75, 22.0, (0.001, 0.65), parent_r_limit=20.2),
    Selection(0.25, 22.0, (0.001, 0.06), parent_r_limit=20.2),
)
"""Uniform in redshift with the masses of a bright sample, as targeted surveys have them."""


def select_galaxies(rng, n_galaxies, simulator, selection):
    """Draw galaxies and keep those that pass a selection.

    Parameters
    ----------
    rng : `numpy.random.Generator`
    n_galaxies : int
    simulator : `~astroclip.simulation.spectra.SpectrumSimulator`
    selection : `Selection`

    Returns
    -------
    `~astroclip.simulation.population.GalaxySample`
        ``n_galaxies`` galaxies with fluxes.
    """
    kept, n_kept = [], 0
    while n_kept < n_galaxies:
        drawn = draw_galaxies(
            rng,
            2000,
            r_limit=selection.parent_r_limit or selection.r_limit,
            redshift_range=selection.redshift_range,
            flat_redshift=selection.flat_redshift,
            shuffled_redshift=selection.parent_r_limit is not None,
        )
        if selection.quiescent_only:
            drawn = drawn[drawn.quiescent]
        drawn.bulge_flux, drawn.disc_flux = simulator.photometry(drawn)
        magnitude = drawn.r_magnitude
        passed = drawn[(magnitude < selection.r_limit) & (magnitude > 13.5)]
        kept.append(passed)
        n_kept += len(passed)
    return GalaxySample.concatenate(kept)[:n_galaxies]


def select_mix(rng, n_galaxies, simulator, selections):
    """Return galaxies of several selections in their shares, shuffled."""
    counts = [round(selection.share * n_galaxies) for selection in selections[1:]]
    counts = [n_galaxies - sum(counts), *counts]
    parts = [
        select_galaxies(rng, count, simulator, selection)
        for count, selection in zip(counts, selections, strict=True)
        if count
    ]
    return GalaxySample.concatenate(parts)[rng.permutation(n_galaxies)]


def make_pairs(n_pairs, simulator, *, seed, selections=MIX):
    """Simulate galaxies as noiseless images and spectra.

    Parameters
    ----------
    n_pairs : int
    simulator : `~astroclip.simulation.spectra.SpectrumSimulator`
    seed : int or sequence of int
        Fixes every draw.
    selections : sequence of `Selection`

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``image`` (N, 3, 64, 64) float16, g, r, z in nanomaggies per 0.524 arcsec pixel;
        ``seeing`` (N, 3) float32, arcsec; ``spectrum`` (N, 4360) float16, observed
        1e-17 erg/s/cm2/A on ``astroclip.simulation.spectrographs.WAVELENGTH`` (vacuum);
        ``magnitude`` (N, 3) float32, total g, r, z (AB), and ``fibre_magnitude``, of the
        light inside the fiber; ``disc_radius`` and ``bulge_radius``, arcsec; and the
        properties by name.
    """
    rng = np.random.default_rng(seed)
    galaxies = select_mix(rng, n_pairs, simulator, selections)
    images, seeing, spectra, inside = [], [], [], []
    for first in range(0, n_pairs, RENDER_BATCH):
        part = galaxies[first : first + RENDER_BATCH]
        rendered = render_images(rng, part)
        flux = simulator.spectra(
            part, rendered.bulge_fraction, rendered.disc_fraction, WAVELENGTH
        )
        images.append(rendered.pixels.clamp(max=LARGEST_FLUX).numpy().astype(np.float16))
        seeing.append(rendered.seeing.astype(np.float32))
        spectra.append(flux.clamp(max=LARGEST_FLUX).cpu().numpy().astype(np.float16))
        inside.append(
            part.bulge_flux * rendered.bulge_fraction[:, None]
            + part.disc_flux * rendered.disc_fraction[:, None]
        )
    total = galaxies.bulge_flux + galaxies.disc_flux
    return {
        "image": np.concatenate(images),
        "seeing": np.concatenate(seeing),
        "spectrum": np.concatenate(spectra),
        "magnitude": (22.5 - 2.5 * np.log10(total)).astype(np.float32),
        "fibre_magnitude": (22.5 - 2.5 * np.log10(np.concatenate(inside))).astype(np.float32),
        "disc_radius": galaxies.disc_radius.astype(np.float32),
        "bulge_radius": galaxies.bulge_radius.astype(np.float32),
        **{name: getattr(galaxies, name).astype(np.float32) for name in PROPERTIES},
    }


def _write_shard(task):
    """Simulate one shard and write it, complete or not at all (runs in a worker)."""
    path, basis_path, n_pairs, seed, selections = task
    torch.set_num_threads(1)
    simulator = SpectrumSimulator(load_basis(basis_path))
    pairs = make_pairs(n_pairs, simulator, seed=seed, selections=selections)
    # processes of a distributed run may make the same shard: the last one to finish stays
    with written(path) as partial:
        np.savez(partial, **pairs)


def write_pairs(
    folder, n_pairs, *, seed, selections=MIX, n_workers=1, shard_size=SHARD_SIZE,
    show_progress=False,
):
    """Simulate pairs into ``folder`` as shards, resuming where a run stopped.

    Parameters
    ----------
    folder : path-like
        Made if missing; a shard that is there is not made again. The spectral basis is
        kept beside it as ``basis.npz`` of the parent folder.
    n_pairs : int
    seed : int
        Shard k is drawn from the seed sequence ``(seed, k)``: the result does not
        depend on the number of workers or on interruptions.
    selections : sequence of `Selection`
    n_workers : int
        Processes, each with one thread.
    shard_size : int
        Pairs in a shard; another size is another draw.
    show_progress : bool

    Returns
    -------
    list of `pathlib.Path`
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    basis_path = folder.parent / "basis.npz"
    if not basis_path.exists():
        save_basis(build_basis(), basis_path)
    sizes = [min(shard_size, n_pairs - first) for first in range(0, n_pairs, shard_size)]
    paths = [folder / f"pairs-{number:05d}.npz" for number in range(len(sizes))]
    tasks = [
        (path, basis_path, size, (seed, number), selections)
        for number, (path, size) in enumerate(zip(paths, sizes, strict=True))
        if not path.exists()
    ]
    with tqdm(total=len(tasks), unit="shard", disable=not show_progress) as progress:
        if n_workers == 1 or not tasks:
            for task in tasks:
                _write_shard(task)
                progress.update()
        else:
            with multiprocessing.get_context("spawn").Pool(n_workers) as pool:
                for _ in pool.imap_unordered(_write_shard, tasks):
                    progress.update()
    return paths


def read_pairs(folder, *, n_pairs=None):
    """Read shards written by `write_pairs` into memory.

    Parameters
    ----------
    folder : path-like
    n_pairs : int, optional
        Read only the first ones.

    Returns
    -------
    dict of str to `numpy.ndarray`
        As returned by `make_pairs`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no shard.
    """
    paths = sorted(Path(folder).glob("pairs-*.npz"))
    if not paths:
        msg = f"folder {str(folder)!r} holds no pairs-*.npz shard; make some with write_pairs."
        raise FileNotFoundError(msg)
    shards, n_read = [], 0
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
            shards.append({name: archive[name] for name in archive.files})
        n_read += len(shards[-1]["redshift"])
        if n_pairs is not None and n_read >= n_pairs:
            break
    return {name: np.concatenate([shard[name] for shard in shards])[:n_pairs] for name in shards[0]}
