"""Milvus proposes the crops that FAISS finds, and never one that the record has removed."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from service.milvus import indexer
from service.milvus.rows import Codes
from service.search.filters import Filter
from tests.service.gallery.new_crops import NOON, only, restore_crops
from tests.service.milvus.lab import DIMENSION, drawn, drawn_crop, lab
from tests.waiting import eventually

CAMERAS = ("east", "west", "nörd\n'\"", None)
FILTERS = {
    "all": Filter(),
    "one camera": Filter(cameras=("east",)),
    "a camera that no crop has": Filter(cameras=("nowhere",)),
    "without two cameras, unknown ones stay": Filter(exclude_cameras=("west", CAMERAS[2])),
    "since": Filter(captured_after=NOON + timedelta(minutes=40)),
    "until, unknown times do not pass": Filter(captured_before=NOON + timedelta(minutes=40)),
    "a moment": Filter(captured_after=NOON, captured_before=NOON),
    "all at once": Filter(("east", "west"), ("west",), NOON, NOON + timedelta(hours=1)),
    "two people": Filter(identities=("person 1", "person 3")),
    "single crops left out": Filter(without=frozenset(range(1, 60, 3))),
    "named crops": Filter(named=True),
    "people whom the gallery does not know": Filter(identities=("nobody",)),
    "two people, one camera, since": Filter(
        cameras=("east",), captured_after=NOON, identities=("person 1", "person 3")
    ),
    "crops without a name, of one camera": Filter(cameras=("east",), named=False),
}


def _mixed(number):
    captured = None if number % 7 == 0 else NOON + timedelta(minutes=number)
    identity = None if number % 5 == 0 else f"person {number % 11}"
    camera = CAMERAS[number % len(CAMERAS)]
    return drawn_crop(number, identity=identity, camera=camera, captured_at=captured)


@pytest.fixture
def filled(one):
    gallery = one.gallery()
    one.enroll(gallery, *map(_mixed, range(100)))
    one.caught_up(gallery)
    return one, gallery, one.in_faiss(gallery)


def test_every_filter_passes_what_it_passes_in_faiss(filled):
    one, gallery, index = filled
    query = drawn(5000)
    for name, wanted in FILTERS.items():
        expected = index.search(query[None], 1000, wanted)
        found = one.hits(gallery, query, 1000, wanted)
        assert [hit["id"] for hit in found] == expected.row_ids.tolist(), name
        for hit in found:
            vector = drawn(hit["id"] - 1)
            np.testing.assert_allclose(hit["v"], vector / np.linalg.norm(vector), atol=1e-7)


def test_limits_beyond_what_milvus_takes_are_cut(filled):
    one, gallery, _ = filled
    assert len(one.found(gallery, drawn(1), 100_000)) == 100
    many = Filter(without=frozenset(range(2, 12_000)))
    assert one.found(gallery, drawn(1), 100_000, many) == [1]


def test_a_deleted_crop_is_gone_at_the_next_watermark_and_a_new_one_is_there(one):
    gallery = one.gallery()
    for number in range(8):
        (row,) = one.enroll(gallery, drawn_crop(number))
        one.caught_up(gallery)
        assert one.found(gallery, drawn(number), 1) == [row]
        one.remove(gallery, [row])
        one.caught_up(gallery)
        assert row not in one.found(gallery, drawn(number))


def test_a_changed_label_moves_a_crop_to_other_filters_and_groups(one):
    gallery = one.gallery()
    first, second = one.enroll(gallery, drawn_crop(1), drawn_crop(2, identity="b"))
    labels = one.record.crops.by_row(gallery.gallery_id, [first, second])
    one.record.crops.change(gallery.gallery_id, only(labels[first].crop_id), {"camera": "west"})
    one.record.people.rename(gallery.gallery_id, "b", "a")
    one.caught_up(gallery)
    assert one.found(gallery, drawn(1), wanted=Filter(cameras=("west",))) == [first]
    groups = one.index(gallery).search(drawn(1)[None], 10, grouped=True)
    assert groups.row_ids.tolist() == [first]


def test_milvus_holds_no_name(filled):
    one, gallery, _ = filled
    state = one.state(gallery)
    rows = one.server.rows(state.collection, 0, 1000, state.timestamp)
    assert {type(value) for row in rows for value in row.values()} == {int, float}
    other = Codes(b"another secret")
    label = one.record.crops.by_row(gallery.gallery_id, [2])[2]
    assert other.label(label)["camera"] != one.codes.label(label)["camera"]
    assert one.codes.group(label) == Codes(one.codes.secret).group(label) >= 0


def test_a_restore_and_a_reindex_lead_to_other_collections(one):
    gallery = one.gallery()
    rows = one.enroll(gallery, *(drawn_crop(number) for number in range(5)))
    one.caught_up(gallery)
    before = one.state(gallery)
    one.remove(gallery, rows[:1])
    kept = [drawn_crop(number) for number in range(1, 5)]
    restore_crops(one.record, gallery.gallery_id, kept, gallery.embedding_fingerprint)
    one.caught_up(gallery)
    restored = one.state(gallery)
    assert restored.at != before.at
    assert sorted(one.found(gallery, drawn(1))) == sorted(
        one.in_faiss(gallery).search(drawn(1)[None], 9).row_ids
    )
    eventually(lambda: before.collection not in one.server.collections())
    assert restored.collection in one.server.collections()


def test_what_a_late_write_brings_back_is_removed(one, monkeypatch):
    monkeypatch.setattr(indexer, "LATE_SECONDS", 0.5)
    gallery = one.gallery()
    rows = one.enroll(gallery, *(drawn_crop(number) for number in range(4)))
    one.caught_up(gallery)
    late = list(map(one.codes.row, one.record.crops.indexed(gallery.gallery_id, rows)))
    one.remove(gallery, rows[:2])
    labels = one.record.crops.by_row(gallery.gallery_id, rows[2:])
    one.record.crops.change(gallery.gallery_id, only(labels[rows[2]].crop_id), {"camera": "west"})
    one.caught_up(gallery)
    state = one.state(gallery)
    one.server.upsert(state.collection, late)
    one.server.delete(state.collection, rows[3:])
    assert one.writer.differing(gallery.gallery_id) == rows
    one.indexer.close()
    with lab(one.folder, one.milvus) as other:
        eventually(lambda: not other.writer.differing(gallery.gallery_id))
        assert sorted(other.found(gallery, drawn(1))) == rows[2:]


def test_a_rebuild_leads_to_a_new_collection_and_loses_nothing_meanwhile(one):
    gallery = one.gallery()
    one.enroll(gallery, *(drawn_crop(number) for number in range(50)))
    one.caught_up(gallery)
    before = one.state(gallery)
    one.record.remote_indexes.change(gallery.gallery_id, wanted=True)
    number = 50
    while one.state(gallery).unfinished:
        (row,) = one.enroll(gallery, drawn_crop(number))
        one.caught_up(gallery)
        assert one.found(gallery, drawn(number), 1) == [row]
        number += 1
    after = one.state(gallery)
    assert after.collection != before.collection
    assert after.version >= before.version
    assert not one.writer.differing(gallery.gallery_id)


def test_a_deleted_gallery_takes_its_collection_along(one):
    gallery = one.gallery("other")
    one.enroll(gallery, drawn_crop(1))
    one.caught_up(gallery)
    collection = one.state(gallery).collection
    one.record.galleries.delete(gallery.gallery_id)
    eventually(lambda: collection not in one.server.collections())
    assert one.record.remote_indexes.state(gallery.gallery_id) is None


def test_one_process_indexes_and_another_takes_over_when_it_is_gone(one):
    gallery = one.gallery()
    one.enroll(gallery, drawn_crop(1))
    one.caught_up(gallery)
    with lab(one.folder, one.milvus) as other:
        one.enroll(gallery, drawn_crop(2))
        one.caught_up(gallery)
        assert other.indexer._galleries == {}
        one.indexer.close()
        (row,) = other.enroll(gallery, drawn_crop(3))
        other.caught_up(gallery)
        assert other.found(gallery, drawn(3), 1) == [row]


def test_changes_that_are_kept_no_more_are_made_up_for(one):
    gallery = one.gallery()
    one.enroll(gallery, drawn_crop(1))
    one.caught_up(gallery)
    one.indexer.close()
    one.enroll(gallery, drawn_crop(2))
    one.forget_changes()
    with lab(one.folder, one.milvus) as other:
        other.caught_up(gallery)
        assert not other.writer.differing(gallery.gallery_id)


def test_a_collection_that_is_gone_is_built_anew(one):
    gallery = one.gallery()
    one.enroll(gallery, drawn_crop(1))
    one.caught_up(gallery)
    one.server.drop(one.state(gallery).collection)
    rows = [1, *one.enroll(gallery, drawn_crop(2))]
    one.caught_up(gallery)
    assert sorted(one.found(gallery, drawn(1))) == rows
    # Also where nothing is written to the gallery any more.
    lost = one.state(gallery).collection
    one.server.drop(lost)
    eventually(lambda: one.state(gallery).collection != lost, 30)
    assert sorted(one.found(gallery, drawn(1))) == rows


def test_an_older_copy_of_the_record_is_made_up_for_after_an_orderly_end_too(one, monkeypatch):
    monkeypatch.setattr(indexer, "LATE_SECONDS", 0.5)
    gallery = one.gallery()
    rows = one.enroll(gallery, *map(drawn_crop, range(4)))
    one.caught_up(gallery)
    collection = one.state(gallery).collection
    one.indexer.close()
    # Milvus is ahead: a crop is deleted, and another one is far beyond the record's last row.
    (row,) = map(one.codes.row, one.record.crops.indexed(gallery.gallery_id, rows[:1]))
    one.server.upsert(collection, [{**row, "id": 100_000}])
    one.server.delete(collection, rows[:1])
    assert one.writer.differing(gallery.gallery_id) == [rows[0], 100_000]
    with lab(one.folder, one.milvus) as other:
        eventually(lambda: not other.writer.differing(gallery.gallery_id), 15)


def test_vectors_of_another_length_get_a_collection_of_their_own(one):
    gallery = one.gallery()
    one.caught_up(gallery)
    crop = drawn_crop(1)
    wide = type(crop)(crop.record, drawn(1, 2 * DIMENSION), None)
    one.record.crops.enroll(gallery.gallery_id, "c" * 64, [wide])
    one.caught_up(gallery)
    assert one.found(gallery, drawn(1, 2 * DIMENSION)) == [1]


def test_files_are_compacted_after_a_deletion(one):
    gallery = one.gallery()
    rows = one.enroll(gallery, *(drawn_crop(number) for number in range(20)))
    one.remove(gallery, rows[:10])
    entry = one.record.galleries.get(gallery.gallery_id)
    assert one.writer.compact(gallery.gallery_id, entry.version, 60)
    assert sorted(one.found(gallery, drawn(1))) == rows[10:]
    assert not one.writer.compact(gallery.gallery_id, entry.version + 1, 0.3)
    one.indexer.close()
    one.record.remote_indexes.change(gallery.gallery_id, building="being filled")
    assert not one.writer.compact(gallery.gallery_id, entry.version, 2)
