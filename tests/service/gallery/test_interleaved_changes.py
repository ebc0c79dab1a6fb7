"""Changes of one record that commit between another change's reads and its commit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from service.record.engine import Reader

from service.record import crop_changes, keys
from service.record.keys import as_text
from service.record.values import GallerySettings, RequestKey
from tests.service.gallery.new_crops import EMBEDDER, new_crop

# Among the rules of tables none commits between another one's reads and its commit.
of_engines = pytest.mark.parametrize("reopen", ["sqlite", "redis"], indirect=True)


@pytest.fixture
def before_next_commit(monkeypatch):
    """Has something done before the next commit of a store."""

    def set_up(store, do):
        commit = store.engine.commit

        def do_first(transaction):
            monkeypatch.setattr(store.engine, "commit", commit)
            do()
            return commit(transaction)

        monkeypatch.setattr(store.engine, "commit", do_first)

    return set_up


def contents(store) -> bytes:
    """Every key and value but the tombstones, whose crop ids stay."""
    every = Reader(store.engine).every((b"", b"\xff"))
    return b"\n".join(own + b"=" + value for own, value in every)


@of_engines
def test_what_is_removed_while_a_gallery_is_copied_is_kept_nowhere(store, gallery):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1, "Ann"), new_crop(2, "Bob")])
    with store.crops.archive(gallery) as archive:
        next(archive.crops)
        assert len(store.identities.forget(gallery, "Ann").row_ids) == 1
        assert b"Ann" not in contents(store)
        list(archive.crops)
    assert b"Bob" in contents(store)


@of_engines
def test_a_forgotten_name_does_not_return_with_a_rename_at_the_same_time(
    store, gallery, before_next_commit
):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1, "Ann"), new_crop(2, "Bob")])
    store.identities.rename(gallery, "Ann", "Bob")
    store.crops.enroll(gallery, EMBEDDER, [new_crop(3, "Ann")])
    before_next_commit(store, lambda: store.identities.forget(gallery, "Ann"))
    store.identities.rename(gallery, "Bob", "Robert")
    assert store.identities.merges(gallery) == []
    assert b"Ann" not in contents(store)


@of_engines
def test_a_search_that_is_added_while_a_calibration_is_dropped_is_dropped_too(
    store, gallery, before_next_commit
):
    store.calibrations.add_searches(gallery, "cosine", [("one", b"1")])
    add = store.calibrations.add_searches
    before_next_commit(store, lambda: add(gallery, "cosine", [("two", b"2")]))
    store.galleries.change(gallery, {}, reset_calibration=True)
    assert store.calibrations.searches(gallery, "cosine") == []


@of_engines
def test_a_key_that_is_used_again_after_a_day_stands_for_the_newer_request(
    store, gallery, monkeypatch
):
    clock = timedelta()

    class Later(keys.datetime):
        @classmethod
        def now(cls, zone=None):
            return keys_datetime.now(zone) + clock

    keys_datetime = keys.datetime
    for module in (keys, crop_changes):
        monkeypatch.setattr(module, "datetime", Later)

    def enroll(number: int, name: str) -> RequestKey:
        request = RequestKey(name, f"digest {number}")
        store.crops.enroll(gallery, EMBEDDER, [new_crop(number, "Ann")], request)
        return request

    for number in range(12):
        clock = timedelta(seconds=number)
        enroll(number, f"key {number}")
    clock = timedelta(days=2)
    again = enroll(100, "key 11")
    for number in range(200, 206):
        enroll(number, f"key {number}")
    assert store.crops.happened(gallery, again) is not None


def test_after_a_merge_of_equal_pictures_the_other_fields_of_each_can_be_changed(store, gallery):
    landed = store.crops.enroll(gallery, EMBEDDER, [new_crop(1, "Ann"), new_crop(1, "Anna")]).landed
    store.identities.rename(gallery, "Anna", "Ann")
    for one in landed:
        assert store.crops.change(gallery, [one.crop_id], {"metadata": {"note": 1}}).labels
        assert store.crops.get(gallery, one.crop_id).metadata == {"note": 1}
        assert store.crops.change(gallery, [one.crop_id], {"metadata": {"note": True}}).labels
        assert store.crops.get(gallery, one.crop_id).metadata == {"note": True}


@of_engines
def test_a_request_that_is_renewed_while_another_removes_old_ones_happens_once(
    store, gallery, before_next_commit, monkeypatch
):
    yard = store.galleries.create("yard", EMBEDDER, GallerySettings()).gallery_id
    request = RequestKey("evening", "digest")
    long_ago = as_text(datetime.now(UTC) - timedelta(days=2))
    monkeypatch.setattr(crop_changes, "now", lambda: long_ago)
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1)], request)
    monkeypatch.undo()
    renew = partial(store.crops.enroll, gallery, EMBEDDER, [new_crop(1)], request)
    before_next_commit(store, renew)
    store.crops.enroll(yard, EMBEDDER, [new_crop(2)], RequestKey("morning", "digest"))
    assert renew().replayed
