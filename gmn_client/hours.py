"""Hours of the day in which a camera or a watch list is on."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

HOURS = re.compile(r"([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)")


def are_hours(text: str) -> bool:
    """Return True if a text has the form `22:00-06:00`; the end may be 24:00."""
    return HOURS.fullmatch(text) is not None


def find_day(hours: str, local: datetime) -> date | None:
    """Return the day on which the hours began that a time lies in; None outside of them.

    Hours such as 22:00-06:00 end on the next day. Those that begin and end at the same time of day
    last from one day to the next.

    Args:
        hours: as in `are_hours`; all hours if empty.
        local: the time, by the clock that the hours are read by.
    """
    if not hours:
        return local.date()
    begin, end = hours.split("-")
    now = f"{local:%H:%M}"
    if begin < end:
        return local.date() if begin <= now < end else None
    if now >= begin:
        return local.date()
    return local.date() - timedelta(days=1) if now < end else None
