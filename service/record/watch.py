"""Watch lists and their alerts: a visit, its picture and its deliveries are one commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from gmn_client.models import AlertKind, AlertState, WatchSettings
from service.errors import InvalidField
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import (
    ALERT_PICTURES,
    ALERTS,
    DELIVERIES,
    RECORD,
    WATCH_TRAFFIC,
    WATCHES,
    as_micros,
    as_moment,
)
from service.record.transaction import AMONG, Reader, Transaction, as_json
from service.record.values import Picture, new_crop_id

MOST_ARMED = 100
KEPT_ALERTS = 100_000
# With as many webhooks as there may be, 10,000 deliveries wait at most.
WAITING_OF_WEBHOOK = 500
# A histogram of traffic, whose counts are added up here.
COUNTS = np.dtype("<u8")
EXPIRED_AT_ONCE = 1000
NEWEST_ALERT = "newest_alert"
ARMED = "disarmed_at IS NULL"


@dataclass(frozen=True)
class ArmedList:
    """A gallery that is, or was, armed as a watch list; `key_id` armed it."""

    gallery_id: int
    settings: WatchSettings
    armed_at: datetime
    key_id: str
    disarmed_at: datetime | None
    why: str | None

    @property
    def armed(self) -> bool:
        return self.disarmed_at is None


@dataclass(frozen=True, kw_only=True)
class VisitSeen:
    """Crops of one track that matched a list, those that were not noted before.

    Attributes:
        row_id: slot of the list's nearest crop, which tells the person.
        first_seen, last_seen: of these crops, with time zone.
        crops: how many they are.
        score: of the track, above the `threshold`.
        cohesion: least cosine of a crop to the mean of the others; None for a single crop.
        picture: of the crop that matched best.
    """

    kind: Literal["visit", "late"]
    row_id: int
    camera: str | None
    track: str | None
    first_seen: datetime
    last_seen: datetime
    crops: int
    score: float
    threshold: float
    probability: float
    cohesion: float | None
    calibration_version: str
    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class StoredAlert:
    """An alert as stored, with its person's name of now.

    Attributes:
        crop_id: of the list's crop that was nearest.
        pictured: whether a picture is kept.
    """

    number: int
    alert_id: str
    gallery_id: int
    identity: str | None
    kind: AlertKind
    detail: str | None
    camera: str | None
    track: str | None
    first_seen: datetime
    last_seen: datetime
    crops: int
    score: float | None
    threshold: float | None
    probability: float | None
    cohesion: float | None
    calibration_version: str | None
    crop_id: str | None
    state: AlertState
    reviewed_by: str | None
    reviewed_at: datetime | None
    follows: str | None
    created_at: datetime
    pictured: bool


@dataclass(frozen=True)
class NotedVisit:
    """A visit in the record: `dropped` webhooks had too many waiting, `removed` alerts gave place.

    Attributes:
        is_new: it is a new alert; else a visit that was there goes on.
    """

    alert: StoredAlert
    is_new: bool
    dropped: int = 0
    removed: int = 0


@dataclass(frozen=True)
class AlertFilter:
    """A filter of alerts; None, or empty, asks nothing.

    Attributes:
        after, before: exclusive bounds of the number.
    """

    gallery_id: int | None = None
    identity: str | None = None
    camera: str | None = None
    kind: AlertKind | None = None
    state: AlertState | None = None
    after: int | None = None
    before: int | None = None


class Watches(RecordPart):
    """Armed lists, their traffic, and the alerts about them."""

    @transactional
    def arm(
        self, transaction: Transaction, gallery_id: int, settings: WatchSettings, key_id: str
    ) -> None:
        """Arm a list, or an armed one by other settings.

        Raises:
            UnknownGallery: the gallery was deleted.
            InvalidField: as many as may be are armed.
        """
        require_entry(transaction, gallery_id)
        others = f"SELECT count(*) FROM watches WHERE {ARMED} AND gallery_id != ?"
        if transaction.value(others, (gallery_id,)) >= MOST_ARMED:
            raise InvalidField(f"gallery: {MOST_ARMED} lists are armed, the most; disarm one first")
        armed = {
            "gallery_id": gallery_id,
            "settings": settings.model_dump_json(),
            "armed_at": as_micros(datetime.now(UTC)),
            "key_id": key_id,
        }
        transaction.insert(WATCHES, armed, instead=True)

    @transactional
    def disarm(
        self, transaction: Transaction, gallery_id: int, why: str, alert: bool = False
    ) -> NotedVisit | None:
        """Disarm a list; with `alert` write one that says why.

        Returns:
            The alert; None where there is none, or the list was disarmed before.
        """
        disarmed = f"UPDATE watches SET disarmed_at = ?, why = ? WHERE gallery_id = ? AND {ARMED}"
        now = as_micros(datetime.now(UTC))
        if not transaction.change(disarmed, (now, why, gallery_id)) or not alert:
            return None
        return _write(transaction, gallery_id, _about_list("disarmed", why))

    @transactional
    def warn(self, transaction: Transaction, gallery_id: int, detail: str) -> NotedVisit | None:
        """Write that an armed list raises more than was promised, once since it was armed."""
        watch = _armed(transaction, gallery_id)
        if watch is None:
            return None
        asked = (
            "SELECT 1 FROM alerts WHERE gallery_id = ? AND kind = 'promise_broken' "
            "AND created_at >= ?"
        )
        if transaction.value(asked, (gallery_id, as_micros(watch.armed_at))):
            return None
        return _write(transaction, gallery_id, _about_list("promise_broken", detail))

    def get(self, gallery_id: int) -> ArmedList | None:
        """Return a list, also one that is disarmed; None where it was never armed."""
        row = self._reader.row(WATCHES, "WHERE gallery_id = ?", (gallery_id,))
        return _as_list(row) if row else None

    def armed(self) -> list[ArmedList]:
        rows = self._reader.rows(WATCHES, f"WHERE {ARMED} ORDER BY gallery_id")
        return [_as_list(row) for row in rows]

    @transactional
    def add_traffic(
        self, transaction: Transaction, gallery_id: int, subject: str, histogram: bytes
    ) -> None:
        """Add the counts of a histogram to those of a list; those of another subject are dropped.

        Args:
            subject: names everything that scores depend on, such as the embedder.
            histogram: unsigned 64-bit counts, little-endian, of fixed bins.
        """
        require_entry(transaction, gallery_id)
        row = transaction.row(WATCH_TRAFFIC, "WHERE gallery_id = ?", (gallery_id,))
        counts = np.frombuffer(histogram, COUNTS)
        if row and row["subject"] == subject and len(row["histogram"]) == len(histogram):
            counts = counts + np.frombuffer(row["histogram"], COUNTS)
        values = {"gallery_id": gallery_id, "subject": subject, "histogram": counts.tobytes()}
        transaction.insert(WATCH_TRAFFIC, values, instead=True)

    def traffic(self, gallery_id: int, subject: str) -> bytes | None:
        """Return the histogram of a list; None where there is none of this subject."""
        asked = "WHERE gallery_id = ? AND subject = ?"
        row = self._reader.row(WATCH_TRAFFIC, asked, (gallery_id, subject))
        return row["histogram"] if row else None

    @transactional
    def note_visit(
        self, transaction: Transaction, gallery_id: int, seen: VisitSeen
    ) -> NotedVisit | None:
        """Extend the visit of a person at a camera, or write the alert, picture and deliveries.

        Processes that call it for one visit at once write one alert.

        Returns:
            None where the list is disarmed, or its nearest crop is gone or has no name now.
        """
        watch = _armed(transaction, gallery_id)
        asked = "SELECT crop_id, person_id FROM crops WHERE gallery_id = ? AND slot = ?"
        crop = transaction.execute(asked, (gallery_id, seen.row_id)).fetchone()
        if watch is None or crop is None or crop["person_id"] is None:
            return None
        going_on = _extend(transaction, crop["person_id"], seen, watch.settings.quiet_seconds)
        if going_on is not None:
            (alert,) = _read(transaction, "WHERE number = ?", (going_on,))
            return NotedVisit(alert, False)
        before = (
            "SELECT alert_id FROM alerts WHERE person_id = ? AND camera IS NOT ? "
            "AND last_seen <= ? ORDER BY last_seen DESC LIMIT 1"
        )
        person = (crop["person_id"], seen.camera, as_micros(seen.first_seen))
        values = {
            "person_id": crop["person_id"],
            "kind": seen.kind,
            "camera": seen.camera,
            "track": seen.track,
            "first_seen": as_micros(seen.first_seen),
            "last_seen": as_micros(seen.last_seen),
            "crops": seen.crops,
            "score": seen.score,
            "threshold": seen.threshold,
            "probability": seen.probability,
            "cohesion": seen.cohesion,
            "calibration_version": seen.calibration_version,
            "crop_id": crop["crop_id"],
            "follows": transaction.value(before, person),
        }
        return _write(transaction, gallery_id, values, seen.picture)

    def newest_number(self) -> int:
        """Return the number of the newest alert, also where that is gone; 0 before the first."""
        return _newest(self._reader)

    def alerts(
        self, wanted: AlertFilter, limit: int, oldest_first: bool = False
    ) -> list[StoredAlert]:
        """Return up to `limit` alerts that pass a filter, the newest first."""
        conditions = {
            "gallery_id = ?": wanted.gallery_id,
            "person_id IN (SELECT person_id FROM people WHERE name = ?)": wanted.identity,
            "camera = ?": wanted.camera,
            "kind = ?": wanted.kind,
            "state = ?": wanted.state,
            "number > ?": wanted.after,
            "number < ?": wanted.before,
        }
        asked = {text: value for text, value in conditions.items() if value is not None}
        order = "" if oldest_first else "DESC"
        rest = f"WHERE {' AND '.join(['TRUE', *asked])} ORDER BY number {order} LIMIT ?"
        with self._database.read() as reader:
            return _read(reader, rest, [*asked.values(), limit])

    def alert(self, alert_id: str) -> StoredAlert | None:
        with self._database.read() as reader:
            return next(iter(_read(reader, "WHERE alert_id = ?", (alert_id,))), None)

    def picture(self, alert_id: str) -> Picture | None:
        """Return the picture of an alert; None where none is kept, or the alert is gone."""
        of_alert = "WHERE number = (SELECT number FROM alerts WHERE alert_id = ?)"
        row = self._reader.row(ALERT_PICTURES, of_alert, (alert_id,))
        return Picture(row["content"], row["content_type"]) if row else None

    @transactional
    def review(
        self, transaction: Transaction, alert_id: str, decision: AlertState, key_id: str
    ) -> StoredAlert | None:
        """Note whether an alert shows its person; `open` takes that back. None where it is gone."""
        is_open = decision == "open"
        by = None if is_open else key_id
        at = None if is_open else as_micros(datetime.now(UTC))
        transaction.change(
            "UPDATE alerts SET state = ?, reviewed_by = ?, reviewed_at = ? WHERE alert_id = ?",
            (decision, by, at, alert_id),
        )
        return next(iter(_read(transaction, "WHERE alert_id = ?", (alert_id,))), None)

    def counts(self, gallery_id: int, since: datetime) -> dict[AlertState, int]:
        """Count the visits of a list by the state of their review."""
        counted = self._reader.execute(
            "SELECT state, count(*) FROM alerts WHERE gallery_id = ? AND kind = 'visit' "
            "AND created_at >= ? GROUP BY state",
            (gallery_id, as_micros(since)),
        )
        return dict(counted.fetchall())

    @transactional
    def expire(self, transaction: Transaction, gallery_id: int) -> int:
        """Remove some alerts of a list that are older than its days; return how many."""
        row = transaction.row(WATCHES, "WHERE gallery_id = ?", (gallery_id,))
        if row is None:
            return 0
        oldest = datetime.now(UTC) - timedelta(_as_list(row).settings.retention_days)
        removed = transaction.change(
            "DELETE FROM alerts WHERE number IN (SELECT number FROM alerts WHERE gallery_id = ? "
            "AND created_at < ? ORDER BY number LIMIT ?)",
            (gallery_id, as_micros(oldest), EXPIRED_AT_ONCE),
        )
        transaction.removes = removed > 0
        return removed


def _armed(reader: Reader, gallery_id: int) -> ArmedList | None:
    row = reader.row(WATCHES, f"WHERE gallery_id = ? AND {ARMED}", (gallery_id,))
    watch = _as_list(row) if row else None
    return watch if watch and watch.settings.expires_at > datetime.now(UTC) else None


def _as_list(row: sqlite3.Row) -> ArmedList:
    return ArmedList(
        gallery_id=row["gallery_id"],
        settings=WatchSettings.model_validate_json(row["settings"]),
        armed_at=as_moment(row["armed_at"]),
        key_id=row["key_id"],
        disarmed_at=as_moment(row["disarmed_at"]),
        why=row["why"],
    )


def _newest(reader: Reader) -> int:
    row = reader.row(RECORD, "WHERE name = ?", (NEWEST_ALERT,))
    return row["value"] if row else 0


def _extend(
    transaction: Transaction, person_id: int, seen: VisitSeen, quiet_seconds: int
) -> int | None:
    """Extend the visit that these crops go on with; return its number, or None for a new one."""
    quiet = timedelta(seconds=quiet_seconds)
    # A crop that comes late may go on with a visit, and never becomes one.
    kinds = ["visit"] if seen.kind == "visit" else ["visit", "late"]
    number: int | None = transaction.value(
        "SELECT number FROM alerts WHERE person_id = ? AND last_seen >= ? AND first_seen <= ? "
        f"AND camera IS ? AND kind IN {AMONG} ORDER BY last_seen DESC LIMIT 1",
        (
            person_id,
            as_micros(seen.first_seen - quiet),
            as_micros(seen.last_seen + quiet),
            seen.camera,
            as_json(kinds),
        ),
    )
    if number is not None:
        transaction.change(
            "UPDATE alerts SET first_seen = min(first_seen, ?), last_seen = max(last_seen, ?), "
            "crops = crops + ? WHERE number = ?",
            (as_micros(seen.first_seen), as_micros(seen.last_seen), seen.crops, number),
        )
    return number


def _about_list(kind: AlertKind, detail: str) -> dict[str, Any]:
    now = as_micros(datetime.now(UTC))
    return {"kind": kind, "detail": detail, "first_seen": now, "last_seen": now, "crops": 0}


def _write(
    transaction: Transaction,
    gallery_id: int,
    values: Mapping[str, Any],
    picture: Picture | None = None,
) -> NotedVisit:
    """Write an alert with its picture and deliveries; beyond `KEPT_ALERTS` the oldest goes."""
    number = _newest(transaction) + 1
    transaction.insert(RECORD, {"name": NEWEST_ALERT, "value": number}, instead=True)
    now = as_micros(datetime.now(UTC))
    made = {
        "number": number,
        "alert_id": new_crop_id(),
        "gallery_id": gallery_id,
        "state": "open",
        "created_at": now,
    }
    transaction.insert(ALERTS, {**made, **values})
    if picture is not None:
        kept = {"content_type": picture.content_type, "content": picture.content}
        transaction.insert(ALERT_PICTURES, {"number": number, **kept})
    dropped = 0
    if values["kind"] != "late":
        dropped = _deliver(transaction, gallery_id, number, now)
    count = transaction.value("SELECT count(*) FROM alerts")
    removed = 0
    if count > KEPT_ALERTS:
        oldest = "SELECT number FROM alerts ORDER BY number LIMIT ?"
        giving_place = f"DELETE FROM alerts WHERE number IN ({oldest})"
        removed = transaction.change(giving_place, (count - KEPT_ALERTS,))
        transaction.removes = True
    (alert,) = _read(transaction, "WHERE number = ?", (number,))
    return NotedVisit(alert, True, dropped, removed)


def _deliver(transaction: Transaction, gallery_id: int, number: int, now: int) -> int:
    """Write a delivery for each webhook of a list; return how many had no place for one."""
    wanting = transaction.execute(
        "SELECT webhook_id, (SELECT count(*) FROM deliveries "
        "WHERE deliveries.webhook_id = webhooks.webhook_id AND state = 'waiting') FROM webhooks "
        "WHERE enabled AND (gallery_id IS NULL OR gallery_id = ?)",
        (gallery_id,),
    )
    waiting = dict(wanting.fetchall())
    full = [webhook_id for webhook_id, count in waiting.items() if count >= WAITING_OF_WEBHOOK]
    deliveries = [
        {
            "delivery_id": new_crop_id(),
            "webhook_id": webhook_id,
            "number": number,
            "state": "waiting",
            "attempts": 0,
            "next_at": now,
            "created_at": now,
        }
        for webhook_id in waiting.keys() - full
    ]
    transaction.insert(DELIVERIES, *deliveries)
    dropped = f"UPDATE webhooks SET dropped = dropped + 1 WHERE webhook_id IN {AMONG}"
    transaction.change(dropped, (as_json(full),))
    return len(full)


def _read(reader: Reader, rest: str, values: Sequence[Any]) -> list[StoredAlert]:
    rows = reader.rows(ALERTS, rest, values)
    ids = as_json({row["person_id"] for row in rows if row["person_id"] is not None})
    asked = f"SELECT person_id, name FROM people WHERE person_id IN {AMONG}"
    names = dict(reader.execute(asked, (ids,)).fetchall())
    asked = f"SELECT number FROM alert_pictures WHERE number IN {AMONG}"
    numbers = as_json(row["number"] for row in rows)
    pictured = {number for (number,) in reader.execute(asked, (numbers,))}
    return [_as_alert(row, names, pictured) for row in rows]


def _as_alert(row: sqlite3.Row, names: Mapping[int, str], pictured: Collection[int]) -> StoredAlert:
    moments = ("first_seen", "last_seen", "reviewed_at", "created_at")
    values = {name: row[name] for name in ALERTS.columns if name != "person_id"}
    values |= {name: as_moment(row[name]) for name in moments}
    return StoredAlert(
        **values, identity=names.get(row["person_id"]), pictured=row["number"] in pictured
    )
