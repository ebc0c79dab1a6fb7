"""Kept searches and cases in the record: bounds and forgetting."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest

from service.record.values import Case, KeptQuery, KeptResult, Review, new_crop_id
from tests.service.gallery.new_crops import EMBEDDER, new_crop

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)
PICTURE = b"a picture"
NUMBERS = itertools.count()


def search(*crop_ids: str, verdict: str = "uncertain", **options) -> KeptQuery:
    results = [KeptResult(crop_id, 0.5, None, 0.5, verdict) for crop_id in crop_ids]
    options = {"content_type": "image/png", "key_id": "k1", **options}
    return KeptQuery(
        query_id=f"{int(NOW.timestamp() * 1000):012x}{next(NUMBERS):020x}",
        created_at=NOW,
        request={},
        answer={},
        results=results,
        **options,
    )


def keep(store, gallery: int, *searches: KeptQuery, most: int = 100) -> list[str]:
    return store.kept.keep(gallery, [(search, PICTURE) for search in searches], most)[0]


def expire(store, gallery: int, before: datetime) -> int:
    return store.kept.expire(gallery, store.kept.due(gallery, before), before)


def case(store, gallery: int, *query_ids: str) -> str:
    one = Case(
        case_id=new_crop_id(), name="n", notes="", created_at=NOW, changed_at=NOW, key_id="k1"
    )
    store.cases.create(gallery, one)
    for query_id in query_ids:
        assert store.cases.hold(gallery, one.case_id, query_id, "note")
    return one.case_id


def enrolled(store, gallery: int, *identities: str | None) -> list[str]:
    crops = [new_crop(number, identity) for number, identity in enumerate(identities)]
    return [crop.crop_id for crop in store.crops.enroll(gallery, EMBEDDER, crops).landed]


def confirm(store, gallery: int, query_id: str, crop_id: str) -> None:
    assert store.kept.review(gallery, query_id, [crop_id], Review("confirmed", NOW, "k1"))


def ids(store, gallery: int) -> list[str]:
    return [kept_query.query_id for kept_query in store.kept.page(gallery, None, 100)]


def test_days_end_outside_cases_alone(store, gallery):
    loose = search()
    held = search()
    keep(store, gallery, loose, held)
    case_id = case(store, gallery, held.query_id)
    assert expire(store, gallery, NOW - timedelta(days=1)) == 0
    assert expire(store, gallery, LATER) == 1
    assert ids(store, gallery) == [held.query_id]
    assert store.cases.hold(gallery, case_id, held.query_id, None)
    assert expire(store, gallery, LATER) == 1


def test_a_search_goes_with_the_last_crop_that_shows_its_person(store, gallery):
    first, second, other = enrolled(store, gallery, "a", "a", "b")
    two = search(first, second, verdict="match")
    one = search(other, verdict="match")
    keep(store, gallery, two, one)
    confirm(store, gallery, two.query_id, second)
    store.crops.remove(gallery, [first])
    assert expire(store, gallery, NOW - timedelta(days=1)) == 0
    store.crops.remove(gallery, [second])
    assert expire(store, gallery, NOW - timedelta(days=1)) == 1
    assert ids(store, gallery) == [one.query_id]


def test_nothing_is_kept_of_a_person_who_is_forgotten_during_the_search(store, gallery):
    (ann,) = enrolled(store, gallery, "a")
    store.identities.forget(gallery, "a")
    assert keep(store, gallery, search(ann, verdict="match")) == []


def test_a_crop_that_is_gone_is_not_reviewed(store, gallery):
    (ann,) = enrolled(store, gallery, "a")
    one = search(ann)
    keep(store, gallery, one)
    store.identities.forget(gallery, "a")
    assert store.kept.review(gallery, one.query_id, [ann], Review("confirmed", NOW, "k1")) == one


@pytest.mark.parametrize("most", [0, 1])
def test_a_bound_that_is_lowered_is_reached_with_the_next_search(store, gallery, most):
    keep(store, gallery, *(search() for _ in range(3)))
    keep(store, gallery, search(), most=most)
    assert len(ids(store, gallery)) == most
    newest = search()
    assert keep(store, gallery, newest, most=1) == [newest.query_id]
