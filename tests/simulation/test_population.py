"""Population: scales against an integral, draws against the relations they come from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from astroclip.simulation.population import (
    COSMOLOGY,
    GalaxySample,
    draw_galaxies,
    kpc_per_arcsec,
    mass_function,
)


def test_shuffled_redshifts_are_uniform_and_do_not_follow_mass():
    options = {"r_limit": 20.2, "redshift_range": (0.01, 0.61)}
    parent = draw_galaxies(np.random.default_rng(4), 5000, **options)
    sample = draw_galaxies(np.random.default_rng(4), 5000, **options, shuffled_redshift=True)
    counts, _ = np.histogram(sample.redshift, bins=6, range=(0.01, 0.61))
    assert np.all(np.abs(counts - 5000 / 6) < 4 * np.sqrt(5000 / 6))
    correlation = np.corrcoef(sample.redshift, sample.log_stellar_mass)[0, 1]
    assert abs(correlation) < 0.06
    assert np.corrcoef(parent.redshift, parent.log_stellar_mass)[0, 1] > 0.4
    np.testing.assert_array_equal(sample.log_stellar_mass, parent.log_stellar_mass)


@given(st.floats(0.0001, 0.79))
def test_an_arcsecond_subtends_the_comoving_distance_over_one_plus_z(redshift):
    grid = np.linspace(0, redshift, 2001)
    rate = 70.0 * np.sqrt(0.3 * (1 + grid) ** 3 + 0.7)  # km/s/Mpc
    comoving = np.trapezoid(299792.458 / rate, grid)  # Mpc
    expected = comoving / (1 + redshift) * 1e3 * np.pi / (180 * 3600)
    assert kpc_per_arcsec(redshift) == pytest.approx(expected, rel=1e-5)


def test_mass_function_is_the_published_double_schechter():
    mass, characteristic = 10**10.0, 10**10.66
    ratio = mass / characteristic
    naive = (
        np.log(10) * np.exp(-ratio) * ratio * (3.96e-3 * ratio**-0.35 + 0.79e-3 * ratio**-1.47)
    )
    assert mass_function(10.0) == pytest.approx(naive, rel=1e-12)


def test_flat_redshifts_are_flat_and_volume_redshifts_are_not():
    flat = draw_galaxies(
        np.random.default_rng(1), 4000, r_limit=22.0, redshift_range=(0.001, 0.601),
        flat_redshift=True,
    )
    counts, _ = np.histogram(flat.redshift, bins=6, range=(0.001, 0.601))
    assert np.all(np.abs(counts - 4000 / 6) < 5 * np.sqrt(4000 / 6))
    volume = draw_galaxies(np.random.default_rng(1), 4000, r_limit=19.5)
    assert (volume.redshift < 0.1).mean() < 0.3


def test_same_seed_draws_the_same_galaxies():
    first, second = (draw_galaxies(np.random.default_rng(7), 50) for _ in range(2))
    for name, values in vars(first).items():
        if values is not None:
            np.testing.assert_array_equal(values, getattr(second, name))


def test_massive_galaxies_are_more_often_quiescent_and_forming_ones_follow_the_sequence():
    sample = draw_galaxies(
        np.random.default_rng(3), 6000, r_limit=24.0, redshift_range=(0.05, 0.3)
    )
    heavy, light = sample.log_stellar_mass > 10.8, sample.log_stellar_mass < 9.5
    assert sample.quiescent[heavy].mean() > 0.6 > 0.3 > sample.quiescent[light].mean()
    forming = ~sample.quiescent
    age = COSMOLOGY.age(sample.redshift[forming]).value
    mass = sample.log_stellar_mass[forming]
    speagle = (0.84 - 0.026 * age) * mass - (6.51 - 0.11 * age) - mass
    lowered = 0.12  # towards Renzini & Peng (2015), for the colours of SDSS
    assert abs(np.median(sample.log_ssfr[forming] - speagle) + lowered) < 0.05


def test_sample_takes_rows_and_joins():
    sample = draw_galaxies(np.random.default_rng(5), 10)
    joined = GalaxySample.concatenate([sample[:4], sample[4:]])
    assert len(joined) == 10
    np.testing.assert_array_equal(joined.axis_ratio, sample.axis_ratio)


@pytest.mark.parametrize("redshift_range", [(0.0, 0.5), (0.3, 0.2), (0.1, 2.0)])
def test_impossible_redshift_ranges_are_refused(redshift_range):
    with pytest.raises(ValueError, match="redshift_range is .*expected 0 <"):
        draw_galaxies(np.random.default_rng(0), 5, redshift_range=redshift_range)
