"""Identities: natural order, exact pages, the best picture and the last time, in both stores."""

from __future__ import annotations

import json
import random
from datetime import timedelta

import pytest
from service.record.engine import Scan, Transaction, transact
from service.record.entries import find_generation

from service.errors import InvalidField
from service.record.keys import below, key
from service.record.people import Grouping
from service.record.values import CropFields
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, without_picture

NAMES = ["Ann", "anna 2", "anna 10", "bob", "7", "07", "10", "Gate 3/7", "Gate 3/12"]
NATURAL = ["07", "7", "10", "Ann", "anna 2", "anna 10", "bob", "Gate 3/7", "Gate 3/12"]


def _walked(store, gallery, limit, **asked):
    found = []
    after = ""
    while page := store.people.page(gallery, after, limit, **asked):
        found += page
        after = page[-1].place
    return found


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_identities_are_listed_once_each_in_every_order(store, gallery, limit):
    crops = [
        new_crop(10 * place + one, name, captured_at=NOON + timedelta(hours=place - one))
        for place, name in enumerate(NAMES)
        for one in range(1 + place % 4)
    ]
    random.Random(3).shuffle(crops)
    store.crops.enroll(gallery, EMBEDDER, crops)
    assert [one.identity for one in _walked(store, gallery, limit)] == NATURAL
    by_time = _walked(store, gallery, limit, sort="last_seen")
    assert [one.identity for one in by_time] == NAMES[::-1]
    assert by_time[0].last_seen == NOON + timedelta(hours=8)
    most = _walked(store, gallery, limit, sort="crops")
    assert [one.crops for one in most] == [4, 4, 3, 3, 2, 2, 1, 1, 1]
    assert [one.identity for one in most[:2]] == ["bob", "Gate 3/7"]
    some = _walked(store, gallery, limit, query="ANN", sort="last_seen")
    assert [one.identity for one in some] == ["anna 10", "anna 2", "Ann"]


def test_a_page_goes_on_where_the_one_before_ended_while_identities_come_and_go(store, gallery):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(one, str(one)) for one in range(6)])
    first = store.people.page(gallery, "", 3)
    store.identities.forget(gallery, "2")
    store.crops.enroll(gallery, EMBEDDER, [new_crop(9, "2 again"), new_crop(10, "0 too")])
    rest = store.people.page(gallery, first[-1].place, 9)
    assert [one.identity for one in (*first, *rest)] == ["0", "1", "2", "2 again", "3", "4", "5"]


def test_a_cursor_of_another_order_is_refused(store, gallery):
    with pytest.raises(InvalidField, match="cursor: 'Ann'"):
        store.people.page(gallery, "Ann", 9, sort="crops")


def test_the_best_picture_is_the_sharpest_and_then_the_largest_that_is_kept(store, gallery):
    def best():
        (person,) = store.people.page(gallery, "", 9)
        return person.crop_id, person.pictured

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


@pytest.mark.parametrize("how", ["remove", "rename", "retention"])
def test_what_a_removed_crop_was_known_for_is_looked_up_and_then_kept(reopen, store, gallery, how):
    crops = [
        new_crop(one, quality=float(one), captured_at=NOON + timedelta(hours=one))
        for one in range(4)
    ]
    store.crops.enroll(gallery, EMBEDDER, crops)
    ids = [crop.record.crop_id for crop in crops]
    if how == "remove":
        store.crops.remove(gallery, ids[3:])
    elif how == "rename":
        store.crops.change(gallery, ids[3:], CropFields(identity="b"))
    else:
        store.crops.remove_older(gallery, NOON + timedelta(minutes=1), 9)
    left = ids[2] if how != "retention" else ids[3]
    hour = ids.index(left)

    def known():
        person = store.people.page(gallery, "", 1)[0]
        assert store.people.page(gallery, "", 1, sort="last_seen")[-1].last_seen
        return person.identity, person.crop_id, person.last_seen

    expected = "a", left, NOON + timedelta(hours=hour)
    assert known() == expected
    missing = store.people.incomplete(gallery)
    assert missing == ([] if how == "retention" else ["a"])
    version = store.galleries.get(gallery).version
    store.people.complete(gallery, missing)
    assert store.people.incomplete(gallery) == []
    assert store.galleries.get(gallery).version == version
    store = reopen()
    assert known() == expected
    detail, first, _ = store.people.get(gallery, "a")
    assert (detail.crop_id, first) == (left, NOON + timedelta(hours=how == "retention"))


def test_identities_of_an_earlier_program_are_completed(store, gallery):
    crops = [new_crop(one, f"p{one % 7}", quality=float(one)) for one in range(30)]
    store.crops.enroll(gallery, EMBEDDER, crops)
    before = store.people.page(gallery, "", 99, sort="last_seen")

    def forget_what_it_did_not_keep(transaction: Transaction) -> None:
        own = find_generation(transaction, gallery).key("identity")
        for found, body in transaction.below(own):
            seen = json.loads(body)
            transaction.put_json(found, {name: seen[name] for name in ("crops", "cameras")})

    transact(store.engine, forget_what_it_did_not_keep)
    store.crops.enroll(gallery, EMBEDDER, [new_crop(99, "p0", quality=0.5)])
    assert len(store.people.incomplete(gallery)) == 7
    shown = store.people.page(gallery, "", 99, sort="last_seen")
    assert [one.crop_id for one in shown] == [one.crop_id for one in before]
    store.people.complete(gallery, store.people.incomplete(gallery))
    assert store.people.incomplete(gallery) == []
    after = store.people.page(gallery, "", 99, sort="last_seen")
    assert [one.crop_id for one in after] == [one.crop_id for one in before]


def test_a_later_page_of_many_identities_reads_about_as_many_of_them(store, gallery, monkeypatch):
    people = 20_000
    read = []

    def put(transaction: Transaction, start: int) -> None:
        at = find_generation(transaction, gallery)
        for one in range(start, start + 5000):
            best = [1.0, 9, f"{one:032x}"]
            known = {"crops": one % 90 + 1, "cameras": {"east": 1}, "best": best}
            known["last"] = (NOON + timedelta(seconds=one)).isoformat()
            transaction.put_json(at.key("identity", f"person {one}"), known)

    for start in range(0, people, 5000):
        transact(store.engine, put, start)
    scan = store.engine.scan
    get = store.engine.get

    def counted_scan(scans):
        found = scan(scans)
        read.extend(key for one in found for key, _ in one)
        return found

    def counted_get(keys):
        read.extend(keys)
        return get(keys)

    monkeypatch.setattr(store.engine, "scan", counted_scan)
    monkeypatch.setattr(store.engine, "get", counted_get)
    for sort in ("name", "last_seen", "crops"):
        after = store.people.page(gallery, "", 100, sort=sort)[-1].place
        for _ in range(4):
            read.clear()
            page = store.people.page(gallery, after, 100, sort=sort)
            assert len(page) == 100
            assert len(read) < 2000, sort
            after = page[-1].place


def test_a_grouping_is_kept_with_the_crops_that_are_left_and_goes_with_its_gallery(
    reopen, store, gallery
):
    crops = [new_crop(one, None) for one in range(4)]
    store.crops.enroll(gallery, EMBEDDER, crops)
    store.groups.put(gallery, Grouping("job", NOON, 1, [([1, 2, 3], 0.5)], 1))
    ids = [crop.record.crop_id for crop in crops]
    store.crops.remove(gallery, ids[:1])
    store.crops.change(gallery, ids[1:2], CropFields(identity="Ann"))
    store = reopen()
    found, left = store.groups.get(gallery)
    assert (found.groups, found.single) == ([([1, 2, 3], 0.5)], 1)
    assert {row: crop.crop_id for row, crop in left.items()} == {3: ids[2]}
    store.galleries.delete(gallery)
    store.collect_garbage()
    assert store.engine.scan([Scan(*below(key("groups")))]) == [[]]
