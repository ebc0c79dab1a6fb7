"""Identities as rows: best pictures, pages of many identities, groupings, and merges that end."""

from __future__ import annotations

import contextlib
from datetime import timedelta

import pytest

from service.errors import UnknownMerge
from service.record import people
from service.record.record import Record
from service.record.schema import TABLES
from service.record.transaction import Transaction
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, only

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
                record.crops.change(gallery, only(*ids[3:]), {"identity": "b"})
            case "remove_older":
                record.crops.remove_older(gallery, NOON + timedelta(minutes=1), 9)
    best, first_hour = (3, 1) if how == "remove_older" else (2, 0)
    with contextlib.closing(Record(tmp_path)) as record:
        person = record.people.get(gallery, "a")
        assert (person.crops, person.crop_id) == (3, ids[best])
        assert person.last_seen == NOON + timedelta(hours=best)
        assert person.first_seen == NOON + timedelta(hours=first_hour)


@pytest.mark.parametrize("sort", ["name", "last_seen", "crops"])
def test_a_later_page_among_many_identities_reads_no_more_than_a_page(record, gallery, sort):
    _enroll(record, gallery, new_crop(1))
    record.database.write(_add_people, gallery)
    cursor = record.people.page(gallery, None, PEOPLE // 4, sort=sort).next_cursor
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += STEPS_AT_ONCE

    record.database.connection().set_progress_handler(count, STEPS_AT_ONCE)
    pages = []
    for _ in range(4):
        steps = 0
        page = record.people.page(gallery, cursor, 100, sort=sort)
        cursor = page.next_cursor
        pages.append((len({person.identity for person in page.results}), steps < STEPS_OF_A_PAGE))
    assert pages == [(100, True)] * 4


def test_a_grouping_shows_the_crops_that_are_left_without_a_name(record, gallery):
    ids = _enroll(record, gallery, *(new_crop(number, None) for number in range(4)))
    record.groups.put(gallery, "job", 1, [([1, 2, 3, 4], 0.5)], 1)
    record.crops.remove(gallery, ids[:1])
    record.crops.change(gallery, only(ids[1]), {"identity": "Ann"})
    grouping = record.groups.get(gallery)
    assert (grouping.job_id, grouping.gallery_version) == ("job", 1)
    assert [group.crop_ids for group in grouping.results] == [ids[2:]]
    assert grouping.single == 1
    record.crops.remove(gallery, ids[3:])
    grouping = record.groups.get(gallery)
    assert (grouping.results, grouping.single) == ([], 2)
    record.galleries.delete(gallery)
    assert record.groups.get(gallery).job_id is None
    assert _rows(record, "groups") == {"groups": 0}


def test_a_merge_of_more_than_30_days_ago_cannot_be_undone_and_its_rows_go(
    record, gallery, monkeypatch
):
    _enroll(record, gallery, new_crop(1, "a"), new_crop(2, "b"))
    merge_id = record.people.rename(gallery, "a", "b").merge_id
    record.people.remove_expired_merges(gallery)
    (merge,) = record.people.merges(gallery)
    assert merge.undo_until - merge.merged_at == timedelta(days=30)
    monkeypatch.setattr(people, "MERGES_KEPT_FOR", timedelta(0))
    assert record.people.merges(gallery) == []
    with pytest.raises(UnknownMerge):
        record.people.undo_merge(gallery, merge_id)
    assert _rows(record, "merges", "merged_crops") == {"merges": 1, "merged_crops": 1}
    record.people.remove_expired_merges(gallery)
    assert _rows(record, "merges", "merged_crops") == {"merges": 0, "merged_crops": 0}
    assert record.people.counts(gallery, ["a", "b"]) == {"b": 2}


def test_forgetting_leaves_no_row_that_names_the_identity(record, gallery):
    _enroll(record, gallery, new_crop(1, "a"), new_crop(2, "b"), new_crop(3, "c"))
    record.people.rename(gallery, "a", "b")
    _enroll(record, gallery, new_crop(4, "a"))
    assert record.people.forget(gallery, "a").count == 1
    assert _rows(record, "merges", "merged_crops") == {"merges": 0, "merged_crops": 0}
    record.people.rename(gallery, "b", "c")
    assert record.people.forget(gallery, "c").count == 3
    tables = ["people", "crops", "pictures", "merges", "merged_crops"]
    assert _rows(record, *tables) == dict.fromkeys(tables, 0)
    assert record.galleries.get(gallery).identities == 0
