"""Embed spectra and images: astropy objects in, one table out."""

import dataclasses
import itertools
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.table import MaskedColumn, Table
from tqdm import tqdm

from astroclip._validation import check_choice, check_integer
from astroclip.exceptions import FailedObjectWarning
from astroclip.models.presets import PRESETS
from astroclip.preparation import PREPARATION_VERSION
from astroclip.preparation.bands import center_crop, normalize_images
from astroclip.preparation.batches import (
    SCALE_TOLERANCE,
    ImageBatch,
    SpectrumBatch,
    bad_fraction,
    coverage_error,
    coverage_flags,
)
from astroclip.preparation.grids import wavelength_grid
from astroclip.preparation.identity import given_ids, given_redshifts, warn_unmatched
from astroclip.preparation.images import prepare_images
from astroclip.preparation.objects import sort_objects
from astroclip.preparation.reading import ReadOptions
from astroclip.preparation.resampling import fill_bad_pixels, resample_flux
from astroclip.preparation.spectra import prepare_spectra
from astroclip.tables import MODALITIES, Flag, make_embedding_table

__all__ = ["embed", "list_models"]

CHUNK_SIZE = 512  # objects read and prepared at a time: 512 spectra of 7,781 pixels are 36 MB
PRECISIONS = ("float32", "bf16", "auto")


def embed(
    objects,
    *,
    model="astroclip-small",
    redshift=None,
    medium=None,
    ids=None,
    position=None,
    zero_point=None,
    pixel_scale=None,
    unit=None,
    bands=None,
    flux=None,
    wavelength=None,
    ivar=None,
    error=None,
    mask=None,
    normalize=True,
    device=None,
    precision="float32",
    batch_size=None,
    min_coverage=0.1,
    show_progress=False,
):
    """Embed spectra and images of galaxies.

    Objects are prepared for the model (units, wavelengths, pixel scale, crop), encoded and
    returned as a table with one row per object, in input order. They are read, prepared and
    encoded a few hundred at a time, so memory beyond the input and the result is bounded.

    Parameters
    ----------
    objects : object
        Spectra: a `~specutils.Spectrum` (Spectrum1D) whose flux has shape
        (n_pixels,) or (n_objects, n_pixels); a `~specutils.SpectrumList` (the three arms of
        DESI are recognized and merged), a `~specutils.SpectrumCollection`. Images: a dict of
        band name to 2-D `~astropy.nddata.CCDData`, or a 3-D `~astropy.nddata.CCDData` with
        the bands along its first axis, or a dict of band to file. Also the path of a file that
        holds either, a folder of such files or a pattern (``"night*/*.fits"``); a table with
        one object per row (astropy, pandas or pyarrow, such as the Multimodal Universe's); a
        list or other iterable of any of these, spectra and images mixed as they come; or a
        `~astroclip.preparation.SpectrumBatch` or `~astroclip.preparation.ImageBatch` of arrays
        in memory. A row of a table that holds a spectrum and an image is two objects of one id.
    model : str, path-like or EmbeddingModel, optional
        A name of `list_models`, a local weights file, a hub id, or what
        `astroclip.load_model` returned.
    redshift : float, (N,) array_like, dict of id to float, or table, optional
        Redshifts of all objects, of each, or by id; a table (astropy, pandas, pyarrow) has
        columns ``id`` and ``redshift`` or ``z``. Unknown ones are NaN, masked or None;
        -9999, -1, 99 and the like are taken as unknown, with a warning. Needed by models that
        take spectra in the rest frame; copied to the table. By default a nonzero
        ``Spectrum.redshift``, or the redshift in an object's row of a table, is used.
    medium : {"vacuum", "air"}, optional
        Medium of the spectra's wavelengths; by default the one that a spectrum declares, and
        vacuum if it declares none. Air wavelengths are converted to vacuum.
    ids : sequence of str, optional
        Names of the objects; None keeps one's own. By default those in the data (``meta["id"]``,
        a column of a table), of the files (with folders before them where two are the same), or
        the row numbers. They may repeat: the spectrum and the image of one galaxy share theirs,
        and `SimilarityIndex` treats rows of one id as one object.
    position : `~astropy.coordinates.SkyCoord`, optional
        Sky position of the target in each image, scalar or of length N; the images need
        celestial world coordinates. By default the target is at the center. N positions and
        one mosaic, passed by itself (a dict of band to `~astropy.nddata.CCDData` or to the
        path of a FITS file, a stack, or the path of a file of all bands), give N objects: the
        pixels around them are read, and no others.
    zero_point : float or dict of str to float, optional
        AB magnitude of one count per second in the images, for all bands or per band. By
        default taken from the unit or the header.
    pixel_scale : float, optional
        Arcsec per pixel of images without celestial world coordinates.
    unit : `~astropy.units.Unit` or str, optional
        Unit of flux or pixels that have none of their own.
    bands : sequence of str, optional
        Names of the bands of images that do not name them, in order.
    flux, wavelength, ivar, error, mask : str, optional
        Names of the columns of files and tables that hold these, where their own names do not
        say it.
    normalize : bool, optional
        Whether to scale embeddings to unit length.
    device : str or `torch.device`, optional
        By default CUDA if there is a GPU, else MPS, else the CPU.
    precision : {"float32", "bf16", "auto"}, optional
        Arithmetic of the network. Embeddings in bf16 and float32 agree to a cosine of
        0.9999 (see the user guide). "auto" takes bf16 on a GPU that has it.
    batch_size : int, optional
        Objects in the network at a time, divided among the threads of a CPU; by default
        chosen for the device.
    min_coverage : float, optional
        Objects with a smaller fraction of the model's input covered by valid data fail.
    show_progress : bool, optional
        Whether to draw a progress bar on the standard error stream.

    Returns
    -------
    table : `~astropy.table.QTable`
        Columns ``id``, ``modality`` ("spectrum" or "image"), ``embedding`` (float32,
        D values), ``coverage`` (0 to 1), ``flags`` (the bits of
        `astroclip.tables.Flag`), ``message``, ``ra``, ``dec`` (deg) and ``redshift`` where
        known, ``medium`` if there are spectra (what their wavelengths were in: "air", "vacuum",
        or "vacuum (assumed)" where nothing said so; empty for images), and ``file`` if objects
        were read from files. The meta names the model (MODEL),
        the sha256 of its weights (WSHA), the versions of preparation (PREPVER) and package
        (ASTROCLP), and the DATE.

        An object of a list that cannot be used keeps its row: its embedding is masked, its
        flags include ``FAILED`` and ``message`` says why. One
        `~astroclip.exceptions.FailedObjectWarning` sums these up.

    Raises
    ------
    TypeError
        For objects of another type.
    ValueError
        For an empty list, an unknown option, model or device, arguments of another
        length than ``objects``, options that apply to none of them, or a model that takes
        none of them.
    PreparationError, `~astropy.units.UnitsError`, OSError
        If a single object, passed outside a list, cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from astropy import units as u
    >>> from specutils import Spectrum
    >>> import astroclip
    >>> wavelength = np.linspace(3600, 9800, 3101) * u.AA
    >>> flux = (1 + 0.1 * np.sin(wavelength.value / 50)) * u.Unit("1e-17 erg / (s cm2 AA)")
    >>> table = astroclip.embed(Spectrum(flux=flux, spectral_axis=wavelength))
    >>> table["modality"].tolist(), table["embedding"].shape
    (['spectrum'], (1, 128))
    """
    if medium is not None:
        check_choice(medium, ("vacuum", "air"), "medium")
    check_choice(precision, PRECISIONS, "precision")
    if not (np.isscalar(min_coverage) and np.isreal(min_coverage) and 0 <= min_coverage <= 1):
        msg = f"min_coverage is {min_coverage!r}; expected a fraction from 0 to 1."
        raise ValueError(msg)
    if batch_size is not None:
        batch_size = check_integer(batch_size, "batch_size")
    is_batch = isinstance(objects, SpectrumBatch | ImageBatch)
    options = ReadOptions(
        unit=unit, bands=bands, flux=flux, wavelength=wavelength, ivar=ivar, error=error, mask=mask
    )
    objects = sort_objects(objects, options=options, position=position)
    model = _get_model(model, device)
    _check_applies(
        objects, model, is_batch, medium=medium, zero_point=zero_point, position=position
    )
    redshift = given_redshifts(redshift)
    ids = None if ids is None else given_ids(ids)
    given = {"ids": ids, "redshift": redshift, "position": position}
    prepare_options = {
        "medium": medium, "zero_point": zero_point, "pixel_scale": pixel_scale,
        "unit": unit, "bands": bands, "min_coverage": min_coverage,
        "on_error": "raise" if objects.single else "flag",
    }
    encode_options = {
        "batch_size": batch_size, "precision": _resolve_precision(precision, model.device),
        "normalize": normalize,
    }
    chunks, unread = [], iter(objects)
    with tqdm(total=objects.n_objects, disable=not show_progress, unit="object") as progress:
        while items := list(itertools.islice(unread, CHUNK_SIZE)):
            _check_lengths(given, objects)
            chunks.append(_embed_chunk(items, model, given, prepare_options, encode_options))
            progress.total = objects.n_objects  # a file counts as one object until it is read
            progress.update(len(items))
            items = None  # so that two chunks are never in memory at once
    _check_lengths(given, objects)
    columns = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    if isinstance(redshift, dict):
        warn_unmatched(redshift, columns["ids"].tolist())
    failed = np.flatnonzero(columns["flags"] & Flag.FAILED)
    if len(failed):
        msg = (
            f"{len(failed)} of {len(columns['flags'])} objects could not be embedded; their rows "
            f"are masked and the column 'message' says why. The first: "
            f"{columns['messages'][failed[0]]}"
        )
        warnings.warn(msg, FailedObjectWarning, stacklevel=2)
    files, media = columns.pop("file"), columns.pop("medium")
    extra_columns = {"medium": media.astype(str)} if any(columns["modality"] == "spectrum") else {}
    if any(files):
        extra_columns["file"] = files.astype(str)
    return make_embedding_table(
        columns.pop("ids"),
        columns.pop("modality"),
        columns.pop("embedding"),
        model_name=model.name,
        weights_sha256=model.weights_sha256,
        preparation_version=PREPARATION_VERSION,
        extra_columns=extra_columns,
        **columns,
    )


def list_models():
    """List the models that have names.

    Returns
    -------
    `~astropy.table.Table`
        Columns ``name``, ``modalities``, ``dim`` (values in an embedding), ``size`` (MB to
        download, masked where unknown), ``license``, ``source`` and ``description``.

    Examples
    --------
    >>> import astroclip
    >>> "astroclip-small" in astroclip.list_models()["name"]
    True
    """
    presets = list(PRESETS.values())
    n_bytes = [preset.weights.n_bytes for preset in presets]
    size = [np.nan if n is None else n / 1e6 for n in n_bytes]
    return Table(
        {
            "name": [preset.name for preset in presets],
            "modalities": [", ".join(preset.modalities) for preset in presets],
            "dim": [preset.dim for preset in presets],
            "size": MaskedColumn(size, mask=np.isnan(size), unit="MB", format=".1f"),
            "license": [preset.license for preset in presets],
            "source": [preset.source for preset in presets],
            "description": [preset.description for preset in presets],
        }
    )


# ---------------------------------------------------------------------- arguments
def _check_applies(objects, model, is_batch, *, medium, zero_point, position):
    """Raise ValueError if the model, or an argument, applies to none of the objects."""
    if objects.holds(""):
        return  # an object without modality has an error of its own, which explains more
    if not any(objects.holds(modality) for modality in model.modalities):
        (modality,) = (name for name in MODALITIES if name not in model.modalities)
        msg = f"{_mismatch(model, modality)}."
        raise ValueError(msg)
    for name, is_given, modality in (
        ("medium", medium is not None, "spectrum"),
        ("zero_point", zero_point is not None, "image"),
        ("position", position is not None, "image"),
    ):
        if is_given and (is_batch or not objects.holds(modality)):
            found = "are a batch of arrays" if is_batch else f"hold no {modality}"
            msg = f"{name} is given and objects {found}, so that it does not apply; leave it out."
            raise ValueError(msg)


def _mismatch(model, modality, name="objects"):
    """Return that a model does not embed objects of a modality, and which models do."""
    able = [name for name, preset in PRESETS.items() if modality in preset.modalities]
    return (
        f"{name} of modality {modality!r} cannot be embedded by model {model.name!r}, which takes "
        f"{' and '.join(model.modalities)}; expected a model that takes these, such as "
        f"{' or '.join(map(repr, able))}"
    )


def _check_lengths(given, objects):
    """Raise ValueError for arguments of another length than the objects.

    While files are unread, ``objects.n_objects`` is the least number that there are.
    """
    n_objects = objects.n_objects
    for name, values in given.items():
        shape = getattr(values, "shape", ())
        too_long = objects.is_complete and shape != (n_objects,)
        if shape and (too_long or len(shape) > 1 or shape[0] < n_objects):
            advice = ""
            if name == "position" and n_objects == 1:
                advice = " To cut many objects out of one mosaic, pass it by itself, not in a list."
            msg = (
                f"{name} has shape {shape}; expected one value, or one for each of the "
                f"{n_objects} objects.{advice}"
            )
            raise ValueError(msg)


# ---------------------------------------------------------------------- model
@lru_cache(maxsize=2)
def _load_once(name, device, stamp):
    """Return a model, loaded once per name, device and ``stamp`` of its file."""
    from astroclip.models.loading import load_model

    return load_model(name, device=device)


def _get_model(model, device):
    """Return the EmbeddingModel of a name or path, or ``model`` itself if it is one."""
    from astroclip.models.loading import EmbeddingModel, select_device

    if isinstance(model, EmbeddingModel):
        if device is not None and select_device(device) != model.device:
            msg = (
                f"device is {device!r} and the model is on {str(model.device)!r}; expected "
                f"None. Load it there: load_model(..., device={device!r})."
            )
            raise ValueError(msg)
        return model
    if not isinstance(model, str | Path):
        msg = (
            f"model is of type {type(model).__name__}; expected a name of "
            f"astroclip.list_models(), the path of a weights file, or what "
            f"astroclip.load_model returned."
        )
        raise TypeError(msg)
    path = Path(model)
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    return _load_once(str(model), str(select_device(device)), stamp)


def _resolve_precision(precision, device):
    """Return "float32" or "bf16"; "auto" is bf16 on a GPU that computes in it."""
    import torch

    if precision != "auto":
        return precision
    fast = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if fast else "float32"


# ---------------------------------------------------------------------- a chunk
def _embed_chunk(items, model, given, prepare_options, encode_options):
    """Return the columns of the table for a few hundred single objects."""
    n_objects = len(items)
    numbers = np.array([item.number for item in items])
    ids = np.broadcast_to(_take(given["ids"], numbers), n_objects)
    ids = [item.id if name is None else name for item, name in zip(items, ids, strict=True)]
    columns = {
        "ids": np.array(ids),
        "modality": np.array([item.modality for item in items]),
        "file": np.array([item.file for item in items]),
        "embedding": np.full((n_objects, model.dim), np.nan, np.float32),
        "coverage": np.zeros(n_objects, np.float32),
        "flags": np.zeros(n_objects, np.int32),
        "messages": np.full(n_objects, "", dtype=object),
        "medium": np.full(n_objects, "", dtype=object),
        **{name: np.full(n_objects, np.nan) for name in ("ra", "dec", "redshift")},
    }
    usable = np.array([item.fault is None for item in items])
    for row in np.flatnonzero(~usable):
        columns["flags"][row] = items[row].fault.flag
        columns["messages"][row] = str(items[row].fault)
    for modality in MODALITIES:
        rows = np.flatnonzero((columns["modality"] == modality) & usable)
        if len(rows) and modality not in model.modalities:
            columns["flags"][rows] = Flag.FAILED | Flag.BAD_INPUT
            for row in rows:
                columns["messages"][row] = f"{_mismatch(model, modality, items[row].name)}."
        elif len(rows):
            redshift = given["redshift"]
            if isinstance(redshift, dict):
                redshift = np.array([redshift.get(columns["ids"][row], np.nan) for row in rows])
            else:
                redshift = _take(redshift, numbers[rows])
            own = [items[row].identity for row in rows]
            if any(own):  # rows of tables say redshifts
                redshift = np.array(np.broadcast_to(
                    np.nan if redshift is None else redshift, len(rows)
                ), dtype=float)
                for k in np.flatnonzero(np.isnan(redshift)):
                    redshift[k] = (own[k] or {}).get("redshift", np.nan)
            batch = _prepare(
                [items[row] for row in rows], model.preset, redshift=redshift,
                position=_take(given["position"], numbers[rows]), **prepare_options,
            )
            for name in ("coverage", "flags", "messages", "ra", "dec", "redshift"):
                columns[name][rows] = getattr(batch, name)
            if modality == "spectrum":
                columns["medium"][rows] = batch.medium
            for row in rows:  # positions of images come from world coordinates, or their table
                for name in ("ra", "dec") if items[row].identity else ():
                    if np.isnan(columns[name][row]):
                        columns[name][row] = items[row].identity.get(name, np.nan)
            good = np.flatnonzero(~batch.failed)
            if len(good):
                columns["embedding"][rows[good]] = _encode(batch[good], model, encode_options)
    return columns


def _take(values, numbers):
    """Return what a per-object argument says of some objects; one value stands for all."""
    return values[numbers] if getattr(values, "shape", ()) else values


def _prepare(
    items, preset, *, redshift, position, medium, zero_point, pixel_scale, unit, bands,
    min_coverage, on_error,
):
    """Return the batch of single objects of one modality, as the model takes it."""
    first, last = items[0], items[-1]
    if isinstance(first.data, SpectrumBatch | ImageBatch):
        batch = first.data[first.row : last.row + 1]
        batch = _fit_batch(batch, preset, first.number, min_coverage)
        if redshift is not None:
            redshift = np.broadcast_to(redshift, len(batch))
            batch = dataclasses.replace(batch, redshift=redshift)
        return batch
    if first.modality == "spectrum":
        return prepare_spectra(
            items, wavelength=preset.spectrum.grid, frame=preset.spectrum.frame,
            redshift=redshift, medium=medium, unit=unit, min_coverage=min_coverage,
            on_error=on_error,
        )
    return prepare_images(
        items, bands=preset.image.bands, pixel_scale=preset.image.pixel_scale,
        size=preset.image.crop, redshift=redshift, position=position, zero_point=zero_point,
        image_scale=pixel_scale, unit=unit, stack_bands=bands,
        missing_bands="fill" if preset.image.missing_bands else "raise",
        min_coverage=min_coverage, on_error=on_error,
    )


def _fit_batch(batch, preset, first, min_coverage):
    """Return rows of the user's batch on the model's wavelengths, or with its bands.

    Rows with too little valid data fail; errors number them from ``first``.
    """
    if isinstance(batch, SpectrumBatch):
        batch = _fit_spectra(batch, preset.spectrum)
    else:
        batch = _fit_images(batch, preset.image)
    bad = bad_fraction(batch.mask)
    flags, messages = batch.flags.copy(), batch.messages.copy()
    for row in np.flatnonzero(~batch.failed):
        error = coverage_error(
            batch.coverage[row], min_coverage, f"objects[{first + row}]", of="the model's input"
        )
        flags[row] |= coverage_flags(batch.coverage[row], bad[row])
        if error is not None:
            flags[row] |= error.flag
            messages[row] = str(error)
    return dataclasses.replace(batch, flags=flags, messages=messages)


def _fit_spectra(batch, target):
    """Return a spectrum batch resampled to the model's grid unless it is on it."""
    if batch.frame != target.frame:
        msg = (
            f"objects is a SpectrumBatch in the {batch.frame} frame; expected the "
            f"{target.frame} frame, which the model takes. Make it with "
            f"prepare_spectra(..., frame={target.frame!r})."
        )
        raise ValueError(msg)
    grid = wavelength_grid(target.grid)
    if batch.wavelength.shape == grid.shape and np.allclose(batch.wavelength, grid, rtol=1e-7):
        return batch
    new = resample_flux(batch.wavelength, batch.flux, batch.ivar, batch.mask, grid)
    mask = new.mask | batch.failed[:, None]
    return dataclasses.replace(
        batch,
        wavelength=grid,
        flux=fill_bad_pixels(new.flux, mask).astype(np.float32),
        ivar=np.where(mask, 0, new.ivar).astype(np.float32),
        mask=mask,
        coverage=(1 - mask.mean(axis=1)).astype(np.float32),
    )


def _fit_images(batch, target):
    """Return an image batch with the model's bands in the model's order."""
    if abs(batch.pixel_scale / target.pixel_scale - 1) > SCALE_TOLERANCE:
        msg = (
            f"objects is an ImageBatch of {batch.pixel_scale:g} arcsec per pixel; expected "
            f"{target.pixel_scale:g}, which the model takes. Pass CCDData with world "
            f"coordinates, which are resampled, or resample the arrays."
        )
        raise ValueError(msg)
    size = batch.pixels.shape[-1]
    if size < target.crop:
        msg = (
            f"objects is an ImageBatch of {size} x {size} pixels; expected at least "
            f"{target.crop} x {target.crop}, which the model takes. Cut larger images."
        )
        raise ValueError(msg)
    if tuple(batch.bands) == tuple(target.bands):
        return batch
    missing = [band for band in target.bands if band not in batch.bands]
    if missing and not target.missing_bands:
        msg = (
            f"objects is an ImageBatch of the bands {', '.join(batch.bands)}; the model also "
            f"needs {', '.join(missing)}. Add them, or name a model that accepts missing bands."
        )
        raise ValueError(msg)
    shape = (len(batch), len(target.bands), size, size)
    pixels, mask = np.zeros(shape, np.float32), np.ones(shape, bool)
    for number, band in enumerate(target.bands):
        if band in batch.bands:
            source = batch.bands.index(band)
            pixels[:, number], mask[:, number] = batch.pixels[:, source], batch.mask[:, source]
    return dataclasses.replace(
        batch,
        pixels=pixels,
        mask=mask,
        bands=tuple(target.bands),
        coverage=(1 - mask.mean(axis=(1, 2, 3))).astype(np.float32),
        flags=batch.flags | (Flag.MISSING_BAND if missing else 0),
    )


def _encode(batch, model, options):
    """Return the embeddings (N, D) of a batch that fits the model."""
    if isinstance(batch, SpectrumBatch):
        return model.encode_spectra(batch.flux, batch.ivar, batch.mask, **options)
    target = model.preset.image
    pixels = center_crop(batch.pixels, target.crop)
    pixels = normalize_images(pixels, bands=target.bands, normalization=target.normalization)
    return model.encode_images(pixels, center_crop(batch.mask, target.crop), **options)
