"""Identities that may be the same person: by their crops, without their own and unnamed ones."""

import pytest

from tests.outside import problem


@pytest.fixture
def split(served, gallery, drawn_crops):
    """Return each person's crops: the first has two names, and some crops have none."""
    names = [crop.identity for crop in drawn_crops]
    own = [position for position, name in enumerate(names) if name == "0000"]
    names[own[0]] = names[own[1]] = "Ann"
    names[own[2]] = ""
    return gallery, served.fill(gallery, drawn_crops, identity=names), names


def test_a_person_under_two_names_is_found_by_either(served, split):
    gallery, ids, names = split
    url = f"/v1/galleries/{gallery}/similar"
    found = served.read(url, params={"identity": "Ann", "limit": 3})
    assert found["next_cursor"] is None
    best, *others = found["results"]
    assert (best["identity"], best["crops"]) == ("0000", 1)
    assert names[ids.index(best["crop_id"])] == "0000"
    assert served.http.get(best["image_url"]).status_code == 200
    assert len({"Ann", "0000", *(result["identity"] for result in others)}) == 4
    probabilities = [result["probability"] for result in found["results"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert served.results(url, params={"identity": "0000"})[0]["identity"] == "Ann"


def test_the_score_is_that_of_a_search_of_the_named_by_the_same_crop(served, split):
    gallery, ids, names = split
    url = f"/v1/galleries/{gallery}"
    (best,) = served.results(f"{url}/similar", params={"identity": "0000", "limit": 1})
    own = ids[names.index("0000")]
    # A probability depends on the number of people who are searched.
    fields = {"crop_id": own, "top_k": 50, "identities": sorted(set(names) - {""})}
    searched = {crop["crop_id"]: crop for crop in served.search(gallery, **fields)}
    same = searched[best["crop_id"]]
    assert (same["probability"], same["verdict"]) == (best["probability"], best["verdict"])


def test_an_unknown_identity_and_a_gallery_of_one_person(client, served, gallery, images):
    url = f"/v1/galleries/{gallery}/similar"
    unknown = served.http.get(url, params={"identity": "Ann"})
    assert problem(unknown) == (404, "unknown_identity")
    served.enrolled(gallery, images[0], identity="a/similar")
    assert client.similar("a/similar", limit=5) == []
