"""Paired galaxies: a population, its spectra and its images, from published relations.

`~astroclip.simulation.population` draws redshifts, masses and other properties,
`~astroclip.simulation.basis` and `~astroclip.simulation.spectra` compute spectra,
`~astroclip.simulation.images` draws noiseless images,
`~astroclip.simulation.spectrographs` and `~astroclip.simulation.cameras` add the noise and
resolution of a survey, and
`~astroclip.simulation.pairs` writes pairs of images and spectra to shards.
`~astroclip.simulation.contaminants` makes stars and quasars, and `~astroclip.simulation.tidal`
draws streams, shells and tails.
"""
