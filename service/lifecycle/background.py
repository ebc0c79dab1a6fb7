"""What goes on beside the requests: jobs, maintenance, calibrations, and the watch over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from gmn_client.models import JobKind
from service.jobs.imports import run_import
from service.jobs.reindex import run_reindex
from service.jobs.runner import DoJob, work_on_jobs
from service.lifecycle.maintenance import remove_strays, run_maintenance
from service.ops.pulse import DEAD, Pulse, Stage
from service.runtime import Runtime
from service.search.refit import refit_calibrations

JOBS: Mapping[JobKind, DoJob] = {"import": run_import, "reindex": run_reindex}
BEATS_PER_STALL = 8
LONGEST_PAUSE_SECONDS = 1.0
# A step of a job may wait for a long step of another job, or for a slow disk.
PATIENCE = 30.0


@asynccontextmanager
async def background_work(runtime: Runtime) -> AsyncIterator[None]:
    """Works on jobs, keeps house and calibrates while the block runs.

    What is cut off goes on at the next start.

    A part of the service that ends or hangs meanwhile ends the process.
    """
    await remove_strays(runtime)
    pause = min(LONGEST_PAUSE_SECONDS, runtime.settings.stall_seconds / BEATS_PER_STALL)
    tasks = [
        _watched(runtime, "event loop", lambda pulse: _beat(pulse, pause), patience=1.0),
        _watched(runtime, "job runner", lambda pulse: work_on_jobs(runtime, JOBS, pulse)),
        _watched(runtime, "maintenance", lambda pulse: run_maintenance(runtime, pulse)),
        _watched(runtime, "calibration", lambda pulse: refit_calibrations(runtime, pulse)),
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
    begin: Callable[[Pulse], Coroutine[Any, Any, None]],
    patience: float = PATIENCE,
) -> asyncio.Task[None]:
    pulse = Pulse()

    async def work() -> None:
        with pulse.working():
            await begin(pulse)

    task = asyncio.create_task(work(), name=name)

    def silent_seconds() -> float:
        return DEAD if task.done() else pulse.silent_seconds()

    runtime.watchdog.watch(Stage(name, silent_seconds, patience=patience))
    return task


async def _beat(pulse: Pulse, pause: float) -> None:
    while True:
        pulse.beat()
        await asyncio.sleep(pause)
