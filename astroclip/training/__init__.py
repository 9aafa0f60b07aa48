"""Training: pairs of images and spectra to aligned encoders (needs the extra ``train``)."""
