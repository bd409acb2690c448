"""k-means on a line against scikit-learn's, and its corners."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from laconic.core.errors import BadInput
from laconic.storage.codebook import STARTS, Start, codebook, lloyd

RNG = np.random.default_rng(0)
VALUES = np.concatenate([RNG.standard_normal(400), 0.2 * RNG.standard_normal(300) + 2])


@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
@pytest.mark.parametrize("k", [2, 7, 32])
def test_it_comes_where_scikit_learn_comes_from_the_same_centers(k: int, weighted: bool) -> None:
    centers = np.quantile(VALUES, (np.arange(k) + 0.5) / k)
    weights = RNG.random(len(VALUES)) if weighted else None
    peer = KMeans(k, init=centers[:, None], n_init=1, tol=0, max_iter=500, algorithm="lloyd").fit(VALUES[:, None], sample_weight=weights)
    result = lloyd(VALUES, centers, weights)
    np.testing.assert_allclose(result.centers, np.sort(peer.cluster_centers_[:, 0]), rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.decoded(), peer.cluster_centers_[peer.labels_, 0], rtol=0, atol=1e-9)


def test_starts_are_those_of_the_paper() -> None:
    ordered = np.sort(VALUES)
    assert codebook(VALUES, 1, "linear").centers == pytest.approx([VALUES.mean()])
    # before a step of Lloyd's the starts differ; after many they may still
    found = {start: codebook(VALUES, 8, start).centers for start in STARTS}
    assert len({tuple(centers) for centers in found.values()}) == len(STARTS)
    np.testing.assert_allclose(found["linear"], lloyd(VALUES, np.linspace(ordered[0], ordered[-1], 8)).centers)
    np.testing.assert_allclose(found["density"], lloyd(VALUES, np.quantile(ordered, (np.arange(8) + 0.5) / 8)).centers)
    assert not np.array_equal(codebook(VALUES, 8, "random", seed=1).centers, found["random"])


@example([0, 1, -1, 3, 18], 4, "linear")  # a center that moved leaves another one without a number
@given(st.lists(st.integers(-999, 999), min_size=1, max_size=40), st.integers(1, 12), st.sampled_from(STARTS))
def test_every_number_has_its_nearest_center_and_every_center_a_number(values: list[int], k: int, start: Start) -> None:
    given_values = np.array(values) / 7
    result = codebook(given_values, k, start)
    nearest = np.abs(given_values[:, None] - result.centers[None]).min(1)
    np.testing.assert_allclose(np.abs(given_values - result.decoded()), nearest, atol=1e-6)
    assert set(result.codes) == set(range(len(result.centers)))
    assert len(result.centers) == min(k, len(set(values)))
    if len(set(values)) <= k:
        np.testing.assert_array_equal(result.decoded(), given_values)


@pytest.mark.parametrize(
    ("values", "k", "start", "said"),
    [(VALUES, 4, "densty", "Did you mean 'density'"), (VALUES, 0, "linear", "k is 0"), (VALUES[:0], 4, "linear", "of 0 numbers")],
    ids=["start", "k", "no value"],
)
def test_what_makes_no_codebook_is_refused(values: np.ndarray, k: int, start: Start, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        codebook(values, k, start)
