"""Kept searches and cases in the record: bounds and forgetting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.service.record.new_searches import WEEK, kept_ids, new_search

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)
PICTURE = b"a picture"


def keep(store, gallery: int, *searches, most: int = 100) -> set[str]:
    return store.kept.keep(gallery, [(search, PICTURE) for search in searches], most)[0]


def case(store, gallery: int, *query_ids: str) -> str:
    case_id = store.cases.create(gallery, "n", "", "k1").case_id
    for query_id in query_ids:
        assert store.cases.hold(gallery, case_id, query_id, "note")
    return case_id


def enrolled(store, gallery: int, *identities: str | None) -> list[str]:
    crops = [new_crop(number, identity) for number, identity in enumerate(identities)]
    return [crop.crop_id for crop in store.crops.enroll(gallery, EMBEDDER, crops).landed]


def confirm(store, gallery: int, query_id: str, crop_id: str) -> None:
    store.kept.review(gallery, query_id, [crop_id], "confirmed", "k1")


def test_days_end_outside_cases_alone(store, gallery):
    loose = new_search()
    held = new_search()
    keep(store, gallery, loose, held)
    case_id = case(store, gallery, held["query_id"])
    assert store.kept.expire(gallery, NOW - timedelta(days=1)) == 0
    assert store.kept.expire(gallery, LATER) == 1
    assert kept_ids(store, gallery) == [held["query_id"]]
    assert store.cases.hold(gallery, case_id, held["query_id"], None)
    assert store.kept.expire(gallery, LATER) == 1


def test_a_search_goes_with_the_last_crop_that_shows_its_person(store, gallery):
    first, second, other = enrolled(store, gallery, "a", "a", "b")
    two = new_search(first, second, verdict="match")
    one = new_search(other, verdict="match")
    keep(store, gallery, two, one)
    confirm(store, gallery, two["query_id"], second)
    store.crops.remove(gallery, [first])
    assert store.kept.expire(gallery, NOW - timedelta(days=1)) == 0
    store.crops.remove(gallery, [second])
    assert store.kept.expire(gallery, NOW - timedelta(days=1)) == 1
    assert kept_ids(store, gallery) == [one["query_id"]]


def test_nothing_is_kept_of_a_person_who_is_forgotten_during_the_search(store, gallery):
    (ann,) = enrolled(store, gallery, "a")
    store.people.forget(gallery, "a")
    assert keep(store, gallery, new_search(ann, verdict="match")) == set()


def test_a_crop_that_is_gone_is_not_reviewed(store, gallery):
    (ann,) = enrolled(store, gallery, "a")
    one = new_search(ann)
    keep(store, gallery, one)
    store.people.forget(gallery, "a")
    confirm(store, gallery, one["query_id"], ann)
    assert store.kept.reviews(gallery, None, 9, "key", None).results == []
    assert store.kept.page(gallery, WEEK, None, 9).results[0].confirmed == 0


@pytest.mark.parametrize("most", [0, 1])
def test_a_bound_that_is_lowered_is_reached_with_the_next_search(store, gallery, most):
    keep(store, gallery, *(new_search() for _ in range(3)))
    keep(store, gallery, new_search(), most=most)
    assert len(kept_ids(store, gallery)) == most
    newest = new_search()
    assert keep(store, gallery, newest, most=1) == {newest["query_id"]}
