"""Recorded pairs in a survey's layout to the arrays that training uses.

A block of pairs is read, converted and given up again, so that a source of any size
passes through memory of one block.
"""

import dataclasses
import math

import numpy as np

from astroclip.preparation.bands import center_crop
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.resampling import estimate_ivar, resample_flux
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.simulation.pairs import PROPERTIES

__all__ = ["LABEL_SHAPES", "RawPairs", "Rules", "convert_pairs", "unknown_labels"]

SIZE = 64  # pixels on a side that training uses
PIXEL_SCALE = 0.524  # arcsec
SCALE_TOLERANCE = 0.02
N_BANDS = 3
LARGEST = 6e4  # float16 ends at 65504
LEAST_IVAR = 1e-7  # and begins at 6e-8
LABEL_SHAPES = {
    **{name: () for name in PROPERTIES if name != "redshift"},
    "fibre_magnitude": (N_BANDS,),
}
"""What a simulation knows of its galaxies and a source may, and the shape of each."""
LOWEST_REDSHIFT = -0.01  # blueshifts of nearby galaxies stay above it
LEAST_PIXEL_COVERAGE = 0.5


@dataclasses.dataclass(frozen=True)
class Rules:
    """How pairs are to be understood; see `~astroclip.training.sources.read_source`."""

    wavelength: object = None
    pixel_scale: float = 0.262
    channels: str | None = None
    min_coverage: float = 0.1

    @property
    def binning(self):
        """Pixels along an axis that are summed to one."""
        return round(PIXEL_SCALE / self.pixel_scale)

    def checked(self):
        """Return self; raise ValueError if a value is impossible."""
        if not (self.pixel_scale > 0 and math.isfinite(self.pixel_scale)):
            ratio = 0.0
        else:
            ratio = PIXEL_SCALE / self.pixel_scale
        if round(ratio) < 1 or abs(ratio / round(ratio) - 1) > SCALE_TOLERANCE:
            msg = (
                f"pixel_scale is {self.pixel_scale}; expected {PIXEL_SCALE} arcsec or a whole "
                f"fraction of it, such as 0.262. Resample other images first: "
                f"prepare_images(..., pixel_scale={PIXEL_SCALE}, size={SIZE})."
            )
            raise ValueError(msg)
        if self.channels not in (None, "first", "last"):
            msg = f"channels is {self.channels!r}; expected None, 'first' or 'last'."
            raise ValueError(msg)
        if not 0 <= self.min_coverage <= 1:
            msg = f"min_coverage is {self.min_coverage}; expected a fraction from 0 to 1."
            raise ValueError(msg)
        grid = None if self.wavelength is None else wavelength_grid(self.wavelength)
        return dataclasses.replace(self, wavelength=grid)


@dataclasses.dataclass(eq=False)
class RawPairs:
    """A block of pairs as a source holds them.

    Attributes
    ----------
    place : str
        Where it comes from, for messages.
    first : int
        Number of its first pair there.
    image, spectrum, ivar, mask : (N, ...) `numpy.ndarray`, list of N arrays or None
        In the source's own shapes; None for a pair that has none.
    wavelength : (P,) or (N, P) `numpy.ndarray` or None
        Vacuum Angstrom.
    redshift : (N,) `numpy.ndarray`
    id : (N,) `numpy.ndarray` of str
    labels : dict of str to `numpy.ndarray`
        Those of ``LABEL_SHAPES`` that are known.
    seeing : (N, 3) `numpy.ndarray` or None
    noiseless : bool
        Light that awaits recording: a simulation's.
    """

    place: str
    first: int
    image: object
    spectrum: object
    redshift: np.ndarray
    id: np.ndarray
    ivar: object = None
    mask: object = None
    wavelength: np.ndarray | None = None
    labels: dict = dataclasses.field(default_factory=dict)
    seeing: np.ndarray | None = None
    noiseless: bool = False


def convert_pairs(raw, rules):
    """Convert a block of pairs and tell which cannot be used.

    Parameters
    ----------
    raw : `RawPairs`
    rules : `Rules`

    Returns
    -------
    pairs : dict of str to `numpy.ndarray`
        The usable ones; see `~astroclip.training.sources.read_source`.
    rejected : list of str
        One line for each of the others.
    """
    reasons = np.full(len(raw.redshift), "", dtype=object)
    redshift = np.asarray(raw.redshift, dtype=np.float32)
    impossible = np.isinf(redshift) | (redshift < LOWEST_REDSHIFT)
    for row in np.flatnonzero(impossible):
        reasons[row] = f"its redshift is {redshift[row]:g}"
    image = _convert_images(raw, rules, reasons)
    spectrum, ivar, mask = _convert_spectra(raw, rules, reasons)
    seeing = np.full((len(reasons), N_BANDS), np.nan, dtype=np.float32)
    if raw.noiseless:
        seeing = _noiseless_seeing(raw, reasons)
    good = np.flatnonzero(reasons == "")
    pairs = {"image": image, "seeing": seeing, "spectrum": spectrum, "redshift": redshift}
    if not raw.noiseless:
        pairs |= {"ivar": ivar, "mask": mask}
    for name, values in unknown_labels(len(reasons)).items():
        pairs[name] = np.asarray(raw.labels.get(name, values), np.float32).reshape(values.shape)
    pairs["id"] = raw.id
    rejected = [
        f"{raw.place} row {raw.first + row} (id {raw.id[row]}): {reasons[row]}"
        for row in np.flatnonzero(reasons != "")
    ]
    return {name: values[good] for name, values in pairs.items()}, rejected


def unknown_labels(n_pairs):
    """Return the labels of pairs of which nothing is known: NaN."""
    return {
        name: np.full((n_pairs, *shape), np.nan, dtype=np.float32)
        for name, shape in LABEL_SHAPES.items()
    }


def _noiseless_seeing(raw, reasons):
    """Return the seeing of noiseless images, which their noise depends on."""
    if raw.seeing is None:
        msg = (
            f"{raw.place} is noiseless and has no seeing; expected seeing (N, 3), the full "
            f"width at half maximum of g, r, z in arcsec that images were blurred with."
        )
        raise ValueError(msg)
    seeing = np.asarray(raw.seeing, dtype=np.float32).reshape(len(reasons), N_BANDS)
    _note(reasons, ~(seeing > 0).all(axis=1), "its seeing is not positive")
    return seeing


def _note(reasons, bad, reason, rows=slice(None)):
    """Write a reason, or one for each row, where there is none yet, in place."""
    numbers = np.arange(len(reasons))[rows]
    for position in np.flatnonzero(bad):
        row = numbers[position]
        if reasons[row] == "":
            reasons[row] = reason if isinstance(reason, str) else reason(position)


def _groups(rows):
    """Yield the numbers and stacked values of rows of one shape and kind, absent ones left out."""
    if isinstance(rows, np.ndarray) and rows.dtype != object:
        yield np.arange(len(rows)), rows
        return
    arrays = {number: np.asarray(row) for number, row in enumerate(rows) if row is not None}
    alike = {}
    for number, array in arrays.items():
        alike.setdefault((array.shape, array.dtype.kind), []).append(number)
    for numbers in alike.values():
        yield np.array(numbers), np.stack([arrays[number] for number in numbers])


# ---------------------------------------------------------------------- images
def _convert_images(raw, rules, reasons):
    """Return images (N, 3, 64, 64) float16, NaN where bad; add to the reasons."""
    image = np.zeros((len(reasons), N_BANDS, SIZE, SIZE), dtype=np.float16)
    seen = np.zeros(len(reasons), dtype=bool)
    for rows, values in _groups(raw.image):
        seen[rows] = True
        planes, fault = _planes(values, rules)
        if fault:
            _note(reasons, np.ones(len(rows), bool), f"its image {fault}", rows)
            continue
        empty = ~np.any(planes, axis=(1, 2, 3))
        _note(reasons, empty, "its image is zero throughout", rows)
        missing = (planes == 0).all(axis=(2, 3)) if not raw.noiseless else False
        binned = _bin(np.where(np.expand_dims(missing, (-1, -2)), np.nan, planes), rules.binning)
        coverage = np.isfinite(binned).mean(axis=(1, 2, 3))
        _note(reasons, coverage == 0, "its image has no finite pixel", rows)
        thin = coverage < (1 if raw.noiseless else rules.min_coverage)
        percent = 100 * coverage
        _note(reasons, thin, lambda k, p=percent: f"its image is {p[k]:.1f} % valid", rows)
        image[rows] = binned
    _note(reasons, ~seen, "it has no image")
    return image


def _planes(values, rules):
    """Return images (N, 3, S, S) cut to what is binned, or None and what is wrong with them."""
    shape = values.shape[1:]
    if values.dtype.kind not in "fiu":
        return None, f"holds values of type {values.dtype}; expected numbers"
    if len(shape) == 1 and math.isqrt(shape[0] // N_BANDS) ** 2 * N_BANDS == shape[0]:
        side = math.isqrt(shape[0] // N_BANDS)  # flat: the axes' order is the file's custom
        shape = (N_BANDS, side, side) if rules.channels == "first" else (side, side, N_BANDS)
        values = values.reshape(len(values), *shape)
    if len(shape) != 3 or N_BANDS not in (shape[0], shape[2]):
        return None, f"has shape {shape}; expected (S, S, 3) or (3, S, S), bands g, r, z"
    first = shape[2] != N_BANDS if rules.channels is None else rules.channels == "first"
    if not first:
        values = np.moveaxis(values, 3, 1)
    needed = SIZE * rules.binning
    if values.shape[1] != N_BANDS or min(values.shape[2:]) < needed:
        return None, (
            f"has shape {shape}; expected 3 bands of at least {needed} x {needed} pixels of "
            f"{rules.pixel_scale} arcsec"
        )
    return center_crop(values, needed), None


def _bin(planes, binning):
    """Return planes summed over squares of pixels; bad ones are made up for by the others."""
    good = np.isfinite(planes) & (np.abs(planes) <= LARGEST)
    shape = (*planes.shape[:2], SIZE, binning, SIZE, binning)
    flux = np.where(good, planes, 0.0).reshape(shape).sum(axis=(3, 5), dtype=float)
    area = good.reshape(shape).mean(axis=(3, 5))
    usable = area >= LEAST_PIXEL_COVERAGE
    flux = np.divide(flux, area, out=np.full(flux.shape, np.nan), where=usable)
    flux[np.abs(flux) > LARGEST] = np.nan
    return flux


# ---------------------------------------------------------------------- spectra
def _convert_spectra(raw, rules, reasons):
    """Return flux, ivar and mask (N, P) on the model's grid; add to the reasons."""
    shape = (len(reasons), len(WAVELENGTH))
    flux, ivar = np.zeros((2, *shape), dtype=np.float16)
    mask, seen = np.ones(shape, dtype=bool), np.zeros(len(reasons), dtype=bool)
    for rows, values in _groups(raw.spectrum):
        seen[rows] = True
        faults = np.full(len(rows), "", dtype=object)
        spectra = _spectrum_arrays(raw, rules, rows, values, faults)
        _note(reasons, faults != "", lambda k, f=faults: f"its spectrum {f[k]}", rows)
        rows = rows[faults == ""]
        if not len(rows):
            continue
        _note(reasons, ~spectra.good.any(axis=1), "its spectrum has no valid pixel", rows)
        _note(reasons, ~spectra.flux.any(axis=1), "its spectrum is zero throughout", rows)
        new = resample_flux(
            spectra.wavelength, spectra.flux, spectra.ivar, ~spectra.good, WAVELENGTH
        )
        bad = new.mask | (np.abs(new.flux) > LARGEST)
        covered = 1 - bad.mean(axis=1)
        thin = covered < (1 if raw.noiseless else rules.min_coverage)
        _note(
            reasons, thin | (covered == 0),
            lambda k, c=covered: f"its spectrum covers {100 * c[k]:.1f} % of the model's range",
            rows,
        )
        flux[rows] = np.where(bad, 0, new.flux)
        ivar[rows] = np.where(bad, 0, new.ivar.clip(LEAST_IVAR, LARGEST))
        mask[rows] = bad
    _note(reasons, ~seen, "it has no spectrum")
    return flux, ivar, mask


@dataclasses.dataclass(eq=False)
class _Spectra:
    """Spectra (N, P) that share a length: wavelength, flux, ivar and True where good."""

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    good: np.ndarray


def _spectrum_arrays(raw, rules, rows, values, faults):
    """Return `_Spectra` of the rows without fault, of one shape; add to the faults."""
    shape = values.shape[1:]
    if values.dtype.kind not in "fiu":
        faults[:] = f"holds values of type {values.dtype}; expected numbers"
        return None
    if sum(size > 1 for size in shape) != 1:
        faults[:] = f"has shape {shape}; expected (P,) or (P, 1)"
        return None
    flux = values.reshape(len(values), -1).astype(float)
    wavelength = _wavelength(raw, rules, rows, flux.shape[1], faults)
    mask = _companion(raw.mask, rows, flux.shape, faults, "mask")
    ivar = _companion(raw.ivar, rows, flux.shape, faults, "ivar")
    good = np.isfinite(flux)
    if mask is not None:
        good &= mask == 0
    if ivar is not None:
        good &= np.isfinite(ivar) & (ivar > 0)
    elif raw.noiseless:
        ivar = np.ones_like(flux)
    else:
        good &= flux != 0  # no noise leaves an exact zero
        ivar = estimate_ivar(flux, ~good)
        good &= ivar > 0
    usable = faults == ""
    if wavelength is not None and wavelength.ndim == 2:
        wavelength = wavelength[usable]
    flux = np.where(good, flux, 0.0)
    return _Spectra(wavelength, flux[usable], ivar[usable], good[usable])


def _wavelength(raw, rules, rows, n_pixels, faults):
    """Return wavelengths, one grid for all or one for each; add to the faults."""
    wavelength = rules.wavelength if raw.wavelength is None else raw.wavelength
    if wavelength is None:
        known = {len(grid): grid for grid in (wavelength_grid("desi"), WAVELENGTH)}
        if n_pixels not in known:
            faults[:] = (
                f"has {n_pixels} pixels; expected {' or '.join(map(str, known))}, or the "
                f"argument wavelength"
            )
        return known.get(n_pixels)
    wavelength = np.asarray(wavelength, dtype=float)
    wavelength = wavelength[rows] if wavelength.ndim == 2 else wavelength
    if wavelength.shape[-1] != n_pixels:
        faults[:] = f"has {n_pixels} pixels; expected {wavelength.shape[-1]}, as its wavelength"
        return None
    grids = np.atleast_2d(wavelength)
    ascending = (np.diff(grids, axis=1) > 0).all(axis=1) & (grids[:, 0] > 0)
    ascending &= np.isfinite(grids[:, -1])
    wrong = "has wavelengths that are not positive, finite and ascending"
    faults[np.broadcast_to(~ascending, len(faults))] = wrong
    return wavelength


def _companion(values, rows, shape, faults, name):
    """Return ivar or mask (N, P) of some rows, None without; add to the faults."""
    if values is None:
        return None
    companion = np.zeros(shape)
    for position, row in enumerate(rows):
        part = np.asarray(() if values[row] is None else values[row]).reshape(-1)
        if part.shape == shape[1:] and part.dtype.kind in "fiub":
            companion[position] = part
        elif faults[position] == "":
            found = f"{len(part)} values of {name}" if len(part) else f"no {name}"
            faults[position] = f"of {shape[1]} pixels has {found}; expected one for each pixel"
    return companion
