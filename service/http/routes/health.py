"""`/livez`, `/readyz`, `/metrics`: for those who run the service."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from gmn_client.models import Alive, Ready
from service.http.guard import Call, guarded_router, needs
from service.runtime import Runtime

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
Scraper = Annotated[Call, needs("metrics", every_gallery=True, loopback_may=True)]


@router.get("/livez")
async def livez(_: Working) -> Alive:
    """Answers 200 while the process works; one that does not ends itself within seconds."""
    return Alive()


@router.get("/readyz")
async def readyz(runtime: Working) -> Ready:
    """Answers 200 while searches can be answered, also while the record does not answer."""
    galleries = runtime.galleries.all()
    behind = sum(not gallery.consistent for gallery in galleries)
    if behind:
        state = "are behind the record and are being read again; the log names them"
        raise HTTPException(503, f"the indexes of {behind} galleries {state}")
    needs_reindex = sum(gallery.needs_reindex for gallery in galleries)
    return Ready(
        galleries={"ready": len(galleries) - needs_reindex, "needs_reindex": needs_reindex},
        record=runtime.galleries.record_state,
        index="unavailable" if runtime.outside and not runtime.outside.up else "ready",
    )


@router.get("/metrics", response_class=Response)
async def metrics(call: Scraper) -> Response:
    """Metrics in the Prometheus text format."""
    runtime = call.runtime
    # A deleted gallery leaves no last value behind.
    runtime.metrics.gallery_crops.clear()
    runtime.metrics.gallery_version.clear()
    for gallery in runtime.galleries.all():
        runtime.metrics.gallery_crops.labels(gallery.name).set(gallery.crops)
        runtime.metrics.gallery_version.labels(gallery.name).set(gallery.version)
    for check in runtime.watchdog.checks:
        silent = runtime.metrics.stage_silent_seconds.labels(check.name)
        silent.set(check.silent_seconds())
    record = runtime.galleries.record_state
    runtime.metrics.record_up.set(record.up)
    runtime.metrics.index_up.set(runtime.outside is None or runtime.outside.up)
    runtime.metrics.follower_lag.set(record.lag)
    runtime.metrics.follower_lag_seconds.set(record.lag_seconds)
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)
