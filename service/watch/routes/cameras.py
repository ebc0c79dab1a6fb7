"""`/v1/cameras`: when cameras were heard, and their heartbeats."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import AfterValidator, Field

from gmn_client import models
from service.gallery.labels import MAX_TEXT, checked_text
from service.http.fields import MAX_ID, Camera
from service.http.forms import CURSOR_TEXT, Form, Limit, Sent
from service.http.guard import guarded_router, needs
from service.http.problems import example, write_list
from service.record.keys import ApiKey
from service.runtime import Call
from service.watch.camera_health import note_heartbeat
from service.watch.tables.cameras import position_of

router = guarded_router("/v1/cameras", "cameras")
CameraName = Annotated[Camera, Path(description="The camera's name, as its sightings have it.")]
# Limit in characters.
MAX_STATE = 64
CameraCursor = Annotated[
    str | None,
    Query(max_length=MAX_ID + MAX_TEXT, pattern="^[A-Za-z0-9]{1,32}/", description=CURSOR_TEXT),
]


def _check_state(state: str) -> str:
    return checked_text("state", state, MAX_STATE)


class HeartbeatForm(Form):
    """The state of a camera and of the program that sends its crops."""

    state: Annotated[
        str, Field(min_length=1, max_length=MAX_STATE), AfterValidator(_check_state)
    ] = Field(examples=["ok"])
    """`ok`, or in a few words what is wrong. With `no_frames` and `reconnecting` the program says
    that the camera shows nothing: such a heartbeat does not keep the camera from being silent."""
    fps: float | None = Field(None, ge=0, le=1000, examples=[10])
    """Frames a second that the program reads."""
    lag: float | None = Field(None, ge=0, le=86_400, examples=[0.2])
    """Seconds from the capture of a frame until its crops are sent."""


@router.get("", response_model=models.Cameras, responses={200: example("Cameras")})
async def list_cameras(
    request: Request,
    call: Annotated[Call, needs("query", "sight")],
    cursor: CameraCursor = None,
    limit: Limit = 100,
) -> Response:
    """Lists cameras: when each was heard, what it sent in the last 24 hours, and its heartbeat.

    A key sees the cameras that it named itself. A key with `admin` also sees those of other keys;
    if it is for one gallery, those of other keys for this gallery.
    """
    runtime = call.runtime
    key_ids = [
        key.key_id for key in runtime.keys.valid_keys().values() if _may_see(call.caller, key)
    ]
    cameras = await runtime.galleries.read(
        runtime.watch.cameras.page, key_ids, cursor, limit + 1, runtime.watch.contacts.clock()
    )
    next_cursor = position_of(cameras[limit - 1]) if len(cameras) > limit else None
    page = models.Cameras(results=cameras[:limit], next_cursor=next_cursor)
    return await write_list(request, page)


@router.post("/{camera:path}/heartbeat", status_code=204)
async def send_heartbeat(
    call: Annotated[Call, needs("sight")], camera: CameraName, form: Sent[HeartbeatForm]
) -> None:
    """Says that a camera and its program are alive; sent every 30 seconds.

    It counts for the camera of this key alone. Five minutes without a sighting and without a
    heartbeat, other than `no_frames` or `reconnecting`, make the camera silent: each armed list
    that watches it gets an alert of the kind `silent`, and one of the kind `heard` once it is back.
    A key may name 1,000 cameras.
    """
    await note_heartbeat(call.runtime, call.caller, camera, form.model_dump())


def _may_see(caller: ApiKey, key: ApiKey) -> bool:
    if caller.key_id == key.key_id:
        return True
    return caller.may() and caller.may_see(key.gallery)
