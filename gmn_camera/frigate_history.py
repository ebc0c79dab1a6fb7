"""`gmn camera frigate --since`: enrolls the people of the events that Frigate keeps."""

from __future__ import annotations

import io
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from PIL import Image as Pictures
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from typer import echo

from gmn_camera.frigate_api import (
    PERSON,
    CameraName,
    EventId,
    FrigateApi,
    FrigateFailed,
    FrigateRefused,
    FrigateTime,
    FrigateUnreachable,
    describe_fault,
)
from gmn_camera.service import Service, require_retention
from gmn_client import Client, Image
from gmn_client.errors import InvalidInput
from gmn_client.models import Gallery
from model.wording import counted

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
SINCE = re.compile(r"([1-9]\d{0,3})([dh])")
EVENTS_AT_ONCE = 100
# Several people may enter in one frame, and the events of all begin at its time.
SAME_TIME_SECONDS = 0.001
MOST_AT_ONCE = 10_000
CROPS_AT_ONCE = 16
# Pauses before a request is repeated while Frigate is away.
PAUSES = (1.0, 2.0, 4.0, 8.0)
# The largest frame of a camera, as of its streams.
MOST_PIXELS = 8192 * 4352
JPEG_QUALITY = 95

Share = Annotated[float, Field(ge=-1, le=2, allow_inf_nan=False)]
LISTED = TypeAdapter(list[Any])


class EventData(BaseModel):
    """The best picture of an event.

    Attributes:
        box: left, top, width and height of the person in shares of the frame.
        snapshot_frame_time: time of capture, which versions before 0.18 do not tell.
    """

    box: tuple[Share, Share, Share, Share] | None = None
    snapshot_frame_time: FrigateTime | None = None


class PastEvent(BaseModel):
    """An event as Frigate's list of events has it."""

    id: EventId
    camera: CameraName
    label: str
    false_positive: bool | None = False
    start_time: FrigateTime
    end_time: FrigateTime | None = None
    has_snapshot: bool = False
    data: EventData = EventData()

    @property
    def captured_at(self) -> datetime:
        seconds = self.data.snapshot_frame_time
        return datetime.fromtimestamp(self.start_time if seconds is None else seconds, UTC)

    @property
    def is_of_person(self) -> bool:
        return self.label == PERSON and not self.false_positive

    def __str__(self) -> str:
        return f"{self.id} of {self.camera}, {self.captured_at:%Y-%m-%d %H:%M} UTC"


@dataclass
class HistoryCounts:
    """The events of people that were walked, by what became of them.

    Attributes:
        enrolled: number of events whose crop is now in the gallery.
        known: number of events whose crop was there already.
        without_snapshot: number of events of which Frigate has no picture.
        without_clean: number of events whose picture Frigate keeps only with drawings on it.
        low: number of events whose person is lower than the limit.
        unfinished: number of events that go on.
        failed: number of events whose picture cannot be read, or is refused by the service.
    """

    enrolled: int = 0
    known: int = 0
    without_snapshot: int = 0
    without_clean: int = 0
    low: int = 0
    unfinished: int = 0
    failed: int = 0

    def describe(self, min_height: int) -> str:
        """Return one sentence."""
        parts = [
            f"{counted(self.enrolled, 'crop')} enrolled",
            f"{self.known:,} there already",
            f"{self.without_snapshot:,} without a snapshot",
        ]
        rarer = {
            "without a clean picture": self.without_clean,
            f"lower than {min_height} pixels": self.low,
            "not ended yet": self.unfinished,
            "failed": self.failed,
        }
        parts += [f"{count:,} {reason}" for reason, count in rarer.items() if count]
        return f"{counted(sum(vars(self).values()), 'event')} of people: {', '.join(parts)}"


class HistoryWalk:
    """Walks Frigate's events from the oldest to the newest, and enrolls one crop of each.

    Attributes:
        counts: counts since the start.
    """

    def __init__(
        self, service: Client, frigate: FrigateApi, gallery: str, since: datetime, min_height: int
    ) -> None:
        """Create a walk that has not begun.

        Args:
            service: client with a key that has the scopes `enroll` and `query`.
            gallery: name of a gallery with a retention.
            since: time at which the oldest events began.
            min_height: pixels; lower people are not enrolled.
        """
        self.counts = HistoryCounts()
        self._service = service
        self._frigate = frigate
        self._gallery = gallery
        self._since = since
        self._min_height = min_height

    def run(self) -> None:
        """Enroll the crops that are not in the gallery yet.

        Raises:
            FrigateFailed: Frigate does not answer, or refuses its user.
            GmnError: the service does not answer, or refuses the key or the gallery.
        """
        known = self._read_known_events()
        crops: list[Image] = []
        for event in self._read_events():
            if event.id in known:
                self.counts.known += 1
                continue
            crop = self._read_crop(event)
            if crop is not None:
                crops.append(crop)
            if len(crops) == CROPS_AT_ONCE:
                self._enroll(crops)
                crops.clear()
        if crops:
            self._enroll(crops)

    def _read_known_events(self) -> set[str]:
        """Return the ids of the events whose crops an earlier walk has enrolled.

        The service would not notice a crop that was named since then, as names tell crops apart.
        """
        crops = self._service.crops(gallery=self._gallery, captured_after=self._since)
        return {crop.external_id for crop in crops if crop.external_id is not None}

    def _read_events(self) -> Iterator[PastEvent]:
        """Yield the events of people once each, the oldest first.

        Raises:
            FrigateFailed: Frigate does not answer, or with something else.
        """
        limit = EVENTS_AT_ONCE
        after = self._since.timestamp()
        former_ids: set[str] = set()
        while True:
            listed = self._read_page(after, limit)
            events = list(self._parse(listed))
            new = [event for event in events if event.id not in former_ids]
            yield from (event for event in new if event.is_of_person)
            if len(listed) < limit:
                return
            if new:
                # The next page repeats the events that began at the time of the last one.
                after = max(after, new[-1].start_time - SAME_TIME_SECONDS)
                former_ids = {event.id for event in events}
                day = f"{new[-1].captured_at:%Y-%m-%d %H:%M} UTC"
                log.info("up to %s: %s", day, self.counts.describe(self._min_height))
            elif limit < MOST_AT_ONCE:
                limit *= 10
            else:
                raise FrigateFailed(
                    f"/api/events: Frigate lists the same {limit:,} events again and again; its "
                    "list cannot be walked"
                )

    def _read_page(self, after: float, limit: int) -> list[Any]:
        return self._repeat(
            lambda: self._frigate.read(
                "/api/events",
                LISTED,
                labels=PERSON,
                after=after,
                limit=limit,
                sort="date_asc",
                include_thumbnails=0,
            )
        )

    def _parse(self, listed: Sequence[Any]) -> Iterator[PastEvent]:
        for found in listed:
            try:
                event = PastEvent.model_validate(found)
            except ValidationError as error:
                log.warning("an event is not as Frigate's: %s", describe_fault(error))
            else:
                yield event

    def _read_crop(self, event: PastEvent) -> Image | None:
        """Return the crop of an event; None if there is none, which is counted."""
        if event.end_time is None:
            self.counts.unfinished += 1
            return None
        if not event.has_snapshot or event.data.box is None:
            self.counts.without_snapshot += 1
            log.warning("%s: Frigate has no snapshot", event)
            return None
        try:
            frame = self._repeat(lambda: self._frigate.read_clean_picture(event.id))
            if frame is None:
                self.counts.without_clean += 1
                log.warning("%s: Frigate has no clean picture (clean_copy: true keeps one)", event)
                return None
            return self._cut(event, frame, event.data.box)
        except (FrigateUnreachable, FrigateRefused):
            raise
        except (FrigateFailed, OSError, ValueError, Pictures.DecompressionBombError) as error:
            self.counts.failed += 1
            log.warning("%s: its picture cannot be read (%s)", event, error)
            return None

    def _cut(
        self, event: PastEvent, frame: bytes, box: tuple[float, float, float, float]
    ) -> Image | None:
        """Return the person in the box of a frame; None if it is too low, which is counted.

        Raises:
            OSError, ValueError: the frame is no picture of a camera.
        """
        left, top, width, height = box
        with Pictures.open(io.BytesIO(frame)) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise ValueError(f"it has {picture.width}×{picture.height} pixels")
            corners = (
                max(0, round(left * picture.width)),
                max(0, round(top * picture.height)),
                min(picture.width, round((left + width) * picture.width)),
                min(picture.height, round((top + height) * picture.height)),
            )
            if corners[3] - corners[1] < self._min_height:
                self.counts.low += 1
                return None
            if corners[0] >= corners[2]:
                raise ValueError("the box is outside of it")
            crop = picture.crop(corners).convert("RGB")
        file = io.BytesIO()
        crop.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        return Image(
            file.getvalue(),
            camera=event.camera,
            captured_at=event.captured_at,
            external_id=event.id,
            track=event.id,
        )

    def _enroll(self, crops: Sequence[Image]) -> None:
        enrolled = self._service.enroll(crops, gallery=self._gallery)
        for crop, result in zip(crops, enrolled.results, strict=True):
            if result.problem is not None:
                self.counts.failed += 1
                reason = result.problem.detail or result.problem.title
                log.warning("%s of %s: %s", crop.external_id, crop.camera, reason)
            elif result.duplicate:
                self.counts.known += 1
            else:
                self.counts.enrolled += 1

    def _repeat(self, ask: Callable[[], Answer]) -> Answer:
        """Return an answer of Frigate; ask again while it is away, as during a restart.

        Raises:
            FrigateUnreachable: it stays away.
        """
        for pause in PAUSES:
            try:
                return ask()
            except FrigateUnreachable as error:
                log.warning("%s; it is asked again in %g s", error, pause)
                time.sleep(pause)
        return ask()


def read_since(text: str) -> timedelta:
    """Return a duration such as `7d` or `12h`.

    Raises:
        InvalidInput: the text is no duration.
    """
    match = SINCE.fullmatch(text)
    if match is None:
        raise InvalidInput(f"--since: {text[:40]!r} is no duration; write it like 7d or 12h")
    count = int(match[1])
    return timedelta(days=count) if match[2] == "d" else timedelta(hours=count)


def require_kept(gallery: Gallery, since: timedelta, text: str) -> None:
    """Refuse to enroll crops that the gallery would delete at once.

    Args:
        text: the option `--since`.

    Raises:
        InvalidInput: the oldest crops have expired.
    """
    if gallery.retention_from != "captured":
        return
    kept = timedelta(days=gallery.retention_days or 0, hours=gallery.retention_hours or 0)
    if since > kept:
        days = counted(gallery.retention_days or 0, "day")
        hours = counted(gallery.retention_hours or 0, "hour")
        raise InvalidInput(
            f"--since: {text} is longer than the {days if gallery.retention_days else hours} for "
            f"which the gallery {gallery.name!r} keeps a crop from its capture; give a shorter "
            "time, or set a longer retention"
        )


def enroll_history(
    service: Service, frigate: FrigateApi, gallery: str, since: str, min_height: int
) -> int:
    """Enroll the people of the events since a time, and print what became of the events.

    Return the exit status, which is 1 if a picture could not be read or was refused.

    Args:
        service: the service, with a key that has the scopes `enroll` and `query`.
        gallery: name of the gallery.
        since: duration up to now, such as `7d`.
        min_height: pixels; lower people are not enrolled.

    Raises:
        InvalidInput: the duration or the gallery cannot be used.
        RequestRefused: the key is refused.
        ServiceUnreachable: Frigate or the service does not answer.
    """
    duration = read_since(since)
    # Unlike a camera, events wait: the client repeats its requests while the service is away.
    with Client(service.url, service.api_key) as client:
        require_kept(require_retention(client, gallery), duration, since)
        frigate.version()
        begin = datetime.now(UTC) - duration
        walk = HistoryWalk(client, frigate, gallery, begin, min_height)
        is_whole = False
        try:
            walk.run()
            is_whole = True
        finally:
            echo(f"{gallery}: {walk.counts.describe(min_height)}.")
            if not is_whole:
                echo("It broke off; the same command goes on where it stopped.", err=True)
    return 1 if walk.counts.failed else 0
