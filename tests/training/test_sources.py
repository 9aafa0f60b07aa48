"""Sources of pairs: formats agree, pairs are converted as by explicit loops, faults are named."""

import re
import sys

import numpy as np
import pyarrow
import pytest
from astropy import units as u
from astropy.nddata import InverseVariance
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from specutils import Spectrum

from astroclip.exceptions import MissingExtraError, RejectedPairsWarning
from astroclip.preparation import prepare_spectra
from astroclip.simulation.basis import save_basis
from astroclip.simulation.pairs import PROPERTIES, read_pairs, write_pairs
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.training.pair_files import RawPairs
from astroclip.training.sources import Rules, convert_pairs, join_pairs, read_source
from tests.training.survey import DESI, make_errors, make_survey

h5py = pytest.importorskip("h5py")


def write_groups(path, groups):
    """Write dicts of datasets as groups of an HDF5 file."""
    with h5py.File(path, "w") as file:
        for name, datasets in groups.items():
            for key, values in datasets.items():
                file.create_dataset(f"{name}/{key}", data=values)
    return path


def rows_of(survey, rows):
    return {key: values[rows] for key, values in survey.items()}


@pytest.fixture(scope="module")
def survey():
    return make_survey(7)


@pytest.fixture(scope="module")
def expected(survey):
    """Return the survey read from memory."""
    return read_source(survey)


@pytest.fixture
def astroclip_file(survey, tmp_path):
    """Return a file with groups of different lengths, one number left out."""
    parts = {"0": slice(0, 2), "1": slice(2, 3), "10": slice(3, 7)}
    return write_groups(
        tmp_path / "astroclip_desi.h5", {name: rows_of(survey, k) for name, k in parts.items()}
    )


def assert_same(found, expected, rows=slice(None), *, ids=True):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if ids or name != "id":
            np.testing.assert_array_equal(found[name], values[rows], err_msg=name)


def test_arrays_have_the_layout_of_training(expected, survey):
    shapes = {name: (values.shape, values.dtype) for name, values in expected.items()}
    assert shapes["image"] == ((7, 3, 64, 64), np.float16)
    assert shapes["spectrum"] == shapes["ivar"] == ((7, 4360), np.float16)
    assert shapes["mask"] == ((7, 4360), bool)
    assert shapes["seeing"] == ((7, 3), np.float32)
    assert {*PROPERTIES, "fibre_magnitude"} < set(expected)
    np.testing.assert_array_equal(expected["redshift"], survey["redshifts"])
    np.testing.assert_array_equal(expected["id"], survey["targetids"].astype(str))
    assert np.isnan(expected["seeing"]).all()
    assert np.isnan(expected["log_stellar_mass"]).all()


# ---------------------------------------------------------------------- HDF5
def test_groups_are_read_in_the_order_of_their_numbers(astroclip_file, expected):
    assert_same(read_source(astroclip_file), expected)


def reference_rows(lengths, split):
    """Return the rows that AstroCLIP's own loader takes for a split."""
    rows, first = [], 0
    for length in lengths:
        edge = int(0.8 * length)
        start, end = (0, edge) if split == "train" else (edge, length)
        rows += range(first + start, first + end)
        first += length
    return rows


@pytest.mark.parametrize("split", ["train", "test"])
def test_splits_are_those_of_astroclip(astroclip_file, expected, split):
    rows = reference_rows([2, 1, 4], split)
    assert_same(read_source(astroclip_file, split=split), expected, rows)


@pytest.mark.parametrize("n_pairs", [1, 3, 100])
def test_blocks_of_any_size_and_the_first_pairs_only(astroclip_file, expected, n_pairs):
    pairs = read_source(astroclip_file, n_pairs=n_pairs, block_size=2)
    assert_same(pairs, expected, slice(n_pairs))


def test_only_a_block_of_pairs_is_in_memory(astroclip_file, monkeypatch):
    sizes = []
    original = h5py.Dataset.__getitem__

    def counted(dataset, key, **options):
        values = original(dataset, key, **options)
        sizes.append(len(values) if np.ndim(values) else 0)
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    read_source(astroclip_file, block_size=3)
    assert max(sizes) == 3


def test_channels_first_flat_spectra_and_no_groups(survey, expected, tmp_path):
    other = {
        "images": np.moveaxis(survey["images"], 3, 1), "spectra": survey["spectra"][:, :, 0],
        "redshifts": survey["redshifts"], "targetids": survey["targetids"],
    }
    with h5py.File(tmp_path / "pairs.hdf5", "w") as file:
        for name, values in other.items():
            file[name] = values
    assert_same(read_source(str(tmp_path / "pairs.hdf5")), expected)


def test_ivar_mask_and_labels_are_taken_where_given(survey, tmp_path):
    ivar, mask = make_errors(survey["spectra"])
    mass = np.linspace(9, 11, 7)
    path = write_groups(
        tmp_path / "pairs.h5",
        {"0": {**survey, "ivar": ivar, "mask": mask, "log_stellar_mass": mass}},
    )
    pairs = read_source(path)
    from_memory = read_source({**survey, "ivar": ivar, "mask": mask, "log_stellar_mass": mass})
    assert_same(pairs, from_memory)
    assert pairs["mask"].any()
    np.testing.assert_allclose(pairs["log_stellar_mass"], mass, rtol=1e-6)


def test_unknown_redshifts_and_ids_are_filled_in(survey, tmp_path):
    rest = {"images": survey["images"][:2], "spectra": survey["spectra"][:2]}
    pairs = read_source(write_groups(tmp_path / "pairs.h5", {"a": rest, "b": rest}))
    assert np.isnan(pairs["redshift"]).all()
    assert pairs["id"].tolist() == ["pairs.h5/a/0", "pairs.h5/a/1", "pairs.h5/b/0", "pairs.h5/b/1"]


def test_incomplete_groups_are_left_out_and_told(survey, expected, tmp_path):
    groups = {
        "0": survey,
        "1": {key: survey[key] for key in ("images", "redshifts")},
        "2": {"spectra": survey["spectra"]},
    }
    with pytest.warns(RejectedPairsWarning, match="^2 groups cannot be trained on") as caught:
        pairs = read_source(write_groups(tmp_path / "pairs.h5", groups))
    assert_same(pairs, expected)
    first, second = caught[0].message.rejected
    assert first == "pairs.h5 group '1' has no spectra (it has images, redshifts)"
    assert second == "pairs.h5 group '2' has no images (it has spectra)"


def test_bad_pairs_are_left_out_counted_and_named(survey, expected, tmp_path):
    bad = {key: values.copy() for key, values in survey.items()}
    bad["spectra"][1] = np.nan
    bad["images"][4] = 0
    groups = {"0": rows_of(bad, slice(3)), "1": rows_of(bad, slice(3, 7))}
    path = write_groups(tmp_path / "pairs.h5", groups)
    with pytest.warns(RejectedPairsWarning) as caught:
        pairs = read_source(path)
    assert_same(pairs, expected, [0, 2, 3, 5, 6])
    ids = survey["targetids"]
    assert str(caught[0].message) == (
        f"2 of 7 pairs cannot be trained on and are left out: pairs.h5/0 row 1 (id {ids[1]}): "
        f"its spectrum has no valid pixel; pairs.h5/1 row 1 (id {ids[4]}): its image is zero "
        f"throughout."
    )
    assert caught[0].filename == __file__


def test_a_long_list_is_cut_in_the_message_only():
    rows = make_survey(1)
    many = {key: np.repeat(values, 25, axis=0) for key, values in rows.items()}
    many["redshifts"][:24] = -5
    with pytest.warns(RejectedPairsWarning, match="and 14 more, in the warning's") as caught:
        pairs = read_source(many)
    assert len(pairs["redshift"]) == 1
    assert len(caught[0].message.rejected) == 24


def test_a_source_without_a_usable_pair_raises(survey):
    empty = {**survey, "images": np.zeros_like(survey["images"])}
    with pytest.raises(ValueError, match="holds no usable pair: all 7 were left out: .*zero"):
        read_source(empty)
    with pytest.raises(ValueError, match="the split 'train' of source holds .* it is empty"):
        read_source(rows_of(survey, slice(1)), split="train")


# ---------------------------------------------------------------------- Parquet
def nested(values, kind=pyarrow.ListArray):
    """Return an array (N, ...) as lists in lists, whose lengths are not part of the type."""
    column = pyarrow.array(values.ravel())
    for size in reversed(values.shape[1:]):
        offsets = np.arange(len(column) // size + 1) * size
        width = pyarrow.int64() if kind is pyarrow.LargeListArray else pyarrow.int32()
        column = kind.from_arrays(pyarrow.array(offsets, width), column)
    return column


def make_columns(survey, form):
    """Return Arrow columns of a survey with images and spectra in one of several forms."""
    images, spectra = survey["images"], survey["spectra"]
    if form == "nested":  # as Hugging Face's datasets write them
        image, spectrum = nested(images), nested(spectra)
    elif form == "flat":
        image = nested(images.reshape(len(images), -1), pyarrow.LargeListArray)
        spectrum = nested(spectra[:, :, 0])
    else:
        image = pyarrow.FixedShapeTensorArray.from_numpy_ndarray(images)
        spectrum = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(spectra.ravel()), 7781)
    return {
        "image": image, "spectrum": spectrum, "redshift": survey["redshifts"],
        "targetid": survey["targetids"],
    }


@pytest.mark.parametrize("form", ["nested", "flat", "fixed"])
def test_lists_of_any_form_give_the_same_arrays(survey, expected, tmp_path, form):
    few = rows_of(survey, slice(3))
    parquet.write_table(pyarrow.table(make_columns(few, form)), tmp_path / "pairs.parquet")
    assert_same(read_source(tmp_path / "pairs.parquet", block_size=2), expected, slice(3))
    train = read_source(tmp_path / "pairs.parquet", split="train")
    assert_same(train, expected, slice(2))
    assert_same(read_source(tmp_path / "pairs.parquet", split="test"), expected, slice(2, 3))


def test_flat_images_with_bands_first_need_to_be_told(survey, expected):
    flat = np.moveaxis(survey["images"], 3, 1).reshape(7, -1)
    assert_same(read_source({**survey, "images": flat}, channels="first"), expected)


def test_files_named_after_a_split_belong_to_it(survey, expected, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, rows in (("train-00000-of-00001", slice(4)), ("test-00000-of-00001", slice(4, 7))):
        table = pyarrow.table(make_columns(rows_of(survey, rows), "fixed"))
        parquet.write_table(table, folder / f"{name}.parquet", row_group_size=2)
    assert_same(read_source(tmp_path, split="train"), expected, slice(4))
    assert_same(read_source(tmp_path, split="test"), expected, slice(4, 7))
    assert_same(read_source(tmp_path), expected, [4, 5, 6, 0, 1, 2, 3])


def test_rows_of_other_shapes_and_nulls_are_left_out(survey, expected, tmp_path):
    few = rows_of(survey, slice(4))
    images = [image.ravel().tolist() for image in few["images"]]
    spectra = [spectrum.ravel().tolist() for spectrum in few["spectra"]]
    images[0], spectra[2] = None, spectra[2][:50]
    spectra[3][10] = None  # one bad pixel
    columns = {
        "image": images, "spectrum": spectra, "redshift": few["redshifts"],
        "targetid": few["targetids"],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    with pytest.warns(RejectedPairsWarning, match="^2 of 4 pairs") as caught:
        pairs = read_source(tmp_path / "pairs.parquet")
    first, second = caught[0].message.rejected
    assert first.endswith("it has no image")
    assert "its spectrum has 50 pixels; expected 7781 or 4360" in second
    assert pairs["id"].tolist() == expected["id"][[1, 3]].tolist()
    np.testing.assert_array_equal(pairs["image"], expected["image"][[1, 3]])


# ---------------------------------------------------------------------- arrays
def test_dicts_are_read_one_after_the_other_and_no_more_than_needed(survey, expected):
    taken = []

    def blocks():
        for row in range(7):
            taken.append(row)
            yield {
                "image": [survey["images"][row]], "spectrum": [survey["spectra"][row]],
                "redshift": [survey["redshifts"][row]], "targetid": [survey["targetids"][row]],
            }

    pairs = read_source(blocks(), n_pairs=3)
    assert_same(pairs, expected, slice(3))
    assert taken == [0, 1, 2]


def test_images_of_several_sizes_in_one_list(survey, expected):
    images = list(survey["images"])
    images[3] = np.pad(images[3], ((4, 4), (4, 4), (0, 0)), constant_values=9)
    assert_same(read_source({**survey, "images": images}), expected)


# ---------------------------------------------------------------------- simulated shards
@pytest.fixture(scope="module")
def shards(basis, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    save_basis(basis, folder / "basis.npz")
    write_pairs(folder / "mix", 6, seed=4)
    return folder / "mix"


def test_shards_are_read_as_they_are(shards):
    pairs = read_source(shards)
    assert pairs.pop("id").tolist() == [f"mix/{row}" for row in range(6)]
    assert_same(pairs, read_pairs(shards))
    assert_same(
        {key: v for key, v in read_source(shards, split="test").items() if key != "id"},
        read_pairs(shards), slice(4, 6),
    )
    both = read_source([shards, shards], n_pairs=8)
    np.testing.assert_array_equal(both["redshift"][:6], both["redshift"][[0, 1, 2, 3, 4, 5]])
    np.testing.assert_array_equal(both["dust"][6:], pairs["dust"][:2])


@pytest.mark.parametrize("order", [1, -1])
def test_simulated_pairs_among_recorded_ones_are_told_apart(
    shards, astroclip_file, expected, order
):
    pairs = read_source([shards, astroclip_file][::order])
    noiseless = np.isinf(pairs["ivar"]).all(axis=1)
    assert noiseless.tolist() == ([True] * 6 + [False] * 7)[::order]
    assert not pairs["mask"][noiseless].any()
    np.testing.assert_array_equal(np.isfinite(pairs["seeing"]).all(axis=1), noiseless)
    recorded = {name: values[~noiseless] for name, values in pairs.items()}
    assert_same(recorded, expected)
    simulated = read_pairs(shards)
    for name in ("image", "spectrum", "seeing", "fibre_magnitude", *PROPERTIES):
        np.testing.assert_array_equal(pairs[name][noiseless], simulated[name])


@pytest.mark.parametrize("order", [1, -1])
def test_joining_what_was_read_is_reading_all_at_once(shards, astroclip_file, order):
    sources = [shards, astroclip_file][::order]
    joined = join_pairs([read_source(source) for source in sources])
    assert_same(joined, read_source(sources))
    simulated = read_source(shards)
    assert_same(join_pairs([simulated]), simulated)


@pytest.mark.parametrize("ending", ["h5", "parquet"])
def test_files_may_say_that_they_are_noiseless(survey, tmp_path, ending):
    seeing, path = np.full((7, 3), 1.3, np.float32), tmp_path / f"pairs.{ending}"
    if ending == "h5":
        write_groups(path, {"0": {**survey, "seeing": seeing}})
        with h5py.File(path, "a") as file:
            file.attrs["noiseless"] = True
    else:
        table = pyarrow.table({**make_columns(survey, "fixed"), "seeing": nested(seeing)})
        parquet.write_table(table.replace_schema_metadata({"noiseless": "1"}), path)
    pairs = read_source(path)
    assert not {"ivar", "mask"} & set(pairs)
    np.testing.assert_array_equal(pairs["seeing"], seeing)
    assert "ivar" in read_source(path, noiseless=False)


# ---------------------------------------------------------------------- errors
def test_sources_of_no_known_kind_raise(tmp_path, survey):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("<html>404</html>")
    for source, error, message in (
        (tmp_path / "none.h5", FileNotFoundError, "does not exist; expected a file or folder"),
        (tmp_path / "empty", FileNotFoundError, "is a folder without pairs; expected pairs-"),
        (tmp_path / "text.h5", ValueError, "begins with b'<html>40'; expected an HDF5"),
        (3, TypeError, "source is of type int; expected a path"),
        ([survey, 3], TypeError, r"source\[1\] is of type int; expected a dict"),
        ([survey, "file.h5"], TypeError, r"source\[0\] is of type dict among paths"),
        ({"image": []}, ValueError, r"source\[0\] has no spectrum; it has image"),
        ({**survey, "redshifts": [0.1]}, ValueError, "different lengths .*'redshift': 1"),
        ([], ValueError, "source holds no usable pair: it is empty"),
    ):
        with pytest.raises(error, match=message):
            read_source(source)
    with pytest.raises(ValueError, match="split is 'validation'; expected one of None, 'train'"):
        read_source(survey, split="validation")
    with pytest.raises(ValueError, match="n_pairs is 0; expected at least 1"):
        read_source(survey, n_pairs=0)


def test_damaged_and_foreign_files_raise(astroclip_file, survey, tmp_path):
    content = astroclip_file.read_bytes()
    (tmp_path / "short.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="short.h5' cannot be read as HDF5: .*truncated"):
        read_source(tmp_path / "short.h5")
    (tmp_path / "short.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ValueError, match="short.parquet' cannot be read as Parquet"):
        read_source(tmp_path / "short.parquet")
    write_groups(tmp_path / "foreign.h5", {"0": {"flux": np.ones(3), "photons": np.ones(3)}})
    with pytest.raises(ValueError, match="holds no pairs: foreign.h5 group '0' has no images"):
        read_source(tmp_path / "foreign.h5")
    parquet.write_table(pyarrow.table({"image": [1.0], "label": [2]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="no column spectrum; it has image, label. Expected"):
        read_source(tmp_path / "other.parquet")
    uneven = {**survey, "redshifts": survey["redshifts"][:3]}
    with pytest.raises(ValueError, match="group '0' has datasets of different lengths .*: 3"):
        read_source(write_groups(tmp_path / "uneven.h5", {"0": uneven}))


@pytest.mark.parametrize(
    ("module", "start"), [("h5py", b"\x89HDF\r\n\x1a\n"), ("pyarrow", b"PAR1")]
)
def test_a_missing_reader_says_what_to_install(tmp_path, monkeypatch, module, start):
    (tmp_path / "file").write_bytes(start)
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"install 'astroclip\[catalogs\]'"):
        read_source(tmp_path / "file")


# ---------------------------------------------------------------------- conversion
RULES = Rules()
CUT = slice(12, 140)  # the 128 pixels in the middle of 152


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


def test_spectra_are_those_of_prepare_spectra():
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
