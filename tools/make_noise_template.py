"""Make astroclip/data/desi_noise.npz: noise per pixel of real DESI coadds on the model's grid.

    python tools/make_noise_template.py COADD_FITS GRID_NPZ

COADD_FITS is a DESI coadd of one object (three arms); GRID_NPZ holds ``wavelength`` and
``ivar`` of a merged one. Only the noise, sqrt(1 / ivar), is kept, divided by its median
at 6400-7200 A. DESI public data, CC BY 4.0, credit: DESI collaboration.
"""

import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

from astroclip.simulation.spectrographs import NOISE_FILE, NORMALIZATION_RANGE, WAVELENGTH

NATIVE = 3600.0 + 0.8 * np.arange(7781)


def coadd_ivar(path):
    """Return the summed inverse variance of a coadd's three arms on the 0.8 A grid."""
    total = np.zeros(len(NATIVE))
    with fits.open(path) as hdus:
        for arm in "BRZ":
            pixel = np.rint((hdus[f"{arm}_WAVELENGTH"].data - NATIVE[0]) / 0.8).astype(int)
            good = hdus[f"{arm}_MASK"].data[0] == 0
            np.add.at(total, pixel, hdus[f"{arm}_IVAR"].data[0] * good)
    return total


def relative_noise(ivar):
    """Return sigma on the model's grid, one at 6400-7200 A; gaps are interpolated."""
    good = ivar > 0
    variance = np.interp(NATIVE, NATIVE[good], 1 / ivar[good])
    cumulative = np.concatenate([[0.0], np.cumsum(variance)])
    native_edges = np.append(NATIVE - 0.4, NATIVE[-1] + 0.4)
    half = 10**0.5e-4
    low, high = (np.interp(WAVELENGTH * f, native_edges, cumulative) for f in (1 / half, half))
    n_native = WAVELENGTH * (half - 1 / half) / 0.8
    sigma = np.sqrt((high - low) / n_native**2)  # of the mean of n_native pixels
    blue, red = NORMALIZATION_RANGE
    inside = np.abs(WAVELENGTH - (blue + red) / 2) < (red - blue) / 2
    return sigma / np.median(sigma[inside])


def main():
    """Write the noise template of a coadd and of a merged spectrum, named on the command line."""
    coadd, grid = map(Path, sys.argv[1:])
    with np.load(grid) as archive:
        merged = archive["ivar"].astype(float)
    sigma = np.array([relative_noise(coadd_ivar(coadd)), relative_noise(merged)])
    np.savez_compressed(NOISE_FILE, sigma=sigma.astype(np.float16))


if __name__ == "__main__":
    main()
