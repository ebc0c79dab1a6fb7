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
from service.ops.failpoints import arm_failpoint, failpoint, parse
from tests.torture.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
SOURCES = {
    str(path.relative_to(ROOT / "service")): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "service").rglob("*.py"))
    if path.name != "failpoints.py"
}
# In which file, and between which lines of it: the last one before and the first one after.
PLACES = {
    "start.record-opened": ("runtime.py", "Record(directory)", "return record"),
    "start.galleries-loaded": ("runtime.py", "galleries.load()", "held.pop_all()"),
    "follower.changes-read": (
        "gallery/registry.py",
        "_read_changes(gallery, changes)",
        "device.change(apply)",
    ),
    "follower.changes-applied": (
        "gallery/registry.py",
        "device.change(apply)",
        "def _read_changes(",
    ),
    "enroll.body-read": ("http/routes/crops.py", "form.read_crops(", "await enroll("),
    "enroll.embedded": ("gallery/enroll.py", "await pipeline.embed(", "await _store("),
    "enroll.pictures-kept": ("gallery/enroll.py", "keep_elsewhere(", "galleries.change("),
    "enroll.crop-written": ("record/crops.py", "added.append(", "landed.append("),
    "record.before-commit": ("record/database.py", "NOTE_COMMIT, (", 'execute("COMMIT")'),
    "record.committed": ("record/database.py", 'execute("COMMIT")', "self._settle("),
    "record.settled": ("record/database.py", "self._settle(", "self.deleted.add("),
    "forget-identity.before-snapshots": (
        "gallery/forget.py",
        "identities.forget",
        "remove_deleted_from_snapshots(runtime, gallery, identity)",
    ),
    "snapshot-rewrite.begun": ("record/archive.py", "files={}))", "Crops(archive).remove("),
    "snapshot-rewrite.removed": (
        "record/archive.py",
        "Crops(archive).remove(",
        "return describe_archive(",
    ),
    "snapshot-rewrite.written": (
        "gallery/archives.py",
        "remove_from_archive(path",
        "snapshots.keep, rewritten)",
    ),
    "snapshot.written": (
        "record/archive.py",
        "fill_archive(database, part",
        "put_in_place(part, folder)",
    ),
    "snapshot.in-place": ("gallery/archives.py", "write_archive(", "snapshots.keep, sna"),
    "snapshot.registered": (
        "gallery/archives.py",
        "snapshots.keep, snapshot)",
        "await _remove_deleted(",
    ),
    "restore.file-read": ("gallery/archives.py", "from read_archive(", "crops.replace"),
    "restore.crops-added": ("record/replacing.py", "write(_add,", "write(_switch,"),
    "reindex.begun": ("jobs/reindex.py", "store.staged.begin,", "_embed_missing(runtime"),
    "reindex.batch-embedded": ("jobs/reindex.py", "await _embed(", "staged.add,"),
    "reindex.batch-kept": ("jobs/reindex.py", "staged.add,", "await save_job("),
    "reindex.switched": ("record/staged.py", "self._switch(", "vectors.remove("),
    "job.created": ("jobs/runner.py", "record.jobs.create,", "jobs_wanted.set()"),
    "job.ended": ("jobs/runner.py", "await save_job(", "audit.done("),
    "import.archive-kept": ("jobs/imports.py", "_keep_archive(runtime", "runner.create_job("),
    "import.unpacked": ("jobs/import_files.py", "sync_disk(folder)", "return left_out"),
    "import.files-read": ("jobs/imports.py", "read_file(folder, item", "wait_while_busy("),
    "import.batch-landed": (
        "jobs/imports.py",
        "await runner.wait_while_busy(",
        "added = Counter",
    ),
    "import.progress-noted": (
        "jobs/imports.py",
        "save_job(runtime, job, dict(counts), problems)",
        "jobs.others_wait",
    ),
    "import.files-removed": (
        "jobs/imports.py",
        "_remove_folder(runtime, runtime.settings",
        "_enroll_items(",
    ),
    "watch.noted": ("watch/lists.py", "galleries.write(rule", "runtime.metrics.alerts"),
    "webhook.sent": ("watch/webhooks.py", "runtime.sender.send(", "await _settle("),
    "audit.before-line": ("ops/audit.py", "line = self._line(", "self._file.append("),
    "audit.line-written": ("ops/audit.py", "self._file.append(", "def note_view("),
}


WRITES = (
    *("enroll", "delete-crop", "forget-identity", "delete-expired", "relabel", "create-gallery"),
    *("change-gallery", "delete-gallery", "restore", "reindex"),
)
# Before the commit; then the record has the write and the index does not; then searches show it.
STEPS = ("before-commit", "committed", "shown")


@pytest.fixture
def disarmed(monkeypatch):
    yield
    monkeypatch.setattr(failpoints, "_armed", None)


def _is_of_a_commit(name: str) -> bool:
    write, _, step = name.partition(".")
    return step in STEPS and write in WRITES


def test_every_failpoint_stands_in_one_place_and_is_passed_nowhere_else():
    placed = Counter(
        name for text in SOURCES.values() for name in re.findall(r'failpoint\("([a-z.-]+)"\)', text)
    )
    assert placed == dict.fromkeys(PLACES, 1)
    assert {name for name in SCENARIOS if not _is_of_a_commit(name)} == set(PLACES)
    written = "".join(SOURCES.values())
    named = re.compile(
        r'(?:change|change_crops|_commit)\(\s*(?:runtime,\s*gallery,\s*)?"([a-z-]+)"'
    )
    assert set(WRITES) <= set(named.findall(written))


@pytest.mark.parametrize("name", PLACES)
def test_a_failpoint_stands_between_what_its_name_says(name):
    file, before, after = PLACES[name]
    text = SOURCES[file]
    place = text.index(f'failpoint("{name}")')
    assert 0 <= place - text.rindex(before, 0, place) < 1000
    assert 0 <= text.index(after, place) - place < 1500


def test_every_write_passes_its_three_steps_around_its_commit():
    text = SOURCES["gallery/registry.py"]
    steps = [
        'failpoint(f"{steps}.before-commit")',
        "committed = write(*args)",
        'failpoint(f"{steps}.committed")',
        "self._follower.wait_for(feed",
        "await asyncio.wrap_future(shown)\n        failpoint(f",
        'failpoint(f"{steps}.shown")',
        "return committed\n",
    ]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_every_failpoint_has_a_scenario_that_leads_there():
    of_commits = {f"{write}.{step}" for write in WRITES for step in STEPS}
    assert set(SCENARIOS) == {*PLACES, *of_commits}
    for point, scenario in SCENARIOS.items():
        if _is_of_a_commit(point) and scenario.happened is not None:
            assert scenario.happened == (not point.endswith(".before-commit")), point


@pytest.mark.parametrize(
    ("text", "point", "passage", "action"),
    [
        ("enroll.committed", "enroll.committed", 1, "kill"),
        ("relabel.shown:7", "relabel.shown", 7, "kill"),
        ("job.ended=raise", "job.ended", 1, "raise"),
        ("audit.before-line:2=delay:0.25", "audit.before-line", 2, 0.25),
    ],
)
def test_it_is_written_as_name_passage_and_action(text, point, passage, action):
    armed = parse(text)
    assert (armed.name, armed.passage, armed.action) == (point, passage, action)


@pytest.mark.parametrize("text", ["enroll.committed:0", "enroll.committed=explode", "=kill", "a:b"])
def test_what_cannot_be_read_is_refused_with_an_example(text):
    with pytest.raises(InputProblem, match=r"write it like enroll\.committed"):
        parse(text)


@pytest.mark.usefixtures("disarmed")
def test_it_acts_at_its_passage_and_at_no_other(monkeypatch):
    monkeypatch.setenv("GMN_FAILPOINT", "relabel.shown:2=raise")
    arm_failpoint()
    failpoint("relabel.shown")
    failpoint("relabel.committed")
    with pytest.raises(OSError, match=r"failpoint relabel\.shown"):
        failpoint("relabel.shown")
    failpoint("relabel.shown")
    monkeypatch.setenv("GMN_FAILPOINT", "relabel.shown=delay:0.05")
    arm_failpoint()
    begun = time.monotonic()
    failpoint("relabel.shown")
    assert time.monotonic() - begun >= 0.05
    monkeypatch.delenv("GMN_FAILPOINT")
    arm_failpoint()
    failpoint("relabel.shown")


def test_a_served_process_says_loudly_that_it_is_to_fail_and_does(start, drawn_crops):
    served = start(failpoint="delete-crop.committed")
    assert "THIS PROCESS IS TO FAIL ON PURPOSE" in served.log.read_text()
    landed = served.enroll("default", drawn_crops[0].png).json()["results"][0]
    with pytest.raises(httpx.TransportError):
        served.http.delete(f"/v1/galleries/default/crops/{landed['crop_id']}")
    assert served.process.wait(20) == -signal.SIGKILL
    served.kill()
