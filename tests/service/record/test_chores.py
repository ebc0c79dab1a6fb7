"""The record keeps more than crops: keys, jobs, files, and the state of indexes outside."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from gmn_client.models import JobProblem
from service.errors import UnknownGallery
from service.record.keys import ApiKey
from service.record.transaction import Reader
from service.record.vectors import BLOCK_BYTES
from tests.service.gallery.new_crops import EMBEDDER, NOON, OTHER_EMBEDDER, described, new_crop
from tests.service.gallery.new_jobs import new_job

ADMIN = ApiKey("admin", "0" * 64, ("admin",), None, "", NOON)
READER = ApiKey("reader", "1" * 64, ("query",), None, "", NOON)


def test_the_last_use_of_a_key_outlives_its_change_and_goes_with_it(record):
    record.keys.add(READER)
    record.keys.add(ADMIN)
    record.keys.note_used({"reader": NOON, "revoked": NOON})
    assert record.keys.last_used() == {"reader": NOON}
    record.keys.add(replace(READER, note="rotated"))
    assert record.keys.last_used() == {"reader": NOON}
    record.keys.revoke("reader")
    record.keys.add(READER)
    assert record.keys.last_used() == {}


def test_changes_of_keys_and_cancelled_jobs_are_announced(record, gallery):
    record.jobs.create(new_job("job", gallery))
    seen = Reader(record.database).feeds()[0]
    record.keys.add(READER)
    record.keys.revoke("reader")
    record.jobs.cancel("job")
    changes = Reader(record.database).changes(0, seen, 9)
    assert [(change.kind, change.gallery_id) for change in changes] == [
        ("keys", 0),
        ("keys", 0),
        ("jobs", gallery),
    ]


def test_a_job_of_a_key_that_was_not_served_and_that_did_not_fail_comes_first(record, gallery):
    for number, (job_id, key_id) in enumerate([("a", "k1"), ("b", "k1"), ("c", "k2"), ("d", "k3")]):
        created_at = NOON + timedelta(seconds=number)
        record.jobs.create(replace(new_job(job_id, gallery, created_at), key_id=key_id))
    later = ["a", "c"]
    served = ["k1"]
    taken = []
    for _ in range(4):
        taken.append(record.jobs.claim(later, served).job_id)
        record.jobs.update(taken[-1], "done", None)
    assert taken == ["d", "b", "c", "a"]


def test_a_forgotten_name_is_hidden_in_the_jobs_that_are_finished(record, gallery, monkeypatch):
    monkeypatch.setattr("service.record.jobs.PROBLEMS_AT_ONCE", 2)
    problems = [
        JobProblem(position=number, source=source, code="truncated", detail=detail)
        for number, (source, detail) in enumerate(
            [("ann/1.png", "cut off"), ("joanna/2.png", "ann, cut off"), ("bob/3.png", "ann")]
        )
    ]
    record.jobs.create(replace(new_job("done", gallery), parameters={"identity": "ann", "rows": 3}))
    record.jobs.update("done", "done", {}, problems, detail="ann has 3")
    record.jobs.create(replace(new_job("waits", gallery), parameters={"identity": "ann"}))
    record.jobs.forget_name(gallery, "ann")
    done = record.jobs.get("done")
    assert (done.parameters, done.detail) == ({"identity": "…", "rows": 3}, "… has 3")
    assert done.problems == 3
    assert [
        (problem.source, problem.detail) for problem in record.jobs.problems("done", -1, 9)
    ] == [
        ("…/1.png", "cut off"),
        ("joanna/2.png", "…, cut off"),
        ("bob/3.png", "…"),
    ]
    assert record.jobs.get("waits").parameters == {"identity": "ann"}


def test_a_jobs_files_are_unneeded_until_it_begins_and_once_it_ends(record, gallery):
    record.unneeded_files.add(["imports/job"])
    record.jobs.create(new_job("job", gallery))
    assert record.unneeded_files.all() == []
    record.jobs.update("job", "running", {})
    assert record.unneeded_files.all() == []
    record.jobs.update("job", "failed", {}, detail="the disk is full")
    assert record.unneeded_files.all() == ["imports/job"]
    record.unneeded_files.forget(["imports/job"])
    assert record.unneeded_files.all() == []


def test_a_deleted_gallery_leaves_its_files_to_be_removed(record, gallery):
    record.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    record.jobs.create(new_job("job", gallery))
    record.snapshots.keep(gallery, described("s1"))
    record.remote_indexes.change(gallery, collection="shown", building="filled")
    assert record.remote_indexes.named() == {"shown", "filled"}
    record.galleries.delete(gallery)
    assert sorted(record.unneeded_files.all()) == [
        "imports/job",
        f"snapshots/{gallery}/s1.gmn",
        f"vectors-{gallery}-0.f32",
    ]
    assert record.remote_indexes.named() == set()
    assert record.remote_indexes.state(gallery) is None


def test_the_vectors_of_a_deleted_gallery_leave_the_disk_at_once(record, gallery):
    folder = record.database.folder
    record.crops.enroll(gallery, EMBEDDER, [new_crop(1)])
    record.staged.begin(gallery, OTHER_EMBEDDER)
    record.staged.add(gallery, [(1, np.ones(8, np.float32))])
    assert len(list(folder.glob(f"vectors-{gallery}-*"))) == 2
    record.galleries.delete(gallery)
    assert list(folder.glob(f"vectors-{gallery}-*")) == []


def test_the_disk_gets_back_the_space_of_removed_vectors(record, gallery):
    vector = np.full(256, 0.5, np.float32)
    crops = [replace(new_crop(n), vector=vector) for n in range(64)]
    ids = [crop.crop_id for crop in record.crops.enroll(gallery, EMBEDDER, crops).landed]
    file = record.crops.vector_file(record.galleries.get(gallery))
    before = file.path.stat()
    # Vectors take a kilobyte: four blocks hold the ones left, and a fifth the end of the file.
    left = {*ids[2:8], ids[40]}
    record.crops.remove(gallery, [crop_id for crop_id in ids if crop_id not in left])
    record.crops.release_space(gallery)
    after = file.path.stat()
    assert after.st_size == before.st_size
    assert after.st_blocks == 5 * BLOCK_BYTES // 512 < before.st_blocks
    found = {crop.record.crop_id: crop.vector for crop in record.crops.vectors(gallery)}
    assert found.keys() == left
    assert all(np.array_equal(found[crop_id], vector) for crop_id in left)


def test_a_rebuild_is_asked_for_before_any_process_has_begun(record, gallery):
    record.remote_indexes.change(gallery, wanted=True)
    assert record.remote_indexes.state(gallery).unfinished
    with pytest.raises(UnknownGallery):
        record.remote_indexes.change(99, wanted=True)
