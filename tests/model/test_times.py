"""Times that users write: RFC 3339 is read in full, and other texts are refused with a reason."""

from datetime import UTC, datetime, timedelta

import pytest

from model.times import read_time

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEW_YEAR = datetime(2017, 1, 1, tzinfo=UTC)
HALF_A_SECOND = timedelta(seconds=0.5)
TAKEN = {
    "2026-03-01T12:00:00Z": NOON,
    "2026-03-01t12:00:00z": NOON,
    "2026-03-01T12:00:00z": NOON,
    "2026-03-01 12:00:00Z": NOON,
    "2026-03-01 13:00:00+01:00": NOON,
    "2026-03-01T06:30:00-05:30": NOON,
    "2026-03-02T11:59:00+23:59": NOON,
    "2026-03-01T12:00:00-00:00": NOON,
    "2026-03-01T12:00:00.5Z": NOON + HALF_A_SECOND,
    f"2026-03-01T12:00:00.5{'0' * 200}Z": NOON + HALF_A_SECOND,
    "2026-03-01T12:00:00.0000019Z": NOON + timedelta(microseconds=1),
    "2016-12-31T23:59:60Z": NEW_YEAR,
    "2016-12-31t15:59:60.5-08:00": NEW_YEAR + HALF_A_SECOND,
    "2017-01-01T08:59:60+09:00": NEW_YEAR,
}
OTHERWISE = "is not an RFC 3339 time with a time zone; write it like 2026-03-01T09:30:00Z or"
REFUSED = {
    "2026-03-01T12:00:00": "lacks a time zone",
    "2026-03-01 12:00:00.5": "lacks a time zone",
    "2026-03-01T24:00:00Z": "has the hour 24; write 00:00:00 of the following day",
    "2026-03-01T24:00:00+01:00": "has the hour 24",
    "2026-03-01T12:00:60Z": "has the second 60, which only a leap second",
    "2026-03-01T23:59:60Z": "has the second 60, which only a leap second",
    "2016-12-31T23:59:60-08:00": "has the second 60, which only a leap second",
    "2026-03-01T12:00:61Z": "names no existing day or time",
    "2026-02-30T12:00:00Z": "names no existing day or time",
    "2026-03-01T25:00:00Z": "names no existing day or time",
    "2026-03-01T12:60:00Z": "names no existing day or time",
    "0000-03-01T12:00:00Z": "names no existing day or time",
    "0001-01-01T00:00:00+23:59": "outside the years 1 to 9999",
    "9999-12-31T23:59:59-23:59": "outside the years 1 to 9999",
    "9999-12-31T23:59:60Z": "outside the years 1 to 9999",
    "2026-03-01T12:00:00 01:00": "write %2B",
    "2026-03-01 12:00:00.25 01:00": "write %2B",
    "2026-W09-7T12:00:00Z": OTHERWISE,
    "2026-060T12:00:00Z": OTHERWISE,
    "2026-03-01T12:00:00,5Z": OTHERWISE,
    "20260301T120000Z": OTHERWISE,
    "2026-03-01T12:00Z": OTHERWISE,
    "2026-03-01": OTHERWISE,
    "2026-03-01T12:00:00+0100": OTHERWISE,
    "2026-03-01T12:00:00+01": OTHERWISE,
    "2026-03-01T12:00:00+24:00": OTHERWISE,
    "2026-03-01T12:00:00+01:60": OTHERWISE,
    "2026-03-01T12:00:00+01:00:30": OTHERWISE,
    "2026-03-01_12:00:00Z": OTHERWISE,
    "2026-03-01T12:00:00.Z": OTHERWISE,
    "２026-03-01T12:00:00Z": OTHERWISE,
    "2026-03-01T12:00:00Z\n": OTHERWISE,
    "yesterday": OTHERWISE,
    "": OTHERWISE,
}


@pytest.mark.parametrize(("text", "moment"), TAKEN.items())
def test_an_rfc_3339_time_is_read(text, moment):
    assert read_time(text) == moment
    assert read_time(text).tzinfo is UTC


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_another_time_is_refused_with_its_reason(text, reason):
    with pytest.raises(ValueError, match="; ") as refused:
        read_time(text)
    assert reason in str(refused.value)
