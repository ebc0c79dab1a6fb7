"""Kept searches and cases as rows: deletion and forgetting leave none behind."""

from __future__ import annotations

import time

import pytest

from service.errors import UnknownQuery
from service.record.schema import TABLES
from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.service.record.new_searches import new_search

PICTURE = b"a picture"
OF_DESK = [
    "searches",
    "search_pictures",
    "shown",
    "reviews",
    "cases",
    "case_searches",
    "case_deletions",
]


def _enroll(record, gallery, *identities: str) -> list[str]:
    crops = [new_crop(number, identity) for number, identity in enumerate(identities)]
    return [crop.crop_id for crop in record.crops.enroll(gallery, EMBEDDER, crops).landed]


def _hold(record, gallery, *searches) -> str:
    case = record.cases.create(gallery, "n", "", "k1")
    for search in searches:
        record.cases.hold(gallery, case.case_id, search["query_id"], "note")
    return case.case_id


def _rows(record) -> dict[str, int]:
    with record.database.read() as reader:
        return {table.name: len(reader.rows(table)) for table in TABLES if table.name in OF_DESK}


def test_a_person_whom_many_searches_show_is_described_soon(record, gallery):
    crops = _enroll(record, gallery, *["Ann"] * 100)
    searches = [new_search(*crops, verdict="match") for _ in range(400)]
    record.kept.keep(gallery, [(search, None) for search in searches], 400)
    began = time.thread_time()
    shown = record.people.get(gallery, "Ann").kept_searches
    assert time.thread_time() - began < 0.1
    assert shown == len(searches)


def test_forgetting_removes_the_pictures_and_reviews_of_searches_for_the_person(record, gallery):
    ann, ben = _enroll(record, gallery, "Ann", "Ben")
    for_ann = new_search(ann, ben, verdict="match")
    for_nobody = new_search(ann, verdict="uncertain")
    record.kept.keep(gallery, [(for_ann, PICTURE), (for_nobody, PICTURE)], 100)
    record.kept.review(gallery, for_ann["query_id"], [ann], "confirmed", "k1")
    case_id = _hold(record, gallery, for_ann, for_nobody)
    forgotten = record.people.forget(gallery, "Ann").kept_searches
    assert forgotten == {for_ann["query_id"]: [case_id]}
    with pytest.raises(UnknownQuery):
        record.kept.picture(gallery, for_ann["query_id"])
    assert record.kept.picture(gallery, for_nobody["query_id"]).content == PICTURE
    case = record.cases.get(gallery, case_id)
    held = [query.query_id for query in case.queries]
    assert (held, sum(case.deleted_searches.values())) == ([for_nobody["query_id"]], 1)
    assert _rows(record) == {
        "searches": 1,
        "search_pictures": 1,
        "shown": 0,
        "reviews": 0,
        "cases": 1,
        "case_searches": 1,
        "case_deletions": 1,
    }


def test_a_deleted_gallery_leaves_no_row_of_a_search_or_case(record, gallery):
    (ann,) = _enroll(record, gallery, "Ann")
    search = new_search(ann, verdict="match")
    other = new_search(ann, verdict="match")
    record.kept.keep(gallery, [(search, PICTURE), (other, PICTURE)], 100)
    record.kept.review(gallery, search["query_id"], [ann], "confirmed", "k1")
    _hold(record, gallery, search, other)
    record.kept.remove(gallery, [other["query_id"]])
    assert all(_rows(record).values())
    record.galleries.delete(gallery)
    assert _rows(record) == dict.fromkeys(OF_DESK, 0)
