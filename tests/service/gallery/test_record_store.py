"""What every store of record has to do; each kind of store runs through the same tests."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import numpy as np
import pytest

from service.gallery.records import NewCrop
from service.gallery.sqlite_store import SqliteStore
from service.problems import GalleryConflict, NeedsReindex

EMBEDDER, OTHER_EMBEDDER = "a" * 64, "b" * 64


@pytest.fixture(params=[SqliteStore])
def reopen(request, tmp_path):
    """Opens the store, and again what an earlier opening left."""
    opened = []

    def open_store():
        for store in opened:
            store.close()
        opened.append(request.param(tmp_path / "record"))
        return opened[-1]

    yield open_store
    opened[-1].close()


@pytest.fixture
def store(reopen):
    return reopen()


@pytest.fixture
def gallery(store):
    return store.create_gallery("lobby", EMBEDDER).gallery_id


def _crop(number: int, identity: str | None = "a", camera: str | None = "east") -> NewCrop:
    image = b"image %d" % number
    return NewCrop(
        image=image,
        content_type="image/png",
        sha256=hashlib.sha256(image).hexdigest(),
        vector=np.full(4, number + 0.25, np.float32),
        identity=identity,
        camera=camera,
        captured_at=datetime(2026, 3, 1, 9, 30, tzinfo=UTC),
        metadata={"number": number},
    )


def test_what_was_stored_is_there_after_opening_again(reopen, store, gallery):
    landed = store.enroll(gallery, EMBEDDER, [_crop(1), _crop(2)]).landed
    again = reopen()
    assert again.galleries()[0].crops == 2
    assert again.crop(gallery, landed[1].crop_id).metadata == {"number": 2}
    assert again.picture(gallery, landed[0].crop_id).content == b"image 1"
    loaded = list(again.vectors(gallery))
    assert [one.label.crop_id for one in loaded] == [one.crop_id for one in landed]
    assert loaded[1].vector.tolist() == [2.25] * 4
    assert loaded[0].label.captured_at == datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def test_only_a_change_raises_the_version(store, gallery):
    first = store.enroll(gallery, EMBEDDER, [_crop(1), _crop(2)])
    again = store.enroll(gallery, EMBEDDER, [_crop(1)])
    assert (first.version, again.version) == (1, 1)
    assert store.remove_crop(gallery, first.landed[0].crop_id).version == 2
    assert store.remove_crop(gallery, first.landed[0].crop_id) is None
    assert store.gallery(gallery).version == 2


def test_a_row_id_is_never_given_out_twice(reopen, store, gallery):
    newest = store.enroll(gallery, EMBEDDER, [_crop(1)])
    store.remove_crop(gallery, newest.landed[0].crop_id)
    later = reopen().enroll(gallery, EMBEDDER, [_crop(1)])
    assert later.added[0].label.row_id > newest.added[0].label.row_id


def test_a_removed_crop_is_nowhere(store, gallery):
    crop_id = store.enroll(gallery, EMBEDDER, [_crop(1)]).landed[0].crop_id
    store.remove_crop(gallery, crop_id)
    assert store.crop(gallery, crop_id) is None
    assert store.picture(gallery, crop_id) is None
    assert store.crops(gallery, None, None, 0, 10) == []
    assert list(store.vectors(gallery)) == []


def test_galleries_keep_to_themselves(store, gallery):
    other = store.create_gallery("roof", EMBEDDER).gallery_id
    crop_id = store.enroll(gallery, EMBEDDER, [_crop(1)]).landed[0].crop_id
    assert store.crop(other, crop_id) is None
    assert store.remove_crop(other, crop_id) is None
    assert not store.enroll(other, EMBEDDER, [_crop(1)]).landed[0].duplicate
    store.delete_gallery(other)
    assert store.gallery(other) is None
    assert store.gallery(gallery).crops == 1


def test_a_name_is_taken_once(store, gallery):
    with pytest.raises(GalleryConflict, match="lobby"):
        store.create_gallery("lobby", EMBEDDER)


def test_a_filled_gallery_refuses_another_embedder_and_an_empty_one_takes_it(store, gallery):
    crop_id = store.enroll(gallery, EMBEDDER, [_crop(1)]).landed[0].crop_id
    with pytest.raises(NeedsReindex):
        store.enroll(gallery, OTHER_EMBEDDER, [_crop(2)])
    store.remove_crop(gallery, crop_id)
    store.enroll(gallery, OTHER_EMBEDDER, [_crop(2)])
    assert store.gallery(gallery).embedding_fingerprint == OTHER_EMBEDDER


def test_crops_are_listed_by_page_and_by_filter(store, gallery):
    crops = [_crop(1, "a"), _crop(2, "b"), _crop(3, "a", "west"), _crop(4, None, None)]
    store.enroll(gallery, EMBEDDER, crops)
    first = store.crops(gallery, None, None, 0, 3)
    rest = store.crops(gallery, None, None, first[-1].row_id, 3)
    assert [one.metadata["number"] for one in first + rest] == [1, 2, 3, 4]
    assert len(store.crops(gallery, "a", None, 0, 9)) == 2
    assert len(store.crops(gallery, "a", "west", 0, 9)) == 1
    identities = [
        (one.identity, one.crops, one.cameras) for one in store.identities(gallery, "", 9)
    ]
    assert identities == [("a", 2, 2), ("b", 1, 1)]
