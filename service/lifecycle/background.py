"""What goes on beside the requests: jobs, maintenance, calibrations, and the watch over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gmn_client.models import JobKind
from service.jobs.imports import run_import
from service.jobs.reindex import run_reindex
from service.jobs.runner import DoJob, work_on_jobs
from service.lifecycle.maintenance import remove_strays, run_maintenance
from service.ops.health import STOPPED, HealthCheck, Heartbeat, heartbeat
from service.runtime import Runtime
from service.search.refit import refit_calibrations

JOBS: Mapping[JobKind, DoJob] = {"import": run_import, "reindex": run_reindex}
BEATS_PER_STALL = 8
LONGEST_PAUSE_SECONDS = 5.0
# A new or revoked key takes effect within a second.
KEYS_PAUSE_SECONDS = 0.8
# A record that does not answer is given up after less.
READING_SECONDS = 45.0
# A step of a job may wait for a long step of another job, or for a slow disk.
TIMEOUT_FACTOR = 30.0


@asynccontextmanager
async def background_work(runtime: Runtime) -> AsyncIterator[None]:
    """Runs jobs, maintenance, calibration and the watchdog while the block runs.

    Work that is cut off goes on at the next start.
    """
    await remove_strays(runtime)
    pause = min(LONGEST_PAUSE_SECONDS, runtime.settings.stall_seconds / BEATS_PER_STALL)
    tasks = [
        _watched(runtime, "event loop", _send_heartbeats(pause), timeout_factor=1.0),
        _watched(runtime, "key reader", read_keys(runtime), 1.0, READING_SECONDS),
        _watched(runtime, "job runner", work_on_jobs(runtime, JOBS)),
        _watched(runtime, "maintenance", run_maintenance(runtime)),
        _watched(runtime, "calibration", refit_calibrations(runtime)),
    ]
    runtime.watchdog.start()
    try:
        yield
    finally:
        await asyncio.to_thread(runtime.watchdog.stop)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _watched(
    runtime: Runtime,
    name: str,
    work: Coroutine[Any, Any, None],
    timeout_factor: float = TIMEOUT_FACTOR,
    min_timeout_s: float = 0.0,
) -> asyncio.Task[None]:
    own = Heartbeat()

    async def run() -> None:
        with own.working():
            await work

    task = asyncio.create_task(run(), name=name)

    def silent_seconds() -> float:
        return STOPPED if task.done() else own.silent_seconds()

    runtime.watchdog.checks.append(HealthCheck(name, silent_seconds, min_timeout_s, timeout_factor))
    return task


async def read_keys(runtime: Runtime) -> None:
    """Reads the API keys again every second until it is cancelled."""
    while True:
        await asyncio.sleep(KEYS_PAUSE_SECONDS)
        await asyncio.to_thread(runtime.keys.read)
        heartbeat()


async def _send_heartbeats(pause: float) -> None:
    while True:
        heartbeat()
        await asyncio.sleep(pause)
