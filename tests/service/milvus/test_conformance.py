"""Milvus proposes the crops that FAISS finds, and never one that the record has removed."""

from datetime import timedelta

import numpy as np
import pytest

from service.index.filters import SearchFilter
from service.milvus import indexer
from service.milvus.rows import Codes
from tests.service.gallery.new_crops import NOON
from tests.service.milvus.lab import (
    CAMERAS,
    DIMENSION,
    drawn,
    drawn_crop,
    lab,
    mixed_crop,
    units,
)
from tests.waiting import eventually

pytestmark = pytest.mark.promise("milvus")

SOON = NOON + timedelta(minutes=40)
PEOPLE = ("person 1", "person 3")
FILTERS = (
    SearchFilter(),
    SearchFilter(cameras=("nowhere",)),
    # Crops of an unknown camera stay.
    SearchFilter(exclude_cameras=("west", CAMERAS[2])),
    SearchFilter(captured_after=SOON),
    # Crops of an unknown time do not pass.
    SearchFilter(captured_before=SOON),
    SearchFilter(captured_after=NOON, captured_before=NOON),
    SearchFilter(
        cameras=("east", "west"),
        exclude_cameras=("west",),
        captured_after=NOON,
        captured_before=SOON,
    ),
    SearchFilter(without=frozenset(range(1, 60, 3))),
    SearchFilter(named=True),
    SearchFilter(cameras=("east",), named=False),
    SearchFilter(identities=("nobody",)),
    SearchFilter(cameras=("east",), captured_after=NOON, identities=PEOPLE),
)


@pytest.fixture
def filled(one):
    gallery = one.gallery()
    one.enroll(gallery, *(mixed_crop(number) for number in range(100)))
    one.caught_up(gallery)
    return one, gallery


def test_every_filter_passes_what_it_passes_in_faiss(filled):
    one, gallery = filled
    query = drawn(5000)
    inside = one.in_faiss(gallery)
    for wanted in FILTERS:
        hits = one.hits(gallery, query, 1000, wanted)
        expected = inside.search(query[None], [None], 1000, wanted).slots.tolist()
        assert [hit["id"] for hit in hits] == expected, wanted
        for hit in hits:
            np.testing.assert_allclose(hit["v"], units(drawn(hit["id"] - 1)), atol=1e-7)
        one.assert_same(gallery, query[None], [1, 10, 1000], wanted)
    assert one.index(gallery).identities() == inside.identities()


def test_limits_beyond_what_milvus_takes_are_cut(filled):
    one, gallery = filled
    assert len(one.found(gallery, drawn(1), 100_000)) == 100
    many = SearchFilter(without=frozenset(range(2, 12_000)))
    assert one.found(gallery, drawn(1), 100_000, many) == [1]


def test_milvus_holds_no_name(filled):
    one, gallery = filled
    state = one.state(gallery)
    rows = one.server.rows(state.collection, 0, 1000, state.timestamp)
    assert {type(value) for row in rows for value in row.values()} == {int, float}
    label = one.record.crops.by_slot(gallery.gallery_id, [2])[2]
    assert Codes(b"another secret").label(label)["camera"] != one.codes.label(label)["camera"]


def test_a_deleted_crop_is_gone_at_the_next_watermark_and_a_new_one_is_there(one):
    gallery = one.gallery()
    for number in range(8):
        _, rows = one.indexed(number)
        assert one.found(gallery, drawn(number), 1) == rows
        one.remove(gallery, *rows)
        one.caught_up(gallery)
        assert rows[0] not in one.found(gallery, drawn(number))


def test_a_changed_label_moves_a_crop_to_other_filters_and_groups(one):
    gallery = one.gallery()
    first, _ = one.enroll(gallery, drawn_crop(1), drawn_crop(2, identity="b"))
    one.change(gallery, first, camera="west")
    one.record.people.rename(gallery.gallery_id, "b", "a")
    one.caught_up(gallery)
    assert one.found(gallery, drawn(1), wanted=SearchFilter(cameras=("west",))) == [first]
    groups = one.index(gallery).search(drawn(1)[None], [None], 10, grouped=True)
    assert groups.slots.tolist() == [first]


def test_a_crop_that_is_set_aside_has_no_row_until_it_is_taken_back(one):
    gallery = one.gallery()
    first, second = one.enroll(gallery, drawn_crop(1), drawn_crop(2))
    for set_aside, expected in ((True, [second]), (False, [first, second])):
        one.change(gallery, first, set_aside=set_aside)
        one.caught_up(gallery)
        assert sorted(hit["id"] for hit in one.hits(gallery, drawn(1))) == expected
        assert one.writer.differing(gallery.gallery_id) == []
        # The index is whole without it.
        assert (
            sorted(one.index(gallery).search(drawn(1)[None], [None], 10).slots.tolist()) == expected
        )


def test_a_rebuild_leads_to_a_new_collection_and_loses_nothing_meanwhile(one):
    gallery, _ = one.indexed(*range(50))
    before = one.state(gallery)
    one.want_rebuild(gallery)
    number = 50
    while one.state(gallery).unfinished:
        _, rows = one.indexed(number)
        assert one.found(gallery, drawn(number), 1) == rows
        number += 1
    after = one.state(gallery)
    assert after.collection != before.collection
    assert after.version >= before.version
    assert one.is_whole(gallery)


def test_what_a_late_write_or_an_older_copy_of_the_record_brings_back_is_removed(one, monkeypatch):
    monkeypatch.setattr(indexer, "LATE_SECONDS", 0.5)
    gallery, rows = one.indexed(*range(4))
    late = [one.codes.row(crop) for crop in one.record.crops.indexed(gallery.gallery_id, rows)]
    one.remove(gallery, *rows[:2])
    one.change(gallery, rows[2], camera="west")
    one.caught_up(gallery)
    collection = one.state(gallery).collection
    # Milvus is ahead of an older copy: it has a row far beyond the last one of the record.
    one.server.upsert(collection, [*late, {**late[3], "id": 100_000}])
    one.server.delete(collection, rows[3:])
    assert one.writer.differing(gallery.gallery_id) == [*rows, 100_000]
    one.indexer.close()
    with lab(one.folder, one.milvus) as other:
        eventually(lambda: other.is_whole(gallery))
        assert sorted(other.found(gallery, drawn(1))) == rows[2:]


def test_a_deleted_gallery_takes_its_collection_along(one):
    gallery, _ = one.indexed(1, name="other")
    collection = one.state(gallery).collection
    one.record.galleries.delete(gallery.gallery_id)
    eventually(lambda: collection not in one.server.collections())
    assert one.writer.states.state(gallery.gallery_id) is None


def test_one_process_indexes_and_another_takes_over_when_it_is_gone(one):
    gallery, _ = one.indexed(1)
    with lab(one.folder, one.milvus) as other:
        one.indexed(2)
        assert other.indexer._galleries == {}
        one.indexer.close()
        _, rows = other.indexed(3)
        assert other.found(gallery, drawn(3), 1) == rows


def test_changes_while_nobody_indexes_are_made_up_for(one):
    gallery, rows = one.indexed(1, 3)
    one.indexer.close()
    one.enroll(gallery, drawn_crop(2))
    one.remove(gallery, rows[0])
    with lab(one.folder, one.milvus) as other:
        other.caught_up(gallery)
        assert other.is_whole(gallery)


def test_a_collection_that_is_gone_is_built_anew(one):
    gallery, rows = one.indexed(1)
    one.server.drop(one.state(gallery).collection)
    rows += one.indexed(2)[1]
    assert sorted(one.found(gallery, drawn(1))) == rows
    # Also where nothing is written to the gallery any more.
    lost = one.state(gallery).collection
    one.server.drop(lost)
    eventually(lambda: one.state(gallery).collection != lost)
    assert sorted(one.found(gallery, drawn(1))) == rows


def test_vectors_of_another_length_get_a_collection_of_their_own(one):
    gallery, _ = one.indexed()
    crop = drawn_crop(1)
    wide = type(crop)(crop.record, drawn(1, 2 * DIMENSION), None)
    one.record.crops.enroll(gallery.gallery_id, "c" * 64, [wide])
    one.caught_up(gallery)
    assert one.found(gallery, drawn(1, 2 * DIMENSION)) == [1]


def test_files_are_compacted_after_a_deletion(one):
    gallery, rows = one.indexed(*range(20))
    one.remove(gallery, *rows[:10])
    version = one.gallery().version
    assert one.writer.compact(gallery.gallery_id, version, 60)
    assert sorted(one.found(gallery, drawn(1))) == rows[10:]
    assert not one.writer.compact(gallery.gallery_id, version + 1, 0.3)
    one.indexer.close()
    one.writer.states.change(gallery.gallery_id, building="being filled")
    assert not one.writer.compact(gallery.gallery_id, version, 0.3)
