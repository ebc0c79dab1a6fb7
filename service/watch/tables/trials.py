"""Trials of watch lists: a list is on trial at each camera until its first alerts are reviewed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import Trial
from service.record.transaction import Reader, Row
from service.record.values import Sender

# A trial is over after this many tracks, if its first alerts are reviewed.
TRIAL_TRACKS = 200
REVIEWED_ALERTS = 20
# Every trial is over at this time after its list was armed.
LONGEST_TRIAL = timedelta(days=14)
# Alerts of an earlier arming have lower numbers than the time of this one. SQLite finds the
# alerts of a camera by their index only if both sides of that comparison are expressions.
RAISED = """
FROM alerts WHERE alerts.gallery_id = camera_traffic.gallery_id
    AND alerts.key_id = camera_traffic.key_id
    AND coalesce(alerts.camera, '') = coalesce(camera_traffic.camera, '')
    AND trial = 1 AND number >= :armed_at ORDER BY number
"""
TRIALS = f"""
SELECT key_id, camera, tracks_since_armed,
    (SELECT count(*) FROM (SELECT state {RAISED}) AS raised) AS alerts,
    (SELECT count(*) FROM (SELECT state {RAISED} LIMIT {REVIEWED_ALERTS}) AS raised
        WHERE state = 'open') AS unreviewed
FROM camera_traffic WHERE gallery_id = :gallery_id
"""
OF_CAMERA = "AND key_id = :key_id AND camera = :camera"


def read_trials(reader: Reader, gallery_id: int, armed_at: datetime) -> list[Trial]:
    """Return the trials of an armed list at the cameras whose tracks it counts, by their names."""
    values = {"gallery_id": gallery_id, "armed_at": armed_at}
    rows = reader.execute(f"{TRIALS} ORDER BY camera, key_id", values)
    return [_as_trial(row, armed_at) for row in rows]


def is_on_trial(reader: Reader, gallery_id: int, armed_at: datetime, sender: Sender) -> bool:
    """Return True if an armed list is on trial at a camera, which it may not have heard of yet."""
    if _has_timed_out(armed_at):
        return False
    values: dict[str, Any] = {
        "gallery_id": gallery_id,
        "armed_at": armed_at,
        "key_id": sender.key_id,
        "camera": sender.camera or "",
    }
    rows = reader.execute(f"{TRIALS} {OF_CAMERA}", values)
    return not any(_as_trial(row, armed_at).is_over for row in rows)


def _as_trial(row: Row, armed_at: datetime) -> Trial:
    tracks = row["tracks_since_armed"]
    is_passed = tracks >= TRIAL_TRACKS and row["unreviewed"] == 0
    return Trial(
        key_id=row["key_id"],
        camera=row["camera"] or None,
        tracks=tracks,
        tracks_needed=TRIAL_TRACKS,
        alerts=row["alerts"],
        unreviewed=row["unreviewed"],
        is_over=is_passed or _has_timed_out(armed_at),
    )


def _has_timed_out(armed_at: datetime) -> bool:
    return datetime.now(UTC) >= armed_at + LONGEST_TRIAL
