"""Many positions in one mosaic: the ratio to opening and cutting the files once per position.

Run it with ``python benchmarks/mosaics.py``. A mosaic of three bands, a FITS file each, is
written to a temporary folder. The loop opens every band's file, cuts a `Cutout2D` out of its
memory-mapped pixels and builds CCDData, position by position; `prepare_images` then takes the
list. The other side is one call with the paths and the positions. Both run in this one process
on one thread, the best of ``--repeats``; their pixels are compared first. ``--embed`` times
`astroclip.embed` in place of `prepare_images`, ``--tiles`` writes tile-compressed files.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # before numpy is imported

import numpy as np  # noqa: E402
from astropy import units as u  # noqa: E402
from astropy.io import fits  # noqa: E402
from astropy.nddata import CCDData, Cutout2D  # noqa: E402
from astropy.wcs import WCS  # noqa: E402

import astroclip  # noqa: E402
from astroclip.preparation import prepare_images  # noqa: E402

SCALE, CUTOUT = 0.262, 180


def make_wcs(size):
    """Return a tangential projection whose first pixel is where it is for all bands."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [size / 2, size / 2]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    return wcs


def write_mosaic(folder, size, *, tiles):
    """Write one file a band and return their paths by band."""
    header = make_wcs(size).to_header()
    header["BUNIT"] = "nmgy"
    rng, paths = np.random.default_rng(0), {}
    for band in "grz":
        pixels = rng.normal(0.01, 0.02, (size, size)).astype(np.float32)
        hdu = (fits.CompImageHDU if tiles else fits.ImageHDU)(pixels, header)
        hdu.header["FILTER"] = band
        paths[band] = Path(folder) / f"{band}.fits"
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(paths[band])
    return paths


def cut_one_by_one(paths, positions):
    """Return a list of dicts of cutouts, every file opened for every position."""
    cutouts = []
    for position in positions:
        images = {}
        for band, path in paths.items():
            with fits.open(path) as hdus:
                wcs = WCS(hdus[1].header)
                is_tiled = isinstance(hdus[1], fits.CompImageHDU)
                pixels = hdus[1].section if is_tiled else hdus[1].data
                cutout = Cutout2D(pixels, position, CUTOUT, wcs=wcs)
                images[band] = CCDData(
                    cutout.data.astype(np.float32), unit=u.nmgy, wcs=cutout.wcs
                )
        cutouts.append(images)
    return cutouts


def best_time(function, repeats):
    """Return the shortest wall-clock time of a call, in seconds, and its result."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return min(times), result


def main():
    """Time both sides and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--size", type=int, default=4000, help="pixels on a side of the mosaic")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument("--embed", action="store_true")
    options = parser.parse_args()
    x, y = np.random.default_rng(1).uniform(200, options.size - 200, (2, options.positions))
    positions = make_wcs(options.size).pixel_to_world(x, y)
    run = astroclip.embed if options.embed else prepare_images
    with tempfile.TemporaryDirectory() as folder:
        paths = write_mosaic(folder, options.size, tiles=options.tiles)
        pixels = prepare_images(paths, position=positions).pixels
        naive_pixels = prepare_images(cut_one_by_one(paths, positions), position=positions).pixels
        np.testing.assert_allclose(pixels, naive_pixels, atol=1e-6)
        naive, _ = best_time(
            lambda: run(cut_one_by_one(paths, positions), position=positions), options.repeats
        )
        ours, _ = best_time(lambda: run(paths, position=positions), options.repeats)
    print(
        f"{options.positions} positions, {run.__name__}: one by one {naive:.2f} s, "
        f"one mosaic {ours:.2f} s, ratio {naive / ours:.2f}"
    )


if __name__ == "__main__":
    main()
