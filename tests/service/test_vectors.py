"""Vectors in answers, and queries by a vector in place of an image."""

import json

import numpy as np
import pytest

from gmn_client import Client, RequestRefused
from tests.outside import refused_fields


@pytest.fixture
def client(served, filled):
    with Client(str(served.http.base_url), gallery=filled) as client:
        yield client


@pytest.fixture
def embedded(client, images):
    answer = client.embeddings(images[0])
    return answer.results[0].embedding, answer.embedding_fingerprint


@pytest.mark.parametrize(
    "options", [{}, {"cameras": ["west"], "top_k": 3}, {"group_by": "identity"}]
)
def test_a_query_by_a_vector_is_the_query_by_its_image(client, images, embedded, options):
    by_image = client.query(images[0], **options)
    by_vector = client.query_vector(*embedded, **options)
    assert by_vector.results == by_image.results
    assert by_vector.verdict == by_image.verdict


def test_vectors_of_results_and_of_crops_are_those_that_the_index_has(client, images, embedded):
    image = images[0]
    found = client.query(image, include_vector=True, top_k=3).results
    assert np.allclose(found[0].vector, embedded[0], atol=1e-3)
    listed = {crop.crop_id: crop for crop in client.crops(include_vector=True)}
    for result in found:
        shown = client.crop(result.crop_id, include_vector=True)
        for crop in (shown, listed[result.crop_id], result):
            assert (crop.vector, crop.embedding_fingerprint) == (result.vector, embedded[1])
    # Where it is not asked for there is none.
    assert not any(crop.vector for crop in (*client.crops(), *client.query(image).results))


def test_a_vector_of_another_embedder_or_length_is_refused_with_the_remedy(client, embedded):
    vector, made_by = embedded
    for sent, other, remedy in (
        (vector, "0" * 64, "send the images"),
        (vector[:-1], made_by, "1,279 numbers, and those of gallery .* send each vector whole"),
    ):
        with pytest.raises(RequestRefused, match=remedy) as refused:
            client.query_vector(sent, other)
        fields = {error.field for error in refused.value.problem.errors}
        assert fields == {"vector", "embedding_fingerprint"}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"embedding_fingerprint": ""}, "embedding_fingerprint"),
        ({"vector": "[1, 2"}, "vector"),
        ({"crop_id": "x"}, "crop_id"),
    ],
)
def test_a_vector_that_cannot_be_compared_is_refused(served, filled, embedded, changed, field):
    vector, made_by = embedded
    fields = {"vector": json.dumps(vector), "embedding_fingerprint": made_by, **changed}
    refused = served.query(filled, **fields)
    assert field in refused_fields(refused)
