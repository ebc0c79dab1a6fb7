"""The watchdog: what ends or hangs ends the process, and what takes its time does not."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service import maintenance
from service.errors import StorageFailed
from service.http.routes.operation import router
from service.ops import threads
from service.ops.critical_sections import repeat_alone
from service.ops.threads import (
    EXIT_STATUS,
    STOPPED,
    HealthCheck,
    MonitoredThreadPool,
    Watchdog,
    heartbeat,
)
from tests.waiting import eventually

STALL = 0.3


class Ended:
    """Stands in for the end of the process, which a test would not survive."""

    def __init__(self):
        self.status = None
        self._happened = threading.Event()

    def __call__(self, status):
        self.status = status
        self._happened.set()

    def within(self, seconds):
        return self._happened.wait(seconds)


@pytest.fixture
def ended(monkeypatch):
    one = Ended()
    monkeypatch.setattr(threads.os, "_exit", one)
    monkeypatch.setattr(threads, "EXIT_GRACE_SECONDS", 0.2)
    return one


@pytest.fixture
def watchdog(ended):
    one = Watchdog(STALL)
    yield one
    one.stop()


@pytest.fixture
def pool():
    gate = threading.Event()
    one = MonitoredThreadPool(2, "test")
    one.gate = gate
    yield one
    gate.set()
    one.shutdown()


def test_a_stage_that_hangs_is_named_and_ends_the_process(watchdog, ended, pool, caplog):
    watchdog.checks += [
        HealthCheck("well", lambda: 0.0),
        HealthCheck("record writer", pool.silent_seconds),
    ]
    watchdog.start()
    assert not ended.within(0.6)
    pool.submit(pool.gate.wait, 20)
    assert ended.within(3)
    assert ended.status == EXIT_STATUS
    assert watchdog.trouble.partition(":")[0] == "record writer"
    criticals = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
    assert len(criticals) == 1
    assert "record writer: sent no heartbeat" in criticals[0]


def test_a_stage_that_has_ended_ends_the_process_at_once(watchdog, ended):
    watchdog.checks.append(HealthCheck("follower", lambda: STOPPED, 1000.0))
    watchdog.start()
    assert ended.within(1)
    assert watchdog.trouble == "follower: has ended"


def test_in_trouble_livez_and_readyz_are_503_and_name_the_stage(watchdog, ended):
    watchdog.give_up("device thread", "CUDA error: an illegal memory access was encountered")
    app = FastAPI()
    app.include_router(router)
    app.state.runtime = SimpleNamespace(watchdog=watchdog)
    for probe in ("/livez", "/readyz"):
        refused = TestClient(app).get(probe)
        assert refused.json()["detail"].startswith("device thread: CUDA error")
        assert refused.status_code == 503
        assert "Retry-After" in refused.headers
    begun = time.monotonic()
    watchdog.start()
    assert ended.within(1)
    assert time.monotonic() - begun >= 0.2, "livez has no time to tell"


def test_a_service_that_is_stopping_is_not_killed(watchdog, ended):
    watchdog.checks.append(HealthCheck("device thread", lambda: STOPPED))
    watchdog.stop()
    watchdog.start()
    assert not ended.within(0.6)


def test_a_service_that_begins_to_stop_during_the_farewell_is_left_to_it(
    watchdog, ended, monkeypatch
):
    monkeypatch.setattr(threads, "EXIT_GRACE_SECONDS", 1.0)
    watchdog.give_up("follower", "has ended")
    watchdog.start()
    time.sleep(0.2)
    watchdog.stop()
    assert not ended.within(1.5)


def test_what_beats_may_take_its_time(watchdog, ended, pool):
    def long_work():
        while not pool.gate.wait(STALL / 6):
            heartbeat()

    watchdog.checks.append(HealthCheck("pool", pool.silent_seconds))
    watchdog.start()
    pool.submit(long_work)
    assert not ended.within(4 * STALL)


def test_a_long_queue_that_moves_is_no_trouble(watchdog, ended, pool):
    watchdog.checks.append(HealthCheck("pool", pool.silent_seconds))
    watchdog.start()
    last = [pool.submit(time.sleep, STALL / 5) for _ in range(30)][-1]
    assert not ended.within(4 * STALL)
    last.result(5)
    assert pool.silent_seconds() == 0.0


def test_a_thread_that_has_ended_is_seen(pool):
    def crash():
        raise SystemExit("as a fault of the pool itself")

    pool.submit(time.sleep, 0).result(5)
    assert pool.silent_seconds() == 0.0
    pool._work_queue.put(SimpleNamespace(run=crash))
    eventually(lambda: pool.silent_seconds() == STOPPED)


def test_cancelled_work_leaves_nothing(pool):
    running = [pool.submit(pool.gate.wait, 5) for _ in range(2)]
    waiting = pool.submit(lambda: None)
    assert waiting.cancel()
    pool.gate.set()
    for thread in running:
        thread.result(5)
    eventually(lambda: pool.silent_seconds() == 0.0)


def test_a_heartbeat_counts_for_its_own_thread_alone(pool):
    hangs = pool.submit(pool.gate.wait, 5)
    beats = pool.submit(lambda: [heartbeat() for _ in range(8) if not time.sleep(0.05)])
    beats.result(5)
    assert pool.silent_seconds() > 0.3
    pool.gate.set()
    hangs.result(5)


def _background(monkeypatch, watchdog, **replaced):
    """Run the background work of an empty service until the process would end, or for 1.5 s."""

    async def nothing(*_):
        return None

    async def wait(*_):
        await asyncio.sleep(60)

    work = {"clear_files": nothing, "work_on_jobs": wait, "run_maintenance": wait}
    work |= {"refit_calibrations": wait, "fit_galleries": wait, "compact_indexes": wait}
    work |= {"keep_lists": wait, "keep_tracks": wait, "send_deliveries": wait}
    work |= {"repeat": wait, "repeat_alone": wait, **replaced}
    for name, seconds in work.items():
        monkeypatch.setattr(maintenance, name, seconds)
    settings = SimpleNamespace(
        stall_seconds=STALL, backup_dir=None, data_dir=Path("/nowhere"), housekeeping_seconds=1.0
    )
    runtime: Any = SimpleNamespace(
        watchdog=watchdog,
        settings=settings,
        keys=None,
        audit=SimpleNamespace(flush_waiting=None),
        shared=None,
        checked=True,
    )

    async def serve():
        async with maintenance.background_work(runtime):
            await asyncio.sleep(1.5)

    asyncio.run(serve())


def test_idle_background_work_is_no_trouble(monkeypatch, watchdog, ended):
    _background(monkeypatch, watchdog)
    assert ended.status is None
    names = [check.name for check in watchdog.checks]
    assert names == [
        *("event loop", "heartbeat", "audit lines", "key reader", "job runner", "maintenance"),
        *("calibration", "gallery fits", "compaction"),
        *("watch lists", "tracks", "webhooks"),
    ]


@pytest.mark.parametrize(
    ("name", "stage"), [("work_on_jobs", "job runner"), ("refit_calibrations", "calibration")]
)
def test_background_work_that_has_ended_ends_the_process_and_the_log_has_the_reason(
    monkeypatch, watchdog, ended, name, stage, caplog
):
    async def end(*_):
        raise RuntimeError("a bug")

    _background(monkeypatch, watchdog, **{name: end})
    assert ended.status == EXIT_STATUS
    assert watchdog.trouble.partition(":")[0] == stage
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [error.getMessage() for error in errors] == [f"{stage} has ended"]
    assert str(errors[0].exc_info[1]) == "a bug"


def test_a_job_that_hangs_in_a_thread_ends_the_process(monkeypatch, watchdog, ended):
    # An hour, else.
    monkeypatch.setattr(threads, "LONG_WORK_FACTOR", 1.0)
    pools = threads.BlockingPools()
    watchdog.checks += [pool.health_check for pool in pools.all()]

    async def hang(*_):
        await pools.imports.run(time.sleep, 1.2)

    _background(monkeypatch, watchdog, work_on_jobs=hang)
    assert watchdog.trouble.partition(":")[0] == "imports threads"


@pytest.mark.parametrize("error", [StorageFailed("full"), RuntimeError("a bug")])
def test_what_fails_in_maintenance_or_a_job_does_not_end_it(monkeypatch, error, tmp_path):
    from service.jobs import runner

    rounds = []

    async def fail(*_):
        rounds.append(1)
        raise error

    monkeypatch.setattr(runner, "_work_on", fail)
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.02)
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.02)

    async def write(*_):
        return SimpleNamespace(job_id="1", key_id=None)

    runtime: Any = SimpleNamespace(
        jobs_wanted=asyncio.Event(),
        settings=SimpleNamespace(data_dir=tmp_path),
        galleries=SimpleNamespace(write=write, read=write),
        record=SimpleNamespace(jobs=SimpleNamespace(claim=None, open=None)),
    )

    async def run(work):
        rounds.clear()
        working = asyncio.create_task(work)
        async with asyncio.timeout(20):
            while len(rounds) < 3 and not working.done():
                await asyncio.sleep(0.02)
        assert not working.done()
        working.cancel()

    asyncio.run(run(repeat_alone(tmp_path / "maintenance.lock", 0.02, fail)))
    asyncio.run(run(runner.work_on_jobs(runtime, {})))
