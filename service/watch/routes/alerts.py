"""`/v1/alerts`: alerts of watch lists, their pictures, their events, and reviews of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from sse_starlette import EventSourceResponse

from gmn_client import models
from service.errors import Unauthorised, UnknownAlert, UnknownPicture
from service.http.fields import Id, Label
from service.http.forms import Form, Limit, Sent
from service.http.guard import Querier, guarded_router
from service.http.limits import KEEP_ALIVE_SECONDS, hold_stream
from service.http.problems import content, problems, write_list
from service.http.thumbnails import PICTURE, Width, answer_picture
from service.record.values import Picture
from service.runtime import Call, Runtime
from service.watch.links import link_alert
from service.watch.lists import warn_if_broken
from service.watch.tables.alerts import StoredAlert

router = guarded_router("/v1/alerts", "alerts")
# A stream ends within this time after its key was revoked, even without an alert.
KEY_CHECK_SECONDS = 1.0
# Largest integer of SQLite.
NEWEST = 2**63 - 1
ALERTS_AT_ONCE = 100
AlertId = Annotated[Id, Path(description="An alert's id.")]


class AlertsQuery(Form):
    """Filters and page of the alerts that are listed."""

    gallery: Id | None = None
    """Only of this list."""
    identity: Label | None = None
    """Only about this person."""
    camera: Label | None = None
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
    score: float | None = Field(None, ge=-1e6, le=1e6)
    """The `score` of the alert that was looked at; refused if it shows another track by now."""


@router.get("", response_model=models.Alerts, responses=problems("unknown_gallery"))
async def list_alerts(
    request: Request, call: Querier, query: Annotated[AlertsQuery, Query()]
) -> Response:
    """Lists the alerts of the lists that the key may see, the newest first."""
    runtime = call.runtime
    limit = query.limit
    gallery_id = await call.gallery_id(query.gallery)
    alerts = await runtime.galleries.read(
        runtime.watch.alerts.page,
        limit + 1,
        gallery_id,
        query.identity,
        query.camera,
        query.kind,
        query.state,
        query.cursor,
    )
    next_cursor = str(alerts[limit - 1].number) if len(alerts) > limit else None
    results = [link_alert(alert) for alert in alerts[:limit]]
    runtime.audit.note_view("list_alerts", gallery=query.gallery, count=len(results))
    return await write_list(request, models.Alerts(results=results, next_cursor=next_cursor))


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses=content("text/event-stream", "Each alert, named by its kind, and its changes."),
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

    An alert that changes by more crops, a better one, or a review is sent again as `updated`,
    without an id. With `Last-Event-ID`, alerts after that number are sent first. The stream ends
    with `gone` if the key is revoked or expires. A key may hold eight streams.
    """
    runtime = call.runtime
    stored_alerts = runtime.watch.alerts
    read = runtime.galleries.read
    gallery_id = await call.gallery_id()
    start = await read(stored_alerts.newest_number)
    newest_update = await read(stored_alerts.newest_update)
    if last_event_id is not None:
        # A number of another record would hide alerts until this record reaches it.
        start = min(start, last_event_id)
    runtime.audit.note_view("follow_alerts", after=start)

    async def events() -> AsyncIterator[dict[str, str]]:
        last_number = start
        last_update = newest_update
        try:
            while True:
                runtime.keys.require_valid(call.caller)
                changed = runtime.watch.lists.changed
                alerts = await read(
                    stored_alerts.page, ALERTS_AT_ONCE, gallery_id, after=last_number
                )
                for alert in alerts:
                    yield {
                        "id": str(alert.number),
                        "event": alert.kind,
                        "data": link_alert(alert).model_dump_json(),
                    }
                    last_number = alert.number
                last_update, updated = await read(stored_alerts.updated, last_update, gallery_id)
                for alert in updated:
                    yield {"event": "updated", "data": link_alert(alert).model_dump_json()}
                if not alerts:
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
    return link_alert(alert)


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
    responses=problems("unauthorised", "unknown_picture", "storage_failed") | PICTURE,
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
    if not runtime.watch.lists.is_signed(signature, "picture", alert_id):
        raise Unauthorised(
            "the signature of this address is wrong or more than an hour old; use "
            "GET /v1/alerts/{alert_id}/image with a key"
        )
    alert = await runtime.galleries.read(runtime.watch.alerts.get, alert_id)
    if alert is None:
        raise UnknownAlert(alert_id)
    return await _answer_picture(request, runtime, alert, None)


@router.post("/{alert_id}/review")
async def review_alert(
    call: Querier, alert_id: AlertId, form: Sent[AlertReviewForm]
) -> models.Alert:
    """Confirms or rejects an alert, or undoes that; another key's decision needs `admin`.

    An alert keeps the picture and score that it shows. After a rejection, the next track that
    matches the person raises another alert.
    """
    runtime = call.runtime
    alert = await _find(call, alert_id)
    await runtime.galleries.write(
        runtime.watch.alerts.review, alert_id, form.decision, call.caller, form.score
    )
    reviewed = await _find(call, alert_id)
    await runtime.audit.done(
        "review_alert", gallery=alert.gallery, alert_id=alert_id, decision=form.decision
    )
    if form.decision == "rejected":
        await warn_if_broken(runtime, await runtime.galleries.find(alert.gallery))
    return link_alert(reviewed)


async def _find(call: Call, alert_id: str) -> StoredAlert:
    alert = await call.runtime.galleries.read(call.runtime.watch.alerts.get, alert_id)
    if alert is None:
        raise UnknownAlert(alert_id)
    call.caller.require_gallery(alert.gallery)
    return alert


async def _answer_picture(
    request: Request, runtime: Runtime, alert: StoredAlert, width: int | None
) -> Response:
    async def read() -> Picture:
        picture = await runtime.galleries.read(runtime.watch.alerts.picture, alert.alert_id)
        if picture is None:
            raise UnknownPicture(
                alert.gallery, "alert", alert.alert_id, "GMN_KEEP_IMAGES=none keeps none"
            )
        return picture

    # The picture of a better crop has a higher score.
    picture_id = f"{alert.alert_id}.{alert.score}"
    answer = await answer_picture(request, runtime, picture_id, width, read)
    runtime.audit.note_view("view", gallery=alert.gallery, alert_id=alert.alert_id)
    return answer
