"""`/livez`, `/readyz`, `/metrics`: for those who run the service."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from gmn_client.answers import Alive, Ready
from service.http.dependencies import RuntimeDep, refusals
from service.http.security import needs
from service.runtime import Runtime

RETRY_AFTER_SECONDS = "10"
router = APIRouter(tags=["health"])


@router.get("/livez", responses=refusals(open_to_all=True))
async def livez(runtime: RuntimeDep) -> Alive:
    """Whether the process works; where it does not, it ends by itself within seconds."""
    _refuse_in_trouble(runtime)
    return Alive()


@router.get("/readyz", responses=refusals(open_to_all=True))
async def readyz(runtime: RuntimeDep) -> Ready:
    """Whether to send requests here: also while the record does not answer, as searches do."""
    _refuse_in_trouble(runtime)
    galleries = runtime.galleries.all()
    broken = [gallery.name for gallery in galleries if not gallery.in_step]
    if broken:
        raise HTTPException(
            503, f"the index of {', '.join(broken)} fell behind the record; restart the service"
        )
    return Ready(
        galleries={
            gallery.name: "needs_reindex" if gallery.needs_reindex else "ready"
            for gallery in galleries
        },
        record=runtime.galleries.record_state,
    )


@router.get(
    "/metrics",
    response_class=Response,
    responses=refusals(),
    dependencies=[needs("metrics", every_gallery=True, loopback_may=True)],
)
async def metrics(runtime: RuntimeDep) -> Response:
    """In the Prometheus text format."""
    # A deleted gallery leaves no last value behind.
    runtime.metrics.gallery_crops.clear()
    runtime.metrics.gallery_version.clear()
    for gallery in runtime.galleries.all():
        runtime.metrics.gallery_crops.labels(gallery.name).set(gallery.crops)
        runtime.metrics.gallery_version.labels(gallery.name).set(gallery.version)
    for stage in runtime.watchdog.stages:
        silent = runtime.metrics.stage_silent_seconds.labels(stage.name)
        silent.set(stage.silent_seconds())
    record = runtime.galleries.record_state
    runtime.metrics.record_up.set(record.up)
    runtime.metrics.follower_lag.set(record.lag)
    runtime.metrics.follower_lag_seconds.set(record.lag_seconds)
    return Response(runtime.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _refuse_in_trouble(runtime: Runtime) -> None:
    trouble = runtime.watchdog.trouble
    if trouble is not None:
        raise HTTPException(
            503,
            f"{trouble}; this process is about to end, see to it that something starts it again",
            {"Retry-After": RETRY_AFTER_SECONDS},
        )
