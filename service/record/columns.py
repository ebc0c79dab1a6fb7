"""What is kept in the columns of the tables, and the values that the service works with."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import overload

NUMBER = re.compile(r"0*([0-9]+)")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@overload
def as_micros(moment: datetime) -> int: ...


@overload
def as_micros(moment: None) -> None: ...


def as_micros(moment: datetime | None) -> int | None:
    """Return a time as microseconds since 1970, UTC, as the tables keep it."""
    return None if moment is None else (moment - EPOCH) // MICROSECOND


@overload
def as_moment(micros: int) -> datetime: ...


@overload
def as_moment(micros: None) -> None: ...


def as_moment(micros: int | None) -> datetime | None:
    """Return a time with time zone from what the tables keep."""
    return None if micros is None else EPOCH + micros * MICROSECOND


def natural_order(name: str) -> str:
    """Return what sorts as a name does to people: 7 before 10, in upper or lower case."""
    return NUMBER.sub(lambda found: f"{len(found[1]):03}{found[1]}", name.casefold())


def now_ms() -> int:
    """Return this machine's time, as leases count it: milliseconds since 1970."""
    return time.time_ns() // 1_000_000
