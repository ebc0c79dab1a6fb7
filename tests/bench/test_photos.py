"""Photos with pasted people: whom a detection counts as found, and the figures of a run."""

import json
import random

import pytest
from PIL import Image

from bench import photos
from model.people_detector import DetectedPerson


def test_pasted_people_lie_within_the_photo_and_apart():
    crops = [Image.new("RGB", (20, 40)) for _ in range(12)]
    photo = photos.paste_people(crops, (600, 300), 60, random.Random(1))
    assert 2 <= len(photo.boxes) <= photos.MAX_PEOPLE
    for left, top, right, bottom in photo.boxes:
        assert (right - left, bottom - top) == (30, 60)
        assert 0 <= left < right <= 600
        assert 0 <= top < bottom <= 300
    pairs = [(box, other) for box in photo.boxes for other in photo.boxes if box is not other]
    assert not any(photos._overlap(box, other) for box, other in pairs)


def test_a_box_counts_for_one_person_and_only_where_it_lies_on_them():
    boxes = [(0, 0, 50, 100), (200, 0, 250, 100)]
    near = DetectedPerson(5, 5, 45, 90, 0.9)
    assert photos.count_found(boxes, [near, near]) == 1
    assert photos.count_found(boxes, [near, DetectedPerson(205, 0, 45, 100, 0.4)]) == 2
    assert photos.count_found(boxes, [DetectedPerson(100, 0, 50, 100, 0.9)]) == 0
    assert photos.count_found(boxes, []) == 0


def test_each_size_and_height_has_its_figures(monkeypatch, capsys):
    monkeypatch.setattr(photos, "SIZES", ((640, 360),))
    monkeypatch.setattr(photos, "HEIGHT_SHARES", (0.6,))
    photos.main("synthetic:3,identities=8,domains=1,cameras=1,crops=1", people=4)
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert (row["width"], row["height"], row["share_of_height"]) == (640, 360, 0.6)
    assert row["people"] >= 4
    assert row["found"] == pytest.approx(1, abs=0.5)
    assert row["median_cpu_ms"] > 0
