"""The record keeps more than crops: the last use of keys, problems of jobs, and vectors on disk."""

from dataclasses import replace
from datetime import timedelta
from errno import ENOSPC
from itertools import pairwise
from unittest.mock import Mock

import numpy as np
import pytest

from gmn_client.models import JobProblem
from service.errors import StorageFailed
from service.opening import open_folder
from service.record import galleries
from service.record.keys import ApiKey
from service.record.transaction import Reader
from service.record.vectors import BLOCK_BYTES, VectorFile
from tests.service.gallery.new_crops import (
    NOON,
    OTHER_EMBEDDER,
    desk_of,
    enroll,
    new_crop,
    open_record,
)
from tests.service.gallery.new_jobs import new_job
from tests.service.record.filled import contents, fill_record
from tests.service.record.new_searches import new_search


def test_the_last_use_of_a_key_outlives_its_change(record):
    key = ApiKey("reader", "1" * 64, ("query",), None, "", NOON)
    record.keys.add(key)
    record.keys.note_used({"reader": NOON, "revoked": NOON})
    record.keys.add(replace(key, note="rotated"))
    assert record.keys.last_used() == {"reader": NOON}


def test_a_jobs_problems_are_kept_once_each_and_counted(record, gallery):
    record.jobs.create(new_job("import", gallery))
    problems = [
        JobProblem(position=n, source=f"{n}.png", code="truncated", detail="cut off")
        for n in (3, 8, 9)
    ]
    record.jobs.update("import", "running", {}, problems[:2])
    record.jobs.update("import", "running", {}, problems[1:])
    assert record.jobs.get("import").problems == 3
    assert record.jobs.problems("import", 3, 9) == problems[1:]


def test_old_jobs_are_removed_a_few_at_once_and_none_that_has_not_ended(
    record, gallery, monkeypatch
):
    monkeypatch.setattr("service.record.jobs.KEPT_JOBS", 1)
    for number in range(14):
        created_at = NOON + timedelta(minutes=number)
        record.jobs.create(replace(new_job(f"{number:02}", gallery, created_at), kind="grouping"))
        if number:
            record.jobs.update(f"{number:02}", "done", None)
    removed = [record.jobs.remove_old(gallery) for _ in range(3)]
    assert removed == [10, 2, 0]
    assert [job.job_id for job in record.jobs.page(gallery, 99)] == ["13", "00"]


def test_a_forgotten_name_is_hidden_in_jobs_and_those_without_it_are_not_written(record, gallery):
    name = 'Ann "A" Quirke'
    for job_id in ("named", "reported"):
        record.jobs.create(new_job(job_id, gallery))
    problem = JobProblem(position=1, source=f"{name}/1.png", code="truncated", detail="cut off")
    record.jobs.update("named", "failed", None, detail=f"{name}: is wrong")
    record.jobs.update("reported", "done", None, [problem])
    newest = Reader(record.database).newest_commit()
    record.jobs.forget_name(gallery, "Bob")
    assert Reader(record.database).newest_commit() == newest
    record.jobs.forget_name(gallery, name)
    assert record.jobs.get("named").detail == "…: is wrong"
    assert record.jobs.problems("reported", 0, 9)[0].source == "…/1.png"


def test_a_job_of_a_key_that_was_not_served_and_that_did_not_fail_comes_first(record, gallery):
    for number, (job_id, key_id) in enumerate([("a", "k1"), ("b", "k1"), ("c", "k2"), ("d", "k3")]):
        job = new_job(job_id, gallery, NOON + timedelta(seconds=number))
        record.jobs.create(replace(job, key_id=key_id))
    turns = {"k1": 1.0, "a": 1.0, "k2": 2.0, "c": 2.0}
    taken = []
    for _ in range(4):
        taken.append(record.jobs.claim(None, turns).job_id)
        record.jobs.update(taken[-1], "done", None)
    assert taken == ["d", "b", "a", "c"]


def test_strays_of_one_name_in_two_galleries_are_both_found(record, gallery):
    for number in (gallery, gallery + 1):
        record.stray_files.expect(number, ["c1"], NOON)
    assert record.stray_files.all(NOON, 9) == [(gallery, "c1"), (gallery + 1, "c1")]
    record.stray_files.forget(gallery, ["c1"])
    assert record.stray_files.all(NOON, 9) == [(gallery + 1, "c1")]


@pytest.mark.promise("2")
def test_the_vectors_of_a_deleted_gallery_leave_the_disk_at_once(record, gallery):
    folder = record.database.folder
    enroll(record, gallery, new_crop(1))
    record.staged.begin(gallery, OTHER_EMBEDDER)
    record.staged.add(gallery, {1: np.ones(8, np.float32)})
    assert len(list(folder.glob(f"vectors-{gallery}-*"))) == 2
    record.galleries.delete(gallery)
    assert list(folder.glob(f"vectors-{gallery}-*")) == []


@pytest.mark.sqlite_alone
def test_a_deleted_gallery_leaves_no_row_of_its_own(tmp_path):
    fill_record(tmp_path)
    with open_record(tmp_path) as record:
        record.galleries.delete(1)
        left = {name for name, rows in contents(record).items() if rows}
    of_all_galleries = {"record", "runtimes", "api_keys"}
    of_cameras = {"cameras", "camera_hours"}
    assert left == of_all_galleries | of_cameras | {"unneeded_files", "stray_pictures"}


def test_people_and_searches_of_a_deleted_gallery_go_in_small_commits(record, gallery, monkeypatch):
    monkeypatch.setattr(galleries, "ROWS_AT_ONCE", 2)
    enroll(record, gallery, *(new_crop(number, f"person {number}") for number in range(6)))
    desk_of(record).kept.keep(gallery, [new_search(picture=b"picture") for _ in range(6)], 10)
    reader = Reader(record.database)

    def count_rows():
        return [reader.value(f"SELECT count(*) FROM {table}") for table in ("people", "searches")]

    counts = [count_rows()]
    record.galleries._unlist(gallery)
    while record.galleries._delete_some(gallery):
        counts.append(count_rows())
    counts.append(count_rows())
    assert counts[-1] == [0, 0]
    assert all(sum(before) - sum(after) <= 2 for before, after in pairwise(counts))


@pytest.mark.sqlite_alone
def test_the_disk_gets_back_the_space_of_removed_vectors(record, gallery):
    vector = np.full(256, 0.5, np.float32)
    ids = enroll(record, gallery, *(replace(new_crop(n), vector=vector) for n in range(64)))
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


@pytest.mark.sqlite_alone
def test_vectors_are_not_written_to_a_file_that_another_process_has_removed(
    record, gallery, tmp_path, monkeypatch
):
    with monkeypatch.context() as full:
        full.setattr(VectorFile, "sync", Mock(side_effect=OSError(ENOSPC, "no space")))
        with pytest.raises(StorageFailed):
            record.crops.enroll(gallery, OTHER_EMBEDDER, [new_crop(1)])
    # This removes the file of the generation that was not committed.
    open_folder(tmp_path).close()
    record.crops.enroll(gallery, OTHER_EMBEDDER, [new_crop(1)])
    with open_record(tmp_path) as again:
        again.check()
