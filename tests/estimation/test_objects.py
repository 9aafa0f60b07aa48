"""Estimators take objects where they take the table of their embeddings."""

import numpy as np
import pytest

import astroclip
from astroclip.cli.estimate import screen_version
from astroclip.discovery import OutlierDetector
from astroclip.exceptions import FailedObjectWarning


@pytest.fixture(scope="module")
def reference():
    return astroclip.reference_table()[:300]


def test_predictions_of_objects_are_those_of_their_embeddings(reference):
    spectrum = astroclip.sample_spectra()[0]
    table = astroclip.embed(spectrum)
    estimators = [
        astroclip.PropertyEstimator(n_neighbors=4).fit(reference, ["redshift"]).predict,
        astroclip.FewShotEstimator().fit(reference, ["redshift"]).predict,
        astroclip.RedshiftEstimator().predict,
    ]
    for predict in estimators:
        assert predict(spectrum)["redshift"][0] == pytest.approx(predict(table)["redshift"][0])
        with pytest.raises(TypeError, match="table got medium, which apply to objects only"):
            predict(table, medium="air")
    score = OutlierDetector().fit(reference).score
    assert score(spectrum)["score"][0] == pytest.approx(score(table)["score"][0])


def test_of_failed_objects_nothing_is_said(reference):
    estimator = astroclip.PropertyEstimator(n_neighbors=4).fit(reference, ["redshift"])
    with pytest.warns(FailedObjectWarning, match="^1 of 2"):
        estimates = estimator.predict([astroclip.sample_spectra()[0], None])
    assert np.isnan(estimates["redshift"][1])
    rows = screen_version(estimates, ["redshift"])
    assert rows["unusual"][0] in ("yes", "no")
    assert rows["unusual"][1] == "-"
