"""One spectrum in every format of the page "What is read, and how" has one embedding."""

import bz2
import gzip
import lzma
import re
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.table import QTable, Table
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from specutils import Spectrum, SpectrumCollection, SpectrumList

import astroclip
from astroclip.exceptions import AstroclipWarning, FailedObjectWarning, PreparationError
from astroclip.preparation import SpectrumBatch, read_spectra
from astroclip.preparation.batches import FLUX_UNIT
from tests.preparation.page import Register, covers, read_tables

SAME = 0.9999  # cosine of two embeddings of one spectrum
N_PIXELS = 4600
LOGLAM = 3.555 + 1e-4 * np.arange(N_PIXELS)
GRIDS = {"log": 10**LOGLAM, "linear": 3600 + 0.8 * np.arange(7781)}
ARMS = {"B": (0, 2751), "R": (2700, 5026), "Z": (4900, 7781)}  # pixels of DESI's grid
DENSITY = "10**(-17) erg s-1 cm-2 Angstrom-1"
SDSS = {"TELESCOP": "SDSS 2.5-M", "PLATEID": 411, "FIBERID": 5, "VERS2D": "v5_13_0"}
REMARK, NO_DATA = 1 << 23, 1 << 24  # SDSS: bright sky; no data
taken, refused, tables, refused_tables = Register(), Register(), Register(), Register()


def galaxy(wavelength, seed=5):
    """Return flux, ivar and bad pixels of an emission-line galaxy."""
    rng = np.random.default_rng(seed)
    flux = 2 + 3 * (wavelength / 5000 - 1) + 1.5 * (wavelength > 4400)
    for line, height in ((4100, 8), (5349, 5), (5508, 15), (7220, 30), (7395, 9)):
        flux += height * np.exp(-0.5 * ((wavelength - line) / 4) ** 2)
    flux += rng.normal(0, 0.2, len(wavelength))
    return flux, np.full(len(wavelength), 25.0), rng.random(len(wavelength)) < 0.02


ARRAYS = {name: galaxy(grid) for name, grid in GRIDS.items()}
FLUX, IVAR, BAD = ARRAYS["log"]
WAVELENGTH, SIGMA = GRIDS["log"], IVAR**-0.5
SPOILED = np.where(BAD, 0, IVAR)
BITS = np.where(BAD, NO_DATA, np.where(np.arange(N_PIXELS) % 3 == 0, REMARK, 0))


def in_memory(grid="log", **changes):
    """Return the spectrum as a Spectrum."""
    flux, ivar, bad = ARRAYS[grid]
    parts = {
        "flux": flux * FLUX_UNIT, "spectral_axis": GRIDS[grid] * u.AA, "mask": bad,
        "uncertainty": InverseVariance(ivar, unit=FLUX_UNIT**-2), "meta": {"medium": "vacuum"},
    }
    return Spectrum(**(parts | changes))


def write_table(path, columns, *, header=(), cards=(), name=None):
    """Write a FITS table of name: (values, unit)."""
    table = fits.BinTableHDU(QTable({key: values for key, (values, _) in columns.items()}))
    table.name = name or ""
    for k, (_, unit) in enumerate(columns.values(), start=1):
        if unit:
            table.header[f"TUNIT{k}"] = unit
    table.header.update(dict(cards))
    primary = fits.PrimaryHDU(header=fits.Header(dict(header)))
    fits.HDUList([primary, table]).writeto(path)
    return path


def write_image(path, values, header, **extensions):
    """Write a primary array and extensions by name."""
    hdus = [fits.PrimaryHDU(values, fits.Header(header))]
    hdus += [fits.ImageHDU(array, name=name) for name, array in extensions.items()]
    fits.HDUList(hdus).writeto(path)
    return path


def pixels():
    """Return an astropy table of the pixels."""
    return Table({"wavelength": WAVELENGTH, "flux": FLUX, "ivar": SPOILED})


# ---------------------------------------------------------------------- in memory
@taken("Spectrum")
def units_axes_uncertainties_and_masks(folder):
    density = u.spectral_density(WAVELENGTH * u.AA)
    quantity, noise = FLUX * FLUX_UNIT, SIGMA * FLUX_UNIT
    jansky, error = quantity.to(u.mJy, density), noise.to(u.mJy, density)
    down = slice(None, None, -1)
    yield in_memory(
        flux=jansky, uncertainty=StdDevUncertainty(error), mask=BAD.astype(np.uint8),
        spectral_axis=(WAVELENGTH * u.AA).to(u.GHz, u.spectral()),
    )
    yield in_memory(
        flux=quantity.to(u.W / u.m**2 / u.um)[down], spectral_axis=WAVELENGTH[down] / 1e4 * u.um,
        uncertainty=VarianceUncertainty(noise.to(u.W / u.m**2 / u.um)[down] ** 2),
        mask=BAD[down].astype(np.int64) * 4,
    )
    yield in_memory(
        spectral_axis=(WAVELENGTH * u.AA).to(u.eV, u.spectral()),
        uncertainty=InverseVariance(SPOILED, unit=FLUX_UNIT**-2), mask=None,
    )
    yield in_memory(flux=np.where(BAD, np.nan, FLUX).astype(">f4") * FLUX_UNIT, mask=None)
    air = WAVELENGTH / (1 + 2.735182e-4 + 131.4182 / WAVELENGTH**2 + 2.76249e8 / WAVELENGTH**4)
    yield in_memory(spectral_axis=air * u.AA, meta={"header": fits.Header({"AIRORVAC": "air"})})


@refused("Spectrum")
def fluxes_without_units(folder):
    yield in_memory(flux=FLUX * u.one, uncertainty=None), "no unit; .*unit="
    yield in_memory(flux=FLUX * u.ct, uncertainty=None), "unit 'ct'"
    yield in_memory(flux=FLUX * u.ABmag, uncertainty=None), "mag"


@taken("Many spectra in memory")
def containers_of_specutils(folder):
    one, two = in_memory(), [FLUX, FLUX] * FLUX_UNIT
    yield SpectrumList([one, one])
    noise = InverseVariance([IVAR, IVAR], unit=FLUX_UNIT**-2)
    many = in_memory(flux=two, uncertainty=noise, mask=np.array([BAD, BAD]))
    yield many
    yield SpectrumCollection(
        flux=two, spectral_axis=[WAVELENGTH, WAVELENGTH] * u.AA, uncertainty=noise,
        mask=np.array([BAD, BAD]),
    )


@refused("Many spectra in memory")
def cubes_in_memory(folder):
    cube = np.ones((2, 3, N_PIXELS)) * FLUX_UNIT
    yield Spectrum(flux=cube, spectral_axis=WAVELENGTH * u.AA), r"shape \(2, 3, 4600\)"


# ---------------------------------------------------------------------- tables
@taken("FITS table")
def tables_by_name(folder):
    density = u.spectral_density(WAVELENGTH * u.AA)
    jansky, error = ((v * FLUX_UNIT).to_value(u.mJy, density) for v in (FLUX, SIGMA))
    yield write_table(folder / "jansky.fits", {
        "MODEL": (FLUX + 9, "mJy"), "ERR": (np.where(BAD, -1, error), "mJy"),
        "FLUX": (jansky, "mJy"), "WAVE": (WAVELENGTH / 10, "nm"),
    })
    yield write_table(folder / "rows.fits", {
        "TARGETID": (np.arange(2), None), "loglam": (np.array([LOGLAM, LOGLAM]), None),
        "flux": (np.array([FLUX, FLUX]), DENSITY), "ivar": (np.array([SPOILED, SPOILED]), None),
    })
    in_memory().write(folder / "tabular.fits", format="tabular-fits")
    # specutils writes no mask
    with fits.open(folder / "tabular.fits", mode="update") as hdus:
        hdus[1].data["flux"][BAD] = np.nan
    yield folder / "tabular.fits"


@refused("FITS table")
def tables_that_say_too_little(folder):
    columns = {"WAVE": (WAVELENGTH, "nm"), "FLUX": (FLUX, DENSITY), "FLAM": (FLUX, DENSITY)}
    yield write_table(folder / "two.fits", columns), "2 columns that could be the flux: FLUX, FLAM"
    columns = {"COL1": (WAVELENGTH, None), "COL2": (FLUX, None)}
    yield write_table(folder / "none.fits", columns), "COL1, COL2"


@taken("Text table")
def text_tables(folder):
    quantities = QTable({
        "spectral_axis": WAVELENGTH * u.AA, "flux": FLUX * FLUX_UNIT,
        "uncertainty": np.where(BAD, 0, SIGMA) * FLUX_UNIT,
    })
    quantities.write(folder / "table.ecsv")
    yield folder / "table.ecsv"
    density = u.spectral_density(WAVELENGTH * u.AA)
    text = pixels()
    text["ivar"] = SPOILED * FLUX**2 / (FLUX * FLUX_UNIT).to_value(u.mJy, density) ** 2
    text["flux"] = (FLUX * FLUX_UNIT).to_value(u.mJy, density)
    text.rename_columns(["wavelength", "flux"], ["Wavelength (nm)", "flux [mJy]"])
    text["Wavelength (nm)"] /= 10
    text.write(folder / "table.csv")
    yield folder / "table.csv"
    with_units = pixels()
    with_units["flux"].unit, with_units["wavelength"].unit = FLUX_UNIT, u.AA
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # VOUnit prefers 0.1 nm
        with_units.write(folder / "table.vot", format="votable")
    yield folder / "table.vot"
    with_units.write(folder / "table.parquet")
    yield folder / "table.parquet"
    text.rename_columns(text.colnames, ["lambda", "fnu", "ivar"])
    text.write(folder / "table.dat", format="ascii.commented_header")
    (spectrum,) = read_spectra(folder / "table.dat", unit="mJy", wavelength="lambda [nm]")
    yield spectrum


@refused("Text table")
def text_tables_that_say_too_little(folder):
    table = pixels()
    table.write(folder / "bare.csv")
    yield folder / "bare.csv", "has no unit; expected a flux density. Pass unit="
    table.rename_columns(["wavelength", "flux"], ["x", "y"])
    table.write(folder / "unnamed.csv")
    yield folder / "unnamed.csv", "no column named as flux or wavelength"


# ---------------------------------------------------------------------- surveys
@taken("SDSS, BOSS, SDSS-V spec")
def sdss_tables(folder):
    columns = {
        "flux": (FLUX, None), "loglam": (LOGLAM, None), "ivar": (IVAR, None),
        "and_mask": (BITS, None), "or_mask": (np.full(N_PIXELS, NO_DATA), None),
        "wdisp": (FLUX, None), "sky": (FLUX, None), "model": (FLUX, None),
    }
    yield write_table(folder / "spec-4000-55000-0005.fits", columns, header=SDSS, name="COADD")
    upper = {key.upper(): value for key, value in columns.items()}
    header = {"TELESCOP": "SDSS 2.5-M", "VERS2D": "v6_1_3", "OBSERVAT": "APO"}
    yield write_table(folder / "spec-015000-59146-43.fits", upper, header=header, name="COADD")


@taken("SDSS spSpec, spPlate")
def sdss_images(folder):
    axis = {"COEFF0": LOGLAM[0], "COEFF1": 1e-4, "CRVAL1": LOGLAM[0], "CD1_1": 1e-4, "CRPIX1": 1,
            "CTYPE1": "LINEAR", "DC-FLAG": 1, "BUNIT": "1.0E-17 erg/cm/s/Ang"}
    rows = np.stack([FLUX, 0 * FLUX, SIGMA, BITS, 0 * FLUX])
    yield write_image(folder / "spSpec-51000-0411-005.fit", rows, SDSS | axis)
    parts = [np.stack([values] * 3) for values in (FLUX, IVAR, BITS)]
    plate = SDSS | axis | {"BUNIT": "1E-17 erg/cm^2/s/Ang"}
    hdus = [fits.PrimaryHDU(parts[0], fits.Header(plate))]
    hdus += [fits.ImageHDU(values) for values in parts[1:]]
    hdus.append(fits.BinTableHDU(Table({"FIBERID": [1, 2, 3], "RA": [0.0, 1.0, 2.0]})))
    fits.HDUList(hdus).writeto(folder / "spPlate-0411-51000.fits")
    yield folder / "spPlate-0411-51000.fits"


@taken("SDSS-V mwmStar, mwmVisit")
def sdss_5_stars(folder):
    primary = fits.PrimaryHDU(header=fits.Header({"V_ASTRA": "0.6", "SDSS_ID": 1}))
    log_axis = {"CTYPE": "LOG-LINEAR", "CRVAL": LOGLAM[0], "CDELT": 1e-4, "NPIXELS": N_PIXELS}
    rows = {"flux": FLUX[None], "ivar": IVAR[None], "pixel_flags": BITS[None]}
    hdu = fits.BinTableHDU(Table(rows), name="BOSS/APO")
    hdu.header.update(log_axis)
    fits.HDUList([primary, hdu]).writeto(folder / "mwmVisit.fits")
    yield folder / "mwmVisit.fits"
    rows = rows | {"wavelength": WAVELENGTH[None]}
    fits.HDUList([primary, fits.BinTableHDU(Table(rows), name="BOSS/LCO")]).writeto(
        folder / "mwmStar.fits"
    )
    yield folder / "mwmStar.fits"


@taken("LAMOST")
def lamost(folder):
    header = {"TELESCOP": "LAMOST", "COEFF0": LOGLAM[0], "COEFF1": 1e-4, "VACUUM": True}
    bits = np.where(BAD, 1, 8)  # BADCCD; BRIGHTSKY
    rows = np.stack([FLUX, IVAR, WAVELENGTH, bits, bits + 1])
    yield write_image(folder / "spec-55859-F5902_sp01-001.fits", rows, header)
    columns = {"FLUX": FLUX, "IVAR": IVAR, "WAVELENGTH": WAVELENGTH, "ANDMASK": bits,
               "ORMASK": bits + 1}
    columns = {key: (values[None], None) for key, values in columns.items()}
    yield write_table(folder / "spec-56000-DR8.fits", columns, header=header, name="COADD")


def write_desi(path, rows, *, combined=False, without=()):
    """Write DESI's arms of some rows of one target."""
    flux, ivar, bad = ARRAYS["linear"]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU(Table({"TARGETID": [7] * rows}), name="FIBERMAP")]
    for arm, (first, last) in ({"BRZ": (0, 7781)} if combined else ARMS).items():
        part = slice(first, last)
        shared = sum((np.arange(7781) >= a) & (np.arange(7781) < b) for a, b in ARMS.values())
        weight = ivar if combined else ivar / shared / rows
        arrays = {
            "WAVELENGTH": GRIDS["linear"][part], "FLUX": np.tile(flux[part], (rows, 1)),
            "IVAR": np.tile(weight[part], (rows, 1)), "MASK": np.tile(bad[part] * 2, (rows, 1)),
        }
        for kind, values in arrays.items():
            if kind not in without:
                hdus.append(fits.ImageHDU(values, name=f"{arm}_{kind}"))
        hdus[-len(arrays) + len(without) + 1].header["BUNIT"] = "10**-17 erg/(s cm2 Angstrom)"
    fits.HDUList(hdus).writeto(path)
    return path


@taken("DESI")
def desi(folder):
    yield write_desi(folder / "coadd.fits", 1), "linear"
    yield write_desi(folder / "spectra.fits", 3), "linear"
    yield write_desi(folder / "brz.fits", 1, combined=True), "linear"


@refused("DESI")
def desi_without_noise(folder):
    yield write_desi(folder / "noiseless.fits", 1, without=("IVAR",)), "arm B has no B_IVAR"


@taken("ESO phase 3")
def eso(folder):
    unit = "10**(-17)erg.cm**(-2).s**(-1).angstrom**(-1)"
    columns = {
        "WAVE": (WAVELENGTH[None] / 10, "nm"), "FLUX": (FLUX[None], unit),
        "ERR": (SIGMA[None], unit), "QUAL": (BAD[None].astype(int), None),
        "FLUX_RAW": (1e3 * FLUX[None], "adu"), "ERR_RAW": (FLUX[None], "adu"),
    }
    data = "Spectrum.Data."
    yield write_table(folder / "ADP.fits", columns, cards={
        "TUCD1": "em.wl", "TUTYP1": data + "SpectralAxis.Value",
        "TUTYP2": data + "FluxAxis.Value", "TUTYP3": data + "FluxAxis.Accuracy.StatError",
        "TUTYP4": data + "FluxAxis.Accuracy.QualityStatus", "TUTYP5": "eso:Data.FluxAxis.Value",
    })


def linear_axis():
    return {"CTYPE1": "WAVE", "CUNIT1": "Angstrom", "CRVAL1": 3600.0, "CDELT1": 0.8, "CRPIX1": 1.0}


def linear_rows():
    """Return flux, noise and inverse variance with bad pixels marked in them."""
    flux, ivar, bad = ARRAYS["linear"]
    return flux, np.where(bad, 0, ivar**-0.5), np.where(bad, 0, ivar)


SIXDF = {"OBSRA": 1.0, "OBSDEC": 2.0, "Z": 0.1, "Z_HELIO": 0.1, "QUALITY": 4}


@taken("6dFGS")
def six_degree_field(folder):
    flux, sigma, _ = linear_rows()
    rows = np.stack([flux, sigma**2, 50 + flux])
    path = write_image(folder / "6df.fits", rows, SIXDF | linear_axis())
    (spectrum,) = read_spectra(path, unit=FLUX_UNIT)
    yield spectrum, "linear"


@refused("6dFGS")
def counts_of_6dfgs(folder):
    rows = np.stack([FLUX, SIGMA**2, FLUX])
    yield write_image(folder / "6df-bare.fits", rows, SIXDF | linear_axis()), "has no unit"


@taken("GAMA")
def gama(folder):
    flux, sigma, _ = linear_rows()
    names = {"ROW1": "Spectrum", "ROW2": "Error", "ROW3": "Spectrum_nocalib", "ROW4": "Sky",
             "BUNIT": "10^-17 erg/s/cm^2/A"}
    rows = np.stack([flux, sigma, 1e3 * flux, 50 + flux])
    yield write_image(folder / "gama.fits", rows, names | linear_axis()), "linear"


def iraf_header(starts, step):
    """Return the header of multispec apertures that are linear."""
    header = {"WCSDIM": 3, "CTYPE1": "MULTISPE", "CTYPE2": "MULTISPE", "CTYPE3": "LINEAR",
              "BUNIT": "erg/cm2/s/A",
              "WAT1_001": "wtype=multispec label=Wavelength units=angstroms"}
    text = "wtype=multispec"
    for k, start in enumerate(starts, start=1):
        text += f' spec{k} = "{k} {k} 0 {start} {step} 7781 0. 10. 12."'
        header[f"APNUM{k}"] = f"{k} {k} 10. 12."
    header |= {f"WAT2_{k // 68 + 1:03d}": text[k : k + 68] for k in range(0, len(text), 68)}
    return header | {"BANDID1": "spectrum - optimal", "BANDID2": "raw - sum", "BANDID3": "sigma"}


@taken("IRAF")
def iraf(folder):
    flux, sigma, _ = linear_rows()
    bands = np.stack([flux, 50 + flux, sigma])[:, None] * np.ones((1, 2, 1)) * 1e-17
    yield write_image(folder / "ms.fits", bands, iraf_header([3600, 3600], 0.8)), "linear"


@refused("IRAF")
def orders(folder):
    bands = np.ones((3, 2, 7781)) * 1e-17
    header = iraf_header([3600, 9800], 0.8)
    yield write_image(folder / "echelle.fits", bands, header), "apertures that follow one another"


@taken("PypeIt")
def pypeit(folder):
    columns = {"wave": (WAVELENGTH, None), "flux": (FLUX, None), "ivar": (IVAR, None),
               "mask": ((~BAD).astype(int), None)}
    cards = {"DMODCLS": "OneSpec", "FLUXED": True}
    yield write_table(folder / "pypeit.fits", columns, cards=cards, name="SPECTRUM")


@refused("PypeIt")
def pypeit_counts(folder):
    columns = {"wave": (WAVELENGTH, None), "flux": (FLUX, None), "ivar": (IVAR, None)}
    cards = {"DMODCLS": "OneSpec", "FLUXED": False}
    yield write_table(folder / "counts.fits", columns, cards=cards, name="SPECTRUM"), "has no unit"


@taken("FITS images")
def images_of_one_spectrum(folder):
    flux, sigma, ivar = linear_rows()
    header = linear_axis() | {"BUNIT": DENSITY}
    yield write_image(folder / "linear.fits", flux, header, IVAR=ivar), "linear"
    unit = {"BUNIT": DENSITY}
    log = {"CRVAL1": LOGLAM[0], "CD1_1": 1e-4, "CRPIX1": 1.0, "CTYPE1": "LINEAR", "DC-FLAG": 1}
    yield write_image(folder / "iraf.fits", FLUX, log | unit, ERR=SIGMA, MASK=BAD.astype("i2"))
    log = {"CTYPE1": "WAVE-LOG", "CUNIT1": "nm", "CRVAL1": WAVELENGTH[0] / 10, "CRPIX1": 1.0,
           "CDELT1": WAVELENGTH[0] * 1e-5 * np.log(10)}
    yield write_image(folder / "wavelog.fits", FLUX, log | unit, VAR=np.where(BAD, 0, SIGMA**2))
    path = folder / "extensions.fits"
    write_image(path, None, {}, FLUX=FLUX, IVAR=SPOILED, WAVELENGTH=WAVELENGTH, SKY=FLUX + 50)
    fits.setval(path, "BUNIT", value=DENSITY, extname="FLUX")
    fits.setval(path, "BUNIT", value="Angstrom", extname="WAVELENGTH")
    yield path
    spoiled = np.where(ARRAYS["linear"][2], np.nan, flux)
    linear = Spectrum(flux=spoiled * FLUX_UNIT, wcs=WCS(fits.Header(linear_axis())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)  # comments of cards are cut
        linear.write(folder / "wcs1d.fits", format="wcs1d-fits")
    yield folder / "wcs1d.fits", "linear"


@refused("FITS images")
def rows_and_cubes(folder):
    rows = write_image(folder / "rows-only.fits", np.ones((3, 7781)), linear_axis())
    yield rows, "nothing says whether they are objects"
    axes = {"CTYPE3": "WAVE", "CUNIT3": "Angstrom", "CRVAL3": 4e3, "CDELT3": 1.0, "CRPIX3": 1.0,
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "BUNIT": DENSITY}
    cube = write_image(folder / "cube.fits", np.ones((90, 12, 12)), axes)
    yield cube, "cube of shape .* spaxels are parts of an object"


@taken("Other instruments")
def loaders_of_specutils(folder):
    density = u.spectral_density(WAVELENGTH * u.AA)
    jansky, error = ((v * FLUX_UNIT).to_value(u.Jy, density) for v in (FLUX, SIGMA))
    columns = {
        "WAVELENGTH": (WAVELENGTH / 1e4, "um"), "FLUX": (np.where(BAD, np.nan, jansky), "Jy"),
        "FLUX_ERROR": (error, "Jy"), "SURF_BRIGHT": (FLUX, "MJy/sr"), "SB_ERROR": (FLUX, "MJy/sr"),
        "DQ": (0 * BITS, None), "BACKGROUND": (FLUX, "MJy/sr"), "BERROR": (FLUX, "MJy/sr"),
        "NPIXELS": (FLUX, None),
    }
    header = {"TELESCOP": "JWST", "INSTRUME": "NIRSPEC", "DATAMODL": "MultiSpecModel"}
    cards = {"EXTVER": 1, "SRCTYPE": "POINT"}
    yield write_table(folder / "jw_x1d.fits", columns, header=header, cards=cards, name="EXTRACT1D")


@refused("Other instruments")
def cubes_of_instruments(folder):
    axes = {"CTYPE3": "WAVE", "CUNIT3": "um", "CRVAL3": 1.0, "CDELT3": 0.01, "CRPIX3": 1.0,
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "BUNIT": "MJy/sr"}
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "JWST", "DATAMODL": "IFUCubeModel"}))
    science = fits.ImageHDU(np.ones((90, 12, 12)), fits.Header(axes), name="SCI")
    fits.HDUList([primary, science]).writeto(folder / "jw_s3d.fits")
    yield folder / "jw_s3d.fits", "spaxels are parts of an object"


@taken("Compressed")
def compressed(folder):
    plain = folder / "plain.fits"
    write_table(plain, {"WAVE": (WAVELENGTH, "Angstrom"), "FLUX": (FLUX, DENSITY),
                        "IVAR": (SPOILED, None)})
    for suffix, module in (("gz", gzip), ("bz2", bz2), ("xz", lzma)):
        path = folder / f"packed-{suffix}.fits.{suffix}"
        path.write_bytes(module.compress(plain.read_bytes()))
        yield path


@refused("Compressed")
def damaged(folder):
    path = folder / "damaged.fits.gz"
    whole = write_table(folder / "whole.fits", {"WAVE": (WAVELENGTH, "nm"), "FLUX": (FLUX, "Jy")})
    path.write_bytes(gzip.compress(whole.read_bytes())[:20000])
    yield path, "Check that the file is complete"
    path = folder / "start.fits.bz2"
    path.write_bytes(bz2.compress(whole.read_bytes())[:3000])
    yield path, "Check that the file is complete"
    path = folder / "cut.fits"
    arms = write_desi(folder / "arms.fits", 1).read_bytes()
    path.write_bytes(arms[: len(arms) * 2 // 3])
    yield path, "it is damaged or incomplete, for .* 1 FIBERMAP: table of 1 rows"


# ---------------------------------------------------------------------- tables of objects
def object_columns():
    """Return columns of two objects."""
    return {"id": ["a", "b"], "flux": [FLUX] * 2, "ivar": [SPOILED] * 2, "lambda": [WAVELENGTH] * 2}


@tables("Table of objects")
def frames(folder):
    columns = object_columns()
    yield pd.DataFrame(columns)
    yield Table(columns)
    yield pa.table(columns)
    parts = [{"flux": FLUX, "ivar": IVAR, "lambda": WAVELENGTH, "mask": BAD}] * 2
    yield pd.DataFrame({"object_id": ["c", "d"], "spectrum": parts})


@refused_tables("Table of objects")
def catalogs(folder):
    yield Table({"ra": [1.0], "mag": [20.0]}), "with the columns ra, mag, none of them known"


@tables("Row")
def one_row(folder):
    yield {"flux": FLUX, "ivar": SPOILED, "wavelength": WAVELENGTH}
    yield {"object_id": "x", "spectrum": {"flux": FLUX, "ivar": SPOILED, "lambda": WAVELENGTH}}


@tables("Parquet of lists")
def parquet(folder):
    pyarrow.parquet.write_table(pa.table(object_columns()), folder / "objects.parquet")
    yield folder / "objects.parquet"


@tables("List")
def iterables(folder):
    yield [in_memory(), in_memory()]
    yield (in_memory(),)


@tables("Folder, pattern")
def folders(folder):
    for name in ("a.fits", "b.fit"):
        write_table(folder / name, {
            "wave": (WAVELENGTH, "Angstrom"), "flux": (FLUX, DENSITY), "ivar": (SPOILED, None),
        })
    yield folder
    yield str(folder / "*.fit*")


@refused_tables("Folder, pattern")
def empty_folders(folder):
    yield folder, "holds no file ending in .fits"


# ---------------------------------------------------------------------- all of them
def embed(objects):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)
        warnings.filterwarnings("ignore", "LAMOST gives flux", AstroclipWarning)
        return astroclip.embed(objects)


def cases(*registers):
    return [
        pytest.param(row, function, id=f"{row}: {function.__name__}")
        for register in registers for row, function in register.all()
    ]


IN_VACUUM = {row for row, (_, text, _) in read_tables()["Spectra"].items()
             if re.search("vacuum$|vacuum;", text.astext())}


@pytest.mark.parametrize(("row", "make"), cases(taken, tables))
def test_one_embedding(row, make, tmp_path):
    groups = {}
    for made in make(tmp_path):
        item, grid = made if isinstance(made, tuple) and len(made) == 2 else (made, "log")
        groups.setdefault(grid, []).append(item)
    for grid, items in groups.items():
        for item in items:
            items = list(item) if isinstance(item, list | tuple) else [item]
            table = embed([in_memory(grid), *items])
            assert len(table) > len(items) or len(items) == 1
            assert not table["message"].astype(str).tolist()[0]
            cosines = table["embedding"] @ table["embedding"][0]
            assert np.min(cosines) >= SAME, (item, table["message"][1])
            if row in IN_VACUUM:
                assert set(table["medium"]) == {"vacuum"}


@pytest.mark.parametrize(("row", "make"), cases(refused, refused_tables))
def test_refusals(row, make, tmp_path):
    for item, message in make(tmp_path):
        table = embed([in_memory(), item])
        assert table["message"][0] == ""
        assert re.search(message, table["message"][1]), table["message"][1]
        assert all(table["embedding"].mask[1:].all(axis=1))


def test_a_batch_of_arrays():
    arrays = SpectrumBatch.from_arrays(WAVELENGTH, FLUX[None], ivar=SPOILED[None])
    (found,), (expected,) = (embed(item)["embedding"] for item in (arrays, in_memory()))
    assert found @ expected >= SAME
    with pytest.raises(PreparationError, match="1e-17 missing or applied twice: pass"):
        SpectrumBatch.from_arrays(WAVELENGTH, 1e-17 * FLUX[None], ivar=1e34 * IVAR[None])


def test_every_row_of_the_page_is_here():
    covers("Spectra", taken, refused)
