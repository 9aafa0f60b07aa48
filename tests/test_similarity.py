"""Search against scikit-learn and a naive sort in float64; saved indexes, whole or refused."""

import io
import json
import zipfile

import numpy as np
import pytest
from astropy.table import MaskedColumn
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neighbors import NearestNeighbors

from astroclip import similarity, tables
from astroclip.exceptions import ModelMismatchError
from astroclip.similarity import SimilarityIndex, nearest_rows


def as_unit(vectors):
    vectors = np.asarray(vectors, dtype=float)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def make_table(vectors, *, ids=None, modality="spectrum", failed=None, **options):
    ids = [f"row-{row}" for row in range(len(vectors))] if ids is None else ids
    return tables.make_embedding_table(
        ids,
        modality,
        vectors,
        coverage=1.0,
        flags=0 if failed is None else failed,
        model_name="toy",
        weights_sha256="ab" * 32,
        preparation_version="7",
        **options,
    )


def random_table(n_rows=30, dim=8, seed=0, **options):
    return make_table(as_unit(np.random.default_rng(seed).normal(size=(n_rows, dim))), **options)


def naive_neighbors(queries, references, n_neighbors):
    """Sort all float64 cosines stably: ties stay in reference order."""
    queries, references = queries.astype(float), references.astype(float)
    cosine = np.stack([(references * query).sum(axis=1) for query in queries])
    cosine /= np.sqrt((references**2).sum(axis=1)) * np.linalg.norm(queries, axis=1)[:, None]
    return np.argsort(-cosine, axis=1, kind="stable")[:, :n_neighbors], cosine


def scattered(rng, n_rows, dim):
    return rng.normal(size=(n_rows, dim))


def clustered(rng, n_rows, dim):
    centers = rng.normal(size=(5, dim))
    return centers[rng.integers(5, size=n_rows)] + 0.01 * rng.normal(size=(n_rows, dim))


def duplicated(rng, n_rows, dim):
    return rng.normal(size=(7, dim))[rng.integers(7, size=n_rows)]


def collinear(rng, n_rows, dim):
    return rng.normal(size=dim) + 3e-6 * rng.normal(size=(n_rows, dim))


def on_a_grid(rng, n_rows, dim):
    return np.where(rng.random((n_rows, dim)) < 0.5, -1.0, 1.0)


@pytest.mark.parametrize("cloud", [scattered, clustered])
@pytest.mark.parametrize(("n_rows", "dim", "n_neighbors"), [(60, 4, 60), (2500, 32, 10)])
def test_neighbors_are_scikit_learns(cloud, n_rows, dim, n_neighbors):
    rng = np.random.default_rng(n_rows)
    vectors = as_unit(cloud(rng, n_rows + 40, dim))
    references, queries = vectors[40:], vectors[:40]
    model = NearestNeighbors(n_neighbors=n_neighbors, metric="cosine", algorithm="brute")
    distance, expected = model.fit(references.astype(float)).kneighbors(queries.astype(float))
    rows, cosine = nearest_rows(queries, references, n_neighbors)
    assert_array_equal(rows, expected)
    assert_allclose(cosine, 1 - distance, atol=1e-12)


@pytest.mark.parametrize("cloud", [scattered, clustered, duplicated, collinear, on_a_grid])
@pytest.mark.parametrize(("n_rows", "n_neighbors"), [(37, 37), (500, 5), (3000, 12)])
def test_ties_and_near_ties_are_a_stable_float64_sort(cloud, n_rows, n_neighbors):
    rng = np.random.default_rng(n_neighbors)
    references = as_unit(cloud(rng, n_rows, 16))
    queries = np.concatenate([references[:20], as_unit(rng.normal(size=(5, 16)))])
    expected, exact = naive_neighbors(queries, references, n_neighbors)
    index = SimilarityIndex(make_table(references))
    rows, cosine, _ = index.neighbors(make_table(queries), n_neighbors)
    assert_allclose(cosine, np.take_along_axis(exact, expected, axis=1), rtol=0, atol=1e-15)
    # sums in another order may differ by a rounding, which matters where all are nearly equal
    gap = np.take_along_axis(exact, rows, axis=1) - np.take_along_axis(exact, expected, axis=1)
    assert np.abs(gap).max() < (1e-15 if cloud is collinear else 1e-300)
    assert (rows != expected).mean() <= (0.05 if cloud is collinear else 0)


@pytest.mark.parametrize("n_rows", [60, 128 * 40, 128 * 40 + 1, 128 * 41 - 1])
@pytest.mark.parametrize("step", [1, 3, 128])
def test_one_vector_all_over_comes_in_reference_order(n_rows, step):
    references = np.repeat(-as_unit([[1, 2, 3, 4]]), n_rows, axis=0)
    references[::step] *= -1
    n_copies = min(20, len(references[::step]))
    rows, cosine = nearest_rows(as_unit([[1, 0, 0, 1], [4, 3, 2, 1]]), references, n_copies)
    assert_array_equal(rows, [np.arange(n_copies) * step] * 2)
    assert np.unique(cosine).size == 2


@given(sizes=st.tuples(st.integers(1, 700), st.integers(1, 40), st.integers(1, 30)))
def test_duplicates_anywhere_tie_in_reference_order(sizes):
    n_rows, n_distinct, n_neighbors = sizes
    rng = np.random.default_rng(sizes)
    references = as_unit(rng.normal(size=(n_distinct, 6)))[rng.integers(n_distinct, size=n_rows)]
    queries = as_unit(rng.normal(size=(3, 6)))
    n_neighbors = min(n_neighbors, n_rows)
    expected, _ = naive_neighbors(queries, references, n_neighbors)
    assert_array_equal(nearest_rows(queries, references, n_neighbors)[0], expected)


def test_blocks_of_queries_do_not_matter(monkeypatch):
    vectors = as_unit(np.random.default_rng(4).normal(size=(900, 16)))
    expected, cosine = nearest_rows(vectors[:300], vectors, 7)
    monkeypatch.setattr(similarity, "BLOCK_VALUES", 900 * 11)
    rows, blockwise = nearest_rows(vectors[:300], vectors, 7)
    assert_array_equal(rows, expected)
    assert_allclose(blockwise, cosine, rtol=0, atol=1e-15)


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


@pytest.fixture
def saved(tmp_path):
    table = random_table(12, ids=[f"α-{row}" for row in range(12)], failed=[1] + [0] * 11)
    SimilarityIndex(table).save(tmp_path / "index.zip")
    return table, tmp_path / "index.zip"


def test_saved_index_searches_alike(saved):
    table, path = saved
    index = SimilarityIndex.open(path)
    first, again = (each.query(table, n_neighbors=4) for each in (SimilarityIndex(table), index))
    assert (again.colnames, again.meta) == (first.colnames, first.meta)
    for name in first.colnames:
        assert_array_equal(again[name], first[name])
    assert list(path.parent.iterdir()) == [path]


def test_no_changed_byte_goes_unnoticed(saved):
    table, path = saved
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    ends = [*range(80), *range(len(content) - 170, len(content))]
    refused = 0
    for position in [*ends, *rng.integers(len(content), size=100)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            again = SimilarityIndex.open(path).table
        except ValueError as error:
            assert str(path) in str(error)
            assert "expected" in str(error) or "Make it again" in str(error)
            refused += 1
        else:  # a field of the archive that says nothing
            assert again["id"].tolist() == table["id"].tolist()
            assert_array_equal(np.asarray(again["embedding"]), np.asarray(table["embedding"]))
    assert refused > 250


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9, 0.9999])
def test_truncated_index_is_refused(saved, share):
    path = saved[1]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="^index '.*index.zip' is no readable index file .* Make"):
        SimilarityIndex.open(path)


def archive(header, name="table.fits"):
    """Return the bytes of a zip file of a header and a file that is no table."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("header.json", header)
        made.writestr(name, "other")
    return stream.getvalue()


STORED, DEFLATED = (b"PK\1\2\x14\3\x14\0\0\0" + method for method in (b"\0\0", b"\x08\0"))
GOOD = {"format": "astroclip-index", "version": "1", "sha256": "0"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"SIMPLE  =                    T", "is no readable index file .File is not a zip file"),
        (archive("{}", "paper.pdf"), r"is no readable index file .*table\.fits.* Make it again"),
        (archive("{"), "is no readable index file"),
        (archive("no").replace(STORED, DEFLATED), "is no readable index file .Error -3 while dec"),
        (archive("[]"), "is no index file: its header does not name the format"),
        (archive('{"version": "1"}'), "is no index file: its header does not name the format"),
        (archive(json.dumps({**GOOD, "version": "9"})), "is of format version '9'; expected '1'"),
        (archive(json.dumps(GOOD)), "is damaged: its checksum differs. Make it again"),
    ],
)
def test_foreign_file_is_refused(content, message, tmp_path):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=f"^index '.*file' {message}"):
        SimilarityIndex.open(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="none' is no file; expected one written by"):
        SimilarityIndex.open(tmp_path / "none")


@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_save_leaves_the_old_file_or_none(exists, tmp_path, monkeypatch):
    path = tmp_path / "index.zip"
    if exists:
        SimilarityIndex(random_table()).save(path)
    before = path.read_bytes() if exists else None
    def fail(self, name, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(KeyboardInterrupt):
        SimilarityIndex(random_table(seed=2)).save(path)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [before] * exists
