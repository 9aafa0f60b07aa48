"""Paired galaxies: a population, its spectra and its images, from published relations.

The modules follow a galaxy from the mass function to the detector:
`~astroclip.simulation.population` draws what it is,
`~astroclip.simulation.basis` and `~astroclip.simulation.spectra` what it emits,
`~astroclip.simulation.images` what it looks like,
`~astroclip.simulation.spectrographs` and `~astroclip.simulation.cameras` what a survey
records of it, and
`~astroclip.simulation.pairs` writes pairs of images and spectra to shards.
`~astroclip.simulation.contaminants` makes stars and quasars, and `~astroclip.simulation.tidal`
draws streams, shells and tails.
"""
