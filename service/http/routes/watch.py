"""Sightings, and the watch lists that they are compared with, with their alerts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from fastapi import Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from sse_starlette import EventSourceResponse

from gmn_client import models
from service.errors import (
    InvalidField,
    Unauthorised,
    UnknownAlert,
    UnknownPicture,
)
from service.http.forms import Form, Limit, Sent, SightingForm
from service.http.guard import Admin, Querier, Searcher, guarded_router, needs
from service.http.limits import KEEP_ALIVE_SECONDS, hold_stream
from service.http.problems import answer_each, content, example, problems, write_list
from service.http.thumbnails import PICTURE, Width, answer_picture
from service.record.values import Picture
from service.runtime import Call, GalleryCall, Runtime
from service.search.options import MAX_NAMES, Id, Moment, Text, split_names
from service.watch.lists import arm, fit_list, warn_if_broken
from service.watch.sightings import sight

sighting_router = guarded_router("/v1/sightings", "watch")
list_router = guarded_router("/v1/galleries/{gallery}/watch", "watch lists")
router = guarded_router("/v1/alerts", "alerts")
HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d")
LONGEST = timedelta(days=90)
# Time within which a proposed list can be armed.
CONFIRMED_WITHIN = timedelta(minutes=10)
# A stream ends within this time after its key was revoked, even without an alert.
KEY_CHECK_SECONDS = 1.0
# Largest integer of SQLite.
NEWEST = 2**63 - 1
ALERTS_AT_ONCE = 100
AlertId = Annotated[Id, Path(description="An alert's id.")]


@sighting_router.post(
    "",
    status_code=202,
    response_model=models.Sighted,
    responses={
        200: {"model": models.Sighted, "description": "With wait=true: the matches of each image."},
        202: example("Sighted"),
        207: {"model": models.Sighted, "description": "Some images were refused."},
    },
)
async def send_sightings(
    request: Request,
    call: Annotated[Call, needs("sight")],
    form: Sent[SightingForm],
) -> Response:
    """Compares crops with the armed lists that the key may access; a match raises an alert.

    Crops are not stored. Up to eight crops of a track are compared; a track ends ten seconds after
    its last crop, or after a minute. The answer follows once alerts are written, and has the
    matches with `wait`. A repeated request extends the same visits and raises no second alert.
    """
    runtime = call.runtime
    crops = await form.read_crops()
    runtime.admission.require_affordable(
        runtime.model.pipeline.cost(crops),
        "boxes" if form.boxes else "images",
        "fewer or smaller ones",
    )
    images = form.for_images(crops)
    answer = await sight(runtime, call.caller, images, request.state.received, wait=form.wait)
    return await answer_each(request, answer, 200 if form.wait else 202)


def _checked_hours(hours: str) -> str:
    if hours and not HOURS.fullmatch(hours):
        raise ValueError("is no time of day; write it like 22:00-06:00")
    return hours


def _checked_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name[:40]!r} is no time zone; write it like Europe/Zurich") from error
    return name


class WatchForm(models.WatchSettings, Form):
    """Settings of a list; a field that is left out has its default."""

    cameras: Annotated[list[Text], BeforeValidator(split_names)] = Field([], max_length=MAX_NAMES)
    """Only sightings of these cameras."""
    hours: Annotated[str, Field(max_length=16), AfterValidator(_checked_hours)] = ""
    """Only at this time of day, such as `22:00-06:00`."""
    time_zone: Annotated[str, Field(max_length=64), AfterValidator(_checked_zone)] = "UTC"
    """The time zone of `hours`, such as `Europe/Zurich`."""
    expires_at: Moment = Field(examples=["2026-03-31T00:00:00Z"])
    """End of the watch, at most 90 days ahead; RFC 3339, with time zone."""
    confirm: Annotated[str, Field(max_length=128)] | None = None
    """The token answered to the same settings; arms the list."""
    never_empty = frozenset({"confirm"})

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        now = datetime.now(UTC)
        if not now < self.expires_at <= now + LONGEST:
            raise InvalidField(
                f"expires_at: has to be in the future, at most {LONGEST.days} days ahead; send "
                "another time"
            )
        return self

    def settings(self) -> models.WatchSettings:
        return models.WatchSettings.model_validate(self.model_dump(exclude={"confirm"}))


class DisarmingForm(Form):
    """The end of a list."""

    reason: Text | None = None
    """Why; for the audit log."""


WITHOUT_REASON = DisarmingForm()


@list_router.put("", responses=problems("needs_reindex"))
async def watch_list(call: Admin, form: Sent[WatchForm]) -> models.WatchProposal | models.Watch:
    """Forecasts the alarms of a gallery as a watch list; with `confirm`, arms it.

    Without `confirm` nothing changes. The same settings with the `confirm` of the answer arm the
    list within ten minutes, as long as the forecast has the same basis. Settings of an armed list
    are changed in the same way.
    """
    runtime = call.runtime
    settings = form.settings()
    fitted = await fit_list(runtime, call.gallery, settings)
    signed = (call.gallery.gallery_id, settings.model_dump_json(), fitted.forecast.basis)
    if form.confirm is None:
        until = datetime.now(UTC) + CONFIRMED_WITHIN
        return models.WatchProposal(
            settings=settings,
            forecast=fitted.forecast,
            confirm=runtime.watches.sign(until, *signed),
            confirm_until=until,
        )
    if not runtime.watches.is_signed(form.confirm, *signed):
        raise InvalidField(
            "confirm: belongs to other settings, is older than ten minutes, or the basis of the "
            "forecast has changed; send the settings without it, read the forecast, and send both"
        )
    await runtime.audited(
        "arm_list",
        lambda _: arm(runtime, fitted, call.caller.key_id),
        gallery=call.gallery.name,
        reason=settings.reason,
        budget=settings.budget,
        expires_at=settings.expires_at.isoformat(),
    )
    return await _read_list(call)


@list_router.get("")
async def read_watch_list(call: Searcher) -> models.Watch:
    """Reads the state of a gallery as a watch list, its forecast, and counts of its alerts."""
    call.note_view("read_list")
    return await _read_list(call)


@list_router.delete("")
async def disarm_list(call: Admin, form: Sent[DisarmingForm] = WITHOUT_REASON) -> models.Watch:
    """Disarms a list; its alerts are kept for their retention, its people stay enrolled."""
    why = form.reason or f"the key {call.caller.key_id} did so"
    await call.runtime.audited(
        "disarm_list",
        lambda _: call.write(call.record.watches.disarm, why),
        gallery=call.gallery.name,
        reason=form.reason,
    )
    return await _read_list(call)


class AlertsQuery(Form):
    """Filters and page of the alerts that are listed."""

    gallery: Id | None = None
    """Only of this list."""
    identity: Text | None = None
    """Only about this person."""
    camera: Text | None = None
    """Only from this camera."""
    kind: models.AlertKind | None = None
    """Only of this kind."""
    state: models.AlertState | None = None
    """Only with this decision, or `open`."""
    cursor: int | None = Field(None, ge=1, le=NEWEST)
    """`next_cursor` of the page before."""
    limit: Limit = 100


class AlertReviewForm(Form):
    """A decision on an alert."""

    decision: Literal["confirmed", "rejected", "open"]
    """Whether it shows the person; `open` takes a decision back."""


@router.get("", response_model=models.Alerts, responses=problems("unknown_gallery"))
async def list_alerts(call: Querier, asked: Annotated[AlertsQuery, Query()]) -> Response:
    """Lists the alerts of the lists that the key may see, the newest first."""
    runtime = call.runtime
    limit = asked.limit
    gallery_id = await call.gallery_id(asked.gallery)
    found = await runtime.galleries.read(
        runtime.record.watches.alerts,
        limit + 1,
        gallery_id,
        asked.identity,
        asked.camera,
        asked.kind,
        asked.state,
        asked.cursor,
    )
    more = str(found[limit - 1].number) if len(found) > limit else None
    results = found[:limit]
    runtime.audit.note_view("list_alerts", gallery=asked.gallery, count=len(results))
    return await write_list(models.Alerts(results=results, next_cursor=more))


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses=content("text/event-stream", "Each alert, named by its kind."),
    dependencies=[Depends(hold_stream)],
)
async def follow_alerts(
    call: Querier,
    last_event_id: Annotated[
        int | None,
        Header(alias="Last-Event-ID", ge=0, le=NEWEST, description="The last one that was seen."),
    ] = None,
) -> EventSourceResponse:
    """Sends each new alert as a server-sent event named by its kind, with its number as id.

    With `Last-Event-ID`, alerts after that number are sent first. The stream ends with `gone` if
    the key is revoked or expires. A key may hold eight streams.
    """
    runtime = call.runtime
    watches = runtime.record.watches
    read = runtime.galleries.read
    gallery_id = await call.gallery_id()
    start = await read(watches.newest_number)
    if last_event_id is not None:
        # A number of another record would hide alerts until this record reaches it.
        start = min(start, last_event_id)
    runtime.audit.note_view("follow_alerts", after=start)

    async def events() -> AsyncIterator[dict[str, str]]:
        seen = start
        try:
            while True:
                runtime.keys.require_valid(call.caller)
                changed = runtime.watches.changed
                found = await read(watches.alerts, ALERTS_AT_ONCE, gallery_id, after=seen)
                for alert in found:
                    data = alert.model_dump_json()
                    yield {"id": str(alert.number), "event": alert.kind, "data": data}
                    seen = alert.number
                if not found:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), KEY_CHECK_SECONDS)
        except Unauthorised as error:
            yield {"event": "gone", "data": error.detail}

    return EventSourceResponse(events(), ping=KEEP_ALIVE_SECONDS, sep="\n")


@router.get("/{alert_id}")
async def read_alert(call: Querier, alert_id: AlertId) -> models.Alert:
    """Reads one alert, with the current name of its person."""
    alert = await _find(call, alert_id)
    call.runtime.audit.note_view("read_alert", gallery=alert.gallery, alert_id=alert_id)
    return alert


@router.get(
    "/{alert_id}/image", response_class=Response, responses=problems("unknown_picture") | PICTURE
)
async def read_alert_image(
    request: Request, call: Querier, alert_id: AlertId, width: Width = None
) -> Response:
    """Reads the picture that raised an alert; with `width`, a small JPEG."""
    alert = await _find(call, alert_id)
    return await _answer_picture(request, call.runtime, alert, width)


@router.get(
    "/{alert_id}/signed-image",
    response_class=Response,
    responses=problems("unauthorised", "unknown_picture") | PICTURE,
)
async def read_signed_image(
    request: Request,
    alert_id: AlertId,
    signature: Annotated[str, Query(max_length=128, description="As in a webhook's message.")] = "",
) -> Response:
    """Reads the picture of an alert by the signed address in a webhook's message, without a key.

    The address is valid for an hour.
    """
    runtime: Runtime = request.app.state.runtime
    if not runtime.watches.is_signed(signature, "picture", alert_id):
        raise Unauthorised(
            "the signature of this address is wrong or more than an hour old; use "
            "GET /v1/alerts/{alert_id}/image with a key"
        )
    alert = await runtime.galleries.read(runtime.record.watches.alert, alert_id)
    if alert is None:
        raise UnknownAlert(alert_id)
    return await _answer_picture(request, runtime, alert, None)


@router.post("/{alert_id}/review")
async def review_alert(
    call: Querier, alert_id: AlertId, form: Sent[AlertReviewForm]
) -> models.Alert:
    """Confirms or rejects an alert, or undoes that; another key's decision needs `admin`."""
    runtime = call.runtime
    alert = await _find(call, alert_id)
    if alert.reviewed_by is not None:
        call.caller.require_own(alert.reviewed_by)
    reviewed = await runtime.galleries.write(
        runtime.record.watches.review, alert_id, form.decision, call.caller.key_id
    )
    if reviewed is None:
        raise UnknownAlert(alert_id)
    await runtime.audit.done(
        "review_alert", gallery=alert.gallery, alert_id=alert_id, decision=form.decision
    )
    if form.decision == "rejected":
        await warn_if_broken(runtime, await runtime.galleries.find(alert.gallery))
    return reviewed


async def _find(call: Call, alert_id: str) -> models.Alert:
    alert = await call.runtime.galleries.read(call.record.watches.alert, alert_id)
    if alert is None:
        raise UnknownAlert(alert_id)
    call.caller.require_gallery(alert.gallery)
    return alert


async def _answer_picture(
    request: Request, runtime: Runtime, alert: models.Alert, width: int | None
) -> Response:
    async def read() -> Picture:
        picture = await runtime.galleries.read(runtime.record.watches.picture, alert.alert_id)
        if picture is None:
            remedy = "GMN_KEEP_IMAGES=none keeps none"
            raise UnknownPicture(alert.gallery, "alert", alert.alert_id, remedy)
        return picture

    answer = await answer_picture(request, runtime, alert.alert_id, width, read)
    runtime.audit.note_view("view", gallery=alert.gallery, alert_id=alert.alert_id)
    return answer


async def _read_list(call: GalleryCall) -> models.Watch:
    watch = await call.read(call.record.watches.get)
    if watch is None:
        return models.Watch(gallery=call.gallery.name, state="disarmed")
    held = call.runtime.watches.held.get(watch.gallery_id)
    if held is None or watch.state == "disarmed":
        return watch
    forecast = held.active.forecast if held.active else None
    return watch.model_copy(update={"why": held.why, "forecast": forecast})
