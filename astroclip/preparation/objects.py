"""Sort what a user passes to `astroclip.embed` into rows of one modality.

The rows are a list of single objects, in which a file that could not be read is
kept as the error it gave, or a container that is sliced without being unpacked.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.utils.exceptions import AstropyUserWarning
from specutils import Spectrum, SpectrumCollection, SpectrumList

from astroclip._validation import check_not_empty, item_name
from astroclip.exceptions import PreparationError
from astroclip.preparation.arms import are_arms, merge_arms
from astroclip.preparation.batches import ImageBatch, SpectrumBatch
from astroclip.preparation.reading import read_images, read_spectra
from astroclip.tables import Flag

__all__ = ["ObjectRows", "sort_objects"]

EXPECTED = (
    "a Spectrum (Spectrum1D), a SpectrumList or SpectrumCollection, a dict of band to CCDData, "
    "a CCDData stack, a file path, a SpectrumBatch or ImageBatch, or a list of these"
)


@dataclass(frozen=True, eq=False)
class ObjectRows:
    """Objects of one modality in input order.

    Parameters
    ----------
    modality : str
        "spectrum" or "image".
    content : list, `~specutils.Spectrum`, `SpectrumBatch` or `ImageBatch`
        A list holds single objects, and a `PreparationError` where a file could
        not be read. The others hold one object along their first axis each.
    lone : bool
        Whether one object was passed by itself: its faults are raised.
    """

    modality: str
    content: object
    lone: bool

    def __len__(self):
        if isinstance(self.content, Spectrum):
            return self.content.flux.shape[0]
        return len(self.content)

    @property
    def is_batch(self):
        """Whether the objects are prepared arrays rather than astropy objects."""
        return isinstance(self.content, SpectrumBatch | ImageBatch)

    def ids(self):
        """Return names (N,): those the objects carry in ``meta["id"]``, or row numbers."""
        if self.is_batch:
            return self.content.ids
        if isinstance(self.content, Spectrum):
            found = self.content.meta.get("id")
            shaped = np.shape(found) == (len(self),)
            found = found if shaped else range(len(self))
        else:
            found = [_meta_id(item, row) for row, item in enumerate(self.content)]
        return np.array([str(value) for value in found])

    def __getitem__(self, rows):
        """Return the content of a slice of rows."""
        if isinstance(self.content, Spectrum):
            return take_rows(self.content, rows)
        return self.content[rows]


def _meta_id(item, default):
    """Return the name in an object's meta, or ``default``."""
    if isinstance(item, dict) and item:
        item = next(iter(item.values()))
    meta = getattr(item, "meta", None) or {}
    return meta.get("id", default)


def take_rows(spectrum, rows):
    """Return rows of a Spectrum with 2-D flux, with their part of its meta.

    Slicing the Spectrum itself takes fifty times as long and leaves the meta whole.
    """
    n_rows = spectrum.flux.shape[0]
    uncertainty = spectrum.uncertainty
    if uncertainty is not None:
        uncertainty = type(uncertainty)(uncertainty.array[rows], unit=uncertainty.unit, copy=False)
    redshift = np.asarray(spectrum.redshift, dtype=float)
    own = {key: spectrum.meta[key] for key in ("id", "ra", "dec") if key in spectrum.meta}
    meta = {
        key: np.asarray(value)[rows] if np.ndim(value) else value
        for key, value in own.items()
        if np.shape(value) == (n_rows,) or (np.ndim(value) == 0 and n_rows == 1)
    }
    return Spectrum(
        flux=spectrum.flux[rows],
        spectral_axis=u.Quantity(spectrum.spectral_axis),
        uncertainty=uncertainty,
        mask=None if spectrum.mask is None else spectrum.mask[rows],
        redshift=redshift[rows] if redshift.shape == (n_rows,) else float(redshift),
        meta=meta,
    )


def sort_objects(objects, *, name="objects"):
    """Return the `ObjectRows` of anything `astroclip.embed` accepts.

    Parameters
    ----------
    objects : object
        See `astroclip.embed`.
    name : str, optional
        How errors name the argument.

    Returns
    -------
    ObjectRows

    Raises
    ------
    TypeError
        For an object of another type, or spectra and images in one list.
    ValueError
        For an empty list, or if none of several files can be read.
    OSError, PreparationError
        If a lone file cannot be read.
    """
    if isinstance(objects, SpectrumBatch | ImageBatch):
        check_not_empty(objects, name)
        modality = "spectrum" if isinstance(objects, SpectrumBatch) else "image"
        return ObjectRows(modality, objects, lone=False)
    if isinstance(objects, str | Path):
        modality, rows = _read(objects, name)
        return ObjectRows(modality, rows, lone=len(rows) == 1)
    if isinstance(objects, SpectrumList) and are_arms(objects):
        objects = _merge(objects, name)
    if isinstance(objects, Spectrum):
        if objects.flux.ndim == 2 and objects.flux.shape[0] > 1:
            return ObjectRows("spectrum", objects, lone=False)
        return ObjectRows("spectrum", _unpack(objects, name), lone=True)
    if isinstance(objects, dict | CCDData):
        return ObjectRows("image", [objects], lone=True)
    if isinstance(objects, SpectrumCollection):
        return ObjectRows("spectrum", _unpack(objects, name), lone=False)
    if isinstance(objects, list | tuple):
        return _list_rows(objects, name)
    msg = f"{name} is a {type(objects).__name__}; expected {EXPECTED}."
    raise TypeError(msg)


def _list_rows(objects, name):
    """Return the rows of a list; every element must be of the same modality."""
    check_not_empty(objects, name)
    modality, first, rows = None, None, []
    for i, element in enumerate(objects):
        found, elements = _element_rows(element, item_name(name, i))
        if modality is None and found is not None:
            modality, first = found, i
        elif found is not None and found != modality:
            msg = (
                f"{item_name(name, i)} is {_describe(element, found)} and "
                f"{item_name(name, first)} is {_describe(objects[first], modality)}; expected "
                f"one kind in a list. Embed each kind in a call of its own and join the two "
                f"tables with astropy.table.vstack(..., metadata_conflicts='silent')."
            )
            raise TypeError(msg)
        rows.extend(elements)
    if modality is None:
        msg = f"None of the {len(rows)} files could be read. The first: {rows[0]}"
        raise PreparationError(msg, flag=rows[0].flag)
    return ObjectRows(modality, rows, lone=False)


def _element_rows(element, name):
    """Return the modality of a list's element, None if unreadable, and its objects."""
    if isinstance(element, SpectrumList):
        check_not_empty(element, name)
        if not are_arms(element):
            return "spectrum", [row for spectrum in element for row in _unpack(spectrum, name)]
        try:
            element = _merge(element, name)
        except PreparationError as error:
            return "spectrum", [error]
    if isinstance(element, Spectrum | SpectrumCollection):
        return "spectrum", _unpack(element, name)
    if isinstance(element, dict | CCDData):
        return "image", [element]
    if isinstance(element, str | Path):
        try:
            return _read(element, name)
        except PreparationError as error:
            return None, [error]
        except OSError as error:
            return None, [PreparationError(str(error), flag=Flag.FAILED | Flag.BAD_INPUT)]
    if isinstance(element, SpectrumBatch | ImageBatch):
        msg = (
            f"{name} is a {type(element).__name__}; pass a batch by itself, not in a list. "
            f"Join several with astroclip.preparation.concatenate."
        )
        raise TypeError(msg)
    msg = f"{name} is a {type(element).__name__}; expected {EXPECTED}."
    raise TypeError(msg)


def _describe(element, modality):
    """Return an article, the modality and the type of a list's element for a message."""
    article = "a" if modality == "spectrum" else "an"
    return f"{article} {modality} ({type(element).__name__})"


def _unpack(spectra, name):
    """Return the single objects of a Spectrum or SpectrumCollection as a list."""
    shape = spectra.flux.shape
    if isinstance(spectra, SpectrumCollection):
        return [spectra[i] for i in range(shape[0])]
    if len(shape) > 2:
        msg = (
            f"{name} has flux of shape {shape}; expected (n_pixels,) for one object or "
            f"(n_objects, n_pixels) for many. Reshape the cube to two axes."
        )
        raise ValueError(msg)
    return [spectra] if len(shape) == 1 else [take_rows(spectra, i) for i in range(shape[0])]


def _merge(arms, name):
    """Return the arms of one or many objects as one Spectrum, ids from DESI's fibermap."""
    try:
        merged = merge_arms(arms)
    except ValueError as error:
        msg = f"{name} holds the arms of a spectrograph that cannot be merged: {error}"
        raise PreparationError(msg, flag=Flag.FAILED | Flag.BAD_INPUT) from error
    fibermap = merged.meta.get("fibermap")
    if fibermap is not None and "TARGETID" in fibermap.colnames:
        merged.meta["id"] = np.asarray(fibermap["TARGETID"]).astype(str)
        for key in ("ra", "dec"):
            merged.meta[key] = np.asarray(fibermap[f"TARGET_{key.upper()}"], dtype=float)
    return merged


def _read(path, name):
    """Return the modality of a file and its objects as a list."""
    path = Path(path).expanduser()
    if path.is_dir():
        msg = f"{name} is the directory {str(path)!r}; expected a file. Pass a list of its files."
        raise IsADirectoryError(msg)
    if not path.exists():
        msg = f"{name} names the file {str(path)!r}, which does not exist; check the path."
        raise FileNotFoundError(msg)
    try:
        with warnings.catch_warnings():
            # a truncated file gives a warning first and then the error that is raised
            warnings.simplefilter("ignore", AstropyUserWarning)
            if _holds_images(path):
                images = read_images(path)
                for image in images.values():
                    image.meta.setdefault("id", path.stem)
                return "image", [images]
            return "spectrum", read_spectra(path)
    except PreparationError as error:
        raise PreparationError(f"{name}: {error}", flag=error.flag) from error


def _holds_images(path):
    """Return whether a file holds images: FITS, no table, no 1-D array, and a 2-D or 3-D one."""
    with path.open("rb") as file:
        start = file.read(6)
    if start != b"SIMPLE" and start[:2] != b"\x1f\x8b":
        return False
    try:
        with fits.open(path) as hdus:
            n_axes = [len(hdu.shape) for hdu in hdus if hdu.is_image]
            all_images = len(n_axes) == len(hdus)
    except (OSError, TypeError, ValueError):
        return False  # what the readers say of it is clearer
    return all_images and 1 not in n_axes and max(n_axes, default=0) >= 2
