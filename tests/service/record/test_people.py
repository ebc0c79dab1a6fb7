"""Identities as rows: best pictures, pages of many identities, groupings, and merges that end."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest

from service.record import identities
from service.record.people import Grouping
from service.record.record import Record
from service.record.schema import TABLES
from service.record.transaction import Transaction
from service.record.values import CropFields, GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop

PEOPLE = 20_000
# A later page of 100 takes SQLite some 27,000 steps, among 200 identities and among 100,000.
STEPS_OF_A_PAGE = 40_000
STEPS_AT_ONCE = 1000


def _enroll(record, gallery, *crops) -> list[str]:
    return [crop.crop_id for crop in record.crops.enroll(gallery, EMBEDDER, crops).landed]


def _rows(record, *names: str) -> dict[str, int]:
    with record.database.read() as reader:
        return {table.name: len(reader.rows(table)) for table in TABLES if table.name in names}


def _add_people(transaction: Transaction, gallery: int) -> None:
    """Give a gallery many identities of one crop each, as copies of the crop of slot 1."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i <= ?)"
    transaction.change(
        "INSERT INTO people (person_id, gallery_id, name, sort_key) "
        f"{numbers} SELECT i + 1000, ?, 'p' || i, 'p' || i FROM n",
        (PEOPLE, gallery),
    )
    (columns,) = [table.columns for table in TABLES if table.name == "crops"]
    replaced = {
        "slot": "i",
        "crop_id": "printf('%032x', i)",
        "person_id": "i + 1000",
        "sha256": "printf('%064x', i)",
        "seen_at": "seen_at + i * 1000000",
    }
    values = ", ".join(replaced.get(column, column) for column in columns)
    transaction.change(
        f"INSERT INTO crops ({', '.join(columns)}) {numbers} SELECT {values} FROM crops, n "
        "WHERE gallery_id = ? AND slot = 1",
        (PEOPLE, gallery),
    )


@pytest.mark.parametrize("how", ["remove", "change", "remove_older"])
def test_the_next_best_picture_is_shown_once_the_best_is_gone(tmp_path, how):
    with contextlib.closing(Record(tmp_path)) as record:
        gallery = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        crops = [
            new_crop(hour, quality=float(hour), captured_at=NOON + timedelta(hours=hour))
            for hour in range(4)
        ]
        ids = _enroll(record, gallery, *crops)
        match how:
            case "remove":
                record.crops.remove(gallery, ids[3:])
            case "change":
                record.crops.change(gallery, ids[3:], CropFields(identity="b"))
            case "remove_older":
                record.crops.remove_older(gallery, NOON + timedelta(minutes=1), 9)
    best, first_hour = (3, 1) if how == "remove_older" else (2, 0)
    with contextlib.closing(Record(tmp_path)) as record:
        person, first_seen, _ = record.people.get(gallery, "a")
        assert (person.crops, person.crop_id) == (3, ids[best])
        assert person.last_seen == NOON + timedelta(hours=best)
        assert first_seen == NOON + timedelta(hours=first_hour)


@pytest.mark.parametrize("sort", ["name", "last_seen", "crops"])
def test_a_later_page_among_many_identities_reads_no_more_than_a_page(record, gallery, sort):
    _enroll(record, gallery, new_crop(1))
    record.database.write(_add_people, gallery)
    after = record.people.page(gallery, "", PEOPLE // 4, sort=sort)[-1].place
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += STEPS_AT_ONCE

    record.database.connection().set_progress_handler(count, STEPS_AT_ONCE)
    pages = []
    for _ in range(4):
        steps = 0
        people = record.people.page(gallery, after, 100, sort=sort)
        after = people[-1].place
        pages.append((len({person.identity for person in people}), steps < STEPS_OF_A_PAGE))
    assert pages == [(100, True)] * 4


def test_a_grouping_shows_the_crops_that_are_left_without_a_name(record, gallery):
    ids = _enroll(record, gallery, *(new_crop(number, None) for number in range(4)))
    record.groups.put(gallery, Grouping("job", NOON, 1, [([1, 2, 3], 0.5)], 1))
    record.crops.remove(gallery, ids[:1])
    record.crops.change(gallery, ids[1:2], CropFields(identity="Ann"))
    grouping, left = record.groups.get(gallery)
    assert (grouping.groups, grouping.single) == ([([1, 2, 3], 0.5)], 1)
    assert {slot: crop.crop_id for slot, crop in left.items()} == {3: ids[2]}
    record.galleries.delete(gallery)
    assert record.groups.get(gallery) == (None, {})
    assert _rows(record, "groups") == {"groups": 0}


def test_a_merge_of_more_than_30_days_ago_cannot_be_undone_and_its_rows_go(
    record, gallery, monkeypatch
):
    _enroll(record, gallery, new_crop(1, "a"), new_crop(2, "b"))
    merge_id = record.identities.rename(gallery, "a", "b").merge_id
    record.identities.remove_expired_merges(gallery)
    (merge,) = record.identities.merges(gallery)
    assert merge.undo_until - merge.merged_at == timedelta(days=30)
    monkeypatch.setattr(identities, "MERGES_KEPT_FOR", timedelta(0))
    assert record.identities.merges(gallery) == []
    assert record.identities.undo_merge(gallery, merge_id) is None
    assert _rows(record, "merges", "merged_crops") == {"merges": 1, "merged_crops": 1}
    record.identities.remove_expired_merges(gallery)
    assert _rows(record, "merges", "merged_crops") == {"merges": 0, "merged_crops": 0}
    assert record.people.counts(gallery, ["a", "b"]) == {"b": 2}


def test_forgetting_leaves_no_row_that_names_the_identity(record, gallery):
    _enroll(record, gallery, new_crop(1, "a"), new_crop(2, "b"), new_crop(3, "c"))
    record.identities.rename(gallery, "a", "b")
    _enroll(record, gallery, new_crop(4, "a"))
    assert record.identities.forget(gallery, "a").count == 1
    assert _rows(record, "merges", "merged_crops") == {"merges": 0, "merged_crops": 0}
    record.identities.rename(gallery, "b", "c")
    assert record.identities.forget(gallery, "c").count == 3
    tables = ["people", "crops", "pictures", "merges", "merged_crops"]
    assert _rows(record, *tables) == dict.fromkeys(tables, 0)
    assert record.galleries.get(gallery).identities == 0
