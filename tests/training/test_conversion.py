"""Survey pairs to training's arrays, against explicit loops and the library's own door."""

import re

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import InverseVariance
from hypothesis import given, settings
from hypothesis import strategies as st
from specutils import Spectrum

from astroclip.preparation import prepare_spectra
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.training.pair_files import RawPairs
from astroclip.training.sources import Rules, convert_pairs
from tests.training.survey import DESI, make_errors, make_survey

RULES = Rules()
CUT = slice(12, 140)


def make_block(n_pairs=4, seed=1, **changes):
    """Return a block of made-up pairs."""
    survey = make_survey(n_pairs, seed)
    fields = {
        "origin": "survey", "first": 0, "image": survey["images"], "spectrum": survey["spectra"],
        "redshift": survey["redshifts"], "id": survey["targetids"].astype(str),
    }
    return RawPairs(**{**fields, **changes})


def naive_bin(plane):
    """Return one plane (152, 152) cut and binned by loops; NaN where half or more is bad."""
    plane = np.asarray(plane, dtype=float)[CUT, CUT]
    binned = np.full((64, 64), np.nan)
    for row in range(64):
        for column in range(64):
            four = plane[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            good = four[np.isfinite(four)]
            if len(good) >= 2:
                binned[row, column] = 4 * good.mean()
    return binned


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 0.7), st.booleans())
def test_images_are_cut_and_summed_and_bad_pixels_made_up_for(seed, bad_share, first):
    rng = np.random.default_rng(seed)
    image = rng.normal(0.1, 0.05, (1, 152, 152, 3))
    image[rng.random(image.shape) < bad_share] = np.nan
    given_image = np.moveaxis(image, 3, 1) if first else image
    pairs, rejected = convert_pairs(make_block(1, image=given_image), RULES)
    expected = np.stack([naive_bin(image[0, :, :, band]) for band in range(3)])
    assert rejected == []
    np.testing.assert_allclose(pairs["image"][0], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(np.isnan(pairs["image"][0]), np.isnan(expected))


def test_flux_is_conserved():
    block = make_block()
    pairs, _ = convert_pairs(block, RULES)
    total = block.image[:, CUT, CUT].sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(pairs["image"].sum(axis=(2, 3), dtype=float), total, rtol=1e-3)


@pytest.mark.parametrize(("size", "scale"), [(64, 0.524), (70, 0.524), (192, 0.1747), (128, 0.262)])
def test_whole_fractions_of_the_pixel_scale_are_binned(size, scale):
    rng = np.random.default_rng(3)
    image = rng.normal(0.1, 0.05, (1, size, size, 3))
    pairs, rejected = convert_pairs(make_block(1, image=image), Rules(pixel_scale=scale))
    factor = round(0.524 / scale)
    start = (size - 64 * factor) // 2
    kept = image[:, start : start + 64 * factor, start : start + 64 * factor]
    assert rejected == []
    np.testing.assert_allclose(
        pairs["image"].sum(axis=(2, 3), dtype=float), kept.sum(axis=(1, 2)), rtol=1e-3
    )


def test_a_band_without_light_is_missing():
    block = make_block()
    block.image[1, :, :, 2] = 0
    pairs, rejected = convert_pairs(block, RULES)
    assert rejected == []
    lost = np.isnan(pairs["image"]).all(axis=(2, 3))
    assert np.argwhere(lost).tolist() == [[1, 2]]


def test_spectra_are_those_of_the_library_door():
    block = make_block()
    block.ivar, block.mask = make_errors(block.spectrum)
    block.spectrum[2, 500:520] = np.nan
    pairs, rejected = convert_pairs(block, RULES)
    spectra = [
        Spectrum(
            flux=flux[:, 0] * u.Unit("1e-17 erg / (s cm2 AA)"), spectral_axis=DESI * u.AA,
            uncertainty=InverseVariance(ivar), mask=mask | ~np.isfinite(flux[:, 0]),
        )
        for flux, ivar, mask in zip(block.spectrum, block.ivar, block.mask, strict=True)
    ]
    expected = prepare_spectra(spectra, wavelength=WAVELENGTH)
    assert rejected == []
    np.testing.assert_array_equal(pairs["mask"], expected.mask)
    good = ~expected.mask
    np.testing.assert_allclose(pairs["spectrum"][good], expected.flux[good], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(pairs["ivar"][good], expected.ivar[good], rtol=1e-3)
    assert not pairs["spectrum"][~good].any()
    assert not pairs["ivar"][~good].any()


def test_ivar_is_estimated_where_there_is_none():
    block = make_block()
    block.spectrum[1, 4000:4100] = 0  # never recorded
    pairs, _ = convert_pairs(block, RULES)
    with_ivar = make_block(
        ivar=np.full(block.spectrum.shape[:2], 0.4**-2), spectrum=block.spectrum
    )
    expected, _ = convert_pairs(with_ivar, RULES)
    good = ~pairs["mask"]
    ratio = pairs["ivar"][good].astype(float) / expected["ivar"][good]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    covered = np.abs(WAVELENGTH - DESI[4050]) < 35
    assert pairs["mask"][1, covered].all()
    assert not pairs["mask"][0, covered].any()


@pytest.mark.parametrize("shape", [(4, 7781), (4, 7781, 1), (4, 1, 7781)])
def test_spectra_of_any_one_axis_are_taken(shape):
    block = make_block()
    expected, _ = convert_pairs(block, RULES)
    pairs, _ = convert_pairs(make_block(spectrum=block.spectrum.reshape(shape)), RULES)
    np.testing.assert_array_equal(pairs["spectrum"], expected["spectrum"])


def test_spectra_on_their_own_wavelengths():
    block = make_block()
    grids = DESI + np.arange(4)[:, None] * 0.3
    own, _ = convert_pairs(make_block(wavelength=grids), RULES)
    for row in range(4):
        shared, _ = convert_pairs(block, Rules(wavelength=grids[row]))
        np.testing.assert_array_equal(own["mask"][row], shared["mask"][row])
        np.testing.assert_allclose(own["spectrum"][row], shared["spectrum"][row], rtol=2e-3)


def test_spectra_on_the_models_grid_stay_as_they_are():
    spectrum = np.random.default_rng(1).normal(3, 1, (2, len(WAVELENGTH)))
    pairs, _ = convert_pairs(make_block(2, spectrum=spectrum, ivar=np.ones_like(spectrum)), RULES)
    np.testing.assert_array_equal(pairs["spectrum"], spectrum.astype(np.float16))
    np.testing.assert_array_equal(pairs["ivar"], 1)


FAULTS = {
    "its image is zero": lambda b, k: b.image.__setitem__(k, np.zeros((152, 152, 3))),
    "its image has no finite": lambda b, k: b.image.__setitem__(k, np.full((152, 152, 3), np.nan)),
    r"its image has shape \(100, 100, 3\)": lambda b, k: b.image.__setitem__(
        k, np.ones((100, 100, 3))
    ),
    r"its image has shape \(152, 152, 4\)": lambda b, k: b.image.__setitem__(
        k, np.ones((152, 152, 4))
    ),
    "it has no image": lambda b, k: b.image.__setitem__(k, None),
    "its spectrum has no valid pixel": lambda b, k: b.spectrum.__setitem__(
        k, np.full(7781, np.nan)
    ),
    "its spectrum is zero throughout": lambda b, k: b.spectrum.__setitem__(k, np.zeros(7781)),
    "has 5000 pixels": lambda b, k: b.spectrum.__setitem__(k, np.ones(5000)),
    r"has shape \(7781, 2\)": lambda b, k: b.spectrum.__setitem__(k, np.ones((7781, 2))),
    "covers 5.": lambda b, k: b.spectrum.__setitem__(
        k, np.where(np.arange(7781) < 280, b.spectrum[k].ravel(), np.nan)
    ),
    "it has no spectrum": lambda b, k: b.spectrum.__setitem__(k, None),
    "values of type <U4": lambda b, k: b.spectrum.__setitem__(k, np.array(["none"] * 7781)),
    "has 3 values of ivar": lambda b, k: b.ivar.__setitem__(k, np.ones(3)),
    "has no mask": lambda b, k: b.mask.__setitem__(k, None),
    "its redshift is -1": lambda b, k: b.redshift.__setitem__(k, -1.0),
    "its redshift is inf": lambda b, k: b.redshift.__setitem__(k, np.inf),
}


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.integers(0, 3), st.sampled_from(sorted(FAULTS)), min_size=1))
def test_bad_rows_are_left_out_and_told_and_change_nothing_else(faults):
    block = make_block(first=40)
    ivar, mask = make_errors(block.spectrum)
    block.ivar, block.mask = list(ivar), list(mask)
    block.image, block.spectrum = list(block.image), list(block.spectrum)
    expected, _ = convert_pairs(block, RULES)
    for row, fault in faults.items():
        FAULTS[fault](block, row)
    pairs, rejected = convert_pairs(block, RULES)
    for line, row in zip(rejected, sorted(faults), strict=True):
        assert line.startswith(f"survey row {40 + row} (id {block.id[row]}): ")
        assert re.search(faults[row], line)
    kept = [row for row in range(4) if row not in faults]
    for name, values in pairs.items():
        np.testing.assert_array_equal(values, expected[name][kept])


def test_values_beyond_half_precision_are_bad_pixels():
    block = make_block(2)
    block.image[0, 74:76, 74:76] = 1e6  # one output pixel
    block.spectrum[1, 4000:4010] = 1e7
    block.ivar, _ = make_errors(block.spectrum)
    pairs, rejected = convert_pairs(block, RULES)
    assert rejected == []
    assert np.isnan(pairs["image"][0]).sum() == 3
    assert not np.isinf(pairs["image"]).any()
    assert np.isfinite(pairs["spectrum"]).all()
    near = np.abs(WAVELENGTH - DESI[4005]) < 3
    assert pairs["mask"][1, near].all()


def test_noiseless_light_must_be_complete():
    seeing = np.full((3, 3), 1.3)
    block = make_block(3, noiseless=True, seeing=seeing, labels={"dust": np.arange(3.0)})
    block.spectrum[1, :100] = np.nan
    block.image[2, 70] = block.image[2, 71] = np.nan
    pairs, rejected = convert_pairs(block, RULES)
    assert len(rejected) == 2
    assert "covers" in rejected[0]
    assert "valid" in rejected[1]
    assert not {"ivar", "mask"} & set(pairs)
    np.testing.assert_allclose(pairs["seeing"], 1.3)
    assert pairs["dust"].tolist() == [0.0]
    assert np.isnan(pairs["log_ssfr"]).all()
    with pytest.raises(ValueError, match="survey is noiseless and has no seeing; expected"):
        convert_pairs(make_block(noiseless=True), RULES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_scale": 0.396}, r"pixel_scale is 0.396; expected 0.524 arcsec or a whole"),
        ({"pixel_scale": 2.0}, "pixel_scale is 2.0"),
        ({"pixel_scale": -0.262}, "pixel_scale is -0.262"),
        ({"channels": "middle"}, "channels is 'middle'; expected one of None, 'first', 'last'"),
        ({"min_coverage": 2}, "min_coverage is 2; expected a fraction"),
        ({"wavelength": [2, 1]}, "wavelength goes from 2 to 1, not ascending"),
    ],
)
def test_impossible_rules_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Rules(**options)
