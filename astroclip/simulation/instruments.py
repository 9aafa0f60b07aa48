"""What a survey records of noiseless light, in one place: spectrographs and cameras.

`~astroclip.simulation.spectrographs` holds the ways to record spectra and
`~astroclip.simulation.cameras` the ways to record images; their names can be imported
from here.
"""

from astroclip.simulation.cameras import (
    DEPTHS,
    ObservedImages,
    observe_images,
    observe_images_sdss,
    observe_images_varied,
)
from astroclip.simulation.spectrographs import (
    NATIVE_PIXEL,
    NOISE_FILE,
    NORMALIZATION_RANGE,
    WAVELENGTH,
    ObservedSpectra,
    noise_templates,
    observe_spectra_desi,
    observe_spectra_sdss,
    observe_spectra_varied,
)

__all__ = [
    "DEPTHS",
    "NATIVE_PIXEL",
    "NOISE_FILE",
    "NORMALIZATION_RANGE",
    "WAVELENGTH",
    "ObservedImages",
    "ObservedSpectra",
    "noise_templates",
    "observe_images",
    "observe_images_sdss",
    "observe_images_varied",
    "observe_spectra_desi",
    "observe_spectra_sdss",
    "observe_spectra_varied",
]
