"""Files of spectra, made as surveys and users write them, against the arrays they hold."""

import gzip
import warnings

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from specutils import Spectrum

import astroclip
from astroclip.datasets import DATA
from astroclip.exceptions import AstroclipWarning, FailedObjectWarning, PreparationError
from astroclip.preparation import prepare_spectra, read_spectra
from astroclip.preparation.batches import FLUX_UNIT
from astroclip.preparation.reading import file_modality
from astroclip.preparation.unit_strings import is_flux_density, parse_unit
from astroclip.tables import Flag

SAMPLES = DATA / "samples"
N_PIXELS = 4000
LOGLAM = 3.57 + 1e-4 * np.arange(N_PIXELS)
WAVELENGTH = 10**LOGLAM
FLUX = 3 + np.sin(WAVELENGTH / 300) + np.random.default_rng(1).normal(0, 0.1, N_PIXELS)
IVAR = np.full(N_PIXELS, 100.0)
BAD = np.arange(N_PIXELS) % 50 == 0
DENSITY = "10**(-17) erg s-1 cm-2 Angstrom-1"
SDSS = {"TELESCOP": "SDSS 2.5-M", "PLUG_RA": 10.0, "PLUG_DEC": 1.0}
LOG_AXIS = {"CRVAL1": 3.57, "CD1_1": 1e-4, "CRPIX1": 1, "CTYPE1": "LINEAR"}


def write_table(path, columns, *, header=(), table_header=(), name=None):
    """Write a FITS table of (name, values, unit) and return its path."""
    made = []
    for label, values, unit in columns:
        values = np.asarray(values)
        code = {"f": "D", "i": "J", "u": "J", "b": "L", "U": "20A"}[values.dtype.kind]
        size = values.shape[1] if values.ndim == 2 else ""
        made.append(fits.Column(label, f"{size}{code}", unit=unit, array=values))
    table = fits.BinTableHDU.from_columns(made, name=name)
    table.header.update(dict(table_header))
    primary = fits.PrimaryHDU(header=fits.Header(dict(header)))
    fits.HDUList([primary, table]).writeto(path, overwrite=True)
    return path


def write_images(path, *arrays, header=()):
    """Write arrays (name, values, header) after a primary one and return their path."""
    hdus = [fits.PrimaryHDU(header=fits.Header(dict(header)))]
    hdus += [fits.ImageHDU(values, fits.Header(cards), name=name) for name, values, cards in arrays]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def read_one(path, **options):
    """Return the one spectrum of a file."""
    assert file_modality(path) == "spectrum"
    (spectrum,) = read_spectra(path, **options)
    return spectrum


def assert_same(spectrum, *, bad=False, scale=1.0, rtol=1e-6):
    """Check a spectrum against the arrays above."""
    np.testing.assert_allclose(spectrum.spectral_axis.to_value(u.AA), WAVELENGTH, rtol=rtol)
    np.testing.assert_allclose(spectrum.flux.to_value(FLUX_UNIT), FLUX * scale, rtol=1e-6)
    expected = np.broadcast_to(bad, N_PIXELS)
    np.testing.assert_array_equal(spectrum.mask, expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        ivar = spectrum.uncertainty.represent_as(InverseVariance)
        ivar = ivar.quantity.to_value(FLUX_UNIT**-2)
    np.testing.assert_allclose(ivar[~expected], IVAR[~expected] / scale**2, rtol=1e-5)


# ---------------------------------------------------------------------- real files
def test_bundled_desi_coadd():
    (galaxy,) = read_spectra(SAMPLES / "desi-27247.fits")
    assert galaxy.meta["id"] == "39089837499744649"
    assert galaxy.meta["ra"] == pytest.approx(149.4654, abs=1e-4)
    assert galaxy.meta["dec"] == pytest.approx(1.79365, abs=1e-4)
    assert galaxy.flux.unit == u.Unit("1e-17 erg / (s cm2 AA)")
    with fits.open(SAMPLES / "desi-27247.fits") as hdus:
        blue = np.asarray(hdus["B_FLUX"].data[0], dtype=float)
    # below the overlap with the next arm the merged flux is that of the first
    np.testing.assert_allclose(galaxy.flux.value[:2690], blue[:2690], rtol=1e-6)
    batch = prepare_spectra(galaxy, wavelength="desi")
    np.testing.assert_allclose(batch.flux[0], galaxy.flux.value, rtol=2e-5, atol=1e-4)
    assert batch.coverage[0] > 0.999


def test_bundled_merged_spectrum():
    (galaxy,) = read_spectra(SAMPLES / "desi-39627776344457978.fits")
    assert galaxy.meta["id"] == "desi-39627776344457978"
    assert isinstance(galaxy.uncertainty, StdDevUncertainty)
    batch = prepare_spectra(galaxy, wavelength="desi")
    good = ~batch.mask[0]
    assert good.mean() > 0.99
    # the file's wavelengths are float32: off the grid by up to 3e-4 of a pixel
    np.testing.assert_allclose(batch.flux[0, good], galaxy.flux.value[good], atol=0.02)
    expected = galaxy.uncertainty.array[good] ** -2.0
    np.testing.assert_allclose(np.median(batch.ivar[0, good] / expected), 1.0, rtol=1e-3)


def test_desi_coadd_of_several_targets(shared_data):
    path = shared_data / "desi" / "coadd-sv3-dark-26065.fits"
    spectra = read_spectra(path)
    with fits.open(path) as hdus:
        table = hdus["FIBERMAP"].data
        assert [s.meta["id"] for s in spectra] == [str(value) for value in table["TARGETID"]]
        np.testing.assert_allclose([s.meta["ra"] for s in spectra], table["TARGET_RA"])
        weight = sum(hdus[f"{arm}_IVAR"].data.sum(axis=1) for arm in "BRZ")
    batch = prepare_spectra(spectra, on_error="flag")
    np.testing.assert_array_equal(batch.failed, weight == 0)
    assert all("has no valid pixel" in message for message in batch.messages[batch.failed])


def test_desi_file_agrees_with_the_survey_s_own_merger(shared_data):
    (galaxy,) = read_spectra(SAMPLES / "desi-39627776344457978.fits")
    held = np.load(shared_data / "desi" / "heldout_z020.npz")
    batch = prepare_spectra(galaxy)
    good = ~batch.mask[0]
    np.testing.assert_allclose(batch.flux[0, good], held["flux"][good], atol=0.02)


@pytest.mark.parametrize(
    "name", ["spec-0411-51873-0101.fits", "spec-4238-55455-0037.fits", "NGC3073_SDSS_DR18.fits"]
)
def test_sdss(shared_data, name):
    path = shared_data / "sdss" / name
    (galaxy,) = read_spectra(path)
    with fits.open(path) as hdus:
        columns = {key.lower(): np.asarray(hdus[1].data[key], float) for key in ("flux", "ivar")}
        loglam = np.asarray(hdus[1].data["loglam"], float)
        position = [hdus[0].header["PLUG_RA"], hdus[0].header["PLUG_DEC"]]
    np.testing.assert_allclose(galaxy.spectral_axis.to_value(u.AA), 10**loglam, rtol=1e-6)
    np.testing.assert_allclose(galaxy.flux.value, columns["flux"], rtol=1e-6)
    assert galaxy.meta["medium"] == "vacuum"
    bad = columns["ivar"] <= 0
    assert (galaxy.mask[bad]).all()
    assert (galaxy.mask & ~bad).sum() <= 1  # a pixel without sky
    np.testing.assert_allclose([galaxy.meta["ra"], galaxy.meta["dec"]], position)
    assert galaxy.meta["id"] == path.stem
    batch = prepare_spectra(galaxy, wavelength="log")
    inside = (batch.wavelength > 10 ** loglam[0]) & (batch.wavelength < 10 ** loglam[-1])
    assert batch.mask[0, ~inside].sum() >= (~inside).sum() - 2
    assert batch.mask[0, inside].mean() == pytest.approx((columns["ivar"] <= 0).mean(), abs=0.03)


def test_any_file_of_specutils(tmp_path):
    path = tmp_path / "galaxy.fits"
    wavelength = np.linspace(4000, 8000, 500)
    Spectrum(
        flux=wavelength * u.mJy,
        spectral_axis=wavelength * u.AA,
        uncertainty=InverseVariance(np.ones(500)),
    ).write(path, format="tabular-fits")
    (spectrum,) = read_spectra(str(path))
    assert spectrum.meta["id"] == "galaxy"
    np.testing.assert_allclose(spectrum.flux.to_value(u.mJy), wavelength)


# ---------------------------------------------------------------------- tables by name
@pytest.mark.parametrize("names", ["FLUX ERR", "FLUX MODEL ERR", "CONT FLUX SKY ERR", "flux Sigma"])
def test_columns_go_by_name(tmp_path, names):
    values = {"FLUX": FLUX, "ERR": 0.1 + 0 * FLUX, "SIGMA": 0.1 + 0 * FLUX}
    columns = [(name, values.get(name.upper(), FLUX + 50), DENSITY) for name in names.split()]
    path = write_table(tmp_path / "t.fits", [("WAVE", WAVELENGTH, "Angstrom"), *columns])
    assert_same(read_one(path))


@pytest.mark.parametrize(
    "columns",
    [
        [("IVAR", np.where(BAD, 0, IVAR), None)],
        [("inverse_variance", np.where(BAD, np.nan, IVAR), None)],
        [("ERR", np.where(BAD, -1, 0.1), DENSITY)],
        [("STD", 0.1 + 0 * FLUX, None), ("Mask", BAD.astype("i2"), None)],
        [("VAR", 0.01 + 0 * FLUX, None), ("QUAL", BAD * 16, None)],
        [("ERR", 0.1 + 0 * FLUX, DENSITY), ("IVAR", np.where(BAD, 0, IVAR), None)],
        [("ERR", 1e-18 + 0 * FLUX, "erg/s/cm2/A"), ("BAD", BAD, None)],
    ],
)
def test_uncertainties_and_masks(tmp_path, columns):
    spoiled = [("LAMBDA", WAVELENGTH / 10, "nm"), ("F_LAMBDA", FLUX, DENSITY), *columns]
    assert_same(read_one(write_table(tmp_path / "t.fits", spoiled)), bad=BAD)


@settings(max_examples=10)
@given(
    st.sampled_from(["fits", "ecsv", "csv", "vot", "rows.fits"]),
    st.sampled_from(["WAVE", "loglam", "Lambda_Air", "wavelength [nm]"]),
    st.sampled_from([("ERR", 0.1), ("ivar", 100.0), ("VARIANCE", 0.01)]),
    st.booleans(),
)
def test_any_table_gives_the_same_spectrum(tmp_path_factory, form, axis, noise, descending):
    order = slice(None, None, -1 if descending else 1)
    values = {"loglam": LOGLAM, "wavelength [nm]": WAVELENGTH / 10}.get(axis, WAVELENGTH)
    table = Table({axis: values, "flux": FLUX, noise[0]: noise[1] + 0 * FLUX})[order]
    if axis != "loglam" and "[" not in axis:
        table[axis].unit = "Angstrom"
    path = tmp_path_factory.mktemp("tables") / f"one.{form}"
    if form == "rows.fits":
        table = Table({name: np.asarray(table[name])[None] for name in table.colnames})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of VOTable's names and units
        table.write(path, **({"format": "votable"} if form == "vot" else {}))
    text = f"{axis} [Angstrom]" if form in ("csv", "rows.fits") and "[" not in axis else None
    spectrum = read_one(path, unit="1e-17 erg/s/cm2/A", wavelength=text)
    sort = np.argsort(spectrum.spectral_axis.value)
    np.testing.assert_allclose(spectrum.spectral_axis.to_value(u.AA)[sort], WAVELENGTH, rtol=1e-9)
    np.testing.assert_allclose(spectrum.flux.to_value(FLUX_UNIT)[sort], FLUX)
    ivar = spectrum.uncertainty.represent_as(InverseVariance).array
    np.testing.assert_allclose(ivar, 100.0)
    assert spectrum.meta.get("medium") == ("air" if axis == "Lambda_Air" else None)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ([("FLUX", DENSITY), ("FLUX_DENSITY", DENSITY)], {}, "2 columns that could be the flux"),
        ([("FLUX", DENSITY), ("ERR", "adu")], {}, r"ERR in adu beside flux in .*same calibration"),
        ([("FLUX", DENSITY), ("ERR", DENSITY), ("IVAR", None)], {}, "IVAR and ERR, which disagree"),
        ([("Y", DENSITY), ("DY", DENSITY)], {}, "no columns of flux and wavelength.*flux=.*Y .*DY"),
        ([("FLUX", DENSITY)], {"flux": "nope"}, "flux='nope' names nothing in .* WAVE, FLUX"),
        ([("FLUX", None)], {}, "column FLUX, has no unit; expected .* unit=.*--unit"),
        ([("FLUX", "furlongs")], {}, "column FLUX, has the unit 'furlongs', which is not underst"),
    ],
)
def test_tables_that_do_not_say_what_is_what(tmp_path, columns, options, message):
    made = [("WAVE", WAVELENGTH, "Angstrom")]
    made += [(name, FLUX, unit) for name, unit in columns]
    path = write_table(tmp_path / "t.fits", made)
    with pytest.raises(PreparationError, match=f"^path .*t.fits' cannot be read .*: .*{message}"):
        read_spectra(path, **options)


def test_names_and_units_that_users_give(tmp_path):
    columns = [("x", WAVELENGTH / 10, None), ("y", FLUX, None), ("dy", 0.1 + 0 * FLUX, None)]
    path = write_table(tmp_path / "t.fits", [*columns, ("b", BAD.astype(int), None)])
    options = {"flux": "Y", "wavelength": "x [nm]", "error": "dy", "unit": "1e-17 erg/s/cm2/A"}
    assert_same(read_one(path, **options))
    assert_same(read_one(path, **options, mask="b"), bad=BAD)
    with pytest.raises(PreparationError, match=r"x from 371.535 to 933.039 with no unit; expected"):
        read_spectra(path, **{**options, "wavelength": "x"})
    with pytest.raises(ValueError, match="^unit is 'furlongs'; expected a unit such as"):
        read_spectra(path, unit="furlongs")
    table = astroclip.embed(path, **options)
    spectrum = Spectrum(
        flux=FLUX * FLUX_UNIT, spectral_axis=WAVELENGTH * u.AA, uncertainty=InverseVariance(IVAR)
    )
    expected = astroclip.embed(spectrum)["embedding"][0]
    assert table["embedding"][0] @ expected >= 0.9999


def test_columns_of_text_without_names(tmp_path):
    path = tmp_path / "galaxy.txt"
    np.savetxt(path, np.stack([WAVELENGTH, FLUX, 0.1 + 0 * FLUX], axis=1))
    with pytest.raises(PreparationError, match="no column named as flux or wavelength.*col1, col2"):
        read_spectra(path)
    names = {"wavelength": "col1", "flux": "col2", "error": "col3"}
    assert_same(read_one(path, **names, unit=FLUX_UNIT))


def test_one_row_per_object(tmp_path):
    fluxes = np.stack([FLUX, 2 * FLUX, 3 * FLUX])
    columns = [
        ("TARGETID", np.array([5, 9, 7]), None), ("RA", np.arange(3.0), None),
        ("WAVELENGTH", np.stack([WAVELENGTH] * 3), "Angstrom"), ("FLUX", fluxes, DENSITY),
        ("IVAR", np.stack([IVAR, IVAR / 4, IVAR / 9]), None),
    ]
    spectra = read_spectra(write_table(tmp_path / "rows.fits", columns))
    assert [spectrum.meta["id"] for spectrum in spectra] == ["5", "9", "7"]
    assert [spectrum.meta["ra"] for spectrum in spectra] == [0.0, 1.0, 2.0]
    for scale, spectrum in enumerate(spectra, start=1):
        assert_same(spectrum, scale=scale)


@pytest.mark.parametrize("unit", [u.nm, u.THz, u.eV, 1 / u.cm])
def test_specutils_own_table_of_any_axis(tmp_path, unit):
    axis = (WAVELENGTH * u.AA).to(unit, u.spectral())  # names its column
    spectrum = Spectrum(
        flux=FLUX * FLUX_UNIT, spectral_axis=axis, uncertainty=InverseVariance(IVAR), mask=BAD
    )
    spectrum.write(tmp_path / "one.fits", format="tabular-fits")
    found = prepare_spectra(read_one(tmp_path / "one.fits"), medium="vacuum")
    np.testing.assert_allclose(found.flux, prepare_spectra(spectrum, medium="vacuum").flux)


def test_specutils_own_table_of_several_spectra(tmp_path):
    both = Spectrum(
        flux=np.stack([FLUX, 2 * FLUX]) * FLUX_UNIT, spectral_axis=WAVELENGTH * u.AA,
        uncertainty=StdDevUncertainty(np.stack([0.1 + 0 * FLUX, 0.2 + 0 * FLUX]) * FLUX_UNIT),
    )
    both.write(tmp_path / "two.fits", format="tabular-fits")
    both[0].write(tmp_path / "one.fits", format="tabular-fits")
    first, second = read_spectra(tmp_path / "two.fits")
    assert_same(first)
    assert_same(second, scale=2)
    table = astroclip.embed([tmp_path / "one.fits", tmp_path / "two.fits"])
    assert list(table["id"]) == ["one", "two-0", "two-1"]
    np.testing.assert_allclose(table["embedding"][0], table["embedding"][1], atol=1e-6)


# ---------------------------------------------------------------------- survey formats
REMARK, NO_DATA = 1 << 23, 1 << 24  # SDSS: bright sky, no data


def write_sdss(folder, bits, n_fibers):
    """Write one spectrum as BOSS, SDSS-V, SDSS-I/II and plate files; return their paths."""
    rest = [("and_mask", bits, None), ("or_mask", np.full(N_PIXELS, NO_DATA), None)]
    rest += [("wdisp", FLUX, None), ("sky", FLUX, None), ("model", FLUX, None)]
    columns = [("flux", FLUX, None), ("loglam", LOGLAM, None), ("ivar", IVAR, None), *rest]
    upper = [(name.upper(), values, unit) for name, values, unit in columns]
    old = {**SDSS, **LOG_AXIS, "PLATEID": 411, "BUNIT": "1.0E-17 erg/cm/s/Ang", "DC-FLAG": 1}
    rows = np.stack([FLUX, 0 * FLUX, IVAR**-0.5, bits, 0 * FLUX])
    paths = [
        write_table(folder / "spec-4000-55000-0005.fits", columns,
                    header={**SDSS, "VERS2D": "v5_13_0", "FIBERID": 5, "PLATEID": 4000}),
        write_table(folder / "spec-015000-59146-4350951054.fits", upper, name="COADD",
                    header={**SDSS, "VERS2D": "v6_1_3", "OBSERVAT": "APO"}),
        folder / "spSpec-51000-0411-005.fit",
        folder / "spPlate-0411-51000.fits",
    ]
    fits.PrimaryHDU(rows, fits.Header({**old, "FIBERID": 5})).writeto(paths[2])
    many = [np.stack([values] * n_fibers) for values in (FLUX, IVAR, bits, bits)]
    plate = [fits.PrimaryHDU(many[0], fits.Header({**old, "BUNIT": "1E-17 erg/cm^2/s/Ang"}))]
    plate += [fits.ImageHDU(values) for values in many[1:]]
    plate.append(fits.BinTableHDU(
        Table({"FIBERID": np.arange(n_fibers) + 1, "RA": np.arange(1.0 * n_fibers)})
    ))
    fits.HDUList(plate).writeto(paths[3])
    return paths


@pytest.mark.parametrize("n_fibers", [4, 6])  # spSpec has 4 or 5 rows, too
def test_sdss_bits_mean_the_same_in_every_container(tmp_path, n_fibers):
    bits = np.where(np.arange(N_PIXELS) % 5 < 3, REMARK, 0) + np.where(BAD, NO_DATA, 0)
    paths = write_sdss(tmp_path, bits, n_fibers)
    for path in paths[:3]:
        spectrum = read_one(path)
        assert_same(spectrum, bad=BAD, rtol=1e-9)
        assert spectrum.meta["medium"] == "vacuum"
        assert spectrum.meta["ra"] == 10.0
    plate = read_spectra(paths[3])
    fibers = [spectrum.meta["id"].rsplit("-", 1)[1] for spectrum in plate]
    assert fibers == [str(k + 1) for k in range(n_fibers)]
    assert plate[3].meta["ra"] == 3.0
    for spectrum in plate:
        assert_same(spectrum, bad=BAD, rtol=1e-9)
    table = astroclip.embed(paths)
    assert (table["embedding"] @ table["embedding"][0]).min() >= 0.9999


@pytest.mark.parametrize("form", ["image", "pilot", "table", "gzip"])
def test_lamost(tmp_path, form):
    header = {"TELESCOP": "LAMOST", "COEFF0": 3.57, "COEFF1": 1e-4, "VACUUM": True, **LOG_AXIS}
    bits = np.where(BAD, 1, 8)  # 8: bright sky
    path = tmp_path / "spec-55859-F5902_sp01-001.fits"
    if form == "table":
        columns = {"FLUX": FLUX, "IVAR": IVAR, "WAVELENGTH": WAVELENGTH, "ANDMASK": bits,
                   "ORMASK": bits + 1}
        columns = [(name, values[None], None) for name, values in columns.items()]
        write_table(path, columns, header=header, name="COADD")
    else:
        axis = FLUX - 3 if form == "pilot" else WAVELENGTH
        rows = np.stack([FLUX, IVAR, axis, bits, bits + 1])
        fits.PrimaryHDU(rows, fits.Header(header)).writeto(path)
    if form == "gzip":
        path = path.with_suffix(".fits.gz")
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    with pytest.warns(AstroclipWarning, match="LAMOST gives flux without absolute calibration"):
        spectrum = read_one(path)
    assert_same(spectrum, bad=BAD)
    assert spectrum.meta["medium"] == "vacuum"
    assert spectrum.meta["id"] == "spec-55859-F5902_sp01-001"
    brighter = read_one(path, unit="1e-16 erg/s/cm2/A")
    np.testing.assert_allclose(brighter.flux.to_value(FLUX_UNIT), 10 * FLUX)


@pytest.mark.parametrize(("ucd", "medium"), [("em.wl;obs.atmos", "air"), ("em.wl", "vacuum")])
def test_eso_phase_3(tmp_path, ucd, medium):
    unit = "10**(-17)erg.cm**(-2).s**(-1).angstrom**(-1)"
    columns = {
        "WAVE": (WAVELENGTH / 10, "nm"), "FLUX": (FLUX, unit), "ERR": (0.1 + 0 * FLUX, unit),
        "QUAL": (BAD.astype(int), None), "FLUX_RAW": (1e3 * FLUX, "adu"), "ERR_RAW": (FLUX, "adu"),
    }
    path = write_table(
        tmp_path / "ADP.fits",
        [(name, values[None], unit) for name, (values, unit) in columns.items()],
        table_header={
            "TUCD1": ucd, "TUTYP1": "Spectrum.Data.SpectralAxis.Value",
            "TUTYP2": "Spectrum.Data.FluxAxis.Value", "TUTYP5": "eso:Data.FluxAxis.Value",
            "TUTYP3": "Spectrum.Data.FluxAxis.Accuracy.StatError",
            "TUTYP4": "Spectrum.Data.FluxAxis.Accuracy.QualityStatus",
        },
    )
    spectrum = read_one(path)
    assert_same(spectrum, bad=BAD)
    assert spectrum.meta["medium"] == medium


def test_rows_of_an_image_that_its_header_names(tmp_path):
    axis = {"CTYPE1": "WAVE", "CUNIT1": "Angstrom", "CRVAL1": 4000.0, "CDELT1": 1.5, "CRPIX1": 1.0}
    gama = {"ROW1": "Spectrum", "ROW2": "Error", "ROW3": "Spectrum_nocalib", "ROW4": "Sky"}
    rows = np.stack([FLUX, 0.1 + 0 * FLUX, 1e3 * FLUX, 50 + FLUX])
    header = fits.Header({**axis, **gama, "BUNIT": "10^-17 erg/s/cm^2/A"})
    fits.PrimaryHDU(rows, header).writeto(tmp_path / "gama.fits")
    sixdf = {"OBSRA": 1.0, "OBSDEC": 2.0, "Z": 0.1, "Z_HELIO": 0.1, "QUALITY": 4}
    fits.PrimaryHDU(
        np.stack([FLUX, 0.01 + 0 * FLUX, 50 + FLUX]), fits.Header({**axis, **sixdf})
    ).writeto(tmp_path / "6df.fits")
    for name, options in (("gama", {}), ("6df", {"unit": FLUX_UNIT})):
        spectrum = read_one(tmp_path / f"{name}.fits", **options)
        np.testing.assert_allclose(spectrum.flux.to_value(FLUX_UNIT), FLUX)
        np.testing.assert_allclose(
            spectrum.uncertainty.represent_as(StdDevUncertainty).array, 0.1
        )
        np.testing.assert_allclose(
            spectrum.spectral_axis.to_value(u.AA), 4000 + 1.5 * np.arange(N_PIXELS)
        )
    with pytest.raises(PreparationError, match="has no unit; expected a flux density"):
        read_spectra(tmp_path / "6df.fits")


def write_multispec(path, *, step=10, apertures=3, bands="spectrum raw sky sigma"):
    """Write IRAF's multispec format with linear axes that begin ``step`` Angstrom apart."""
    bands = bands.split()
    data = np.ones((len(bands), apertures, 1000)) * np.arange(1, 1001)
    data *= np.arange(1, len(bands) + 1)[:, None, None]
    text = "wtype=multispec"
    label = "wtype=multispec label=Wavelength units=angstroms"
    header = {"WCSDIM": 3, "CTYPE1": "MULTISPE", "CTYPE2": "MULTISPE", "CTYPE3": "LINEAR",
              "BUNIT": "erg/cm2/s/A", "WAT1_001": label}
    for k in range(apertures):
        text += f' spec{k + 1} = "{k + 7} {k + 1} 0 {4000 + k * step} 2. 1000 0. 10. 12."'
        header[f"APNUM{k + 1}"] = f"{k + 7} {k + 1} 10. 12."
    cards = {f"WAT2_{k // 68 + 1:03d}": text[k : k + 68] for k in range(0, len(text), 68)}
    names = {f"BANDID{k + 1}": f"{name} - of aperture" for k, name in enumerate(bands)}
    fits.PrimaryHDU(data * 1e-17, fits.Header({**header, **cards, **names})).writeto(path)
    return path


def test_iraf_apertures_and_bands(tmp_path):
    spectra = read_spectra(write_multispec(tmp_path / "ms.fits"))
    assert [spectrum.meta["id"] for spectrum in spectra] == ["ms-7", "ms-8", "ms-9"]
    for k, spectrum in enumerate(spectra):
        axis = 4000 + 10 * k + 2.0 * np.arange(1000)
        np.testing.assert_allclose(spectrum.spectral_axis.to_value(u.AA), axis)
        np.testing.assert_allclose(spectrum.flux.to_value(FLUX_UNIT), np.arange(1, 1001))
        np.testing.assert_allclose(spectrum.uncertainty.array, 4e-17 * np.arange(1, 1001))
    single = read_one(write_multispec(tmp_path / "single.fits", apertures=1))
    np.testing.assert_allclose(single.spectral_axis.to_value(u.AA), 4000 + 2.0 * np.arange(1000))
    orders = write_multispec(tmp_path / "echelle.fits", step=1900)
    with pytest.raises(PreparationError, match="3 apertures that follow one another in wavelength"):
        read_spectra(orders)


def test_sdss_5_stars_and_visits(tmp_path):
    hdus = [fits.PrimaryHDU(header=fits.Header({"V_ASTRA": "0.6", "SDSS_ID": 1}))]
    for name, n_rows in (("BOSS/APO", 2), ("BOSS/LCO", 0), ("APOGEE/APO", 1)):
        columns = {"flux": FLUX, "ivar": IVAR, "pixel_flags": np.full(N_PIXELS, REMARK)}
        table = Table({key: np.tile(values, (n_rows, 1)) for key, values in columns.items()})
        hdus.append(fits.BinTableHDU(table, name=name))
        hdus[-1].header.update(
            {"CTYPE": "LOG-LINEAR", "CRVAL": 3.57, "CDELT": 1e-4, "NPIXELS": N_PIXELS}
        )
    fits.HDUList(hdus).writeto(tmp_path / "mwmVisit.fits")
    spectra = read_spectra(tmp_path / "mwmVisit.fits")
    assert len(spectra) == 2
    for spectrum in spectra:
        assert_same(spectrum)


@pytest.mark.parametrize("fluxed", [True, False])
def test_pypeit_masks_say_what_is_good(tmp_path, fluxed):
    columns = [("wave", WAVELENGTH, None), ("flux", FLUX, None), ("ivar", IVAR, None),
               ("mask", (~BAD).astype(int), None)]
    path = write_table(tmp_path / "p.fits", columns, name="SPECTRUM",
                       table_header={"DMODCLS": "OneSpec", "FLUXED": fluxed})
    if not fluxed:
        with pytest.raises(PreparationError, match="column flux, has no unit"):
            read_spectra(path)
    spectrum = read_one(path, unit=FLUX_UNIT)
    assert_same(spectrum, bad=BAD)
    assert spectrum.meta["medium"] == "vacuum"


# ---------------------------------------------------------------------- DESI
def desi_part(path, name, *, without=(), rows=None):
    """Write a part of a DESI file: without some arms, with some rows; return its path."""
    with fits.open(path) as hdus:
        kept = [hdus[0].copy()]
        for hdu in hdus[1:]:
            if hdu.name[:2] in without:
                continue
            data = hdu.data
            if rows is not None and hdu.name.endswith(("_FLUX", "_IVAR", "_MASK")):
                data = data[rows]
            if hdu.name == "FIBERMAP":
                data = Table(data)[rows] if rows is not None else Table(data)
                kept.append(fits.BinTableHDU(data, name=hdu.name))
            else:
                kept.append(fits.ImageHDU(data, hdu.header, name=hdu.name))
        fits.HDUList(kept).writeto(path.parent / name if path.parent == name else name)
    return name


@pytest.mark.parametrize(
    ("without", "ranges"),
    [
        (["B_"], [(5760, 9824)]),
        (["R_"], [(3600, 5800), (7520, 9824)]),
        (["B_", "R_"], [(7520, 9824)]),
    ],
)
def test_desi_without_a_camera(tmp_path, without, ranges):
    path = desi_part(SAMPLES / "desi-27247.fits", tmp_path / "part.fits", without=without)
    spectrum, whole = read_one(path), read_one(SAMPLES / "desi-27247.fits")
    wavelength = spectrum.spectral_axis.to_value(u.AA)
    inside = np.any([(wavelength > a - 0.1) & (wavelength < b + 0.1) for a, b in ranges], axis=0)
    assert spectrum.mask[~inside].all()
    assert spectrum.mask[inside].mean() < 0.01
    batch = prepare_spectra([spectrum, whole], wavelength="desi")
    share = sum(b - a for a, b in ranges) / (9824 - 3600)
    assert batch.coverage[0] == pytest.approx(share * batch.coverage[1], abs=0.01)


def test_desi_exposures_and_combined_arms(tmp_path):
    whole = read_one(SAMPLES / "desi-27247.fits")
    path = desi_part(SAMPLES / "desi-27247.fits", tmp_path / "spectra.fits", rows=[0, 0, 0])
    spectrum = read_one(path)
    assert spectrum.meta["id"] == whole.meta["id"]
    np.testing.assert_allclose(spectrum.flux.value, whole.flux.value)
    np.testing.assert_allclose(spectrum.uncertainty.array, 3 * whole.uncertainty.array)
    combined = write_images(
        tmp_path / "brz.fits",
        ("BRZ_WAVELENGTH", whole.spectral_axis.to_value(u.AA), {}),
        ("BRZ_FLUX", whole.flux.value[None], {"BUNIT": "10**-17 erg/(s cm2 Angstrom)"}),
        ("BRZ_IVAR", whole.uncertainty.array[None], {}),
        ("BRZ_MASK", whole.mask[None].astype("i4"), {}),
    )
    spectrum = read_one(combined)
    np.testing.assert_allclose(spectrum.flux.value, whole.flux.value)
    np.testing.assert_array_equal(spectrum.mask, whole.mask)
    assert spectrum.meta["medium"] == "vacuum"


# ---------------------------------------------------------------------- wavelengths by header
@pytest.mark.parametrize(
    ("axis", "medium"),
    [
        ({"CTYPE1": "LINEAR", "DC-FLAG": 1, "CRVAL1": 3.57, "CDELT1": 1e-4, "CRPIX1": 1.0}, None),
        ({"CTYPE1": "LINEAR", "DC-FLAG": 1, "CRVAL1": 3.58, "CD1_1": 1e-4, "CRPIX1": 101.0}, None),
        ({"COEFF0": 3.57, "COEFF1": 1e-4, "VACUUM": False}, "air"),
        (
            {"CTYPE1": "WAVE-LOG", "CUNIT1": "nm", "CRVAL1": WAVELENGTH[9] / 10, "CRPIX1": 10.0,
             "CDELT1": WAVELENGTH[9] * 1e-5 * np.log(10)},
            "vacuum",
        ),
    ],
)
def test_logarithmic_axes_to_a_hundredth_of_a_pixel(tmp_path, axis, medium):
    path = tmp_path / "log.fits"
    fits.PrimaryHDU(FLUX, fits.Header({**axis, "BUNIT": DENSITY})).writeto(path)
    spectrum = read_one(path)
    found = np.log10(spectrum.spectral_axis.to_value(u.AA))
    assert np.abs(found - LOGLAM).max() < 1e-6
    assert spectrum.meta.get("medium") == medium


@pytest.mark.parametrize(
    ("cards", "medium"),
    [
        ({"CTYPE1": "AWAV"}, "air"), ({"CTYPE1": "WAVE"}, "vacuum"), ({"CTYPE1": "LINEAR"}, None),
        ({"CTYPE1": "LINEAR", "AIRORVAC": "air"}, "air"), ({"AIRORVAC": "vac"}, "vacuum"),
        ({"CTYPE1": "WAVE", "VACUUM": False}, None),  # both: refused when it is prepared
        ({"CTYPE1": "LINEAR", "VACUUM": 1}, "vacuum"),
    ],
)
def test_medium_and_linear_axes(tmp_path, cards, medium):
    header = {"CRVAL1": 475.0, "CDELT1": 0.125, "CRPIX1": 3.0, "CUNIT1": "nm", **cards}
    path = tmp_path / "linear.fits"
    fits.PrimaryHDU(FLUX, fits.Header({**header, "BUNIT": "erg/cm**2/s/angstrom"})).writeto(path)
    spectrum = read_one(path)
    wcs = WCS(fits.Header({**header, "CTYPE1": "WAVE"}), naxis=1)
    expected = wcs.all_pix2world(np.arange(N_PIXELS), 0)[0] * u.m
    np.testing.assert_allclose(spectrum.spectral_axis.to_value(u.m), expected.value, rtol=1e-9)
    assert spectrum.meta.get("medium") == medium


def test_extensions_by_name(tmp_path):
    axis = {"CTYPE1": "AWAV", "CUNIT1": "Angstrom", "CRVAL1": 4750.0, "CD1_1": 1.25, "CRPIX1": 1.0}
    path = write_images(
        tmp_path / "muse.fits",
        ("DATA", FLUX, {**axis, "BUNIT": "10**(-20)*erg/s/cm**2/Angstrom"}),
        ("STAT", np.where(BAD, np.nan, 0.01), axis), ("DQ", 0 * BAD.astype("i4"), {}),
    )
    spectrum = read_one(path)
    np.testing.assert_allclose(spectrum.flux.to_value(FLUX_UNIT), FLUX / 1000)
    np.testing.assert_array_equal(spectrum.mask, BAD)
    assert spectrum.meta["medium"] == "air"
    fibers = write_images(
        tmp_path / "fibers.fits",
        ("FLUX", np.stack([FLUX, 2 * FLUX]), {"BUNIT": DENSITY}),
        ("IVAR", np.stack([IVAR, IVAR / 4]), {}), ("WAVE", WAVELENGTH, {}),
    )
    first, second = read_spectra(fibers)
    assert_same(first)
    assert_same(second, scale=2)
    odd = write_images(tmp_path / "odd.fits", ("A", FLUX, {}), ("B", IVAR, {}), ("C", LOGLAM, {}))
    names = {"flux": "A", "ivar": "B", "wavelength": "C [log10(Angstrom)]"}
    assert_same(read_one(odd, **names, unit=FLUX_UNIT))


# ---------------------------------------------------------------------- refusals
def test_what_holds_no_objects(tmp_path):
    axis = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "AWAV", "CUNIT3": "Angstrom",
            "CRVAL3": 4750.0, "CD3_3": 1.25, "CRPIX3": 1.0, "BUNIT": DENSITY}
    cube = write_images(tmp_path / "cube.fits", ("DATA", np.zeros((50, 6, 6)), axis))
    with pytest.raises(PreparationError, match=r"is a cube of shape \(50, 6, 6\), whose"):
        read_spectra(cube)
    long = {"CTYPE1": "WAVE", "CUNIT1": "Angstrom", "CRVAL1": 4000.0, "CDELT1": 1.0}
    slit = write_images(tmp_path / "slit.fits", ("SCI", np.ones((100, 900)), long))
    with pytest.raises(PreparationError, match="has 100 rows of 900 pixels, and nothing says"):
        read_spectra(slit)
    catalog = write_table(tmp_path / "zcat.fits", [("Z", FLUX, None), ("ZERR", FLUX, None)])
    with pytest.raises(PreparationError, match="no columns of flux and wavelength.*Z, ZERR"):
        read_spectra(catalog)


def test_damaged_files(tmp_path):
    whole = write_table(tmp_path / "t.fits", [("WAVE", WAVELENGTH, "nm"), ("FLUX", FLUX, DENSITY)])
    (tmp_path / "cut.fits").write_bytes(whole.read_bytes()[:20_000])
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04\x00\x00")
    (tmp_path / "no.csv").write_text("")
    for name, message in (
        ("cut.fits", "its data end early"), ("a.npz", "it is neither FITS nor a table"),
        ("no.csv", "it holds no rows of a table"),
    ):
        with pytest.raises(PreparationError, match=f"^path .*{name}' cannot .*: {message}") as bad:
            read_spectra(tmp_path / name)
        assert bad.value.flag == Flag.FAILED | Flag.BAD_INPUT
    with pytest.warns(FailedObjectWarning, match="cut.fits' cannot be read as spectra: its data"):
        table = astroclip.embed([tmp_path / "cut.fits", SAMPLES / "desi-27247.fits"])
    assert [bool(flag & Flag.FAILED) for flag in table["flags"]] == [True, False]


# ---------------------------------------------------------------------- units as files spell them
@pytest.mark.parametrize(
    ("text", "expected"),  # erg / (s cm2 AA)
    [
        ("10**(-17)erg/s/cm2/Ang", 1e-17), ("1E-17 erg/cm^2/s/Ang", 1e-17),
        ("10^-17 erg/s/cm^2/A", 1e-17), ("10**(-20)*erg/s/cm**2/Angstrom", 1e-20),
        ("erg/cm**2/s/angstrom", 1), ("ERG/S/CM**2/A", 1), ("FLAM", 1),
        ("10-17 erg/s/cm2/A", 1e-17), ("erg/s/cm2/\u00c5", 1),
        ("10^{-17} erg cm^{-2} s^{-1} A^{-1}", 1e-17), ("erg.s-1.cm-2.A-1", 1),
        ("Flux (10^-17 erg/s/cm^2/Ang)", 1e-17), ("W m-2 um-1", 0.1), ("W/m^2/nm", 100),
        ("ergs s^-1 cm^-2 \\AA^-1", 1), ("10^(-16)erg.cm^(-2).s^(-1).A^(-1)", 1e-16),
    ],
)
def test_flux_units(text, expected):
    unit = parse_unit(text)
    assert is_flux_density(unit)
    assert unit.to(u.erg / (u.s * u.cm**2 * u.AA)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", u.AA), ("Angstroms", u.AA), ("ANGSTROM", u.AA), ("nm", u.nm), ("microns", u.um),
        ("counts", u.ct), ("ADU", u.adu), ("micro-Jansky", u.uJy), ("", None), ("relative", None),
        ("furlongs", None),
    ],
)
def test_other_units(text, expected):
    assert parse_unit(text) == expected
