"""Kept searches and cases in the record: bounds, deletion and forgetting leave nothing behind."""

import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.errors import Forbidden
from service.record.keys import ApiKey
from tests.service.gallery.new_crops import counted_steps, desk_of, enroll, forget, new_crop
from tests.service.record.new_searches import WEEK, kept_ids, new_search

pytestmark = pytest.mark.promise("kept-searches")

NOW = datetime.now(UTC)
KEY = ApiKey("k1", "0" * 64, ("query",))


def keep(record, gallery, *searches, most=100):
    return desk_of(record).kept.keep(gallery, searches, most)[0]


def confirm(record, gallery, search, crop_id):
    desk_of(record).kept.review(gallery, search.query_id, [crop_id], "confirmed", KEY)


def test_days_end_outside_cases_alone(record, gallery):
    loose = new_search()
    held = new_search()
    keep(record, gallery, loose, held)
    case_id = desk_of(record).cases.create(gallery, "n", "", "k1").case_id
    desk_of(record).cases.hold(gallery, case_id, held.query_id, "note", KEY)
    assert desk_of(record).kept.expire(gallery, NOW - timedelta(days=1)) == 0
    assert desk_of(record).kept.expire(gallery, NOW + timedelta(days=1)) == 1
    assert kept_ids(record, gallery) == [held.query_id]
    desk_of(record).cases.hold(gallery, case_id, held.query_id, None, KEY)
    assert desk_of(record).kept.expire(gallery, NOW + timedelta(days=1)) == 1


def test_a_search_goes_with_the_last_crop_that_shows_its_person(record, gallery):
    first, second, other = enroll(record, gallery, new_crop(1), new_crop(2), new_crop(3, "b"))
    two = new_search(first, second, verdict="match")
    one = new_search(other, verdict="match")
    keep(record, gallery, two, one)
    confirm(record, gallery, two, second)
    record.crops.remove(gallery, [first])
    assert desk_of(record).kept.expire(gallery, NOW - timedelta(days=1)) == 0
    record.crops.remove(gallery, [second])
    assert desk_of(record).kept.expire(gallery, NOW - timedelta(days=1)) == 1
    assert kept_ids(record, gallery) == [one.query_id]


def test_nothing_is_kept_of_a_person_who_is_forgotten_during_the_search(record, gallery):
    (ann,) = enroll(record, gallery, new_crop(1))
    forget(record, gallery, "a")
    assert keep(record, gallery, new_search(ann, verdict="match")) == set()


def test_a_crop_that_is_gone_is_not_reviewed(record, gallery):
    (ann,) = enroll(record, gallery, new_crop(1))
    search = new_search(ann)
    keep(record, gallery, search)
    forget(record, gallery, "a")
    confirm(record, gallery, search, ann)
    assert desk_of(record).kept.reviews(gallery, None, 9, "key", None).results == []
    assert desk_of(record).kept.page(gallery, WEEK, None, 9).results[0]["confirmed"] == 0


def test_decisions_and_notes_of_another_key_stay(record, gallery):
    (ann,) = enroll(record, gallery, new_crop(1))
    search = new_search(ann)
    query_id = search.query_id
    keep(record, gallery, search)
    confirm(record, gallery, search, ann)
    case_id = desk_of(record).cases.create(gallery, "n", "", KEY.key_id).case_id
    desk_of(record).cases.hold(gallery, case_id, query_id, "seen", KEY)
    other = replace(KEY, key_id="k2")
    for decision in ("rejected", None):
        with pytest.raises(Forbidden):
            desk_of(record).kept.review(gallery, query_id, [ann], decision, other)
    for note in ("not seen", None):
        with pytest.raises(Forbidden):
            desk_of(record).cases.hold(gallery, case_id, query_id, note, other)
    assert desk_of(record).kept.page(gallery, WEEK, None, 9).results[0]["confirmed"] == 1
    assert desk_of(record).cases.get(gallery, case_id).queries[0].note == "seen"


@pytest.mark.parametrize("most", [0, 1])
def test_a_bound_that_is_lowered_is_reached_with_the_next_search(record, gallery, most):
    keep(record, gallery, *(new_search() for _ in range(3)))
    keep(record, gallery, new_search(), most=most)
    assert len(kept_ids(record, gallery)) == most


def test_after_the_clock_was_set_back_new_searches_replace_the_oldest(record, gallery):
    keep(record, gallery, new_search(), new_search(), most=2)
    query_ids = [f"{number:032x}" for number in range(3)]
    for query_id in query_ids:
        assert keep(record, gallery, new_search(query_id=query_id), most=2) == {query_id}
    assert kept_ids(record, gallery) == [query_ids[2], query_ids[1]]


def test_after_the_clock_was_set_back_the_newest_search_is_listed_first(record, gallery):
    query_ids = [f"{number:032x}" for number in (7, 9, 2, 3, 1)]
    for query_id in query_ids:
        keep(record, gallery, new_search(query_id=query_id))
    assert kept_ids(record, gallery) == query_ids[::-1]
    page = desk_of(record).kept.page(gallery, WEEK, None, 2)
    assert [search["query_id"] for search in page.results] == query_ids[:2:-1]
    page = desk_of(record).kept.page(gallery, WEEK, page.next_cursor, 2)
    assert [search["query_id"] for search in page.results] == query_ids[2:0:-1]
    page = desk_of(record).kept.page(gallery, WEEK, page.next_cursor, 2)
    assert ([search["query_id"] for search in page.results], page.next_cursor) == (
        query_ids[:1],
        None,
    )


def test_a_list_goes_on_after_a_search_that_was_deleted_since(record, gallery):
    searches = [new_search() for _ in range(4)]
    keep(record, gallery, *searches)
    cursor = desk_of(record).kept.page(gallery, WEEK, None, 2).next_cursor
    desk_of(record).kept.remove(gallery, [cursor])
    page = desk_of(record).kept.page(gallery, WEEK, cursor, 9)
    assert [search["query_id"] for search in page.results] == [
        searches[1].query_id,
        searches[0].query_id,
    ]


@pytest.mark.sqlite_alone
def test_a_person_whom_many_searches_show_is_described_soon(record, gallery):
    crops = enroll(record, gallery, *(new_crop(number, "Ann") for number in range(100)))
    searches = [new_search(*crops, verdict="match") for _ in range(400)]
    desk_of(record).kept.keep(gallery, searches, 400)
    with counted_steps(record) as steps:
        shown = desk_of(record).kept.count_shown(gallery, "Ann")["kept_searches"]
    assert shown == len(searches)
    # Each search shows a hundred crops of her; each pair of both would take tens of millions.
    assert steps.thousands < 2_000


def test_a_list_of_cases_reads_no_notes_of_their_searches(record, gallery):
    case_id = desk_of(record).cases.create(gallery, "n", "", "k1").case_id
    searches = [new_search() for _ in range(100)]
    keep(record, gallery, *searches)
    for search in searches:
        desk_of(record).cases.hold(gallery, case_id, search.query_id, "x" * 4000, KEY)
    tracemalloc.start()
    (case,) = desk_of(record).cases.page(gallery, None, 10).results
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (case.count, case.deleted_searches) == (100, {})
    assert peak < 100_000
