"""Neighbours are exact, a map keeps them, and a place on it depends on nothing but the object."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from spectra_scale.errors import SpectraScaleError, UsageError
from spectra_scale.models import neighbours as neighbours_module
from spectra_scale.models.embedding import FittedMap, MapSettings, fit_rows, quality
from spectra_scale.models.neighbours import ExactIndex, knn

SETTINGS = MapSettings(n_epochs=100, seed=3, backend="umap-learn")


def blobs(n: int, dims: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Five Gaussian clouds twelve standard deviations apart, and which row is of which."""
    centres = 12.0 * np.eye(5, dims)
    kind = rng.integers(0, 5, n)
    return (centres[kind] + rng.standard_normal((n, dims))).astype(np.float32), kind


def brute(reference: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours by float64 differences, ties by index."""
    a, b = queries.astype(np.float64), reference.astype(np.float64)
    square = np.array([((b - row) ** 2).sum(axis=1) for row in a])
    order = np.argsort(square, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(square, order, axis=1))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return blobs(500, 10, np.random.default_rng(0))


@pytest.fixture(scope="module")
def fitted(data) -> FittedMap:
    return FittedMap.fit(data[0], SETTINGS)


# ---- neighbours


@pytest.mark.parametrize("dims", [2, 10, 16, 200])
def test_neighbours_are_those_of_float64_brute_force(dims):
    rng = np.random.default_rng(dims)
    # A common offset and one far row: what a float32 matrix product alone gets wrong.
    x = (rng.standard_normal((600, dims)) + 30.0).astype(np.float32)
    x[17] *= 1e4
    queries = (rng.standard_normal((100, dims)) + 30.0).astype(np.float32)
    for rows, (indices, distances) in (
        (queries, knn(x, queries, k=12)),
        (x, knn(x, k=12)),
    ):
        expected, length = brute(x, rows, 12)
        np.testing.assert_array_equal(indices, expected)
        # Distances are returned as float32.
        np.testing.assert_allclose(distances, length, rtol=2e-7, atol=0)


@pytest.mark.parametrize("dims", [3, 40])
def test_each_row_is_its_own_first_neighbour_even_among_duplicates(dims):
    x = np.repeat(np.random.default_rng(0).standard_normal((20, dims)), 9, axis=0)
    indices, distances = knn(x, k=5)
    np.testing.assert_array_equal(indices[:, 0], np.arange(180))
    assert (distances == 0).all()
    assert (indices // 9 == np.arange(180)[:, None] // 9).all()
    assert all(len(set(row)) == 5 for row in indices)


@pytest.mark.parametrize("dims", [10, 100])
def test_neighbours_do_not_depend_on_the_batch(dims, monkeypatch):
    rng = np.random.default_rng(0)
    x, queries = rng.standard_normal((500, dims)), rng.standard_normal((97, dims))
    queries[5] = x[8]
    whole = ExactIndex(x).query(queries, 7)
    for block in (500, 500 * 13):
        monkeypatch.setattr(neighbours_module, "_BLOCK_VALUES", block)
        for parts in (1, 6, 97):
            found = [knn(x, part, k=7) for part in np.array_split(queries, parts)]
            for column in (0, 1):
                joined = np.concatenate([pair[column] for pair in found])
                np.testing.assert_array_equal(joined, whole[column])


@pytest.mark.slow  # compiles pynndescent: a minute where it is not cached
@pytest.mark.timeout(300)
def test_a_large_set_has_approximate_neighbours(monkeypatch):
    monkeypatch.setattr(neighbours_module, "BRUTE_ROWS", 300)
    x, _ = blobs(1000, 20, np.random.default_rng(0))
    indices, distances = knn(x, k=10, seed=1)
    expected, _ = brute(x, x, 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(indices, expected, strict=True)])
    # NN-descent finds nearly all neighbours of clustered data; the exact search would give 1.
    assert recall > 0.9
    np.testing.assert_array_equal(indices[:, 0], np.arange(1000))
    assert (np.diff(distances, axis=1) >= 0).all()


def test_impossible_neighbours_are_refused():
    x = np.zeros((5, 3))
    with pytest.raises(SpectraScaleError, match="6 neighbours were asked for among 5 rows"):
        knn(x, k=6)
    with pytest.raises(SpectraScaleError, match=r"queries has shape \(2, 4\)"):
        knn(x, np.zeros((2, 4)), k=1)
    with pytest.raises(SpectraScaleError, match="1 of 5 rows with NaN"):
        knn(np.where(np.eye(5, 3) * [0, 1, 0], np.nan, x), k=2)


# ---- the map


def test_clouds_lie_apart_on_the_map(data, fitted):
    x, kind = data
    found = quality(x, fitted.coordinates)
    assert found.trustworthiness > 0.9
    assert found.n_rows == 500
    near, _ = knn(fitted.coordinates, k=2)
    # Clouds twelve deviations apart share no neighbours in 10 dimensions, nor on their map.
    assert np.mean(kind[near[:, 1]] == kind) > 0.99


def test_the_same_seed_gives_the_same_map_from_given_neighbours(data, fitted):
    pair = knn(data[0], k=20)
    copies = pair[0].copy(), pair[1].copy()
    again = FittedMap.fit(data[0], SETTINGS, neighbours=pair)
    np.testing.assert_array_equal(again.coordinates, fitted.coordinates)
    np.testing.assert_array_equal(pair[0], copies[0])
    np.testing.assert_array_equal(pair[1], copies[1])


def test_a_fitted_row_is_placed_where_it_was_fitted(data, fitted):
    np.testing.assert_array_equal(fitted.place(data[0]), fitted.coordinates)


def test_a_place_does_not_depend_on_the_batch_or_on_the_copy(data, fitted):
    x, kind = blobs(150, 10, np.random.default_rng(9))
    whole = fitted.place(x)
    for parts in (2, 7, 150):
        joined = np.concatenate([fitted.place(part) for part in np.array_split(x, parts)])
        np.testing.assert_array_equal(joined, whole)
    copy = FittedMap.from_arrays(fitted.to_arrays())
    np.testing.assert_array_equal(copy.place(x), whole)
    np.testing.assert_array_equal(copy.rows, fitted.rows)
    centres = np.array([fitted.coordinates[data[1] == cloud].mean(axis=0) for cloud in range(5)])
    nearest = np.argmin(np.linalg.norm(whole[:, None] - centres, axis=2), axis=1)
    np.testing.assert_array_equal(nearest, kind)


def test_a_place_lies_within_its_neighbours(fitted):
    x, _ = blobs(50, 10, np.random.default_rng(5))
    corners = fitted.coordinates[knn(fitted.x, x, k=15)[0]]
    placed = fitted.place(x)
    # A weighted mean in float64, returned as float32.
    assert (placed >= corners.min(axis=1) - 1e-5).all()
    assert (placed <= corners.max(axis=1) + 1e-5).all()


def test_more_rows_than_max_fit_are_drawn_by_the_seed():
    settings = MapSettings(max_fit=60, seed=4)
    rows = fit_rows(200, settings)
    assert len(set(rows.tolist())) == 60
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, fit_rows(200, settings))
    assert not np.array_equal(rows, fit_rows(200, MapSettings(max_fit=60, seed=5)))
    np.testing.assert_array_equal(fit_rows(50, settings), np.arange(50))


def test_maps_that_cannot_be_fitted_are_refused(data):
    x = data[0]
    with pytest.raises(SpectraScaleError, match="more than 15 rows to fit; found 15 rows"):
        FittedMap.fit(x[:15])
    with pytest.raises(SpectraScaleError, match="fitted on 500 rows with 15 neighbours"):
        FittedMap.fit(x, SETTINGS, neighbours=knn(x, k=5))
    with pytest.raises(SpectraScaleError, match="lack coordinates"):
        FittedMap.from_arrays({"x": x, "rows": np.arange(500)})
    with pytest.raises(SpectraScaleError, match="more than 500"):
        quality(x, x[:, :2], k=250)


# ---- quality


@pytest.mark.parametrize("k", [1, 5, 15])
def test_trustworthiness_is_that_of_scikit_learn(k):
    rng = np.random.default_rng(k)
    x, places = rng.standard_normal((300, 8)), rng.standard_normal((300, 2))
    x, places = x.astype(np.float32), (places + x[:, :2]).astype(np.float32)
    found = quality(x, places, k=k)
    # Both rank float64 distances; the sums are of integers.
    assert found.trustworthiness == pytest.approx(
        trustworthiness(x.astype(np.float64), places.astype(np.float64), n_neighbors=k), abs=1e-12
    )
    far, _ = brute(x, x, k + 1)
    near, _ = brute(places, places, k + 1)
    pairs = zip(near[:, 1:], far[:, 1:], strict=True)
    overlap = np.mean([len(set(a) & set(b)) / k for a, b in pairs])
    assert found.neighbour_overlap == pytest.approx(overlap, abs=1e-12)


def test_a_sample_estimates_the_quality_of_the_whole():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1500, 6))
    whole, part = quality(x, x[:, :2]), quality(x, x[:, :2], sample=300, seed=1)
    assert part.n_rows == 300
    # Rows scatter by about 0.1 in trustworthiness, so 300 of them give 0.006: five of those.
    assert abs(part.trustworthiness - whole.trustworthiness) < 0.03
    assert quality(x, x).trustworthiness == 1.0
    assert quality(x, x).neighbour_overlap == 1.0


# ---- backends


def fake_cuml(*, available: bool) -> dict[str, types.ModuleType]:
    """Modules that stand for cuML and cupy, to check what they are asked for."""
    cuml, manifold, cupy = (types.ModuleType(n) for n in ("cuml", "cuml.manifold", "cupy"))

    class UMAP:
        def __init__(self, **asked):
            self.asked = asked

        def fit_transform(self, x):
            indices, distances = self.asked["precomputed_knn"]
            assert indices.shape == distances.shape == (len(x), self.asked["n_neighbors"])
            assert self.asked["random_state"] == 3
            return x[:, : self.asked["n_components"]]

    manifold.UMAP = UMAP
    cuml.manifold = manifold
    cupy.is_available = lambda: available
    return {"cuml": cuml, "cuml.manifold": manifold, "cupy": cupy}


def test_cuml_is_used_where_it_finds_a_device(data, monkeypatch):
    for name, module in fake_cuml(available=True).items():
        monkeypatch.setitem(sys.modules, name, module)
    found = FittedMap.fit(data[0], MapSettings(seed=3, n_components=3))
    np.testing.assert_array_equal(found.coordinates, data[0][:, :3])


def test_cuml_without_a_device_is_refused_when_asked_for(data, monkeypatch):
    for name, module in fake_cuml(available=False).items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(UsageError, match="no device was found"):
        FittedMap.fit(data[0], MapSettings(backend="cuml"))
