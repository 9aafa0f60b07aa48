"""Sort anything a user passes into single objects: one spectrum or image each, in order."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.nddata import CCDData
from specutils import Spectrum, SpectrumCollection, SpectrumList

from astroclip._validation import check_not_empty
from astroclip.exceptions import PreparationError
from astroclip.preparation.arms import are_arms, merge_arms
from astroclip.preparation.batches import ImageBatch, SpectrumBatch
from astroclip.preparation.image_files import read_images
from astroclip.preparation.mosaics import MosaicCutouts, check_position, is_mosaic
from astroclip.preparation.reading import ReadOptions, file_modality
from astroclip.preparation.spectrum_files import read_spectra

__all__ = ["ObjectList", "SingleObject", "sort_objects"]

TYPES = {
    "spectrum": (Spectrum, SpectrumList, SpectrumCollection),
    "image": (dict, CCDData),
    None: (Spectrum, SpectrumList, SpectrumCollection, dict, CCDData, str, Path),
}
EXPECTED = {
    "spectrum": "a specutils Spectrum (Spectrum1D), SpectrumList or SpectrumCollection. Build one "
    "with Spectrum(flux=..., spectral_axis=...)",
    "image": "a CCDData, or a dict of band to CCDData. Make one with CCDData(array, unit=..., "
    "wcs=...)",
    None: "a Spectrum (Spectrum1D), a SpectrumList or SpectrumCollection, a dict of band to "
    "CCDData, a CCDData stack, a file path, a SpectrumBatch or ImageBatch, or a list of these",
}


@dataclass(eq=False, slots=True)
class SingleObject:
    """One spectrum or image.

    Attributes
    ----------
    modality : str
        ``"spectrum"`` or ``"image"``.
    data : object
        A `~specutils.Spectrum`, a dict of band to `~astropy.nddata.CCDData`, a stack in one
        `~astropy.nddata.CCDData`, a batch of arrays, or the `PreparationError` that reading
        the object gave.
    row : int or None
        The object's row of ``data``, where that holds one object per row: rows are converted
        a block at a time, because slicing a Spectrum costs more than preparing it, and
        `~astroclip.preparation.mosaics.MosaicCutouts` are cut when they are needed.
    file : str
        Path of the file it was read from; empty for objects in memory.
    number : int
        The object's position among all objects: its row in the result.
    name : str
        How errors name it: ``objects[3]``, or ``objects`` if it was passed by itself.
    """

    modality: str
    data: object
    row: int | None = None
    file: str = ""
    number: int = 0
    name: str = ""

    def meta(self, key):
        """Return a value of the object's meta, or its row's part of it; None if absent."""
        data = next(iter(self.data.values())) if isinstance(self.data, dict) else self.data
        value = (getattr(data, "meta", None) or {}).get(key)
        if value is None or self.row is None:
            return value
        n_rows = _n_rows(data)
        try:
            per_row = not isinstance(value, str) and len(value) == n_rows
        except TypeError:  # a scalar has no length
            per_row = False
        if per_row:
            return value[self.row]
        return value if n_rows == 1 and np.ndim(value) == 0 else None

    @property
    def id(self):
        """Name from the object's meta, of its file if that is unreadable, or its number."""
        if isinstance(self.data, SpectrumBatch | ImageBatch):
            return str(self.data.ids[self.row])
        if isinstance(self.data, PreparationError) and self.file:
            return Path(self.file).stem
        value = self.meta("id")
        return str(self.number if value is None else value)


class ObjectList:
    """Single objects in the user's order; files among them are read as they are reached.

    Iterating yields `SingleObject` with their numbers and names. Whoever takes them one by
    one holds the objects of one file at a time.

    Parameters
    ----------
    entries : list of SingleObject and `pathlib.Path`
        Objects in memory, and files.
    name : str
        How errors name the argument that held them.
    single : bool
        Whether one object was passed by itself: its faults are raised.
    options : `~astroclip.preparation.reading.ReadOptions`
        What the user says of files.

    Attributes
    ----------
    n_objects : int
        Number of objects, where a file that has not been read counts as one.
    is_complete : bool
        Whether ``n_objects`` is final: no file is left to read.
    """

    def __init__(self, entries, *, name, single, options):
        self.entries = entries
        self.options = options
        self.name = name
        self.single = single
        self.n_objects = len(entries)
        self.is_complete = not any(isinstance(entry, Path) for entry in entries)

    def __iter__(self):
        number, self.n_objects = 0, len(self.entries)
        n_unread = sum(isinstance(entry, Path) for entry in self.entries)
        for entry in self.entries:
            items = [entry]
            if isinstance(entry, Path):
                items = self._read(entry, f"{self.name}[{number}]")
                self.n_objects += len(items) - 1
                n_unread -= 1
                self.is_complete = n_unread == 0
            for item in items:
                item.number = number
                item.name = self.name if self.single else f"{self.name}[{number}]"
                yield item
                number += 1

    def _read(self, path, name):
        """Return the objects of a file, or one that holds the error if it cannot be read."""
        try:
            return _file_objects(path, name, self.options)
        except (PreparationError, OSError) as error:
            if not isinstance(error, PreparationError):
                error = PreparationError(str(error))
            return [SingleObject(file_modality(path), error, file=str(path))]

    def holds(self, modality):
        """Return whether any object is of a modality; of files no more than headers are read."""
        return any(
            (file_modality(entry) if isinstance(entry, Path) else entry.modality) == modality
            for entry in self.entries
        )


def sort_objects(objects, *, name="objects", modality=None, options=None, position=None):
    """Return the single objects of anything `astroclip.embed` accepts.

    Parameters
    ----------
    objects : object
        See `astroclip.embed`. A list of `SingleObject` is returned as it is.
    name : str, optional
        How errors name the argument.
    modality : str, optional
        ``"spectrum"`` or ``"image"``: accept objects in memory of this modality only.
    options : `~astroclip.preparation.reading.ReadOptions`, optional
        What the user says of files.
    position : `~astropy.coordinates.SkyCoord`, optional
        Many of them make as many objects of one image.

    Returns
    -------
    `ObjectList`

    Raises
    ------
    TypeError
        For an object of another type.
    ValueError
        If there is no object, or flux has more than two axes.
    OSError, PreparationError
        If a file that was passed by itself cannot be read, or arms by themselves not merged.
    """
    if isinstance(objects, list) and objects and isinstance(objects[0], SingleObject):
        return objects
    options = ReadOptions() if options is None else options
    if is_mosaic(objects, position):
        return _mosaic_objects(objects, position, name, options)
    is_batch = isinstance(objects, SpectrumBatch | ImageBatch) and modality is None
    is_arms = isinstance(objects, SpectrumList) and are_arms(objects)
    is_list = isinstance(objects, list | tuple) and not is_arms
    if is_batch:
        modality = "spectrum" if isinstance(objects, SpectrumBatch) else "image"
        entries = [SingleObject(modality, objects, row) for row in range(len(objects))]
    elif is_list:
        entries = [
            entry
            for number, element in enumerate(objects)
            for entry in _element_entries(element, f"{name}[{number}]", modality)
        ]
    else:
        entries = _element_entries(objects, name, modality)
    check_not_empty(entries, name)
    if is_batch or is_list or isinstance(objects, SpectrumCollection):
        return ObjectList(entries, name=name, single=False, options=options)
    if isinstance(entries[0], Path):
        entries = _file_objects(entries[0], name, options)
    elif isinstance(entries[0].data, PreparationError):
        raise entries[0].data
    return ObjectList(entries, name=name, single=len(entries) == 1, options=options)


def _mosaic_objects(image, position, name, options):
    """Return the objects around each of many positions in one image, or the image of files."""
    single = position is None
    if position is not None:
        check_position(position)
        single = position.isscalar
        position = position.reshape(1) if single else position
    mosaic = MosaicCutouts(image, position, name=name, bands=options.bands, unit=options.unit)
    entries = [
        SingleObject("image", mosaic, row, file=mosaic.file) for row in range(len(mosaic))
    ]
    check_not_empty(entries, "position")
    return ObjectList(entries, name=name, single=single, options=options)


def _element_entries(element, name, modality):
    """Return the objects that one element of the user's list holds, or the path it is."""
    if isinstance(element, SpectrumBatch | ImageBatch) and modality is None:
        msg = (
            f"{name} is a {type(element).__name__}; pass a batch by itself, not in a list. "
            f"Join several with astroclip.preparation.concatenate."
        )
        raise TypeError(msg)
    if not isinstance(element, TYPES[modality]):
        msg = f"{name} is a {type(element).__name__}; expected {EXPECTED[modality]}."
        raise TypeError(msg)
    if isinstance(element, str | Path):
        return [Path(element).expanduser()]
    if isinstance(element, dict):
        wrong = [
            f"[{band!r}] is a {type(ccd).__name__}"
            for band, ccd in element.items()
            if not isinstance(ccd, CCDData)
        ]
        if wrong or not element:
            found = wrong[0] if wrong else " is an empty dict"
            msg = f"{name}{found}; expected {EXPECTED['image']}."
            raise TypeError(msg)
    if isinstance(element, dict | CCDData):
        return [SingleObject("image", element)]
    if isinstance(element, SpectrumList):
        check_not_empty(element, name)
        if not are_arms(element):
            return [one for each in element for one in _element_entries(each, name, modality)]
        try:
            element = merge_arms(element)
        except ValueError as error:
            msg = f"{name} holds the arms of a spectrograph that cannot be merged: {error}"
            return [SingleObject("spectrum", PreparationError(msg))]
    if isinstance(element, SpectrumCollection):
        return [SingleObject("spectrum", element[row]) for row in range(element.shape[0])]
    if element.flux.ndim > 2:
        msg = (
            f"{name} has flux of shape {element.flux.shape}; expected (n_pixels,) for one object "
            f"or (n_objects, n_pixels) for many. Reshape the cube to two axes."
        )
        raise ValueError(msg)
    if element.flux.ndim < 2:
        return [SingleObject("spectrum", element)]
    return [SingleObject("spectrum", element, row) for row in range(_n_rows(element))]


def _n_rows(spectra):
    """Return the number of objects of a Spectrum with 2-D flux, one along the other axis."""
    return spectra.flux.shape[1 - spectra.spectral_axis_index]


def _file_objects(path, name, options):
    """Return the objects of a file; errors begin with ``name``."""
    modality = file_modality(path)
    try:
        if modality == "spectrum":
            objects = read_spectra(
                path, unit=options.unit, flux=options.flux, wavelength=options.wavelength,
                ivar=options.ivar, error=options.error, mask=options.mask,
            )
        else:
            objects = [read_images(path, bands=options.bands, unit=options.unit)]
            for image in objects[0].values():
                image.meta.setdefault("id", path.stem)
    except PreparationError as error:
        raise PreparationError(f"{name}: {error}", flag=error.flag) from error
    except OSError as error:
        raise type(error)(f"{name}: {error}") from error
    return [SingleObject(modality, item, file=str(path)) for item in objects]
