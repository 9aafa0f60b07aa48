"""Anything a user passes becomes single objects, in order, with their names and errors."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.table import Table
from specutils import Spectrum, SpectrumCollection, SpectrumList

from astroclip.datasets import DATA
from astroclip.exceptions import PreparationError
from astroclip.preparation import ImageBatch, SpectrumBatch
from astroclip.preparation.batches import FLUX_UNIT
from astroclip.preparation.identity import plain_id
from astroclip.preparation.objects import sort_objects

WAVELENGTH = np.linspace(4000.0, 5000.0, 30)


def spectrum(n_objects=None, *, wavelength=WAVELENGTH, **options):
    shape = (len(wavelength),) if n_objects is None else (n_objects, len(wavelength))
    return Spectrum(
        flux=np.ones(shape) * FLUX_UNIT, spectral_axis=wavelength * u.AA,
        uncertainty=InverseVariance(np.ones(shape)), **options,
    )


def image(**options):
    return {band: CCDData(np.ones((8, 8)), unit=u.nmgy, **options) for band in "grz"}


def arms(n_objects, **options):
    """Return two overlapping arms that share pixels, as DESI's do."""
    wavelength = 4000 + 0.8 * np.arange(200)
    return SpectrumList(
        [
            spectrum(n_objects, wavelength=wavelength[rows], **options)
            for rows in (slice(0, 120), slice(100, 200))
        ]
    )


CASES = {
    "Spectrum": (lambda: spectrum(), ["spectrum"], True),
    "2-D flux": (lambda: spectrum(3), ["spectrum"] * 3, False),
    "2-D flux of one row": (lambda: spectrum(1), ["spectrum"], True),
    "SpectrumList": (lambda: SpectrumList([spectrum(), spectrum(2)]), ["spectrum"] * 3, False),
    "SpectrumCollection": (
        lambda: SpectrumCollection.from_spectra([spectrum(mask=np.zeros(30, bool))] * 2),
        ["spectrum"] * 2, False,
    ),
    "arms of one object": (lambda: arms(None), ["spectrum"], True),
    "arms of three": (lambda: arms(3), ["spectrum"] * 3, False),
    "dict": (image, ["image"], True),
    "stack": (lambda: CCDData(np.ones((3, 8, 8)), unit=u.nmgy), ["image"], True),
    "mixture": (
        lambda: [image(), spectrum(2), arms(2), image()],
        ["image", *["spectrum"] * 4, "image"], False,
    ),
    "tuple of one": (lambda: (spectrum(),), ["spectrum"], False),
    "SpectrumBatch": (
        lambda: SpectrumBatch.from_arrays(WAVELENGTH, np.ones((2, 30))), ["spectrum"] * 2, False,
    ),
    "ImageBatch": (
        lambda: ImageBatch.from_arrays(np.ones((2, 3, 8, 8))), ["image"] * 2, False,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_input_is_sorted_into_single_objects(case):
    make, modalities, single = CASES[case]
    objects = sort_objects(make())
    items = list(objects)
    assert [item.modality for item in items] == modalities
    assert [item.number for item in items] == list(range(len(modalities)))
    assert objects.n_objects == len(items)
    assert objects.single is single
    names = ["objects"] if single else [f"objects[{k}]" for k in range(len(items))]
    assert [item.name for item in items] == names
    assert [item.id for item in items] == [str(k) for k in range(len(items))]
    for modality in ("spectrum", "image"):
        assert objects.holds(modality) is (modality in modalities)


def test_rows_are_not_copied():
    spectra = spectrum(4)
    assert all(item.data is spectra and item.row == k for k, item in enumerate(
        sort_objects([spectra])
    ))


@pytest.mark.parametrize(
    ("meta", "ids", "ra"),
    [
        ({"id": ["a", "b"], "ra": [1.0, 2.0]}, ["a", "b"], [1.0, 2.0]),
        ({"id": np.array([7, 8]), "ra": [1, 2] * u.deg}, ["7", "8"], [1 * u.deg, 2 * u.deg]),
        ({"id": "both", "ra": 3.0}, ["0", "1"], [None, None]),
        ({"id": ["a", "b", "c"], "ra": "xy"}, ["0", "1"], [None, None]),
        ({}, ["0", "1"], [None, None]),
    ],
)
def test_rows_have_their_part_of_the_meta(meta, ids, ra):
    items = list(sort_objects(spectrum(2, meta=meta)))
    assert [item.id for item in items] == ids
    assert [item.meta("ra") for item in items] == ra


def test_ids_of_single_objects():
    objects = [spectrum(meta={"id": "NGC 1"}), image(meta={"id": 5}), image(), spectrum()]
    assert [item.id for item in sort_objects(objects)] == ["NGC 1", "5", "2", "3"]
    assert next(iter(sort_objects(spectrum(1, meta={"id": "one"})))).id == "one"


def test_arms_take_ids_and_positions_from_the_fibermap():
    fibermap = Table({"TARGETID": [39627, 39628], "TARGET_RA": [1.0, 2.0], "TARGET_DEC": [3, 4]})
    items = list(sort_objects([arms(2, meta={"fibermap": fibermap})]))
    assert [item.id for item in items] == ["39627", "39628"]
    assert [(item.meta("ra"), item.meta("dec")) for item in items] == [(1, 3), (2, 4)]


def test_arms_that_cannot_be_merged_are_an_object_that_failed():
    bad = arms(2)
    bad[1].uncertainty = None
    message = "holds the arms of a spectrograph that cannot be merged: .* has no uncertainty"
    first, failed, last = sort_objects([spectrum(), bad, spectrum()])
    assert isinstance(failed.data, PreparationError)
    assert (failed.modality, failed.number, last.number) == ("spectrum", 1, 2)
    with pytest.raises(PreparationError, match=rf"^objects\[1\] {message}"):
        raise failed.data
    with pytest.raises(PreparationError, match=f"^objects {message}"):
        sort_objects(bad)


# ---------------------------------------------------------------------- files
@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in ("one", "two"):
        spectrum().write(folder / f"{name}.fits", format="tabular-fits")
    fits.PrimaryHDU(np.ones((3, 8, 8)), fits.Header({"BANDS": "grz"})).writeto(
        folder / "image.fits"
    )
    (folder / "notes.fits").write_text("no data")
    return folder


def test_files_are_read_when_reached_and_keep_their_places(folder):
    paths = [folder / "one.fits", str(folder / "image.fits"), folder / "notes.fits"]
    objects = sort_objects([*paths, spectrum(), folder / "none.fits"])
    assert (objects.n_objects, objects.is_complete, objects.single) == (5, False, False)
    assert objects.holds("image")
    items = list(objects)
    assert objects.is_complete
    assert [item.modality for item in items] == ["spectrum", "image", "spectrum", "spectrum", ""]
    assert [item.id for item in items] == ["one", "image", "notes", "3", "none"]
    assert [item.file for item in items] == [*map(str, paths), "", str(folder / "none.fits")]
    for row, message in ((2, "cannot be read as spectra: "), (4, "does not exist; check the path")):
        assert str(items[row].data).startswith(f"objects[{row}]: path '{items[row].file}' ")
        assert message in str(items[row].data)


def test_the_number_of_objects_is_final_once_the_last_file_is_read(folder):
    objects = sort_objects([folder / "one.fits", spectrum(), folder / "image.fits", spectrum()])
    known = [objects.is_complete for _ in objects]
    assert known == [False, False, True, True]


def test_one_file_by_itself_raises_what_reading_it_gives(folder):
    objects = sort_objects(folder / "image.fits")
    assert objects.single
    assert next(iter(objects)).name == f"objects ({folder / 'image.fits'})"
    with pytest.raises(FileNotFoundError, match=r"^x: path '.*none.fits' does not exist"):
        sort_objects(folder / "none.fits", name="x")
    with pytest.raises(PreparationError, match=r"^objects: path '.*notes.fits' cannot be read"):
        sort_objects(folder / "notes.fits")


def test_a_file_of_several_objects_counts_as_many(shared_data):
    path = shared_data / "desi" / "coadd-sv3-dark-26065.fits"
    objects = sort_objects([path, DATA / "samples" / "desi-27247.fits"])
    assert objects.n_objects == 2
    items = list(objects)
    assert objects.n_objects == len(items) == 6
    assert [Path(item.file).name for item in items] == [path.name] * 5 + ["desi-27247.fits"]
    assert items[5].name == f"objects[5] ({items[5].file})"
    assert not sort_objects(path).single


# ---------------------------------------------------------------------- misuse
BATCH = ImageBatch.from_arrays(np.ones((1, 3, 8, 8)))


@pytest.mark.parametrize(
    ("element", "modality", "message"),
    [
        (3.0, None, r" is a float; expected a Spectrum \(Spectrum1D\), .* or a list of these"),
        (None, None, " is a NoneType; expected a Spectrum"),
        (np.ones(30), None, " is a ndarray; expected a Spectrum"),
        ({}, None, " is an empty dict; expected a CCDData, or a dict of band to CCDData"),
        ({"g": np.ones((8, 8))}, None, r"\['g'\] is a ndarray; expected a CCDData"),
        (image(), "spectrum", " is a dict; expected a specutils Spectrum .* Build one"),
        (spectrum(), "image", " is a Spectrum; expected a CCDData, .* Make one with CCDData"),
        ("a.fits", "spectrum", " is a str; expected a specutils Spectrum"),
    ],
)
def test_other_types_are_named(element, modality, message):
    with pytest.raises(TypeError, match=f"^x{message}"):
        sort_objects(element, name="x", modality=modality)
    good = image() if modality == "image" else spectrum()
    first, failed = sort_objects([good, element], name="x", modality=modality)
    assert first.fault is None
    with pytest.raises(PreparationError, match=rf"^x\[1\]{message}"):
        raise failed.fault


def test_a_batch_in_a_list_is_named():
    (failed,) = sort_objects([BATCH], name="x")
    assert str(failed.fault).startswith("x[0] is a ImageBatch; pass a batch by itself, not in a")
    assert failed.modality == ""


def test_names_count_rows_and_not_elements():
    items = list(sort_objects([spectrum(3), None, SpectrumList(), spectrum()]))
    assert [item.name.split(" (")[0] for item in items] == [f"objects[{k}]" for k in range(6)]
    assert [str(item.fault).split(";")[0] for item in items[3:5]] == [
        "objects[3] is a NoneType", "objects[4] is empty",
    ]
    assert [item.modality for item in items] == [*["spectrum"] * 3, "", "spectrum", "spectrum"]


def test_any_iterable_is_a_list_and_is_not_read_ahead():
    taken = []

    def stream():
        for number in range(3):
            taken.append(number)
            yield None if number == 1 else spectrum(meta={"id": f"s{number}"})

    objects = sort_objects(stream())
    assert taken == [0]
    assert not objects.is_complete
    items = list(objects)
    assert [item.id for item in items] == ["s0", "1", "s2"]
    assert (objects.n_objects, objects.is_complete) == (3, True)
    array = np.empty(2, dtype=object)
    array[:] = [spectrum(), image()]
    assert [item.modality for item in sort_objects(array)] == ["spectrum", "image"]
    with pytest.raises(ValueError, match="^objects is empty"):
        sort_objects(iter(()))


@pytest.mark.parametrize("objects", [[], (), SpectrumList([]), spectrum(2)[:0]])
def test_nothing_is_refused(objects):
    with pytest.raises(ValueError, match="^objects is empty; pass at least one object"):
        sort_objects(objects)


def test_cubes_are_refused():
    cube = Spectrum(flux=np.ones((2, 2, 30)) * FLUX_UNIT, spectral_axis=WAVELENGTH * u.AA)
    with pytest.raises(ValueError, match=r"^objects has flux of shape \(2, 2, 30\); expected"):
        sort_objects(cube)
    _, failed = sort_objects([spectrum(), cube])
    assert str(failed.fault).startswith("objects[1] has flux of shape (2, 2, 30); expected")


# ---------------------------------------------------------------------- ids, folders, patterns
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"abc", "abc"), ("  a ", "a"), (39627776344457978, "39627776344457978"),
        (np.float64(1e15), "1000000000000000"), (2.5, "2.5"), (np.int64(7), "7"), (None, None),
        (np.nan, None), (np.ma.masked, None), ("", None), (np.bytes_(b"x"), "x"), (0, "0"),
    ],
)
def test_ids_of_every_type_become_text(value, expected):
    assert plain_id(value) == expected


def test_files_of_one_stem_get_ids_that_tell_them_apart(tmp_path):
    paths = []
    for name in ("night1/a.fits", "night2/a.fits", "night2/b.fits", "night2/b.fit"):
        paths.append(tmp_path / name)
        paths[-1].parent.mkdir(exist_ok=True)
        spectrum().write(paths[-1], format="tabular-fits")
    paths.append(tmp_path / "night3" / "a.fits")  # which does not exist
    items = list(sort_objects(paths))
    assert [item.id for item in items] == [
        "night1/a", "night2/a", "b.fits", "b.fit", "a",
    ]
    by_folder = sort_objects([tmp_path / "night1", str(tmp_path / "night2")])
    assert [item.id for item in by_folder] == ["night1/a", "night2/a", "b.fit", "b.fits"]
    assert [item.id for item in sort_objects(str(tmp_path / "*/b.fits"))] == ["b"]


def test_folders_and_patterns_are_their_files(folder):
    objects = sort_objects(str(folder))
    assert not objects.single
    assert [item.id for item in objects] == ["image", "notes", "one", "two"]
    assert [item.id for item in sort_objects([str(folder / "[ot]*.fits")])] == ["one", "two"]
    with pytest.raises(FileNotFoundError, match=r"^objects: pattern '.*x\*.fits' matches no file"):
        sort_objects(str(folder / "x*.fits"))
    with pytest.raises(FileNotFoundError, match="^objects: path '' is empty"):
        sort_objects("")  # to pathlib, the present folder
    (failed,) = sort_objects([""])
    assert str(failed.fault).startswith("objects[0]: path '' is empty")
    (folder / "empty").mkdir()
    (failed,) = sort_objects([folder / "empty"])
    assert str(failed.fault).startswith("objects[0]: folder ")
    assert failed.id == "empty"


def test_an_image_may_be_a_file_for_each_band(tmp_path):
    for band, data in image().items():
        data.write(tmp_path / f"{band}.fits")
    files = {band: tmp_path / f"{band}.fits" for band in "grz"}
    first, failed = sort_objects([files, files | {"r": tmp_path / "none.fits"}])
    assert (first.modality, failed.modality) == ("image", "image")
    assert first.id == "g"
    assert failed.name == "objects[1]"
    assert str(failed.fault).startswith("objects[1]['r']: path ")
    assert str(failed.fault).endswith("none.fits' does not exist; check the path.")
    assert list(sort_objects(files))[0].modality == "image"
