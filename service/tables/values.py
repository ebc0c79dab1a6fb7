"""What is kept in the columns of the tables, and the values that the service works with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import overload

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
