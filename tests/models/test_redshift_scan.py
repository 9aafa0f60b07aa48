"""The scan against Gaussian likelihoods written out in full, and what it leaves untouched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from astroclip.models.redshift_scan import (
    BINNING,
    CONTINUUM_SCALE,
    CONTRAST_RANGE,
    DISCREPANCY,
    LAG_STEP,
    LEAST_EVIDENCE,
    RedshiftScan,
    ScanPath,
    contrast,
    n_lags,
    rest_pixels,
)
from astroclip.models.small import SmallSpectrumEncoder

N_PIXELS = 301  # not a multiple of the bins
LARGEST = 0.01


def make_scan(seed=0, *, amplitude=0.05):
    scan = RedshiftScan(N_PIXELS, largest=LARGEST, n_components=3)
    rng = np.random.default_rng(seed)
    scan.templates.copy_(torch.from_numpy(amplitude * rng.normal(size=scan.templates.shape)))
    return scan


def make_spectra(seed=1, n_spectra=3):
    rng = np.random.default_rng(seed)
    flux = torch.from_numpy(5 + rng.normal(size=(n_spectra, N_PIXELS))).float()
    ivar = torch.from_numpy(rng.uniform(0.5, 2, (n_spectra, N_PIXELS))).float()
    mask = torch.from_numpy(rng.random((n_spectra, N_PIXELS)) < 0.1)
    mask[1, 40:90] = True
    return flux, ivar, mask


def test_evidence_is_that_of_gaussians_written_out():
    scan, (flux, ivar, mask) = make_scan(), make_spectra()
    evidence, measured = scan(flux, ivar, mask)
    lines, weight = (part.double().numpy() for part in contrast(flux, ivar, mask))
    templates = scan.templates.double().numpy()
    n_bins = lines.shape[1]
    for row in range(len(flux)):
        known = weight[row] > 0
        expected = np.empty((2, scan.n_lags))
        for lag in range(scan.n_lags):
            first = scan.n_lags - 1 - lag
            for kind in range(2):
                mean, *components = templates[kind][:, first : first + n_bins][:, known]
                components = np.array(components).T
                covariance = components @ components.T + np.diag(1 / weight[row, known])
                expected[kind, lag] = multivariate_normal.logpdf(
                    lines[row, known], mean, covariance
                )
        total = np.logaddexp(*expected)
        relative = np.maximum(total - total.max(), LEAST_EVIDENCE)
        np.testing.assert_allclose(evidence[row], relative, atol=2e-3)
        best = total.argmax()
        share = np.maximum(expected[:, best] - total[best], LEAST_EVIDENCE / 4)
        np.testing.assert_allclose(measured[row, 1:3], share / 4, atol=2e-3)
        assert measured[row, 0] == pytest.approx(
            np.log1p(total[best] - total.mean()) / 4, abs=1e-3
        )


def test_coefficients_are_those_of_the_best_fit():
    scan, (flux, ivar, mask) = make_scan(), make_spectra()
    evidence, measured = scan(flux, ivar, mask)
    lines, weight = (part.double().numpy() for part in contrast(flux, ivar, mask))
    templates = scan.templates.double().numpy()
    for row in range(len(flux)):
        first = scan.n_lags - 1 - int(evidence[row].argmax())
        fits = []
        for kind in templates:
            mean, *components = kind[:, first : first + lines.shape[1]]
            components = np.array(components).T
            matrix = np.eye(3) + components.T @ (weight[row, :, None] * components)
            fits.append(np.linalg.solve(matrix, components.T @ (weight[row] * (lines[row] - mean))))
        np.testing.assert_allclose(measured[row, 3:], np.arcsinh(np.concatenate(fits)), atol=1e-3)


def test_contrast_is_the_documented_formula():
    flux, ivar, mask = make_spectra()
    flux[2, 100:120] = 400.0
    lines, weight = contrast(flux, ivar, mask)
    good = ivar.double().numpy() * ~mask.numpy()
    n_bins = N_PIXELS // BINNING
    binned = good[:, : n_bins * BINNING].reshape(3, n_bins, BINNING)
    total = binned.sum(axis=2)
    light = flux.double().numpy()[:, : n_bins * BINNING].reshape(binned.shape)
    mean = (binned * light).sum(axis=2) / np.maximum(total, 1e-30)
    place = np.arange(n_bins)
    kernel = np.exp(-0.5 * ((place[:, None] - place) / CONTINUUM_SCALE) ** 2)
    continuum = (total * mean) @ kernel / (total @ kernel)
    expected = np.where(total > 0, np.clip(mean / continuum - 1, *CONTRAST_RANGE), 0)
    np.testing.assert_allclose(lines, expected, atol=1e-4)
    variance = 1 / np.maximum(total * continuum**2, 1e-12) + DISCREPANCY**2
    np.testing.assert_allclose(weight, np.where(total > 0, 1 / variance, 0), rtol=1e-4)
    assert (expected == CONTRAST_RANGE[1]).any() and (total == 0).any()


@settings(max_examples=20, deadline=None)
@given(lag=st.integers(0, n_lags(LARGEST) - 1), kind=st.integers(0, 1))
def test_a_galaxy_is_found_at_its_redshift(lag, kind):
    scan = make_scan(amplitude=0.2)
    first = scan.n_lags - 1 - lag
    n_bins = N_PIXELS // BINNING
    light = 1 + scan.templates[kind, 0, first : first + n_bins]
    flux = torch.zeros(1, N_PIXELS)
    flux[0, : n_bins * BINNING] = 3 * light.repeat_interleave(BINNING)
    evidence, measured = scan(flux, torch.full_like(flux, 200.0), flux == 0)
    assert int(evidence.argmax()) == lag
    assert measured[0, 1 + kind] > measured[0, 2 - kind]


def test_brightness_and_what_is_masked_do_not_matter():
    scan, (flux, ivar, mask) = make_scan(), make_spectra()
    expected = scan(flux, ivar, mask)
    changed = scan(
        torch.where(mask, 1e9, flux * 100), torch.where(mask, 3.0, ivar / 1e4), mask
    )
    for got, wanted in zip(changed, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-3)


def test_an_empty_row_tells_nothing_and_costs_no_other():
    scan, (flux, ivar, mask) = make_scan(), make_spectra(n_spectra=40)
    expected = scan(flux, ivar, mask)
    mask[35] = True
    evidence, measured = scan(flux, ivar, mask)
    assert torch.isfinite(measured).all() and not evidence[35].any()
    others = torch.arange(40) != 35
    torch.testing.assert_close(evidence[others], expected[0][others], rtol=0, atol=1e-4)


def test_templates_of_zero_tell_nothing():
    scan = RedshiftScan(N_PIXELS, largest=LARGEST)
    assert scan.templates.shape == (2, 4, rest_pixels(N_PIXELS, LARGEST))
    evidence, measured = scan(*make_spectra())
    assert not evidence.any()
    assert measured.shape == (3, scan.n_measured)


def test_redshifts_go_from_zero_to_the_largest():
    for largest in (0.01, 0.7):
        last = (n_lags(largest) - 1) * LAG_STEP
        assert 0 <= last - np.log1p(largest) < LAG_STEP


def test_the_posterior_is_evidence_times_what_else_is_known():
    torch.manual_seed(3)
    scan = RedshiftScan(N_PIXELS, largest=LARGEST)
    path = ScanPath(12, scan, 20)
    pooled, evidence = torch.randn(5, 12), -torch.rand(5, scan.n_lags)
    start = path.log_posterior(pooled, evidence)
    torch.testing.assert_close(start, torch.log_softmax(evidence, dim=1))
    with torch.no_grad():
        path.prior[-1].bias[0] = 30.0  # the lowest redshifts
        path.prior[-1].bias[-1] = 0.5
    favoured = path.log_posterior(pooled, evidence)
    torch.testing.assert_close(favoured.exp().sum(dim=1), torch.ones(5))
    assert (favoured[:, 0] > start[:, 0]).all()
    slope = (favoured[:, -1] - favoured[:, -2]) / (evidence[:, -1] - evidence[:, -2])
    torch.testing.assert_close(slope, torch.full((5,), float(np.exp(0.5))), rtol=1e-2, atol=0)


def test_the_projection_sees_the_characteristic_function():
    scan = RedshiftScan(N_PIXELS, largest=LARGEST)
    path = ScanPath(12, scan, 20)
    rng = np.random.default_rng(5)
    evidence = 5 * rng.normal(size=(4, scan.n_lags))
    found = path.features(
        torch.zeros(4, 12), torch.from_numpy(evidence).float(), torch.zeros(4, scan.n_measured)
    ).detach()
    posterior = np.exp(evidence) / np.exp(evidence).sum(axis=1, keepdims=True)
    place = np.arange(scan.n_lags) / (scan.n_lags - 1)
    cycles = 2 ** np.linspace(-1, 8, 24)
    expected = posterior @ np.exp(2j * np.pi * place[:, None] * cycles)
    np.testing.assert_allclose(found[:, :24], expected.real, atol=1e-3)
    np.testing.assert_allclose(found[:, 24:48], expected.imag, atol=1e-3)


def test_half_precision_leaves_evidence_and_posterior_alone():
    scan, spectra = make_scan(), make_spectra()
    torch.manual_seed(2)
    path = ScanPath(12, scan, 20)
    torch.nn.init.normal_(path.prior[-1].weight)
    pooled = torch.randn(3, 12)
    with torch.inference_mode():
        expected = [*scan(*spectra)]
        expected += [path.log_posterior(pooled, expected[0]), path.features(pooled, *expected)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = [*scan(*spectra)]
            found += [path.log_posterior(pooled, found[0]), path.features(pooled, *found)]
    for got, wanted in zip(found, expected, strict=True):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)


def test_joining_begins_with_nothing():
    encoders, spectra = [], make_spectra()
    for n_components in (0, 2):
        torch.manual_seed(1)
        encoder = SmallSpectrumEncoder(
            n_pixels=N_PIXELS, width=16, dim=16, scan_components=n_components, scan_largest=LARGEST
        )
        encoders.append(encoder.eval())
    plain, scanning = encoders
    scanning.load_state_dict(plain.state_dict(), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(scanning(*spectra), plain(*spectra), rtol=0, atol=1e-6)


def test_the_encoder_sees_the_scan():
    torch.manual_seed(1)
    encoder = SmallSpectrumEncoder(
        n_pixels=N_PIXELS, width=16, dim=16, scan_components=3, scan_largest=LARGEST
    ).eval()
    other = SmallSpectrumEncoder(
        n_pixels=N_PIXELS, width=16, dim=16, scan_components=3, scan_largest=LARGEST
    )
    other.scan.templates.copy_(make_scan().templates)
    spectra = make_spectra()
    with torch.inference_mode():
        encoder.scanned.join.weight.normal_()
        before = encoder(*spectra)
        encoder.scan.templates.copy_(other.scan.templates)
        after = encoder(*spectra)
        summary = encoder.summary(*spectra)
        evidence, _ = other.scan(*spectra)
        found = encoder.log_posterior(summary)
        learned = encoder.measurements(summary)
    assert learned.shape == (3, summary.shape[1] - encoder.scan.n_lags + 48)
    own = encoder.pooled + 42
    torch.testing.assert_close(learned[:, :own], summary[:, :own], rtol=0, atol=0)
    torch.testing.assert_close(learned[:, -9:], summary[:, -9:], rtol=0, atol=0)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(found, torch.log_softmax(evidence, dim=1), rtol=0, atol=1e-5)
