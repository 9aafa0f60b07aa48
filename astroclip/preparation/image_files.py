"""Files of images to `~astropy.nddata.CCDData` by band.

What the planes of a file are is said by their headers, never by their number or order: a role
(image, mask, inverse variance...) by the words of ``EXTNAME`` and the like, a band by the
filter's name. A file that does not say it is refused, with what it holds.
"""

import contextlib
import dataclasses
import re
import warnings

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, VarianceUncertainty
from astropy.wcs import WCS

from astroclip.exceptions import PreparationError
from astroclip.preparation.bands import band_letter, header_bands
from astroclip.preparation.photometry import ZERO_POINT_KEYS
from astroclip.preparation.reading import (
    checked_path,
    fits_source,
    is_celestial,
    is_display_image,
    is_fits,
    is_spectral,
    is_truncated,
    picture_shape,
)
from astroclip.preparation.unit_strings import parse_unit

__all__ = ["BandImage", "open_images", "read_images"]

ROLE_KEYS = ("EXTNAME", "EXTTYPE", "IMAGETYP", "IMTYPE", "PRODTYPE", "UTYPE")
# words of these keywords, in the order in which they are asked: "PSF_IVAR" is no noise of the
# sky, "FLAG_IMAGE" is no image
ROLES = {
    "other": "PSF PSFIMAGE PSFEX NEXP EXP EXPMAP EXPOSURE MODEL RESID RESIDUAL CTX CON CONTEXT "
    "CAT CATALOG SEG SEGM SEGMAP SEGMENTATION SKY BKG BACK BACKGROUND CHI2 CHISQ DEPTH GALDEPTH "
    "PSFDEPTH BLOB BLOBS FLAT BIAS DARK ZERO POISSON RNOISE RPOISSON AREA SAMP TIME D2IMARR "
    "WCSDVARR WCSCORR HDRLET COVARIANCE KERNEL APCORR",
    "ivar": "INVVAR IVAR INVERSEVARIANCE INVVARIANCE",
    "mask": "MASK MSK DQ DQMASK BPM BADPIX BADPIXEL QUALITY FLAG FLAGS MASKBITS",
    "variance": "VAR VARIANCE VARIANCEUNCERTAINTY STAT",
    "error": "ERR ERROR ERRORS SIGMA RMS UNCERT UNCERTAINTY STD STDDEV STDEV NOISE "
    "STDDEVUNCERTAINTY",
    "weight": "WHT WGT WT WEIGHT WEIGHTS WTMAP WEIGHTMAP",
    "image": "IMAGE IMG SCI SCIENCE DATA FLUX COADD STACK OBJECT",
}
ROLES = {role: frozenset(words.split()) for role, words in ROLES.items()}
UNCERTAINTIES = {
    "ivar": (InverseVariance, -2),
    "variance": (VarianceUncertainty, 2),
    "error": (StdDevUncertainty, 1),
}
FILTER_KEYS = (
    "BAND", "FILTER", "FILTNAM", "FILTNAM1", "FILTNAME", "INSFLNAM", "FPA.FILTER", "FPA.FILTERID",
    "ESO INS FILT1 NAME", "ESO INS FILT2 NAME", "FILTER1", "FILTER2", "FILTER3", "WFFBAND",
)
NO_FILTER = re.compile(r"(clear|open|none|empty|air|n/a|null|unknown|undefined|blank)", re.I)
# Bits of a mask by the cards of the Rubin and HSC pipelines (MP_SAT = 1: bit 1 is SAT) that
# leave no measurement; the others (DETECTED, BRIGHT_OBJECT, CROSSTALK, INTRP...) are remarks.
RUBIN_BAD = frozenset(("BAD", "SAT", "CR", "NO_DATA", "UNMASKEDNAN"))
# ALLMASK_b: https://www.legacysurvey.org/dr10/bitmasks; the others are remarks (GALAXY is one)
LEGACY_BAD = {"g": 1 << 5, "r": 1 << 6, "z": 1 << 7, "i": 1 << 15}
# DO_NOT_USE: jwst-pipeline.readthedocs.io, "Data Quality Flags"; the others are remarks
WEBB_BAD = 1
FITS_SUFFIX = re.compile(r"(\.(fits?|fts|fz|gz|bz2|xz))+$", re.I)
STRUCTURE = re.compile(  # keywords of one HDU that others do not inherit
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|BSCALE|BZERO|BLANK|EXTNAME|EXTVER|"
    r"EXTLEVEL|INHERIT|CHECKSUM|DATASUM|COMMENT|HISTORY|NEXTEND|)"
)
WORLD = re.compile(  # keywords of a WCS; an extension with its own takes none of another's
    r"(WCSAXES|WCSNAME|C(TYPE|RVAL|RPIX|UNIT|DELT|ROTA)\d+|CD\d+_\d+|P[CV]\d+_\d+|RADE(SYS|CSYS)|"
    r"EQUINOX|EPOCH|LONPOLE|LATPOLE|[AB]P?_(ORDER|\d+_\d+))[A-Z]?"
)
LEGACY_SURVEYS = ("DECaLS", "LegacySurvey", "BASS", "MzLS")
DAMAGED = ("it is damaged or incomplete", "Check that the file is complete; get it again.")
N_LISTED = 8  # planes that messages list


@dataclasses.dataclass(eq=False)
class _Plane:
    """One two-dimensional array of a file, not read yet.

    ``index`` is its place in its HDU's leading axes, ``letter`` its band (None if its header
    does not say), ``filter`` what the header calls it, ``sure`` whether its name says its role,
    ``rows_read`` how many rows windows of it have held.
    """

    hdu: object
    number: int
    index: tuple
    role: str
    sure: bool
    filter: str | None
    letter: str | None
    rows_read: int = 0

    @property
    def shape(self):
        return tuple(self.hdu.shape[-2:])

    @property
    def label(self):
        """What messages call it."""
        place = f"[{self.index[-1]}]" if self.index and self.hdu.shape[-3] > 1 else ""
        said = f", {self.filter}" if self.filter else ""
        height, width = self.shape
        return f"{_place(self.number, self.hdu)}{place} ({self.role}{said}, {width} x {height})"

    def read(self, window):
        """Return the pixels of a window, of the machine's byte order; BLANK is NaN."""
        hdu = self.hdu
        stored = {"BSCALE", "BZERO", "BLANK"}.isdisjoint(hdu.header)
        if isinstance(hdu, fits.CompImageHDU):
            # tiles are often whole rows: many windows cost more than the image, which is kept
            whole = self.rows_read > self.shape[0]
            self.rows_read += len(range(*window[0].indices(self.shape[0])))
        else:
            whole = stored  # memory-mapped: faster than by sections, row by row
        values = hdu.data if whole else hdu.section
        pixels = np.asarray(values[(*self.index, *window)])
        return pixels.astype(pixels.dtype.newbyteorder("="))


class BandImage:
    """One band of an open file, whose pixels are read when asked for.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    wcs : `~astropy.wcs.WCS` or None
        With its distortions; None without celestial axes.
    unit : `~astropy.units.Unit`
    meta : dict
        The header, with what it inherits from the primary header. ``UNUSED`` lists the
        planes of the file that were not read.
    """

    def __init__(self, path, plane, companions, wcs, unit, meta):
        self._path, self._plane, self._companions = path, plane, companions
        self.shape, self.wcs, self.unit, self.meta = plane.shape, wcs, unit, meta

    def read(self, window=(slice(None), slice(None)), *, wcs=None):
        """Return the band, or a window of it, as `~astropy.nddata.CCDData`.

        Parameters
        ----------
        window : (slice, slice)
            Rows and columns, inside the image; nothing else is read from the file.
        wcs : `~astropy.wcs.WCS`, optional
            Of the window, where it is known already.
        """
        with _explained(self._path):
            pixels = self._plane.read(window)
            companions = [(plane, plane.read(window)) for plane in self._companions]
        bad, uncertainty = None, None
        for plane, values in companions:
            if plane.role == "mask":
                wrong = _bad_pixels(plane, values, self._plane.letter, self.meta)
            else:  # inverse variance 0, error 0 or weight 0: nothing was measured
                wrong = ~(np.isfinite(values) & (values > 0))
            bad = wrong if bad is None else bad | wrong
            if plane.role in UNCERTAINTIES and uncertainty is None:
                kind, power = UNCERTAINTIES[plane.role]
                unit = _noise_unit(plane, self.unit, power)
                uncertainty = kind(values, unit=unit)
        if wcs is None and self.wcs is not None:
            wcs = self.wcs if window == (slice(None), slice(None)) else self.wcs[window]
        return CCDData(
            pixels, unit=self.unit, uncertainty=uncertainty, mask=bad, meta=dict(self.meta), wcs=wcs
        )


def read_images(path, *, bands=None, unit=None):
    """Read the bands of an image file.

    Parameters
    ----------
    path : path-like
        A FITS file, compressed or not, with one image per band, or one cube (band, y, x).
        Headers say what each plane is: its band (``BAND``, ``FILTER``, ``BANDS``,
        ``EXTNAME``...; see the notes) and whether it is an image, or a mask, inverse
        variance, variance, error or weight of one, or something else, which is not read.
    bands : sequence of str, optional
        Names of the images in their order, where the file does not name their bands. Of a
        file that names them, the bands wanted; names that it contradicts are refused.
    unit : `~astropy.units.Unit` or str, optional
        Of pixels whose header names no unit, one that is unknown, or counts.

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        By band letter (u, g, r, i, z, y) where the filter is one of these, else by the
        filter's name. With the full WCS (the extension's, else the primary header's), the
        mask (True = bad) and uncertainty where the file has them, and the header with what
        it inherits from the primary one in ``meta``; ``meta["UNUSED"]`` lists planes that
        were not read.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    PreparationError
        If the file is damaged, holds no image, does not say which bands or whose masks it
        holds, holds a band twice, or is a display image.

    Notes
    -----
    A mask is bad where it is not zero, except for masks whose bits are known: those of
    the Rubin and HSC pipelines (cards ``MP_BAD`` and the like), ``MASKBITS`` of the Legacy
    Surveys, and JWST's. Masks, variances and the like belong to the band that they name; as
    many of them as images go in their order; a single one holds for all bands. Weights say
    no more than where there are data: their scale has no standard.

    Examples
    --------
    >>> from astroclip.datasets import DATA
    >>> from astroclip.preparation import read_images
    >>> images = read_images(DATA / "samples" / "legacysurvey-59.1067-30.4848.fits")
    >>> {band: image.shape for band, image in images.items()}
    {'g': (160, 160), 'r': (160, 160), 'z': (160, 160)}
    """
    with open_images(path, bands=bands, unit=unit) as images:
        return {band: image.read() for band, image in images.items()}


@contextlib.contextmanager
def open_images(path, *, bands=None, unit=None):
    """Open an image file without reading pixels.

    Parameters
    ----------
    path, bands, unit
        See `read_images`.

    Yields
    ------
    dict of str to `BandImage`
        Valid while the file is open.
    """
    path = checked_path(path)
    unit = None if unit is None else u.Unit(unit)
    bands = header_bands({"BANDS": bands}) if isinstance(bands, str) else bands
    if is_display_image(path):
        raise _refusal(
            path, "it is a display image (PNG, JPEG or the like), whose pixels are no fluxes",
            "Get the FITS images of its bands.",
        )
    if not is_fits(path):
        raise _refusal(path, "it is no FITS file", "Pass a FITS file, or CCDData objects.")
    with contextlib.ExitStack() as stack:
        with _explained(path) as caught:
            hdus = stack.enter_context(fits.open(fits_source(path)))
            len(hdus)  # reads all headers
        if is_truncated(caught):
            raise _refusal(path, *DAMAGED)
        with _explained(path, fits.VerifyError):
            images = _bands(path, hdus, bands, unit)
        yield images


@contextlib.contextmanager
def _explained(path, kinds=Exception):
    """Turn what astropy raises on a damaged file into an error that says so; keep warnings."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    except PreparationError:
        raise
    except kinds as error:  # of compression, sizes and headers
        raise _refusal(path, *DAMAGED) from error


def _refusal(path, found, advice):
    return PreparationError(f"path {str(path)!r} cannot be read as images: {found}. {advice}")


# ---------------------------------------------------------------------- what planes are
def _bands(path, hdus, bands, unit):
    """Return the `BandImage` of each band of an open file."""
    primary = hdus[0].header
    planes, rest = _planes(path, hdus)
    images = _images(planes)
    by_file = _role(FITS_SUFFIX.sub("", path.name).replace("_", ".").split(".")[-1])[0]
    if len(planes) == len(images) == 1 and by_file in ("mask", "weight", "ivar"):
        _, said = _role(_role_text(images[0].hdu.header))
        if not said:  # Pan-STARRS: rings.v3.skycell.1234.056.stk.r.unconv.wt.fits
            raise _refusal(
                path, f"its name says that it holds a {by_file}, and its header nothing else",
                "Pass the file of the image, or rename it if it is the image.",
            )
    if not images:
        raise _refusal(
            path, f"it holds no image of the sky, but {_listing(planes, rest)}",
            "Pass the file of the images.",
        )
    named = _named(path, images, primary, bands, planes, rest)
    companions = _companions(path, images, planes)
    used = {id(p) for image in named.values() for p in (image, *companions[id(image)])}
    unused = [plane.label for plane in planes if id(plane) not in used] + rest
    result = {}
    for name, plane in named.items():
        meta = {
            key: value
            for key, value in {**_inherited(primary, plane.hdu.header), **plane.hdu.header}.items()
            if key not in ("BSCALE", "BZERO", "BLANK")  # they are applied
        }
        for key in ZERO_POINT_KEYS:  # their comments say of what, and in which system
            for header in (plane.hdu.header, primary):
                if key in header and header.comments[key]:
                    meta.setdefault(f"{key} COMMENT", header.comments[key])
        if unused:
            meta["UNUSED"] = "; ".join(unused)
        result[name] = BandImage(
            path, plane, companions[id(plane)], _wcs(path, hdus, plane),
            _unit(path, plane, primary, unit), meta,
        )
    return result


def _planes(path, hdus):
    """Return the `_Plane` of every image of a file, and what else it holds in words."""
    planes, rest = [], []
    for number, hdu in enumerate(hdus):
        if not hdu.is_image:
            rest.append(f"{_place(number, hdu)} (table)")
            continue
        shape = picture_shape(hdu.shape)
        if shape is None:
            if hdu.shape:
                sizes = " x ".join(map(str, hdu.shape[::-1]))
                rest.append(f"{_place(number, hdu)} ({sizes})")
            continue
        role, sure = _role(_role_text(hdu.header))
        if not sure and not hdus[0].shape:  # PRODTYPE of the whole file
            role, _ = _role(_role_text(hdus[0].header))
        found = f"extension {_place(number, hdu)} has shape {hdu.shape}"
        if len(shape) > 3 or shape[-1] < min(shape[-3:-1], default=0) / 8:
            if role != "image":
                rest.append(f"{_place(number, hdu)} {hdu.shape}")
                continue
            raise _refusal(
                path, f"{found}; expected (band, y, x) or (y, x)",
                "Reorder its axes (numpy.moveaxis), or write one image per band.",
            )
        if role == "image" and is_spectral(hdu.header, hdu.shape):
            raise _refusal(
                path, f"{found} with a spectral axis; expected images of the sky",
                "Read it as spectra (read_spectra).",
            )
        depth = shape[0] if len(shape) == 3 else 1
        names = [_filter(hdu.header)]
        if depth > 1:
            names = header_bands(hdu.header) or header_bands(hdus[0].header)
            if names and len(names) != depth and role == "image":
                raise _refusal(
                    path, f"{found} and its header names the bands {', '.join(names)}; expected "
                    f"one for each plane",
                    "Correct the cards BANDS or BAND0, BAND1... in the header.",
                )
            names = names if len(names) == depth else [None] * depth
        for k, text in enumerate(names):
            index = tuple(k if n > 1 else 0 for n in hdu.shape[:-2])
            own, said = _role(text or "")
            own = own if said else role
            letter = _letter(text) if text else None
            if letter is None and depth == 1:
                letter = _letter(hdu.header.get("EXTNAME", ""))
            named = sure or said or bool(text) or letter is not None
            planes.append(_Plane(hdu, number, index, own, named, text, letter))
    return planes, rest


def _place(number, hdu):
    """Return an extension's number and name."""
    return f"{number} {hdu.header.get('EXTNAME', '') if number else 'PRIMARY'}".strip()


def _words(text):
    return [word for word in re.split(r"[^A-Z0-9]+", text.upper()) if word]


def _role_text(header):
    """Return what the header's keywords say of an image's role."""
    texts = []
    for key in ROLE_KEYS:
        text = str(header.get(key, "")).replace("COMPRESSED_IMAGE", "")  # of fpack
        if key in ("IMAGETYP", "PRODTYPE"):  # kinds of exposures, all of the sky
            text = re.sub(r"\b(EXP|EXPOSURE|SKY|OBJECT)\b", "", text, flags=re.I)
        texts.append(text)
    return " ".join(texts)


def _role(text):
    """Return the role that words name, ``"image"`` if none does, and whether one does."""
    words = set(_words(text))
    words |= {word.rstrip("0123456789") for word in words}
    words |= {word.removesuffix("S") for word in words}
    if words & {"INV", "INVERSE"} and words & {"VAR", "VARIANCE"}:
        words.add("IVAR")
    role = next((role for role, known in ROLES.items() if words & known), None)
    return role or "image", role is not None


def _letter(text):
    """Return the band letter that a name holds beside words of roles: ``INVVAR_g``; or None."""
    known = frozenset().union(*ROLES.values())
    words = [word for word in re.split(r"[_\W]+", str(text)) if word.upper() not in known]
    return band_letter(" ".join(words))


def _filter(header):
    """Return the filter's name of a header, joined by + if it names several; or None."""
    names = [str(header.get(key, "")).strip() for key in FILTER_KEYS if key in header]
    if not names:  # of a stack of one
        names = [t for key in ("BANDS", "BAND0") if band_letter(t := header.get(key, ""))]
    names = [name for name in names if name and not NO_FILTER.match(name)]
    letters = {band_letter(name) for name in names}
    if len(letters) == 1 and None not in letters:
        return names[0]
    return "+".join(dict.fromkeys(names)) or None


def _images(planes):
    """Return the planes that are images of the sky."""
    images = [plane for plane in planes if plane.role == "image"]
    if any(plane.sure for plane in images):  # others have names of their own, of something else
        images = [p for p in images if p.sure or not p.hdu.header.get("EXTNAME")]
    return images


def _listing(planes, rest):
    """Return what a file holds in words."""
    items = [plane.label for plane in planes] + rest
    more = len(items) - N_LISTED
    return "; ".join(items[:N_LISTED]) + (f"; and {more} more" if more > 0 else "") or "no data"


# ---------------------------------------------------------------------- which bands
def _named(path, images, primary, bands, planes, rest):
    """Return the images by their bands' names, and note the bands in them."""
    for image in images:
        header = image.hdu.header
        bits = header.get("BITPIX") == 8 and header.get("BSCALE", 1) == 1
        if bits and header.get("BZERO", 0) in (0, -128):
            raise _refusal(
                path, f"plane {image.label} has 8-bit pixels, as display images have, which are "
                f"no fluxes", "Get the FITS images of its bands.",
            )
    found = _listing(planes, rest)
    _take_names(path, images, primary, found)
    known = [image.letter or image.filter for image in images]
    names = {
        str(plane.filter or plane.hdu.header.get("EXTNAME", "")).strip().upper()
        for plane in planes
        if plane.role == "image"
    }
    if names & {"B", "V", "BLUE"}:  # R and I beside them are no Sloan bands
        raise _refusal(
            path, f"its bands are {', '.join(sorted(names))}: channels of a display image, or "
            f"Johnson's bands; expected u, g, r, i, z or y", "Get images in these bands.",
        )
    if bands is None:
        if None in known:
            raise _refusal(
                path, f"it does not say which bands it holds: {found}",
                f"Name them in the order of its images ({len(images)}): bands=(...) in Python, "
                f"--bands on the command line.",
            )
        names = known
    else:
        images, names = _as_asked(path, images, known, list(bands), found)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise _refusal(
            path, f"it holds {names.count(twice[0])} images in band {twice[0]}: {found}",
            "Pass one image per band: a coadd, or one CCD or exposure as a file of its own.",
        )
    return dict(zip(names, images, strict=True))


def _take_names(path, images, primary, found):
    """Give images the names that the primary header has for them, unless they have their own."""
    listed = header_bands(primary)
    if len(listed) != len(images) or len(images) == 1:
        shared = _filter(primary)
        listed = [shared] * len(images)
        if any(image.letter or image.filter for image in images):
            listed = [None] * len(images)
    for image, name in zip(images, listed, strict=True):
        letter = band_letter(name) if name else None
        if image.letter and letter and image.letter != letter:
            raise _refusal(
                path, f"its primary header says {', '.join(listed)} and its planes say otherwise: "
                f"{found}", "Correct the card BANDS.",
            )
        if image.letter is None and image.filter is None:
            image.letter, image.filter = letter, name


def _as_asked(path, images, known, bands, found):
    """Return the images that the user wants, with the user's names."""
    wanted = [band_letter(name) or name for name in bands]
    if set(wanted) <= set(known):
        pairs = [
            (image, name)
            for name, letter in zip(bands, wanted, strict=True)
            for image, own in zip(images, known, strict=True)
            if own == letter
        ]
        return [image for image, _ in pairs], [name for _, name in pairs]
    conflict = len(bands) != len(images) or any(
        image.letter is not None and image.letter != letter
        for image, letter in zip(images, wanted, strict=True)
    )
    if conflict:
        raise _refusal(
            path, f"bands is {tuple(bands)}, and it holds {found}",
            f"Name the bands in the order of its images ({len(images)}), or leave bands out if "
            f"the file names them.",
        )
    for image, letter in zip(images, wanted, strict=True):
        image.letter = letter
    return images, bands


# ---------------------------------------------------------------------- masks and noise
def _companions(path, images, planes):
    """Return the masks, weights and the uncertainty of each image, by its `id`."""
    result = {id(image): [] for image in images}
    has_noise = set()
    for role in ("mask", "weight", *UNCERTAINTIES):
        pairs = _pairs(path, images, [plane for plane in planes if plane.role == role])
        for image, plane in pairs:
            if plane.shape != image.shape:
                raise _refusal(
                    path, f"plane {plane.label} does not fit image {image.label}; expected equal "
                    f"shapes", "Write it on the pixels of the image, or leave it out.",
                )
            if role in UNCERTAINTIES:
                if id(image) in has_noise:
                    continue  # the same said in another way
                has_noise.add(id(image))
            result[id(image)].append(plane)
    return result


def _pairs(path, images, planes):
    """Return pairs of images and the planes of one role that belong to them."""
    pairs = [
        (image, plane)
        for plane in planes
        for image in images
        if (plane.letter and plane.letter == image.letter)
        or (plane.filter and plane.filter == image.filter)
    ]
    free = [plane for plane in planes if plane.letter is None and plane.filter is None]
    if not free:
        return pairs
    if len(free) == 1:
        taken = {id(image) for image, _ in pairs}
        return pairs + [(image, free[0]) for image in images if id(image) not in taken]
    if len(images) == 1:
        return pairs + [(images[0], plane) for plane in free]
    versions = {image.hdu.header.get("EXTVER"): image for image in images}
    if len(versions) == len(images) and all(p.hdu.header.get("EXTVER") in versions for p in free):
        return pairs + [(versions[p.hdu.header.get("EXTVER")], p) for p in free]
    if len(free) == len(images):
        return pairs + list(zip(images, free, strict=True))
    raise _refusal(
        path, f"it does not say to which of its {len(images)} images these belong: "
        f"{_listing(free, [])}", "Name the band in their headers (BAND), or leave them out.",
    )


def _bad_pixels(plane, values, letter, meta):
    """Return which pixels a mask calls bad (True)."""
    header = plane.hdu.header
    names = {key[3:]: int(bit) for key, bit in header.items() if key.startswith("MP_")}
    text = _role_text(header).upper()
    if names:
        remarks = sum(1 << bit for name, bit in names.items() if name not in RUBIN_BAD)
        return (values.astype(np.int64) & ~remarks) != 0
    if "MASKBITS" in text:
        return (values.astype(np.int64) & LEGACY_BAD.get(letter, 0)) != 0
    if str(meta.get("TELESCOP", "")).strip() == "JWST":
        return (values.astype(np.int64) & WEBB_BAD) != 0
    return values != 0


# ---------------------------------------------------------------------- headers
def _inherited(primary, header):
    """Return the primary header's keywords that hold for an extension too."""
    if header is primary:
        return {}
    own_wcs = is_celestial(header)
    return {
        key: value
        for key, value in primary.items()
        if key not in header
        and not STRUCTURE.fullmatch(key)
        and not (own_wcs and WORLD.fullmatch(key))
    }


def _wcs(path, hdus, plane):
    """Return the WCS of the first two axes with its distortions, or None."""
    header, primary = plane.hdu.header, hdus[0].header
    if not is_celestial(header) and header is not primary and is_celestial(primary):
        own = picture_shape(hdus[0].shape)
        if own is None or own[-2:] == plane.shape or header.get("INHERIT") is True:
            inherited = _inherited(primary, header)
            header = header.copy()
            header.update({k: v for k, v in inherited.items() if WORLD.fullmatch(k)})
    if not is_celestial(header):
        return None
    try:
        wcs = WCS(header, fobj=hdus, naxis=2)
        return wcs if wcs.has_celestial else None
    except Exception as error:  # wcslib has a dozen kinds
        raise _refusal(
            path, f"the world coordinates of {plane.label} are unusable "
            f"({str(error).strip().splitlines()[-1]})", "Correct the CD, CRPIX and CTYPE cards.",
        ) from error


def _unit(path, plane, primary, asked):
    """Return the unit of an image's pixels."""
    headers = [plane.hdu.header, primary]
    text = next((t for h in headers if (t := str(h.get("BUNIT", "")).strip())), "")
    declared = parse_unit(text)
    if declared is None and text and asked is None:
        raise _refusal(
            path, f"BUNIT of {plane.label} is {text!r}, which is no known unit",
            "Say the unit of its pixels with unit=, such as unit='nanomaggy'.",
        )
    if not text:
        surveys = " ".join(str(h.get("SURVEY", "")) for h in headers)
        declared = u.nmgy if any(name in surveys for name in LEGACY_SURVEYS) else None
    if asked is None:
        return u.dimensionless_unscaled if declared is None else declared
    counts = declared is None or any(
        declared.is_equivalent(known / time)
        for known in (u.adu, u.DN, u.ct, u.electron, u.photon, u.dimensionless_unscaled)
        for time in (1, u.s)
    )
    if not counts and declared != asked:
        raise _refusal(
            path, f"BUNIT of {plane.label} is {text!r} and unit is {str(asked)!r}",
            "Leave unit out, or correct BUNIT.",
        )
    return asked


def _noise_unit(plane, unit, power):
    """Return the unit of an uncertainty; headers that repeat the image's BUNIT say nothing."""
    text = str(plane.hdu.header.get("BUNIT", "")).strip()
    declared = parse_unit(text)
    expected = unit**power
    if declared is not None and declared.is_equivalent(expected):
        return declared
    return expected
