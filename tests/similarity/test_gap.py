"""Centred modalities: means taken away, lengths one, and nothing without a direction."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from astroclip.similarity.gap import ModalityCenters
from tests.similarity.clouds import as_unit


def test_means_are_taken_away():
    rng = np.random.default_rng(0)
    unit = as_unit(rng.normal(size=(60, 5)) + 2)
    kind = np.repeat(["spectrum", "image"], 30)
    gap = ModalityCenters.fit(unit, kind)
    vectors, directed = gap.centered(unit, kind)
    assert directed.all()
    for name in ("spectrum", "image"):
        wide = unit[kind == name].astype(float)
        wide -= wide.mean(axis=0)
        expected = wide / np.linalg.norm(wide, axis=1, keepdims=True)
        assert_allclose(vectors[kind == name], expected, atol=1e-6)


def test_a_vector_at_the_center_has_no_direction_left():
    gap = ModalityCenters({"image": [0.6, 0.8]})
    unit = np.array([[0.6, 0.8], [1, 0]], dtype=np.float32)
    _, directed = gap.centered(unit, np.array(["image", "image"]))
    assert directed.tolist() == [False, True]


def test_unknown_modality_is_refused():
    gap = ModalityCenters({"image": [1.0, 0]})
    with pytest.raises(ValueError, match="^modality 'spectrum' of the query was not in the ref"):
        gap.centered(np.ones((1, 2), np.float32), np.array(["spectrum"]))
