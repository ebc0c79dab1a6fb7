"""Vectors in answers, and queries by a vector in place of an image."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from gmn_client import Client, RequestRefused


@pytest.fixture
def client(served, filled):
    with Client(str(served.http.base_url), gallery=filled) as client:
        yield client


def _ranking(answer):
    return [
        (result.crop_id, result.cosine, result.pair_logit, result.verdict)
        for result in answer.results
    ]


def test_a_query_by_a_vector_is_the_query_by_its_image(client, drawn_crops):
    image = drawn_crops[0].png
    embedded = client.embeddings(image)
    vector = embedded.results[0].embedding
    for options in ({}, {"cameras": ["west"], "top_k": 3}, {"group_by": "identity"}):
        by_image = client.query(image, **options)
        by_vector = client.query_vector(vector, embedded.embedding_fingerprint, **options)
        assert _ranking(by_vector) == _ranking(by_image)
        assert by_vector.verdict == by_image.verdict


def test_vectors_of_results_and_of_crops_are_those_that_the_index_has(served, client, drawn_crops):
    image = drawn_crops[0].png
    embedded = client.embeddings(image)
    found = client.query(image, include_vector=True, top_k=3)
    assert np.allclose(found.results[0].vector, embedded.results[0].embedding, atol=1e-3)
    listed = {crop.crop_id: crop for crop in client.crops(include_vector=True)}
    for result in found.results:
        assert result.embedding_fingerprint == embedded.embedding_fingerprint
        shown = client.crop(result.crop_id, include_vector=True)
        assert shown.vector == listed[result.crop_id].vector == result.vector
        assert shown.embedding_fingerprint == embedded.embedding_fingerprint
    # Where it is not asked for there is none.
    plain = served.results(f"/v1/galleries/{client.gallery_name}/crops")[0]
    assert "vector" not in plain
    assert client.query(image).results[0].vector is None


def test_a_vector_comes_as_base64_of_float32_too(served, client, drawn_crops):
    embedded = client.embeddings(drawn_crops[0].png)
    numbers = np.array(embedded.results[0].embedding, "<f4")
    sent = {
        "vector": base64.b64encode(numbers.tobytes()).decode(),
        "embedding_fingerprint": embedded.embedding_fingerprint,
    }
    by_base64 = served.http.post(f"/v1/galleries/{client.gallery_name}/queries", data=sent).json()
    by_json = client.query_vector(numbers.tolist(), embedded.embedding_fingerprint)
    ids = [result["crop_id"] for result in by_base64["results"]]
    assert ids == [result.crop_id for result in by_json.results]


def test_a_vector_that_cannot_be_compared_is_refused_with_the_remedy(served, client, drawn_crops):
    embedded = client.embeddings(drawn_crops[0].png)
    vector = embedded.results[0].embedding
    made_by = embedded.embedding_fingerprint
    for sent, other in ((vector, "0" * 64), (vector[:-1], made_by)):
        with pytest.raises(RequestRefused, match=r"send\s+the\s+image") as refused:
            client.query_vector(sent, other)
        assert {error.field for error in refused.value.problem.errors} == {
            "vector",
            "embedding_fingerprint",
        }
    text = json.dumps(vector)
    for fields, field in (
        ({"vector": text}, "embedding_fingerprint"),
        ({"vector": "[1, 2", "embedding_fingerprint": made_by}, "vector"),
        ({"vector": "[[1], [2]]", "embedding_fingerprint": made_by}, "vector"),
        ({"vector": '["a"]', "embedding_fingerprint": made_by}, "vector"),
        ({"vector": "[1e999]", "embedding_fingerprint": made_by}, "vector"),
        ({"vector": json.dumps([0] * len(vector)), "embedding_fingerprint": made_by}, "vector"),
        ({"vector": "abc", "embedding_fingerprint": made_by}, "vector"),
        ({"vector": text, "crop_id": "x", "embedding_fingerprint": made_by}, "crop_id"),
    ):
        refusal = served.http.post(f"/v1/galleries/{client.gallery_name}/queries", data=fields)
        assert refusal.status_code == 422
        assert refusal.json()["errors"][0]["field"] == field, refusal.json()
    both = served.query(client.gallery_name, drawn_crops[0].png, vector=text)
    assert both.json()["errors"][0]["field"] == "vector"
