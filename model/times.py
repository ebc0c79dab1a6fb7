"""The reader of times that users write: in forms, addresses and manifests."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

EXAMPLE = "2026-03-01T09:30:00Z"
# RFC 3339, section 5.6, whose note allows a space in place of the T.
DATE = r"(\d{4})-(\d\d)-(\d\d)"
TIME = r"(\d\d):(\d\d):(\d\d)(?:\.(\d+))?"
OFFSET = r"(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))"
RFC_3339 = re.compile(f"{DATE}[Tt ]{TIME}{OFFSET}", re.ASCII)
WITHOUT_OFFSET = re.compile(f"{DATE}[Tt ]{TIME}", re.ASCII)
WITHOUT_PLUS = re.compile(rf"{DATE}[Tt ]{TIME} \d\d:\d\d", re.ASCII)


def read_time(text: str) -> datetime:
    """Return the time that an RFC 3339 text names, in UTC and cut to whole microseconds.

    A leap second, which `datetime` cannot express, is read as the second that follows it.

    Raises:
        ValueError: the text is not an RFC 3339 time; the message gives the reason and the remedy
            without repeating the text.
    """
    match = RFC_3339.fullmatch(text)
    if match is None:
        raise ValueError(_explain(text))

    year, month, day, hour, minute, second = [int(part) for part in match.groups()[:6]]
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    if hour == 24:
        raise ValueError("has the hour 24; write 00:00:00 of the following day")

    offset = timedelta(hours=int(offset_hours or 0), minutes=int(offset_minutes or 0))
    microsecond = int((fraction or "").ljust(6, "0")[:6])
    is_leap_second = second == 60
    try:
        before_leap = 59 if is_leap_second else second
        local = datetime(year, month, day, hour, minute, before_leap, tzinfo=UTC)
        moment = local + offset if sign == "-" else local - offset
        moment += timedelta(seconds=int(is_leap_second))
    except ValueError as error:
        raise ValueError(f"names no existing day or time ({error}); correct it") from error
    except OverflowError as error:
        raise ValueError("lies outside the years 1 to 9999 in UTC; correct it") from error
    # Leap seconds are added at the end of a month in UTC.
    if is_leap_second and (moment.day, moment.hour, moment.minute) != (1, 0, 0):
        raise ValueError(
            "has the second 60, which only a leap second at the end of a month in UTC has, such as "
            "2016-12-31T23:59:60Z; write the second after it"
        )
    return moment.replace(microsecond=microsecond)


def _explain(text: str) -> str:
    """Return why a text is not an RFC 3339 time, and what to write."""
    if WITHOUT_PLUS.fullmatch(text):
        return (
            "has a space in place of the + of its offset; in a URL a + stands for a space, so "
            "write %2B"
        )
    if WITHOUT_OFFSET.fullmatch(text):
        return f"is not an RFC 3339 time, as it lacks a time zone; write it like {EXAMPLE}"
    return (
        f"is not an RFC 3339 time with a time zone; write it like {EXAMPLE} or "
        "2026-03-01T10:30:00+01:00"
    )
