"""The watchdog: what ends or hangs ends the process, and what takes its time does not."""

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from service import maintenance
from service.errors import ServiceError, StorageFailed
from service.ops import threads
from service.ops.critical_sections import repeat_alone
from service.ops.locks import WORKS_BY, FileWorkLock, WorkLock
from service.ops.threads import (
    EXIT_STATUS,
    STOPPED,
    HealthCheck,
    MonitoredThreadPool,
    Watchdog,
    heartbeat,
)
from tests.waiting import LONGEST_SECONDS, eventually

pytestmark = pytest.mark.promise("health")

STALL = 0.3
# No thread of a busy machine stands still for so long.
PATIENT = pytest.mark.parametrize("watchdog", [2.0], indirect=True)


class Ended(threading.Event):
    """Stands in for the end of the process, which a test would not survive."""

    status = None

    def __call__(self, status):
        self.status = status
        self.set()


@pytest.fixture
def ended(monkeypatch):
    ended = Ended()
    monkeypatch.setattr(threads.os, "_exit", ended)
    monkeypatch.setattr(threads, "EXIT_GRACE_SECONDS", 0.2)
    # Where the machine stands still, the timer of the C library would end the tests.
    monkeypatch.setattr(threads.faulthandler, "dump_traceback_later", lambda *_, **__: None)
    return ended


@pytest.fixture
def watchdog(ended, request):
    watchdog = Watchdog(getattr(request, "param", STALL))
    yield watchdog
    watchdog.stop()


@pytest.fixture
def pool(watchdog):
    """Return a watched pool with a gate, at which work may wait."""
    pool = MonitoredThreadPool(2, "test")
    pool.gate = threading.Event()
    watchdog.checks.append(HealthCheck("pool", pool.silent_seconds))
    yield pool
    pool.gate.set()
    pool.shutdown()


def test_a_stage_that_hangs_is_named_and_ends_the_process(watchdog, ended, pool, caplog):
    watchdog.checks.append(HealthCheck("well", lambda: 0.0))
    watchdog.start()
    assert not ended.wait(0.6)
    pool.submit(pool.gate.wait, 2 * LONGEST_SECONDS)
    assert ended.wait(LONGEST_SECONDS)
    assert ended.status == EXIT_STATUS
    assert watchdog.trouble.startswith("pool: sent no heartbeat")

    def criticals():
        return [record for record in caplog.records if record.levelname == "CRITICAL"]

    # A thread of its own writes it.
    eventually(criticals)
    (critical,) = criticals()
    assert "pool: sent no heartbeat" in critical.getMessage()


def test_a_stage_that_has_ended_ends_the_process_at_once(watchdog, ended):
    watchdog.checks.append(HealthCheck("follower", lambda: STOPPED, 1000.0))
    watchdog.start()
    assert ended.wait(LONGEST_SECONDS)
    assert watchdog.trouble == "follower: has ended"


@pytest.mark.parametrize("steps", [("stop", "start"), ("start", "stop")])
def test_a_service_that_is_stopping_is_not_killed(watchdog, ended, monkeypatch, steps):
    monkeypatch.setattr(threads, "EXIT_GRACE_SECONDS", 2 * LONGEST_SECONDS)
    watchdog.give_up("follower", "has ended")
    for step in steps:
        getattr(watchdog, step)()
        time.sleep(0.2)
    eventually(lambda: "watchdog" not in [thread.name for thread in threading.enumerate()])
    assert not ended.is_set()


@PATIENT
def test_what_beats_may_take_its_time(watchdog, ended, pool):
    def long_work():
        while not pool.gate.wait(STALL / 6):
            heartbeat()

    watchdog.start()
    pool.submit(long_work)
    assert not ended.wait(4.0)


@PATIENT
def test_a_long_queue_that_moves_is_no_trouble(watchdog, ended, pool):
    watchdog.start()
    last = [pool.submit(time.sleep, 0.2) for _ in range(30)][-1]
    last.result(LONGEST_SECONDS)
    assert not ended.is_set()
    # The work before the last one may end after it.
    eventually(lambda: pool.silent_seconds() == 0.0)


def test_a_thread_that_has_ended_is_seen(pool):
    def crash():
        raise SystemExit("as a fault of the pool itself")

    pool.submit(time.sleep, 0).result(5)
    assert pool.silent_seconds() == 0.0
    pool._work_queue.put(SimpleNamespace(run=crash))
    eventually(lambda: pool.silent_seconds() == STOPPED)


def test_cancelled_work_leaves_nothing(pool):
    running = [pool.submit(pool.gate.wait, 5) for _ in range(2)]
    assert pool.submit(lambda: None).cancel()
    pool.gate.set()
    for thread in running:
        thread.result(5)
    eventually(lambda: pool.silent_seconds() == 0.0)


def test_a_heartbeat_counts_for_its_own_thread_alone(pool):
    begun = threading.Event()

    def hang():
        begun.set()
        pool.gate.wait(LONGEST_SECONDS)

    hangs = pool.submit(hang)
    assert begun.wait(LONGEST_SECONDS)
    beats = pool.submit(lambda: [heartbeat() for _ in range(8) if not time.sleep(0.05)])
    beats.result(LONGEST_SECONDS)
    assert pool.silent_seconds() > 0.3
    pool.gate.set()
    hangs.result(LONGEST_SECONDS)


def _background(monkeypatch, watchdog, ended, **replaced):
    """Run the background work of an empty service until the process would end."""

    async def nothing(*_):
        return None

    async def wait(*_):
        await asyncio.sleep(60)

    names = ("work_on_jobs", "compact_indexes", "repeat", "repeat_alone")
    names += ("keep_lists", "keep_tracks", "keep_cameras", "send_deliveries", "keep_checked")
    names += ("_keep_reserve",)
    fits = {"refit_calibrations": wait, "fit_galleries": wait}
    fits |= {name: replaced.pop(name) for name in fits.keys() & replaced}
    works = {"clear_files": nothing, "clear_exports": nothing, **dict.fromkeys(names, wait)}
    for name, work in {**works, **replaced}.items():
        monkeypatch.setattr(maintenance, name, work)
    settings = SimpleNamespace(
        stall_seconds=STALL, backup_dir=None, data_dir=Path("/nowhere"), housekeeping_seconds=1.0
    )
    database = SimpleNamespace(work_lock=lambda work: FileWorkLock(Path(work)), machine=None)
    runtime = SimpleNamespace(
        watchdog=watchdog,
        settings=settings,
        keys=None,
        record=SimpleNamespace(database=database),
        galleries=None,
        fitter=SimpleNamespace(**fits),
        centring=SimpleNamespace(keep_centred=wait),
        learner=SimpleNamespace(learn_all=wait),
        pools=SimpleNamespace(files=None, locks=None),
        audit=SimpleNamespace(write_lines=wait),
        shared=None,
        checked=True,
    )

    async def serve():
        async with maintenance.background_work(runtime):
            async with asyncio.timeout(LONGEST_SECONDS):
                while not ended.is_set():
                    await asyncio.sleep(0.02)

    asyncio.run(serve())


@PATIENT
@pytest.mark.parametrize(
    ("name", "stage"), [("work_on_jobs", "job runner"), ("refit_calibrations", "calibration")]
)
def test_background_work_that_has_ended_ends_the_process_and_the_log_has_the_reason(
    monkeypatch, watchdog, ended, name, stage, caplog
):
    async def end(*_):
        raise RuntimeError("a bug")

    _background(monkeypatch, watchdog, ended, **{name: end})
    assert ended.status == EXIT_STATUS
    assert watchdog.trouble.partition(":")[0] == stage
    (error,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert error.getMessage() == f"{stage} has ended"
    assert str(error.exc_info[1]) == "a bug"


@pytest.mark.parametrize("error", [StorageFailed("full"), RuntimeError("a bug")])
async def test_what_fails_in_maintenance_or_a_job_does_not_end_it(error, tmp_path):
    rounds = []

    async def fail():
        rounds.append(1)
        raise error

    lock = FileWorkLock(tmp_path / "maintenance.lock")
    pool = MonitoredThreadPool(1, "locks")
    working = asyncio.create_task(repeat_alone(lock, pool, 0.02, fail))
    async with asyncio.timeout(20):
        while len(rounds) < 3:
            assert not working.done()
            await asyncio.sleep(0.02)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    pool.shutdown()


def test_a_disk_on_which_nothing_can_be_locked_is_named(tmp_path):
    with pytest.raises(ServiceError, match="in the data directory could not be locked"):
        FileWorkLock(tmp_path / "gone" / "jobs.lock").acquire()


class LostLock(WorkLock):
    """A lock that another process takes over at once."""

    beat_seconds = 0.02

    def acquire(self):
        return True

    def keep(self):
        return False

    def release(self):
        pass


async def test_work_ends_once_another_process_may_do_it():
    ended = []

    async def work():
        try:
            await asyncio.sleep(LONGEST_SECONDS)
        finally:
            ended.append(WORKS_BY.get())

    lock = LostLock("jobs")
    pool = MonitoredThreadPool(1, "locks")
    working = asyncio.create_task(repeat_alone(lock, pool, 0.02, work))
    async with asyncio.timeout(20):
        while len(ended) < 2:
            assert not working.done()
            await asyncio.sleep(0.02)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    pool.shutdown()
    # It works by the lock, by which the record tells it from its successor.
    assert set(ended) == {lock}
