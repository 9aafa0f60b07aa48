"""Embed spectra and images: astropy objects in, one table out."""

import re
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn, Table
from tqdm import tqdm

from astroclip._model_input import fit_batch, network_arrays, prepare_rows
from astroclip._validation import check_choice, check_integer, check_length
from astroclip.exceptions import FailedObjectWarning, PreparationError
from astroclip.models.presets import PRESETS
from astroclip.preparation import PREPARATION_VERSION
from astroclip.preparation.objects import ObjectRows, sort_objects
from astroclip.tables import Flag, make_embedding_table

__all__ = ["embed", "list_models"]

CHUNK_SIZE = 512  # objects prepared at a time: 512 spectra of 7,781 pixels are 36 MB
PRECISIONS = ("float32", "bf16", "auto")


def embed(
    objects,
    *,
    model="astroclip-small",
    redshift=None,
    medium="vacuum",
    ids=None,
    position=None,
    zero_point=None,
    normalize=True,
    device=None,
    precision="float32",
    batch_size=None,
    min_coverage=0.1,
    show_progress=False,
):
    """Embed spectra or images of galaxies.

    Objects are prepared for the model (units, wavelengths, pixel scale, crop), encoded and
    returned as a table with one row per object, in input order. They are prepared and
    encoded a few hundred at a time, so memory beyond the input and the result is bounded.

    Parameters
    ----------
    objects : object
        Spectra: a `~specutils.Spectrum` (formerly Spectrum1D) whose flux has shape
        (n_pixels,) or (n_objects, n_pixels); a `~specutils.SpectrumList` (the three arms of
        DESI are recognised and merged), a `~specutils.SpectrumCollection`. Images: a dict of
        band name to 2-D `~astropy.nddata.CCDData`, or a 3-D `~astropy.nddata.CCDData` with
        the bands along its first axis. Also the path of a file that holds either, a list of
        any of these, of one modality, or a `~astroclip.preparation.SpectrumBatch` or
        `~astroclip.preparation.ImageBatch` of arrays in memory.
    model : str, path-like or EmbeddingModel, optional
        A name of `list_models`, a local weights file, a hub id, or what
        `astroclip.load_model` returned.
    redshift : float or (N,) array_like, optional
        Redshifts; NaN where unknown. Needed by models that take spectra in the rest frame;
        copied to the table. By default a nonzero ``Spectrum.redshift`` is used.
    medium : {"vacuum", "air"}, optional
        Medium of the spectra's wavelengths. Air wavelengths are converted to vacuum.
    ids : sequence of str, optional
        Names of the objects. By default those of the files, or the row numbers.
    position : `~astropy.coordinates.SkyCoord`, optional
        Sky position of the target in each image, scalar or of length N; the images need
        celestial world coordinates. By default the target is at the centre.
    zero_point : float or dict of str to float, optional
        AB magnitude of one count per second in the images, for all bands or per band. By
        default taken from the unit or the header.
    normalize : bool, optional
        Whether to scale embeddings to unit length.
    device : str or `torch.device`, optional
        By default CUDA if there is a GPU, else MPS, else the CPU.
    precision : {"float32", "bf16", "auto"}, optional
        Arithmetic of the network. Embeddings in bf16 and float32 agree to a cosine of
        0.9999 (see the user guide). "auto" takes bf16 on a GPU that has it.
    batch_size : int, optional
        Objects per pass through the network; by default chosen for the device.
    min_coverage : float, optional
        Objects with a smaller fraction of the model's input covered by valid data fail.
    show_progress : bool, optional
        Whether to draw a progress bar on the standard error stream.

    Returns
    -------
    table : `~astropy.table.QTable`
        Columns ``id``, ``modality`` ("spectrum" or "image"), ``embedding`` (float32,
        D values), ``coverage`` (0 to 1), ``flags`` (the bits of
        `astroclip.tables.Flag`), ``message``, and ``ra``, ``dec`` (deg), ``redshift`` where
        known. The meta names the model (MODEL), the sha256 of its weights (WSHA), the
        versions of preparation (PREPVER) and package (ASTROCLP), and the DATE.

        An object of a list that cannot be used keeps its row: its embedding is masked, its
        flags include ``FAILED`` and ``message`` says why. One
        `~astroclip.exceptions.FailedObjectWarning` sums these up.

    Raises
    ------
    TypeError
        For objects of another type, or spectra and images in one list.
    ValueError
        For an empty list, an unknown option, model or device, arguments of another
        length than ``objects``, or a model without an encoder for these objects.
    PreparationError, `~astropy.units.UnitsError`, OSError
        If a lone object, passed outside a list, cannot be used.

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
    check_choice(medium, ("vacuum", "air"), "medium")
    check_choice(precision, PRECISIONS, "precision")
    _check_fraction(min_coverage, "min_coverage")
    if batch_size is not None:
        batch_size = check_integer(batch_size, "batch_size")
    rows = sort_objects(objects)
    model = _get_model(model, device)
    _check_modality(model, rows.modality)
    _check_applies(rows, medium=medium, zero_point=zero_point, position=position)
    options = {"min_coverage": min_coverage}
    options |= {"medium": medium} if rows.modality == "spectrum" else {"zero_point": zero_point}
    job = _Job(
        rows=rows,
        model=model,
        ids=rows.ids() if ids is None else check_length(ids, len(rows), "ids").astype(str),
        redshift=_check_redshift(redshift, len(rows)),
        position=_check_position(position, rows),
        prepare_options=options,
        encode_options={
            "batch_size": batch_size,
            "precision": _resolve_precision(precision, model.device),
            "normalize": normalize,
        },
    )
    columns = job.run(show_progress=show_progress)
    _warn_of_failures(columns)
    return make_embedding_table(
        columns.pop("ids"),
        rows.modality,
        columns.pop("embedding"),
        model_name=model.name,
        weights_sha256=model.weights_sha256,
        preparation_version=PREPARATION_VERSION,
        **columns,
    )


def list_models():
    """List the models that have names.

    Returns
    -------
    `~astropy.table.Table`
        Columns ``name``, ``modalities``, ``dim`` (values in an embedding), ``size`` (MB to
        download, masked where unknown), ``licence``, ``source`` and ``description``.

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
            "licence": [preset.licence for preset in presets],
            "source": [preset.source for preset in presets],
            "description": [preset.description for preset in presets],
        }
    )


# ---------------------------------------------------------------------- arguments
def _check_fraction(value, name):
    """Raise ValueError unless ``value`` is a number from 0 to 1."""
    if not (np.isscalar(value) and np.isreal(value) and 0 <= value <= 1):
        msg = f"{name} is {value!r}; expected a fraction from 0 to 1."
        raise ValueError(msg)


def _check_redshift(redshift, n_objects):
    """Return redshifts as a float array (N,), or None where none were given."""
    if redshift is None:
        return None
    try:
        redshift = np.asarray(redshift, dtype=float)
    except (TypeError, ValueError) as error:
        msg = f"redshift is {redshift!r}; expected a number, or one for each object."
        raise TypeError(msg) from error
    return check_length(redshift, n_objects, "redshift")


def _check_applies(rows, *, medium, zero_point, position):
    """Raise ValueError for arguments that would be ignored with these objects."""
    spectra = rows.modality == "spectrum" and not rows.is_batch
    images = rows.modality == "image" and not rows.is_batch
    kind = f"a batch of {rows.modality} arrays" if rows.is_batch else f"of {rows.modality} data"
    for name, given, applies in (
        ("medium", medium != "vacuum", spectra),
        ("zero_point", zero_point is not None, images),
        ("position", position is not None, images),
    ):
        if given and not applies:
            msg = (
                f"{name} is given and objects are {kind}, to which it does not apply; leave it out."
            )
            raise ValueError(msg)


def _check_position(position, rows):
    """Return one sky position or as many as objects, or None where none were given."""
    if position is None:
        return None
    if not isinstance(position, SkyCoord):
        msg = (
            f"position is of type {type(position).__name__}; expected an "
            f"astropy.coordinates.SkyCoord, such as SkyCoord(ra, dec, unit='deg')."
        )
        raise TypeError(msg)
    if not position.isscalar and position.shape != (len(rows),):
        msg = (
            f"position has shape {position.shape}; expected one position, or one for each of "
            f"the {len(rows)} objects."
        )
        raise ValueError(msg)
    return position


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


def _check_modality(model, modality):
    """Raise ValueError if the model has no encoder for these objects."""
    if modality not in model.modalities:
        able = [name for name, preset in PRESETS.items() if modality in preset.modalities]
        msg = (
            f"model {model.name!r} takes objects of modality {' and '.join(model.modalities)} "
            f"and objects are of modality {modality!r}; expected a model that takes these, "
            f"such as {' or '.join(map(repr, able))}."
        )
        raise ValueError(msg)


def _resolve_precision(precision, device):
    """Return "float32" or "bf16"; "auto" is bf16 on a GPU that computes in it."""
    import torch

    if precision != "auto":
        return precision
    fast = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if fast else "float32"


# ---------------------------------------------------------------------- streaming
@dataclass(eq=False)
class _Job:
    """The objects, model and options of one call."""

    rows: ObjectRows
    model: object
    ids: np.ndarray  # (N,)
    redshift: np.ndarray | None  # (N,)
    position: SkyCoord | None  # scalar or (N,)
    prepare_options: dict
    encode_options: dict

    def run(self, *, show_progress):
        """Return the columns of the embedding table, each of length N."""
        n_objects = len(self.rows)
        columns = {
            "ids": self.ids,
            "embedding": np.full((n_objects, self.model.dim), np.nan, np.float32),
            "coverage": np.zeros(n_objects, np.float32),
            "flags": np.zeros(n_objects, np.int32),
            "messages": np.full(n_objects, "", dtype=object),
            **{name: np.full(n_objects, np.nan) for name in ("ra", "dec", "redshift")},
        }
        with tqdm(total=n_objects, disable=not show_progress, unit="object") as progress:
            for start in range(0, n_objects, CHUNK_SIZE):
                stop = min(start + CHUNK_SIZE, n_objects)
                self._fill(columns, start, stop)
                progress.update(stop - start)
        return columns

    def _fill(self, columns, start, stop):
        """Prepare and encode the rows from ``start`` to ``stop`` and put them in the columns."""
        content = self.rows[start:stop]
        numbers = np.arange(start, stop)
        if isinstance(content, list):
            unread = np.array([isinstance(item, PreparationError) for item in content])
            for number in numbers[unread]:
                error = content[number - start]
                columns["flags"][number], columns["messages"][number] = error.flag, str(error)
            content = [content[k] for k in np.flatnonzero(~unread)]
            numbers = numbers[~unread]
        if not len(numbers):
            return
        batch = self._prepare(content, numbers)
        for name in ("coverage", "flags", "ra", "dec", "redshift"):
            columns[name][numbers] = getattr(batch, name)
        columns["messages"][numbers] = [_renumber(text, numbers) for text in batch.messages]
        good = np.flatnonzero(~batch.failed)
        if len(good):
            columns["embedding"][numbers[good]] = self._encode(batch[good])

    def _prepare(self, content, numbers):
        """Return the batch of the objects of rows ``numbers``."""
        if self.rows.is_batch:
            batch = fit_batch(
                content, self.model.preset, min_coverage=self.prepare_options["min_coverage"]
            )
            given = self.redshift is not None
            return replace(batch, redshift=self.redshift[numbers]) if given else batch
        options = dict(self.prepare_options)
        if self.position is not None:
            shared = self.position.isscalar
            options["position"] = self.position if shared else self.position[numbers]
        return prepare_rows(
            content[0] if self.rows.lone else content,
            self.model.preset,
            modality=self.rows.modality,
            on_error="raise" if self.rows.lone else "flag",
            ids=self.ids[numbers],
            redshift=None if self.redshift is None else self.redshift[numbers],
            **options,
        )

    def _encode(self, batch):
        """Return the embeddings (N, D) of a batch without failed rows."""
        arrays = network_arrays(batch, self.model.preset)
        spectra = self.rows.modality == "spectrum"
        encode = self.model.encode_spectra if spectra else self.model.encode_images
        return encode(*arrays, **self.encode_options)


def _renumber(message, numbers):
    """Return a message about ``objects[k]`` of a chunk with the object's row in the input."""
    return re.sub(r"^objects\[(\d+)\]", lambda m: f"objects[{numbers[int(m[1])]}]", message)


def _warn_of_failures(columns):
    """Warn once of all objects that could not be embedded."""
    failed = np.flatnonzero(columns["flags"] & Flag.FAILED)
    if not len(failed):
        return
    msg = (
        f"{len(failed)} of {len(columns['flags'])} objects could not be embedded; their rows "
        f"are masked and the column 'message' says why. The first: "
        f"{columns['messages'][failed[0]]}"
    )
    warnings.warn(msg, FailedObjectWarning, stacklevel=3)
