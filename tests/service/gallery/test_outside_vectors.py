"""Vectors beside Redis: written before their commit, read like others, gone with their crops."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from service.record.engine import Transaction
from service.record.garbage import note_strays
from service.record.verification import verify_record

from model.problems import InputProblem
from service.errors import DamagedRedisRecord, RecordUnavailable
from service.lifecycle.pictures import (
    keep_elsewhere,
    remove_pictures,
    remove_stray_pictures,
)
from service.ops.critical_sections import CriticalSections
from service.record import replacing, staged
from service.record.keys import KINDS, as_text
from service.record.picture_folder import PictureFolder
from service.record.record import open_redis
from service.record.recovery import recover_in_place
from service.record.values import ArchivedCrop, CropFilter, GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, OTHER_EMBEDDER, new_crop

LATER = datetime.now(UTC) + timedelta(days=1)


class Galleries:
    """Calls of a record, without threads."""

    async def read(self, call, *args):
        return call(*args)

    write = read


class Place:
    """A record in Redis with a folder beside it, and what lifecycle asks of a runtime."""

    def __init__(self, server, folder):
        self.server = server
        self.folder = folder
        self.record = open_redis(server.url)
        self.pictures = self.record.engine.outside = PictureFolder(folder.as_uri())
        self.galleries, self.sections = Galleries(), CriticalSections()
        self.gallery = self.record.galleries.create("lobby", EMBEDDER, GallerySettings())
        self.number = self.gallery.gallery_id

    def snapshot_lock(self, _):
        return self.folder.parent / "lock"

    def enroll(self, *crops):
        kept = asyncio.run(
            keep_elsewhere(self, self.pictures, SimpleNamespace(gallery_id=self.number), crops)
        )
        landed = self.record.crops.enroll(self.number, self.entry.embedding_fingerprint, kept)
        return [one.crop_id for one in landed.landed]

    def stage(self, crops, vectors):
        target = SimpleNamespace(gallery_id=self.number)
        of = {one.row_id: one for one in crops}
        embedded = [ArchivedCrop(of[row], vector, None) for row, vector in vectors]
        kept = asyncio.run(keep_elsewhere(self, self.pictures, target, embedded, staged=True))
        self.record.staged.add(self.number, vectors, kept[0].outside)
        return kept[0].outside

    def sweep(self):
        asyncio.run(remove_stray_pictures(self))

    @property
    def entry(self):
        return self.record.galleries.get(self.number)

    def files(self):
        return {one.name for one in self.folder.rglob("*") if one.is_file()}

    def vectors(self):
        return {one.label.crop_id: one.vector for one in self.record.crops.vectors(self.number)}

    def inside(self):
        return len(self.server.ask("KEYS", b"gmn:v:" + KINDS[b"!vector"] + b"*"))


@pytest.fixture
def place(redis_record, tmp_path):
    redis_record.ask("FLUSHALL")
    place = Place(redis_record, tmp_path / "crops")
    yield place
    place.record.close()
    place.pictures.close()


def both(ids, side=0):
    return {*ids, *(f"{one}.{side}.f32" for one in ids)}


def test_vectors_lie_beside_their_pictures_and_those_inside_are_still_read(place):
    place.record.crops.enroll(place.number, EMBEDDER, [new_crop(1)])
    ids = place.enroll(new_crop(2), new_crop(3))
    assert (place.files(), place.inside()) == (both(ids), 1)
    assert sorted(float(one[0]) for one in place.vectors().values()) == [1.25, 2.25, 3.25]
    found = place.record.crops.indexed(place.number, [1, 2, 3])
    assert [float(one.vector[0]) for one in found] == [1.25, 2.25, 3.25]
    assert place.record.stray_files.all(LATER, 9) == []
    with place.record.crops.archive(place.number) as archive:
        assert len(list(archive.crops)) == 3
    assert verify_record(place.record.engine, place.folder).whole


def test_what_lands_in_no_commit_is_swept_up(place):
    ids = place.enroll(new_crop(1))
    # The same image again, which changes nothing.
    again = new_crop(1)
    assert place.enroll(again) == ids
    assert f"{again.record.crop_id}.0.f32" in place.files()
    strays = {name for _, name in place.record.stray_files.all(LATER, 9)}
    assert strays == both([again.record.crop_id])
    names = list(strays)
    place.record.stray_files.expect(place.number, [*names, f"{ids[0]}.0.f32"], datetime.now(UTC))
    place.sweep()
    # One that a crop has stays, also where another was noted.
    assert place.files() == both(ids)


def test_deletions_reach_vectors(place):
    ids = place.enroll(*(new_crop(n, identity="ab"[n % 2]) for n in range(4)))
    place.record.crops.remove(place.number, ids[:1])
    place.record.identities.forget(place.number, "b")
    place.sweep()
    assert place.files() == both(ids[2:3])
    place.record.galleries.delete(place.number)
    place.sweep()
    assert place.files() == set()


def test_a_reindex_writes_the_vectors_of_its_side_and_drops_the_others(place):
    ids = place.enroll(new_crop(1), new_crop(2))
    staged = place.record.staged

    def stage(rows):
        staged.begin(place.number, OTHER_EMBEDDER)
        crops = place.record.crops.page(place.number, CropFilter(), limit=9).crops
        vectors = [(one.row_id, np.full(8, one.row_id, np.float32)) for one in crops][:rows]
        return place.stage(crops, vectors)

    first = stage(1)
    assert f"{ids[0]}.{first}.f32" in place.files()
    # Given up, begun again.
    staged.begin(place.number, None)
    place.sweep()
    assert place.files() == both(ids)
    side = stage(2)
    assert staged.switch(place.number)
    place.sweep()
    assert (place.files(), place.inside()) == (both(ids, side), 0)
    assert {one.shape for one in place.vectors().values()} == {(8,)}


@pytest.mark.parametrize("how", ["crop", "gallery", "restored"])
def test_vectors_of_a_side_that_is_being_removed_go_with_their_crops(place, monkeypatch, how):
    ids = place.enroll(new_crop(1), new_crop(2))
    place.record.staged.begin(place.number, OTHER_EMBEDDER)
    crops = place.record.crops.page(place.number, CropFilter(), limit=9).crops
    vectors = [(one.row_id, np.ones(8, np.float32)) for one in crops]
    side = place.stage(crops, vectors)
    with monkeypatch.context() as patch:
        # As where the process ends right after the switch.
        patch.setattr(staged, "collect_garbage", lambda _: None)
        assert place.record.staged.switch(place.number)
    kept = set()
    if how == "crop":
        place.record.crops.remove(place.number, ids[:1])
        asyncio.run(remove_pictures(place, place.number, ids[:1]))
        assert not any(one.startswith(ids[0]) for one in place.files())
        kept = both(ids[1:], side)
    elif how == "gallery":
        place.record.galleries.delete(place.number)
    else:
        with place.record.crops.archive(place.number) as archive:
            found = list(archive.crops)
        place.record.crops.replace(place.number, OTHER_EMBEDDER, found)
        kept = both(ids, place.entry.side)
    place.record.collect_garbage()
    place.sweep()
    assert place.files() == kept


def test_a_file_that_two_processes_noted_at_once_is_swept_up(place):
    """Both read that it had no note, and each commits its own."""
    engine = place.record.engine
    now = datetime.now(UTC)
    place.pictures.put(place.number, {"c1": b"picture"})
    first = Transaction(engine)
    second = Transaction(engine)
    for ago, one in enumerate((first, second), 1):
        note_strays(one, place.number, ["c1"], as_text(now - timedelta(seconds=ago)))
    engine.commit(first)
    engine.commit(second)

    async def sweep():
        async with asyncio.timeout(10):
            await remove_stray_pictures(place)

    asyncio.run(sweep())
    assert place.files() == set()
    assert place.record.stray_files.all(LATER, 9) == []


def test_an_enrolment_that_a_restore_overtakes_keeps_its_vector_inside(place):
    ids = place.enroll(new_crop(1))
    with place.record.crops.archive(place.number) as archive:
        kept = list(archive.crops)
    crops = [new_crop(2)]
    target = SimpleNamespace(gallery_id=place.number)
    late = asyncio.run(keep_elsewhere(place, place.pictures, target, crops))
    place.record.crops.replace(place.number, EMBEDDER, kept)
    assert place.entry.side == 1
    place.record.crops.enroll(place.number, EMBEDDER, late)
    assert len(place.vectors()) == 2
    assert place.inside() == 1
    names = [name for _, name in place.record.stray_files.all(LATER, 9)]
    place.record.stray_files.expect(place.number, names, datetime.now(UTC))
    place.sweep()
    assert place.files() == {*both(ids, 1), crops[0].record.crop_id}


def test_a_restore_that_is_cut_off_leaves_the_vectors_that_are_searched(place, monkeypatch):
    monkeypatch.setattr(replacing, "CROPS_PER_PART", 1)
    ids = place.enroll(new_crop(1), new_crop(2))
    with place.record.crops.archive(place.number) as archive:
        kept = [replace(one, vector=one.vector + 1) for one in archive.crops]

    def cut_off():
        yield from kept
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.record.crops.replace(place.number, EMBEDDER, cut_off())
    place.sweep()
    assert (sorted(one[0] for one in place.vectors().values()), place.files()) == (
        [1.25, 2.25],
        both(ids),
    )


def test_what_a_restore_gave_up_writing_is_swept_up_when_it_lands_late(place, monkeypatch):
    ids = place.enroll(new_crop(1))
    late = {}
    with place.record.crops.archive(place.number) as archive:
        kept = list(archive.crops)

    def hang(_, files):
        late.update(files)
        raise RecordUnavailable("the store of images does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(place.pictures, "put", hang)
        with pytest.raises(RecordUnavailable, match="store of images"):
            place.record.crops.replace(place.number, EMBEDDER, kept)
    place.sweep()
    place.pictures.put(place.number, late)
    assert place.files() == both(ids) | {f"{ids[0]}.1.f32"}
    noted = [name for _, name in place.record.stray_files.all(LATER, 9)]
    place.record.stray_files.expect(place.number, noted, datetime.now(UTC))
    place.sweep()
    assert place.files() == both(ids)


@pytest.mark.parametrize("how", ["gone", "another", "cut"])
def test_a_damaged_vector_is_named_found_and_left_out(place, tmp_path, how):
    ids = place.enroll(new_crop(1), new_crop(2), new_crop(3))
    first, second = (place.folder / str(place.number) / f"{one}.0.f32" for one in ids[:2])
    if how == "gone":
        first.unlink()
    else:
        first.write_bytes(second.read_bytes() if how == "another" else first.read_bytes()[:9])
    said = f"the vector of crop {ids[0]}.* GMN_IMAGES_URL"
    with pytest.raises(DamagedRedisRecord, match=said):
        place.vectors()
    found = verify_record(place.record.engine, tmp_path)
    (lobby,) = found.galleries
    assert (lobby.whole, len(lobby.damage)) == (2, 1)
    recover_in_place(place.record.engine, tmp_path)
    assert set(place.vectors()) == set(ids[1:])
    assert verify_record(place.record.engine, tmp_path).whole
    assert place.inside() == 0


def test_without_the_folder_the_record_names_what_is_missing(place):
    place.enroll(new_crop(1))
    with (
        contextlib.closing(open_redis(place.server.url)) as record,
        pytest.raises(DamagedRedisRecord, match="GMN_IMAGES_URL"),
    ):
        list(record.crops.vectors(place.number))


def test_a_recovery_leaves_out_nothing_because_the_folder_does_not_answer(place, tmp_path):
    ids = place.enroll(new_crop(1), new_crop(2))
    (place.folder / str(place.number) / f"{ids[0]}.0.f32").write_bytes(b"damaged")
    engine = place.record.engine
    engine.outside = None
    with pytest.raises(InputProblem, match="GMN_IMAGES_URL: is not set"):
        recover_in_place(engine, tmp_path)
    engine.outside = place.pictures
    with pytest.MonkeyPatch.context() as patch:

        def refuse(_):
            raise OSError("no route")

        patch.setattr(place.pictures._files, "cat_file", refuse)
        with pytest.raises(RecordUnavailable, match="no route"):
            recover_in_place(engine, tmp_path)
    recover_in_place(engine, tmp_path)
    assert set(place.vectors()) == {ids[1]}


def test_a_recovery_from_the_wrong_place_changes_nothing(place, tmp_path):
    place.enroll(new_crop(1), new_crop(2))
    before = place.server.ask("KEYS", "gmn:v:*")
    place.record.engine.outside = other = PictureFolder((tmp_path / "empty").as_uri())
    other.put(place.number, {"c1": b"of another record"})
    with pytest.raises(
        InputProblem, match="GMN_IMAGES_URL: has none of the vectors of gallery lobby"
    ):
        recover_in_place(place.record.engine, tmp_path)
    assert set(place.server.ask("KEYS", "gmn:v:*")) == set(before)
    place.record.engine.outside = place.pictures
    assert len(place.vectors()) == 2
    other.close()
