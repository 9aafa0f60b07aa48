"""Real survey files through the whole path: embed, search, estimate, write and read again."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import InverseVariance
from astropy.table import vstack
from numpy.testing import assert_allclose, assert_array_equal
from specutils import Spectrum, SpectrumList

from astroclip import PropertyEstimator, SimilarityIndex, embed, load_model
from astroclip.datasets import sample_sdss_spectrum
from astroclip.exceptions import FailedObjectWarning
from astroclip.tables import Flag, read_table, write_table

GOLDEN = Path(__file__).parent / "data" / "golden"
TWICE = ("spec-0412-51871-0308", "spec-0412-52235-0305")  # one galaxy observed twice
SDSS_FILES = ("NGC3073_SDSS_DR18", "spec-0411-51873-0101", *TWICE, "spec-4238-55455-0037")


@pytest.fixture(scope="module", params=["golden", "bundled"])
def model(request):
    """A published layout with random weights, and the bundled model."""
    if request.param == "golden":
        return load_model(GOLDEN / "astroclip.ckpt", device="cpu")
    return load_model("astroclip-small", device="cpu")


def read_fors2(folder):
    """Return 300 FORS2 galaxies as one Spectrum, and their redshifts."""
    with np.load(folder / "fors2" / "fors2.npz") as archive:
        unit = u.erg / (u.s * u.cm**2 * u.AA)
        spectra = Spectrum(
            flux=archive["flux"].astype(float) * unit,
            spectral_axis=archive["wavelength"] * u.AA,
            uncertainty=InverseVariance(archive["ivar"].astype(float), unit=unit**-2),
            meta={
                "id": [f"fors2-{row}" for row in range(len(archive["z"]))],
                "ra": archive["ra"],
                "dec": archive["dec"],
            },
        )
        return spectra, archive["z"]


@pytest.fixture(scope="module")
def reference(model, shared_data):
    """A reference of real spectra with a property that has a unit."""
    spectra, redshift = read_fors2(shared_data)
    with pytest.warns(FailedObjectWarning, match="1 of 300 objects"):
        table = embed(spectra, model=model, redshift=np.where(redshift < -0.01, np.nan, redshift))
    table["age"] = (10 - 5 * redshift) * u.Gyr
    return table


@pytest.fixture(scope="module")
def survey(model, shared_data):
    """The SDSS, BOSS and DESI files, embedded in one call."""
    paths = [shared_data / "sdss" / f"{name}.fits" for name in SDSS_FILES]
    paths += [shared_data / "desi" / "coadd-special-dark-27247.fits"]
    return embed(paths, model=model)


def test_survey_files(survey):
    assert list(survey["id"]) == [*SDSS_FILES, "39089837499744649"]
    assert [Path(file).stem for file in survey["file"][:5]] == list(SDSS_FILES)
    assert not np.any(survey["flags"] & Flag.FAILED)
    assert np.all(survey["coverage"] > 0.5)
    assert_allclose(np.linalg.norm(np.asarray(survey["embedding"]), axis=1), 1, atol=1e-5)


def test_a_galaxy_observed_twice_finds_itself(survey):
    found = SimilarityIndex(survey).query(survey, n_neighbors=1, exclude_self=True)
    partner = dict(zip(found["query_id"], found["neighbor_id"], strict=True))
    assert partner[TWICE[0]] == TWICE[1]
    assert partner[TWICE[1]] == TWICE[0]


def test_positions_are_those_of_the_objects(survey):
    position = SkyCoord(46.560472, -0.344359, unit="deg")
    near = SkyCoord(survey["ra"], survey["dec"]).separation(position) < 0.1 * u.arcsec
    assert set(survey["id"][near]) <= set(TWICE)
    assert near.any()


def test_desi_arms_equal_the_file(model, shared_data, survey):
    path = shared_data / "desi" / "coadd-special-dark-27247.fits"
    table = embed(SpectrumList.read(path), model=model)
    assert list(table["id"]) == ["39089837499744649"]
    assert_allclose(
        np.asarray(table["embedding"])[0], np.asarray(survey["embedding"])[5], atol=1e-6
    )


def test_desi_coadd_of_five_targets(model, shared_data):
    path = shared_data / "desi" / "coadd-sv3-dark-26065.fits"
    with fits.open(path) as hdus:
        targets = hdus["FIBERMAP"].data["TARGETID"].astype(str)
        empty = [
            all(not np.any(hdus[f"{arm}_IVAR"].data[row] > 0) for arm in "BRZ") for row in range(5)
        ]
    with pytest.warns(FailedObjectWarning, match="has no valid pixel"):
        table = embed(path, model=model)
    assert_array_equal(table["id"], targets)
    failed = (table["flags"] & Flag.FAILED) != 0
    assert np.all(failed[empty])
    assert not failed.all()
    assert_array_equal(np.all(table["embedding"].mask, axis=1), failed)


def test_neighbors_and_estimates_of_real_spectra(reference, survey):
    index = SimilarityIndex(reference)
    found = index.query(survey, n_neighbors=5)
    assert len(found) == 5 * len(survey)
    assert "fors2-15" not in set(found["neighbor_id"])  # it has no valid pixel
    estimator = PropertyEstimator(n_neighbors=8).fit(reference, ["redshift", "age"])
    estimates = estimator.predict(survey)
    assert list(estimates["id"]) == list(survey["id"])
    assert estimates["age"].unit == u.Gyr
    for name in ("redshift", "age"):
        middle, low, high = (estimates[f"{name}{end}"] for end in ("", "_lower", "_upper"))
        assert np.all(low < middle)
        assert np.all(middle < high)
    nearest = index.query(survey, n_neighbors=8)
    for row, name in enumerate(survey["id"]):
        values = nearest["redshift"][nearest["query_id"] == name]
        assert values.min() <= estimates["redshift"][row] <= values.max()


def test_failed_rows_stay_failed(reference):
    estimator = PropertyEstimator(n_neighbors=8).fit(reference, ["redshift"])
    estimates = estimator.predict(reference[10:20])
    assert_array_equal(np.isnan(estimates["redshift"]), np.arange(10, 20) == 15)


@pytest.mark.parametrize("suffix", [".fits", ".ecsv", ".parquet"])
def test_written_tables_search_alike(suffix, reference, survey, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pandas", reason="astropy reads Parquet through pandas")
    write_table(reference, tmp_path / f"reference{suffix}")
    again = read_table(tmp_path / f"reference{suffix}")
    assert again.meta["WSHA"] == reference.meta["WSHA"]
    first = SimilarityIndex(reference).query(survey, n_neighbors=3)
    second = SimilarityIndex(again).query(survey, n_neighbors=3)
    assert_array_equal(first["neighbor_id"], second["neighbor_id"])
    assert_allclose(first["similarity"], second["similarity"], atol=1e-6)


def test_saved_index_embeds_a_new_file(reference, survey, shared_data, model, tmp_path):
    SimilarityIndex(reference).save(tmp_path / "index.zip")
    index = SimilarityIndex.open(tmp_path / "index.zip")
    path = shared_data / "sdss" / f"{TWICE[0]}.fits"
    found = index.query(path, n_neighbors=4, model=model)
    expected = index.query(survey[2:3], n_neighbors=4)
    assert_array_equal(found["neighbor_id"], expected["neighbor_id"])


def test_image_and_spectra_files_share_one_call_and_index(model, shared_data, survey):
    path = shared_data / "images" / "cutout_59.1067_-30.4848.fits"
    both = embed([survey["file"][1], path, survey["file"][0]], model=model)
    assert list(both["modality"]) == ["spectrum", "image", "spectrum"]
    for row, other in ((0, 1), (2, 0)):
        assert_allclose(both["embedding"][row], survey["embedding"][other], atol=1e-6)
    image = both[1:2]
    assert image["id"][0] == path.stem
    assert image["coverage"][0] > 0.99
    assert_allclose(image["ra"].to_value(u.deg), 59.1067, atol=1e-3)
    index = SimilarityIndex(vstack([survey, image], metadata_conflicts="silent"))
    assert index.query(image, n_neighbors=1)["neighbor_id"][0] == path.stem
    across = index.query(image, n_neighbors=3, modality="spectrum")
    assert set(across["modality"]) == {"spectrum"}


@pytest.mark.parametrize("fraction", [0.03, 0.1])
def test_scattered_bad_pixels_hardly_change_an_embedding(fraction):
    whole = sample_sdss_spectrum()
    bad = np.random.default_rng(5).random(len(whole.flux)) < fraction
    spoiled = Spectrum(
        flux=np.where(bad, 1e3, whole.flux.value) * whole.flux.unit,
        spectral_axis=whole.spectral_axis, uncertainty=whole.uncertainty, mask=whole.mask | bad,
    )
    first, second = np.asarray(embed([whole, spoiled])["embedding"])
    assert first @ second > 0.99
