"""Read pairs to train on: simulated shards, survey files or arrays, as the arrays of training."""

import dataclasses
import math
import os
import warnings
from collections import Counter

import numpy as np
from tqdm.auto import tqdm

from astroclip._validation import check_choice, check_integer
from astroclip.exceptions import RejectedPairsWarning
from astroclip.preparation.bands import center_crop
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.resampling import estimate_ivar, resample_flux
from astroclip.simulation.spectrographs import WAVELENGTH
from astroclip.training.pair_files import LABEL_SHAPES, RawPairs, open_parts

__all__ = ["Rules", "convert_pairs", "join_pairs", "read_source"]

COMMON = ("image", "seeing", "spectrum", "redshift", *LABEL_SHAPES, "id")
N_LISTED = 10  # pairs that a message names; the warning's attribute names all
SIZE = 64  # pixels on a side that training uses
PIXEL_SCALE = 0.524  # arcsec
SCALE_TOLERANCE = 0.02  # of a pixel scale, relative
N_BANDS = 3
LARGEST = 6e4  # float16 ends at 65504
LEAST_IVAR = 1e-7  # and begins at 6e-8
LOWEST_REDSHIFT = -0.01  # blueshifts of nearby galaxies stay above it
LEAST_FLUX = 1e-6  # largest flux of a spectrum, below which its unit is another one
LEAST_PIXEL = 1e-7  # nanomaggies, the same of an image
LEAST_PIXEL_COVERAGE = 0.5  # of a binned pixel's area, below which it is bad


def read_source(
    source,
    *,
    split=None,
    n_pairs=None,
    noiseless=None,
    wavelength=None,
    pixel_scale=0.262,
    channels=None,
    min_coverage=0.1,
    block_size=128,
    show_progress=False,
):
    """Read pairs of images and spectra from anywhere, as training takes them.

    Recorded pairs (a survey's) come with the inverse variance and mask of their spectra,
    and no noise is to be drawn for them again; simulated ones are noiseless light. Both may
    be mixed: see Notes.

    Parameters
    ----------
    source : path-like, list of path-like, dict of arrays, or iterable of such dicts
        A folder of shards from `~astroclip.simulation.pairs.write_pairs`; an HDF5 file in
        AstroCLIP's layout (groups ``"0"``, ``"1"``, ... or none, each with datasets
        ``images``, ``spectra``, ``redshifts``, ``targetids``); a Parquet file (columns
        ``image``, ``spectrum``, ``redshift``, ``targetid`` of lists) or a folder of such
        files; several of these; or dicts with these names. ``ivar``, ``mask`` (not zero =
        bad), ``wavelength`` and the simulation's properties by name are optional, as are
        redshift and targetid; plural and singular names are both understood.
        Images are g, r, z in nanomaggies, (S, S, 3) or (3, S, S); spectra are observed
        1e-17 erg/s/cm2/A, (P,) or (P, 1).
    split : str, optional
        ``"train"`` or ``"test"``: the first four fifths of every group, file, shard or
        dict, or the rest, as AstroCLIP divides its file. Parquet files whose name or folder
        begins with one of these words belong to it as a whole.
    n_pairs : int, optional
        Read only the first ones.
    noiseless : bool, optional
        Whether pairs are noiseless light, to which training adds an instrument. By default
        shards are, and HDF5 files whose attribute and Parquet files whose metadata
        ``noiseless`` says so; all others are recorded. Noiseless pairs need ``seeing`` (N, 3),
        arcsec.
    wavelength : str or (P,) array-like, optional
        Vacuum Angstrom, or the name of a grid, of all spectra that come without; by default
        ``linspace(3600, 9824, 7781)`` for 7781 pixels and the model's own grid for 4360.
    pixel_scale : float
        Arcsec per pixel of the images: 0.524 or a whole fraction of it.
    channels : str, optional
        ``"first"`` or ``"last"``: the axis of the bands, by default the one of length 3;
        flat rows of images have it last.
    min_coverage : float
        Pairs are left out whose spectrum covers less than this fraction of the model's
        range, or whose image has fewer valid pixels.
    block_size : int
        Pairs that are read and converted at a time; 128 take 40 MB.
    show_progress : bool

    Returns
    -------
    dict of str to `numpy.ndarray`
        ``image`` (N, 3, 64, 64) float16, nanomaggies per 0.524 arcsec pixel, NaN where bad;
        ``seeing`` (N, 3) float32, arcsec, NaN for recorded pairs; ``spectrum`` (N, 4360)
        float16, 1e-17 erg/s/cm2/A on ``astroclip.simulation.spectrographs.WAVELENGTH``, zero
        where bad; ``redshift``, the simulation's other properties and ``fibre_magnitude``
        (N, 3), float32, NaN where unknown; ``id`` (N,) str. If any pair is recorded also
        ``ivar`` (N, 4360) float16 and ``mask`` (N, 4360) bool, True where bad. Of shards
        alone, also what else they hold.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If the source is missing, of no known kind, damaged or holds no usable pair.
    ~astroclip.exceptions.MissingExtraError
        If h5py or pyarrow is needed and not installed.

    Warns
    -----
    ~astroclip.exceptions.RejectedPairsWarning
        If pairs were left out: those without a valid pixel in image or spectrum, with a
        wrong shape or an impossible redshift. It counts them and says which.

    Notes
    -----
    Where recorded and noiseless pairs come together, the noiseless have infinite ivar
    throughout and an empty mask, and finite seeing:
    `~astroclip.training.observers.Observer` draws noise for these and only these.

    Images are cut to 33.5 arcsec and binned to 64 pixels, conserving flux; an output pixel
    is bad where less than half of it is valid, and a band that is zero throughout is
    missing. Spectra are resampled conserving flux (`~astroclip.preparation.resample_flux`).
    Without ivar it is estimated from the scatter of the pixels, and exact zeros are bad.

    Memory: the result (46 kB for a recorded pair), its largest array once more while it is put
    together, and one block of pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.training.sources import read_source
    >>> rng = np.random.default_rng(1)
    >>> pairs = read_source({
    ...     "image": rng.normal(0.1, 0.01, (2, 152, 152, 3)),
    ...     "spectrum": rng.normal(5, 1, (2, 7781)),
    ...     "redshift": [0.1, 0.2],
    ... })
    >>> pairs["image"].shape, pairs["spectrum"].shape, pairs["redshift"]
    ((2, 3, 64, 64), (2, 4360), array([0.1, 0.2], dtype=float32))
    """
    check_choice(split, (None, "train", "test"), "split")
    if n_pairs is not None:
        n_pairs = check_integer(n_pairs, "n_pairs")
    rules = Rules(wavelength, pixel_scale, channels, min_coverage)
    parts = open_parts(source, noiseless)
    has_recorded = not all(part.noiseless for part in parts)
    all_shards = all(part.is_shards for part in parts)
    sizes = [part.n_pairs for part in parts]
    total = n_pairs if None in sizes else min(sum(sizes), n_pairs or sum(sizes))
    blocks, n_read, rejected = [], 0, []
    incomplete = [line for part in parts for line in part.incomplete]
    with tqdm(total=total, unit="pair", disable=not show_progress) as progress:
        for block in (block for part in parts for block in part.blocks(split, block_size)):
            if isinstance(block, RawPairs):
                block, lines = convert_pairs(block, rules)
                rejected.extend(lines)
            if not all_shards:
                block = {**unknown_labels(len(block["redshift"])), **block}  # sources may lack some
                names = (*COMMON, "ivar", "mask")
                block = {name: block[name] for name in names if name in block}
            if has_recorded:
                block = _with_errors(block)
            rows = slice(None if n_pairs is None else n_pairs - n_read)
            blocks.append({name: values[rows] for name, values in block.items()})
            n_read += len(blocks[-1]["redshift"])
            progress.update(len(blocks[-1]["redshift"]))
            if n_read == n_pairs:
                break
    _report(rejected, incomplete, n_read, split, source)
    return {name: np.concatenate([block.pop(name) for block in blocks]) for name in list(blocks[0])}


def _with_errors(pairs):
    """Return pairs with ivar and mask: infinite and empty where they have none, as noiseless."""
    shape = (len(pairs["redshift"]), len(WAVELENGTH))
    noiseless = {
        "ivar": np.broadcast_to(np.float16(np.inf), shape), "mask": np.broadcast_to(False, shape)
    }
    return dict(pairs) if "ivar" in pairs else {**pairs, **noiseless}


def join_pairs(parts):
    """Return several dicts of pairs as one, recorded and noiseless ones told apart.

    Parameters
    ----------
    parts : sequence of dict of str to `numpy.ndarray`
        As `read_source` returns them, with further arrays at will.

    Returns
    -------
    dict of str to `numpy.ndarray`
        The arrays that all have. Where some have ivar and mask, the others are noiseless
        and get infinite ivar and an empty mask.

    Examples
    --------
    >>> import numpy as np
    >>> from astroclip.training.sources import join_pairs
    >>> simulated = {"redshift": np.zeros(1), "magnitude": np.zeros(1)}
    >>> recorded = {"redshift": np.ones(1), "ivar": np.ones((1, 4360)), "mask": np.zeros((1, 4360))}
    >>> joined = join_pairs([simulated, recorded])
    >>> list(joined), joined["ivar"][:, 0]
    (['redshift', 'ivar', 'mask'], array([inf,  1.]))
    """
    if any("ivar" in part for part in parts):
        parts = [_with_errors(part) for part in parts]
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _report(rejected, incomplete, n_pairs, split, source):
    """Warn of what was left out; raise ValueError if nothing stays."""
    lines = [*incomplete, *rejected]
    if n_pairs == 0:
        name = f" {str(source)!r}" if isinstance(source, (str, os.PathLike)) else ""
        what = f"the split {split!r} of source{name}" if split else f"source{name}"
        reasons = Counter(line.partition("): ")[2] for line in rejected).most_common(N_LISTED)
        reason = "; ".join(f"{reason} ({number} of them)" for reason, number in reasons)
        reason = f"all {len(rejected)} were left out: {reason}" if rejected else "it is empty"
        msg = f"{what} holds no usable pair: {reason}."
        raise ValueError(msg)
    listed = "; ".join(lines[:N_LISTED])
    if len(lines) > N_LISTED:
        listed += f"; and {len(lines) - N_LISTED} more, in the warning's attribute rejected"
    if lines:
        counted = [f"{len(rejected)} of {len(rejected) + n_pairs} pairs"] if rejected else []
        counted += [f"{len(incomplete)} groups"] if incomplete else []
        msg = f"{' and '.join(counted)} cannot be trained on and are left out: {listed}."
        warnings.warn(RejectedPairsWarning(msg, rejected=lines), stacklevel=3)


# ---------------------------------------------------------------------- conversion
@dataclasses.dataclass(frozen=True)
class Rules:
    """How pairs are to be understood; see `read_source`, which says what may be given.

    Raises
    ------
    ValueError
        If a value is impossible.
    """

    wavelength: object = None
    pixel_scale: float = 0.262
    channels: str | None = None
    min_coverage: float = 0.1

    def __post_init__(self):
        usable = self.pixel_scale > 0 and math.isfinite(self.pixel_scale)
        ratio = PIXEL_SCALE / self.pixel_scale if usable else 0.0
        if round(ratio) < 1 or abs(ratio / round(ratio) - 1) > SCALE_TOLERANCE:
            msg = (
                f"pixel_scale is {self.pixel_scale}; expected {PIXEL_SCALE} arcsec or a whole "
                f"fraction of it, such as 0.262. Resample other images first: "
                f"prepare_images(..., pixel_scale={PIXEL_SCALE}, size={SIZE})."
            )
            raise ValueError(msg)
        check_choice(self.channels, (None, "first", "last"), "channels")
        if not 0 <= self.min_coverage <= 1:
            msg = f"min_coverage is {self.min_coverage}; expected a fraction from 0 to 1."
            raise ValueError(msg)
        if self.wavelength is not None:
            object.__setattr__(self, "wavelength", wavelength_grid(self.wavelength))

    @property
    def binning(self):
        """Pixels along an axis that are summed to one."""
        return round(PIXEL_SCALE / self.pixel_scale)


def convert_pairs(raw, rules):
    """Convert a block of pairs and tell which cannot be used.

    Parameters
    ----------
    raw : `RawPairs`
    rules : `Rules`

    Returns
    -------
    pairs : dict of str to `numpy.ndarray`
        The usable ones; see `read_source`.
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
        if raw.seeing is None:
            msg = (
                f"{raw.origin} is noiseless and has no seeing; expected seeing (N, 3), the full "
                f"width at half maximum of g, r, z in arcsec that images were blurred with."
            )
            raise ValueError(msg)
        seeing = np.asarray(raw.seeing, dtype=np.float32).reshape(seeing.shape)
        _note(reasons, ~(seeing > 0).all(axis=1), "its seeing is not positive")
    good = np.flatnonzero(reasons == "")
    pairs = {"image": image, "seeing": seeing, "spectrum": spectrum, "redshift": redshift}
    if not raw.noiseless:
        pairs |= {"ivar": ivar, "mask": mask}
    for name, values in unknown_labels(len(reasons)).items():
        pairs[name] = np.asarray(raw.labels.get(name, values), np.float32).reshape(values.shape)
    pairs["id"] = raw.id
    rejected = [
        f"{raw.origin} row {raw.first + row} (id {raw.id[row]}): {reasons[row]}"
        for row in np.flatnonzero(reasons != "")
    ]
    return {name: values[good] for name, values in pairs.items()}, rejected


def unknown_labels(n_pairs):
    """Return the labels of pairs of which nothing is known: NaN."""
    return {
        name: np.full((n_pairs, *shape), np.nan, dtype=np.float32)
        for name, shape in LABEL_SHAPES.items()
    }


def _note(reasons, bad, reason, rows=slice(None)):
    """Write a reason, or one for each row, into ``reasons`` where there is none yet."""
    numbers = np.arange(len(reasons))[rows]
    for position in np.flatnonzero(bad):
        row = numbers[position]
        if reasons[row] == "":
            reasons[row] = reason if isinstance(reason, str) else reason(position)


def _groups(rows):
    """Yield the numbers and stacked values of rows of one shape and type, absent ones left out."""
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
        faint = np.nanmax(np.abs(planes), axis=(1, 2, 3), initial=0.0) < LEAST_PIXEL
        faint &= np.isfinite(planes).any(axis=(1, 2, 3))
        why = f"its image has no pixel above {LEAST_PIXEL:g}; expected nanomaggies"
        _note(reasons, faint, why, rows)
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
    all_flux, all_ivar = np.zeros((2, *shape), dtype=np.float16)
    all_mask, seen = np.ones(shape, dtype=bool), np.zeros(len(reasons), dtype=bool)
    for rows, values in _groups(raw.spectrum):
        seen[rows] = True
        faults = np.full(len(rows), "", dtype=object)
        if values.dtype.kind not in "fiu":
            faults[:] = f"holds values of type {values.dtype}; expected numbers"
        elif sum(size > 1 for size in values.shape[1:]) != 1:
            faults[:] = f"has shape {values.shape[1:]}; expected (P,) or (P, 1)"
        else:
            flux = values.reshape(len(values), -1).astype(float)
            wavelength = _wavelength(raw, rules, rows, flux.shape[1], faults)
            mask = _companion(raw.mask, rows, flux.shape, faults, "mask")
            ivar = _companion(raw.ivar, rows, flux.shape, faults, "ivar")
        _note(reasons, faults != "", lambda k, f=faults: f"its spectrum {f[k]}", rows)
        usable = faults == ""
        rows = rows[usable]
        if not len(rows):
            continue
        flux = flux[usable]
        wavelength = wavelength[usable] if wavelength.ndim == 2 else wavelength
        good = np.isfinite(flux)
        if mask is not None:
            good &= mask[usable] == 0
        if ivar is not None:
            ivar = ivar[usable]
            good &= np.isfinite(ivar) & (ivar > 0)
        elif raw.noiseless:
            ivar = np.ones_like(flux)
        else:
            good &= flux != 0  # no noise leaves an exact zero
            ivar = estimate_ivar(flux, ~good)
            good &= ivar > 0
        flux = np.where(good, flux, 0.0)
        _note(reasons, ~good.any(axis=1), "its spectrum has no valid pixel", rows)
        _note(reasons, ~flux.any(axis=1), "its spectrum is zero throughout", rows)
        faint = np.abs(flux).max(axis=1) < LEAST_FLUX
        why = f"its spectrum has no flux above {LEAST_FLUX:g}; expected units of 1e-17 erg/s/cm2/A"
        _note(reasons, faint, why, rows)
        new = resample_flux(wavelength, flux, ivar, ~good, WAVELENGTH)
        bad = new.mask | (np.abs(new.flux) > LARGEST)
        covered = 1 - bad.mean(axis=1)
        thin = covered < (1 if raw.noiseless else rules.min_coverage)
        _note(
            reasons, thin | (covered == 0),
            lambda k, c=covered: f"its spectrum covers {100 * c[k]:.1f} % of the model's range",
            rows,
        )
        all_flux[rows] = np.where(bad, 0, new.flux)
        all_ivar[rows] = np.where(bad, 0, new.ivar.clip(LEAST_IVAR, LARGEST))
        all_mask[rows] = bad
    _note(reasons, ~seen, "it has no spectrum")
    return all_flux, all_ivar, all_mask


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
            values_given = f"{len(part)} values of {name}" if len(part) else f"no {name}"
            faults[position] = (
                f"of {shape[1]} pixels has {values_given}; expected one for each pixel"
            )
    return companion
