"""Counts of the images that cameras sent to one process, until the record is told of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from service.watch.tables.cameras import MOST_CAMERAS, UNNAMED, CameraCounts

# A longer pause between two looks shows that this process, or its clock, stood still.
LONGEST_PAUSE = timedelta(minutes=1)


def utc_now() -> datetime:
    return datetime.now(UTC)


class CameraContacts:
    """Images that cameras sent to one process, counted; used on the event loop only.

    Attributes:
        clock: returns the current time, with time zone.
    """

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self.clock = clock
        # By key and name of the camera.
        self._counts: defaultdict[str, dict[str, CameraCounts]] = defaultdict(dict)
        self._listening_since = clock()
        self._looked_at = self._listening_since

    def count(
        self,
        key_id: str,
        camera: str | None,
        *,
        is_usable: bool,
        begins_track: bool,
        ahead_seconds: float | None = None,
    ) -> None:
        """Count an image of a camera.

        Args:
            ahead_seconds: by how much its time of capture is ahead of this clock, if it has one.
        """
        now = self.clock()
        cameras = self._counts[key_id]
        name = camera or UNNAMED
        if name not in cameras and len(cameras) >= MOST_CAMERAS:
            # A key may send any number of names.
            name = UNNAMED
        counts = cameras.setdefault(name, CameraCounts(now))
        counts.heard_at = now
        counts.tracks += begins_track
        if ahead_seconds is not None:
            # The crop that took the shortest time to arrive tells most of the clock.
            counts.clock_ahead = max(ahead_seconds, counts.clock_ahead or ahead_seconds)
        if is_usable:
            counts.crop_at = now
            counts.crops += 1
        else:
            counts.refused += 1

    def take_counts(self) -> dict[str, dict[str, CameraCounts]]:
        """Return the counts by key and name of the camera, and begin anew."""
        counts = dict(self._counts)
        self._counts.clear()
        return counts

    def listening_since(self, now: datetime) -> datetime:
        """Return since when what cameras send is heard without a gap; call it at each look."""
        if now - self._looked_at > LONGEST_PAUSE:
            self._listening_since = now
        self._looked_at = now
        return self._listening_since

    def listen_anew(self) -> None:
        """Note a gap, in which what cameras sent was not heard."""
        self._listening_since = self.clock()
