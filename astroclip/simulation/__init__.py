"""Paired galaxies: a population, its spectra and its images, from published relations.

The rooms follow a galaxy from the mass function to the detector:
`~astroclip.simulation.population` draws what it is,
`~astroclip.simulation.basis` and `~astroclip.simulation.spectra` what it emits,
`~astroclip.simulation.images` what it looks like,
`~astroclip.simulation.spectrographs` and `~astroclip.simulation.cameras` what a survey
records of it, and
`~astroclip.simulation.pairs` writes galaxies seen both ways to shards.
"""
