"""Preparation on one core: rates, and ratios to specutils and to a loop over images.

Run it with ``python benchmarks/preparation.py``. Everything is timed in this one process on
one thread: the best of ``--repeats`` runs, wall clock. Before a ratio is printed the results
of both sides are compared; a difference, or with ``--strict`` a missed target, is an error.

Spectra have 4600 pixels (10 ** 3.55 Angstrom and up, 1e-4 dex, 1 % of them bad) and go to
the 7781 pixels of DESI's grid. "Arrays" lines time `astroclip.preparation.resample_flux`
alone; "objects" lines time `astroclip.preparation.prepare_spectra` from specutils Spectrum
objects to a batch: units, uncertainties, masks, resampling, interpolation of bad pixels,
coverage and flags. Making the Spectrum objects is not timed.
"""

import argparse
import os
import sys
import time

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
from astropy import units as u  # noqa: E402
from astropy.nddata import CCDData, InverseVariance  # noqa: E402
from specutils import Spectrum  # noqa: E402
from specutils.manipulation import FluxConservingResampler  # noqa: E402

from astroclip.preparation import (  # noqa: E402
    log_grid,
    normalize_images,
    prepare_images,
    prepare_spectra,
    resample_flux,
    wavelength_grid,
)
from astroclip.preparation.batches import FLUX_UNIT  # noqa: E402

N_PIXELS = 4600
SHARED_TARGET, OWN_TARGET, IMAGE_TARGET, RATIO_TARGET = 2000, 500, 300, 300


def make_spectra(n_spectra, rng, *, shared):
    """Return wavelengths (P,) or (N, P), and flux, ivar and mask (N, P)."""
    wavelength = log_grid(10**3.55, 1e-4, N_PIXELS)
    if not shared:
        wavelength = wavelength * (1 + 1e-4 * rng.random((n_spectra, 1)))
    shape = (n_spectra, N_PIXELS)
    flux = 5 + np.sin(wavelength / 100) + 0.3 * rng.normal(size=shape)
    return wavelength, flux, rng.uniform(5, 15, shape), rng.random(shape) < 0.01


def as_objects(wavelength, flux, ivar, mask):
    """Return Spectrum objects of arrays."""
    grids = np.broadcast_to(wavelength, flux.shape)
    return [
        Spectrum(
            flux=flux[row] * FLUX_UNIT,
            spectral_axis=grids[row] * u.AA,
            uncertainty=InverseVariance(ivar[row]),
            mask=mask[row],
        )
        for row in range(len(flux))
    ]


def make_images(n_images, rng):
    """Return dicts of band to CCDData: 152 x 152 pixels in nanomaggies, with ivar and mask."""
    shape = (152, 152)
    return [
        {
            band: CCDData(
                (0.02 * rng.normal(size=shape) + rng.exponential(0.02, shape)).astype(np.float32),
                unit=u.nmgy,
                uncertainty=InverseVariance(np.full(shape, 2500.0, np.float32)),
                mask=rng.random(shape) < 0.001,
            )
            for band in "grz"
        }
        for _ in range(n_images)
    ]


def display_one(image):
    """Return the display image of one object (3, S, S), bands g, r, z, as published codes do."""
    scaled = [
        image[band].astype(np.float32) * np.float32(scale) + np.float32(0.03)
        for band, scale in enumerate((6.0, 3.4, 2.2))
    ]
    intensity = sum(np.maximum(plane, 0) for plane in scaled) / np.float32(3)
    stretch = np.arcsinh(20 * intensity) / np.float32(np.sqrt(20))
    stretch /= np.where(intensity == 0, np.float32(1e-6), intensity)
    return np.stack([np.clip(scaled[band] * stretch, 0, 1) for band in (2, 1, 0)])


def best_time(function, repeats):
    """Return the result of a function and the seconds of its fastest run."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


class Report:
    """Prints lines and remembers missed targets."""

    def __init__(self):
        self.missed = []

    def line(self, what, value, unit, target=None):
        """Print one figure with its target, if there is one."""
        text = f"{what:<66} {value:>9,.{0 if value > 20 else 1}f} {unit}"
        if target is not None:
            met = value >= target
            text += f"  (target {target:,}: {'met' if met else 'MISSED'})"
            if not met:
                self.missed.append(what)
        print(text, flush=True)


def compare_with_specutils(arrays, rate, grid, n_spectra, report):
    """Print how much faster than specutils' resampler ours is, after comparing the fluxes."""
    wavelength, flux, ivar, mask = arrays
    good = np.zeros_like(mask[:n_spectra])  # specutils lets masked pixels leak: none here
    spectra = as_objects(wavelength, flux[:n_spectra], ivar[:n_spectra], good)
    for spectrum in spectra:
        spectrum.uncertainty = None
    resample = FluxConservingResampler()
    expected, seconds = best_time(lambda: [resample(s, grid * u.AA) for s in spectra], 1)
    ours = resample_flux(wavelength, flux[:n_spectra], ivar[:n_spectra], good, grid)
    for row, spectrum in enumerate(expected):
        covered = ours.coverage[row] > 1 - 1e-9
        difference = np.abs(ours.flux[row] / spectrum.flux.value - 1)[covered].max()
        if difference > 1e-9:
            sys.exit(f"fluxes differ from specutils' by {difference:.1e}")
    report.line("specutils FluxConservingResampler, flux only", n_spectra / seconds, "spectra/s")
    ratio = rate * seconds / n_spectra
    report.line("  ratio of arrays on a shared grid to it (same fluxes)", ratio, "x", RATIO_TARGET)


def measure_spectra(options, rng, report):
    """Print the rates of spectra on shared and individual grids."""
    grid = wavelength_grid("desi")
    rates = {}
    for shared, target in ((True, SHARED_TARGET), (False, OWN_TARGET)):
        arrays = make_spectra(options.n_spectra, rng, shared=shared)
        objects = as_objects(*arrays)
        where = "on a shared grid" if shared else "each on its own grid"
        new, seconds = best_time(lambda a=arrays: resample_flux(*a, grid), options.repeats)
        rates[shared] = options.n_spectra / seconds
        report.line(f"arrays: resample_flux, {where}", rates[shared], "spectra/s", target)
        batch, seconds = best_time(
            lambda o=objects: prepare_spectra(o, wavelength=grid), options.repeats
        )
        if not np.allclose(batch.flux[~batch.mask], new.flux[~new.mask], rtol=1e-6):
            sys.exit("prepare_spectra and resample_flux differ")
        rate = options.n_spectra / seconds
        report.line(f"objects: prepare_spectra from a list, {where}", rate, "spectra/s", target)
        if shared:
            _, flux, ivar, mask = arrays
            stack = Spectrum(
                flux=flux * FLUX_UNIT,
                spectral_axis=arrays[0] * u.AA,
                uncertainty=InverseVariance(ivar),
                mask=mask,
            )
            _, seconds = best_time(lambda s=stack: prepare_spectra(s), options.repeats)
            rate = options.n_spectra / seconds
            what = "objects: prepare_spectra from one Spectrum with 2-D flux"
            report.line(what, rate, "spectra/s", target)
            compare_with_specutils(arrays, rates[True], grid, options.n_specutils, report)


def measure_images(options, rng, report):
    """Print the rates of images and the ratio of the display transform to a loop."""
    images = make_images(options.n_images, rng)

    def prepare():
        batch = prepare_images(images, image_scale=0.262)
        return normalize_images(batch.pixels, bands="grz", normalization="astroclip")

    _, seconds = best_time(prepare, options.repeats)
    what = "objects: prepare_images + display, 3 x 152 x 152 on scale"
    report.line(what, options.n_images / seconds, "images/s", IMAGE_TARGET)
    pixels = prepare_images(images, image_scale=0.262).pixels
    shown, seconds = best_time(
        lambda: normalize_images(pixels, bands="grz", normalization="astroclip"), options.repeats
    )
    looped, loop_seconds = best_time(
        lambda: np.stack([display_one(image) for image in pixels]), options.repeats
    )
    if not np.allclose(shown, looped, rtol=1e-5, atol=1e-6):
        sys.exit("the display transform differs from the loop's")
    report.line("arrays: display transform alone", options.n_images / seconds, "images/s")
    report.line("the same image by image in numpy", options.n_images / loop_seconds, "images/s")
    report.line("  ratio of the two (same pixels)", loop_seconds / seconds, "x")


def main(arguments=None):
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-spectra", type=int, default=512)
    parser.add_argument("--n-specutils", type=int, default=8)
    parser.add_argument("--n-images", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strict", action="store_true", help="fail if a target is missed")
    options = parser.parse_args(arguments)
    report, rng = Report(), np.random.default_rng(0)
    measure_spectra(options, rng, report)
    measure_images(options, rng, report)
    if options.strict and report.missed:
        sys.exit(f"missed: {'; '.join(report.missed)}")


if __name__ == "__main__":
    main()
