"""The bundled reference galaxies and sample objects: everything works without a network."""

import functools
import io
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits

from astroclip._validation import check_choice
from astroclip.preparation import PREPARATION_VERSION, read_images, read_spectra
from astroclip.tables import MODALITIES, make_embedding_table

__all__ = [
    "reference_previews",
    "reference_table",
    "sample_image",
    "sample_sdss_spectrum",
    "sample_spectra",
    "sample_spectrum",
]

DATA = Path(__file__).parent / "data"
REFERENCE_FILES = {
    "astroclip-small": DATA / "reference.npz",
    "astroclip-small-rest": DATA / "reference_rest.npz",
}
PREVIEW_FILE = DATA / "reference_previews.npz"
SAMPLE_SPECTRA = ("desi-39627776344457978.fits", "desi-27247.fits")
SAMPLE_SDSS_SPECTRUM = "spec-0411-51873-0101.fits"
SAMPLE_IMAGE = "legacysurvey-59.1067-30.4848.fits"
PROPERTY_UNITS = {"dust": u.mag}


def reference_table(model="astroclip-small"):
    """Return the bundled reference: simulated galaxies with embeddings and properties.

    Parameters
    ----------
    model : str
        The bundled model whose embeddings are wanted: ``"astroclip-small"``, or
        ``"astroclip-small-rest"`` for those of the same galaxies' rest-frame spectra.

    Returns
    -------
    `~astropy.table.QTable`
        Two rows per galaxy, first all spectra, then all images (the rest-frame model has
        spectra only), with the columns of `astroclip.embed` and

        * ``source``: ``"simulation"`` in every row: none of these galaxies exists
        * ``redshift``
        * ``log_stellar_mass``: log10 of the mass in solar masses
        * ``log_ssfr``: log10 of the specific star-formation rate in 1/yr
        * ``log_metallicity``: log10 of the stellar metallicity in solar units
        * ``bulge_to_total``: fraction of the mass in the bulge
        * ``dust``: V-band attenuation of the disk, mag

    Raises
    ------
    ValueError
        If the model is not bundled.

    Notes
    -----
    How they were made and how good estimates from them are: the model card.

    Examples
    --------
    >>> import astroclip
    >>> reference = astroclip.reference_table()
    >>> sorted(set(reference["modality"].tolist()))
    ['image', 'spectrum']
    """
    return _reference(check_choice(model, REFERENCE_FILES, "model")).copy()


@functools.cache
def _reference(model):
    return read_reference(REFERENCE_FILES["astroclip-small"], embeddings=REFERENCE_FILES[model])


def read_reference(path, *, embeddings=None):
    """Return a reference table from its file; see `reference_table`.

    Parameters
    ----------
    path : path-like
        File with properties and embeddings.
    embeddings : path-like, optional
        File with another model's embeddings of the same galaxies.
    """
    with np.load(path, allow_pickle=False) as archive:
        data = {name: archive[name] for name in archive.files}
    if embeddings not in (None, path):
        del data["image_embedding"]
        with np.load(embeddings, allow_pickle=False) as archive:
            data |= {name: archive[name] for name in archive.files}
    n_galaxies = len(data["redshift"])
    modalities = [name for name in MODALITIES if f"{name}_embedding" in data]
    embedding = np.concatenate([data[f"{name}_embedding"] for name in modalities])
    embedding = embedding.astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    columns = {"source": np.full(len(embedding), "simulation")}
    for name in data["properties"]:
        if name != "redshift":
            values = np.tile(data[name], len(modalities))
            columns[str(name)] = values * PROPERTY_UNITS.get(name, u.dimensionless_unscaled)
    coverage = {"spectrum": data["spectrum_coverage"], "image": np.ones(n_galaxies)}
    return make_embedding_table(
        np.tile(reference_ids(n_galaxies), len(modalities)),
        np.repeat(modalities, n_galaxies),
        embedding,
        coverage=np.concatenate([coverage[name] for name in modalities]),
        flags=np.zeros(len(embedding), dtype=np.int32),
        redshift=np.tile(data["redshift"], len(modalities)),
        model_name=str(data["model_name"]),
        weights_sha256=str(data["weights_sha256"]),
        preparation_version=PREPARATION_VERSION,
        extra_columns=columns,
    )


def reference_ids(n_galaxies):
    """Return the ids ``sim-000000``, ``sim-000001``, ... of the reference galaxies."""
    return np.array([f"sim-{number:06d}" for number in range(n_galaxies)])


@functools.cache
def _previews():
    with np.load(PREVIEW_FILE, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def reference_previews(ids):
    """Return small pictures and spectra of reference galaxies, to look at.

    Parameters
    ----------
    ids : sequence of str
        Ids of `reference_table`, such as ``"sim-000012"``.

    Returns
    -------
    dict
        ``image`` (N, S, S, 3) uint8, display colors of the g, r, z image, first row at
        the bottom; ``spectrum`` (N, P) float32, the observed spectrum divided by its
        largest value; ``wavelength`` (P,) float64, Angstrom, vacuum, observed frame.

    Raises
    ------
    KeyError
        If an id is not in the reference.
    """
    from PIL import Image

    previews = _previews()
    start = previews["jpeg_start"]
    images, rows = [], []
    for position, name in enumerate(ids):
        prefix, _, digits = str(name).partition("-")
        if prefix != "sim" or not digits.isdigit() or int(digits) >= len(start) - 1:
            msg = (
                f"ids[{position}] is {name!r}; expected an id of the bundled reference, "
                f"from 'sim-000000' to {reference_ids(len(start) - 1)[-1]!r}."
            )
            raise KeyError(msg)
        row = int(digits)
        with Image.open(io.BytesIO(previews["jpeg"][start[row] : start[row + 1]])) as picture:
            images.append(np.asarray(picture.convert("RGB")))
        rows.append(row)
    return {
        "image": np.stack(images) if images else np.empty((0, 0, 0, 3), np.uint8),
        "spectrum": previews["spectrum"][rows].astype(np.float32) / 255.0,
        "wavelength": previews["wavelength"],
    }


def sample_spectra():
    """Return real DESI spectra of two galaxies.

    Returns
    -------
    list of `~specutils.Spectrum`
        Observed frame, vacuum; ``meta["redshift"]`` is the catalog's. Sources, license
        and credit: the package's ``data/samples/README.rst``.

    Examples
    --------
    >>> from astroclip.datasets import sample_spectra
    >>> [round(spectrum.meta["redshift"], 4) for spectrum in sample_spectra()]
    [0.2036, 0.0073]
    """
    spectra = []
    for filename in SAMPLE_SPECTRA:
        (spectrum,) = read_spectra(DATA / "samples" / filename)
        spectrum.meta["redshift"] = float(spectrum.meta["header"]["Z_CAT"])
        spectra.append(spectrum)
    return spectra


def sample_spectrum():
    """Return the real DESI spectrum of a galaxy at redshift 0.2036; see `sample_spectra`.

    Examples
    --------
    >>> import astroclip
    >>> len(astroclip.sample_spectrum().flux)
    7781
    """
    return sample_spectra()[0]


def sample_sdss_spectrum():
    """Return the real SDSS spectrum of a star-forming galaxy at redshift 0.0294.

    Returns
    -------
    `~specutils.Spectrum`
        Observed frame, vacuum; ``meta["redshift"]`` is that of the SDSS pipeline. Source and
        credit: the package's ``data/samples/README.rst``.

    Examples
    --------
    >>> from astroclip.datasets import sample_sdss_spectrum
    >>> round(sample_sdss_spectrum().meta["redshift"], 4)
    0.0294
    """
    path = DATA / "samples" / SAMPLE_SDSS_SPECTRUM
    (spectrum,) = read_spectra(path)
    spectrum.meta["redshift"] = float(fits.getdata(path, "SPECOBJ")["Z"][0])
    return spectrum


def sample_image():
    """Return a real g, r, z cutout of the Legacy Surveys (DR9).

    Returns
    -------
    dict of str to `~astropy.nddata.CCDData`
        160 x 160 pixels of 0.262 arcsec in nanomaggies, with inverse variances and WCS.

    Examples
    --------
    >>> import astroclip
    >>> sorted(astroclip.sample_image())
    ['g', 'r', 'z']
    """
    return read_images(DATA / "samples" / SAMPLE_IMAGE)
