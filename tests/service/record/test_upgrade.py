"""A record of format 7 written anew as tables answers as before."""

from __future__ import annotations

import contextlib
import gzip
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest
from service.record.backup import write_backup
from service.record.entries import files_of
from service.record.snapshot_file import SnapshotHeader, describe_snapshot, write_snapshot
from tests.service.gallery.test_old_formats import OLD

from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.ops.data_directory import DATABASE_NAME, snapshot_name
from service.record.archive import read_archive
from service.record.jobs import Job
from service.record.keys import ApiKey
from service.record.people import Grouping
from service.record.picture_folder import PictureFolder
from service.record.record import Record, open_redis, open_sqlite
from service.record.upgrade import upgrade
from service.record.values import (
    Case,
    CropFilter,
    GallerySettings,
    KeptQuery,
    KeptResult,
    RequestKey,
    Review,
    new_crop_id,
)
from service.record.verify import verify
from tests.service.gallery.new_crops import EMBEDDER, NOON, OTHER_EMBEDDER, new_crop

EVERYTHING = CropFilter()
REQUEST = RequestKey("key", "0" * 64, '["a problem"]')


def search(key_id, shown, **more):
    kept = {"query_id": new_crop_id(), "created_at": NOON, "key_id": key_id}
    results = [KeptResult(crop_id, 0.9, 1.0, 0.8, "match") for crop_id in shown]
    kept |= {"request": {"top_k": 3}, "answer": {"verdict": "match"}, "results": results}
    return KeptQuery(**kept, **more)


def fill(folder):
    """Write something of everything that a record keeps."""
    record = open_sqlite(folder / DATABASE_NAME)
    record.galleries.create("gone", EMBEDDER, GallerySettings())
    settings = GallerySettings(retention_days=30, retention_from="enrolled")
    lobby = record.galleries.create("lobby", EMBEDDER, settings).gallery_id
    record.galleries.create("empty", OTHER_EMBEDDER, GallerySettings())
    record.galleries.delete(1)
    names = ["b", "a", "a", "c", None, "Ähre 10", "Ähre 9"]
    crops = [new_crop(n, name, external_id=f"x{n}", quality=n / 7) for n, name in enumerate(names)]
    crops += [replace(new_crop(8), picture=None), new_crop(9, content_type=None, image_bytes=0)]
    crops[-1] = replace(crops[-1], picture=None)
    ids = [crop.record.crop_id for crop in crops]
    record.crops.enroll(lobby, EMBEDDER, crops, REQUEST)
    record.crops.remove(lobby, ids[:1])
    take_snapshot(record, folder, lobby)
    record.identities.rename(lobby, "c", "a")
    record.groups.put(lobby, Grouping("job", NOON, 2, [([5], 0.5)], 3))
    fill_desk(record, lobby, ids)
    record.calibrations.add_searches(lobby, "mnet", [("one", b"1\0x"), ("two", b"2")])
    record.calibrations.publish(lobby, "mnet", "{}", 0)
    record.calibrations.add_searches(lobby, "cosine", [("one", b"3")])
    record.staged.begin(lobby, OTHER_EMBEDDER)
    record.staged.add(lobby, [(2, np.arange(3, dtype=np.float32)), (3, np.ones(3, np.float32))])
    record.keys.add(ApiKey("door", "0" * 64, ("query",), "lobby", "", NOON))
    record.keys.note_used({"door": NOON})
    record.runtimes.keep_first(EMBEDDER, "openvino")
    problem = JobProblem(position=3, source="a.png", detail="no image", code="undecodable_image")
    for name in ("ended", "open"):
        record.jobs.create(Job(name, lobby, "import", {"path": "x"}, NOON, NOON, key_id="door"))
    record.jobs.update("ended", "done", {"done": 4}, [problem], "a remark")
    record.stray_files.expect(lobby, ["stray"], NOON)
    return record, lobby


def take_snapshot(record, folder, gallery):
    path = folder / snapshot_name(gallery, "20260301T120000Z-00000000")
    with record.crops.archive(gallery) as archive:
        origin = SnapshotHeader(gallery="lobby", embedding_fingerprint=EMBEDDER, version=2)
        write_snapshot(path, archive.crops, origin)
    record.snapshots.keep(describe_snapshot(path, NOON))


def fill_desk(record, gallery, ids):
    searches = [search("door", ids[2:3], content_type="image/png"), search("other", ids[3:5])]
    record.kept.keep(gallery, [(searches[0], b"picture"), (searches[1], None)], 10)
    review = Review("confirmed", NOON, "door")
    record.kept.review(gallery, searches[0].query_id, ids[2:4], review)
    case = {"case_id": "case", "name": "A case", "notes": "…", "key_id": "door"}
    case |= {"created_at": NOON, "changed_at": NOON, "deleted_searches": {date(2026, 3, 1): 2}}
    record.cases.create(gallery, Case(**case))
    record.cases.hold(gallery, "case", searches[1].query_id, "seen twice")


@pytest.fixture
def old(tmp_path):
    (tmp_path / "old").mkdir()
    record, _ = fill(tmp_path / "old")
    record.close()
    return tmp_path / "old"


def answers(record, gallery):
    """What every part of a record answers, as far as both keep it."""
    galleries = []
    for entry in record.galleries.all():
        galleries.append(replace(entry, changes_from=None, generations=0, outside=False))
    crops = record.crops.page(gallery, EVERYTHING).crops
    ids = [crop.crop_id for crop in crops]
    found = {
        "galleries": galleries,
        "secret": record.galleries.group_secret(),
        "crops": [replace(crop, changes=0) for crop in crops],
        "vectors": [one.vector.tolist() for one in record.crops.vectors(gallery)],
        "pictures": [record.crops.picture(gallery, crop_id) for crop_id in ids],
        "request": record.crops.happened(gallery, REQUEST),
        "names": record.people.names(gallery),
        "people": record.people.page(gallery, "", 99),
        "last seen": record.people.page(gallery, "", 99, sort="last_seen"),
        "groups": record.groups.get(gallery)[0],
        "merges": record.identities.merges(gallery),
        "searches": record.kept.page(gallery, None, 99),
        "cases": record.cases.page(gallery, None, 99),
        "published": record.calibrations.published(gallery),
        "staged": [crop.crop_id for crop in record.staged.missing(gallery, 0, 99)],
        "keys": record.keys.all(),
        "used": record.keys.last_used(),
        "asked for": record.keys.asked_for,
        "runtime": record.runtimes.get(EMBEDDER),
        "jobs": record.jobs.page(None, 99),
        "open jobs": record.jobs.open(),
        "problems": record.jobs.problems("ended", -1, 99),
        "strays": record.stray_files.all(datetime.now(UTC), 99),
        "snapshots": [replace(one, bytes=0, sha256="") for one in record.snapshots.all(gallery)],
    }
    for subject in ("mnet", "cosine"):
        counted = record.calibrations.counted(gallery, subject)
        found[subject] = (counted, record.calibrations.searches(gallery, subject))
    for kept in found["searches"]:
        found[kept.query_id] = record.kept.picture(gallery, kept.query_id)
    return found


def test_every_part_of_an_upgraded_record_answers_as_before(old, tmp_path):
    with contextlib.closing(open_sqlite(old / DATABASE_NAME)) as before:
        expected = answers(before, 2)
        removed = before.crops.removed_among(2, [new_crop_id(), *_tombstones(before)])
    done = upgrade(old, tmp_path / "new")
    assert (done.crops, done.left_out) == ({"lobby": 8, "empty": 0}, [])
    assert verify(tmp_path / "new").damage == []
    with contextlib.closing(Record(tmp_path / "new")) as after:
        found = answers(after, 2)
        for part, answer in expected.items():
            assert found[part] == answer, part
        assert after.crops.removed_among(2, removed) == removed
        assert len(removed) == 1
        staged = after.database.vectors.open(2, 1, 3)
        assert staged.read([2, 3]).tolist() == [[0, 1, 2], [1, 1, 1]]
        assert after.galleries.create("new", EMBEDDER, GallerySettings()).gallery_id == 4
        (snapshot,) = after.snapshots.all(2)
        assert after.identities.undo_merge(2, after.identities.merges(2)[0].merge_id).count == 1
        path = tmp_path / "new" / snapshot_name(2, snapshot.snapshot_id)
        assert after.crops.replace(2, EMBEDDER, read_archive(path)) > found["galleries"][1].version
        crops = after.crops.page(2, EVERYTHING).crops
        assert [crop.crop_id for crop in crops] == [crop.crop_id for crop in found["crops"]]


def _tombstones(record):
    from service.record.engine import Reader

    from service.record.keys import key

    return [name for name, _ in Reader(record.engine).named(key("tombstone", 2))]


def test_a_backup_of_format_7_is_upgraded_and_the_old_one_only_read(old, tmp_path):
    with contextlib.closing(open_sqlite(old / DATABASE_NAME)) as record:
        backup = write_backup(record.engine, old, tmp_path / "backups").path
        expected = answers(record, 2)["crops"]
    before = {path.name: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    upgrade(backup, tmp_path / "new")
    after = {path.name: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    assert after == before
    with contextlib.closing(Record(tmp_path / "new")) as record:
        assert answers(record, 2)["crops"] == expected


def test_an_upgrade_is_refused_where_there_is_nothing_or_something_already(old, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputProblem, match="name a data directory or a backup"):
        upgrade(tmp_path / "none", tmp_path / "new")
    upgrade(old, tmp_path / "new")
    with pytest.raises(InputProblem, match="holds something already"):
        upgrade(old, tmp_path / "new")


def test_collections_of_the_old_record_in_milvus_are_unneeded(old, tmp_path):
    with contextlib.closing(open_sqlite(old / DATABASE_NAME)) as record:
        state = record.remote_indexes.claim(2, "worker", 60.0)
        state = record.remote_indexes.advance(state, building="gmn_2_1")
        state = record.remote_indexes.advance(state, collection="gmn_2_1", building="gmn_2_2")
        assert record.remote_indexes.advance(state, building="gmn_2_3")
    upgrade(old, tmp_path / "new")
    with contextlib.closing(Record(tmp_path / "new")) as record:
        found = record.database.connection().execute("SELECT name FROM unneeded_collections")
        assert {name for (name,) in found} == {"gmn_2_1", "gmn_2_2", "gmn_2_3"}
        assert record.remote_indexes.state(2) is None


def test_a_backup_of_redis_brings_its_images_and_vectors_from_outside(redis_record, tmp_path):
    redis_record.ask("FLUSHALL")
    (tmp_path / "data").mkdir()
    crops = [new_crop(number) for number in range(3)]
    with contextlib.closing(open_redis(redis_record.url)) as record:
        images = record.engine.outside = PictureFolder(str(tmp_path / "data" / "images"))
        gallery = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        side = record.galleries.get(gallery).side
        for crop in crops:
            images.put(gallery, files_of(gallery, crop, side))
        outside = [replace(crop, picture=None, outside=side) for crop in crops]
        record.crops.enroll(gallery, EMBEDDER, outside)
        backup = write_backup(record.engine, tmp_path / "data", tmp_path / "backups").path
    upgrade(backup, tmp_path / "new")
    assert verify(tmp_path / "new").damage == []
    with contextlib.closing(Record(tmp_path / "new")) as record:
        vectors = [crop.vector.tolist() for crop in record.crops.vectors(gallery)]
        assert vectors == [crop.vector.tolist() for crop in crops]
        for crop in crops:
            picture = record.crops.picture(gallery, crop.record.crop_id)
            assert picture.content == crop.picture


def test_a_record_of_the_first_version_is_upgraded(tmp_path):
    (tmp_path / "old").mkdir()
    packed = OLD / "version_0.1.0" / "galleries.sqlite3.gz"
    (tmp_path / "old" / DATABASE_NAME).write_bytes(gzip.decompress(packed.read_bytes()))
    upgrade(tmp_path / "old", tmp_path / "new")
    with contextlib.closing(Record(tmp_path / "new")) as record:
        (gallery,) = record.galleries.all()
        assert (gallery.name, gallery.crops, gallery.identities) == ("lobby", 29, 6)
        found = record.crops.page(gallery.gallery_id, EVERYTHING).crops
        assert [crop.metadata["number"] for crop in found] == list(range(1, 30))
        for number, crop in enumerate(record.crops.vectors(gallery.gallery_id), 1):
            drawn = np.random.default_rng(number).standard_normal(8).astype(np.float32)
            assert np.array_equal(crop.vector, drawn)
        assert [key.key_id for key in record.keys.all()] == ["door"]
        assert record.galleries.create("new", EMBEDDER, GallerySettings()).gallery_id == 2
