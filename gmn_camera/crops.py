"""The choice of the best crop of each part of a track.

Crops are compared by height, sharpness, detector score, occlusion by other people, and contact with
the edge of the frame.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmn_camera.boxes import Boxes, Scores, free_shares
from gmn_camera.frame import Frame, Pixels
from gmn_camera.tracker import LOST_SECONDS

# Lengths of the first parts of a track. The service ends a track ten seconds after its last crop,
# and two successive crops may be two parts apart, so no part may be longer than four seconds.
PART_SECONDS = (1, 1, 2, 2, 4, 4, 4, 4)
# Interval of the crops of a person who stays: after a crop with `still` the service keeps the track
# for 90 seconds.
STILL_EVERY_SECONDS = 60.0
STILL_PART_SECONDS = 4.0
MIN_SCORE = 0.5
MIN_FREE_SHARE = 0.75
MIN_ASPECT = 1.2
MAX_ASPECT = 6.0
# A box that ends this close to an edge of the frame may show only a part of the person.
EDGE_PIXELS = 2
EDGE_FACTOR = 0.4
# Crops gain nothing from more rows or more sharpness than these.
GOOD_HEIGHT = 256
GOOD_SHARPNESS = 20.0
# The models were trained with some background around people.
MARGIN_SHARE = 0.04
JPEG_QUALITY = 92


class Box(NamedTuple):
    """A box in whole pixels of a frame."""

    left: int
    top: int
    right: int
    bottom: int


class ChosenCrop(NamedTuple):
    """A crop to send.

    Attributes:
        track: identifies the track in this run of the program.
        number: index of the crop in its track, from 0.
        captured_at: time of capture of its frame.
        seconds: the same moment by `time.monotonic`.
        jpeg: content of an image file.
        still: whether the person stays, so that the next crop comes in a minute.
        zone: name of the zone in which the person stood at its frame; None without one.
    """

    track: str
    number: int
    captured_at: datetime
    seconds: float
    jpeg: bytes
    still: bool
    zone: str | None


@dataclass
class Candidate:
    """The best crop of the current part of a track.

    Attributes:
        captured_at: time of capture of its frame.
        seconds: the same moment by `time.monotonic`.
        pixels: RGB `(height, width, 3)`.
        quality: between 0 and 1.
        zone: name of the zone in which the person stood; None without one.
    """

    captured_at: datetime
    seconds: float
    pixels: Pixels
    quality: float
    zone: str | None


@dataclass(eq=False)
class Passage:
    """A person who passes the camera. All times are those of `time.monotonic`.

    Attributes:
        track: name of the track.
        seen_at: time of the newest frame that shows the person.
        crops: number of chosen crops.
        part_began_at: time of the first usable frame of the current part; None before it.
        chosen_at: time of capture of the newest chosen crop; None before it.
        best: the best crop of the current part.
    """

    track: str
    seen_at: float
    crops: int = 0
    part_began_at: float | None = None
    chosen_at: float | None = None
    best: Candidate | None = None

    @property
    def part_seconds(self) -> float:
        return PART_SECONDS[self.crops] if self.crops < len(PART_SECONDS) else STILL_PART_SECONDS

    @property
    def stays(self) -> bool:
        """Return True if a pause follows the crop of the current part."""
        return self.crops >= len(PART_SECONDS) - 1


class CropChooser:
    """Chooses the crops of every track.

    Attributes:
        tracks: number of tracks so far.
        low: number of boxes that were lower than the minimum.
    """

    def __init__(self, min_height: int, series: str) -> None:
        """Create a chooser without tracks.

        Args:
            min_height: least height of a usable box, in pixels.
            series: prefix of the track names, which differs between runs.
        """
        self.tracks = 0
        self.low = 0
        self._min_height = min_height
        self._series = series
        self._passages: dict[int, Passage] = {}

    def add(
        self,
        frame: Frame,
        boxes: Boxes,
        scores: Scores,
        numbers: NDArray[np.intp],
        zones: Sequence[str | None],
        seconds: float,
    ) -> list[ChosenCrop]:
        """Add the people of a frame, and return the crops of the parts that end with it.

        Args:
            boxes: boxes of all people, in pixels of the frame.
            numbers: track number of each box `(n,)`; boxes with a negative number are skipped.
            zones: name of the zone in which the person of each box stands, if it has one.
            seconds: time of capture by `time.monotonic`.
        """
        free = free_shares(boxes)
        people = zip(boxes, scores, free, numbers, zones, strict=True)
        for box, score, free_share, number, zone in people:
            if number < 0:
                continue
            passage = self._passages.get(int(number))
            if passage is None:
                self.tracks += 1
                passage = Passage(f"{self._series}-{self.tracks}", seconds)
                self._passages[int(number)] = passage
            passage.seen_at = seconds
            if self._looks_for_crop(passage, seconds):
                self._look(passage, frame, seconds, box, float(score), float(free_share), zone)
        return list(self._end_parts(seconds))

    def end(self) -> list[ChosenCrop]:
        """End all tracks, and return the crops of their unfinished parts."""
        begun = [passage for passage in self._passages.values() if passage.best is not None]
        self._passages.clear()
        return [_choose(passage, still=False) for passage in begun]

    def name_of(self, number: int) -> str:
        """Return the name of a track by its number in the last call of `add`."""
        return self._passages[number].track

    def _looks_for_crop(self, passage: Passage, seconds: float) -> bool:
        if passage.crops < len(PART_SECONDS) or passage.chosen_at is None:
            return True
        return seconds - passage.chosen_at >= STILL_EVERY_SECONDS

    def _end_parts(self, seconds: float) -> Iterator[ChosenCrop]:
        for number, passage in list(self._passages.items()):
            has_left = seconds - passage.seen_at > LOST_SECONDS
            if passage.part_began_at is not None:
                has_lasted = seconds - passage.part_began_at
                if has_left or has_lasted >= passage.part_seconds:
                    yield _choose(passage, still=passage.stays and not has_left)
            if has_left:
                del self._passages[number]

    def _look(
        self,
        passage: Passage,
        frame: Frame,
        seconds: float,
        box: Boxes,
        score: float,
        free_share: float,
        zone: str | None,
    ) -> None:
        left, top, right, bottom = box.tolist()
        width = right - left
        height = bottom - top
        if height < self._min_height:
            self.low += 1
            return
        has_shape = MIN_ASPECT < height / max(width, 1.0) < MAX_ASPECT
        if score < MIN_SCORE or free_share < MIN_FREE_SHARE or not has_shape:
            return
        is_inside = (
            left > EDGE_PIXELS
            and right < frame.width - EDGE_PIXELS
            and bottom < frame.height - EDGE_PIXELS
        )
        quality = score * free_share * min(height / GOOD_HEIGHT, 1.0) ** 0.5
        quality *= 1.0 if is_inside else EDGE_FACTOR
        # Converting the whole frame takes as long as detecting people. Skip it if not even perfect
        # sharpness would make this the best crop.
        if passage.best is not None and quality <= passage.best.quality:
            return
        cut = _with_margin(box, frame)
        crop = frame.pixels[cut.top : cut.bottom, cut.left : cut.right]
        quality *= min(_sharpness(crop) / GOOD_SHARPNESS, 1.0) ** 0.5
        if passage.part_began_at is None:
            passage.part_began_at = seconds
        if passage.best is None or quality > passage.best.quality:
            passage.best = Candidate(frame.captured_at, seconds, crop.copy(), quality, zone)


def _choose(passage: Passage, *, still: bool) -> ChosenCrop:
    best = passage.best
    if best is None:
        raise ValueError(f"{passage.track}: no frame of this part shows the person well")
    number = passage.crops
    passage.crops += 1
    passage.best = None
    passage.part_began_at = None
    passage.chosen_at = best.seconds
    jpeg = _encode(best.pixels)
    return ChosenCrop(passage.track, number, best.captured_at, best.seconds, jpeg, still, best.zone)


def _encode(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def _with_margin(box: Boxes, frame: Frame) -> Box:
    left, top, right, bottom = box.tolist()
    margin = MARGIN_SHARE * (bottom - top)
    return Box(
        max(0, int(left - margin / 2)),
        max(0, int(top - margin)),
        min(frame.width, int(right + margin / 2)),
        min(frame.height, int(bottom + margin)),
    )


def _sharpness(pixels: Pixels) -> float:
    """Return the mean absolute differences of vertical and horizontal neighbours, added."""
    green = pixels[:, :, 1].astype(np.float32)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())
