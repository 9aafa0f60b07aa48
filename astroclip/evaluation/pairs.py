"""Simulated pairs as a survey records them, and their embeddings beside what is true of them."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch
from astropy.table import vstack

from astroclip._validation import check_choice
from astroclip.embedding import embed
from astroclip.evaluation.protocols import upstream_ssfr
from astroclip.exceptions import FailedObjectWarning
from astroclip.models.small import spectrum_channels
from astroclip.preparation import ImageBatch, SpectrumBatch, resample_flux, wavelength_grid
from astroclip.simulation.cameras import CAMERAS, observe_images, observe_images_varied
from astroclip.simulation.spectrographs import (
    WAVELENGTH,
    noise_templates,
    observe_spectra_desi,
    observe_spectra_sdss,
    observe_spectra_varied,
)
from astroclip.tables import embedding_matrix
from astroclip.training.observers import PIXEL_SCALE, blur_images

__all__ = [
    "EmbeddedPairs",
    "embed_pairs",
    "embed_quietly",
    "iterate_pairs",
    "record_images",
    "record_spectra",
    "true_properties",
]

# how an instrument records, the option that sets its noise, and what is usual for it
SPECTROGRAPHS = {
    "desi": (observe_spectra_desi, "noise_range", (0.2, 0.9)),
    "sdss": (observe_spectra_sdss, "noise_range", (0.4, 1.6)),
    "varied": (observe_spectra_varied, "signal_to_noise", (0.7, 42.0)),
}
SCALE_TOLERANCE = 0.02  # relative: images of another pixel scale do not serve a model
PROPERTIES = ("redshift", "log_stellar_mass", "log_age", "log_ssfr", "log_metallicity")
GALAXY_FIELDS = (
    "magnitude", "fibre_magnitude", "disc_radius", "bulge_radius", "bulge_to_total",
    "axis_ratio",
)


# ---------------------------------------------------------------------- recording
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
    check_choice(instrument, SPECTROGRAPHS, "instrument")
    observe, option, (low, high) = SPECTROGRAPHS[instrument]
    options = {"templates": noise_templates()}
    if instrument == "varied":  # whose noise is relative to the flux
        options |= {"broad": True, option: (low / noise, high / noise)}
    else:
        options[option] = (low * noise, high * noise)
    flux = torch.from_numpy(np.asarray(pairs["spectrum"], dtype=np.float32))
    recorded = observe(flux, _generator(seed, "spectrum"), **options)
    mask = recorded.mask.numpy()
    if wavelength_range is not None:
        low, high = wavelength_range
        mask |= (low > WAVELENGTH) | (high < WAVELENGTH)
    return SpectrumBatch.from_arrays(
        WAVELENGTH, recorded.flux.numpy(), ivar=recorded.ivar.numpy(), mask=mask,
        redshift=pairs["redshift"],
    )


def record_images(pairs, *, seed, camera="legacysurvey", depth_loss=0.0, blur=1.0):
    """Record the noiseless images of simulated pairs.

    Parameters
    ----------
    pairs : dict of str to `numpy.ndarray`
        From `astroclip.simulation.pairs.read_pairs`.
    seed : int or sequence of int
    camera : str
        ``"legacysurvey"`` (DR9), ``"sdss"``, or ``"varied"``: one drawn at random for each
        image.
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
    check_choice(camera, (*CAMERAS, "varied"), "camera")
    if blur < 1:
        msg = f"blur is {blur}; expected one or more: images can be blurred, not sharpened."
        raise ValueError(msg)
    if depth_loss and camera != "legacysurvey":
        msg = f"depth_loss is {depth_loss}; expected 0 for camera {camera!r}, whose depth is known."
        raise ValueError(msg)
    pixels = torch.from_numpy(np.asarray(pairs["image"], dtype=np.float32))  # (N, 3, S, S)
    seeing = torch.from_numpy(np.asarray(pairs["seeing"], dtype=np.float32))  # FWHM (N, 3), arcsec
    if blur > 1:  # the widths of Gaussians add in quadrature
        pixels = blur_images(pixels, seeing * (blur**2 - 1) ** 0.5)
    arguments = (pixels, seeing * blur, _generator(seed, "image"))
    if camera == "varied":
        recorded = observe_images_varied(*arguments, pixel_scale=PIXEL_SCALE)
    else:
        depths = tuple(depth - depth_loss for depth in CAMERAS[camera].depths)
        recorded = observe_images(
            *arguments, camera=camera, pixel_scale=PIXEL_SCALE, depths=depths
        )
    return ImageBatch.from_arrays(
        recorded.pixels.numpy(), mask=recorded.mask.numpy(), pixel_scale=PIXEL_SCALE,
        redshift=pairs["redshift"],
    )


def _generator(seed, modality):
    """Return a `torch.Generator` of its own for each seed and modality."""
    entropy = np.random.SeedSequence((*np.atleast_1d(seed).tolist(), modality == "image"))
    return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))


# ---------------------------------------------------------------------- embeddings
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
    for folder in [source] if isinstance(source, str | Path) else source:
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
    tables, truth, galaxies, features = [], [], [], []
    for number, pairs in enumerate(iterate_pairs(source)):
        embedded = {}
        if "spectrum" in modalities and (keep_features or "spectrum" in model.modalities):
            batch = record_spectra(pairs, seed=(seed, number), **(spectra or {}))
            if keep_features:
                features.append(_encoder_input(batch))
            if "spectrum" in model.modalities:
                embedded["spectrum"] = embed_quietly(_in_frame_of(model, batch), model)
        if "image" in modalities and _takes_images(model, pairs):
            batch = record_images(pairs, seed=(seed, number), **(images or {}))
            embedded["image"] = embed_quietly(batch, model)
        tables.append(embedded)
        truth.append(true_properties(pairs))
        galaxies.append({name: np.asarray(pairs[name], dtype=float) for name in GALAXY_FIELDS})
    truth, galaxies = (
        {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        for shards in (truth, galaxies)
    )
    joined = {}
    for modality in tables[0]:
        shards = [embedded[modality] for embedded in tables]
        table = vstack(shards, metadata_conflicts="silent")
        table["id"] = [f"pair-{number}" for number in range(len(table))]
        for name, values in truth.items():
            table[name] = values
        joined[modality] = table
    return EmbeddedPairs(joined, truth, galaxies, np.concatenate(features) if features else None)


def embed_quietly(objects, model):
    """Return the embedding table of objects; those that fail are masked without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FailedObjectWarning)  # failures are counted in the scores
        return embed(objects, model=model)


def _takes_images(model, pairs):
    """Return whether the model takes images of the pairs' size and pixel scale."""
    if "image" not in model.modalities:
        return False
    wanted = model.preset.image
    same_scale = abs(wanted.pixel_scale / PIXEL_SCALE - 1) < SCALE_TOLERANCE
    return same_scale and wanted.crop <= pairs["image"].shape[-1]


def _encoder_input(batch):
    """Return spectra as the bundled encoders see them, see `EmbeddedPairs`."""
    arrays = (torch.from_numpy(getattr(batch, name)) for name in ("flux", "ivar", "mask"))
    channels, level = spectrum_channels(*arrays)
    return torch.cat([channels[:, 0], level[:, :1]], dim=1).numpy().astype(np.float16)


def _in_frame_of(model, batch):
    """Return spectra in the frame that the model takes; the true redshifts are used."""
    if model.preset.spectrum.frame == batch.frame:
        return batch
    stretch = 1 + batch.redshift[:, None]  # energy is kept: flux density times 1 + z
    grid = wavelength_grid(model.preset.spectrum.grid)
    rest = resample_flux(
        batch.wavelength / stretch, batch.flux * stretch, batch.ivar / stretch**2, batch.mask, grid
    )
    return SpectrumBatch.from_arrays(
        grid, rest.flux, ivar=rest.ivar, mask=rest.mask, redshift=batch.redshift, frame="rest"
    )
