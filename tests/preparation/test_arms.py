"""Arms of a spectrograph against a weighted mean pixel by pixel, and DESI's own coadd."""

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from specutils import Spectrum, SpectrumList

from astroclip.preparation import are_arms, merge_arms, prepare_spectra, read_spectra
from astroclip.preparation.batches import FLUX_UNIT

RANGES = {"b": (3600.0, 3680.0), "r": (3664.0, 3760.0), "z": (3744.0, 3824.0)}


def make_arm(
    band, seed=0, *, n_objects=None, descending=False, unit=FLUX_UNIT, step=0.8, **options
):
    """Return an arm of DESI's step with random flux and ivar, some of it zero."""
    low, high = RANGES[band]
    wavelength = low + step * np.arange(round((high - low) / step) + 1)
    rng = np.random.default_rng([seed, *band.encode()])
    shape = (len(wavelength),) if n_objects is None else (n_objects, len(wavelength))
    flux = (rng.normal(3, 1, shape) * FLUX_UNIT).to(unit)
    ivar = rng.uniform(0.5, 4, shape) * (rng.random(shape) > 0.1)
    order = slice(None, None, -1 if descending else 1)
    return Spectrum(
        flux=flux[..., order],
        spectral_axis=wavelength[order] * u.AA,
        **{
            "uncertainty": InverseVariance(ivar[..., order] * (1 * unit).to_value(FLUX_UNIT) ** 2),
            "mask": rng.random(shape)[..., order] < 0.1,
            **options,
        },
    )


def merge_slowly(arms):
    """Return wavelength: (flux, ivar) of 1-D arms by a weighted mean at each wavelength."""
    sums = {}
    for arm in arms:
        flux = arm.flux.to_value(FLUX_UNIT)
        ivar = arm.uncertainty.array * (1 * FLUX_UNIT).to_value(arm.flux.unit) ** 2
        for k, wavelength in enumerate(arm.spectral_axis.to_value(u.AA)):
            total = sums.setdefault(round(float(wavelength), 3), [0.0, 0.0])
            if not arm.mask[k] and ivar[k] > 0:
                total[0] += flux[k] * ivar[k]
                total[1] += ivar[k]
    return {key: (a / b if b else 0.0, b) for key, (a, b) in sums.items()}


@given(st.integers(0, 10_000), st.booleans(), st.sampled_from(["brz", "br", "rz"]))
def test_agrees_with_a_weighted_mean_at_each_wavelength(seed, descending, bands):
    arms = [make_arm(band, seed, descending=descending) for band in bands]
    merged = merge_arms(arms)
    expected = merge_slowly(arms)
    wavelength = merged.spectral_axis.to_value(u.AA)
    assert [round(float(w), 3) for w in wavelength] == sorted(expected)
    flux, ivar = np.array([expected[key] for key in sorted(expected)]).T
    np.testing.assert_allclose(merged.flux.value, flux, rtol=1e-10)
    np.testing.assert_allclose(merged.uncertainty.array, ivar, rtol=1e-10)
    np.testing.assert_array_equal(merged.mask, ivar == 0)


def test_arms_in_different_units_are_converted():
    other = u.W / u.m**2 / u.um
    merged = merge_arms([make_arm("b"), make_arm("r", unit=other)])
    expected = merge_arms([make_arm("b"), make_arm("r")])
    assert merged.flux.unit == FLUX_UNIT
    np.testing.assert_allclose(merged.flux.value, expected.flux.value, rtol=1e-10)
    np.testing.assert_allclose(merged.uncertainty.array, expected.uncertainty.array, rtol=1e-10)


def test_many_objects_merge_as_each_alone():
    arms = [make_arm(band, n_objects=3) for band in "brz"]
    merged = merge_arms(arms)
    for row in range(3):
        alone = merge_arms([
            Spectrum(
                flux=arm.flux[row],
                spectral_axis=arm.spectral_axis,
                uncertainty=InverseVariance(arm.uncertainty.array[row]),
                mask=arm.mask[row],
            )
            for arm in arms
        ])
        np.testing.assert_array_equal(merged.flux[row].value, alone.flux.value)
        np.testing.assert_array_equal(merged.mask[row], alone.mask)


def test_meta_and_redshift_are_kept():
    first = make_arm("b", redshift=0.02, meta={"id": "a"})
    merged = merge_arms([first, make_arm("r", redshift=0.02)])
    assert float(merged.redshift) == pytest.approx(0.02)
    assert merged.meta["id"] == "a"
    merged.meta["id"] = "b"
    assert first.meta["id"] == "a"


def test_a_list_of_arms_is_one_object():
    arms = SpectrumList([make_arm(band) for band in "brz"])
    batch = prepare_spectra(arms, wavelength=np.linspace(3610, 3820, 100))
    assert len(batch) == 1
    expected = prepare_spectra(merge_arms(arms), wavelength=np.linspace(3610, 3820, 100))
    np.testing.assert_array_equal(batch.flux, expected.flux)


@pytest.mark.parametrize(
    ("arms", "expected"),
    [
        (lambda: [make_arm(band) for band in "brz"], True),
        (lambda: [make_arm(band, descending=True) for band in "brz"], True),
        (lambda: [make_arm("b")], False),
        (lambda: [make_arm("r"), make_arm("b")], False),
        (lambda: [make_arm("b"), make_arm("z")], False),
        (lambda: [make_arm("b"), make_arm("b")], False),
        (lambda: [make_arm("b"), make_arm("r", n_objects=2)], False),
        (lambda: [make_arm("b"), make_arm("r").flux], False),
    ],
    ids=["brz", "descending", "one", "wrong order", "gap", "the same", "numbers differ", "type"],
)
def test_what_counts_as_arms(arms, expected):
    assert are_arms(arms()) is expected


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (
            lambda: [make_arm("b"), make_arm("z")],
            "^arms holds 2 spectra that are no arms of the same objects",
        ),
        (
            lambda: [make_arm("b"), make_arm("r", step=0.7)],
            r"^arms\[1\] is not on the grid of arms\[0\] \(step 0.8 Angstrom\); .* Resample them",
        ),
        (
            lambda: [make_arm("b"), make_arm("r", uncertainty=None)],
            r"^arms\[1\] has no uncertainty; expected one for every arm",
        ),
    ],
)
def test_what_cannot_be_merged(arms, message):
    with pytest.raises(ValueError, match=message):
        merge_arms(arms())


def test_arms_that_name_their_band_may_miss_one():
    arms = [make_arm(band, meta={"band": band}) for band in "bz"]
    assert are_arms(arms)
    assert not are_arms([make_arm(band) for band in "bz"])
    merged = merge_arms(arms)
    wavelength = merged.spectral_axis.to_value(u.AA)
    between = (wavelength > RANGES["b"][1] + 0.1) & (wavelength < RANGES["z"][0] - 0.1)
    assert merged.mask[between].all()
    for arm in arms:
        inside = np.isin(wavelength.round(3), arm.spectral_axis.value.round(3))
        np.testing.assert_allclose(merged.uncertainty.array[inside] > 0, ~merged.mask[inside])
        good = ~arm.mask & (arm.uncertainty.array > 0)
        np.testing.assert_allclose(merged.flux.value[inside][good], arm.flux.value[good])


def test_exposures_of_a_target_are_averaged():
    arms = [make_arm(band, n_objects=4) for band in "br"]
    targets = np.array([7, 3, 7, 5])
    arms[0].meta["fibermap"] = Table({"TARGETID": targets, "TARGET_RA": np.arange(4.0)})
    merged = merge_arms(arms)
    assert list(merged.meta["id"]) == ["7", "3", "5"]
    assert list(merged.meta["ra"]) == [0.0, 1.0, 3.0]
    rows = merge_arms([make_arm(band, n_objects=4) for band in "br"])
    ivar = rows.uncertainty.array
    expected = [ivar[targets == target].sum(axis=0) for target in (7, 3, 5)]
    np.testing.assert_allclose(merged.uncertainty.array, expected)
    light = (ivar * rows.flux.value)[targets == 7].sum(axis=0)
    good = ~merged.mask[0]
    np.testing.assert_allclose(merged.flux.value[0, good], light[good] / expected[0][good])


def test_exposures_of_bad_fibers_are_left_out_as_the_survey_does():
    # bits: 9, off position; 1, a remark; target 7 has no other exposure than a bad one
    status = [0, 1 << 9, 1 << 1, 1 << 16]
    arms = [make_arm(band, n_objects=4) for band in "br"]
    arms[0].meta["fibermap"] = Table({"TARGETID": [5, 5, 5, 7], "FIBERSTATUS": status})
    merged = merge_arms(arms)
    ivar = merge_arms([make_arm(band, n_objects=4) for band in "br"]).uncertainty.array
    np.testing.assert_allclose(merged.uncertainty.array, [ivar[0] + ivar[2], ivar[3]])


def test_standard_deviations_weigh_the_same():
    arms = [make_arm("b"), make_arm("r")]
    weights = [arm.uncertainty.array for arm in arms]
    for arm, ivar in zip(arms, weights, strict=True):
        arm.uncertainty = StdDevUncertainty(np.where(ivar > 0, 1, 0) / np.sqrt(np.fmax(ivar, 1e-9)))
    expected = merge_arms([make_arm("b"), make_arm("r")])
    np.testing.assert_allclose(merge_arms(arms).flux.value, expected.flux.value, rtol=1e-10)


def test_real_desi_arms(shared_data):
    path = shared_data / "desi" / "coadd-special-dark-27247.fits"
    (merged,) = read_spectra(path)
    sums = {}
    with fits.open(path) as hdus:
        for arm in "BRZ":
            wavelength, flux, ivar, bits = (
                np.asarray(hdus[f"{arm}_{name}"].data, dtype=float)
                for name in ("WAVELENGTH", "FLUX", "IVAR", "MASK")
            )
            for w, f, weight, bit in zip(wavelength, flux[0], ivar[0], bits[0], strict=True):
                total = sums.setdefault(round(w, 2), [0.0, 0.0])
                total[0] += f * weight * (bit == 0)
                total[1] += weight * (bit == 0)
    assert len(sums) == 7781
    light, weight = np.array([sums[key] for key in sorted(sums)]).T
    np.testing.assert_allclose(merged.spectral_axis.value, sorted(sums), atol=0.01)
    np.testing.assert_allclose(merged.uncertainty.array, weight, rtol=1e-5)
    np.testing.assert_allclose(
        merged.flux.value, light / np.where(weight > 0, weight, 1), rtol=1e-5, atol=1e-6
    )
