"""The pipeline from frames to crops: detector, tracker, zones and choice of crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmn_camera.boxes import Boxes
from gmn_camera.crops import ChosenCrop, CropChooser
from gmn_camera.detector import Detector
from gmn_camera.frame import Frame, Pixels
from gmn_camera.motion import has_changed, view_of
from gmn_camera.settings import CameraSettings
from gmn_camera.time_line import TimeLine
from gmn_camera.tracker import NO_TRACK, Tracker
from gmn_client.zones import Zone

# The detector takes most of the computing time of a frame, so it does not look at each.
# Longest interval of looks while everybody in view is followed.
FOLLOW_SECONDS = 0.2
# The times of frames are rounded, and streams jitter.
JITTER_SECONDS = 0.02
# Shortest interval while nobody is followed.
IDLE_SECONDS = 0.25
# Longest interval while nobody is there and nothing moves.
EMPTY_SECONDS = 1.0
# Stands for the index of a zone.
OUTSIDE = -1
# A box may reach the lower edge of the frame. Its feet still lie in a zone that ends there.
LOWEST_FEET = 0.9999


class FoundPeople(NamedTuple):
    """The people of a frame; of the last look, if the detector did not look at the frame.

    Attributes:
        boxes: boxes of the people who have a track and stand in a zone, in pixels of the frame.
        numbers: track number of each box `(n,)`.
        outside: track numbers of people who stand outside of all zones, `(m,)`.
        crops: crops that were chosen at this frame, cut from this or earlier frames.
    """

    boxes: Boxes
    numbers: NDArray[np.intp]
    outside: NDArray[np.intp]
    crops: list[ChosenCrop]


NOBODY = FoundPeople(np.zeros((0, 4)), np.zeros(0, np.intp), np.zeros(0, np.intp), [])


class CropPipeline:
    """Finds people in successive frames, and chooses their crops.

    Attributes:
        chooser: chooses the crops.
        zones: polygons, one of which must contain a person's feet; empty for the whole frame. They
            may be replaced between two frames.
    """

    def __init__(self, settings: CameraSettings, series: str) -> None:
        """Load the detector.

        Args:
            series: prefix of the track names.

        Raises:
            InvalidInput: the detector cannot be used.
        """
        self.chooser = CropChooser(settings.min_height, series)
        self._detector = Detector(settings.detector, settings.threads)
        self._tracker = Tracker(settings.min_iou)
        self.zones: Sequence[Zone] = settings.zone
        self._looked_at = float("-inf")
        self._frame_seconds = 1 / settings.fps
        self._found = NOBODY
        # The view at the last look, if that found nobody.
        self._empty_view: Pixels | None = None
        self._time_line = TimeLine(1 / settings.fps)

    def add(self, frame: Frame, seconds: float | None = None) -> FoundPeople:
        """Process the next frame; skip it if it is unlikely to change what is known.

        Args:
            seconds: time of capture by a monotonic clock. By default it is derived from
                `captured_at`, without the jumps of the machine's clock.
        """
        if seconds is None:
            seconds = self._time_line.seconds_at(frame.captured_at.timestamp())
        if not self._is_due(frame, seconds):
            return self._found._replace(crops=[])
        self._looked_at = seconds
        detections = self._detector.detect(frame)
        # A person of whom the detector is not sure yet may stand still.
        self._empty_view = None if len(detections.boxes) else view_of(frame)
        numbers = self._tracker.update(seconds, detections.boxes, detections.scores)
        zone_names: list[str | None] = [None] * len(numbers)
        outside = NOBODY.outside
        if zones := self.zones:
            first_zones = _first_zones(detections.boxes, zones)
            outside = numbers[(first_zones == OUTSIDE) & (numbers != NO_TRACK)]
            numbers[first_zones == OUTSIDE] = NO_TRACK
            zone_names = [
                None if first == OUTSIDE else zones[first].name for first in first_zones.tolist()
            ]
        boxes = detections.boxes * ([frame.width, frame.height] * 2)
        crops = self.chooser.add(frame, boxes, detections.scores, numbers, zone_names, seconds)
        is_followed = numbers != NO_TRACK
        self._found = FoundPeople(boxes[is_followed], numbers[is_followed], outside, crops)
        return self._found

    def _is_due(self, frame: Frame, seconds: float) -> bool:
        waited = seconds - self._looked_at
        if self._tracker.follows_anybody:
            can_wait = waited + self._frame_seconds <= FOLLOW_SECONDS + JITTER_SECONDS
            return not (can_wait and self._tracker.knows_velocities)
        if waited < IDLE_SECONDS:
            return False
        if self._empty_view is None or waited >= EMPTY_SECONDS:
            return True
        return has_changed(self._empty_view, view_of(frame))

    def end(self) -> list[ChosenCrop]:
        """End all tracks, and return the crops of their unfinished parts."""
        self._found = NOBODY
        return self.chooser.end()


def _first_zones(boxes: Boxes, zones: Sequence[Zone]) -> NDArray[np.intp]:
    """Return the index of the first zone that contains the feet of each box, `(n,)`.

    Args:
        boxes: in shares of the frame.
        zones: at least one.
    """
    feet_x = (boxes[:, 0] + boxes[:, 2]) / 2
    feet_y = np.minimum(boxes[:, 3], LOWEST_FEET)
    is_inside = np.stack([_are_inside(zone, feet_x, feet_y) for zone in zones])
    return np.where(is_inside.any(axis=0), is_inside.argmax(axis=0), OUTSIDE)


def _are_inside(zone: Zone, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which points a polygon encloses.

    A ray from an enclosed point to the right crosses an odd number of edges.
    """
    corners = zone.corners
    crossings = np.zeros(len(xs), int)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        is_between = (y0 > ys) != (y1 > ys)
        if y0 != y1:
            edge_x = x0 + (ys - y0) * (x1 - x0) / (y1 - y0)
            crossings += is_between & (xs < edge_x)
    return np.asarray(crossings % 2 == 1)
