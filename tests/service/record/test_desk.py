"""Kept searches and cases as rows: deletion and forgetting leave none behind."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

from service.record.schema import TABLES
from service.record.values import Case, KeptQuery, KeptResult, Review, new_crop_id
from tests.service.gallery.new_crops import EMBEDDER, new_crop

NOW = datetime.now(UTC)
PICTURE = b"a picture"
NUMBERS = itertools.count()
OF_DESK = [
    "searches",
    "search_pictures",
    "shown",
    "reviews",
    "cases",
    "case_searches",
    "case_deletions",
]


def _search(*crop_ids: str, verdict: str) -> KeptQuery:
    return KeptQuery(
        query_id=f"{int(NOW.timestamp() * 1000):012x}{next(NUMBERS):020x}",
        created_at=NOW,
        request={},
        answer={},
        results=[KeptResult(crop_id, 0.5, None, 0.5, verdict) for crop_id in crop_ids],
        content_type="image/png",
        key_id="k1",
    )


def _enroll(record, gallery, *identities: str) -> list[str]:
    crops = [new_crop(number, identity) for number, identity in enumerate(identities)]
    return [crop.crop_id for crop in record.crops.enroll(gallery, EMBEDDER, crops).landed]


def _hold(record, gallery, *searches: KeptQuery) -> str:
    case = Case(
        case_id=new_crop_id(), name="n", notes="", created_at=NOW, changed_at=NOW, key_id="k1"
    )
    record.cases.create(gallery, case)
    for search in searches:
        record.cases.hold(gallery, case.case_id, search.query_id, "note")
    return case.case_id


def _rows(record) -> dict[str, int]:
    with record.database.read() as reader:
        return {table.name: len(reader.rows(table)) for table in TABLES if table.name in OF_DESK}


def test_a_person_whom_many_searches_show_is_described_soon(record, gallery):
    crops = _enroll(record, gallery, *["Ann"] * 100)
    searches = [_search(*crops, verdict="match") for _ in range(400)]
    record.kept.keep(gallery, [(search, None) for search in searches], 400)
    began = time.thread_time()
    _, _, shown = record.people.get(gallery, "Ann")
    assert time.thread_time() - began < 0.1
    assert shown.keys() == {search.query_id for search in searches}


def test_forgetting_removes_the_pictures_and_reviews_of_searches_for_the_person(record, gallery):
    ann, ben = _enroll(record, gallery, "Ann", "Ben")
    for_ann = _search(ann, ben, verdict="match")
    for_nobody = _search(ann, verdict="uncertain")
    record.kept.keep(gallery, [(for_ann, PICTURE), (for_nobody, PICTURE)], 100)
    record.kept.review(gallery, for_ann.query_id, [ann], Review("confirmed", NOW, "k1"))
    case_id = _hold(record, gallery, for_ann, for_nobody)
    forgotten = record.identities.forget(gallery, "Ann").kept_searches
    assert forgotten == {for_ann.query_id: [case_id]}
    assert record.kept.picture(gallery, for_ann.query_id) is None
    assert record.kept.picture(gallery, for_nobody.query_id).content == PICTURE
    case = record.cases.get(gallery, case_id)
    assert (list(case.queries), sum(case.deleted_searches.values())) == ([for_nobody.query_id], 1)
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
    search = _search(ann, verdict="match")
    other = _search(ann, verdict="match")
    record.kept.keep(gallery, [(search, PICTURE), (other, PICTURE)], 100)
    record.kept.review(gallery, search.query_id, [ann], Review("confirmed", NOW, "k1"))
    _hold(record, gallery, search, other)
    record.kept.remove(gallery, [other.query_id])
    assert all(_rows(record).values())
    record.galleries.delete(gallery)
    assert _rows(record) == dict.fromkeys(OF_DESK, 0)
