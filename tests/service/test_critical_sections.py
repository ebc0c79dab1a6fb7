"""A client that disconnects at any point: its lock is kept until its threads have ended."""

import asyncio
import io
import itertools
import shutil
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest

from service.errors import StorageFailed
from service.forgetting import forget_identity
from service.gallery.enroll import ImageToEnroll
from service.jobs import runner
from service.jobs.imports import begin_import
from service.ops.data_directory import export_lock
from service.ops.threads import MonitoredThreadPool
from service.record.values import GallerySettings, ListFilter
from service.store.exports import delete_export, list_exports, make_export
from tests.outside import audit_lines, zip_of_crops
from tests.service.conftest import running
from tests.service.locks import is_held

LONGEST_SECONDS = 30.0
TURNS = 20
PAUSE_SECONDS = 0.002


class Threads:
    """Counts the calls that are handed to threads, and holds one of them up."""

    def __init__(self):
        self.hold(None)

    def hold(self, number):
        self.held = number
        self.numbers = itertools.count()
        self.begun = threading.Event()
        self.let_go = threading.Event()
        self.ended = threading.Event()

    def watched(self, call):
        if next(self.numbers) != self.held:
            return call

        def wait_and_call():
            self.begun.set()
            assert self.let_go.wait(LONGEST_SECONDS)
            try:
                return call()
            finally:
                self.ended.set()

        return wait_and_call

    async def release(self, request):
        """Let the thread go on, and wait for its end and the request's."""
        self.let_go.set()
        while not self.ended.is_set():
            await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.gather(request, return_exceptions=True)


@pytest.fixture
def threads(monkeypatch):
    threads = Threads()
    run_blocking = MonitoredThreadPool.run

    def run(pool, call, *args, **kwargs):
        return run_blocking(pool, threads.watched(partial(call, *args, **kwargs)))

    monkeypatch.setattr(MonitoredThreadPool, "run", run)
    return threads


@pytest.fixture(scope="module")
def runtime(tiny_artefact, tmp_path_factory):
    place = tmp_path_factory.mktemp("sections")
    pictures = f"file://{place / 'pictures'}"
    with running(tiny_artefact, place / "data", images_url=pictures) as opened:
        yield opened


class Prepared:
    """A gallery of two people, with an export, in which one request is cancelled."""

    person = "Ann"
    new_person = "Eve"
    settings = GallerySettings()
    days = 7

    def __init__(self, runtime, crops):
        self.runtime = runtime
        self.changes = {"calibration": "off"}
        self.parameters = {}
        self.name = f"g-{uuid4().hex[:12]}"
        self.other_name = f"{self.name}-new"
        long_ago = datetime.now(UTC) - timedelta(days=60)
        self.enrolled = [
            ImageToEnroll(image=crops[0].png, identity="Ann"),
            ImageToEnroll(image=crops[1].png, identity="Ann"),
            ImageToEnroll(image=crops[2].png, identity="Ben", captured_at=long_ago),
        ]
        self.images = [ImageToEnroll(image=crops[4].png, identity="Cid")]
        self.archive = io.BytesIO(zip_of_crops(crops[3:4]))

    async def prepare(self):
        await self.runtime.gallery_changes.create(self.name, GallerySettings(retention_days=30))
        self.gallery = self.runtime.galleries.get(self.name)
        answer, _ = await self.runtime.enrollment.enroll(self.gallery, self.enrolled)
        self.crop_id = answer.results[0].crop_id
        self.export_id = (await make_export(self.runtime, self.gallery, self.days)).export_id

    async def remove(self):
        for gallery in self.runtime.galleries.all():
            if gallery.name.startswith(self.name):
                await self.runtime.gallery_changes.delete(gallery)
        shutil.rmtree(self.runtime.settings.data_dir / "imports", ignore_errors=True)

    def listed(self):
        page = self.runtime.record.crops.page(self.gallery.gallery_id, ListFilter(), limit=100)
        return {crop.crop_id: crop.identity for crop in page.crops}


# Each is called with a prepared gallery.
SECTIONS = {
    "enroll": lambda case: case.runtime.enrollment.enroll(case.gallery, case.images),
    "begin_import": lambda case: begin_import(
        case.runtime, case.gallery, case.parameters, case.archive, "key"
    ),
    "make_export": lambda case: make_export(case.runtime, case.gallery, case.days),
    "delete_export": lambda case: delete_export(case.runtime, case.gallery, case.export_id),
    "forget_crop": lambda case: case.runtime.crop_deletions.forget_crop(case.gallery, case.crop_id),
    "forget_identity": lambda case: forget_identity(case.runtime, case.gallery, case.person),
    "forget_expired": lambda case: case.runtime.crop_deletions.forget_expired(case.gallery),
    "relabel_identity": lambda case: case.runtime.crop_changes.relabel_identity(
        case.gallery, case.person, case.new_person
    ),
    "create_gallery": lambda case: case.runtime.gallery_changes.create(
        case.other_name, case.settings
    ),
    "change_gallery": lambda case: case.runtime.gallery_changes.change(case.gallery, case.changes),
    "delete_gallery": lambda case: case.runtime.gallery_changes.delete(case.gallery),
}


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
async def test_a_cancelled_request_keeps_its_lock_until_its_thread_ends_and_leaves_no_half_work(
    section, runtime, threads, drawn_crops
):
    call = 0
    while await _cancelled_at(call, section, threads, runtime, drawn_crops):
        call += 1
    assert call > 0


async def _cancelled_at(call, section, threads, runtime, crops):
    """Cancel a request while its n-th thread works; return False if it has fewer."""
    case = Prepared(runtime, crops)
    threads.hold(None)
    await case.prepare()
    lock = export_lock(runtime.settings.data_dir, case.gallery.gallery_id)
    threads.hold(call)
    request = asyncio.create_task(section(case))
    while not threads.begun.is_set() and not request.done():
        await asyncio.sleep(PAUSE_SECONDS)
    is_cancelled = not request.done()
    if is_cancelled:
        held = await is_held(lock)
        request.cancel()
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert await is_held(lock) == held
        await threads.release(request)
        assert not await is_held(lock)
        await _assert_nothing_is_left_by_halves(runtime)
    else:
        request.result()
    threads.hold(None)
    await case.remove()
    return is_cancelled


async def _assert_nothing_is_left_by_halves(runtime):
    record = runtime.record
    data_dir = runtime.settings.data_dir
    galleries = [gallery.gallery_id for gallery in record.galleries.all()]
    named = {f"imports/{job.job_id}" for job in record.jobs.page(None, 1000)} | {
        f"exports/{gallery.gallery_id}/{export.export_id}"
        for gallery in runtime.galleries.all()
        for export in await list_exports(runtime, gallery)
    }
    found = [*data_dir.glob("imports/*"), *data_dir.glob("exports/*/*")]
    assert {str(path.relative_to(data_dir)) for path in found} == named
    kept = {
        (number, crop.crop_id)
        for number in galleries
        for crop in record.crops.page(number, ListFilter(), limit=100).crops
    }
    pictures = Path(runtime.settings.images_url.removeprefix("file://"))
    files = {(int(path.parent.name), path.name) for path in pictures.glob("*/*")}
    # Housekeeping removes pictures that the record knows to be left over.
    strays = record.stray_files.all(datetime.now(UTC) + timedelta(hours=2), 1000)
    assert kept <= files <= kept | {*strays}
    lines = audit_lines(data_dir)
    asked = Counter(line["event"] for line in lines if line["phase"] == "asked")
    ended = Counter(line["event"] for line in lines if line["phase"] != "asked")
    assert asked <= ended


async def test_a_job_that_is_cut_off_again_and_again_keeps_no_other_waiting(
    runtime, monkeypatch, drawn_crops
):
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.01)

    case = Prepared(runtime, drawn_crops)
    await case.prepare()
    archives = [io.BytesIO(b"") for _ in range(3)]
    jobs = [
        (await begin_import(runtime, case.gallery, {}, file, "key")).job_id for file in archives
    ]

    async def work(_runtime, _gallery, job):
        if job.job_id != jobs[-1]:
            raise StorageFailed("the disk is full")

    working = asyncio.create_task(runner.work_on_jobs(runtime, {"import": work}))
    async with asyncio.timeout(LONGEST_SECONDS):
        while runtime.record.jobs.get(jobs[-1]).state != "done":
            await asyncio.sleep(PAUSE_SECONDS)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert [runtime.record.jobs.get(job_id).state for job_id in jobs[:2]] == ["running"] * 2
    await case.remove()
