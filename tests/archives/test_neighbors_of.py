"""From a name to its neighbours in one call."""

import numpy as np
import pytest

import astroclip
from astroclip.archives import Target, fetch, neighbors_of
from tests.archives.conftest import POSITION


def test_from_a_name_to_neighbours(server, quick):
    table = neighbors_of("NGC 4303", n_neighbors=3, archives="legacysurvey", **quick)
    assert table["query_id"].tolist() == ["NGC 4303"] * 3
    assert table["query_modality"].tolist() == ["image"] * 3
    assert table["rank"].tolist() == [1, 2, 3]
    assert "log_stellar_mass" in table.colnames
    direct = astroclip.SimilarityIndex(astroclip.reference_table()).query(
        fetch("NGC 4303", archives="legacysurvey", **quick).images, 3
    )
    assert table["neighbor_id"].tolist() == direct["neighbor_id"].tolist()


def test_spectra_and_image_of_a_target_in_an_index():
    reference = astroclip.reference_table()
    index = astroclip.SimilarityIndex(reference[reference["redshift"] < 0.3])
    spectra = astroclip.sample_spectra()
    for number, spectrum in enumerate(spectra):
        spectrum.meta["id"] = f"s{number}"
    target = Target("here", POSITION, spectra, astroclip.sample_image())
    table = neighbors_of(target, index, n_neighbors=2)
    assert table["query_modality"].tolist() == ["spectrum"] * 4 + ["image"] * 2
    assert table["query_id"].tolist()[:4] == ["s0", "s0", "s1", "s1"]
    assert np.all(table["redshift"] < 0.3)


def test_nothing_to_search_with(server, quick):
    server.fail("viewer", "404")
    with pytest.raises(ValueError, match="no spectrum and no image.*legacysurvey .images.: HTTP"):
        neighbors_of(POSITION, archives="legacysurvey", **quick)


def test_options_of_fetch_beside_a_target():
    with pytest.raises(TypeError, match="timeout is an option of fetch"):
        neighbors_of(Target("here", POSITION), timeout=3)
