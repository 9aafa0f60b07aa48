"""Maps of embeddings: the projection, colors with units, what is left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn
from astropy.utils.masked import Masked
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA

from astroclip.exceptions import MissingExtraError, ModelMismatchError
from astroclip.plotting import plot_embedding_map
from astroclip.tables import embedding_matrix, make_embedding_table


def make_table(n_rows=60, *, n_failed=0, modality="spectrum", model="tiny", seed=0):
    """Return an embedding table of random unit vectors whose first rows failed."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(n_rows, 8)) * np.linspace(3, 0.5, 8)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    return make_embedding_table(
        [f"row-{k}" for k in range(n_rows)], modality, embedding, coverage=1.0,
        flags=np.r_[np.ones(n_failed, int), np.zeros(n_rows - n_failed, int)],
        redshift=np.linspace(0, 1, n_rows), model_name=model, weights_sha256="00",
        preparation_version="1", extra_columns={"dust": np.linspace(0, 2, n_rows) * u.mag},
    )


def points(ax):
    """Return all offsets that are drawn, in the order of drawing."""
    return np.concatenate([collection.get_offsets() for collection in ax.collections])


def legend(ax):
    """Return the legend's texts."""
    return [] if ax.get_legend() is None else [t.get_text() for t in ax.get_legend().get_texts()]


def test_points_are_the_principal_components():
    table = make_table()
    ax = Figure().subplots()
    assert plot_embedding_map(table, ax=ax) is ax
    matrix, _ = embedding_matrix(table)
    model = PCA(n_components=2).fit(matrix)
    assert_allclose(points(ax), model.transform(matrix), atol=1e-5)
    share = 100 * model.explained_variance_ratio_
    assert ax.get_xlabel() == f"principal component 1 ({share[0]:.0f} % of variance)"
    assert ax.get_ylabel() == f"principal component 2 ({share[1]:.0f} % of variance)"
    assert legend(ax) == []


def test_color_bar_carries_the_property_with_its_unit():
    table = make_table()
    ax = plot_embedding_map(table, color="dust")
    (drawn,) = ax.collections
    assert_allclose(drawn.get_array(), table["dust"].value)
    assert [other.get_ylabel() for other in ax.figure.axes if other is not ax] == ["dust (mag)"]
    low, high = np.percentile(table["dust"].value, [1, 99])
    assert drawn.get_clim() == pytest.approx((low, high))


def test_values_that_are_no_column_are_named_by_the_caller():
    age = np.linspace(1, 9, 60) * u.Gyr
    ax = plot_embedding_map(make_table(), color=age, color_name="mean_age")
    assert ax.figure.axes[1].get_ylabel() == "mean age (Gyr)"


@pytest.mark.parametrize("kind", ["nan", "masked column", "masked quantity"])
def test_rows_without_a_value_are_gray_and_counted(kind):
    table = make_table()
    values, missing = np.linspace(0, 1, 60), np.arange(60) < 7
    if kind == "nan":
        color = np.where(missing, np.nan, values)
    elif kind == "masked column":
        color = MaskedColumn(values, mask=missing, name="x")
    else:
        color = Masked(values * u.km / u.s, mask=missing)
    ax = plot_embedding_map(table, color=color, color_name="speed")
    gray, colored = ax.collections
    assert len(gray.get_offsets()) == 7
    assert_allclose(colored.get_array(), values[7:])
    assert_allclose(gray.get_facecolor()[0, :3], 0.75)
    assert legend(ax) == ["no speed (7)"]


def test_failed_rows_are_left_out_and_counted():
    table = make_table(n_failed=5)
    ax = plot_embedding_map(table, color="redshift")
    assert len(points(ax)) == 55
    assert_allclose(ax.collections[0].get_array(), table["redshift"][5:])
    assert legend(ax) == ["5 rows without an embedding"]


def test_classes_have_colors_and_names():
    kinds = np.array(["star", "galaxy", ""] * 20)
    ax = plot_embedding_map(make_table(), color=MaskedColumn(kinds, mask=kinds == ""))
    assert legend(ax) == ["no value (20)", "galaxy", "star"]
    assert_allclose(ax.collections[1].get_facecolor()[0, :3], to_rgba("C0")[:3])
    assert len(ax.figure.axes) == 1
    with pytest.raises(ValueError, match="color holds 60 classes; expected at most 10"):
        plot_embedding_map(make_table(), color="id")


def test_both_modalities_have_markers_or_one_is_chosen():
    kinds = np.array(["spectrum", "image"] * 30)
    ax = plot_embedding_map(make_table(modality=kinds))
    assert legend(ax) == ["image", "spectrum"]
    assert len(points(plot_embedding_map(make_table(modality=kinds), modality="image"))) == 30
    with pytest.raises(ValueError, match="modality is 'sound'; expected one of"):
        plot_embedding_map(make_table(), modality="sound")


def test_a_large_table_is_drawn_in_part():
    table = make_table()
    ax = plot_embedding_map(table, color="redshift", max_points=20)
    assert len(points(ax)) == 20
    assert legend(ax) == ["20 of 60 rows, at random"]
    again = plot_embedding_map(table, color="redshift", max_points=20)
    assert_allclose(points(ax), points(again))


def test_queries_are_stars_of_the_same_projection():
    table, queries = make_table(), make_table(4, n_failed=1)
    ax = plot_embedding_map(table, queries=queries)
    matrix, _ = embedding_matrix(table)
    expected = PCA(n_components=2).fit(matrix).transform(embedding_matrix(queries)[0][1:])
    assert_allclose(ax.collections[-1].get_offsets(), expected, atol=1e-5)
    assert legend(ax) == ["queries (3)", "1 queries without an embedding"]
    with pytest.raises(ModelMismatchError, match="queries and table hold embeddings"):
        plot_embedding_map(table, queries=make_table(4, model="other"))


CLUSTERS = """
import json, sys
import numpy as np
from astroclip.plotting import plot_embedding_map
from tests.plotting.test_maps import make_table

table = make_table(12)
noise = 0.01 * np.random.default_rng(0).normal(size=(12, 8))
table["embedding"] = (np.repeat(np.eye(8)[:2], 6, axis=0) + noise).astype(np.float32)
ax = plot_embedding_map(table, method="umap", queries=table[:2])
points, queries = (part.get_offsets().tolist() for part in ax.collections)
print(json.dumps([ax.get_xlabel(), ax.get_ylabel(), points, queries]))
"""


def test_umap_keeps_clusters_apart():
    pytest.importorskip("umap")
    done = subprocess.run(  # compiling UMAP takes ten times as long as interpreting it here
        [sys.executable, "-c", CLUSTERS], env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    *labels, points, queries = json.loads(done.stdout.splitlines()[-1])
    assert labels == ["UMAP 1", "UMAP 2"]
    drawn = np.array(points)
    within = max(np.ptp(drawn[:6], axis=0).max(), np.ptp(drawn[6:], axis=0).max())
    assert np.linalg.norm(drawn[:6].mean(0) - drawn[6:].mean(0)) > within
    assert np.shape(queries) == (2, 2)


def test_without_umap_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"astroclip\[plot\]"):
        plot_embedding_map(make_table(), method="umap")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"color": "mass"}, KeyError, "table has no column 'mass'; expected one of"),
        ({"color": np.ones(3)}, ValueError, "color has 3 values and table has 60"),
        ({"color": np.ones((60, 2))}, ValueError, "color is of float64 with shape"),
        ({"method": "tsne"}, ValueError, "method is 'tsne'; expected one of 'pca', 'umap'"),
        ({"max_points": 2}, ValueError, "max_points is 2; expected at least 3"),
    ],
)
def test_bad_arguments_are_named(options, error, words):
    with pytest.raises(error, match=words):
        plot_embedding_map(make_table(), **options)


def test_too_few_rows_are_named():
    with pytest.raises(ValueError, match="table has 2 rows with an embedding to draw"):
        plot_embedding_map(make_table(5, n_failed=3))
