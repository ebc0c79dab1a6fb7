"""Failpoints: each stands where its name says, and acts as it is told."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from model.problems import InputProblem
from service.ops import failpoints
from service.ops.failpoints import ArmedFailpoint, Failpoint, arm_failpoint, passed
from tests.torture.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SOURCES = {
    str(path.relative_to(ROOT / "service")): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "service").rglob("*.py"))
    if path.name != "failpoints.py"
}
# In which file, and between which lines of it: the last one before and the first one after.
PLACES = {
    "START__RECORD_OPENED": ("runtime.py", "open_store(", "KeyRing("),
    "START__GALLERIES_LOADED": ("runtime.py", "calibrations.load()", "return cls("),
    "REPLICA__NOTED": ("gallery/follower.py", "self._changes.last(), self", "_read_galleries()"),
    "REPLICA__SCANNED": ("gallery/follower.py", "= self._read_galleries()", "_changes.server()"),
    "REPLICA__REPLAYED": ("gallery/follower.py", "changes.apply", "self._waiting.show(part"),
    "FOLLOWER__CHANGES_READ": ("gallery/follower.py", "read_changes(self._store", "changes.apply"),
    "FOLLOWER__CHANGES_APPLIED": ("gallery/follower.py", "changes.apply", "_waiting.show(part"),
    "ENROLL__BODY_READ": ("http/routes/crops.py", "await read_images(", "await enroll("),
    "ENROLL__EMBEDDED": ("gallery/enroll.py", "await _embed(model.pipeline", "partial(_store,"),
    "ENROLL__PICTURES_KEPT": ("gallery/enroll.py", "keep_elsewhere(", "galleries.enroll("),
    "ENROLL__CROP_WRITTEN": ("record/crops.py", "change.insert(", "landed.append("),
    "SQLITE__BEFORE_COMMIT": ("record/sqlite_engine.py", "DELETE FROM entries", '"COMMIT"'),
    "FORGET_IDENTITY__BEFORE_SNAPSHOTS": (
        "lifecycle/forget.py",
        "galleries.remove_identity(",
        "take_removed_out_of_snapshots(runtime, target, identity)",
    ),
    "SNAPSHOT_REWRITE__BEGUN": ("record/snapshot_file.py", "WHERE NOT", "_readable(path, left)"),
    "SNAPSHOT_REWRITE__WRITTEN": (
        "lifecycle/snapshot.py",
        "remove_from_snapshot(path",
        "snapshots.keep(rewritten)",
    ),
    "SNAPSHOT__WRITTEN": ("record/snapshot_file.py", "sync(beside)", "beside.replace(path)"),
    "SNAPSHOT__IN_PLACE": ("lifecycle/snapshot.py", "write_snapshot(path", "snapshots.keep(sna"),
    "SNAPSHOT__REGISTERED": (
        "lifecycle/snapshot.py",
        "snapshots.keep(snapshot)",
        "find_snapshot(",
    ),
    "RESTORE__FILE_READ": ("lifecycle/snapshot.py", "from read_snapshot(", "crops.replace("),
    "RESTORE__GENERATION_FILLED": ("record/restoring.py", "_put, filled", "_switch, filled"),
    "COMPACTION__PLANNED": ("search/compactor.py", "index.compaction()", "threading.Thread("),
    "COMPACTION__BUILT": ("search/compactor.py", "plan.build(", "self._finish(index"),
    "COMPACTION__ADOPTED": ("search/compactor.py", "index.adopt(", "def _rest("),
    "REINDEX__BEGUN": ("jobs/reindex.py", "store.staged.begin(", "_embed_missing(runtime"),
    "REINDEX__BATCH_EMBEDDED": ("jobs/reindex.py", "await _embed(", "staged.add,"),
    "REINDEX__BATCH_KEPT": ("jobs/reindex.py", "staged.add,", "await progress.save("),
    "REINDEX__SWITCHED": ("record/staged.py", "transact(self._engine, rule)", "collect_garbage("),
    "JOB__CREATED": ("jobs/runner.py", "store.jobs.create(", "jobs_wanted.set()"),
    "JOB__ENDED": ("jobs/runner.py", "await progress.end(", "audit.done("),
    "IMPORT__ARCHIVE_KEPT": ("jobs/imports.py", "to_thread(store)", "create_job("),
    "IMPORT__UNPACKED": ("jobs/imports.py", "aside.replace(", "part.rename(files)"),
    "IMPORT__FILES_READ": ("jobs/imports.py", "to_thread(_read,", "wait_while_busy("),
    "IMPORT__BATCH_LANDED": (
        "jobs/imports.py",
        "await wait_while_busy(",
        "outcomes |=",
    ),
    "IMPORT__PROGRESS_NOTED": (
        "jobs/imports.py",
        "progress.save(counts, problems)",
        "except Cancelled",
    ),
    "IMPORT__FILES_REMOVED": ("jobs/imports.py", "_remove_files, runtime", "_enroll_items("),
    "AUDIT__BEFORE_LINE": ("ops/audit.py", "line = self._line(", "self._append("),
    "AUDIT__LINE_WRITTEN": ("ops/audit.py", "self._append(", "def looked("),
}
STEPS = ("before-commit", "committed", "shown")


@pytest.fixture
def disarmed(monkeypatch):
    yield
    monkeypatch.setattr(failpoints, "_armed", None)


def _is_of_a_commit(point: Failpoint) -> bool:
    write, _, step = point.partition(".")
    return step in STEPS and all(f"{write}.{one}" in set(Failpoint) for one in STEPS)


def test_every_failpoint_stands_in_one_place_and_is_passed_nowhere_else():
    placed = Counter(
        name for text in SOURCES.values() for name in re.findall(r"Failpoint\.([A-Z_]+)\b", text)
    )
    assert placed == dict.fromkeys(PLACES, 1)
    writes = [
        write
        for text in SOURCES.values()
        for write in re.findall(r'CommitSteps\.of\("([a-z-]+)"\)', text)
    ]
    assert {point for point in Failpoint if point.name not in PLACES} == {
        Failpoint(f"{write}.{step}") for write in writes for step in STEPS
    }


@pytest.mark.parametrize("name", PLACES)
def test_a_failpoint_stands_between_what_its_name_says(name):
    file, before, after = PLACES[name]
    text = SOURCES[file]
    place = text.index(f"passed(Failpoint.{name})")
    assert 0 <= place - text.rindex(before, 0, place) < 1000
    assert 0 <= text.index(after, place) - place < 1500


def test_every_write_passes_its_three_steps_around_its_commit():
    text = SOURCES["gallery/record_access.py"]
    steps = [
        "passed(steps.before_commit)",
        "committed = write()",
        "passed(steps.committed)",
        "self._updates.shown(",
        "await self._patiently(showing)",
        "passed(steps.shown)",
        "return committed\n",
    ]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_every_failpoint_has_a_scenario_that_leads_there():
    assert set(SCENARIOS) == set(Failpoint)
    for point, scenario in SCENARIOS.items():
        if _is_of_a_commit(point) and scenario.happened is not None:
            assert scenario.happened == (not point.endswith(".before-commit")), point


@pytest.mark.parametrize(
    ("text", "point", "passage", "action"),
    [
        ("enroll.committed", Failpoint.ENROLL__COMMITTED, 1, "kill"),
        ("relabel.shown:7", Failpoint.RELABEL__SHOWN, 7, "kill"),
        ("job.ended=raise", Failpoint.JOB__ENDED, 1, "raise"),
        ("audit.before-line:2=delay:0.25", Failpoint.AUDIT__BEFORE_LINE, 2, 0.25),
    ],
)
def test_it_is_written_as_name_passage_and_action(text, point, passage, action):
    armed = ArmedFailpoint.parse(text)
    assert (armed.point, armed.passage, armed.action) == (point, passage, action)


@pytest.mark.parametrize("text", ["enroll.committed:0", "enroll.committed=explode", "=kill", "a:b"])
def test_what_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(InputProblem, match=r"write it like enroll\.committed"):
        ArmedFailpoint.parse(text)


@pytest.mark.usefixtures("disarmed")
def test_it_acts_at_its_passage_and_at_no_other(monkeypatch):
    monkeypatch.setenv("GMN_FAILPOINT", "relabel.shown:2=raise")
    arm_failpoint()
    passed(Failpoint.RELABEL__SHOWN)
    passed(Failpoint.RELABEL__COMMITTED)
    with pytest.raises(OSError, match=r"failpoint relabel\.shown"):
        passed(Failpoint.RELABEL__SHOWN)
    passed(Failpoint.RELABEL__SHOWN)
    monkeypatch.setenv("GMN_FAILPOINT", "relabel.shown=delay:0.05")
    arm_failpoint()
    begun = time.monotonic()
    passed(Failpoint.RELABEL__SHOWN)
    assert time.monotonic() - begun >= 0.05
    monkeypatch.delenv("GMN_FAILPOINT")
    arm_failpoint()
    passed(Failpoint.RELABEL__SHOWN)


@pytest.mark.slow
def test_an_unknown_name_refuses_the_start_and_lists_the_known_ones(refused_start, tmp_path):
    said = refused_start(tmp_path, failpoint="enroll.comitted")
    assert "there is no failpoint 'enroll.comitted'" in said
    assert all(point in said for point in Failpoint)


def test_a_served_process_says_loudly_that_it_is_to_fail_and_does(start, drawn_crops):
    served = start(failpoint="delete-crop.committed")
    assert "THIS PROCESS IS TO FAIL ON PURPOSE" in served.log.read_text()
    landed = served.enroll("default", drawn_crops[0].png).json()["results"][0]
    with pytest.raises(httpx.TransportError):
        served.http.delete(f"/v1/galleries/default/crops/{landed['crop_id']}")
    assert served.process.wait(20) == -signal.SIGKILL
    served.kill()
