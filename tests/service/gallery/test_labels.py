"""Labels of stored crops change durably: single crops, merges and their undoing."""

from __future__ import annotations

import time

import pytest

from service.record.values import CropFilter
from tests.service.gallery.new_crops import EMBEDDER, new_crop

EVERYTHING = CropFilter()


def _enroll(store, gallery, *crops):
    return [crop.crop_id for crop in store.crops.enroll(gallery, EMBEDDER, crops).landed]


def _identities(store, gallery):
    return {person.identity: person.crops for person in store.people.page(gallery, "", 99)}


def test_a_change_to_what_a_crop_bears_already_changes_nothing(store, gallery):
    (crop,) = _enroll(store, gallery, new_crop(1, "a"))
    assert store.crops.change(gallery, [crop], {"identity": "a"}).crop_ids == ()
    assert store.galleries.get(gallery).version == 1
    assert store.crops.change(gallery, ["unknown"], {"identity": "a"}) is None


def test_crops_that_pass_a_filter_no_more_are_neither_changed_nor_removed(store, gallery):
    ids = _enroll(store, gallery, new_crop(1, None), new_crop(2, None), new_crop(3, "b"))
    unnamed = CropFilter(unnamed=True)
    named = store.crops.change(gallery, ids, {"identity": "a"}, unnamed)
    assert list(named.crop_ids) == ids[:2]
    assert store.crops.change(gallery, ids, {"identity": "c"}, unnamed) is None
    assert store.crops.remove(gallery, ids, unnamed) is None
    assert store.crops.remove(gallery, ids, CropFilter(identity="b")).crop_ids == (ids[2],)
    assert _identities(store, gallery) == {"a": 2}


def test_a_merge_can_be_undone_also_after_a_rename_and_another_merge(reopen, store, gallery):
    _enroll(store, gallery, new_crop(1, "a"), new_crop(2, "b"), new_crop(3, "c"), new_crop(4, "c"))
    first = store.identities.rename(gallery, "a", "b").merge_id
    second = store.identities.rename(gallery, "b", "c").merge_id
    assert store.identities.rename(gallery, "c", "d").merge_id is None
    store = reopen()
    assert [
        (merge.merge_id, merge.identity, merge.into) for merge in store.identities.merges(gallery)
    ] == [
        (second, "b", "d"),
        (first, "a", "d"),
    ]
    change = store.identities.undo_merge(gallery, second)
    identity = change.restored_identity
    assert (identity, change.count) == ("b", 2)
    assert _identities(store, gallery) == {"b": 2, "d": 2}
    assert store.identities.undo_merge(gallery, first).restored_identity == "a"
    assert _identities(store, gallery) == {"a": 1, "b": 1, "d": 2}
    assert store.identities.undo_merge(gallery, first) is None
    assert store.identities.merges(gallery) == []


def test_merges_are_undone_in_any_order(store, gallery):
    _enroll(store, gallery, new_crop(1, "a"), new_crop(2, "b"), new_crop(3, "c"))
    first = store.identities.rename(gallery, "a", "b").merge_id
    second = store.identities.rename(gallery, "b", "c").merge_id
    assert store.identities.undo_merge(gallery, first).restored_identity == "a"
    assert _identities(store, gallery) == {"a": 1, "c": 2}
    assert store.identities.undo_merge(gallery, second).restored_identity == "b"
    assert _identities(store, gallery) == {"a": 1, "b": 1, "c": 1}


def test_merges_are_undone_in_their_order_also_after_the_clock_was_set_back(
    store, gallery, monkeypatch
):
    _enroll(store, gallery, new_crop(1, "a"), new_crop(2, "b"), new_crop(3, "c"))
    first = store.identities.rename(gallery, "a", "b").merge_id
    ahead = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: ahead() - 2_000_000_000)
    second = store.identities.rename(gallery, "b", "c").merge_id
    monkeypatch.undo()
    assert [merge.merge_id for merge in store.identities.merges(gallery)] == [second, first]
    store.identities.undo_merge(gallery, second)
    store.identities.undo_merge(gallery, first)
    assert _identities(store, gallery) == {"a": 1, "b": 1, "c": 1}


def test_crops_that_were_deleted_or_moved_since_stay_so(store, gallery):
    one, two, _ = _enroll(store, gallery, new_crop(1, "a"), new_crop(2, "a"), new_crop(3, "b"))
    merge = store.identities.rename(gallery, "a", "b").merge_id
    store.crops.remove(gallery, [one])
    store.crops.change(gallery, [two], {"identity": "c"})
    change = store.identities.undo_merge(gallery, merge)
    assert change.crop_ids == ()
    assert _identities(store, gallery) == {"b": 1, "c": 1}


@pytest.mark.parametrize("forgotten", ["a", "b"])
def test_forgetting_either_identity_erases_the_merge(store, gallery, forgotten):
    _enroll(store, gallery, new_crop(1, "a"), new_crop(2, "b"))
    merge = store.identities.rename(gallery, "a", "b").merge_id
    # Somebody is enrolled under the merged name again.
    _enroll(store, gallery, new_crop(3, "a"))
    removed = store.identities.forget(gallery, forgotten)
    assert removed.count == (1 if forgotten == "a" else 2)
    assert store.identities.merges(gallery) == []
    assert store.identities.undo_merge(gallery, merge) is None
