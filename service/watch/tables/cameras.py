"""Cameras as each API key names them: heartbeats, counts of a day, and when they fell silent.

Alerts that a camera is silent, or heard again, are written in the same commit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gmn_client.models import Camera, CameraHeartbeat, HeartbeatAnswer
from service.errors import InvalidField, UnknownCamera, UnknownStill
from service.record.database import RecordPart, transactional
from service.record.keys import ApiKey
from service.record.schema import as_micros
from service.record.transaction import Row, Transaction, upsert
from service.watch.tables.alerts import NotedVisit, alert_lists_of_camera

# Upper bound on the names of cameras of one key.
MOST_CAMERAS = 1000
# A camera that was not heard for this time is forgotten.
KEPT_FOR = timedelta(days=7)
# A still that was asked for is taken for this time.
STILL_WANTED_FOR = timedelta(minutes=10)
MICROS_OF_HOUR = 3_600_000_000
# Upper bound on the cameras whose clocks the metrics show.
MOST_CLOCKS = 1000
# Images are counted for this many hours, the current one included.
HOURS = 24
# The name of crops without a camera, and of the cameras beyond `MOST_CAMERAS`.
UNNAMED = ""
# States of a heartbeat by which a program says that it runs, and its camera shows nothing.
WITHOUT_FRAMES = ("no_frames", "reconnecting")
# States by which cameras are counted; `trouble` is any other than `ok` in the last heartbeat.
CAMERA_STATES = ("ok", "trouble", "silent")
OF_CAMERA = "WHERE key_id = ? AND camera = ?"
PUT_HEARTBEAT = upsert(
    "cameras",
    ("key_id", "camera", "heard_at", "heartbeat_at", "state", "fps", "lag"),
    "VALUES (:key_id, :camera, :now, :now, :state, :fps, :lag)",
    "heartbeat_at = :now, state = :state, fps = :fps, lag = :lag",
)
SET_HEARD = f"UPDATE cameras SET heard_at = ?, silent_at = NULL {OF_CAMERA}"
# Counts of several processes may arrive out of order.
PUT_HEARD = upsert(
    "cameras",
    ("key_id", "camera", "heard_at", "crop_at", "clock_ahead"),
    "VALUES (:key_id, :camera, :heard_at, :crop_at, :clock_ahead)",
    """
    heard_at = CASE WHEN cameras.heard_at > :heard_at THEN cameras.heard_at ELSE :heard_at END,
    crop_at = CASE
        WHEN cameras.crop_at > :crop_at THEN cameras.crop_at
        ELSE coalesce(:crop_at, cameras.crop_at)
    END,
    clock_ahead = coalesce(:clock_ahead, cameras.clock_ahead),
    silent_at = NULL
    """,
)
ADD_COUNTS = upsert(
    "camera_hours",
    ("key_id", "camera", "hour", "crops", "tracks", "refused"),
    "VALUES (:key_id, :camera, :hour, :crops, :tracks, :refused)",
    "crops = camera_hours.crops + :crops, tracks = camera_hours.tracks + :tracks, "
    "refused = camera_hours.refused + :refused",
)
SUM_OF_HOURS = """,
(SELECT coalesce(sum({0}), 0) FROM camera_hours WHERE camera_hours.key_id = cameras.key_id
    AND camera_hours.camera = cameras.camera AND hour > ?) AS {0}
"""
COUNTS = "".join(SUM_OF_HOURS.format(name) for name in ("crops", "tracks", "refused"))
COUNT_STATES = """
SELECT CASE
    WHEN silent_at IS NOT NULL THEN 'silent' WHEN state = 'ok' THEN 'ok' ELSE 'trouble'
END AS shown, count(*)
FROM cameras WHERE heartbeat_at IS NOT NULL AND {of_keys} GROUP BY shown
"""


@dataclass
class CameraCounts:
    """Counts of the images of a camera since the record was last told.

    Attributes:
        heard_at: time of arrival of the newest image, usable or not.
        crop_at: time of arrival of the newest usable image; None if there is none.
        tracks: number of tracks that began.
        clock_ahead: seconds by which the camera's clock is ahead of the service's; None if no image
            has a time of capture.
    """

    heard_at: datetime
    crop_at: datetime | None = None
    crops: int = 0
    tracks: int = 0
    refused: int = 0
    clock_ahead: float | None = None


class Cameras(RecordPart):
    """The cameras of all keys. Two keys that use the same name have two cameras."""

    @transactional
    def note_heartbeat(
        self,
        transaction: Transaction,
        key: ApiKey,
        camera: str,
        heartbeat: Mapping[str, Any],
        now: datetime,
    ) -> list[NotedVisit]:
        """Store a heartbeat, given by its `state`, `fps` and `lag`.

        A camera is not heard by a heartbeat whose state is one of `WITHOUT_FRAMES`.

        Returns:
            The alerts that a silent camera is heard again.

        Raises:
            InvalidField: the camera is new, and the key has `MOST_CAMERAS` others.
        """
        row = transaction.row("cameras", OF_CAMERA, (key.key_id, camera))
        if row is None and _count_named(transaction, key) >= MOST_CAMERAS:
            raise InvalidField(
                f"camera: the key {key.key_id} has {MOST_CAMERAS:,} other cameras, the most; send "
                "one of their names (GET /v1/cameras lists them), or another key. A name that is "
                f"not heard for {KEPT_FOR.days} days is forgotten"
            )
        values = {**heartbeat, "key_id": key.key_id, "camera": camera, "now": now}
        transaction.change(PUT_HEARTBEAT, values, is_private=False)
        if heartbeat["state"] in WITHOUT_FRAMES:
            return []
        transaction.change(SET_HEARD, (now, key.key_id, camera), is_private=False)
        return _end_silence(transaction, key, row, now)

    def answer_heartbeat(self, key_id: str, camera: str, now: datetime) -> HeartbeatAnswer:
        """Return what is wanted of the program of a camera that has sent a heartbeat."""
        row = self._reader.row("cameras", OF_CAMERA, (key_id, camera)) or {}
        return HeartbeatAnswer(
            zones=row.get("zones") or [],
            still_wanted=_is_still_wanted(row.get("still_asked_at"), now),
        )

    @transactional
    def ask_for_still(
        self, transaction: Transaction, key_id: str, camera: str, now: datetime
    ) -> None:
        """Note that a camera is asked for a still; raises `UnknownCamera`."""
        statement = f"UPDATE cameras SET still_asked_at = ? {OF_CAMERA}"
        if not transaction.change(statement, (now, key_id, camera), is_private=False):
            raise UnknownCamera(camera, key_id)

    def require_wanted_still(self, key_id: str, camera: str, now: datetime) -> None:
        """Raise `UnknownStill` if nobody has asked for a still of a camera lately."""
        row = self._reader.row("cameras", OF_CAMERA, (key_id, camera))
        if row is None or not _is_still_wanted(row["still_asked_at"], now):
            raise UnknownStill(camera)

    @transactional
    def note_still(self, transaction: Transaction, key_id: str, camera: str) -> None:
        """Note that the still of a camera has come."""
        statement = f"UPDATE cameras SET still_asked_at = NULL {OF_CAMERA}"
        transaction.change(statement, (key_id, camera), is_private=False)

    @transactional
    def set_zones(
        self, transaction: Transaction, key_id: str, camera: str, zones: Sequence[str]
    ) -> None:
        """Replace the zones of a camera, perhaps by none; raises `UnknownCamera`."""
        written = json.dumps(zones) if zones else None
        statement = f"UPDATE cameras SET zones = ? {OF_CAMERA}"
        if not transaction.change(statement, (written, key_id, camera)):
            raise UnknownCamera(camera, key_id)

    @transactional
    def note_sightings(
        self,
        transaction: Transaction,
        key: ApiKey,
        heard: Mapping[str, CameraCounts],
        now: datetime,
    ) -> list[NotedVisit]:
        """Add to the counts of a key's cameras, given by name.

        Returns:
            The alerts that silent cameras are heard again.
        """
        named = _count_named(transaction, key)
        alerts = []
        for name, counts in heard.items():
            row = transaction.row("cameras", OF_CAMERA, (key.key_id, name))
            is_new_name = row is None and name != UNNAMED
            camera = UNNAMED if is_new_name and named >= MOST_CAMERAS else name
            named += is_new_name
            values = {
                **vars(counts),
                "key_id": key.key_id,
                "camera": camera,
                "hour": as_micros(now) // MICROS_OF_HOUR,
            }
            transaction.change(PUT_HEARD, values, is_private=False)
            transaction.change(ADD_COUNTS, values, is_private=False)
            alerts += _end_silence(transaction, key, row, now)
        return alerts

    def overdue(self, heard_before: datetime) -> list[tuple[str, str]]:
        """Return the key and name of each camera whose silence is not noted yet.

        A camera without heartbeats is left out: its silence may be an empty corridor.
        """
        return self._reader.tuples(
            "SELECT key_id, camera FROM cameras WHERE heard_at < ? AND heartbeat_at IS NOT NULL "
            "AND silent_at IS NULL ORDER BY key_id, camera",
            (heard_before,),
        )

    @transactional
    def note_silence(
        self,
        transaction: Transaction,
        key: ApiKey,
        camera: str,
        heard_before: datetime,
        now: datetime,
    ) -> list[NotedVisit]:
        """Note that a camera is silent; of several processes only the first writes alerts.

        Returns:
            The alerts; none if the camera was heard meanwhile.
        """
        row = transaction.row("cameras", OF_CAMERA, (key.key_id, camera))
        if row is None or row["silent_at"] is not None or row["heard_at"] >= heard_before:
            return []
        noted = f"UPDATE cameras SET silent_at = ? {OF_CAMERA}"
        transaction.change(noted, (now, key.key_id, camera))
        what_is_missing = "sent nothing"
        if row["heartbeat_at"] > row["heard_at"]:
            what_is_missing = f"shown nothing to its program ({row['state']})"
        detail = (
            f"{_name_camera(transaction, key, camera)} has {what_is_missing} for "
            f"{_format_span(now - row['heard_at'])}; check the camera, its network and its program"
        )
        return alert_lists_of_camera(
            transaction, "silent", key, camera, detail, row["heard_at"], now
        )

    def page(
        self, key_ids: Collection[str], cursor: str | None, limit: int, now: datetime
    ) -> list[Camera]:
        """Return up to `limit` cameras of keys, in the order of key and name.

        Args:
            cursor: `position_of` the camera before the first one.
        """
        since = as_micros(now) // MICROS_OF_HOUR - HOURS
        key_id, _, name = (cursor or "").partition("/")
        of_keys = self._reader.dialect.among("key_id")
        clauses = f"WHERE {of_keys} AND (key_id, camera) > (?, ?) ORDER BY key_id, camera LIMIT ?"
        values = (since, since, since, list(key_ids), key_id, name, limit)
        return [_as_camera(row) for row in self._reader.rows("cameras", clauses, values, COUNTS)]

    def count_by_state(self, key_ids: Collection[str]) -> dict[str, int]:
        """Count the cameras of keys that send heartbeats."""
        statement = COUNT_STATES.format(of_keys=self._reader.dialect.among("key_id"))
        return dict(self._reader.tuples(statement, (list(key_ids),)))

    def clocks(self, key_ids: Collection[str]) -> list[tuple[str, str, float]]:
        """Return key, name and `clock_ahead` of the cameras of keys that differ most."""
        return self._reader.tuples(
            "SELECT key_id, camera, clock_ahead FROM cameras "
            f"WHERE {self._reader.dialect.among('key_id')} "
            "AND clock_ahead IS NOT NULL ORDER BY abs(clock_ahead) DESC LIMIT ?",
            (list(key_ids), MOST_CLOCKS),
        )

    @transactional
    def remove_old(self, transaction: Transaction, now: datetime) -> None:
        """Forget cameras that were not heard for `KEPT_FOR`, and counts of more than a day ago.

        A camera with zones stays: while it is repaired, they must not be lost.
        """
        transaction.change(
            "DELETE FROM cameras WHERE heard_at < ? AND coalesce(heartbeat_at, heard_at) < ? "
            "AND zones IS NULL",
            (now - KEPT_FOR, now - KEPT_FOR),
        )
        oldest_hour = as_micros(now) // MICROS_OF_HOUR - HOURS
        transaction.change("DELETE FROM camera_hours WHERE hour <= ?", (oldest_hour,))


def position_of(camera: Camera) -> str:
    return f"{camera.key_id}/{camera.camera or UNNAMED}"


def _count_named(transaction: Transaction, key: ApiKey) -> int:
    statement = "SELECT count(*) FROM cameras WHERE key_id = ? AND camera != ?"
    count: int = transaction.value(statement, (key.key_id, UNNAMED))
    return count


def _end_silence(
    transaction: Transaction, key: ApiKey, before: Row | None, now: datetime
) -> list[NotedVisit]:
    """Write alerts that a camera is heard again, if its row before says that it was silent."""
    if before is None or before["silent_at"] is None:
        return []
    heard_at = before["heard_at"]
    camera = before["camera"]
    detail = (
        f"{_name_camera(transaction, key, camera)} is heard again, after "
        f"{_format_span(now - heard_at)} of silence"
    )
    return alert_lists_of_camera(transaction, "heard", key, camera, detail, heard_at, now)


def _is_still_wanted(asked_at: datetime | None, now: datetime) -> bool:
    return asked_at is not None and now - asked_at < STILL_WANTED_FOR


def _name_camera(transaction: Transaction, key: ApiKey, camera: str) -> str:
    """Name a camera, with its key where another key has a camera of that name."""
    others = "SELECT count(*) FROM cameras WHERE camera = ? AND key_id != ?"
    is_ambiguous = transaction.value(others, (camera, key.key_id)) > 0
    return f"the camera {camera!r}" + (f" of the key {key.key_id}" if is_ambiguous else "")


def _format_span(span: timedelta) -> str:
    minutes = round(span / timedelta(minutes=1))
    return f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"


def _as_camera(row: Row) -> Camera:
    heartbeat = None
    if row["heartbeat_at"] is not None:
        heartbeat = CameraHeartbeat(
            received_at=row["heartbeat_at"], state=row["state"], fps=row["fps"], lag=row["lag"]
        )
    return Camera(
        camera=row["camera"] or None,
        key_id=row["key_id"],
        last_heard_at=row["heard_at"],
        last_crop_at=row["crop_at"],
        crops=row["crops"],
        tracks=row["tracks"],
        refused=row["refused"],
        heartbeat=heartbeat,
        clock_ahead=row["clock_ahead"],
        silent=row["silent_at"] is not None,
        zones=row["zones"] or [],
    )
