"""Rules of the record for galleries, crops and identities."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.errors import NeedsReindex
from service.record.values import CropFilter, GallerySettings
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    new_crop,
)

EVERYTHING = CropFilter()


def _numbers(store, gallery: int, wanted: CropFilter = EVERYTHING) -> list[int]:
    return [crop.metadata["number"] for crop in store.crops.page(gallery, wanted, limit=99).crops]


def test_a_crop_that_is_sent_again_under_its_id_is_a_duplicate(store, gallery):
    crop = new_crop(1, crop_id="one")
    store.crops.enroll(gallery, EMBEDDER, [crop])
    again = store.crops.enroll(gallery, EMBEDDER, [crop])
    assert (again.landed[0].crop_id, again.landed[0].duplicate) == ("one", True)


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
    longer = dataclasses.replace(new_crop(2), vector=np.arange(7, dtype=np.float32))
    with pytest.raises(NeedsReindex):
        store.crops.enroll(gallery, OTHER_EMBEDDER, [longer])
    store.crops.remove(gallery, [crop_id])
    store.crops.enroll(gallery, OTHER_EMBEDDER, [longer])
    assert store.galleries.get(gallery).embedding_fingerprint == OTHER_EMBEDDER
    assert [crop.vector.tolist() for crop in store.crops.vectors(gallery)] == [list(range(7))]
    assert store.unneeded_files.all() == [f"vectors-{gallery}-0.f32"]


def test_identities_are_found_by_a_part_of_their_name_in_any_case(store, gallery):
    names = ["Ann", "anna", "Jörg", "JÖRG 2", "100%", "x_y"]
    crops = [new_crop(number, name) for number, name in enumerate([*names, "Ann"])]
    store.crops.enroll(gallery, EMBEDDER, crops)

    def found(query: str, after: str | None = None, limit: int = 9) -> list[tuple[str, int]]:
        page = store.people.page(gallery, after, limit, query)
        return [(person.identity, person.crops) for person in page.results]

    assert found("ANN") == [("Ann", 2), ("anna", 1)]
    assert found("ANN", limit=1) == [("Ann", 2)]
    assert found("ANN", after="Ann") == [("anna", 1)]
    assert found("jörg") == [("Jörg", 1), ("JÖRG 2", 1)]
    assert (found("%"), found("_"), found("nobody")) == ([("100%", 1)], [("x_y", 1)], [])
    assert len(found("")) == len(names)


@pytest.mark.parametrize(("since", "left"), [("captured", [3, 4]), ("enrolled", [1, 4])])
def test_crops_past_their_time_are_removed_oldest_first(store, gallery, since, left):
    long_ago = NOON - timedelta(days=9)
    store.crops.enroll(
        gallery,
        EMBEDDER,
        [
            new_crop(1, captured_at=long_ago),
            new_crop(2, captured_at=None, created_at=long_ago),
            new_crop(3, created_at=long_ago),
            new_crop(4),
            # A restore puts a crop back behind newer ones.
            new_crop(5, captured_at=long_ago, created_at=long_ago),
        ],
    )
    than = NOON - timedelta(days=1)
    for most, removed in ((2, 2), (9, 1)):
        assert store.crops.remove_older(gallery, than, most, since).count == removed
    assert store.crops.remove_older(gallery, than, 9, since).count == 0
    assert _numbers(store, gallery) == left


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
