"""`gmn camera try`: tries a source without a service, and advises what to change."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel

from gmn_camera.address import is_stream, redact
from gmn_camera.crops import Box, ChosenCrop
from gmn_camera.frame import Frame
from gmn_camera.pipeline import CropPipeline
from gmn_camera.settings import MOST_TRIED_SECONDS, CameraSettings
from gmn_camera.source import Stream, VideoFile
from gmn_client.errors import InvalidInput
from model.wording import counted

SERIES = "track"
# Without --seconds, so much of a stream is looked at, and at most so much of a file.
STREAM_SECONDS = 60.0
FILE_SECONDS = 600.0
# Lower crops cost much accuracy: more than half of the rows of the models' input would be
# interpolated.
GOOD_HEIGHT = 96
# With fewer frames a second, tracks break.
GOOD_FPS = 5.0
# Additional time to open a stream and to wait for its first key frame.
FIRST_FRAME_SECONDS = 20.0
RED = (255, 32, 0)
LINE_PIXELS = 3


class TriedTrack(BaseModel):
    """A track of a person.

    Attributes:
        track: name of the track.
        first_seen, last_seen: seconds since the first frame.
        frames: number of frames that show the person.
        height: median height in pixels.
        crops: number of chosen crops.
    """

    track: str
    first_seen: float
    last_seen: float
    frames: int
    height: int
    crops: int


class TriedSource(BaseModel):
    """The result of a trial.

    Attributes:
        source: the file, or the address without password.
        width, height: size of the frames in pixels.
        frames: number of processed frames.
        seconds: time between the first and the last processed frame.
        length: length in seconds of a file that was not looked at to its end; otherwise None.
        people_heights: 5th, 50th and 95th percentile in pixels; None if nobody was seen.
        tracks: tracks of the people who were seen.
        low: number of boxes that were lower than the minimum.
        outside: number of people who never stood in a zone.
        crops, crop_bytes: number of the crops, and their size in total.
        cpu_milliseconds: CPU time of a frame, of all cores together.
        cores: number of cores that processing in real time keeps busy.
        picture: file with the frame that was written; None if nobody was seen.
        advice: sentences that say what to change.
    """

    source: str
    width: int
    height: int
    frames: int
    seconds: float
    length: float | None
    people_heights: tuple[int, int, int] | None
    tracks: list[TriedTrack]
    low: int
    outside: int
    crops: int
    crop_bytes: int
    cpu_milliseconds: float
    cores: float
    picture: Path | None
    advice: list[str]


class Trial:
    """The trial of a source: its people, tracks and crops so far."""

    def __init__(self, settings: CameraSettings) -> None:
        """Load the detector.

        Raises:
            InvalidInput: the detector cannot be used.
        """
        self._settings = settings
        self._pipeline = CropPipeline(settings, SERIES)
        self._frames = 0
        self._first_at: float | None = None
        self._last: Frame | None = None
        # For each track, the seconds and the height of its boxes.
        self._seen: dict[str, list[tuple[float, float]]] = {}
        self._outside: set[int] = set()
        self._inside: set[int] = set()
        self._crops: Counter[str] = Counter()
        self._crop_bytes = 0
        # The frame with the most people, and their boxes by track.
        self._fullest: tuple[Frame, dict[str, Box]] | None = None

    @property
    def seconds(self) -> float:
        """Return the seconds between the first and the last frame."""
        if self._first_at is None or self._last is None:
            return 0.0
        return self._last.seconds - self._first_at

    def add(self, frame: Frame) -> None:
        found = self._pipeline.add(frame, frame.seconds)
        self._frames += 1
        self._first_at = frame.seconds if self._first_at is None else self._first_at
        self._last = frame
        self._count(found.crops)
        self._outside.update(found.outside.tolist())
        self._inside.update(found.numbers.tolist())
        boxes: dict[str, Box] = {}
        for number, edges in zip(found.numbers, found.boxes, strict=True):
            track = self._pipeline.chooser.name_of(int(number))
            box = Box(*(round(edge) for edge in edges.tolist()))
            boxes[track] = box
            self._seen.setdefault(track, []).append((self.seconds, box.bottom - box.top))
        if boxes and (self._fullest is None or len(boxes) > len(self._fullest[1])):
            self._fullest = (frame, boxes)

    def end(
        self, cpu_seconds: float, length: float | None, picture: Path, unread: str | None = None
    ) -> TriedSource:
        """Write the frame with the most people, and return the result.

        Args:
            cpu_seconds: CPU time of the trial, of all cores together.
            length: length of a file in seconds; None if it was looked at to its end.
            picture: the file to write.
            unread: why what the source sends cannot be read; None if it is not known.

        Raises:
            InvalidInput: there was no frame, or the picture cannot be written.
        """
        self._count(self._pipeline.end())
        source = redact(self._settings.source)
        if self._last is None:
            remedy = (
                "check the address, the user and the password, and that the camera can be reached "
                "from this machine"
            )
            raise InvalidInput(f"{source}: no frame came; {unread or remedy}")
        if self._fullest is not None:
            _write_picture(*self._fullest, picture)
        heights = [height for seen in self._seen.values() for _, height in seen]
        rate = min(self._settings.fps, (self._frames - 1) / self.seconds if self.seconds else 0.0)
        tried = TriedSource(
            source=source,
            width=self._last.width,
            height=self._last.height,
            frames=self._frames,
            seconds=round(self.seconds, 1),
            length=length if length is not None and length > self.seconds + 1 else None,
            people_heights=_percentiles(heights) if heights else None,
            tracks=[self._describe(track) for track in self._seen],
            low=self._pipeline.chooser.low,
            outside=len(self._outside - self._inside),
            crops=self._crops.total(),
            crop_bytes=self._crop_bytes,
            cpu_milliseconds=round(1000 * cpu_seconds / self._frames, 1),
            cores=round(cpu_seconds / self._frames * rate, 2),
            picture=picture if self._fullest is not None else None,
            advice=[],
        )
        advice = list(_advise(tried, rate, self._settings))
        return tried.model_copy(update={"advice": advice})

    def _count(self, crops: list[ChosenCrop]) -> None:
        self._crops.update(crop.track for crop in crops)
        self._crop_bytes += sum(len(crop.jpeg) for crop in crops)

    def _describe(self, track: str) -> TriedTrack:
        seen = self._seen[track]
        return TriedTrack(
            track=track,
            first_seen=round(seen[0][0], 1),
            last_seen=round(seen[-1][0], 1),
            frames=len(seen),
            height=round(median(height for _, height in seen)),
            crops=self._crops[track],
        )


def try_source(settings: CameraSettings, seconds: float | None, picture: Path) -> TriedSource:
    """Process the beginning of a file or stream, and return the result.

    Args:
        seconds: length of the processed part; None for `STREAM_SECONDS` of a stream, or a file up
            to its end or `FILE_SECONDS`.
        picture: the file to write: the frame with the most people, with their boxes.

    Raises:
        InvalidInput: the source, the detector or the file for the picture cannot be used.
    """
    stop = threading.Event()
    is_live = is_stream(settings.source)
    if seconds is None:
        seconds = STREAM_SECONDS if is_live else FILE_SECONDS
    if settings.started is None:
        # Without a start the whole file would be read first, to measure its length.
        settings = settings.model_copy(update={"started": datetime.now(UTC)})
    source = Stream(settings, stop) if is_live else VideoFile(settings, stop)
    trial = Trial(settings)
    if is_live:
        # The loop below does not end while a stream sends no frame.
        limit = threading.Timer(seconds + FIRST_FRAME_SECONDS, stop.set)
        limit.daemon = True
        limit.start()
    began = time.process_time()
    for frame in source.frames():
        if frame is None:
            continue
        trial.add(frame)
        if trial.seconds >= seconds:
            break
    cpu_seconds = time.process_time() - began
    length = None
    if isinstance(source, VideoFile) and trial.seconds >= seconds:
        length = source.measure_seconds()
    stop.set()
    return trial.end(cpu_seconds, length, picture, source.unread)


def describe(tried: TriedSource) -> Iterator[str]:
    """Yield the result as lines of text."""
    yield (
        f"{tried.source}: {tried.width}×{tried.height} pixels; looked at "
        f"{counted(tried.frames, 'frame')} of {tried.seconds:g} s"
    )
    if tried.length is not None:
        needed = math.ceil(tried.length)
        looked_at = f"{tried.seconds:.0f} of {tried.length:.0f} s were looked at"
        if needed <= MOST_TRIED_SECONDS:
            yield f"{looked_at}; --seconds {needed} for all"
        elif tried.seconds < MOST_TRIED_SECONDS:
            yield f"{looked_at}; --seconds {MOST_TRIED_SECONDS} for the most that can be"
        else:
            yield f"{looked_at}, the most that can be"
    if tried.tracks:
        yield f"{'track':<12}{'from':>10}{'to':>10}{'frames':>8}{'height':>8}{'crops':>7}"
    for track in tried.tracks:
        first = _format_time(track.first_seen)
        last = _format_time(track.last_seen)
        yield (
            f"{track.track:<12}{first:>10}{last:>10}{track.frames:>8}{track.height:>8}"
            f"{track.crops:>7}"
        )
    if tried.people_heights is not None:
        low, middle, high = tried.people_heights
        tracks = counted(len(tried.tracks), "track")
        yield f"people: {tracks}, {middle} pixels high ({low} to {high})"
    yield f"crops: {tried.crops}, {tried.crop_bytes / 1000:.0f} kB in all"
    yield f"cost: {tried.cpu_milliseconds:g} ms of CPU for a frame, {tried.cores:g} cores"
    if tried.picture is not None:
        yield f"picture: {tried.picture} shows the frame with the most people"
    yield from tried.advice


def _format_time(seconds: float) -> str:
    """Format a time of a clip as players show it."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _advise(tried: TriedSource, rate: float, settings: CameraSettings) -> Iterator[str]:
    if tried.outside:
        yield (
            f"{counted(tried.outside, 'person', 'people')} stood outside of all zones and did not "
            "count: if they should, draw the zones anew (--zone) around where feet are."
        )
    if tried.people_heights is None and not tried.outside:
        yield (
            "Nobody was seen: choose a time when people walk past, use the camera's main stream, "
            "and see that people are larger than a tenth of the frame's height."
        )
    if tried.people_heights is not None and tried.people_heights[1] < GOOD_HEIGHT:
        yield (
            f"People are {tried.people_heights[1]} pixels high, and {GOOD_HEIGHT} are needed to "
            "tell them apart: use the camera's main stream, zoom in, or bring the camera closer."
        )
    without_crops = sum(track.crops == 0 for track in tried.tracks)
    if without_crops:
        yield (
            f"{without_crops} of {counted(len(tried.tracks), 'track')} gave no crop, as the people "
            f"were lower than {settings.min_height} pixels ({counted(tried.low, 'time')}), hidden, "
            "or cut by the edge of the frame."
        )
    if tried.frames > 1 and rate < GOOD_FPS:
        yield (
            f"There were {rate:.1f} frames a second, and tracks break below {GOOD_FPS:g}: raise "
            "the rate of the camera."
        )
    if tried.cpu_milliseconds > 1000 / settings.fps:
        yield (
            f"A core of this machine does not look at {settings.fps:g} frames a second: use a "
            "smaller stream of the camera, or a lower --fps."
        )


def _percentiles(heights: list[float]) -> tuple[int, int, int]:
    low, middle, high = np.percentile(heights, (5, 50, 95)).tolist()
    return round(low), round(middle), round(high)


def _write_picture(frame: Frame, boxes: dict[str, Box], file: Path) -> None:
    image = Image.fromarray(np.ascontiguousarray(frame.pixels))
    draw = ImageDraw.Draw(image)
    for track, box in boxes.items():
        draw.rectangle(box, outline=RED, width=LINE_PIXELS)
        text = f"{track}, {box.bottom - box.top} pixels"
        draw.text((box.left + LINE_PIXELS, box.top + LINE_PIXELS), text, fill=RED, font_size=16)
    try:
        image.save(file)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{file}: cannot be written ({error}); name a .jpg or .png file with --out"
        ) from error
