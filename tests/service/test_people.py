"""People on a photo: the service finds them, and keeps nothing of it."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmn_client import ServiceFailed
from model import people_detector
from model.crops.decode import Photo, decode_photo
from model.people_detector import DETAIL_PIXELS, SHIPPED_DETECTOR, PeopleDetector
from service.engine import images
from tests.drawn_photos import BACKGROUND, drawn_people
from tests.outside import audit_lines, bearer, encoded, problem
from tests.service.conftest import files


def paste(people, size, height, lefts, top):
    """Return a photo with drawn people of a height in pixels, and where they stand."""
    photo = Image.new("RGB", size, BACKGROUND)
    places = []
    for person, left in zip(people, lefts, strict=True):
        width = round(height * person.width / person.height)
        photo.paste(person.resize((width, height), Image.Resampling.LANCZOS), (left, top))
        places.append((left, top, left + width, top + height))
    return photo, places


def overlap(person, place):
    """Return the intersection over union of a found box and a place."""
    left, top, right, bottom = place
    width = min(person["x"] + person["width"], right) - max(person["x"], left)
    height = min(person["y"] + person["height"], bottom) - max(person["y"], top)
    shared = max(0, width) * max(0, height)
    area = person["width"] * person["height"]
    return shared / (area + (right - left) * (bottom - top) - shared)


def find(served, photo, **fields):
    answer = served.http.post("/v1/people", files=files(photo), data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def people():
    return drawn_people()


@pytest.fixture(scope="module")
def detector():
    return PeopleDetector()


@pytest.fixture(scope="module")
def photo(people):
    picture, places = paste(people[:3], (1280, 720), 400, (100, 500, 900), 150)
    return encoded(picture, "JPEG", quality=92), places


def test_each_person_on_a_photo_has_a_box_and_nothing_is_stored(
    start, photo, tmp_path, monkeypatch
):
    data = tmp_path / "data"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    served = start(data_dir=data)
    file, places = photo
    before = served.read("/v1/galleries/default")
    for _ in range(20):
        found = find(served, file, purpose="case 7")
    assert (found["width"], found["height"]) == (1280, 720)
    for place in places:
        assert max(overlap(person, place) for person in found["people"]) > 0.5
    scores = [person["score"] for person in found["people"]]
    assert scores == sorted(scores, reverse=True)
    assert served.read("/v1/galleries/default") == before
    served.stop()
    # A file that holds a part of the photo has some of these bytes.
    parts = [file[start_byte : start_byte + 20] for start_byte in range(1000, len(file), 4000)]
    for stored in [path for path in tmp_path.rglob("*") if path.is_file()] + [served.log]:
        content = stored.read_bytes()
        assert not any(part in content for part in parts), stored
    looked = audit_lines(data, "people")
    assert len(looked) == 20
    assert {(line["count"], line["purpose"]) for line in looked} == {(len(scores), "case 7")}
    assert not any("boxes" in line or "width" in line for line in looked)


def test_the_boxes_of_a_photo_are_a_query_and_an_enrollment(served, gallery, photo):
    file, _ = photo
    with served.connect(gallery=gallery) as client:
        found = client.people(file, purpose="case 7").people
        boxes = [
            {**person.box, "identity": name} for person, name in zip(found, "abc", strict=True)
        ]
        enrolled = client.enroll_frame(file, boxes)
        assert [result.identity for result in enrolled.results] == ["a", "b", "c"]
        for person, name in zip(found, "abc", strict=True):
            assert client.query(file, boxes=[person.box], top_k=1).results[0].identity == name


def detect(detector, picture):
    return [person._asdict() for person in detector.detect(Photo(picture, *picture.size))]


@pytest.mark.parametrize(
    ("size", "share", "down"),
    [
        ((1000, 700), 0.25, 0.2),
        ((1920, 1080), 0.18, 0.2),
        ((1800, 2400), 0.18, 0.2),
        ((1080, 1920), 0.18, 0.2),
        ((1500, 1500), 0.18, 0.4),
    ],
)
def test_small_people_are_found_once_each_on_a_large_photo(people, detector, size, share, down):
    height = round(share * size[1])
    lefts = [round(left * size[0]) for left in (0.1, 0.45, 0.8)]
    # Of the drawn people the network takes some for no person.
    drawn = (people[2], people[6], people[10])
    # No edge of a tile cuts them. The network finds drawn people only where they are large.
    picture, places = paste(drawn, size, height, lefts, round(down * size[1]))
    found = detect(detector, picture)
    assert len(found) == 3
    for place in places:
        assert max(overlap(person, place) for person in found) > 0.4


@pytest.mark.parametrize("size", [(640, 1000), (600, 600), (1800, 700), (1080, 1920)])
def test_a_person_who_fills_a_photo_is_found_once(people, detector, size):
    height = round(0.95 * size[1])
    picture, places = paste(people[6:7], size, height, (size[0] // 10,), 10)
    (found,) = detect(detector, picture)
    assert overlap(found, places[0]) > 0.4


def test_a_large_photo_has_the_same_people_at_a_reduced_size(people, detector):
    picture, _ = paste(people[6:9], (2800, 2100), 700, (280, 1260, 2240), 800)
    photo = decode_photo(encoded(picture, "JPEG", quality=92), DETAIL_PIXELS)
    assert (photo.picture.size, photo.width, photo.height) == ((1400, 1050), 2800, 2100)
    found = [person._asdict() for person in detector.detect(photo)]
    places = [
        (person["x"], person["y"], person["x"] + person["width"], person["y"] + person["height"])
        for person in detect(detector, picture)
    ]
    assert len(found) == len(places) == 3
    for place in places:
        assert max(overlap(person, place) for person in found) > 0.8


SHAPES = [(width, 1000) for width in range(300, 4000, 50)]


@pytest.mark.parametrize(
    "size", [(1600, 1200), (1200, 1600), (1920, 1080), (1600, 1600), (9000, 90)]
)
def test_the_tiles_of_a_photo_cover_it_and_overlap(size):
    photo = Photo(Image.new("RGB", size), *size)
    tiles = [views[0].window for _, views in list(people_detector._canvases(photo))[1:]]
    assert 2 <= len(tiles) <= people_detector.MAX_TILES
    seen = np.zeros(size[::-1], int)
    for tile in tiles:
        left, top, right, bottom = (round(edge) for edge in tile)
        seen[top:bottom, left:right] += 1
    assert seen.min() == 1
    for first, second in itertools.pairwise(tiles):
        if first.top == second.top:
            assert first.right - second.left >= 0.049 * max(size)


@pytest.mark.parametrize("size", SHAPES + [(height, width) for width, height in SHAPES])
def test_no_photo_has_more_than_six_tiles_and_its_two_whole_views_lie_apart(size):
    photo = Photo(Image.new("RGB", size), *size)
    (canvas, (large, small)), *tiles = people_detector._canvases(photo)
    assert len(tiles) <= people_detector.MAX_TILES
    across = small.left - large.picture.width
    down = small.top - large.picture.height
    assert max(across, down) >= 16
    for view in (large, small, *(tile for _, (tile,) in tiles)):
        assert view.left + view.picture.width <= canvas[0]
        assert view.top + view.picture.height <= canvas[1]


def test_memory_is_returned_after_a_large_photo_alone(open_service, people, monkeypatch):
    returned = []
    monkeypatch.setattr(images, "return_free_memory", lambda: returned.append(True))
    served = open_service()
    for size, calls in (((1280, 720), 0), ((2000, 1500), 1)):
        picture, _ = paste(people[6:7], size, 400, (100,), 150)
        find(served, encoded(picture, "JPEG"))
        assert len(returned) == calls


def test_a_photo_that_lies_on_its_side_has_boxes_as_it_is_shown(served, photo):
    file, places = photo
    upright = Image.open(io.BytesIO(file))
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = encoded(upright.rotate(90, expand=True), "JPEG", quality=92, exif=exif)
    found = find(served, lying)
    assert (found["width"], found["height"]) == (1280, 720)
    assert max(overlap(person, places[0]) for person in found["people"]) > 0.5


def test_a_photo_without_people_has_none(served):
    empty = encoded(Image.new("RGB", (900, 700), BACKGROUND))
    assert find(served, empty)["people"] == []


def test_what_is_no_single_photo_is_refused_with_the_reason(served, photo):
    file, _ = photo
    post = served.http.post
    several = post("/v1/people", files=files(file, file))
    assert (several.status_code, several.json()["detail"]) == (
        422,
        "images: 2 were sent; send one photo at a time",
    )
    with_boxes = post("/v1/people", files=files(file), data={"boxes": "{}"})
    assert with_boxes.status_code == 422
    assert "boxes" in with_boxes.json()["detail"]
    damaged = post("/v1/people", files=files(file[:5000]))
    assert problem(damaged) == (422, "unusable_images")
    assert post("/v1/people").status_code == 422


def test_keys_that_query_or_enroll_find_people_and_others_do_not(open_service, photo):
    served = open_service()
    _, admin = served.make_key("admin")
    served.http.headers.update(admin)
    served.create("lobby")
    statuses = {}
    for scope in ("query", "enroll", "sight", "delete"):
        key = served.http.post("/v1/keys", data={"scopes": scope, "gallery": "lobby"}).json()["key"]
        answer = served.http.post("/v1/people", files=files(photo[0]), headers=bearer(key))
        statuses[scope] = answer.status_code
    assert statuses == {"query": 200, "enroll": 200, "sight": 403, "delete": 403}
    del served.http.headers["Authorization"]
    assert served.http.post("/v1/people", files=files(photo[0])).status_code == 401


def test_without_a_detector_the_service_says_so_and_takes_boxes(open_service, monkeypatch, photo):
    monkeypatch.setattr(people_detector, "SHIPPED_DETECTOR", Path("missing.xml"))
    served = open_service()
    assert served.read("/v1/model")["people_detector"] is None
    with served.connect() as client:
        with pytest.raises(ServiceFailed, match="no detector of people") as failed:
            client.people(photo[0])
        assert failed.value.problem.status == 501


def test_the_model_names_the_detector(served):
    assert served.read("/v1/model")["people_detector"] == SHIPPED_DETECTOR.stem
