"""Continuous times of frames whose own times may be missing, start anew or jump."""

from __future__ import annotations

# A longer step between two frames means that their clock was set forward.
LONGEST_PAUSE = 10.0
# A longer step back means that the clock was set back, not that frames are out of order.
LONGEST_DISORDER = 1.0


class TimeLine:
    """Seconds of successive frames, continuous where the frames' own times are not.

    Recordings that are joined end to end start their times anew, the clock of a recorder may be set
    while it records, and a raw video has no times. A frame whose time cannot follow that of the
    last frame gets the usual distance from it.

    Attributes:
        jumps: number of frames whose time could not follow.
    """

    def __init__(self, frame_seconds: float) -> None:
        """Create a time line without frames.

        Args:
            frame_seconds: usual time between two frames.
        """
        self.jumps = 0
        self._frame_seconds = frame_seconds
        self._newest: float | None = None
        # The own time of the first frame since the last jump, and the seconds to add since then.
        self._began_at: float | None = None
        self._offset = 0.0

    def seconds_at(self, moment: float | None) -> float:
        """Add the next frame, and return its seconds since the first frame, which never decrease.

        Args:
            moment: time of the next frame in seconds; None if it has none.
        """
        if self._newest is None:
            seconds = 0.0
        elif moment is None:
            seconds = self._newest + self._frame_seconds
        elif self._can_follow(moment, self._newest):
            self._newest = max(self._newest, moment + self._offset)
            return self._newest
        else:
            seconds = self._newest + self._frame_seconds
            self.jumps += 1
        if moment is not None:
            self._began_at = moment
            self._offset = seconds - moment
        self._newest = seconds
        return seconds

    def _can_follow(self, moment: float, newest: float) -> bool:
        if self._began_at is None or moment <= self._began_at:
            return False
        return -LONGEST_DISORDER <= moment + self._offset - newest <= LONGEST_PAUSE
