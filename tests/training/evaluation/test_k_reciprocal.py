"""k-reciprocal re-ranking against the published dense code."""

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.k_reciprocal import k_reciprocal_rows
from training.evaluation.scoring import unit_length


def published(distances, queries, k1, k2, weight):
    """Compute the authors' distances by dense matrices over all images, one image at a time.

    Args:
        distances: of all images, `(N, N)`, normalised, the diagonal below everything else.
    """
    count = len(distances)
    ranking = np.argsort(distances, axis=1, kind="stable")
    distances = np.maximum(distances, 0.0)

    def reciprocal(image, size):
        forward = ranking[image, : size + 1]
        backward = ranking[forward, : size + 1]
        return forward[np.where(backward == image)[0]]

    vectors = np.zeros((count, count))
    for image in range(count):
        own = reciprocal(image, k1)
        expanded = own
        for candidate in own:
            others = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(np.intersect1d(others, own)) > 2 / 3 * len(others):
                expanded = np.append(expanded, others)
        expanded = np.unique(expanded)
        gaussian = np.exp(-distances[image, expanded])
        vectors[image, expanded] = gaussian / gaussian.sum()
    if k2 != 1:
        vectors = np.stack([vectors[ranking[image, :k2]].mean(axis=0) for image in range(count)])
    smaller = np.minimum(vectors[:queries, None], vectors[None, :]).sum(axis=2)
    jaccard = 1 - smaller / (2 - smaller)
    return (1 - weight) * jaccard + weight * distances[:queries]


def dense_cosine(images):
    unit = unit_length(images)
    distances = np.maximum(2 - 2 * (unit @ unit.T), 0)
    distances /= distances.max(axis=1, keepdims=True)
    np.fill_diagonal(distances, -1.0)
    return distances


def drawn_images(seed, count, dimension=8):
    """People of about four images each, in no order."""
    random = np.random.default_rng(seed)
    people = random.normal(size=(count // 4 + 1, dimension))
    of_whom = random.integers(0, len(people), count)
    noise = random.normal(size=(count, dimension))
    return (people[of_whom] + 0.4 * noise).astype(np.float32)


@settings(max_examples=25)
@given(
    st.integers(0, 2**32),
    st.integers(1, 20),
    st.integers(2, 40),
    st.integers(1, 12),
    st.integers(1, 6),
)
def test_the_sparse_distances_are_those_of_the_published_code(seed, queries, gallery, k1, k2):
    k1, k2 = min(k1, queries + gallery - 1), min(k2, k1 + 1, queries + gallery)
    images = drawn_images(seed, queries + gallery)
    expected = published(dense_cosine(images), queries, k1, k2, 0.3)[:, queries:]
    with patch("training.evaluation.k_reciprocal.SCORES_PER_BLOCK", 100):
        rows = k_reciprocal_rows(images[:queries], images[queries:], k1, k2)
    obtained = rows(slice(0, queries))
    np.testing.assert_allclose(1 - obtained, expected, atol=2e-6)


def test_the_papers_own_settings_on_more_images_than_one_block_holds(monkeypatch):
    monkeypatch.setattr("training.evaluation.k_reciprocal.ROWS_PER_BLOCK", 64)
    images = drawn_images(1, 260)
    expected = published(dense_cosine(images), 60, 20, 6, 0.3)[:, 60:]
    monkeypatch.setattr("training.evaluation.k_reciprocal.SCORES_PER_BLOCK", 5_000)
    rows = k_reciprocal_rows(images[:60], images[60:])
    np.testing.assert_allclose(1 - rows(slice(0, 60)), expected, atol=2e-6)
    # A matrix product may round its last bit by the number of rows, on some processors.
    np.testing.assert_allclose(
        rows(slice(0, 60))[13:29], rows(slice(13, 29)), rtol=0, atol=2.0**-23
    )


def test_where_every_crop_queries_all_others_each_is_there_once():
    images = drawn_images(2, 80)
    expected = published(dense_cosine(images), 80, 10, 3, 0.3)
    rows = k_reciprocal_rows(images, images, 10, 3, one_list=True)
    np.testing.assert_allclose(1 - rows(slice(0, 80)), expected, atol=2e-6)
