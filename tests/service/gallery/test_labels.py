"""Labels of stored crops change durably: single crops, merges and their undoing."""

from __future__ import annotations

import time

from service.record.values import CropFilter
from tests.service.gallery.new_crops import EMBEDDER, new_crop

EVERYTHING = CropFilter()


def _enroll(store, gallery, *crops):
    return [crop.crop_id for crop in store.crops.enroll(gallery, EMBEDDER, crops).landed]


def _identities(store, gallery):
    return {
        person.identity: person.crops for person in store.people.page(gallery, None, 99).results
    }


def test_crops_that_pass_a_filter_no_more_are_neither_changed_nor_removed(store, gallery):
    ids = _enroll(store, gallery, new_crop(1, None), new_crop(2, None), new_crop(3, "b"))
    unnamed = CropFilter(crop_ids=frozenset(ids), unnamed=True)
    named = store.crops.change(gallery, unnamed, {"identity": "a"})
    assert list(named.crop_ids) == ids[:2]
    assert store.crops.change(gallery, unnamed, {"identity": "c"}).matched == 0
    assert store.crops.remove_matching(gallery, unnamed).matched == 0
    named = CropFilter(crop_ids=frozenset(ids), identity="b")
    assert store.crops.remove_matching(gallery, named).crop_ids == (ids[2],)
    assert _identities(store, gallery) == {"a": 2}


def test_merges_are_undone_in_their_order_also_after_the_clock_was_set_back(
    store, gallery, monkeypatch
):
    _enroll(store, gallery, new_crop(1, "a"), new_crop(2, "b"), new_crop(3, "c"))
    first = store.people.rename(gallery, "a", "b").merge_id
    ahead = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: ahead() - 2_000_000_000)
    second = store.people.rename(gallery, "b", "c").merge_id
    monkeypatch.undo()
    assert [merge.merge_id for merge in store.people.merges(gallery)] == [second, first]
    store.people.undo_merge(gallery, second)
    store.people.undo_merge(gallery, first)
    assert _identities(store, gallery) == {"a": 1, "b": 1, "c": 1}
