"""Rules of the record for galleries, crops and identities."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.errors import NeedsReindex, RequestConflict
from service.record import crops
from service.record import crops as table_crops
from service.record.values import CropFilter, GallerySettings, RequestKey
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    new_crop,
    without_picture,
)

EVERYTHING = CropFilter()


def _create(store, name: str) -> int:
    return store.galleries.create(name, EMBEDDER, GallerySettings()).gallery_id


def _numbers(store, gallery: int, wanted: CropFilter = EVERYTHING) -> list[int]:
    return [crop.metadata["number"] for crop in store.crops.page(gallery, wanted, limit=99).crops]


def test_a_crop_without_a_kept_picture_is_removed_as_every_other(store, gallery):
    bare = [without_picture(number) for number in (1, 2)]
    store.crops.enroll(gallery, EMBEDDER, [*bare, new_crop(3, "b")])
    assert len(store.identities.forget(gallery, "a").crop_ids) == 2
    record = store.galleries.get(gallery)
    assert (record.crops, record.identities) == (1, 1)
    assert record.image_bytes == len(new_crop(3).picture)


def test_only_a_change_raises_the_version(store, gallery):
    first = store.crops.enroll(gallery, EMBEDDER, [new_crop(1), new_crop(2)])
    again = store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    assert (first.version, again.version) == (1, 1)
    assert again.landed[0].duplicate
    assert store.crops.remove(gallery, [first.landed[0].crop_id]).version == 2
    assert store.crops.remove(gallery, [first.landed[0].crop_id]) is None
    assert store.galleries.get(gallery).version == 2


def test_a_crop_that_is_sent_again_under_its_id_is_a_duplicate(store, gallery):
    crop = new_crop(1, crop_id="one")
    store.crops.enroll(gallery, EMBEDDER, [crop])
    again = store.crops.enroll(gallery, EMBEDDER, [crop])
    assert (again.landed[0].crop_id, again.landed[0].duplicate) == ("one", True)


def test_a_row_id_is_never_given_out_twice(reopen, store, gallery):
    newest = store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    store.crops.remove(gallery, [newest.landed[0].crop_id])
    later = reopen().crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    assert later.added[0].row_id > newest.added[0].row_id


def test_crops_are_asked_for_by_row(store, gallery):
    added = store.crops.enroll(gallery, EMBEDDER, [new_crop(1), new_crop(2), new_crop(3)]).added
    first, second, third = (crop.row_id for crop in added)
    store.crops.remove(gallery, [added[1].crop_id])
    there = store.crops.by_row(gallery, [third, second, first, 999])
    assert there == {
        row: store.crops.get(gallery, crop.crop_id)
        for row, crop in ((first, added[0]), (third, added[2]))
    }
    found = store.crops.indexed(gallery, [third, second, first, 999])
    assert [crop.label for crop in found] == [added[0], added[2]]
    assert [crop.vector.tolist() for crop in found] == [[1.25] * 4, [3.25] * 4]
    assert store.crops.by_row(_create(store, "roof"), [first]) == {}
    assert store.crops.indexed(gallery, []) == []


def test_galleries_keep_to_themselves(store, gallery):
    other = _create(store, "roof")
    crop_id = store.crops.enroll(gallery, EMBEDDER, [new_crop(1)]).landed[0].crop_id
    assert store.crops.get(other, crop_id) is None
    assert store.crops.remove(other, [crop_id]) is None
    assert store.identities.forget(other, "a") is None
    assert store.identities.rename(other, "a", "b") is None
    assert not store.crops.enroll(other, EMBEDDER, [new_crop(1)]).landed[0].duplicate
    store.galleries.delete(other)
    assert store.galleries.get(other) is None
    assert store.galleries.get(gallery).crops == 1


def test_settings_are_kept_and_changed_one_by_one(reopen, store, gallery):
    assert store.galleries.get(gallery).settings == GallerySettings(None, "on", "captured")
    store.galleries.change(gallery, {"retention_days": 30})
    changed = store.galleries.change(gallery, {"calibration": "frozen"})
    assert changed == GallerySettings(30, "frozen", "captured")
    again = reopen()
    assert again.galleries.get(gallery).settings == changed
    assert again.galleries.change(gallery, {}) == changed
    everything = {"retention_days": None, "calibration": "off", "retention_from": "enrolled"}
    assert again.galleries.change(gallery, everything) == GallerySettings(**everything)
    made = again.galleries.create("yard", EMBEDDER, GallerySettings(7, "off", "enrolled"))
    assert again.galleries.get(made.gallery_id).settings == GallerySettings(7, "off", "enrolled")


def test_a_filled_gallery_refuses_another_embedder_and_an_empty_one_takes_it(store, gallery):
    crop_id = store.crops.enroll(gallery, EMBEDDER, [new_crop(1)]).landed[0].crop_id
    with pytest.raises(NeedsReindex):
        store.crops.enroll(gallery, OTHER_EMBEDDER, [new_crop(2)])
    store.crops.remove(gallery, [crop_id])
    store.crops.enroll(gallery, OTHER_EMBEDDER, [new_crop(2)])
    assert store.galleries.get(gallery).embedding_fingerprint == OTHER_EMBEDDER


def test_identities_are_found_by_a_part_of_their_name_in_any_case(store, gallery):
    names = ["Ann", "anna", "Jörg", "JÖRG 2", "100%", "x_y"]
    crops = [new_crop(number, name) for number, name in enumerate([*names, "Ann"])]
    store.crops.enroll(gallery, EMBEDDER, crops)

    def found(query: str, after: str = "", limit: int = 9) -> list[tuple[str, int]]:
        page = store.people.page(gallery, after, limit, query)
        return [(person.identity, person.crops) for person in page]

    assert found("ANN") == [("Ann", 2), ("anna", 1)]
    assert found("ANN", limit=1) == [("Ann", 2)]
    assert found("ANN", after="Ann") == [("anna", 1)]
    assert found("jörg") == [("Jörg", 1), ("JÖRG 2", 1)]
    assert (found("%"), found("_"), found("nobody")) == ([("100%", 1)], [("x_y", 1)], [])
    assert len(found("")) == len(names)


def test_an_identity_is_found_behind_many_others(store, gallery):
    crops = [new_crop(number, f"{number:04d}") for number in range(1200)]
    for start in range(0, len(crops), 200):
        store.crops.enroll(gallery, EMBEDDER, crops[start : start + 200])
    names = [person.identity for person in store.people.page(gallery, "", 9, "119")]
    assert names == [f"{n:04d}" for n in range(1200) if "119" in f"{n:04d}"][:9]


def test_an_identity_is_read_with_its_cameras(store, gallery):
    crops = [new_crop(1, "a", "west"), new_crop(2, "a"), new_crop(3, "a", None), new_crop(4, "b")]
    store.crops.enroll(gallery, EMBEDDER, crops)
    person, *_ = store.people.get(gallery, "a")
    assert (person.identity, person.crops, person.cameras) == ("a", 3, ["east", "west"])
    assert store.people.get(gallery, "nobody") is None


def test_a_request_that_happened_happens_once(reopen, store, gallery):
    request = RequestKey("evening", "digest", problems='[null, "bad"]')
    first = store.crops.enroll(gallery, EMBEDDER, [new_crop(1)], request)
    again = reopen()
    for past in (
        again.crops.happened(gallery, request),
        again.crops.enroll(gallery, EMBEDDER, [new_crop(1)], request),
    ):
        assert past.replayed
        assert (past.version, past.problems) == (first.version, '[null, "bad"]')
        assert [crop.crop_id for crop in past.landed] == [first.landed[0].crop_id]
        assert not past.landed[0].duplicate
        assert past.added == ()
    assert again.crops.happened(gallery, RequestKey("morning", "digest")) is None
    with pytest.raises(RequestConflict, match="evening"):
        again.crops.enroll(gallery, EMBEDDER, [new_crop(2)], RequestKey("evening", "other"))
    assert again.galleries.get(gallery).crops == 1


def test_crops_past_their_time_are_removed_oldest_of_capture_or_enrolment(store, gallery):
    store.crops.enroll(
        gallery,
        EMBEDDER,
        [
            new_crop(1, captured_at=NOON - timedelta(days=9)),
            new_crop(2),
            new_crop(3, captured_at=None, created_at=NOON - timedelta(days=9)),
            new_crop(4, captured_at=None),
        ],
    )
    assert len(store.crops.remove_older(gallery, NOON - timedelta(days=1), 1).crop_ids) == 1
    assert len(store.crops.remove_older(gallery, NOON - timedelta(days=1), 9).crop_ids) == 1
    assert store.crops.remove_older(gallery, NOON - timedelta(days=1), 9) is None
    assert _numbers(store, gallery) == [2, 4]


def test_crops_enrolled_long_ago_are_removed_whenever_they_were_captured(store, gallery):
    long_ago = NOON - timedelta(days=9)
    store.crops.enroll(
        gallery,
        EMBEDDER,
        [
            new_crop(1, captured_at=long_ago),
            new_crop(2, created_at=long_ago),
            new_crop(3, captured_at=None, created_at=long_ago),
            new_crop(4),
            # As a restore puts it back, behind newer ones.
            new_crop(5, created_at=long_ago),
        ],
    )
    than = NOON - timedelta(days=1)
    assert store.crops.remove_older(gallery, than, 2, "enrolled").count == 2
    assert len(store.crops.remove_older(gallery, than, 9, "enrolled").crop_ids) == 1
    assert store.crops.remove_older(gallery, than, 9, "enrolled") is None
    assert _numbers(store, gallery) == [1, 4]


def test_an_archive_comes_back_without_what_was_removed_since(reopen, store, gallery):
    landed = store.crops.enroll(gallery, EMBEDDER, [new_crop(1), new_crop(2), new_crop(3)]).landed
    with store.crops.archive(gallery) as archive:
        kept = list(archive.crops)
    store.crops.remove(gallery, [landed[0].crop_id])
    store.crops.enroll(gallery, EMBEDDER, [new_crop(4)])
    assert (archive.version, archive.embedding_fingerprint) == (1, EMBEDDER)
    assert [crop.record.metadata["number"] for crop in kept] == [1, 2, 3]
    assert (kept[1].picture, kept[1].record.content_type) == (b"image 2", "image/png")
    again = reopen()
    before = again.galleries.get(gallery).version
    assert again.crops.replace(gallery, EMBEDDER, iter(kept)) > before
    assert _numbers(again, gallery) == [2, 3]
    crops = again.crops.page(gallery, EVERYTHING, limit=9).crops
    assert [crop.crop_id for crop in crops] == [crop.crop_id for crop in landed[1:]]
    assert again.crops.removed_among(gallery, [crop.crop_id for crop in landed]) == [
        landed[0].crop_id
    ]
    assert [crop.created_at for crop in crops] == [crop.record.created_at for crop in kept[1:]]
    assert [vector.vector.tolist() for vector in again.crops.vectors(gallery)] == [
        [2.25] * 4,
        [3.25] * 4,
    ]
    assert again.crops.picture(gallery, landed[1].crop_id).content == b"image 2"


def test_ids_of_removed_crops_are_dropped_once_they_were_removed_before_a_moment(store, gallery):
    landed = store.crops.enroll(gallery, EMBEDDER, [new_crop(n) for n in range(1, 4)]).landed
    ids = [crop.crop_id for crop in landed]
    store.crops.remove(gallery, ids[:2])
    moment = datetime.now(UTC)
    time.sleep(0.01)
    store.crops.remove(gallery, ids[2:])
    store.crops.drop_tombstones(gallery, moment - timedelta(hours=1))
    assert store.crops.removed_among(gallery, ids) == ids
    store.crops.drop_tombstones(gallery, moment)
    assert store.crops.removed_among(gallery, ids) == ids[2:]


def test_a_restore_that_fails_changes_nothing(store, gallery):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])

    def cut_off():
        with store.crops.archive(gallery) as archive:
            yield from archive.crops
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        store.crops.replace(gallery, EMBEDDER, cut_off())
    assert _numbers(store, gallery) == [1]
    assert store.galleries.get(gallery).version == 1


def test_another_embedders_vectors_are_prepared_beside_and_switched_at_once(reopen, store, gallery):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1), new_crop(2)])
    store.calibrations.add_searches(gallery, "mnet", [("one", b"1")])
    store.calibrations.publish(gallery, "mnet", "{}", 0)
    store.staged.begin(gallery, OTHER_EMBEDDER)
    first, second = store.staged.missing(gallery, 0, 9)
    store.staged.add(gallery, [(first.row_id, np.full(3, 7, np.float32)), (999, np.ones(3))])
    assert store.galleries.get(gallery).staged_crops == 1
    assert store.staged.switch(gallery) is None
    assert store.galleries.get(gallery).staged_fingerprint == OTHER_EMBEDDER
    again = reopen()
    again.staged.begin(gallery, OTHER_EMBEDDER)
    assert [crop.row_id for crop in again.staged.missing(gallery, 0, 9)] == [second.row_id]
    again.staged.add(gallery, [(second.row_id, np.full(3, 8, np.float32))])
    prepared = [[7.0] * 3, [8.0] * 3]
    assert again.staged.switch(gallery) == 2
    assert [vector.vector.tolist() for vector in again.crops.vectors(gallery)] == prepared
    record = again.galleries.get(gallery)
    assert (record.embedding_fingerprint, record.staged_fingerprint) == (OTHER_EMBEDDER, None)
    assert again.calibrations.searches(gallery, "mnet") == []
    assert again.calibrations.published(gallery) == {}
    again.staged.begin(gallery, EMBEDDER)
    assert again.galleries.get(gallery).staged_crops == 0


def test_what_was_prepared_for_one_embedder_is_dropped_for_another(store, gallery):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    row = store.crops.page(gallery, EVERYTHING, limit=1).crops[0].row_id
    store.staged.begin(gallery, OTHER_EMBEDDER)
    store.staged.add(gallery, [(row, np.ones(3, np.float32))])
    store.staged.begin(gallery, "c" * 64)
    assert store.galleries.get(gallery).staged_crops == 0
    store.staged.begin(gallery, None)
    assert store.galleries.get(gallery).staged_fingerprint is None


def test_a_picture_elsewhere_is_a_stray_until_its_crop_lands_and_after_it_is_gone(store, gallery):
    later = NOON + timedelta(hours=1)
    store.stray_files.expect(gallery, ["c1", "c2", "c3"], later)
    assert store.stray_files.all(NOON, 9) == []
    landing = [
        dataclasses.replace(new_crop(number, crop_id=f"c{number}"), picture=None)
        for number in (1, 2)
    ]
    store.crops.enroll(gallery, EMBEDDER, [*landing, new_crop(4)])
    assert store.crops.picture(gallery, "c1") is None
    assert store.crops.get(gallery, "c1").image_bytes == len(b"image 1")
    assert [name for _, name in store.stray_files.all(later, 9)] == ["c3"]
    store.stray_files.forget(gallery, ["c3"])
    store.crops.remove(gallery, ["c1"])
    now = datetime.now(UTC) + timedelta(seconds=1)
    assert [name for _, name in store.stray_files.all(now, 9)] == ["c1"]
    store.galleries.delete(gallery)
    assert {name for _, name in store.stray_files.all(now, 9)} == {"c1", "c2"}
    assert {number for number, _ in store.stray_files.all(now, 9)} == {gallery}


def test_strays_of_one_name_in_two_galleries_are_both_found(store, gallery):
    # As two copies of one gallery leave them that were cut off.
    for number in (gallery, gallery + 1):
        store.stray_files.expect(number, ["c1"], NOON)
    found = store.stray_files.all(NOON, 9)
    assert found == [(gallery, "c1"), (gallery + 1, "c1")]
    store.stray_files.forget(gallery, ["c1"])
    assert store.stray_files.all(NOON, 9) == found[1:]


def test_a_request_that_fails_amid_its_crops_leaves_nothing_of_itself(store, gallery, monkeypatch):
    store.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    passed = iter(range(1))

    def fail_at_the_second(_) -> None:
        if next(passed, None) is None:
            raise RuntimeError("fails")

    for module in (crops, table_crops):
        monkeypatch.setattr(module, "failpoint", fail_at_the_second)
    with pytest.raises(RuntimeError, match="fails"):
        store.crops.enroll(gallery, EMBEDDER, [new_crop(2), new_crop(3), new_crop(4)])
    assert _numbers(store, gallery) == [1]
    assert store.galleries.get(gallery).version == 1


def test_the_first_choice_of_a_runtime_is_kept_until_all_are_forgotten(reopen):
    assert reopen().runtimes.get(EMBEDDER) is None
    assert reopen().runtimes.keep_first(EMBEDDER, "first") == "first"
    assert reopen().runtimes.keep_first(EMBEDDER, "second") == "first"
    runtimes = reopen().runtimes
    assert (runtimes.get(EMBEDDER), runtimes.get(OTHER_EMBEDDER)) == ("first", None)
    assert (runtimes.forget(), runtimes.forget()) == (1, 0)
    assert runtimes.keep_first(EMBEDDER, "second") == "second"
