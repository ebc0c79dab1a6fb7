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

from service import maintenance
from service.errors import StorageFailed
from service.gallery.archives import (
    delete_snapshot,
    list_snapshots,
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
from service.record import crop_changes
from service.record.archive import check_archive, open_archive
from service.record.schema import as_micros
from service.record.transaction import FILE
from service.record.values import CropFilter, GallerySettings
from tests.outside import audit_lines, zip_of_crops
from tests.service.conftest import running
from tests.service.locks import is_held
from tests.waiting import eventually

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
    """A gallery of two people, with a snapshot, in which one request is cancelled."""

    person = "Ann"
    new_person = "Eve"
    settings = GallerySettings()

    def __init__(self, runtime, crops):
        self.runtime = runtime
        self.changes = {"calibration": "off"}
        self.parameters = {}
        self.name = f"g-{uuid4().hex[:12]}"
        self.other_name = f"{self.name}-new"
        long_ago = datetime.now(UTC) - timedelta(days=60)
        self.enrolled = [
            ImageToEnroll(crops[0].png, "Ann"),
            ImageToEnroll(crops[1].png, "Ann"),
            ImageToEnroll(crops[2].png, "Ben", captured_at=long_ago),
        ]
        self.images = [ImageToEnroll(crops[4].png, "Cid")]
        self.archive = io.BytesIO(zip_of_crops(crops[3:4]))

    async def prepare(self):
        await create_gallery(self.runtime, self.name, GallerySettings(retention_days=30))
        self.gallery = self.runtime.galleries.get(self.name)
        answer, _ = await enroll(self.runtime, self.gallery, self.enrolled)
        self.crop_id = answer.results[0].crop_id
        self.snapshot_id = (await take_snapshot(self.runtime, self.gallery)).snapshot_id

    async def remove(self):
        for gallery in self.runtime.galleries.all():
            if gallery.name.startswith(self.name):
                await delete_gallery(self.runtime, gallery)
        shutil.rmtree(self.runtime.settings.data_dir / "imports", ignore_errors=True)

    def people_in_snapshots(self):
        people = set()
        for snapshot in self.runtime.record.snapshots.all(self.gallery.gallery_id):
            path = snapshot_path(self.runtime, self.gallery, snapshot.snapshot_id)
            check_archive(path)
            with open_archive(path) as reader:
                people |= {str(row["name"]) for row in reader.rows("people")}
        return people

    def listed(self):
        page = self.runtime.record.crops.page(self.gallery.gallery_id, CropFilter(), limit=100)
        return {crop.crop_id: crop.identity for crop in page.crops}


# Each is called with the runtime and these attributes of a prepared gallery.
SECTIONS = [
    (enroll, "gallery", "images"),
    (begin_import, "gallery", "parameters", "archive"),
    (take_snapshot, "gallery"),
    (delete_snapshot, "gallery", "snapshot_id"),
    (restore_snapshot, "gallery", "snapshot_id"),
    (forget_crop, "gallery", "crop_id"),
    (forget_identity, "gallery", "person"),
    (forget_expired, "gallery"),
    (relabel_identity, "gallery", "person", "new_person"),
    (create_gallery, "other_name", "settings"),
    (change_gallery, "gallery", "changes"),
    (delete_gallery, "gallery"),
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section[0].__name__)
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
    lock = runtime.snapshot_lock(case.gallery.gallery_id)
    threads.hold(call)
    act, *names = section
    request = asyncio.create_task(act(runtime, *(getattr(case, name) for name in names)))
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
        _assert_nothing_is_left_by_halves(runtime)
        people = {*case.listed().values()}
        # Renaming leaves snapshots as they are.
        if runtime.galleries.by_id(case.gallery.gallery_id) and "Eve" not in people:
            assert case.people_in_snapshots() <= people | {"Ben"}
    else:
        request.result()
    threads.hold(None)
    await case.remove()
    return is_cancelled


def _assert_nothing_is_left_by_halves(runtime):
    record = runtime.record
    data_dir = runtime.settings.data_dir
    galleries = [gallery.gallery_id for gallery in record.galleries.all()]
    named = {f"imports/{job.job_id}" for job in record.jobs.page(None, 1000)} | {
        f"snapshots/{number}/{snapshot.snapshot_id}.gmn"
        for number in galleries
        for snapshot in record.snapshots.all(number)
    }
    found = [*data_dir.glob("imports/*"), *data_dir.glob("snapshots/*/*")]
    assert {str(path.relative_to(data_dir)) for path in found} == named
    kept = {
        (number, crop.crop_id)
        for number in galleries
        for crop in record.crops.page(number, CropFilter(), limit=100).crops
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


def test_a_person_forgotten_meanwhile_is_not_brought_back_by_a_cancelled_request(
    start, tmp_path, drawn_crops
):
    served = start(tmp_path, failpoint="snapshot-rewrite.begun=delay:2")
    url = "/v1/galleries/default"
    served.fill("default", drawn_crops[:2], identity=["Ann-Example", "Ben-Example"])
    snapshot_id = served.snapshot("default")
    with served.sent(served.http.build_request("DELETE", f"{url}/identities/Ann-Example")):
        eventually(lambda: "failpoint snapshot-rewrite.begun" in served.log.read_text())
    assert served.http.delete(f"{url}/identities/Ben-Example").json()["removed"] == 1
    assert served.read(f"{url}/snapshots/{snapshot_id}")["crops"] == 0
    files = [path for path in (tmp_path / "snapshots").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"-Example" in path.read_bytes()] == []
    assert served.results(f"{url}/crops") == []


def test_a_snapshot_whose_rewriting_broke_off_is_described_as_it_is(start, tmp_path, drawn_crops):
    # Taking the snapshot passes there first.
    served = start(tmp_path, failpoint="snapshot-rewrite.written:2=raise")
    url = "/v1/galleries/default"
    served.fill("default", drawn_crops[:3], identity=["Ann", "Ann", "Ben"])
    snapshot_id = served.snapshot("default")
    assert served.http.delete(f"{url}/identities/Ann").status_code == 500
    served.kill()
    again = start(tmp_path, housekeeping_seconds=0.2)
    eventually(lambda: again.read(f"{url}/snapshots/{snapshot_id}")["crops"] == 1)
    assert again.restore("default", snapshot_id) == 1


async def test_ids_of_deleted_crops_are_kept_while_a_snapshot_cannot_be_rewritten(
    runtime, monkeypatch, drawn_crops
):
    nine_days_ago = as_micros(datetime.now(UTC) - timedelta(days=9))

    damaged = Prepared(runtime, drawn_crops)
    whole = Prepared(runtime, drawn_crops)
    for case in (damaged, whole):
        await case.prepare()
        with monkeypatch.context() as patched:
            patched.setattr(crop_changes, "now_micros", lambda: nine_days_ago)
            await forget_crop(runtime, case.gallery, case.crop_id)
    file = snapshot_path(runtime, damaged.gallery, damaged.snapshot_id) / FILE
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    await maintenance.run_maintenance(runtime)
    left = [
        runtime.record.crops.removed_among(case.gallery.gallery_id, [case.crop_id])
        for case in (damaged, whole)
    ]
    assert left == [[damaged.crop_id], []]
    (described,) = await list_snapshots(runtime, whole.gallery)
    assert described.crops == 1
    file.write_bytes(content)
    await restore_snapshot(runtime, damaged.gallery, damaged.snapshot_id)
    assert damaged.crop_id not in damaged.listed()
    for case in (damaged, whole):
        await case.remove()


async def test_a_job_that_is_cut_off_again_and_again_keeps_no_other_waiting(
    runtime, monkeypatch, drawn_crops
):
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.01)

    case = Prepared(runtime, drawn_crops)
    await case.prepare()
    archives = [io.BytesIO(b"") for _ in range(3)]
    jobs = [(await begin_import(runtime, case.gallery, {}, file)).job_id for file in archives]

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
