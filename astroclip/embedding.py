"""Embed spectra and images: astropy objects in, one table out."""

import re
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.utils.console import ProgressBar

from astroclip._objects import sort_objects
from astroclip._validation import check_choice, check_integer, check_length
from astroclip.exceptions import FailedObjectWarning, PreparationError
from astroclip.models.presets import PRESETS
from astroclip.preparation import PREPARATION_VERSION
from astroclip.preparation.images import center_crop, normalize_images, prepare_images
from astroclip.preparation.spectra import prepare_spectra
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
        Arithmetic of the network. bf16 is faster on GPUs, and agrees with float32 to a
        cosine of 0.999 or better. "auto" takes bf16 on a GPU that has it.
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
    >>> table["modality"][0], table["embedding"].shape
    ('spectrum', (1, 128))
    """
    check_choice(medium, ("vacuum", "air"), "medium")
    check_choice(precision, PRECISIONS, "precision")
    if batch_size is not None:
        batch_size = check_integer(batch_size, "batch_size")
    rows = sort_objects(objects)
    encoder = _get_model(model, device)
    _check_modality(encoder, rows)
    arguments = _RowArguments.check(len(rows), redshift=redshift, ids=ids, position=position)
    job = _Job(
        rows=rows,
        encoder=encoder,
        arguments=arguments,
        prepare_options={"min_coverage": min_coverage}
        | ({"medium": medium} if rows.modality == "spectrum" else {"zero_point": zero_point}),
        encode_options={
            "batch_size": batch_size,
            "precision": _resolve_precision(precision, encoder.device),
            "normalize": normalize,
        },
    )
    return job.run(show_progress=show_progress)
