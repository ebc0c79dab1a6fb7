"""The time line of frames whose own times may be missing, begin anew or jump."""

from __future__ import annotations

# Frames that follow each other are closer than this, unless their clock was set forward.
LONGEST_PAUSE = 10.0
# Frames whose times are in a wrong order are closer than this, unless their clock was set back.
LONGEST_DISORDER = 1.0


class TimeLine:
    """Seconds of successive frames, which go on where the times of the frames do not.

    Recordings that are joined end to end begin their times anew, the clock of a recorder is set
    while it records, and a raw video has no times at all. A frame whose time cannot follow that of
    the last one counts as the next frame.

    Attributes:
        jumps: number of times that it could not.
    """

    def __init__(self, frame_seconds: float) -> None:
        """Begin before the first frame.

        Args:
            frame_seconds: usual time between two frames.
        """
        self.jumps = 0
        self._frame_seconds = frame_seconds
        self._newest: float | None = None
        # The time of the first frame since the last jump, and what is added to all since then.
        self._began_at: float | None = None
        self._offset = 0.0

    def seconds_at(self, moment: float | None) -> float:
        """Return the seconds from the first frame to the next one; they never go back.

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
