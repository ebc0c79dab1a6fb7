"""`gmn people` and `gmn query --find`, as a user types them."""

import re

import pytest

from gmn_client import Image
from tests.drawn_photos import photo_of


@pytest.fixture
def photo(tmp_path):
    """Return a function that writes a photo with so many people."""

    def write(count):
        path = tmp_path / f"of_{count}.jpg"
        path.write_bytes(photo_of(count))
        return path

    return write


def test_the_people_of_a_photo_are_listed_with_numbers(gmn, photo):
    shown = gmn("people", photo(2))
    assert "of_2.jpg: 1000×600 pixels, 2 people found" in shown
    answer = gmn("people", photo(2), "--json")
    assert (answer["width"], len(answer["people"])) == (1000, 2)


def test_people_are_numbered_from_left_to_right_and_answered_by_their_scores(gmn, photo):
    people = gmn("people", photo(3), "--json")["people"]
    assert people == sorted(people, key=lambda person: -person["score"])
    from_left = sorted(people, key=lambda person: person["x"] + person["width"] / 2)
    assert [person["number"] for person in from_left] == list(range(1, len(people) + 1))
    assert from_left != people
    # The command lists them in this order.
    lines = gmn("people", photo(3)).splitlines()
    listed = [re.findall(r"[\d.]+", line)[:2] for line in lines if line.startswith("│")]
    assert listed == [[str(person["number"]), str(person["x"])] for person in from_left]


def test_the_only_person_of_a_photo_is_searched_for(gmn, photo, client):
    (person,) = client.people(photo(1)).people
    client.enroll_frame(photo(1), [{**person.box, "identity": "Ann"}])
    answer = gmn("query", photo(1), "--find", "--json")
    assert answer["results"][0]["identity"] == "Ann"


def test_one_of_several_people_is_asked_for_by_number(gmn, photo, client):
    for person in client.people(photo(2)).people:
        name = {1: "Ann", 2: "Bob"}[person.number]
        client.enroll_frame(photo(2), [{**person.box, "identity": name}])
    asked = gmn("query", photo(2), "--find", status=1)
    assert "2 people found" in asked
    assert "name one of these people with --person NUMBER" in asked
    answer = gmn("query", photo(2), "--find", "--person", "2", "--json")
    assert answer["results"][0]["identity"] == "Bob"
    absent = gmn("query", photo(2), "--find", "--person", "3", status=1)
    assert "there is no person 3" in absent


def test_a_photo_of_nobody_and_options_that_contradict_say_what_to_do(gmn, photo, client):
    client.enroll([Image(photo_of(1), identity="Ann")])
    assert "give the box of a person with --box" in gmn("query", photo(0), "--find", status=1)
    assert "add --find" in gmn("query", photo(1), "--person", "1", status=2)
    assert "name one IMAGE" in gmn("query", photo(1), photo(2), "--find", status=2)
