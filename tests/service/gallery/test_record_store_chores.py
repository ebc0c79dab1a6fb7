"""What every store of record keeps beside crops: jobs, keys, and which snapshots there are."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

from service.gallery.job_records import JobProblem
from service.gallery.key_records import ApiKey
from service.gallery.records import Snapshot
from tests.service.gallery.new_crops import EMBEDDER, NOON
from tests.service.gallery.new_jobs import new_job


def test_a_job_is_worked_on_by_one_and_goes_on_elsewhere_when_its_lease_is_over(store, gallery):
    store.jobs.create(new_job("first", gallery, NOON))
    store.jobs.create(new_job("second", gallery, NOON + timedelta(seconds=1)))
    assert store.jobs.claim("one", NOON, 30).job_id == "first"
    assert store.jobs.claim("two", NOON, 30).job_id == "second"
    assert store.jobs.claim("three", NOON + timedelta(seconds=29), 30) is None
    assert store.jobs.claim("one", NOON + timedelta(seconds=29), 30).job_id == "first"
    taken = store.jobs.claim("three", NOON + timedelta(seconds=31), 30)
    assert (taken.job_id, taken.worker, taken.state) == ("second", "three", "running")
    done = store.jobs.update("second", "done", '{"landed": 4}')
    assert (done.finished, done.progress) == (True, {"landed": 4})
    assert store.jobs.unfinished(gallery, "import").job_id == "first"
    assert [one.job_id for one in store.jobs.page(gallery, 9)] == ["second", "first"]


def test_a_worker_that_lost_its_job_changes_nothing(store, gallery):
    store.jobs.create(new_job("import", gallery, NOON))
    store.jobs.claim("one", NOON, 30)
    store.jobs.claim("two", NOON + timedelta(seconds=31), 30)
    assert store.jobs.update("import", "running", '{"landed": 1}', worker="one") is None
    assert store.jobs.update("import", "running", '{"landed": 2}', worker="two").worker == "two"
    assert store.jobs.get("import").progress == {"landed": 2}


def test_a_jobs_problems_are_kept_once_each_and_counted(store, gallery):
    store.jobs.create(new_job("import", gallery, NOON))
    problems = [JobProblem(n, f"{n}.png", "truncated", "cut off") for n in (3, 8, 9)]
    store.jobs.update("import", "running", "{}", problems[:2])
    store.jobs.update("import", "running", "{}", problems[1:])
    assert store.jobs.get("import").problems == 3
    assert store.jobs.problems("import", 3, 9) == problems[1:]


def test_a_job_is_cancelled_at_once_or_asked_to_stop(store, gallery):
    store.jobs.create(new_job("waiting", gallery, NOON))
    assert store.jobs.cancel("waiting").state == "cancelled"
    store.jobs.create(new_job("running", gallery, NOON))
    store.jobs.claim("one", NOON, 30)
    asked = store.jobs.cancel("running")
    assert (asked.state, asked.cancelling) == ("running", True)
    assert store.jobs.cancel("nothing") is None
    store.galleries.delete(gallery)
    assert store.jobs.get("running") is None
    assert store.jobs.update("running", "done", "{}") is None


def test_keys_are_kept_until_they_are_revoked(reopen, store):
    key = ApiKey("k1", "0" * 64, ("query", "enroll"), "lobby", "the front desk", NOON)
    store.keys.add(key)
    assert reopen().keys.all() == [key]
    again = reopen()
    assert again.keys.revoke("k1")
    assert not again.keys.revoke("k1")
    assert again.keys.all() == []


def test_snapshots_are_listed_changed_and_forgotten(store, gallery):
    snapshot = Snapshot("s1", gallery, 4, EMBEDDER, 2, 4096, "0" * 64, NOON)
    store.snapshots.keep(snapshot)
    smaller = dataclasses.replace(snapshot, crops=1, sha256="1" * 64)
    store.snapshots.keep(smaller)
    assert store.snapshots.all(gallery) == [smaller]
    assert store.snapshots.remove(gallery, "s1")
    assert not store.snapshots.remove(gallery, "s1")
