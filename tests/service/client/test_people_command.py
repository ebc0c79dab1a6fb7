"""`gmn people` and `gmn query --find`, as a user types them."""

import io

import pytest
from PIL import Image

from demo.data_sets import read_spec
from gmn_client import Image as LabelledImage
from tests.outside import encoded


def photo_of(count):
    """Return a photo with so many drawn people, as a JPEG."""
    crops = read_spec("synthetic:3,identities=12,domains=1,cameras=1,crops=1")
    photo = Image.new("RGB", (1000, 600), (120, 125, 118))
    for number, crop in enumerate(crops[:count]):
        person = Image.open(io.BytesIO(crop.read())).resize((200, 400), Image.Resampling.LANCZOS)
        photo.paste(person, (100 + 300 * number, 100))
    return encoded(photo, "JPEG", quality=92)


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


def test_the_only_person_of_a_photo_is_searched_for(gmn, photo, client):
    (person,) = client.people(photo(1)).people
    client.enroll_frame(photo(1), [{**person.box, "identity": "Ann"}])
    answer = gmn("query", photo(1), "--find", "--json")
    assert answer["results"][0]["identity"] == "Ann"


def test_one_of_several_people_is_asked_for_by_number(gmn, photo, client):
    people = client.people(photo(2)).people
    for person, name in zip(people, ("Ann", "Bob"), strict=True):
        client.enroll_frame(photo(2), [{**person.box, "identity": name}])
    asked = gmn("query", photo(2), "--find", status=1)
    assert "2 people found" in asked
    assert "name one of these people with --person NUMBER" in asked
    answer = gmn("query", photo(2), "--find", "--person", "2", "--json")
    assert answer["results"][0]["identity"] == "Bob"
    absent = gmn("query", photo(2), "--find", "--person", "3", status=1)
    assert "there is no person 3" in absent


def test_a_photo_of_nobody_and_options_that_contradict_say_what_to_do(gmn, photo, client):
    client.enroll([LabelledImage(photo_of(1), identity="Ann")])
    assert "give the box of a person with --box" in gmn("query", photo(0), "--find", status=1)
    assert "add --find" in gmn("query", photo(1), "--person", "1", status=2)
    assert "name one IMAGE" in gmn("query", photo(1), photo(2), "--find", status=2)
