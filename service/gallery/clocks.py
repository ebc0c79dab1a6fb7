"""The rule on times of capture that are ahead of the service's clock, as a fast camera clock gives.

Enrollments, sightings, changed labels and imports follow the same rule. A time that is ahead
by more than an hour is refused, since such a crop would be kept for too long. A time that is ahead
by less is taken, with a warning from a minute on.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from model.crops.decode import CropProblem

MOST_AHEAD = timedelta(hours=1)
# Clocks that are synchronised over a network differ by less, and crops arrive within this time.
UNNOTICED = timedelta(minutes=1)


def is_in_future(captured: datetime, now: datetime) -> bool:
    return captured > now + MOST_AHEAD


def in_future(captured: datetime) -> CropProblem:
    return CropProblem(
        "captured_in_future",
        f"captured_at: {captured.isoformat()} is more than an hour in the future; set the camera's "
        "clock and that of this machine right, or leave the field out",
    )


def warning_of_fast_clock(captured: datetime, now: datetime) -> str | None:
    """Return a warning that a clock is fast; None if it is not, or by less than a minute."""
    if captured <= now + UNNOTICED:
        return None
    minutes = round((captured - now) / timedelta(minutes=1))
    return (
        f"captured_at: {captured.isoformat()} is {minutes} min in the future; set the camera's "
        "clock and that of this machine right, or leave the field out"
    )
