"""Scores on real objects: which reference serves, which rows are written, rings."""

import numpy as np
import pytest
from astropy import units as u
from specutils import Spectrum

import astroclip
from astroclip.evaluation import real_scores
from astroclip.evaluation.real_scores import (
    ALL_REAL,
    read_rings,
    real_reference,
    score_real_redshifts,
    score_rings,
)
from astroclip.evaluation.scores import find_score


def test_the_reference_is_the_models_own(run, model, reference, monkeypatch):
    table, name = real_reference(run, reference)
    assert name == "reference pairs"
    assert len(table) == 2 * len(run.known)
    assert len(set(table["id"])) == len(table)
    monkeypatch.setattr(model, "weights_sha256", astroclip.reference_table().meta["WSHA"])
    table, name = real_reference(run, reference)
    assert name == "bundled reference"
    assert set(table["modality"]) == {"spectrum"}


def test_surveys_are_scored_apart_and_together_by_both_methods(run, pairs, reference, monkeypatch):
    unit = u.Unit("1e-17 erg / (s cm2 AA)")
    wavelength = np.arange(4000.0, 9000.0, 3.0) * u.AA
    flux = np.linspace(1, 2, len(wavelength)) * unit
    spectra = [Spectrum(flux=flux * (1 + number), spectral_axis=wavelength) for number in range(4)]
    sets = {"one": (spectra[:3], np.array([0.1, 0.2, 0.3])), "two": (spectra[3:], np.array([0.4]))}
    monkeypatch.setattr(real_scores, "read_real_sets", lambda folder: sets)
    score_real_redshifts(run, "anywhere", reference)
    table = run.scores.table()
    for protocol in ("k-NN", "redshift head"):
        sizes = {}
        for data in ("one", "two", ALL_REAL):
            rows = table[(table["protocol"] == protocol) & (table["data"] == data)]
            sizes[data] = rows["n_queries"][0]
        assert sizes == {"one": 3, "two": 1, ALL_REAL: 4}
        apart = [
            find_score(table, "beyond_0.05", protocol=protocol, data=name) for name in sets
        ]
        together = find_score(table, "beyond_0.05", protocol=protocol, data=ALL_REAL)
        assert together == pytest.approx((3 * apart[0] + apart[1]) / 4)
    sure = "beyond_0.05_confident"
    assert find_score(table, sure, protocol="redshift head", data="one") is not None
    assert find_score(table, sure, protocol="k-NN") is None


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    """Return a folder of display images made from known nanomaggies, ringed ones brighter."""
    folder = tmp_path_factory.mktemp("rings")
    rng = np.random.default_rng(1)
    ring = np.arange(40) % 4 == 0
    radius = np.hypot(*np.mgrid[-76:76, -76:76]) / 10
    base = np.exp(-radius) * np.where(ring, 0.04, 0.01)[:, None, None]
    pixels = np.stack([base * s for s in (0.5, 1.0, 1.3)], axis=1)  # g, r, z
    pixels = pixels + 2e-4 * rng.normal(size=pixels.shape)
    scaled = pixels * np.array([6.0, 3.4, 2.2])[:, None, None] + 0.03
    intensity = scaled.clip(0).mean(axis=1, keepdims=True)
    display = (scaled * np.arcsinh(20 * intensity) / np.sqrt(20) / intensity).clip(0, 1)
    rgb = np.round(255 * display[:, ::-1].transpose(0, 2, 3, 1)).astype(np.uint8)
    np.savez(folder / "rings.npz", rgb=rgb)
    lines = ["name,ring", *(f"{number},{int(value)}" for number, value in enumerate(ring))]
    (folder / "rings.csv").write_text("\n".join(lines) + "\n")
    return folder, pixels, ring


def test_the_displays_stretch_is_undone(rings):
    folder, pixels, ring = rings
    batch, found = read_rings(folder)
    np.testing.assert_array_equal(found, ring)
    binned = pixels.reshape(40, 3, 76, 2, 76, 2).sum(axis=(3, 5))
    inner = (slice(None), slice(None), slice(28, 48), slice(28, 48))
    np.testing.assert_allclose(batch.pixels[inner], binned[inner], atol=4e-3)


def test_rings_that_can_be_told_are(rings, run):
    folder, _, ring = rings
    score_rings(run, folder)
    table = run.scores.table()
    assert find_score(table, "share_of_rings", data="rings") == ring.mean()
    assert find_score(table, "average_precision", data="rings") > 0.9
