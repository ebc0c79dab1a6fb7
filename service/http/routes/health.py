"""`/livez`, `/readyz`, `/metrics`: for those who run the service."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from typing import Annotated

from fastapi import Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from gmn_client.models import Alive, Ready
from service.errors import ServiceError
from service.http.guard import guarded_router, needs
from service.record.restoring import own_backups
from service.runtime import Call, Runtime

# A disk that hangs holds up no scrape, which is given up after ten seconds.
RECORD_WITHIN_SECONDS = 2.0
router = guarded_router("", "health")


async def _working(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    if runtime.watchdog.trouble is not None:
        raise HTTPException(
            503,
            f"{runtime.watchdog.trouble}; this process is about to end, see to it that something "
            "starts it again",
            {"Retry-After": "10"},
        )
    return runtime


Working = Annotated[Runtime, Depends(_working)]
Scraper = Annotated[Call, needs("metrics", every_gallery=True)]


@router.get("/livez")
async def livez(_: Working) -> Alive:
    """Answers 200 while the process works; one that does not ends itself within seconds."""
    return Alive()


@router.get("/readyz")
async def readyz(runtime: Working) -> Ready:
    """Answers 200 while searches can be answered, also while the record does not answer."""
    galleries = runtime.galleries.all()
    needs_reindex = sum(gallery.needs_reindex for gallery in galleries)
    return Ready(
        galleries={"ready": len(galleries) - needs_reindex, "needs_reindex": needs_reindex},
        record=runtime.galleries.record_state,
        index="ready" if runtime.index_up else "unavailable",
    )


@router.get("/metrics", response_class=Response)
async def metrics(call: Scraper) -> Response:
    """Answers the metrics in the Prometheus text format."""
    runtime = call.runtime
    shown = runtime.metrics
    # A deleted gallery leaves no last value behind.
    shown.gallery_crops.clear()
    shown.gallery_version.clear()
    for gallery in runtime.galleries.all():
        shown.gallery_crops.labels(gallery.name).set(gallery.crops)
        shown.gallery_version.labels(gallery.name).set(gallery.version)
    for check in runtime.watchdog.checks:
        shown.stage_silent_seconds.labels(check.name).set(check.silent_seconds())
    record = runtime.galleries.record_state
    shown.record_up.set(record.up)
    shown.index_up.set(runtime.index_up)
    shown.redis_up.set(runtime.shared is None or runtime.shared.is_up)
    shown.follower_lag.set(record.lag)
    shown.follower_lag_seconds.set(record.lag_seconds)
    disk = shutil.disk_usage(runtime.settings.data_dir)
    shown.disk_bytes.set(disk.total)
    shown.disk_free_bytes.set(disk.free)
    # While the record does not answer, its last values are shown.
    with contextlib.suppress(ServiceError, TimeoutError):
        async with asyncio.timeout(RECORD_WITHIN_SECONDS):
            await runtime.galleries.read(_show_record, runtime)
    return Response(shown.text(), media_type=CONTENT_TYPE_LATEST)


def _show_record(runtime: Runtime) -> None:
    shown = runtime.metrics
    shown.record_bytes.set(runtime.record.database.stored_bytes())
    jobs = Counter(job.state for job in runtime.record.jobs.open())
    for state in ("queued", "running"):
        shown.jobs.labels(state).set(jobs[state])
    if folder := runtime.settings.backup_dir:
        shown.backup_every.set(runtime.settings.backup_every * 3600)
        newest = next(own_backups(folder, runtime.record.database), None)
        shown.backup_time.set(newest.taken_at.timestamp() if newest else 0.0)
    states = {
        gallery.name: runtime.calibrations.current(gallery, None)
        .as_state(gallery.index.identities())
        .state
        for gallery in runtime.galleries.all()
        if not gallery.needs_reindex
    }
    shown.gallery_calibration.clear()
    for name, state in states.items():
        shown.gallery_calibration.labels(name, state).set(1)
