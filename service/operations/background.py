"""What goes on beside the requests: jobs, and keeping house."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from service.gallery.job_records import JobKind
from service.operations.housekeeping import keep_house, remove_strays
from service.operations.import_crops import run_import
from service.operations.jobs import DoJob, work_on_jobs
from service.operations.reindex import run_reindex
from service.runtime import Runtime

JOBS: Mapping[JobKind, DoJob] = {"import": run_import, "reindex": run_reindex}


@asynccontextmanager
async def background_work(runtime: Runtime) -> AsyncIterator[None]:
    """Works on jobs and keeps house while the block runs; what is cut off goes on at next start."""
    await remove_strays(runtime)
    tasks = [
        asyncio.create_task(work_on_jobs(runtime, JOBS)),
        asyncio.create_task(keep_house(runtime)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
