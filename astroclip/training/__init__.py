"""Training of encoders on pairs of images and spectra (needs the extra ``train``)."""
