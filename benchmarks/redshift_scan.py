"""Scanning spectra with templates: by correlations, and with numpy redshift by redshift.

Run it with ``python benchmarks/redshift_scan.py``. Both get the same spectra and the bundled
model's templates and must find the same evidence. The peer writes the sums over wavelengths out
as matrix products of shifted templates and solves them with `numpy.linalg.solve`, all spectra at
once. It exits with an error if the evidence differs or the scan is not faster.
"""

import sys
import time

import numpy as np
import torch

from astroclip.models import load_model
from astroclip.models.redshift_scan import LEAST_EVIDENCE, contrast

N_SPECTRA, N_PIXELS = 64, 4360
TOLERANCE = 0.05


def written_out(lines, weight, templates, n_lags):
    """Return the log evidence (N, n_lags) relative to the best redshift's."""
    n_bins, total = lines.shape[1], []
    for lag in range(n_lags):
        first, kinds = n_lags - 1 - lag, []
        for mean, *rest in templates[:, :, first : first + n_bins]:
            components = np.array(rest).T
            products = (components[:, :, None] * components[:, None]).reshape(n_bins, -1)
            matrix = (weight @ products).reshape(len(lines), *2 * [len(rest)]) + np.eye(len(rest))
            right = (weight * (lines - mean)) @ components
            fitted = np.linalg.solve(matrix, right[:, :, None])[:, :, 0]
            _, volume = np.linalg.slogdet(matrix)
            value = 0.5 * (right * fitted).sum(axis=1) - 0.5 * volume
            kinds.append(value + (weight * lines) @ mean - 0.5 * weight @ mean**2)
        total.append(np.logaddexp(*kinds))
    total = np.array(total).T
    return np.maximum(total - total.max(axis=1, keepdims=True), LEAST_EVIDENCE)


def main():
    """Time both and compare what they find."""
    scan = load_model("astroclip-small", device="cpu").network.spectrum_encoder.scan
    generator = torch.Generator().manual_seed(1)
    flux = 5 + torch.randn(N_SPECTRA, N_PIXELS, generator=generator)
    ivar, mask = torch.ones_like(flux), torch.rand(flux.shape, generator=generator) < 0.05
    scan(flux, ivar, mask)
    start = time.perf_counter()
    evidence, _ = scan(flux, ivar, mask)
    ours = time.perf_counter() - start
    lines, weight = (part.double().numpy() for part in contrast(flux, ivar, mask))
    start = time.perf_counter()
    expected = written_out(lines, weight, scan.templates.double().numpy(), scan.n_lags)
    peer = time.perf_counter() - start
    difference = np.abs(evidence.numpy() - expected).max()
    print(f"{scan.n_lags} redshifts of {N_SPECTRA} spectra: {1e3 * ours / N_SPECTRA:.2f} ms each")
    print(f"numpy, redshift by redshift: {1e3 * peer / N_SPECTRA:.2f} ms each")
    print(f"ratio {peer / ours:.0f}; largest difference of log evidence {difference:.4f}")
    return 0 if difference < TOLERANCE and ours < peer else 1


if __name__ == "__main__":
    sys.exit(main())
