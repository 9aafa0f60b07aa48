"""The search by torch finds what the search by numpy does, to the last bit."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from astroclip.similarity import SimilarityIndex, devices
from tests.similarity.clouds import CLOUDS, as_unit, make_table


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_device_finds_the_same(cloud, dtype, monkeypatch):
    monkeypatch.setattr(devices, "ROW_BLOCK", 300)
    monkeypatch.setattr(devices, "QUERY_BLOCK", 25)
    rng = np.random.default_rng(0)
    table = make_table(as_unit(cloud(rng, 700, 12)), redshift=np.linspace(0, 1, 700))
    index = SimilarityIndex(table, dtype=dtype)
    other = SimilarityIndex(table, dtype=dtype, device="cpu")
    for options in ({}, {"where": "redshift < 0.2"}):
        expected = index.neighbors(table[:40], 9, **options)
        found = other.neighbors(table[:40], 9, **options)
        assert_array_equal(found[0], expected[0])
        assert_array_equal(found[1], expected[1])


def test_precision_is_put_back():
    import torch

    torch.set_float32_matmul_precision("high")
    try:
        table = make_table(as_unit(np.eye(5) + 0.1))
        SimilarityIndex(table, device="cpu").neighbors(table, 2)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
