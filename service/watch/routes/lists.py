"""`/v1/sightings`, and galleries as the watch lists that sightings are compared with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from fastapi import Response
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gmn_client import models
from gmn_client.hours import are_hours
from model.problems import is_of_the_machine
from service.errors import InvalidField
from service.http.fields import MAX_NAMES, Label, Moment, Text, split_names
from service.http.forms import Form, GalleryName, Sent, SightingForm
from service.http.guard import Admin, Searcher, guarded_router, needs
from service.http.limits import FormRequest
from service.http.problems import answer_each, example, problems
from service.record.values import Sender
from service.runtime import Call, GalleryCall
from service.watch.active import UNREADABLE_ZONE, ZONE_PACKAGE, read_time_zone
from service.watch.lists import arm, fit_list, pause
from service.watch.sightings import sight

sighting_router = guarded_router("/v1/sightings", "watch")
list_router = guarded_router("/v1/galleries/{gallery}/watch", "watch lists")
MAX_AHEAD = timedelta(days=90)
# Time within which a proposed list can be armed.
CONFIRMED_WITHIN = timedelta(minutes=10)


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
    request: FormRequest,
    call: Annotated[Call, needs("sight")],
    form: Sent[SightingForm],
) -> Response:
    """Compares crops with the armed lists that the key may access; a match raises an alert.

    Crops are not stored. Up to eight crops of a track are compared; a track ends ten seconds after
    its last crop (90 seconds after one with `still`), after half an hour, or when its crops show
    another person. The answer follows once alerts are written, and has the matches with `wait`. A
    repeated request extends the same visits and raises no second alert.
    """
    runtime = call.runtime
    crops = await request.parse(form.read_crops)
    runtime.admission.require_affordable(
        runtime.model.pipeline.cost(crops),
        "boxes" if form.boxes else "images",
        "fewer or smaller ones",
    )
    images = await request.parse(form.for_images, crops)
    answer = await sight(runtime, call.caller, images, request.state.received, wait=form.wait)
    return await answer_each(request, answer, 200 if form.wait else 202)


def _check_hours(hours: str) -> str:
    if hours and not are_hours(hours):
        raise ValueError("is no time of day; write it like 22:00-06:00")
    return hours


def _check_zone(name: str) -> str:
    try:
        read_time_zone(name)
    except UNREADABLE_ZONE as error:
        if is_of_the_machine(error):
            raise
        raise ValueError(
            f"{name[:40]!r} is no time zone that the service knows; write it like Europe/Zurich, "
            f"or install {ZONE_PACKAGE} where it runs if it lacks this zone"
        ) from error
    return name


class WatchForm(models.WatchSettings, Form):
    """Settings of a list; a field that is left out has its default."""

    cameras: Annotated[list[Label], BeforeValidator(split_names)] = Field([], max_length=MAX_NAMES)
    """Only sightings of these cameras."""
    hours: Annotated[str, Field(max_length=16), AfterValidator(_check_hours)] = ""
    """Only at this time of day, such as `22:00-06:00`."""
    weekdays: Annotated[list[models.Weekday], BeforeValidator(split_names)] = Field(
        [], max_length=7, examples=[["sat", "sun"]]
    )
    """Only on these days of the week; a night belongs to the day on which it begins."""
    time_zone: Annotated[str, Field(max_length=64), AfterValidator(_check_zone)] = "UTC"
    """The time zone of `hours` and `weekdays`, such as `Europe/Zurich`."""
    expires_at: Moment = Field(examples=["2026-03-31T00:00:00Z"])
    """End of the watch, at most 90 days ahead; RFC 3339, with time zone."""
    silent: GalleryName | None = None
    """A gallery of silent people, such as staff; default: nobody is kept silent."""
    confirm: Annotated[str, Field(max_length=128)] | None = None
    """The token answered to the same settings; arms the list."""
    never_empty = frozenset({"confirm"})

    @model_validator(mode="after")
    def _require_valid_expiry(self) -> Self:
        now = datetime.now(UTC)
        if not now < self.expires_at <= now + MAX_AHEAD:
            raise InvalidField(
                f"expires_at: has to be in the future, at most {MAX_AHEAD.days} days ahead; send "
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


class PausingForm(Form):
    """A pause of a list, or its end."""

    paused: bool
    """True compares the list with nothing until it is resumed with false."""
    reason: Text | None = None
    """Why; for the audit log."""


class ReviewsForm(Form):
    """A decision about the reviews that move the threshold of a list at a camera."""

    key_id: Text
    """The key that sends the camera's crops, as `thresholds` of the list names it."""
    camera: Label | None = None
    """The camera; left out for crops without one."""
    ignored: bool
    """True takes back what reviews moved there; false lets them move it again."""
    reason: Text
    """Why; for the audit log."""


@list_router.put("", responses=problems("needs_reindex"))
async def watch_list(call: Admin, form: Sent[WatchForm]) -> models.WatchProposal | models.Watch:
    """Forecasts the alarms of a gallery as a watch list; with `confirm`, arms it.

    Without `confirm` nothing changes. The same settings with the `confirm` of the answer arm the
    list within ten minutes, as long as the forecast has the same basis and embedder. Settings of
    an armed list are changed in the same way.
    """
    runtime = call.runtime
    settings = form.settings()
    if settings.silent is not None:
        await _require_other_gallery(call, settings.silent)
    fitted = await fit_list(runtime, call.gallery, settings)
    if fitted.silent and fitted.silent.why:
        raise InvalidField(f"silent: {fitted.silent.why}")
    signed = (
        call.gallery.gallery_id,
        settings.model_dump_json(),
        fitted.forecast.basis,
        fitted.embedder,
    )
    if form.confirm is None:
        until = datetime.now(UTC) + CONFIRMED_WITHIN
        return models.WatchProposal(
            settings=settings,
            forecast=fitted.forecast,
            confirm=runtime.watch.lists.sign(until, *signed),
            confirm_until=until,
        )
    if not runtime.watch.lists.is_signed(form.confirm, *signed):
        raise InvalidField(
            "confirm: belongs to other settings, is older than ten minutes, or the forecast has "
            "another basis or embedder now; send the settings without it, read the forecast, and "
            "send both"
        )
    await runtime.audited.run(
        "arm_list",
        lambda _: arm(runtime, fitted, call.caller.key_id),
        gallery=call.gallery.name,
        reason=settings.reason,
        budget=settings.budget,
        expires_at=settings.expires_at.isoformat(),
        silent=settings.silent,
    )
    return await _read_list(call)


async def _require_other_gallery(call: GalleryCall, silent: str) -> None:
    """Refuse silent people whom the key may not access, who do not exist, or who are the list."""
    if await call.gallery_id(silent) == call.gallery.gallery_id:
        raise InvalidField("silent: is the list itself; send another gallery, or none")


@list_router.get("")
async def read_watch_list(call: Searcher) -> models.Watch:
    """Reads the state of a gallery as a watch list, its forecast, and counts of its alerts."""
    call.note_view("read_list")
    return await _read_list(call)


@list_router.delete("")
async def disarm_list(call: Admin, form: Sent[DisarmingForm] = WITHOUT_REASON) -> models.Watch:
    """Disarms a list; its alerts are kept for their retention, its people stay enrolled."""
    reason = form.reason or f"the key {call.caller.key_id} did so"
    await call.runtime.audited.run(
        "disarm_list",
        lambda _: call.write(call.runtime.watch.watches.disarm, reason),
        gallery=call.gallery.name,
        reason=form.reason,
    )
    return await _read_list(call)


@list_router.patch("")
async def pause_list(call: Admin, form: Sent[PausingForm]) -> models.Watch:
    """Pauses an armed list, or resumes it; its forecast and its trials stay as they are.

    While it is paused, sightings are not compared with it and its traffic is not counted. It still
    ends at its time, and tells of silent cameras. Arming it resumes it.
    """
    await call.runtime.audited.run(
        "pause_list",
        lambda _: pause(call.runtime, call.gallery, form.paused),
        gallery=call.gallery.name,
        paused=form.paused,
        reason=form.reason,
    )
    return await _read_list(call)


@list_router.get("/passages")
async def list_passages(call: Searcher) -> models.Passages:
    """Lists why tracks raised no alert in the last day, if the list was armed to explain it.

    These are the newest 500 tracks whose best score stayed below the threshold, or that were too
    unlikely. A track that was kept silent is not among them.
    """
    passages = await call.read(call.runtime.watch.passages.of_list)
    call.note_view("list_passages", count=len(passages))
    return models.Passages(results=passages)


@list_router.put("/reviews")
async def ignore_reviews(call: Admin, form: Sent[ReviewsForm]) -> models.Watch:
    """Takes back what reviews moved at a camera, until it is undone or the list is armed again.

    The threshold of the camera follows within seconds. The reviews themselves stay.
    """
    sender = Sender(form.key_id, form.camera)
    held = call.runtime.watch.lists.held.get(call.gallery.gallery_id)
    if held is None or held.active is None or sender not in held.active.thresholds.by_sender:
        raise InvalidField(
            "camera: the list has heard of no such camera of this key; read the list, and send "
            "key_id and camera of one of its thresholds"
        )
    await call.runtime.audited.run(
        "ignore_reviews",
        lambda _: call.write(call.runtime.watch.watches.ignore_reviews, sender, form.ignored),
        gallery=call.gallery.name,
        camera=sender.camera,
        camera_key_id=sender.key_id,
        ignored=form.ignored,
        reason=form.reason,
    )
    return await _read_list(call)


async def _read_list(call: GalleryCall) -> models.Watch:
    watch = await call.read(call.runtime.watch.watches.get)
    if watch is None:
        return models.Watch(gallery=call.gallery.name, state="disarmed")
    held = call.runtime.watch.lists.held.get(watch.gallery_id)
    if held is None or watch.state == "disarmed":
        return watch
    forecast = held.active and held.active.forecast
    if forecast:
        forecast = forecast.model_copy(update={"trial": _is_on_trial(watch)})
    thresholds = held.active.thresholds.describe() if held.active else []
    silent = held.active and held.active.silent
    changes = {
        "compares": held.active is not None and not held.is_paused,
        "why": held.why,
        "forecast": forecast,
        "thresholds": thresholds,
        "silent": silent and silent.describe(watch.kept_silent),
    }
    return watch.model_copy(update=changes)


def _is_on_trial(watch: models.Watch) -> bool:
    if watch.trial_until is None or watch.trial_until <= datetime.now(UTC):
        return False
    return not watch.trials or any(not trial.is_over for trial in watch.trials)
