"""`astroclip.embed`: every kind of input gives the rows that the model's golden outputs fix."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.table import Table, vstack
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.torch import save_file
from specutils import Spectrum, SpectrumCollection, SpectrumList

import astroclip
from astroclip import embed, list_models, load_model
from astroclip.exceptions import AstroclipWarning, CheckpointError, FailedObjectWarning
from astroclip.models.small import SmallImageEncoder, SmallSpectrumEncoder
from astroclip.preparation import ImageBatch, SpectrumBatch, wavelength_grid
from astroclip.preparation.objects import sort_objects
from astroclip.tables import Flag

GOLDEN = Path(__file__).parent / "data" / "golden"
FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
BANDS = "grz"


def vectors(table):
    """Return a table's embeddings as a plain array."""
    return np.asarray(table["embedding"])


@pytest.fixture(scope="module")
def golden():
    """The reference implementation's inputs and outputs."""
    with np.load(GOLDEN / "io.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "astroclip.ckpt", device="cpu")


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """A weights file of the bundled model's architecture with random weights."""
    torch.manual_seed(5)
    options = {
        "spectrum": {"width": 16, "n_blocks": 1, "dim": 16},
        "image": {"width": 8, "dim": 16},
    }
    encoders = {
        "spectrum_encoder": SmallSpectrumEncoder(**options["spectrum"]),
        "image_encoder": SmallImageEncoder(**options["image"]),
    }
    state = {
        f"{prefix}.{key}": value.contiguous(memory_format=torch.contiguous_format)
        for prefix, encoder in encoders.items()
        for key, value in encoder.state_dict().items()
    }
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    config = {"architecture": "small", "name": "small-random", **options}
    save_file(state, path, metadata={"config": json.dumps(config)})
    return path


@pytest.fixture(scope="module", params=["random", "bundled"])
def small(request, small_file):
    """A model that uses coverage: with random weights, and the bundled one."""
    if request.param == "random":
        return load_model(small_file, device="cpu")
    return load_model("astroclip-small", device="cpu")


@pytest.fixture(scope="module")
def spectra(golden):
    """The golden spectra, one Spectrum each, with positions and names."""
    return [
        Spectrum(
            flux=flux * FLUX_UNIT,
            spectral_axis=golden["wavelength"] * u.AA,
            uncertainty=InverseVariance(np.full(flux.shape, 4.0)),
            meta={"id": f"galaxy-{row}", "ra": 10.0 + row, "dec": -row},
        )
        for row, flux in enumerate(golden["spectrum"])
    ]


@pytest.fixture(scope="module")
def stacked(golden):
    """The golden spectra as one Spectrum with 2-D flux."""
    return Spectrum(
        flux=golden["spectrum"] * FLUX_UNIT,
        spectral_axis=golden["wavelength"] * u.AA,
        uncertainty=InverseVariance(np.full(golden["spectrum"].shape, 4.0)),
        meta={
            "id": [f"galaxy-{row}" for row in range(4)],
            "ra": 10.0 + np.arange(4),
            "dec": -np.arange(4.0),
        },
    )


def cutout(pixels, *, wcs=None):
    """Return band to CCDData of pixels (band, y, x) in nanomaggies."""
    return {
        band: CCDData(plane, unit=u.nmgy, wcs=wcs, meta={"PIXSCALE": 0.262})
        for band, plane in zip(BANDS, pixels, strict=True)
    }


@pytest.fixture(scope="module")
def pixels(golden):
    """The golden images (N, band, y, x); the file stores them as (N, x, y, band)."""
    return np.ascontiguousarray(golden["image"].transpose(0, 3, 2, 1))


@pytest.fixture(scope="module")
def images(pixels):
    return [cutout(planes) for planes in pixels]


# ---------------------------------------------------------------------- golden outputs
def test_spectra_give_the_golden_embeddings(spectra, model, golden):
    table = embed(spectra, model=model, normalize=False)
    assert_allclose(vectors(table), golden["spectrum_embedding"], atol=2e-5, rtol=0)


def test_images_give_the_golden_embeddings(images, model, golden):
    table = embed(images, model=model, normalize=False)
    assert_allclose(vectors(table), golden["image_embedding"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "fixture", "key"),
    [("specformer", "spectra", "specformer_mean"), ("astrodino", "images", "astrodino_cls")],
)
def test_single_modality_models(name, fixture, key, golden, request):
    objects = request.getfixturevalue(fixture)
    table = embed(objects, model=GOLDEN / f"{name}.ckpt", normalize=False, device="cpu")
    assert_allclose(vectors(table), golden[key], atol=2e-5, rtol=0)


def test_unit_length_is_the_default(spectra, model, golden):
    expected = golden["spectrum_embedding"]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert_allclose(vectors(embed(spectra, model=model)), expected, atol=2e-5, rtol=0)


# ---------------------------------------------------------------------- the table
def test_columns_and_provenance(spectra, model):
    table = embed(spectra, model=model, redshift=[0.1, np.nan, 0.3, 0.4])
    assert table.colnames == [
        "id", "modality", "embedding", "coverage", "flags", "message", "ra", "dec", "redshift",
        "medium",
    ]  # fmt: skip
    assert set(table["medium"]) == {"vacuum (assumed)"}
    assert list(table["id"]) == [f"galaxy-{row}" for row in range(4)]
    assert set(table["modality"]) == {"spectrum"}
    assert table["embedding"].dtype == np.float32
    assert_allclose(table["coverage"], 1)
    assert_array_equal(table["ra"].to_value(u.deg), [10, 11, 12, 13])
    assert_array_equal(table["redshift"], [0.1, np.nan, 0.3, 0.4])
    assert table.meta["MODEL"] == model.name
    assert table.meta["WSHA"] == model.weights_sha256
    assert table.meta["PREPVER"] == astroclip.preparation.PREPARATION_VERSION
    assert table.meta["ASTROCLP"] == astroclip.__version__
    assert table.meta["DATE"].startswith("20")


def test_ids_are_given_found_or_counted(spectra, images, stacked, model):
    assert list(embed(images, model=model)["id"]) == ["0", "1", "2", "3"]
    assert list(embed(images[0], model=model, ids="NGC 1")["id"]) == ["NGC 1"]
    assert list(embed(spectra, model=model, ids=list("abcd"))["id"]) == list("abcd")
    assert list(embed(stacked, model=model)["id"]) == [f"galaxy-{row}" for row in range(4)]


def test_spectrum_redshift_is_used_unless_one_is_given(golden, model):
    spectrum = Spectrum(
        flux=golden["spectrum"][0] * FLUX_UNIT,
        spectral_axis=golden["wavelength"] * u.AA,
        redshift=0.25,
    )
    assert_allclose(embed(spectrum, model=model)["redshift"], 0.25)
    assert_allclose(embed(spectrum, model=model, redshift=0.3)["redshift"], 0.3)


# ---------------------------------------------------------------------- kinds of input
def arms(stacked):
    """Return a SpectrumList of three overlapping arms, as DESI coadds hold them."""
    edges = ((0, 2751), (2700, 5026), (4900, 7781))
    return SpectrumList(
        Spectrum(
            flux=stacked.flux[:, low:high],
            spectral_axis=u.Quantity(stacked.spectral_axis)[low:high],
            uncertainty=InverseVariance(stacked.uncertainty.array[:, low:high]),
            meta={
                "fibermap": Table(
                    {"TARGETID": np.arange(4) + 39627000, "TARGET_RA": np.arange(4.0) + 10}
                    | {"TARGET_DEC": -np.arange(4.0)}
                )
            },
        )
        for low, high in edges
    )


SPECTRUM_CONTAINERS = {
    "list": lambda spectra, stacked: spectra,
    "tuple": lambda spectra, stacked: tuple(spectra),
    "SpectrumList": lambda spectra, stacked: SpectrumList(spectra),
    "2-D flux": lambda spectra, stacked: stacked,
    "list of 2-D flux": lambda spectra, stacked: [stacked],
    "SpectrumCollection": lambda spectra, stacked: SpectrumCollection(
        flux=stacked.flux,
        spectral_axis=u.Quantity([stacked.spectral_axis] * 4),
        uncertainty=stacked.uncertainty,
    ),
    "three arms": lambda spectra, stacked: arms(stacked),
    "list of three arms": lambda spectra, stacked: [arms(stacked)],
    "SpectrumBatch": lambda spectra, stacked: SpectrumBatch.from_arrays(
        stacked.spectral_axis.value, stacked.flux.value, ivar=stacked.uncertainty.array
    ),
}


@pytest.mark.parametrize("container", SPECTRUM_CONTAINERS)
def test_containers_of_spectra_agree(container, spectra, stacked, model, golden):
    objects = SPECTRUM_CONTAINERS[container](spectra, stacked)
    table = embed(objects, model=model, normalize=False)
    assert_allclose(vectors(table), golden["spectrum_embedding"], atol=2e-5, rtol=0)


def test_single_spectrum_is_one_row(spectra, stacked, model, golden):
    for spectrum in (spectra[2], stacked[2:3]):
        table = embed(spectrum, model=model, normalize=False)
        assert len(table) == 1
        assert_allclose(vectors(table)[0], golden["spectrum_embedding"][2], atol=2e-5, rtol=0)


def test_arms_take_ids_and_positions_from_the_fibermap(stacked, model):
    table = embed(arms(stacked), model=model)
    assert list(table["id"]) == ["39627000", "39627001", "39627002", "39627003"]
    assert_array_equal(table["dec"].value, [0, -1, -2, -3])


@pytest.mark.parametrize("container", ["stack", "other order", "batch", "batch in other order"])
def test_containers_of_images_agree(container, pixels, model, golden):
    order = [2, 0, 1]
    if container == "stack":
        meta = {"BANDS": BANDS, "PIXSCALE": 0.262}
        objects = [CCDData(p, unit=u.nmgy, meta=meta) for p in pixels]
    elif container == "other order":
        objects = [dict(reversed(cutout(p).items())) for p in pixels]
    elif container == "batch":
        objects = ImageBatch.from_arrays(pixels)
    else:
        objects = ImageBatch.from_arrays(pixels[:, order], bands=[BANDS[k] for k in order])
    table = embed(objects, model=model, normalize=False)
    assert_allclose(vectors(table), golden["image_embedding"], atol=2e-5, rtol=0)


def test_files(spectra, pixels, model, tmp_path, golden):
    for row, spectrum in enumerate(spectra[:2]):
        spectrum.write(tmp_path / f"spectrum{row}.fits", format="tabular-fits")
        header = fits.Header({"BANDS": BANDS, "BUNIT": "nmgy", "PIXSCALE": 0.262})
        fits.PrimaryHDU(pixels[row], header).writeto(tmp_path / f"image{row}.fits")
    for modality in ("spectrum", "image"):
        paths = [tmp_path / f"{modality}{row}.fits" for row in range(2)]
        expected = golden[f"{modality}_embedding"]
        table = embed(paths, model=model, normalize=False)
        assert_allclose(vectors(table), expected[:2], atol=2e-5, rtol=0)
        alone = embed(str(paths[1]), model=model, normalize=False)
        assert_allclose(vectors(alone), expected[1:2], atol=2e-5, rtol=0)
        assert set(table["modality"]) == {modality}
    assert list(embed(paths[0], model=model)["flags"]) == [0]


def test_batch_on_another_grid_is_resampled(small, golden):
    wavelength, flux = golden["wavelength"][500:7000], golden["spectrum"][:, 500:7000]
    ivar = np.full(flux.shape, 4.0)
    batch = SpectrumBatch.from_arrays(wavelength, flux, ivar=ivar)
    spectra = Spectrum(
        flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA, uncertainty=InverseVariance(ivar)
    )
    from_batch, from_spectra = embed(batch, model=small), embed(spectra, model=small)
    assert_allclose(vectors(from_batch), vectors(from_spectra), atol=1e-5)
    assert_allclose(from_batch["coverage"], from_spectra["coverage"], atol=1e-6)
    assert_array_equal(from_batch["flags"], 0)
    assert_array_equal(from_batch["flags"], from_spectra["flags"])
    assert batch.flux.shape == flux.shape


def test_batch_takes_redshift_ids_and_failures_along(spectra, model, golden):
    batch = SpectrumBatch.from_arrays(golden["wavelength"], golden["spectrum"], ids=list("abcd"))
    flags = batch.flags | np.array([0, Flag.FAILED, 0, 0], dtype=np.int32)
    messages = np.array(["", "lost", "", ""], dtype=object)
    batch = dataclasses.replace(batch, flags=flags, messages=messages)
    with pytest.warns(FailedObjectWarning, match="^1 of 4 .* The first: lost"):
        table = embed(batch, model=model, redshift=0.5)
    assert list(table["id"]) == list("abcd")
    assert_array_equal(table["redshift"], [0.5] * 4)
    assert np.isnan(batch.redshift).all()
    assert list(table["embedding"].mask[:, 0]) == [False, True, False, False]


def test_missing_band_is_flagged_where_the_model_accepts_it(small, pixels):
    rng = np.random.default_rng(3)
    planes = np.abs(rng.normal(0.1, 0.02, (3, 152, 152)))
    objects = cutout(planes)
    batch = ImageBatch.from_arrays(embed_ready(planes[None])[:, :2], bands="gr", pixel_scale=0.524)
    full = embed(objects, model=small)
    del objects["z"]
    for lacking in (objects, batch):
        table = embed(lacking, model=small)
        assert table["flags"][0] & Flag.MISSING_BAND
        assert_allclose(table["coverage"], 2 / 3, atol=1e-6)
        assert np.abs(vectors(table) - vectors(full)).max() > 1e-4


def embed_ready(pixels):
    """Return the central 128 pixels binned by two: nearly the bundled model's scale."""
    middle = pixels[:, :, 12:140, 12:140]
    return middle.reshape(*middle.shape[:2], 64, 2, 64, 2).sum(axis=(3, 5))


def test_image_batch_equals_ccddata_on_the_models_scale(small, pixels):
    wcs = tangential(scale=0.262)
    table = embed([cutout(planes, wcs=wcs) for planes in pixels], model=small)
    batch = ImageBatch.from_arrays(embed_ready(pixels), pixel_scale=0.524)
    assert all(table["flags"] & Flag.RESAMPLED)
    assert_allclose(vectors(embed(batch, model=small)), vectors(table), atol=1e-4)


def tangential(*, scale, size=152):
    """Return a tangential projection centred on (10, 2) deg."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, 2.0]
    wcs.wcs.crpix = [(size + 1) / 2] * 2
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs


# ---------------------------------------------------------------------- options
def test_position_selects_the_target(pixels, model):
    field = np.pad(pixels[0], ((0, 0), (20, 60), (10, 30)), mode="edge")
    wcs = tangential(scale=0.262)
    wcs.wcs.crpix = [(153) / 2 + 10, (153) / 2 + 20]
    field = {band: CCDData(p, unit=u.nmgy, wcs=wcs) for band, p in zip(BANDS, field, strict=True)}
    position = SkyCoord(10, 2, unit="deg")
    table = embed([field, field], model=model, position=position)
    expected = embed(cutout(pixels[0]), model=model)
    assert_allclose(vectors(table), np.repeat(vectors(expected), 2, axis=0), atol=1e-5)
    assert_allclose(table["ra"].to_value(u.deg), 10)
    centre = embed(field, model=model)
    assert np.abs(vectors(centre) - vectors(expected)).max() > 1e-4


def test_zero_point_scales_counts(pixels, model):
    counts = {band: CCDData(p * 10, unit=u.adu) for band, p in zip(BANDS, pixels[0], strict=True)}
    expected = vectors(embed(cutout(pixels[0]), model=model))
    for zero_point in (25.0, {"g": 25.0, "r": 25.0, "z": 25.0}):
        table = embed(counts, model=model, zero_point=zero_point, pixel_scale=0.262)
        assert_allclose(vectors(table), expected, atol=1e-5)


def test_air_wavelengths_are_converted(spectra, small):
    vacuum = vectors(embed(spectra[0], model=small))
    air = vectors(embed(spectra[0], model=small, medium="air"))
    assert 1e-6 < np.abs(air - vacuum).max() < 0.2


def test_rest_frame_model(spectra, golden, small):
    rest = load_copy(small, frame="rest")
    z = 0.1
    shifted = Spectrum(
        flux=spectra[0].flux / (1 + z),
        spectral_axis=golden["wavelength"] * (1 + z) * u.AA,
        uncertainty=InverseVariance(np.full(golden["wavelength"].shape, 4.0 * (1 + z) ** 2)),
    )
    with pytest.warns(FailedObjectWarning, match=r"objects\[1\] has no redshift"):
        table = embed([shifted, shifted], model=rest, redshift=[z, np.nan])
    assert table["flags"][1] & Flag.MISSING_REDSHIFT
    assert_allclose(vectors(table)[0], vectors(embed(spectra[0], model=small))[0], atol=1e-4)


def load_copy(model, *, frame):
    """Return a model that differs in the frame it takes."""
    preset = dataclasses.replace(
        model.preset, spectrum=dataclasses.replace(model.preset.spectrum, frame=frame)
    )
    return embedding_model(model, preset)


def embedding_model(model, preset):
    return type(model)(
        model.network,
        preset,
        name=model.name,
        weights_sha256=model.weights_sha256,
        device=model.device,
    )


def test_min_coverage(golden, small):
    wavelength = np.linspace(9000, 11000, 2000)
    spectrum = Spectrum(
        flux=(2 + np.sin(wavelength / 100)) * FLUX_UNIT, spectral_axis=wavelength * u.AA
    )
    with pytest.raises(ValueError, match="expected at least 50 %"):
        embed(spectrum, model=small, min_coverage=0.5)
    table = embed(spectrum, model=small, min_coverage=0.01)
    grid = wavelength_grid(small.preset.spectrum.grid)
    assert_allclose(table["coverage"], (grid > 9000).mean(), atol=0.002)
    assert table["flags"][0] & Flag.LOW_COVERAGE
    batch = SpectrumBatch.from_arrays(wavelength, spectrum.flux.value)
    with pytest.warns(FailedObjectWarning, match=r"objects\[0\] has valid data in 8\.\d % of"):
        embed(batch, model=small, min_coverage=0.5)


# ---------------------------------------------------------------------- streaming
@settings(max_examples=15, deadline=None)
@given(rows=st.lists(st.integers(0, 3), min_size=1, max_size=12), batch_size=st.integers(1, 6))
def test_a_row_does_not_depend_on_its_neighbors(rows, batch_size):
    with np.load(GOLDEN / "io.npz") as archive:
        flux, expected = archive["spectrum"], archive["spectrum_embedding"]
        wavelength = archive["wavelength"]
    stacked = Spectrum(flux=flux[rows] * FLUX_UNIT, spectral_axis=wavelength * u.AA)
    # a path: the model is kept from call to call
    table = embed(
        stacked, model=GOLDEN / "astroclip.ckpt", device="cpu", batch_size=batch_size,
        normalize=False,
    )
    assert_allclose(vectors(table), expected[rows], atol=2e-5, rtol=0)


def test_more_objects_than_a_chunk_keep_their_rows_names_and_arguments(small_file):
    wavelength = np.linspace(3700, 9200, 64)
    rng = np.random.default_rng(0)
    flux = 3 + rng.normal(size=(1100, 64))
    flux[700] = np.nan
    stacked = Spectrum(
        flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA,
        uncertainty=InverseVariance(np.ones(flux.shape)),
        meta={"id": [f"galaxy-{row}" for row in range(1100)], "ra": np.arange(1100) / 10},
    )
    redshift = rng.uniform(0, 1, 1100)
    with pytest.warns(FailedObjectWarning, match=r"^1 of 1100 .* objects\[700\] has no valid"):
        table = embed(stacked, model=small_file, device="cpu", redshift=redshift)
    assert list(table["id"][[0, 511, 512, 1099]]) == [f"galaxy-{k}" for k in (0, 511, 512, 1099)]
    assert_array_equal(table["ra"].value, np.arange(1100) / 10)
    assert_array_equal(np.isnan(table["redshift"]), np.arange(1100) == 700)
    assert_array_equal(table["redshift"][701:], redshift[701:])
    for row in (3, 600, 1099):
        alone = Spectrum(
            flux=flux[row] * FLUX_UNIT, spectral_axis=wavelength * u.AA,
            uncertainty=InverseVariance(np.ones(64)),
        )
        expected = embed(alone, model=small_file, device="cpu")
        assert_allclose(vectors(table)[row], vectors(expected)[0], atol=1e-5)


# ---------------------------------------------------------------------- mixtures
@pytest.fixture(scope="module")
def files(spectra, pixels, tmp_path_factory):
    """Paths of two spectra, two images and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("files")
    for row in range(2):
        spectra[row].write(folder / f"spectrum{row}.fits", format="tabular-fits")
        header = fits.Header({"BANDS": BANDS, "BUNIT": "nmgy", "PIXSCALE": 0.262})
        fits.PrimaryHDU(pixels[row], header).writeto(folder / f"image{row}.fits")
    (folder / "notes.txt").write_text("clouds, no data")
    return folder


def test_spectra_and_images_may_be_mixed(spectra, images, stacked, model, golden):
    table = embed([images[0], *spectra[:2], images[1], stacked], model=model, normalize=False)
    assert list(table["modality"]) == ["image", "spectrum", "spectrum", "image"] + 4 * ["spectrum"]
    of_images, of_spectra = (golden[f"{name}_embedding"] for name in ("image", "spectrum"))
    expected = [of_images[0], *of_spectra[:2], of_images[1], *of_spectra]
    assert_allclose(vectors(table), expected, atol=2e-5, rtol=0)
    assert list(table["id"][:4]) == ["0", "galaxy-0", "galaxy-1", "3"]


def test_files_and_objects_may_be_mixed_and_say_their_file(files, spectra, model, golden):
    paths = [files / "image1.fits", files / "notes.txt", files / "spectrum0.fits"]
    with pytest.warns(FailedObjectWarning, match=r"^1 of 4 .* objects\[1\]: path '.*notes.txt'"):
        table = embed([*paths, spectra[1]], model=model, normalize=False)
    assert list(table["id"]) == ["image1", "notes", "spectrum0", "galaxy-1"]
    assert list(table["file"]) == [*map(str, paths), ""]
    assert list(table["modality"]) == ["image", "spectrum", "spectrum", "spectrum"]
    expected = [golden["image_embedding"][1], *golden["spectrum_embedding"][:2]]
    assert_allclose(vectors(table)[[0, 2, 3]], expected, atol=2e-5, rtol=0)
    assert "file" not in embed(spectra, model=model).colnames


def test_options_of_one_modality_apply_to_its_rows(pixels, spectra, small):
    counts = {band: CCDData(p * 10, unit=u.adu) for band, p in zip(BANDS, pixels[0], strict=True)}
    mixed = embed(
        [spectra[0], counts], model=small, zero_point=25.0, pixel_scale=0.262, medium="air"
    )
    air = embed(spectra[0], model=small, medium="air")
    flux = embed(cutout(pixels[0]), model=small)
    assert_allclose(vectors(mixed), np.concatenate([vectors(air), vectors(flux)]), atol=1e-5)
    with pytest.raises(ValueError, match="^zero_point is given and objects hold no image, so"):
        embed(spectra, model=small, zero_point=25.0)


def test_positions_of_a_mixture_are_those_of_all_objects(spectra, pixels, model):
    image = cutout(pixels[0], wcs=tangential(scale=0.262))
    center = image["r"].wcs.pixel_to_world(75.5, 75.5)
    elsewhere = SkyCoord(200, -70, unit="deg")
    position = SkyCoord([elsewhere, center])
    table = embed([spectra[0], image], model=model, position=position)
    assert not table["embedding"].mask.any()
    assert_allclose(table["ra"].value, [10.0, center.ra.deg])


def test_what_the_model_does_not_take_fails_its_row_only(spectra, images):
    with pytest.warns(FailedObjectWarning, match="^1 of 2"):
        table = embed([images[0], spectra[0]], model=GOLDEN / "specformer.ckpt", device="cpu")
    assert table["flags"][0] == Flag.FAILED | Flag.BAD_INPUT
    assert "'image' cannot be embedded by model 'specformer', which takes" in table["message"][0]
    assert list(table["embedding"].mask[:, 0]) == [True, False]


def test_arguments_of_files_are_checked_as_they_are_read(files, model):
    paths = [files / "spectrum0.fits", files / "spectrum1.fits"]
    table = embed(paths, model=model, redshift=[0.1, 0.2], ids=["a", "b"])
    assert list(table["redshift"]) == [0.1, 0.2]
    assert list(table["id"]) == ["a", "b"]
    for redshift in ([0.1], [0.1, 0.2, 0.3]):
        with pytest.raises(ValueError, match=r"^redshift has shape .* each of the 2 objects"):
            embed(paths, model=model, redshift=redshift)


def test_redshifts_by_id(spectra, images, model):
    with pytest.warns(AstroclipWarning, match="names 3 ids, of which 2 match an object's"):
        table = embed(
            [spectra[0], images[0], spectra[2]], model=model,
            redshift={"galaxy-2": 0.3, "galaxy-7": 0.4, "1": 0.5},
        )
    assert_array_equal(table["redshift"], [np.nan, 0.5, 0.3])


def test_files_are_read_as_they_are_reached(files, model, monkeypatch):
    read, original = [], fits.open

    def counted(path, *arguments, **options):
        read.append(Path(path).name)
        return original(path, *arguments, **options)

    monkeypatch.setattr(fits, "open", counted)
    objects = sort_objects([files / f"image{row % 2}.fits" for row in range(6)])
    assert (objects.n_objects, objects.is_complete, read) == (6, False, [])
    next(iter(objects))
    assert set(read) == {"image0.fits"}


# ---------------------------------------------------------------------- failures
def test_all_rows_failed(model):
    bad = Spectrum(flux=np.ones(50) * u.ct, spectral_axis=np.linspace(4000, 5000, 50) * u.AA)
    with pytest.warns(FailedObjectWarning, match="^2 of 2 objects"):
        table = embed([bad, bad], model=model)
    assert table["embedding"].shape == (2, 64)
    assert np.all(table["embedding"].mask)


def test_progress_bar(spectra, model, capsys):
    embed(spectra, model=model, show_progress=True)
    assert "4/4" in capsys.readouterr().err
    embed(spectra, model=model)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------------- models
def test_loaded_models_are_kept_until_their_file_changes(small_file, spectra, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(small_file, path)
    first = embed(spectra[0], model=path, device="cpu")
    stat = path.stat()
    other = tmp_path / "other"
    other.write_bytes(bytes(stat.st_size))  # no weights, but of the same size and date
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(path)
    again = embed(spectra[0], model=str(path), device="cpu")
    assert_array_equal(vectors(again), vectors(first))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(CheckpointError):
        embed(spectra[0], model=str(path), device="cpu")


@pytest.mark.parametrize("fixture", ["spectra", "images"])
def test_bf16_agrees_with_float32(fixture, model, request):
    objects = request.getfixturevalue(fixture)
    exact = vectors(embed(objects, model=model))
    rough = vectors(embed(objects, model=model, precision="bf16"))
    cosine = (exact * rough).sum(axis=1)
    assert cosine.min() > 0.9999
    assert np.abs(exact - rough).max() > 0


def test_auto_precision_is_float32_on_the_cpu(spectra, model):
    exact = embed(spectra, model=model)
    assert_array_equal(vectors(embed(spectra, model=model, precision="auto")), vectors(exact))


def test_list_models():
    table = list_models()
    assert table.colnames == [
        "name", "modalities", "dim", "size", "license", "source", "description",
    ]  # fmt: skip
    row = table[list(table["name"]).index("astroclip-mnras")]
    assert row["dim"] == 1024
    assert row["modalities"] == "spectrum, image"
    assert_allclose(row["size"], 1680)
    assert table["size"].unit == u.Mbyte


def test_index_embeds_objects(spectra, images, model):
    tables = [embed(spectra, model=model), embed(images, model=model)]
    reference = vstack(tables, metadata_conflicts="silent")  # the dates may differ
    index = astroclip.SimilarityIndex(reference)
    found = index.query(spectra[1], n_neighbors=1, model=model)
    assert list(found["neighbor_id"]) == ["galaxy-1"]
    found = index.query(images[3], n_neighbors=1, model=model)
    assert list(found["neighbor_id"]) == ["3"]
    assert_allclose(found["similarity"], 1, atol=1e-6)


def test_default_model_is_the_bundled_one(spectra):
    table = embed(spectra[0])
    assert table.meta["MODEL"] == "astroclip-small"
    assert table["embedding"].shape == (1, 128)


# ---------------------------------------------------------------------- what users have
def test_redshifts_by_id_that_match_nothing_are_said(spectra, model):
    match = "names 1 ids, of which none match.* '39627'"
    with pytest.warns(AstroclipWarning, match=match) as caught:
        table = embed(spectra, model=model, redshift={39627: 0.1})
    assert "'galaxy-0'" in str(caught[0].message)
    assert "redshift" not in table.colnames
    table = embed(spectra, model=model, redshift={"galaxy-1": 0.3})
    assert_array_equal(table["redshift"], [np.nan, 0.3, np.nan, np.nan])


def test_a_data_frame_is_embedded_with_its_ids_and_redshifts(small):
    pd = pytest.importorskip("pandas")
    wavelength = np.linspace(3700.0, 9700.0, 2000)
    flux = 3 + np.sin(wavelength / np.array([[150.0], [200.0]]))
    frame = pd.DataFrame({
        "object_id": [b"a", b"b"], "flux": list(flux), "ivar": [np.full(2000, 25.0)] * 2,
        "lambda": [wavelength] * 2, "Z": [0.1, 0.2], "ra": [1.0, 2.0], "dec": [3.0, 4.0],
    })
    spectra = Spectrum(
        flux=flux * FLUX_UNIT, spectral_axis=wavelength * u.AA,
        uncertainty=InverseVariance(np.full(flux.shape, 25.0)),
    )
    table = embed(frame, model=small)
    assert_allclose(vectors(table), vectors(embed(spectra, model=small)), atol=1e-6)
    assert list(table["id"]) == ["a", "b"]
    assert_array_equal(table["redshift"], [0.1, 0.2])
    assert_array_equal(table["dec"].to_value(u.deg), [3, 4])


def test_iterables_are_embedded_as_they_come(spectra, model):
    with pytest.warns(FailedObjectWarning, match="^1 of 3"):
        table = embed(iter([spectra[0], None, spectra[1]]), model=model, ids=["a", None, 3])
    assert list(table["id"]) == ["a", "1", "3"]
