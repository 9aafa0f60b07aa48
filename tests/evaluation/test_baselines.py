"""Baselines against scikit-learn, and what they must be able to do."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

from astroclip.evaluation.baselines import (
    aperture_features,
    boosted_estimates,
    chi_square_ranks,
    colors,
    measured_magnitudes,
    principal_component_estimates,
    read_predictions,
    recorded_pair_ranks,
    structural_features,
)
from astroclip.metrics import r2_score
from astroclip.preparation import SpectrumBatch


@pytest.fixture(scope="module")
def lines():
    """Return spectra of a line at a wavelength that is the property, and of level too."""
    rng = np.random.default_rng(2)
    position, level = rng.uniform(20, 80, 260), rng.uniform(-1, 1, 260)
    shapes = np.exp(-0.5 * ((np.arange(100) - position[:, None]) / 8) ** 2)
    features = np.column_stack([shapes + 0.02 * rng.normal(size=shapes.shape), level])
    return features.astype(np.float16), {"position": position, "level": level}


def test_principal_components_equal_a_full_decomposition(lines):
    features, values = lines
    known = {name: column[:200] for name, column in values.items()}
    found = principal_component_estimates(
        features[:200], known, features[200:], n_components=10, n_neighbors=6
    )
    x = features.astype(float)
    full = PCA(10, svd_solver="full").fit(x[:200, :-1])
    scores = full.transform(x[:, :-1])
    weight = 0.5 * scores[:200, 0].std() / x[:200, -1].std()
    scores = np.column_stack([scores, weight * x[:, -1]])
    regressor = KNeighborsRegressor(6, weights="distance").fit(scores[:200], known["position"])
    expected = regressor.predict(scores[200:])
    np.testing.assert_allclose(found["position"], expected, atol=0.05)
    assert r2_score(found["position"], values["position"][200:]) > 0.95
    assert r2_score(found["level"], values["level"][200:]) > 0.7


def test_photometric_errors_are_two_percent_of_the_flux():
    magnitude = np.full((20000, 3), 18.0)
    measured = measured_magnitudes(magnitude, seed=1)
    relative = 10 ** (-0.4 * (measured - magnitude)) - 1
    assert relative.std() == pytest.approx(0.02, rel=0.03)
    assert abs(relative.mean()) < 5e-4


def test_colors_are_differences_of_magnitudes():
    np.testing.assert_allclose(colors([[18.5, 17.75, 17.25]]), [[17.75, 0.75, 0.5]])


def test_the_bound_knows_colors_and_shapes():
    rng = np.random.default_rng(8)
    n = 900
    galaxies = {
        "magnitude": rng.uniform(16, 19, (n, 3)),
        "disc_radius": rng.uniform(1, 8, n),
        "bulge_radius": np.zeros(n),
        "bulge_to_total": rng.uniform(0, 1, n),
        "axis_ratio": rng.uniform(0.1, 1, n),
    }
    features = structural_features(galaxies, seed=1)
    assert features.shape == (n, 7)
    assert np.isfinite(features).all()
    radius, ratio = np.log(galaxies["disc_radius"]), galaxies["axis_ratio"]
    color = galaxies["magnitude"][:, 0] - galaxies["magnitude"][:, 1]
    values = {"mix": radius + ratio + color}
    found = boosted_estimates(features[:700], {"mix": values["mix"][:700]}, features[700:])
    assert r2_score(found["mix"], values["mix"][700:]) > 0.9


def test_the_bound_on_masses_knows_the_light_in_the_fiber_and_no_more():
    rng = np.random.default_rng(9)
    n = 3000
    inside = rng.uniform(16, 19, (n, 3))
    truth = {
        name: rng.normal(size=n) for name in ("redshift", "log_ssfr", "log_metallicity")
    }
    features = aperture_features({"fibre_magnitude": inside}, truth, seed=4)
    assert features.shape == (n, 6)
    np.testing.assert_allclose(features[:, 1], inside[:, 0] - inside[:, 1])  # gray throughput
    np.testing.assert_allclose(features[:, 2], inside[:, 1] - inside[:, 2])
    relative = np.log(10) / 2.5 * (inside[:, 1] - features[:, 0])
    assert relative.std() == pytest.approx(0.08, rel=0.04)
    outside = rng.normal(size=n)
    mass = truth["redshift"] - 0.4 * inside[:, 1] + outside
    found = boosted_estimates(features[:2500], {"mass": mass[:2500]}, features[2500:])
    share = 1 - outside.var() / mass.var()
    assert r2_score(found["mass"], mass[2500:]) == pytest.approx(share, abs=0.06)


def test_chi_square_ranks_equal_a_fit_of_every_scale():
    rng = np.random.default_rng(6)
    light = rng.uniform(1, 3, (7, 40))
    flux = 5 * light + rng.normal(0, 25, light.shape)
    flux[:, 3] = 1e6  # masked
    mask = np.zeros(light.shape, dtype=bool)
    mask[:, 3] = True
    ivar = np.full(light.shape, 1 / 625)
    batch = SpectrumBatch.from_arrays(np.linspace(4000, 9000, 40), flux, ivar=ivar, mask=mask)
    found = chi_square_ranks(batch, light)
    expected = []
    for row, own in zip(flux, range(7), strict=True):
        chi_square = []
        for candidate in light:
            kept = np.delete(candidate, 3)[:, None]
            chi_square.append(np.linalg.lstsq(kept, np.delete(row, 3), rcond=None)[1][0])
        expected.append(np.sum(np.array(chi_square) < chi_square[own]))
    assert len(set(expected)) > 2
    np.testing.assert_array_equal(found, expected)


def test_ranks_of_recorded_pairs_are_those_of_bayes_formula():
    rng = np.random.default_rng(9)
    light = rng.uniform(1, 3, (6, 30))
    grid, sigma = np.linspace(4000, 9000, 30), 4.0
    seen = [3 * light + rng.normal(0, sigma, light.shape) for _ in range(2)]
    batches = [
        SpectrumBatch.from_arrays(grid, flux, ivar=np.full(flux.shape, sigma**-2)) for flux in seen
    ]

    def likelihood(flux, candidate):
        best = np.linalg.lstsq(candidate[:, None], flux, rcond=None)[0]
        return np.exp(-0.5 * np.sum((flux - best * candidate) ** 2) / sigma**2)

    first, second = (
        np.array([[likelihood(flux, one) for one in light] for flux in part]) for part in seen
    )
    expected = []
    for own, row in enumerate(first):
        given = [row @ target / target.sum() for target in second]
        expected.append(sum(value > given[own] for value in given))
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(recorded_pair_ranks(*batches, light), expected)


def test_predictions_are_read_and_checked(tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez(path, redshift=np.arange(3.0), notes=np.zeros(2))
    found = read_predictions(path, ["redshift", "log_ssfr"], 3)
    assert list(found) == ["redshift"]
    np.testing.assert_array_equal(found["redshift"], [0, 1, 2])
    with pytest.raises(ValueError, match=r"redshift .* shape \(3,\); expected \(4,\)"):
        read_predictions(path, ["redshift"], 4)
    with pytest.raises(ValueError, match="named after some of"):
        read_predictions(path, ["log_ssfr"], 3)
