"""Redshift distributions, the linear head that gives them, and the estimator of redshifts."""
