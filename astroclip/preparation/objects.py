"""Sort anything a user passes into single objects: one spectrum or image each, in order."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.nddata import CCDData
from astropy.table import Row
from specutils import Spectrum, SpectrumCollection, SpectrumList

from astroclip._validation import check_not_empty
from astroclip.exceptions import PreparationError
from astroclip.preparation.arms import are_arms, merge_arms
from astroclip.preparation.batches import ImageBatch, SpectrumBatch
from astroclip.preparation.identity import plain_id
from astroclip.preparation.image_files import read_images
from astroclip.preparation.mosaics import MosaicCutouts, check_position, is_mosaic
from astroclip.preparation.object_tables import is_row, is_table, read_table_rows, table_rows
from astroclip.preparation.reading import (
    ReadOptions,
    file_ids,
    file_modality,
    file_stem,
    find_files,
)
from astroclip.preparation.spectrum_files import read_spectra
from astroclip.tables import is_embedding_table

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
    "CCDData, a CCDData stack, a file path, a table with one object per row, a SpectrumBatch or "
    "ImageBatch, or a list of these",
}
LONGEST_LABEL = 80  # characters of what is no path


@dataclass(eq=False, slots=True)
class SingleObject:
    """One spectrum or image.

    Attributes
    ----------
    modality : str
        ``"spectrum"`` or ``"image"``; empty for an object that is neither.
    data : object
        A `~specutils.Spectrum`, a dict of band to `~astropy.nddata.CCDData`, a stack in one
        `~astropy.nddata.CCDData`, a batch of arrays, or the `PreparationError` that sorting
        or reading the object gave.
    row : int or None
        The object's row of ``data``, where that holds one object per row: rows are converted
        a block at a time, because slicing a Spectrum costs more than preparing it, and
        `~astroclip.preparation.mosaics.MosaicCutouts` are cut when they are needed.
    file : str
        Path of the file it was read from; empty for objects in memory.
    label : str
        Its id, where that is not the one in its meta; empty otherwise.
    identity : dict
        What the row of a table says of it: ``id``, ``ra``, ``dec`` and ``redshift``.
    number : int
        The object's position among all objects: its row in the result.
    name : str
        How errors name it: ``objects[3]``, or ``objects`` if it was passed by itself, and the
        file it was read from in parentheses.
    """

    modality: str
    data: object
    row: int | None = None
    file: str = ""
    label: str = ""
    identity: dict | None = None
    number: int = 0
    name: str = ""

    def meta(self, key):
        """Return a value of the object's meta, or its row's part of it; None if absent."""
        if self.identity is not None and key in self.identity:
            return self.identity[key]
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
        """Its label, or the name in the object's meta, or its number."""
        if isinstance(self.data, SpectrumBatch | ImageBatch):
            return str(self.data.ids[self.row])
        return self.label or plain_id(self.meta("id")) or str(self.number)

    @property
    def fault(self):
        """The `PreparationError` of an object that could not be sorted or read, or None."""
        return self.data if isinstance(self.data, PreparationError) else None


class ObjectList:
    """Single objects in the user's order; files among them are read as they are reached.

    Iterating yields `SingleObject` with their numbers and names. Whoever takes them one by
    one holds the objects of one file at a time.

    Parameters
    ----------
    entries : list or iterator
        Single objects in memory, and what is read when it is reached: a `pathlib.Path`, or a
        dict of band to `pathlib.Path`.
    name : str
        How errors name the argument that held them.
    single : bool
        Whether one object was passed by itself: its faults are raised.
    options : `~astroclip.preparation.reading.ReadOptions`
        What the user says of files.

    Attributes
    ----------
    n_objects : int
        Number of objects, where a file that has not been read counts as one, and what an
        iterator has yet to give as none.
    is_complete : bool
        Whether ``n_objects`` is final: nothing is left to read.
    """

    def __init__(self, entries, *, name, single, options):
        self.entries = entries
        self.options = options
        self.name = name
        self.single = single
        self.is_stream = not isinstance(entries, list)
        known = [] if self.is_stream else entries
        self.n_objects = len(known)
        self.is_complete = not self.is_stream and not any(map(_is_unread, known))
        paths = [path for entry in known if _is_unread(entry) for path in _paths(entry)[:1]]
        self._labels = file_ids(paths)

    def __iter__(self):
        number, n_ahead, n_unread = 0, 0, 0
        if not self.is_stream:
            n_ahead, n_unread = len(self.entries), sum(map(_is_unread, self.entries))
        for entry in self.entries:
            items = [entry]
            if _is_unread(entry):
                items = self._read(entry)
                n_unread -= 1
            n_ahead = max(n_ahead - 1, 0)
            self.n_objects = number + len(items) + n_ahead
            self.is_complete = not self.is_stream and n_unread == 0
            for item in items:
                item.number = number
                name = self.name if self.single else f"{self.name}[{number}]"
                if item.fault is not None and not item.name:
                    item.data = _named(item.fault, name)
                # the bands of a dict have files of their own
                one_file = item.file and not isinstance(entry, dict)
                item.name = f"{name} ({item.file})" if one_file else name
                yield item
                number += 1
        self.is_complete = True

    def _read(self, entry):
        """Return the objects of a file, or one that holds the error if it cannot be read."""
        path = _paths(entry)[0]
        label = self._labels.get(path, file_stem(path))
        try:
            return _file_objects(entry, label, self.options)
        except Exception as error:  # a fault of one file costs the others nothing
            modality = "image" if isinstance(entry, dict) else file_modality(path)
            return [_fault(error, modality, path=path, label=label)]

    def holds(self, modality):
        """Return whether any object is of a modality; of files no more than headers are read.

        What an iterator has yet to give may be of any; of no modality (``""``) are those that
        could not be sorted.
        """
        return self.is_stream or any(_modality(entry) == modality for entry in self.entries)


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
        Elements of a list that cannot be used are in it with their error.

    Raises
    ------
    TypeError
        For a single object of another type.
    ValueError
        If there is no object, or flux has more than two axes.
    OSError, PreparationError
        If a file that was passed by itself cannot be read, or arms by themselves not merged.
    """
    if isinstance(objects, list) and objects and isinstance(objects[0], SingleObject):
        return objects
    options = ReadOptions() if options is None else options
    is_nested = isinstance(objects, dict) and is_row(objects)
    if is_mosaic(objects, position) and not is_nested:
        return _mosaic_objects(objects, position, name, options)
    if isinstance(objects, SpectrumBatch | ImageBatch) and modality is None:
        kind = "spectrum" if isinstance(objects, SpectrumBatch) else "image"
        entries = [SingleObject(kind, objects, row) for row in range(len(objects))]
        check_not_empty(entries, name)
        return ObjectList(entries, name=name, single=False, options=options)
    if _is_many(objects):
        entries = (
            entry for element in objects for entry in _checked_entries(element, modality, options)
        )
        if isinstance(objects, list | tuple | np.ndarray):
            entries = list(entries)
            check_not_empty(entries, name)
        else:
            first = next(entries, None)
            check_not_empty([] if first is None else [first], name)
            entries = itertools.chain([first], entries)
        return ObjectList(entries, name=name, single=False, options=options)
    try:
        entries = _element_entries(objects, modality, options)
        is_list = isinstance(objects, SpectrumCollection) or is_table(objects)
        if len(entries) == 1 and _is_unread(entries[0]):
            path = _paths(entries[0])[0]
            is_list = isinstance(objects, str | Path) and path != Path(objects).expanduser()
            if not is_list:
                entries = _file_objects(entries[0], file_stem(path), options)
    except (PreparationError, TypeError, ValueError, OSError) as error:
        raise _named(error, name) from error.__cause__
    return ObjectList(
        entries, name=name, single=len(entries) == 1 and not is_list, options=options
    )


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


# ---------------------------------------------------------------------- elements
def _is_many(objects):
    """Return whether something is a list of objects: any iterable that is not one itself."""
    if isinstance(objects, SpectrumList):
        return len(objects) > 0 and not are_arms(objects)
    if isinstance(objects, np.ndarray):
        return objects.ndim == 1 and objects.dtype.kind in "OUT"
    return isinstance(objects, Iterable) and not (
        isinstance(objects, (*TYPES[None], Row, bytes, SpectrumBatch, ImageBatch))
        or is_table(objects)
    )


def _checked_entries(element, modality, options):
    """Return the entries of one element of the user's list, or one that holds its error."""
    try:
        if isinstance(element, str) and element and modality is None:
            element = Path(element)
        return _element_entries(element, modality, options)
    except Exception as error:  # a fault of one element costs the others nothing
        if isinstance(element, Path):
            return [_fault(error, "", path=element, label=file_stem(element)[:LONGEST_LABEL])]
        kinds = {"image": (dict, CCDData), "spectrum": TYPES["spectrum"]}
        kind = next((key for key, types in kinds.items() if isinstance(element, types)), "")
        return [_fault(error, kind)]


def _element_entries(element, modality, options):
    """Return the objects that one element holds, or what has to be read; errors lack its name."""
    if isinstance(element, SpectrumBatch | ImageBatch) and modality is None:
        msg = (
            f"is a {type(element).__name__}; pass a batch by itself, not in a list. "
            f"Join several with astroclip.preparation.concatenate."
        )
        raise TypeError(msg)
    if isinstance(element, Row):
        element = element.table[element.index : element.index + 1]
    if modality is None and (is_table(element) or isinstance(element, dict) and is_row(element)):
        return [
            SingleObject(kind, data, row, identity=identity)
            for kind, data, row, identity in table_rows(element, options)
        ]
    if not isinstance(element, TYPES[modality]):
        msg = f"is a {type(element).__name__}; expected {EXPECTED[modality]}."
        raise TypeError(msg)
    if isinstance(element, str | Path):
        files = find_files([element])
        if Path(element).expanduser().is_dir():  # tables of embeddings are no objects
            files = [path for path in files if not is_embedding_table(path)]
        if not files:
            msg = f"folder {str(element)!r} holds tables of embeddings only; pass one by itself."
            raise PreparationError(msg)
        return files
    if isinstance(element, dict):
        return [_image_entry(element, modality)]
    if isinstance(element, CCDData):
        return [SingleObject("image", element)]
    if isinstance(element, SpectrumList):
        if not len(element):
            msg = "is empty; pass at least one object."
            raise ValueError(msg)
        if not are_arms(element):
            return [one for each in element for one in _checked_entries(each, modality, options)]
        try:
            element = merge_arms(element)
        except ValueError as error:
            msg = f"holds the arms of a spectrograph that cannot be merged: {error}"
            raise PreparationError(msg) from error
    if isinstance(element, SpectrumCollection):
        return [SingleObject("spectrum", element[row]) for row in range(element.shape[0])]
    if element.data.ndim > 2:  # flux in magnitudes cannot be asked for
        msg = (
            f"has flux of shape {element.data.shape}; expected (n_pixels,) for one object "
            f"or (n_objects, n_pixels) for many. Reshape the cube to two axes."
        )
        raise ValueError(msg)
    if element.data.ndim < 2:
        return [SingleObject("spectrum", element)]
    entries = [SingleObject("spectrum", element, row) for row in range(_n_rows(element))]
    if not entries:
        msg = "is empty; pass at least one object."
        raise ValueError(msg)
    return entries


def _image_entry(bands, modality):
    """Return the image that a dict of bands is, or a dict of the files to read it from."""
    files = {
        band: Path(value).expanduser()
        for band, value in bands.items()
        if modality is None and isinstance(value, str | Path)
    }
    wrong = [
        f"[{band!r}] is a {type(value).__name__}"
        for band, value in bands.items()
        if band not in files and not isinstance(value, CCDData)
    ]
    if wrong or not bands:
        found = wrong[0] if wrong else "is an empty dict"
        msg = f"{found}; expected {EXPECTED['image']}."
        raise TypeError(msg)
    if len(files) == len(bands):
        return files
    return SingleObject("image", bands) if not files else {**bands, **files}


def _n_rows(spectra):
    """Return the number of objects of a Spectrum with 2-D flux, one along the other axis."""
    return spectra.data.shape[1 - spectra.spectral_axis_index]


def _is_unread(entry):
    """Return whether an entry has to be read from files."""
    return not isinstance(entry, SingleObject)


def _paths(entry):
    """Return the files of an entry that has to be read."""
    values = entry.values() if isinstance(entry, dict) else [entry]
    return [value for value in values if isinstance(value, Path)]


def _modality(entry):
    """Return the modality of an entry; of files no more than headers are read."""
    if isinstance(entry, SingleObject):
        return "" if entry.fault is not None else entry.modality
    return "image" if isinstance(entry, dict) else file_modality(entry)


# ---------------------------------------------------------------------- files
def _file_objects(entry, label, options):
    """Return the objects of a file, or the image of several; errors lack their name."""
    path = _paths(entry)[0]
    if isinstance(entry, dict):
        image = MosaicCutouts(entry, None, name="", bands=options.bands, unit=options.unit)
        return [SingleObject("image", image, 0, file=str(path), label=label)]
    rows = read_table_rows(path, options)
    if rows is not None:
        return [
            SingleObject(
                kind, data, row, file=str(path), identity=identity,
                label=plain_id(identity.get("id")) or f"{label}-{number}",
            )
            for number, (kind, data, row, identity) in enumerate(rows)
        ]
    modality = file_modality(path)
    if modality == "image":
        image = read_images(path, bands=options.bands, unit=options.unit)
        return [SingleObject("image", image, file=str(path), label=label)]
    spectra = read_spectra(
        path, unit=options.unit, flux=options.flux, wavelength=options.wavelength,
        ivar=options.ivar, error=options.error, mask=options.mask,
    )
    stem, items = file_stem(path), []
    for spectrum in spectra:
        for item in _element_entries(spectrum, "spectrum", options):
            own = plain_id(item.meta("id"))
            number = "" if len(spectra) == 1 and item.row is None else f"-{len(items)}"
            if own is None:
                item.label = label + number
            elif own == stem or own.startswith(f"{stem}-"):  # named by its file
                item.label = label + own[len(stem) :]
            item.file = str(path)
            items.append(item)
    if not items:
        msg = f"path {str(path)!r} holds no spectrum; expected at least one. Leave the file out."
        raise PreparationError(msg)
    return items


# ---------------------------------------------------------------------- errors
def _named(error, name):
    """Return an error whose message begins with an object's name."""
    text = str(error)
    joined = f"{name}{text}" if text.startswith("[") else f"{name} {text}"
    if text.startswith(("path ", "pattern ", "folder ")):
        joined = f"{name}: {text}"
    if isinstance(error, PreparationError):
        return PreparationError(joined, flag=error.flag)
    kinds = (FileNotFoundError, IsADirectoryError, PermissionError, OSError, TypeError, ValueError)
    return next(kind(joined) for kind in kinds if isinstance(error, kind))


def _fault(error, modality, *, path=None, label=""):
    """Return the object that stands for one that could not be sorted or read."""
    known = (PreparationError, TypeError, ValueError, OSError)
    if isinstance(error, PreparationError):
        fault = error
    elif path is not None and not isinstance(error, OSError):
        fault = PreparationError(
            f"path {str(path)!r} cannot be read: its contents do not fit what it says of them "
            f"({type(error).__name__}: {error}). Check that the file is complete, or read it with "
            f"another tool and pass the object."
        )
    elif path is not None:
        text = str(error)
        is_named = re.search("(path|folder|pattern) '", text)
        where = "" if is_named else f"path {str(path)!r} cannot be read: "
        fault = PreparationError(f"{where}{text}")
    elif isinstance(error, known):
        fault = PreparationError(str(error))
    else:
        fault = PreparationError(
            f"cannot be used ({type(error).__name__}: {error}); expected {EXPECTED[None]}."
        )
    fault.__cause__ = error if fault is not error else error.__cause__
    return SingleObject(modality, fault, file="" if path is None else str(path), label=label)
