"""What bad input gets: an error that names argument, index, value and fix, or a flagged row.

One row of a table is one case. ``SINGLE`` objects have a fault in their data: alone they
raise, in a list they keep a flagged row and leave the others untouched. ``MISUSE`` calls
are wrong as a whole and always raise.
"""

import copy
import dataclasses
import pickle
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.table import Table
from astropy.wcs import WCS
from specutils import Spectrum, SpectrumList

import astroclip
from astroclip import SimilarityIndex, embed
from astroclip.exceptions import (
    CheckpointError,
    FailedObjectWarning,
    ModelMismatchError,
    PreparationError,
    UnsafeCheckpointError,
)
from astroclip.models.loading import load_model
from astroclip.preparation import ImageBatch, SpectrumBatch
from astroclip.tables import Flag, read_table, write_table

GOLDEN = Path(__file__).parent / "data" / "golden"
FLUX_UNIT = u.Unit("1e-17 erg / (s cm2 AA)")
WAVELENGTH = np.linspace(3600, 9824, 1557)


def make_spectrum(seed=0, *, wavelength=WAVELENGTH, unit=FLUX_UNIT, axis_unit=u.AA, **options):
    """Return a noisy galaxy-like Spectrum."""
    rng = np.random.default_rng(seed)
    wavelength = np.asarray(wavelength, dtype=float)
    flux = 3 + np.sin(wavelength / 300 + seed) + 0.2 * rng.normal(size=len(wavelength))
    ivar = InverseVariance(np.full(len(wavelength), 25.0))
    return Spectrum(
        flux=flux * unit,
        spectral_axis=wavelength * axis_unit,
        **{"uncertainty": ivar, **options},
    )


def make_image(seed=0, *, shape=(152, 152), unit=u.nmgy, wcs=True, bands="grz", shapes=None):
    """Return a dict of CCDData of a round galaxy at the centre of a field at (10, 2) deg."""
    rng = np.random.default_rng(seed)
    images = {}
    for number, band in enumerate(bands):
        n_y, n_x = (shapes or {}).get(band, shape)
        y, x = np.mgrid[:n_y, :n_x]
        radius = np.hypot(y - (n_y - 1) / 2, x - (n_x - 1) / 2)
        flux = (1 + number) * 0.1 * np.exp(-radius / (6 + seed))
        flux += 0.003 * rng.normal(size=(n_y, n_x))
        images[band] = CCDData(flux, unit=unit, wcs=make_wcs(n_x, n_y) if wcs else None)
    return images


def make_wcs(n_x, n_y, scale=0.262):
    """Return a tangential projection of 0.262 arcsec pixels."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.0, 2.0]
    wcs.wcs.crpix = [(n_x + 1) / 2, (n_y + 1) / 2]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    return wcs


def with_flux(spectrum, change):
    """Return the spectrum with ``change`` applied to its flux values."""
    flux = np.array(spectrum.flux.value)
    change(flux)
    return Spectrum(
        flux=flux * spectrum.flux.unit,
        spectral_axis=spectrum.spectral_axis,
        uncertainty=spectrum.uncertainty,
    )


def fill(value, where=slice(None)):
    """Return a function that sets part of an array."""

    def change(array):
        array[where] = value

    return change


def stack(images, **header):
    """Return a CCDData stack of a dict of images."""
    first = next(iter(images.values()))
    data = np.stack([ccd.data for ccd in images.values()])
    return CCDData(data, unit=first.unit, meta=header, wcs=first.wcs)


def masked_image():
    images = make_image()
    for ccd in images.values():
        ccd.mask = np.ones(ccd.shape, bool)
    return images


def nan_image():
    images = make_image()
    for ccd in images.values():
        ccd.data[:] = np.nan
    return images


# name: object with a fault in its data, error when alone, message after "objects" or "objects[i]"
SINGLE_SPECTRA = {
    "no unit": (
        lambda: make_spectrum(unit=u.dimensionless_unscaled, uncertainty=None),
        u.UnitsError,
        r" has flux with no unit; expected a flux density convertible to .* Pass unit=",
    ),
    "counts": (
        lambda: make_spectrum(unit=u.ct),
        u.UnitsError,
        r" has flux with unit 'ct'; expected a flux density .* Calibrate it",
    ),
    "temperature": (
        lambda: make_spectrum(unit=u.K),
        u.UnitsError,
        r" has flux with unit 'K'; expected a flux density convertible",
    ),
    "axis in pixels": (
        lambda: make_spectrum(axis_unit=u.pix),
        u.UnitsError,
        r" has a spectral axis in 'pix'; expected a wavelength, .* Set spectral_axis",
    ),
    "duplicate wavelengths": (
        lambda: make_spectrum(wavelength=np.repeat(np.linspace(3600, 9800, 700), 2)),
        PreparationError,
        r" has wavelengths that are not strictly monotonic: pixel \d+ is at (\d+) and pixel \d+ "
        r"at \1 Angstrom. Sort them and average duplicates",
    ),
    "wavelengths below zero": (
        lambda: make_spectrum(wavelength=np.linspace(-100, 9800, 700)),
        PreparationError,
        r" has wavelengths",
    ),
    "five pixels": (
        lambda: make_spectrum(wavelength=[4000, 5000, 6000, 7000, 8000]),
        PreparationError,
        r" has 5 pixels; expected a spectrum of at least 6",
    ),
    "all masked": (
        lambda: make_spectrum(mask=np.ones(len(WAVELENGTH), bool)),
        PreparationError,
        r" has no valid pixel: all 1557 are masked, .* Check its mask and uncertainty",
    ),
    "all NaN": (
        lambda: with_flux(make_spectrum(), fill(np.nan)),
        PreparationError,
        r" has no valid pixel: all 1557 are masked, not finite",
    ),
    "all infinite": (
        lambda: with_flux(make_spectrum(), fill(np.inf)),
        PreparationError,
        r" has no valid pixel: all 1557 are masked, not finite",
    ),
    "zero ivar everywhere": (
        lambda: make_spectrum(uncertainty=InverseVariance(np.zeros(len(WAVELENGTH)))),
        PreparationError,
        r" has no valid pixel: .* zero inverse variance; .* Check its mask and uncertainty",
    ),
    "no overlap": (
        lambda: make_spectrum(wavelength=np.linspace(10000, 20000, 900)),
        PreparationError,
        r" has valid data in 0.0 % of the model's range .* \(its own range is 10000-20000.* Lower",
    ),
    "five per cent overlap": (
        lambda: make_spectrum(wavelength=np.linspace(9500, 12000, 900)),
        PreparationError,
        r" has valid data in 5\.\d % of the model's range 3600-9824 .* at least 10 %. Lower",
    ),
    "negative redshift": (
        lambda: make_spectrum(redshift=-0.5),
        PreparationError,
        r" has redshift -0.5; expected a finite one of at least -0.01. Pass redshift=nan",
    ),
}

SINGLE_IMAGES = {
    "image without unit": (
        lambda: make_image(unit=u.dimensionless_unscaled),
        u.UnitsError,
        r"\['g'\] has no unit and no zero point; expected nanomaggies, .* Set its unit",
    ),
    "image in counts": (
        lambda: make_image(unit=u.adu),
        u.UnitsError,
        r"\['g'\] has unit 'adu' and no zero point; expected nanomaggies, .* pass zero_point",
    ),
    "image in kelvin": (
        lambda: make_image(unit=u.K),
        u.UnitsError,
        r"\['g'\] has unit 'K'; expected nanomaggies",
    ),
    "wrong band names": (
        lambda: dict(zip(["blue", "red", "far"], make_image().values(), strict=True)),
        PreparationError,
        r": band is 'blue'; expected a letter of u, g, r, i, z, y",
    ),
    "missing band": (
        lambda: make_image(bands="gr"),
        PreparationError,
        r" lacks band 'z'; it has \['g', 'r'\] and the model needs .* Add the band",
    ),
    "other bands": (
        lambda: make_image(bands="uiy"),
        PreparationError,
        r" lacks band 'g', 'r', 'z'; it has \['i', 'u', 'y'\]",
    ),
    "bands of different shapes": (
        lambda: make_image(wcs=False, shapes={"r": (160, 160)}),
        PreparationError,
        r" has bands of different shapes .*'r': \(160, 160\).* Cut all bands to the same pixels",
    ),
    "image smaller than the crop": (
        lambda: make_image(shape=(100, 120)),
        PreparationError,
        r"\['g'\] is 120 x 100 pixels; expected at least 144 on a side .* Get a larger cutout",
    ),
    "image of one axis": (
        lambda: {band: CCDData(np.ones(152), unit=u.nmgy) for band in "grz"},
        PreparationError,
        r"\['g'\] has data of shape \(152,\); expected \(y, x\)",
    ),
    "stack of one plane": (
        lambda: make_image()["g"],
        PreparationError,
        r" has data of shape \(152, 152\); expected a stack \(band, y, x\), or a dict",
    ),
    "stack without band names": (
        lambda: stack(make_image()),
        PreparationError,
        r" is a stack of 3 bands and names 0 .*; expected a name for each. Name them: bands=",
    ),
    "stack with too few names": (
        lambda: stack(make_image(), BANDS="gr"),
        PreparationError,
        r" is a stack of 3 bands and names 2",
    ),
    "all pixels masked": (
        masked_image,
        PreparationError,
        r"\['g'\] has no valid pixel: all 23104 are masked, .* Check its mask and uncertainty",
    ),
    "all pixels NaN": (
        nan_image,
        PreparationError,
        r"\['g'\] has no valid pixel: all 23104 are masked",
    ),
}


# name: call with the fixture `prepared`, error, message
MISUSE = {
    "nothing": (
        lambda p: embed(None, model=p.model),
        TypeError,
        r"objects is a NoneType; expected a Spectrum \(Spectrum1D\), .* or a list of these",
    ),
    "a number": (lambda p: embed(3.0, model=p.model), TypeError, r"objects is a float; expected"),
    "an array": (
        lambda p: embed(np.ones((3, 1557)), model=p.model),
        TypeError,
        r"objects is a ndarray; expected a Spectrum",
    ),
    "a table": (
        lambda p: embed(Table({"flux": [1.0]}), model=p.model),
        PreparationError,
        r"objects is a table with the columns flux, none of them known. Expected columns of arr",
    ),
    "empty list": (
        lambda p: embed([], model=p.model),
        ValueError,
        r"objects is empty; pass at least one object",
    ),
    "empty SpectrumList": (
        lambda p: embed(SpectrumList([]), model=p.model),
        ValueError,
        r"objects is empty; pass at least one object",
    ),
    "3-D flux": (
        lambda p: embed(
            Spectrum(flux=np.ones((2, 2, 1557)) * FLUX_UNIT, spectral_axis=WAVELENGTH * u.AA),
            model=p.model,
        ),
        ValueError,
        r"objects has flux of shape \(2, 2, 1557\); expected .* Reshape the cube to two axes",
    ),
    "unknown medium": (
        lambda p: embed(make_spectrum(), model=p.model, medium="water"),
        ValueError,
        r"medium is 'water'; expected one of 'vacuum', 'air'",
    ),
    "redshift missing in the rest frame": (
        lambda p: embed(make_spectrum(), model=p.rest_model),
        PreparationError,
        r"objects has no redshift, and the rest frame needs one; expected the argument redshift",
    ),
    "wrong number of redshifts": (
        lambda p: embed([make_spectrum(0), make_spectrum(1)], model=p.model, redshift=[0.1] * 3),
        ValueError,
        r"redshift has shape \(3,\); expected one value, or one for each of the 2 objects",
    ),
    "redshift in words": (
        lambda p: embed(make_spectrum(), model=p.model, redshift="high"),
        TypeError,
        r"redshift is 'high'; expected a number, one for each object",
    ),
    "wrong number of ids": (
        lambda p: embed([make_spectrum(0), make_spectrum(1)], model=p.model, ids=["a"] * 3),
        ValueError,
        r"ids has shape \(3,\); expected one value, or one for each of the 2 objects",
    ),
    "no batch": (
        lambda p: embed(make_spectrum(), model=p.model, batch_size=0),
        ValueError,
        r"batch_size is 0; expected at least 1",
    ),
    "half a batch": (
        lambda p: embed(make_spectrum(), model=p.model, batch_size=2.5),
        TypeError,
        r"batch_size is 2.5 of type float; expected an integer",
    ),
    "coverage in per cent": (
        lambda p: embed(make_spectrum(), model=p.model, min_coverage=10),
        ValueError,
        r"min_coverage is 10; expected a fraction from 0 to 1",
    ),
    "unknown precision": (
        lambda p: embed(make_spectrum(), model=p.model, precision="int8"),
        ValueError,
        r"precision is 'int8'; expected one of 'float32', 'bf16', 'auto'",
    ),
    "unknown device": (
        lambda p: embed(make_spectrum(), model=p.model, device="abacus"),
        ValueError,
        r"device is 'abacus'; expected one of",
    ),
    "unknown model": (
        lambda p: embed(make_spectrum(), model="astroclip-gigantic"),
        ValueError,
        r"model is 'astroclip-gigantic'; expected one of .*astroclip-small",
    ),
    "model of another type": (
        lambda p: embed(make_spectrum(), model=7),
        TypeError,
        r"model is of type int; expected a name of astroclip.list_models\(\)",
    ),
    "image for a spectrum model": (
        lambda p: embed(make_image(), model=p.golden / "specformer.ckpt"),
        ValueError,
        r"objects of modality 'image' cannot be embedded by model 'specformer', which takes "
        r"spectrum; expected a model that takes these, such as",
    ),
    "spectrum for an image model": (
        lambda p: embed(make_spectrum(), model=p.golden / "astrodino.ckpt"),
        ValueError,
        r"objects of modality 'spectrum' cannot be embedded by model 'astrodino', which takes",
    ),
    "empty dict": (
        lambda p: embed({}, model=p.model),
        TypeError,
        r"objects is an empty dict; expected a CCDData, or a dict of band to CCDData",
    ),
    "position without WCS": (
        lambda p: embed(make_image(wcs=False), model=p.model, position=SkyCoord(10, 2, unit="deg")),
        PreparationError,
        r"objects has no WCS and a position is given; expected a WCS to find it. Give the CCDData",
    ),
    "position off the image": (
        lambda p: embed(make_image(), model=p.model, position=SkyCoord(11, 2, unit="deg")),
        PreparationError,
        r"objects: position 11 2 is at pixel .*, off the image of 152 x 152; .* Check the position",
    ),
    "position as numbers": (
        lambda p: embed(make_image(), model=p.model, position=(10.0, 2.0)),
        TypeError,
        r"position is of type tuple; expected an astropy.coordinates.SkyCoord, such as",
    ),
    "wrong number of positions": (
        lambda p: embed(
            [make_image()], model=p.model, position=SkyCoord([10] * 2, [2] * 2, unit="deg")
        ),
        ValueError,
        r"position has shape \(2,\); expected one value, or one for each of the 1 objects",
    ),
    "position of a spectrum": (
        lambda p: embed(make_spectrum(), model=p.model, position=SkyCoord(10, 2, unit="deg")),
        ValueError,
        r"position is given and objects hold no image, so that it does not apply; leave it out",
    ),
    "zero point of a spectrum": (
        lambda p: embed(make_spectrum(), model=p.model, zero_point=22.5),
        ValueError,
        r"zero_point is given and objects hold no image, so that it does not apply; leave it out",
    ),
    "air wavelengths of a batch": (
        lambda p: embed(
            SpectrumBatch.from_arrays(WAVELENGTH, np.ones(1557)), model=p.model, medium="air"
        ),
        ValueError,
        r"medium is given and objects are a batch of arrays, so that it does not apply; leave it",
    ),
    "missing file": (
        lambda p: embed(p.folder / "none.fits", model=p.model),
        FileNotFoundError,
        r"objects: path '.*none.fits' does not exist; check the path",
    ),
    "truncated spectrum": (
        lambda p: embed(p.truncated_spectrum, model=p.model),
        PreparationError,
        r"objects: path '.*cut.fits' cannot be read as .* Check that the file",
    ),
    "truncated image": (
        lambda p: embed(p.truncated_image, model=p.model),
        PreparationError,
        r"objects: path '.*cut-image.fits' cannot be read as images: it is damaged or incomplete",
    ),
    "text as a spectrum": (
        lambda p: embed(p.text, model=p.model),
        PreparationError,
        r"objects: path '.*notes.txt' cannot be read as spectra: .* Check that the file",
    ),
    "batch in another frame": (
        lambda p: embed(
            SpectrumBatch.from_arrays(WAVELENGTH, np.ones(1557), frame="rest"), model=p.model
        ),
        ValueError,
        r"objects is a SpectrumBatch in the rest frame; expected the observed frame",
    ),
    "batch with wavelengths out of order": (
        lambda p: SpectrumBatch.from_arrays(WAVELENGTH[::-1], np.ones(1557)),
        ValueError,
        r"wavelength must be finite and strictly ascending; sort it with its flux",
    ),
    "batch of another pixel scale": (
        lambda p: embed(
            ImageBatch.from_arrays(np.ones((1, 3, 152, 152)), pixel_scale=0.4), model=p.model
        ),
        ValueError,
        r"objects is an ImageBatch of 0.4 arcsec per pixel; expected 0.262",
    ),
    "batch of small images": (
        lambda p: embed(ImageBatch.from_arrays(np.ones((1, 3, 64, 64))), model=p.model),
        ValueError,
        r"objects is an ImageBatch of 64 x 64 pixels; expected at least 144 x 144",
    ),
    "batch without a band": (
        lambda p: embed(
            ImageBatch.from_arrays(np.ones((1, 2, 152, 152)), bands="gr"), model=p.model
        ),
        ValueError,
        r"objects is an ImageBatch of the bands g, r; the model also needs z",
    ),
    "text as a checkpoint": (
        lambda p: load_model(p.text_checkpoint),
        CheckpointError,
        r"weights file '.*notes.ckpt' is no readable PyTorch checkpoint",
    ),
    "checkpoint of another architecture": (
        lambda p: load_model(p.golden / "specformer.ckpt", preset="astroclip-mnras"),
        CheckpointError,
        r"weights file '.*specformer.ckpt' is of architecture 'specformer'; expected 'astroclip'",
    ),
    "checkpoint that would run code": (
        lambda p: load_model(p.harmful_checkpoint),
        UnsafeCheckpointError,
        r"write_text",
    ),
    "missing checkpoint": (
        lambda p: embed(make_spectrum(), model=p.folder / "none.ckpt"),
        FileNotFoundError,
        r"weights file '.*none.ckpt' does not exist; check the path",
    ),
    "tables of two models": (
        lambda p: p.index.query(p.foreign_table),
        ModelMismatchError,
        r"query and reference hold embeddings of different weights .* Embed both",
    ),
    "more neighbors than the reference has": (
        lambda p: p.index.query(p.table, n_neighbors=50),
        ValueError,
        r"n_neighbors is 50 and the reference has 12 rows .* Ask for fewer",
    ),
    "no neighbors": (
        lambda p: p.index.query(p.table, n_neighbors=0),
        ValueError,
        r"n_neighbors is 0; expected at least 1",
    ),
    "unknown modality": (
        lambda p: p.index.query(p.table, n_neighbors=2, modality="sound"),
        ValueError,
        r"modality is 'sound'; expected one of 'spectrum', 'image', 'all'",
    ),
    "selection of another length": (
        lambda p: p.index.query(p.table, n_neighbors=2, where=np.ones(3, bool)),
        ValueError,
        r"where has dtype bool and shape \(3,\); expected a bool for each of the reference's 12",
    ),
    "index of no embedding table": (
        lambda p: astroclip.SimilarityIndex(Table({"id": ["a"]})),
        ValueError,
        r"table has no column 'modality', 'embedding'.* Make one with astroclip.embed",
    ),
    "untrained property": (
        lambda p: p.estimator.predict(p.table, properties=["age"]),
        KeyError,
        r"properties names 'age', which the estimator was not fitted with; expected some of",
    ),
    "property that is no column": (
        lambda p: astroclip.PropertyEstimator(n_neighbors=4).fit(p.table, ["age"]),
        KeyError,
        r"properties names 'age', which is no column of the table; expected some of",
    ),
    "estimator that was not fitted": (
        lambda p: astroclip.PropertyEstimator().predict(p.table),
        ValueError,
        r"the estimator is not fitted; call fit",
    ),
    "reference smaller than the neighborhood": (
        lambda p: astroclip.PropertyEstimator(n_neighbors=64).fit(p.table, ["mass"]),
        ValueError,
        r"table has 12 spectrum rows with an embedding and a 'mass'; expected more than "
        r"n_neighbors = 64. Use a larger reference or fewer",
    ),
}


class Harmful:
    """An object whose unpickling would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "this must not be written")


def cut(path, source, share):
    """Write the first ``share`` of a file's bytes to ``path``."""
    content = Path(source).read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Models, broken files and tables that the cases name."""
    folder = tmp_path_factory.mktemp("bad")
    text = folder / "notes.txt"
    text.write_text("12 Nov: clouds, no data.")
    text_checkpoint = folder / "notes.ckpt"
    text_checkpoint.write_text(text.read_text())
    harmful = folder / "harmful.ckpt"
    with zipfile.ZipFile(harmful, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state": Harmful(folder / "ran")}))
        archive.writestr("archive/version", "3")
    spectrum, image = folder / "spectrum.fits", folder / "image.fits"
    make_spectrum().write(spectrum, format="tabular-fits")
    fits.PrimaryHDU(np.ones((3, 152, 152)), fits.Header({"BANDS": "grz"})).writeto(image)
    model = load_model(GOLDEN / "astroclip.ckpt", device="cpu")
    rest_model = copy.copy(model)
    rest_model.preset = dataclasses.replace(
        model.preset, spectrum=dataclasses.replace(model.preset.spectrum, frame="rest")
    )
    table = embed([make_spectrum(seed) for seed in range(12)], model=model)
    table["mass"] = np.arange(12.0)
    foreign = table.copy()
    foreign.meta["WSHA"] = "0" * 64
    estimator = astroclip.PropertyEstimator(n_neighbors=4).fit(table, ["mass"])
    return SimpleNamespace(
        folder=folder,
        golden=GOLDEN,
        model=model,
        rest_model=rest_model,
        text=text,
        text_checkpoint=text_checkpoint,
        harmful_checkpoint=harmful,
        truncated_spectrum=cut(folder / "cut.fits", spectrum, 0.6),
        truncated_image=cut(folder / "cut-image.fits", image, 0.6),
        table=table,
        foreign_table=foreign,
        index=astroclip.SimilarityIndex(table),
        estimator=estimator,
    )


SINGLE = SINGLE_SPECTRA | SINGLE_IMAGES


def good_objects(name):
    """Return two good objects of the modality of a case."""
    make = make_spectrum if name in SINGLE_SPECTRA else make_image
    return make(1), make(2)


@pytest.mark.parametrize("name", SINGLE)
def test_single_object_raises(prepared, name):
    build, error, message = SINGLE[name]
    with pytest.raises(error, match=f"^objects{message}"):
        embed(build(), model=prepared.model)


@pytest.mark.parametrize("name", SINGLE)
def test_in_a_list_its_row_is_flagged_and_the_others_are_untouched(prepared, name):
    build, _, message = SINGLE[name]
    first, last = good_objects(name)
    expected = embed([first, last], model=prepared.model)
    with pytest.warns(FailedObjectWarning, match=r"^1 of 3 objects could not be embedded"):
        table = embed([first, build(), last], model=prepared.model)
    assert re.match(rf"objects\[1\]{message}", table["message"][1])
    assert table["flags"][1] & Flag.FAILED
    assert np.all(table["embedding"].mask[1])
    assert table["coverage"][1] == 0
    others = table[[0, 2]]
    np.testing.assert_array_equal(
        np.asarray(others["embedding"]), np.asarray(expected["embedding"])
    )
    for column in ("modality", "coverage", "flags", "message"):
        assert list(others[column]) == list(expected[column])


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_raises(prepared, name):
    call, error, message = MISUSE[name]
    with pytest.raises(error, match=message):
        call(prepared)


def test_harmful_checkpoint_ran_nothing(prepared):
    with pytest.raises(UnsafeCheckpointError):
        load_model(prepared.harmful_checkpoint)
    assert not (prepared.folder / "ran").exists()
    assert pickle.loads(pickle.dumps(Harmful(prepared.folder / "control"))) > 0
    assert (prepared.folder / "control").exists()


def test_unreadable_files_of_a_list_are_flagged(prepared, tmp_path):
    good = prepared.folder / "spectrum.fits"
    bad = [prepared.truncated_spectrum, prepared.folder / "none.fits", tmp_path]
    with pytest.warns(FailedObjectWarning, match="^3 of 5 objects"):
        table = embed([good, *bad, good], model=prepared.model)
    for row, message in (
        (1, r"objects\[1\]: path '.*cut.fits' cannot be read"),
        (2, r"objects\[2\]: path '.*none.fits' does not exist"),
        (3, r"objects\[3\]: folder '.*' holds no file ending in .fits"),
    ):
        assert re.match(message, table["message"][row])
        assert table["flags"][row] & Flag.FAILED
    alone = embed([good, good], model=prepared.model)
    np.testing.assert_array_equal(
        np.asarray(table["embedding"][[0, 4]]), np.asarray(alone["embedding"])
    )


def test_what_is_no_object_keeps_its_row(prepared, tmp_path):
    elements = [
        None, 3.0, {}, {"g": np.ones((152, 152))}, SpectrumList(), np.ones(30), "no such name",
        SpectrumBatch.from_arrays(WAVELENGTH, np.ones(1557)), [make_spectrum()],
    ]
    good = make_spectrum()
    with pytest.warns(FailedObjectWarning, match=f"^{len(elements)} of {len(elements) + 1} obj"):
        table = embed([*elements, good], model=prepared.model)
    assert list(table["flags"]) == [3] * len(elements) + [0]
    for row, message in enumerate(table["message"][:-1]):
        assert message.startswith(f"objects[{row}]")
    assert set(table["modality"]) == {"", "image", "spectrum"}
    alone = np.asarray(embed(good, model=prepared.model)["embedding"])
    np.testing.assert_array_equal(np.asarray(table["embedding"][[-1]]), alone)
    for suffix in ("fits", "ecsv", "parquet"):
        path = tmp_path / f"table.{suffix}"
        write_table(table, path)
        assert read_table(path)["modality"].tolist() == table["modality"].tolist()
    assert len(SimilarityIndex(table).query(table, 1)) == 1
    with pytest.warns(FailedObjectWarning, match="^1 of 1"):
        assert list(embed([None], model=prepared.model)["flags"]) == [3]


def test_bad_redshift_of_a_list_is_flagged(prepared):
    objects = [make_spectrum(seed) for seed in range(3)]
    with pytest.warns(FailedObjectWarning, match=r"objects\[1\] has redshift -3"):
        table = embed(objects, model=prepared.model, redshift=[0.1, -3, 0.2])
    assert list(table["flags"] & Flag.FAILED) == [0, 1, 0]


def test_position_off_one_image_is_flagged(prepared):
    images = [make_image(seed) for seed in range(3)]
    position = SkyCoord([10, 10, 50], [2, 2, 2], unit="deg")
    with pytest.warns(FailedObjectWarning, match=r"objects\[2\]: position .* off the image"):
        table = embed(images, model=prepared.model, position=position)
    assert list(table["flags"] & (Flag.FAILED | Flag.NO_OVERLAP)) == [0, 0, 5]


# name: object that is usable all the same, flags it must carry
TOLERATED = {
    "one NaN": (lambda: with_flux(make_spectrum(), fill(np.nan, 700)), Flag(0)),
    "one wild value": (lambda: with_flux(make_spectrum(), fill(1e9, 700)), Flag(0)),
    "one infinite value": (lambda: with_flux(make_spectrum(), fill(np.inf, 700)), Flag(0)),
    "a tenth of the pixels": (
        lambda: with_flux(make_spectrum(), fill(np.nan, slice(0, None, 10))), Flag.BAD_PIXELS
    ),
    "no uncertainty": (lambda: make_spectrum(uncertainty=None), Flag.IVAR_ESTIMATED),
    "a fifth of the range": (
        lambda: make_spectrum(wavelength=np.linspace(8600, 12000, 2000)),
        Flag.LOW_COVERAGE,
    ),
    "a small blueshift": (lambda: make_spectrum(redshift=-0.001), Flag(0)),
}


@pytest.mark.parametrize("name", TOLERATED)
def test_tolerated(prepared, name):
    build, flag = TOLERATED[name]
    table = embed(build(), model=prepared.model)
    assert table["flags"][0] & flag == flag
    assert not table["flags"][0] & Flag.FAILED
    assert np.isclose(np.linalg.norm(np.asarray(table["embedding"][0])), 1, atol=1e-6)


def test_one_bad_pixel_matters_little(prepared):
    plain = embed(make_spectrum(), model=prepared.model)
    spoiled = embed(with_flux(make_spectrum(), fill(1e9, 700)), model=prepared.model)
    distance = np.linalg.norm(np.asarray(plain["embedding"]) - np.asarray(spoiled["embedding"]))
    other = embed(make_spectrum(5), model=prepared.model)
    typical = np.linalg.norm(np.asarray(plain["embedding"]) - np.asarray(other["embedding"]))
    assert distance < 0.1 * typical


def test_table_of_cases_is_complete():
    assert len(SINGLE) + len(MISUSE) + len(TOLERATED) >= 45
