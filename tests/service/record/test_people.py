"""Identities as rows: natural order, exact pages, best pictures, and merges that end."""

import random
import time
from datetime import timedelta

import pytest

from service.errors import DamagedRecord, UnknownMerge
from service.record import crop_rows, people
from service.record.schema import as_micros
from service.record.transaction import FILE, Reader
from service.record.values import identity_code
from tests.service.gallery.new_crops import (
    NOON,
    enroll,
    forget,
    new_crop,
    open_record,
    without_picture,
)

NAMES = ["Ann", "anna 2", "anna 10", "bob", "7", "07", "10", "Gate 3/7", "Gate 3/12"]
NATURAL = ["07", "7", "10", "Ann", "anna 2", "anna 10", "bob", "Gate 3/7", "Gate 3/12"]


def _pages(record, gallery, limit, **asked):
    found = []
    cursor = ""
    while cursor is not None:
        page = record.people.page(gallery, cursor, limit, **asked)
        assert len(page.results) <= limit
        found += page.results
        cursor = page.next_cursor
    return found


def _names(people):
    return [person["identity"] for person in people]


@pytest.mark.parametrize("limit", [1, 2, 50])
def test_identities_are_listed_once_each_in_every_order(record, gallery, limit):
    crops = [
        new_crop(10 * place + number, name, captured_at=NOON + timedelta(hours=place - number))
        for place, name in enumerate(NAMES)
        for number in range(1 + place % 4)
    ]
    random.Random(3).shuffle(crops)
    enroll(record, gallery, *crops)
    assert _names(_pages(record, gallery, limit)) == NATURAL
    by_time = _pages(record, gallery, limit, sort="last_seen")
    assert _names(by_time) == NAMES[::-1]
    assert by_time[0]["last_seen"] == NOON + timedelta(hours=8)
    most = _pages(record, gallery, limit, sort="crops")
    assert [person["crops"] for person in most] == [4, 4, 3, 3, 2, 2, 1, 1, 1]
    assert _names(most[:2]) == ["bob", "Gate 3/7"]
    some = _pages(record, gallery, limit, query="ANN", sort="last_seen")
    assert _names(some) == ["anna 10", "anna 2", "Ann"]


def test_a_page_goes_on_where_the_one_before_ended_while_identities_come_and_go(record, gallery):
    enroll(record, gallery, *(new_crop(number, str(number)) for number in range(6)))
    first = record.people.page(gallery, None, 3)
    forget(record, gallery, "2")
    enroll(record, gallery, new_crop(9, "2 again"), new_crop(10, "0 too"))
    rest = record.people.page(gallery, first.next_cursor, 9)
    assert _names([*first.results, *rest.results]) == ["0", "1", "2", "2 again", "3", "4", "5"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("jörg", ["Jörg", "JÖRG 2"]),
        ("%", ["100%"]),
        ("_", ["x_y"]),
        ("nobody", []),
    ],
)
def test_identities_are_found_by_a_part_of_their_name_in_any_case(record, gallery, query, names):
    enroll(record, gallery, *(new_crop(1, name) for name in ("Jörg", "JÖRG 2", "100%", "x_y")))
    assert _names(record.people.page(gallery, None, 9, query).results) == names


def test_the_best_picture_is_the_sharpest_and_then_the_largest_that_is_kept(record, gallery):
    def best():
        (person,) = record.people.page(gallery, None, 9).results
        return person["crop_id"], bool(person["has_picture"])

    (bare,) = enroll(record, gallery, without_picture(1))
    assert best() == (bare, False)
    better = ({"image_bytes": 10}, {"image_bytes": 20}, {"quality": 3.0}, {"quality": 60.0})
    for number, labels in enumerate(better, 2):
        (crop_id,) = enroll(record, gallery, new_crop(number, **labels))
        assert best() == (crop_id, True)
    (second,) = enroll(record, gallery, new_crop(6, quality=59.0))
    assert best() == (crop_id, True)
    record.crops.remove(gallery, [crop_id])
    assert best() == (second, True)


def test_a_merge_of_more_than_30_days_ago_cannot_be_undone_and_its_rows_go(
    record, gallery, monkeypatch
):
    def rows():
        tables = ("merges", "merged_crops")
        with record.database.read() as reader:
            return [reader.value(f"SELECT count(*) FROM {name}") for name in tables]

    enroll(record, gallery, new_crop(1, "a"), new_crop(2, "b"))
    merge_id = record.people.rename(gallery, "a", "b").merge_id
    record.people.remove_expired_merges(gallery)
    (merge,) = record.people.merges(gallery)
    assert merge.undo_until - merge.merged_at == timedelta(days=30)
    monkeypatch.setattr(people, "MERGES_KEPT_FOR", timedelta(0))
    assert record.people.merges(gallery) == []
    with pytest.raises(UnknownMerge):
        record.people.undo_merge(gallery, merge_id)
    assert rows() == [1, 1]
    record.people.remove_expired_merges(gallery)
    assert rows() == [0, 0]


def test_merges_are_undone_in_their_order_also_after_the_clock_was_set_back(
    record, gallery, monkeypatch
):
    enroll(record, gallery, new_crop(1, "a"), new_crop(2, "b"), new_crop(3, "c"))
    first = record.people.rename(gallery, "a", "b").merge_id
    ahead = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: ahead() - 2_000_000_000)
    second = record.people.rename(gallery, "b", "c").merge_id
    monkeypatch.undo()
    assert [merge.merge_id for merge in record.people.merges(gallery)] == [second, first]
    for merge_id in (second, first):
        record.people.undo_merge(gallery, merge_id)
    assert record.people.counts(gallery, ["a", "b", "c"]) == {"a": 1, "b": 1, "c": 1}


def test_columns_of_a_new_person_are_not_those_of_one_who_was_forgotten(
    record, gallery, monkeypatch
):
    monkeypatch.setattr(crop_rows, "COLUMNS_AT_ONCE", 2)
    enroll(record, gallery, new_crop(1, "a"), new_crop(2, "forgotten"), new_crop(3, "a"))
    secret = record.galleries.group_secret()
    parts = crop_rows.read_columns(Reader(record.database), gallery, secret)
    next(parts)
    forget(record, gallery, "forgotten")
    enroll(record, gallery, new_crop(4, "new"))
    groups = [group for part in parts for group in part.groups.tolist()]
    assert groups == [identity_code(name, secret) for name in ("a", "new")]


@pytest.mark.sqlite_alone
def test_a_damaged_time_of_a_crop_is_named_in_the_list_of_people(record, gallery):
    enroll(record, gallery, new_crop(1))
    folder = record.database.folder
    record.close()
    path = folder / FILE
    stored = as_micros(NOON).to_bytes(8)
    path.write_bytes(path.read_bytes().replace(stored, (as_micros(NOON) | 1 << 62).to_bytes(8)))
    with open_record(folder) as damaged:
        with pytest.raises(DamagedRecord, match="a time or JSON"):
            damaged.people.get(gallery, "a")
        with pytest.raises(DamagedRecord, match="a time or JSON"):
            damaged.people.page(gallery, None, 10)
