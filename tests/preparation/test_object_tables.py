"""Tables with one object per row give the same objects as the same data in a Spectrum."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from astropy import units as u
from astropy.nddata import InverseVariance
from astropy.table import QTable, Table
from specutils import Spectrum

from astroclip.exceptions import AstroclipWarning, PreparationError
from astroclip.preparation import prepare_images, prepare_spectra
from astroclip.preparation.batches import FLUX_UNIT
from astroclip.preparation.identity import given_ids, given_redshifts
from astroclip.preparation.objects import sort_objects
from astroclip.preparation.reading import ReadOptions

N, P = 4, 300
RANDOM = np.random.default_rng(7)
WAVELENGTH = np.linspace(3650.0, 9700.0, P)
FLUX = RANDOM.uniform(2.0, 4.0, (N, P)).astype(np.float32)
IVAR = RANDOM.uniform(50.0, 100.0, (N, P)).astype(np.float32)
MASK = RANDOM.uniform(size=(N, P)) < 0.02
IDS = [39627776344457978 + row for row in range(N)]
EXPECTED = Spectrum(
    flux=FLUX * FLUX_UNIT, spectral_axis=WAVELENGTH * u.AA, mask=MASK,
    uncertainty=InverseVariance(IVAR, unit=FLUX_UNIT**-2),
)


def structs():
    return [
        {"flux": FLUX[k], "ivar": IVAR[k], "lambda": WAVELENGTH, "mask": MASK[k]} for k in range(N)
    ]


def arrow():
    lists = [{key: value.tolist() for key, value in row.items()} for row in structs()]
    return pa.table({"object_id": [str(name) for name in IDS], "spectrum": lists})


def quantities():
    unit = u.erg / (u.s * u.cm**2 * u.AA)
    return QTable({
        "TARGETID": IDS, "FLUX": FLUX * 1e-17 * unit, "IVAR": IVAR * 1e34 / unit**2,
        "WAVE": np.tile(WAVELENGTH / 10, (N, 1)) * u.nm, "MASK": MASK,
    })


LAYOUTS = {
    "pandas, nested": lambda: pd.DataFrame({"object_id": IDS, "spectrum": structs()}),
    "pandas, flat": lambda: pd.DataFrame({
        "targetid": IDS, "flux": list(FLUX), "ivar": list(IVAR), "lambda": [WAVELENGTH] * N,
        "mask": list(MASK),
    }),
    "pandas, lists": lambda: pd.DataFrame({
        "id": IDS, "spectrum_flux": FLUX.tolist(), "spectrum_ivar": IVAR.tolist(),
        "spectrum_loglam": [np.log10(WAVELENGTH).tolist()] * N, "spectrum_mask": MASK.tolist(),
    }),
    "pandas, frames": lambda: pd.DataFrame({
        "id": IDS, "coadd": [pd.DataFrame(row) for row in structs()],
    }),
    "pandas of arrow": lambda: arrow().to_pandas(types_mapper=pd.ArrowDtype),
    "arrow": arrow,
    "arrow, records": lambda: pa.table({
        "object_id": [str(name) for name in IDS],
        "spectrum": [
            [{"flux": float(f), "ivar": float(i), "lambda": float(w), "mask": bool(m)}
             for f, i, w, m in zip(FLUX[k], IVAR[k], WAVELENGTH, MASK[k], strict=True)]
            for k in range(N)
        ],
    }),
    "astropy": lambda: Table({
        "id": [str(name).encode() for name in IDS], "flux": FLUX, "ivar": IVAR,
        "wavelength": np.tile(WAVELENGTH, (N, 1)), "mask": MASK,
    }),
    "quantities": quantities,
    "rows": lambda: [
        {"object_id": str(name), "spectrum": row}
        for name, row in zip(IDS, structs(), strict=True)
    ],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_spectra(layout):
    items = list(sort_objects(LAYOUTS[layout]()))
    assert [item.id for item in items] == [str(name) for name in IDS]
    found, expected = prepare_spectra(items), prepare_spectra(EXPECTED)
    np.testing.assert_allclose(found.flux, expected.flux, rtol=2e-6)
    np.testing.assert_allclose(found.ivar, expected.ivar, rtol=1e-5)
    np.testing.assert_array_equal(found.mask, expected.mask)
    if layout not in ("rows",):
        assert len({id(item.data) for item in items}) == 1


def test_bare_numbers_are_in_the_unit_given():
    options = ReadOptions(unit="erg / (s cm2 AA)", flux="F", wavelength="W")
    frame = pd.DataFrame({"F": list(FLUX * 1e-17), "W": [WAVELENGTH] * N})
    items = list(sort_objects(frame, options=options))
    found = items[0].data.flux.to_value(FLUX_UNIT)
    np.testing.assert_allclose(found, FLUX, rtol=1e-6)


def test_a_row_of_a_table_is_an_object():
    (item,) = sort_objects(quantities()[2])
    assert item.id == str(IDS[2])
    np.testing.assert_allclose(item.data.flux.to_value(FLUX_UNIT)[0], FLUX[2], rtol=1e-6)


def test_parquet_files_of_lists_are_tables(tmp_path):
    pyarrow.parquet.write_table(arrow(), tmp_path / "survey.parquet")
    items = list(sort_objects([tmp_path / "survey.parquet"]))
    assert [item.id for item in items] == [str(name) for name in IDS]
    np.testing.assert_allclose(
        prepare_spectra(items).flux, prepare_spectra(EXPECTED).flux, rtol=2e-6
    )


def test_rows_may_differ_in_length_and_carry_padding():
    lengths = [P, P - 50, P - 50, P - 90]
    frame = pd.DataFrame({
        "flux": [np.append(FLUX[k, :n], np.zeros(P - n)) for k, n in enumerate(lengths)],
        "ivar": [np.append(IVAR[k, :n], np.zeros(P - n)) for k, n in enumerate(lengths)],
        "lambda": [np.append(WAVELENGTH[:n], np.full(P - n, -1)) for n in lengths],
    })
    items = list(sort_objects(frame))
    assert [item.data.flux.shape[1] for item in items] == lengths
    assert len({id(item.data) for item in items}) == 3
    np.testing.assert_array_equal(items[3].data.flux.value[0], FLUX[3, : P - 90])
    ragged = pd.DataFrame({
        "flux": [FLUX[k, :n] for k, n in enumerate(lengths)],
        "lambda": [WAVELENGTH[:n] for n in lengths],
    })
    assert [item.data.flux.shape[1] for item in sort_objects(ragged)] == lengths


def test_a_bad_row_costs_the_others_nothing():
    rows = structs()
    rows[1], rows[2] = None, rows[2] | {"ivar": IVAR[2, :5]}
    items = list(sort_objects(pd.DataFrame({"object_id": IDS, "spectrum": rows})))
    assert [item.fault is None for item in items] == [True, False, False, True]
    assert str(items[1].fault).startswith("objects[1] (row 1 of the table) has no spectrum")
    assert "300 wavelengths but ivar of shape (1, 5)" in str(items[2].fault)
    assert [item.id for item in items] == [str(name) for name in IDS]


def test_a_row_with_an_image_and_a_spectrum_is_two_objects():
    pixels = RANDOM.normal(size=(3, 152, 152)).astype(np.float32)
    image = {"band": ["DES-G", "DES-R", "des-z"], "flux": pixels, "scale": [0.262] * 3,
             "ivar": np.full(pixels.shape, 4.0)}
    frame = pd.DataFrame({
        "object_id": ["a", "b"], "spectrum": [structs()[0], None], "image": [image, image],
        "ra": [10.0, 11.0], "dec": [-1.0, -2.0], "Z": [0.1, 0.2],
    })
    items = list(sort_objects(frame))
    assert [(item.id, item.modality) for item in items] == [
        ("a", "spectrum"), ("a", "image"), ("b", "image"),
    ]
    assert items[2].identity == {"id": "b", "ra": 11.0, "dec": -2.0, "redshift": 0.2}
    batch = prepare_images(items[1:])
    np.testing.assert_allclose(batch.pixels, np.stack([pixels, pixels]), rtol=1e-6)
    wide = pd.DataFrame({f"image_{band}": [pixels[k]] for k, band in enumerate("grz")})
    (item,) = sort_objects(wide)
    np.testing.assert_array_equal(item.data["r"].data, pixels[1])
    assert item.data["r"].unit == u.nmgy


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda: Table({"ra": [1.0], "z": [0.1]}), "table with the columns ra, z, none of them"),
        (lambda: pd.DataFrame({"a": []}), "a table without rows"),
        (lambda: pd.DataFrame({"flux": [1.0], "wavelength": [4000.0]}), "one number per row in "),
        (lambda: Table({"embedding": np.ones((2, 3))}), "a table of embeddings already"),
    ],
)
def test_tables_of_other_things_are_refused(table, message):
    with pytest.raises(PreparationError, match=f"^objects is .*{message}"):
        sort_objects(table())


# ---------------------------------------------------------------------- redshifts and ids by id
@pytest.mark.parametrize(
    "redshift",
    [
        {1: 0.1, b"2": 0.2, "3": None},
        Table({"id": [1, 2, 3], "z": np.ma.MaskedArray([0.1, 0.2, 0.3], [False, False, True])}),
        Table({"TARGETID": [b"1", b"2", b"3"], "REDSHIFT": [0.1, 0.2, np.nan]}),
        pd.DataFrame({"id": [1.0, 2.0, 3.0], "redshift": [0.1, 0.2, None]}),
        pa.table({"id": ["1", "2", "3"], "redshift": [0.1, 0.2, None]}),
        Table({"id": ["1", "2", "3", "2"], "redshift": [0.1, 0.2, np.nan, 0.2]}),
    ],
)
def test_redshifts_by_id_of_every_container(redshift):
    found = given_redshifts(redshift)
    assert list(found) == ["1", "2", "3"]
    np.testing.assert_array_equal(list(found.values()), [0.1, 0.2, np.nan])


def test_redshifts_one_by_one():
    assert given_redshifts(None) is None
    assert given_redshifts(0.5) == 0.5
    np.testing.assert_array_equal(given_redshifts([0.1, None]), [0.1, np.nan])
    np.testing.assert_array_equal(
        given_redshifts(np.ma.MaskedArray([0.1, 0.2], [True, False])), [np.nan, 0.2]
    )
    with pytest.warns(AstroclipWarning, match="2 of 3 redshifts of -9999, -1, which stand for"):
        found = given_redshifts([-9999.0, 0.3, -1])
    np.testing.assert_array_equal(found, [np.nan, 0.3, np.nan])


@pytest.mark.parametrize(
    ("redshift", "error", "message"),
    [
        (Table({"shape": ["a"], "z": [0.1]}), ValueError, "without a column 'id'"),
        (
            Table({"id": ["a", "a", "b"], "z": [0.1, 0.2, 0.3]}), ValueError,
            "1 ids with two different values \\('a': 0.1 and 0.2\\)",
        ),
        ([100, 200] * u.km / u.s, u.UnitsError, "redshift has unit 'km / s'; expected plain"),
        ("high", TypeError, "redshift is 'high'; expected a number"),
    ],
)
def test_redshifts_that_say_no_redshift(redshift, error, message):
    with pytest.raises(error, match=message):
        given_redshifts(redshift)


def test_ids_of_every_container():
    for ids in (
        [b"a", None, 5.0], pd.Series([b"a", None, 5.0]), ("a", np.nan, 5),
        np.ma.MaskedArray(["a", "x", "5"], [False, True, False]),
    ):
        assert list(given_ids(ids)) == ["a", None, "5"]
    assert given_ids("NGC 1").item() == "NGC 1"


def test_ids_that_lost_digits_in_floating_point_are_told():
    ids = [39627776344457978.0, None, 5.0]
    with pytest.warns(AstroclipWarning, match="ids has 1 whole numbers .* does not keep"):
        given_ids(pd.Series(ids))
    frame = pd.DataFrame(
        {"TARGETID": ids, "flux": [FLUX[0]] * 3, "wavelength": [WAVELENGTH] * 3}
    )
    with pytest.warns(AstroclipWarning, match="column 'TARGETID' of the table has 1 whole"):
        items = list(sort_objects(frame))
    assert [item.id for item in items[1:]] == ["1", "5"]
