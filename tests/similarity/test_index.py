"""The index: selections are searches of the selected rows, whoever asks and in whatever way."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import MaskedColumn
from numpy.testing import assert_allclose, assert_array_equal

import astroclip
from astroclip.exceptions import ModelMismatchError
from astroclip.similarity import SimilarityIndex
from tests.similarity.clouds import (
    mixed_table,
    naive_neighbors,
    random_table,
)


def test_lengths_of_vectors_do_not_matter():
    table, longer = random_table(), random_table()
    longer["embedding"] = np.asarray(table["embedding"]) * np.linspace(0.1, 90, 30)[:, None]
    rows, cosine, _ = SimilarityIndex(table).neighbors(table, 6)
    again, same, _ = SimilarityIndex(longer).neighbors(longer, 6)
    assert_array_equal(again, rows)
    assert_allclose(same, cosine, atol=1e-6)


@pytest.fixture(scope="module")
def mixed():
    """Twenty galaxies, each with a spectrum and an image of the same id; three rows failed."""
    failed = np.zeros(40, int)
    failed[[2, 25, 30]] = 1
    return random_table(
        40,
        ids=[f"galaxy-{row % 20}" for row in range(40)],
        modality=np.repeat(["spectrum", "image"], 20),
        failed=failed,
        redshift=np.linspace(0, 1, 40),
        extra_columns={"rank": np.arange(40), "mass": MaskedColumn(np.arange(40.0), mask=failed)},
    )


def test_result_has_the_references_columns_and_provenance(mixed):
    index = SimilarityIndex(mixed)
    found = index.query(mixed[[5, 21]], n_neighbors=3)
    assert found.colnames[:4] == ["query_id", "rank", "neighbor_id", "similarity"]
    assert set(found.colnames[4:]) == set(mixed.colnames) - {"id", "embedding", "rank"}
    assert found["query_id"].tolist() == ["galaxy-5"] * 3 + ["galaxy-1"] * 3
    assert found["rank"].tolist() == [1, 2, 3, 1, 2, 3]
    assert found.meta == mixed.meta
    rows, cosine, _ = index.neighbors(mixed[[5, 21]], 3)
    own = mixed[rows.ravel()]
    assert_array_equal(found["neighbor_id"], own["id"])
    assert_array_equal(found["redshift"], own["redshift"])
    assert_array_equal(found["mass"].mask, own["mass"].mask)
    assert_allclose(found["similarity"], cosine.ravel(), atol=1e-7)
    assert (len(index), index.dim) == (40, 8)
    assert repr(index) == "<SimilarityIndex of 20 spectrum, 20 image rows, model 'toy'>"


@pytest.mark.parametrize("modality", [None, "spectrum", "image", "all"])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("selected", [False, True])
def test_selections_are_a_search_of_the_selected_rows(mixed, modality, exclude_self, selected):
    where = np.arange(40) % 3 > 0 if selected else None
    rows, cosine, valid = SimilarityIndex(mixed).neighbors(
        mixed, 5, modality=modality, where=where, exclude_self=exclude_self
    )
    failed = mixed["flags"] == 1
    kinds, ids, vectors = (np.asarray(mixed[name]) for name in ("modality", "id", "embedding"))
    assert_array_equal(valid, ~failed)
    for row in np.flatnonzero(~failed):
        pool = ~failed & ((modality == "all") | (kinds == (modality or kinds[row])))
        pool &= where if selected else True
        pool &= (ids != ids[row]) | (not exclude_self)
        pool = np.flatnonzero(pool)
        expected, _ = naive_neighbors(vectors[[row]], vectors[pool], 5)
        assert_array_equal(rows[row], pool[expected[0]])
    assert_array_equal(rows[:, 0] == -1, failed)
    assert_array_equal(np.isnan(cosine), np.repeat(failed[:, None], 5, axis=1))


def test_failed_and_zero_rows_neither_have_neighbors_nor_are_any(mixed):
    table = mixed[:20].copy()
    table["embedding"][3] = 0
    index = SimilarityIndex(table)
    rows, _, valid = index.neighbors(table, 18)
    assert_array_equal(np.flatnonzero(~valid), [2, 3])
    assert set(rows.ravel()) == {-1, *range(20)} - {2, 3}
    found = index.query(table[:4], n_neighbors=2)
    assert found["query_id"].tolist() == ["galaxy-0"] * 2 + ["galaxy-1"] * 2
    assert len(index.query(table[2:3], n_neighbors=2)) == 0


def test_modality_the_reference_lacks_is_compared_with_all(mixed):
    index = SimilarityIndex(mixed[:20])
    rows, _, _ = index.neighbors(mixed[20:22], 19)
    assert set(rows.ravel()) == set(range(20)) - {2}
    with pytest.raises(ValueError, match=r"reference has 0 rows that query\[0\] \(id 'galaxy-0'\)"):
        index.query(mixed[20:22], n_neighbors=1, modality="image")


def test_masked_selection_does_not_select():
    mass = MaskedColumn(np.arange(6.0), mask=[0, 0, 1, 0, 1, 0])
    reference = random_table(6, extra_columns={"mass": mass})
    found = SimilarityIndex(reference).query(reference[2:3], 3, where=reference["mass"] > 0)
    assert set(found["mass"].tolist()) == {1, 3, 5}


@pytest.mark.parametrize("where", [[True], np.ones(40), np.ones((40, 1), bool), [0, 1, 2]])
def test_selection_must_be_a_bool_a_row(mixed, where):
    with pytest.raises(ValueError, match="^where has dtype .*; expected a bool for each of .* 40"):
        SimilarityIndex(mixed).query(mixed, where=where)


def test_too_few_rows_names_the_query_that_has_them():
    reference = random_table(6, ids=["a", "b", "b", "b", "c", "d"])
    index = SimilarityIndex(reference)
    with pytest.raises(ValueError, match=r"^n_neighbors is 7 .* 6 rows that query\[0\] \(id 'a'\)"):
        index.query(reference, n_neighbors=7)
    with pytest.raises(ValueError, match=r"^n_neighbors is 4 .* 3 rows that query\[1\] \(id 'b'\)"):
        index.query(reference, n_neighbors=4, exclude_self=True)


@pytest.mark.parametrize("key", ["MODEL", "WSHA", "PREPVER"])
@pytest.mark.parametrize("method", ["query", "neighbors"])
def test_other_models_are_refused(mixed, key, method):
    foreign = mixed.copy()
    foreign.meta[key] = "another"
    with pytest.raises(ModelMismatchError, match=f"^query and reference .*{key} 'another'"):
        getattr(SimilarityIndex(mixed), method)(foreign, 2)


def test_other_lengths_and_options_of_a_table_are_refused(mixed):
    index = SimilarityIndex(mixed)
    with pytest.raises(ValueError, match=r"^query\['embedding'\] has shape \(3, 4\).*\(N, 8\)"):
        index.query(random_table(3, dim=4), 2)
    with pytest.raises(TypeError, match="^query got redshift, which apply to objects only"):
        index.query(mixed, 2, redshift=0.1)


def test_ids_and_vectors_and_tables_ask_the_same(mixed):
    index = SimilarityIndex(mixed)
    rows = [3, 23]
    by_table = index.query(mixed[rows], 4, exclude_self=True)
    by_id = index.query_ids("galaxy-3", 4)
    vectors = np.asarray(mixed["embedding"])[rows]
    by_vector = [
        index.query_vectors(4 * vectors[[number]], 4, ids=["galaxy-3"], vector_modality=kind,
                            exclude_self=True)
        for number, kind in enumerate(["spectrum", "image"])
    ]
    for name in ("query_id", "rank", "neighbor_id", "similarity"):
        assert_array_equal(by_id[name], by_table[name])
        assert_array_equal(np.concatenate([each[name] for each in by_vector]), by_table[name])
    everywhere = index.query_vectors(vectors[0], 4)
    assert_array_equal(everywhere["query_id"], ["0"] * 4)
    expected = index.query(mixed[rows[:1]], 4, modality="all")
    assert_array_equal(everywhere["neighbor_id"], expected["neighbor_id"])


def test_unknown_ids_and_other_vectors_are_refused(mixed):
    index = SimilarityIndex(mixed)
    with pytest.raises(KeyError, match=r"ids\[1\] is 'none', which is no id of the reference"):
        index.query_ids(["galaxy-1", "none"], 2)
    with pytest.raises(KeyError, match=r"negative\[0\] is 'none'"):
        index.query_examples(["galaxy-1"], ["none"], 2)
    with pytest.raises(ValueError, match="^ids is empty"):
        index.query_ids([], 2)
    with pytest.raises(ValueError, match=r"^vectors has shape \(2, 3\); expected \(2, 8\)"):
        index.query_vectors(np.ones((2, 3)), 2)
    with pytest.raises(ValueError, match="^vector_modality is 'photo'"):
        index.query_vectors(np.ones((2, 8)), 2, vector_modality="photo")


def test_joint_queries_are_means_of_an_ids_rows(mixed):
    index = SimilarityIndex(mixed)
    rows, cosine, valid = index.neighbors(mixed[[7, 27, 4, 5]], 6, joint=True)
    vectors = np.asarray(mixed["embedding"]).astype(float)
    known = np.flatnonzero(mixed["flags"] == 0)
    means = [vectors[7] + vectors[27], vectors[4], vectors[5]]
    assert valid.tolist() == [True] * 3
    for row, mean in enumerate(means):
        similarity = vectors[known] @ mean / np.linalg.norm(mean)
        assert_array_equal(rows[row], known[np.argsort(-similarity)[:6]])
        assert_allclose(cosine[row], np.sort(similarity)[::-1][:6], atol=1e-6)
    found = index.query(mixed[[7, 27]], 3, joint=True, exclude_self=True)
    assert set(found["query_id"]) == {"galaxy-7"}
    assert "galaxy-7" not in found["neighbor_id"]
    failed = index.neighbors(mixed[[2, 22]], 3, joint=True)  # the image alone is left
    assert_array_equal(failed[0], index.neighbors(mixed[[22]], 3, modality="all")[0])


def test_examples_attract_and_counter_examples_repel():
    table = random_table(300, dim=6, seed=3)
    vectors = np.asarray(table["embedding"]).astype(float)
    index = SimilarityIndex(table)
    wanted = vectors[:5].mean(axis=0) - 0.7 * vectors[5:8].mean(axis=0)
    similarity = vectors @ wanted / np.linalg.norm(wanted)
    similarity[:8] = -2
    names = table["id"].tolist()
    found = index.query_examples(names[:5], names[5:8], 12, weight=0.7)
    assert found["neighbor_id"].tolist() == [names[row] for row in np.argsort(-similarity)[:12]]
    again = index.query_examples(table[:5], table[5:8], 12, weight=0.7)
    assert_array_equal(again["neighbor_id"], found["neighbor_id"])
    alone = index.query_examples(names[:5], n_neighbors=3)
    assert set(alone["query_id"]) == {"examples"}


def test_within_is_the_neighbors_that_are_similar_enough(mixed):
    index = SimilarityIndex(mixed)
    found = index.within(mixed[[6, 2, 30, 0, 26]], similarity=0.3, modality="all")
    all_rows = index.query(mixed[[6, 2, 30, 0, 26]], 37, modality="all")
    expected = all_rows[all_rows["similarity"] >= 0.3]
    assert found.colnames == expected.colnames
    for name in ("query_id", "rank", "neighbor_id", "similarity"):
        assert_array_equal(found[name], expected[name])
    others = index.within(mixed[[6]], similarity=0.3, exclude_self=True)
    assert "galaxy-6" not in others["neighbor_id"]
    assert len(index.within(mixed[[6]], similarity=1.0, where="redshift > 2")) == 0
    with pytest.raises(ValueError, match="^similarity is 3; expected a cosine"):
        index.within(mixed, similarity=3)


def test_places_conditions_and_separations_go_together():
    rng = np.random.default_rng(4)
    ra, dec = rng.uniform(0, 20, 500), rng.uniform(-10, 10, 500)
    dec[7] = np.nan
    table = random_table(500, ra=ra, dec=dec, redshift=rng.random(500))
    index = SimilarityIndex(table)
    center = SkyCoord(10, 0, unit="deg")
    found = index.query(
        table[[5, 7]], 8, where="redshift > 0.3", near=(center, 6 * u.deg)
    )
    places = SkyCoord(found["ra"], found["dec"])
    assert (places.separation(center) <= 6 * u.deg).all()
    assert (found["redshift"] > 0.3).all()
    expected = SkyCoord(ra[5], dec[5], unit="deg").separation(places[:8])
    assert_allclose(found["separation"][:8].to_value(u.arcsec), expected.arcsec, rtol=1e-9)
    assert np.isnan(found["separation"][8:]).all()
    everywhere = SkyCoord(ra, np.nan_to_num(dec, nan=80), unit="deg")
    allowed = everywhere.separation(center) <= 6 * u.deg
    allowed &= np.asarray(table["redshift"]) > 0.3
    by_mask = index.query(table[[5, 7]], 8, where=allowed)
    assert_array_equal(found["neighbor_id"], by_mask["neighbor_id"])
    assert "separation" not in index.query_vectors(np.ones(8), 2).colnames


def test_centered_modalities_find_the_other_half():
    table = mixed_table(400, dim=12)
    plain, centered = (SimilarityIndex(table, center_modalities=each) for each in (False, True))
    hits = [
        np.mean(index.neighbors(table[:400], 1, modality="image")[0][:, 0] == 400 + np.arange(400))
        for index in (plain, centered)
    ]
    assert hits[1] > hits[0]
    vectors = np.asarray(table["embedding"]).astype(float)
    means = vectors.reshape(2, 400, 12).mean(axis=1)
    wide = (vectors.reshape(2, 400, 12) - means[:, None]).reshape(800, 12)
    expected, cosine = naive_neighbors(wide[:30], wide, 5)
    rows, found, _ = centered.neighbors(table[:30], 5, modality="all")
    assert_array_equal(rows, expected)
    assert_allclose(found, np.take_along_axis(cosine, expected, axis=1), atol=1e-6)
    assert_allclose(centered.table["embedding"], table["embedding"])
    by_vector = centered.query_vectors(vectors[:30], 5, vector_modality="spectrum", modality="all")
    assert_array_equal(by_vector["neighbor_id"], np.asarray(table["id"])[rows.ravel()])
    with pytest.raises(ValueError, match="^vector_modality is None and the index centers"):
        centered.query_vectors(vectors[:3], 5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_half_precision_costs_half_and_little_else(dtype):
    table = random_table(2000, dim=32)
    index = SimilarityIndex(table, dtype=dtype)
    assert index.n_bytes / 2000 == pytest.approx({"float32": 132, "float16": 68}[dtype], abs=1)
    vectors = np.asarray(table["embedding"])
    stored = vectors.astype(dtype).astype(np.float32)
    expected, _ = naive_neighbors(vectors[:50], stored, 10)
    assert_array_equal(index.neighbors(table[:50], 10)[0], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tree"}, "method is 'tree'; expected one of 'exact', 'approximate', 'auto'"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of 'float32', 'float16'"),
        ({"recall": 1.0}, "recall is 1.0; expected a number between 0 and 1"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SimilarityIndex(random_table(), **options)


def test_bundled_reference_is_searched_as_by_sorting():
    reference = astroclip.reference_table()
    index = SimilarityIndex(reference)
    vectors = np.asarray(reference["embedding"])
    kinds = np.asarray(reference["modality"])
    pool = np.flatnonzero(kinds == "image")
    rows, _, _ = index.neighbors(reference[:20], 5, modality="image")
    expected, _ = naive_neighbors(vectors[:20], vectors[pool], 5)
    assert_array_equal(rows, pool[expected])
