"""Identities: natural order, exact pages, the best picture and the last time."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, without_picture

NAMES = ["Ann", "anna 2", "anna 10", "bob", "7", "07", "10", "Gate 3/7", "Gate 3/12"]
NATURAL = ["07", "7", "10", "Ann", "anna 2", "anna 10", "bob", "Gate 3/7", "Gate 3/12"]


def _walked(store, gallery, limit, **asked):
    found = []
    cursor = ""
    while cursor is not None:
        page = store.people.page(gallery, cursor, limit, **asked)
        assert len(page.results) <= limit
        found += page.results
        cursor = page.next_cursor
    return found


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_identities_are_listed_once_each_in_every_order(store, gallery, limit):
    crops = [
        new_crop(10 * place + number, name, captured_at=NOON + timedelta(hours=place - number))
        for place, name in enumerate(NAMES)
        for number in range(1 + place % 4)
    ]
    random.Random(3).shuffle(crops)
    store.crops.enroll(gallery, EMBEDDER, crops)
    assert [person.identity for person in _walked(store, gallery, limit)] == NATURAL
    by_time = _walked(store, gallery, limit, sort="last_seen")
    assert [person.identity for person in by_time] == NAMES[::-1]
    assert by_time[0].last_seen == NOON + timedelta(hours=8)
    most = _walked(store, gallery, limit, sort="crops")
    assert [person.crops for person in most] == [4, 4, 3, 3, 2, 2, 1, 1, 1]
    assert [person.identity for person in most[:2]] == ["bob", "Gate 3/7"]
    some = _walked(store, gallery, limit, query="ANN", sort="last_seen")
    assert [person.identity for person in some] == ["anna 10", "anna 2", "Ann"]


def test_a_page_goes_on_where_the_one_before_ended_while_identities_come_and_go(store, gallery):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(number, str(number)) for number in range(6)])
    first = store.people.page(gallery, None, 3)
    store.people.forget(gallery, "2")
    store.crops.enroll(gallery, EMBEDDER, [new_crop(9, "2 again"), new_crop(10, "0 too")])
    rest = store.people.page(gallery, first.next_cursor, 9)
    assert [person.identity for person in (*first.results, *rest.results)] == [
        "0",
        "1",
        "2",
        "2 again",
        "3",
        "4",
        "5",
    ]


def test_the_best_picture_is_the_sharpest_and_then_the_largest_that_is_kept(store, gallery):
    def best():
        (person,) = store.people.page(gallery, None, 9).results
        return person.crop_id, person.image_url is not None

    def enroll(crop):
        store.crops.enroll(gallery, EMBEDDER, [crop])
        return crop.record.crop_id

    bare = enroll(without_picture(1))
    assert best() == (bare, False)
    small = enroll(new_crop(2, image_bytes=10))
    assert best() == (small, True)
    large = enroll(new_crop(3, image_bytes=20))
    assert best() == (large, True)
    blurred = enroll(new_crop(4, quality=3.0))
    assert best() == (blurred, True)
    sharp = enroll(new_crop(5, quality=60.0))
    enroll(new_crop(6, quality=59.0))
    assert best() == (sharp, True)
