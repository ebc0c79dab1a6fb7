"""`/livez`, `/readyz`, `/metrics`, `/v1/doctor` and `/v1/keys`, for operators."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, get_args

from fastapi import Depends, Path, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BeforeValidator, Field
from starlette.exceptions import HTTPException

from gmn_client.models import Alive, DeliveryState, Diagnosis, Keys, NewKey, Ready, Scope
from service import api_keys
from service.checks import describe_settings, examine_running
from service.errors import RecordLacksCommits, ServiceError
from service.http.fields import MAX_NAMES, Name, split_names
from service.http.forms import Form, GalleryName, Sent
from service.http.guard import guarded_router, needs
from service.http.problems import problems
from service.runtime import Call, Runtime
from service.store.backup import own_backups, taken_at
from service.watch.active import ListState
from service.watch.tables.cameras import CAMERA_STATES

# A disk that hangs must not delay a scrape, which times out after ten seconds.
RECORD_WITHIN_SECONDS = 2.0
UNREACHABLE = "this machine does not reach the record"
router = guarded_router("", "health")
doctor_router = guarded_router("/v1/doctor", "health")
key_router = guarded_router("/v1/keys", "keys")


async def _require_working(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    if runtime.watchdog.trouble is not None:
        raise HTTPException(
            503,
            f"{runtime.watchdog.trouble}; this process is about to end, see to it that something "
            "starts it again",
            {"Retry-After": "10"},
        )
    return runtime


Working = Annotated[Runtime, Depends(_require_working)]
Scraper = Annotated[Call, needs("metrics", every_gallery=True)]


@router.get("/livez")
async def livez(_: Working) -> Alive:
    """Answers 200 while the process works; a process that stalls ends itself within seconds."""
    return Alive()


@router.get("/readyz")
async def readyz(runtime: Working) -> Ready:
    """Answers 200 once every gallery is loaded, even if the record does not respond.

    Of several machines that share a record, one that does not reach it answers 503, so that a proxy
    asks the others. `record` and `audit_log` tell whether writes or searches are refused,
    `watch_lists` whether armed lists are compared as they should be, and `damaged_crops` how many
    crops this process leaves out because they are damaged; gmn doctor names both.
    """
    is_one_of_several = runtime.record.database.machine is not None
    state = runtime.galleries.record_state
    if is_one_of_several and not state.up:
        why = RecordLacksCommits().why if state.state == "lacks_commits" else UNREACHABLE
        raise HTTPException(503, why, {"Retry-After": "1"})
    galleries = runtime.galleries.all()
    needs_reindex = sum(gallery.needs_reindex for gallery in galleries)
    return Ready(
        galleries={"ready": len(galleries) - needs_reindex, "needs_reindex": needs_reindex},
        record=runtime.galleries.record_state,
        index="ready" if runtime.index_up else "unavailable",
        audit_log="ready" if runtime.audit.is_writable else "unavailable",
        watch_lists="impaired" if runtime.watch.lists.find_impaired() else "ready",
        damaged_crops=len(runtime.record.database.damaged),
        record_problems=len(runtime.record.database.problems),
    )


@router.get("/metrics", response_class=Response)
async def metrics(call: Scraper) -> Response:
    """Returns the metrics in the Prometheus text format."""
    runtime = call.runtime
    shown = runtime.metrics
    # Drops the last values of deleted galleries.
    shown.gallery_crops.clear()
    shown.gallery_version.clear()
    for gallery in runtime.galleries.all():
        shown.gallery_crops.labels(gallery.name).set(gallery.crops)
        shown.gallery_version.labels(gallery.name).set(gallery.version)
    indexes = [gallery.own_index for gallery in runtime.galleries.all() if gallery.own_index]
    shown.device_gallery_bytes.set(sum(index.device_bytes for index in indexes))
    budget = runtime.placement.budget_bytes if runtime.placement else 0
    shown.device_gallery_budget_bytes.set(budget)
    for check in runtime.watchdog.checks:
        shown.stage_silent_seconds.labels(check.name).set(check.silent_seconds())
    record = runtime.galleries.record_state
    shown.record_up.set(record.up)
    shown.index_up.set(runtime.index_up)
    shown.redis_up.set(runtime.shared is None or runtime.shared.is_up)
    shown.follower_lag.set(record.lag)
    shown.follower_lag_seconds.set(record.lag_seconds)
    lists = runtime.watch.lists.count_by_state()
    for list_state in get_args(ListState):
        shown.watch_lists.labels(list_state).set(lists[list_state])
    disk = shutil.disk_usage(runtime.settings.data_dir)
    shown.disk_bytes.set(disk.total)
    shown.disk_free_bytes.set(disk.free)
    # While the record does not respond, the last values are shown.
    with contextlib.suppress(ServiceError, TimeoutError):
        async with asyncio.timeout(RECORD_WITHIN_SECONDS):
            await runtime.galleries.read(_show_record, runtime, list(runtime.keys.valid_keys()))
    return Response(shown.text(), media_type=CONTENT_TYPE_LATEST)


def _show_record(runtime: Runtime, key_ids: Sequence[str]) -> None:
    shown = runtime.metrics
    shown.record_bytes.set(runtime.record.database.stored_bytes())
    shown.damaged_crops.set(sum(map(len, runtime.record.damaged_crops().values())))
    shown.record_problems.set(len(runtime.record.database.problems))
    shown.audit_newest_line.set(runtime.audit.newest_line())
    jobs = Counter(job.state for job in runtime.record.jobs.open())
    for state in ("queued", "running"):
        shown.jobs.labels(state).set(jobs[state])
    deliveries = runtime.watch.webhooks.count_by_state()
    for delivery_state in get_args(DeliveryState):
        shown.webhook_deliveries.labels(delivery_state).set(deliveries.get(delivery_state, 0))
    cameras = runtime.watch.cameras.count_by_state(key_ids)
    for camera_state in CAMERA_STATES:
        shown.cameras.labels(camera_state).set(cameras.get(camera_state, 0))
    shown.camera_clock.clear()
    for key_id, camera, ahead_seconds in runtime.watch.cameras.clocks(key_ids):
        shown.camera_clock.labels(key_id, camera).set(ahead_seconds)
    if folder := runtime.settings.backup_dir:
        shown.backup_every.set(runtime.settings.backup_every * 3600)
        newest = next(own_backups(folder, runtime.record.database), None)
        shown.backup_time.set(taken_at(newest).timestamp() if newest else 0.0)
    shown.gallery_calibration.clear()
    shown.doubtful_crops.clear()
    doubtful = runtime.doubtful.counts()
    for gallery in runtime.galleries.all():
        shown.doubtful_crops.labels(gallery.name).set(doubtful.get(gallery.gallery_id, 0))
        if not gallery.needs_reindex:
            current = runtime.calibrations.current(gallery, None)
            fitted = current.as_state(gallery.index.identities().total)
            shown.gallery_calibration.labels(gallery.name, fitted.state).set(1)


# A key limited to one gallery may not create keys: they could outlive it or open others.
Administrator = Annotated[Call, needs("admin", every_gallery=True)]
# Refuse a complete key in this place, before the audit log could contain it.
KeyId = Annotated[
    str, Path(max_length=32, pattern=f"^{api_keys.KEY_ID}$", description="A key's id.")
]


@doctor_router.get("")
async def doctor(call: Administrator) -> Diagnosis:
    """Checks settings, state, runtime, disk, clock, record, keys, backups, device and artefact.

    The process that answers checks itself, as `gmn doctor` does with files alone; it changes
    nothing.
    """
    runtime = call.runtime
    findings = await runtime.pools.files.run(examine_running, runtime)
    return Diagnosis(
        ok=all(finding.state != "error" for finding in findings),
        settings=describe_settings(runtime.settings),
        findings=findings,
    )


class NewKeyForm(Form):
    """An API key to create."""

    scopes: Annotated[
        tuple[Scope, ...], BeforeValidator(api_keys.chosen_scopes), BeforeValidator(split_names)
    ] = Field(examples=[["query"]], json_schema_extra={"minItems": 1, "maxItems": MAX_NAMES})
    """What it may do; `admin` may do everything. Repeated or comma-separated."""
    gallery: GalleryName | None = None
    """The only gallery that it is for."""
    note: Name = ""
    """Whom it is for; listed, never sent."""
    learn: bool = True
    """Whether its searches count for the calibration of the galleries."""
    expires_days: int | None = Field(None, ge=1, le=36_500)
    """Days after which it is refused; never unless sent."""
    rate: int | None = Field(None, ge=1, le=1_000_000)
    """Requests a minute over all processes; any number unless sent."""
    rate_images: bool = False
    """The rate counts images, boxes of a frame too, in place of requests."""
    # A variable left empty by mistake would widen the rights of the key.
    never_empty = frozenset({"gallery", "expires_days", "rate"})


@key_router.get("")
async def list_keys(call: Administrator) -> Keys:
    """Lists the API keys, including those of GMN_API_KEYS_FILE, oldest first, without secrets."""
    ring = call.runtime.keys
    return Keys(results=await ring.threads.run(ring.listed))


@key_router.post("", status_code=201, responses=problems("key_conflict"))
async def create_key(call: Administrator, form: Sent[NewKeyForm]) -> NewKey:
    """Creates an API key; its text is answered only once, and only a hash is stored.

    It is valid at once in this process, and within a second in others. From the first key on, which
    must be an administrator's, every call needs a key.
    """
    runtime = call.runtime
    ring = runtime.keys
    key, text = api_keys.create_key(**dict(form))
    others = await runtime.audited.run(
        "create_key",
        lambda _: ring.threads.run(ring.add, key),
        key_id=key.key_id,
        scopes=",".join(key.scopes),
        gallery=key.gallery,
    )
    galleries = {gallery.name for gallery in runtime.galleries.all()}
    warnings = list(api_keys.warnings_about(key, others, galleries))
    return NewKey.model_validate(vars(key) | {"key": text, "warnings": warnings})


@key_router.delete("/{key_id}", status_code=204, responses=problems("key_conflict"))
async def delete_key(call: Administrator, key_id: KeyId) -> None:
    """Revokes an API key: at once in this process, and within a second in others.

    A call may revoke its own key, but not the last administrator's.
    """
    ring = call.runtime.keys
    await call.runtime.audited.run(
        "revoke_key", lambda _: ring.threads.run(ring.revoke, key_id), key_id=key_id
    )
