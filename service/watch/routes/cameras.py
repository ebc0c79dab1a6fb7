"""`/v1/cameras`: when cameras were heard, their heartbeats, zones and stills."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Request, Response
from pydantic import AfterValidator, Field

from gmn_client import models
from gmn_client.zones import MAX_ZONE, MOST_ZONES, read_zone
from model.crops.decode import CropProblem, jpeg_size
from model.crops.metadata import strip_metadata
from service.errors import InvalidField, UnknownCamera
from service.gallery.labels import MAX_TEXT, checked_text
from service.http.fields import MAX_ID, Camera, Id
from service.http.forms import CURSOR_TEXT, Form, Images, Limit, NoEmpty, Sent, SomeImagesForm
from service.http.guard import guarded_router, needs
from service.http.problems import content, example, problems, write_list
from service.record.keys import ApiKey
from service.runtime import Call
from service.watch.camera_health import note_heartbeat
from service.watch.stills import MAX_STILL_BYTES
from service.watch.tables.cameras import position_of

router = guarded_router("/v1/cameras", "cameras")
Admin = Annotated[Call, needs("admin")]
CameraName = Annotated[Camera, Path(description="The camera's name, as its sightings have it.")]
OF_KEY = "The key that sends the camera's crops, as the list of cameras names it; default: yours."
# Limit in characters.
MAX_STATE = 64
# Limit on the width and height of a still.
MOST_STILL_PIXELS = 4096
NO_STILL = (
    f"images: the still is no JPEG of at most {MOST_STILL_PIXELS:,} pixels in width and height; "
    "send one"
)
CameraCursor = Annotated[
    str | None,
    Query(max_length=MAX_ID + MAX_TEXT, pattern="^[A-Za-z0-9]{1,32}/", description=CURSOR_TEXT),
]


def _check_zone(zone: str) -> str:
    read_zone(zone)
    return zone


ZoneText = Annotated[str, Field(max_length=MAX_ZONE), AfterValidator(_check_zone)]


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


class CameraForm(Form):
    """A camera, as a key names it."""

    key_id: Id | None = Field(None, description=OF_KEY)


WITHOUT_KEY = CameraForm()


class ZonesForm(CameraForm):
    """The zones of a camera."""

    zones: Annotated[list[ZoneText], NoEmpty] = Field(
        [], max_length=MOST_ZONES, examples=[["door: 0,0.5 1,0.5 1,1 0,1"]]
    )
    """Polygons, one of which has to contain a person's feet: for each its corners `X,Y` in shares
    of the frame, with spaces between them, and before them its name with a colon if alerts are to
    have it. Without any, those in the program's settings hold."""


class StillForm(SomeImagesForm):
    """A still of a camera."""

    images: Images = Field(json_schema_extra={"minItems": 1, "maxItems": 1, "examples": [[""]]})

    def read_still(self) -> bytes:
        """Return the JPEG; raises `InvalidField` for several, another format, or a large one."""
        images = self.read_images()
        if len(images) != 1:
            raise InvalidField(f"images: {len(images)} were sent; send one still")
        (still,) = images
        if len(still) > MAX_STILL_BYTES:
            raise InvalidField(
                f"images: the still has {len(still):,} bytes, more than {MAX_STILL_BYTES:,}; send "
                "a smaller JPEG"
            )
        # Pillow takes a third of a second for a header of many segments.
        size = jpeg_size(still)
        if size is None or not 0 < min(size) <= max(size) <= MOST_STILL_PIXELS:
            raise InvalidField(NO_STILL)
        return still


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


@router.post("/{camera:path}/heartbeat", responses={200: example("HeartbeatAnswer")})
async def send_heartbeat(
    call: Annotated[Call, needs("sight")], camera: CameraName, form: Sent[HeartbeatForm]
) -> models.HeartbeatAnswer:
    """Says that a camera and its program are alive, and reads what is wanted; every 30 seconds.

    It counts for the camera of this key alone. Five minutes without a sighting and without a
    heartbeat, other than `no_frames` or `reconnecting`, make the camera silent: each armed list
    that watches it gets an alert of the kind `silent`, and one of the kind `heard` once it is back.
    A key may name 1,000 cameras.
    """
    return await note_heartbeat(call.runtime, call.caller, camera, form.model_dump())


@router.put("/{camera:path}/zones", status_code=204, responses=problems("unknown_camera"))
async def set_zones(call: Admin, camera: CameraName, form: Sent[ZonesForm]) -> None:
    """Replaces the zones that a camera's program is answered with its heartbeat.

    A program that looks for people as `gmn camera` does uses them from then on, in place of the
    zones in its own settings. A camera with zones stays in the list, however long it is not heard.
    """
    runtime = call.runtime
    key_id = _find_key(call, camera, form.key_id)
    await runtime.audited.run(
        "set_zones",
        lambda _: runtime.galleries.write(
            runtime.watch.cameras.set_zones, key_id, camera, form.zones
        ),
        camera=camera,
        camera_key_id=key_id,
        count=len(form.zones),
    )


@router.post(
    "/{camera:path}/still",
    status_code=202,
    responses=problems("unknown_camera", "needs_redis", "redis_away"),
)
async def ask_for_still(
    call: Admin, camera: CameraName, form: Sent[CameraForm] = WITHOUT_KEY
) -> None:
    """Asks the program of a camera for a still, which it sends after its next heartbeat.

    Read it with GET, which answers 204 until it has come. It is held in memory for ten minutes. A
    former still is gone at once.
    """
    runtime = call.runtime
    key_id = _find_key(call, camera, form.key_id)
    # Whoever reads it from now on must not take the former still for the new one.
    await runtime.watch.stills.drop(key_id, camera)
    now = runtime.watch.contacts.clock()
    await runtime.galleries.write(runtime.watch.cameras.ask_for_still, key_id, camera, now)
    runtime.audit.note_view("ask_for_still", camera=camera, camera_key_id=key_id)


@router.put(
    "/{camera:path}/still",
    status_code=204,
    responses=problems("unknown_still", "needs_redis", "redis_away"),
)
async def send_still(
    call: Annotated[Call, needs("sight")], camera: CameraName, form: Sent[StillForm]
) -> None:
    """Sends a still of a camera that an administrator has asked for: a JPEG of at most 256 KiB.

    It is held in memory for ten minutes, and only keys with `admin` can read it. A still that
    nobody has asked for in the last ten minutes is refused.
    """
    runtime = call.runtime
    cameras = runtime.watch.cameras
    key_id = call.caller.key_id
    still = form.read_still()
    if not runtime.settings.keep_metadata:
        try:
            still = await runtime.pools.forms.run(strip_metadata, still)
        except CropProblem as problem:
            raise InvalidField(NO_STILL) from problem
    now = runtime.watch.contacts.clock()
    await runtime.galleries.read(cameras.require_wanted_still, key_id, camera, now)
    await runtime.watch.stills.hold(key_id, camera, still)
    await runtime.galleries.write(cameras.note_still, key_id, camera)


@router.get(
    "/{camera:path}/still",
    response_class=Response,
    responses=problems(
        "unknown_still",
        "needs_redis",
        "redis_away",
        among=content("image/jpeg", "The still.")
        | {204: {"description": "The still has not come yet."}},
    ),
)
async def read_still(
    call: Admin,
    camera: CameraName,
    key_id: Annotated[str | None, Query(max_length=MAX_ID, description=OF_KEY)] = None,
) -> Response:
    """Reads the still of a camera that was asked for, within ten minutes after it has come.

    The answer is 204 and empty while it has not come yet.
    """
    runtime = call.runtime
    of_key = _find_key(call, camera, key_id)
    still = await runtime.watch.stills.read(of_key, camera)
    if still is None:
        now = runtime.watch.contacts.clock()
        cameras = runtime.watch.cameras
        await runtime.galleries.read(cameras.require_wanted_still, of_key, camera, now)
        return Response(status_code=204)
    runtime.audit.note_view("read_still", camera=camera, camera_key_id=of_key)
    return Response(still, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


def _find_key(call: Call, camera: str, key_id: str | None) -> str:
    """Return the id of the key that names a camera; raises `UnknownCamera` if it is hidden."""
    if key_id is None:
        return call.caller.key_id
    key = call.runtime.keys.valid_keys().get(key_id)
    if key is None or not _may_see(call.caller, key):
        raise UnknownCamera(camera, key_id)
    return key_id


def _may_see(caller: ApiKey, key: ApiKey) -> bool:
    if caller.key_id == key.key_id:
        return True
    return caller.may() and caller.may_see(key.gallery)
