"""The score of self-supervised features against scikit-learn's nearest neighbours."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from astroclip.training.self_supervision import neighbor_r2


@pytest.mark.parametrize(("n_objects", "n_neighbors"), [(200, 16), (41, 5), (20, 16)])
def test_score_is_that_of_scikit_learn(n_objects, n_neighbors):
    rng = np.random.default_rng(n_objects)
    features = rng.normal(3, [1, 10, 0.1, 1], (n_objects, 4))
    values = features[:, 0] + 0.3 * rng.normal(size=n_objects)
    half = n_objects // 2
    scaler = StandardScaler().fit(features[:half])
    model = KNeighborsRegressor(min(n_neighbors, half))
    model.fit(scaler.transform(features[:half]), values[:half])
    expected = r2_score(values[half:], model.predict(scaler.transform(features[half:])))
    found = neighbor_r2(
        torch.from_numpy(features), torch.from_numpy(values), n_neighbors=n_neighbors
    )
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_a_constant_feature_does_not_matter():
    features = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    values = features.sum(dim=1)
    padded = torch.cat([features, torch.full((60, 1), 7.0)], dim=1)
    assert float(neighbor_r2(padded, values)) == float(neighbor_r2(features, values))
