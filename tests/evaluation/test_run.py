"""The whole evaluation on a few pairs."""

import numpy as np
import pytest

from astroclip.evaluation import evaluate
from astroclip.evaluation.domain_shift import IMAGE_SHIFTS, SECOND_EPOCH, SPECTRUM_SHIFTS


def test_one_call_measures_everything_that_the_model_allows(model, pairs, reference):
    table = evaluate(pairs, reference, model=model, n_neighbors=8, seed=3)
    assert set(table["protocol"]) == {
        "k-NN", "zero-shot", "few-shot", "retrieval", "mutual information", "gradient boosting",
        "throughput",
    }
    assert set(table["data"]) == {
        "held-out pairs", *SPECTRUM_SHIFTS, *IMAGE_SHIFTS, SECOND_EPOCH
    }
    assert np.isfinite(table["value"]).all()
    assert set(table["seed"]) == {3}
    assert table.meta == {"MODEL": "random", "WSHA": "0" * 64, "NNEIGH": 8}


def test_a_model_of_images_alone_is_scored_on_images_alone(image_model, pairs, reference):
    table = evaluate(pairs, reference, model=image_model, n_neighbors=8)
    assert set(table["protocol"]) == {
        "k-NN", "zero-shot", "few-shot", "retrieval", "gradient boosting", "throughput"
    }
    assert not set(table["data"]) & set(SPECTRUM_SHIFTS)


def test_the_same_seed_gives_the_same_scores(image_model, pairs, reference):
    first, second = (
        evaluate(pairs, reference, model=image_model, n_neighbors=8, seed=5) for _ in range(2)
    )
    timed = np.asarray(first["protocol"]) == "throughput"
    np.testing.assert_allclose(first["value"][~timed], second["value"][~timed], rtol=1e-9)


def test_a_reference_smaller_than_the_neighbourhood_is_refused(image_model, pairs):
    with pytest.raises(ValueError, match="reference has 24 pairs"):
        evaluate(pairs, pairs, model=image_model)
