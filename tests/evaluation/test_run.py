"""The stages of an evaluation equal what is computed one by one, and one call runs them all."""

import numpy as np
import pytest
from sklearn.metrics import r2_score as sklearn_r2
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

import astroclip
from astroclip.evaluation import (
    embed_pairs,
    evaluate,
    few_shot,
    information_bound,
    record_spectra,
    score_retrieval,
    zero_shot,
)
from astroclip.evaluation.baselines import (
    aperture_features,
    chi_square_ranks,
    measured_magnitudes,
    recorded_pair_ranks,
)
from astroclip.evaluation.run import (
    ALL_REAL,
    HELD_OUT,
    IMAGE_SHIFTS,
    SECOND_EPOCH,
    SPECTRUM_SHIFTS,
    score_baselines,
    score_model,
    score_neighbors,
    score_noise,
    score_other,
    score_real_redshifts,
    score_rings,
    score_shifts,
    spectra_reference,
)
from astroclip.evaluation.scores import find_score
from astroclip.metrics import r2_score
from tests.evaluation.conftest import N_NEIGHBORS


# ---------------------------------------------------------------------- the whole
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
    assert table.meta == {"MODEL": "random", "WSHA": model.weights_sha256, "NNEIGH": 8}


def test_a_model_of_images_alone_is_scored_on_images_and_repeatably(image_model, pairs, reference):
    table, again = (
        evaluate(pairs, reference, model=image_model, n_neighbors=8, seed=5) for _ in range(2)
    )
    assert set(table["protocol"]) == {
        "k-NN", "zero-shot", "few-shot", "retrieval", "gradient boosting", "throughput"
    }
    assert not set(table["data"]) & set(SPECTRUM_SHIFTS)
    timed = np.asarray(table["protocol"]) == "throughput"
    np.testing.assert_allclose(table["value"][~timed], again["value"][~timed], rtol=1e-9)


def test_a_reference_smaller_than_the_neighborhood_is_refused(image_model, pairs):
    with pytest.raises(ValueError, match="reference has 24 pairs"):
        evaluate(pairs, pairs, model=image_model)


# ---------------------------------------------------------------------- the model
def test_every_protocol_is_scored_as_scikit_learn_and_the_functions_do(run):
    score_model(run)
    table = run.scores.table()
    for query in ("spectrum", "image"):
        for source in ("spectrum", "image"):
            regressor = KNeighborsRegressor(N_NEIGHBORS, weights="distance")
            near, rows = run.known.embeddings(source), run.held.embeddings(query)
            for name, truth in run.held.truth.items():
                regressor.fit(near, run.known.truth[name])
                value = find_score(
                    table, "r2", protocol="k-NN", query=query, reference=source, property=name
                )
                expected = sklearn_r2(truth, regressor.predict(rows))
                assert value == pytest.approx(expected, abs=2e-3)
    for protocol in ("zero-shot", "few-shot"):
        rows = table[table["protocol"] == protocol]
        assert set(rows["query"]) == {"spectrum", "image"}
        assert set(rows["property"]) == set(run.held.truth)
    views = [run.held.embeddings(modality) for modality in ("image", "spectrum")]
    for score, value in score_retrieval(*views).items():
        assert value == find_score(table, score, query="image", reference="spectrum")
    bound, n_pairs = information_bound(*views)
    row = table[table["score"] == "nats"][0]
    assert row["value"] == pytest.approx(bound)
    assert row["n_queries"] == n_pairs == 18


def test_baselines_are_scored_on_the_same_galaxies(run):
    score_baselines(run)
    table = run.scores.table()
    assert set(table["query"]) == {
        "spectrum, principal components", "photometry", "photometry, r and colors",
        "photometry and true shapes", "fiber light and true properties",
    }
    assert set(table["n_queries"]) == {len(run.held)}
    assert set(table["n_reference"]) == {len(run.known)}
    truth, known = run.held.truth, run.known.truth
    near, queries = (
        measured_magnitudes(part.galaxies["magnitude"], seed=(run.scores.seed, number))
        for number, part in enumerate((run.known, run.held))
    )
    for protocol, estimates in (
        ("k-NN", zero_shot(near, known, queries, n_neighbors=N_NEIGHBORS)),
        ("few-shot", few_shot(near, known, queries, seed=run.scores.seed)),
    ):
        value = find_score(
            table, "r2", query="photometry", protocol=protocol, property="redshift"
        )
        assert value == pytest.approx(r2_score(estimates["redshift"], truth["redshift"]))

    near, queries = (
        aperture_features(part.galaxies, part.truth, seed=(run.scores.seed, number))
        for number, part in enumerate((run.known, run.held))
    )
    scaler = StandardScaler().fit(near)
    neighbors = KNeighborsRegressor(run.n_neighbors, weights="distance")
    neighbors.fit(scaler.transform(near), known["log_stellar_mass"])
    expected = sklearn_r2(truth["log_stellar_mass"], neighbors.predict(scaler.transform(queries)))
    value = find_score(table, "r2", query="fiber light and true properties", protocol="k-NN")
    assert value == pytest.approx(expected, abs=1e-6)


def test_another_model_and_predictions_are_scored_beside(run, pairs, reference, tmp_path):
    few = {name: values[:8] for name, values in pairs.items()}
    known = {name: values[:12] for name, values in reference.items()}
    score_other(run, "rest-frame model", "astroclip-small-rest", few, known)
    table = run.scores.table()
    assert set(table["query"]) == {"rest-frame model: spectrum"}
    assert find_score(table, "r2", property="redshift") is not None
    path = tmp_path / "predictions.npz"
    np.savez(path, redshift=run.held.truth["redshift"])
    score_other(run, "supervised encoder", path, pairs, reference)
    value = find_score(run.scores.table(), "r2", query="supervised encoder", property="redshift")
    assert value == 1.0


def test_objects_that_could_not_be_embedded_are_left_out(run):
    table = run.held.tables["image"].copy()
    embedding = np.ma.array(np.asarray(table["embedding"]), mask=False)
    embedding[3] = np.ma.masked
    table["embedding"] = embedding
    run.add_neighbors(table, "image")
    rows = run.scores.table()
    assert set(rows["n_queries"]) == {len(table) - 1}
    assert np.isfinite(rows["value"]).all()
    first = run.held.embeddings("image").copy()
    first[3] = np.nan
    run.add_retrieval(first, run.held.embeddings("spectrum"), ("image", "spectrum"))
    assert run.scores.table()["n_queries"][-1] == len(table) - 1


# ---------------------------------------------------------------------- other instruments
def test_shifted_queries_are_scored_against_the_same_reference(run, model, pairs):
    cut = "spectra cut to 4500-8500 A"
    spectrum_shifts = {name: SPECTRUM_SHIFTS[name] for name in ("SDSS-like spectra", cut)}
    score_neighbors(run)
    score_shifts(
        run, pairs, spectrum_shifts=spectrum_shifts, image_shifts={"shallow": {"depth_loss": 1.0}}
    )
    table = run.scores.table()
    where = {
        "protocol": "k-NN", "query": "spectrum", "reference": "spectrum", "property": "redshift"
    }
    usual, fallen = (find_score(table, "r2", data=data, **where) for data in (HELD_OUT, cut))
    assert find_score(table, "r2_fall", data=cut, **where) == pytest.approx(usual - fallen)
    assert find_score(table, "r2_fall", data="shallow", query="image") is not None

    sdss = embed_pairs(
        model, pairs, seed=1, modalities=("spectrum",), spectra={"instrument": "sdss"}
    ).embeddings("spectrum")
    plain = run.held.embeddings("spectrum")
    for names, views in (
        (("SDSS-like spectrum", "DESI-like spectrum"), (sdss, plain)),
        (("DESI-like spectrum", "SDSS-like spectrum"), (plain, sdss)),
    ):
        value = find_score(table, "recall_1", query=names[0], reference=names[1])
        assert value == score_retrieval(*views)["recall_1"]

    second = embed_pairs(
        model, pairs, seed=run.scores.seed + 2, modalities=("image",), images={"blur": 1.2}
    ).embeddings("image")
    value = find_score(table, "recall_1", data=SECOND_EPOCH, query="second image")
    assert value == score_retrieval(second, run.held.embeddings("image"))["recall_1"]
    assert value > 5 / len(second)


def test_noise_bounds_what_is_recognized(run, pairs):
    score_noise(run, pairs)
    table, light = run.scores.table(), pairs["spectrum"]
    recorded = {
        f"{name.upper()}-like spectrum": record_spectra(
            pairs, seed=(run.scores.seed, 0), instrument=name
        )
        for name in ("sdss", "desi")
    }
    for (name, batch), (other, target) in (
        list(recorded.items()), list(recorded.items())[::-1]
    ):
        where = {"data": "SDSS-like spectra", "query": f"{name}, chi-square"}
        for reference, ranks in (
            ("noiseless light", chi_square_ranks(batch, light)),
            (other, recorded_pair_ranks(batch, target, light)),
        ):
            value = find_score(table, "recall_1", reference=reference, **where)
            assert value == pytest.approx((ranks < 1).mean())


# ---------------------------------------------------------------------- real objects
@pytest.fixture
def atlas(tmp_path):
    """Return a folder of real data with four made-up spectra of two surveys."""
    wavelength = np.arange(3700.0, 6900.0, 3.0)
    flux = 1e-17 * np.linspace(1, 2, len(wavelength)) * np.arange(1, 5)[:, None]
    (tmp_path / "brown2014").mkdir()
    np.savez(
        tmp_path / "brown2014" / "brown2014.npz", wavelength_rest=wavelength, flux=flux[:3],
        z=np.array([0.01, 0.02, 0.03]), name=np.array(["a", "b", "c"]),
    )
    (tmp_path / "fors2").mkdir()
    np.savez(
        tmp_path / "fors2" / "fors2.npz", wavelength=wavelength, flux=flux[3:],
        ivar=np.full((1, len(wavelength)), 1e36), z=np.array([0.4]), sn=np.array([5.0]),
    )
    return tmp_path


def test_surveys_are_scored_apart_and_together_by_both_methods(run, reference, atlas):
    score_real_redshifts(run, atlas, *spectra_reference(run, reference))
    table = run.scores.table()
    assert set(table["reference"]) == {"reference pairs"}
    assert set(table["n_reference"]) == {2 * len(run.known)}
    for protocol in ("k-NN", "redshift head"):
        sizes = {
            str(row["data"]): row["n_queries"] for row in table if row["protocol"] == protocol
        }
        assert sizes == {"Brown et al.": 3, "FORS2": 1, ALL_REAL: 4}
        apart = [
            find_score(table, "beyond_0.05", protocol=protocol, data=name)
            for name in ("Brown et al.", "FORS2")
        ]
        together = find_score(table, "beyond_0.05", protocol=protocol, data=ALL_REAL)
        assert together == pytest.approx((3 * apart[0] + apart[1]) / 4)
    confident = "beyond_0.05_confident"
    assert find_score(table, confident, protocol="redshift head", data="FORS2") is not None
    assert find_score(table, confident, protocol="k-NN") is None


def test_the_bundled_model_is_compared_with_its_own_reference(run, reference):
    run.model = astroclip.load_model("astroclip-small", device="cpu")
    known, source = spectra_reference(run, reference)
    bundled = astroclip.reference_table()
    assert source == "bundled reference"
    assert known["id"].tolist() == bundled["id"][bundled["modality"] == "spectrum"].tolist()
    assert set(known["modality"]) == {"spectrum"}


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    """Return a folder of display images made from known nanomaggies, ringed ones brighter."""
    folder = tmp_path_factory.mktemp("rings")
    rng = np.random.default_rng(1)
    ring = np.arange(40) % 4 == 0
    radius = np.hypot(*np.mgrid[-76:76, -76:76]) / 10
    base = np.exp(-radius) * np.where(ring, 0.04, 0.01)[:, None, None]
    pixels = np.stack([base * s for s in (0.5, 1.0, 1.3)], axis=1)  # g, r, z
    pixels = pixels + 2e-4 * rng.normal(size=pixels.shape)
    scaled = pixels * np.array([6.0, 3.4, 2.2])[:, None, None] + 0.03
    intensity = scaled.clip(0).mean(axis=1, keepdims=True)
    display = (scaled * np.arcsinh(20 * intensity) / np.sqrt(20) / intensity).clip(0, 1)
    rgb = np.round(255 * display[:, ::-1].transpose(0, 2, 3, 1)).astype(np.uint8)
    np.savez(folder / "rings.npz", rgb=rgb)
    lines = ["name,ring", *(f"{number},{int(value)}" for number, value in enumerate(ring))]
    (folder / "rings.csv").write_text("\n".join(lines) + "\n")
    return folder, pixels, ring


def test_rings_that_can_be_told_are_and_the_display_stretch_is_undone(rings, run):
    folder, pixels, ring = rings
    batch, label = astroclip.evaluation.read_rings(folder)
    np.testing.assert_array_equal(label, ring)
    binned = pixels.reshape(40, 3, 76, 2, 76, 2).sum(axis=(3, 5))
    inner = (slice(None), slice(None), slice(28, 48), slice(28, 48))
    np.testing.assert_allclose(batch.pixels[inner], binned[inner], atol=4e-3)
    score_rings(run, folder)
    table = run.scores.table()
    assert find_score(table, "share_of_rings", data="rings") == ring.mean()
    assert find_score(table, "average_precision", data="rings") > 0.9
