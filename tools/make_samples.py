"""Make astroclip/data/samples from public survey files.

    python tools/make_samples.py SHARED_DATA

SHARED_DATA is a folder with the DESI coadd, its redrock file, a merged DESI spectrum and a
Legacy Survey cutout (see astroclip/data/samples/README.rst for what they are). Planes that
are not needed are dropped; values are not changed.
"""

import sys
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import Table

SAMPLES = Path(__file__).parents[1] / "astroclip" / "data" / "samples"
SPECTRUM = "coadd-special-dark-27247.fits"
CUTOUT = "cutout_59.1067_-30.4848.fits"
SIZE = 160


def write_coadd(source):
    """Copy the coadd without resolution matrices, exposure tables and scores."""
    with fits.open(source / SPECTRUM) as hdus, fits.open(
        source / "redrock-special-dark-27247.fits"
    ) as redrock:
        kept = [
            hdu
            for hdu in hdus
            if not any(word in hdu.name for word in ("RESOLUTION", "EXP_FIBERMAP", "SCORES"))
        ]
        columns = ("TARGETID", "TARGET_RA", "TARGET_DEC", "COADD_FIBERSTATUS", "OBJTYPE")
        fibermap = Table(hdus["FIBERMAP"].data)[list(columns)]
        place = next(k for k, hdu in enumerate(kept) if hdu.name == "FIBERMAP")
        kept[place] = fits.BinTableHDU(fibermap, name="FIBERMAP")
        kept[0].header["Z_CAT"] = (float(redrock["REDSHIFTS"].data["Z"][0]), "redrock, ZWARN 0")
        fits.HDUList(kept).writeto(SAMPLES / "desi-27247.fits", overwrite=True, checksum=True)


def write_merged(source):
    """Write the merged DESI spectrum as a table that specutils reads, errors included."""
    with np.load(source / "heldout_z020.npz") as archive:
        good = (archive["ivar"] > 0) & ~archive["mask"]
        sigma = np.full(len(good), np.inf)
        sigma[good] = archive["ivar"][good] ** -0.5
        unit = u.Unit("1e-17 erg / (s cm2 AA)")
        table = Table(
            {
                "wavelength": archive["wavelength"] * u.AA,
                "flux": archive["flux"] * unit,
                "uncertainty": sigma.astype("f4") * unit,
            }
        )
        header = fits.Header()
        header["OBJECT"] = str(archive["object_id"])
        header["Z_CAT"] = (float(archive["z_true"]), "DESI redshift")
    hdu = fits.BinTableHDU(table, header=header, name="SPECTRUM")
    fits.HDUList([fits.PrimaryHDU(header=header), hdu]).writeto(
        SAMPLES / f"desi-{header['OBJECT']}.fits", overwrite=True, checksum=True
    )


def write_cutout(source):
    """Write the central pixels of the cutout: g, r, z images and inverse variances."""
    with fits.open(source / CUTOUT) as hdus:
        planes = [fits.PrimaryHDU(header=hdus[0].header)]
        for hdu in hdus[1:]:
            start = (hdu.shape[0] - SIZE) // 2
            window = slice(start, start + SIZE)
            header = hdu.header.copy()
            header["CRPIX1"] -= start
            header["CRPIX2"] -= start
            header["IMAGEW"] = header["IMAGEH"] = SIZE
            header["BUNIT"] = "nanomaggy"
            planes.append(fits.ImageHDU(hdu.data[window, window], header=header))
        for hdu in planes[1:]:
            if "invvar" in hdu.header["IMAGETYP"]:
                del hdu.header["BUNIT"]
        fits.HDUList(planes).writeto(
            SAMPLES / "legacysurvey-59.1067-30.4848.fits", overwrite=True, checksum=True
        )


def main():
    """Write the samples from the folder of survey files named on the command line."""
    source = Path(sys.argv[1])
    SAMPLES.mkdir(parents=True, exist_ok=True)
    write_coadd(source / "desi")
    write_merged(source / "desi")
    write_cutout(source / "images")


if __name__ == "__main__":
    main()
