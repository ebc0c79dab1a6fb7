"""A client that disconnects at any point: its lock is kept until its threads have ended."""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from service import maintenance
from service.errors import StorageFailed
from service.gallery import archives
from service.gallery.archives import (
    clear_files,
    delete_snapshot,
    restore_snapshot,
    snapshot_path,
    take_snapshot,
)
from service.gallery.changes import change_gallery, create_gallery, delete_gallery, relabel_identity
from service.gallery.enroll import ImageToEnroll, enroll
from service.gallery.forget import forget_crop, forget_expired, forget_identity
from service.jobs import runner
from service.jobs.imports import begin_import
from service.ops.threads import MonitoredThreadPool
from service.record import archive, crop_changes
from service.record.archive import check_archive, describe_snapshot, open_archive
from service.record.schema import PEOPLE, as_micros
from service.record.transaction import FILE
from service.record.values import CropFilter, GallerySettings
from service.runtime import Runtime
from service.settings import Settings
from tests.outside import audit_lines, zip_of_crops
from tests.service.locks import is_held

LONGEST_SECONDS = 30.0
TURNS = 20
PAUSE_SECONDS = 0.002
ANSWERED_SECONDS = 0.5


class Threads:
    """Counts the calls that the event loop hands to threads, and holds one of them up."""

    def __init__(self) -> None:
        self.held: int | None = None
        self.calls = 0
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.ended = threading.Event()

    def hold(self, call: int | None) -> None:
        self.held = call
        self.calls = 0
        self.begun.clear()
        self.let_go.clear()
        self.ended.clear()

    def watched(self, call):
        number = self.calls
        self.calls = self.calls + 1
        if number != self.held:
            return call

        def wait_and_call(*args):
            self.begun.set()
            assert self.let_go.wait(LONGEST_SECONDS)
            try:
                return call(*args)
            finally:
                self.ended.set()

        return wait_and_call

    async def release(self, request: asyncio.Task[object]) -> None:
        """Let the thread go on, and wait for its end and the request's."""
        self.let_go.set()
        while not self.ended.is_set():
            await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.gather(request, return_exceptions=True)


@pytest.fixture
def threads(monkeypatch):
    threads = Threads()
    hand_over = asyncio.BaseEventLoop.run_in_executor

    def run_in_executor(loop, executor, call, *args):
        return hand_over(loop, executor, threads.watched(call), *args)

    run_blocking = MonitoredThreadPool.run

    def run(pool, call, *args, **kwargs):
        return run_blocking(pool, threads.watched(partial(call, *args, **kwargs)))

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", run_in_executor)
    monkeypatch.setattr(MonitoredThreadPool, "run", run)
    return threads


@pytest.fixture(scope="module")
def runtime(tiny_artefact, tmp_path_factory):
    place = tmp_path_factory.mktemp("sections")
    settings = Settings(
        artefact=str(tiny_artefact),
        data_dir=place / "data",
        device="cpu",
        runtime="torch",
        images_url=f"file://{place / 'pictures'}",
    )
    with contextlib.closing(Runtime(settings)) as opened:
        yield opened


class Prepared:
    """A gallery of two people, with a snapshot, in which one request is cancelled."""

    def __init__(self, runtime: Runtime, crops) -> None:
        self.runtime = runtime
        self.crops = crops
        self.name = f"g-{uuid4().hex[:12]}"

    async def prepare(self) -> None:
        await create_gallery(self.runtime, self.name, GallerySettings(retention_days=30))
        long_ago = datetime.now(UTC) - timedelta(days=60)
        images = [
            ImageToEnroll(self.crops[0].png, "Ann"),
            ImageToEnroll(self.crops[1].png, "Ann"),
            ImageToEnroll(self.crops[2].png, "Ben", captured_at=long_ago),
        ]
        self.gallery = self.runtime.galleries.get(self.name)
        answer, _ = await enroll(self.runtime, self.gallery, images)
        landed = answer.results
        self.crop_id = landed[0].crop_id
        self.snapshot_id = (await take_snapshot(self.runtime, self.gallery)).snapshot_id

    async def remove(self) -> None:
        for gallery in self.runtime.galleries.all():
            if gallery.name.startswith(self.name):
                await delete_gallery(self.runtime, gallery)
        shutil.rmtree(self.runtime.settings.data_dir / "imports", ignore_errors=True)

    def images(self) -> io.BytesIO:
        return io.BytesIO(zip_of_crops(self.crops[3:4]))

    def people_in_snapshots(self) -> set[str]:
        snapshots = self.runtime.record.snapshots.all(self.gallery.gallery_id)
        paths = [
            snapshot_path(self.runtime, self.gallery, snapshot.snapshot_id)
            for snapshot in snapshots
        ]
        people = set()
        for path in paths:
            check_archive(path)
            with open_archive(path) as reader:
                people |= {str(row["name"]) for row in reader.rows(PEOPLE)}
        return people

    def people(self) -> set[str]:
        found = self.runtime.record.crops.page(
            self.gallery.gallery_id, CropFilter(), limit=100
        ).crops
        return {str(crop.identity) for crop in found}


def _enroll(case: Prepared):
    return enroll(case.runtime, case.gallery, [ImageToEnroll(case.crops[4].png, "Cid")])


def _import(case: Prepared):
    return begin_import(case.runtime, case.gallery, {}, case.images())


def _change(case: Prepared):
    return change_gallery(case.runtime, case.gallery, {"calibration": "off"})


SECTIONS = {
    "enroll": _enroll,
    "import": _import,
    "take snapshot": lambda case: take_snapshot(case.runtime, case.gallery),
    "delete snapshot": lambda case: delete_snapshot(case.runtime, case.gallery, case.snapshot_id),
    "restore snapshot": lambda case: restore_snapshot(case.runtime, case.gallery, case.snapshot_id),
    "forget crop": lambda case: forget_crop(case.runtime, case.gallery, case.crop_id),
    "forget identity": lambda case: forget_identity(case.runtime, case.gallery, "Ann"),
    "forget expired": lambda case: forget_expired(case.runtime, case.gallery),
    "rename": lambda case: relabel_identity(case.runtime, case.gallery, "Ann", "Eve"),
    "create gallery": lambda case: create_gallery(
        case.runtime, f"{case.name}-new", GallerySettings()
    ),
    "change gallery": _change,
    "delete gallery": lambda case: delete_gallery(case.runtime, case.gallery),
    "maintenance": lambda case: maintenance.run_maintenance(case.runtime),
    "files of nothing": lambda case: clear_files(case.runtime),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_cancelled_request_keeps_its_lock_until_its_thread_ends_and_leaves_nothing_by_halves(
    section, runtime, threads, drawn_crops
):
    async def cancel_at_every_thread() -> int:
        call = 0
        while await _cancelled_at(call, SECTIONS[section], threads, runtime, drawn_crops):
            call += 1
        return call

    assert asyncio.run(cancel_at_every_thread()) > 0


async def _cancelled_at(call, act, threads, runtime, crops) -> bool:
    """Cancel a request while its n-th thread works; return False if it has fewer."""
    case = Prepared(runtime, crops)
    threads.hold(None)
    await case.prepare()
    threads.hold(call)
    request = asyncio.create_task(act(case))
    while not threads.begun.is_set() and not request.done():
        await asyncio.sleep(PAUSE_SECONDS)
    if request.done():
        request.result()
        threads.hold(None)
        await case.remove()
        return False
    held = await is_held(runtime.snapshot_lock(case.gallery.gallery_id))
    request.cancel()
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert await is_held(runtime.snapshot_lock(case.gallery.gallery_id)) == held
    await threads.release(request)
    assert not await is_held(runtime.snapshot_lock(case.gallery.gallery_id))
    _assert_nothing_is_left_by_halves(runtime)
    if runtime.galleries.by_id(case.gallery.gallery_id):
        _assert_only_known_people_are_in_snapshots(case)
    threads.hold(None)
    await case.remove()
    return True


def _assert_nothing_is_left_by_halves(runtime: Runtime) -> None:
    store = runtime.record
    galleries = [record.gallery_id for record in store.galleries.all()]
    snapshots = {
        f"{number}/{snapshot.snapshot_id}.gmn"
        for number in galleries
        for snapshot in store.snapshots.all(number)
    }
    folder = runtime.settings.data_dir / "snapshots"
    assert {str(file.relative_to(folder)) for file in folder.glob("*/*")} == snapshots
    spooled = {place.name for place in (runtime.settings.data_dir / "imports").glob("*")}
    assert spooled == {job.job_id for job in store.jobs.page(None, 1000)}
    pictures = Path(runtime.settings.images_url.removeprefix("file://"))
    kept = {
        f"{number}/{crop.crop_id}"
        for number in galleries
        for crop in store.crops.page(number, CropFilter(), limit=100).crops
    }
    files = {str(file.relative_to(pictures)) for file in pictures.glob("*/*")}
    # Housekeeping removes pictures that the record knows to be left over.
    later = datetime.now(UTC) + timedelta(hours=2)
    strays = store.stray_files.all(later, 1000)
    assert kept <= files
    assert files - kept <= {f"{number}/{name}" for number, name in strays}
    lines = audit_lines(runtime.settings.data_dir)
    phases = Counter(line["event"] for line in lines if line["phase"] == "asked")
    ended = Counter(line["event"] for line in lines if line["phase"] in ("done", "failed"))
    assert all(ended[event] >= count for event, count in phases.items())


def _assert_only_known_people_are_in_snapshots(case: Prepared) -> None:
    # Renaming leaves snapshots as they are.
    if "Eve" not in case.people():
        assert case.people_in_snapshots() <= case.people() | {"Ben"}


class Rewriting:
    """Holds the first thread that rewrites a snapshot, once it reads the old file."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let_go = threading.Event()

    def reach(self, name: str) -> None:
        if name == "snapshot-rewrite.begun" and not self.begun.is_set():
            self.begun.set()
            assert self.let_go.wait(LONGEST_SECONDS)


def test_a_person_forgotten_meanwhile_is_not_brought_back_by_a_cancelled_request(
    runtime, monkeypatch, drawn_crops
):
    rewriting = Rewriting()

    async def forget_two() -> None:
        case = Prepared(runtime, drawn_crops)
        await case.prepare()
        monkeypatch.setattr(archive, "failpoint", rewriting.reach)
        left = asyncio.create_task(forget_identity(runtime, case.gallery, "Ann"))
        while not rewriting.begun.is_set():
            await asyncio.sleep(PAUSE_SECONDS)
        left.cancel()
        stays = asyncio.create_task(forget_identity(runtime, case.gallery, "Ben"))
        # It would be answered by now, but for the lock.
        await asyncio.wait({stays}, timeout=ANSWERED_SECONDS)
        rewriting.let_go.set()
        assert (await stays).removed == 1
        await asyncio.gather(left, return_exceptions=True)
        await runtime.sections.ended()
        await asyncio.get_running_loop().shutdown_default_executor()
        assert case.people_in_snapshots() == set()
        assert case.people() == set()

    asyncio.run(forget_two())


def test_a_snapshot_that_was_rewritten_before_a_crash_is_described_as_it_is(
    runtime, monkeypatch, drawn_crops
):
    def crash(name: str) -> None:
        if name == "snapshot-rewrite.written":
            raise OSError(name)

    async def forget() -> None:
        case = Prepared(runtime, drawn_crops)
        await case.prepare()
        with monkeypatch.context() as patched:
            patched.setattr(archives, "failpoint", crash)
            with pytest.raises(OSError, match=r"snapshot-rewrite\.written"):
                await forget_identity(runtime, case.gallery, "Ann")
        # As maintenance does.
        await archives.remove_deleted_from_snapshots(runtime, case.gallery)
        (shown,) = await archives.list_snapshots(runtime, case.gallery)
        path = archives.snapshot_path(runtime, case.gallery, case.snapshot_id)
        check_archive(path)
        content = describe_snapshot(path, shown.created_at)
        assert (shown.crops, shown.sha256, shown.bytes) == (1, content.sha256, content.bytes)

    asyncio.run(forget())


def test_ids_of_deleted_crops_are_kept_while_a_snapshot_cannot_be_rewritten(
    runtime, monkeypatch, drawn_crops
):
    def nine_days_ago() -> int:
        return as_micros(datetime.now(UTC) - timedelta(days=9))

    async def maintain() -> None:
        damaged = Prepared(runtime, drawn_crops)
        case = Prepared(runtime, drawn_crops)
        await damaged.prepare()
        await case.prepare()
        for crop in (damaged, case):
            with monkeypatch.context() as patched:
                patched.setattr(crop_changes, "now_micros", nine_days_ago)
                await forget_crop(runtime, crop.gallery, crop.crop_id)
        path = archives.snapshot_path(runtime, damaged.gallery, damaged.snapshot_id)
        file = path / FILE
        whole = file.read_bytes()
        file.write_bytes(b"damaged")
        await maintenance.run_maintenance(runtime)
        left = [
            runtime.record.crops.removed_among(crop.gallery.gallery_id, [crop.crop_id])
            for crop in (damaged, case)
        ]
        assert left == [[damaged.crop_id], []]
        (described,) = await archives.list_snapshots(runtime, case.gallery)
        assert described.crops == 1
        file.write_bytes(whole)
        await restore_snapshot(runtime, damaged.gallery, damaged.snapshot_id)
        restored = runtime.record.crops.page(
            damaged.gallery.gallery_id, CropFilter(), limit=9
        ).crops
        assert damaged.crop_id not in {crop.crop_id for crop in restored}
        await damaged.remove()
        await case.remove()

    asyncio.run(maintain())


def test_a_job_that_is_cut_off_again_and_again_keeps_no_other_waiting(
    runtime, monkeypatch, drawn_crops
):
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.01)

    async def work_on_three() -> None:
        case = Prepared(runtime, drawn_crops)
        await case.prepare()
        cut_off, other_cut_off, last = [(await _import(case)).job_id for _ in range(3)]

        async def work(_runtime, _gallery, job) -> None:
            if job.job_id != last:
                raise StorageFailed("the disk is full")

        working = asyncio.create_task(runner.work_on_jobs(runtime, {"import": work}))
        async with asyncio.timeout(ANSWERED_SECONDS * 20):
            while runtime.record.jobs.get(last).state != "done":
                await asyncio.sleep(PAUSE_SECONDS)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        states = [runtime.record.jobs.get(job_id).state for job_id in (cut_off, other_cut_off)]
        assert states == ["running", "running"]
        await case.remove()

    asyncio.run(work_on_three())
