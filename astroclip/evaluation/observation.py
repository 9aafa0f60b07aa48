"""Simulated pairs as a survey records them, and their embeddings beside what is true of them."""

import dataclasses
import inspect
import warnings
from pathlib import Path

import numpy as np

from astroclip._validation import check_choice
from astroclip.evaluation.protocols import upstream_ssfr
from astroclip.exceptions import FailedObjectWarning
from astroclip.preparation import ImageBatch, SpectrumBatch, resample_flux, wavelength_grid
from astroclip.tables import embedding_matrix

__all__ = [
    "EmbeddedPairs",
    "embed_pairs",
    "embed_quietly",
    "iterate_pairs",
    "observe_pairs",
    "record_images",
    "record_spectra",
    "true_properties",
]

INSTRUMENTS = ("desi", "sdss", "varied")
CAMERAS = {"legacy": "legacysurvey", "sdss": "sdss", "varied": "varied"}
PIXEL_SCALE = 0.524  # arcsec, of the simulated images
SIGMA_OF_FWHM = 1 / 2.355
SCALE_TOLERANCE = 0.02
PROPERTIES = (
    "redshift",
    "log_stellar_mass",
    "log_age",
    "log_ssfr",
    "log_metallicity",
)
"""Properties that are scored, where the pairs have them."""
GALAXY_FIELDS = (
    "magnitude", "fibre_magnitude", "disc_radius", "bulge_radius", "bulge_to_total",
    "axis_ratio",
)


def record_spectra(pairs, *, seed, instrument="desi", noise=1.0, wavelength_range=None):
    """Record the noiseless spectra of simulated pairs.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`
        From `astroclip.simulation.pairs.read_pairs`.
    seed : int or sequence of int
        Fixes every draw. With the same seed, ``noise`` only scales the noise.
    instrument : str
        ``"desi"``, ``"sdss"``, or ``"varied"``: one drawn at random for each spectrum.
    noise : float
        Noise level relative to what is usual for the instrument.
    wavelength_range : (float, float), optional
        Angstrom; pixels outside are masked.

    Returns
    -------
    `~astroclip.preparation.SpectrumBatch`
        Observed frame, with the true redshifts.

    Raises
    ------
    ValueError
        If the instrument is unknown.
    """
    import torch

    from astroclip.simulation import spectrographs as instruments

    check_choice(instrument, INSTRUMENTS, "instrument")
    record = getattr(instruments, f"observe_spectra_{instrument}")
    usual = inspect.signature(record).parameters
    options = {"templates": instruments.noise_templates()}
    if instrument == "varied":
        low, high = usual["signal_to_noise"].default
        options |= {"broad": True, "signal_to_noise": (low / noise, high / noise)}
    else:
        low, high = usual["noise_range"].default
        options["noise_range"] = (low * noise, high * noise)
    flux = torch.from_numpy(np.asarray(pairs["spectrum"], dtype=np.float32))
    seen = record(flux, _generator(seed, "spectrum"), **options)
    mask = seen.mask.numpy()
    if wavelength_range is not None:
        low, high = wavelength_range
        wavelength = instruments.WAVELENGTH
        mask |= (wavelength < low) | (wavelength > high)
    return SpectrumBatch.from_arrays(
        instruments.WAVELENGTH,
        seen.flux.numpy(),
        ivar=seen.ivar.numpy(),
        mask=mask,
        redshift=pairs["redshift"],
    )


def record_images(pairs, *, seed, camera="legacy", depth_loss=0.0, blur=1.0):
    """Record the noiseless images of simulated pairs.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`
        From `astroclip.simulation.pairs.read_pairs`.
    seed : int or sequence of int
    camera : str
        ``"legacy"`` (the Legacy Surveys' DR9), ``"sdss"``, or ``"varied"``: one drawn at
        random for each image.
    depth_loss : float
        Magnitudes by which images of the Legacy Surveys are shallower than DR9.
    blur : float
        Seeing relative to that of the pairs, one or more.

    Returns
    -------
    `~astroclip.preparation.ImageBatch`
        g, r, z in nanomaggies.

    Raises
    ------
    ValueError
        If the camera is unknown, ``blur`` is below one (light is not sharpened again), or
        ``depth_loss`` is given for another camera.
    """
    import torch

    from astroclip.simulation import cameras

    check_choice(camera, CAMERAS, "camera")
    if blur < 1:
        msg = f"blur is {blur}; expected one or more: images can be blurred, not sharpened."
        raise ValueError(msg)
    if depth_loss and camera != "legacy":
        msg = f"depth_loss is {depth_loss}; expected 0 for camera {camera!r}, whose depth is known."
        raise ValueError(msg)
    pixels = np.asarray(pairs["image"], dtype=np.float32)
    seeing = np.asarray(pairs["seeing"], dtype=np.float32)
    if blur > 1:
        width = seeing * np.sqrt(blur**2 - 1) * SIGMA_OF_FWHM / PIXEL_SCALE
        pixels = _blurred(pixels, width)
    record, options = cameras.observe_images, {"pixel_scale": PIXEL_SCALE}
    if camera == "varied":
        record = cameras.observe_images_varied
    else:
        options["camera"] = CAMERAS[camera]
    if depth_loss:
        depths = cameras.CAMERAS["legacysurvey"].depths
        options["depths"] = tuple(depth - depth_loss for depth in depths)
    seen = record(
        torch.from_numpy(pixels),
        torch.from_numpy(seeing * np.float32(blur)),
        _generator(seed, "image"),
        **options,
    )
    return ImageBatch.from_arrays(
        seen.pixels.numpy(),
        mask=seen.mask.numpy(),
        pixel_scale=PIXEL_SCALE,
        redshift=pairs["redshift"],
    )


def observe_pairs(pairs, *, seed, instrument="desi"):
    """Record pairs once as a survey does; see `record_spectra` and `record_images`.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`
    seed : int or sequence of int
    instrument : str
        Of the spectra.

    Returns
    -------
    spectra : `~astroclip.preparation.SpectrumBatch`
    images : `~astroclip.preparation.ImageBatch`
    """
    return record_spectra(pairs, seed=seed, instrument=instrument), record_images(pairs, seed=seed)


def _generator(seed, modality):
    """Return a `torch.Generator` of its own for each seed and modality."""
    import torch

    entropy = np.random.SeedSequence((*np.atleast_1d(seed).tolist(), modality == "image"))
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))


def _blurred(pixels, width):
    """Return images (N, 3, S, S) convolved with Gaussians of ``width`` (N, 3) pixels."""
    from scipy.ndimage import gaussian_filter

    blurred = np.empty_like(pixels)
    for position in np.ndindex(width.shape):
        blurred[position] = gaussian_filter(pixels[position], width[position], mode="nearest")
    return blurred


# ---------------------------------------------------------------------- embeddings
def embed_quietly(objects, model):
    """Return the embedding table of objects; those that fail are masked without a warning."""
    from astroclip.embedding import embed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)  # counted in the scores
        return embed(objects, model=model)


def true_properties(pairs):
    """Return the properties that are scored, by name, in the order of the tables.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`

    Returns
    -------
    dict of str to (N,) float64 `numpy.ndarray`
        Those of redshift, stellar mass, age, specific star-formation rate and metallicity
        (all log10 but the redshift) that the pairs have, and `upstream_ssfr`.
    """
    truth = {
        name: np.asarray(pairs[name], dtype=float) for name in PROPERTIES if name in pairs
    }
    return {**truth, "upstream_ssfr": upstream_ssfr(pairs)}


@dataclasses.dataclass
class EmbeddedPairs:
    """Pairs as a model sees them, and what is true of them.

    Attributes
    ----------
    tables : dict of str to `~astropy.table.QTable`
        Embeddings by modality, with the true properties as columns.
    truth : dict of str to (N,) `numpy.ndarray`
        See `true_properties`.
    galaxies : dict of str to `numpy.ndarray`
        True ``magnitude`` and ``fibre_magnitude`` (N, 3), ``disc_radius``, ``bulge_radius``,
        ``bulge_to_total`` and ``axis_ratio``.
    features : (N, P + 1) float16 `numpy.ndarray` or None
        Spectra as a bundled encoder sees them: arcsinh of the flux over its weighted mean,
        and log10 of that mean.
    """

    tables: dict
    truth: dict
    galaxies: dict
    features: np.ndarray | None = None

    def __len__(self):
        return len(self.truth["redshift"])

    def embeddings(self, modality):
        """Return the embeddings (N, D) of a modality, NaN for those that failed."""
        return embedding_matrix(self.tables[modality])[0]


def iterate_pairs(source):
    """Yield shards of pairs from memory or from folders, one in memory at a time.

    Parameters
    ----------
    source : dict of str to `numpy.ndarray`, path-like, or sequence of path-like
        Pairs, or folders that `astroclip.simulation.pairs.write_pairs` filled.

    Yields
    ------
    dict of str to `numpy.ndarray`

    Raises
    ------
    FileNotFoundError
        If a folder holds no shard.
    """
    if isinstance(source, dict):
        yield source
        return
    folders = [source] if isinstance(source, str | Path) else source
    for folder in folders:
        paths = sorted(Path(folder).glob("pairs-*.npz"))
        if not paths:
            msg = (
                f"folder {str(folder)!r} holds no pairs-*.npz shard; make some with "
                f"astroclip.simulation.pairs.write_pairs."
            )
            raise FileNotFoundError(msg)
        for path in paths:
            with np.load(path, allow_pickle=False) as archive:
                yield {name: archive[name] for name in archive.files}


def embed_pairs(
    model, source, *, seed, modalities=("spectrum", "image"), keep_features=False,
    spectra=None, images=None,
):
    """Record pairs and embed them.

    Parameters
    ----------
    model : `~astroclip.models.EmbeddingModel`
        Modalities it does not take are left out, and images on another pixel scale.
    source : dict, path-like or sequence of path-like
        See `iterate_pairs`.
    seed : int
    modalities : sequence of str
    keep_features : bool
        Whether to keep the recorded spectra for other methods.
    spectra, images : dict, optional
        Options of `record_spectra` and `record_images`.

    Returns
    -------
    `EmbeddedPairs`
    """
    from astropy.table import vstack

    parts = []
    for number, pairs in enumerate(iterate_pairs(source)):
        seen = {}
        if "spectrum" in modalities and (keep_features or "spectrum" in model.modalities):
            seen["spectrum"] = record_spectra(pairs, seed=(seed, number), **(spectra or {}))
        if "image" in modalities and _takes_images(model, pairs):
            seen["image"] = record_images(pairs, seed=(seed, number), **(images or {}))
        features = _encoder_input(seen["spectrum"]) if keep_features else None
        tables = {
            name: embed_quietly(_in_frame(batch, model), model)
            for name, batch in seen.items()
            if name in model.modalities
        }
        galaxies = {name: np.asarray(pairs[name], dtype=float) for name in GALAXY_FIELDS}
        parts.append(EmbeddedPairs(tables, true_properties(pairs), galaxies, features))
    joined = EmbeddedPairs(
        {
            name: vstack([part.tables[name] for part in parts], metadata_conflicts="silent")
            for name in parts[0].tables
        },
        *(
            {
                name: np.concatenate([getattr(part, field)[name] for part in parts])
                for name in getattr(parts[0], field)
            }
            for field in ("truth", "galaxies")
        ),
        np.concatenate([part.features for part in parts]) if keep_features else None,
    )
    for name, table in joined.tables.items():
        table["id"] = [f"pair-{number}" for number in range(len(table))]
        for key, values in joined.truth.items():
            table[key] = values
        joined.tables[name] = table
    return joined


def _takes_images(model, pairs):
    """Return whether the model takes images of the pairs' size and pixel scale."""
    if "image" not in model.modalities:
        return False
    wanted = model.preset.image
    same_scale = abs(wanted.pixel_scale / PIXEL_SCALE - 1) < SCALE_TOLERANCE
    return same_scale and wanted.crop <= pairs["image"].shape[-1]


def _encoder_input(batch):
    """Return spectra as the bundled encoders see them, see `EmbeddedPairs`."""
    import torch

    from astroclip.models.small import spectrum_channels

    arrays = (torch.from_numpy(getattr(batch, name)) for name in ("flux", "ivar", "mask"))
    channels, level = spectrum_channels(*arrays)
    return torch.cat([channels[:, 0], level[:, :1]], dim=1).numpy().astype(np.float16)


def _in_frame(batch, model):
    """Return a batch in the frame that the model takes; the true redshifts are used."""
    if not isinstance(batch, SpectrumBatch) or model.preset.spectrum.frame == batch.frame:
        return batch
    stretch = 1 + batch.redshift[:, None]
    grid = wavelength_grid(model.preset.spectrum.grid)
    new = resample_flux(
        batch.wavelength / stretch, batch.flux * stretch, batch.ivar / stretch**2, batch.mask, grid
    )
    return SpectrumBatch.from_arrays(
        grid, new.flux, ivar=new.ivar, mask=new.mask, redshift=batch.redshift, frame="rest"
    )
