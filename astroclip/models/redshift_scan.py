"""Redshifts by scanning: how well templates of galaxies fit a spectrum at every redshift.

A convolutional encoder learns to find lines. In a spectrum of low signal-to-noise ratio the
redshift is in hundreds of faint absorption features at once; redshift surveys find it by comparing
the spectrum with templates. On a logarithmic grid the comparison at all redshifts is a
correlation, which costs a few Fourier transforms.

Shapes: N spectra of P pixels, B = P // 2 bins, R bins of the rest frame, K components of a class.
"""

import math

import torch
from scipy.fft import next_fast_len
from torch import nn
from torch.nn import functional

__all__ = ["LAG_STEP", "RedshiftScan", "ScanPath", "contrast", "n_lags", "rest_pixels"]

BINNING = 2  # pixels of the model's grid
LOG_STEP = 1e-4  # log10 of wavelength, of the model's grid
LAG_STEP = BINNING * LOG_STEP * math.log(10)
"""Natural logarithm of 1 + z from one redshift of a scan to the next: 140 km/s."""
CONTINUUM_SCALE = 120.0  # bins: standard deviation of what is divided by
CONTRAST_RANGE = (-3.0, 8.0)  # clips cosmic rays and the brightest lines
LEAST_CONTINUUM = 0.05  # of the mean flux; bins with less have no contrast
DISCREPANCY = 0.02  # rms difference between a galaxy's contrast and any sum of templates
ROWS = 32  # spectra scanned at a time, so that intermediate arrays stay in the processor's cache
LEAST_EVIDENCE = -40.0  # natural logarithm against the best redshift: e^-40 is zero
N_KNOTS = 64  # of the prior that the encoder's other features give, even in log(1 + z)
N_FREQUENCIES = 24  # of the characteristic function: half a cycle to 256 over all redshifts


def n_lags(largest):
    """Return how many redshifts are scanned from zero to ``largest``."""
    return math.ceil(math.log1p(largest) / LAG_STEP) + 1


def rest_pixels(n_pixels, largest):
    """Return the length of templates: the rest frame of spectra (P) at all redshifts."""
    return n_pixels // BINNING + n_lags(largest) - 1


def contrast(flux, ivar, mask):
    """Return spectra divided by their continuum, less one, and its inverse variance.

    Parameters
    ----------
    flux, ivar : (N, P) `torch.Tensor`
    mask : (N, P) bool `torch.Tensor`
        True where there is no valid data.

    Returns
    -------
    contrast, weight : (N, P // 2) `torch.Tensor`
        In bins of two pixels; both zero where there is no data or no light. Errors of the
        calibration over wide ranges, dust and brightness are divided out.
    """
    n_bins = flux.shape[1] // BINNING
    good = ~mask & (ivar > 0)
    flux, ivar = (
        torch.where(good, values, 0.0)[:, : n_bins * BINNING].unflatten(1, (n_bins, BINNING))
        for values in (flux, ivar)
    )
    weight = ivar.sum(dim=2)
    flux = (ivar * flux).sum(dim=2) / weight.clamp(min=1e-30)
    relative = weight / weight.mean(dim=1, keepdim=True).clamp(min=1e-30)
    smooth = _smooth(torch.stack([relative * flux, relative], dim=1))  # (N, 2, B)
    continuum = smooth[:, 0] / smooth[:, 1].clamp(min=1e-6)
    least = LEAST_CONTINUUM * (relative * flux).mean(dim=1, keepdim=True).abs()
    lit = (weight > 0) & (smooth[:, 1] > 1e-3) & (continuum > least.clamp(min=1e-4))
    continuum = torch.where(lit, continuum, 1.0)
    lines = (flux / continuum - 1).clamp(*CONTRAST_RANGE)
    variance = 1 / (weight * continuum**2).clamp(min=1e-12) + DISCREPANCY**2
    return torch.where(lit, lines, 0.0), torch.where(lit, 1 / variance, 0.0)


def _smooth(values):
    """Return values (..., B) convolved with a Gaussian, zero beyond their ends."""
    n_bins = values.shape[-1]
    length = next_fast_len(n_bins + 4 * int(CONTINUUM_SCALE), real=True)
    distance = torch.arange(length, device=values.device)
    distance = torch.minimum(distance, length - distance)
    kernel = torch.exp(-0.5 * (distance / CONTINUUM_SCALE) ** 2)
    transform = torch.fft.rfft(kernel / kernel.sum())
    return torch.fft.irfft(torch.fft.rfft(values, n=length) * transform, n=length)[..., :n_bins]


class RedshiftScan(nn.Module):
    r"""The evidence for every redshift from several classes of galaxies.

    The contrast of a class of galaxies is a Gaussian: a mean :math:`\mu` and principal components
    :math:`T` times normal coefficients. With the inverse variances :math:`W` of a spectrum's
    contrast :math:`d`, all shifted to the same frame,

    .. math::
        \ln p(d|z) = \tfrac12 b^T A^{-1} b - \tfrac12 \ln |A| + \mu^T W (d - \tfrac12 \mu)
        + \mathrm{const}, \quad A = 1 + T^T W T, \quad b = T^T W (d - \mu),

    and the classes' likelihoods add up. All sums over wavelengths are correlations.

    Parameters
    ----------
    n_pixels : int
        Length of the model's grid, even in log10 of wavelength with a step of 0.0001.
    largest : float
        Redshift that the scan goes to, from zero.
    n_classes, n_components : int

    Attributes
    ----------
    templates : (n_classes, 1 + n_components, R) `torch.Tensor`
        Mean and components of each class, from
        `~astroclip.training.templates.fit_templates`; all zero, which tells nothing, at first.

    Notes
    -----
    Redshift surveys scan with principal components (Glazebrook, Offer & Deeley 1998, ApJ 492,
    98; Bolton et al. 2012, AJ 144, 144); with a prior on their coefficients (Tipping & Bishop
    1999, J. R. Stat. Soc. B 61, 611) none is too free to fit noise.
    """

    def __init__(self, n_pixels, *, largest, n_classes=2, n_components=3):
        super().__init__()
        self.largest, self.n_lags = largest, n_lags(largest)
        shape = (n_classes, 1 + n_components, rest_pixels(n_pixels, largest))
        self.register_buffer("templates", torch.zeros(shape))

    @property
    def n_measured(self):
        """Length of what is measured beside the evidence."""
        n_classes, n_rows, _ = self.templates.shape
        return n_classes * n_rows + 1

    @torch.no_grad()
    def forward(self, flux, ivar, mask):
        """Scan spectra.

        Parameters
        ----------
        flux, ivar : (N, P) `torch.Tensor`
        mask : (N, P) bool `torch.Tensor`
            True where there is no valid data.

        Returns
        -------
        evidence : (N, n_lags) `torch.Tensor`
            Natural logarithm, relative to the best redshift's.
        measured : (N, n_measured) `torch.Tensor`
            How far the best redshift stands out; for each class, the logarithm of its share there;
            and the arcsinh of its coefficients.
        """
        with torch.autocast(flux.device.type, enabled=False):
            lines, weight = contrast(flux.float(), ivar.float(), mask)
            templates = self.templates.float()
            length = next_fast_len(templates.shape[2], real=True)
            first, second = self._pairs()
            products = templates[:, first] * templates[:, second]
            transforms = [torch.fft.rfft(part, n=length) for part in (templates, products)]
            parts = [
                self._scan(
                    lines[start : start + ROWS], weight[start : start + ROWS], *transforms, length
                )
                for start in range(0, len(lines), ROWS)
            ]
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def _pairs(self):
        """Return the numbers of the templates in each product of two."""
        n_rows = self.templates.shape[1]
        return torch.triu_indices(n_rows, n_rows, device=self.templates.device)

    def _scan(self, lines, weight, templates, products, length):
        """Return evidence (N, n_lags) and what is measured (N, F) of a few spectra."""
        known, weighted = (
            torch.fft.rfft(values, n=length).conj()[:, None] for values in (weight, weight * lines)
        )
        parts = []
        for template, product in zip(templates, products, strict=True):
            projected = self._correlation(weighted * template, length)
            parts.append(self._fit(projected, self._correlation(known * product, length)))
        evidence = torch.stack([part[0] for part in parts], dim=1)
        total = torch.logsumexp(evidence, dim=1)
        best = total.argmax(dim=1)
        row = torch.arange(len(best), device=best.device)
        peak = total[row, best, None]
        share = (evidence[row, :, best] - peak).clamp(min=LEAST_EVIDENCE / 4)
        coefficients = [torch.asinh(part[1][row, :, best]) for part in parts]
        above = torch.log1p((peak - total.mean(dim=1, keepdim=True)).clamp(min=0))
        measured = torch.cat([above / 4, share / 4, *coefficients], dim=1)
        return (total - peak).clamp(min=LEAST_EVIDENCE), measured

    def _correlation(self, transform, length):
        """Return correlations (N, F, n_lags) with templates at every redshift."""
        return torch.fft.irfft(transform, n=length)[:, :, : self.n_lags].flip(2)

    def _fit(self, projected, products):
        """Return log evidence (N, n_lags) and coefficients (N, K, n_lags) of one class.

        The Cholesky factor of every redshift's matrix A is computed element by element, for all
        spectra and redshifts at once: matrices are 3 x 3 and a spectrum has thousands.
        """
        n_rows = self.templates.shape[1]
        matrix = {
            pair: products[:, k] for k, pair in enumerate(zip(*self._pairs().tolist(), strict=True))
        }
        evidence = projected[:, 0] - 0.5 * matrix[0, 0]
        factor, solved = {}, []
        for i in range(1, n_rows):
            value = projected[:, i] - matrix[0, i]
            pivot = 1 + matrix[i, i]
            for k, other in enumerate(solved, start=1):
                pivot = pivot - factor[i, k] ** 2
                value = value - factor[i, k] * other
            scale = pivot.clamp(min=1e-3).rsqrt()
            for j in range(i + 1, n_rows):
                element = matrix[i, j]
                for k in range(1, i):
                    element = element - factor[i, k] * factor[j, k]
                factor[j, i] = element * scale
            factor[i, i] = scale
            solved.append(value * scale)
            evidence = evidence + 0.5 * solved[-1] ** 2 + scale.log()
        coefficients = []
        for i in range(n_rows - 1, 0, -1):
            value = solved[i - 1]
            for j, later in zip(range(n_rows - 1, i, -1), coefficients, strict=True):
                value = value - factor[j, i] * later
            coefficients.append(value * factor[i, i])
        return evidence, torch.stack(coefficients[::-1], dim=1)


class ScanPath(nn.Module):
    """From a scan to the hidden units of a projection, zero at first.

    The encoder's other features give a prior over redshift, which is multiplied with the
    evidence: colors decide between redshifts that lines alone cannot tell apart. The projection
    sees the characteristic function of the posterior, whose high frequencies have large
    amplitudes where the redshift is certain.

    Parameters
    ----------
    n_pooled : int
        The encoder's other features of a spectrum.
    scan : `RedshiftScan`
    n_hidden : int
        Hidden units of the projection.
    """

    def __init__(self, n_pooled, scan, n_hidden):
        super().__init__()
        self.n_lags = scan.n_lags
        self.prior = nn.Sequential(
            nn.LayerNorm(n_pooled), nn.Linear(n_pooled, N_KNOTS), nn.GELU(),
            nn.Linear(N_KNOTS, N_KNOTS + 1),
        )
        self.join = nn.Linear(2 * N_FREQUENCIES + scan.n_measured, n_hidden)
        for layer in (self.prior[-1], self.join):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def log_posterior(self, pooled, evidence):
        """Return the logarithms (N, n_lags) of redshifts' probabilities."""
        # bfloat16 would round evidence to what separates redshifts
        with torch.autocast(pooled.device.type, enabled=False):
            knots, trust = self.prior(pooled.float()).tensor_split([N_KNOTS], dim=1)
            prior = functional.interpolate(
                knots[:, None], size=self.n_lags, mode="linear", align_corners=True
            )
            weighted = trust.clamp(-4, 2).exp() * evidence.float() + prior[:, 0]
            return functional.log_softmax(weighted, dim=1)

    def forward(self, pooled, evidence, measured):
        """Return what is added to hidden units (N, n_hidden)."""
        return self.join(self.features(pooled, evidence, measured))

    def features(self, pooled, evidence, measured):
        """Return the characteristic function of the posterior and what is measured (N, F)."""
        posterior = self.log_posterior(pooled, evidence).exp()
        along = torch.linspace(0, 1, self.n_lags, device=posterior.device)
        cycles = torch.logspace(-1, 8, N_FREQUENCIES, base=2, device=posterior.device)
        phase = 2 * math.pi * along[:, None] * cycles
        with torch.autocast(pooled.device.type, enabled=False):
            waves = posterior @ torch.cat([phase.cos(), phase.sin()], dim=1)
        return torch.cat([waves, measured.float()], dim=1)
