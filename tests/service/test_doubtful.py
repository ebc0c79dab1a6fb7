"""Doubtful crops of named people: found in the background, listed, set aside, confirmed, undone."""

import httpx2
import numpy as np
import pytest

from gmn_client import RequestRefused
from model.calibration import ScoringCalibration, TailPoint
from service.doubtful.rule import MARGINS, measure_agreement
from tests.outside import figure, pages, problem
from tests.waiting import eventually

pytestmark = pytest.mark.promise("doubtful")

PEOPLE = ("Ann", "Bob", "Eve")
CROPS = 5


@pytest.fixture(scope="module")
def draw(served, images):
    """Return a function that draws vectors of a person, who looks like nobody else."""
    with served.connect() as client:
        embedded = client.embeddings(images[0])
    dimension = len(embedded.results[0].embedding)

    def draw_vectors(person, count, seed=0):
        direction = np.random.default_rng(sum(person.encode())).normal(size=dimension)
        noise = np.random.default_rng([seed, len(person)]).normal(size=(count, dimension))
        return (direction + 0.15 * noise).tolist()

    draw_vectors.made_by = embedded.embedding_fingerprint
    return draw_vectors


@pytest.fixture
def enroll(client, draw):
    """Return a function that enrolls vectors of a person under a name, and returns their ids."""

    def enroll_vectors(person, name, count=1, seed=0, **more):
        vectors = draw(person, count, seed)
        answer = client.enroll_vectors(vectors, draw.made_by, identity=name, **more)
        return [image.crop_id for image in answer.results]

    return enroll_vectors


@pytest.fixture
def named(enroll):
    """Enroll five crops of each of three people, and return their ids by name."""
    return {name: enroll(name, name, CROPS) for name in PEOPLE}


@pytest.fixture
def wrong(served, client, named, enroll):
    """Enroll a crop of Bob as Ann, and return its id once it is listed."""
    (crop_id,) = enroll("Bob", "Ann", seed=1)
    eventually(lambda: listed(client) == [crop_id])
    return crop_id


def wait_until_checked(client):
    path = f"{client.url}/v1/galleries/{client.gallery_name}/doubtful"
    eventually(lambda: httpx2.get(path).json()["checked"])


def listed(client):
    """Return the ids of the doubtful crops, once every change was checked."""
    wait_until_checked(client)
    return [doubtful.crop.crop_id for doubtful in client.doubtful()]


def test_a_crop_under_a_wrong_name_is_listed_with_the_crop_that_it_resembles(
    served, client, named, wrong
):
    (found,) = client.doubtful()
    assert (found.crop.crop_id, found.crop.identity) == (wrong, "Ann")
    assert (found.other.crop_id in named["Bob"], found.other.identity) == (True, "Bob")
    assert found.own_cosine < 0.2 < 0.9 < found.other_cosine
    assert found.own_probability < 0.5 < found.other_probability
    name = client.gallery_name
    assert figure(served, f'gmn_doubtful_crops{{gallery="{name}"}}') == 1


def test_a_crop_that_is_right_and_an_only_crop_are_not_listed(client, named, enroll):
    enroll("Zoe", "Zoe")
    assert listed(client) == []


def test_the_list_follows_names_at_once_and_the_check_soon(client, named, wrong):
    client.change_crop(wrong, identity="Bob")
    assert list(client.doubtful()) == []
    assert listed(client) == []
    client.change_crop(wrong, identity="Eve")
    eventually(lambda: listed(client) == [wrong])
    assert next(client.doubtful()).crop.identity == "Eve"


def test_a_crop_that_is_set_aside_is_not_listed_and_comes_back(client, wrong):
    client.change_crop(wrong, set_aside=True)
    assert list(client.doubtful()) == []
    assert listed(client) == []
    client.change_crop(wrong, set_aside=False)
    eventually(lambda: listed(client) == [wrong])


def test_a_confirmed_crop_is_not_listed_again_until_that_is_withdrawn(client, wrong):
    client.confirm_crop(wrong)
    assert list(client.doubtful()) == []
    client.change_crop(wrong, camera="east")
    assert listed(client) == []
    client.withdraw_confirmation(wrong)
    eventually(lambda: listed(client) == [wrong])
    # A confirmation is about a name, and another name is another question.
    client.confirm_crop(wrong)
    client.change_crop(wrong, identity="Eve")
    eventually(lambda: listed(client) == [wrong])


def test_a_crop_is_cleared_by_further_crops_of_its_person(client, named, enroll):
    # It agrees with nobody.
    (first,) = enroll("Zoe", "Ann", seed=1)
    eventually(lambda: listed(client) == [first])
    enroll("Zoe", "Ann", CROPS, seed=2)
    eventually(lambda: listed(client) == [])


def test_a_crop_is_cleared_when_the_crops_that_it_resembles_are_deleted(client, named, wrong):
    client.delete_crops(identity="Bob")
    assert list(client.doubtful()) == []
    # It still agrees with nobody; whom else it resembles is drawn.
    wait_until_checked(client)
    assert all(found.other.identity == "Eve" for found in client.doubtful())


def test_the_list_is_paged_with_the_most_doubtful_first(served, client, named, enroll):
    expected = {*enroll("Bob", "Ann", 2, seed=1), *enroll("Eve", "Bob", 2, seed=2)}
    eventually(lambda: expected <= set(listed(client)))
    path = f"/v1/galleries/{client.gallery_name}/doubtful"
    found = list(pages(served.http, path, limit=2))
    excess = [one["other_cosine"] - 2 * one["own_cosine"] for one in found]
    assert excess == sorted(excess, reverse=True)
    assert [one["crop"]["crop_id"] for one in found] == listed(client)
    assert all(one["crop"]["image_url"] is None for one in found)


def test_who_may_only_enroll_learns_nothing_of_other_people(start, data_dir, images):
    served = start(data_dir=data_dir)
    served.enrolled("default", *images[:4], identity="Ann")
    _, administrator = served.make_key("admin")
    _, key = served.make_key("enroll", headers=administrator)
    path = "/v1/galleries/default"
    files = {"images": images[0]}
    sent = served.http.post(f"{path}/crops", files=files, data={"identity": "Eve"}, headers=key)
    assert sent.status_code == 201
    assert "Ann" not in sent.text
    assert "doubtful" not in sent.text
    assert problem(served.http.get(f"{path}/doubtful", headers=key)) == (403, "forbidden")


def test_a_crop_without_a_name_or_that_is_unknown_cannot_be_confirmed(client, enroll):
    (unnamed,) = enroll("Zoe", None)
    with pytest.raises(RequestRefused, match="has no identity that could be right"):
        client.confirm_crop(unnamed)
    with pytest.raises(RequestRefused, match="holds no crop"):
        client.confirm_crop("0" * 32)


CALIBRATION = ScoringCalibration(
    slope=27.0,
    intercept=-8.0,
    impostor_tail=(TailPoint(share=1.0, score=0.0), TailPoint(share=1e-4, score=0.6)),
)


def judge(cosine_of_own, own_crops, cosine_of_other):
    """Return the doubt about a crop with equal cosines to all crops of two people."""
    cosines = [-np.inf, *[cosine_of_own] * own_crops, *[cosine_of_other] * 4]
    names = np.array([0] * (own_crops + 1) + [1] * 4)
    agreement = measure_agreement(np.array([cosines], np.float32), np.zeros(1, np.int64), names)
    return agreement.doubts(CALIBRATION)[0]


def test_an_only_crop_is_doubtful_only_if_it_is_almost_certainly_somebody_else():
    assert judge(0.0, 0, 0.6) < 0
    assert judge(0.0, 0, 0.9) > 0


@pytest.mark.parametrize("own_crops", range(1, len(MARGINS) + 2))
def test_more_crops_of_the_own_person_make_the_rule_stricter(own_crops):
    assert judge(0.8, own_crops, 0.3) < 0
    assert judge(0.1, own_crops, 0.8) > 0
    assert judge(0.3, own_crops, 0.3) >= judge(0.3, own_crops - 1, 0.3) or own_crops == 1
