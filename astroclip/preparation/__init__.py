"""Conversion of astropy spectra and images to the arrays that models take."""

from astroclip._lazy import lazy_names

PREPARATION_VERSION = "1"

_MODULE_OF = {
    "ImageBatch": "batches",
    "SpectrumBatch": "batches",
    "concatenate": "batches",
    "linear_grid": "grids",
    "log_grid": "grids",
    "wavelength_grid": "grids",
    "resample_flux": "resampling",
    "are_arms": "arms",
    "merge_arms": "arms",
    "prepare_spectra": "spectra",
    "read_spectra": "spectrum_files",
    "arcsinh_image": "bands",
    "center_crop": "bands",
    "deredden": "bands",
    "normalize_images": "bands",
    "prepare_images": "images",
    "read_images": "image_files",
}

__all__ = ["PREPARATION_VERSION", *sorted(_MODULE_OF)]  # noqa: PLE0604
__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF)
